//! Fencing at the receiver (I3, I10): what to do with a frame by the numbers it carries.
//!
//! Every frame is held against what the receiver knows, in this order: incarnation, connection, epoch,
//! session generation. Refusing changes nothing and names what the receiver has.

use crate::id::{ConnectionNumber, Epoch, Incarnation, MapVersion, SessionGeneration};
use core::cmp::Ordering;

/// A frame's epoch against the receiver's, for frames of clients and peers alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochFence {
    /// The same configuration: go on.
    Same,
    /// Refuse it and answer with the newer configuration. Also for a client's frame: one that waited somewhere while
    /// the shard's primary changed and changed back would otherwise land after its own retry (I10).
    Older,
    /// Stop the shard (no acknowledgement, no read), take the newer configuration, look at the frame again.
    Newer,
}

/// Judges a frame's epoch.
#[must_use]
pub fn epoch(own: Epoch, frame: Epoch) -> EpochFence {
    match frame.cmp(&own) {
        Ordering::Less => EpochFence::Older,
        Ordering::Equal => EpochFence::Same,
        Ordering::Greater => EpochFence::Newer,
    }
}

/// A frame's connection number against the highest seen from that party.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionFence {
    /// The connection in force: go on.
    Same,
    /// From a connection that was closed: discard it, bytes and all.
    Older,
    /// Close the older one, discard its unread bytes, resolve what it had accepted; then serve this one's first request.
    Newer,
}

/// Judges a connection number.
#[must_use]
pub fn connection(own: ConnectionNumber, frame: ConnectionNumber) -> ConnectionFence {
    match frame.cmp(&own) {
        Ordering::Less => ConnectionFence::Older,
        Ordering::Equal => ConnectionFence::Same,
        Ordering::Greater => ConnectionFence::Newer,
    }
}

/// A frame's session generation against that of the volume's session in the receiver's map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerationFence {
    /// The session in force: go on.
    Same,
    /// Another session took over: refuse.
    Fenced,
    /// The receiver's map is old: pull it, then look again.
    MapTooOld,
}

/// Judges a session generation.
#[must_use]
pub fn generation(own: SessionGeneration, frame: SessionGeneration) -> GenerationFence {
    match frame.cmp(&own) {
        Ordering::Less => GenerationFence::Fenced,
        Ordering::Equal => GenerationFence::Same,
        Ordering::Greater => GenerationFence::MapTooOld,
    }
}

/// Whether a frame sent to process life `addressed` is for the life that received it. A connection names both
/// lives in its first frame, so this is checked once for each.
#[must_use]
pub fn is_for_this_life(own: Incarnation, addressed: Incarnation) -> bool {
    own == addressed
}

/// Whether an epoch may be served (I3): only at a map not older than the one that made it. A peer's frame may bring
/// the configuration, but not the session generations that were in force when it was made.
#[must_use]
pub fn may_serve_epoch(map: MapVersion, made_at: MapVersion) -> bool {
    map >= made_at
}
