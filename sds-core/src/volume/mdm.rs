//! The conversation with the MDM: greeting, views, questions and their answers.
//!
//! Invariant: a question is asked again on each new connection until it is answered; the answer's
//! number says which it was, so a late answer to nobody's question is noticed.
//!
//! Must not know: frames and links.

use super::interface::{Effect, Event};
use super::session::Terms;
use super::{Client, Turn};
use crate::buffer::Buffers;
use crate::control::{CONTROL_VERSION, ClientToMdm, MdmToClient, OpenError, Opened};
use crate::id::{MapVersion, SessionGeneration, VolumeId};
use crate::limits::VOLUME_QUESTIONS_MAX;
use crate::machine::Token;
use crate::unit::Nanos;
use crate::view::ViewUpdate;

/// Between two signs of life.
const HEARTBEAT_EVERY: Nanos = Nanos::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mdm {
    /// Not connected.
    Down,
    /// Greeted, not yet welcome.
    Greeting,
    /// Welcome.
    Up { heartbeat_at: Nanos },
}

#[derive(Debug)]
pub(super) struct Question {
    pub(super) number: u64,
    pub(super) ask: Ask,
}

#[derive(Debug)]
pub(super) enum Ask {
    Open { token: Token, name: String, terms: Terms, state: OpenState },
    Close { volume: VolumeId, generation: SessionGeneration },
    List { token: Token },
}

#[derive(Debug)]
pub(super) enum OpenState {
    /// Another open or close of the same volume comes first.
    Held,
    /// Put to the MDM (or will be, once it is there).
    Asked,
    /// Granted; the view that says so has not come yet.
    Granted(Opened),
}

impl Client {
    pub(super) fn mdm_changed(&mut self, up: bool, turn: &mut Turn<'_, impl Buffers>) {
        if !up {
            self.mdm = Mdm::Down;
            return;
        }
        self.mdm = Mdm::Greeting;
        turn.out.push(Effect::Control(ClientToMdm::Hello {
            version: CONTROL_VERSION,
            client: self.options.client,
            ticket: self.options.ticket,
            name: self.options.name.clone(),
        }));
    }

    pub(super) fn hear(&mut self, message: &MdmToClient, turn: &mut Turn<'_, impl Buffers>) {
        match message {
            MdmToClient::Welcome { system } => {
                if !self.topology.meet(*system) {
                    let reason = format!("the MDM is of system {system}, not of the one this client works with");
                    return self.refused(&reason, turn);
                }
                let heartbeat_at = turn.now.plus(HEARTBEAT_EVERY);
                self.mdm = Mdm::Up { heartbeat_at };
                self.wake_by(heartbeat_at);
                turn.out.push(Effect::Control(ClientToMdm::Pull { at_least: self.pulled.max(self.topology.version()) }));
                for index in 0..self.questions.len() {
                    self.put(index, turn);
                }
            }
            MdmToClient::Refused { reason } => self.refused(reason, turn),
            MdmToClient::Opened { request, result } => self.answered_open(*request, result, turn),
            MdmToClient::Closed { request } => self.answered_close(*request, turn),
            MdmToClient::Volumes { request, volumes } => {
                if let Some(Question { ask: Ask::List { token }, .. }) = self.take_question(*request, |ask| matches!(ask, Ask::List { .. }))
                {
                    turn.out.push(Effect::Volumes { token, volumes: volumes.clone() });
                }
            }
            MdmToClient::View(update) => self.learn(update, turn),
        }
    }

    pub(super) fn list(&mut self, token: Token, turn: &mut Turn<'_, impl Buffers>) {
        self.ask(Ask::List { token }, turn);
    }

    /// Adds a question, and puts it if the MDM is there.
    pub(super) fn ask(&mut self, ask: Ask, turn: &mut Turn<'_, impl Buffers>) {
        assert!(self.questions.len() < VOLUME_QUESTIONS_MAX, "users ask at most {VOLUME_QUESTIONS_MAX} questions at once");
        self.questions.push(Question { number: self.next_question, ask });
        self.next_question += 1;
        self.put(self.questions.len() - 1, turn);
    }

    /// Whether one more `Open`, `Close` or `List` may be asked.
    #[must_use]
    pub const fn takes_questions(&self) -> bool {
        self.questions.len() < VOLUME_QUESTIONS_MAX
    }

    fn put(&self, index: usize, turn: &mut Turn<'_, impl Buffers>) {
        if !self.mdm_is_up() {
            return;
        }
        let Question { number: request, ask } = &self.questions[index];
        let request = *request;
        let message = match ask {
            Ask::Open { name, terms, state: OpenState::Asked, .. } => {
                ClientToMdm::Open { request, volume: name.clone(), mode: terms.mode, force: terms.force }
            }
            Ask::Open { state: OpenState::Held | OpenState::Granted(_), .. } => return,
            Ask::Close { volume, generation } => ClientToMdm::Close { request, volume: *volume, generation: *generation },
            Ask::List { .. } => ClientToMdm::List { request },
        };
        turn.out.push(Effect::Control(message));
    }

    fn take_question(&mut self, number: u64, expected: impl Fn(&Ask) -> bool) -> Option<Question> {
        let index = self.questions.iter().position(|question| question.number == number && expected(&question.ask))?;
        Some(self.questions.remove(index))
    }

    fn answered_open(&mut self, number: u64, result: &Result<Opened, OpenError>, turn: &mut Turn<'_, impl Buffers>) {
        let asked = |ask: &Ask| matches!(ask, Ask::Open { state: OpenState::Asked, .. });
        let Some(Question { ask: Ask::Open { token, name, terms, .. }, .. }) = self.take_question(number, asked) else { return };
        match result {
            Ok(opened) => {
                let state = OpenState::Granted(opened.clone());
                self.questions.push(Question { number, ask: Ask::Open { token, name, terms, state } });
                self.grant(turn);
            }
            Err(error) => {
                turn.out.push(Effect::Opened { token, result: Err(error.clone()) });
                self.retry_held(&name, turn);
            }
        }
    }

    fn answered_close(&mut self, number: u64, turn: &mut Turn<'_, impl Buffers>) {
        let question = self.take_question(number, |ask| matches!(ask, Ask::Close { .. }));
        if let Some(Question { ask: Ask::Close { volume, generation }, .. }) = question {
            self.closed(volume, generation, turn);
        }
    }

    /// Opens that are granted and whose view has come become sessions.
    pub(super) fn grant(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        let known = |ask: &Ask, client: &Self| match ask {
            Ask::Open { state: OpenState::Granted(opened), .. } => opened.version <= client.topology.version(),
            Ask::Open { state: OpenState::Held | OpenState::Asked, .. } | Ask::Close { .. } | Ask::List { .. } => false,
        };
        while let Some(index) = self.questions.iter().position(|question| known(&question.ask, self)) {
            let Ask::Open { token, name, terms, state: OpenState::Granted(opened) } = self.questions.remove(index).ask else {
                unreachable!("found as granted above")
            };
            self.opened(token, &name, terms, &opened, turn);
            self.retry_held(&name, turn);
        }
    }

    /// The opens of a volume that had to wait for another open or close of it are asked anew.
    pub(super) fn retry_held(&mut self, volume: &str, turn: &mut Turn<'_, impl Buffers>) {
        let held = |ask: &Ask| match ask {
            Ask::Open { name, state: OpenState::Held, .. } => name == volume,
            Ask::Open { state: OpenState::Asked | OpenState::Granted(_), .. } | Ask::Close { .. } | Ask::List { .. } => false,
        };
        // Each may be held again behind the one before it: so no more rounds than there are now.
        for _ in 0..self.questions.len() {
            let Some(index) = self.questions.iter().position(|question| held(&question.ask)) else { return };
            let Ask::Open { token, name, terms, .. } = self.questions.remove(index).ask else { unreachable!("found as open above") };
            self.open(token, &name, terms, turn);
        }
    }

    /// Whether an open of this volume is on its way.
    pub(super) fn is_opening(&self, volume: &str) -> bool {
        self.questions.iter().any(|question| match &question.ask {
            Ask::Open { name, state: OpenState::Asked | OpenState::Granted(_), .. } => name == volume,
            Ask::Open { state: OpenState::Held, .. } | Ask::Close { .. } | Ask::List { .. } => false,
        })
    }

    /// The MDM will not have this client: opens are answered, the rest waits for another connection.
    fn refused(&mut self, reason: &str, turn: &mut Turn<'_, impl Buffers>) {
        self.mdm = Mdm::Down;
        turn.out.push(Effect::Event(Event::Refused { reason: reason.to_owned() }));
        self.questions.retain(|question| match &question.ask {
            Ask::Open { token, name, state: OpenState::Held | OpenState::Asked, .. } => {
                let refused = OpenError::Refused { name: name.clone(), reason: reason.to_owned() };
                turn.out.push(Effect::Opened { token: *token, result: Err(refused) });
                false
            }
            Ask::Open { state: OpenState::Granted(_), .. } | Ask::Close { .. } | Ask::List { .. } => true,
        });
    }

    /// A view came.
    fn learn(&mut self, update: &ViewUpdate, turn: &mut Turn<'_, impl Buffers>) {
        if !self.topology.apply(update, self.options.client, &mut self.servers) {
            return;
        }
        self.review_sessions(turn);
        self.grant(turn);
        self.reroute(turn);
    }

    /// Asks for a view of at least this version, unless that has been done.
    pub(super) fn pull(&mut self, at_least: MapVersion, turn: &mut Turn<'_, impl Buffers>) {
        if at_least <= self.pulled.max(self.topology.version()) {
            return;
        }
        self.pulled = at_least;
        if self.mdm_is_up() {
            turn.out.push(Effect::Control(ClientToMdm::Pull { at_least }));
        }
    }

    pub(super) fn mdm_timers(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        let Mdm::Up { heartbeat_at } = self.mdm else { return };
        let mut next = heartbeat_at;
        if turn.now >= heartbeat_at {
            turn.out.push(Effect::Control(ClientToMdm::Heartbeat));
            next = turn.now.plus(HEARTBEAT_EVERY);
            self.mdm = Mdm::Up { heartbeat_at: next };
        }
        self.wake_by(next);
    }
}
