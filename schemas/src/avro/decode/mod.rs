//! The decode plan of a writer's schema: Avro bytes into values that borrow from them.
//!
//! Reads flat records (keys, entity records) and Debezium's envelope, ours as well as Debezium's own. Bytes from outside end in
//! values or a [`DecodeError`]; what is allocated is bounded by the input's length.

mod kind;
mod plan;
mod read;

use std::sync::Arc;

use thiserror::Error;

pub use self::kind::{Kind, NoKind};
pub use self::plan::{Field, PlanError, Semantic};
pub(in crate::avro) use self::plan::{Node, Record, parse};
use self::read::Reader;
use crate::change::Operation;

/// One decoded value, borrowing from the bytes and, for an enum's symbol, from the plan; what it means beyond its Avro type is
/// its field's [`Semantic`].
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    /// Avro int or long.
    Int(i64),
    Float(f32),
    Double(f64),
    /// Avro string or enum.
    Text(&'a str),
    /// Avro bytes or fixed.
    Bytes(&'a [u8]),
    /// `unscaled` is big-endian two's complement; the value is `unscaled / 10^scale`.
    Decimal {
        unscaled: &'a [u8],
        scale: i32,
    },
    List(Vec<Value<'a>>),
    Map(Vec<(&'a str, Value<'a>)>),
    /// A record within the record, in the order of its fields.
    Record(Vec<Value<'a>>),
}

/// What is wrong with the bytes, and where.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
#[error("{record}{field}: {problem}, at byte {at}")]
pub struct DecodeError {
    record: String,
    field: String,
    problem: &'static str,
    at: usize,
}

/// A decoded envelope. Rows are in the order of [`DecodePlan::fields`].
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope<'a> {
    pub operation: Operation,
    pub before: Option<Vec<Value<'a>>>,
    pub after: Option<Vec<Value<'a>>>,
    /// Commit time at the source, microseconds since 1970-01-01T00:00:00Z.
    pub source_ts_us: Option<i64>,
    /// `source.snapshot`: `false` for streamed changes.
    pub snapshot: &'a str,
}

/// Where the envelope's parts stand among the fields of the writer's record.
#[derive(Debug)]
struct EnvelopeShape {
    row: Arc<Record>,
    of_source: Arc<Record>,
    before: usize,
    after: usize,
    op: usize,
    source: usize,
    source_ts_us: Option<usize>,
    source_ts_ms: Option<usize>,
    source_snapshot: Option<usize>,
}

/// Compiled from a writer's schema.
#[derive(Debug)]
pub struct DecodePlan {
    record: Arc<Record>,
    envelope: Option<EnvelopeShape>,
}

impl DecodePlan {
    /// # Errors
    /// [`PlanError`] where `schema` is no Avro record, or has a type that contains itself.
    pub fn compile(schema: &str) -> Result<Self, PlanError> {
        let record = parse(schema)?;
        Ok(Self { envelope: EnvelopeShape::find(&record), record })
    }

    /// Full name of the writer's record.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.record.name
    }

    #[must_use]
    pub fn is_envelope(&self) -> bool {
        self.envelope.is_some()
    }

    /// Fields of a row: of `before` and `after` for an envelope, of the record itself otherwise.
    #[must_use]
    pub fn fields(&self) -> &[Field] {
        self.envelope.as_ref().map_or(&self.record.fields, |shape| &shape.row.fields)
    }

    /// Index among [`DecodePlan::fields`].
    #[must_use]
    pub fn field(&self, name: &str) -> Option<usize> {
        self.fields().iter().position(|field| &*field.name == name)
    }

    /// Decodes a record without its frame, in the order of its own fields.
    ///
    /// # Errors
    /// [`DecodeError`] where the bytes are not of this schema, or go on after the record.
    pub fn record<'a>(&'a self, avro: &'a [u8]) -> Result<Vec<Value<'a>>, DecodeError> {
        let mut reader = Reader::new(avro);
        let values = reader.fields(&self.record.fields).map_err(|stop| self.error(&stop))?;
        reader.end().map_err(|stop| self.error(&stop))?;
        Ok(values)
    }

    /// As [`DecodePlan::record`], but only those fields that are wanted, each with its place. Of the others only where they end is
    /// looked at.
    ///
    /// # Errors
    /// As [`DecodePlan::record`].
    pub fn some<'a>(
        &'a self,
        avro: &'a [u8],
        wants: impl Fn(usize) -> bool,
        take: impl FnMut(usize, Value<'a>),
    ) -> Result<(), DecodeError> {
        let mut reader = Reader::new(avro);
        let read = reader.some(&self.record.fields, wants, take).and_then(|()| reader.end());
        read.map_err(|stop| self.error(&stop))
    }

    /// Decodes an envelope without its frame.
    ///
    /// # Errors
    /// [`DecodeError`] where the bytes are not of this schema, or the schema is no envelope.
    pub fn envelope<'a>(&'a self, avro: &'a [u8]) -> Result<Envelope<'a>, DecodeError> {
        let fail = |problem| DecodeError { record: self.record.name.clone(), field: String::new(), problem, at: 0 };
        let shape = self.envelope.as_ref().ok_or_else(|| fail("the writer's schema is no envelope"))?;
        let mut reader = Reader::new(avro);
        let (mut before, mut after, mut code) = (None, None, None);
        let (mut source_ts_us, mut snapshot) = (None, "false");
        for (index, field) in self.record.fields.iter().enumerate() {
            let result = match index {
                i if i == shape.before => reader.row(field, &shape.row).map(|row| before = row),
                i if i == shape.after => reader.row(field, &shape.row).map(|row| after = row),
                i if i == shape.op => reader.value(&field.node).map(|value| code = text(&value)),
                i if i == shape.source => shape.read_source(&mut reader).map(|(ts_us, mark)| {
                    source_ts_us = ts_us;
                    snapshot = mark.unwrap_or(snapshot);
                }),
                _ => reader.skip(&field.node),
            };
            result.map_err(|stop| self.error(&stop.within(&field.name)))?;
        }
        reader.end().map_err(|stop| self.error(&stop))?;
        let operation = match code {
            Some("c") => Operation::Create,
            Some("u") => Operation::Update,
            Some("d") => Operation::Delete,
            Some("r") => Operation::Read,
            Some("t") => Operation::Truncate,
            _ => return Err(fail("op is none of c, u, d, r, t")),
        };
        Ok(Envelope { operation, before, after, source_ts_us, snapshot })
    }

    /// Where each of the [`DecodePlan::fields`] stands in `avro`, which has no frame. In an envelope these are the fields of `after`,
    /// none where it is null, and what follows it is not looked at.
    ///
    /// # Errors
    /// [`DecodeError`] where the bytes up to the row's end are not of this schema.
    pub fn spans(&self, avro: &[u8], spans: &mut Vec<std::ops::Range<usize>>) -> Result<(), DecodeError> {
        spans.clear();
        self.find(&mut Reader::new(avro), spans).map_err(|stop| self.error(&stop))
    }

    fn find(&self, reader: &mut Reader<'_>, spans: &mut Vec<std::ops::Range<usize>>) -> Result<(), read::Stop> {
        let Some(shape) = &self.envelope else {
            reader.spans(&self.record.fields, spans)?;
            return reader.end();
        };
        for (index, field) in self.record.fields.iter().enumerate() {
            let within = |stop: read::Stop| stop.within(&field.name);
            if index == shape.after {
                return match reader.has_row(field).map_err(within)? {
                    true => reader.spans(&shape.row.fields, spans).map_err(within),
                    false => Ok(()),
                };
            }
            reader.skip(&field.node).map_err(within)?;
        }
        Ok(())
    }

    #[cold]
    fn error(&self, stop: &read::Stop) -> DecodeError {
        let read::Stopped { problem, at, path } = stop.why();
        let field = path.iter().rev().fold(String::new(), |path, name| path + "." + name);
        DecodeError { record: self.record.name.clone(), field, problem, at: *at }
    }
}

fn text<'a>(value: &Value<'a>) -> Option<&'a str> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

impl EnvelopeShape {
    fn find(record: &Record) -> Option<Self> {
        let position = |name: &str| record.fields.iter().position(|field| &*field.name == name);
        let row = |index: usize| match &record.fields.get(index)?.node {
            Node::Union(branches) => branches.iter().find_map(|branch| match branch {
                Node::Record(row) => Some(Arc::clone(row)),
                _ => None,
            }),
            _ => None,
        };
        let (before, after) = (position("before")?, position("after")?);
        let (row, of_after) = (row(before)?, row(after)?);
        let source = position("source")?;
        let Node::Record(of_source) = &record.fields.get(source)?.node else { return None };
        let in_source = |name: &str| of_source.fields.iter().position(|field| &*field.name == name);
        Arc::ptr_eq(&row.fields, &of_after.fields).then_some(())?;
        Some(Self {
            before,
            after,
            op: position("op")?,
            source,
            source_ts_us: in_source("ts_us"),
            source_ts_ms: in_source("ts_ms"),
            source_snapshot: in_source("snapshot"),
            of_source: Arc::clone(of_source),
            row,
        })
    }

    /// Commit time in microseconds and `snapshot`; the other fields are passed over.
    fn read_source<'a>(&'a self, reader: &mut Reader<'a>) -> Result<(Option<i64>, Option<&'a str>), read::Stop> {
        let (mut ts_us, mut ts_ms, mut snapshot) = (None, None, None);
        for (index, field) in self.of_source.fields.iter().enumerate() {
            let at = Some(index);
            if at == self.source_ts_us || at == self.source_ts_ms || at == self.source_snapshot {
                match reader.value(&field.node).map_err(|stop| stop.within(&field.name))? {
                    Value::Int(us) if at == self.source_ts_us => ts_us = Some(us),
                    Value::Int(ms) if at == self.source_ts_ms => ts_ms = ms.checked_mul(1000),
                    Value::Text(mark) if at == self.source_snapshot => snapshot = Some(mark),
                    _ => {}
                }
            } else {
                reader.skip(&field.node).map_err(|stop| stop.within(&field.name))?;
            }
        }
        Ok((ts_us.or(ts_ms), snapshot))
    }
}
