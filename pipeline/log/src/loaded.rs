//! Which tables of a system are read to their end: a topic that the system's connector writes, so that whoever joins tables knows
//! when it may begin. A table is told in the commit of its last rows or after it, and again at every start of the connector.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::contract::{ExchangeLog, LogError, NewRecord, Retention, TopicPartition, TopicSpec};
use crate::span::Span;

/// What the names of these topics begin with; no system's own topics do.
pub const PREFIX: &str = "loaded";

/// Bytes that one read gives.
const READ: usize = 64 << 10;
/// Tables told more than once are kept once after this long.
const COMPACT: Duration = Duration::from_secs(86_400);

fn topic(system: &str) -> Arc<str> {
    format!("{PREFIX}.{system}").into()
}

/// The system's topic.
#[must_use]
pub fn spec(system: &str) -> TopicSpec {
    TopicSpec { name: topic(system), partitions: 1, retention: Retention::Compact { after: COMPACT, tombstones: COMPACT } }
}

/// Says that a table, `schema.name`, is read to its end.
#[must_use]
pub fn record(system: &str, table: &str, timestamp_ms: i64) -> NewRecord {
    NewRecord {
        topic: topic(system),
        partition: Some(0),
        key: Some(Bytes::copy_from_slice(table.as_bytes())),
        value: Some(Bytes::from_static(b"1")),
        headers: Vec::new(),
        timestamp_ms,
    }
}

/// The tables, `schema.name`, that the system's connector has read to their end.
///
/// # Errors
/// [`LogError`] where the log cannot be read.
pub async fn tables(log: &dyn ExchangeLog, system: &str) -> Result<BTreeSet<String>, LogError> {
    let at = TopicPartition::new(topic(system), 0);
    let mut tables = BTreeSet::new();
    if log.partitions(&at.topic).await?.is_none() {
        return Ok(tables);
    }
    let bounds = log.bounds(&at).await?;
    let mut span = Span::open(log, at, bounds.earliest, bounds.end).await?;
    while let Some(records) = span.read(READ).await? {
        let keys = records.iter().filter_map(|record| record.key.as_deref());
        tables.extend(keys.filter_map(|key| std::str::from_utf8(key).ok()).map(str::to_owned));
    }
    Ok(tables)
}
