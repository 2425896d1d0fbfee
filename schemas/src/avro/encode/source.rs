//! The envelope's `source` block, with everything that is the same for every change of a table written beforehand.

use super::super::schema::{SourceKind, TableContext};
use super::super::varint::{write_bytes, write_long};
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
        Self {
            head: texts(&[env!("CARGO_PKG_VERSION"), context.kind.connector(), context.name]),
            database: texts(&[context.database]),
            table: texts(&[&table.name.schema, &table.name.name]),
            kind: context.kind,
        }
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

/// `["last commit","this"]` or `[null,"this"]`, numbers in decimal.
fn write_sequence(place: &Place, out: &mut Vec<u8>) {
    write_long(out, 1);
    // Two numbers of at most 20 digits and what is around them: the length is one byte, which is known at the end.
    let start = out.len();
    out.push(0);
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
    let length = out.len() - start - 1;
    if let Some(byte) = out.get_mut(start) {
        *byte = (length << 1) as u8;
    }
}
