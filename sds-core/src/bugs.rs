//! Seeded bugs: one rule switched off at a time, to show that the simulator's checks notice.
//!
//! Only with the feature `seeded-bugs`, which nothing that is built for use turns on: without it [`is`] is `false` at compile time,
//! and no code of a bug is left. A bug is a condition at the one place where its rule is kept, never a second code path. Which check
//! notices it, and within how many seeds, is stated in the simulator (`tests/src/canary.rs`).

/// Makes the list: each bug, its name on the command line, and what it does.
macro_rules! bugs {
    ($($(#[$attribute:meta])* $bug:ident = $name:literal,)+) => {
        /// A rule that is not kept.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Bug {
            $($(#[$attribute])* $bug,)+
        }

        impl Bug {
            /// All of them, by area.
            pub const ALL: &[Self] = &[$(Self::$bug,)+];

            /// Its name on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$bug => $name,)+
                }
            }
        }
    };
}

bugs! {
    // The store.
    /// A read delivers bytes that do not match their recorded checksum, with the checksum of what was found.
    ChecksumNotVerified = "checksum-not-verified",
    /// Blocks without data are delivered as the medium has them: with a former owner's bytes, for one.
    NoDataNotZeroed = "no-data-not-zeroed",
    /// A write that activates its extent sends its data before the `activated` record is on the device.
    ActivationNotAwaited = "activation-not-awaited",
    /// An `activated` record may still be in the cache when the data that relies on it is written.
    ActivationNotDurable = "activation-not-durable",
    /// A write is answered when its data is written, its record or not.
    RecordNotAwaited = "record-not-awaited",
    /// An extent is sealed without the flush that covers its last write.
    SealedBeforeFlush = "sealed-before-flush",
    /// An extent is sealed though it was written after it was chosen.
    SealedWhileWritten = "sealed-while-written",
    /// A trim frees its extent though other blocks of it hold data.
    TrimFreesTooMuch = "trim-frees-too-much",
    /// The store holds no use of a buffer while the disk works on it.
    BufferNotHeld = "buffer-not-held",
    /// A write or read that failed is taken for one that was done.
    WriteErrorIgnored = "write-error-ignored",
    /// A flush that failed is taken for one that was done.
    FlushErrorIgnored = "flush-error-ignored",
    /// A write that ended early is taken for one that was done.
    ShortWriteTakenAsDone = "short-write-taken-as-done",
    /// A flush is answered, and the device is not flushed.
    FlushNotSent = "flush-not-sent",
    /// Superblocks are written before the index that they name is durable.
    CheckpointBeforeItsIndex = "checkpoint-before-its-index",
    /// Log space is used again before the superblocks of the checkpoint that contains it are durable.
    LogReclaimedBeforeCheckpoint = "log-reclaimed-before-checkpoint",
    /// A descriptor page is written over the home that the index names.
    DescriptorHomeKept = "descriptor-home-kept",
    /// The index is written over the home that the superblock names.
    IndexHomeKept = "index-home-kept",
    /// The index of a checkpoint does not say that an active extent is unsettled.
    CheckpointForgetsActive = "checkpoint-forgets-active",
    /// Recovery takes unsettled extents for sealed ones.
    UnsettledTakenAsSealed = "unsettled-taken-as-sealed",
    /// Recovery takes the newest log block for a torn one.
    NewestLogBlockDropped = "newest-log-block-dropped",
    /// Recovery does not look beyond the first gap of the log.
    RecoveryStopsAtGap = "recovery-stops-at-gap",
    /// Recovery forgets that a zero makes what was written before it irrelevant.
    ZeroNotReplayed = "zero-not-replayed",
    /// Recovery forgets reserved sequences.
    CeilingNotReplayed = "ceiling-not-replayed",

    // The data server and its requests.
    /// A durable write is answered from the cache.
    DurableWriteNotDurable = "durable-write-not-durable",
    /// A payload is not held against its checksums when it arrives at the server.
    PayloadNotVerifiedByServer = "payload-not-verified-by-server",
    /// The rest of a block of which a part is written becomes zero.
    FragmentNotMerged = "fragment-not-merged",
    /// A read goes on beside a write of the same blocks.
    ReadDuringWrite = "read-during-write",
    /// A write goes on beside another of the same blocks.
    WritesOverlap = "writes-overlap",
    /// The former connection of a party is not closed when it makes a newer one.
    FormerConnectionServed = "former-connection-served",
    /// A request of a session that is not in force is served.
    StaleSessionServed = "stale-session-served",

    // The client and its sessions.
    /// Bytes that do not match their checksums are given to the user.
    PayloadNotVerifiedByClient = "payload-not-verified-by-client",
    /// A completed write makes its shard not dirty.
    WriteNotAccountedFor = "write-not-accounted-for",
    /// A flush counts for what was written after it was sent.
    FlushCoversLaterWrites = "flush-covers-later-writes",
    /// A flush asks one device, and counts for all.
    FlushAsksOneDevice = "flush-asks-one-device",
    /// A flush succeeds for what a power cut has eaten.
    CacheLossIgnored = "cache-loss-ignored",
    /// Zeroes that end inside a stripe unit reach to its end.
    ZeroPastItsEnd = "zero-past-its-end",
    /// A piece may cross the end of a stripe unit.
    PieceCrossesStripeUnit = "piece-crosses-stripe-unit",
    /// 512-byte sectors are counted in 32 bits: 2 TiB is 0.
    SectorIn32Bits = "sector-in-32-bits",
    /// Blocks are counted in 32 bits: 16 TiB is 0.
    BlockIn32Bits = "block-in-32-bits",

    // The configuration.
    /// A volume has several exclusive sessions at once.
    SessionNotExclusive = "session-not-exclusive",
    /// The MDM does not note that a device has lost its cache.
    CacheLossNotRecorded = "cache-loss-not-recorded",

    // Two copies.
    /// A write is acknowledged before the second copy has answered.
    SecondCopyNotAwaited = "second-copy-not-awaited",
    /// What the second copy has refused is acknowledged, and the copy stays in sync.
    RefusalTakenForDone = "refusal-taken-for-done",
    /// A primary whose link to the second copy is gone acknowledges alone, before the MDM knows.
    AcknowledgedBeforeDegrade = "acknowledged-before-degrade",
    /// Acknowledgements do not wait for a joiner, not even for one that has been proposed.
    JoinerNotAwaited = "joiner-not-awaited",
    /// A primary of two answers reads without a lease.
    LeaseNotNeeded = "lease-not-needed",
    /// A lease that was granted once lasts.
    LeaseNeverExpires = "lease-never-expires",
    /// A promoted copy answers reads while its predecessor may still hold a lease.
    GraceNotWaitedOut = "grace-not-waited-out",
    /// Who restarts during the grace serves at once.
    RestartForgetsGrants = "restart-forgets-grants",
    /// A primary lets others at a write's blocks when its own copy has it, before the other one does.
    LockEndsWithOwnCopy = "lock-ends-with-own-copy",
    /// A flush is not sent to second copies.
    FlushStaysHere = "flush-stays-here",
    /// A flush succeeds for writes that have gone with every copy's cache.
    FlushLossIgnored = "flush-loss-ignored",
    /// A secondary says that it has zeroes that it has not.
    ZeroNotReplicated = "zero-not-replicated",
    /// A secondary says that it has trimmed what it has not.
    TrimNotReplicated = "trim-not-replicated",
    /// Roles are swapped while writes are under way.
    SwapNotDrained = "swap-not-drained",
    /// A primary serves on when it has asked for roles to be swapped.
    ServedAfterSwapProposed = "served-after-swap-proposed",

    // Settle and resync.
    /// When both copies have restarted, each keeps what it has.
    SettleSkipped = "settle-skipped",
    /// A joiner is given what is newer and nothing else, whatever its unsettled extents hold.
    JoinerNotSettled = "joiner-not-settled",
    /// A joiner keeps blocks that are newer than those of the copy in sync.
    UnforwardedWriteKept = "unforwarded-write-kept",
    /// A joiner keeps the extents that were freed while it was away.
    TrimWhileAwayForgotten = "trim-while-away-forgotten",
    /// A lost copy is named with the last write that was numbered, not with the last that is complete on it.
    LapsedAtLastSent = "lapsed-at-last-sent",
    /// A joiner is not given what was written while the lists were made.
    WrittenWhileListedForgotten = "written-while-listed-forgotten",
    /// A joiner gets no writes to extents that it has been given.
    JoinerNotWritten = "joiner-not-written",
    /// An extent is compared and copied while it is being written.
    VisitWithoutLock = "visit-without-lock",
    /// A joiner is proposed before it has flushed what it was given.
    JoinerNotFlushed = "joiner-not-flushed",
    /// A resync that was given up counts as complete.
    InterruptedResyncCounts = "interrupted-resync-counts",

    // Who is in sync.
    /// The MDM commits proposals whatever epoch they start from.
    ProposalOfOtherEpoch = "proposal-of-other-epoch",
    /// The MDM takes a volatile cache for kept, whatever host its device comes back on.
    CacheLossNotSeen = "cache-loss-not-seen",
    /// An epoch that began with a lost cache is served.
    ServedWhileSettling = "served-while-settling",
    /// Copies are placed on different servers, not in different fault sets.
    OneFaultSet = "one-fault-set",
    /// A server that leads no shard does not take in who has which session.
    SessionsOfSecondaryOld = "sessions-of-secondary-old",
}

impl Bug {
    /// Whether its rule is about two copies: with one copy of each block there is nothing to notice.
    #[must_use]
    pub const fn is_of_two_copies(self) -> bool {
        Self::SecondCopyNotAwaited as u8 <= self as u8 && self as u8 <= Self::SessionsOfSecondaryOld as u8
    }
}

/// Whether bugs can be seeded in this build.
pub const AVAILABLE: bool = cfg!(feature = "seeded-bugs");

#[cfg(feature = "seeded-bugs")]
mod seeded {
    use super::Bug;
    use core::sync::atomic::{AtomicU8, Ordering};

    /// One more than the bug's number; 0 for none. One simulated world runs at a time in a process.
    static SEEDED: AtomicU8 = AtomicU8::new(0);

    /// Seeds a bug from here on, or none.
    pub fn seed(bug: Option<Bug>) {
        SEEDED.store(bug.map_or(0, |bug| bug as u8 + 1), Ordering::Relaxed);
    }

    pub(crate) fn is(bug: Bug) -> bool {
        SEEDED.load(Ordering::Relaxed) == bug as u8 + 1
    }
}

#[cfg(feature = "seeded-bugs")]
pub(crate) use seeded::is;
#[cfg(feature = "seeded-bugs")]
pub use seeded::seed;

/// Whether this rule is switched off.
#[cfg(not(feature = "seeded-bugs"))]
#[inline(always)]
pub(crate) const fn is(_bug: Bug) -> bool {
    false
}
