//! From a writer's schema to what its bytes are made of.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value as Json};
use thiserror::Error;

use super::kind::Kind;

/// How deep a schema may nest; no schema of a table or an entity comes near it.
const MAX_DEPTH: usize = 32;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    #[error("the writer's schema is no JSON: {0}")]
    Json(String),
    #[error("the writer's schema: {at} {problem}")]
    Schema { at: String, problem: &'static str },
}

/// What a value means, beyond its Avro type: from `connect.name` as Debezium and Kafka Connect write it, or from `logicalType`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Semantic {
    /// Just what the Avro type says.
    Plain,
    /// Days since 1970-01-01.
    Date,
    TimeMillis,
    TimeMicros,
    TimeNanos,
    /// Local timestamps of PostgreSQL and MariaDB have no zone; these count from 1970-01-01 00:00:00.
    TimestampMillis,
    TimestampMicros,
    TimestampNanos,
    /// ISO 8601 text in UTC.
    ZonedTime,
    ZonedTimestamp,
    /// A date, time or timestamp without a zone, as ISO 8601 text; its `Z` says nothing.
    LocalText,
    /// Microseconds.
    Duration,
    Decimal {
        precision: u32,
        scale: i32,
    },
    VariableDecimal,
    Json,
    Xml,
    Uuid,
    Enum,
    /// Little-endian bytes.
    Bits,
    /// A record of x, y, wkb, srid.
    Point,
    Ltree,
    TsVector,
    /// Any other name.
    Other(Arc<str>),
}

/// One field of a record.
#[derive(Debug, Clone)]
pub struct Field {
    pub name: Arc<str>,
    pub semantic: Semantic,
    pub nullable: bool,
    pub(in crate::avro) node: Node,
}

impl Field {
    /// What a reader makes of the field's values.
    #[must_use]
    pub fn kind(&self) -> Kind {
        Kind::of(self)
    }
}

#[derive(Debug, Clone)]
pub(in crate::avro) enum Node {
    Null,
    Bool,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    Text,
    Fixed(usize),
    Enum(Arc<[String]>),
    Decimal { scale: i32 },
    FixedDecimal { scale: i32, size: usize },
    VariableDecimal,
    Array(Arc<Node>),
    Map(Arc<Node>),
    Union(Arc<[Node]>),
    Record(Arc<Record>),
}

#[derive(Debug)]
pub(in crate::avro) struct Record {
    /// Full name.
    pub(in crate::avro) name: String,
    pub(in crate::avro) fields: Arc<[Field]>,
}

/// Reads the record that `schema` defines.
pub(in crate::avro) fn parse(schema: &str) -> Result<Arc<Record>, PlanError> {
    let json: Json = serde_json::from_str(schema).map_err(|error| PlanError::Json(error.to_string()))?;
    match (Parser { named: HashMap::new() }).node(&json, "", "schema", 0)? {
        (Node::Record(record), _) => Ok(record),
        _ => Err(PlanError::Schema { at: "schema".to_owned(), problem: "is not a record" }),
    }
}

struct Parser {
    /// Finished named types; a type that names itself is not among them.
    named: HashMap<String, (Node, Semantic)>,
}

impl Parser {
    fn node(&mut self, json: &Json, namespace: &str, at: &str, depth: usize) -> Result<(Node, Semantic), PlanError> {
        let bad = |problem| PlanError::Schema { at: at.to_owned(), problem };
        if depth > MAX_DEPTH {
            return Err(bad("nests too deep"));
        }
        match json {
            Json::String(name) => self.by_name(name, namespace).ok_or_else(|| bad("names a type that is not defined before")),
            Json::Array(branches) => {
                let mut nodes = vec![];
                let mut semantic = Semantic::Plain;
                for branch in branches {
                    let (node, of_branch) = self.node(branch, namespace, at, depth + 1)?;
                    if matches!(node, Node::Union(_)) {
                        return Err(bad("has a union directly in a union"));
                    }
                    if !matches!(node, Node::Null) {
                        semantic = of_branch;
                    }
                    nodes.push(node);
                }
                Ok((Node::Union(nodes.into()), semantic))
            }
            Json::Object(attributes) => self.complex(attributes, namespace, at, depth),
            _ => Err(bad("is neither a name, a list nor an object")),
        }
    }

    fn by_name(&self, name: &str, namespace: &str) -> Option<(Node, Semantic)> {
        let node = match name {
            "null" => Node::Null,
            "boolean" => Node::Bool,
            "int" => Node::Int,
            "long" => Node::Long,
            "float" => Node::Float,
            "double" => Node::Double,
            "bytes" => Node::Bytes,
            "string" => Node::Text,
            name => return self.named.get(&full_name(name, namespace)).or_else(|| self.named.get(name)).cloned(),
        };
        Some((node, Semantic::Plain))
    }

    fn complex(
        &mut self,
        attributes: &Map<String, Json>,
        namespace: &str,
        at: &str,
        depth: usize,
    ) -> Result<(Node, Semantic), PlanError> {
        let bad = |problem| PlanError::Schema { at: at.to_owned(), problem };
        let kind = attributes.get("type").ok_or_else(|| bad("has no type"))?;
        let Json::String(kind) = kind else { return self.node(kind, namespace, at, depth + 1) };
        let semantic = semantic(attributes);
        let node = match kind.as_str() {
            "record" | "error" => return self.record(attributes, namespace, at, depth),
            "array" => Node::Array(self.inner(attributes, "items", namespace, at, depth)?),
            "map" => Node::Map(self.inner(attributes, "values", namespace, at, depth)?),
            "enum" => {
                let symbols = attributes.get("symbols").and_then(Json::as_array).ok_or_else(|| bad("has no symbols"))?;
                let symbols: Option<Vec<String>> = symbols.iter().map(|symbol| symbol.as_str().map(str::to_owned)).collect();
                let node = Node::Enum(symbols.ok_or_else(|| bad("has a symbol that is no text"))?.into());
                return self.define(attributes, namespace, node, Semantic::Enum).ok_or_else(|| bad("has no name"));
            }
            "fixed" => {
                let size = attributes.get("size").and_then(Json::as_u64).and_then(|size| usize::try_from(size).ok());
                let size = size.ok_or_else(|| bad("has no size"))?;
                let node = match semantic {
                    Semantic::Decimal { scale, .. } => Node::FixedDecimal { scale, size },
                    _ => Node::Fixed(size),
                };
                return self.define(attributes, namespace, node, semantic).ok_or_else(|| bad("has no name"));
            }
            "bytes" if let Semantic::Decimal { scale, .. } = semantic => Node::Decimal { scale },
            name => {
                let (node, named) =
                    self.by_name(name, namespace).ok_or_else(|| bad("names a type that is not defined before"))?;
                return Ok((node, if semantic == Semantic::Plain { named } else { semantic }));
            }
        };
        Ok((node, semantic))
    }

    fn inner(
        &mut self,
        attributes: &Map<String, Json>,
        what: &'static str,
        namespace: &str,
        at: &str,
        depth: usize,
    ) -> Result<Arc<Node>, PlanError> {
        let json = attributes.get(what).ok_or(PlanError::Schema { at: at.to_owned(), problem: "has no type of its elements" })?;
        Ok(Arc::new(self.node(json, namespace, &format!("{at}.{what}"), depth + 1)?.0))
    }

    fn record(
        &mut self,
        attributes: &Map<String, Json>,
        outer: &str,
        at: &str,
        depth: usize,
    ) -> Result<(Node, Semantic), PlanError> {
        let bad = |problem| PlanError::Schema { at: at.to_owned(), problem };
        let name = own_name(attributes, outer).ok_or_else(|| bad("has no name"))?;
        let namespace = name.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
        let mut fields = vec![];
        for json in attributes.get("fields").and_then(Json::as_array).ok_or_else(|| bad("has no fields"))? {
            let field = json.get("name").and_then(Json::as_str).ok_or_else(|| bad("has a field without a name"))?;
            let kind = json.get("type").ok_or_else(|| bad("has a field without a type"))?;
            let (node, of_node) = self.node(kind, &namespace, &format!("{at}.{field}"), depth + 1)?;
            // Some writers put the logical type beside the field's type.
            let beside = json.as_object().map_or(Semantic::Plain, semantic);
            let semantic = if of_node == Semantic::Plain { beside } else { of_node };
            fields.push(Field { name: field.into(), semantic, nullable: is_nullable(&node), node });
        }
        let semantic = semantic(attributes);
        let node = match semantic {
            Semantic::VariableDecimal if is_variable_decimal(&fields) => Node::VariableDecimal,
            _ => Node::Record(Arc::new(Record { name: name.clone(), fields: fields.into() })),
        };
        self.named.insert(name, (node.clone(), semantic.clone()));
        Ok((node, semantic))
    }

    fn define(
        &mut self,
        attributes: &Map<String, Json>,
        outer: &str,
        node: Node,
        semantic: Semantic,
    ) -> Option<(Node, Semantic)> {
        let name = own_name(attributes, outer)?;
        self.named.insert(name, (node.clone(), semantic.clone()));
        Some((node, semantic))
    }
}

fn own_name(attributes: &Map<String, Json>, outer: &str) -> Option<String> {
    let namespace = attributes.get("namespace").and_then(Json::as_str).unwrap_or(outer);
    attributes.get("name").and_then(Json::as_str).map(|name| full_name(name, namespace))
}

fn full_name(name: &str, namespace: &str) -> String {
    if namespace.is_empty() || name.contains('.') { name.to_owned() } else { format!("{namespace}.{name}") }
}

fn is_nullable(node: &Node) -> bool {
    match node {
        Node::Null => true,
        Node::Union(branches) => branches.iter().any(|branch| matches!(branch, Node::Null)),
        _ => false,
    }
}

fn is_variable_decimal(fields: &[Field]) -> bool {
    matches!(fields, [scale, value] if matches!((&scale.node, &value.node), (Node::Int, Node::Bytes)))
}

fn semantic(attributes: &Map<String, Json>) -> Semantic {
    let text = |name: &str| attributes.get(name).and_then(Json::as_str);
    let decimal = || {
        let number = |name: &str| attributes.get(name).and_then(Json::as_i64);
        let scale = number("scale").unwrap_or(0);
        Semantic::Decimal {
            precision: number("precision").and_then(|value| value.try_into().ok()).unwrap_or(0),
            scale: scale.try_into().unwrap_or(0),
        }
    };
    let Some(name) = text("connect.name") else {
        return match text("logicalType") {
            Some("decimal") => decimal(),
            Some("date") => Semantic::Date,
            Some("time-millis") => Semantic::TimeMillis,
            Some("time-micros") => Semantic::TimeMicros,
            Some("timestamp-millis" | "local-timestamp-millis") => Semantic::TimestampMillis,
            Some("timestamp-micros" | "local-timestamp-micros") => Semantic::TimestampMicros,
            Some("timestamp-nanos" | "local-timestamp-nanos") => Semantic::TimestampNanos,
            Some("uuid") => Semantic::Uuid,
            _ => Semantic::Plain,
        };
    };
    match name {
        "org.apache.kafka.connect.data.Decimal" => decimal(),
        "io.debezium.data.VariableScaleDecimal" => Semantic::VariableDecimal,
        "io.debezium.time.Date" | "org.apache.kafka.connect.data.Date" => Semantic::Date,
        "io.debezium.time.Time" | "org.apache.kafka.connect.data.Time" => Semantic::TimeMillis,
        "io.debezium.time.MicroTime" => Semantic::TimeMicros,
        "io.debezium.time.NanoTime" => Semantic::TimeNanos,
        "io.debezium.time.Timestamp" | "org.apache.kafka.connect.data.Timestamp" => Semantic::TimestampMillis,
        "io.debezium.time.MicroTimestamp" => Semantic::TimestampMicros,
        "io.debezium.time.NanoTimestamp" => Semantic::TimestampNanos,
        "io.debezium.time.ZonedTime" => Semantic::ZonedTime,
        "io.debezium.time.ZonedTimestamp" => Semantic::ZonedTimestamp,
        "io.debezium.time.IsoDate" | "io.debezium.time.IsoTime" | "io.debezium.time.IsoTimestamp" => Semantic::LocalText,
        "io.debezium.time.MicroDuration" => Semantic::Duration,
        "io.debezium.data.Json" => Semantic::Json,
        "io.debezium.data.Xml" => Semantic::Xml,
        "io.debezium.data.Uuid" => Semantic::Uuid,
        "io.debezium.data.Enum" => Semantic::Enum,
        "io.debezium.data.Bits" => Semantic::Bits,
        "io.debezium.data.geometry.Point" => Semantic::Point,
        "io.debezium.data.Ltree" => Semantic::Ltree,
        "io.debezium.data.Tsvector" => Semantic::TsVector,
        name => Semantic::Other(name.into()),
    }
}
