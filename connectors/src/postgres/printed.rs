//! Values in the server's binary form (`..._send` in its sources), of the types where that is plain, as the text that it prints of them
//! in the sessions that we open: ISO dates, UTC, hex bytes. What is read in binary is thus what would have been read in text.

use bytes::{BufMut, BytesMut};
use guitong_schemas::calendar::Civil;
use guitong_schemas::change::RowImage;
use guitong_schemas::contract::MAX_RECORD;
use guitong_schemas::table::ColumnType;

use super::decode::DecodeError;
use super::image;

/// Bytes of a buffer that many rows share; a row that is larger has one of its own.
const BUFFER: usize = 64 << 10;
/// Days from 1970-01-01 to 2000-01-01, from which the server counts.
const EPOCH: i64 = 10_957;
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// How a column's value is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Printed {
    /// Its binary form is its text.
    Same,
    /// After the version.
    Jsonb,
    Bool,
    Int,
    UInt,
    Float32,
    Float64,
    Numeric,
    Bytes,
    Date,
    Time,
    Timestamp,
    ZonedTimestamp,
    Uuid,
}

impl Printed {
    pub const ALL: [Self; 14] = [
        Self::Same,
        Self::Jsonb,
        Self::Bool,
        Self::Int,
        Self::UInt,
        Self::Float32,
        Self::Float64,
        Self::Numeric,
        Self::Bytes,
        Self::Date,
        Self::Time,
        Self::Timestamp,
        Self::ZonedTimestamp,
        Self::Uuid,
    ];

    /// `None` for a type whose binary form is not plain.
    pub(crate) fn of(oid: u32, kind: &ColumnType) -> Option<Self> {
        Some(match kind {
            ColumnType::Bool => Self::Bool,
            ColumnType::Int16 | ColumnType::Int32 | ColumnType::Int64 => Self::Int,
            ColumnType::UInt32 => Self::UInt,
            ColumnType::Float32 => Self::Float32,
            ColumnType::Float64 => Self::Float64,
            ColumnType::Decimal { .. } | ColumnType::VariableDecimal => Self::Numeric,
            ColumnType::Bytes => Self::Bytes,
            ColumnType::Date => Self::Date,
            ColumnType::Time { .. } => Self::Time,
            ColumnType::Timestamp { .. } => Self::Timestamp,
            ColumnType::ZonedTimestamp { .. } => Self::ZonedTimestamp,
            ColumnType::Uuid => Self::Uuid,
            ColumnType::Enum { .. } => Self::Same,
            // name, text, bpchar and varchar; json and jsonb.
            ColumnType::Text if matches!(oid, 19 | 25 | 1042 | 1043) => Self::Same,
            ColumnType::Json if oid == 114 => Self::Same,
            ColumnType::Json if oid == 3802 => Self::Jsonb,
            _ => return None,
        })
    }

    /// Writes a value as the cell of an image.
    pub(crate) fn cell(self, value: &[u8], out: &mut BytesMut) -> Result<(), DecodeError> {
        out.put_u8(b't');
        let start = out.len();
        out.put_u32(0);
        self.print(value, out).ok_or(DecodeError::Binary { length: value.len() })?;
        let length = u32::try_from(out.len() - start - 4).map_err(|_| DecodeError::Truncated("value"))?;
        if let Some(place) = out.get_mut(start..start + 4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        Ok(())
    }

    fn print(self, value: &[u8], out: &mut BytesMut) -> Option<()> {
        match self {
            Self::Same => out.put_slice(value),
            Self::Jsonb => out.put_slice(value.strip_prefix(b"\x01")?),
            Self::Bool => out.put_u8(if *value.first()? == 0 { b'f' } else { b't' }),
            Self::Int => integer(int(value)?, out),
            Self::UInt => integer(u32::from_be_bytes(value.try_into().ok()?).into(), out),
            Self::Float32 => float(&format!("{:e}", f32::from_be_bytes(value.try_into().ok()?)), f32::DIGITS, out),
            Self::Float64 => float(&format!("{:e}", f64::from_be_bytes(value.try_into().ok()?)), f64::DIGITS, out),
            Self::Numeric => numeric(value, out)?,
            Self::Bytes => bytes(value, out),
            Self::Date => {
                let days = i32::from_be_bytes(value.try_into().ok()?);
                match infinity(days == i32::MAX, days == i32::MIN) {
                    Some(text) => out.put_slice(text),
                    None => date_with(i64::from(days) + EPOCH, out, |_| ()),
                }
            }
            Self::Time => clock(long(value).filter(|micros| (0..=MICROS_PER_DAY).contains(micros))?, out),
            Self::Timestamp => timestamp(long(value)?, b"", out),
            Self::ZonedTimestamp => timestamp(long(value)?, b"+00", out),
            Self::Uuid => uuid(value.try_into().ok()?, out),
        }
        Some(())
    }
}

/// Room for a row of so many bytes. Growing the old buffer would copy, and give every further row an allocation of its own.
pub(crate) fn make_room(out: &mut BytesMut, most: usize) {
    if out.capacity() < most {
        *out = BytesMut::with_capacity(BUFFER.max(most));
    }
}

/// Most bytes of the cells of `columns` values that take `bytes` in binary: bytes take two digits each, and a number that is short in
/// binary at most these.
pub(crate) fn most(bytes: usize, columns: usize) -> usize {
    bytes * 2 + columns * 40
}

/// The row with the values of it that are in binary form, by the column's way to print them, as text.
pub(crate) fn row(image: &RowImage, columns: &[Printed], out: &mut BytesMut) -> Result<RowImage, DecodeError> {
    make_room(out, most(image.0.len(), columns.len()));
    for (field, printed) in image::fields(image).zip(columns) {
        match field {
            [b'b', ..] => printed.cell(image::value(field).unwrap_or_default(), out)?,
            _ => out.put_slice(field),
        }
    }
    Ok(RowImage(out.split().freeze()))
}

fn int(value: &[u8]) -> Option<i64> {
    match *value {
        [a, b] => Some(i16::from_be_bytes([a, b]).into()),
        [a, b, c, d] => Some(i32::from_be_bytes([a, b, c, d]).into()),
        _ => long(value),
    }
}

fn long(value: &[u8]) -> Option<i64> {
    value.try_into().ok().map(i64::from_be_bytes)
}

fn integer(value: i64, out: &mut BytesMut) {
    out.put_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// The fewest digits that read as the same number, with an exponent where it is below -4 or has as many places as the type has
/// digits at least.
fn float(shortest: &str, digits_of_type: u32, out: &mut BytesMut) {
    let (mantissa, exponent) = match shortest {
        "NaN" => return out.put_slice(b"NaN"),
        "inf" => return out.put_slice(b"Infinity"),
        "-inf" => return out.put_slice(b"-Infinity"),
        number => number.split_once('e').unwrap_or((number, "0")),
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    out.put_slice(sign.as_bytes());
    if !(-4..digits_of_type.cast_signed()).contains(&exponent) {
        out.put_slice(mantissa.as_bytes());
        out.put_slice(if exponent < 0 { b"e-" } else { b"e+" });
        if exponent.abs() < 10 {
            out.put_u8(b'0');
        }
        return integer(exponent.abs().into(), out);
    }
    let places = usize::try_from(exponent).unwrap_or(0);
    let mut digits = mantissa.bytes().filter(|byte| *byte != b'.');
    if exponent < 0 {
        out.put_slice(b"0.");
        out.put_bytes(b'0', exponent.unsigned_abs() as usize - 1);
    } else {
        (0..=places).for_each(|_| out.put_u8(digits.next().unwrap_or(b'0')));
        if digits.clone().next().is_some() {
            out.put_u8(b'.');
        }
    }
    out.extend(digits);
}

/// Groups of four digits, the place of the first group, the sign, and how many digits of the fraction are shown.
fn numeric(value: &[u8], out: &mut BytesMut) -> Option<()> {
    let (head, groups) = value.split_first_chunk::<8>()?;
    let ([count, weight, sign, scale], []) = head.as_chunks::<2>() else { return None };
    let (groups, []) = groups.as_chunks::<2>() else { return None };
    if usize::from(u16::from_be_bytes(*count)) != groups.len() {
        return None;
    }
    let (word, is_number): (&[u8], bool) = match u16::from_be_bytes(*sign) {
        0 => (b"", true),
        0x4000 => (b"-", true),
        0xC000 => (b"NaN", false),
        0xD000 => (b"Infinity", false),
        0xF000 => (b"-Infinity", false),
        _ => return None,
    };
    out.put_slice(word);
    if !is_number {
        return Some(());
    }
    let weight = i32::from(i16::from_be_bytes(*weight));
    let group = |place: i32| {
        let at = usize::try_from(weight - place).ok();
        at.and_then(|at| groups.get(at)).map_or(0, |group| u16::from_be_bytes(*group))
    };
    integer(if weight < 0 { 0 } else { group(weight).into() }, out);
    for place in (0..weight).rev() {
        out.put_slice(&four(group(place)));
    }
    let scale = usize::from(u16::from_be_bytes(*scale));
    if scale > 0 {
        out.put_u8(b'.');
        let whole = scale.div_ceil(4);
        for place in 1..=whole {
            let digits = four(group(-i32::try_from(place).ok()?));
            out.put_slice(digits.get(..(scale - (place - 1) * 4).min(4))?);
        }
    }
    Some(())
}

/// A group of a number's digits.
fn four(group: u16) -> [u8; 4] {
    let [tens, ones] = [group / 100, group % 100].map(|pair| two(pair.into()));
    [tens[0], tens[1], ones[0], ones[1]]
}

/// Below a hundred, with a zero before it.
fn two(value: u32) -> [u8; 2] {
    [b'0' + (value / 10 % 10) as u8, b'0' + (value % 10) as u8]
}

/// Of what is over the limit in any case, only as much as is so too.
fn bytes(value: &[u8], out: &mut BytesMut) {
    out.put_slice(b"\\x");
    hexadecimal(value.get(..=MAX_RECORD).unwrap_or(value), out);
}

fn hexadecimal(value: &[u8], out: &mut BytesMut) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in value {
        out.put_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

fn uuid([a @ .., b0, b1, c0, c1, d0, d1, e0, e1, e2, e3, e4, e5]: &[u8; 16], out: &mut BytesMut) {
    hexadecimal(a, out);
    for part in [&[*b0, *b1][..], &[*c0, *c1], &[*d0, *d1], &[*e0, *e1, *e2, *e3, *e4, *e5]] {
        out.put_u8(b'-');
        hexadecimal(part, out);
    }
}

fn infinity(plus: bool, minus: bool) -> Option<&'static [u8]> {
    match (plus, minus) {
        (true, _) => Some(b"infinity"),
        (_, true) => Some(b"-infinity"),
        _ => None,
    }
}

/// A day, what `then` writes, and the era where it is not ours.
fn date_with(days: i64, out: &mut BytesMut, then: impl FnOnce(&mut BytesMut)) {
    let Civil { year, month, day } = Civil::of_days(days);
    let (shown, before_christ) = if year > 0 { (year.unsigned_abs(), false) } else { (year.abs_diff(1), true) };
    if shown < 10_000 {
        out.put_slice(&two(shown / 100));
        out.put_slice(&two(shown % 100));
    } else {
        integer(shown.into(), out);
    }
    for part in [month, day] {
        out.put_u8(b'-');
        out.put_slice(&two(part));
    }
    then(out);
    if before_christ {
        out.put_slice(b" BC");
    }
}

fn timestamp(micros: i64, offset: &[u8], out: &mut BytesMut) {
    if let Some(text) = infinity(micros == i64::MAX, micros == i64::MIN) {
        return out.put_slice(text);
    }
    date_with(micros.div_euclid(MICROS_PER_DAY) + EPOCH, out, |out| {
        out.put_u8(b' ');
        clock(micros.rem_euclid(MICROS_PER_DAY), out);
        out.put_slice(offset);
    });
}

/// Microseconds since midnight; zeros at the end of the fraction are not shown.
fn clock(micros: i64, out: &mut BytesMut) {
    let (seconds, mut fraction) = ((micros / 1_000_000) as u32, (micros % 1_000_000) as u32);
    let [hours, minutes, seconds] = [seconds / 3600, seconds / 60 % 60, seconds % 60].map(two);
    out.put_slice(&[hours[0], hours[1], b':', minutes[0], minutes[1], b':', seconds[0], seconds[1]]);
    if fraction == 0 {
        return;
    }
    let mut digits = 6;
    while fraction.is_multiple_of(10) {
        (fraction, digits) = (fraction / 10, digits - 1);
    }
    out.put_u8(b'.');
    let mut place = 10_u32.pow(digits - 1);
    while place > 0 {
        out.put_u8(b'0' + (fraction / place % 10) as u8);
        place /= 10;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn printed(printed: Printed, value: &[u8]) -> Option<String> {
        let mut out = BytesMut::new();
        printed.print(value, &mut out)?;
        Some(String::from_utf8(out.to_vec()).unwrap())
    }

    /// `ndigits`, `weight`, `sign`, `dscale`, digits.
    fn number(parts: &[u16]) -> Option<String> {
        let parts = [&[u16::try_from(parts.len() - 3).unwrap()], parts].concat();
        printed(Printed::Numeric, &parts.iter().flat_map(|part| part.to_be_bytes()).collect::<Vec<_>>())
    }

    #[test]
    fn numbers_are_printed_as_the_server_does() {
        for (parts, wanted) in [
            (&[0, 0, 0][..], "0"),
            (&[0, 0, 2], "0.00"),
            (&[0, 0, 2, 12, 3400], "12.34"),
            (&[0, 0x4000, 0, 7], "-7"),
            (&[2, 0, 0, 1], "100000000"),
            (&[0xFFFE, 0, 9, 120], "0.000001200"),
            (&[1, 0, 6, 3, 4, 5], "30004.000500"),
            (&[0, 0xC000, 0], "NaN"),
            (&[0, 0xD000, 0], "Infinity"),
            (&[0, 0xF000, 0], "-Infinity"),
        ] {
            assert_eq!(number(parts).as_deref(), Some(wanted));
        }
        for value in [1e20, 1e15, 1e14, 1.5e-5, 0.000_15, -0.0, 100.25, 12_345.0, f64::NEG_INFINITY, f64::NAN, 1e-300] {
            let text = printed(Printed::Float64, &f64::to_be_bytes(value)).unwrap();
            assert!(text.parse::<f64>().unwrap().total_cmp(&value).is_eq(), "{value} as {text}");
        }
        assert_eq!(printed(Printed::Float64, &1e15_f64.to_be_bytes()).as_deref(), Some("1e+15"));
        assert_eq!(printed(Printed::Float32, &1.5e-5_f32.to_be_bytes()).as_deref(), Some("1.5e-05"));
    }

    #[test]
    fn days_and_times_are_printed_as_the_server_does() {
        for (days, wanted) in
            [(0_i32, "2000-01-01"), (-730_119, "0001-01-01"), (-730_120, "0001-12-31 BC"), (i32::MAX, "infinity")]
        {
            assert_eq!(printed(Printed::Date, &days.to_be_bytes()).as_deref(), Some(wanted));
        }
        for (micros, wanted) in [
            (0_i64, "2000-01-01 00:00:00+00"),
            (-1, "1999-12-31 23:59:59.999999+00"),
            (1_500_000, "2000-01-01 00:00:01.5+00"),
            (-63_082_281_600_000_000 - MICROS_PER_DAY, "0001-12-31 00:00:00+00 BC"),
            (i64::MIN, "-infinity"),
        ] {
            assert_eq!(printed(Printed::ZonedTimestamp, &micros.to_be_bytes()).as_deref(), Some(wanted));
        }
        assert_eq!(printed(Printed::Time, &MICROS_PER_DAY.to_be_bytes()).as_deref(), Some("24:00:00"));
    }

    /// The field of a value in binary form.
    fn field(value: &[u8]) -> Vec<u8> {
        [&b"b"[..], &u32::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
    }

    #[test]
    fn a_row_keeps_what_is_not_in_binary_form() {
        let others = "nut\0\0\0\x03桂".as_bytes();
        let sent = RowImage([&field(&7_i32.to_be_bytes()), others].concat().into());
        let wanted = RowImage([b"t\0\0\0\x017", others].concat().into());
        let mut out = BytesMut::new();
        assert_eq!(row(&sent, &[Printed::Int; 4], &mut out), Ok(wanted));
        assert_eq!(row(&RowImage(field(b"abc").into()), &[Printed::Int], &mut out), Err(DecodeError::Binary { length: 3 }));
    }

    proptest! {
        #[test]
        fn arbitrary_values_never_panic(value in proptest::collection::vec(any::<u8>(), 0..40)) {
            for kind in Printed::ALL {
                let _ = kind.print(&value, &mut BytesMut::new());
                let _ = row(&RowImage(field(&value).into()), &[kind], &mut BytesMut::new());
            }
        }
    }
}
