//! Zones and the injected clock: nothing in the standard reads the machine's time.

use std::sync::LazyLock;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

use crate::calendar::Civil;
pub(crate) use crate::calendar::days_in_month;

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
    i32::try_from(Civil { year, month, day }.days()).ok()
}

/// Year, month, day of a count of days since 1970-01-01.
pub(crate) fn civil_from_days(days: i32) -> (i32, u32, u32) {
    let Civil { year, month, day } = Civil::of_days(days.into());
    (year, month, day)
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
