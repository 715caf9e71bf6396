//! The table of streams and local links, and their names.
//!
//! Invariant: a name (place and generation) is never given twice; a name of something that is gone
//! finds nothing.

use crate::role::RoleIndex;
use crate::stream::Stream;

/// One end of something that a role can send on.
#[derive(Debug)]
pub(super) enum Endpoint {
    /// Nobody.
    Free,
    /// A socket, or one being connected.
    Stream(Box<Stream>),
    /// A link to a role of this loop, which has the end named `peer`.
    Local { role: RoleIndex, peer: u64 },
}

#[derive(Debug)]
struct Place {
    generation: u32,
    endpoint: Endpoint,
}

#[derive(Debug)]
pub(super) struct Endpoints {
    places: Vec<Place>,
    free: Vec<u32>,
    used: usize,
    limit: usize,
}

impl Endpoints {
    pub(super) fn new(limit: usize) -> Self {
        Self { places: Vec::new(), free: Vec::new(), used: 0, limit }
    }

    pub(super) const fn limit(&self) -> usize {
        self.limit
    }

    pub(super) const fn is_full(&self) -> bool {
        self.used >= self.limit
    }

    /// Places there have been so far; each is free or used.
    pub(super) fn places(&self) -> u32 {
        u32::try_from(self.places.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn insert(&mut self, endpoint: Endpoint) -> Option<u32> {
        if self.is_full() {
            return None;
        }
        self.used += 1;
        if let Some(slot) = self.free.pop() {
            self.places[slot as usize].endpoint = endpoint;
            return Some(slot);
        }
        self.places.push(Place { generation: 1, endpoint });
        Some(self.places() - 1)
    }

    /// Two ends of a local link, `(from, to)`.
    pub(super) fn insert_pair(&mut self, from: RoleIndex, to: RoleIndex) -> Option<(u64, u64)> {
        let one = self.insert(Endpoint::Local { role: from, peer: 0 })?;
        let Some(other) = self.insert(Endpoint::Local { role: to, peer: self.id(one) }) else {
            self.remove(one);
            return None;
        };
        let (one_id, other_id) = (self.id(one), self.id(other));
        self.places[one as usize].endpoint = Endpoint::Local { role: from, peer: other_id };
        Some((one_id, other_id))
    }

    /// The name of what stands at a place.
    pub(super) fn id(&self, slot: u32) -> u64 {
        let generation = self.places.get(slot as usize).map_or(0, |place| place.generation);
        (u64::from(generation) << 32) | u64::from(slot)
    }

    /// The place of a name, if it is still its own.
    pub(super) fn slot(&self, id: u64) -> Option<u32> {
        #[expect(clippy::cast_possible_truncation, reason = "the low 32 bits are the place")]
        let slot = id as u32;
        let place = self.places.get(slot as usize)?;
        (u64::from(place.generation) == id >> 32).then_some(slot)
    }

    pub(super) fn endpoint(&self, id: u64) -> Option<(u32, &Endpoint)> {
        let slot = self.slot(id)?;
        Some((slot, &self.places[slot as usize].endpoint))
    }

    /// Whose it is, and for a local link the name of the other end.
    pub(super) fn owner(&self, slot: u32) -> Option<(RoleIndex, Option<u64>)> {
        match &self.places.get(slot as usize)?.endpoint {
            Endpoint::Stream(stream) => Some((stream.role, None)),
            Endpoint::Local { role, peer } => Some((*role, Some(*peer))),
            Endpoint::Free => None,
        }
    }

    pub(super) fn stream(&self, slot: u32) -> Option<&Stream> {
        match &self.places.get(slot as usize)?.endpoint {
            Endpoint::Stream(stream) => Some(stream),
            Endpoint::Local { .. } | Endpoint::Free => None,
        }
    }

    pub(super) fn stream_mut(&mut self, slot: u32) -> Option<&mut Stream> {
        match &mut self.places.get_mut(slot as usize)?.endpoint {
            Endpoint::Stream(stream) => Some(stream),
            Endpoint::Local { .. } | Endpoint::Free => None,
        }
    }

    pub(super) fn remove_stream(&mut self, slot: u32) -> Option<Box<Stream>> {
        match self.remove(slot) {
            Endpoint::Stream(stream) => Some(stream),
            Endpoint::Local { .. } | Endpoint::Free => None,
        }
    }

    pub(super) fn remove(&mut self, slot: u32) -> Endpoint {
        let Some(place) = self.places.get_mut(slot as usize) else { return Endpoint::Free };
        let endpoint = std::mem::replace(&mut place.endpoint, Endpoint::Free);
        if !matches!(endpoint, Endpoint::Free) {
            place.generation += 1;
            self.free.push(slot);
            self.used -= 1;
        }
        endpoint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_never_given_twice() {
        let mut endpoints = Endpoints::new(2);
        let (one, other) = endpoints.insert_pair(RoleIndex::new(0), RoleIndex::new(1)).expect("room for two");
        assert!(endpoints.is_full());
        assert!(matches!(endpoints.endpoint(one), Some((_, Endpoint::Local { peer, .. })) if *peer == other));
        let slot = endpoints.slot(one).expect("alive");
        endpoints.remove(slot);
        assert!(endpoints.endpoint(one).is_none());
        let again = endpoints.insert(Endpoint::Local { role: RoleIndex::new(0), peer: 0 }).expect("room for one");
        assert_eq!(again, slot);
        assert_ne!(endpoints.id(again), one);
        assert!(endpoints.insert(Endpoint::Local { role: RoleIndex::new(0), peer: 0 }).is_none());
    }
}
