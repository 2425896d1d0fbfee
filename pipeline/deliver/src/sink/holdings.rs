//! What a sink holds, read beside whoever writes it, so that it can be compared with what is granted.
//!
//! A [`Look`] is one snapshot of the subscriber's database: the rows of the table, and the offsets up to which they were delivered,
//! which are written in one transaction and so belong together. The log, read up to these offsets, says what the rows have to be.
//!
//! Rows are compared by numbers that the database itself computes: one of the key, and one of the whole row. The former puts a row
//! into a range, and the exclusive or of the latter over a range tells, with the count, whether the range differs. So few numbers
//! come over the wire, and rows only of ranges that differ. Ranges are of hashes of keys and not of keys: databases order texts each
//! in their own way, and hashes spread evenly.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use guitong_govern::ColumnKind;
use guitong_schemas::standard::StandardValue;
use sha2::{Digest as _, Sha256};

use super::SinkError;

/// Bits of a hash that count: fifteen hexadecimal digits are a positive number in every database.
pub const BITS: u32 = 60;

/// A row as it is compared: hashes of its key, and of all that was delivered of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Print {
    pub key: u64,
    pub content: u64,
}

/// The first [`BITS`] of SHA-256 over texts in UTF-8, each behind its length in characters and a colon; `-` stands for null.
#[must_use]
pub fn number<'t>(texts: impl Iterator<Item = Option<&'t str>>) -> u64 {
    let mut hash = Sha256::new();
    for text in texts {
        match text {
            None => hash.update(b"-"),
            Some(text) => {
                hash.update(text.chars().count().to_string());
                hash.update(b":");
                hash.update(text);
            }
        }
    }
    let first = hash.finalize().first_chunk().map_or(0, |first| u64::from_be_bytes(*first));
    first >> (u64::BITS - BITS)
}

/// Hashes that are compared in one go: `1 << bits` of them from `from` on, which is a multiple of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    pub from: u64,
    pub bits: u32,
}

impl Slice {
    #[must_use]
    pub fn whole() -> Self {
        Self { from: 0, bits: BITS }
    }

    #[must_use]
    pub fn contains(self, hash: u64) -> bool {
        (self.from..self.end()).contains(&hash)
    }

    #[must_use]
    pub fn end(self) -> u64 {
        self.from + (1 << self.bits)
    }

    /// Its first half.
    #[must_use]
    pub fn half(self) -> Self {
        Self { bits: self.bits.saturating_sub(1), ..self }
    }

    /// What follows, as much again; `None` where nothing does.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        Some(Self { from: self.end(), ..self }).filter(|next| next.from < 1 << BITS)
    }
}

/// What a range of hashes holds: those that are `range` once they are shifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeSum {
    pub range: u64,
    pub rows: u64,
    /// Exclusive or of [`Print::content`].
    pub content: u64,
}

/// A row of the subscriber's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldRow {
    pub print: Print,
    /// Texts of the key's columns; a hashed key in hexadecimal.
    pub key: Vec<String>,
    /// `None` where somebody else put the row there, as with `epoch`.
    pub version: Option<Vec<u8>>,
    pub epoch: Option<i64>,
    /// Texts of the granted columns.
    pub cells: Vec<Option<String>>,
}

impl HeldRow {
    /// The bytes of a hashed key.
    pub(crate) fn hashed_key(&self) -> Option<Vec<u8>> {
        self.key.first().and_then(|digits| hex::decode(digits).ok())
    }
}

/// The text by which a value other than null is compared: just what the database makes of the column.
pub type TextOf = fn(ColumnKind, &StandardValue<'_>) -> String;

/// A sink whose rows can be compared.
#[async_trait]
pub trait Holdings: fmt::Debug + Send + Sync {
    /// A snapshot; `None` while the sink does not stand as the subscription wants it, is being filled, or receives what was
    /// delivered before: its rows are not those of its offsets then.
    async fn look(&self) -> Result<Option<Box<dyn Look>>, SinkError>;
}

/// One snapshot. Rows that a subscriber's own table has of the subscriber are not among them.
#[async_trait]
pub trait Look: fmt::Debug + Send {
    /// Next offset of each partition.
    fn positions(&self) -> &BTreeMap<u32, u64>;

    fn text_of(&self) -> TextOf;

    async fn count(&mut self) -> Result<u64, SinkError>;

    /// The ranges of a slice that hold any row.
    async fn ranges(&mut self, slice: Slice, shift: u32) -> Result<Vec<RangeSum>, SinkError>;

    /// The rows of ranges.
    async fn prints(&mut self, ranges: &[u64], shift: u32) -> Result<Vec<Print>, SinkError>;

    /// Hands over the rows with these hashes of keys, one after the other.
    async fn rows(&mut self, keys: &[u64], take: &mut (dyn FnMut(HeldRow) + Send)) -> Result<(), SinkError>;

    /// Lets the snapshot and its connection go.
    async fn end(self: Box<Self>);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_rows_share_their_texts() {
        let of = |texts: &[Option<&str>]| number(texts.iter().copied());
        assert_ne!(of(&[Some("a"), Some("")]), of(&[Some(""), Some("a")]));
        assert_ne!(of(&[Some("1:a")]), of(&[Some("1"), Some("a")]));
        assert_ne!(of(&[None, Some("")]), of(&[Some(""), None]));
        assert_ne!(of(&[Some("-")]), of(&[None]));
        assert!(of(&[Some("南宁"), None]) < 1 << BITS);
    }

    #[test]
    fn slices_cover_every_hash_once() {
        let mut slice = Slice::whole().half().half();
        let (mut covered, mut next) = (0, 0);
        loop {
            assert_eq!(slice.from, next);
            assert!(slice.contains(slice.from) && !slice.contains(slice.end()));
            covered += slice.end() - slice.from;
            next = slice.end();
            let Some(following) = slice.next() else { break };
            slice = if slice.bits == BITS - 2 { following.half() } else { following };
        }
        assert_eq!(covered, 1 << BITS);
    }
}
