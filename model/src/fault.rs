//! What goes wrong: processes die, power is cut, devices forget, and servers come back.

use crate::copy::{Copy, Image};
use crate::model::{Left, Protocol};
use crate::rule::Rule;
use crate::serve::now;
use crate::state::{Message, SERVERS, State, server};
use sds_core::id::{ConnectionNumber, Incarnation};

impl Protocol {
    pub(crate) fn crash(&self, state: &mut State, at: usize, left: Left) -> bool {
        state.spent.crashes += 1;
        let (copy, half) = self.torn(state, at, left);
        state.servers[at].copy = copy.crash(half);
        self.die(state, at);
        true
    }

    pub(crate) fn power_cut(&self, state: &mut State, at: usize, left: Left, end: usize) -> bool {
        state.spent.power_cuts += 1;
        let (copy, half) = self.torn(state, at, left);
        let Some(copy) = copy.power_cuts(half).into_iter().nth(end) else { return false };
        self.lose_cache(state, at);
        state.servers[at].copy = copy;
        self.die(state, at);
        true
    }

    pub(crate) fn forget(&self, state: &mut State, at: usize) -> bool {
        state.spent.power_cuts += 1;
        state.spent.amnesia += 1;
        self.lose_cache(state, at);
        let blank = Copy::default();
        let image = Image { records: vec![blank.base], medium: blank.base.value, durable: true };
        state.servers[at].copy = Copy { image: Some(image), ..blank };
        self.die(state, at);
        // Known when it registers: its log ends before a flushed position that was reported.
        state.mdm.amnesic[at] = true;
        true
    }

    /// When no copy that counts has kept its cache, what was not flushed may be gone.
    fn lose_cache(&self, state: &mut State, at: usize) {
        state.servers[at].cache_lost = true;
        state.mdm.cache_lost_in[at] = Incarnation::new(state.servers[at].life.get() + 1);
        let members = state.mdm.newest().in_sync;
        let counted = members.members().iter().any(|member| server(member.device) == at);
        if counted && members.members().iter().all(|member| state.servers[server(member.device)].cache_lost) {
            self.caches_are_gone(state);
        }
    }

    /// What was acknowledged and not flushed may be gone.
    pub(crate) fn caches_are_gone(&self, state: &mut State) {
        state.monitor.lose_caches();
        state.acknowledged = 0;
        // An answer that was under way may still come: it is as if it had come before.
        state.excused = state.servers.iter().map(|own| own.last).max().unwrap_or(0);
    }

    fn die(&self, state: &mut State, at: usize) {
        let own = &mut state.servers[at];
        own.up = false;
        own.pending.clear();
        own.reading = None;
        own.flushing = None;
        own.settled = false;
        // Its connections are gone, and what was on the way to it.
        state.network.retain(|message| match message {
            Message::Request { to, .. } | Message::Replicate { to, .. } | Message::Complete { to, .. } | Message::Grant { to, .. } => {
                *to != at
            }
            Message::Propose(_) => true,
        });
    }

    pub(crate) fn restart(&self, state: &mut State, at: usize) -> bool {
        let life = Incarnation::new(state.servers[at].life.get() + 1);
        state.mdm.lives[at] = life;
        let newest = state.mdm.newest().epoch;
        let (map, generation) = (state.mdm.map, state.mdm.generation);
        let peer_out =
            (0..SERVERS).map(|other| state.servers[other].peer_seen.max(state.servers[other].peer_out).get()).max().unwrap_or(0) + 1;
        let time = now(state, at);
        let own = &mut state.servers[at];
        own.up = true;
        own.life = life;
        own.epoch = newest;
        own.map = map;
        own.generation = generation;
        own.last = own.copy.records().iter().map(|record| record.sequence()).max().unwrap_or(0);
        own.resolved = 0;
        own.partner_complete = 0;
        own.connections = [ConnectionNumber::new(0); 2];
        own.peer_out = ConnectionNumber::new(peer_out);
        own.peer_seen = ConnectionNumber::new(0);
        own.shrinking = false;
        own.growing = None;
        own.stopped = false;
        own.copied = false;
        own.joiner_flushed = false;
        own.lease = sds_core::protocol::lease::Lease::default();
        own.granted = sds_core::protocol::lease::Granted::default();
        if self.scenario.leases && self.on(Rule::GraceOfFormerLives) {
            own.granted = sds_core::protocol::lease::Granted::by_former_lives(time);
        }
        if !self.on(Rule::MemberIncarnation) {
            // It takes itself for the member that it was.
            own.settled = true;
            own.copy.adopt();
        }
        true
    }
}
