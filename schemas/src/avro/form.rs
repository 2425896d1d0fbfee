//! How rows become events: Debezium's options with Debezium's meanings, and what the exchange decides beside them.

use std::borrow::Cow;

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
}
