//! One raw record as it comes in: its row, its version, and what is wrong with its outside.

use bytes::Bytes;
use guitong_log::Record;
use guitong_schemas::avro::frame;
use guitong_schemas::position::Version;

use crate::transform::Raw;

/// First byte of the source keys under which unread rows of groups stand: those of records begin with a number of columns.
pub(crate) const UNREAD: u8 = 0xFF;

/// Headers of raw events (CONTRACTS 2).
pub(crate) const VERSION: &str = "guitong-version";
pub(crate) const ABSENT: &str = "guitong-absent";
pub(crate) const LOSSY: &str = "guitong-lossy";
/// Columns left out because their value does not read, each with its first bytes.
pub(crate) const UNREADABLE: &str = "guitong-unreadable";
/// Columns left out because their value is over the limit: what was known of them before no longer holds.
pub(crate) const TOO_LARGE: &str = "guitong-too-large";
/// Columns of the key whose values no key can have: it is in words, and so is the row.
pub(crate) const UNKEYED: &str = "guitong-unkeyed";

/// What cannot be read of an event, whatever its mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No version, or one that does not read.
    Version,
    /// No key, or one without frame.
    Key,
    /// The value has no frame.
    Frame,
    /// The registry knows no such schema, or it is no change event.
    Schema,
    /// The value does not decode by its schema.
    Decode,
    /// A joined table, or that of a group, has not the columns that the mapping needs.
    Columns,
    /// A column's value is over the limit and was read past.
    TooLarge,
    /// The row of a grouped resource has no value in a column that says to which record it belongs.
    Group,
}

impl Fault {
    pub(crate) const ALL: [Self; 8] =
        [Self::Version, Self::Key, Self::Frame, Self::Schema, Self::Decode, Self::Columns, Self::TooLarge, Self::Group];

    /// Stable rule code, Chinese, English.
    pub(crate) fn texts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Version => ("event.version", "事件没有可读的版本号", "the event has no readable version"),
            Self::Key => {
                ("event.key", "事件没有可读的主键；请为该表声明主键", "the event has no readable key; declare one for its table")
            }
            Self::Frame => ("event.frame", "事件没有模式编号", "the event's value does not start with a schema id"),
            Self::Schema => (
                "event.schema",
                "注册中心没有该模式，或不是变更事件",
                "the registry has no such schema, or it is no change event",
            ),
            Self::Decode => ("event.decode", "事件不能按其模式解码", "the event does not decode by its schema"),
            Self::Columns => (
                "event.columns",
                "表的列已变更，不再是映射所读的列；详见 guitong status",
                "columns of the table are not as the mapping reads them; `guitong status` says which",
            ),
            Self::TooLarge => (
                "row.too_large",
                "字段值超过上限，未读取；请缩短后重新读取该行",
                "a value over the limit was read past; shorten it and read the row again",
            ),
            Self::Group => (
                "row.group",
                "归并所依据的列为空，该行不属于任何记录",
                "a column of the resource's `by` is empty in the row, so it belongs to no record",
            ),
        }
    }
}

/// A raw record, its outside parsed.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) record: Record,
    /// With the resource's mapping revision; zero where there is none.
    pub(crate) version: Version,
    /// The raw key without its frame; a truncate has none, every other event must.
    pub(crate) source: Option<Bytes>,
    /// It is of a table that is joined to the resource's own, or a row of a group: its source key is `key`.
    pub(crate) is_beside: bool,
    pub(crate) key: Option<Bytes>,
    pub(crate) body: Body,
    /// The open entry that is being run again.
    pub(crate) entry: Option<u64>,
}

/// What the value is, as far as its outside tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// No value: the row is gone.
    Tombstone,
    /// Framed Avro by the schema with this id.
    Framed {
        schema: u32,
    },
    Faulty(Fault),
}

impl Arrival {
    pub(crate) fn new(record: Record, revision: u32, entry: Option<u64>) -> Self {
        let version = record.header(VERSION).and_then(|text| std::str::from_utf8(text).ok()?.parse::<Version>().ok());
        let source = record.key.as_ref().filter(|key| frame::read(key).is_ok()).map(|key| key.slice(frame::LEN..));
        let body = match &record.value {
            None => Body::Tombstone,
            _ if version.is_none() => Body::Faulty(Fault::Version),
            _ if record.header(TOO_LARGE).is_some() => Body::Faulty(Fault::TooLarge),
            _ if record.header(UNKEYED).is_some() => Body::Faulty(Fault::Key),
            Some(value) => match frame::read(value) {
                Ok((schema, _)) => Body::Framed { schema },
                Err(_) => Body::Faulty(Fault::Frame),
            },
        };
        let version = version.unwrap_or_default().with_revision(revision);
        Self { version, record, source, is_beside: false, key: None, body, entry }
    }

    /// The arrival as one of a joined table.
    pub(crate) fn beside(mut self) -> Self {
        (self.is_beside, self.key) = (true, self.source.take());
        self
    }

    /// The arrival as one of several rows that make a record. What cannot be read of such a row stands under a key that no record has.
    pub(crate) fn of_group(self) -> Self {
        let arrival = self.beside();
        let source = arrival.key.as_ref().map(|key| Bytes::from([&[UNREAD], &key[..]].concat()));
        Self { source, ..arrival }
    }

    /// It is a row of a group.
    pub(crate) fn is_of_group(&self) -> bool {
        self.is_beside && self.source.is_some()
    }

    /// The value's bytes and what the headers say of them.
    pub(crate) fn raw(&self) -> Raw<'_> {
        let header = |name| self.record.header(name).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
        let avro = self.record.value.as_deref().and_then(|value| frame::read(value).ok()).map_or(&[][..], |(_, body)| body);
        Raw { avro, absent: header(ABSENT), lossy: header(LOSSY), unreadable: header(UNREADABLE) }
    }
}
