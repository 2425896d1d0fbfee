//! The encode plan of a table: row images straight into Avro bytes, with no value tree and no allocation but the output's.
//!
//! What a source did not send is never passed off as data: it gets Debezium's filler, and [`Marks`] names the column. What the
//! Avro type cannot hold (NaN in a decimal) is null, or the filler where null is not allowed, and named too.

mod array;
mod binary;
mod cell;
mod iso;
mod key_json;
mod notice;
mod number;
mod source;
mod time;

use std::sync::Arc;

use thiserror::Error;

use self::cell::Wire;
pub use self::notice::NoticePlan;
use self::source::SourceBlock;
use super::form::EventForm;
use super::schema::{self, SchemaError, TableContext};
use super::varint::{write_bytes, write_long};
use super::{frame, names};
use crate::change::{BadImage, Before, Cell, Change, Operation, RowImage};
use crate::table::{Column, Table};

/// Columns of one encoded change that do not hold what the row held; indexes into the table's columns, ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// Not sent by the source: a filler stands there. They are of `after`, or of `before` where there is no `after`.
    pub absent: Vec<usize>,
    /// Sent, but beyond what the Avro type holds.
    pub lossy: Vec<usize>,
}

impl Marks {
    pub fn clear(&mut self) {
        self.absent.clear();
        self.lossy.clear();
    }
}

/// What goes into one encoded value beside the change.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// Id of the value's schema in the registry.
    pub schema_id: u32,
    /// When the exchange took the change, microseconds since 1970-01-01T00:00:00Z.
    pub processed_us: i64,
}

/// A row that cannot be encoded. Values are never part of the message, only where in them the problem stands.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EncodeError {
    #[error("{topic}: the row image {problem}")]
    Image { topic: Arc<str>, problem: &'static str },
    #[error("{topic}, column {column}: {problem}, at byte {at} of {length}")]
    Cell { topic: Arc<str>, column: Arc<str>, index: usize, problem: &'static str, at: usize, length: usize },
    #[error("{topic}: the table has no key")]
    NoKey { topic: Arc<str> },
}

/// Whether the Avro type held the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    Exact,
    /// Written, with a part left out.
    Partly,
    /// Not held: what was written is to be cut off.
    Unfit,
}

/// What is wrong with a value, and at which of its bytes.
#[derive(Debug, Clone, Copy)]
struct Bad {
    what: &'static str,
    at: usize,
}

impl Bad {
    fn new(what: &'static str, at: usize) -> Self {
        Self { what, at }
    }
}

/// A column, compiled.
#[derive(Debug)]
struct Slot {
    /// Its Avro field.
    name: Arc<str>,
    wire: Wire,
    nullable: bool,
    /// Position of the value in the union with null; 1 unless the column has a default.
    branch: u8,
    is_key: bool,
    /// Written where NOT NULL forbids null: the default, or the type's zero.
    filler: Box<[u8]>,
    placeholder: Option<Box<[u8]>>,
}

/// What the source sent of the image that is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Whole,
    KeyOnly,
}

/// Compiled from a table: its topic, its schemas, and how each column is written.
#[derive(Debug)]
pub struct EncodePlan {
    topic: Arc<str>,
    slots: Box<[Slot]>,
    /// Indexes of the key's columns, in the key's order.
    key: Box<[usize]>,
    key_schema: Option<String>,
    value_schema: String,
    source: SourceBlock,
}

impl EncodePlan {
    /// # Errors
    /// [`SchemaError`] where the table has no Avro form: two columns with one field name, a topic name over Kafka's limit.
    pub fn compile(table: &Table, context: &TableContext<'_>) -> Result<Self, SchemaError> {
        let schemas = schema::of_table(table, context)?;
        let slots = table
            .columns
            .iter()
            .enumerate()
            .map(|(index, column)| slot(column, table.key.contains(&index), context.form))
            .collect();
        Ok(Self {
            source: SourceBlock::compile(table, context),
            topic: schemas.topic.into(),
            slots,
            key: table.key.clone().into(),
            key_schema: schemas.key,
            value_schema: schemas.value,
        })
    }

    #[must_use]
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// Avro JSON of the key; `None` for a table without one.
    #[must_use]
    pub fn key_schema(&self) -> Option<&str> {
        self.key_schema.as_deref()
    }

    /// Avro JSON of the envelope.
    #[must_use]
    pub fn value_schema(&self) -> &str {
        &self.value_schema
    }

    /// The Avro field of a column, as headers name it.
    #[must_use]
    pub fn field(&self, column: usize) -> Option<&Arc<str>> {
        self.slots.get(column).map(|slot| &slot.name)
    }

    /// Appends the framed key of `row` to `out`.
    ///
    /// # Errors
    /// [`EncodeError`]; `out` is then as it was.
    pub fn key(&self, row: &RowImage, schema_id: u32, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        self.write_key(row, schema_id, out).inspect_err(|_| out.truncate(start))
    }

    fn write_key(&self, row: &RowImage, schema_id: u32, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.key.is_empty() {
            return Err(EncodeError::NoKey { topic: Arc::clone(&self.topic) });
        }
        frame::write(schema_id, out);
        for &wanted in &self.key {
            let mut cells = row.cells();
            let slot = self.slots.get(wanted).ok_or_else(|| self.image("is of another table"))?;
            let cell = (0..=wanted).try_fold(Cell::Null, |_, _| cells.read()).map_err(|BadImage(problem)| self.image(problem))?;
            let written = match cell {
                Cell::Null => Err((Bad::new("a key without value", 0), 0)),
                Cell::Absent => Err((Bad::new("a key that was not sent", 0), 0)),
                Cell::Text(value) => slot.wire.text(value, out).map_err(|bad| (bad, value.len())),
                Cell::Binary(value) => slot.wire.binary(value, out).map_err(|bad| (bad, value.len())),
            };
            match written {
                Ok(Fit::Unfit | Fit::Partly) => return Err(self.cell(wanted, Bad::new("a key that its type cannot hold", 0), 0)),
                Ok(Fit::Exact) => {}
                Err((bad, length)) => return Err(self.cell(wanted, bad, length)),
            }
        }
        Ok(())
    }

    /// Appends the framed envelope of `change` to `out` and notes in `marks` (cleared first) what is not as the row has it.
    ///
    /// # Errors
    /// [`EncodeError`]; `out` is then as it was.
    pub fn value(&self, change: &Change, stamp: Stamp, out: &mut Vec<u8>, marks: &mut Marks) -> Result<(), EncodeError> {
        let start = out.len();
        marks.clear();
        self.write_value(change, stamp, out, marks).inspect_err(|_| out.truncate(start))
    }

    fn write_value(&self, change: &Change, stamp: Stamp, out: &mut Vec<u8>, marks: &mut Marks) -> Result<(), EncodeError> {
        frame::write(stamp.schema_id, out);
        let mut before_marks = Marks::default();
        // The absent columns of `before` count only where there is no `after`; a lossy one counts in either.
        let of_before = if change.after.is_some() { &mut before_marks } else { &mut *marks };
        match &change.before {
            Before::None => write_long(out, 0),
            Before::Key(row) => self.write_row(row, Sent::KeyOnly, out, of_before)?,
            Before::Full(row) => self.write_row(row, Sent::Whole, out, of_before)?,
        }
        match &change.after {
            None => write_long(out, 0),
            Some(row) => self.write_row(row, Sent::Whole, out, marks)?,
        }
        for column in before_marks.lossy {
            if let Err(at) = marks.lossy.binary_search(&column) {
                marks.lossy.insert(at, column);
            }
        }
        debug_assert!(change.operation != Operation::Truncate || change.after.is_none());
        self.write_rest(change, stamp, out);
        Ok(())
    }

    /// Appends the framed envelope of a delete of which only the key is known, as it was published: `key` holds the key's fields in Avro,
    /// in the key's order, written under this plan's key schema.
    pub fn delete(&self, key: &[&[u8]], change: &Change, stamp: Stamp, out: &mut Vec<u8>, marks: &mut Marks) {
        marks.clear();
        frame::write(stamp.schema_id, out);
        write_long(out, 1);
        for (index, slot) in self.slots.iter().enumerate() {
            match self.key.iter().position(|column| *column == index).and_then(|place| key.get(place)) {
                Some(field) => out.extend_from_slice(field),
                None => {
                    if !slot.write_null(out) {
                        marks.absent.push(index);
                    }
                }
            }
        }
        write_long(out, 0);
        self.write_rest(change, stamp, out);
    }

    /// What follows the rows.
    fn write_rest(&self, change: &Change, stamp: Stamp, out: &mut Vec<u8>) {
        self.source.write(&change.origin, out);
        source::write_transaction(&change.origin.place, change.version.commit, out);
        write_bytes(out, change.operation.code().as_bytes());
        let us = stamp.processed_us;
        for time in [us.div_euclid(1000), us, us.saturating_mul(1000)] {
            write_long(out, 1);
            write_long(out, time);
        }
    }

    fn write_row(&self, row: &RowImage, sent: Sent, out: &mut Vec<u8>, marks: &mut Marks) -> Result<(), EncodeError> {
        write_long(out, 1);
        let mut cells = row.cells();
        for (index, slot) in self.slots.iter().enumerate() {
            match cells.read().map_err(|BadImage(problem)| self.image(problem))? {
                Cell::Null if sent == Sent::KeyOnly && !slot.is_key => {
                    if !slot.write_null(out) {
                        marks.absent.push(index);
                    }
                }
                Cell::Null if slot.nullable => {
                    slot.write_null(out);
                }
                Cell::Null => return Err(self.cell(index, Bad::new("null in a column that is NOT NULL", 0), 0)),
                Cell::Absent => {
                    slot.write_placeholder(out);
                    marks.absent.push(index);
                }
                Cell::Text(value) => {
                    let at = slot.open(out);
                    let fit = slot.wire.text(value, out).map_err(|bad| self.cell(index, bad, value.len()))?;
                    slot.close(at, fit, index, out, marks);
                }
                Cell::Binary(value) => {
                    let at = slot.open(out);
                    let fit = slot.wire.binary(value, out).map_err(|bad| self.cell(index, bad, value.len()))?;
                    slot.close(at, fit, index, out, marks);
                }
            }
        }
        if cells.is_empty() { Ok(()) } else { Err(self.image("has more columns than the table")) }
    }

    #[cold]
    fn image(&self, problem: &'static str) -> EncodeError {
        EncodeError::Image { topic: Arc::clone(&self.topic), problem }
    }

    #[cold]
    fn cell(&self, index: usize, bad: Bad, length: usize) -> EncodeError {
        let column = self.slots.get(index).map_or_else(|| "?".into(), |slot| Arc::clone(&slot.name));
        EncodeError::Cell { topic: Arc::clone(&self.topic), column, index, problem: bad.what, at: bad.at, length }
    }
}

fn slot(column: &Column, is_key: bool, form: &EventForm) -> Slot {
    let wire = Wire::of(&column.kind, form);
    let default = schema::default_of(column, form);
    let filler = default.as_ref().map_or_else(
        || {
            let mut zero = vec![];
            wire.zero(&mut zero);
            zero
        },
        |(encoded, _)| encoded.clone(),
    );
    let mut placeholder = vec![];
    let has_placeholder = wire.placeholder(&form.placeholder, &mut placeholder);
    Slot {
        name: names::field_name(&column.name, form.names).into(),
        nullable: column.nullable && !is_key,
        branch: u8::from(default.is_none()),
        is_key,
        filler: filler.into(),
        placeholder: has_placeholder.then(|| placeholder.into()),
        wire,
    }
}

/// A column's value in PostgreSQL's text form, encoded; `None` where the type has no form for it.
pub(super) fn encode_default(column: &Column, text: &str, form: &EventForm) -> Option<Vec<u8>> {
    let mut out = vec![];
    match Wire::of(&column.kind, form).text(text.as_bytes(), &mut out) {
        Ok(Fit::Exact) => Some(out),
        _ => None,
    }
}

impl Slot {
    fn open(&self, out: &mut Vec<u8>) -> usize {
        let at = out.len();
        if self.nullable {
            // A zigzag 0 or 1.
            out.push(self.branch << 1);
        }
        at
    }

    fn close(&self, at: usize, fit: Fit, index: usize, out: &mut Vec<u8>, marks: &mut Marks) {
        if fit == Fit::Unfit {
            out.truncate(at);
            self.write_null(out);
        }
        if fit != Fit::Exact {
            marks.lossy.push(index);
        }
    }

    /// Null where it is allowed, otherwise the filler; whether it was null.
    fn write_null(&self, out: &mut Vec<u8>) -> bool {
        if self.nullable {
            out.push((1 - self.branch) << 1);
        } else {
            out.extend_from_slice(&self.filler);
        }
        self.nullable
    }

    fn write_placeholder(&self, out: &mut Vec<u8>) {
        match &self.placeholder {
            Some(placeholder) => {
                self.open(out);
                out.extend_from_slice(placeholder);
            }
            None => {
                self.write_null(out);
            }
        }
    }
}
