//! The judge: which contents of the block the clients' history allows (linearizability, FLUSH, fencing).
//!
//! It keeps every *world* that explains the history so far: the block's content, what a power cut may bring back, and which pending
//! operations have taken effect. A response removes the worlds that contradict it; none left is a violation. The set is exact: it
//! is the standard on-the-fly linearizability check, made small by written values being distinct. It knows
//! nothing of servers or messages.

/// Content of the block; 0 is what it held at first.
pub type Value = u8;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// Write this value; no two writes of a scenario have the same.
    Write(Value),
    /// Read the block.
    Read,
    /// Make durable what was acknowledged.
    Flush,
}

/// What it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// A write or flush succeeded.
    Done,
    /// A read returned this.
    Read(Value),
    /// A flush failed: acknowledged writes may be gone.
    Eio,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Slot {
    Idle,
    Pending,
    Took(Outcome),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct World {
    value: Value,
    /// Bit v: a loss of all caches may leave v.
    may_return: u8,
    /// An acknowledged, unflushed write was lost since the last flush.
    regressed: bool,
    slots: [Slot; 2],
}

/// All worlds that explain the history.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Monitor {
    ops: [Option<Op>; 2],
    worlds: Vec<World>,
}

impl Default for Monitor {
    fn default() -> Self {
        Self { ops: [None; 2], worlds: vec![World { value: 0, may_return: 1, regressed: false, slots: [Slot::Idle; 2] }] }
    }
}

impl Monitor {
    /// Whether some world explains the history.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.worlds.is_empty()
    }

    /// A client's operation begins.
    pub fn invoke(&mut self, client: usize, op: Op) {
        self.ops[client] = Some(op);
        for world in &mut self.worlds {
            world.slots[client] = Slot::Pending;
        }
        self.close();
    }

    /// A client's operation ends.
    pub fn respond(&mut self, client: usize, outcome: Outcome) {
        self.worlds.retain(|world| world.slots[client] == Slot::Took(outcome));
        self.retire(client);
    }

    /// What this client began and has not taken effect by now never may: its session was fenced.
    pub fn fence(&mut self, client: usize) {
        self.retire(client);
    }

    /// Every copy that counted lost its volatile cache.
    pub fn lose_caches(&mut self) {
        let mut worlds = Vec::new();
        for world in &self.worlds {
            for value in (0..8).filter(|value| world.may_return & (1 << value) != 0) {
                worlds.push(World { value, regressed: world.regressed || value != world.value, ..*world });
            }
        }
        self.worlds = worlds;
        self.close();
    }

    fn retire(&mut self, client: usize) {
        self.ops[client] = None;
        for world in &mut self.worlds {
            world.slots[client] = Slot::Idle;
        }
        self.close();
    }

    /// Adds every world in which pending operations took effect by now.
    fn close(&mut self) {
        let mut at = 0;
        while at < self.worlds.len() {
            let world = self.worlds[at];
            for client in 0..2 {
                let (Slot::Pending, Some(op)) = (world.slots[client], self.ops[client]) else { continue };
                let mut took = |outcome, change: &dyn Fn(&mut World)| {
                    let mut next = world;
                    next.slots[client] = Slot::Took(outcome);
                    change(&mut next);
                    if !self.worlds.contains(&next) {
                        self.worlds.push(next);
                    }
                };
                match op {
                    Op::Write(value) => took(Outcome::Done, &|next| {
                        next.value = value;
                        next.may_return |= 1 << value;
                        next.regressed = false;
                    }),
                    Op::Read => took(Outcome::Read(world.value), &|_| {}),
                    Op::Flush => {
                        if !world.regressed {
                            took(Outcome::Done, &|next| next.may_return = 1 << next.value);
                        }
                        took(Outcome::Eio, &|next| next.regressed = false);
                    }
                }
            }
            at += 1;
        }
        self.worlds.sort_unstable();
        self.worlds.dedup();
    }
}
