//! Sessions: who may write a volume, and who is fenced.
//!
//! Invariants: a generation is above every one given before, in the whole system (I3); of one volume
//! there is at most one exclusive session, and never beside a shared one; a client has at most one
//! session of a volume, and takes back its own at once.

use super::outcome::{Bound, Event, Outcome, Refusal};
use super::state::Session;
use super::{Cluster, OpenSession, name, rfc3339};
use crate::bugs::{self, Bug};
use crate::control::Opened;
use crate::id::{ClientId, SessionGeneration, VolumeId};
use crate::limits::SESSIONS_PER_VOLUME_MAX;
use crate::view::SessionMode;

impl Cluster {
    pub(super) fn open_session(&mut self, now_ms: u64, open: &OpenSession, events: &mut Vec<Event>) -> Result<Outcome, Refusal> {
        name::check_text("a client's name", &open.holder)?;
        let Some((id, volume)) = self.volume_by_name(&open.volume) else {
            return Err(Refusal::NoVolume { name: open.volume.chars().take(crate::limits::NAME_BYTES_MAX).collect() });
        };
        let in_the_way =
            |session: &Session| session.client != open.client && excludes(open.mode, session.mode) && !bugs::is(Bug::SessionNotExclusive);
        let is_orphan = |session: &Session| open.orphans.contains(&session.generation);
        if let Some(session) = volume.sessions.iter().find(|session| in_the_way(session) && !open.force && !is_orphan(session)) {
            let (holder, since) = (session.holder.clone(), rfc3339(session.since_ms));
            return Err(Refusal::Busy { name: open.volume.clone(), holder, since });
        }
        let gone = |session: &Session| session.client == open.client || in_the_way(session);
        // When the table is full, those who have left make room for those who come.
        let stay = volume.sessions.iter().filter(|session| !gone(session)).count();
        let full = stay >= SESSIONS_PER_VOLUME_MAX;
        let gone_or_orphan = |session: &Session| gone(session) || (full && is_orphan(session));
        if volume.sessions.iter().filter(|session| !gone_or_orphan(session)).count() >= SESSIONS_PER_VOLUME_MAX {
            return Err(Refusal::TooMany(Bound::Sessions));
        }

        let version = self.next_version();
        self.state.versions.volumes = version;
        self.state.issued.generation += 1;
        let generation = SessionGeneration::new(self.state.issued.generation);
        let Some(volume) = self.state.volumes.get_mut(&id) else { unreachable!("found by its name above") };
        assert!(volume.sessions.iter().all(|session| session.generation < generation), "I3: generations only rise");
        for session in volume.sessions.extract_if(.., |session| gone_or_orphan(session)) {
            events.push(Event::SessionFenced { volume: id, generation: session.generation, holder: session.holder });
        }
        volume.sessions.push(Session {
            client: open.client,
            ticket: open.ticket,
            holder: open.holder.clone(),
            mode: open.mode,
            generation,
            since_ms: now_ms,
        });
        events.push(Event::SessionOpened { volume: id, generation, holder: open.holder.clone() });
        Ok(Outcome::SessionOpened(Opened { volume: id, generation, mode: open.mode, version }))
    }

    pub(super) fn close_session(
        &mut self,
        id: VolumeId,
        client: ClientId,
        generation: SessionGeneration,
        events: &mut Vec<Event>,
    ) -> Outcome {
        let Some(volume) = self.state.volumes.get_mut(&id) else { return Outcome::SessionClosed };
        let before = volume.sessions.len();
        volume.sessions.retain(|session| session.client != client || session.generation != generation);
        if volume.sessions.len() < before {
            self.state.versions.volumes = self.next_version();
            events.push(Event::SessionClosed { volume: id, generation });
        }
        Outcome::SessionClosed
    }
}

/// Whether a session of mode `held` keeps another client from opening in mode `asked`.
pub(super) const fn excludes(asked: SessionMode, held: SessionMode) -> bool {
    match (asked, held) {
        (SessionMode::Exclusive, SessionMode::Exclusive | SessionMode::Shared) | (SessionMode::Shared, SessionMode::Exclusive) => true,
        (SessionMode::Exclusive | SessionMode::Shared, SessionMode::ReadOnly)
        | (SessionMode::Shared, SessionMode::Shared)
        | (SessionMode::ReadOnly, SessionMode::Exclusive | SessionMode::Shared | SessionMode::ReadOnly) => false,
    }
}
