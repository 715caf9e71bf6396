//! The lists of both copies' extents, and what of them has to be looked at.
//!
//! Looked at is: what either copy holds unsettled; what only one of them holds (a trim may have freed it, or the deletion of its volume, and a freed
//! extent leaves no evidence); for a joiner also what is newer than the last sequence known complete on it, or may be, and
//! what was written to while the lists were made.
//!
//! Must not know: blocks.

use super::ask::Owner;
use super::{Need, PAUSE_LONG, Replica, Seen, Step};
use crate::buffer::{Buffers, Span};
use crate::bugs::{self, Bug};
use crate::collections::{OpId, Set};
use crate::exchange::{EXTENT_ENTRY_BYTES, ExtentEntry};
use crate::id::{PoolId, ShardId, ShardSequence, TreeId};
use crate::replica::Turn;
use crate::shard::shard_of;
use crate::store::interface as store;
use crate::store::interface::ExtentKey;
use crate::wire::{Header, Opcode};

/// Entries of one answer; a store looks at no more slots for one.
pub(super) const ENTRIES_MAX: u32 = 4096;
/// Bytes of them.
pub(in crate::replica) const LIST_BYTES: u32 = ENTRIES_MAX * EXTENT_ENTRY_BYTES;

const _: () = assert!(LIST_BYTES <= crate::limits::FRAME_PAYLOAD_BYTES_MAX, "a list fits a frame");

/// What a copy says of an extent that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) unsettled: bool,
    /// Newest version, if the store knows it without looking.
    newest: Option<ShardSequence>,
}

impl Replica {
    pub(super) fn list_other(&mut self, id: OpId, from: u64, turn: &mut Turn<'_, impl Buffers>) {
        let Some(sweep) = self.resync.sweeps.get(id) else { return };
        let Some((other, peer)) = sweep.other else { return };
        let shard = sweep.shards.keys().next().copied().unwrap_or_default();
        let header = Header { device: other.device, shard, sequence: ShardSequence::new(from), ..Header::new(Opcode::Extents) };
        let asked = self.ask_other(Owner::Sweep(id), peer, header, None, turn);
        self.note_asking(id, asked, turn);
    }

    pub(super) fn list_own(&mut self, id: OpId, from: u32, turn: &mut Turn<'_, impl Buffers>) {
        let Some(slot) = self.resync.sweeps.get(id).map(|sweep| sweep.slot) else { return };
        let asked = self.ask_own(Owner::Sweep(id), slot, LIST_BYTES, |span| store::Request::Extents { from, span }, turn);
        self.note_asking(id, asked, turn);
    }

    fn note_asking(&mut self, id: OpId, asked: bool, turn: &mut Turn<'_, impl Buffers>) {
        if let Some(sweep) = self.resync.sweeps.get_mut(id) {
            sweep.asking = asked;
        }
        if !asked {
            self.resync.retry_by(turn.now.plus(super::RETRY));
        }
    }

    /// A part of the other's list has come.
    pub(super) fn take_other_list(&mut self, id: OpId, header: &Header, span: Option<Span>, turn: &mut Turn<'_, impl Buffers>) {
        let taken = self.take_list(id, span, false, turn);
        let Some(sweep) = self.resync.sweeps.get_mut(id) else { return };
        sweep.asking = false;
        let Step::ListOther { from } = sweep.step else { return };
        sweep.step = match header.sequence.get() {
            0 => Step::ListOwn { from: 0 },
            next if next > from => Step::ListOther { from: next },
            _ => return self.give_up(id, PAUSE_LONG, turn),
        };
        if !taken {
            return self.give_up(id, PAUSE_LONG, turn);
        }
        self.go_on(id, turn);
    }

    /// A part of our own list is there.
    pub(super) fn take_own_list(&mut self, id: OpId, count: u32, next: Option<u32>, span: Span, turn: &mut Turn<'_, impl Buffers>) {
        let taken = self.take_list(id, (count > 0).then(|| span.part(0, count * EXTENT_ENTRY_BYTES)), true, turn);
        assert!(taken, "our own store writes entries");
        let Some(sweep) = self.resync.sweeps.get_mut(id) else { return };
        sweep.asking = false;
        match next {
            Some(from) => sweep.step = Step::ListOwn { from },
            None => self.find_work(id),
        }
        self.go_on(id, turn);
    }

    fn take_list(&mut self, id: OpId, span: Option<Span>, own: bool, turn: &Turn<'_, impl Buffers>) -> bool {
        let (Some(span), Some(sweep)) = (span, self.resync.sweeps.get_mut(id)) else { return true };
        let shards = self.view.shard_count(sweep.pool);
        let trees = self.view.trees_of(sweep.pool);
        for bytes in turn.buffers.bytes(span).chunks(EXTENT_ENTRY_BYTES as usize) {
            let Ok(entry) = ExtentEntry::decode(bytes) else { return false };
            if !sweep.shards.contains_key(&shard_of(entry.key.tree, entry.key.extent, shards)) {
                continue;
            }
            // Of a deleted volume. What is here is being freed; what a joiner has may be of a volume that was deleted, and forgotten, while it
            // was away. Nothing is of a volume that is not known here yet: what a copy got was of one older than its falling out.
            if !trees.contains(&entry.key.tree) && (own || sweep.need != Need::Join) {
                sweep.seen.remove(&entry.key);
                continue;
            }
            let held = Held { unsettled: entry.unsettled || entry.damaged, newest: entry.newest };
            let seen = sweep.seen.entry(entry.key).or_default();
            *(if own { &mut seen.own } else { &mut seen.other }) = Some(held);
        }
        true
    }

    /// Both lists are there.
    fn find_work(&mut self, id: OpId) {
        let Some(sweep) = self.resync.sweeps.get_mut(id) else { return };
        let (view, pool) = (&self.view, sweep.pool);
        let shards = view.shard_count(pool);
        let complete_of =
            |key: &ExtentKey| complete(view, pool, shard_of(key.tree, key.extent, shards), sweep.other.map(|(m, _)| m.device));
        let unsettled = |held: Option<Held>| held.is_some_and(|held| held.unsettled);
        let mut work: Vec<(ExtentKey, Seen)> = sweep
            .seen
            .drain()
            .filter(|(key, seen)| {
                let either = unsettled(seen.own) || unsettled(seen.other);
                let one_sided = seen.own.is_some() != seen.other.is_some();
                match sweep.need {
                    Need::Alone => unsettled(seen.own),
                    Need::Pair => either || one_sided,
                    Need::Repair => unreachable!("it lists nothing"),
                    Need::Join => {
                        let newer = seen.own.is_some_and(|own| own.newest.is_none_or(|newest| newest > complete_of(key)));
                        either || one_sided || newer
                    }
                }
            })
            .collect();
        let listed: Set<ExtentKey> = work.iter().map(|(key, _)| *key).collect();
        // Looked at whatever the lists say: they were made before.
        work.extend(
            sweep
                .touched
                .drain()
                .filter(|key| !listed.contains(key) && !bugs::is(Bug::WrittenWhileListedForgotten))
                .map(|key| (key, Seen::default())),
        );
        // What a joiner has and we have not makes room for the rest.
        work.sort_unstable_by_key(|(key, seen)| (sweep.need == Need::Join && seen.own.is_some(), *key));
        sweep.pending = work.iter().map(|(key, _)| *key).collect();
        sweep.work = work.into();
        sweep.step = Step::Visiting;
    }
}

/// Last sequence known complete on a device that joins.
pub(super) fn complete(
    view: &crate::replica::view::View,
    pool: PoolId,
    shard: ShardId,
    joiner: Option<crate::id::DeviceId>,
) -> ShardSequence {
    let lapsed = view.entry(pool, shard).and_then(|entry| entry.lapsed);
    lapsed.filter(|lapsed| Some(lapsed.device) == joiner).map(|lapsed| lapsed.complete).unwrap_or_default()
}

impl crate::replica::view::View {
    /// Trees of a pool's volumes.
    fn trees_of(&self, pool: PoolId) -> Set<TreeId> {
        self.volumes().filter(|volume| volume.pool == pool).map(|volume| volume.tree).collect()
    }
}
