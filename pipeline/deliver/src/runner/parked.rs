//! Records that a subscription has set aside since its sink does not take them, or since they cannot be read.
//!
//! An entry says where its record stands in the log, never what is in it. It ends in one of three ways, each told of in the topic
//! `audit.parked`: the record was delivered after all, a person gave it up, or a later change of its row came. A later change
//! waits for nothing, for it holds the whole row; it takes the entry away first, so that nobody can put the older record over it
//! by hand afterwards. So a row has one entry, of the newest change that was refused.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use guitong_log::{Batch, NewRecord, StateChange};
use guitong_schemas::position::Version;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Topic of what ended entries; keyed by subscription, JSON, kept for good.
pub const PARKED_TOPIC: &str = "audit.parked";

/// Keyed state of a subscription's owner: what is set aside.
pub(super) const PARKED: &str = "parked";

/// Records that a subscription sets aside at most. A sink that refuses more does not refuse single records: delivery pauses.
pub const MOST_PARKED: usize = 1_000;

/// Characters kept of a reason.
const REASON: usize = 500;

/// Where a record stands in the topic of its subscription; written `<partition>-<offset>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Place {
    pub partition: u32,
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.partition, self.offset)
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once('-').and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)));
        let (partition, offset) = parsed.ok_or_else(|| format!("`{text}` is no <partition>-<offset> such as 0-1234"))?;
        Ok(Self { partition, offset })
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.to_string()
    }
}

impl TryFrom<String> for Place {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl Place {
    fn key(self) -> Bytes {
        Bytes::from(format!("{:010}/{:020}", self.partition, self.offset))
    }
}

/// A record that was set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    pub topic: String,
    pub partition: u32,
    pub offset: u64,
    /// The row's key as the subscriber knows it; `None` where the record gives it no row: what it may be told of then, nobody knows.
    #[serde(default)]
    pub key: Option<String>,
    /// Mark of the row, by which a later change of it finds the entry.
    #[serde(default)]
    pub row: Option<String>,
    #[serde(default)]
    pub version: Option<String>,
    pub reason: String,
    /// Microseconds since 1970-01-01T00:00Z.
    pub at_us: i64,
}

impl Parked {
    #[must_use]
    pub fn place(&self) -> Place {
        Place { partition: self.partition, offset: self.offset }
    }

    fn version(&self) -> Option<Version> {
        self.version.as_ref()?.parse().ok()
    }

    /// The change of keyed state that keeps it.
    pub(super) fn kept(&self) -> StateChange {
        // Texts and numbers always serialise.
        let value = Bytes::from(serde_json::to_vec(self).unwrap_or_default());
        StateChange { map: PARKED.into(), key: self.place().key(), value: Some(value) }
    }
}

/// What stands for a row's identity, which may be its key: half of SHA-256, in hexadecimal.
pub(super) fn mark(row: &[u8]) -> String {
    hex::encode(Sha256::digest(row).get(..16).unwrap_or_default())
}

/// A reason as it is kept.
pub(super) fn shortened(reason: String) -> String {
    match reason.char_indices().nth(REASON) {
        Some((end, _)) => format!("{}…", reason.get(..end).unwrap_or_default()),
        None => reason,
    }
}

/// How an entry ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    Delivered,
    /// A later change of the row came, which was delivered or is set aside itself.
    Superseded,
    /// The log holds the record no longer, which it lets go only after a later one of its row.
    Gone,
    /// A person gave it up.
    Dropped,
}

/// A person's word.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// The operating system's name of the person; empty where nobody was asked.
    pub by: String,
    pub reason: String,
}

/// The form of the topic `audit.parked`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub subscription: String,
    #[serde(flatten)]
    pub parked: Parked,
    pub end: End,
    #[serde(flatten)]
    pub word: EndWord,
    pub ended_us: i64,
}

/// Who ended it and why, beside the reason for which it was set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndWord {
    pub by: String,
    pub because: String,
}

/// The batch that ends entries.
pub(super) fn ended(subscription: &str, entries: &[(Parked, End)], word: &Word, at_us: i64) -> Batch {
    let record = |(parked, end): &(Parked, End)| {
        let ended = Ended {
            subscription: subscription.to_owned(),
            parked: parked.clone(),
            end: *end,
            word: EndWord { by: word.by.clone(), because: word.reason.clone() },
            ended_us: at_us,
        };
        NewRecord {
            topic: PARKED_TOPIC.into(),
            partition: Some(0),
            key: Some(Bytes::copy_from_slice(subscription.as_bytes())),
            // Texts and numbers always serialise.
            value: Some(Bytes::from(serde_json::to_vec(&ended).unwrap_or_default())),
            headers: Vec::new(),
            timestamp_ms: at_us / 1_000,
        }
    };
    let state = entries.iter().map(|(parked, _)| StateChange { map: PARKED.into(), key: parked.place().key(), value: None });
    Batch { records: entries.iter().map(record).collect(), state: state.collect(), ..Batch::default() }
}

/// What a subscription has set aside, as the log has it: by place, and by row.
#[derive(Debug, Clone, Default)]
pub(crate) struct Aside(Arc<Mutex<Index>>);

#[derive(Debug, Default)]
struct Index {
    loaded: bool,
    entries: BTreeMap<Place, Parked>,
    rows: HashMap<String, Vec<Place>>,
}

impl Aside {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes on what the log has.
    pub(super) fn load(&self, stored: impl Iterator<Item = Parked>) {
        *self.index() = Index { loaded: true, ..Index::default() };
        stored.for_each(|parked| self.insert(parked));
    }

    pub(super) fn insert(&self, parked: Parked) {
        let mut index = self.index();
        let place = parked.place();
        if let Some(row) = &parked.row {
            let places = index.rows.entry(row.clone()).or_default();
            if !places.contains(&place) {
                places.push(place);
            }
        }
        index.entries.insert(place, parked);
    }

    pub(super) fn remove(&self, place: Place) {
        let mut index = self.index();
        let Some(row) = index.entries.remove(&place).and_then(|parked| parked.row) else { return };
        let left = index.rows.get_mut(&row).is_some_and(|places| {
            places.retain(|other| *other != place);
            !places.is_empty()
        });
        if !left {
            index.rows.remove(&row);
        }
    }

    /// Whether the log was read.
    pub(super) fn is_loaded(&self) -> bool {
        self.index().loaded
    }

    pub(crate) fn len(&self) -> usize {
        self.index().entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When the oldest was set aside.
    pub(crate) fn oldest_us(&self) -> Option<i64> {
        self.index().entries.values().map(|parked| parked.at_us).min()
    }

    /// Entries behind `after` in the order of their places.
    pub(crate) fn list(&self, after: Option<Place>, limit: usize) -> Vec<Parked> {
        let entries = &self.index().entries;
        let behind = entries.iter().filter(|(place, _)| after.is_none_or(|after| **place > after));
        behind.take(limit).map(|(_, parked)| parked.clone()).collect()
    }

    pub(crate) fn get(&self, place: Place) -> Option<Parked> {
        self.index().entries.get(&place).cloned()
    }

    /// Entries of a row that a change of it at `version` makes void.
    pub(super) fn of_row(&self, row: &[u8], version: Version) -> Vec<Parked> {
        let index = self.index();
        let places = index.rows.get(&mark(row)).into_iter().flatten();
        let entries = places.filter_map(|place| index.entries.get(place));
        entries.filter(|parked| parked.version().is_none_or(|held| held <= version)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parked(offset: u64, row: &[u8], commit: u64) -> Parked {
        let version = Version { commit, ..Version::default() };
        Parked {
            topic: "std.t".into(),
            partition: 0,
            offset,
            key: None,
            row: Some(mark(row)),
            version: Some(version.to_string()),
            reason: "no".into(),
            at_us: 9 - offset as i64,
        }
    }

    #[test]
    fn a_change_of_a_row_finds_what_it_makes_void() {
        let aside = Aside::default();
        aside.load([parked(1, b"a", 1), parked(3, b"a", 3), parked(2, b"b", 2)].into_iter());
        let at = |commit| Version { commit, ..Version::default() };
        let offsets = |of: Vec<Parked>| of.iter().map(|parked| parked.offset).collect::<Vec<_>>();
        assert_eq!(offsets(aside.of_row(b"a", at(2))), [1]);
        assert_eq!(offsets(aside.of_row(b"a", at(3))), [1, 3]);
        assert_eq!(offsets(aside.list(Some(Place { partition: 0, offset: 1 }), 10)), [2, 3]);
        assert_eq!(aside.oldest_us(), Some(6));
        aside.remove(Place { partition: 0, offset: 3 });
        aside.remove(Place { partition: 0, offset: 1 });
        assert_eq!((aside.len(), aside.of_row(b"a", at(9)).len()), (1, 0));
    }

    #[test]
    fn places_are_read_as_they_are_written() {
        let place = Place { partition: 2, offset: 17 };
        assert_eq!(place.to_string().parse(), Ok(place));
        assert!("17".parse::<Place>().is_err() && "a-1".parse::<Place>().is_err());
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        assert_eq!(shortened("值".repeat(600)).chars().count(), REASON + 1);
        assert_eq!(shortened("short".into()), "short");
    }
}
