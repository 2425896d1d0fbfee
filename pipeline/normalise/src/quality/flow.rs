//! What the events of one batch came to, by the day of their commit at the source.

use guitong_schemas::standard::{Clock, Entity, Finding, Obligation, Rule, StandardValue};

/// Counts of findings by level and rule.
#[derive(Debug)]
pub(crate) struct Tally([Box<[u64]>; 3]);

impl Default for Tally {
    fn default() -> Self {
        Self(std::array::from_fn(|_| vec![0; Rule::ALL.len()].into()))
    }
}

impl Tally {
    pub(crate) fn add(&mut self, finding: &Finding) {
        let level = self.0.get_mut(finding.level as usize);
        if let Some(count) = level.and_then(|rules| rules.get_mut(finding.rule as usize)) {
            *count += 1;
        }
    }

    /// Level, rule code and count of every rule that was broken.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        self.0.iter().zip(["note", "warning", "error"]).flat_map(|(counts, level)| {
            let rules = counts.iter().zip(Rule::ALL).filter(|(count, _)| **count > 0);
            rules.map(move |(count, rule)| (level, rule.code(), *count))
        })
    }
}

/// When a record is to be reported after what it tells of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reporting {
    /// Index of the date field.
    pub(crate) field: usize,
    pub(crate) working_days: u32,
}

/// What the good records of one event hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) records: u64,
    /// Values that are not null in them: of mandatory, conditional and optional fields.
    pub(crate) filled: [u64; 3],
    /// Those with the date that the reporting is measured from, and those of them that came in time.
    pub(crate) reported: [u64; 2],
}

impl Counted {
    /// Counts a good record.
    pub(crate) fn count(
        &mut self,
        entity: &Entity,
        values: &[StandardValue<'_>],
        clock: &Clock<'_>,
        reporting: Option<Reporting>,
    ) {
        self.records += 1;
        for (field, value) in entity.fields.iter().zip(values) {
            let at = match field.obligation {
                Obligation::Mandatory => 0,
                Obligation::Conditional => 1,
                Obligation::Optional => 2,
            };
            if let Some(count) = self.filled.get_mut(at) {
                *count += u64::from(!is_empty(value));
            }
        }
        if let Some(reporting) = reporting
            && let Some(StandardValue::Date(from)) = values.get(reporting.field)
        {
            let in_time = working_days(*from, clock.today) <= u64::from(reporting.working_days);
            self.reported = [self.reported[0] + 1, self.reported[1] + u64::from(in_time)];
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.filled = std::array::from_fn(|at| self.filled[at] + other.filled[at]);
        self.reported = std::array::from_fn(|at| self.reported[at] + other.reported[at]);
    }
}

/// What one day's events of a batch came to.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    pub(crate) day: i32,
    /// Events that were counted before: entries that are run again, and what a rebuild reads once more.
    pub(crate) is_again: bool,
    pub(crate) tally: Tally,
    pub(crate) counted: Counted,
    /// Events that could not be read, by rule.
    pub(crate) faults: Vec<(&'static str, u64)>,
}

impl Flow {
    /// Counts an event that could not be read.
    pub(crate) fn fault(&mut self, rule: &'static str) {
        match self.faults.iter_mut().find(|(known, _)| *known == rule) {
            Some((_, count)) => *count += 1,
            None => self.faults.push((rule, 1)),
        }
    }
}

/// A part of a key that the record does not have is an empty text.
fn is_empty(value: &StandardValue<'_>) -> bool {
    matches!(value, StandardValue::Null) || matches!(value, StandardValue::Text(text) if text.is_empty())
}

/// Mondays to Fridays after the day `from` up to the day `to`; public holidays are not known.
pub(crate) fn working_days(from: i32, to: i32) -> u64 {
    // 1970-01-01 was a Thursday; weekdays up to a day, counted from the Monday before it.
    let upto = |day: i32| {
        let monday = i64::from(day) + 3;
        monday.div_euclid(7) * 5 + (monday.rem_euclid(7) + 1).min(5)
    };
    u64::try_from(upto(to) - upto(from)).unwrap_or(0)
}

/// The flows of a batch; mostly one.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    list: Vec<Flow>,
    at: usize,
    /// The event under way was counted before.
    pub(crate) is_again: bool,
}

impl Flows {
    /// The flow of a day, from now on the current one.
    pub(crate) fn on(&mut self, day: i32) -> &mut Flow {
        let is_again = self.is_again;
        let is_meant = |flow: &Flow| flow.day == day && flow.is_again == is_again;
        if !self.list.get(self.at).is_some_and(is_meant) {
            self.at = self.list.iter().position(is_meant).unwrap_or_else(|| {
                self.list.push(Flow { day, is_again, ..Flow::default() });
                self.list.len() - 1
            });
        }
        let at = self.at;
        &mut self.list[at]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.list.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::working_days;

    #[test]
    fn weekends_are_no_working_days() {
        // 2026-11-23 is a Monday.
        let monday = 20_780;
        assert_eq!(working_days(monday, monday), 0);
        assert_eq!(working_days(monday, monday + 4), 4);
        assert_eq!(working_days(monday + 4, monday + 7), 1, "from Friday to Monday");
        assert_eq!(working_days(monday + 5, monday + 6), 0, "from Saturday to Sunday");
        assert_eq!(working_days(monday, monday + 9), 7);
        assert_eq!(working_days(monday + 9, monday), 0, "a date after the report is in time");
        for day in -20..20 {
            let count = (day + 1..=day + 30).filter(|day: &i32| (day + 3).rem_euclid(7) < 5).count() as u64;
            assert_eq!(working_days(day, day + 30), count, "{day}");
        }
    }
}
