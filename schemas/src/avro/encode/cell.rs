//! One cell: what a column becomes on the wire, compiled once, and written without a value in between.

use super::super::form::{Binary, Decimals, EventForm, Intervals, Times, UnknownTypes};
use super::super::varint::{write_bytes, write_long};
use super::{Bad, Fit, array, binary, iso, number, time};
use crate::table::ColumnType;

/// How a column's text becomes Avro.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Wire {
    Bool,
    Int {
        min: i32,
        max: i32,
    },
    Long {
        min: i64,
        max: i64,
    },
    Float,
    Double,
    Decimal {
        scale: usize,
    },
    VariableDecimal,
    Money,
    /// `numeric` in binary floating point.
    DecimalDouble,
    MoneyDouble,
    /// `numeric` as the server prints it, digits of the fraction included.
    DecimalText {
        scale: usize,
    },
    MoneyText,
    Text,
    Uuid,
    Bytes,
    Base64,
    /// Text as the bytes that it is.
    TextBytes,
    TextBase64,
    Date,
    IsoDate,
    IsoTime,
    IsoTimestamp,
    TimeMillis,
    TimeMicros,
    TimestampMillis,
    TimestampMicros,
    ZonedTime,
    ZonedTimestamp {
        precision: u8,
    },
    Interval,
    IsoInterval,
    Bit,
    Bits,
    Point,
    Hstore,
    Array(Box<Wire>),
}

impl Wire {
    pub(super) fn of(kind: &ColumnType, form: &EventForm) -> Self {
        match kind {
            ColumnType::Bool => Self::Bool,
            ColumnType::Int16 => Self::Int { min: i16::MIN.into(), max: i16::MAX.into() },
            ColumnType::Int32 => Self::Int { min: i32::MIN, max: i32::MAX },
            ColumnType::Int64 => Self::Long { min: i64::MIN, max: i64::MAX },
            ColumnType::UInt32 => Self::Long { min: 0, max: u32::MAX.into() },
            ColumnType::Float32 => Self::Float,
            ColumnType::Float64 => Self::Double,
            ColumnType::Decimal { .. } | ColumnType::VariableDecimal | ColumnType::Money => Self::of_number(kind, form.decimals),
            ColumnType::Bytes => match form.binary {
                Binary::Bytes => Self::Bytes,
                Binary::Base64 => Self::Base64,
            },
            ColumnType::Other => match (form.unknown_types, form.binary) {
                (UnknownTypes::Text | UnknownTypes::Skip, _) => Self::Text,
                (UnknownTypes::Bytes, Binary::Bytes) => Self::TextBytes,
                (UnknownTypes::Bytes, Binary::Base64) => Self::TextBase64,
            },
            ColumnType::Date | ColumnType::Time { .. } | ColumnType::Timestamp { .. } => Self::of_time(kind, form.times),
            ColumnType::ZonedTime => Self::ZonedTime,
            ColumnType::ZonedTimestamp { precision } => Self::ZonedTimestamp { precision: *precision },
            ColumnType::Interval => match form.intervals {
                Intervals::Numeric => Self::Interval,
                Intervals::String => Self::IsoInterval,
            },
            ColumnType::Uuid => Self::Uuid,
            ColumnType::Bit { length: 1, varying: false } => Self::Bit,
            ColumnType::Bit { .. } => Self::Bits,
            ColumnType::Point => Self::Point,
            ColumnType::Hstore => Self::Hstore,
            ColumnType::Array(items) => Self::Array(Box::new(Self::of(items, form))),
            ColumnType::Text
            | ColumnType::Json
            | ColumnType::Xml
            | ColumnType::Enum { .. }
            | ColumnType::Ltree
            | ColumnType::TsVector => Self::Text,
        }
    }

    fn of_number(kind: &ColumnType, decimals: Decimals) -> Self {
        match (decimals, kind) {
            (Decimals::Precise, ColumnType::Decimal { scale, .. }) => Self::Decimal { scale: usize::from(*scale) },
            (Decimals::Precise, ColumnType::Money) => Self::Money,
            (Decimals::Precise, _) => Self::VariableDecimal,
            (Decimals::Double, ColumnType::Money) => Self::MoneyDouble,
            (Decimals::Double, _) => Self::DecimalDouble,
            (Decimals::String, ColumnType::Money) => Self::MoneyText,
            (Decimals::String, ColumnType::Decimal { scale, .. }) => Self::DecimalText { scale: usize::from(*scale) },
            (Decimals::String, _) => Self::DecimalText { scale: 0 },
        }
    }

    fn of_time(kind: &ColumnType, times: Times) -> Self {
        match (times, kind) {
            (Times::IsoString, ColumnType::Date) => Self::IsoDate,
            (Times::IsoString, ColumnType::Time { .. }) => Self::IsoTime,
            (Times::IsoString, _) => Self::IsoTimestamp,
            (Times::Adaptive | Times::Connect, ColumnType::Date) => Self::Date,
            (Times::Connect, ColumnType::Time { .. }) | (Times::Adaptive, ColumnType::Time { precision: 0..=3 }) => {
                Self::TimeMillis
            }
            (Times::Adaptive, ColumnType::Time { .. }) => Self::TimeMicros,
            (Times::Connect, _) | (Times::Adaptive, ColumnType::Timestamp { precision: 0..=3 }) => Self::TimestampMillis,
            (Times::Adaptive, _) => Self::TimestampMicros,
        }
    }

    /// Writes a value given in PostgreSQL's text form. What `out` holds after [`Fit::Unfit`] or an error is to be cut off.
    #[inline]
    pub(super) fn text(&self, text: &[u8], out: &mut Vec<u8>) -> Result<Fit, Bad> {
        match self {
            Self::Text => {
                check_utf8(text)?;
                write_bytes(out, text);
                Ok(Fit::Exact)
            }
            typed => typed.typed(text, out),
        }
    }

    fn typed(&self, text: &[u8], out: &mut Vec<u8>) -> Result<Fit, Bad> {
        match self {
            Self::Bool => match text {
                b"t" | b"true" | b"1" => out.push(1),
                b"f" | b"false" | b"0" => out.push(0),
                _ => return Err(Bad::new("not a boolean", 0)),
            },
            Self::Int { min, max } => write_long(out, number::integer(text, (*min).into(), (*max).into())?),
            Self::Long { min, max } => write_long(out, number::integer(text, *min, *max)?),
            Self::Float => out.extend_from_slice(&number::float::<f32>(text)?.to_le_bytes()),
            Self::Double => out.extend_from_slice(&number::float::<f64>(text)?.to_le_bytes()),
            Self::Decimal { scale } => return number::decimal(text, *scale, out),
            Self::VariableDecimal => return number::variable_decimal(text, out),
            Self::Money => return number::money(text, out),
            Self::DecimalDouble => out.extend_from_slice(&number::float::<f64>(text)?.to_le_bytes()),
            Self::MoneyDouble => number::money_double(text, out)?,
            Self::DecimalText { scale } => number::decimal_text(text, *scale, out)?,
            Self::MoneyText => number::money_text(text, out)?,
            Self::Text | Self::Uuid => {
                check_utf8(text)?;
                write_bytes(out, text);
            }
            Self::Bytes => binary::bytea(text, out)?,
            Self::Base64 => binary::bytea_base64(text, out)?,
            Self::TextBytes => write_bytes(out, text),
            Self::TextBase64 => binary::base64(text.iter().copied(), text.len(), out),
            Self::IsoDate => iso::date(text, out)?,
            Self::IsoTime => iso::time(text, out)?,
            Self::IsoTimestamp => return iso::timestamp(text, out),
            Self::IsoInterval => return iso::interval(text, out),
            Self::Date => write_long(out, time::date(text)?),
            Self::TimeMillis => write_long(out, time::time(text)? / 1000),
            Self::TimeMicros => write_long(out, time::time(text)?),
            Self::TimestampMillis => return Ok(time::fit(time::timestamp_millis(text)?, |value| write_long(out, value))),
            Self::TimestampMicros => return Ok(time::fit(time::timestamp_micros(text)?, |value| write_long(out, value))),
            Self::ZonedTime => time::zoned_time(text, out)?,
            Self::ZonedTimestamp { precision } => time::zoned_timestamp(text, *precision, out)?,
            Self::Interval => return Ok(time::fit(time::interval(text)?, |value| write_long(out, value))),
            Self::Bit => match text {
                b"1" => out.push(1),
                b"0" => out.push(0),
                _ => return Err(Bad::new("not a bit", 0)),
            },
            Self::Bits => binary::bits(text, out)?,
            Self::Point => binary::point(text, out)?,
            Self::Hstore => binary::hstore(text, out)?,
            Self::Array(items) => return array::write(items, text, out),
        }
        Ok(Fit::Exact)
    }

    /// Writes a value given in PostgreSQL's binary form, for the types whose binary form is as simple as that.
    pub(super) fn binary(&self, value: &[u8], out: &mut Vec<u8>) -> Result<Fit, Bad> {
        let wrong = Bad::new("a binary value of the wrong length", value.len());
        let signed = |value: &[u8]| match *value {
            [a, b] => Ok(i64::from(i16::from_be_bytes([a, b]))),
            [a, b, c, d] => Ok(i64::from(i32::from_be_bytes([a, b, c, d]))),
            [a, b, c, d, e, f, g, h] => Ok(i64::from_be_bytes([a, b, c, d, e, f, g, h])),
            _ => Err(wrong),
        };
        match self {
            Self::Bool => match value {
                [flag @ (0 | 1)] => out.push(*flag),
                _ => return Err(wrong),
            },
            Self::Int { min, max } => {
                let value = signed(value)?;
                if !(i64::from(*min)..=i64::from(*max)).contains(&value) {
                    return Err(wrong);
                }
                write_long(out, value);
            }
            Self::Long { min: 0, .. } => match value {
                [a, b, c, d] => write_long(out, i64::from(u32::from_be_bytes([*a, *b, *c, *d]))),
                _ => return Err(wrong),
            },
            Self::Long { .. } => write_long(out, signed(value)?),
            Self::Float => out.extend(<[u8; 4]>::try_from(value).map_err(|_| wrong)?.iter().rev()),
            Self::Double => out.extend(<[u8; 8]>::try_from(value).map_err(|_| wrong)?.iter().rev()),
            Self::Uuid => binary::uuid(value.try_into().map_err(|_| wrong)?, out),
            Self::Bytes => write_bytes(out, value),
            Self::Base64 => binary::base64(value.iter().copied(), value.len(), out),
            _ => return Err(Bad::new("a type that is read in text form only", 0)),
        }
        Ok(Fit::Exact)
    }

    /// What a NOT NULL column without default holds where the source did not send it: Debezium's zero of the type.
    pub(super) fn zero(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bool
            | Self::Bit
            | Self::Int { .. }
            | Self::Long { .. }
            | Self::Date
            | Self::TimeMillis
            | Self::TimeMicros
            | Self::TimestampMillis
            | Self::TimestampMicros
            | Self::Interval
            | Self::Text
            | Self::Uuid
            | Self::Bytes
            | Self::Base64
            | Self::TextBytes
            | Self::TextBase64
            | Self::Bits
            | Self::Hstore
            | Self::Array(_) => out.push(0),
            Self::DecimalText { scale } => {
                let zeros = if *scale == 0 { "0".to_owned() } else { format!("0.{:0>scale$}", "") };
                write_bytes(out, zeros.as_bytes());
            }
            Self::MoneyText => write_bytes(out, b"0.00"),
            Self::IsoDate => write_bytes(out, b"1970-01-01Z"),
            Self::IsoTime => write_bytes(out, b"00:00:00Z"),
            Self::IsoTimestamp => write_bytes(out, b"1970-01-01T00:00:00Z"),
            Self::IsoInterval => write_bytes(out, b"P0Y0M0DT0H0M0S"),
            Self::Float => out.extend_from_slice(&[0; 4]),
            Self::Double | Self::DecimalDouble | Self::MoneyDouble => out.extend_from_slice(&[0; 8]),
            Self::Decimal { .. } | Self::Money => write_bytes(out, &[0]),
            Self::VariableDecimal => {
                write_long(out, 0);
                write_bytes(out, &[0]);
            }
            Self::ZonedTime => write_bytes(out, b"00:00:00Z"),
            Self::ZonedTimestamp { .. } => write_bytes(out, b"1970-01-01T00:00:00Z"),
            Self::Point => binary::write_point(0.0, 0.0, out),
        }
    }

    /// Debezium's placeholder for a value that the source did not send; `false` where the type has none.
    pub(super) fn placeholder(&self, text: &str, out: &mut Vec<u8>) -> bool {
        let bytes = text.as_bytes();
        match self {
            Self::Text | Self::Bytes | Self::TextBytes | Self::DecimalText { .. } => write_bytes(out, bytes),
            Self::Hstore => {
                let quoted = serde_json::Value::from(text).to_string();
                write_bytes(out, format!("{{{quoted}:{quoted}}}").as_bytes());
            }
            Self::Array(items) => match **items {
                Self::Text => {
                    write_long(out, 1);
                    write_long(out, 1);
                    write_bytes(out, bytes);
                    write_long(out, 0);
                }
                Self::Int { .. } | Self::Long { .. } | Self::Date => {
                    write_long(out, bytes.len() as i64);
                    for &byte in bytes {
                        write_long(out, 1);
                        write_long(out, byte.into());
                    }
                    write_long(out, 0);
                }
                _ => return false,
            },
            _ => return false,
        }
        true
    }
}

/// Refuses what is not UTF-8. `from_utf8` does the same and takes several times as long over short texts and Chinese ones.
#[inline]
pub(super) fn check_utf8(text: &[u8]) -> Result<(), Bad> {
    if is_ascii(text) { Ok(()) } else { check_letters(text) }
}

/// A word at a time; the last word of a text may be read twice.
#[inline]
fn is_ascii(text: &[u8]) -> bool {
    let bits = match (text.last_chunk::<8>(), text.first_chunk::<4>(), text.last_chunk::<4>()) {
        (Some(last), ..) => {
            let words = text.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word));
            words.fold(u64::from_ne_bytes(*last), |bits, word| bits | word)
        }
        (None, Some(first), Some(last)) => (u32::from_ne_bytes(*first) | u32::from_ne_bytes(*last)).into(),
        _ => text.iter().fold(0, |bits, byte| bits | u64::from(*byte)),
    };
    bits & 0x8080_8080_8080_8080 == 0
}

fn check_letters(text: &[u8]) -> Result<(), Bad> {
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return Ok(()),
            [..0x80, after @ ..] => after,
            // Three bytes where any continuation will do, Han characters among them.
            [0xe1..=0xec, 0x80..=0xbf, 0x80..=0xbf, after @ ..] => after,
            _ => break,
        };
    }
    let passed = text.len() - rest.len();
    std::str::from_utf8(rest).map(drop).map_err(|error| Bad::new("not UTF-8", passed + error.valid_up_to()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn utf8_is_what_the_standard_library_says(
            text in "[a-z0-9]{0,9}[一-龥퀀-힣\u{e000}-\u{ffff}é𠀀]{0,9}[a-z]{0,20}",
            damage in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let mut text = text.into_bytes();
            if let Some((at, byte)) = damage && !text.is_empty() {
                let at = at.index(text.len());
                text[at] = byte;
            }
            let wanted = std::str::from_utf8(&text).map(drop).map_err(|error| error.valid_up_to());
            prop_assert_eq!(check_utf8(&text).map_err(|bad| bad.at), wanted);
        }
    }
}
