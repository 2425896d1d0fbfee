//! What the stream changed while parts of tables are being read.
//!
//! A part that is being read has a snapshot that is not known yet, so each change of a table that is still to be read is noted with its
//! transaction. When the part arrives, its rows yield to the noted changes that its snapshot does not see. A note goes once every
//! reader has begun after a snapshot that sees it: visibility only grows.

use std::sync::Arc;

use bytes::Bytes;
use guitong_schemas::change::{Before, Operation, RowImage};
use guitong_schemas::table::{Table, TableName};

use super::image;
use super::visibility::Visibility;

/// What the stream did to one row, or to all of a table.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) xid: u32,
    pub(crate) table: Arc<Table>,
    /// Keys of the row before and after.
    pub(crate) keys: [Option<Vec<u8>>; 2],
    /// An updated row some columns of which were not sent.
    pub(crate) partial: Option<RowImage>,
    /// Key, as text, of a row that moved there with columns that were not sent.
    pub(crate) lacking: Option<Vec<String>>,
    /// Every row is gone.
    pub(crate) truncated: bool,
    /// The count of arrivals at which a snapshot saw it first.
    seen: Option<u64>,
}

impl Change {
    pub(crate) fn new(table: &Arc<Table>, xid: u32, operation: Operation, before: &Before, after: Option<&RowImage>) -> Self {
        let key = |row: &RowImage| image::key(row, &table.key);
        // Copied: a slice would hold the whole buffer that it was received in.
        let copied = |row: &RowImage| RowImage(Bytes::copy_from_slice(&row.0));
        // A row that moved is a delete and a create; what a create lacks is under its old key and not here.
        let absent = after.filter(|row| image::has_absent(row));
        let partial = absent.filter(|_| operation == Operation::Update).map(copied);
        let lacking = absent.filter(|_| operation == Operation::Create).and_then(|row| image::key_text(row, &table.key));
        Self {
            xid,
            table: Arc::clone(table),
            keys: [before.row().map(key), after.map(key)],
            partial,
            lacking,
            truncated: operation == Operation::Truncate,
            seen: None,
        }
    }

    fn size(&self) -> usize {
        let keys: usize = self.keys.iter().flatten().map(Vec::len).sum();
        let lacking: usize = self.lacking.iter().flatten().map(|text| size_of::<String>() + text.len()).sum();
        size_of::<Self>() + keys + lacking + self.partial.as_ref().map_or(0, |row| row.0.len())
    }
}

/// The notes, in the order of the stream.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    changes: Vec<Change>,
    pub(crate) bytes: usize,
}

impl Changed {
    pub(crate) fn note(&mut self, change: Change) {
        self.bytes += change.size();
        self.changes.push(change);
    }

    /// Changes of a table that a snapshot does not see.
    pub(crate) fn unseen<'a>(&'a self, table: &'a TableName, snapshot: &'a Visibility) -> impl Iterator<Item = &'a Change> {
        self.changes.iter().filter(move |change| change.table.name == *table && !snapshot.sees(change.xid))
    }

    /// Notes what the snapshot of the `arrival`-th part sees, and forgets what every reader sees: all have begun at or after the
    /// arrival `begun`.
    pub(crate) fn forget(&mut self, snapshot: &Visibility, arrival: u64, begun: u64) {
        for change in self.changes.iter_mut().filter(|change| change.seen.is_none() && snapshot.sees(change.xid)) {
            change.seen = Some(arrival);
        }
        self.changes.retain(|change| change.seen.is_none_or(|seen| begun < seen));
        self.bytes = self.changes.iter().map(Change::size).sum();
    }

    /// Nothing is being read any more: the transactions that no snapshot has seen are all that is left to know.
    pub(crate) fn close(&mut self) -> impl Iterator<Item = u32> {
        self.bytes = 0;
        std::mem::take(&mut self.changes).into_iter().filter(|change| change.seen.is_none()).map(|change| change.xid)
    }
}

#[cfg(test)]
mod tests {
    use guitong_schemas::change::RowBuilder;
    use guitong_schemas::table::{Column, ColumnType};

    use super::*;

    fn change(xid: u32) -> Change {
        let column = Column { name: "id".into(), kind: ColumnType::Int32, nullable: false, default: None };
        let table = Arc::new(Table { name: TableName::new("public", "t"), columns: vec![column], key: vec![0] });
        let mut row = RowBuilder::default();
        row.text(b"7").unwrap();
        Change::new(&table, xid, Operation::Create, &Before::None, Some(&row.finish()))
    }

    #[test]
    fn a_change_is_kept_until_every_reader_has_begun_after_it_was_seen() {
        let mut changed = Changed::default();
        changed.note(change(10));
        changed.note(change(12));
        let table = TableName::new("public", "t");
        let before: Visibility = "10:10:".parse().unwrap();
        let between: Visibility = "12:13:12".parse().unwrap();
        assert_eq!(changed.unseen(&table, &before).count(), 2);
        assert_eq!(changed.unseen(&table, &between).count(), 1);
        changed.forget(&between, 1, 0);
        assert_eq!(changed.unseen(&table, &before).count(), 2, "another reader may have begun before");
        changed.forget(&between, 2, 1);
        assert_eq!(changed.unseen(&table, &before).map(|change| change.xid).collect::<Vec<_>>(), [12]);
        assert_eq!(changed.close().collect::<Vec<_>>(), [12]);
        assert_eq!(changed.bytes, 0);
    }
}
