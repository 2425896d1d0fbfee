//! Dates, times and intervals in PostgreSQL's ISO text form (`DateStyle = ISO`, `IntervalStyle = postgres`).

use super::super::varint::write_bytes;
use super::{Bad, Fit};

const MICROS_PER_DAY: i64 = 86_400_000_000;
const MICROS_PER_SECOND: i64 = 1_000_000;
/// A month is a twelfth of 365.25 days.
const MICROS_PER_MONTH: i64 = 2_629_800_000_000;

/// Debezium's numbers for what its stream gives as infinity.
const DATE_INFINITY: (i64, i64) = (-2_147_472_692, -2_147_472_691);
const TIMESTAMP_INFINITY: (i64, i64) = (9_223_372_036_825_200_000, -9_223_372_036_832_400_000);

/// A place in the text that is being read.
struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn bad(&self, what: &'static str) -> Bad {
        Bad::new(what, self.at)
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.rest().first() == Some(&byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), Bad> {
        if self.take(byte) { Ok(()) } else { Err(self.bad(what)) }
    }

    /// Between `min` and 18 digits.
    fn digits(&mut self, min: usize, what: &'static str) -> Result<i64, Bad> {
        let rest = self.rest();
        let count = rest.iter().take(18).take_while(|byte| byte.is_ascii_digit()).count();
        if count < min {
            return Err(self.bad(what));
        }
        self.at += count;
        Ok(rest.iter().take(count).fold(0, |value, &byte| value * 10 + i64::from(byte - b'0')))
    }

    fn two(&mut self, max: i64, what: &'static str) -> Result<i64, Bad> {
        let value = match self.rest() {
            [tens @ b'0'..=b'9', ones @ b'0'..=b'9', ..] => i64::from(tens - b'0') * 10 + i64::from(ones - b'0'),
            _ => return Err(self.bad(what)),
        };
        if value > max {
            return Err(self.bad(what));
        }
        self.at += 2;
        Ok(value)
    }

    fn end(&self, what: &'static str) -> Result<(), Bad> {
        if self.rest().is_empty() { Ok(()) } else { Err(self.bad(what)) }
    }

    /// Year (astronomical: 0 is 1 BC once the era is read), month, day. The era stands at the end of the whole text.
    fn date(&mut self, bc: bool) -> Result<i64, Bad> {
        let year = self.digits(4, "no year")?;
        self.expect(b'-', "no month")?;
        let month = self.two(12, "no month")?;
        self.expect(b'-', "no day")?;
        let day = self.two(31, "no day")?;
        let year = if bc { 1 - year } else { year };
        if month == 0 || day == 0 || year > 6_000_000 || day > days_in_month(year, month) {
            return Err(self.bad("no date"));
        }
        Ok(days_from_civil(year, month, day))
    }

    /// Microseconds since midnight; the hour may be any number of digits.
    fn clock(&mut self) -> Result<i64, Bad> {
        let hours = self.digits(2, "no hour")?;
        self.expect(b':', "no minute")?;
        let minutes = self.two(59, "no minute")?;
        let seconds = if self.take(b':') { self.two(60, "no second")? } else { 0 };
        let mut micros = 0;
        if self.take(b'.') {
            let rest = self.rest();
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            for place in 0..6 {
                let digit = rest.get(place).filter(|_| place < digits).map_or(0, |byte| byte - b'0');
                micros = micros * 10 + i64::from(digit);
            }
            self.at += digits;
        }
        hours
            .checked_mul(3600)
            .and_then(|whole| whole.checked_add(minutes * 60 + seconds))
            .and_then(|whole| whole.checked_mul(MICROS_PER_SECOND))
            .and_then(|whole| whole.checked_add(micros))
            .ok_or(self.bad("time out of range"))
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
        Ok(sign * (hours * 3600 + minutes * 60 + seconds) * MICROS_PER_SECOND)
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar, by counting 400-year eras that begin in March.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse: year, month, day.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day_of_year - (153 * shifted_month + 2) / 5 + 1)
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
    let days = cursor.date(bc)?;
    cursor.end("text after the date")?;
    Ok(days)
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

fn date_and_time(cursor: &mut Cursor<'_>, bc: bool) -> Result<(i64, i64), Bad> {
    let days = cursor.date(bc)?;
    if !cursor.take(b' ') {
        cursor.expect(b'T', "no time of day")?;
    }
    let micros = cursor.clock()?;
    if micros > MICROS_PER_DAY + MICROS_PER_SECOND { Err(cursor.bad("time out of range")) } else { Ok((days, micros)) }
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
    let (days, micros) = date_and_time(&mut cursor, bc)?;
    cursor.end("text after the timestamp")?;
    Ok(Instant::new(days, micros))
}

/// ISO 8601 text in a buffer that no value outgrows.
struct Text {
    bytes: [u8; 40],
    len: usize,
}

impl Text {
    fn new() -> Self {
        Self { bytes: [0; 40], len: 0 }
    }

    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.len) {
            *slot = byte;
            self.len += 1;
        }
    }

    /// The last `width` digits of `value`.
    fn digits(&mut self, value: i64, width: u32) {
        for place in (0..width).rev() {
            self.push(b'0' + (value / 10_i64.pow(place) % 10) as u8);
        }
    }

    fn clock(&mut self, seconds_of_day: i64) {
        self.digits(seconds_of_day / 3600, 2);
        self.push(b':');
        self.digits(seconds_of_day / 60 % 60, 2);
        self.push(b':');
        self.digits(seconds_of_day % 60, 2);
    }

    fn write(&self, out: &mut Vec<u8>) {
        write_bytes(out, self.bytes.get(..self.len).unwrap_or_default());
    }
}

/// `2024-02-29T04:34:56.123456Z` in UTC with exactly `precision` digits of the second; a year outside 0 to 9999 has a sign.
pub(super) fn zoned_timestamp(text: &[u8], precision: u8, out: &mut Vec<u8>) -> Result<(), Bad> {
    if matches!(text, b"infinity" | b"-infinity") {
        write_bytes(out, text);
        return Ok(());
    }
    let (text, bc) = era(text);
    let mut cursor = Cursor::new(text);
    let (days, micros) = date_and_time(&mut cursor, bc)?;
    let offset = cursor.offset()?;
    cursor.end("text after the timestamp")?;
    let Instant { seconds, micros } = Instant::new(days, micros - offset);
    let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
    let mut iso = Text::new();
    if year < 0 {
        iso.push(b'-');
    } else if year > 9999 {
        iso.push(b'+');
    }
    let width = year.unsigned_abs().checked_ilog10().map_or(1, |log| log + 1).max(4);
    iso.digits(year.abs(), width);
    iso.push(b'-');
    iso.digits(month, 2);
    iso.push(b'-');
    iso.digits(day, 2);
    iso.push(b'T');
    iso.clock(seconds.rem_euclid(86_400));
    let precision = u32::from(precision.min(6));
    if precision > 0 {
        iso.push(b'.');
        iso.digits(micros / 10_i64.pow(6 - precision), precision);
    }
    iso.push(b'Z');
    iso.write(out);
    Ok(())
}

/// `04:34:56.123456Z`: the time in UTC, zeros at the end of the fraction trimmed.
pub(super) fn zoned_time(text: &[u8], out: &mut Vec<u8>) -> Result<(), Bad> {
    let mut cursor = Cursor::new(text);
    let micros = cursor.clock()?;
    let offset = cursor.offset()?;
    cursor.end("text after the time")?;
    let utc = (micros - offset).rem_euclid(MICROS_PER_DAY);
    let mut iso = Text::new();
    iso.clock(utc / MICROS_PER_SECOND);
    let mut fraction = utc % MICROS_PER_SECOND;
    if fraction > 0 {
        let mut width = 6;
        while fraction % 10 == 0 {
            fraction /= 10;
            width -= 1;
        }
        iso.push(b'.');
        iso.digits(fraction, width);
    }
    iso.push(b'Z');
    iso.write(out);
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
    while !cursor.rest().is_empty() {
        let sign = if cursor.take(b'-') {
            -1
        } else {
            cursor.take(b'+');
            1
        };
        if is_clock(cursor.rest()) {
            total += sign * i128::from(cursor.clock()?);
        } else {
            let count = cursor.digits(1, "no number in the interval")?;
            cursor.expect(b' ', "no unit in the interval")?;
            let unit = cursor.rest().iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
            let micros = match cursor.rest().get(..unit).unwrap_or_default() {
                b"year" | b"years" => 12 * MICROS_PER_MONTH,
                b"mon" | b"mons" => MICROS_PER_MONTH,
                b"day" | b"days" => MICROS_PER_DAY,
                _ => return Err(cursor.bad("unknown unit in the interval (the session needs IntervalStyle = postgres)")),
            };
            cursor.at += unit;
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
