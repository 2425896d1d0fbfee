//! Records of the standard as they were written, by this version of their entity or another, in the form of the one in force (Avro,
//! "Schema Resolution").
//!
//! A field that the writer did not have is null, as every field outside the key is by default; one that only the writer had is left
//! out; one that has another name now is found by its aliases.

use std::borrow::Cow;

use thiserror::Error;

use super::entity::Entity;
use super::field::FieldKind;
use super::value::{StandardValue, Step};
use crate::avro::Value;
use crate::avro::decode::{DecodeError, DecodePlan, PlanError};

/// What a writer's schema is to the entity in force.
#[derive(Debug)]
pub struct Written {
    plan: DecodePlan,
    /// For each field of the writer's record its place in the entity.
    places: Vec<Option<usize>>,
}

/// Why a record is none of the entity's.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WrittenError {
    #[error("{0}")]
    Avro(#[from] DecodeError),
    #[error("field {0} is not of the entity's type")]
    Type(String),
}

impl Written {
    /// # Errors
    /// [`PlanError`] where the writer's schema is no record's.
    pub fn compile(entity: &Entity, schema: &str) -> Result<Self, PlanError> {
        let plan = DecodePlan::compile(schema)?;
        let place = |name: &String| plan.field(name);
        let mut places = vec![None; plan.fields().len()];
        for (at, field) in entity.fields.iter().enumerate() {
            let written = place(&field.name).or_else(|| field.aliases.iter().find_map(place));
            if let Some(free) = written.and_then(|written| places.get_mut(written)).filter(|place| place.is_none()) {
                *free = Some(at);
            }
        }
        Ok(Self { places, plan })
    }

    /// The record's values in the order of the entity. `body` is without frame.
    ///
    /// # Errors
    /// [`WrittenError`] where it is no record of the writer's schema, or a value is not of its field's type.
    pub fn read<'r>(&'r self, entity: &Entity, body: &'r [u8]) -> Result<Vec<StandardValue<'r>>, WrittenError> {
        self.read_some(entity, body, |_| true, Vec::new())
    }

    /// As [`Written::read`], with those fields of the entity that are wanted, by their place; the others are null, whatever was written.
    /// `spare`: what an earlier record's values lay in.
    ///
    /// # Errors
    /// As [`Written::read`], for wanted fields.
    pub fn read_some<'r>(
        &'r self,
        entity: &Entity,
        body: &'r [u8],
        wants: impl Fn(usize) -> bool,
        spare: Vec<StandardValue<'r>>,
    ) -> Result<Vec<StandardValue<'r>>, WrittenError> {
        let mut values = spare;
        values.clear();
        values.resize_with(entity.fields.len(), || StandardValue::Null);
        let mut odd = None;
        let place = |written: usize| self.places.get(written).copied().flatten();
        let take = |written: usize, value: Value<'r>| {
            let Some(at) = place(written) else { return };
            let (Some(field), Some(slot)) = (entity.fields.get(at), values.get_mut(at)) else { return };
            match standard_value(&field.kind, value) {
                Some(value) => *slot = value,
                None => odd = odd.take().or_else(|| Some(field.name.clone())),
            }
        };
        self.plan.some(body, |written| place(written).is_some_and(&wants), take)?;
        odd.map_or(Ok(values), |field| Err(WrittenError::Type(field)))
    }

    /// The record as the writer's schema has it.
    ///
    /// # Errors
    /// [`DecodeError`] where it is none.
    pub fn as_written<'r>(&'r self, body: &'r [u8]) -> Result<Vec<Value<'r>>, DecodeError> {
        self.plan.record(body)
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
    use std::sync::Arc;

    use super::*;
    use crate::contract::Revision;
    use crate::contract::reading::document::{Document, Report};
    use crate::standard::extend::extend;

    #[test]
    fn decimals_keep_their_sign() {
        for (bytes, value) in [(&[][..], 0), (&[0x7F], 127), (&[0xFF], -1), (&[0x80, 0], -32_768), (&[0, 0x80], 128)] {
            assert_eq!(integer(bytes), Some(value));
        }
        assert_eq!(integer(&[0; 17]), None);
    }

    /// An entity of the given fields beside its key, by a schema of its own.
    fn entity(fields: &str) -> (Arc<Entity>, String) {
        let schema = format!(
            r#"{{"type": "record", "name": "Permit", "namespace": "cn.guitong.standard", "version": 1, "title": "许可", "doc": "A permit.",
            "fields": [{{"name": "no", "type": "string", "title": "编号", "doc": "Number.", "kind": "identifier:30",
                "obligation": "mandatory", "grade": "G0"}}{fields}]}}"#
        );
        let key = r#"{"type": "record", "name": "PermitKey", "namespace": "cn.guitong.standard",
            "fields": [{"name": "no", "type": "string"}]}"#;
        let documents = [("standard/Permit.avsc", schema.clone()), ("standard/Permit.key.avsc", key.to_owned())];
        let documents = documents.map(|(name, text)| Document::new(name.to_owned(), text));
        let report = Report::default();
        let extended = extend(&documents, Revision([1; 32]), &report);
        assert_eq!(report.into_list(), []);
        (Arc::clone(extended.standard.entity("Permit").expect("the entity")), schema)
    }

    fn text(name: &str, more: &str) -> String {
        format!(
            r#", {{"name": "{name}", "type": ["null", "string"], "default": null, "title": "文", "doc": "A text.", "kind": "text:100",
            "obligation": "optional", "grade": "G0"{more}}}"#
        )
    }

    #[test]
    fn records_of_any_version_read_as_those_of_the_one_in_force() {
        let (old, old_schema) = entity(&[text("holder", ""), text("note", "")].concat());
        let (new, new_schema) = entity(&[text("scope", ""), text("owner", r#", "aliases": ["holder"]"#)].concat());
        // Texts of one character have their zigzag length 2 before them, and what is not null the branch 2.
        let (by_old, by_new) = ([2, b'7', 2, 2, b'a', 2, 2, b'b'], [2, b'7', 2, 2, b'c', 0]);
        let read = |entity: &Entity, schema: &str, body: &[u8]| -> Vec<Option<String>> {
            let written = Written::compile(entity, schema).expect("a record");
            let values = written.read(entity, body).expect("reads");
            values.iter().map(|value| value.as_text().map(str::to_owned)).collect()
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read(&new, &old_schema, &by_old), [some("7"), None, some("a")], "added, renamed and left out");
        assert_eq!(
            read(&old, &new_schema, &by_new),
            [some("7"), None, None],
            "the other way, as a node that was not updated yet"
        );
        assert_eq!(read(&new, &new_schema, &by_new), [some("7"), some("c"), None]);
        let written = Written::compile(&new, &old_schema).expect("a record");
        let values = written.read_some(&new, &by_old, |at| at == 2, vec![StandardValue::Int(1); 2]).expect("reads");
        assert_eq!(values.iter().map(StandardValue::as_text).collect::<Vec<_>>(), [None, None, Some("a")], "what is wanted");
        assert!(written.read_some(&new, &by_old[..7], |at| at == 2, Vec::new()).is_err(), "what is passed over is whole");
        let written = Written::compile(&new, &old_schema).expect("a record");
        assert!(matches!(written.read(&new, &by_old[..3]), Err(WrittenError::Avro(_))));
        let number =
            old_schema.replace(r#""name": "note", "type": ["null", "string"]"#, r#""name": "scope", "type": ["null", "long"]"#);
        let written = Written::compile(&new, &number).expect("a record");
        let error = written.read(&new, &[2, b'7', 0, 2, 14]).expect_err("a number is no text");
        assert_eq!(error.to_string(), "field scope is not of the entity's type");
    }
}
