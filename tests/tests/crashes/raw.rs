//! What a raw topic holds, read with another Avro library than the node's own.

use std::sync::Arc;

use bytes::Bytes;
use guitong_log::TopicPartition;
use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_log::registry::{BuiltinRegistry, SchemaRegistry};
use guitong_schemas::position::Version;
use guitong_tests::conformance::Decoder;
use guitong_tests::everything;
use guitong_tests::exchange::Exchange;
use serde_json::Value;

/// One record, decoded.
#[derive(Debug)]
pub(crate) struct Raw {
    /// Null in a truncate that is one event, as in a topic whose rows are not whole.
    pub(crate) key: Value,
    /// `None`: a tombstone.
    pub(crate) value: Option<Value>,
    pub(crate) version: Version,
    /// Fields that the server did not send.
    pub(crate) absent: Vec<String>,
    /// The other half of a key change is beside it.
    pub(crate) moves: bool,
}

/// A record as it lies in a log: key, value and headers.
pub(crate) type Stored = (Option<Bytes>, Option<Bytes>, Vec<(String, Bytes)>);

pub(crate) async fn decode(registry: Arc<dyn SchemaRegistry>, records: Vec<Stored>) -> Vec<Raw> {
    let (mut decoder, mut schemas, mut raw) = (Decoder::new(registry), Vec::new(), Vec::new());
    for (key, value, headers) in records {
        let header = |wanted: &str| {
            let found = headers.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| String::from_utf8(value.to_vec()).unwrap())
        };
        let mut parts = Vec::new();
        for bytes in [key, value] {
            parts.push(match bytes {
                Some(bytes) => Some(decoder.read(&bytes, &mut schemas).await.unwrap().1),
                None => None,
            });
        }
        let value = parts.pop().flatten();
        raw.push(Raw {
            key: parts.pop().flatten().unwrap_or_default(),
            value,
            version: header("guitong-version").unwrap().parse().unwrap(),
            absent: header("guitong-absent").map_or_else(Vec::new, |names| names.lines().map(str::to_owned).collect()),
            moves: header("__debezium.newkey").or_else(|| header("__debezium.oldkey")).is_some(),
        });
    }
    raw
}

/// What a table's raw topic holds in the embedded log of a node that does not run.
pub(crate) async fn embedded(exchange: &Exchange, table: &str) -> Vec<Raw> {
    let config = EmbeddedConfig { path: exchange.path().join("data/exchange.db"), max_bytes: None };
    let log = EmbeddedLog::open(&config).await.unwrap();
    let registry = BuiltinRegistry::open(&log).await.unwrap();
    let records = everything(&log, &TopicPartition::new(format!("raw.licensing.public.{table}"), 0)).await;
    let headers = |headers: guitong_log::Headers| headers.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
    let stored = records.into_iter().map(|record| (record.key, record.value, headers(record.headers)));
    let raw = decode(Arc::new(registry), stored.collect()).await;
    log.close().await;
    raw
}

/// Nothing is there twice: versions rise from record to record, but for a tombstone, which has its delete's.
pub(crate) fn assert_once(raw: &[Raw]) {
    for pair in raw.windows(2) {
        let [one, next] = pair else { continue };
        let is_its_tombstone =
            next.value.is_none() && (&one.key, one.version) == (&next.key, next.version) && one.value.is_some();
        assert!(
            one.version < next.version || is_its_tombstone,
            "{} {} is followed by {} {}",
            one.key,
            one.version,
            next.key,
            next.version
        );
    }
}
