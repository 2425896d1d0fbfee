//! Where the source stands: which changes are published and not removed yet, and how far the first load of each table is.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::source::SourceError;

const FORM: u8 = 1;

/// Stored in the log with the records it stands after, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    form: u8,
    pub(super) epoch: u32,
    /// Identifies one preparation of the database: another one may have lost changes in between.
    pub(super) instance: String,
    /// The largest id that was published.
    pub(super) last: i64,
    /// Published, and not known to be removed.
    pub(super) published: IdSet,
    /// Rows read by first loads, which numbers them.
    pub(super) snapshot_rows: u64,
    pub(super) tables: BTreeMap<String, TablePosition>,
    /// Tables whose keys of an earlier epoch are to be deleted before anything else.
    #[serde(default)]
    pub(super) truncate: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TablePosition {
    /// The columns as they were read; with others, the table is read again.
    pub(super) columns: String,
    pub(super) load: Load,
}

/// How far the first load of a table is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Load {
    Begin,
    /// Key of the last row read, as SQL literals.
    After(String),
    Done,
}

impl Position {
    pub(super) fn new(epoch: u32, instance: String, last: i64) -> Self {
        Self {
            form: FORM,
            epoch,
            instance,
            last,
            published: IdSet::default(),
            snapshot_rows: 0,
            tables: BTreeMap::new(),
            truncate: vec![],
        }
    }

    pub(super) fn encode(&self) -> Bytes {
        // Maps with text keys, numbers and text: serialisation has nothing to fail on.
        serde_json::to_vec(self).map(Bytes::from).unwrap_or_default()
    }

    /// # Errors
    /// [`SourceError::Protocol`] where the bytes are no position of this form.
    pub(super) fn decode(system: &str, bytes: &[u8]) -> Result<Self, SourceError> {
        let bad = |detail: String| SourceError::Protocol { system: system.to_owned(), detail };
        let position: Self =
            serde_json::from_slice(bytes).map_err(|error| bad(format!("the stored position does not read: {error}")))?;
        if position.form != FORM {
            return Err(bad(format!("the stored position has form {}, this version reads {FORM}", position.form)));
        }
        Ok(position)
    }
}

/// Change ids, as ranges in which every id is a member.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct IdSet(Vec<(i64, i64)>);

impl IdSet {
    pub(super) fn ranges(&self) -> &[(i64, i64)] {
        &self.0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> u64 {
        self.0.iter().map(|&(first, last)| last.abs_diff(first) + 1).sum()
    }

    fn at(&self, id: i64) -> usize {
        self.0.partition_point(|&(_, last)| last < id)
    }

    pub(super) fn contains(&self, id: i64) -> bool {
        self.0.get(self.at(id)).is_some_and(|&(first, _)| first <= id)
    }

    pub(super) fn insert(&mut self, id: i64) {
        if self.contains(id) {
            return;
        }
        let at = self.at(id);
        let joins_next = self.0.get(at).is_some_and(|&(first, _)| first == id + 1);
        let joins_last = at.checked_sub(1).and_then(|last| self.0.get(last)).is_some_and(|&(_, last)| last == id - 1);
        match (joins_last, joins_next) {
            (true, true) => {
                let (_, last) = self.0.remove(at);
                if let Some(range) = self.0.get_mut(at - 1) {
                    range.1 = last;
                }
            }
            (true, false) => {
                if let Some(range) = self.0.get_mut(at - 1) {
                    range.1 = id;
                }
            }
            (false, true) => {
                if let Some(range) = self.0.get_mut(at) {
                    range.0 = id;
                }
            }
            (false, false) => self.0.insert(at, (id, id)),
        }
    }

    /// Takes `removed` out, but for those that `keeps` names.
    pub(super) fn retain(&mut self, keeps: impl Fn(i64) -> bool, removed: &Self) {
        let kept: Vec<i64> =
            removed.0.iter().flat_map(|&(first, last)| first..=last).filter(|&id| self.contains(id) && keeps(id)).collect();
        let mut rest = Self::default();
        for &(first, last) in &self.0 {
            for id in first..=last {
                if !removed.contains(id) {
                    rest.insert(id);
                }
            }
        }
        for id in kept {
            rest.insert(id);
        }
        *self = rest;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_of_ids_is_a_set(ids in proptest::collection::vec(0_i64..60, 0..60), gone in proptest::collection::vec(0_i64..60, 0..30)) {
            let (mut set, mut model) = (IdSet::default(), BTreeSet::new());
            for id in ids {
                set.insert(id);
                model.insert(id);
            }
            let mut removed = IdSet::default();
            gone.iter().for_each(|&id| removed.insert(id));
            set.retain(|id| id == 7, &removed);
            model.retain(|id| *id == 7 || !gone.contains(id));
            for id in -1..61 {
                prop_assert_eq!(set.contains(id), model.contains(&id), "{}", id);
            }
            prop_assert_eq!(set.len(), model.len() as u64);
            prop_assert!(set.ranges().windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
        }
    }

    #[test]
    fn positions_round_trip_and_damage_is_named() {
        let mut position = Position::new(1, "ab".to_owned(), 9);
        position.published.insert(9);
        position
            .tables
            .insert("企业".to_owned(), TablePosition { columns: "'id'".to_owned(), load: Load::After("7".to_owned()) });
        assert_eq!(Position::decode("s", &position.encode()).unwrap(), position);
        assert!(Position::decode("s", b"{}").is_err());
        position.form = 9;
        assert!(Position::decode("s", &position.encode()).is_err());
    }
}
