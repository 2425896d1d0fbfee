//! Dates and times in every form that is unambiguous by itself: GB/T 7408 (ISO 8601) basic and extended, slashes, dots,
//! Chinese digits and numerals, a time of day with or without zone.
//!
//! Not read: two-digit years, day or month first, week and ordinal dates, other calendars, zone abbreviations.

use super::super::clock::{DAY, days_from_civil};
use super::super::finding::Rule;
use super::pattern::Moment;

const SECOND: i64 = 1_000_000;

/// Reads a cleaned text.
pub(crate) fn read(text: &str) -> Result<Moment, Rule> {
    if let Some(moment) = plain_time(text.as_bytes()) {
        return Ok(moment);
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return digits_only(text);
    }
    let (days, rest) = date(text)?;
    let rest = weekday(days, rest)?;
    if rest.is_empty() {
        return Ok(Moment { days, ..Moment::default() });
    }
    let rest = rest.strip_prefix('T').unwrap_or_else(|| rest.trim_start_matches(' '));
    time(days, rest)
}

/// `YYYY-MM-DD`, as nearly every source writes it; `None` for any other form and for days that do not exist.
pub(crate) fn plain_date(text: &[u8]) -> Option<i32> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = *text else { return None };
    let year = two(y1, y2)? * 100 + two(y3, y4)?;
    days_from_civil(i32::try_from(year).ok()?, two(m1, m2)?, two(d1, d2)?)
}

/// `YYYY-MM-DD hh:mm:ss`, or with `T`.
fn plain_time(text: &[u8]) -> Option<Moment> {
    let (date, time) = text.split_at_checked(10)?;
    let [b' ' | b'T', h1, h2, b':', m1, m2, b':', s1, s2] = *time else { return None };
    let (hour, minute, second) = (two(h1, h2)?, two(m1, m2)?, two(s1, s2)?);
    let clock = ClockTime {
        hour: i64::from(hour),
        minute: i64::from(minute),
        second: Some(i64::from(second)),
        micros: 0,
        afternoon: None,
    };
    let (days, time) = clock.on(plain_date(date)?).ok()?;
    Some(Moment { days, time_of_day: Some(time), ..Moment::default() })
}

fn two(tens: u8, ones: u8) -> Option<u32> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| u32::from(tens) * 10 + u32::from(ones))
}

/// `YYYYMMDD`, `YYYYMMDDhhmmss` and `YYYYMMDDhhmmssfff`; any other length could be anything.
fn digits_only(text: &str) -> Result<Moment, Rule> {
    if !matches!(text.len(), 8 | 14 | 17) {
        return Err(Rule::DateForm);
    }
    let part = |from: usize, to: usize| text.get(from..to).and_then(|part| part.parse::<u32>().ok()).ok_or(Rule::DateForm);
    let days = civil(part(0, 4)?, part(4, 6)?, part(6, 8)?)?;
    if text.len() == 8 {
        return Ok(Moment { days, ..Moment::default() });
    }
    let clock = ClockTime {
        hour: i64::from(part(8, 10)?),
        minute: i64::from(part(10, 12)?),
        second: Some(i64::from(part(12, 14)?)),
        micros: if text.len() == 17 { i64::from(part(14, 17)?) * 1000 } else { 0 },
        afternoon: None,
    };
    let (days, time) = clock.on(days)?;
    Ok(Moment { days, time_of_day: Some(time), ..Moment::default() })
}

fn civil(year: u32, month: u32, day: u32) -> Result<i32, Rule> {
    i32::try_from(year).ok().and_then(|year| days_from_civil(year, month, day)).ok_or(Rule::DateMissingDay)
}

/// At most `most` digits at the start, with how many they are.
pub(crate) fn digits(text: &str, most: usize) -> Option<(u32, usize, &str)> {
    let count = text.bytes().take_while(u8::is_ascii_digit).count();
    if count == 0 || count > most {
        return None;
    }
    let (number, rest) = text.split_at_checked(count)?;
    Some((number.parse().ok()?, count, rest))
}

/// The date at the start.
fn date(text: &str) -> Result<(i32, &str), Rule> {
    let Some((year, count, rest)) = digits(text, 8) else { return numerals(text) };
    if count == 8 {
        return Ok((civil(year / 10_000, year / 100 % 100, year % 100)?, rest));
    }
    if count != 4 {
        return Err(Rule::DateForm);
    }
    let mut after = rest.chars();
    match after.next() {
        Some(separator @ ('-' | '/' | '.')) => {
            let (month, _, rest) = digits(after.as_str(), 2).ok_or(Rule::DateForm)?;
            let rest = rest.strip_prefix(separator).ok_or(Rule::DateForm)?;
            let (day, _, rest) = digits(rest, 2).ok_or(Rule::DateForm)?;
            Ok((civil(year, month, day)?, rest))
        }
        _ => {
            let rest = marker(rest, &['年'])?;
            let (month, _, rest) = digits(rest, 2).ok_or(Rule::DateForm)?;
            let rest = marker(rest, &['月'])?;
            let (day, _, rest) = digits(rest, 2).ok_or(Rule::DateForm)?;
            // Spaces after the last marker belong to the time.
            let rest = rest.trim_start_matches(' ').strip_prefix(['日', '号']).ok_or(Rule::DateForm)?;
            Ok((civil(year, month, day)?, rest))
        }
    }
}

/// One of these characters, with spaces around it.
fn marker<'t>(text: &'t str, markers: &[char]) -> Result<&'t str, Rule> {
    let rest = text.trim_start_matches(' ').strip_prefix(markers).ok_or(Rule::DateForm)?;
    Ok(rest.trim_start_matches(' '))
}

/// `二〇一七年九月二十二日`.
fn numerals(text: &str) -> Result<(i32, &str), Rule> {
    let (year, rest) = text.split_once('年').ok_or(Rule::DateForm)?;
    let (month, rest) = rest.split_once('月').ok_or(Rule::DateForm)?;
    let end = rest.find(['日', '号']).ok_or(Rule::DateForm)?;
    let (day, rest) = rest.split_at_checked(end).ok_or(Rule::DateForm)?;
    if year.chars().count() != 4 {
        return Err(Rule::DateForm);
    }
    let mut number = 0;
    for letter in year.chars() {
        number = number * 10 + numeral(letter).ok_or(Rule::DateForm)?;
    }
    let month = small_numeral(month).ok_or(Rule::DateForm)?;
    let day = small_numeral(day).ok_or(Rule::DateForm)?;
    Ok((civil(number, month, day)?, rest.get('日'.len_utf8()..).unwrap_or_default()))
}

/// Digits of Chinese numerals; U+25CB is a common stand-in for 〇.
pub(crate) fn numeral(letter: char) -> Option<u32> {
    Some(match letter {
        '〇' | '零' | '○' => 0,
        '一' => 1,
        '二' => 2,
        '三' => 3,
        '四' => 4,
        '五' => 5,
        '六' => 6,
        '七' => 7,
        '八' => 8,
        '九' => 9,
        _ => return None,
    })
}

/// 一 to 九十九, as months and days are written.
fn small_numeral(text: &str) -> Option<u32> {
    match text.split_once('十') {
        None => {
            let mut letters = text.chars();
            let number = numeral(letters.next()?)?;
            // 〇九 stands in some forms.
            match letters.next() {
                None => Some(number),
                Some(ones) if number == 0 && letters.next().is_none() => numeral(ones),
                Some(_) => None,
            }
        }
        Some((tens, ones)) => {
            let one = |text: &str, empty| {
                let mut letters = text.chars();
                match (letters.next(), letters.next()) {
                    (None, _) => Some(empty),
                    (Some(letter), None) => numeral(letter).filter(|number| *number > 0),
                    _ => None,
                }
            };
            Some(one(tens, 1)? * 10 + one(ones, 0)?)
        }
    }
}

/// Passes a weekday after the date, which has to agree.
fn weekday(days: i32, text: &str) -> Result<&str, Rule> {
    let after = text.trim_start_matches(' ');
    let (after, closing) = after.strip_prefix('(').map_or((after, ""), |after| (after, ")"));
    let Some(rest) = ["星期", "周"].iter().find_map(|word| after.strip_prefix(word)) else { return Ok(text) };
    let mut letters = rest.chars();
    let named = match letters.next().ok_or(Rule::DateForm)? {
        '日' | '天' => 7,
        letter => numeral(letter).filter(|day| (1..=6).contains(day)).ok_or(Rule::DateForm)?,
    };
    // 1970-01-01 was a Thursday.
    if (days + 3).rem_euclid(7) + 1 != i32::try_from(named).unwrap_or_default() {
        return Err(Rule::DateWeekday);
    }
    letters.as_str().strip_prefix(closing).ok_or(Rule::DateForm)
}

/// A time of day as written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClockTime {
    pub(crate) hour: i64,
    pub(crate) minute: i64,
    /// `None`: the text stops at minutes.
    pub(crate) second: Option<i64>,
    pub(crate) micros: i64,
    /// 上午 or 下午 was written: the hour is of the 12-hour clock.
    pub(crate) afternoon: Option<bool>,
}

impl ClockTime {
    /// The day and microsecond of the day; 24:00:00 is the next day's midnight.
    pub(crate) fn on(self, days: i32) -> Result<(i32, i64), Rule> {
        let hour = match self.afternoon {
            None => self.hour,
            Some(_) if !(1..=12).contains(&self.hour) => return Err(Rule::TimeRange),
            Some(afternoon) => self.hour % 12 + if afternoon { 12 } else { 0 },
        };
        let second = self.second.unwrap_or(0);
        let micros = ((hour * 60 + self.minute) * 60 + second) * SECOND + self.micros;
        if self.minute > 59 || second > 59 || micros > DAY {
            return Err(Rule::TimeRange);
        }
        if micros < DAY { Ok((days, micros)) } else { Ok((days + 1, 0)) }
    }
}

/// The time of day, and an offset, to the end of the text.
fn time(days: i32, text: &str) -> Result<Moment, Rule> {
    let (afternoon, text) = [("上午", false), ("下午", true)]
        .iter()
        .find_map(|(word, afternoon)| Some((Some(*afternoon), text.strip_prefix(word)?.trim_start_matches(' '))))
        .unwrap_or((None, text));
    let (number, count, rest) = digits(text, 6).ok_or(Rule::TimeForm)?;
    let (mut clock, rest) = match count {
        6 => {
            let clock = ClockTime {
                hour: i64::from(number / 10_000),
                minute: i64::from(number / 100 % 100),
                second: Some(i64::from(number % 100)),
                micros: 0,
                afternoon,
            };
            (clock, rest)
        }
        1 | 2 => written_clock(i64::from(number), afternoon, rest)?,
        _ => return Err(Rule::TimeForm),
    };
    let rest = match rest.strip_prefix('.') {
        Some(after) if clock.second.is_some() => {
            let (micros, rest) = fraction(after).ok_or(Rule::TimeForm)?;
            clock.micros = micros;
            rest
        }
        _ => rest,
    };
    let rest = rest.trim_start_matches(' ');
    let (offset, rest) = match offset(rest) {
        Some((offset, rest)) => (Some(offset?), rest),
        None => (None, rest),
    };
    if !rest.is_empty() {
        return Err(Rule::TimeForm);
    }
    let (days, time_of_day) = clock.on(days)?;
    Ok(Moment { days, time_of_day: Some(time_of_day), offset, minutes_only: clock.second.is_none() })
}

/// `:30`, `:30:05`, `时30分`, `时30分5秒` after the hour.
fn written_clock(hour: i64, afternoon: Option<bool>, text: &str) -> Result<(ClockTime, &str), Rule> {
    let chinese = !text.starts_with(':');
    let rest = text.strip_prefix([':', '时', '点']).ok_or(Rule::TimeForm)?;
    let (minute, _, rest) = digits(rest, 2).ok_or(Rule::TimeForm)?;
    let mut clock = ClockTime { hour, minute: i64::from(minute), second: None, micros: 0, afternoon };
    if chinese {
        let rest = rest.strip_prefix('分').ok_or(Rule::TimeForm)?;
        let Some((second, _, after)) = digits(rest, 2) else { return Ok((clock, rest)) };
        clock.second = Some(i64::from(second));
        return Ok((clock, after.strip_prefix('秒').ok_or(Rule::TimeForm)?));
    }
    let Some(after) = rest.strip_prefix(':') else { return Ok((clock, rest)) };
    let (second, _, rest) = digits(after, 2).ok_or(Rule::TimeForm)?;
    clock.second = Some(i64::from(second));
    Ok((clock, rest))
}

/// One to nine digits as microseconds; what is finer is cut.
pub(crate) fn fraction(text: &str) -> Option<(i64, &str)> {
    let (number, count, rest) = digits(text, 9)?;
    let number = i64::from(number);
    let count = u32::try_from(count).ok()?;
    Some((if count <= 6 { number * 10i64.pow(6 - count) } else { number / 10i64.pow(count - 6) }, rest))
}

/// `Z`, `+08:00`, `+0800`, `+08` at the start: seconds ahead of UTC.
pub(crate) fn offset(text: &str) -> Option<(Result<i32, Rule>, &str)> {
    if let Some(rest) = text.strip_prefix('Z') {
        return Some((Ok(0), rest));
    }
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (number, count, rest) = digits(text.get(1..)?, 4)?;
    let (hours, minutes, rest) = match count {
        4 => (number / 100, number % 100, rest),
        2 => match rest.strip_prefix(':') {
            Some(after) => {
                let (minutes, count, rest) = digits(after, 2)?;
                (number, if count == 2 { minutes } else { 99 }, rest)
            }
            None => (number, 0, rest),
        },
        _ => return None,
    };
    // ISO 8601 offsets in use go from -12:00 to +14:00.
    let seconds = i32::try_from(hours * 3600 + minutes * 60).unwrap_or(i32::MAX);
    let valid = hours <= 14 && minutes <= 59;
    Some((if valid { Ok(sign * seconds) } else { Err(Rule::TimeRange) }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fast_path_takes_nothing_that_the_slow_one_refuses() {
        for text in ["2017-09-2x", "2017-9-022", "2017-09-22 8:30:005", "2017-09-22_08:30:05"] {
            assert!(read(text).is_err(), "{text}");
        }
        assert_eq!(read("2017-02-29"), Err(Rule::DateMissingDay));
        assert_eq!(read("2017-09-22 08:30:60"), Err(Rule::TimeRange));
    }

    #[test]
    fn minutes_alone_are_a_time() {
        for text in ["2017-09-22 08:30", "2017年9月22日9时30分", "2017/9/22 下午 3:05"] {
            assert!(read(text).is_ok_and(|moment| moment.minutes_only && moment.time_of_day.is_some()), "{text}");
        }
    }

    #[test]
    fn numerals_are_read_as_written() {
        for (text, expected) in [("十", Some(10)), ("二十九", Some(29)), ("三十", Some(30)), ("〇九", Some(9)), ("二九", None)]
        {
            assert_eq!(small_numeral(text), expected, "{text}");
        }
    }
}
