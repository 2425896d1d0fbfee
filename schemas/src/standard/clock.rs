//! Zones and the injected clock: nothing in the standard reads the machine's time.

use std::sync::LazyLock;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

pub(crate) const DAY: i64 = 86_400_000_000;
const SECOND: i64 = 1_000_000;

/// A time zone that answers fast for the years in which its offset no longer changes.
#[derive(Debug, Clone)]
pub struct Zone {
    tz: TimeZone,
    /// From this UTC second on the offset (seconds) is constant.
    settled: Option<(i64, i64)>,
}

impl Zone {
    #[must_use]
    pub fn new(tz: TimeZone) -> Self {
        Self { settled: settled(&tz), tz }
    }

    /// Asia/Shanghai by the time zone database, with its summer times.
    #[must_use]
    pub fn shanghai() -> &'static Self {
        static ZONE: LazyLock<Zone> =
            LazyLock::new(|| Zone::new(TimeZone::get("Asia/Shanghai").unwrap_or_else(|_| TimeZone::fixed(jiff::tz::offset(8)))));
        &ZONE
    }

    /// Seconds that local time is ahead of UTC at this instant (microseconds since the epoch).
    fn offset_at(&self, micros: i64) -> i64 {
        let second = micros.div_euclid(SECOND);
        match self.settled {
            Some((from, offset)) if second >= from => offset,
            _ => Timestamp::from_second(second).map_or(0, |instant| i64::from(self.tz.to_offset(instant).seconds())),
        }
    }

    /// The local date of an instant, in days since 1970-01-01.
    #[must_use]
    pub fn local_days(&self, micros: i64) -> i32 {
        let local = micros.saturating_add(self.offset_at(micros) * SECOND);
        i32::try_from(local.div_euclid(DAY)).unwrap_or(i32::MAX)
    }

    /// Whether a local clock shows the beginning of a day.
    #[must_use]
    pub fn is_midnight(&self, micros: i64) -> bool {
        self.instant(i64::from(self.local_days(micros)) * DAY) == micros
    }

    /// The instant at which a local clock shows `local` (microseconds since 1970-01-01T00:00). A time that a change of
    /// offset repeats is the first of the two; one that it skips moves on by the skip.
    #[must_use]
    pub fn instant(&self, local: i64) -> i64 {
        if let Some((from, offset)) = self.settled {
            let instant = local.saturating_sub(offset * SECOND);
            // A day's distance keeps clear of the last change of offset.
            if instant.div_euclid(SECOND) >= from.saturating_add(86_400) {
                return instant;
            }
        }
        let Some(civil) = civil(local) else { return local };
        let offset = match self.tz.to_ambiguous_timestamp(civil).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset,
            AmbiguousOffset::Gap { before, .. } | AmbiguousOffset::Fold { before, .. } => before,
        };
        local - i64::from(offset.seconds()) * SECOND
    }
}

/// When the zone's offset stopped changing, if it did: the last transition of the database.
fn settled(tz: &TimeZone) -> Option<(i64, i64)> {
    // Zones that still change have a transition in every future year.
    let future = Timestamp::from_second(16_725_225_600).ok()?; // 2500-01-01
    if tz.following(future).next().is_some() {
        return None;
    }
    let from = tz.preceding(future).next().map_or(i64::MIN, |last| last.timestamp().as_second());
    Some((from, i64::from(tz.to_offset(future).seconds())))
}

fn civil(local: i64) -> Option<DateTime> {
    let instant = Timestamp::from_microsecond(local).ok()?;
    Some(TimeZone::UTC.to_datetime(instant))
}

/// "Now" for rules about the future and ages: the event's source time.
#[derive(Debug, Clone, Copy)]
pub struct Clock<'z> {
    /// Microseconds since 1970-01-01T00:00Z.
    pub now: i64,
    /// The local date at `now`, in days since 1970-01-01.
    pub today: i32,
    /// Zone of dates and times that name none.
    pub zone: &'z Zone,
}

impl<'z> Clock<'z> {
    #[must_use]
    pub fn at(now: i64, zone: &'z Zone) -> Self {
        Self { now, today: zone.local_days(now), zone }
    }
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar, if it exists; years 1 to 9999.
pub(crate) fn days_from_civil(year: i32, month: u32, day: u32) -> Option<i32> {
    if !(1..=9999).contains(&year) || day == 0 || day > days_in_month(year, month) {
        return None;
    }
    // Days before the year that begins in March, as in Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms".
    let march_year = if month <= 2 { year - 1 } else { year };
    let era = march_year.div_euclid(400);
    let year_of_era = march_year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + i32::try_from(day_of_year).ok()?;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// Zero for a month that does not exist.
pub(crate) fn days_in_month(year: i32, month: u32) -> u32 {
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 0,
    }
}

/// Year, month, day of a count of days since 1970-01-01.
pub(crate) fn civil_from_days(days: i32) -> (i32, u32, u32) {
    let days = i64::from(days) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    // A count of days in `i32` gives a year in `i32`, a month to 12 and a day to 31.
    (i32::try_from(year).unwrap_or(i32::MAX), u32::try_from(month).unwrap_or(0), u32::try_from(day).unwrap_or(0))
}

/// The clock of China at its fixed offset, in which instants are written.
pub(crate) mod shanghai {
    use super::DAY;

    pub(crate) struct Local {
        pub(crate) days: i32,
        pub(crate) micros_of_day: i64,
    }

    pub(crate) fn at_fixed_offset(micros: i64) -> Local {
        let local = micros.saturating_add(8 * 3_600_000_000);
        Local { days: i32::try_from(local.div_euclid(DAY)).unwrap_or(i32::MAX), micros_of_day: local.rem_euclid(DAY) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn civil_dates_and_days_are_inverse() {
        for days in (-719_162..=2_932_896).step_by(13) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), Some(days), "{year}-{month}-{day}");
        }
        assert_eq!(days_from_civil(1900, 2, 29), None);
        assert_eq!(days_from_civil(2000, 2, 29), Some(11_016));
    }

    #[test]
    fn the_fast_path_agrees_with_the_database() {
        let zone = Zone::shanghai();
        assert!(zone.settled.is_some_and(|(from, offset)| from > 600_000_000 && offset == 28_800), "{:?}", zone.settled);
        // Summer time 1988, the year before and after 1992, and now.
        for (micros, day) in [
            (581_094_000_000_000, (1988, 6, 1)),
            (678_294_000_000_000, (1991, 7, 1)),
            (-2_209_017_943_000_000, (1900, 1, 1)),
            (1_506_009_600_000_000, (2017, 9, 22)),
        ] {
            assert_eq!(civil_from_days(zone.local_days(micros)), day);
            assert_eq!(zone.instant(i64::from(zone.local_days(micros)) * DAY), micros);
        }
    }

    #[test]
    fn a_zone_that_still_changes_has_no_fast_path() {
        let zone = Zone::new(TimeZone::get("Europe/Berlin").expect("zone"));
        assert!(zone.settled.is_none());
        assert_eq!(zone.instant(1_719_792_000_000_000), 1_719_784_800_000_000); // 2024-07-01T00:00 is 22:00Z before
    }
}
