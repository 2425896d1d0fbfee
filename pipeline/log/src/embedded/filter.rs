//! Which keys of keyed state the table may have: most keys that a first load asks for are in no table yet, and each would cost a search.
//!
//! A Bloom filter of what went into the table since the log was opened. Of maps that had entries before it knows nothing. It
//! grows with what is in it, up to [`LIMIT`] bytes; beyond that it gives up, and every key may be there.

use std::collections::HashSet;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;

/// Bytes that all parts may take together.
const LIMIT: usize = 8 << 20;
/// Blocks of the first part; each further one has twice as many.
const FIRST: usize = 1 << 10;
/// Bits of a block, which one cache line holds.
const BLOCK_BITS: usize = 512;
/// Keys for which a block is made: one in a hundred keys that are not there is searched for all the same.
const BLOCK_KEYS: usize = 42;
/// Bits of a key.
const PROBES: u32 = 6;

type Block = [u64; BLOCK_BITS / 64];

/// Blocks for a number of keys; no more go in.
#[derive(Debug)]
struct Part {
    blocks: Vec<Block>,
    keys: usize,
}

impl Part {
    fn new(blocks: usize) -> Self {
        Self { blocks: vec![Block::default(); blocks], keys: 0 }
    }

    fn is_full(&self) -> bool {
        self.keys >= self.blocks.len() * BLOCK_KEYS
    }

    /// The block of a key; the hash's upper half chooses it.
    fn place(&self, hash: u64) -> usize {
        (((hash >> 32) * self.blocks.len() as u64) >> 32) as usize
    }

    fn add(&mut self, hash: u64) {
        let place = self.place(hash);
        if let Some(block) = self.blocks.get_mut(place) {
            for (word, bit) in bits(hash) {
                block[word] |= bit;
            }
        }
        self.keys += 1;
    }

    fn may_have(&self, hash: u64) -> bool {
        self.blocks.get(self.place(hash)).is_some_and(|block| bits(hash).all(|(word, bit)| block[word] & bit != 0))
    }
}

/// The bits of a key within its block, by the hash's lower half.
fn bits(hash: u64) -> impl Iterator<Item = (usize, u64)> {
    let (start, step) = (hash as u32 & 0xFFFF, (hash as u32 >> 16) | 1);
    (0..PROBES).map(move |n| {
        let bit = (start.wrapping_add(step.wrapping_mul(n))) as usize % BLOCK_BITS;
        (bit / 64, 1 << (bit % 64))
    })
}

#[derive(Debug, Default)]
pub(crate) struct Filter {
    hasher: RandomState,
    /// Maps that had entries before the log was opened.
    earlier: HashSet<i64>,
    parts: Vec<Part>,
    /// There are too many keys.
    gave_up: bool,
}

impl Filter {
    /// Of a table that has entries of the maps `earlier`.
    pub(crate) fn new(earlier: HashSet<i64>) -> Self {
        Self { earlier, ..Self::default() }
    }

    /// Notes a key that goes into the table.
    pub(crate) fn add(&mut self, map: i64, key: &[u8]) {
        if self.gave_up || self.earlier.contains(&map) {
            return;
        }
        let hash = self.hasher.hash_one((map, key));
        if self.parts.iter().any(|part| part.may_have(hash)) {
            return;
        }
        if self.parts.last().is_none_or(Part::is_full) {
            let blocks = self.parts.last().map_or(FIRST, |last| last.blocks.len() * 2);
            let taken: usize = self.parts.iter().map(|part| part.blocks.len()).sum();
            if (taken + blocks) * BLOCK_BITS / 8 > LIMIT {
                (self.parts, self.gave_up) = (Vec::new(), true);
                return;
            }
            self.parts.push(Part::new(blocks));
        }
        if let Some(part) = self.parts.last_mut() {
            part.add(hash);
        }
    }

    /// Whether the table may have the key; where not, it certainly has not.
    pub(crate) fn may_have(&self, map: i64, key: &[u8]) -> bool {
        if self.gave_up || self.earlier.contains(&map) {
            return true;
        }
        let hash = self.hasher.hash_one((map, key));
        self.parts.iter().any(|part| part.may_have(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_forgotten_and_few_others_are_taken_for_one() {
        let mut filter = Filter::new(HashSet::from([7]));
        let key = |n: u32| n.to_be_bytes();
        assert!(!filter.may_have(1, &key(0)) && filter.may_have(7, &key(0)));
        for n in 0..200_000 {
            filter.add(1, &key(n));
        }
        assert!((0..200_000).all(|n| filter.may_have(1, &key(n))));
        let wrong = (200_000..300_000).filter(|n| filter.may_have(1, &key(*n))).count();
        assert!(wrong < 5_000, "{wrong} of 100,000 keys that are not there");
    }

    #[test]
    fn too_many_keys_may_all_be_there() {
        let mut filter = Filter::default();
        let most = LIMIT / (BLOCK_BITS / 8) * BLOCK_KEYS;
        let mut n = 0_u64;
        while !filter.gave_up {
            filter.add(1, &n.to_be_bytes());
            n += 1;
            assert!(n < 2 * most as u64, "it holds more than it has room for");
        }
        assert!(filter.parts.is_empty() && filter.may_have(1, b"any"));
    }
}
