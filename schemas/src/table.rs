//! A department's table as the exchange sees it: columns, their types and the key.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A table at one moment: a change of its columns makes a new `Table` and a new writer's schema.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Table {
    pub name: TableName,
    pub columns: Vec<Column>,
    /// Indexes into `columns`, in the key's own order; empty for a table without a key.
    pub key: Vec<usize>,
}

/// Schema and name, as the department's database writes them (no quotes, no escapes).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    pub schema: String,
    pub name: String,
}

impl TableName {
    #[must_use]
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Column {
    pub name: String,
    pub kind: ColumnType,
    pub nullable: bool,
    /// The column's constant default in the database's text form; that of a function is its type's zero, as Debezium's schemas have
    /// it. `None` where there is none or it is another expression.
    pub default: Option<String>,
}

/// What a column holds. Every variant is written in the tuple in PostgreSQL's text form (see [`crate::change::RowImage`])
/// and becomes the Avro type and semantic name that Debezium gives it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ColumnType {
    Bool,
    Int16,
    Int32,
    Int64,
    /// Object identifiers and other unsigned 32-bit numbers; an Avro long.
    UInt32,
    Float32,
    Float64,
    /// `numeric(precision, scale)`.
    Decimal {
        precision: u16,
        scale: u16,
    },
    /// `numeric` without declared precision: each value has its own scale.
    VariableDecimal,
    Money,
    /// text, varchar, char(n) (padding kept), citext, name, network addresses and ranges.
    Text,
    /// A type that the exchange has no form for: the server's text.
    Other,
    Bytes,
    Date,
    /// Digits of the second, 0 to 6.
    Time {
        precision: u8,
    },
    Timestamp {
        precision: u8,
    },
    ZonedTime,
    ZonedTimestamp {
        precision: u8,
    },
    Interval,
    Json,
    Xml,
    Uuid,
    Enum {
        labels: Vec<String>,
    },
    /// `bit(1)` is a boolean on the wire.
    Bit {
        length: u32,
        varying: bool,
    },
    Point,
    Hstore,
    Ltree,
    TsVector,
    Array(Box<ColumnType>),
}

impl Table {
    /// The key's columns, in the key's order.
    pub fn key_columns(&self) -> impl Iterator<Item = &Column> {
        self.key.iter().filter_map(|&index| self.columns.get(index))
    }

    #[must_use]
    pub fn column(&self, name: &str) -> Option<(usize, &Column)> {
        self.columns.iter().enumerate().find(|(_, column)| column.name == name)
    }
}
