//! A published record as JSON: dates and times in ISO form, decimals as text with all their digits, lists as arrays.

use guitong_log::Record;
use guitong_schemas::avro::{DecodePlan, Value, frame};
use guitong_schemas::standard::{Entity, FieldKind, StandardValue};
use serde_json::{Map, Value as Json};

/// The record's fields in the order of the entity; an error's text where the bytes are not of it.
pub(crate) fn read(record: &Record, entity: &Entity, plan: &DecodePlan) -> Result<Option<Map<String, Json>>, String> {
    let Some(framed) = &record.value else { return Ok(None) };
    let (_, avro) = frame::read(framed).map_err(|error| error.to_string())?;
    let values = plan.record(avro).map_err(|error| error.to_string())?;
    let fields = entity.fields.iter().zip(&values);
    Ok(Some(fields.map(|(field, value)| (field.name.clone(), json(&field.kind, value))).collect()))
}

fn json(kind: &FieldKind, value: &Value<'_>) -> Json {
    match (kind, value) {
        (_, Value::Null) => Json::Null,
        (FieldKind::Date, Value::Int(days)) => StandardValue::Date(i32::try_from(*days).unwrap_or_default()).to_string().into(),
        (FieldKind::Time, Value::Int(micros)) => StandardValue::Time(*micros).to_string().into(),
        (FieldKind::Steps, Value::List(steps)) => steps.iter().map(step).collect(),
        (_, Value::List(items)) => items.iter().map(plain).collect(),
        (_, value) => plain(value),
    }
}

fn plain(value: &Value<'_>) -> Json {
    match value {
        Value::Bool(truth) => (*truth).into(),
        Value::Int(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::Double(number) => (*number).into(),
        Value::Text(text) => (*text).into(),
        Value::Bytes(bytes) => hex::encode(bytes).into(),
        Value::Decimal { unscaled, scale } => decimal(unscaled, *scale),
        Value::List(items) | Value::Record(items) => items.iter().map(plain).collect(),
        Value::Map(entries) => entries.iter().map(|(name, value)| ((*name).to_owned(), plain(value))).collect(),
        Value::Null => Json::Null,
    }
}

/// Big-endian two's complement; entities have at most 38 digits.
fn decimal(unscaled: &[u8], scale: i32) -> Json {
    let sign = if unscaled.first().is_some_and(|byte| byte & 0x80 != 0) { -1_i128 } else { 0 };
    let number = unscaled.iter().fold(sign, |number, &byte| number << 8 | i128::from(byte));
    StandardValue::Decimal { unscaled: number, scale: u32::try_from(scale).unwrap_or_default() }.to_string().into()
}

/// A step, whose record has its fields in this order.
fn step(value: &Value<'_>) -> Json {
    const NAMES: [&str; 6] = ["name", "handler", "started", "ended", "action", "opinion"];
    let Value::Record(values) = value else { return plain(value) };
    let member = |(name, value): (&str, &Value<'_>)| {
        let json = match (name, value) {
            ("started" | "ended", Value::Int(micros)) => StandardValue::Time(*micros).to_string().into(),
            (_, value) => plain(value),
        };
        (name.to_owned(), json)
    };
    NAMES.into_iter().zip(values).map(member).collect()
}
