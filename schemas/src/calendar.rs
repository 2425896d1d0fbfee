//! Days of the proleptic Gregorian calendar, as far as databases reach, which is further than a calendar library does.

/// A day; the year is astronomical: 0 is 1 BC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Civil {
    pub year: i32,
    /// 1 to 12.
    pub month: u32,
    /// 1 to 31.
    pub day: u32,
}

impl Civil {
    /// The day so many days after 1970-01-01, for days of at most six million years.
    #[must_use]
    pub fn of_days(days: i64) -> Self {
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097) as i32, shifted.rem_euclid(146_097) as u32);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era.cast_signed() + era * 400 + i32::from(month <= 2);
        Self { year, month, day: day_of_year - (153 * shifted_month + 2) / 5 + 1 }
    }

    /// Days since 1970-01-01, by counting 400-year eras that begin in March.
    #[must_use]
    pub fn days(self) -> i64 {
        let Self { year, month, day } = self;
        let year = year - i32::from(month <= 2);
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400).cast_unsigned());
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        i64::from(era) * 146_097 + i64::from(day_of_era) - 719_468
    }
}

/// Zero for a month that does not exist.
#[must_use]
pub fn days_in_month(year: i32, month: u32) -> u32 {
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_days_are_inverse() {
        for days in (-2_200_000_i64..2_200_000).step_by(97) {
            assert_eq!(Civil::of_days(days).days(), days);
        }
        assert_eq!(Civil::of_days(0), Civil { year: 1970, month: 1, day: 1 });
    }
}
