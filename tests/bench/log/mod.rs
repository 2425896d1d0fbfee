//! Both exchange logs, writing and reading records of 200 bytes, each beside the same bytes in its storage without what an exchange log
//! adds (owners, fencing, offsets, transactions across topics): plain SQLite, and plain librdkafka without transactions.

pub(crate) mod kafka;
mod sqlite;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_log::{Batch, ExchangeLog, NewRecord, OwnerId, ReadBudget, Retention, Role, TopicPartition, TopicSpec};

use crate::rounds::{Reference, Rounds, Verdict};
use crate::{Failure, Outcome, register};

const RECORDS: usize = 500_000;
const KEY: usize = 16;
/// Key and value together.
const RECORD: usize = 200;
/// Records of one transaction in SQLite, ours and the reference's.
const TRANSACTION: usize = 1000;
/// Records of one batch on Kafka: what a connector's 4 MiB hold of these, roughly.
const KAFKA_BATCH: usize = 20_000;
/// How often the records are written on Kafka: to connect is a part of each time there, and must be a small one.
const KAFKA_TIMES: usize = 4;
/// What the stages of the pipeline read at once.
const READ: ReadBudget = ReadBudget { bytes: 4 << 20, wait: Duration::from_secs(10) };

/// What the references were measured at with records of 200 bytes on an idle machine.
const SQLITE_WRITE: Reference = Reference { name: "SQLite, 100 rows a statement (reference)", measured: 182_000.0 };
const SQLITE_READ: Reference = Reference { name: "SQLite, SELECT (reference)", measured: 349_000.0 };
const KAFKA_WRITE: Reference = Reference { name: "librdkafka, idempotent (reference)", measured: 717_000.0 };
const KAFKA_READ: Reference = Reference { name: "librdkafka, poll (reference)", measured: 1_400_000.0 };
/// The same, compressed as the log compresses.
const KAFKA_WRITE_ALIKE: &str = "librdkafka, idempotent, lz4";
const KAFKA_READ_ALIKE: &str = "librdkafka, poll, lz4";

/// Keys and values, cut out of encoded register rows so that they compress as real ones do.
pub(super) struct Content {
    pub(super) records: Vec<(Bytes, Bytes)>,
}

impl Content {
    fn new() -> Result<Self, Failure> {
        let (_, values) = register::encoded(RECORDS as u32)?;
        let records = values.iter().enumerate().map(|(number, value)| {
            let key = Bytes::from(format!("{number:0KEY$}"));
            (key, value.slice(..value.len().min(RECORD - KEY)))
        });
        Ok(Self { records: records.collect() })
    }
}

pub(crate) async fn run(runs: usize, with_kafka: bool) -> Outcome {
    let content = Content::new()?;
    let mut verdict = embedded(&content, runs).await?;
    if with_kafka {
        verdict = verdict.and(kafka::compare(&content, runs).await?);
    }
    Ok(verdict)
}

async fn embedded(content: &Content, runs: usize) -> Outcome {
    let mut writing = Rounds::new("embedded log, 1,000 records a batch: write", "records");
    let mut reading = Rounds::new("embedded log: read", "records");
    for _ in 0..runs {
        let home = tempfile::tempdir()?;
        let log = EmbeddedLog::open(&EmbeddedConfig { path: home.path().join("log.db"), max_bytes: None }).await?;
        writing.add("embedded log", RECORDS as u64, write(&log, content, "bench", TRANSACTION, 1).await?);
        reading.add("embedded log", RECORDS as u64, read(&log, "bench", 1).await?);
        log.close().await;
        let (wrote, read) = sqlite::run(content, home.path()).await?;
        writing.add(SQLITE_WRITE.name, RECORDS as u64, wrote);
        reading.add(SQLITE_READ.name, RECORDS as u64, read);
    }
    Ok(writing.finish(SQLITE_WRITE, &[]).and(reading.finish(SQLITE_READ, &[])))
}

/// Appends everything `times` over, one batch after the other.
async fn write(log: &dyn ExchangeLog, content: &Content, name: &str, batch: usize, times: usize) -> Result<Duration, Failure> {
    let topic: Arc<str> = format!("raw.{name}").into();
    let retention = Retention::Expire { age: None, bytes: None };
    log.ensure_topic(&TopicSpec { name: Arc::clone(&topic), partitions: 1, retention }).await?;
    let mut owned = log.open(&OwnerId::new(Role::Connect, name)).await?;
    let begun = Instant::now();
    for chunk in std::iter::repeat_n(content.records.chunks(batch), times).flatten() {
        let records = chunk.iter().map(|(key, value)| NewRecord {
            topic: Arc::clone(&topic),
            partition: Some(0),
            key: Some(key.clone()),
            value: Some(value.clone()),
            headers: Vec::new(),
            timestamp_ms: 1_790_000_000_000,
        });
        let batch = Batch { records: records.collect(), ..Batch::default() };
        owned.append(batch).await?;
    }
    Ok(begun.elapsed())
}

async fn read(log: &dyn ExchangeLog, name: &str, times: usize) -> Result<Duration, Failure> {
    let begun = Instant::now();
    let mut reader = log.reader(vec![(TopicPartition::new(format!("raw.{name}"), 0), 0)]).await?;
    let mut seen = 0;
    while seen < RECORDS * times {
        let batch = reader.read(READ).await?;
        if batch.records.is_empty() {
            return Err(format!("{seen} records came of {}", RECORDS * times).into());
        }
        seen += std::hint::black_box(batch.records).len();
    }
    Ok(begun.elapsed())
}

fn finish(writing: Rounds, reading: Rounds) -> Verdict {
    writing.finish(KAFKA_WRITE, &[]).and(reading.finish(KAFKA_READ, &[]))
}
