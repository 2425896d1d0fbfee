//! Numbers in PostgreSQL's text form.

use super::super::varint::{write_bytes, write_long};
use super::{Bad, Fit};

/// A signed integer between `min` and `max`.
pub(super) fn integer(text: &[u8], min: i64, max: i64) -> Result<i64, Bad> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return Err(Bad::new("no digits", text.len()));
    }
    let sign_width = text.len() - digits.len();
    let mut value = 0_i64;
    for (at, &byte) in digits.iter().enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return Err(Bad::new("not a whole number", at + sign_width));
        }
        // Counted downwards, since the smallest number has no positive counterpart.
        value = if at < 18 {
            value * 10 - i64::from(digit)
        } else {
            value
                .checked_mul(10)
                .and_then(|tens| tens.checked_sub(i64::from(digit)))
                .ok_or(Bad::new("number out of the column type's range", at + sign_width))?
        };
    }
    let value = if negative { Some(value) } else { value.checked_neg() };
    value.filter(|value| (min..=max).contains(value)).ok_or(Bad::new("number out of the column type's range", 0))
}

pub(super) fn float<F: std::str::FromStr>(text: &[u8]) -> Result<F, Bad> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Bad::new("not a number", 0))
}

/// Sign, digits without the point, and how many of them stand behind it.
struct Digits<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
}

fn split(text: &[u8]) -> Result<Option<Digits<'_>>, Bad> {
    let (negative, rest) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if matches!(rest, b"NaN" | b"Infinity") {
        return Ok(None);
    }
    let point = rest.iter().position(|&byte| byte == b'.');
    let (whole, fraction) = point.map_or((rest, &rest[rest.len()..]), |at| (&rest[..at], &rest[at + 1..]));
    if whole.is_empty() && fraction.is_empty() {
        return Err(Bad::new("no digits", text.len()));
    }
    if let Some(at) = whole.iter().chain(fraction).position(|byte| !byte.is_ascii_digit()) {
        return Err(Bad::new("not a decimal number", at));
    }
    Ok(Some(Digits { negative, whole, fraction }))
}

/// The unscaled value of what nearly every `numeric(_, scale)` is: up to 18 digits, at most `scale` of them behind the point.
fn short(text: &[u8], scale: usize) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.len() + scale > 18 {
        return None;
    }
    let (mut value, mut behind) = (0_i64, None);
    for &byte in digits {
        match byte {
            b'0'..=b'9' => {
                value = value * 10 + i64::from(byte - b'0');
                behind = behind.map(|places: usize| places + 1);
            }
            b'.' if behind.is_none() => behind = Some(0),
            _ => return None,
        }
    }
    let places = behind.unwrap_or(0);
    if places > scale || digits.len() == usize::from(behind.is_some()) {
        return None;
    }
    let value = (places..scale).fold(value, |value, _| value * 10);
    Some(if negative { -value } else { value })
}

/// `numeric(_, scale)`: the unscaled value in the fewest bytes of big-endian two's complement. Unfit where it is no number, or
/// digits behind the scale would be cut.
pub(super) fn decimal(text: &[u8], scale: usize, out: &mut Vec<u8>) -> Result<Fit, Bad> {
    if let Some(value) = short(text, scale) {
        write_unscaled(value, out);
        return Ok(Fit::Exact);
    }
    let Some(Digits { negative, whole, fraction }) = split(text)? else { return Ok(Fit::Unfit) };
    let (kept, cut) = fraction.split_at(fraction.len().min(scale));
    if cut.iter().any(|&digit| digit != b'0') {
        return Ok(Fit::Unfit);
    }
    let missing = scale - kept.len();
    unscaled(negative, whole.iter().chain(kept).copied().chain(std::iter::repeat_n(b'0', missing)), whole.len() + scale, out);
    Ok(Fit::Exact)
}

/// `numeric`: Debezium's VariableScaleDecimal, scale and unscaled value, zeros at the end of the fraction stripped.
pub(super) fn variable_decimal(text: &[u8], out: &mut Vec<u8>) -> Result<Fit, Bad> {
    let Some(Digits { negative, whole, fraction }) = split(text)? else { return Ok(Fit::Unfit) };
    let scale = fraction.iter().rposition(|&digit| digit != b'0').map_or(0, |last| last + 1);
    write_long(out, scale as i64);
    let kept = fraction.iter().take(scale);
    unscaled(negative, whole.iter().chain(kept).copied(), whole.len() + scale, out);
    Ok(Fit::Exact)
}

/// Debezium's text of a decimal: the server's own with the column's scale, which a default may lack, and words for what is no number.
pub(super) fn decimal_text(text: &[u8], scale: usize, out: &mut Vec<u8>) -> Result<(), Bad> {
    match split(text)? {
        Some(digits) if digits.fraction.len() < scale => {
            let missing = scale - digits.fraction.len();
            let point: &[u8] = if text.contains(&b'.') { b"" } else { b"." };
            write_long(out, (text.len() + point.len() + missing) as i64);
            out.extend_from_slice(text);
            out.extend_from_slice(point);
            out.extend(std::iter::repeat_n(b'0', missing));
        }
        Some(_) => write_bytes(out, text),
        None if text == b"NaN" => write_bytes(out, b"NAN"),
        None if text == b"-Infinity" => write_bytes(out, b"NEGATIVE_INFINITY"),
        None => write_bytes(out, b"POSITIVE_INFINITY"),
    }
    Ok(())
}

/// `money` as the server's locale prints it: currency signs and separators are passed over; a last separator with one or two
/// digits behind it is the point.
struct Money<'a> {
    negative: bool,
    text: &'a [u8],
    /// Digits in `text`.
    count: usize,
    /// Zeros that are missing to hundredths.
    missing: usize,
}

impl<'a> Money<'a> {
    fn parse(text: &'a [u8]) -> Result<Self, Bad> {
        let count = text.iter().filter(|byte| byte.is_ascii_digit()).count();
        if count == 0 {
            return Err(Bad::new("no digits", text.len()));
        }
        let fraction = text
            .iter()
            .rposition(|byte| matches!(byte, b'.' | b','))
            .map_or(0, |at| text[at..].iter().filter(|byte| byte.is_ascii_digit()).count());
        let missing = if fraction <= 2 { 2 - fraction } else { 2 };
        Ok(Self { negative: text.iter().any(|byte| matches!(byte, b'-' | b'(')), text, count, missing })
    }

    /// Digits of the amount in hundredths.
    fn digits(&self) -> impl Iterator<Item = u8> {
        self.text.iter().copied().filter(u8::is_ascii_digit).chain(std::iter::repeat_n(b'0', self.missing))
    }
}

pub(super) fn money(text: &[u8], out: &mut Vec<u8>) -> Result<Fit, Bad> {
    let money = Money::parse(text)?;
    unscaled(money.negative, money.digits(), money.count + money.missing, out);
    Ok(Fit::Exact)
}

pub(super) fn money_text(text: &[u8], out: &mut Vec<u8>) -> Result<(), Bad> {
    write_bytes(out, &money_plain(text)?);
    Ok(())
}

pub(super) fn money_double(text: &[u8], out: &mut Vec<u8>) -> Result<(), Bad> {
    out.extend_from_slice(&float::<f64>(&money_plain(text)?)?.to_le_bytes());
    Ok(())
}

/// `-12.34`.
fn money_plain(text: &[u8]) -> Result<Vec<u8>, Bad> {
    let money = Money::parse(text)?;
    let whole = (money.count + money.missing).saturating_sub(2);
    let mut plain = Vec::with_capacity(whole + 4);
    if money.negative {
        plain.push(b'-');
    }
    for (at, digit) in money.digits().enumerate() {
        if at == whole {
            plain.push(b'.');
        }
        plain.push(digit);
    }
    Ok(plain)
}

/// Writes `value` as an Avro bytes value, in the fewest bytes of big-endian two's complement.
fn write_unscaled(value: i64, out: &mut Vec<u8>) {
    let width = (u64::BITS - (value ^ value >> 63).leading_zeros()) / 8 + 1;
    write_long(out, width.into());
    let end = out.len() + width as usize;
    out.extend_from_slice(&(value << (u64::BITS - 8 * width)).to_be_bytes());
    out.truncate(end);
}

/// Writes `digits` as an Avro bytes value. `count` is an upper bound of their number.
fn unscaled(negative: bool, digits: impl Iterator<Item = u8>, count: usize, out: &mut Vec<u8>) {
    // 38 digits are below 2^127.
    if count <= 38 {
        let value = digits.fold(0_i128, |value, digit| value * 10 + i128::from(digit - b'0'));
        let value = if negative { -value } else { value };
        let bytes = value.to_be_bytes();
        write_bytes(out, &bytes[redundant(&bytes)..]);
        return;
    }
    let mut limbs = magnitude(digits);
    if negative {
        let mut carry = true;
        for limb in &mut limbs {
            let (value, overflow) = (!*limb).overflowing_add(u32::from(carry));
            *limb = value;
            carry = overflow;
        }
    }
    let width = limbs.len() * 4;
    let byte = |at: usize| limbs.get((width - 1 - at) / 4).map_or(0, |limb| limb.to_be_bytes()[at % 4]);
    let first = (0..width - 1).find(|&at| !is_redundant(byte(at), byte(at + 1))).unwrap_or(width - 1);
    write_long(out, (width - first) as i64);
    out.extend((first..width).map(byte));
}

/// Little-endian limbs of a number of any length, with one spare limb for the sign.
fn magnitude(digits: impl Iterator<Item = u8>) -> Vec<u32> {
    let mut limbs: Vec<u32> = vec![];
    let mut push = |factor: u64, chunk: u64| {
        let mut carry = chunk;
        for limb in &mut limbs {
            let wide = u64::from(*limb) * factor + carry;
            *limb = wide as u32;
            carry = wide >> 32;
        }
        if carry > 0 {
            limbs.push(carry as u32);
        }
    };
    let (mut factor, mut chunk) = (1, 0);
    for digit in digits {
        chunk = chunk * 10 + u64::from(digit - b'0');
        factor *= 10;
        if factor == 1_000_000_000 {
            push(factor, chunk);
            (factor, chunk) = (1, 0);
        }
    }
    push(factor, chunk);
    limbs.push(0);
    limbs
}

fn redundant(bytes: &[u8]) -> usize {
    bytes.windows(2).position(|pair| !is_redundant(pair[0], pair[1])).unwrap_or(bytes.len() - 1)
}

/// Whether a leading byte only repeats the sign of the one after it.
fn is_redundant(byte: u8, next: u8) -> bool {
    byte == 0 && next < 0x80 || byte == 0xff && next >= 0x80
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn short_decimals_are_written_as_long_ones(
            text in "-?[0-9]{0,12}(\\.[0-9]{0,4})?|[-+.0-9]{0,4}",
            scale in 0_usize..5,
        ) {
            let (mut short, mut long) = (vec![], vec![]);
            let fit = decimal(text.as_bytes(), scale, &mut short);
            // Zeros in front, until there are too many digits for the short way.
            let padded = match text.strip_prefix(['-', '+']) {
                Some(digits) => format!("{}{:0>20}", &text[..1], digits),
                None => format!("{text:0>20}"),
            };
            if text.bytes().any(|byte| byte.is_ascii_digit()) {
                let same = decimal(padded.as_bytes(), scale, &mut long).map_err(|bad| bad.what);
                prop_assert_eq!(fit.map_err(|bad| bad.what), same);
                prop_assert_eq!(short, long);
            } else {
                prop_assert!(fit.is_err());
            }
        }
    }
}
