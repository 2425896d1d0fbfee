//! Dates, times and dates of reduced precision, out of any input.

pub(crate) mod forms;
pub(crate) mod pattern;

use std::borrow::Cow;
use std::fmt::Write as _;

use super::characters::{fold_width, is_separator, is_space, refused, trimmed};
use super::clock::{Clock, DAY, civil_from_days, days_from_civil, days_in_month};
use super::field::EntityField;
use super::finding::{Remarks, Rule};
use super::options::FieldOptions;
use super::value::{Input, OPEN_END};
use pattern::{Format, Moment, Part, Unit};

/// Longest date or time that is looked at, in characters.
const MAX_LENGTH: usize = 64;

/// Dates that databases and spreadsheets write for "no value": year 1, 1753-01-01, 1899-12-30, 1900-01-01.
const SENTINELS: [i32; 4] = [-719_162, -79_257, -25_569, -25_567];

/// 2099-12-31, the end of validity of the credit forms that means "without end".
const CREDIT_OPEN_END: i32 = 47_481;

/// A date or time as read: nothing, or a moment; `declared` where a declared format gave it, which has no sentinels.
struct Read {
    moment: Moment,
    declared: bool,
    /// An instant needs no zone.
    instant: Option<i64>,
}

/// Reads a date field; `None` is an empty value.
pub(crate) fn date(
    field: &EntityField,
    input: Input<'_>,
    options: &FieldOptions,
    clock: &Clock<'_>,
    remarks: &mut Remarks<'_>,
) -> Result<Option<i32>, Rule> {
    if let Input::Text(text) = input {
        if options.formats.is_empty()
            && let Some(days) = forms::plain_date(text.as_bytes())
        {
            return settle(field, days, false, options, clock);
        }
        if is_open_end(text) {
            return if options.open_end { Ok(Some(OPEN_END)) } else { Err(Rule::DateOpenEnd) };
        }
    }
    let Some(read) = read(input, options)? else { return Ok(None) };
    let days = match (read.instant, read.moment.time_of_day, read.moment.offset) {
        (Some(instant), ..) => clock.zone.local_days(instant),
        (None, Some(time), Some(offset)) => clock.zone.local_days(instant_at(read.moment.days, time, offset)),
        _ => read.moment.days,
    };
    if read.moment.time_of_day.is_some_and(|time| time != 0) && read.moment.offset.is_none() {
        remarks.note(Rule::DateFromTime);
    }
    settle(field, days, read.declared, options, clock)
}

/// What a day means in this field: no value, the open end, or a date that has to be plausible.
fn settle(
    field: &EntityField,
    days: i32,
    declared: bool,
    options: &FieldOptions,
    clock: &Clock<'_>,
) -> Result<Option<i32>, Rule> {
    if !declared && SENTINELS.contains(&days) {
        return Ok(None);
    }
    if options.open_end && matches!(days, CREDIT_OPEN_END | OPEN_END) {
        return Ok(Some(OPEN_END));
    }
    if field.past_only && days > clock.today {
        return Err(Rule::DateInFuture);
    }
    if field.not_before.is_some_and(|first| days < first) {
        return Err(Rule::DateTooEarly);
    }
    Ok(Some(days))
}

/// Reads a time field; `None` is an empty value.
pub(crate) fn time(
    field: &EntityField,
    input: Input<'_>,
    options: &FieldOptions,
    clock: &Clock<'_>,
    remarks: &mut Remarks<'_>,
) -> Result<Option<i64>, Rule> {
    let Some(read) = read(input, options).map_err(as_time)? else { return Ok(None) };
    if !read.declared && SENTINELS.contains(&read.moment.days) && read.instant.is_none() {
        return Ok(None);
    }
    let micros = match (read.instant, read.moment.time_of_day, read.moment.offset) {
        (Some(instant), ..) => instant,
        (None, Some(time), Some(offset)) => instant_at(read.moment.days, time, offset),
        (None, Some(time), None) => {
            remarks.note(Rule::TimeZoneAssumed);
            clock.zone.instant(i64::from(read.moment.days) * DAY + time)
        }
        // A declared format may leave the time out: the beginning of the day.
        (None, None, _) if read.declared => clock.zone.instant(i64::from(read.moment.days) * DAY),
        (None, None, _) => return Err(Rule::TimeForm),
    };
    if read.moment.minutes_only {
        remarks.note(Rule::TimeMinutes);
    }
    if field.past_only && micros > clock.now {
        return Err(Rule::DateInFuture);
    }
    Ok(Some(micros))
}

/// Reads `YYYY`, `YYYY-MM` or `YYYY-MM-DD`.
pub(crate) fn partial(
    field: &EntityField,
    input: Input<'_>,
    options: &FieldOptions,
    clock: &Clock<'_>,
    remarks: &mut Remarks<'_>,
) -> Result<Option<String>, Rule> {
    let mut number = itoa::Buffer::new();
    let text = match input {
        Input::Text(text) => text,
        Input::Integer(year) => number.format(year),
        _ => return date(field, input, options, clock, remarks).map(|days| days.map(|days| written(days, Precision::Day))),
    };
    let cleaned = clean(text)?;
    if cleaned.bytes().all(|b| b == b'0') {
        return Ok(None);
    }
    for format in &options.formats {
        if let Format::Pattern(parts) = format
            && let Ok(moment) = pattern::read(parts, &cleaned)
        {
            return Ok(Some(written(moment.days, precision(parts))));
        }
    }
    if options.formats.is_empty()
        && let Some((days, precision)) = year_or_month(&cleaned)
    {
        return Ok(Some(written(days.ok_or(Rule::DateMissingDay)?, precision)));
    }
    date(field, Input::Text(text), options, clock, remarks).map(|days| days.map(|days| written(days, Precision::Day)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Precision {
    Year,
    Month,
    Day,
}

fn precision(parts: &[Part]) -> Precision {
    let has = |unit| parts.iter().any(|part| matches!(part, Part::Number(held, _) if *held == unit));
    match (has(Unit::Day), has(Unit::Month)) {
        (true, _) => Precision::Day,
        (false, true) => Precision::Month,
        (false, false) => Precision::Year,
    }
}

fn written(days: i32, precision: Precision) -> String {
    let (year, month, day) = civil_from_days(days);
    let mut text = format!("{year:04}");
    // Writing to a `String` cannot fail.
    if precision != Precision::Year {
        let _ = write!(text, "-{month:02}");
    }
    if precision == Precision::Day {
        let _ = write!(text, "-{day:02}");
    }
    text
}

/// `2018`, `2018年`, `201803`, `2018-3`, `2018/03`, `2018.3`, `2018年3月`.
fn year_or_month(text: &str) -> Option<(Option<i32>, Precision)> {
    let (number, count, rest) = forms::digits(text, 6)?;
    let day = |year: u32, month: u32| i32::try_from(year).ok().and_then(|year| days_from_civil(year, month, 1));
    match (count, rest) {
        (4, "" | "年") => Some((day(number, 1), Precision::Year)),
        (6, "") => Some((day(number / 100, number % 100), Precision::Month)),
        (4, rest) => {
            let chinese = rest.starts_with('年');
            let (month, _, rest) = forms::digits(rest.strip_prefix(['-', '/', '.', '年'])?, 2)?;
            (rest == if chinese { "月" } else { "" }).then(|| (day(number, month), Precision::Month))
        }
        _ => None,
    }
}

/// First and last day of a canonical date of reduced precision.
pub(crate) fn period(text: &str) -> Option<(i32, i32)> {
    let mut parts = text.split('-').map(|part| part.parse::<u32>().ok());
    let year = i32::try_from(parts.next()??).ok()?;
    let Some(month) = parts.next() else { return Some((days_from_civil(year, 1, 1)?, days_from_civil(year, 12, 31)?)) };
    let month = month?;
    let Some(day) = parts.next() else {
        return Some((days_from_civil(year, month, 1)?, days_from_civil(year, month, days_in_month(year, month))?));
    };
    let day = days_from_civil(year, month, day?)?;
    Some((day, day))
}

fn is_open_end(text: &str) -> bool {
    // The words begin with neither a digit nor a letter but for PostgreSQL's own.
    !text.starts_with(|first: char| first.is_ascii_digit()) && matches!(trimmed(text), "长期" | "永久" | "--" | "infinity")
}

fn instant_at(days: i32, time_of_day: i64, offset: i32) -> i64 {
    i64::from(days) * DAY + time_of_day - i64::from(offset) * 1_000_000
}

/// In a time field, a text that is no date is no time.
fn as_time(rule: Rule) -> Rule {
    if rule == Rule::DateForm { Rule::TimeForm } else { rule }
}

fn read(input: Input<'_>, options: &FieldOptions) -> Result<Option<Read>, Rule> {
    let plain = |moment| Ok(Some(Read { moment, declared: !options.formats.is_empty(), instant: None }));
    let local = |micros: i64| Moment {
        days: i32::try_from(micros.div_euclid(DAY)).unwrap_or(i32::MAX),
        time_of_day: Some(micros.rem_euclid(DAY)),
        ..Moment::default()
    };
    let mut number = itoa::Buffer::new();
    match input {
        // A typed value needs no format, so it is not one that a format gave.
        Input::Days(days) => Ok(Some(Read {
            moment: Moment { days, ..Moment::default() },
            declared: !options.formats.is_empty() && !SENTINELS.contains(&days),
            instant: None,
        })),
        Input::Local(micros) => Ok(Some(Read { moment: local(micros), declared: false, instant: None })),
        Input::Instant(micros) => Ok(Some(Read { moment: Moment::default(), declared: false, instant: Some(micros) })),
        Input::Integer(value) => read_text(number.format(value), options),
        Input::Text(text) if options.formats.is_empty() => {
            // Nearly all values need no cleaning.
            if let Ok(moment) = forms::read(text) {
                return plain(moment);
            }
            read_text(text, options)
        }
        Input::Text(text) => read_text(text, options),
        Input::Decimal { unscaled, scale } => {
            read_text(&super::value::StandardValue::Decimal { unscaled, scale }.to_string(), options)
        }
        Input::Boolean(_) => Err(Rule::DateForm),
    }
}

fn read_text(text: &str, options: &FieldOptions) -> Result<Option<Read>, Rule> {
    let cleaned = clean(text)?;
    if is_zeros(&cleaned) {
        return Ok(None);
    }
    if options.formats.is_empty() {
        return Ok(Some(Read { moment: forms::read(&cleaned)?, declared: false, instant: None }));
    }
    let mut failure = Rule::DateForm;
    for format in &options.formats {
        match by_format(format, &cleaned) {
            Ok(read) => return Ok(Some(read)),
            // That a format fits but the day does not exist says more than that it does not fit.
            Err(rule) if failure == Rule::DateForm => failure = rule,
            Err(_) => {}
        }
    }
    Err(failure)
}

/// A date of zeros only: `00000000`, `0000-00-00`, with zeros as its time too.
fn is_zeros(text: &str) -> bool {
    text.starts_with('0') && text.chars().all(|letter| matches!(letter, '0' | '-' | '/' | '.' | ':' | ' '))
}

fn by_format(format: &Format, text: &str) -> Result<Read, Rule> {
    match format {
        Format::Pattern(parts) => Ok(Read { moment: pattern::read(parts, text)?, declared: true, instant: None }),
        Format::Epoch { micros } => {
            let number: i64 = text.parse().map_err(|_| Rule::DateForm)?;
            let instant = number.checked_mul(*micros).filter(|instant| within_years(*instant)).ok_or(Rule::DateForm)?;
            Ok(Read { moment: Moment::default(), declared: true, instant: Some(instant) })
        }
        Format::Excel => Ok(Read { moment: serial(text)?, declared: true, instant: None }),
    }
}

/// Whether an instant lies in the years 1 to 9999.
fn within_years(micros: i64) -> bool {
    (-62_135_596_800_000_000..253_402_300_800_000_000).contains(&micros)
}

/// A spreadsheet's serial of the 1900 system: 60 is a 29 February that 1900 did not have; the fraction is the time of day.
fn serial(text: &str) -> Result<Moment, Rule> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let whole: i32 = whole.parse().map_err(|_| Rule::DateForm)?;
    let days = match whole {
        1..=59 => whole - 25_568,
        61..=2_958_465 => whole - 25_569,
        _ => return Err(Rule::DateMissingDay),
    };
    let (micros, rest) = forms::fraction(fraction).ok_or(Rule::DateForm)?;
    if !rest.is_empty() {
        return Err(Rule::DateForm);
    }
    // Whole seconds: a fraction of a day has no more precision than that.
    let seconds = (micros * 86_400 + 500_000) / 1_000_000;
    let time_of_day = (seconds > 0).then_some(seconds * 1_000_000);
    Ok(Moment { days, time_of_day, ..Moment::default() })
}

/// Folds width and spaces, turns dashes to hyphens; refuses what no date holds.
fn clean(text: &str) -> Result<Cow<'_, str>, Rule> {
    let trimmed = trimmed(text);
    if trimmed.len() > MAX_LENGTH && trimmed.chars().count() > MAX_LENGTH {
        return Err(Rule::DateForm);
    }
    if trimmed.bytes().all(|b| (0x20..0x7F).contains(&b)) {
        return Ok(Cow::Borrowed(trimmed));
    }
    let mut cleaned = String::with_capacity(trimmed.len());
    for letter in trimmed.chars() {
        if is_space(letter) {
            cleaned.push(' ');
        } else if let Some(rule) = refused(letter) {
            return Err(rule);
        } else if is_separator(letter) {
            cleaned.push('-');
        } else {
            cleaned.push(fold_width(letter));
        }
    }
    Ok(Cow::Owned(cleaned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentinels_are_the_days_they_stand_for() {
        let day = |year, month, day| days_from_civil(year, month, day).expect("date");
        assert_eq!(SENTINELS, [day(1, 1, 1), day(1753, 1, 1), day(1899, 12, 30), day(1900, 1, 1)]);
        assert_eq!((CREDIT_OPEN_END, OPEN_END), (day(2099, 12, 31), day(9999, 12, 31)));
    }

    #[test]
    fn serials_count_as_spreadsheets_do() {
        assert_eq!(serial("1").map(|moment| moment.days), Ok(-25_567));
        assert_eq!(serial("43000.5").map(|moment| moment.time_of_day), Ok(Some(43_200_000_000)));
        assert_eq!(serial("60"), Err(Rule::DateMissingDay));
    }

    #[test]
    fn periods_span_their_precision() {
        assert_eq!(period("2020").map(|(first, last)| last - first), Some(365));
        assert_eq!(period("2020-02").map(|(first, last)| last - first), Some(28));
        assert_eq!(period("2020-02-30"), None);
        for (text, expected) in [("201803", "2018-03"), ("2018年", "2018"), ("2018.3", "2018-03"), ("2018年3月", "2018-03")] {
            let (days, precision) = year_or_month(text).expect(text);
            assert_eq!(written(days.expect("date"), precision), expected);
        }
        assert_eq!(year_or_month("201813"), Some((None, Precision::Month)));
        assert_eq!(year_or_month("2018-03-01"), None);
    }
}
