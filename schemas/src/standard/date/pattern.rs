//! Date and time formats that a mapping declares.

use super::super::clock::days_from_civil;
use super::super::finding::Rule;
use super::super::options::OptionError;

/// A declared format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Format {
    Pattern(Vec<Part>),
    /// Seconds, milliseconds or microseconds since 1970-01-01T00:00Z: this many microseconds each.
    Epoch {
        micros: i64,
    },
    /// Days of a spreadsheet's 1900 system, with a fraction for the time.
    Excel,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Number(Unit, Width),
    /// 1 to 9 digits after a separator that the pattern holds.
    Fraction,
    /// 上午 or 下午, AM or PM.
    HalfDay,
    /// `Z`, `+08:00`, `+0800`, `+08`.
    Offset,
    Literal(char),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Year,
    /// Two digits: 00 to 68 are 2000 to 2068, 69 to 99 are 1969 to 1999 (POSIX `%y`).
    ShortYear,
    Month,
    Day,
    Hour,
    Hour12,
    Minute,
    Second,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    Exactly(usize),
    /// One or two digits.
    Free,
}

/// The parts of a date and time as they were written; `offset` in seconds, where the text names one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) days: i32,
    /// `None`: the text has no time of day.
    pub(crate) time_of_day: Option<i64>,
    pub(crate) offset: Option<i32>,
    /// The time stops at minutes.
    pub(crate) minutes_only: bool,
}

impl Format {
    pub(crate) fn parse(text: &str) -> Result<Self, OptionError> {
        let failed = |reason: String| OptionError::Format { format: text.to_owned(), reason };
        match text {
            "epoch_s" => return Ok(Self::Epoch { micros: 1_000_000 }),
            "epoch_ms" => return Ok(Self::Epoch { micros: 1000 }),
            "epoch_us" => return Ok(Self::Epoch { micros: 1 }),
            "excel" => return Ok(Self::Excel),
            _ => {}
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            if first == '\'' {
                let (quoted, after) =
                    rest.get(1..).and_then(|rest| rest.split_once('\'')).ok_or_else(|| failed("a quote is not closed".into()))?;
                parts.extend(quoted.chars().map(Part::Literal));
                rest = after;
                continue;
            }
            let run = rest.chars().take_while(|letter| *letter == first).count();
            parts
                .extend(parts_of(first, run).ok_or_else(|| failed(format!("`{}` is not known", first.to_string().repeat(run))))?);
            rest = rest.get(run * first.len_utf8()..).unwrap_or_default();
        }
        let has = |unit: &[Unit]| parts.iter().any(|part| matches!(part, Part::Number(held, _) if unit.contains(held)));
        if !has(&[Unit::Year, Unit::ShortYear]) {
            return Err(failed("the year is missing".into()));
        }
        if has(&[Unit::Hour12]) && !parts.contains(&Part::HalfDay) {
            return Err(failed("`h` needs `a` (上午/下午)".into()));
        }
        Ok(Self::Pattern(parts))
    }
}

fn parts_of(letter: char, run: usize) -> Option<Vec<Part>> {
    let two = |unit| match run {
        1 => Some(vec![Part::Number(unit, Width::Free)]),
        2 => Some(vec![Part::Number(unit, Width::Exactly(2))]),
        _ => None,
    };
    match letter {
        'y' if run == 4 => Some(vec![Part::Number(Unit::Year, Width::Exactly(4))]),
        'y' if run == 2 => Some(vec![Part::Number(Unit::ShortYear, Width::Exactly(2))]),
        'M' => two(Unit::Month),
        'd' => two(Unit::Day),
        'H' => two(Unit::Hour),
        'h' => two(Unit::Hour12),
        'm' => two(Unit::Minute),
        's' => two(Unit::Second),
        'S' => Some(vec![Part::Fraction]),
        'a' if run == 1 => Some(vec![Part::HalfDay]),
        'X' => Some(vec![Part::Offset]),
        'T' => Some(vec![Part::Literal('T'); run]),
        letter if letter.is_ascii_alphanumeric() => None,
        letter => Some(vec![Part::Literal(letter); run]),
    }
}

/// What was read of a pattern so far.
#[derive(Debug, Default)]
struct Fields {
    year: i32,
    month: Option<u32>,
    day: Option<u32>,
    hour: Option<i64>,
    minute: Option<i64>,
    second: Option<i64>,
    micros: i64,
    afternoon: Option<bool>,
    offset: Option<i32>,
}

/// Reads a cleaned text by a pattern. A pattern without month or day gives the first of them.
pub(crate) fn read(parts: &[Part], text: &str) -> Result<Moment, Rule> {
    let mut fields = Fields::default();
    let mut rest = text;
    for part in parts {
        rest = match part {
            Part::Literal(' ') => rest.strip_prefix(' ').ok_or(Rule::DateForm)?,
            Part::Literal(literal) => rest.strip_prefix(*literal).ok_or(Rule::DateForm)?,
            Part::Number(unit, width) => fields.number(*unit, *width, rest)?,
            Part::Fraction => fields.fraction(rest)?,
            Part::HalfDay => fields.half_day(rest)?,
            Part::Offset => {
                let (offset, rest) = super::forms::offset(rest).ok_or(Rule::DateForm)?;
                fields.offset = Some(offset?);
                rest
            }
        };
    }
    if rest.is_empty() { fields.moment() } else { Err(Rule::DateForm) }
}

impl Fields {
    fn number<'t>(&mut self, unit: Unit, width: Width, text: &'t str) -> Result<&'t str, Rule> {
        let most = match width {
            Width::Exactly(digits) => digits,
            Width::Free => 2,
        };
        let digits = text.bytes().take(most).take_while(u8::is_ascii_digit).count();
        if digits == 0 || matches!(width, Width::Exactly(exactly) if digits != exactly) {
            return Err(Rule::DateForm);
        }
        let (number, rest) = text.split_at_checked(digits).ok_or(Rule::DateForm)?;
        let number: u32 = number.parse().map_err(|_| Rule::DateForm)?;
        match unit {
            Unit::Year => self.year = i32::try_from(number).map_err(|_| Rule::DateForm)?,
            Unit::ShortYear => {
                self.year = i32::try_from(number + if number < 69 { 2000 } else { 1900 }).map_err(|_| Rule::DateForm)?;
            }
            Unit::Month => self.month = Some(number),
            Unit::Day => self.day = Some(number),
            Unit::Hour | Unit::Hour12 => self.hour = Some(i64::from(number)),
            Unit::Minute => self.minute = Some(i64::from(number)),
            Unit::Second => self.second = Some(i64::from(number)),
        }
        Ok(rest)
    }

    fn fraction<'t>(&mut self, text: &'t str) -> Result<&'t str, Rule> {
        let (micros, rest) = super::forms::fraction(text).ok_or(Rule::DateForm)?;
        self.micros = micros;
        Ok(rest)
    }

    fn half_day<'t>(&mut self, text: &'t str) -> Result<&'t str, Rule> {
        for (word, afternoon) in [("上午", false), ("下午", true), ("AM", false), ("PM", true), ("am", false), ("pm", true)] {
            if let Some(rest) = text.strip_prefix(word) {
                self.afternoon = Some(afternoon);
                return Ok(rest);
            }
        }
        Err(Rule::DateForm)
    }

    fn moment(self) -> Result<Moment, Rule> {
        let days = days_from_civil(self.year, self.month.unwrap_or(1), self.day.unwrap_or(1)).ok_or(Rule::DateMissingDay)?;
        let Some(hour) = self.hour else { return Ok(Moment { days, ..Moment::default() }) };
        let clock = super::forms::ClockTime {
            hour,
            minute: self.minute.unwrap_or(0),
            second: self.second,
            micros: self.micros,
            afternoon: self.afternoon,
        };
        let (days, time_of_day) = clock.on(days)?;
        Ok(Moment { days, time_of_day: Some(time_of_day), offset: self.offset, minutes_only: self.second.is_none() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_by(format: &str, text: &str) -> Option<(i32, Option<i64>)> {
        match Format::parse(format).expect("format") {
            Format::Pattern(parts) => read(&parts, text).ok().map(|moment| (moment.days, moment.time_of_day)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn patterns_read_what_they_say_and_nothing_else() {
        let day = days_from_civil(2017, 9, 22).expect("date");
        let at = |h: i64, m: i64, s: i64| Some(((h * 60 + m) * 60 + s) * 1_000_000);
        for (format, text, expected) in [
            ("yyyyMMdd", "20170922", Some((day, None))),
            ("yyyyMMdd", "2017-09-22", None),
            ("yyyyMMdd", "201709221", None),
            ("yy-M-d H:mm", "17-9-22 8:30", Some((day, at(8, 30, 0)))),
            ("dd/MM/yyyy", "22/09/2017", Some((day, None))),
            ("MM/dd/yyyy", "22/09/2017", None),
            ("yyyy-MM-dd HH:mm:ss", "2017-09-22 08:30:05", Some((day, at(8, 30, 5)))),
            ("yyyy-MM-dd HH:mm:ss", "2017-09-22 8:30:05", None),
            ("yyyy年M月d日 ah:mm", "2017年9月22日 下午3:05", Some((day, at(15, 5, 0)))),
            ("yyyy'年第'M'月'", "2017年第9月", Some((day - 21, None))),
        ] {
            assert_eq!(read_by(format, text), expected, "{format} {text}");
        }
    }

    #[test]
    fn a_format_that_says_nothing_is_refused() {
        for format in ["", "MMdd", "yyyyQ", "yyy", "yyyy-MM-dd hh:mm", "yyyy'", "epoch"] {
            assert!(Format::parse(format).is_err(), "{format}");
        }
    }
}
