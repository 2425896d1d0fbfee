//! The encode plan of a table: row images straight into Avro bytes or JSON text, with no value tree and no allocation but the
//! output's. What of a row is written, and in which order, is said here once; how it is written says the [`Output`].
//!
//! What a source did not send is never passed off as data: it gets Debezium's filler, and [`Marks`] names the column. What the
//! Avro type cannot hold (NaN in a decimal) is null, or the filler where null is not allowed, and named too.

mod array;
mod binary;
mod cell;
mod iso;
mod json;
mod notice;
mod number;
mod output;
mod source;
mod time;

use std::sync::Arc;

use thiserror::Error;

use self::cell::Wire;
use self::json::JsonOutput;
pub use self::notice::NoticePlan;
use self::output::{AvroOutput, Output, Part};
use self::source::{Scalar, SourceBlock};
use super::form::{Converter, DELETED, EventForm, Metadata, Unwrap};
use super::frame;
use super::schema::{self, SchemaError, TableContext};
use crate::change::{BadImage, Before, Cell, Change, Operation, RowImage};
use crate::table::{Column, Table};

/// Columns of one encoded change that do not hold what the row held; indexes into the table's columns, ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// Not sent by the source: a filler stands there. They are of `after`, or of `before` where there is no `after`.
    pub absent: Vec<usize>,
    /// Sent, but beyond what the Avro type holds.
    pub lossy: Vec<usize>,
    /// Arrays whose elements are written one after another, with their dimensions as PostgreSQL's `array_dims` gives them; of the same
    /// image as [`Marks::absent`].
    pub shaped: Vec<(usize, String)>,
    /// The same of `before`, where there is an `after`.
    pub shaped_before: Vec<(usize, String)>,
}

impl Marks {
    pub fn clear(&mut self) {
        self.absent.clear();
        self.lossy.clear();
        self.shaped.clear();
        self.shaped_before.clear();
    }
}

/// What goes into one encoded value beside the change.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// Id of the value's schema in the registry; JSON has none.
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
    /// Written, and what the Avro type does not say of it is to be told beside it ([`array::dimensions`]).
    Shaped,
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
    /// Its field.
    name: Arc<str>,
    /// What stands before its value in JSON.
    label: Box<[u8]>,
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

/// Fields that stand behind the columns of a row that is an event by itself.
#[derive(Debug)]
struct Unwrapped {
    /// Before the others: whether the row is gone.
    deleted: Option<Box<[u8]>>,
    /// Each with what stands before it in JSON.
    added: Box<[(Box<[u8]>, Metadata)]>,
}

impl Unwrapped {
    fn compile(unwrap: &Unwrap) -> Self {
        Self {
            deleted: unwrap.marks_deletes().then(|| json::label(DELETED)),
            added: unwrap.added.iter().map(|added| (json::label(&added.name), added.of)).collect(),
        }
    }
}

/// Compiled from a table: its topic, its schemas, and how each column is written.
#[derive(Debug)]
pub struct EncodePlan {
    topic: Arc<str>,
    slots: Box<[Slot]>,
    /// Indexes of the key's columns, in the key's order.
    key: Box<[usize]>,
    key_schema: Option<String>,
    value_schema: Option<String>,
    source: SourceBlock,
    converter: Converter,
    unwrapped: Option<Unwrapped>,
}

impl EncodePlan {
    /// # Errors
    /// [`SchemaError`] where the table has no form: two columns with one field name, a topic name over Kafka's limit.
    pub fn compile(table: &Table, context: &TableContext<'_>) -> Result<Self, SchemaError> {
        let schemas = schema::of_table(table, context)?;
        let form = context.form;
        let slots = table.columns.iter().enumerate();
        let has_schema = form.converter == Converter::Avro;
        Ok(Self {
            source: SourceBlock::compile(table, context),
            topic: schemas.topic.into(),
            slots: slots.map(|(index, column)| slot(column, table.key.contains(&index), form)).collect(),
            key: table.key.clone().into(),
            key_schema: schemas.key.filter(|_| has_schema),
            value_schema: has_schema.then_some(schemas.value),
            converter: form.converter,
            unwrapped: form.unwrap.as_ref().map(Unwrapped::compile),
        })
    }

    #[must_use]
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    #[must_use]
    pub fn has_key(&self) -> bool {
        !self.key.is_empty()
    }

    /// Avro JSON of the key; `None` for a table without one, and for JSON.
    #[must_use]
    pub fn key_schema(&self) -> Option<&str> {
        self.key_schema.as_deref()
    }

    /// Avro JSON of the value; `None` for JSON.
    #[must_use]
    pub fn value_schema(&self) -> Option<&str> {
        self.value_schema.as_deref()
    }

    /// The field of a column, as headers name it.
    #[must_use]
    pub fn field(&self, column: usize) -> Option<&Arc<str>> {
        self.slots.get(column).map(|slot| &slot.name)
    }

    /// Appends the key of `row` to `out`, in Avro framed.
    ///
    /// # Errors
    /// [`EncodeError`]; `out` is then as it was.
    pub fn key(&self, row: &RowImage, schema_id: u32, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        let written = match self.converter {
            Converter::Avro => {
                frame::write(schema_id, out);
                self.write_key(&mut AvroOutput, row, out)
            }
            Converter::Json => self.write_key(&mut JsonOutput::default(), row, out),
        };
        written.inspect_err(|_| out.truncate(start))
    }

    /// Appends the key of `row` as JSON text, which is what the headers of a key change hold; `false`, and nothing written, where the
    /// row has none.
    pub fn key_json(&self, row: &RowImage, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        self.write_key(&mut JsonOutput::default(), row, out).inspect_err(|_| out.truncate(start)).is_ok()
    }

    fn write_key<O: Output>(&self, output: &mut O, row: &RowImage, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.key.is_empty() {
            return Err(EncodeError::NoKey { topic: Arc::clone(&self.topic) });
        }
        output.begin(Part::Whole, out);
        for &wanted in &self.key {
            let mut cells = row.cells();
            let slot = self.slots.get(wanted).ok_or_else(|| self.image("is of another table"))?;
            let cell = (0..=wanted).try_fold(Cell::Null, |_, _| cells.read()).map_err(|BadImage(problem)| self.image(problem))?;
            output.open(slot, out);
            let written = match cell {
                Cell::Null => Err((Bad::new("a key without value", 0), 0)),
                Cell::Absent => Err((Bad::new("a key that was not sent", 0), 0)),
                Cell::Text(value) => output.text(&slot.wire, value, out).map_err(|bad| (bad, value.len())),
                Cell::Binary(value) => output.binary(&slot.wire, value, out).map_err(|bad| (bad, value.len())),
            };
            match written {
                Ok(Fit::Unfit | Fit::Partly | Fit::Shaped) => {
                    return Err(self.cell(wanted, Bad::new("a key that its type cannot hold", 0), 0));
                }
                Ok(Fit::Exact) => {}
                Err((bad, length)) => return Err(self.cell(wanted, bad, length)),
            }
        }
        output.end(out);
        Ok(())
    }

    /// Appends the value of `change` to `out`, in Avro framed, and notes in `marks` (cleared first) what is not as the row has it.
    ///
    /// # Errors
    /// [`EncodeError`]; `out` is then as it was.
    pub fn value(&self, change: &Change, stamp: Stamp, out: &mut Vec<u8>, marks: &mut Marks) -> Result<(), EncodeError> {
        let start = out.len();
        marks.clear();
        let written = match self.converter {
            Converter::Avro => {
                frame::write(stamp.schema_id, out);
                self.write_value(&mut AvroOutput, change, stamp, out, marks)
            }
            Converter::Json => self.write_value(&mut JsonOutput::default(), change, stamp, out, marks),
        };
        written.inspect_err(|_| out.truncate(start))
    }

    fn write_value<O: Output>(
        &self,
        output: &mut O,
        change: &Change,
        stamp: Stamp,
        out: &mut Vec<u8>,
        marks: &mut Marks,
    ) -> Result<(), EncodeError> {
        debug_assert!(change.operation != Operation::Truncate || change.after.is_none());
        if let Some(unwrapped) = &self.unwrapped {
            let (row, sent) = match (&change.after, &change.before) {
                (Some(row), _) | (None, Before::Full(row)) => (row, Sent::Whole),
                (None, Before::Key(row)) => (row, Sent::KeyOnly),
                (None, Before::None) => return Err(self.image("is missing, and an unwrapped event is nothing else")),
            };
            output.begin(Part::Whole, out);
            self.write_row(output, row, sent, out, marks)?;
            self.write_added(output, unwrapped, change, stamp, out);
            return Ok(());
        }
        let mut before_marks = Marks::default();
        // The absent columns of `before` count only where there is no `after`; a lossy one counts in either.
        let of_before = if change.after.is_some() { &mut before_marks } else { &mut *marks };
        match &change.before {
            Before::None => output.none(Part::Before, out),
            Before::Key(row) => self.write_image(output, Part::Before, (row, Sent::KeyOnly), out, of_before)?,
            Before::Full(row) => self.write_image(output, Part::Before, (row, Sent::Whole), out, of_before)?,
        }
        match &change.after {
            None => output.none(Part::After, out),
            Some(row) => self.write_image(output, Part::After, (row, Sent::Whole), out, marks)?,
        }
        marks.shaped_before = before_marks.shaped;
        for column in before_marks.lossy {
            if let Err(at) = marks.lossy.binary_search(&column) {
                marks.lossy.insert(at, column);
            }
        }
        output.rest(&self.source, change, stamp.processed_us, out);
        Ok(())
    }

    /// Appends the value of a delete of which only the key is known, as it was published: `key` holds the key's fields in the key's
    /// order, as [`EncodePlan::key`] writes them.
    pub fn delete(&self, key: &[&[u8]], change: &Change, stamp: Stamp, out: &mut Vec<u8>, marks: &mut Marks) {
        marks.clear();
        match self.converter {
            Converter::Avro => {
                frame::write(stamp.schema_id, out);
                self.write_delete(&mut AvroOutput, key, change, stamp, out, marks);
            }
            Converter::Json => self.write_delete(&mut JsonOutput::default(), key, change, stamp, out, marks),
        }
    }

    fn write_delete<O: Output>(
        &self,
        output: &mut O,
        key: &[&[u8]],
        change: &Change,
        stamp: Stamp,
        out: &mut Vec<u8>,
        marks: &mut Marks,
    ) {
        output.begin(if self.unwrapped.is_some() { Part::Whole } else { Part::Before }, out);
        for (index, slot) in self.slots.iter().enumerate() {
            match self.key.iter().position(|column| *column == index).and_then(|place| key.get(place)) {
                Some(field) => {
                    output.open(slot, out);
                    out.extend_from_slice(field);
                }
                None => {
                    if !slot.write_null(output, out) {
                        marks.absent.push(index);
                    }
                }
            }
        }
        match &self.unwrapped {
            Some(unwrapped) => self.write_added(output, unwrapped, change, stamp, out),
            None => {
                output.end(out);
                output.none(Part::After, out);
                output.rest(&self.source, change, stamp.processed_us, out);
            }
        }
    }

    /// What follows the columns of a row that is an event by itself.
    fn write_added<O: Output>(&self, output: &mut O, unwrapped: &Unwrapped, change: &Change, stamp: Stamp, out: &mut Vec<u8>) {
        if let Some(label) = &unwrapped.deleted {
            let is_deleted = change.operation == Operation::Delete;
            output.optional(label, &Scalar::Text(if is_deleted { "true" } else { "false" }.into()), out);
        }
        for (label, of) in &unwrapped.added {
            let us = stamp.processed_us;
            let value = match of {
                Metadata::Operation => Scalar::Text(change.operation.code().into()),
                Metadata::TsMs => Scalar::Number(us.div_euclid(1000)),
                Metadata::TsUs => Scalar::Number(us),
                Metadata::TsNs => Scalar::Number(us.saturating_mul(1000)),
                Metadata::Source(field) => self.source.field(*field, &change.origin),
            };
            output.optional(label, &value, out);
        }
        output.end(out);
    }

    fn write_image<O: Output>(
        &self,
        output: &mut O,
        part: Part,
        (row, sent): (&RowImage, Sent),
        out: &mut Vec<u8>,
        marks: &mut Marks,
    ) -> Result<(), EncodeError> {
        output.begin(part, out);
        self.write_row(output, row, sent, out, marks)?;
        output.end(out);
        Ok(())
    }

    fn write_row<O: Output>(
        &self,
        output: &mut O,
        row: &RowImage,
        sent: Sent,
        out: &mut Vec<u8>,
        marks: &mut Marks,
    ) -> Result<(), EncodeError> {
        let mut cells = row.cells();
        for (index, slot) in self.slots.iter().enumerate() {
            match cells.read().map_err(|BadImage(problem)| self.image(problem))? {
                Cell::Null if sent == Sent::KeyOnly && !slot.is_key => {
                    if !slot.write_null(output, out) {
                        marks.absent.push(index);
                    }
                }
                Cell::Null if slot.nullable => {
                    slot.write_null(output, out);
                }
                Cell::Null => return Err(self.cell(index, Bad::new("null in a column that is NOT NULL", 0), 0)),
                Cell::Absent => {
                    slot.write_placeholder(output, out);
                    marks.absent.push(index);
                }
                Cell::Text(value) => {
                    let at = out.len();
                    output.open(slot, out);
                    let fit = output.text(&slot.wire, value, out).map_err(|bad| self.cell(index, bad, value.len()))?;
                    slot.close(output, (at, fit, index), out, marks);
                    if fit == Fit::Shaped {
                        marks.shaped.push((index, array::dimensions(value)));
                    }
                }
                Cell::Binary(value) => {
                    let at = out.len();
                    output.open(slot, out);
                    let fit = output.binary(&slot.wire, value, out).map_err(|bad| self.cell(index, bad, value.len()))?;
                    slot.close(output, (at, fit, index), out, marks);
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
    let name = form.field_name(&column.name);
    let written = |encoded: Vec<u8>| match form.converter {
        Converter::Avro => encoded.into_boxed_slice(),
        Converter::Json => json::of_encoded(&wire, &encoded),
    };
    Slot {
        label: json::label(&name),
        name: name.into(),
        nullable: column.nullable && !is_key,
        branch: u8::from(default.is_none()),
        is_key,
        filler: written(filler),
        placeholder: has_placeholder.then(|| written(placeholder)),
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
    /// `at` is where the column began.
    fn close<O: Output>(&self, output: &mut O, (at, fit, index): (usize, Fit, usize), out: &mut Vec<u8>, marks: &mut Marks) {
        if fit == Fit::Unfit {
            out.truncate(at);
            self.write_null(output, out);
        }
        if matches!(fit, Fit::Unfit | Fit::Partly) {
            marks.lossy.push(index);
        }
    }

    /// Null where it is allowed, otherwise the filler; whether it was null.
    fn write_null<O: Output>(&self, output: &mut O, out: &mut Vec<u8>) -> bool {
        if self.nullable {
            output.null(self, out);
        } else {
            output.open(self, out);
            out.extend_from_slice(&self.filler);
        }
        self.nullable
    }

    fn write_placeholder<O: Output>(&self, output: &mut O, out: &mut Vec<u8>) {
        match &self.placeholder {
            Some(placeholder) => {
                output.open(self, out);
                out.extend_from_slice(placeholder);
            }
            None => {
                self.write_null(output, out);
            }
        }
    }
}
