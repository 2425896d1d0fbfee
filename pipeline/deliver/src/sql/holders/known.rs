//! Rows that are known to be noted as sent, so that an update asks nobody: fingerprints in a table that grows up to a size, from which on
//! a new one takes the place of an old one where there is no room. One for the node.
//!
//! A fingerprint that is taken for another row's would keep that row from being noted, and so lose its delete: it is 128 bits of two
//! keyed hashes, of keys that no other process and no other hold has.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Powers of two; 64 KiB and 8 MiB.
const FEWEST: usize = 1 << 8;
const MOST: usize = 1 << 15;

/// Fingerprints that share a place. Each has two, and takes the one with more room: a table is nine tenths full before one finds both full,
/// so none is lost to others before the table has its full size, and little of it is for nothing.
type Bucket = [u128; ROOM];
const ROOM: usize = 16;

#[derive(Debug)]
pub(crate) struct Known(Mutex<Table>);

#[derive(Debug)]
struct Table {
    buckets: Vec<Bucket>,
}

/// Where there is no fingerprint.
const NONE: u128 = 0;

/// What makes the fingerprints of one hold; those of an earlier one are known no more.
#[derive(Debug, Default)]
pub(crate) struct Seal(RandomState, RandomState);

impl Seal {
    /// Never [`NONE`].
    fn print(&self, row: &[u8]) -> u128 {
        u128::from(self.0.hash_one(row)) << 64 | u128::from(self.1.hash_one(row)) | 1
    }
}

impl Default for Known {
    fn default() -> Self {
        Self(Mutex::new(Table::new(FEWEST)))
    }
}

impl Known {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of the rows that are not known.
    pub(super) fn lacks<'k>(&self, seal: &Seal, rows: impl Iterator<Item = &'k [u8]>) -> HashSet<&'k [u8]> {
        let prints: Vec<_> = rows.map(|row| (row, seal.print(row))).collect();
        let table = self.table();
        prints.into_iter().filter(|(_, print)| !table.has(*print)).map(|(row, _)| row).collect()
    }

    pub(super) fn add<'k>(&self, seal: &Seal, rows: impl Iterator<Item = &'k [u8]>) {
        let prints: Vec<_> = rows.map(|row| seal.print(row)).collect();
        let mut table = self.table();
        for print in prints {
            table.add(print);
        }
    }

    pub(super) fn remove(&self, seal: &Seal, row: &[u8]) {
        let print = seal.print(row);
        self.table().remove(print);
    }
}

impl Table {
    fn new(buckets: usize) -> Self {
        Self { buckets: vec![[NONE; ROOM]; buckets] }
    }

    /// Looks at both buckets whole: where the processor has nothing to guess, it fetches those of several rows at once.
    fn has(&self, print: u128) -> bool {
        let held = self.places(print).into_iter().filter_map(|place| self.buckets.get(place)).flatten();
        held.fold(false, |found, held| found | (*held == print))
    }

    fn remove(&mut self, print: u128) {
        for place in self.places(print) {
            self.bucket(place).iter_mut().filter(|slot| **slot == print).for_each(|slot| *slot = NONE);
        }
    }

    /// By one keyed hash each, of bits that are left out of no comparison; buckets are a power of two.
    fn places(&self, print: u128) -> [usize; 2] {
        [print >> 64, print >> 1].map(|bits| bits as usize & (self.buckets.len() - 1))
    }

    fn bucket(&mut self, place: usize) -> &mut [u128] {
        self.buckets.get_mut(place).map_or(&mut [], |bucket| bucket.as_mut_slice())
    }

    fn add(&mut self, print: u128) {
        if self.has(print) {
            return;
        }
        let room =
            |place: &usize| self.buckets.get(*place).map_or(0, |bucket| bucket.iter().filter(|held| **held == NONE).count());
        let [one, other] = self.places(print);
        let place = if room(&one) >= room(&other) { one } else { other };
        if room(&place) == 0 && self.buckets.len() < MOST {
            self.grow();
            return self.add(print);
        }
        let bucket = self.bucket(place);
        let at = bucket.iter().position(|held| *held == NONE).unwrap_or(victim(print));
        if let Some(slot) = bucket.get_mut(at) {
            *slot = print;
        }
    }

    fn grow(&mut self) {
        let larger = Self::new(self.buckets.len() * 2);
        let smaller = std::mem::replace(self, larger);
        smaller.buckets.into_iter().flatten().filter(|print| *print != NONE).for_each(|print| self.add(print));
    }
}

/// Whose place a fingerprint takes where there is no room.
fn victim(print: u128) -> usize {
    (print >> 32) as usize % ROOM
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_known_until_it_is_removed_or_another_takes_its_place() {
        let (known, seal) = (Known::default(), Seal::default());
        let rows: Vec<[u8; 4]> = (0..100_000_u32).map(u32::to_be_bytes).collect();
        let all = || rows.iter().map(|row| row.as_slice());
        assert_eq!(known.lacks(&seal, all()).len(), rows.len());
        known.add(&seal, all());
        assert!(known.lacks(&seal, all()).is_empty(), "none loses its place while the table may grow");
        let places = known.table().buckets.len() * ROOM;
        assert!(places * 3 < rows.len() * 4, "{places} places for {} rows", rows.len());
        let many: Vec<[u8; 4]> = (0..(ROOM * MOST) as u32).map(u32::to_be_bytes).collect();
        known.add(&seal, many.iter().map(|row| row.as_slice()));
        let newest = many.iter().rev().take(1_000).map(|row| row.as_slice());
        assert!(known.lacks(&seal, newest).len() < 100, "a new one takes the place of an old one");
        known.add(&seal, [b"one".as_slice()].into_iter());
        assert!(known.lacks(&seal, [b"one".as_slice()].into_iter()).is_empty());
        assert_eq!(known.lacks(&Seal::default(), [b"one".as_slice()].into_iter()).len(), 1, "another hold");
        known.remove(&seal, b"one");
        assert_eq!(known.lacks(&seal, [b"one".as_slice()].into_iter()).len(), 1);
    }

    #[test]
    fn what_was_removed_is_known_no_more_whatever_came_and_went_beside_it() {
        let (known, seal) = (Known::default(), Seal::default());
        let rows: Vec<[u8; 4]> = (0..50_000_u32).map(u32::to_be_bytes).collect();
        let every = |step: usize| rows.iter().step_by(step).map(|row| row.as_slice());
        known.add(&seal, every(1));
        every(2).for_each(|row| known.remove(&seal, row));
        // In front of some of these there is room now.
        known.add(&seal, every(1));
        every(1).for_each(|row| known.remove(&seal, row));
        assert_eq!(known.lacks(&seal, every(1)).len(), rows.len());
        assert!(known.table().buckets.iter().flatten().all(|held| *held == NONE));
    }
}
