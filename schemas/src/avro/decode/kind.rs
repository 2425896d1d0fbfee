//! What a reader makes of a field's values, and which changes of it a reader does not notice.

use std::fmt;
use std::str::FromStr;

use super::plan::{Field, Node, Semantic};

/// How a field's values are read. Its text form is what people see and what is kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Integer,
    Boolean,
    Float,
    /// A number with so many decimal places.
    Decimal(i32),
    /// A number each of whose values has decimal places of its own.
    AnyDecimal,
    Date,
    Time,
    ZonedTime,
    Timestamp,
    ZonedTimestamp,
    /// A date or time as ISO text without a zone.
    LocalText,
    Duration,
    Bytes,
    Bits,
    Point,
    List,
    Map,
    Record,
}

const WORDS: [(&str, Kind); 18] = [
    ("text", Kind::Text),
    ("integer", Kind::Integer),
    ("boolean", Kind::Boolean),
    ("float", Kind::Float),
    ("decimal", Kind::AnyDecimal),
    ("date", Kind::Date),
    ("time", Kind::Time),
    ("time with zone", Kind::ZonedTime),
    ("timestamp", Kind::Timestamp),
    ("timestamp with zone", Kind::ZonedTimestamp),
    ("date or time as text", Kind::LocalText),
    ("duration", Kind::Duration),
    ("bytes", Kind::Bytes),
    ("bits", Kind::Bits),
    ("point", Kind::Point),
    ("list", Kind::List),
    ("map", Kind::Map),
    ("record", Kind::Record),
];

impl Kind {
    pub(super) fn of(field: &Field) -> Self {
        match field.semantic {
            Semantic::Date => Self::Date,
            Semantic::TimeMillis | Semantic::TimeMicros | Semantic::TimeNanos => Self::Time,
            Semantic::TimestampMillis | Semantic::TimestampMicros | Semantic::TimestampNanos => Self::Timestamp,
            Semantic::ZonedTime => Self::ZonedTime,
            Semantic::ZonedTimestamp => Self::ZonedTimestamp,
            Semantic::LocalText => Self::LocalText,
            Semantic::Duration => Self::Duration,
            Semantic::Decimal { scale, .. } => Self::Decimal(scale),
            Semantic::VariableDecimal => Self::AnyDecimal,
            Semantic::Bits => Self::Bits,
            Semantic::Point => Self::Point,
            Semantic::Plain
            | Semantic::Json
            | Semantic::Xml
            | Semantic::Uuid
            | Semantic::Enum
            | Semantic::Ltree
            | Semantic::TsVector
            | Semantic::Other(_) => Self::of_node(&field.node),
        }
    }

    fn of_node(node: &Node) -> Self {
        match node {
            Node::Null | Node::Text | Node::Enum(_) => Self::Text,
            Node::Bool => Self::Boolean,
            Node::Int | Node::Long => Self::Integer,
            Node::Float | Node::Double => Self::Float,
            Node::Bytes | Node::Fixed(_) => Self::Bytes,
            Node::Decimal { scale } | Node::FixedDecimal { scale, .. } => Self::Decimal(*scale),
            Node::VariableDecimal => Self::AnyDecimal,
            Node::Array(_) => Self::List,
            Node::Map(_) => Self::Map,
            Node::Record(_) => Self::Record,
            Node::Union(branches) => {
                let value = branches.iter().find(|branch| !matches!(branch, Node::Null));
                value.map_or(Self::Text, Self::of_node)
            }
        }
    }

    /// Whether what was read as `self` is read as `next` to the same values: the same kind, or a wider one that writes every
    /// value of this one as it was.
    #[must_use]
    pub fn goes_on_as(self, next: Self) -> bool {
        self == next
            || matches!(
                (self, next),
                (Self::Integer, Self::Decimal(0) | Self::AnyDecimal | Self::Text)
                    | (Self::Decimal(_), Self::AnyDecimal | Self::Text)
                    | (Self::AnyDecimal | Self::Float, Self::Text)
            )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decimal(scale) => write!(f, "decimal({scale})"),
            kind => f.write_str(WORDS.iter().find(|(_, known)| known == kind).map_or("", |(word, _)| word)),
        }
    }
}

/// A text that names no kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoKind;

impl FromStr for Kind {
    type Err = NoKind;

    fn from_str(text: &str) -> Result<Self, NoKind> {
        if let Some(scale) = text.strip_prefix("decimal(").and_then(|rest| rest.strip_suffix(')')) {
            return scale.parse().map(Self::Decimal).map_err(|_| NoKind);
        }
        WORDS.iter().find(|(word, _)| *word == text).map(|(_, kind)| *kind).ok_or(NoKind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::avro::DecodePlan;

    #[test]
    fn kinds_are_told_by_meaning_and_keep_their_words() {
        for (kind, wanted) in [
            (r#""string""#, Kind::Text),
            (r#"["null",{"type":"string","connect.name":"io.debezium.data.Uuid"}]"#, Kind::Text),
            (r#"["null","int"]"#, Kind::Integer),
            (r#"{"type":"int","connect.name":"io.debezium.time.Date"}"#, Kind::Date),
            (r#"{"type":"long","connect.name":"io.debezium.time.MicroTimestamp"}"#, Kind::Timestamp),
            (r#"{"type":"string","connect.name":"io.debezium.time.ZonedTimestamp"}"#, Kind::ZonedTimestamp),
            (r#"["null",{"type":"bytes","logicalType":"decimal","precision":18,"scale":2}]"#, Kind::Decimal(2)),
            (r#"{"type":"array","items":"string"}"#, Kind::List),
        ] {
            let schema = format!(r#"{{"type":"record","name":"r","fields":[{{"name":"f","type":{kind}}}]}}"#);
            let plan = DecodePlan::compile(&schema).expect("a schema");
            assert_eq!(plan.fields()[0].kind(), wanted, "{kind}");
            assert_eq!(wanted.to_string().parse(), Ok(wanted));
        }
        assert!(WORDS.iter().all(|(word, kind)| word.parse() == Ok(*kind) && kind.to_string() == *word));
        assert_eq!("decimal(x)".parse::<Kind>(), Err(NoKind));
    }

    #[test]
    fn only_what_reads_the_same_goes_on() {
        for (from, to, goes) in [
            (Kind::Integer, Kind::Integer, true),
            (Kind::Integer, Kind::Decimal(0), true),
            (Kind::Integer, Kind::Decimal(2), false),
            (Kind::Decimal(2), Kind::AnyDecimal, true),
            (Kind::AnyDecimal, Kind::Decimal(2), false),
            (Kind::Decimal(2), Kind::Decimal(4), false),
            (Kind::Text, Kind::Integer, false),
            (Kind::Integer, Kind::Text, true),
            (Kind::Boolean, Kind::Text, false),
            (Kind::Date, Kind::Text, false),
            (Kind::Date, Kind::Timestamp, false),
            (Kind::Timestamp, Kind::ZonedTimestamp, false),
        ] {
            assert_eq!(from.goes_on_as(to), goes, "{from} to {to}");
        }
    }
}
