//! Short forms for what the checks write and read.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use guitong_log::{
    Batch, Bounds, ExchangeLog, LogError, NewRecord, OwnerId, ReadBudget, Record, Retention, Role, TopicPartition, TopicSpec,
};
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};

pub(crate) const BUDGET: ReadBudget = ReadBudget { bytes: 1 << 20, wait: Duration::from_secs(10) };
/// For reads that are to find nothing.
pub(crate) const BRIEF: ReadBudget = ReadBudget { bytes: 1 << 20, wait: Duration::from_millis(300) };

pub(crate) fn keep(name: &Arc<str>, partitions: u32) -> TopicSpec {
    TopicSpec { name: Arc::clone(name), partitions, retention: Retention::Expire { age: None, bytes: None } }
}

pub(crate) fn owner(name: &str) -> OwnerId {
    OwnerId::new(Role::Connect, name)
}

pub(crate) fn record(topic: &Arc<str>, key: &str, value: &str) -> NewRecord {
    NewRecord {
        topic: Arc::clone(topic),
        partition: None,
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: vec![("guitong-version".into(), Bytes::from_static(b"1/2/3/4/5"))],
        timestamp_ms: 1_700_000_000_000,
    }
}

/// Bytes that no log makes shorter.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

pub(crate) fn records(records: Vec<NewRecord>) -> Batch {
    Batch { records, ..Batch::default() }
}

pub(crate) fn text(bytes: Option<&Bytes>) -> String {
    bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).unwrap_or_default()
}

pub(crate) fn values(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| text(record.value.as_ref())).collect()
}

/// Everything that a partition holds now.
pub async fn everything(log: &dyn ExchangeLog, at: &TopicPartition) -> Vec<Record> {
    loop {
        match everything_from(log, at, log.bounds(at).await.unwrap()).await {
            Ok(all) => return all,
            // A log that lets records go by itself may do so between the two calls.
            Err(LogError::Gap { wanted, earliest, .. }) if wanted < earliest => {}
            Err(error) => panic!("{error}"),
        }
    }
}

async fn everything_from(log: &dyn ExchangeLog, at: &TopicPartition, bounds: Bounds) -> Result<Vec<Record>, LogError> {
    let mut reader = log.reader(vec![(at.clone(), bounds.earliest)]).await?;
    let (mut next, mut all) = (bounds.earliest, Vec::new());
    while next < bounds.end {
        let batch = reader.read(BUDGET).await?;
        assert!(!batch.next.is_empty(), "{at}: nothing came at offset {next}, but the end is {}", bounds.end);
        all.extend(batch.records);
        next = batch.next.iter().rev().find(|(of, _)| of == at).map_or(next, |(_, next)| *next);
    }
    Ok(all)
}
