//! The conversation with the MDM on tokio: connects, reads and writes messages, tries again.
//!
//! Joined to the data loop by one bounded queue each way. Invariants: a message of the loop goes out only
//! on the connection it was meant for (each has a number); nothing the MDM says is dropped while its
//! connection lasts: a full queue holds the reading back; host names of data servers are resolved here,
//! so that the loop never has to.
//!
//! What this must not know: what messages mean (but for the addresses in a view).

use sds_core::codec;
use sds_core::control::{ClientToMdm, MdmToClient, Speaker};
use sds_core::view::ViewUpdate;
use sds_ring::Address;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

/// Messages from the MDM that the loop has not looked at.
const INCOMING_MAX: usize = 64;
/// Messages to the MDM that have not been written: a heartbeat, a pull, and every question once.
const OUTGOING_MAX: usize = sds_core::limits::VOLUME_QUESTIONS_MAX + 64;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a peer may not acknowledge bytes before its connection counts as dead.
const USER_TIMEOUT_MS: u32 = 5_000;
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Wakes the loop.
pub(crate) type Wake = Arc<dyn Fn() + Send + Sync>;

/// What the loop hears.
#[derive(Debug)]
pub(crate) enum FromMdm {
    /// Connected; what is sent from now on carries this number.
    Up { connection: u64 },
    /// Not connected any more.
    Down,
    /// A message.
    Said(MdmToClient),
}

/// The loop's end.
#[derive(Debug)]
pub(crate) struct ControlEnd {
    incoming: crossbeam::channel::Receiver<FromMdm>,
    outgoing: mpsc::Sender<(u64, ClientToMdm)>,
    connection: u64,
}

impl ControlEnd {
    /// The next thing heard.
    pub(crate) fn hear(&mut self) -> Option<FromMdm> {
        let heard = self.incoming.try_recv().ok()?;
        if let FromMdm::Up { connection } = heard {
            self.connection = connection;
        }
        Some(heard)
    }

    /// Sends a message on the newest connection.
    pub(crate) fn say(&self, message: ClientToMdm) {
        // Never full: the machine asks each question once a connection, and the task takes messages of
        // connections that are gone out at once.
        if self.outgoing.try_send((self.connection, message)).is_err() {
            tracing::warn!("the MDM does not take messages; one was dropped");
        }
    }
}

/// The task's end.
struct TaskEnd {
    incoming: crossbeam::channel::Sender<FromMdm>,
    outgoing: mpsc::Receiver<(u64, ClientToMdm)>,
    wake: Wake,
}

impl TaskEnd {
    /// Hands something to the loop; `false` once the loop is gone.
    async fn tell(&self, news: FromMdm) -> bool {
        tell(&self.incoming, &self.wake, news).await
    }
}

async fn tell(incoming: &crossbeam::channel::Sender<FromMdm>, wake: &Wake, mut news: FromMdm) -> bool {
    loop {
        match incoming.try_send(news) {
            Ok(()) => {
                wake();
                return true;
            }
            Err(crossbeam::channel::TrySendError::Full(back)) => {
                news = back;
                sleep(Duration::from_millis(1)).await;
            }
            Err(crossbeam::channel::TrySendError::Disconnected(_)) => return false,
        }
    }
}

/// Starts the task. It ends when the loop's end is dropped.
pub(crate) fn start(runtime: &tokio::runtime::Handle, mdm: Vec<String>, wake: Wake) -> ControlEnd {
    let (incoming_sender, incoming) = crossbeam::channel::bounded(INCOMING_MAX);
    let (outgoing, outgoing_receiver) = mpsc::channel(OUTGOING_MAX);
    let end = TaskEnd { incoming: incoming_sender, outgoing: outgoing_receiver, wake };
    runtime.spawn(run(Arc::from(mdm), end));
    ControlEnd { incoming, outgoing, connection: 0 }
}

async fn run(mdm: Arc<[String]>, mut end: TaskEnd) {
    let mut pause = PAUSE_FIRST;
    let mut told: Option<Instant> = None;
    let mut number = 0;
    while !end.outgoing.is_closed() {
        match connect(&mdm).await {
            Ok((address, stream)) => {
                tracing::info!(%address, "connected to the MDM");
                number += 1;
                if !end.tell(FromMdm::Up { connection: number }).await {
                    return;
                }
                let (ended, welcome) = converse(stream, number, &mut end).await;
                if welcome {
                    (pause, told) = (PAUSE_FIRST, None);
                }
                if !end.tell(FromMdm::Down).await || end.outgoing.is_closed() {
                    return;
                }
                tracing::warn!(%address, reason = %ended, "the connection to the MDM is lost; I/O goes on, trying again");
            }
            Err(reason) => {
                if told.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
                    told = Some(Instant::now());
                    tracing::warn!(mdm = mdm.join(", "), %reason, "waiting for the MDM");
                }
            }
        }
        // Heartbeats and the like of the connection that is gone must not fill the queue meanwhile.
        let drain = async { while end.outgoing.recv().await.is_some() {} };
        tokio::select! {
            () = drain => return,
            () = sleep(pause) => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// The first address that answers.
async fn connect(mdm: &[String]) -> io::Result<(String, TcpStream)> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no MDM address is configured");
    for address in mdm {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address.as_str())).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                rustix::net::sockopt::set_tcp_user_timeout(&stream, USER_TIMEOUT_MS)?;
                return Ok((address.clone(), stream));
            }
            Ok(Err(error)) => last = io::Error::new(error.kind(), format!("{address}: {error}")),
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("{address}: no answer")),
        }
    }
    Err(last)
}

/// Talks until the connection ends; why it did, and whether the MDM had said anything.
async fn converse(stream: TcpStream, number: u64, end: &mut TaskEnd) -> (io::Error, bool) {
    let (reader, writer) = stream.into_split();
    let TaskEnd { incoming, outgoing, wake } = end;
    let mut welcome = false;
    let ended = tokio::select! {
        ended = read_all(reader, incoming, wake, &mut welcome) => ended,
        ended = write_all(writer, outgoing, number) => ended,
    };
    (ended, welcome)
}

async fn read_all(
    mut reader: impl AsyncRead + Unpin,
    incoming: &crossbeam::channel::Sender<FromMdm>,
    wake: &Wake,
    welcome: &mut bool,
) -> io::Error {
    loop {
        match read_message(&mut reader).await {
            Ok(mut message) => {
                match &mut message {
                    MdmToClient::View(update) => resolve(update).await,
                    MdmToClient::Welcome { .. } => *welcome = true,
                    MdmToClient::Refused { .. } | MdmToClient::Opened { .. } | MdmToClient::Closed { .. } | MdmToClient::Volumes { .. } => {
                    }
                }
                if !tell(incoming, wake, FromMdm::Said(message)).await {
                    return io::Error::other("the client has stopped");
                }
            }
            Err(error) => return error,
        }
    }
}

async fn write_all(mut writer: impl AsyncWrite + Unpin, outgoing: &mut mpsc::Receiver<(u64, ClientToMdm)>, number: u64) -> io::Error {
    if let Err(error) = writer.write_all(&Speaker::Client.preamble()).await {
        return error;
    }
    while let Some((connection, message)) = outgoing.recv().await {
        if connection != number {
            continue;
        }
        let written = match codec::encode_framed(&message) {
            Ok(bytes) => writer.write_all(&bytes).await,
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        };
        if let Err(error) = written {
            return error;
        }
    }
    io::Error::other("the client has stopped")
}

async fn read_message(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<MdmToClient> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut length = [0; codec::LENGTH_BYTES];
    reader.read_exact(&mut length).await?;
    let length = codec::framed_length(length).map_err(invalid)?;
    let mut bytes = Vec::new();
    // Grows with what arrives, not with what was announced.
    if reader.take(length as u64).read_to_end(&mut bytes).await? < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    codec::decode(&bytes).map_err(invalid)
}

/// Replaces host names of data servers by what they resolve to now; one that does not stays, and is
/// told by the connection that fails.
async fn resolve(update: &mut ViewUpdate) {
    let Some((_, servers)) = &mut update.servers else { return };
    for address in servers.iter_mut().flat_map(|server| server.addresses.iter_mut()) {
        if address.parse::<Address>().is_ok() {
            continue;
        }
        let found = timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(address.clone())).await;
        match found.map(|found| found.map(|mut found| found.next())) {
            Ok(Ok(Some(found))) => *address = found.to_string(),
            Ok(Ok(None)) => tracing::warn!(%address, "the name of a data server has no address"),
            Ok(Err(error)) => tracing::warn!(%address, %error, "the address of a data server cannot be resolved"),
            Err(_) => tracing::warn!(%address, "the address of a data server was not resolved in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sds_core::id::SystemId;
    use tokio::net::TcpListener;

    async fn next(end: &mut ControlEnd) -> FromMdm {
        for _ in 0..1000 {
            if let Some(heard) = end.hear() {
                return heard;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("nothing is heard");
    }

    async fn read_from_client(stream: &mut TcpStream) -> ClientToMdm {
        let mut length = [0; codec::LENGTH_BYTES];
        stream.read_exact(&mut length).await.expect("a length");
        let mut bytes = vec![0; codec::framed_length(length).expect("believable")];
        stream.read_exact(&mut bytes).await.expect("a message");
        codec::decode(&bytes).expect("decodes")
    }

    /// Takes a connection and what it says of itself.
    async fn accept(listener: &TcpListener) -> TcpStream {
        let (mut stream, _) = listener.accept().await.expect("connects");
        let mut preamble = [0; Speaker::PREAMBLE_BYTES];
        stream.read_exact(&mut preamble).await.expect("a preamble");
        assert_eq!(Speaker::from_preamble(preamble), Some(Speaker::Client));
        stream
    }

    #[tokio::test]
    async fn messages_go_out_on_the_connection_they_were_meant_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let address = listener.local_addr().expect("bound").to_string();
        // The first address refuses: the second is tried.
        let mut end = start(&tokio::runtime::Handle::current(), vec!["127.0.0.1:1".into(), address], Arc::new(|| ()));
        let mut stream = accept(&listener).await;
        assert!(matches!(next(&mut end).await, FromMdm::Up { connection: 1 }));
        end.say(ClientToMdm::Heartbeat);
        assert_eq!(read_from_client(&mut stream).await, ClientToMdm::Heartbeat);
        let welcome = MdmToClient::Welcome { system: SystemId::new(3) };
        stream.write_all(&codec::encode_framed(&welcome).expect("encodes")).await.expect("sent");
        assert!(matches!(next(&mut end).await, FromMdm::Said(said) if said == welcome));
        drop(stream);
        assert!(matches!(next(&mut end).await, FromMdm::Down));
        // Meant for the first connection: must not come before the hello of the second.
        end.say(ClientToMdm::Heartbeat);
        let mut stream = accept(&listener).await;
        assert!(matches!(next(&mut end).await, FromMdm::Up { connection: 2 }));
        end.say(ClientToMdm::List { request: 5 });
        assert_eq!(read_from_client(&mut stream).await, ClientToMdm::List { request: 5 });
        drop(end);
        let closed = timeout(Duration::from_secs(5), stream.read(&mut [0; 1])).await.expect("the task ends with the loop");
        assert!(matches!(closed, Ok(0) | Err(_)));
    }

    #[tokio::test]
    async fn garbage_ends_the_connection_and_is_not_believed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let address = listener.local_addr().expect("bound").to_string();
        let mut end = start(&tokio::runtime::Handle::current(), vec![address], Arc::new(|| ()));
        for garbage in [&[0xff_u8; 64][..], &[3, 0, 0, 0, 9, 9, 9]] {
            let mut stream = accept(&listener).await;
            assert!(matches!(next(&mut end).await, FromMdm::Up { .. }));
            stream.write_all(garbage).await.expect("sent");
            assert!(matches!(next(&mut end).await, FromMdm::Down));
        }
    }
}
