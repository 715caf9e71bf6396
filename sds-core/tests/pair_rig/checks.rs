//! What is expected of a pair after its troubles: that it becomes whole, and that its copies are one.

use super::{Pair, member};
use sds_core::map::{InSync, Member};
use sds_core::unit::Nanos;

/// An epoch after all others.
const ALONE: u32 = 9_999;

impl Pair {
    /// Runs until every shard has two copies again.
    #[track_caller]
    pub fn heal(&mut self) {
        for _ in 0..200 {
            self.run_for(Nanos::from_millis(100));
            if self.governor().is_clean() && (0..2).all(|at| !self.refuses[at]) {
                return self.run_for(Nanos::from_millis(100));
            }
        }
        let nodes: Vec<_> = self.nodes.iter().map(|node| (node.replica.status(), node.events.last().cloned())).collect();
        panic!("not clean: {:?} {nodes:?}", self.governor().entries[0]);
    }

    /// The copies are one in the first extents, block by block, as either would serve them alone.
    #[track_caller]
    pub fn assert_one(&mut self, extents: u32) {
        self.run_for(Nanos::from_millis(1500));
        self.mdm = None;
        let lives = [0, 1].map(|at| Member { device: member(at).device, incarnation: self.nodes[at].incarnation });
        self.held = [true; 2];
        self.cut();
        for (at, life) in lives.into_iter().enumerate() {
            self.place(ALONE, InSync::sole(life), 1 << 40, None);
            self.push_to(&[at]);
        }
        self.run_for(Nanos::from_millis(1500));
        let first = self.contents_alone(0, ALONE, extents, 12);
        assert!(first == self.contents_alone(1, ALONE, extents, 12), "the copies are one");
    }
}
