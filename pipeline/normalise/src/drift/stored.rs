//! How [`Drift`] is kept: one value of the owner's keyed state, written in the commit of the first event that changed it.

use bytes::Bytes;
use guitong_log::{OwnedLog, StateChange};
use guitong_schemas::avro::decode::Kind;

use super::{Away, Drift, Known};
use crate::keyed::codec::{CodecError, Reader, Writer};
use crate::keyed::overlay::StateError;

/// Name of the map; its only key is empty.
pub(crate) const COLUMNS: &str = "columns";

const FORMAT: u8 = 1;

impl Drift {
    /// What the log holds; nothing for a resource that read nothing yet.
    pub(crate) async fn load(owner: &dyn OwnedLog) -> Result<Self, StateError> {
        let stored = owner.get(COLUMNS, &[Bytes::new()]).await?.pop().flatten();
        let read = |bytes| Self::decode(&bytes).map_err(|error| StateError::Codec { map: COLUMNS, error });
        stored.map_or_else(|| Ok(Self::default()), read)
    }

    /// Knows nothing any more, and says so in the log.
    pub(crate) fn forgotten() -> Self {
        Self { changed: true, ..Self::default() }
    }

    /// What the next commit writes of it.
    pub(crate) fn take_change(&mut self) -> Option<StateChange> {
        let changed = std::mem::take(&mut self.changed);
        changed.then(|| StateChange { map: COLUMNS.into(), key: Bytes::new(), value: Some(self.encode()) })
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut out = Writer::new(FORMAT, 64 * self.columns.len());
        out.number(self.fitted.len() as u64);
        for (join, schema) in &self.fitted {
            out.bytes(join.as_bytes());
            out.number(u64::from(*schema));
        }
        out.number(self.columns.len() as u64);
        for ((join, column), known) in &self.columns {
            out.bytes(join.as_bytes());
            out.bytes(column.as_bytes());
            out.number(known.mark);
            write_kind(&mut out, known.kind);
            // Zero says that there is none.
            out.number(known.met.map_or(0, |schema| u64::from(schema) + 1));
            out.u8(u8::from(known.away.is_some()));
            if let Some(away) = &known.away {
                out.version(away.version);
                out.i64(away.at_us);
                write_kind(&mut out, away.kind);
                out.optional(away.perhaps.as_ref().map(String::as_bytes));
            }
        }
        out.finish()
    }

    pub(super) fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut from = Reader::new(bytes, FORMAT)?;
        let count = from.count()?;
        let table = |_| Ok((from.text()?, schema(from.number()?)?));
        let fitted = (0..count).map(table).collect::<Result<_, CodecError>>()?;
        let count = from.count()?;
        let column = |_| Ok(((from.text()?, from.text()?), read_known(&mut from)?));
        let columns = (0..count).map(column).collect::<Result<_, CodecError>>()?;
        from.end()?;
        Ok(Self { columns, fitted, changed: false })
    }
}

fn schema(number: u64) -> Result<u32, CodecError> {
    u32::try_from(number).map_err(|_| CodecError::Damaged)
}

fn read_known(from: &mut Reader) -> Result<Known, CodecError> {
    let (mark, kind) = (from.number()?, read_kind(from)?);
    let met = from.number()?.checked_sub(1).map(schema).transpose()?;
    let away = match from.u8()? {
        0 => None,
        _ => Some(Away { version: from.version()?, at_us: from.i64()?, kind: read_kind(from)?, perhaps: read_text(from)? }),
    };
    Ok(Known { mark, kind, met, away })
}

fn write_kind(out: &mut Writer, kind: Option<Kind>) {
    out.optional(kind.map(|kind| kind.to_string()).as_ref().map(String::as_bytes));
}

fn read_kind(from: &mut Reader) -> Result<Option<Kind>, CodecError> {
    read_text(from)?.map(|word| word.parse().map_err(|_| CodecError::Damaged)).transpose()
}

fn read_text(from: &mut Reader) -> Result<Option<String>, CodecError> {
    let bytes = from.optional()?;
    bytes.map(|bytes| String::from_utf8(bytes.to_vec()).map_err(|_| CodecError::Damaged)).transpose()
}
