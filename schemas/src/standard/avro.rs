//! Values of a record as the encoder of its schema takes them.

use super::{StandardValue, Step};
use crate::avro::Value;

/// `values` in their order; `numbers` holds the bytes of their decimals.
#[must_use]
pub fn avro_values<'v>(values: &'v [StandardValue<'v>], numbers: &'v mut Vec<[u8; 16]>) -> Vec<Value<'v>> {
    for value in values {
        if let StandardValue::Decimal { unscaled, .. } = value {
            numbers.push(unscaled.to_be_bytes());
        }
    }
    let mut numbers = numbers.iter();
    let mut fields = Vec::with_capacity(values.len());
    for value in values {
        fields.push(match value {
            StandardValue::Null => Value::Null,
            StandardValue::Text(text) => Value::Text(text),
            StandardValue::Date(days) => Value::Int(i64::from(*days)),
            StandardValue::Time(number) | StandardValue::Int(number) => Value::Int(*number),
            StandardValue::Decimal { scale, .. } => {
                let unscaled = numbers.next().map_or(&[][..], |bytes| shortest(bytes));
                Value::Decimal { unscaled, scale: i32::try_from(*scale).unwrap_or(i32::MAX) }
            }
            StandardValue::TextList(items) => Value::List(items.iter().map(|item| Value::Text(item)).collect()),
            StandardValue::Steps(steps) => Value::List(steps.iter().map(step).collect()),
        });
    }
    fields
}

fn step(step: &Step) -> Value<'_> {
    let time = |time: Option<i64>| time.map_or(Value::Null, Value::Int);
    Value::Record(vec![
        optional(&step.name),
        optional(&step.handler),
        time(step.started),
        time(step.ended),
        optional(&step.action),
        optional(&step.opinion),
    ])
}

fn optional(text: &Option<String>) -> Value<'_> {
    text.as_deref().map_or(Value::Null, Value::Text)
}

/// Two's complement without the bytes that only repeat the sign.
#[inline]
#[must_use]
pub fn shortest(bytes: &[u8; 16]) -> &[u8] {
    let mut rest = &bytes[..];
    while let [first, tail @ ..] = rest
        && let [next, ..] = tail
        && (*first == 0 && next & 0x80 == 0 || *first == 0xFF && next & 0x80 != 0)
    {
        rest = tail;
    }
    rest
}
