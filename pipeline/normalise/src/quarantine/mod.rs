//! Events that broke a rule: kept whole with the reason, listed, shown, and run again through the current mapping.
//!
//! The keyed-state map `quarantine` holds one entry for each open one, numbered in the order of arrival, so for one row in the
//! order of its versions. The topic `quarantine.<resource>` holds the whole event under the entry's number as its key; a
//! released entry becomes a tombstone there, so compaction never loses an open one.

pub(crate) mod dropped;
mod filter;
pub(crate) mod record;
pub(crate) mod replay;
mod store;

use std::sync::Arc;

use bytes::Bytes;
use guitong_schemas::position::Version;
use serde::{Deserialize, Serialize};

pub use dropped::{DROPPED_TOPIC, DropReport, Dropped, Surrender};
pub use filter::Filter;
pub use store::{QuarantineItem, QuarantineList, QuarantineStore, parse_id};

use crate::keyed::codec::{CodecError, Reader, Writer};
use crate::mapping::Columns;
use crate::stage::arrival::Fault;
use crate::transform::UNENCODABLE;

const FORMAT: u8 = 1;

/// Why one event was rejected. Values are masked by the grade of their field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// Stable rule code, `uscc.check_digit`.
    pub rule: String,
    /// Field of the entity; empty where the whole row is meant.
    pub field: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub value: Option<String>,
    pub zh: String,
    pub en: String,
}

/// Codes of the rules that an event breaks by itself, whatever the standard says of its fields.
pub fn event_rules() -> impl Iterator<Item = &'static str> + Clone {
    Fault::ALL.iter().map(|fault| fault.texts().0).chain([UNENCODABLE])
}

/// One open entry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// Source key; `None` where the event has none.
    pub(crate) source: Option<Bytes>,
    /// The source key for people: `column=value`, masked as its fields are.
    pub(crate) key: String,
    pub(crate) version: Version,
    /// Where the event stands in its raw topic.
    pub(crate) topic: Arc<str>,
    pub(crate) offset: u64,
    /// The event stands in the quarantine topic at this offset or after it.
    pub(crate) stored_from: u64,
    /// When it was quarantined, microseconds since 1970-01-01T00:00:00Z.
    pub(crate) at_us: i64,
    pub(crate) rejections: Vec<Rejection>,
    /// Values of columns that this event leaves out, as of it.
    pub(crate) columns: Columns,
}

impl Entry {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Writer::new(FORMAT, 256);
        out.optional(self.source.as_deref());
        out.bytes(self.key.as_bytes());
        out.version(self.version);
        out.bytes(self.topic.as_bytes());
        out.number(self.offset);
        out.number(self.stored_from);
        out.i64(self.at_us);
        out.number(self.rejections.len() as u64);
        for rejection in &self.rejections {
            out.bytes(rejection.rule.as_bytes());
            out.bytes(rejection.field.as_bytes());
            out.optional(rejection.value.as_ref().map(String::as_bytes));
            out.bytes(rejection.zh.as_bytes());
            out.bytes(rejection.en.as_bytes());
        }
        self.columns.encode(&mut out);
        out.finish()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut from = Reader::new(bytes, FORMAT)?;
        let entry = Self {
            source: from.optional()?,
            key: from.text()?,
            version: from.version()?,
            topic: from.text()?.into(),
            offset: from.number()?,
            stored_from: from.number()?,
            at_us: from.i64()?,
            rejections: (0..from.count()?).map(|_| rejection(&mut from)).collect::<Result<_, _>>()?,
            columns: Columns::decode(&mut from)?,
        };
        from.end()?;
        Ok(entry)
    }
}

fn rejection(from: &mut Reader) -> Result<Rejection, CodecError> {
    let (rule, field) = (from.text()?, from.text()?);
    let value = from.optional()?.map(|value| String::from_utf8(value.to_vec()).map_err(|_| CodecError::Damaged)).transpose()?;
    Ok(Rejection { rule, field, value, zh: from.text()?, en: from.text()? })
}
