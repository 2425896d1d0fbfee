//! Records of the `std.` and `quarantine.` topics: keys, values and headers.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use guitong_log::{Headers, NewRecord};
use guitong_schemas::position::Version;

use crate::claims::{Emission, Published};
use crate::transform::SHARED_KEY;

/// Bytes that the header texts of a batch are cut from at a time.
const ARENA: usize = 64 << 10;

/// What stands in every record of one resource.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pub(crate) topic: Arc<str>,
    pub(crate) system: String,
    /// `/guitong/<exchange>/<system>`
    pub(crate) ce_source: Bytes,
    /// `<system>/<schema>.<table>`
    pub(crate) origin: Bytes,
    /// `cn.guitong.<Entity>.upsert` and `.delete`
    pub(crate) ce_types: [Bytes; 2],
    /// Field that a shared key is reported for, the first of the key; `None` where that rule is off.
    pub(crate) key_field: Option<String>,
    pub(crate) key_schema: u32,
    pub(crate) value_schema: u32,
    headers: HeaderNames,
}

#[derive(Debug, Clone)]
struct HeaderNames {
    spec: Arc<str>,
    id: Arc<str>,
    source: Arc<str>,
    kind: Arc<str>,
    time: Arc<str>,
    subject: Arc<str>,
    version: Arc<str>,
    op: Arc<str>,
    origin: Arc<str>,
    quality: Arc<str>,
    unchanged: Arc<str>,
    source_ts: Arc<str>,
}

impl HeaderNames {
    fn new() -> Self {
        Self {
            spec: "ce_specversion".into(),
            id: "ce_id".into(),
            source: "ce_source".into(),
            kind: "ce_type".into(),
            time: "ce_time".into(),
            subject: "ce_subject".into(),
            version: "guitong-version".into(),
            op: "guitong-op".into(),
            origin: "guitong-origin".into(),
            quality: "guitong-quality".into(),
            unchanged: "guitong-unchanged".into(),
            source_ts: "guitong-source-ts".into(),
        }
    }
}

impl Names {
    pub(crate) fn new(
        exchange: &str,
        resource: &guitong_schemas::contract::Resource,
        key_field: Option<&str>,
        (key_schema, value_schema): (u32, u32),
    ) -> Self {
        let system = resource.system.to_string();
        let kind = |op: &str| Bytes::from(format!("cn.guitong.{}.{op}", resource.entity));
        Self {
            topic: format!("std.{}", resource.name).into(),
            ce_source: Bytes::from(format!("/guitong/{exchange}/{system}")),
            origin: Bytes::from(format!("{system}/{}", resource.table)),
            ce_types: [kind("upsert"), kind("delete")],
            key_field: key_field.map(str::to_owned),
            key_schema,
            value_schema,
            headers: HeaderNames::new(),
            system,
        }
    }
}

/// The event whose effects are written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cause {
    /// Version under which its records are published.
    pub(crate) stamp: Version,
    /// Commit time at the source, microseconds since 1970-01-01T00:00:00Z.
    pub(crate) source_ts_us: i64,
    pub(crate) timestamp_ms: i64,
}

/// Makes the records of one batch.
#[derive(Debug)]
pub(crate) struct Output {
    names: Arc<Names>,
    arena: BytesMut,
}

impl Output {
    pub(crate) fn new(names: Arc<Names>) -> Self {
        Self { names, arena: BytesMut::with_capacity(ARENA) }
    }

    /// The `n`-th record that `cause` gives.
    pub(crate) fn record(&mut self, cause: Cause, n: usize, emission: Emission) -> NewRecord {
        let Emission { key, change } = emission;
        let names = Arc::clone(&self.names);
        let header = &names.headers;
        let source_ts_us = match &change {
            Published::Upsert { source_ts_us, .. } => *source_ts_us,
            Published::Delete => cause.source_ts_us,
        };
        let (kind, op) = match &change {
            Published::Upsert { .. } => (&names.ce_types[0], "upsert"),
            Published::Delete => (&names.ce_types[1], "delete"),
        };
        let version = self.text(|out| write!(out, "{}", cause.stamp));
        let mut headers: Headers = Vec::with_capacity(12);
        let mut put = |name: &Arc<str>, value: Bytes| headers.push((Arc::clone(name), value));
        put(&header.spec, Bytes::from_static(b"1.0"));
        put(&header.id, self.text(|out| write!(out, "{}/{}/{n}", names.system, cause.stamp)));
        put(&header.source, names.ce_source.clone());
        put(&header.kind, kind.clone());
        put(&header.time, self.text(|out| write_time(out, source_ts_us)));
        put(&header.subject, self.text(|out| write_subject(out, &key)));
        put(&header.version, version);
        put(&header.op, Bytes::from_static(op.as_bytes()));
        put(&header.origin, names.origin.clone());
        put(&header.source_ts, self.text(|out| write!(out, "{source_ts_us}")));
        let value = match change {
            Published::Delete => None,
            Published::Upsert { record, quality, shared, unchanged, .. } => {
                let quality = match &names.key_field {
                    Some(field) if shared => {
                        let comma = if quality.is_empty() { "" } else { "," };
                        let marks = String::from_utf8_lossy(&quality);
                        self.text(|out| write!(out, "{marks}{comma}{field}:{SHARED_KEY}"))
                    }
                    _ => quality,
                };
                if unchanged {
                    headers.push((Arc::clone(&header.unchanged), Bytes::from_static(b"true")));
                }
                if !quality.is_empty() {
                    headers.push((Arc::clone(&header.quality), quality));
                }
                Some(record)
            }
        };
        let key = self.framed(names.key_schema, &key);
        NewRecord {
            topic: Arc::clone(&names.topic),
            partition: None,
            key: Some(key),
            value,
            headers,
            timestamp_ms: cause.timestamp_ms,
        }
    }

    fn text(&mut self, write: impl FnOnce(&mut BytesMut) -> std::fmt::Result) -> Bytes {
        // Writing to memory does not fail; a formatter's own error leaves what it wrote.
        let _ = write(&mut self.arena);
        let text = self.arena.split().freeze();
        if self.arena.capacity() < 256 {
            self.arena = BytesMut::with_capacity(ARENA);
        }
        text
    }

    fn framed(&mut self, schema: u32, body: &[u8]) -> Bytes {
        self.arena.put_u8(0);
        self.arena.put_u32(schema);
        self.arena.put_slice(body);
        self.arena.split().freeze()
    }
}

fn write_time(out: &mut BytesMut, micros: i64) -> std::fmt::Result {
    match jiff::Timestamp::from_microsecond(micros) {
        Ok(time) => write!(out, "{time}"),
        Err(_) => write!(out, "{}", jiff::Timestamp::UNIX_EPOCH),
    }
}

/// Parts of an entity's key joined by `/`: a key record holds strings only.
fn write_subject(out: &mut BytesMut, key: &[u8]) -> std::fmt::Result {
    for (at, part) in key_parts(key).enumerate() {
        if at > 0 {
            out.put_u8(b'/');
        }
        out.put_slice(part);
    }
    Ok(())
}

/// The strings of an Avro record of strings; ends at the first that does not fit.
fn key_parts(mut key: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (mut length, mut shift) = (0_u64, 0_u32);
        loop {
            let (&byte, rest) = key.split_first()?;
            key = rest;
            length |= u64::from(byte & 0x7F).checked_shl(shift)?;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let length = usize::try_from(length >> 1).ok()?;
        let (part, rest) = key.split_at_checked(length)?;
        key = rest;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_join_the_parts_of_a_key() {
        let mut out = BytesMut::new();
        write_subject(&mut out, b"\x02a\x00\x06\xe6\xa1\x82").expect("memory");
        assert_eq!(&out[..], "a//桂".as_bytes());
        out.clear();
        write_subject(&mut out, b"\x02a\x40b").expect("memory");
        assert_eq!(&out[..], b"a");
    }
}
