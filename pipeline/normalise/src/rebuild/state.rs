//! What is kept of rebuilds: which declared revision was followed, how far one under way is, and what the last one came to.

use bytes::Bytes;
use guitong_log::{OwnedLog, StateChange};
use serde::{Deserialize, Serialize};

use super::REBUILD;
use crate::keyed::codec::{CodecError, Reader, Writer};
use crate::keyed::overlay::StateError;
use crate::keyed::row::RowState;

/// The first did not say whether what was read is whole.
const FORMAT: u8 = 2;

/// What a rebuild came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildReport {
    /// Mapping revision under which the resource was made again.
    pub revision: u32,
    /// Microseconds since 1970-01-01T00:00:00Z.
    pub began_us: i64,
    pub ended_us: i64,
    /// Records that are new or otherwise than before.
    pub published: u64,
    /// Records that the mapping makes no longer.
    pub deleted: u64,
    /// Records that are as they were; they are not published again.
    pub unchanged: u64,
    /// Rows that stay as they were: the raw log lost its beginning and with it them, or has them in a form that the mapping cannot read.
    pub left: u64,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Revision in the resource's file that was followed.
    pub(crate) declared: u32,
    pub(crate) run: Option<Run>,
    pub(crate) last: Option<RebuildReport>,
}

/// A rebuild under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// Above every revision under which the resource was made before.
    pub(crate) revision: u32,
    /// Fingerprint of the mapping that makes it.
    pub(crate) mapping: u64,
    pub(crate) began_us: i64,
    pub(crate) step: Step,
    pub(crate) tally: Tally,
    /// What was read has the raw topic's beginning, and with it every row that is there.
    pub(crate) is_whole: bool,
}

/// How far it is; a cursor is the last key that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// What an older run left aside goes.
    Clearing,
    /// The raw topic is read again; `None` is its beginning.
    Reading {
        next: Option<u64>,
    },
    Entities {
        after: Option<Bytes>,
    },
    Rows {
        after: Option<Bytes>,
    },
    /// Everything is in place; what is left aside goes.
    Sweeping,
}

/// Counted while what was made aside takes its place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) published: u64,
    pub(crate) deleted: u64,
    pub(crate) unchanged: u64,
    pub(crate) keys: u64,
    pub(crate) shared_keys: u64,
    pub(crate) rows: u64,
    pub(crate) good_rows: u64,
    pub(crate) held_back: u64,
    pub(crate) left: u64,
}

impl Tally {
    pub(super) fn row(&mut self, row: &RowState) {
        self.rows += 1;
        self.good_rows += u64::from(row.is_good());
        self.held_back += u64::from(row.held_back());
    }

    fn numbers(&mut self) -> [&mut u64; 9] {
        let Self { published, deleted, unchanged, keys, shared_keys, rows, good_rows, held_back, left } = self;
        [published, deleted, unchanged, keys, shared_keys, rows, good_rows, held_back, left]
    }
}

impl Run {
    /// What was made aside is taking its place: nothing else may change the resource.
    pub(crate) fn is_replacing(&self) -> bool {
        !matches!(self.step, Step::Clearing | Step::Reading { .. })
    }
}

impl Stored {
    /// As stored; `None` where no rebuild was ever begun.
    pub(super) async fn load(owner: &dyn OwnedLog) -> Result<Option<Self>, StateError> {
        let stored = owner.get(REBUILD, &[Bytes::new()]).await?.pop().flatten();
        stored.map(|bytes| Self::decode(&bytes).map_err(|error| StateError::Codec { map: REBUILD, error })).transpose()
    }

    /// Begins a rebuild under the next revision.
    pub(super) fn begin(&mut self, revision: u32, mapping: u64) {
        let began_us = jiff::Timestamp::now().as_microsecond();
        self.run = Some(Run { revision, mapping, began_us, step: Step::Clearing, tally: Tally::default(), is_whole: false });
    }

    pub(super) fn change(&self) -> StateChange {
        StateChange { map: REBUILD.into(), key: Bytes::new(), value: Some(self.encode()) }
    }

    fn encode(&self) -> Bytes {
        let mut out = Writer::new(FORMAT, 160);
        out.number(u64::from(self.declared));
        match &self.run {
            None => out.u8(0),
            Some(run) => {
                out.u8(1);
                run.encode(&mut out);
            }
        }
        match self.last {
            None => out.u8(0),
            Some(RebuildReport { revision, began_us, ended_us, published, deleted, unchanged, left }) => {
                out.u8(1);
                out.number(u64::from(revision));
                out.i64(began_us);
                out.i64(ended_us);
                [published, deleted, unchanged, left].into_iter().for_each(|number| out.number(number));
            }
        }
        out.finish()
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let (format, mut from) = Reader::upto(bytes, FORMAT)?;
        let declared = small(&mut from)?;
        let run = if is_there(&mut from)? { Some(Run::decode(&mut from, format)?) } else { None };
        let last = if is_there(&mut from)? { Some(report(&mut from)?) } else { None };
        from.end()?;
        Ok(Self { declared, run, last })
    }
}

impl Run {
    fn encode(&self, out: &mut Writer) {
        out.number(u64::from(self.revision));
        out.number(self.mapping);
        out.i64(self.began_us);
        let (kind, next, after) = match &self.step {
            Step::Clearing => (0, None, None),
            Step::Reading { next } => (1, *next, None),
            Step::Entities { after } => (2, None, after.as_deref()),
            Step::Rows { after } => (3, None, after.as_deref()),
            Step::Sweeping => (4, None, None),
        };
        out.u8(kind);
        // One more than the offset; zero is the topic's beginning.
        out.number(next.map_or(0, |next| next.saturating_add(1)));
        out.optional(after);
        let mut tally = self.tally;
        tally.numbers().into_iter().for_each(|number| out.number(*number));
        out.u8(self.is_whole.into());
    }

    fn decode(from: &mut Reader, format: u8) -> Result<Self, CodecError> {
        let (revision, mapping, began_us) = (small(from)?, from.number()?, from.i64()?);
        let (kind, next, after) = (from.u8()?, from.number()?.checked_sub(1), from.optional()?);
        let step = match kind {
            0 => Step::Clearing,
            1 => Step::Reading { next },
            2 => Step::Entities { after },
            3 => Step::Rows { after },
            4 => Step::Sweeping,
            _ => return Err(CodecError::Damaged),
        };
        let mut tally = Tally::default();
        for number in tally.numbers() {
            *number = from.number()?;
        }
        let is_whole = if format < FORMAT { false } else { is_there(from)? };
        Ok(Self { revision, mapping, began_us, step, tally, is_whole })
    }
}

fn report(from: &mut Reader) -> Result<RebuildReport, CodecError> {
    Ok(RebuildReport {
        revision: small(from)?,
        began_us: from.i64()?,
        ended_us: from.i64()?,
        published: from.number()?,
        deleted: from.number()?,
        unchanged: from.number()?,
        left: from.number()?,
    })
}

fn small(from: &mut Reader) -> Result<u32, CodecError> {
    u32::try_from(from.number()?).map_err(|_| CodecError::Damaged)
}

fn is_there(from: &mut Reader) -> Result<bool, CodecError> {
    match from.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(CodecError::Damaged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back() {
        let tally = Tally { published: 1, deleted: 2, left: 9, ..Tally::default() };
        let after = Some(Bytes::from_static(b"k"));
        let steps = [
            Step::Clearing,
            Step::Reading { next: None },
            Step::Reading { next: Some(0) },
            Step::Entities { after: None },
            Step::Rows { after },
            Step::Sweeping,
        ];
        let last = RebuildReport { revision: 3, began_us: -1, ended_us: 2, published: 4, deleted: 5, unchanged: 6, left: 7 };
        for (step, last) in steps.into_iter().zip([None, Some(last)].into_iter().cycle()) {
            let run = Run { revision: 4, mapping: u64::MAX, began_us: 5, step, tally, is_whole: last.is_some() };
            let stored = Stored { declared: 2, run: Some(run), last };
            assert_eq!(Stored::decode(&stored.encode()), Ok(stored.clone()));
            assert!(Stored::decode(&stored.encode().slice(..9)).is_err());
        }
        assert_eq!(Stored::decode(&Stored::default().encode()), Ok(Stored::default()));
    }
}
