//! A loop on a thread of its own.

use crate::error::RingError;
use crate::reactor::{Loop, LoopOptions};
use std::sync::mpsc;
use std::thread;

/// A running loop.
#[derive(Debug)]
pub struct LoopThread {
    thread: thread::JoinHandle<Result<(), RingError>>,
}

impl LoopThread {
    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// What ended it, if not its roles.
    pub fn join(self) -> Result<(), RingError> {
        match self.thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Starts a thread, makes a loop there, lets `build` put roles on it, and runs it. Returns what `build`
/// returned, once it has.
///
/// # Errors
/// When the loop cannot be made or `build` says so; then nothing runs.
pub fn spawn<T, E>(
    name: &str,
    options: LoopOptions,
    build: impl FnOnce(&mut Loop) -> Result<T, E> + Send + 'static,
) -> Result<(LoopThread, T), E>
where
    T: Send + 'static,
    E: From<RingError> + Send + 'static,
{
    let (sender, receiver) = mpsc::sync_channel(1);
    let body = move || {
        let built = Loop::new(&options).map_err(E::from).and_then(|mut on| build(&mut on).map(|made| (on, made)));
        match built {
            Ok((on, made)) => {
                let _ = sender.send(Ok(made));
                on.run()
            }
            Err(error) => {
                let _ = sender.send(Err(error));
                Ok(())
            }
        }
    };
    let thread = thread::Builder::new().name(name.to_owned()).spawn(body).map_err(|error| RingError::system("starting a thread", error))?;
    match receiver.recv() {
        Ok(made) => made.map(|made| (LoopThread { thread }, made)),
        Err(_) => match thread.join() {
            Ok(_) => unreachable!("a thread that ends in order has sent its answer"),
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}
