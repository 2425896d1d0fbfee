//! How rows become events: Debezium's options with Debezium's meanings, and what the exchange decides beside them.

use std::borrow::Cow;

use super::names;
use super::schema::SourceKind;

/// Debezium's text for a value that the source did not send.
pub const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// The form of a system's events. The default is the exchange's own, which differs from Debezium's in names, truncates and
/// unknown types alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventForm {
    /// `topic.prefix`, also the envelope's `source.name`; `None`: topics are `raw.<system>.…`, the name is the system's.
    pub topic_prefix: Option<String>,
    pub names: Names,
    pub decimals: Decimals,
    pub times: Times,
    pub intervals: Intervals,
    pub binary: Binary,
    pub unknown_types: UnknownTypes,
    /// `unavailable.value.placeholder`.
    pub placeholder: Cow<'static, str>,
    /// `tombstones.on.delete`.
    pub tombstones: bool,
    pub truncates: Truncates,
    /// `provide.transaction.metadata`.
    pub transactions: bool,
    /// `key.converter` and `value.converter`.
    pub converter: Converter,
    /// `transforms.unwrap`; `None`: events are envelopes.
    pub unwrap: Option<Unwrap>,
    /// Messages that are events of topics of their own; `None`: all are published as they are.
    pub outbox: Option<Outbox>,
}

/// Which messages are outbox events, by their prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outbox {
    Prefix(String),
    /// Those whose prefix begins so.
    Beginning(String),
}

/// What keys and values are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Converter {
    /// Confluent's Avro converter.
    #[default]
    Avro,
    /// Kafka Connect's JSON converter with `schemas.enable` of `false`.
    Json,
}

/// `ExtractNewRecordState`: an event is the row alone, with fields of the envelope behind its columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwrap {
    pub deletes: UnwrappedDeletes,
    /// `add.fields`.
    pub added: Vec<AddedField>,
}

/// `delete.tombstone.handling.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnwrappedDeletes {
    /// A tombstone alone.
    Tombstone,
    /// The last known row, with `__deleted` of `true`.
    Rewrite,
    RewriteWithTombstone,
}

/// A field of the envelope beside a row's columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedField {
    pub name: String,
    pub of: Metadata,
}

/// What an [`AddedField`] is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metadata {
    Operation,
    TsMs,
    TsUs,
    TsNs,
    Source(SourceField),
}

/// A field of the envelope's `source` block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceField {
    Version,
    Connector,
    Name,
    TsMs,
    Snapshot,
    Db,
    Sequence,
    TsUs,
    TsNs,
    Schema,
    Table,
    TxId,
    Lsn,
    Xmin,
    Origin,
    OriginLsn,
    ChangeId,
}

/// What a delete of a row with a key leaves in its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteLeaves {
    Event,
    EventAndTombstone,
    Tombstone,
}

/// Names of topics, records and fields (`schema.name.adjustment.mode` and `field.name.adjustment.mode` in one).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Names {
    /// Every character that a name cannot carry becomes `_uXXXX`, so that two tables never share a topic.
    #[default]
    Escaped,
    /// As Debezium's `none`: `_` in topics, columns as they are. What Avro refuses in that is escaped.
    Debezium,
    /// As Debezium's `avro`: `_` in topics, records and fields.
    Avro,
    /// As Debezium's `avro_unicode`: `_` in topics, `_uXXXX` in records and fields, also for an underscore.
    AvroUnicode,
}

/// `decimal.handling.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Decimals {
    #[default]
    Precise,
    Double,
    String,
}

/// `time.precision.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Times {
    #[default]
    Adaptive,
    Connect,
    IsoString,
}

/// `interval.handling.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Intervals {
    #[default]
    Numeric,
    String,
}

/// `binary.handling.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Binary {
    #[default]
    Bytes,
    Base64,
}

/// Columns of types that the exchange has no form for (`include.unknown.datatypes` is `Skip` or `Bytes`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownTypes {
    /// The server's text.
    #[default]
    Text,
    /// The bytes of the server's text, in the form of other bytes.
    Bytes,
    /// Left out.
    Skip,
}

/// What becomes of a truncate (`skipped.operations` of `none` is `Event`, of `t` is `Skip`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Truncates {
    /// A delete of every key that the table held.
    #[default]
    Deletes,
    /// One event without key and row.
    Event,
    Skip,
}

impl Default for EventForm {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl EventForm {
    pub const DEFAULT: Self = Self {
        topic_prefix: None,
        names: Names::Escaped,
        decimals: Decimals::Precise,
        times: Times::Adaptive,
        intervals: Intervals::Numeric,
        binary: Binary::Bytes,
        unknown_types: UnknownTypes::Text,
        placeholder: Cow::Borrowed(UNAVAILABLE),
        tombstones: true,
        truncates: Truncates::Deletes,
        transactions: false,
        converter: Converter::Avro,
        unwrap: None,
        outbox: None,
    };

    /// What the topics of a system begin with.
    #[must_use]
    pub fn prefix(&self, system: &str) -> String {
        self.topic_prefix.clone().unwrap_or_else(|| format!("raw.{system}"))
    }

    /// `source.name` of a system's events.
    #[must_use]
    pub fn logical_name<'a>(&'a self, system: &'a str) -> &'a str {
        self.topic_prefix.as_deref().unwrap_or(system)
    }

    #[must_use]
    pub fn delete_leaves(&self) -> DeleteLeaves {
        match self.unwrap.as_ref().map(|unwrap| unwrap.deletes) {
            Some(UnwrappedDeletes::Tombstone) => DeleteLeaves::Tombstone,
            Some(UnwrappedDeletes::Rewrite) => DeleteLeaves::Event,
            None | Some(UnwrappedDeletes::RewriteWithTombstone) if self.tombstones => DeleteLeaves::EventAndTombstone,
            None | Some(UnwrappedDeletes::RewriteWithTombstone) => DeleteLeaves::Event,
        }
    }

    /// The field of a column. JSON takes any name, so only the modes that are for Avro change it there.
    #[must_use]
    pub fn field_name<'a>(&self, column: &'a str) -> Cow<'a, str> {
        match (self.converter, self.names) {
            (Converter::Json, Names::Escaped | Names::Debezium) => Cow::Borrowed(column),
            _ => names::field_name(column, self.names),
        }
    }
}

impl Outbox {
    /// Whether messages with this prefix are outbox events.
    #[must_use]
    pub fn takes(&self, prefix: &str) -> bool {
        match self {
            Self::Prefix(whole) => prefix == whole,
            Self::Beginning(head) => prefix.starts_with(head.as_str()),
        }
    }
}

impl Unwrap {
    /// Whether rows say in [`DELETED`] that they are gone.
    #[must_use]
    pub fn marks_deletes(&self) -> bool {
        self.deletes != UnwrappedDeletes::Tombstone
    }
}

/// The field that tells the last known row of a delete from any other.
pub const DELETED: &str = "__deleted";

impl Metadata {
    /// What `add.fields` names: `op`, `source.lsn`; a name alone that is none of the envelope's own is of `source`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "op" => Some(Self::Operation),
            "ts_ms" => Some(Self::TsMs),
            "ts_us" => Some(Self::TsUs),
            "ts_ns" => Some(Self::TsNs),
            _ => {
                let name = text.strip_prefix("source.").unwrap_or(text);
                SourceField::ALL.iter().find(|field| field.name() == name).map(|field| Self::Source(*field))
            }
        }
    }
}

impl SourceField {
    /// In the block's order.
    const ALL: [Self; 17] = [
        Self::Version,
        Self::Connector,
        Self::Name,
        Self::TsMs,
        Self::Snapshot,
        Self::Db,
        Self::Sequence,
        Self::TsUs,
        Self::TsNs,
        Self::Schema,
        Self::Table,
        Self::TxId,
        Self::Lsn,
        Self::Xmin,
        Self::Origin,
        Self::OriginLsn,
        Self::ChangeId,
    ];

    /// The fields of a kind's block, in its order.
    pub fn of(kind: SourceKind) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |field| field.is_of(kind))
    }

    #[must_use]
    pub fn is_of(self, kind: SourceKind) -> bool {
        match self {
            Self::TxId | Self::Lsn | Self::Xmin | Self::Origin | Self::OriginLsn => kind == SourceKind::Postgres,
            Self::ChangeId => kind == SourceKind::Changelog,
            _ => true,
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Connector => "connector",
            Self::Name => "name",
            Self::TsMs => "ts_ms",
            Self::Snapshot => "snapshot",
            Self::Db => "db",
            Self::Sequence => "sequence",
            Self::TsUs => "ts_us",
            Self::TsNs => "ts_ns",
            Self::Schema => "schema",
            Self::Table => "table",
            Self::TxId => "txId",
            Self::Lsn => "lsn",
            Self::Xmin => "xmin",
            Self::Origin => "origin",
            Self::OriginLsn => "origin_lsn",
            Self::ChangeId => "change_id",
        }
    }
}
