//! Avro container files and Parquet read by libraries of their own: rows by the names of their fields, values as text.

use std::collections::BTreeMap;

use apache_avro::schema::{RecordSchema, UnionSchema};
use apache_avro::types::Value as Avro;
use apache_avro::{Reader, Schema};
use bytes::Bytes;
use guitong_schemas::standard::StandardValue;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;
use serde_json::Value;

/// A row; lists are JSON.
pub type Held = BTreeMap<String, Option<String>>;

/// # Panics
/// Where the bytes are no whole file.
#[must_use]
pub fn avro(bytes: &[u8]) -> Vec<Held> {
    let reader = Reader::new(bytes).unwrap();
    let Schema::Record(schema) = reader.writer_schema().clone() else { panic!("no record") };
    reader.map(|record| of_avro(record.unwrap(), &schema)).collect()
}

fn of_avro(record: Avro, schema: &RecordSchema) -> Held {
    let Avro::Record(fields) = record else { panic!("{record:?}") };
    let fields = fields.into_iter().zip(&schema.fields);
    fields.map(|((name, value), field)| (name, shown(&avro_value(value, &field.schema)))).collect()
}

fn avro_value(value: Avro, schema: &Schema) -> Value {
    match (value, schema) {
        (Avro::Union(at, inner), Schema::Union(union)) => avro_value(*inner, branch(union, at)),
        (Avro::Null, _) => Value::Null,
        (Avro::String(text), _) => text.into(),
        (Avro::Long(number), _) => number.into(),
        (Avro::Date(days), _) => StandardValue::Date(days).to_string().into(),
        (Avro::TimestampMicros(micros), _) => StandardValue::Time(micros).to_string().into(),
        (Avro::Decimal(decimal), Schema::Decimal(of)) => {
            let bytes = Vec::<u8>::try_from(&decimal).unwrap();
            number(&bytes, u32::try_from(of.scale).unwrap()).into()
        }
        (Avro::Array(items), Schema::Array(of)) => items.into_iter().map(|item| avro_value(item, &of.items)).collect(),
        (Avro::Record(fields), Schema::Record(of)) => {
            let fields = fields.into_iter().zip(&of.fields);
            fields.map(|((name, value), field)| (name, avro_value(value, &field.schema))).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn branch(union: &UnionSchema, at: u32) -> &Schema {
    &union.variants()[at as usize]
}

/// A decimal of two's complement, most significant byte first.
fn number(bytes: &[u8], scale: u32) -> String {
    let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut all = [if negative { 0xFF } else { 0 }; 16];
    all[16 - bytes.len()..].copy_from_slice(bytes);
    StandardValue::Decimal { unscaled: i128::from_be_bytes(all), scale }.to_string()
}

/// # Panics
/// Where the bytes are no whole file.
#[must_use]
pub fn parquet(bytes: Vec<u8>) -> Vec<Held> {
    let reader = SerializedFileReader::new(Bytes::from(bytes)).unwrap();
    let rows = reader.get_row_iter(None).unwrap().map(Result::unwrap);
    rows.map(|row| row.get_column_iter().map(|(name, field)| (name.clone(), shown(&parquet_value(field)))).collect()).collect()
}

fn parquet_value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Str(text) => text.as_str().into(),
        Field::Long(number) => (*number).into(),
        Field::Date(days) => StandardValue::Date(*days).to_string().into(),
        Field::TimestampMicros(micros) => StandardValue::Time(*micros).to_string().into(),
        Field::Decimal(decimal) => number(decimal.data(), u32::try_from(decimal.scale()).unwrap()).into(),
        Field::ListInternal(list) => list.elements().iter().map(parquet_value).collect(),
        Field::Group(row) => row.get_column_iter().map(|(name, field)| (name.clone(), parquet_value(field))).collect(),
        other => panic!("{other:?}"),
    }
}

fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}
