//! Dates, times and intervals as ISO 8601 text, as Debezium writes it: a plain date, time or timestamp ends in `Z` too.

use std::io::Write;

use super::super::varint::write_bytes;
use super::time::{self, MICROS_PER_DAY, MICROS_PER_SECOND};
use super::{Bad, Fit};
use crate::calendar::Civil;

/// Text in a buffer that no value outgrows.
struct Text {
    bytes: [u8; 96],
    left: usize,
}

impl Text {
    fn new() -> Self {
        let bytes = [0; 96];
        Self { left: bytes.len(), bytes }
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        let mut rest = self.bytes.get_mut(96 - self.left..).unwrap_or_default();
        // Writing into a slice that is long enough does not fail.
        let _ = rest.write_fmt(text);
        self.left = rest.len();
    }

    /// A year outside 0 to 9999 has a sign.
    fn date(&mut self, days: i64) {
        let Civil { year, month, day } = Civil::of_days(days);
        let sign = if year < 0 {
            "-"
        } else if year > 9999 {
            "+"
        } else {
            ""
        };
        self.push(format_args!("{sign}{:04}-{month:02}-{day:02}", year.unsigned_abs()));
    }

    fn clock(&mut self, micros: i64) {
        let seconds = micros / MICROS_PER_SECOND;
        self.push(format_args!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60));
        self.fraction(micros % MICROS_PER_SECOND);
    }

    /// The fraction of a second, zeros at its end trimmed.
    fn fraction(&mut self, mut micros: i64) {
        if micros == 0 {
            return;
        }
        let mut width = 6;
        while micros % 10 == 0 {
            micros /= 10;
            width -= 1;
        }
        self.push(format_args!(".{micros:0width$}"));
    }

    fn write(&self, out: &mut Vec<u8>) {
        write_bytes(out, self.bytes.get(..96 - self.left).unwrap_or_default());
    }
}

/// `2024-02-29Z`; an infinite one has the text of its number.
pub(super) fn date(text: &[u8], out: &mut Vec<u8>) -> Result<(), Bad> {
    let mut iso = Text::new();
    iso.date(time::date(text)?);
    iso.push(format_args!("Z"));
    iso.write(out);
    Ok(())
}

/// `12:34:56.123456Z`; 24:00:00 is 00:00:00.
pub(super) fn time(text: &[u8], out: &mut Vec<u8>) -> Result<(), Bad> {
    let mut iso = Text::new();
    iso.clock(time::time(text)? % MICROS_PER_DAY);
    iso.push(format_args!("Z"));
    iso.write(out);
    Ok(())
}

/// `2024-02-29T12:34:56.123456Z`; an infinite one has the text of its number.
pub(super) fn timestamp(text: &[u8], out: &mut Vec<u8>) -> Result<Fit, Bad> {
    let Some(micros) = time::timestamp_micros(text)? else { return Ok(Fit::Unfit) };
    let mut iso = Text::new();
    iso.date(micros.div_euclid(MICROS_PER_DAY));
    iso.push(format_args!("T"));
    iso.clock(micros.rem_euclid(MICROS_PER_DAY));
    iso.push(format_args!("Z"));
    iso.write(out);
    Ok(Fit::Exact)
}

/// `P1Y2M3DT4H5M6.789S`, every part with a sign of its own; unfit where it is infinite.
pub(super) fn interval(text: &[u8], out: &mut Vec<u8>) -> Result<Fit, Bad> {
    if matches!(text, b"infinity" | b"-infinity") {
        return Ok(Fit::Unfit);
    }
    let Interval { years, months, days, micros } = parts(text)?;
    let seconds = micros / MICROS_PER_SECOND;
    let mut iso = Text::new();
    iso.push(format_args!("P{years}Y{months}M{days}DT{}H{}M", seconds / 3600, seconds / 60 % 60));
    let fraction = micros % MICROS_PER_SECOND;
    if seconds % 60 == 0 && fraction < 0 {
        iso.push(format_args!("-"));
    }
    iso.push(format_args!("{}", seconds % 60));
    iso.fraction(fraction.abs());
    iso.push(format_args!("S"));
    iso.write(out);
    Ok(Fit::Exact)
}

#[derive(Default)]
struct Interval {
    years: i64,
    months: i64,
    days: i64,
    micros: i64,
}

/// Reads `1 year -2 mons +3 days -04:05:06.789` (`IntervalStyle = postgres`).
fn parts(text: &[u8]) -> Result<Interval, Bad> {
    let bad = || Bad::new("no interval (the session needs IntervalStyle = postgres)", 0);
    let text = std::str::from_utf8(text).map_err(|_| bad())?;
    let mut whole = Interval::default();
    let mut words = text.split(' ');
    while let Some(word) = words.next() {
        if word.contains(':') {
            let (sign, clock) = word.strip_prefix('-').map_or((1, word), |clock| (-1, clock));
            let mut clock = clock.strip_prefix('+').unwrap_or(clock).splitn(3, ':');
            let mut number = || clock.next().unwrap_or("0").parse::<i64>().map_err(|_| bad());
            let minutes = number()?.checked_mul(60).and_then(|hours| Some((hours, number().ok()?))).ok_or_else(bad)?;
            let micros = micros(clock.next().unwrap_or("0")).ok_or_else(bad)?;
            let whole_minutes = minutes.0.checked_add(minutes.1).and_then(|minutes| minutes.checked_mul(60 * MICROS_PER_SECOND));
            let clock = whole_minutes.and_then(|clock| clock.checked_add(micros)?.checked_mul(sign));
            whole.micros = clock.ok_or_else(bad)?;
        } else {
            let count: i64 = word.parse().map_err(|_| bad())?;
            match words.next() {
                Some("year" | "years") => whole.years = count,
                Some("mon" | "mons") => whole.months = count,
                Some("day" | "days") => whole.days = count,
                _ => return Err(bad()),
            }
        }
    }
    Ok(whole)
}

/// `06.789` seconds.
fn micros(text: &str) -> Option<i64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = fraction.len();
    if digits > 6 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let fraction: i64 = if digits == 0 { 0 } else { fraction.parse().ok()? };
    let scaled = fraction * 10_i64.pow(u32::try_from(6 - digits).ok()?);
    seconds.parse::<i64>().ok()?.checked_mul(MICROS_PER_SECOND)?.checked_add(scaled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(write: impl Fn(&[u8], &mut Vec<u8>) -> Result<Fit, Bad>, text: &str) -> String {
        let mut out = vec![];
        assert!(matches!(write(text.as_bytes(), &mut out), Ok(Fit::Exact)), "{text}");
        String::from_utf8(out.split_off(1)).unwrap()
    }

    #[test]
    fn texts_are_those_of_the_peer() {
        for (text, wanted) in [
            ("1 year 2 mons 3 days 04:05:06.789012", "P1Y2M3DT4H5M6.789012S"),
            ("-1 years -2 mons +3 days -04:05:06.789", "P-1Y-2M3DT-4H-5M-6.789S"),
            ("-00:00:00.000001", "P0Y0M0DT0H0M-0.000001S"),
            ("00:00:00", "P0Y0M0DT0H0M0S"),
            ("100 years", "P100Y0M0DT0H0M0S"),
            ("36:00:00", "P0Y0M0DT36H0M0S"),
        ] {
            assert_eq!(read(interval, text), wanted);
        }
        assert_eq!(read(timestamp, "infinity"), "+294247-01-10T04:00:25.2Z");
        assert_eq!(read(timestamp, "0044-03-15 12:00:00.5 BC"), "-0043-03-15T12:00:00.5Z");
        let exact = |write: fn(&[u8], &mut Vec<u8>) -> Result<(), Bad>| {
            move |text: &[u8], out: &mut Vec<u8>| write(text, out).map(|()| Fit::Exact)
        };
        assert_eq!(read(exact(date), "infinity"), "-5877611-06-21Z");
        assert_eq!(read(exact(date), "0001-12-31 BC"), "0000-12-31Z");
        assert_eq!(read(exact(time), "24:00:00"), "00:00:00Z");
        assert_eq!(read(exact(time), "01:02:03.100"), "01:02:03.1Z");
        for text in ["", "1", "1 eon", "x:00:00", "00:00:00.1234567", "00:00:9999999999999"] {
            assert!(interval(text.as_bytes(), &mut vec![]).is_err(), "{text}");
        }
    }
}
