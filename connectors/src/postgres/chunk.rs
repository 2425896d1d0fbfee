//! A part of a table, read under one snapshot in the key's order, that waits for its watermark.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use guitong_schemas::change::{Before, Operation, RowImage, SnapshotMark};
use guitong_schemas::table::Table;

use super::catalogue::TableFacts;
use super::config::{quote_literal, quote_name};
use super::copy::CopyRows;
use super::fault::Faults;
use super::image;
use super::prepare::quoted;
use super::relation::Relation;
use super::session::Reading;
use super::visibility::Visibility;
use crate::source::SourceError;

/// Rows of the first chunk of a table of which the server has no estimate.
const FIRST_ROWS: usize = 1_000;

/// A table to be read.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) relation: Arc<Relation>,
    partitioned: bool,
    /// Rows left, as the server estimates them.
    pub(crate) rows: u64,
    /// Bytes of a row: the server's estimate, then what the last chunk showed.
    pub(crate) per_row: Option<u64>,
    /// Text of the last key that was read.
    pub(crate) after: Option<Vec<String>>,
}

impl Pending {
    pub(crate) fn new(relation: Arc<Relation>, facts: &TableFacts, after: Option<Vec<String>>) -> Self {
        let per_row = facts.bytes.checked_div(facts.rows);
        Self { relation, partitioned: facts.partitioned, rows: facts.rows, per_row, after }
    }
}

/// Rows of one table between two keys, as one snapshot saw them.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) relation: Arc<Relation>,
    pub(crate) snapshot: Visibility,
    pub(crate) rows: Vec<Option<RowImage>>,
    /// Place of each key's row; made when the first change of the table comes.
    by_key: Option<HashMap<Vec<u8>, usize>>,
    /// Rows read, yielded ones included.
    pub(crate) read: u64,
    pub(crate) bytes: u64,
    /// The first chunk of its table.
    first: bool,
    /// Text of the last key; `None` when the table is at its end.
    pub(crate) next: Option<Vec<String>>,
    /// Text of the last key, whether the table is at its end or not.
    pub(crate) last: Option<Vec<String>>,
    /// Keys that were read once more.
    pub(crate) again: Vec<Vec<String>>,
    pub(crate) first_of_all: bool,
    pub(crate) last_of_all: bool,
}

impl Chunk {
    /// Reads the next chunk: about `chunk_bytes` of rows, at least one.
    pub(crate) async fn read(
        pending: &Pending,
        again: Vec<Vec<String>>,
        chunk_bytes: usize,
        reading: &mut Reading,
        faults: &Faults,
    ) -> Result<Self, SourceError> {
        let columns = pending.relation.table.columns.len();
        let limit = pending.per_row.map_or(FIRST_ROWS, |bytes| {
            usize::try_from(chunk_bytes as u64 / bytes.max(1)).unwrap_or(FIRST_ROWS).clamp(1, 500_000)
        });
        let mut rows: Vec<Option<RowImage>> = Vec::new();
        let (mut bytes, mut more) = (0, false);
        let mut lines = CopyRows::default();
        let mut stream = reading.lines(&select(pending, limit + 1)).await?;
        while let Some(line) = stream.next().await? {
            // The estimate can be far off: bytes decide, and the chunk ends with the last row that is kept. The rest is read past.
            if more || rows.len() == limit || (bytes >= chunk_bytes && !rows.is_empty()) {
                more = true;
                continue;
            }
            let row = lines.row(&line, columns).map_err(|error| faults.protocol(format!("a row of COPY: {error}")))?;
            bytes += row.0.len();
            rows.push(Some(row));
        }
        drop(stream);
        let table = &pending.relation.table;
        let last = match rows.last().and_then(Option::as_ref) {
            Some(row) => {
                let key = image::key_text(row, &table.key);
                Some(key.ok_or_else(|| faults.protocol(format!("a row of {} has no key", table.name)))?)
            }
            None => None,
        };
        let mut chunk = Self {
            relation: Arc::clone(&pending.relation),
            snapshot: reading.snapshot.clone(),
            read: rows.len() as u64,
            bytes: bytes as u64,
            rows,
            by_key: None,
            first: pending.after.is_none(),
            next: last.clone().filter(|_| more),
            last,
            again,
            first_of_all: false,
            last_of_all: false,
        };
        if !chunk.again.is_empty() {
            let mut stream = reading.lines(&select_keys(pending, &chunk.again)).await?;
            while let Some(line) = stream.next().await? {
                let row = lines.row(&line, columns).map_err(|error| faults.protocol(format!("a row of COPY: {error}")))?;
                let at = chunk.rows.len();
                if let Entry::Vacant(place) = chunk.by_key().entry(image::key(&row, &table.key)) {
                    place.insert(at);
                    chunk.rows.push(Some(row));
                }
            }
        }
        Ok(chunk)
    }

    pub(crate) fn give_way(&mut self, table: &Arc<Table>, operation: Operation, before: &Before, after: &mut Option<RowImage>) {
        if operation == Operation::Truncate {
            self.rows.iter_mut().for_each(|row| *row = None);
            return;
        }
        let mut replaced = None;
        for image in before.row().into_iter().chain(after.as_ref()) {
            if let Some(at) = self.by_key().remove(&image::key(image, &table.key))
                && let Some(row) = self.rows.get_mut(at)
            {
                replaced = replaced.or(row.take());
            }
        }
        if let (Some(old), Some(new)) = (replaced, after.as_mut())
            && self.relation.table == *table
            && image::has_absent(new)
        {
            *new = image::complete(new, &old, None);
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
        let ends = self.next.is_none();
        let marks = marks(rows.len(), (self.first_of_all, self.first), (self.last_of_all, ends));
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
            (false, true) => SnapshotMark::LastInTable,
            (false, false) => *mark,
        };
    }
    marks
}

/// The query of a chunk.
fn select(pending: &Pending, limit: usize) -> String {
    let sql = select_all(pending);
    let key = key_names(&pending.relation.table);
    let after = pending.after.as_ref().map(|after| format!(" WHERE ({key}) > {}", key_literal(after)));
    format!("{sql}{} ORDER BY {key} LIMIT {limit}", after.unwrap_or_default())
}

/// The query of single rows.
fn select_keys(pending: &Pending, keys: &[Vec<String>]) -> String {
    let literals: Vec<String> = keys.iter().map(|key| key_literal(key)).collect();
    format!("{} WHERE ({}) IN ({})", select_all(pending), key_names(&pending.relation.table), literals.join(", "))
}

/// The query of the whole table.
pub(crate) fn select_all(pending: &Pending) -> String {
    let table = &pending.relation.table;
    let columns: Vec<String> = table.columns.iter().map(|column| quote_name(&column.name)).collect();
    let only = if pending.partitioned { "" } else { "ONLY " };
    format!("SELECT {} FROM {only}{}", columns.join(", "), quoted(&table.name))
}

fn key_names(table: &Table) -> String {
    table.key_columns().map(|column| quote_name(&column.name)).collect::<Vec<_>>().join(", ")
}

fn key_literal(key: &[String]) -> String {
    let values: Vec<String> = key.iter().map(|value| quote_literal(value)).collect();
    format!("({})", values.join(", "))
}
