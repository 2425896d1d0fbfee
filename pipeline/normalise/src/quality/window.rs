//! Which of the last row changes were rejected, and the pause of a resource that rejects too many of them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use bytes::Bytes;
use guitong_schemas::contract::quality::PauseAbove;

use crate::keyed::codec::{CodecError, Reader, Writer};

const FORMAT: u8 = 1;

/// The last row changes, oldest first; whether each was rejected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Window {
    last: VecDeque<bool>,
    rejected: u32,
}

impl Window {
    /// Notes one more change; whether more of the last ones are rejected than the resource allows.
    pub(crate) fn note(&mut self, rejected: bool, limit: PauseAbove) -> bool {
        self.last.push_back(rejected);
        self.rejected += u32::from(rejected);
        while self.last.len() > limit.of as usize {
            self.rejected -= u32::from(self.last.pop_front() == Some(true));
        }
        u64::from(self.rejected) * 100 > u64::from(limit.percent) * u64::from(limit.of)
    }

    pub(crate) fn rejected(&self) -> u32 {
        self.rejected
    }

    pub(crate) fn len(&self) -> usize {
        self.last.len()
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Writer::new(FORMAT, self.last.len() / 8 + 8);
        out.number(self.last.len() as u64);
        let mut bits = vec![0_u8; self.last.len().div_ceil(8)];
        for (at, _) in self.last.iter().enumerate().filter(|(_, rejected)| **rejected) {
            if let Some(byte) = bits.get_mut(at / 8) {
                *byte |= 1 << (at % 8);
            }
        }
        out.bytes(&bits);
        out.finish()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut from = Reader::new(bytes, FORMAT)?;
        let length = usize::try_from(from.number()?).map_err(|_| CodecError::Damaged)?;
        let bits = from.bytes()?;
        from.end()?;
        if bits.len() != length.div_ceil(8) {
            return Err(CodecError::Damaged);
        }
        let bit = |at: usize| bits.get(at / 8).is_some_and(|byte| byte & 1 << (at % 8) != 0);
        let last: VecDeque<bool> = (0..length).map(bit).collect();
        let rejected = u32::try_from(last.iter().filter(|rejected| **rejected).count()).map_err(|_| CodecError::Damaged)?;
        Ok(Self { last, rejected })
    }
}

/// Why a resource reads nothing, until it is resumed or its mapping changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pause {
    /// Fingerprint of the mapping under which it paused.
    pub(crate) mapping: u64,
    pub(crate) at_us: i64,
    pub(crate) rejected: u32,
    pub(crate) of: u64,
    /// The most frequent reasons, `field:rule` with how many entries have it.
    pub(crate) reasons: Vec<(String, u64)>,
}

impl Pause {
    /// The most frequent reasons first.
    pub(crate) fn top(reasons: impl Iterator<Item = String>) -> Vec<(String, u64)> {
        const TOP: usize = 3;
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for reason in reasons {
            *counts.entry(reason).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts.truncate(TOP);
        counts
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Writer::new(FORMAT, 128);
        out.number(self.mapping);
        out.i64(self.at_us);
        out.number(u64::from(self.rejected));
        out.number(self.of);
        out.number(self.reasons.len() as u64);
        for (reason, count) in &self.reasons {
            out.bytes(reason.as_bytes());
            out.number(*count);
        }
        out.finish()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut from = Reader::new(bytes, FORMAT)?;
        let pause = Self {
            mapping: from.number()?,
            at_us: from.i64()?,
            rejected: u32::try_from(from.number()?).map_err(|_| CodecError::Damaged)?,
            of: from.number()?,
            reasons: (0..from.count()?).map(|_| Ok((from.text()?, from.number()?))).collect::<Result<_, CodecError>>()?,
        };
        from.end()?;
        Ok(pause)
    }
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of the last {} row changes were rejected", self.rejected, self.of)?;
        for (at, (reason, count)) in self.reasons.iter().enumerate() {
            write!(f, "{} {reason} ({count})", if at == 0 { ":" } else { "," })?;
        }
        write!(f, "; nothing more is read until the mapping is changed or the resource is resumed")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_window_counts_the_last_changes(changes in proptest::collection::vec(any::<bool>(), 0..200), of in 1_u32..50, percent in 1_u32..100) {
            let limit = PauseAbove { percent, of };
            let mut window = Window::default();
            for (at, rejected) in changes.iter().enumerate() {
                let is_over = window.note(*rejected, limit);
                let from = (at + 1).saturating_sub(of as usize);
                let count = changes[from..=at].iter().filter(|rejected| **rejected).count() as u32;
                prop_assert_eq!(window.rejected(), count);
                prop_assert_eq!(is_over, count * 100 > percent * of);
                window = Window::decode(&window.encode()).expect("reads");
            }
        }
    }

    #[test]
    fn a_pause_reads_back_and_says_what_is_wrong() {
        let reasons = Pause::top(["a:x", "b:y", "a:x", "c:z", "d:z"].iter().map(|reason| (*reason).to_owned()));
        let pause = Pause { mapping: u64::MAX, at_us: -1, rejected: 501, of: 900, reasons };
        assert_eq!(Pause::decode(&pause.encode()), Ok(pause.clone()));
        assert!(pause.to_string().starts_with("501 of the last 900 row changes were rejected: a:x (2), b:y (1), c:z (1);"));
    }
}
