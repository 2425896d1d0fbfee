//! Rows that are known to be noted as sent, so that an update asks nobody: fingerprints in a table of fixed size, in which a new one
//! takes the place of an old one where there is no room. One for the node.
//!
//! A fingerprint that is taken for another row's would keep that row from being noted, and so lose its delete: it is 128 bits of two
//! keyed hashes, of keys that no other process and no other hold has.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A power of two; 8 MiB, of which the system gives what is used.
const BUCKETS: usize = 1 << 16;

/// Fingerprints that share a place, so that few are lost to others while there is room elsewhere.
type Bucket = [u128; ROOM];
const ROOM: usize = 8;

#[derive(Debug)]
pub(crate) struct Known(Mutex<Vec<Bucket>>);

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
        Self(Mutex::new(vec![[NONE; ROOM]; BUCKETS]))
    }
}

impl Known {
    fn buckets(&self) -> MutexGuard<'_, Vec<Bucket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of the rows that are not known.
    pub(super) fn lacks<'k>(&self, seal: &Seal, rows: impl Iterator<Item = &'k [u8]>) -> HashSet<&'k [u8]> {
        let prints: Vec<_> = rows.map(|row| (row, seal.print(row))).collect();
        let buckets = self.buckets();
        let is_known = |print: u128| buckets.get(place(print)).is_some_and(|bucket| bucket.contains(&print));
        prints.into_iter().filter(|(_, print)| !is_known(*print)).map(|(row, _)| row).collect()
    }

    pub(super) fn add<'k>(&self, seal: &Seal, rows: impl Iterator<Item = &'k [u8]>) {
        let prints: Vec<_> = rows.map(|row| seal.print(row)).collect();
        let mut buckets = self.buckets();
        for print in prints {
            if let Some(bucket) = buckets.get_mut(place(print)) {
                let at = bucket.iter().position(|held| *held == print || *held == NONE).unwrap_or(victim(print));
                bucket.get_mut(at).into_iter().for_each(|slot| *slot = print);
            }
        }
    }

    pub(super) fn remove(&self, seal: &Seal, row: &[u8]) {
        let print = seal.print(row);
        if let Some(bucket) = self.buckets().get_mut(place(print)) {
            bucket.iter_mut().filter(|slot| **slot == print).for_each(|slot| *slot = NONE);
        }
    }
}

/// By bits that are left out of no comparison.
fn place(print: u128) -> usize {
    (print >> 64) as usize % BUCKETS
}

/// Whose place a fingerprint takes where there is no room.
fn victim(print: u128) -> usize {
    (print >> 1) as usize % ROOM
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
        let lacks = known.lacks(&seal, all()).len();
        assert!(lacks < rows.len() / 500, "{lacks} lost their place to others");
        let many: Vec<[u8; 4]> = (0..8 * BUCKETS as u32).map(u32::to_be_bytes).collect();
        known.add(&seal, many.iter().map(|row| row.as_slice()));
        let newest = many.iter().rev().take(1_000).map(|row| row.as_slice());
        assert!(known.lacks(&seal, newest).len() < 100, "a new one takes the place of an old one");
        known.add(&seal, [b"one".as_slice()].into_iter());
        assert!(known.lacks(&seal, [b"one".as_slice()].into_iter()).is_empty());
        assert_eq!(known.lacks(&Seal::default(), [b"one".as_slice()].into_iter()).len(), 1, "another hold");
        known.remove(&seal, b"one");
        assert_eq!(known.lacks(&seal, [b"one".as_slice()].into_iter()).len(), 1);
    }
}
