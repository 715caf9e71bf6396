//! What a crash at a point of a history leaves on a device, with and without one storage fault: every subset of what
//! was not flushed, or had not completed, each looked at by the store that finds it.
//!
//! Images that differ in nothing that the other copy, a reader or the MDM can learn are one class, of which the first stands for
//! all. A fault that makes no such difference leaves its image in the class of those without one.
//!
//! What this must not know: which classes can meet, what is promised then.

use crate::copies::Copy;
use crate::faults::{self, Fault, KINDS, Kind, REGIONS, Region};
use crate::histories::{Moment, Node, Op, explore};
use crate::negative::Broken;
use crate::store_rig::*;
use sds_core::checksum::Checksum;
use sds_core::exchange::BlockEntry;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Crash {
    Process,
    Power,
}

/// The boot in which a copy finds itself after its first crash, if that took the power.
pub(crate) const SECOND_BOOT: u128 = 2;

/// What others can learn of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The store does not open its device.
    Refused,
    /// It cannot say what the extent holds.
    Damaged {
        /// The log ended before a flushed position that the device had stated.
        forgot: bool,
    },
    Open {
        forgot: bool,
        held: bool,
        unsettled: bool,
        entries: [BlockEntry; 2],
        /// Of the bytes on the medium.
        sums: [Checksum; 2],
    },
}

/// Kinds of faults, by what they hit.
pub(crate) type Faults = BTreeSet<(Kind, Region)>;

#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) crash: Crash,
    pub(crate) moment: Moment,
    pub(crate) found: Found,
    /// Of a storage fault that shows; all that come to the same.
    pub(crate) faults: Faults,
    /// The store that found it, if it opened.
    copy: Option<Copy>,
}

impl Image {
    pub(crate) fn copy(&self) -> Option<Copy> {
        self.copy.clone()
    }

    pub(crate) fn is_faulty(&self) -> bool {
        !self.faults.is_empty()
    }

    /// The device's log ended before what it had stated: the MDM knows, if it was told in time.
    pub(crate) fn forgot(&self) -> bool {
        match self.found {
            Found::Refused => false,
            Found::Damaged { forgot } | Found::Open { forgot, .. } => forgot,
        }
    }
}

/// How many faults were tried, and of how many of them something showed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) images: u64,
    pub(crate) struck: BTreeMap<(Kind, Region), (u64, u64)>,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.images += other.images;
        for (what, (struck, shown)) in &other.struck {
            let count = self.struck.entry(*what).or_default();
            *count = (count.0 + struck, count.1 + shown);
        }
    }

    /// A line for each region.
    pub(crate) fn lines(&self) -> String {
        let count = |kind, region| self.struck.get(&(kind, region)).copied().unwrap_or_default();
        let line = |region| {
            let kinds = KINDS.map(|kind| format!("{kind:?} {} ({} show)", count(kind, region).0, count(kind, region).1));
            format!("  {region:?}: {}\n", kinds.join(", "))
        };
        REGIONS.map(line).concat()
    }
}

/// Which faults are tried on which images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strike {
    None,
    /// On the first image of each class.
    Classes(&'static [Region]),
    /// On every image.
    All(&'static [Region]),
}

/// Every class of images of one copy of a history.
#[derive(Default)]
pub(crate) struct Images {
    broken: Broken,
    seen: BTreeSet<(u64, Crash, Moment)>,
    pub(crate) all: Vec<Image>,
    pub(crate) tally: Tally,
}

impl Images {
    pub(crate) fn of(node: Node, ops: &[Op], strike: Strike, broken: Broken) -> Self {
        let mut images = Self { broken, ..Self::default() };
        explore(node, ops, &mut |node| {
            for crash in [Crash::Process, Crash::Power] {
                images.crash(node, crash, strike);
            }
        });
        images.forget_what_does_not_show();
        images
    }

    fn crash(&mut self, node: &Node, crash: Crash, strike: Strike) {
        let disk = &node.rig.disk;
        let mut choices: Vec<(u64, Vec<Option<Piece>>)> = Vec::new();
        for (piece, values) in disk.cached() {
            let mut options: Vec<Option<Piece>> = vec![values.last().cloned()];
            if crash == Crash::Power {
                options.push(disk.get_durable(*piece));
                options.extend(values[..values.len() - 1].iter().cloned().map(Some));
            }
            choices.push((*piece, options));
        }
        for (piece, bytes) in node.rig.sent.iter().flat_map(|sent| node.rig.pieces_of(sent)) {
            match choices.iter_mut().find(|(place, _)| *place == piece) {
                Some((_, options)) => options.push(Some(bytes)),
                None => choices.push((piece, vec![disk.read(piece).cloned(), Some(bytes)])),
            }
        }
        let total: usize = choices.iter().map(|(_, options)| options.len()).product();
        assert!(total <= 1 << 14, "{total} images at one point are too many to try all");
        let mut flushed = disk.clone();
        flushed.flush();
        let reported = node.rig.store.statistics().flushed.get();
        for image in 0..total {
            let mut disk = flushed.clone();
            let mut rest = image;
            for (piece, options) in &choices {
                disk.put(*piece, options[rest % options.len()].clone());
                rest /= options.len();
            }
            self.take(&disk, crash, node.moment, reported, strike);
        }
    }

    fn take(&mut self, disk: &Disk, crash: Crash, moment: Moment, reported: u64, strike: Strike) {
        if !self.seen.insert((disk.sum, crash, moment)) {
            return;
        }
        self.tally.images += 1;
        let is_first = self.find(disk, crash, moment, reported, None);
        let regions = match strike {
            Strike::All(regions) => regions,
            Strike::Classes(regions) if is_first => regions,
            Strike::None | Strike::Classes(_) => return,
        };
        for fault in faults::all_on(disk, regions) {
            let mut struck = disk.clone();
            if fault.strike(&mut struck) && self.seen.insert((struck.sum, crash, moment)) {
                self.find(&struck, crash, moment, reported, Some(fault));
            }
        }
    }

    /// Has a store look at an image; whether nothing like it was there before.
    fn find(&mut self, disk: &Disk, crash: Crash, moment: Moment, reported: u64, fault: Option<Fault>) -> bool {
        let mut disk = disk.clone();
        self.broken.deceive(&mut disk);
        let mut copy = Copy::open(disk, crash, SECOND_BOOT);
        let found = copy.as_mut().map_or(Found::Refused, |copy| look(copy, reported));
        assert!(fault.is_some() || found != Found::Refused, "what a crash leaves can be opened");
        let what = fault.map(|fault| (fault.kind, fault.region));
        if let Some(what) = what {
            self.tally.struck.entry(what).or_default().0 += 1;
        }
        let same = |image: &&mut Image| (image.crash, image.moment, &image.found) == (crash, moment, &found);
        if let Some(image) = self.all.iter_mut().filter(|image| image.is_faulty() == what.is_some()).find(same) {
            image.faults.extend(what);
            return false;
        }
        self.all.push(Image { crash, moment, found, faults: what.into_iter().collect(), copy });
        true
    }

    /// Drops classes of faults that are what a crash without one leaves, too.
    fn forget_what_does_not_show(&mut self) {
        let clean: Vec<Image> = self.all.iter().filter(|image| !image.is_faulty()).cloned().collect();
        let hidden = |image: &Image| {
            image.is_faulty()
                && clean.iter().any(|other| (other.crash, other.moment, &other.found) == (image.crash, image.moment, &image.found))
        };
        self.all.retain(|image| !hidden(image));
        for what in self.all.iter().flat_map(|image| &image.faults) {
            self.tally.struck.entry(*what).or_default().1 += 1;
        }
    }
}

fn look(copy: &mut Copy, reported: u64) -> Found {
    let forgot = copy.rig.store.statistics().log_end.get() < reported;
    let unsettled = copy.listed().is_some_and(|listed| listed.unsettled);
    let Ok((list, held)) = copy.blocks() else { return Found::Damaged { forgot } };
    let entries = [list[0], list[1]];
    if unsettled {
        assert_eq!(copy.read(0), Err(sds_core::store::interface::StoreError::Unsettled));
    }
    Found::Open { forgot, held, unsettled, entries, sums: copy.sums() }
}
