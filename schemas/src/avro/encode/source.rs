//! The envelope's `source` block, with everything that is the same for every change of a table written beforehand.

use std::borrow::Cow;
use std::io::Write as _;

use super::super::form::SourceField;
use super::super::schema::{SourceKind, TableContext};
use super::super::varint::{write_bytes, write_long};
use super::json;
use crate::change::{Origin, Place, SnapshotMark};
use crate::table::Table;

#[derive(Debug)]
pub(super) struct SourceBlock {
    /// version, connector, name.
    head: Box<[u8]>,
    database: Box<[u8]>,
    /// schema, table.
    table: Box<[u8]>,
    kind: SourceKind,
    fixed: Fixed,
    json: Vec<JsonPart>,
    json_end: Box<[u8]>,
}

/// What is the same in every event of a table.
#[derive(Debug)]
struct Fixed {
    name: Box<str>,
    database: Box<str>,
    schema: Box<str>,
    table: Box<str>,
}

/// Text up to a field whose value is the event's own.
#[derive(Debug)]
struct JsonPart {
    before: Box<[u8]>,
    field: SourceField,
}

/// A field of the block, or of what stands beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scalar<'a> {
    Null,
    Number(i64),
    Text(Cow<'a, str>),
}

impl SourceBlock {
    pub(super) fn compile(table: &Table, context: &TableContext<'_>) -> Self {
        let texts = |texts: &[&str]| {
            let mut out = vec![];
            for text in texts {
                write_bytes(&mut out, text.as_bytes());
            }
            out.into_boxed_slice()
        };
        let fixed = Fixed {
            name: context.name.into(),
            database: context.database.into(),
            schema: table.name.schema.as_str().into(),
            table: table.name.name.as_str().into(),
        };
        let (json, json_end) = json_parts(&fixed, context.kind);
        Self {
            fixed,
            json,
            json_end,
            head: texts(&[env!("CARGO_PKG_VERSION"), context.kind.connector(), context.name]),
            database: texts(&[context.database]),
            table: texts(&[&table.name.schema, &table.name.name]),
            kind: context.kind,
        }
    }

    /// One field of the block.
    pub(super) fn field(&self, field: SourceField, origin: &Origin) -> Scalar<'_> {
        if let Some(text) = self.fixed.text(field, self.kind) {
            return Scalar::Text(text.into());
        }
        match (field, &origin.place) {
            (SourceField::TsMs, _) => Scalar::Number(origin.ts_us.div_euclid(1000)),
            (SourceField::TsUs, _) => Scalar::Number(origin.ts_us),
            (SourceField::TsNs, _) => Scalar::Number(origin.ts_us.saturating_mul(1000)),
            (SourceField::Snapshot, _) => Scalar::Text(snapshot_word(origin.snapshot).into()),
            (SourceField::Sequence, place) => {
                let mut text = Vec::with_capacity(48);
                sequence(place, &mut text);
                String::from_utf8(text).map_or(Scalar::Null, |text| Scalar::Text(text.into()))
            }
            (SourceField::TxId, Place::Postgres { xid: Some(xid), .. }) => Scalar::Number(*xid as i64),
            (SourceField::Lsn, Place::Postgres { lsn, .. }) => Scalar::Number(*lsn as i64),
            (SourceField::ChangeId, Place::Changelog { change_id }) => Scalar::Number(*change_id),
            _ => Scalar::Null,
        }
    }

    pub(super) fn json(&self, origin: &Origin, out: &mut Vec<u8>) {
        for part in &self.json {
            out.extend_from_slice(&part.before);
            json::scalar(&self.field(part.field, origin), out);
        }
        out.extend_from_slice(&self.json_end);
    }

    pub(super) fn write(&self, origin: &Origin, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        write_long(out, origin.ts_us.div_euclid(1000));
        // `snapshot` is a union with the text first, since it has a default.
        write_long(out, 0);
        write_bytes(out, snapshot_word(origin.snapshot).as_bytes());
        out.extend_from_slice(&self.database);
        write_sequence(&origin.place, out);
        for time in [origin.ts_us, origin.ts_us.saturating_mul(1000)] {
            write_long(out, 1);
            write_long(out, time);
        }
        out.extend_from_slice(&self.table);
        match (self.kind, &origin.place) {
            (SourceKind::Postgres, Place::Postgres { xid, lsn, .. }) => {
                write_optional(xid.map(|xid| xid as i64), out);
                write_optional(Some(*lsn as i64), out);
                // xmin, origin, origin_lsn.
                out.extend_from_slice(&[0; 3]);
            }
            (SourceKind::Postgres, Place::Changelog { .. }) => out.extend_from_slice(&[0; 5]),
            (SourceKind::Changelog, Place::Changelog { change_id }) => write_optional(Some(*change_id), out),
            (SourceKind::Changelog, Place::Postgres { .. }) => write_optional(None, out),
        }
    }
}

impl Fixed {
    fn text(&self, field: SourceField, kind: SourceKind) -> Option<&str> {
        match field {
            SourceField::Version => Some(env!("CARGO_PKG_VERSION")),
            SourceField::Connector => Some(kind.connector()),
            SourceField::Name => Some(&self.name),
            SourceField::Db => Some(&self.database),
            SourceField::Schema => Some(&self.schema),
            SourceField::Table => Some(&self.table),
            _ => None,
        }
    }
}

/// The block's text in pieces: what is fixed is written beforehand.
fn json_parts(fixed: &Fixed, kind: SourceKind) -> (Vec<JsonPart>, Box<[u8]>) {
    let (mut parts, mut text) = (vec![], b"{".to_vec());
    for (at, field) in SourceField::of(kind).enumerate() {
        if at > 0 {
            text.push(b',');
        }
        text.extend_from_slice(&json::label(field.name()));
        match fixed.text(field, kind) {
            Some(value) => json::string(value.as_bytes(), &mut text),
            None => parts.push(JsonPart { before: std::mem::take(&mut text).into(), field }),
        }
    }
    text.push(b'}');
    (parts, text.into())
}

/// The envelope's `transaction` block: one id for all events of a transaction.
pub(super) fn write_transaction(place: &Place, commit: u64, out: &mut Vec<u8>) {
    match place {
        Place::Postgres { xid: Some(xid), order: Some(order), .. } => {
            write_long(out, 1);
            write_bytes(out, format!("{xid}:{commit}").as_bytes());
            write_long(out, order.total as i64);
            write_long(out, order.in_table as i64);
        }
        _ => write_long(out, 0),
    }
}

pub(super) fn transaction_json(place: &Place, commit: u64, out: &mut Vec<u8>) {
    // Writing into a vector does not fail.
    let _ = match place {
        Place::Postgres { xid: Some(xid), order: Some(order), .. } => {
            let (total, in_table) = (order.total, order.in_table);
            write!(out, r#"{{"id":"{xid}:{commit}","total_order":{total},"data_collection_order":{in_table}}}"#)
        }
        _ => write!(out, "null"),
    };
}

fn write_optional(value: Option<i64>, out: &mut Vec<u8>) {
    match value {
        None => write_long(out, 0),
        Some(value) => {
            write_long(out, 1);
            write_long(out, value);
        }
    }
}

/// Debezium's words.
fn snapshot_word(mark: SnapshotMark) -> &'static str {
    match mark {
        SnapshotMark::Streamed => "false",
        SnapshotMark::First => "first",
        SnapshotMark::FirstInTable => "first_in_data_collection",
        SnapshotMark::Inside => "true",
        SnapshotMark::LastInTable => "last_in_data_collection",
        SnapshotMark::Last => "last",
    }
}

fn write_sequence(place: &Place, out: &mut Vec<u8>) {
    write_long(out, 1);
    // Two numbers of at most 20 digits and what is around them: the length is one byte, which is known at the end.
    let start = out.len();
    out.push(0);
    sequence(place, out);
    let length = out.len() - start - 1;
    if let Some(byte) = out.get_mut(start) {
        *byte = (length << 1) as u8;
    }
}

/// `["last commit","this"]` or `[null,"this"]`, numbers in decimal.
fn sequence(place: &Place, out: &mut Vec<u8>) {
    let mut number = itoa::Buffer::new();
    match place {
        Place::Postgres { lsn, last_commit_lsn, .. } => {
            match last_commit_lsn {
                None => out.extend_from_slice(b"[null,\""),
                Some(last) => {
                    out.extend_from_slice(b"[\"");
                    out.extend_from_slice(number.format(*last).as_bytes());
                    out.extend_from_slice(b"\",\"");
                }
            }
            out.extend_from_slice(number.format(*lsn).as_bytes());
        }
        Place::Changelog { change_id } => {
            out.extend_from_slice(b"[null,\"");
            out.extend_from_slice(number.format(*change_id).as_bytes());
        }
    }
    out.extend_from_slice(b"\"]");
}
