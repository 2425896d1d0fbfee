//! The embedded log under the suite that every exchange log passes, and what only a file can do wrong.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests that cannot go on fails its test")]

mod disk;
mod file;
mod housekeeping;
mod opening;
mod running;
mod state;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_log::{Batch, ExchangeLog, NewRecord, OwnerId, ReadBudget, Record, Retention, Role, TopicPartition, TopicSpec};
use guitong_tests::log_conformance::{LogUnderTest, noise};
use tempfile::TempDir;

/// A log file in a directory of its own.
#[derive(Debug)]
struct Fixture {
    dir: TempDir,
    open: Mutex<Option<EmbeddedLog>>,
}

impl Fixture {
    fn fresh() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), open: Mutex::new(None) }
    }

    fn config(&self) -> EmbeddedConfig {
        EmbeddedConfig { path: self.dir.path().join("exchange.log"), max_bytes: None }
    }
}

#[async_trait]
impl LogUnderTest for Fixture {
    async fn open(&self) -> Arc<dyn ExchangeLog> {
        let log = EmbeddedLog::open(&self.config()).await.unwrap();
        *self.open.lock().unwrap() = Some(log.clone());
        Arc::new(log)
    }

    async fn close(&self) {
        let open = self.open.lock().unwrap().take();
        if let Some(log) = open {
            log.close().await;
        }
    }

    fn topic(&self, name: &str) -> Arc<str> {
        name.into()
    }

    fn transactions(&self) -> u64 {
        self.open.lock().unwrap().as_ref().unwrap().metrics().transactions.get()
    }

    fn child(&self) -> String {
        self.config().path.to_str().unwrap().to_owned()
    }

    async fn open_in_child(path: &str) -> Arc<dyn ExchangeLog> {
        Arc::new(EmbeddedLog::open(&EmbeddedConfig { path: path.into(), max_bytes: None }).await.unwrap())
    }
}

/// A log in `dir`.
async fn open(dir: &TempDir) -> EmbeddedLog {
    EmbeddedLog::open(&config(dir)).await.unwrap()
}

fn config(dir: &TempDir) -> EmbeddedConfig {
    EmbeddedConfig { path: dir.path().join("exchange.log"), max_bytes: None }
}

fn owner(name: &str) -> OwnerId {
    OwnerId::new(Role::Connect, name)
}

fn spec(retention: Retention) -> TopicSpec {
    TopicSpec { name: "t".into(), partitions: 1, retention }
}

const KEEP: Retention = Retention::Expire { age: None, bytes: None };

fn at() -> TopicPartition {
    TopicPartition::new("t", 0)
}

fn record(key: &str, value: Vec<u8>, timestamp_ms: i64) -> NewRecord {
    NewRecord {
        topic: "t".into(),
        partition: None,
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: Some(value.into()),
        headers: Vec::new(),
        timestamp_ms,
    }
}

/// A batch of one record that also says its number as the position.
fn numbered(n: u64, size: usize) -> Batch {
    let mut value = n.to_be_bytes().to_vec();
    value.extend(noise(n, size.saturating_sub(8)));
    Batch { records: vec![record("k", value, 0)], position: Some(n.to_string().into()), ..Batch::default() }
}

fn number(record: &Record) -> u64 {
    u64::from_be_bytes(record.value.as_ref().unwrap()[..8].try_into().unwrap())
}

/// All records of topic `t`.
async fn all(log: &EmbeddedLog) -> Vec<Record> {
    let bounds = log.bounds(&at()).await.unwrap();
    let mut reader = log.reader(vec![(at(), bounds.earliest)]).await.unwrap();
    let budget = ReadBudget { bytes: 4 << 20, wait: Duration::from_secs(10) };
    let (mut next, mut records) = (bounds.earliest, Vec::new());
    while next < bounds.end {
        let batch = reader.read(budget).await.unwrap();
        next = batch.next.last().unwrap().1;
        records.extend(batch.records);
    }
    records
}

guitong_tests::log_conformance!(Fixture, Fixture::fresh());
