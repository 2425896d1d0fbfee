//! JSON text, as Kafka Connect's JSON converter writes it without schemas: no white space, bytes in base64, a decimal as the base64
//! of its unscaled value, numbers of floating point as Java prints them, those that are none in quotes.
//!
//! Texts and whole numbers go straight from the wire to the output; any other value is encoded as for Avro first and read from there,
//! so that each type is understood in one place.

use std::fmt::{Debug, LowerExp};
use std::io::Write as _;

use super::super::varint::read_long;
use super::cell::Wire;
use super::output::{Output, Part};
use super::source::{self, Scalar, SourceBlock};
use super::{Bad, EncodePlan, Fit, Slot, binary, cell, number};
use crate::change::Change;

/// Writes rows as JSON objects.
#[derive(Default)]
pub(super) struct JsonOutput {
    /// Scratch: one value, encoded as for Avro.
    encoded: Vec<u8>,
}

impl Output for JsonOutput {
    fn begin(&mut self, part: Part, out: &mut Vec<u8>) {
        out.extend_from_slice(match part {
            Part::Whole => b"{",
            Part::Before => b"{\"before\":{",
            Part::After => b",\"after\":{",
        });
    }

    fn none(&mut self, part: Part, out: &mut Vec<u8>) {
        out.extend_from_slice(match part {
            Part::Whole => b"null",
            Part::Before => b"{\"before\":null",
            Part::After => b",\"after\":null",
        });
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        out.push(b'}');
    }

    fn open(&mut self, slot: &Slot, out: &mut Vec<u8>) {
        open(&slot.label, out);
    }

    fn null(&mut self, slot: &Slot, out: &mut Vec<u8>) {
        open(&slot.label, out);
        out.extend_from_slice(b"null");
    }

    fn text(&mut self, wire: &Wire, value: &[u8], out: &mut Vec<u8>) -> Result<Fit, Bad> {
        match wire {
            Wire::Text | Wire::Uuid => {
                cell::check_utf8(value)?;
                string(value, out);
                Ok(Fit::Exact)
            }
            Wire::Int { min, max } => whole(number::integer(value, (*min).into(), (*max).into())?, out),
            Wire::Long { min, max } => whole(number::integer(value, *min, *max)?, out),
            _ => self.by_way_of_avro(wire, out, |encoded| wire.text(value, encoded)),
        }
    }

    fn binary(&mut self, wire: &Wire, value: &[u8], out: &mut Vec<u8>) -> Result<Fit, Bad> {
        self.by_way_of_avro(wire, out, |encoded| wire.binary(value, encoded))
    }

    fn optional(&mut self, label: &[u8], value: &Scalar<'_>, out: &mut Vec<u8>) {
        open(label, out);
        scalar(value, out);
    }

    fn rest(&mut self, source: &SourceBlock, change: &Change, processed_us: i64, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"source\":");
        source.json(&change.origin, out);
        out.extend_from_slice(b",\"transaction\":");
        source::transaction_json(&change.origin.place, change.version.commit, out);
        // Writing into a vector does not fail.
        let _ = write!(
            out,
            r#","op":"{}","ts_ms":{},"ts_us":{processed_us},"ts_ns":{}}}"#,
            change.operation.code(),
            processed_us.div_euclid(1000),
            processed_us.saturating_mul(1000),
        );
    }
}

impl JsonOutput {
    fn by_way_of_avro(
        &mut self,
        wire: &Wire,
        out: &mut Vec<u8>,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<Fit, Bad>,
    ) -> Result<Fit, Bad> {
        self.encoded.clear();
        let fit = encode(&mut self.encoded)?;
        if fit != Fit::Unfit {
            value(wire, &self.encoded, out).ok_or(Bad::new("a value that was encoded does not read", 0))?;
        }
        Ok(fit)
    }
}

/// What stands before a field's value, but for the comma.
pub(super) fn label(name: &str) -> Box<[u8]> {
    let mut out = vec![];
    string(name.as_bytes(), &mut out);
    out.push(b':');
    out.into()
}

/// A filler or placeholder.
pub(super) fn of_encoded(wire: &Wire, encoded: &[u8]) -> Box<[u8]> {
    let mut out = vec![];
    value(wire, encoded, &mut out);
    out.into()
}

fn open(label: &[u8], out: &mut Vec<u8>) {
    // An object that has a field already ends in that field's value.
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    out.extend_from_slice(label);
}

pub(super) fn scalar(value: &Scalar<'_>, out: &mut Vec<u8>) {
    match value {
        Scalar::Null => out.extend_from_slice(b"null"),
        Scalar::Number(number) => out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes()),
        Scalar::Text(text) => string(text.as_bytes(), out),
    }
}

fn whole(number: i64, out: &mut Vec<u8>) -> Result<Fit, Bad> {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    Ok(Fit::Exact)
}

/// An encoded value, and what follows it.
fn value<'a>(wire: &Wire, encoded: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    match wire {
        Wire::Bool | Wire::Bit => {
            let (flag, rest) = encoded.split_first()?;
            out.extend_from_slice(if *flag == 1 { b"true" } else { b"false" });
            Some(rest)
        }
        Wire::Int { .. }
        | Wire::Long { .. }
        | Wire::Date
        | Wire::TimeMillis
        | Wire::TimeMicros
        | Wire::TimestampMillis
        | Wire::TimestampMicros
        | Wire::Interval => long(encoded, out),
        Wire::Float => {
            let (bytes, rest) = encoded.split_first_chunk()?;
            float(f32::from_le_bytes(*bytes), out);
            Some(rest)
        }
        Wire::Double | Wire::DecimalDouble | Wire::MoneyDouble => double(encoded, out),
        Wire::Decimal { .. } | Wire::Money | Wire::Bytes | Wire::TextBytes | Wire::Bits => bytes(encoded, out),
        Wire::VariableDecimal => {
            out.extend_from_slice(b"{\"scale\":");
            let rest = long(encoded, out)?;
            out.extend_from_slice(b",\"value\":");
            let rest = bytes(rest, out)?;
            out.push(b'}');
            Some(rest)
        }
        Wire::DecimalText { .. }
        | Wire::MoneyText
        | Wire::Text
        | Wire::Uuid
        | Wire::Base64
        | Wire::TextBase64
        | Wire::IsoDate
        | Wire::IsoTime
        | Wire::IsoTimestamp
        | Wire::IsoInterval
        | Wire::ZonedTime
        | Wire::ZonedTimestamp { .. }
        | Wire::Hstore => {
            let (text, rest) = body(encoded)?;
            string(text, out);
            Some(rest)
        }
        Wire::Point => point(encoded, out),
        Wire::Array(items) => array(items, encoded, out),
    }
}

fn long<'a>(encoded: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    let (number, rest) = read_long(encoded)?;
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    Some(rest)
}

fn double<'a>(encoded: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    let (bytes, rest) = encoded.split_first_chunk()?;
    float(f64::from_le_bytes(*bytes), out);
    Some(rest)
}

fn body(encoded: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = read_long(encoded)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}

fn bytes<'a>(encoded: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    let (bytes, rest) = body(encoded)?;
    base64(bytes, out);
    Some(rest)
}

pub(super) fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    binary::base64_letters(bytes.iter().copied(), out);
    out.push(b'"');
}

/// x, y, the well-known binary form; no reference system.
fn point<'a>(encoded: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    out.extend_from_slice(b"{\"x\":");
    let rest = double(encoded, out)?;
    out.extend_from_slice(b",\"y\":");
    let rest = double(rest, out)?;
    out.extend_from_slice(b",\"wkb\":");
    let (_, rest) = read_long(rest)?;
    let rest = bytes(rest, out)?;
    out.extend_from_slice(b",\"srid\":null}");
    read_long(rest).map(|(_, rest)| rest)
}

fn array<'a>(items: &Wire, encoded: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    out.push(b'[');
    let (mut count, mut rest) = read_long(encoded)?;
    while count > 0 {
        for at in 0..count {
            if at > 0 {
                out.push(b',');
            }
            let (branch, item) = read_long(rest)?;
            rest = if branch == 0 {
                out.extend_from_slice(b"null");
                item
            } else {
                value(items, item, out)?
            };
        }
        (count, rest) = read_long(rest)?;
    }
    out.push(b']');
    Some(rest)
}

/// `text` in quotes; it is UTF-8. A character beyond the basic plane is written as Java holds it, in two escapes.
pub(super) fn string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..0x20 | 0xf0..=0xff)) {
        let (plain, special) = rest.split_at(at);
        out.extend_from_slice(plain);
        rest = match special {
            [a @ 0xf0..=0xff, b, c, d, after @ ..] => {
                let bits = |byte: &u8, mask: u8| u32::from(byte & mask);
                let unit = (bits(a, 7) << 18 | bits(b, 63) << 12 | bits(c, 63) << 6 | bits(d, 63)).wrapping_sub(0x1_0000);
                // Writing into a vector does not fail.
                let _ = write!(out, "\\u{:04X}\\u{:04X}", 0xd800 | unit >> 10 & 0x3ff, 0xdc00 | unit & 0x3ff);
                after
            }
            [byte, after @ ..] => {
                binary::json_byte(*byte, out);
                after
            }
            [] => break,
        };
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// As Java's `toString`: the fewest digits that name the number, one of them behind the point at least, and an exponent outside
/// 10^-3 to 10^7.
fn float(value: impl LowerExp + Debug + Copy + Into<f64>, out: &mut Vec<u8>) {
    let wide: f64 = value.into();
    // Writing into a vector does not fail.
    let _ = match wide.abs() {
        _ if wide.is_nan() => write!(out, "\"NaN\""),
        f64::INFINITY => write!(out, "\"{}Infinity\"", if wide < 0.0 { "-" } else { "" }),
        size if size == 0.0 || (1e-3..1e7).contains(&size) => write!(out, "{value:?}"),
        _ => {
            let shortest = format!("{value:e}");
            // Of two digits the nearest to the number, which for the smallest ones is not the only digit with a zero.
            let text = if shortest.contains('.') { shortest } else { format!("{value:.1e}") };
            write!(out, "{}", text.replace('e', "E"))
        }
    };
}

impl EncodePlan {
    /// The fields of a key in JSON, in the key's order; `None` where `key` is no key of this plan.
    #[must_use]
    pub fn fields_of_json_key<'k>(&self, key: &'k [u8]) -> Option<Vec<&'k [u8]>> {
        let mut rest = key;
        let mut fields = Vec::with_capacity(self.key.len());
        for (place, &column) in self.key.iter().enumerate() {
            rest = rest.strip_prefix(if place == 0 { b"{" } else { b"," })?;
            rest = rest.strip_prefix(&*self.slots.get(column)?.label)?;
            let (field, after) = rest.split_at_checked(end_of_value(rest)?)?;
            fields.push(field);
            rest = after;
        }
        (rest == b"}").then_some(fields)
    }
}

/// Where the value at the front of an object's rest ends.
fn end_of_value(text: &[u8]) -> Option<usize> {
    let (mut depth, mut quoted, mut escaped) = (0_u32, false, false);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b',' | b'}' if depth == 0 => return Some(at),
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
    }
    None
}
