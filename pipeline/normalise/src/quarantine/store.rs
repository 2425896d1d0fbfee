//! Reading the open entries, from keyed state alone.

use guitong_log::OwnedLog;
use serde::{Deserialize, Serialize};

use super::{Entry, Filter, Rejection};
use crate::keyed::overlay::{StateError, Stored};
use crate::keyed::row::RowState;

/// Largest number of entries that one list gives.
const MAX_LIST: usize = 10_000;
/// Entries that one list looks at, so that it does not hold up the stage; `next` goes on behind them.
const MAX_LOOK: usize = 50_000;
/// Entries of one scan where not all are wanted.
const PAGE: usize = 1_000;

/// One open entry, for people and for JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineItem {
    /// Names the entry in `show` and `replay`.
    pub id: String,
    /// The row's key, `column=value`.
    pub key: String,
    /// Text form of the event's version.
    pub version: String,
    /// When it was quarantined, microseconds since 1970-01-01T00:00:00Z.
    pub at_us: i64,
    pub topic: String,
    pub offset: u64,
    /// An older good version of the row stands in its place.
    pub held_back: bool,
    pub rejections: Vec<Rejection>,
}

/// The oldest entries, and how to go on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineList {
    pub items: Vec<QuarantineItem>,
    /// Give this as `after` for the next ones; `None` at the end.
    pub next: Option<String>,
}

/// Open entries of one resource, as of its owner's last commit.
#[derive(Debug)]
pub struct QuarantineStore<'a> {
    owner: &'a dyn OwnedLog,
}

/// The number that an id stands for.
#[must_use]
pub fn parse_id(id: &str) -> Option<u64> {
    u64::from_str_radix(id, 16).ok()
}

pub(crate) fn id(seq: u64) -> String {
    format!("{seq:x}")
}

impl<'a> QuarantineStore<'a> {
    /// `owner` is the resource's normaliser: role `Normalise`, the resource's name.
    #[must_use]
    pub fn new(owner: &'a dyn OwnedLog) -> Self {
        Self { owner }
    }

    /// At most `limit` entries that `filter` means and that were quarantined after the entry `after`, oldest first. A list that looks at
    /// very many entries may end early, with where to go on.
    ///
    /// # Errors
    /// [`StateError`] where the log cannot be read.
    pub async fn list(&self, filter: &Filter, after: Option<&str>, limit: usize) -> Result<QuarantineList, StateError> {
        let limit = limit.clamp(1, MAX_LIST);
        let (mut found, mut after, mut looked) = (Vec::new(), after.and_then(parse_id), 0);
        let next = loop {
            let page = self.entries(after, PAGE).await?;
            let is_end = page.len() < PAGE;
            looked += page.len();
            for (seq, entry) in page {
                if found.len() == limit {
                    break;
                }
                after = Some(seq);
                if filter.matches(seq, &entry) {
                    found.push((seq, entry));
                }
            }
            if found.len() == limit || looked >= MAX_LOOK {
                break after.map(id);
            }
            if is_end {
                break None;
            }
        };
        Ok(QuarantineList { items: self.items(found).await?, next })
    }

    /// The entry with this id, if it is open.
    ///
    /// # Errors
    /// [`StateError`] where the log cannot be read.
    pub async fn show(&self, id: &str) -> Result<Option<QuarantineItem>, StateError> {
        let Some(seq) = parse_id(id) else { return Ok(None) };
        let found = self.owner.get(Entry::MAP, &[crate::claims::entry_key(seq)]).await?;
        let Some(Some(bytes)) = found.into_iter().next() else { return Ok(None) };
        let entry = decode::<Entry>(&bytes)?;
        Ok(self.items(vec![(seq, entry)]).await?.pop())
    }

    /// When the oldest open entry was quarantined, microseconds since 1970-01-01T00:00:00Z.
    ///
    /// # Errors
    /// [`StateError`] where the log cannot be read.
    pub async fn oldest_us(&self) -> Result<Option<i64>, StateError> {
        Ok(self.entries(None, 1).await?.first().map(|(_, entry)| entry.at_us))
    }

    /// Entries after the number `after`, in the order of their numbers.
    pub(crate) async fn entries(&self, after: Option<u64>, limit: usize) -> Result<Vec<(u64, Entry)>, StateError> {
        let after = after.map(u64::to_be_bytes);
        let found = self.owner.scan(Entry::MAP, &[], after.as_ref().map(<[u8; 8]>::as_slice), limit).await?;
        let mut entries = Vec::with_capacity(found.len());
        for (key, value) in found {
            if let Ok(seq) = key.as_ref().try_into().map(u64::from_be_bytes) {
                entries.push((seq, decode::<Entry>(&value)?));
            }
        }
        Ok(entries)
    }

    async fn items(&self, entries: Vec<(u64, Entry)>) -> Result<Vec<QuarantineItem>, StateError> {
        let keys: Vec<_> = entries.iter().filter_map(|(_, entry)| entry.source.clone()).collect();
        let mut rows = self.owner.get(RowState::MAP, &keys).await?.into_iter();
        let mut items = Vec::with_capacity(entries.len());
        for (seq, entry) in entries {
            let row = if entry.source.is_some() { rows.next().flatten() } else { None };
            let row = row.map(|bytes| decode::<RowState>(&bytes)).transpose()?;
            items.push(QuarantineItem {
                id: id(seq),
                key: entry.key,
                version: entry.version.to_string(),
                at_us: entry.at_us,
                topic: entry.topic.to_string(),
                offset: entry.offset,
                held_back: row.is_some_and(|row| row.held_back()),
                rejections: entry.rejections,
            });
        }
        Ok(items)
    }
}

fn decode<T: Stored>(bytes: &bytes::Bytes) -> Result<T, StateError> {
    T::decode(bytes).map_err(|error| StateError::Codec { map: T::MAP, error })
}
