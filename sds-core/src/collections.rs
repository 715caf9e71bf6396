//! Maps with a fixed hasher, and the slot table that makes operation ids.
//!
//! Invariants: iteration order depends on the operations done and nothing else (same seed, same
//! run); an id of a finished operation is never taken for a live one.

use core::hash::{BuildHasherDefault, Hasher};

/// A hasher without a seed: multiply and rotate, good enough for small integer keys.
#[derive(Clone, Copy, Default)]
pub struct FixedHasher(u64);

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for FixedHasher {
    fn finish(&self) -> u64 {
        // hashbrown takes its tag from the top bits and its bucket from the low ones.
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0_u8; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(MULTIPLIER);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
}

/// A hash map whose order is a function of what was done to it.
pub type Map<K, V> = hashbrown::HashMap<K, V, BuildHasherDefault<FixedHasher>>;
/// A hash set whose order is a function of what was done to it.
pub type Set<K> = hashbrown::HashSet<K, BuildHasherDefault<FixedHasher>>;

/// Names one operation in flight: slot (24 bits) and generation (24 bits) of a [`SlotTable`].
///
/// It fits 48 bits, so a shell can put its own tag above it and use the whole as io_uring user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(u64);

impl OpId {
    /// Bits an id uses.
    pub const BITS: u32 = 48;

    /// From its 48 bits.
    #[must_use]
    pub const fn from_bits(raw: u64) -> Self {
        Self(raw & ((1 << Self::BITS) - 1))
    }

    /// Its 48 bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    fn slot(self) -> usize {
        (self.0 & 0xff_ffff) as usize
    }

    const fn generation(self) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "24 bits")]
        let generation = (self.0 >> 24) as u32;
        generation
    }
}

#[derive(Clone, Debug)]
enum Slot<T> {
    Free { generation: u32, next: Option<u32> },
    Used { generation: u32, value: T },
}

/// A bounded table of operations in flight. Inserting after `with_capacity` does not allocate.
#[derive(Clone, Debug)]
pub struct SlotTable<T> {
    slots: Vec<Slot<T>>,
    free: Option<u32>,
    used: usize,
    capacity: usize,
}

impl<T> SlotTable<T> {
    /// An empty table of at most `capacity` operations (below 2²⁴), all memory taken now.
    ///
    /// # Panics
    /// If `capacity` does not fit 24 bits.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        assert!(capacity < 1 << 24, "slots are 24 bits");
        Self { slots: Vec::with_capacity(capacity), free: None, used: 0, capacity }
    }

    /// Puts an operation in, or gives it back when the table is full.
    ///
    /// # Errors
    /// The value, when `capacity` operations are in flight.
    pub fn insert(&mut self, value: T) -> Result<OpId, T> {
        if let Some(index) = self.free {
            let slot = &mut self.slots[index as usize];
            let Slot::Free { generation, next } = *slot else { unreachable!("the free list holds free slots") };
            self.free = next;
            *slot = Slot::Used { generation, value };
            self.used += 1;
            return Ok(Self::id(index, generation));
        }
        if self.slots.len() == self.capacity {
            return Err(value);
        }
        #[expect(clippy::cast_possible_truncation, reason = "capacity is below 2^24")]
        let index = self.slots.len() as u32;
        self.slots.push(Slot::Used { generation: 0, value });
        self.used += 1;
        Ok(Self::id(index, 0))
    }

    fn id(index: u32, generation: u32) -> OpId {
        OpId((u64::from(generation) << 24) | u64::from(index))
    }

    /// Takes an operation out; `None` if it is not in flight (a stale or foreign id).
    pub fn remove(&mut self, id: OpId) -> Option<T> {
        let slot = self.slots.get_mut(id.slot())?;
        match slot {
            Slot::Used { generation, .. } if *generation == id.generation() => {}
            Slot::Used { .. } | Slot::Free { .. } => return None,
        }
        let next = Slot::Free { generation: (id.generation() + 1) & 0xff_ffff, next: self.free };
        let Slot::Used { value, .. } = core::mem::replace(slot, next) else { unreachable!("matched as used above") };
        #[expect(clippy::cast_possible_truncation, reason = "24 bits")]
        let index = id.slot() as u32;
        self.free = Some(index);
        self.used -= 1;
        Some(value)
    }

    /// An operation in flight.
    #[must_use]
    pub fn get(&self, id: OpId) -> Option<&T> {
        match self.slots.get(id.slot())? {
            Slot::Used { generation, value } if *generation == id.generation() => Some(value),
            Slot::Used { .. } | Slot::Free { .. } => None,
        }
    }

    /// An operation in flight, to change.
    pub fn get_mut(&mut self, id: OpId) -> Option<&mut T> {
        match self.slots.get_mut(id.slot())? {
            Slot::Used { generation, value } if *generation == id.generation() => Some(value),
            Slot::Used { .. } | Slot::Free { .. } => None,
        }
    }

    /// All operations in flight, in slot order.
    pub fn iter(&self) -> impl Iterator<Item = (OpId, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| match slot {
            #[expect(clippy::cast_possible_truncation, reason = "capacity is below 2^24")]
            Slot::Used { generation, value } => Some((Self::id(index as u32, *generation), value)),
            Slot::Free { .. } => None,
        })
    }

    /// Operations in flight.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.used
    }

    /// Whether none is in flight.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Whether no more fit.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.used == self.capacity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_id_names_nothing() {
        let mut table = SlotTable::with_capacity(2);
        let first = table.insert('a').expect("empty");
        assert_eq!(table.remove(first), Some('a'));
        let second = table.insert('b').expect("one free");
        assert_ne!(first, second);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.get(second), Some(&'b'));
    }

    #[test]
    fn a_full_table_gives_the_value_back() {
        let mut table = SlotTable::with_capacity(1);
        let id = table.insert(1).expect("empty");
        assert_eq!(table.insert(2), Err(2));
        assert!(table.is_full());
        table.remove(id);
        assert!(table.is_empty());
    }
}
