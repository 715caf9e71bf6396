//! What data servers do with requests, writes of their primary, and what becomes of them.

use crate::copy::Stamp;
use crate::model::{Protocol, STRIDE, TERMS};
use crate::monitor::{Op, Outcome};
use crate::rule::Rule;
use crate::state::{Flushing, Message, Origin, Pending, Reading, State, server};
use sds_core::id::{ConnectionNumber, Epoch, MapVersion};
use sds_core::map::Member;
use sds_core::protocol::fence::{self, ConnectionFence, EpochFence, GenerationFence};
use sds_core::protocol::{acknowledge, lease, settle};
use sds_core::unit::Nanos;

pub(crate) fn bit(server: usize) -> u8 {
    1 << server
}

pub(crate) fn now(state: &State, at: usize) -> Nanos {
    Nanos::new(u64::from(state.clocks[at]))
}

impl Protocol {
    pub(crate) fn deliver(&self, state: &mut State, message: Message) -> bool {
        if let Ok(at) = state.network.binary_search(&message) {
            state.network.remove(at);
        }
        match message {
            Message::Request { to, life, origin, generation, epoch, oldest, op } => {
                if !state.servers[to].up || !fence::is_for_this_life(state.servers[to].life, life) {
                    return true;
                }
                let own = &mut state.servers[to];
                match fence::connection(own.connections[origin.client], origin.connection) {
                    ConnectionFence::Older if self.on(Rule::FenceConnection) => return true,
                    ConnectionFence::Newer => own.connections[origin.client] = origin.connection,
                    ConnectionFence::Older | ConnectionFence::Same => {}
                }
                match fence::epoch(own.epoch, epoch) {
                    EpochFence::Older if self.on(Rule::FenceEpochClient) => return true,
                    // It waits until the map is there.
                    EpochFence::Newer if self.on(Rule::ServeAtMap) => return false,
                    EpochFence::Newer => self.advance(state, to, epoch),
                    EpochFence::Older | EpochFence::Same => {}
                }
                if !self.is_primary(state, to) {
                    return true;
                }
                if !self.may_serve(state, to) {
                    return false;
                }
                match fence::generation(state.servers[to].generation, generation) {
                    GenerationFence::Fenced if self.on(Rule::FenceGeneration) => return true,
                    GenerationFence::MapTooOld => return false,
                    GenerationFence::Fenced | GenerationFence::Same => {}
                }
                self.accept(state, to, origin, op, oldest)
            }
            Message::Replicate { from, to, life, connection, epoch, stamp, resolved, copy } => {
                if !state.servers[to].up || (state.servers[to].life != life && self.on(Rule::MemberIncarnation)) {
                    return true;
                }
                self.replicate(state, from, to, connection, epoch, stamp, resolved, copy);
                true
            }
            Message::Complete { from, to, connection, epoch, sequence } => {
                let own = &mut state.servers[to];
                if !own.up || own.epoch != epoch || (own.peer_out != connection && self.on(Rule::PeerOrder)) {
                    return true;
                }
                own.partner_complete = own.partner_complete.max(sequence);
                for write in own.pending.iter_mut().filter(|write| write.stamp.sequence() == sequence) {
                    write.complete |= bit(from);
                    if write.copy {
                        own.copied = true;
                    }
                }
                if !self.on(Rule::CopyLock) && own.copy.current().sequence() >= sequence {
                    own.copied = true;
                }
                self.progress(state, to);
                true
            }
            Message::Grant { to, epoch, echoed } => {
                let time = now(state, to);
                let own = &mut state.servers[to];
                if own.up && own.epoch == epoch {
                    own.lease.renew(if self.on(Rule::LeaseFromRequest) { Nanos::new(u64::from(echoed)) } else { time });
                }
                true
            }
            Message::Propose(proposal) => {
                self.commit(state, proposal);
                true
            }
        }
    }

    /// Whether a primary serves requests now.
    fn may_serve(&self, state: &State, at: usize) -> bool {
        let own = &state.servers[at];
        let committed = state.mdm.at(own.epoch);
        if !fence::may_serve_epoch(own.map, committed.made_at) && self.on(Rule::ServeAtMap) {
            return false;
        }
        if settle::is_for_settling(committed) {
            return false;
        }
        let settled = |at: usize| state.servers[at].settled || !self.is_member_at(state, at, own.epoch);
        if own.stopped || !own.settled || own.copy.image.is_some() {
            return false;
        }
        if let Some(other) = self.other(state, at)
            && self.on(Rule::SettleBoth)
            && !settled(other)
        {
            return false;
        }
        if !self.scenario.leases || own.epoch == Epoch::new(1) {
            return true;
        }
        let before = state.mdm.at(Epoch::new(own.epoch.get() - 1));
        let former = before.in_sync.primary().map(|old| server(old.device)).filter(|old| *old != at);
        // Who restarts may have been promoted in its former life, by a lease that it granted in that.
        let fell_out = state.entry(at).lapsed.map(|lapsed| server(lapsed.device));
        let Some(old) = former.or(fell_out) else { return true };
        let stopped = !state.servers[old].up || state.servers[old].epoch >= own.epoch;
        !self.on(Rule::Grace) || own.granted.grace_is_over(now(state, at), &TERMS, stopped)
    }

    fn is_member_at(&self, state: &State, at: usize, epoch: Epoch) -> bool {
        let own = state.member(at);
        state.mdm.at(epoch).in_sync.members().contains(&own)
    }

    fn accept(&self, state: &mut State, at: usize, origin: Origin, op: Op, oldest: Epoch) -> bool {
        let first = state.entry(at).first_sequence.get();
        let epoch = state.servers[at].epoch;
        let own = &mut state.servers[at];
        match op {
            Op::Write(value) => {
                if !own.pending.is_empty() && (self.on(Rule::RangeLock) || own.pending.len() > 1) {
                    return false;
                }
                if own.reading.is_some() && self.on(Rule::ReadHoldsRange) {
                    return false;
                }
                let sequence = if self.on(Rule::SequenceCeiling) { own.last.max(first) + 1 } else { own.last + 1 };
                assert!(sequence < (u64::from(epoch.get()) + 1) * STRIDE, "the stride is wide enough");
                own.last = sequence;
                let stamp = Stamp::new(sequence, epoch, value);
                // Without the lock two writes are at the device at once, and it may do them in the other order.
                let crossed = !own.pending.is_empty()
                    && own.copy.cached.pop().is_some_and(|older| {
                        own.copy.write(stamp);
                        own.copy.write(older);
                        true
                    });
                if !crossed {
                    own.copy.write(stamp);
                }
                own.joiner_flushed = false;
                own.pending.push(Pending {
                    origin: Some(origin),
                    stamp,
                    local: true,
                    sent: 0,
                    complete: bit(at),
                    copy: false,
                    answered: false,
                });
                self.progress(state, at);
                true
            }
            Op::Read => {
                if own.pending.iter().any(|write| !write.copy) && self.on(Rule::ReadWaits) {
                    return false;
                }
                if self.scenario.leases || self.scenario.slow_reads {
                    if own.reading.is_some() {
                        return false;
                    }
                    own.reading = Some(Reading { origin });
                    return true;
                }
                if !self.may_read(state, at) {
                    return false;
                }
                let value = state.servers[at].copy.current().value;
                self.answer(state, origin, Outcome::Read(value), epoch);
                true
            }
            Op::Flush => {
                if own.flushing.is_some() {
                    return false;
                }
                own.copy.flush();
                own.flushing = Some(Flushing { origin, oldest, done: bit(at) });
                self.progress(state, at);
                true
            }
        }
    }

    fn may_read(&self, state: &State, at: usize) -> bool {
        let own = &state.servers[at];
        if !self.scenario.leases {
            // An ideal lease: until a newer primary serves.
            return (0..state.servers.len()).all(|other| {
                let newer = &state.servers[other];
                other == at || !newer.up || newer.epoch <= own.epoch || !self.is_primary(state, other)
            });
        }
        let growing = own.growing.filter(|_| self.on(Rule::JoinerLeaseBeforeProposal));
        !self.on(Rule::ReadLease) || lease::may_answer_read(state.entry(at), state.member(at), growing, &own.lease, now(state, at), &TERMS)
    }

    pub(crate) fn answer_read(&self, state: &mut State, at: usize) -> bool {
        let Some(reading) = state.servers[at].reading.take() else { return false };
        // Checked after the disk read and before the reply.
        if self.may_read(state, at) {
            let (epoch, value) = (state.servers[at].epoch, state.servers[at].copy.current().value);
            self.answer(state, reading.origin, Outcome::Read(value), epoch);
        }
        true
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    fn replicate(
        &self,
        state: &mut State,
        from: usize,
        to: usize,
        connection: ConnectionNumber,
        epoch: Epoch,
        stamp: Stamp,
        resolved: u64,
        copy: bool,
    ) {
        match fence::epoch(state.servers[to].epoch, epoch) {
            EpochFence::Older if self.on(Rule::FenceEpochPeer) => return,
            // The frame carries the configuration, and nothing of the sessions.
            EpochFence::Newer => {
                self.advance(state, to, epoch);
            }
            EpochFence::Older | EpochFence::Same => {}
        }
        match fence::connection(state.servers[to].peer_seen, connection) {
            ConnectionFence::Older if self.on(Rule::PeerOrder) => return,
            ConnectionFence::Newer => state.servers[to].peer_seen = connection,
            ConnectionFence::Older | ConnectionFence::Same => {}
        }
        let joins = self.is_joiner(state, to);
        if !joins
            && (!self.is_member(state, to) || (self.is_primary(state, to) && self.on(Rule::FenceEpochPeer)) || !state.servers[to].settled)
        {
            return;
        }
        let own = &mut state.servers[to];
        own.resolved = own.resolved.max(resolved);
        if copy || stamp.sequence() > own.last || !self.on(Rule::PeerOrder) {
            if joins && copy {
                own.settled = true;
                own.cache_lost = false;
            }
            // A joiner that is still in doubt keeps the doubt until it was copied to.
            if !joins || own.settled || copy {
                own.copy.write(stamp);
            } else if let Some(image) = &mut own.copy.image {
                image.records.push(stamp);
                image.medium = stamp.value;
                own.copy.active = true;
            }
            own.last = own.last.max(stamp.sequence());
        }
        state.send(Message::Complete { from: to, to: from, connection, epoch, sequence: stamp.sequence() });
    }

    /// Sends, answers and resolves whatever can be, at a primary.
    pub(crate) fn progress(&self, state: &mut State, at: usize) {
        if !self.is_primary(state, at) {
            return;
        }
        let entry = *state.entry(at);
        let epoch = entry.epoch;
        let own_member = state.member(at);
        let is_own = |member: &Member| member.device == own_member.device;
        let growing = state.servers[at].growing.filter(|_| self.on(Rule::JoinerAckBeforeProposal));
        let needed: Vec<usize> = acknowledge::needed(&entry, growing)
            .filter(|member| {
                is_own(member)
                    || (self.on(Rule::AckEveryInSync)
                        && !(state.servers[at].shrinking && !self.on(Rule::DegradeBeforeAck) && entry.joining != Some(*member)))
            })
            .map(|member| server(member.device))
            .collect();
        let joiner = entry.joining.filter(|_| self.on(Rule::JoinerWrites));
        let targets: Vec<Member> = entry.in_sync.members().iter().copied().filter(|member| !is_own(member)).chain(joiner).collect();
        let all = targets.iter().fold(bit(at), |all, member| all | bit(server(member.device)));
        let mut pending = core::mem::take(&mut state.servers[at].pending);
        for write in &mut pending {
            for target in &targets {
                let to = server(target.device);
                if write.complete & bit(to) == 0 && write.sent & bit(to) == 0 && state.servers[to].up {
                    write.sent |= bit(to);
                    let life = if self.on(Rule::MemberIncarnation) { target.incarnation } else { state.servers[to].life };
                    let (connection, resolved) = (state.servers[at].peer_out, state.servers[at].resolved);
                    state.send(Message::Replicate {
                        from: at,
                        to,
                        life,
                        connection,
                        epoch,
                        stamp: write.stamp,
                        resolved,
                        copy: write.copy,
                    });
                }
            }
            if !write.answered && needed.iter().all(|member| write.complete & bit(*member) != 0) && !state.servers[at].stopped_for_good() {
                write.answered = true;
                if !write.copy && write.stamp.sequence() > state.excused {
                    state.acknowledged = state.acknowledged.max(write.stamp.sequence());
                }
                if let Some(origin) = write.origin.take() {
                    self.answer(state, origin, Outcome::Done, epoch);
                }
            }
        }
        // Resolved: answered, and complete on all that it was for; the lock goes.
        let own = &mut state.servers[at];
        let careless = !self.on(Rule::AckEveryInSync) || (!self.on(Rule::DegradeBeforeAck) && own.shrinking);
        pending.retain(|write| {
            let resolved = write.answered && (write.complete & all == all || careless);
            if resolved && !write.copy {
                own.resolved = own.resolved.max(write.stamp.sequence());
            }
            !resolved
        });
        state.servers[at].pending = pending;
        // A flush is answered when all that acknowledgements need have flushed.
        if let Some(flush) = state.servers[at].flushing {
            let needed = if self.on(Rule::FlushSecondary) { needed } else { vec![at] };
            if needed.iter().all(|member| flush.done & bit(*member) != 0) {
                state.servers[at].flushing = None;
                let honest = acknowledge::flush_may_succeed(flush.oldest, entry.cache_lost_in) || !self.on(Rule::FlushEio);
                self.answer(state, flush.origin, if honest { Outcome::Done } else { Outcome::Eio }, epoch);
            }
        }
    }

    pub(crate) fn flush_on(&self, state: &mut State, at: usize, target: usize) -> bool {
        let epoch = state.servers[at].epoch;
        let Some(flush) = &state.servers[at].flushing else { return false };
        let own = &state.servers[target];
        if flush.done & bit(target) != 0
            || !own.up
            || own.epoch != epoch
            || own.copy.image.is_some()
            || target == at
            || !self.is_member(state, target)
        {
            return false;
        }
        state.servers[target].copy.flush();
        if let Some(flush) = &mut state.servers[at].flushing {
            flush.done |= bit(target);
        }
        self.progress(state, at);
        true
    }

    pub(crate) fn reconnect(&self, state: &mut State, at: usize) -> bool {
        if state.spent.reconnects >= self.scenario.reconnects || state.servers[at].pending.is_empty() {
            return false;
        }
        state.spent.reconnects += 1;
        let own = &mut state.servers[at];
        own.peer_out = ConnectionNumber::new(own.peer_out.get() + 1);
        own.pending.iter_mut().for_each(|write| write.sent = 0);
        self.progress(state, at);
        true
    }

    pub(crate) fn seal(&self, state: &mut State, at: usize) -> bool {
        let own = &state.servers[at];
        if !self.scenario.seals || !own.copy.active || !own.settled || own.copy.image.is_some() {
            return false;
        }
        let current = own.copy.current().sequence();
        let resolved = if self.is_primary(state, at) { own.pending.is_empty() } else { own.resolved >= current };
        if !acknowledge::may_seal(true, resolved) && self.on(Rule::SealResolved) {
            return false;
        }
        let own = &mut state.servers[at];
        own.copy.flush();
        own.copy.active = false;
        true
    }

    pub(crate) fn grant(&self, state: &mut State, at: usize) -> bool {
        if !self.scenario.leases || state.spent.grants >= self.scenario.grants {
            return false;
        }
        let entry = *state.entry(at);
        if !(self.is_member(state, at) || self.is_joiner(state, at)) || self.is_primary(state, at) {
            return false;
        }
        let Some(primary) = entry.in_sync.primary().map(|primary| server(primary.device)) else { return false };
        if state.servers[primary].epoch != entry.epoch || !state.servers[primary].up {
            return false;
        }
        state.spent.grants += 1;
        let time = now(state, at);
        state.servers[at].granted.grant(time);
        let echoed = state.clocks[primary];
        state.send(Message::Grant { to: primary, epoch: entry.epoch, echoed });
        true
    }

    pub(crate) fn pull(&self, state: &mut State, at: usize) -> bool {
        let (epoch, map, generation) = (state.mdm.newest().epoch, state.mdm.map, state.mdm.generation);
        if epoch > state.servers[at].epoch {
            self.advance(state, at, epoch);
        }
        let own = &mut state.servers[at];
        own.map = MapVersion::max(own.map, map);
        own.generation = generation;
        self.progress(state, at);
        true
    }
}
