//! The batch that is being put together: records as ranges of one buffer, so that a batch is one allocation and not thousands.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use guitong_log::{Batch, Headers, NewRecord, StateChange};
use guitong_schemas::avro::form::DeleteLeaves;
use guitong_schemas::avro::schema::SourceKind;
use guitong_schemas::avro::{EncodeError, Marks, Stamp, frame};
use guitong_schemas::change::{BadImage, Before, Cell, Change, Operation, RowImage};
use guitong_schemas::position::Version;

use super::state::KeptRow;
use super::tables::Published;
use super::unkeyed::Worded;
use super::{PublishError, PublishSettings, Totals, image, rows};

/// Names of the headers, shared by all records.
struct Names {
    version: Arc<str>,
    before: Arc<str>,
    absent: Arc<str>,
    lossy: Arc<str>,
    dimensions: Arc<str>,
    before_dimensions: Arc<str>,
    unreadable: Arc<str>,
    too_large: Arc<str>,
    unkeyed: Arc<str>,
    /// Debezium's, on both halves of a key change.
    new_key: Arc<str>,
    old_key: Arc<str>,
}

static NAMES: LazyLock<Names> = LazyLock::new(|| Names {
    version: "guitong-version".into(),
    before: "guitong-before".into(),
    absent: "guitong-absent".into(),
    lossy: "guitong-lossy".into(),
    dimensions: "guitong-dimensions".into(),
    before_dimensions: "guitong-before-dimensions".into(),
    unreadable: "guitong-unreadable".into(),
    too_large: "guitong-too-large".into(),
    unkeyed: "guitong-unkeyed".into(),
    new_key: "__debezium.newkey".into(),
    old_key: "__debezium.oldkey".into(),
});

/// Bytes that a record has beside key and value: names and values of its headers, the log's own framing.
pub(super) const RECORD_OVERHEAD: usize = 1 << 10;
/// Bytes of a value that does not read that are kept beside its row.
const UNREADABLE_KEPT: usize = 1 << 10;

struct DraftRecord {
    /// Place in the draft's list of tables.
    table: usize,
    key: Option<Range<usize>>,
    /// `None` for a tombstone alone.
    value: Option<Range<usize>>,
    version: Range<usize>,
    before: &'static str,
    absent: Option<Range<usize>>,
    lossy: Option<Range<usize>>,
    dimensions: Option<Range<usize>>,
    before_dimensions: Option<Range<usize>>,
    unreadable: Option<Range<usize>>,
    too_large: Option<Range<usize>>,
    /// Columns of the key whose values no key can have, so that it is in words.
    unkeyed: Option<Range<usize>>,
    /// Key of the other half of a key change, as JSON.
    other_key: Option<Range<usize>>,
    deletes: bool,
    tombstone: bool,
}

/// Columns that are not in a record's value, beside those that the source did not send.
#[derive(Default)]
struct LeftOut {
    /// With the value's first bytes, in hexadecimal digits.
    unreadable: Vec<(usize, String)>,
    too_large: Vec<usize>,
}

pub(super) struct Draft {
    now_us: i64,
    buffer: Vec<u8>,
    records: Vec<DraftRecord>,
    /// Tables of the records, one entry for each run of a table's records.
    tables: Vec<Arc<Published>>,
    marks: Marks,
    /// Kept rows as of the last commit, of the keys that this batch asks for.
    fetched: HashMap<(Arc<str>, Bytes), Option<KeptRow>>,
    /// Kept rows as this batch leaves them.
    state: HashMap<(Arc<str>, Bytes), Option<KeptRow>>,
    /// The row that was deleted last, for a create that follows as the other half of a key change.
    removed: Option<((Arc<str>, Bytes), KeptRow)>,
    /// Scratch: where the fields of a key are.
    spans: Vec<Range<usize>>,
    totals: Totals,
}

/// A finished draft.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) batch: Batch,
    /// Bytes of the records.
    pub(super) bytes: usize,
    pub(super) totals: Totals,
}

impl Draft {
    /// `room` is about what the records will come to, in bytes: a buffer that has to grow is twice what it needs to be.
    pub(super) fn new(now_us: i64, fetched: HashMap<(Arc<str>, Bytes), Option<KeptRow>>, room: usize) -> Self {
        Self {
            now_us,
            buffer: Vec::with_capacity(room),
            records: vec![],
            tables: vec![],
            marks: Marks::default(),
            fetched,
            state: HashMap::new(),
            removed: None,
            spans: vec![],
            totals: Totals::default(),
        }
    }

    pub(super) fn now_us(&self) -> i64 {
        self.now_us
    }

    /// What is kept of a row, as of this place in the batch.
    pub(super) fn kept(&self, topic: &Arc<str>, key: &Bytes) -> Option<&KeptRow> {
        let place = (Arc::clone(topic), key.clone());
        self.state.get(&place).or_else(|| self.fetched.get(&place)).and_then(Option::as_ref)
    }

    /// What is kept of the rows of all tables but one, for the draft that goes on after a truncate of that one.
    pub(super) fn kept_beside(&self, truncated: &Arc<str>) -> HashMap<(Arc<str>, Bytes), Option<KeptRow>> {
        let all = self.fetched.iter().chain(&self.state);
        all.filter(|((topic, _), _)| topic != truncated).map(|(place, kept)| (place.clone(), kept.clone())).collect()
    }

    /// What was kept of the row that was deleted just before.
    pub(super) fn kept_of_removed(&self, topic: &Arc<str>, key: &Bytes) -> Option<&KeptRow> {
        self.removed.as_ref().filter(|((of, removed), _)| of == topic && removed == key).map(|(_, kept)| kept)
    }

    /// Adds the record of a change, and what it does to keyed state.
    pub(super) fn add(
        &mut self,
        mut change: Cow<'_, Change>,
        table: &Arc<Published>,
        other_half: Option<&RowImage>,
        settings: &PublishSettings,
    ) -> Result<(), PublishError> {
        let place = self.place(table);
        self.keep(&change, table)?;
        let start = self.buffer.len();
        let is_truncate = change.operation == Operation::Truncate;
        let has_key = table.is_keyed() && !is_truncate;
        let spelled = if has_key { self.key(&mut change, table)? } else { Vec::new() };
        let key = has_key.then_some(start..self.buffer.len());
        let leaves = leaves(&change, settings);
        let value_start = self.buffer.len();
        self.marks.clear();
        let LeftOut { mut unreadable, mut too_large } = if leaves == DeleteLeaves::Tombstone {
            LeftOut::default()
        } else {
            self.value(&mut change, table, start, settings.max_record)?
        };
        let value = (leaves != DeleteLeaves::Tombstone).then_some(value_start..self.buffer.len());
        self.marks.absent.extend(spelled.iter().map(|(column, _)| *column));
        unreadable.extend(spelled);
        // A trigger writes whole rows: what it left out was over the limit.
        if settings.kind == SourceKind::Changelog && change.after.is_some() {
            let left_out = self
                .marks
                .absent
                .iter()
                .filter(|column| !too_large.contains(column) && unreadable.iter().all(|(unread, _)| unread != *column));
            too_large.extend(left_out.copied().collect::<Vec<_>>());
        }
        self.marks.lossy.extend(unreadable.iter().map(|(column, _)| *column));
        self.totals.events += 1;
        self.totals.lossy += u64::from(!self.marks.lossy.is_empty());
        self.totals.too_large += u64::from(!too_large.is_empty());
        let marks = std::mem::take(&mut self.marks);
        let record = DraftRecord {
            key,
            value,
            version: self.version(change.version),
            before: change.before.code(),
            absent: self.names(&marks.absent, table),
            lossy: self.names(&marks.lossy, table),
            dimensions: self.told(&marks.shaped, table),
            before_dimensions: self.told(&marks.shaped_before, table),
            unreadable: self.told(&unreadable, table),
            too_large: self.names(&too_large, table),
            unkeyed: None,
            other_key: other_half.and_then(|row| self.key_json(row, table)),
            deletes: change.operation == Operation::Delete,
            tombstone: table.is_keyed() && leaves == DeleteLeaves::EventAndTombstone,
            table: place,
        };
        self.marks = marks;
        self.records.push(record);
        Ok(())
    }

    /// Adds the record of a row that has no key of its own, marked so that whoever reads it sets it aside. Its delete is its tombstone alone.
    pub(super) fn add_unkeyed(
        &mut self,
        Worded { change, unkeyed, too_large }: Worded,
        table: &Arc<Published>,
        settings: &PublishSettings,
    ) -> Result<(), PublishError> {
        tracing::warn!(table = %change.table.name, version = %change.version, "a row whose key is none is set aside");
        self.add(Cow::Owned(change), table, None, settings)?;
        self.totals.too_large += u64::from(!too_large.is_empty());
        let (unkeyed, too_large) = (self.names(&unkeyed, table), self.names(&too_large, table));
        if let Some(record) = self.records.last_mut() {
            if record.deletes {
                (record.value, record.tombstone) = (None, false);
            } else {
                (record.unkeyed, record.too_large) = (unkeyed, record.too_large.take().or(too_large));
            }
        }
        Ok(())
    }

    /// Writes the key of a change's row. A text of it that does not read, such as one that is not UTF-8, is spelled out in the key and in the
    /// row, which so has a key of its own; the columns of such texts, each with its first bytes.
    fn key(&mut self, change: &mut Cow<'_, Change>, table: &Arc<Published>) -> Result<Vec<(usize, String)>, PublishError> {
        let mut spelled: Vec<(usize, String)> = Vec::new();
        loop {
            let row = row_of(change).ok_or_else(|| image(change, BadImage("is missing, so the row has no key")))?;
            match table.plan.key(row, table.key_id, &mut self.buffer) {
                Ok(()) => return Ok(spelled),
                Err(EncodeError::Cell { index, column, problem, .. })
                    if rows::is_text(&change.table, index) && spelled.iter().all(|(column, _)| *column != index) =>
                {
                    tracing::warn!(table = %change.table.name, %column, problem, version = %change.version, "a key was spelled out");
                    spelled.push((index, first_bytes(change, index)));
                    map_rows(change, |row| rows::spelled(row, index))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes the value of a change whose record begins at `start`, without what of it does not read or is over the limit.
    fn value(
        &mut self,
        change: &mut Cow<'_, Change>,
        table: &Arc<Published>,
        start: usize,
        max_record: usize,
    ) -> Result<LeftOut, PublishError> {
        let mut out = LeftOut::default();
        let value_start = self.buffer.len();
        loop {
            let stamp = Stamp { schema_id: table.value_id, processed_us: self.now_us };
            match table.plan.value(change, stamp, &mut self.buffer, &mut self.marks) {
                Ok(()) => {}
                // A value that does not read is left out and named; the rest of the row goes on.
                Err(EncodeError::Cell { index, column, problem, .. })
                    if !change.table.key.contains(&index) && out.unreadable.iter().all(|(column, _)| *column != index) =>
                {
                    tracing::warn!(table = %change.table.name, %column, problem, version = %change.version, "a value was left out");
                    out.unreadable.push((index, first_bytes(change, index)));
                    leave_out(change, index)?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            let beside: usize = out.unreadable.iter().map(|(_, digits)| digits.len()).sum();
            let size = self.buffer.len() - start + beside + RECORD_OVERHEAD;
            if size <= max_record {
                return Ok(out);
            }
            self.buffer.truncate(value_start);
            let largest = [change.before.row(), change.after.as_ref()]
                .into_iter()
                .flatten()
                .filter_map(|row| rows::largest(row, &change.table))
                .max_by_key(|&(_, length)| length);
            let Some((index, _)) = largest else {
                return Err(PublishError::TooLarge { table: change.table.name.to_string(), size, limit: max_record });
            };
            tracing::warn!(table = %change.table.name, version = %change.version, size, "a value over the limit was left out");
            out.too_large.push(index);
            leave_out(change, index)?;
        }
    }

    /// Adds the delete of a key that the topic holds, by a truncate: `version` is the delete's. A key of another schema than the table's
    /// present one gets its tombstone alone, since the envelope cannot say it.
    pub(super) fn delete(
        &mut self,
        key: &[u8],
        change: &Change,
        table: &Arc<Published>,
        settings: &PublishSettings,
    ) -> Result<(), PublishError> {
        let place = self.place(table);
        let start = self.buffer.len();
        self.buffer.extend_from_slice(key);
        let value_start = self.buffer.len();
        let leaves = leaves(change, settings);
        // A tombstone says no more than the key.
        let fields = if leaves == DeleteLeaves::Tombstone { None } else { self.key_fields(key, table)? };
        if let Some(fields) = &fields {
            let stamp = Stamp { schema_id: table.value_id, processed_us: self.now_us };
            table.plan.delete(fields, change, stamp, &mut self.buffer, &mut self.marks);
        }
        let value = fields.map(|_| value_start..self.buffer.len());
        self.totals.events += 1;
        let absent = std::mem::take(&mut self.marks.absent);
        let record = DraftRecord {
            key: Some(start..value_start),
            tombstone: value.is_some() && leaves == DeleteLeaves::EventAndTombstone,
            value,
            version: self.version(change.version),
            before: "key",
            absent: self.names(&absent, table),
            lossy: None,
            dimensions: None,
            before_dimensions: None,
            unreadable: None,
            too_large: None,
            unkeyed: None,
            other_key: None,
            deletes: true,
            table: place,
        };
        self.marks.absent = absent;
        self.records.push(record);
        Ok(())
    }

    /// Place of a table in the list; it is mostly that of the record before.
    fn place(&mut self, table: &Arc<Published>) -> usize {
        if !self.tables.last().is_some_and(|last| Arc::ptr_eq(last, table)) {
            self.tables.push(Arc::clone(table));
        }
        self.tables.len() - 1
    }

    /// The version as its `Display` writes it, without the cost of formatting.
    fn version(&mut self, version: Version) -> Range<usize> {
        let start = self.buffer.len();
        let Version { epoch, commit, change, index, revision } = version;
        for (at, part) in [u64::from(epoch), commit, change, u64::from(index), u64::from(revision)].into_iter().enumerate() {
            if at > 0 {
                self.buffer.push(b'/');
            }
            hexadecimal(part, &mut self.buffer);
        }
        start..self.buffer.len()
    }

    fn key_json(&mut self, row: &RowImage, table: &Published) -> Option<Range<usize>> {
        let start = self.buffer.len();
        table.plan.key_json(row, &mut self.buffer).then_some(start..self.buffer.len())
    }

    /// Column names, one a line.
    fn names(&mut self, columns: &[usize], table: &Published) -> Option<Range<usize>> {
        if columns.is_empty() {
            return None;
        }
        let start = self.buffer.len();
        for (count, &column) in columns.iter().enumerate() {
            if count > 0 {
                self.buffer.push(b'\n');
            }
            self.buffer.extend_from_slice(table.plan.field(column).map_or(b"", |name| name.as_bytes()));
        }
        Some(start..self.buffer.len())
    }

    /// What is to be told of columns, one a line: such as the first bytes of a value that did not read, a space, and the column's field.
    fn told(&mut self, columns: &[(usize, String)], table: &Published) -> Option<Range<usize>> {
        let start = self.buffer.len();
        for (column, told) in columns {
            if self.buffer.len() > start {
                self.buffer.push(b'\n');
            }
            let name = table.plan.field(*column).map_or(b"".as_slice(), |name| name.as_bytes());
            self.buffer.extend([told.as_bytes(), b" ", name].into_iter().flatten());
        }
        (!columns.is_empty()).then_some(start..self.buffer.len())
    }

    /// Notes what keyed state holds of the row after this change.
    fn keep(&mut self, change: &Change, table: &Arc<Published>) -> Result<(), PublishError> {
        let Some(row) = row_of(change).filter(|_| table.keeps_cells()) else { return Ok(()) };
        let of_image = |error| image(change, error);
        let after = change.after.as_ref();
        let kept = after.map(|after| rows::to_keep(after, &change.table)).transpose().map_err(of_image)?.flatten();
        // Of a row that was not there before nothing is kept that would have to go.
        if kept.is_none() && (!table.has_cells() || change.operation == Operation::Create) {
            return Ok(());
        }
        table.note_cells();
        let key = rows::state_key(row, &change.table).map_err(of_image)?;
        if after.is_none() {
            let removed = self.kept(table.topic(), &key).cloned();
            self.removed = removed.map(|removed| ((Arc::clone(table.topic()), key.clone()), removed));
        }
        self.state.insert((Arc::clone(table.topic()), key), kept);
        Ok(())
    }

    /// The fields of a key as the topic holds it; `None` where it is of another schema than the table's key.
    fn key_fields<'k>(&mut self, key: &'k [u8], table: &Published) -> Result<Option<Vec<&'k [u8]>>, PublishError> {
        let Some(plan) = &table.key_plan else { return Ok(table.plan.fields_of_json_key(key)) };
        let Ok((id, avro)) = frame::read(key) else { return Ok(None) };
        if table.key_id != id {
            return Ok(None);
        }
        plan.spans(avro, &mut self.spans).map_err(|_| PublishError::State("a key of the topic does not read"))?;
        Ok(Some(self.spans.iter().filter_map(|span| avro.get(span.clone())).collect()))
    }

    /// Forgets the rows of a table that a truncate emptied.
    pub(super) fn forget(&mut self, topic: &Arc<str>, keys: impl Iterator<Item = Bytes>) {
        self.state.extend(keys.map(|key| ((Arc::clone(topic), key), None)));
    }

    pub(super) fn finish(mut self) -> Finished {
        let bytes = self.buffer.len();
        self.totals.bytes += bytes as u64;
        let buffer = Bytes::from(self.buffer);
        let timestamp_ms = self.now_us.div_euclid(1000);
        let mut records = Vec::with_capacity(self.records.len());
        for draft in &self.records {
            let Some(table) = self.tables.get(draft.table) else { continue };
            let record = NewRecord {
                topic: Arc::clone(table.topic()),
                partition: Some(0),
                key: draft.key.clone().map(|range| buffer.slice(range)),
                value: draft.value.clone().map(|range| buffer.slice(range)),
                headers: headers(draft, &buffer),
                timestamp_ms,
            };
            if draft.tombstone {
                let tombstone = NewRecord { value: None, ..record.clone() };
                records.extend([record, tombstone]);
            } else {
                records.push(record);
            }
        }
        let state = self.state.into_iter();
        let state = state.map(|((map, key), kept)| StateChange { map, key, value: kept.map(|kept| kept.encode()) }).collect();
        Finished { batch: Batch { records, state, ..Batch::default() }, bytes, totals: self.totals }
    }
}

/// Upper-case digits without leading zeros.
fn hexadecimal(value: u64, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digits = (16 - value.leading_zeros() / 4).max(1);
    out.extend((0..digits).rev().map(|digit| DIGITS[(value >> (4 * digit)) as usize & 15]));
}

/// What the change leaves in the topic; anything but a delete is an event.
fn leaves(change: &Change, settings: &PublishSettings) -> DeleteLeaves {
    if change.operation == Operation::Delete { settings.form.delete_leaves() } else { DeleteLeaves::Event }
}

/// The row that holds the key.
fn row_of(change: &Change) -> Option<&RowImage> {
    change.after.as_ref().or_else(|| change.before.row())
}

/// The first bytes of a column's value, in hexadecimal digits.
fn first_bytes(change: &Change, column: usize) -> String {
    let value = |row: &RowImage| match row.cells().nth(column)? {
        Ok(Cell::Text(value) | Cell::Binary(value)) => Some(hex::encode(&value[..value.len().min(UNREADABLE_KEPT)])),
        _ => None,
    };
    change.after.as_ref().or(change.before.row()).and_then(value).unwrap_or_default()
}

fn leave_out(change: &mut Cow<'_, Change>, column: usize) -> Result<(), PublishError> {
    map_rows(change, |row| rows::without(row, column))
}

/// Makes another row of each of a change's rows.
pub(super) fn map_rows(
    change: &mut Cow<'_, Change>,
    map: impl Fn(&RowImage) -> Result<RowImage, BadImage>,
) -> Result<(), PublishError> {
    let map = |row: &RowImage| map(row).map_err(|error| image(change, error));
    let after = change.after.as_ref().map(map).transpose()?;
    let before = match &change.before {
        Before::None => Before::None,
        Before::Key(row) => Before::Key(map(row)?),
        Before::Full(row) => Before::Full(map(row)?),
    };
    let change = change.to_mut();
    change.after = after;
    change.before = before;
    Ok(())
}

fn headers(draft: &DraftRecord, buffer: &Bytes) -> Headers {
    let mut headers = Vec::with_capacity(2);
    headers.push((Arc::clone(&NAMES.version), buffer.slice(draft.version.clone())));
    headers.push((Arc::clone(&NAMES.before), Bytes::from_static(draft.before.as_bytes())));
    for (name, range) in [
        (&NAMES.absent, &draft.absent),
        (&NAMES.lossy, &draft.lossy),
        (&NAMES.dimensions, &draft.dimensions),
        (&NAMES.before_dimensions, &draft.before_dimensions),
        (&NAMES.unreadable, &draft.unreadable),
        (&NAMES.too_large, &draft.too_large),
        (&NAMES.unkeyed, &draft.unkeyed),
    ] {
        if let Some(range) = range {
            headers.push((Arc::clone(name), buffer.slice(range.clone())));
        }
    }
    if let Some(range) = &draft.other_key {
        let name = if draft.deletes { &NAMES.new_key } else { &NAMES.old_key };
        headers.push((Arc::clone(name), buffer.slice(range.clone())));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_as_formatted() {
        for value in [0, 1, 0xF, 0x10, 0xABC, 0x16_B374_D848, u64::MAX] {
            let mut out = Vec::new();
            hexadecimal(value, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{value:X}"));
        }
    }
}
