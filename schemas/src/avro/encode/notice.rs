//! What a source tells beside changes of rows: logical messages, and where transactions begin and end.

use std::io::Write as _;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::super::form::{Binary, Converter};
use super::super::schema::{self, TableContext};
use super::super::varint::{write_bytes, write_long};
use super::source::{self, SourceBlock};
use super::{Stamp, binary, frame, json};
use crate::change::{Notice, Origin, TransactionMark};
use crate::position::Version;
use crate::table::{Table, TableName};

/// Topics and schemas of a system's notices.
#[derive(Debug)]
pub struct NoticePlan {
    messages: NoticeTopic,
    transactions: NoticeTopic,
    source: SourceBlock,
    binary: Binary,
    converter: Converter,
}

/// One of the two topics.
#[derive(Debug)]
pub struct NoticeTopic {
    pub name: Arc<str>,
    /// Avro JSON of key and value; `None` for JSON.
    pub key_schema: Option<String>,
    pub value_schema: Option<String>,
}

impl NoticePlan {
    #[must_use]
    pub fn compile(context: &TableContext<'_>) -> Self {
        let converter = context.form.converter;
        let schema = |schema: Json| (converter == Converter::Avro).then(|| schema.to_string());
        let topic = |name: &str, key_schema: Json, value_schema: Json| NoticeTopic {
            name: format!("{}.{name}", context.prefix).into(),
            key_schema: schema(key_schema),
            value_schema: schema(value_schema),
        };
        // A message is of no table.
        let table = Table { name: TableName::new("", ""), columns: vec![], key: vec![] };
        Self {
            messages: topic("message", message_key(), message_value(context)),
            transactions: topic("transaction", transaction_key(), transaction_value()),
            source: SourceBlock::compile(&table, context),
            binary: context.form.binary,
            converter,
        }
    }

    /// Where a notice goes.
    #[must_use]
    pub fn topic(&self, notice: &Notice) -> &NoticeTopic {
        match notice {
            Notice::Message { .. } => &self.messages,
            Notice::Begin(_) | Notice::End { .. } => &self.transactions,
        }
    }

    /// Appends the key, in Avro framed.
    pub fn key(&self, notice: &Notice, schema_id: u32, out: &mut Vec<u8>) {
        if self.converter == Converter::Json {
            return json_key(notice, out);
        }
        frame::write(schema_id, out);
        match notice {
            Notice::Message { prefix, .. } => {
                write_long(out, 1);
                write_bytes(out, prefix.as_bytes());
            }
            Notice::Begin(mark) | Notice::End { mark, .. } => write_bytes(out, id(mark).as_bytes()),
        }
    }

    /// Appends the value, in Avro framed; that of a message can do without its content.
    pub fn value(&self, notice: &Notice, with_content: bool, stamp: Stamp, out: &mut Vec<u8>) {
        if self.converter == Converter::Json {
            return self.json_value(notice, with_content, stamp, out);
        }
        frame::write(stamp.schema_id, out);
        match notice {
            Notice::Message { prefix, content, version, origin } => {
                let content = with_content.then_some(content.as_ref());
                self.message((prefix, content), (version, origin), stamp.processed_us, out);
            }
            Notice::Begin(mark) => {
                write_bytes(out, b"BEGIN");
                write_bytes(out, id(mark).as_bytes());
                // No counts yet.
                out.extend_from_slice(&[0; 2]);
                write_long(out, mark.ts_us.div_euclid(1000));
            }
            Notice::End { mark, events, tables } => {
                write_bytes(out, b"END");
                write_bytes(out, id(mark).as_bytes());
                write_long(out, 1);
                write_long(out, *events as i64);
                write_long(out, 1);
                if !tables.is_empty() {
                    write_long(out, tables.len() as i64);
                }
                for (table, events) in tables {
                    write_long(out, 1);
                    write_bytes(out, table.as_bytes());
                    write_long(out, *events as i64);
                }
                write_long(out, 0);
                write_long(out, mark.ts_us.div_euclid(1000));
            }
        }
    }

    fn message(
        &self,
        (prefix, content): (&str, Option<&[u8]>),
        (version, origin): (&Version, &Origin),
        now_us: i64,
        out: &mut Vec<u8>,
    ) {
        write_bytes(out, b"m");
        write_long(out, 1);
        write_long(out, now_us.div_euclid(1000));
        self.source.write(origin, out);
        source::write_transaction(&origin.place, version.commit, out);
        write_long(out, 1);
        write_bytes(out, prefix.as_bytes());
        let Some(content) = content else { return write_long(out, 0) };
        write_long(out, 1);
        match self.binary {
            Binary::Bytes => write_bytes(out, content),
            Binary::Base64 => binary::base64(content.iter().copied(), content.len(), out),
        }
    }
}

impl NoticePlan {
    fn json_value(&self, notice: &Notice, with_content: bool, stamp: Stamp, out: &mut Vec<u8>) {
        // Writing into a vector does not fail.
        let _ = match notice {
            Notice::Message { prefix, content, version, origin } => {
                let _ = write!(out, r#"{{"op":"m","ts_ms":{},"source":"#, stamp.processed_us.div_euclid(1000));
                self.source.json(origin, out);
                out.extend_from_slice(br#","transaction":"#);
                source::transaction_json(&origin.place, version.commit, out);
                out.extend_from_slice(br#","message":{"prefix":"#);
                json::string(prefix.as_bytes(), out);
                out.extend_from_slice(br#","content":"#);
                if with_content {
                    json::base64(content, out);
                } else {
                    out.extend_from_slice(b"null");
                }
                out.write_all(b"}}")
            }
            Notice::Begin(mark) => write!(
                out,
                r#"{{"status":"BEGIN","id":"{}","event_count":null,"data_collections":null,"ts_ms":{}}}"#,
                id(mark),
                mark.ts_us.div_euclid(1000)
            ),
            Notice::End { mark, events, tables } => {
                let _ = write!(out, r#"{{"status":"END","id":"{}","event_count":{events},"data_collections":["#, id(mark));
                for (at, (table, events)) in tables.iter().enumerate() {
                    out.extend_from_slice(if at > 0 { br#",{"data_collection":"# } else { br#"{"data_collection":"# });
                    json::string(table.as_bytes(), out);
                    let _ = write!(out, r#","event_count":{events}}}"#);
                }
                write!(out, r#"],"ts_ms":{}}}"#, mark.ts_us.div_euclid(1000))
            }
        };
    }
}

fn json_key(notice: &Notice, out: &mut Vec<u8>) {
    let (name, value) = match notice {
        Notice::Message { prefix, .. } => ("prefix", prefix.to_string()),
        Notice::Begin(mark) | Notice::End { mark, .. } => ("id", id(mark)),
    };
    out.push(b'{');
    out.extend_from_slice(&json::label(name));
    json::string(value.as_bytes(), out);
    out.push(b'}');
}

/// As the `transaction` block of the transaction's events has it.
fn id(mark: &TransactionMark) -> String {
    format!("{}:{}", mark.xid, mark.commit)
}

fn optional(name: &str, kind: impl Into<Json>) -> Json {
    json!({"name": name, "type": ["null", kind.into()], "default": null})
}

fn record(namespace: &str, name: &str, fields: Json) -> Json {
    json!({
        "type": "record", "name": name, "namespace": namespace, "fields": fields,
        "connect.version": 1, "connect.name": format!("{namespace}.{name}")
    })
}

fn message_key() -> Json {
    record(schema::POSTGRES, "MessageKey", json!([optional("prefix", "string")]))
}

fn message_value(context: &TableContext<'_>) -> Json {
    let mut message = record(
        schema::POSTGRES,
        "Message",
        json!([optional("prefix", "string"), optional("content", schema::bytes(context.form))]),
    );
    let mut source = schema::source(context.kind);
    // Inside the record of the same namespace they do without their own.
    for inner in [&mut message, &mut source] {
        if let Some(attributes) = inner.as_object_mut() {
            attributes.shift_remove("namespace");
        }
    }
    record(
        schema::POSTGRES,
        "MessageValue",
        json!([
            {"name": "op", "type": "string"},
            optional("ts_ms", "long"),
            {"name": "source", "type": source},
            optional("transaction", schema::transaction()),
            {"name": "message", "type": message}
        ]),
    )
}

const COMMON: &str = "io.debezium.connector.common";

fn transaction_key() -> Json {
    record(COMMON, "TransactionMetadataKey", json!([{"name": "id", "type": "string"}]))
}

fn transaction_value() -> Json {
    let collection = record(
        "event",
        "collection",
        json!([{"name": "data_collection", "type": "string"}, {"name": "event_count", "type": "long"}]),
    );
    record(
        COMMON,
        "TransactionMetadataValue",
        json!([
            {"name": "status", "type": "string"},
            {"name": "id", "type": "string"},
            optional("event_count", "long"),
            optional("data_collections", json!({"type": "array", "items": ["null", collection]})),
            {"name": "ts_ms", "type": "long"}
        ]),
    )
}
