//! Standard records out of their Avro bytes, by the schema they were written with, in the order of the entity.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use guitong_log::Record;
use guitong_log::registry::{RegistryError, SchemaRegistry};
use guitong_schemas::avro::{DecodePlan, Value, frame};
use guitong_schemas::position::Version;
use guitong_schemas::standard::{Entity, FieldKind, StandardValue, Step};
use thiserror::Error;

/// Why a record can never be delivered as it is. Holds no data of it.
#[derive(Debug, Error)]
pub(crate) enum Unreadable {
    #[error("the record has no key")]
    NoKey,
    #[error("the record's header `{0}` is missing or damaged")]
    Header(&'static str),
    #[error("{0}")]
    Frame(#[from] frame::FrameError),
    #[error("the schema registry has no schema {0}")]
    NoSchema(u32),
    #[error("{0}")]
    Avro(#[from] guitong_schemas::avro::DecodeError),
    #[error("field {0} is not of the entity's type")]
    Type(String),
    #[error("the key has {has} parts, not {wanted}")]
    Key { has: usize, wanted: usize },
}

/// A record in the entity's order.
#[derive(Debug)]
pub(crate) struct Decoded<'r> {
    pub(crate) key: Vec<StandardValue<'r>>,
    /// `None` for a delete.
    pub(crate) fields: Option<Vec<StandardValue<'r>>>,
    pub(crate) version: Version,
    /// Commit time at the source, microseconds since 1970-01-01T00:00Z.
    pub(crate) source_us: i64,
    /// The record is as it was.
    pub(crate) unchanged: bool,
}

/// Compiled schemas by id.
#[derive(Debug)]
pub(crate) struct Schemas {
    registry: Arc<dyn SchemaRegistry>,
    entity: Arc<Entity>,
    writers: HashMap<u32, Option<Writer>>,
}

#[derive(Debug)]
struct Writer {
    plan: DecodePlan,
    /// For each field of the entity its place in the writer's record.
    places: Vec<Option<usize>>,
}

impl Schemas {
    pub(crate) fn new(registry: Arc<dyn SchemaRegistry>, entity: Arc<Entity>) -> Self {
        Self { registry, entity, writers: HashMap::new() }
    }

    /// Fetches the schemas of `records` that are not known yet. One that the registry does not have makes its records
    /// unreadable, not the whole.
    pub(crate) async fn prepare(&mut self, records: &[Record]) -> Result<(), RegistryError> {
        let framed = records.iter().flat_map(|record| [&record.key, &record.value]).flatten();
        let ids: BTreeSet<u32> = framed.filter_map(|framed| Some(frame::read(framed).ok()?.0)).collect();
        for id in ids {
            if self.writers.contains_key(&id) {
                continue;
            }
            let writer = match self.registry.schema(id).await {
                Ok(schema) => DecodePlan::compile(&schema).ok().map(|plan| Writer {
                    places: self.entity.fields.iter().map(|field| plan.field(&field.name)).collect(),
                    plan,
                }),
                Err(RegistryError::NoSchema { .. }) => None,
                Err(error) => return Err(error),
            };
            self.writers.insert(id, writer);
        }
        Ok(())
    }

    /// Schemas that the registry did not have are asked for again.
    pub(crate) fn forget_missing(&mut self) {
        self.writers.retain(|_, writer| writer.is_some());
    }

    fn writer<'r>(&'r self, framed: &'r [u8]) -> Result<(&'r Writer, &'r [u8]), Unreadable> {
        let (id, body) = frame::read(framed)?;
        let writer = self.writers.get(&id).and_then(Option::as_ref).ok_or(Unreadable::NoSchema(id))?;
        Ok((writer, body))
    }

    pub(crate) fn read<'r>(&'r self, record: &'r Record) -> Result<Decoded<'r>, Unreadable> {
        let (writer, body) = self.writer(record.key.as_ref().ok_or(Unreadable::NoKey)?)?;
        let key = writer.plan.record(body)?;
        if key.len() != self.entity.key.len() {
            return Err(Unreadable::Key { has: key.len(), wanted: self.entity.key.len() });
        }
        let key = key.into_iter().zip(&self.entity.key).map(|(value, part)| match value {
            Value::Text(text) => Ok(StandardValue::Text(Cow::Borrowed(text))),
            _ => Err(Unreadable::Type(part.name.clone())),
        });
        let key = key.collect::<Result<_, _>>()?;
        let fields = record.value.as_ref().map(|framed| self.fields(framed)).transpose()?;
        let text = |name: &'static str| {
            let bytes = record.header(name).ok_or(Unreadable::Header(name))?;
            std::str::from_utf8(bytes).map_err(|_| Unreadable::Header(name))
        };
        let version = text("guitong-version")?.parse().map_err(|_| Unreadable::Header("guitong-version"))?;
        let source_us = match record.header("guitong-source-ts") {
            Some(_) => text("guitong-source-ts")?.parse().map_err(|_| Unreadable::Header("guitong-source-ts"))?,
            None => record.timestamp_ms.saturating_mul(1000),
        };
        let unchanged = record.header("guitong-unchanged").is_some();
        Ok(Decoded { key, fields, version, source_us, unchanged })
    }

    fn fields<'r>(&'r self, framed: &'r [u8]) -> Result<Vec<StandardValue<'r>>, Unreadable> {
        let (writer, body) = self.writer(framed)?;
        let mut values = writer.plan.record(body)?;
        let fields = self.entity.fields.iter().zip(&writer.places).map(|(field, place)| {
            // A field that the writer did not know yet is null.
            let value =
                place.and_then(|at| values.get_mut(at)).map_or(Value::Null, |value| std::mem::replace(value, Value::Null));
            standard_value(&field.kind, value).ok_or_else(|| Unreadable::Type(field.name.clone()))
        });
        fields.collect()
    }
}

fn standard_value<'r>(kind: &FieldKind, value: Value<'r>) -> Option<StandardValue<'r>> {
    Some(match (kind, value) {
        (_, Value::Null) => StandardValue::Null,
        (FieldKind::Date, Value::Int(days)) => StandardValue::Date(i32::try_from(days).ok()?),
        (FieldKind::Time, Value::Int(micros)) => StandardValue::Time(micros),
        (FieldKind::Int, Value::Int(number)) => StandardValue::Int(number),
        (FieldKind::Decimal { .. }, Value::Decimal { unscaled, scale }) => {
            StandardValue::Decimal { unscaled: integer(unscaled)?, scale: u32::try_from(scale).ok()? }
        }
        (FieldKind::Codes(_), Value::List(items)) => StandardValue::TextList(items.into_iter().map(item).collect::<Option<_>>()?),
        (FieldKind::Steps, Value::List(steps)) => StandardValue::Steps(steps.into_iter().map(step).collect::<Option<_>>()?),
        (FieldKind::Date | FieldKind::Time | FieldKind::Int | FieldKind::Decimal { .. }, _) => return None,
        (FieldKind::Codes(_) | FieldKind::Steps, _) => return None,
        (_, Value::Text(text)) => StandardValue::Text(Cow::Borrowed(text)),
        _ => return None,
    })
}

fn item(value: Value<'_>) -> Option<Cow<'_, str>> {
    match value {
        Value::Text(text) => Some(Cow::Borrowed(text)),
        _ => None,
    }
}

/// A step, whose record has its fields in the order of [`Step`].
fn step(value: Value<'_>) -> Option<Step> {
    let Value::Record(values) = value else { return None };
    let text = |at: usize| match values.get(at) {
        None | Some(Value::Null) => Some(None),
        Some(Value::Text(text)) => Some(Some((*text).to_owned())),
        Some(_) => None,
    };
    let time = |at: usize| match values.get(at) {
        None | Some(Value::Null) => Some(None),
        Some(Value::Int(micros)) => Some(Some(*micros)),
        Some(_) => None,
    };
    Some(Step { name: text(0)?, handler: text(1)?, started: time(2)?, ended: time(3)?, action: text(4)?, opinion: text(5)? })
}

/// Big-endian two's complement of at most 16 bytes.
fn integer(bytes: &[u8]) -> Option<i128> {
    let mut out = match bytes.first() {
        Some(first) if first & 0x80 != 0 => [0xFF; 16],
        _ => [0; 16],
    };
    let start = out.len().checked_sub(bytes.len())?;
    out.get_mut(start..)?.copy_from_slice(bytes);
    Some(i128::from_be_bytes(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_keep_their_sign() {
        for (bytes, value) in [(&[][..], 0), (&[0x7F], 127), (&[0xFF], -1), (&[0x80, 0], -32_768), (&[0, 0x80], 128)] {
            assert_eq!(integer(bytes), Some(value));
        }
        assert_eq!(integer(&[0; 17]), None);
    }
}
