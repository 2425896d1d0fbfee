//! The keys that a compacted raw topic holds, read from the topic itself: what a truncate has to delete.
//!
//! Truncates are rare, and the deletes that one comes to cost more than the reading; to know the keys at any time would cost an entry of
//! keyed state for every row. Memory is bounded: where the keys are too many for one reading, each takes a range of their hashes.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use guitong_log::registry::SchemaRegistry;
use guitong_log::{ExchangeLog, Record, Span, TopicPartition};
use guitong_schemas::avro::form::DELETED;
use guitong_schemas::avro::{DecodePlan, Value, frame};
use guitong_schemas::change::Operation;
use serde::Deserialize;
use serde_json::Value as Json;

use super::PublishError;

/// Bytes of keys that one reading holds.
const HELD: usize = 16 << 20;
/// What a key in the set costs beside its bytes.
const OVERHEAD: usize = 64;
/// Bytes of one read.
const READ: usize = 1 << 20;

pub(super) struct HeldKeys {
    log: Arc<dyn ExchangeLog>,
    at: TopicPartition,
    /// Where deletes leave no tombstones: tells them by their events.
    deletes: Option<Deletes>,
    limit: usize,
    /// Lowest hash that is still to be read; `None` when all were.
    from: Option<u64>,
}

impl HeldKeys {
    /// `registry` is given where deletes leave no tombstones.
    pub(super) fn new(log: Arc<dyn ExchangeLog>, topic: Arc<str>, registry: Option<Arc<dyn SchemaRegistry>>) -> Self {
        let deletes = registry.map(|registry| Deletes { registry, plans: HashMap::new() });
        Self { log, at: TopicPartition::new(topic, 0), deletes, limit: HELD, from: Some(0) }
    }

    /// The next keys, framed as the topic has them; `None` after the last ones.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Bytes>>, PublishError> {
        let Some(from) = self.from else { return Ok(None) };
        let mut range = Range { from, last: u64::MAX, keys: HashSet::new(), bytes: 0, limit: self.limit };
        let end = self.log.written(&self.at).await?;
        let earliest = self.log.bounds(&self.at).await?.earliest;
        let mut span = Span::open(&*self.log, self.at.clone(), earliest, end).await?;
        while let Some(records) = span.read(READ).await? {
            for record in &records {
                let Some(key) = &record.key else { continue };
                if record.value.is_none() || self.is_delete(record).await? {
                    range.remove(key);
                } else {
                    range.insert(key);
                }
            }
        }
        self.from = range.last.checked_add(1);
        Ok(Some(range.keys.into_iter().collect()))
    }

    async fn is_delete(&mut self, record: &Record) -> Result<bool, PublishError> {
        match (&mut self.deletes, &record.value) {
            (Some(deletes), Some(value)) => deletes.is_one(value).await,
            _ => Ok(false),
        }
    }
}

/// Keys of one range of hashes.
struct Range {
    from: u64,
    last: u64,
    keys: HashSet<Bytes>,
    bytes: usize,
    limit: usize,
}

impl Range {
    fn has(&self, key: &Bytes) -> bool {
        (self.from..=self.last).contains(&hash(key))
    }

    fn insert(&mut self, key: &Bytes) {
        if !self.has(key) || self.keys.contains(key) {
            return;
        }
        // A copy of its own: the record's bytes are a part of a block of many.
        self.keys.insert(Bytes::copy_from_slice(key));
        self.bytes += key.len() + OVERHEAD;
        while self.bytes > self.limit && self.last > self.from {
            self.last = self.from + (self.last - self.from) / 2;
            let (from, last) = (self.from, self.last);
            self.keys.retain(|key| (from..=last).contains(&hash(key)));
            self.bytes = self.keys.iter().map(|key| key.len() + OVERHEAD).sum();
        }
    }

    fn remove(&mut self, key: &Bytes) {
        if self.keys.remove(key) {
            self.bytes -= key.len() + OVERHEAD;
        }
    }
}

fn hash(key: &Bytes) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// Tells deletes by their events, whichever form they have: the system's options may have been others when an event was written.
struct Deletes {
    registry: Arc<dyn SchemaRegistry>,
    plans: HashMap<u32, DecodePlan>,
}

/// What of an event in JSON tells whether it is a delete: a row alone has `__deleted`, and may have any column beside it.
#[derive(Deserialize)]
struct Told {
    #[serde(rename = "__deleted")]
    deleted: Option<Json>,
    op: Option<Json>,
}

fn is_json_delete(value: &[u8]) -> Result<bool, PublishError> {
    let Told { deleted, op } = serde_json::from_slice(value).map_err(|_| DAMAGED)?;
    Ok(deleted.map_or_else(|| op == Some(Json::from("d")), |deleted| deleted == "true"))
}

const DAMAGED: PublishError = PublishError::State("an event of the topic does not read");

impl Deletes {
    async fn is_one(&mut self, value: &Bytes) -> Result<bool, PublishError> {
        let Ok((id, avro)) = frame::read(value) else { return is_json_delete(value) };
        if !self.plans.contains_key(&id) {
            let plan = DecodePlan::compile(&self.registry.schema(id).await?).map_err(|_| DAMAGED)?;
            self.plans.insert(id, plan);
        }
        let plan = self.plans.get(&id).ok_or(DAMAGED)?;
        if plan.is_envelope() {
            return plan.envelope(avro).map(|envelope| envelope.operation == Operation::Delete).map_err(|_| DAMAGED);
        }
        let Some(deleted) = plan.field(DELETED) else { return Ok(false) };
        let row = plan.record(avro).map_err(|_| DAMAGED)?;
        Ok(row.get(deleted) == Some(&Value::Text("true")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_hashes_hold_every_key_once_within_the_limit() {
        let keys: Vec<Bytes> = (0..1_000u32).map(|number| Bytes::copy_from_slice(&number.to_be_bytes())).collect();
        let (mut found, mut from, mut readings) = (Vec::new(), Some(0), 0);
        while let Some(start) = from {
            let mut range = Range { from: start, last: u64::MAX, keys: HashSet::new(), bytes: 0, limit: 100 * (4 + OVERHEAD) };
            for key in &keys {
                range.insert(key);
                range.insert(key);
                assert!(range.bytes <= range.limit);
            }
            keys.iter().step_by(2).for_each(|key| range.remove(key));
            assert_eq!(range.bytes, range.keys.len() * (4 + OVERHEAD));
            found.extend(range.keys);
            (from, readings) = (range.last.checked_add(1), readings + 1);
        }
        found.sort();
        assert_eq!(found, keys.iter().skip(1).step_by(2).cloned().collect::<Vec<_>>());
        assert!(readings >= 10, "{readings} readings");
    }
}
