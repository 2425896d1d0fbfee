//! One day of one resource: what arrived that the source had committed on it.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::flow::{Counted, Flow};
use crate::keyed::codec::{CodecError, Reader, Writer};

const FORMAT: u8 = 1;

/// Counts of one day. Entries of the quarantine that are run again are not counted anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Day {
    /// Row versions that gave records.
    pub(crate) good: u64,
    /// Row versions that went to quarantine.
    pub(crate) rejected: u64,
    /// Good ones that left every published record as it was.
    pub(crate) unchanged: u64,
    pub(crate) deleted: u64,
    /// Changes other than rows of a first load, and those of them that were normalised in time.
    pub(crate) timed: [u64; 2],
    pub(crate) counted: Counted,
    /// Level and rule code -> how often it was broken.
    pub(crate) rules: BTreeMap<(String, String), u64>,
}

impl Day {
    pub(crate) fn add(&mut self, flow: &Flow) {
        self.counted.add(&flow.counted);
        for (level, rule, count) in flow.tally.counts() {
            self.broke(level, rule, count);
        }
        for (rule, count) in &flow.faults {
            self.broke("error", rule, *count);
        }
    }

    pub(crate) fn broke(&mut self, level: &str, rule: &str, count: u64) {
        *self.rules.entry((level.to_owned(), rule.to_owned())).or_default() += count;
    }

    fn numbers(&mut self) -> [&mut u64; 12] {
        let Self { good, rejected, unchanged, deleted, timed, counted: Counted { records, filled, reported }, .. } = self;
        let ([timed, in_time], [mandatory, conditional, optional], [reported, punctual]) = (timed, filled, reported);
        [good, rejected, unchanged, deleted, timed, in_time, records, mandatory, conditional, optional, reported, punctual]
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Writer::new(FORMAT, 64 + self.rules.len() * 40);
        for number in self.clone().numbers() {
            out.number(*number);
        }
        out.number(self.rules.len() as u64);
        for ((level, rule), count) in &self.rules {
            out.bytes(level.as_bytes());
            out.bytes(rule.as_bytes());
            out.number(*count);
        }
        out.finish()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut from = Reader::new(bytes, FORMAT)?;
        let mut day = Self::default();
        for number in day.numbers() {
            *number = from.number()?;
        }
        for _ in 0..from.count()? {
            let rule = (from.text()?, from.text()?);
            day.rules.insert(rule, from.number()?);
        }
        from.end()?;
        Ok(day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_day_reads_back() {
        let counted = Counted { records: 4, filled: [1, 2, 3], reported: [9, 8] };
        let mut day = Day { good: 3, timed: [7, 1 << 40], counted, ..Day::default() };
        day.broke("error", "uscc.length", 2);
        assert_eq!(Day::decode(&day.encode()), Ok(day.clone()));
        assert!(Day::decode(&day.encode().slice(..9)).is_err());
        for number in [i32::MIN, -1, 0, 20_780, i32::MAX] {
            assert_eq!(super::super::day_of(&super::super::day_key(number)), Some(number));
        }
    }
}
