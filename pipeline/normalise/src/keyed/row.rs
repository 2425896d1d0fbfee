//! What is known of one source row: source key -> newest version read, the version that stands in `std.`, the entity keys it
//! claims, its open quarantine entries, and the last values of columns that the source may leave out.

use bytes::Bytes;
use guitong_schemas::position::Version;
use smallvec::SmallVec;

use super::codec::{CodecError, Reader, Writer};
use crate::mapping::Columns;

const FORMAT: u8 = 1;

/// One quarantined version of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Open {
    /// Key of the entry in the quarantine map.
    pub(crate) seq: u64,
    pub(crate) version: Version,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct RowState {
    /// Newest version read, good or not; nothing at or below it is read again.
    pub(crate) seen: Version,
    /// The version whose records stand in `std.`; `None` while no version was good.
    pub(crate) good: Option<Version>,
    /// Entity keys that the good version claims.
    pub(crate) keys: SmallVec<[Bytes; 1]>,
    /// In the order of their versions, each newer than `good`.
    pub(crate) open: SmallVec<[Open; 1]>,
    /// As of `seen`. `None`: not known, since that version could not be read.
    pub(crate) columns: Option<Columns>,
}

impl RowState {
    /// The newest version is in quarantine while an older good one stands.
    pub(crate) fn held_back(&self) -> bool {
        self.good.is_some() && !self.open.is_empty()
    }

    /// A row that is there no longer; a rebuild remembers which it was (see [`crate::rebuild`]).
    pub(crate) fn gone(seen: Version) -> Self {
        Self { seen, ..Self::default() }
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.good.is_none() && self.open.is_empty()
    }

    /// The newest version is the one that stands.
    pub(crate) fn is_good(&self) -> bool {
        self.good.is_some_and(|good| good.with_revision(0) >= self.seen.with_revision(0))
    }

    pub(crate) fn encode(&self) -> Bytes {
        let keys: usize = self.keys.iter().map(|key| key.len() + 2).sum();
        let mut out = Writer::new(FORMAT, 64 + keys + self.columns.as_ref().map_or(0, Columns::size));
        out.version(self.seen);
        match self.good {
            None => out.u8(0),
            Some(good) if good == self.seen => out.u8(1),
            Some(good) => {
                out.u8(2);
                out.version(good);
            }
        }
        out.number(self.keys.len() as u64);
        for key in &self.keys {
            out.bytes(key);
        }
        out.number(self.open.len() as u64);
        for open in &self.open {
            out.number(open.seq);
            out.version(open.version);
        }
        match &self.columns {
            None => out.u8(0),
            Some(columns) => {
                out.u8(1);
                columns.encode(&mut out);
            }
        }
        out.finish()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut from = Reader::new(bytes, FORMAT)?;
        let seen = from.version()?;
        let good = match from.u8()? {
            0 => None,
            1 => Some(seen),
            2 => Some(from.version()?),
            _ => return Err(CodecError::Damaged),
        };
        let keys = (0..from.count()?).map(|_| from.bytes()).collect::<Result<_, _>>()?;
        let open = (0..from.count()?)
            .map(|_| Ok(Open { seq: from.number()?, version: from.version()? }))
            .collect::<Result<_, CodecError>>()?;
        let columns = match from.u8()? {
            0 => None,
            1 => Some(Columns::decode(&mut from)?),
            _ => return Err(CodecError::Damaged),
        };
        from.end()?;
        Ok(Self { seen, good, keys, open, columns })
    }
}
