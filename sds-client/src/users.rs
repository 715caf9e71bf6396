//! Between the machine and those who use it: programs and NBD connections.
//!
//! Invariants: requests wait here, in order, while the machine is full (who makes them is bounded:
//! operations of programs, pieces of NBD connections); every question to the machine has one asker, who
//! gets the answer or is gone, in which case an opened session is closed again.
//!
//! What this must not know: frames, links.

use crate::command::{Command, Granted, Io, Shared};
use crate::library::Library;
use crate::serve::Server;
use sds_core::collections::{OpId, SlotTable};
use sds_core::control::{OpenError, VolumeLine};
use sds_core::error::Status;
use sds_core::id::VolumeId;
use sds_core::limits::VOLUME_QUESTIONS_MAX;
use sds_core::machine::{Outbox, Token};
use sds_core::unit::Nanos;
use sds_core::view::SessionMode;
use sds_core::volume::Client;
use sds_core::volume::interface::{Effect, Input, OpenVolume, Outcome, Request};
use sds_ring::Turn;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Requests on their way to the machine.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    waiting: VecDeque<(Token, VolumeId, Request)>,
}

impl Backlog {
    pub(crate) fn push(&mut self, token: Token, volume: VolumeId, request: Request) {
        self.waiting.push_back((token, volume, request));
    }
}

/// What is asked of the machine that is not I/O.
#[derive(Debug)]
pub(crate) enum Question {
    Open { name: String, mode: SessionMode, force: bool, io_timeout: Option<Nanos>, asker: Asker },
    Close { volume: VolumeId, asker: Asker },
    List { asker: Asker },
}

/// Who gets the answer.
#[derive(Debug)]
pub(crate) enum Asker {
    Open {
        reply: oneshot::Sender<Result<Granted, OpenError>>,
        shared: Arc<Shared>,
    },
    Close(Option<oneshot::Sender<()>>),
    List(oneshot::Sender<Vec<VolumeLine>>),
    /// An NBD connection, by its serial number.
    Nbd(u64),
}

/// Questions that wait to be asked.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    waiting: VecDeque<Question>,
    /// How many may wait before it is looked who still wants an answer.
    sweep_at: usize,
}

impl Asker {
    /// Whether nobody waits for the answer any more. A close is carried out all the same.
    fn is_gone(&self) -> bool {
        match self {
            Self::Open { reply, .. } => reply.is_closed(),
            Self::List(reply) => reply.is_closed(),
            Self::Close(_) | Self::Nbd(_) => false,
        }
    }
}

impl Question {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Open { asker, .. } | Self::Close { asker, .. } | Self::List { asker } => asker.is_gone(),
        }
    }
}

impl Questions {
    /// Takes a question. Those that nobody waits for are dropped whenever their number has doubled, so that a program
    /// that gives up and asks again while the MDM is away does not fill the memory.
    pub(crate) fn push(&mut self, question: Question) {
        if self.waiting.len() >= self.sweep_at.max(VOLUME_QUESTIONS_MAX) {
            self.waiting.retain(|question| !question.is_abandoned());
            self.sweep_at = self.waiting.len() * 2;
        }
        self.waiting.push_back(question);
    }
}

/// Everybody who uses the machine.
#[derive(Debug)]
pub(crate) struct Users {
    pub(crate) library: Library,
    pub(crate) server: Server,
    pub(crate) backlog: Backlog,
    pub(crate) questions: Questions,
    asked: SlotTable<Asker>,
    /// Sessions that programs hold, one entry an open.
    held: Vec<VolumeId>,
    stopping: bool,
}

impl Users {
    pub(crate) fn new(operations_max: usize) -> Self {
        Self {
            library: Library::new(operations_max),
            server: Server::default(),
            backlog: Backlog::default(),
            questions: Questions::default(),
            asked: SlotTable::with_capacity(VOLUME_QUESTIONS_MAX),
            held: Vec::new(),
            stopping: false,
        }
    }

    /// A command of a program that concerns the machine.
    pub(crate) fn command(&mut self, command: Command, cx: &mut Turn<'_>) {
        match command {
            Command::Open { reply, .. } if self.stopping => drop(reply),
            Command::Open { name, mode, force, io_timeout, shared, reply } => {
                self.questions.push(Question::Open { name, mode, force, io_timeout, asker: Asker::Open { reply, shared } });
            }
            Command::Close { volume, reply } => {
                if let Some(place) = self.held.iter().position(|held| *held == volume) {
                    self.held.swap_remove(place);
                    self.questions.push(Question::Close { volume, asker: Asker::Close(reply) });
                }
            }
            Command::List { reply } => self.questions.push(Question::List { asker: Asker::List(reply) }),
            Command::Io(io) => self.io(*io, cx),
            Command::ServeNbd { options, reply } => drop(reply.send(self.server.listen(options, cx))),
            Command::Status { .. } | Command::Stop { .. } => {}
        }
    }

    fn io(&mut self, io: Io, cx: &mut Turn<'_>) {
        // Dropped when stopping, and with it its reply.
        if !self.stopping {
            self.library.begin(io, cx.pool(), &mut self.backlog);
        }
    }

    /// Gives the machine what it can take; whether it took anything.
    pub(crate) fn feed(&mut self, machine: &mut Client, out: &mut Outbox<Effect>, cx: &mut Turn<'_>) -> bool {
        let now = cx.now();
        let mut fed = false;
        while machine.takes_questions() && !self.asked.is_full() {
            let Some(question) = self.questions.waiting.pop_front() else { break };
            if question.is_abandoned() {
                // Above all an open by force: nobody is to be fenced for a caller that has given up.
                continue;
            }
            fed = true;
            let mut note = |asker: Asker| match self.asked.insert(asker) {
                Ok(id) => Token::new(id.bits()),
                Err(_) => unreachable!("looked at before"),
            };
            match question {
                Question::Open { name, mode, force, io_timeout, asker } => {
                    let token = note(asker);
                    machine.step(now, Input::Open { token, volume: &name, mode, force, io_timeout }, cx.pool(), out);
                }
                Question::Close { volume, asker } => {
                    let token = note(asker);
                    machine.step(now, Input::Close { token, volume }, cx.pool(), out);
                }
                Question::List { asker } => {
                    let token = note(asker);
                    machine.step(now, Input::List { token }, cx.pool(), out);
                }
            }
        }
        while machine.free_requests() > 0 {
            let Some((token, volume, request)) = self.backlog.waiting.pop_front() else { break };
            fed = true;
            machine.step(now, Input::Request { token, volume, request }, cx.pool(), out);
        }
        fed
    }

    /// A request is complete.
    pub(crate) fn complete(&mut self, token: Token, result: Result<Outcome, Status>, cx: &mut Turn<'_>) {
        if Server::owns(token) {
            self.server.complete(token, result, cx, &mut self.backlog);
        } else {
            self.library.complete(token, result, cx.pool(), &mut self.backlog);
        }
    }

    pub(crate) fn opened(&mut self, token: Token, result: Result<OpenVolume, OpenError>, cx: &mut Turn<'_>) {
        let opened = result.as_ref().ok().map(|volume| volume.id);
        let used = match self.asked.remove(OpId::from_bits(token.get())) {
            Some(Asker::Open { reply, shared }) => {
                let used = !self.stopping && grant(reply, result, shared);
                if let Some(volume) = opened.filter(|_| used) {
                    self.held.push(volume);
                }
                used
            }
            Some(Asker::Nbd(serial)) => self.server.opened(serial, result, cx),
            Some(Asker::Close(_) | Asker::List(_)) | None => false,
        };
        if let Some(volume) = opened.filter(|_| !used) {
            self.questions.push(Question::Close { volume, asker: Asker::Close(None) });
        }
    }

    pub(crate) fn closed(&mut self, token: Token) {
        if let Some(Asker::Close(Some(reply))) = self.asked.remove(OpId::from_bits(token.get())) {
            let _ = reply.send(());
        }
    }

    pub(crate) fn listed(&mut self, token: Token, volumes: Vec<VolumeLine>, cx: &mut Turn<'_>) {
        match self.asked.remove(OpId::from_bits(token.get())) {
            Some(Asker::List(reply)) => drop(reply.send(volumes)),
            Some(Asker::Nbd(serial)) => self.server.listed(serial, &volumes, cx, &mut self.questions),
            Some(Asker::Open { .. } | Asker::Close(_)) | None => {}
        }
    }

    /// Begins to stop: nothing new is taken.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
        self.server.stop();
    }

    /// Goes on stopping; whether everything has ended.
    pub(crate) fn has_stopped(&mut self) -> bool {
        if !self.stopping || self.library.len() > 0 || self.server.connections() > 0 {
            return false;
        }
        for volume in self.held.drain(..) {
            self.questions.waiting.push_back(Question::Close { volume, asker: Asker::Close(None) });
        }
        let closes = self.asked.iter().any(|(_, asker)| matches!(asker, Asker::Close(_) | Asker::Open { .. }));
        self.questions.waiting.is_empty() && !closes
    }
}

/// Gives an open volume (or why not) to who asked; whether it got there.
fn grant(reply: oneshot::Sender<Result<Granted, OpenError>>, result: Result<OpenVolume, OpenError>, shared: Arc<Shared>) -> bool {
    match reply.send(result.map(|volume| Granted::new(volume, shared))) {
        Ok(()) => true,
        Err(Ok(granted)) => {
            // The caller of this closes it.
            granted.take();
            false
        }
        Err(Err(_)) => false,
    }
}
