//! The Avro schemas of a table, in the form that Debezium with Confluent's converter gives them: `connect.name`,
//! `connect.parameters`, `connect.version` and `connect.default` stand in the Avro JSON.
//!
//! A default that the schema language cannot carry, or that registries refuse, is left out.

use serde_json::{Map, Value as Json, json};
use thiserror::Error;

use super::encode::encode_default;
use super::form::{
    AddedField, Binary, DELETED, Decimals, EventForm, Intervals, Metadata, Times, UnknownTypes, Unwrap, UnwrappedDeletes,
};
use super::names;
use super::varint::read_long;
use crate::table::{Column, ColumnType, Table};

/// Longest topic name that Kafka takes.
pub(super) const MAX_TOPIC: usize = 249;

/// `connect.parameters.length` of a bit string without a limit.
const UNLIMITED_BITS: u32 = i32::MAX as u32;

/// Namespace of what only Debezium's PostgreSQL connector has.
pub(super) const POSTGRES: &str = "io.debezium.connector.postgresql";

/// Which `source` block the envelope has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// Debezium's, of its PostgreSQL connector.
    Postgres,
    /// Of the change-log connectors: the common fields, schema, table and the change's id.
    Changelog,
}

impl SourceKind {
    pub(super) fn connector(self) -> &'static str {
        match self {
            Self::Postgres => "postgresql",
            Self::Changelog => "changelog",
        }
    }
}

/// What the schemas and the `source` block say beside the table.
#[derive(Debug, Clone, Copy)]
pub struct TableContext<'a> {
    /// Topics are `<prefix>.<schema>.<table>`.
    pub prefix: &'a str,
    /// `source.name`.
    pub name: &'a str,
    /// `source.db`.
    pub database: &'a str,
    pub kind: SourceKind,
    pub form: &'a EventForm,
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum SchemaError {
    #[error("table {table}: columns {one} and {other} would both be the Avro field {field}; exclude or rename one of them")]
    Collision { table: String, one: String, other: String, field: String },
    #[error("table {table}: column {field} has the name of a field that `transforms.unwrap` adds; exclude or rename it")]
    Added { table: String, field: String },
    #[error(
        "table {table} has no key, so its deletes leave no tombstone, and `transforms.unwrap` says them by nothing else; declare its key \
         under [keys], or set `delete.tombstone.handling.mode` to \"rewrite-with-tombstone\""
    )]
    DeletesLost { table: String },
    #[error("table {table}: the topic name {topic} has {} characters, Kafka takes {MAX_TOPIC}; shorten the table's name", topic.len())]
    TopicTooLong { table: String, topic: String },
    #[error("table {table}: its key names column {index}, but it has {columns} columns")]
    Key { table: String, index: usize, columns: usize },
}

/// Topic and Avro JSON of one table.
#[derive(Debug)]
pub(super) struct TableSchemas {
    pub(super) topic: String,
    pub(super) key: Option<String>,
    pub(super) value: String,
}

pub(super) fn of_table(table: &Table, context: &TableContext<'_>) -> Result<TableSchemas, SchemaError> {
    let form = context.form;
    let topic = names::topic_name(context.prefix, &table.name, form.names);
    if topic.len() > MAX_TOPIC {
        return Err(SchemaError::TopicTooLong { table: table.name.to_string(), topic });
    }
    check(table, form)?;
    let namespace = names::namespace(&topic, form.names);
    let mut named = Named::default();
    let columns = table.columns.iter().enumerate();
    let rows: Vec<Json> = columns.map(|(index, column)| field(column, table.key.contains(&index), form, &mut named)).collect();
    let value = match &form.unwrap {
        None => envelope(&namespace, rows, context.kind),
        Some(unwrap) => unwrapped(&namespace, rows, unwrap, context.kind),
    };
    let value = value.to_string();
    let mut named = Named::default();
    let key_fields: Vec<Json> = table.key_columns().map(|column| field(column, true, form, &mut named)).collect();
    let key = (!key_fields.is_empty()).then(|| {
        json!({"type": "record", "name": "Key", "namespace": namespace, "fields": key_fields, "connect.name": format!("{namespace}.Key")})
            .to_string()
    });
    Ok(TableSchemas { topic, key, value })
}

fn check(table: &Table, form: &EventForm) -> Result<(), SchemaError> {
    let columns = table.columns.len();
    if let Some(&index) = table.key.iter().find(|&&index| index >= columns) {
        return Err(SchemaError::Key { table: table.name.to_string(), index, columns });
    }
    if form.unwrap.as_ref().is_some_and(|unwrap| unwrap.deletes == UnwrappedDeletes::Tombstone) && table.key.is_empty() {
        return Err(SchemaError::DeletesLost { table: table.name.to_string() });
    }
    let mut seen = std::collections::HashMap::new();
    for column in &table.columns {
        let field = form.field_name(&column.name);
        if form.unwrap.as_ref().is_some_and(|unwrap| is_added(unwrap, &field)) {
            return Err(SchemaError::Added { table: table.name.to_string(), field: field.into_owned() });
        }
        if let Some(other) = seen.insert(field.clone(), &column.name) {
            let (one, other) = (other.clone(), column.name.clone());
            return Err(SchemaError::Collision { table: table.name.to_string(), one, other, field: field.into_owned() });
        }
    }
    Ok(())
}

fn is_added(unwrap: &Unwrap, field: &str) -> bool {
    unwrap.marks_deletes() && field == DELETED || unwrap.added.iter().any(|added| added.name == field)
}

/// Named types that the schema has defined already; the next use refers to them.
#[derive(Debug, Default)]
struct Named(Vec<&'static str>);

impl Named {
    fn define(&mut self, name: &'static str, definition: impl FnOnce() -> Json) -> Json {
        if self.0.contains(&name) {
            return Json::from(name);
        }
        self.0.push(name);
        definition()
    }
}

/// A key's columns are NOT NULL whatever the catalogue of the moment says.
fn field(column: &Column, is_key: bool, form: &EventForm, named: &mut Named) -> Json {
    let name = form.field_name(&column.name);
    let default = default_of(column, form).map(|(_, json)| json);
    let kind = with_default(kind(&column.kind, form, named), default.as_ref());
    match (column.nullable && !is_key, default) {
        (true, None) => json!({"name": name, "type": ["null", kind], "default": null}),
        (true, Some(default)) => json!({"name": name, "type": [kind, "null"], "default": default}),
        (false, None) => json!({"name": name, "type": kind}),
        (false, Some(default)) => json!({"name": name, "type": kind, "default": default}),
    }
}

/// Puts `connect.default` where the converter has it: before `connect.name` and `connect.type`.
fn with_default(kind: Json, default: Option<&Json>) -> Json {
    let Some(default) = default else { return kind };
    let attributes = match kind {
        Json::Object(attributes) => attributes,
        primitive => Map::from_iter([("type".to_owned(), primitive)]),
    };
    let (mut out, mut rest) = (Map::new(), Map::new());
    for (name, value) in attributes {
        let goes_after = matches!(name.as_str(), "connect.name" | "connect.type" | "logicalType");
        if goes_after { &mut rest } else { &mut out }.insert(name, value);
    }
    out.insert("connect.default".to_owned(), default.clone());
    out.extend(rest);
    Json::Object(out)
}

fn semantic(physical: &str, name: &str) -> Json {
    json!({"type": physical, "connect.version": 1, "connect.name": name})
}

/// As [`semantic`], of Kafka Connect's own types, which have an Avro counterpart.
fn logical(physical: &str, name: &str, logical: &str) -> Json {
    let name = format!("org.apache.kafka.connect.data.{name}");
    json!({"type": physical, "connect.version": 1, "connect.name": name, "logicalType": logical})
}

pub(super) fn bytes(form: &EventForm) -> Json {
    match form.binary {
        Binary::Bytes => json!("bytes"),
        Binary::Base64 => json!("string"),
    }
}

fn number(precise: impl FnOnce() -> Json, form: &EventForm) -> Json {
    match form.decimals {
        Decimals::Precise => precise(),
        Decimals::Double => json!("double"),
        Decimals::String => json!("string"),
    }
}

fn date(form: &EventForm) -> Json {
    match form.times {
        Times::Adaptive => semantic("int", "io.debezium.time.Date"),
        Times::Connect => logical("int", "Date", "date"),
        Times::IsoString => semantic("string", "io.debezium.time.IsoDate"),
    }
}

fn time(precision: u8, form: &EventForm) -> Json {
    match form.times {
        Times::Adaptive if precision <= 3 => semantic("int", "io.debezium.time.Time"),
        Times::Adaptive => semantic("long", "io.debezium.time.MicroTime"),
        Times::Connect => logical("int", "Time", "time-millis"),
        Times::IsoString => semantic("string", "io.debezium.time.IsoTime"),
    }
}

fn timestamp(precision: u8, form: &EventForm) -> Json {
    match form.times {
        Times::Adaptive if precision <= 3 => semantic("long", "io.debezium.time.Timestamp"),
        Times::Adaptive => semantic("long", "io.debezium.time.MicroTimestamp"),
        Times::Connect => logical("long", "Timestamp", "timestamp-millis"),
        Times::IsoString => semantic("string", "io.debezium.time.IsoTimestamp"),
    }
}

fn kind(column: &ColumnType, form: &EventForm, named: &mut Named) -> Json {
    match column {
        ColumnType::Bool | ColumnType::Bit { length: 1, varying: false } => json!("boolean"),
        ColumnType::Int16 => json!({"type": "int", "connect.type": "int16"}),
        ColumnType::Int32 => json!("int"),
        ColumnType::Int64 | ColumnType::UInt32 => json!("long"),
        ColumnType::Float32 => json!("float"),
        ColumnType::Float64 => json!("double"),
        ColumnType::Decimal { precision, scale } => number(|| decimal(*scale, *precision, true), form),
        ColumnType::Money => number(|| decimal(2, 64, false), form),
        ColumnType::VariableDecimal => number(|| named.define("io.debezium.data.VariableScaleDecimal", variable_decimal), form),
        ColumnType::Text => json!("string"),
        ColumnType::Bytes => bytes(form),
        ColumnType::Other if form.unknown_types == UnknownTypes::Bytes => bytes(form),
        ColumnType::Other => json!("string"),
        ColumnType::Date => date(form),
        ColumnType::Time { precision } => time(*precision, form),
        ColumnType::Timestamp { precision } => timestamp(*precision, form),
        ColumnType::ZonedTime => semantic("string", "io.debezium.time.ZonedTime"),
        ColumnType::ZonedTimestamp { .. } => semantic("string", "io.debezium.time.ZonedTimestamp"),
        ColumnType::Interval => match form.intervals {
            Intervals::Numeric => semantic("long", "io.debezium.time.MicroDuration"),
            Intervals::String => semantic("string", "io.debezium.time.Interval"),
        },
        ColumnType::Json | ColumnType::Hstore => semantic("string", "io.debezium.data.Json"),
        ColumnType::Xml => semantic("string", "io.debezium.data.Xml"),
        ColumnType::Uuid => semantic("string", "io.debezium.data.Uuid"),
        ColumnType::Ltree => semantic("string", "io.debezium.data.Ltree"),
        ColumnType::TsVector => semantic("string", "io.debezium.data.Tsvector"),
        ColumnType::Enum { labels } => json!({
            "type": "string", "connect.version": 1, "connect.parameters": {"allowed": allowed(labels)},
            "connect.name": "io.debezium.data.Enum"
        }),
        ColumnType::Bit { length, .. } => {
            let length = if *length == 0 { UNLIMITED_BITS } else { *length };
            json!({
                "type": "bytes", "connect.version": 1, "connect.parameters": {"length": length.to_string()},
                "connect.name": "io.debezium.data.Bits"
            })
        }
        ColumnType::Point => named.define("io.debezium.data.geometry.Point", point),
        ColumnType::Array(items) => json!({"type": "array", "items": ["null", kind(items, form, named)]}),
    }
}

/// Labels joined by commas; a comma or backslash in a label is escaped.
fn allowed(labels: &[String]) -> String {
    let escaped: Vec<String> = labels.iter().map(|label| label.replace('\\', "\\\\").replace(',', "\\,")).collect();
    escaped.join(",")
}

fn decimal(scale: u16, precision: u16, declared: bool) -> Json {
    let mut parameters = json!({"scale": scale.to_string()});
    if declared && let Some(parameters) = parameters.as_object_mut() {
        parameters.insert("connect.decimal.precision".to_owned(), precision.to_string().into());
    }
    json!({
        "type": "bytes", "scale": scale, "precision": precision, "connect.version": 1, "connect.parameters": parameters,
        "connect.name": "org.apache.kafka.connect.data.Decimal", "logicalType": "decimal"
    })
}

fn variable_decimal() -> Json {
    json!({
        "type": "record", "name": "VariableScaleDecimal", "namespace": "io.debezium.data",
        "fields": [{"name": "scale", "type": "int"}, {"name": "value", "type": "bytes"}],
        "connect.doc": "Variable scaled decimal", "connect.version": 1, "connect.name": "io.debezium.data.VariableScaleDecimal"
    })
}

fn point() -> Json {
    json!({
        "type": "record", "name": "Point", "namespace": "io.debezium.data.geometry",
        "fields": [
            {"name": "x", "type": "double"}, {"name": "y", "type": "double"},
            {"name": "wkb", "type": ["null", "bytes"], "default": null}, {"name": "srid", "type": ["null", "int"], "default": null}
        ],
        "connect.doc": "Geometry (POINT)", "connect.version": 1, "connect.name": "io.debezium.data.geometry.Point"
    })
}

fn optional(name: &str, kind: &str) -> Json {
    json!({"name": name, "type": ["null", kind], "default": null})
}

fn envelope(namespace: &str, rows: Vec<Json>, source_kind: SourceKind) -> Json {
    let value = json!({"type": "record", "name": "Value", "fields": rows, "connect.name": format!("{namespace}.Value")});
    let transaction = transaction();
    json!({
        "type": "record", "name": "Envelope", "namespace": namespace,
        "fields": [
            {"name": "before", "type": ["null", value], "default": null},
            {"name": "after", "type": ["null", "Value"], "default": null},
            {"name": "source", "type": source(source_kind)},
            {"name": "transaction", "type": ["null", transaction], "default": null},
            {"name": "op", "type": "string"},
            optional("ts_ms", "long"), optional("ts_us", "long"), optional("ts_ns", "long")
        ],
        "connect.version": 2, "connect.name": format!("{namespace}.Envelope")
    })
}

/// The row alone, with what is added to it.
fn unwrapped(namespace: &str, mut fields: Vec<Json>, unwrap: &Unwrap, source_kind: SourceKind) -> Json {
    if unwrap.marks_deletes() {
        fields.push(optional(DELETED, "string"));
    }
    fields.extend(unwrap.added.iter().map(|AddedField { name, of }| match of {
        Metadata::Operation => optional(name, "string"),
        Metadata::TsMs | Metadata::TsUs | Metadata::TsNs => optional(name, "long"),
        Metadata::Source(field) => json!({"name": name, "type": ["null", of_source(field.name(), source_kind)], "default": null}),
    }));
    json!({"type": "record", "name": "Value", "namespace": namespace, "fields": fields, "connect.name": format!("{namespace}.Value")})
}

/// The type that a field of the `source` block has where it is not null; a copied field keeps no default.
fn of_source(name: &str, kind: SourceKind) -> Json {
    let block = source(kind);
    let fields = block.get("fields").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    let field = fields.iter().find(|field| field.get("name").and_then(Json::as_str) == Some(name));
    let mut kind = match field.and_then(|field| field.get("type")) {
        Some(Json::Array(branches)) => branches.iter().find(|branch| *branch != "null").cloned().unwrap_or_default(),
        kind => kind.cloned().unwrap_or_default(),
    };
    if let Some(attributes) = kind.as_object_mut() {
        attributes.shift_remove("connect.default");
    }
    kind
}

pub(super) fn transaction() -> Json {
    json!({
        "type": "record", "name": "block", "namespace": "event",
        "fields": [
            {"name": "id", "type": "string"}, {"name": "total_order", "type": "long"}, {"name": "data_collection_order", "type": "long"}
        ],
        "connect.version": 1, "connect.name": "event.block"
    })
}

pub(super) fn source(kind: SourceKind) -> Json {
    let snapshot = json!({
        "type": "string", "connect.version": 1,
        "connect.parameters": {"allowed": "true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"},
        "connect.default": "false", "connect.name": "io.debezium.data.Enum"
    });
    let text = |name: &str| json!({"name": name, "type": "string"});
    let mut fields = vec![
        text("version"),
        text("connector"),
        text("name"),
        json!({"name": "ts_ms", "type": "long"}),
        json!({"name": "snapshot", "type": [snapshot, "null"], "default": "false"}),
        text("db"),
        optional("sequence", "string"),
        optional("ts_us", "long"),
        optional("ts_ns", "long"),
        text("schema"),
        text("table"),
    ];
    let namespace = match kind {
        SourceKind::Postgres => {
            fields.extend(["txId", "lsn", "xmin"].map(|name| optional(name, "long")));
            fields.extend([optional("origin", "string"), optional("origin_lsn", "long")]);
            POSTGRES
        }
        SourceKind::Changelog => {
            fields.push(optional("change_id", "long"));
            "cn.guitong.connector.changelog"
        }
    };
    json!({
        "type": "record", "name": "Source", "namespace": namespace, "fields": fields,
        "connect.version": 1, "connect.name": format!("{namespace}.Source")
    })
}

/// The column's default, encoded and as the JSON of an Avro default; `None` where it has none that a schema can carry.
pub(super) fn default_of(column: &Column, form: &EventForm) -> Option<(Vec<u8>, Json)> {
    // Debezium gives these none.
    if matches!(
        column.kind,
        ColumnType::Money | ColumnType::Bytes | ColumnType::Other | ColumnType::Point | ColumnType::Hstore | ColumnType::Array(_)
    ) || column.kind == ColumnType::VariableDecimal && form.decimals == Decimals::Precise
    {
        return None;
    }
    let encoded = encode_default(column, column.default.as_deref()?, form)?;
    let body = |encoded: &[u8]| read_long(encoded).map(|(_, rest)| rest.to_vec());
    let schema = kind(&column.kind, form, &mut Named::default());
    let json = match schema.get("type").unwrap_or(&schema).as_str()? {
        "boolean" => Json::from(encoded.first() == Some(&1)),
        "int" | "long" => read_long(&encoded).map(|(value, _)| Json::from(value))?,
        // Finite numbers only: JSON has no other.
        "float" => {
            let value = f32::from_le_bytes(*encoded.first_chunk()?);
            finite(value.to_string().parse().ok()?)?
        }
        "double" => finite(f64::from_le_bytes(*encoded.first_chunk()?))?,
        "bytes" => Json::from(body(&encoded)?.into_iter().map(char::from).collect::<String>()),
        "string" => {
            let text = String::from_utf8(body(&encoded)?).ok()?;
            // Registries take such a text for the default of a record or an array, and refuse the schema.
            (!matches!(text.trim(), "{}" | "[]")).then(|| Json::from(text))?
        }
        _ => return None,
    };
    Some((encoded, json))
}

fn finite(value: f64) -> Option<Json> {
    serde_json::Number::from_f64(value).map(Json::Number)
}
