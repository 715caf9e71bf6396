//! How configurations change: proposals, the MDM's commit, joining, settling.

use crate::copy::Stamp;
use crate::model::{Protocol, STRIDE};
use crate::rule::Rule;
use crate::serve::bit;
use crate::state::{Message, Pending, Server, State, device, server};
use sds_core::id::{Epoch, MapVersion, ShardSequence};
use sds_core::map::{InSync, Lapsed, Member};
use sds_core::protocol::membership::{self, Beginning, Change, Proposal, Registered, Standing};
use sds_core::protocol::resync::{self, Progress};
use sds_core::protocol::settle::{self, Plan, Side};
use std::sync::Arc;

impl Server {
    /// A primary that has stopped to swap roles answers nothing more; what it drained is answered already.
    pub(crate) fn stopped_for_good(&self) -> bool {
        self.stopped
    }
}

impl Protocol {
    /// A server learns of a newer epoch: it stops what it did at the old one.
    pub(crate) fn advance(&self, state: &mut State, at: usize, epoch: Epoch) {
        let was_primary = self.is_primary(state, at);
        let was_joiner = self.is_joiner(state, at);
        let own = &mut state.servers[at];
        own.epoch.advance_to(epoch);
        own.shrinking = false;
        own.growing = None;
        own.stopped = false;
        own.copied = false;
        own.joiner_flushed = false;
        own.lease = sds_core::protocol::lease::Lease::default();
        own.reading = None;
        own.flushing = None;
        own.pending.iter_mut().for_each(|write| write.sent = 0);
        own.pending.retain(|write| !write.copy);
        let (is_primary, is_member) = (self.is_primary(state, at), self.is_member(state, at));
        let own = &mut state.servers[at];
        if !is_primary {
            own.pending.clear();
        }
        if is_member && was_joiner {
            own.resolved = own.copy.current().sequence();
            own.settled = true;
            own.cache_lost = false;
            own.copy.held = false;
        }
        if is_primary && !was_primary && is_member && !self.on(Rule::KeepOnPromotion) {
            let resolved = own.resolved;
            own.copy.roll_back(resolved);
        }
        if is_primary && state.mdm.at(epoch).in_sync.members().len() == 2 {
            state.servers[at].copy.held = false;
        }
        self.progress(state, at);
    }

    fn propose(&self, state: &mut State, at: usize, change: Change) -> bool {
        let base = state.servers[at].epoch;
        let proposer = Some(state.member(at));
        let proposal = Proposal { base, proposer, change };
        base.get() < self.scenario.epochs
            && if self.scenario.late { state.send(Message::Propose(proposal)) } else { self.commit(state, proposal) }
    }

    pub(crate) fn propose_shrink(&self, state: &mut State, at: usize) -> bool {
        let own = &state.servers[at];
        let stray = !self.on(Rule::PromoteInSync) && self.is_joiner(state, at);
        let standing = Standing { in_sync: self.is_member(state, at), settled: own.settled || !self.on(Rule::ShrinkSettled) };
        if own.shrinking || !(standing.may_ask_to_shrink() || stray) || (self.other(state, at).is_none()) {
            return false;
        }
        let complete = match (self.is_primary(state, at), self.on(Rule::LapsedComplete)) {
            (true, true) => own.partner_complete,
            (true, false) => own.last,
            (false, _) => own.resolved,
        };
        let proposed = self.propose(state, at, Change::Shrink { complete: ShardSequence::new(complete) });
        state.servers[at].shrinking = proposed;
        if proposed {
            self.progress(state, at);
        }
        proposed
    }

    pub(crate) fn propose_swap(&self, state: &mut State, at: usize) -> bool {
        let own = &state.servers[at];
        let drained = own.pending.is_empty() && own.flushing.is_none();
        if state.spent.swaps >= self.scenario.swaps
            || !self.is_primary(state, at)
            || self.other(state, at).is_none()
            || !own.settled
            || own.shrinking
        {
            return false;
        }
        if self.on(Rule::DrainSwap) {
            if !drained {
                return false;
            }
            state.servers[at].stopped = true;
        }
        state.spent.swaps += 1;
        self.propose(state, at, Change::Swap)
    }

    /// The joiner, when it has come to this epoch.
    fn joiner(&self, state: &State, at: usize) -> Option<(Member, usize)> {
        let joiner = state.entry(at).joining.filter(|_| self.is_primary(state, at))?;
        let to = server(joiner.device);
        let there = &state.servers[to];
        (there.up && self.same(joiner, state.member(to)) && there.epoch == state.servers[at].epoch).then_some((joiner, to))
    }

    pub(crate) fn copy_block(&self, state: &mut State, at: usize) -> bool {
        let Some((joiner, to)) = self.joiner(state, at) else { return false };
        let own = &state.servers[at];
        if own.copied || !own.settled || (!own.pending.is_empty() && self.on(Rule::CopyLock)) {
            return false;
        }
        let there = &state.servers[to];
        let stamp = own.copy.current();
        let lapsed = state.entry(at).lapsed.filter(|lapsed| lapsed.device == joiner.device);
        let exchanged = own.copy.active || (own.copy.held && self.on(Rule::SoleHeld)) || there.copy.active;
        let differs = there.copy.exhibit(there.cache_lost, |exhibit| settle::settle_joiner(stamp.record(), exhibit));
        let complete = lapsed.map_or(ShardSequence::new(0), |lapsed| lapsed.complete);
        if resync::must_copy(stamp.version.sequence, complete, exchanged && differs && self.on(Rule::SettleJoiner)) {
            if !self.on(Rule::CopyLock) {
                let (connection, epoch, life) = (own.peer_out, own.epoch, there.life);
                let resolved = own.resolved;
                return state.send(Message::Replicate { from: at, to, life, connection, epoch, stamp, resolved, copy: true });
            }
            state.servers[at].joiner_flushed = false;
            state.servers[at].pending.push(Pending {
                origin: None,
                stamp,
                local: true,
                sent: 0,
                complete: bit(at),
                copy: true,
                answered: true,
            });
            if !self.on(Rule::JoinerWrites) {
                let own = &state.servers[at];
                let (connection, epoch, life, resolved) = (own.peer_out, own.epoch, joiner.incarnation, own.resolved);
                state.send(Message::Replicate { from: at, to, life, connection, epoch, stamp, resolved, copy: true });
            }
            self.progress(state, at);
        } else {
            let there = &mut state.servers[to];
            there.copy.adopt();
            there.settled = true;
            state.servers[at].copied = true;
        }
        true
    }

    pub(crate) fn propose_grow(&self, state: &mut State, at: usize) -> bool {
        let Some((joiner, to)) = self.joiner(state, at) else { return false };
        let own = &state.servers[at];
        if own.growing.is_some() || !own.settled {
            return false;
        }
        // Needed first, then the flush, then the proposal: what is acknowledged or flushed from here on is so on the joiner too.
        let missing = u64::from(!own.copied) + own.pending.len() as u64;
        let progress = Progress { missing, flushed: true, needed: true };
        if !progress.may_propose() && self.on(Rule::JoinerComplete) {
            return false;
        }
        state.servers[at].growing = Some(joiner);
        if self.on(Rule::JoinerFlush) && state.servers[to].copy.image.is_none() {
            state.servers[to].copy.flush();
            state.servers[at].joiner_flushed = true;
        }
        self.propose(state, at, Change::Grow)
    }

    /// What was proposed is lost, or refuses: it is needed until another epoch is learnt all the same.
    pub(crate) fn propose_drop(&self, state: &mut State, at: usize) -> bool {
        state.servers[at].growing.is_some() && self.is_primary(state, at) && self.propose(state, at, Change::Drop)
    }

    pub(crate) fn join(&self, state: &mut State, at: usize) -> bool {
        let entry = *state.mdm.newest();
        if self.scenario.joiners & bit(at) == 0 || entry.epoch.get() >= self.scenario.epochs {
            return false;
        }
        self.commit(state, Proposal { base: entry.epoch, proposer: None, change: Change::Join { joiner: state.member(at) } })
    }

    pub(crate) fn reform(&self, state: &mut State) -> bool {
        let entry = *state.mdm.newest();
        if entry.epoch.get() >= self.scenario.epochs || !self.on(Rule::MemberIncarnation) {
            return false;
        }
        let unsettled = entry.in_sync.members().iter().copied().find(|member| {
            let own = &state.servers[server(member.device)];
            own.up && own.life == member.incarnation && !own.settled
        });
        if !entry.in_sync.members().iter().all(|member| state.servers[server(member.device)].up) {
            return false;
        }
        self.commit(state, Proposal { base: entry.epoch, proposer: unsettled, change: Change::Reform })
    }

    /// The MDM has waited for the other for long enough. Who lives and owes no settling would ask for itself.
    pub(crate) fn alone(&self, state: &mut State, at: usize) -> bool {
        let entry = *state.mdm.newest();
        let member = state.member(at);
        let waits =
            entry.in_sync.members().iter().any(|held| held.device == member.device && (*held != member || !state.servers[at].settled));
        if entry.in_sync.members().len() < 2 || !waits {
            return false;
        }
        let other = entry.in_sync.members().iter().map(|held| server(held.device)).find(|other| *other != at);
        let gone = other.is_some_and(|other| !state.servers[other].up);
        let lost = state.servers[at].cache_lost;
        let proposal = Proposal { base: entry.epoch, proposer: None, change: Change::Alone { member, forced: false } };
        let committed = self.commit(state, proposal);
        // Counted as a possible loss of what was not flushed.
        if committed && gone && lost {
            self.caches_are_gone(state);
        }
        committed
    }

    /// The MDM decides on a proposal.
    pub(crate) fn commit(&self, state: &mut State, mut proposal: Proposal) -> bool {
        let entry = *state.mdm.newest();
        if entry.epoch.get() >= self.scenario.epochs {
            return false;
        }
        if !self.on(Rule::CompareAndSwap) {
            proposal.base = entry.epoch;
        }
        if !self.on(Rule::MemberIncarnation)
            && let Some(own) = proposal.proposer
        {
            proposal.proposer = entry.in_sync.members().iter().copied().find(|member| member.device == own.device).or(Some(own));
        }
        let mdm = &state.mdm;
        let registered = |named| {
            let at = server(named);
            let since = entry.in_sync.members().iter().find(|member| member.device == named).map(|member| member.incarnation);
            let cache_lost = since.is_some_and(|since| mdm.cache_lost_in[at] > since);
            // Without the rule a proposer counts as living.
            let proposer =
                proposal.proposer.filter(|own| own.device == named && !(self.on(Rule::ProposerLives) && self.on(Rule::MemberIncarnation)));
            let incarnation = proposer.map_or(mdm.lives[at], |own| own.incarnation);
            Some(Registered {
                incarnation,
                open: true,
                amnesic: mdm.amnesic[at] && self.on(Rule::Amnesia),
                cache_lost,
                gone: !state.servers[at].up || !self.on(Rule::AloneWhenGone),
            })
        };
        let ceiling = ShardSequence::new(u64::from(entry.epoch.get() + 1) * STRIDE);
        let beginning = Beginning { first_sequence: ceiling, made_at: MapVersion::new(mdm.map.get() + 1) };
        let stray = proposal.proposer.filter(|own| !self.on(Rule::PromoteInSync) && entry.joining == Some(*own));
        let next = match (stray, proposal.change) {
            (Some(stray), Change::Shrink { complete }) if proposal.base == entry.epoch => {
                let mut next = entry;
                next.epoch = Epoch::new(entry.epoch.get() + 1);
                next.lapsed = entry.in_sync.primary().map(|primary| Lapsed { device: primary.device, complete });
                next.in_sync = InSync::sole(stray);
                next.joining = None;
                next.first_sequence = ceiling;
                next.made_at = beginning.made_at;
                next
            }
            _ => match membership::commit(&entry, &proposal, registered, beginning) {
                Ok(next) => next,
                Err(_) => return false,
            },
        };
        state.mdm.map = MapVersion::new(state.mdm.map.get() + 1);
        // Committed after its power was cut and before it is back: as if it had been committed before the cut.
        let dead = proposal.proposer.map(|own| server(own.device)).filter(|own| !state.servers[*own].up && state.servers[*own].cache_lost);
        if dead.is_some_and(|own| next.in_sync.members().iter().all(|member| server(member.device) == own)) {
            self.caches_are_gone(state);
        }
        for member in next.in_sync.members() {
            if entry.joining == Some(*member) {
                state.mdm.amnesic[server(member.device)] = false;
            }
        }
        Arc::make_mut(&mut state.mdm.history).push(next);
        true
    }

    pub(crate) fn propose_settled(&self, state: &mut State, at: usize) -> bool {
        let Some(other) = self.other(state, at) else { return false };
        let (own, there) = (&state.servers[at], &state.servers[other]);
        if !own.settled || !there.up || !there.settled || there.epoch != own.epoch || !self.is_member(state, other) {
            return false;
        }
        self.propose(state, at, Change::Settled)
    }

    pub(crate) fn settle(&self, state: &mut State, at: usize) -> bool {
        let entry = *state.entry(at);
        let own = &state.servers[at];
        if own.settled || !entry.in_sync.members().contains(&state.member(at)) {
            return false;
        }
        let other = entry.in_sync.members().iter().copied().find(|member| member.device != device(at));
        let primary = entry.in_sync.primary() == Some(state.member(at));
        let pair = self.on(Rule::SettleBoth);
        let fresh = Stamp::new(entry.first_sequence.get(), entry.epoch, 0);
        let outcome = match other.filter(|_| pair) {
            None => {
                let value = own.copy.medium();
                let newest = own.copy.records().last().copied();
                newest.filter(|newest| newest.value == value).unwrap_or(Stamp { value, ..fresh })
            }
            Some(other) => {
                let there = &state.servers[server(other.device)];
                if !there.up || there.life != other.incarnation || there.epoch != entry.epoch {
                    return false;
                }
                if there.settled {
                    there.copy.current()
                } else {
                    let survivors = self.on(Rule::SurvivorSettles);
                    let lost = |own: Member| entry.has_lost_cache(own) || !survivors && entry.cache_lost.contains(&true);
                    let plan = own.copy.exhibit(lost(state.member(at)), |mine| {
                        there.copy.exhibit(
                            lost(other),
                            |theirs| if primary { settle::settle(mine, theirs) } else { settle::settle(theirs, mine) },
                        )
                    });
                    match plan {
                        Plan::Take { checksum, from, .. } => {
                            assert!(matches!(from, Side::Primary | Side::Secondary));
                            let value = u8::try_from(checksum.get()).unwrap_or(u8::MAX);
                            let (mine, theirs) = (own.copy.records(), there.copy.records());
                            let both = mine.last().filter(|newest| Some(*newest) == theirs.last() && newest.value == value);
                            both.copied().unwrap_or(Stamp { value, ..fresh })
                        }
                        Plan::Quarantine => {
                            state.quarantined = true;
                            return true;
                        }
                    }
                }
            }
        };
        let own = &mut state.servers[at];
        let held = own.copy.held || (own.copy.active && other.is_none());
        own.copy.settle(outcome);
        own.copy.held = held;
        own.settled = true;
        own.cache_lost = false;
        own.last = own.last.max(entry.first_sequence.get());
        own.resolved = outcome.sequence();
        own.partner_complete = 0;
        // What is complete on the other is known when both have settled, not before.
        if let Some(other) = other.map(|other| server(other.device)).filter(|other| state.servers[*other].settled) {
            state.servers[at].partner_complete = outcome.sequence();
            state.servers[other].partner_complete = outcome.sequence();
        }
        true
    }
}
