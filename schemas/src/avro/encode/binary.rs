//! bytea, bit strings, points and hstore in PostgreSQL's text form.

use super::super::varint::{prefix_long, write_bytes, write_long};
use super::Bad;
use super::number::float;

/// `\x` and pairs of hexadecimal digits (`bytea_output = hex`).
pub(super) fn bytea(text: &[u8], out: &mut Vec<u8>) -> Result<(), Bad> {
    let Some(digits) = text.strip_prefix(b"\\x") else {
        return Err(Bad::new("bytes that do not start with \\x (the session needs bytea_output = hex)", 0));
    };
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Bad::new("an odd number of hexadecimal digits", text.len()));
    }
    write_long(out, pairs.len() as i64);
    out.reserve(pairs.len());
    for (at, &[high, low]) in pairs.iter().enumerate() {
        let (high, low) = (nibble(high), nibble(low));
        if high | low > 0xf {
            return Err(Bad::new("not a hexadecimal digit", 2 + at * 2));
        }
        out.push(high << 4 | low);
    }
    Ok(())
}

/// As [`bytea`], in base64 with padding.
pub(super) fn bytea_base64(text: &[u8], out: &mut Vec<u8>) -> Result<(), Bad> {
    let Some(digits) = text.strip_prefix(b"\\x") else {
        return Err(Bad::new("bytes that do not start with \\x (the session needs bytea_output = hex)", 0));
    };
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Bad::new("an odd number of hexadecimal digits", text.len()));
    }
    if let Some(at) = digits.iter().position(|&digit| nibble(digit) > 0xf) {
        return Err(Bad::new("not a hexadecimal digit", 2 + at));
    }
    base64(pairs.iter().map(|&[high, low]| nibble(high) << 4 | nibble(low)), pairs.len(), out);
    Ok(())
}

/// `count` bytes as an Avro string of base64 with padding (RFC 4648, section 4).
pub(super) fn base64(bytes: impl Iterator<Item = u8>, count: usize, out: &mut Vec<u8>) {
    let length = count.div_ceil(3) * 4;
    write_long(out, length as i64);
    out.reserve(length);
    base64_letters(bytes, out);
}

pub(super) fn base64_letters(mut bytes: impl Iterator<Item = u8>, out: &mut Vec<u8>) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    while let Some(first) = bytes.next() {
        let (second, third) = (bytes.next(), bytes.next());
        let group = u32::from(first) << 16 | u32::from(second.unwrap_or(0)) << 8 | u32::from(third.unwrap_or(0));
        let letter = |shift: u32| ALPHABET[(group >> shift & 63) as usize];
        out.extend([
            letter(18),
            letter(12),
            if second.is_some() { letter(6) } else { b'=' },
            if third.is_some() { letter(0) } else { b'=' },
        ]);
    }
}

fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        _ => 0xff,
    }
}

/// Zeros and ones, the highest first: little-endian bytes without zero bytes at the end.
pub(super) fn bits(text: &[u8], out: &mut Vec<u8>) -> Result<(), Bad> {
    if let Some(at) = text.iter().position(|bit| !matches!(bit, b'0' | b'1')) {
        return Err(Bad::new("not a bit", at));
    }
    let significant = text.iter().position(|&bit| bit == b'1').map_or(&text[..0], |first| &text[first..]);
    write_long(out, significant.len().div_ceil(8) as i64);
    out.extend(significant.rchunks(8).map(|byte| byte.iter().fold(0, |value, bit| value << 1 | (bit - b'0'))));
    Ok(())
}

/// `(x,y)`: Debezium's Point, with its well-known binary form and no reference system.
pub(super) fn point(text: &[u8], out: &mut Vec<u8>) -> Result<(), Bad> {
    let inner = text.strip_prefix(b"(").and_then(|rest| rest.strip_suffix(b")")).ok_or(Bad::new("no point", 0))?;
    let comma = inner.iter().position(|&byte| byte == b',').ok_or(Bad::new("no point", 0))?;
    write_point(float(&inner[..comma])?, float(&inner[comma + 1..])?, out);
    Ok(())
}

pub(super) fn write_point(x: f64, y: f64, out: &mut Vec<u8>) {
    out.extend_from_slice(&x.to_le_bytes());
    out.extend_from_slice(&y.to_le_bytes());
    write_long(out, 1);
    // Byte order (little-endian), geometry type 1, coordinates.
    write_long(out, 21);
    out.extend_from_slice(&[1, 1, 0, 0, 0]);
    out.extend_from_slice(&x.to_le_bytes());
    out.extend_from_slice(&y.to_le_bytes());
    write_long(out, 0);
}

/// `"key"=>"value", "other"=>NULL` as a compact JSON object in a string.
pub(super) fn hstore(text: &[u8], out: &mut Vec<u8>) -> Result<(), Bad> {
    std::str::from_utf8(text).map_err(|error| Bad::new("not UTF-8", error.valid_up_to()))?;
    let start = out.len();
    out.push(b'{');
    let mut rest = text;
    let at = |rest: &[u8]| text.len() - rest.len();
    while !rest.is_empty() {
        rest = quoted(rest, out).ok_or(Bad::new("no quoted key", at(rest)))?;
        rest = rest.strip_prefix(b"=>").ok_or(Bad::new("no =>", at(rest)))?;
        out.push(b':');
        if let Some(after) = rest.strip_prefix(b"NULL") {
            out.extend_from_slice(b"null");
            rest = after;
        } else {
            rest = quoted(rest, out).ok_or(Bad::new("no quoted value", at(rest)))?;
        }
        if let Some(after) = rest.strip_prefix(b", ") {
            out.push(b',');
            rest = after;
        } else if !rest.is_empty() {
            return Err(Bad::new("text after a value", at(rest)));
        }
    }
    out.push(b'}');
    let length = out.len() - start;
    prefix_long(out, start, length);
    Ok(())
}

/// Writes the text in quotes at the front of `text` as a JSON string; what follows it.
fn quoted<'a>(text: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    let mut bytes = text.iter().enumerate();
    if bytes.next()?.1 != &b'"' {
        return None;
    }
    out.push(b'"');
    while let Some((at, &byte)) = bytes.next() {
        match byte {
            b'"' => {
                out.push(b'"');
                return text.get(at + 1..);
            }
            b'\\' => json_byte(*bytes.next()?.1, out),
            byte => json_byte(byte, out),
        }
    }
    None
}

/// A byte of a JSON string, escaped where it has to be.
pub(super) fn json_byte(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        0x08 => out.extend_from_slice(b"\\b"),
        0x0c => out.extend_from_slice(b"\\f"),
        0..0x20 => {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        _ => out.push(byte),
    }
}

/// Binary form of a uuid as its text.
pub(super) fn uuid(bytes: &[u8; 16], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'-'; 36];
    let mut slots = text.iter_mut().enumerate().filter(|(at, _)| !matches!(at, 8 | 13 | 18 | 23)).map(|(_, slot)| slot);
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            if let Some(slot) = slots.next() {
                *slot = HEX[usize::from(nibble)];
            }
        }
    }
    write_bytes(out, &text);
}
