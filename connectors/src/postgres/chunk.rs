//! A part of a table, read under one snapshot, that waits for its watermark.

use std::collections::HashMap;
use std::sync::Arc;

use guitong_schemas::change::{Before, Operation, RowImage, SnapshotMark};
use guitong_schemas::table::Table;
use tokio::sync::OwnedSemaphorePermit;

use super::changed::Change;
use super::image;
use super::relation::Relation;
use super::visibility::Visibility;

/// Rows of one table between two keys, as one snapshot saw them.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// Its watermark's name.
    pub(crate) id: u64,
    pub(crate) job: u64,
    pub(crate) range: Place,
    pub(crate) relation: Arc<Relation>,
    pub(crate) snapshot: Visibility,
    pub(crate) rows: Vec<Option<RowImage>>,
    /// Place of each key's row; made when the first change of the table comes.
    pub(crate) by_key: Option<HashMap<Vec<u8>, usize>>,
    /// Keys, as text, to which rows moved that came with columns missing, and that this chunk's snapshot does not see there: they are to
    /// be read where they are now.
    pub(crate) lacking: Vec<Vec<String>>,
    /// Rows read, yielded ones included.
    pub(crate) read: u64,
    pub(crate) bytes: u64,
    /// Text of the last key that was read; `None` when the range is at its end.
    pub(crate) next: Option<Vec<String>>,
    /// Arrivals that had been noted when it was begun.
    pub(crate) begun: u64,
    pub(crate) marks: Marks,
    /// Bounds how much is read and not handed out.
    pub(crate) _permit: OwnedSemaphorePermit,
}

/// Which part of its table a chunk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Range(u32),
    /// Keys that are read once more.
    Again(Vec<Vec<String>>),
}

/// Where a chunk stands, as far as Debezium's words say it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Marks {
    pub(crate) first: bool,
    pub(crate) first_of_all: bool,
    pub(crate) last: bool,
    pub(crate) last_of_all: bool,
}

impl Chunk {
    /// Rows yield to a change that came before the chunk did; a row that completes the change is handed out in its place.
    pub(crate) fn replay(&mut self, change: &Change) {
        if change.truncated {
            return self.clear();
        }
        self.lacking.extend(change.lacking.clone());
        let mut replaced = None;
        for key in change.keys.iter().flatten() {
            replaced = self.remove(key).or(replaced);
            self.touch(key);
        }
        if let (Some((at, old)), Some(partial), [_, Some(key)]) = (replaced, &change.partial, &change.keys)
            && self.relation.table == change.table
        {
            let whole = image::complete(partial, &old, None);
            if let Some(row) = self.rows.get_mut(at) {
                *row = Some(whole);
                self.by_key().insert(key.clone(), at);
            }
        }
    }

    /// Rows yield to a change that is being handed out, which takes its absent columns from them.
    pub(crate) fn give_way(&mut self, table: &Arc<Table>, operation: Operation, before: &Before, after: &mut Option<RowImage>) {
        if operation == Operation::Truncate {
            return self.clear();
        }
        let mut replaced = None;
        for image in before.row().into_iter().chain(after.as_ref()) {
            let key = image::key(image, &table.key);
            replaced = self.remove(&key).or(replaced);
            self.touch(&key);
        }
        // A row that moved here lacks what stood under its old key, not what stands here.
        if let (Some((_, old)), Some(new), Operation::Update) = (replaced, after.as_mut(), operation)
            && self.relation.table == *table
            && image::has_absent(new)
        {
            *new = image::complete(new, &old, None);
        }
    }

    /// A row that moved to another key, completed from the row under its old one.
    pub(crate) fn complete_moved(&mut self, old: &RowImage, new: &RowImage) -> Option<RowImage> {
        let key = image::key(old, &self.relation.table.key);
        let at = *self.by_key().get(&key)?;
        let row = self.rows.get(at)?.as_ref()?;
        Some(image::complete(new, row, None))
    }

    fn clear(&mut self) {
        self.rows.iter_mut().for_each(|row| *row = None);
        self.by_key = None;
    }

    fn remove(&mut self, key: &[u8]) -> Option<(usize, RowImage)> {
        let at = self.by_key().remove(key)?;
        Some((at, self.rows.get_mut(at)?.take()?))
    }

    /// A key that changed since the snapshot is not the one that was to be read once more.
    fn touch(&mut self, key: &[u8]) {
        if let Place::Again(keys) = &mut self.range {
            keys.retain(|text| image::key_of_text(text) != key);
        }
    }

    /// Places of the rows by key.
    pub(crate) fn by_key(&mut self) -> &mut HashMap<Vec<u8>, usize> {
        let (rows, key) = (&self.rows, &self.relation.table.key);
        self.by_key.get_or_insert_with(|| {
            rows.iter().enumerate().filter_map(|(at, row)| Some((image::key(row.as_ref()?, key), at))).collect()
        })
    }

    pub(crate) fn yielded(&self) -> usize {
        self.rows.iter().filter(|row| row.is_none()).count()
    }

    /// The rows that are left, each with its mark.
    pub(crate) fn into_rows(self) -> (Arc<Table>, Vec<RowImage>, Vec<SnapshotMark>) {
        let rows: Vec<RowImage> = self.rows.into_iter().flatten().collect();
        let at = self.marks;
        let marks = marks(rows.len(), (at.first_of_all, at.first), (at.last_of_all, at.last));
        (Arc::clone(&self.relation.table), rows, marks)
    }
}

/// Debezium's words for where rows stand: `first` and `last` are (of all tables, of this table).
pub(crate) fn marks(rows: usize, first: (bool, bool), last: (bool, bool)) -> Vec<SnapshotMark> {
    let mut marks = vec![SnapshotMark::Inside; rows];
    if let Some(mark) = marks.first_mut() {
        *mark = match first {
            (true, _) => SnapshotMark::First,
            (false, true) => SnapshotMark::FirstInTable,
            (false, false) => SnapshotMark::Inside,
        };
    }
    if let Some(mark) = marks.last_mut() {
        *mark = match last {
            (true, _) => SnapshotMark::Last,
            // The first row of all stays that, also where it is its table's only one.
            (false, true) if *mark != SnapshotMark::First => SnapshotMark::LastInTable,
            (false, _) => *mark,
        };
    }
    marks
}
