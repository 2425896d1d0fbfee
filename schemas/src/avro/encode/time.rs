//! Dates, times and intervals in PostgreSQL's ISO text form (`DateStyle = ISO`, `IntervalStyle = postgres`).

use super::super::varint::{write_bytes, write_long};
use super::{Bad, Fit};
use crate::calendar::{Civil, days_in_month};

pub(super) const MICROS_PER_DAY: i64 = 86_400_000_000;
pub(super) const MICROS_PER_SECOND: i64 = 1_000_000;
/// A month is a twelfth of 365.25 days.
const MICROS_PER_MONTH: i64 = 2_629_800_000_000;

/// Wider than any server's, so that days stay far from the ends of 64 bits.
const YEARS: std::ops::RangeInclusive<i32> = -6_000_000..=6_000_000;

/// Debezium's numbers for what its stream gives as infinity.
const DATE_INFINITY: (i64, i64) = (-2_147_472_692, -2_147_472_691);
const TIMESTAMP_INFINITY: (i64, i64) = (9_223_372_036_825_200_000, -9_223_372_036_832_400_000);

/// Two digits as a number.
#[inline]
fn pair(tens: u8, ones: u8) -> u32 {
    u32::from(tens - b'0') * 10 + u32::from(ones - b'0')
}

/// A place in the text that is being read.
struct Cursor<'a> {
    rest: &'a [u8],
    /// Of the whole text.
    length: usize,
}

impl<'a> Cursor<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self { rest: text, length: text.len() }
    }

    #[cold]
    fn bad(&self, what: &'static str) -> Bad {
        Bad::new(what, self.length - self.rest.len())
    }

    fn take(&mut self, byte: u8) -> bool {
        match self.rest {
            [first, rest @ ..] if *first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), Bad> {
        if self.take(byte) { Ok(()) } else { Err(self.bad(what)) }
    }

    /// Passes over `count` bytes, which are there.
    fn pass(&mut self, count: usize) {
        self.rest = self.rest.get(count..).unwrap_or_default();
    }

    /// Between `min` and 18 digits.
    fn digits(&mut self, min: usize, what: &'static str) -> Result<i64, Bad> {
        let count = self.rest.iter().take(18).take_while(|byte| byte.is_ascii_digit()).count();
        if count < min {
            return Err(self.bad(what));
        }
        let value = self.rest.iter().take(count).fold(0, |value, &byte| value * 10 + i64::from(byte - b'0'));
        self.pass(count);
        Ok(value)
    }

    fn two(&mut self, max: u32, what: &'static str) -> Result<u32, Bad> {
        match self.rest {
            [tens @ b'0'..=b'9', ones @ b'0'..=b'9', rest @ ..] if pair(*tens, *ones) <= max => {
                self.rest = rest;
                Ok(pair(*tens, *ones))
            }
            _ => Err(self.bad(what)),
        }
    }

    fn end(&self, what: &'static str) -> Result<(), Bad> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.bad(what)) }
    }

    /// The era stands at the end of the whole text.
    fn date(&mut self, bc: bool) -> Result<Civil, Bad> {
        let year = match self.rest {
            // Nearly always four digits.
            [a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', d @ b'0'..=b'9', rest @ ..] if rest.first() == Some(&b'-') => {
                self.rest = rest;
                (pair(*a, *b) * 100 + pair(*c, *d)).cast_signed()
            }
            _ => i32::try_from(self.digits(4, "no year")?).unwrap_or(i32::MAX),
        };
        self.expect(b'-', "no month")?;
        let month = self.two(12, "no month")?;
        self.expect(b'-', "no day")?;
        let day = self.two(31, "no day")?;
        let year = if bc { 1 - year } else { year };
        if month == 0 || day == 0 || !YEARS.contains(&year) || day > days_in_month(year, month) {
            return Err(self.bad("no date"));
        }
        Ok(Civil { year, month, day })
    }

    /// Microseconds since midnight; the hour may be any number of digits.
    fn clock(&mut self) -> Result<i64, Bad> {
        let hours = match self.rest {
            [tens @ b'0'..=b'9', ones @ b'0'..=b'9', rest @ ..] if rest.first() == Some(&b':') => {
                self.rest = rest;
                i64::from(pair(*tens, *ones))
            }
            _ => self.digits(2, "no hour")?,
        };
        self.expect(b':', "no minute")?;
        let minutes = self.two(59, "no minute")?;
        let seconds = if self.take(b':') { self.two(60, "no second")? } else { 0 };
        let mut micros = 0;
        if self.take(b'.') {
            let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let read = self.rest.iter().take(digits.min(6)).fold(0, |micros, &byte| micros * 10 + i64::from(byte - b'0'));
            micros = read * [1_000_000, 100_000, 10_000, 1000, 100, 10, 1][digits.min(6)];
            self.pass(digits);
        }
        hours
            .checked_mul(3600)
            .and_then(|whole| whole.checked_add(i64::from(minutes * 60 + seconds)))
            .and_then(|whole| whole.checked_mul(MICROS_PER_SECOND))
            .and_then(|whole| whole.checked_add(micros))
            .ok_or_else(|| self.bad("time out of range"))
    }

    /// `+08`, `-05:30`, `+08:05:43` or `Z`: microseconds to subtract.
    fn offset(&mut self) -> Result<i64, Bad> {
        if self.take(b'Z') {
            return Ok(0);
        }
        let sign = if self.take(b'-') {
            -1
        } else {
            self.expect(b'+', "no offset from UTC")?;
            1
        };
        let hours = self.two(99, "no offset from UTC")?;
        let minutes = if self.take(b':') { self.two(59, "no offset from UTC")? } else { 0 };
        let seconds = if self.take(b':') { self.two(59, "no offset from UTC")? } else { 0 };
        Ok(sign * i64::from(hours * 3600 + minutes * 60 + seconds) * MICROS_PER_SECOND)
    }
}

fn era(text: &[u8]) -> (&[u8], bool) {
    text.strip_suffix(b" BC").map_or((text, false), |text| (text, true))
}

fn infinity(text: &[u8], (plus, minus): (i64, i64)) -> Option<i64> {
    match text {
        b"infinity" => Some(plus),
        b"-infinity" => Some(minus),
        _ => None,
    }
}

/// Days since 1970-01-01.
pub(super) fn date(text: &[u8]) -> Result<i64, Bad> {
    if let Some(days) = infinity(text, DATE_INFINITY) {
        return Ok(days);
    }
    let (text, bc) = era(text);
    let mut cursor = Cursor::new(text);
    let date = cursor.date(bc)?;
    cursor.end("text after the date")?;
    Ok(date.days())
}

/// Microseconds since midnight, up to and including 24:00:00.
pub(super) fn time(text: &[u8]) -> Result<i64, Bad> {
    let mut cursor = Cursor::new(text);
    let micros = cursor.clock()?;
    cursor.end("text after the time")?;
    if micros > MICROS_PER_DAY { Err(Bad::new("time out of range", 0)) } else { Ok(micros) }
}

/// Seconds and microseconds since 1970-01-01 00:00:00, kept apart because microseconds alone do not reach the year 294276.
struct Instant {
    seconds: i64,
    micros: i64,
}

impl Instant {
    fn new(days: i64, micros: i64) -> Self {
        let whole = micros.div_euclid(MICROS_PER_SECOND);
        Self { seconds: days * 86_400 + whole, micros: micros.rem_euclid(MICROS_PER_SECOND) }
    }
}

fn date_and_time(cursor: &mut Cursor<'_>, bc: bool) -> Result<(Civil, i64), Bad> {
    let date = cursor.date(bc)?;
    if !cursor.take(b' ') {
        cursor.expect(b'T', "no time of day")?;
    }
    let micros = cursor.clock()?;
    if micros > MICROS_PER_DAY + MICROS_PER_SECOND { Err(cursor.bad("time out of range")) } else { Ok((date, micros)) }
}

/// Microseconds since 1970-01-01 00:00:00; `None` beyond what 64 bits hold.
pub(super) fn timestamp_micros(text: &[u8]) -> Result<Option<i64>, Bad> {
    if let Some(micros) = infinity(text, TIMESTAMP_INFINITY) {
        return Ok(Some(micros));
    }
    let Instant { seconds, micros } = timestamp(text)?;
    Ok(seconds.checked_mul(MICROS_PER_SECOND).and_then(|whole| whole.checked_add(micros)))
}

/// Milliseconds since 1970-01-01 00:00:00.
pub(super) fn timestamp_millis(text: &[u8]) -> Result<Option<i64>, Bad> {
    if let Some(micros) = infinity(text, TIMESTAMP_INFINITY) {
        return Ok(Some(micros / 1000));
    }
    let Instant { seconds, micros } = timestamp(text)?;
    Ok(seconds.checked_mul(1000).and_then(|whole| whole.checked_add(micros / 1000)))
}

fn timestamp(text: &[u8]) -> Result<Instant, Bad> {
    let (text, bc) = era(text);
    let mut cursor = Cursor::new(text);
    let (date, micros) = date_and_time(&mut cursor, bc)?;
    cursor.end("text after the timestamp")?;
    Ok(Instant::new(date.days(), micros))
}

/// Two digits of `value` at `at`.
#[inline]
fn put<const N: usize>(text: &mut [u8; N], at: usize, value: u32) {
    text[at] = b'0' + (value / 10) as u8;
    text[at + 1] = b'0' + (value % 10) as u8;
}

/// `hh:mm:ss.ffffff` of microseconds in a day, and how many of its bytes show `precision` digits of the second.
fn clock(micros: i64, precision: usize) -> ([u8; 15], usize) {
    let seconds = u32::try_from(micros / MICROS_PER_SECOND).unwrap_or(0);
    let fraction = (micros % MICROS_PER_SECOND) as u32;
    let mut text = *b"00:00:00.000000";
    put(&mut text, 0, seconds / 3600);
    put(&mut text, 3, seconds / 60 % 60);
    put(&mut text, 6, seconds % 60);
    put(&mut text, 9, fraction / 10_000);
    put(&mut text, 11, fraction / 100 % 100);
    put(&mut text, 13, fraction % 100);
    (text, if precision == 0 { 8 } else { 9 + precision.min(6) })
}

/// `2024-02-29T04:34:56.123456Z` in UTC with exactly `precision` digits of the second; a year outside 0 to 9999 has a sign.
pub(super) fn zoned_timestamp(text: &[u8], precision: u8, out: &mut Vec<u8>) -> Result<(), Bad> {
    if matches!(text, b"infinity" | b"-infinity") {
        write_bytes(out, text);
        return Ok(());
    }
    let (text, bc) = era(text);
    let mut cursor = Cursor::new(text);
    let (mut date, local) = date_and_time(&mut cursor, bc)?;
    let mut micros = local - cursor.offset()?;
    cursor.end("text after the timestamp")?;
    // The day in UTC is mostly the day as written.
    if !(0..MICROS_PER_DAY).contains(&micros) {
        date = Civil::of_days(date.days() + micros.div_euclid(MICROS_PER_DAY));
        micros = micros.rem_euclid(MICROS_PER_DAY);
    }
    let (clock, shown) = clock(micros, precision.into());
    let mut day = *b"0000-00-00T";
    put(&mut day, 5, date.month);
    put(&mut day, 8, date.day);
    if let Ok(year @ 0..=9999) = u32::try_from(date.year) {
        put(&mut day, 0, year / 100);
        put(&mut day, 2, year % 100);
        write_long(out, (day.len() + shown + 1) as i64);
        out.extend_from_slice(&day);
    } else {
        let year = format!("{:+05}", date.year);
        write_long(out, (year.len() + day.len() - 4 + shown + 1) as i64);
        out.extend_from_slice(year.as_bytes());
        out.extend_from_slice(&day[4..]);
    }
    push_start(&clock, shown, out);
    out.push(b'Z');
    Ok(())
}

/// The first `length` bytes of `text`. A copy of known size is a few moves.
fn push_start<const N: usize>(text: &[u8; N], length: usize, out: &mut Vec<u8>) {
    let end = out.len() + length;
    out.extend_from_slice(text);
    out.truncate(end);
}

/// `04:34:56.123456Z`: the time in UTC, zeros at the end of the fraction trimmed.
pub(super) fn zoned_time(text: &[u8], out: &mut Vec<u8>) -> Result<(), Bad> {
    let mut cursor = Cursor::new(text);
    let micros = cursor.clock()?;
    let offset = cursor.offset()?;
    cursor.end("text after the time")?;
    let utc = (micros - offset).rem_euclid(MICROS_PER_DAY);
    let zeros = (0..6).take_while(|zeros| utc % 10_i64.pow(zeros + 1) == 0).count();
    let (clock, shown) = clock(utc, 6 - zeros);
    write_long(out, (shown + 1) as i64);
    push_start(&clock, shown, out);
    out.push(b'Z');
    Ok(())
}

/// Microseconds, a year of 365.25 days and a month of a twelfth of it; [`Fit::Unfit`] beyond 64 bits.
pub(super) fn interval(text: &[u8]) -> Result<Option<i64>, Bad> {
    if matches!(text, b"infinity" | b"-infinity") {
        return Ok(None);
    }
    let mut total = 0_i128;
    let mut cursor = Cursor::new(text);
    if text.is_empty() {
        return Err(cursor.bad("no interval"));
    }
    while !cursor.rest.is_empty() {
        let sign = if cursor.take(b'-') {
            -1
        } else {
            cursor.take(b'+');
            1
        };
        if is_clock(cursor.rest) {
            total += sign * i128::from(cursor.clock()?);
        } else {
            let count = cursor.digits(1, "no number in the interval")?;
            cursor.expect(b' ', "no unit in the interval")?;
            let unit = cursor.rest.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
            let micros = match cursor.rest.get(..unit).unwrap_or_default() {
                b"year" | b"years" => 12 * MICROS_PER_MONTH,
                b"mon" | b"mons" => MICROS_PER_MONTH,
                b"day" | b"days" => MICROS_PER_DAY,
                _ => return Err(cursor.bad("unknown unit in the interval (the session needs IntervalStyle = postgres)")),
            };
            cursor.pass(unit);
            total += sign * i128::from(count) * i128::from(micros);
        }
        if !cursor.take(b' ') {
            cursor.end("text after the interval")?;
        }
    }
    Ok(i64::try_from(total).ok())
}

fn is_clock(text: &[u8]) -> bool {
    text.iter().find(|byte| !byte.is_ascii_digit()) == Some(&b':')
}

/// Whether a value that the type cannot hold was met.
pub(super) fn fit(value: Option<i64>, write: impl FnOnce(i64)) -> Fit {
    match value {
        Some(value) => {
            write(value);
            Fit::Exact
        }
        None => Fit::Unfit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zoned(text: &str, precision: u8) -> Result<String, &'static str> {
        let mut out = vec![];
        zoned_timestamp(text.as_bytes(), precision, &mut out).map_err(|bad| bad.what)?;
        assert_eq!(usize::from(out[0]) / 2, out.len() - 1);
        Ok(String::from_utf8_lossy(&out[1..]).into_owned())
    }

    #[test]
    fn instants_are_shown_on_their_day_in_utc() {
        for (text, precision, expected) in [
            ("2024-03-01 08:00:00+08", 0, "2024-03-01T00:00:00Z"),
            ("2024-03-01 07:59:59.5+08", 1, "2024-02-29T23:59:59.5Z"),
            ("2023-12-31 23:30:00.123456-05:30", 6, "2024-01-01T05:00:00.123456Z"),
            ("0001-01-01 00:00:00+08 BC", 3, "-0001-12-31T16:00:00.000Z"),
            ("10000-01-01 00:00:00+00", 0, "+10000-01-01T00:00:00Z"),
            ("9999-12-31 23:59:60+00", 0, "+10000-01-01T00:00:00Z"),
        ] {
            assert_eq!(zoned(text, precision).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn years_that_no_server_has_are_refused() {
        for text in
            ["100000000000000000-01-01 00:00:00+00 BC", "100000000000000000-01-01 00:00:00+00", "6000001-01-01 00:00:00+00"]
        {
            assert_eq!(zoned(text, 0), Err("no date"), "{text}");
        }
        assert_eq!(date(b"99999999999-01-01 BC").map_err(|bad| bad.what), Err("no date"));
        assert_eq!(date(b"4713-01-01 BC").map_err(|bad| bad.what), Ok(-2_440_550));
    }
}
