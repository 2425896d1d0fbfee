//! One small value per resource: counters that survive a restart, the next quarantine number, and the clock of emissions.

use bytes::Bytes;
use guitong_schemas::position::Version;

use super::codec::{CodecError, Reader, Writer};

/// The first had no time of reading.
const FORMAT: u8 = 2;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Mapping revision under which the raw topic is being read; another one in the resource means: read it again.
    pub(crate) revision: u32,
    /// Version of the newest emission. Each is greater than every one before it (see [`Totals::stamp`]).
    pub(crate) stamp: Version,
    /// Number of the next quarantine entry.
    pub(crate) next_seq: u64,
    /// Row changes read.
    pub(crate) received: u64,
    /// Entity keys that stand in `std.`.
    pub(crate) entities: u64,
    /// Open quarantine entries.
    pub(crate) open: u64,
    /// Rows held back.
    pub(crate) held_back: u64,
    /// When raw events were read last, or a rebuild began that read them all; microseconds since 1970-01-01T00:00:00Z, 0 where that is
    /// not known.
    pub(crate) read_us: i64,
}

impl Totals {
    /// The version under which an event's records are published.
    ///
    /// In the order of the raw topic that is the event's own. A replay or a rebuild publishes what happened earlier after what
    /// happened later, and every guard downstream must still take it: it gets the newest version published so far with the
    /// next mapping revision, which is above all that was published and below every change that is to come.
    pub(crate) fn stamp(&mut self, event: Version) -> Version {
        self.stamp = if event > self.stamp { event } else { self.stamp.with_revision(self.stamp.revision.saturating_add(1)) };
        self.stamp
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Writer::new(FORMAT, 96);
        out.number(u64::from(self.revision));
        out.version(self.stamp);
        for number in [self.next_seq, self.received, self.entities, self.open, self.held_back] {
            out.number(number);
        }
        out.i64(self.read_us);
        out.finish()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let (format, mut from) = Reader::upto(bytes, FORMAT)?;
        let totals = Self {
            revision: u32::try_from(from.number()?).map_err(|_| CodecError::Damaged)?,
            stamp: from.version()?,
            next_seq: from.number()?,
            received: from.number()?,
            entities: from.number()?,
            open: from.number()?,
            held_back: from.number()?,
            read_us: if format < FORMAT { 0 } else { from.i64()? },
        };
        from.end()?;
        Ok(totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_come_back_from_both_formats() {
        let totals = Totals { revision: 3, next_seq: 300, received: 4, open: 5, held_back: 6, read_us: 7, ..Totals::default() };
        let bytes = totals.encode();
        assert_eq!(Totals::decode(&bytes), Ok(totals.clone()));
        let older = Bytes::from([&[1], &bytes[1..bytes.len() - 8]].concat());
        assert_eq!(Totals::decode(&older), Ok(Totals { read_us: 0, ..totals }));
        let newer = Bytes::from([&[3], &bytes[1..]].concat());
        assert_eq!(Totals::decode(&newer), Err(CodecError::Format { found: 3, known: 2 }));
    }
}
