//! Numbers, sizes and spans of time as people read them.

use std::time::Duration;

/// `1.2 GB`, in powers of 1,000.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or("TB");
    if unit == 0 || value >= 99.5 { format!("{value:.0} {name}") } else { format!("{value:.1} {name}") }
}

/// `48,212`.
#[must_use]
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `0.3 s`, `12 min`, `3 d 4 h`.
#[must_use]
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..=9 => format!("{:.1} s", time.as_secs_f64()),
        10..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Columns a text takes on a terminal: characters of Chinese, Japanese and Korean take two.
#[must_use]
pub fn width(text: &str) -> usize {
    text.chars().map(|c| if matches!(c, '\u{1100}'..='\u{115F}' | '\u{2E80}'..='\u{A4CF}' | '\u{AC00}'..='\u{D7A3}' | '\u{F900}'..='\u{FAFF}' | '\u{FE30}'..='\u{FE4F}' | '\u{FF00}'..='\u{FF60}' | '\u{FFE0}'..='\u{FFE6}' | '\u{20000}'..='\u{3FFFD}') { 2 } else { 1 }).sum()
}

/// `text` with spaces behind it up to `columns`.
#[must_use]
pub fn pad(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

/// `text` as far as `columns` of a terminal hold it, with `…` where something is cut.
#[must_use]
pub fn clip(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 1;
    for letter in text.chars() {
        used += width(letter.encode_utf8(&mut [0; 4]));
        if used > columns {
            break;
        }
        out.push(letter);
    }
    out.push('…');
    out
}

/// A value of somebody's on one line of a terminal: what would not be seen there is written as its code point.
#[must_use]
pub fn visible(value: &str) -> String {
    let hidden = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{A0}' | '\u{AD}' | '\u{61C}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}')
            || matches!(letter, '\u{3000}' | '\u{FEFF}' | '\u{E000}'..='\u{F8FF}' | '\u{F0000}'..)
    };
    let mut out = String::new();
    for letter in value.chars() {
        if hidden(letter) { out.extend(letter.escape_unicode()) } else { out.push(letter) }
    }
    out
}

/// A point in time, microseconds since 1970-01-01T00:00:00Z: `2026-11-23`, `2026-11-23 09:14`, RFC 3339, or a span before now, `2 h`.
/// Without a zone it is on this machine's clock.
///
/// # Errors
/// What a time looks like.
pub fn moment(text: &str) -> Result<i64, String> {
    let text = text.trim();
    let local = |time: jiff::civil::DateTime| time.to_zoned(jiff::tz::TimeZone::system()).map(|zoned| zoned.timestamp());
    let civil = || local(text.parse::<jiff::civil::DateTime>()?);
    let before = || jiff::Zoned::now().checked_sub(text.parse::<jiff::Span>()?).map(|zoned| zoned.timestamp());
    let found = text.parse::<jiff::Timestamp>().or_else(|_| civil()).or_else(|_| before());
    let help = "is no time; as 2026-11-23, \"2026-11-23 09:14\", 2026-11-23T09:14:00+08:00, or \"2 h\" for two hours ago";
    found.map(jiff::Timestamp::as_microsecond).map_err(|_| format!("`{text}` {help}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_is_written_as_its_code_point() {
        assert_eq!(
            visible("南宁\u{3000}市\u{200b}\t\u{e000}\u{1b}[31m\u{202e}é"),
            "南宁\\u{3000}市\\u{200b}\\u{9}\\u{e000}\\u{1b}[31m\\u{202e}é"
        );
    }

    #[test]
    fn moments() {
        let day = moment("2026-11-23").expect("a day");
        assert_eq!(moment("2026-11-23 09:14").expect("a time") - day, (9 * 60 + 14) * 60_000_000);
        assert_eq!(moment("2026-11-23T00:00:01Z"), Ok(1_795_392_001_000_000));
        let now = jiff::Timestamp::now().as_microsecond();
        assert!((moment("2 h").expect("a span") - now + 7_200_000_000).abs() < 60_000_000);
        assert!(moment("gestern").is_err() && moment("").is_err());
    }

    #[test]
    fn sizes_and_counts_are_short() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_234_000), "1.2 MB");
        assert_eq!(bytes(999_900), "1.0 MB");
        assert_eq!(count(48_212), "48,212");
        assert_eq!(count(7), "7");
        assert_eq!(count(1_000_000), "1,000,000");
    }

    #[test]
    fn spans_keep_two_units_at_most() {
        assert_eq!(span(Duration::from_millis(340)), "0.3 s");
        assert_eq!(span(Duration::from_secs(12 * 60)), "12 min");
        assert_eq!(span(Duration::from_secs(3 * 86_400 + 4 * 3600 + 59)), "3 d 4 h");
    }

    #[test]
    fn chinese_takes_two_columns() {
        assert_eq!(width("企业登记"), 8);
        assert_eq!(pad("企业", 6), "企业  ");
        assert_eq!(pad("toolong", 3), "toolong");
        assert_eq!(clip("企业登记", 8), "企业登记");
        assert_eq!(clip("企业登记", 7), "企业登…");
        assert_eq!(clip("企业登记", 6), "企业…");
    }
}
