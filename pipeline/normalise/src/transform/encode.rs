//! Records of the standard as framed Avro.

use guitong_schemas::avro::frame;
use guitong_schemas::standard::{StandardValue, avro_values, shortest};

use crate::mapping::Mapping;

/// The framed record. A record's fields are `["null", type]` and its key's fields texts, as the standard holds them to when it
/// loads an entity, so all but nested values are written as they stand.
pub(crate) fn encode(mapping: &Mapping, values: &[StandardValue<'_>], schema: u32, out: &mut Vec<u8>) -> Result<(), String> {
    if values.iter().any(|value| matches!(value, StandardValue::Steps(_))) {
        return encode_nested(mapping, values, schema, out);
    }
    frame::write(schema, out);
    for (value, field) in values.iter().zip(&mapping.entity.fields) {
        match value {
            StandardValue::Null if field.in_key => return Err(format!("{} is null", field.name)),
            StandardValue::Null => out.push(0),
            _ if field.in_key => {}
            _ => out.push(2),
        }
        match value {
            StandardValue::Null | StandardValue::Steps(_) => {}
            StandardValue::Text(text) => write_bytes(text.as_bytes(), out),
            StandardValue::Date(days) => write_long(i64::from(*days), out),
            StandardValue::Time(number) | StandardValue::Int(number) => write_long(*number, out),
            StandardValue::Decimal { unscaled, .. } => write_bytes(shortest(&unscaled.to_be_bytes()), out),
            StandardValue::TextList(items) => {
                if !items.is_empty() {
                    write_long(items.len() as i64, out);
                    items.iter().for_each(|item| write_bytes(item.as_bytes(), out));
                }
                write_long(0, out);
            }
        }
    }
    Ok(())
}

/// An Avro long: zigzag, seven bits a byte.
#[inline]
fn write_long(number: i64, out: &mut Vec<u8>) {
    let mut rest = (number << 1 ^ number >> 63) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Avro bytes, or an Avro string.
#[inline]
pub(super) fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write_long(bytes.len() as i64, out);
    out.extend_from_slice(bytes);
}

/// The framed record by the encoder of its schema.
pub(super) fn encode_nested(
    mapping: &Mapping,
    values: &[StandardValue<'_>],
    schema: u32,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let mut numbers = Vec::new();
    let fields = avro_values(values, &mut numbers);
    mapping.encoder.encode(&fields, schema, out).map_err(|error| error.to_string())
}
