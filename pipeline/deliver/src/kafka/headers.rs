//! Headers of records: a change's attributes as CloudEvents' Kafka binding names them (binary mode), and its holder's epoch.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use guitong_log::{Headers, Record};
use guitong_schemas::position::Version;

use crate::event::{Event, Identity, Origin};
use crate::sink::SinkPlan;
use crate::stand::{Held, StandState, There};

/// Sorts as versions do.
const SEQUENCE: &str = "ce_sequence";
const EPOCH: &str = "guitong-epoch";
const CONTENT_TYPE: &str = "content-type";

/// One change of a row.
#[derive(Debug)]
pub(super) struct Told<'t> {
    /// The record's key.
    pub(super) key: &'t [u8],
    pub(super) version: &'t [u8],
    /// When it happened at the source.
    pub(super) time_us: Option<i64>,
    /// What the value is; `None` where the row is gone.
    pub(super) content: Option<&'static str>,
    /// It was sent before, and is sent again since a person asked for it.
    pub(super) replayed: bool,
}

/// Makes the headers of a subscription's records.
#[derive(Debug)]
pub(super) struct Teller {
    origin: Origin,
    /// Names of headers, each made once.
    names: BTreeMap<&'static str, Arc<str>>,
}

impl Teller {
    pub(super) fn new(plan: &SinkPlan) -> Self {
        Self { origin: Origin::new(plan), names: BTreeMap::new() }
    }

    pub(super) fn headers(&mut self, told: &Told<'_>, stand: &StandState) -> Headers {
        let Told { key: row, version, time_us, content, replayed } = *told;
        let (origin, generation) = (&self.origin, stand.generation);
        let mut event = Event::bare(Identity { origin, generation, row, version, deleted: content.is_none() }, time_us);
        event.replayed = replayed;
        let attributes = event.attributes(origin);
        let mut name = |short: &'static str, prefix: &str| {
            Arc::clone(self.names.entry(short).or_insert_with(|| format!("{prefix}{short}").into()))
        };
        let mut headers: Headers =
            attributes.into_iter().map(|(short, value)| (name(short, "ce_"), Bytes::from(value))).collect();
        headers.extend(content.map(|content| (name(CONTENT_TYPE, ""), Bytes::from_static(content.as_bytes()))));
        headers.push((name(EPOCH, ""), Bytes::from(stand.epoch.to_string())));
        headers
    }
}

/// What a record says of its row; `None` where it is none of ours.
pub(super) fn held(record: &Record) -> Option<Held> {
    let mut version = [0; Version::LEN];
    hex::decode_to_slice(record.header(SEQUENCE)?, &mut version).ok()?;
    let epoch = std::str::from_utf8(record.header(EPOCH)?).ok()?.parse().ok()?;
    let gone = || There::Gone(record.timestamp_ms.saturating_mul(1_000));
    Some(Held { version, epoch, there: record.value.as_ref().map_or_else(gone, |_| There::Yes) })
}
