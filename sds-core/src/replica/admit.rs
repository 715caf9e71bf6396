//! Whether a request is let in: sessions, ranges, shards, epochs, in this order.
//!
//! Invariants: nothing lower than what is applied here is ever served (I3); nothing higher is guessed
//! at: it waits for the view that explains it. A request is refused for good (`Fenced`, `NoVolume`)
//! only on knowledge at least as new as its sender's.
//!
//! Must not know: how requests wait or are carried out.

use super::interface::DeviceSlot;
use super::request::{Kind, Route};
use super::view::pair::JoinStage;
use super::view::{Standing, View};
use crate::bugs::{self, Bug};
use crate::error::Status;
use crate::id::{ClientId, DeviceId, LayerId, MapVersion, PoolId, ShardId, VolumeId};
use crate::shard::shard_of;
use crate::store::interface::{BlockRange, ExtentKey};
use crate::stripe::Place;
use crate::unit::{BLOCK_BYTES, BlockIndex, EXTENT_BYTES};
use crate::view::{SessionMode, VolumeView};
use crate::wire::{CacheId, CacheIds, Header};

/// What the check of a request comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Carry it out.
    Serve(Route),
    /// Answer it.
    Refuse(Status),
    /// A newer state must come; when it does not in time, answer `late`.
    Park {
        /// Version to ask the MDM for; `None` when what is missing comes by itself.
        pull: Option<MapVersion>,
        late: Status,
    },
}

/// What a device of ours is up to, for the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Serving {
    /// It is being opened or settled.
    NotYet,
    /// It serves.
    Yes {
        /// What its acknowledgements rely on.
        cache: CacheId,
    },
    /// A disk request of it does not end: only what has no other copy waits for it.
    Hung {
        /// What its acknowledgements rely on.
        cache: CacheId,
    },
    /// It has failed, for the rest of this process life.
    Failed,
    /// It is closed, or about to be: the server stops.
    Stopping,
}

/// What the check needs to know of our devices.
pub(super) trait DeviceTable {
    /// The slot of a device of ours.
    fn slot_of(&self, device: DeviceId) -> Option<DeviceSlot>;
    /// What it is up to.
    fn serving(&self, slot: DeviceSlot) -> Serving;
}

/// Checks a request of `client`. The frame's shape ([`crate::wire::Frame::check`]) was checked before.
pub(super) fn check(
    kind: Kind,
    header: &Header,
    cache_ids: &CacheIds,
    client: ClientId,
    view: &View,
    devices: &impl DeviceTable,
) -> Verdict {
    let volume = match check_session(kind, header, client, view) {
        Ok(volume) => volume,
        Err(verdict) => return verdict,
    };
    match kind {
        Kind::Flush => check_flush(header, cache_ids, volume, view, devices),
        Kind::Read | Kind::Write | Kind::Fragment | Kind::Zero | Kind::BlockStatus => check_place(header, volume, view, devices),
        Kind::Replicate | Kind::ReplicateZero | Kind::ReplicateFlush => unreachable!("a peer's requests have a check of their own"),
        Kind::Extents | Kind::Blocks | Kind::Medium | Kind::Copy | Kind::Settle | Kind::FreeExtent => {
            unreachable!("a peer's requests have a check of their own")
        }
    }
}

fn check_session<'v>(kind: Kind, header: &Header, client: ClientId, view: &'v View) -> Result<&'v VolumeView, Verdict> {
    let sender_is_ahead = header.map_version > view.version();
    let wait = |late| Verdict::Park { pull: Some(seen_by_now(header, view)), late };
    let Some(volume) = view.volume(header.volume) else {
        let may_come = header.volume != VolumeId::default() && (sender_is_ahead || view.version() == MapVersion::default());
        return Err(if may_come { wait(Status::NotReady) } else { Verdict::Refuse(Status::NoVolume) });
    };
    let session = volume
        .sessions
        .iter()
        .find(|session| session.client == client && session.generation == header.generation || bugs::is(Bug::StaleSessionServed));
    let Some(session) = session else {
        let highest = volume.sessions.iter().map(|session| session.generation).max().unwrap_or_default();
        // I3: below what is applied is fenced; above it is from a view that has not come.
        return Err(if sender_is_ahead {
            wait(Status::NotReady)
        } else if header.generation > highest {
            wait(Status::Fenced)
        } else {
            Verdict::Refuse(Status::Fenced)
        });
    };
    match session.mode {
        SessionMode::ReadOnly if kind.changes() => Err(Verdict::Refuse(Status::ReadOnly)),
        SessionMode::ReadOnly | SessionMode::Exclusive | SessionMode::Shared => Ok(volume),
    }
}

fn check_place(header: &Header, volume: &VolumeView, view: &View, devices: &impl DeviceTable) -> Verdict {
    let sender_is_ahead = header.map_version > view.version();
    // There are no snapshots yet: another layer would be space that no volume accounts for.
    if header.layer != LayerId::default() {
        return Verdict::Refuse(Status::Invalid);
    }
    let last = Place { extent: header.extent, offset: header.offset + (header.length - 1) };
    // Inside one extent a later byte is a later volume byte, so the last one decides.
    if volume.stripe.volume_offset(last).get() >= volume.size.get() {
        return Verdict::Refuse(Status::PastEnd);
    }
    let shards = view.shard_count(volume.pool);
    if shards == 0 {
        return Verdict::Park { pull: sender_is_ahead.then_some(header.map_version), late: Status::NotReady };
    }
    let shard = shard_of(volume.tree, header.extent, shards);
    if shard != header.shard {
        return Verdict::Refuse(Status::Invalid);
    }
    let (epoch, slot) = match check_shard(header, volume.pool, view, devices) {
        Ok((epoch, slot, _)) => (epoch, slot),
        Err(verdict) => return verdict,
    };
    let key = ExtentKey { tree: volume.tree, extent: header.extent, layer: header.layer };
    Verdict::Serve(Route { slot, key, range: blocks_around(header.offset, header.length), pool: volume.pool, shard, epoch })
}

/// Whether the shard that a request names is served here, at the epoch it names.
fn check_shard(
    header: &Header,
    pool: PoolId,
    view: &View,
    devices: &impl DeviceTable,
) -> Result<(crate::id::Epoch, DeviceSlot, CacheId), Verdict> {
    let wait = Verdict::Park { pull: None, late: Status::NotReady };
    let (epoch, slot) = match view.standing(pool, header.shard, |device| devices.slot_of(device).is_some()) {
        Standing::Unknown => return Err(Verdict::Refuse(Status::Invalid)),
        Standing::Elsewhere { epoch } | Standing::Former { epoch, .. } if header.epoch < epoch => {
            return Err(Verdict::Refuse(Status::MapStale));
        }
        // A device that is still being opened, or whose superblock cannot be read, is not known by its
        // id: the sender may well be right.
        Standing::Elsewhere { epoch } if header.epoch == epoch => return Err(wait),
        Standing::Elsewhere { .. } => {
            return Err(Verdict::Park { pull: Some(seen_by_now(header, view)), late: Status::NotReady });
        }
        Standing::Former { epoch, device } if header.epoch == epoch && is_failed(device, devices) => {
            // It will not serve in this life, so no newer configuration comes from it.
            return Err(Verdict::Refuse(Status::DeviceFailed));
        }
        Standing::Former { .. } => return Err(wait),
        Standing::Here { epoch, slot } => (epoch, slot),
    };
    if header.epoch < epoch {
        return Err(Verdict::Refuse(Status::MapStale));
    }
    if header.epoch > epoch {
        return Err(Verdict::Park { pull: Some(seen_by_now(header, view)), late: Status::NotReady });
    }
    match devices.serving(slot) {
        Serving::NotYet => Err(wait),
        // The other copy goes on: the view that says so is on its way.
        Serving::Failed | Serving::Hung { .. } if has_another_copy(pool, header.shard, view) => Err(wait),
        Serving::Failed => Err(Verdict::Refuse(Status::DeviceFailed)),
        Serving::Stopping => Err(Verdict::Refuse(Status::Stopping)),
        Serving::Yes { cache } | Serving::Hung { cache } => Ok((epoch, slot, cache)),
    }
}

/// Whether a flush was asked of the devices that the newest map says: whoever asked by an older one may have asked the wrong.
pub(super) fn is_of_this_map(header: &Header, pool: PoolId, view: &View) -> bool {
    header.map_version >= view.changed(pool)
}

fn check_flush(header: &Header, relied_on: &CacheIds, volume: &VolumeView, view: &View, devices: &impl DeviceTable) -> Verdict {
    if header.map_version > view.version() {
        return Verdict::Park { pull: Some(header.map_version), late: Status::NotReady };
    }
    if !is_of_this_map(header, volume.pool, view) {
        return Verdict::Refuse(Status::MapStale);
    }
    let (epoch, slot, cache) = match check_shard(header, volume.pool, view, devices) {
        Ok(here) => here,
        Err(verdict) => return verdict,
    };
    if devices.slot_of(header.device) != Some(slot) {
        return Verdict::Refuse(Status::Invalid);
    }
    let relied_on = relied_on.as_slice();
    if !relied_on.is_empty() && !relied_on.contains(&cache) {
        return Verdict::Refuse(Status::FlushLost);
    }
    let range = BlockRange { first: BlockIndex::ZERO, count: 1 };
    Verdict::Serve(Route { slot, key: ExtentKey::default(), range, pool: volume.pool, shard: header.shard, epoch })
}

/// Whether a shard has more than one copy in sync, or may have: a joiner that was proposed may have been taken in, and be serving without us.
pub(super) fn has_another_copy(pool: PoolId, shard: ShardId, view: &View) -> bool {
    view.entry(pool, shard).is_some_and(|entry| entry.in_sync.members().len() > 1)
        || view.pair(pool, shard).is_some_and(|pair| pair.joiner == Some(JoinStage::Proposed))
}

/// Whether a device is ours and has failed.
fn is_failed(device: DeviceId, devices: &impl DeviceTable) -> bool {
    devices.slot_of(device).is_some_and(|slot| devices.serving(slot) == Serving::Failed)
}

/// The newest version that is known to exist: to ask for more would say that the MDM went back in time.
fn seen_by_now(header: &Header, view: &View) -> MapVersion {
    header.map_version.max(view.version())
}

/// The whole blocks that a range of an extent touches.
pub(super) fn blocks_around(offset: u32, length: u32) -> BlockRange {
    assert!(length > 0 && offset.checked_add(length).is_some_and(|end| end <= EXTENT_BYTES), "the frame's shape was checked");
    let (first, last) = (offset / BLOCK_BYTES, (offset + length - 1) / BLOCK_BYTES);
    #[expect(clippy::cast_possible_truncation, reason = "an extent has 256 blocks")]
    BlockRange { first: BlockIndex::new(first as u8), count: (last - first + 1) as u16 }
}
