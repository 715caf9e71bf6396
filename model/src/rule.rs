//! The rules of the protocol as switches, each with the invariant it serves and what it says.
//!
//! A rule that can be switched off without any scenario noticing is either not modelled or not needed.

macro_rules! rules {
    ($($name:ident, $text:literal, $invariant:literal, $says:literal, $witness:literal, $story:literal;)*) => {
        /// A rule that can be switched off.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Rule {
            $(#[doc = $says] $name,)*
        }

        impl Rule {
            /// All of them, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The invariant it serves.
            #[must_use]
            pub const fn invariant(self) -> &'static str {
                match self { $(Self::$name => $invariant,)* }
            }

            /// What it says.
            #[must_use]
            pub const fn says(self) -> &'static str {
                match self { $(Self::$name => $says,)* }
            }

            /// The scenario that shows what happens without it.
            #[must_use]
            pub const fn witness(self) -> &'static str {
                match self { $(Self::$name => $witness,)* }
            }

            /// The shortest counterexample there, read by a person.
            #[must_use]
            pub const fn story(self) -> &'static str {
                match self { $(Self::$name => $story,)* }
            }
        }
    };
}

rules! {
    CompareAndSwap, "compare-and-swap", "I1", "The MDM commits a proposal only on the epoch it starts from.",
        "late-proposal", "A proposal of a joiner arrives late, when that joiner has restarted and joins anew: it becomes in sync with nothing copied.";
    AckEveryInSync, "ack-every-in-sync", "I2", "An acknowledgement waits for every in-sync copy.",
        "failover", "The primary acknowledges a write that the secondary, which may be promoted, does not have.";
    DegradeBeforeAck, "degrade-before-ack", "I4 I5", "With a copy lost, acknowledgements wait until the smaller set is learnt as committed.",
        "failover", "The primary acknowledges alone while its proposal is under way; the configuration still names the secondary, which lacks the write.";
    JoinerAckBeforeProposal, "joiner-ack", "I4", "From before a joiner is proposed, acknowledgements wait for it.",
        "joining", "The joiner is committed and the primary, which does not know, acknowledges a write that the joiner lacks.";
    JoinerLeaseBeforeProposal, "joiner-lease", "I4 I9", "From before a joiner is proposed, reads need its lease.",
        "joiner-leases", "The joiner is committed, goes on alone and takes a write; the old primary takes itself for the only copy and answers a read from before it.";
    FenceEpochPeer, "fence-epoch-peer", "I3", "A data server refuses a peer's frame of a lower epoch.",
        "return", "A late frame of the old primary reaches the new one, which applies it while the old one joins: the copies differ.";
    FenceEpochClient, "fence-epoch-client", "I3 I10", "A data server refuses a client's frame of a lower epoch.",
        "swap", "A client gave up on the first server and wrote twice elsewhere; back in its role, the first server takes the late first request, and the second write is gone.";
    FenceGeneration, "fence-generation", "I3", "A data server refuses a lower session generation.",
        "takeover", "The session is taken over; a write of the former holder, begun after that, lands.";
    FenceConnection, "fence-connection", "I3 I10", "A data server refuses a client's connection below the highest it has seen.",
        "retry", "A write is sent again over a new connection, acknowledged and followed by another; the first request, still on the old connection, lands over it.";
    PeerOrder, "peer-order", "I3 I10", "Frames of a former peer connection, and sequences already applied, are not applied.",
        "retry", "The primary sends a write again to its secondary after a reconnection and goes on to the next; the frame of the old connection is applied over it.";
    OpenWaits, "open-waits", "I3", "An open returns when the current primary enforces the new generation.",
        "takeover", "The open returns before the primary knows the new generation; a write of the former holder, begun after that, lands.";
    ServeAtMap, "serve-at-map", "I3", "An epoch is served only at a map version not older than the one that made it.",
        "takeover", "A secondary learns from a frame that it was promoted, and serves with the generations of its old map: a fenced client's write lands.";
    MemberIncarnation, "member-incarnation", "I6", "Membership is of (device, incarnation): who restarted is no member of that epoch.",
        "return", "The primary restarts within the epoch, takes itself for the member it was, and seals a write it never forwarded; it comes back with it.";
    ProposerLives, "proposer-lives", "I6", "A proposal counts only while the life in which it was made is the newest of its proposer.",
        "late-power", "A member asks to go on alone and loses its power; it is back, without what it had cached, when its proposal arrives and leaves out the copy that has it.";
    AloneWhenGone, "alone-when-gone", "I7", "The MDM lets a member that has restarted go on alone only when the other is gone.",
        "lone-start", "One copy loses its power and comes back; it goes on alone while the other, which has everything, is there.";
    PromoteInSync, "promote-in-sync", "I6 I7", "Only an in-sync member is promoted; the last in-sync copy is never dropped.",
        "joining", "A joiner that lacks the acknowledged write gets the only copy's place.";
    ShrinkSettled, "shrink-settled", "I6 I8", "Only a settled member may ask for a set without the other.",
        "mixed", "Both have restarted and owe settling; the one that lost its power goes on alone, and the other's acknowledged write is gone.";
    ReadLease, "read-lease", "I9", "A primary of two answers reads only under the other's lease.",
        "leases", "The secondary was promoted and took a write; the old primary, which does not know, answers a read from before it.";
    LeaseFromRequest, "lease-from-request", "I9", "A lease runs from the clock value of its request, not from the grant's arrival.",
        "leases", "A grant is late: counted from its arrival, the lease outlives the grace, and the old primary answers a stale read.";
    Grace, "grace", "I9", "A promoted copy waits out the grace from its last grant.",
        "leases", "The secondary grants a lease, is promoted and takes a write at once; the old primary, under its lease, answers a stale read.";
    GraceOfFormerLives, "grace-of-former-lives", "I9", "Who restarts waits out what its former life may have granted.",
        "lease-restart", "The secondary grants a lease, is promoted, dies and starts again; it has forgotten the grant, takes a write, and the old primary answers a stale read.";
    ReadWaits, "read-waits", "I9", "A read that overlaps an unresolved write waits for it.",
        "failover", "A read returns a write that is not on the secondary; the secondary is promoted, and the next read does not return it.";
    ReadHoldsRange, "read-holds-range", "I9", "A write waits for reads of its blocks that are at the disk.",
        "failover", "A write passes a read that is at the disk; the read returns it unresolved, the secondary is promoted, and the next read does not return it.";
    KeepOnPromotion, "keep-on-promotion", "I9", "A new primary keeps everything it has.",
        "failover", "The promoted secondary drops what it does not know to be resolved: an acknowledged write.";
    RangeLock, "range-lock", "I2", "Overlapping writes queue until the first is resolved on every copy.",
        "failover", "Two writes of one block are at the devices at once; one copy ends with the first and the other with the second.";
    SequenceCeiling, "sequence-ceiling", "I1", "An epoch's first sequence is above every one that was ever used.",
        "return", "The old primary used a sequence for a write that nobody else got; the new one uses it again, and the returned copy takes that write for one it has.";
    LapsedComplete, "lapsed-complete", "I8", "A lapsed copy is named with the last sequence known complete on it, not the last sent.",
        "return", "The lost secondary is named complete up to a write that was only sent to it; when it returns, the block is not copied.";
    SealResolved, "seal-resolved", "I8", "An extent is not sealed while a write to it is unresolved on the other copy.",
        "return", "The primary seals a write that never reached the secondary, fails, and comes back: the exchange leaves the extent out, and the copies differ.";
    SettleBoth, "settle-both", "I8", "When both members restarted, they settle before the first read.",
        "both-restart", "Both processes die with a write half done on one copy; each goes on with what it has, and the copies differ.";
    SettleJoiner, "settle-joiner", "I8", "A joiner is given what settling finds, besides what is newer.",
        "return", "The old primary comes back with a write that it never forwarded; no block is newer than what is complete on it, so nothing is copied, and the copies differ.";
    SoleHeld, "sole-held", "I8", "What a sole copy settled alone stays in the settle exchange until the absent copy is back.",
        "sole-power", "The remaining copy loses an unflushed write with its power; the absent one, which has sealed it, comes back, nothing is copied, and the copies differ.";
    SurvivorSettles, "survivor-settles", "I8", "A copy whose cache survived settles alone when the other's did not.",
        "mixed", "One copy loses its power, the other only its process, in the middle of an overwrite: the first one's old record wins over bytes of no record, and an acknowledged write is gone.";
    JoinerComplete, "joiner-complete", "I8", "A joiner is proposed only when nothing is missing on it.",
        "joining", "A joiner is proposed with a write on its way to it.";
    JoinerWrites, "joiner-writes", "I4 I8", "A joiner receives all new writes.",
        "joining", "A write made while the replica joins is not sent to it; it becomes in sync without it.";
    JoinerFlush, "joiner-flush", "I4", "A joiner flushes before it is proposed.",
        "joined-power", "A flushed write is in the joiner's cache only; the joiner takes over and loses its power.";
    CopyLock, "copy-lock", "I8", "A block that is being copied to a joiner holds its range lock.",
        "joining", "A write is made while the block is copied; the copy arrives after it, and the joiner ends with the old content.";
    FlushSecondary, "flush-secondary", "I2", "FLUSH goes to every in-sync copy.",
        "power", "FLUSH reached the primary only; the secondary takes over and loses its power, and the flushed write.";
    FlushEio, "flush-eio", "I2", "FLUSH fails once when writes it covers may have gone with every copy's cache.",
        "flush", "An acknowledged write is lost with the power of the only copy; the FLUSH after it says that it is durable.";
    Amnesia, "amnesia", "I13", "A device that has forgotten flushed writes is not in sync, and complete up to nothing.",
        "amnesia", "The only copy forgets what it had flushed, and serves as if it had never been written.";
    DrainSwap, "drain-swap", "I8", "Roles are swapped after draining and stopping.",
        "swap", "The roles change while a write is on one copy only: the copies differ.";
}
