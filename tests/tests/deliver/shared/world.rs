//! A topic of two partitions, filled with numbered records, and those who read it together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use guitong_deliver::{Counted, SharedReads};
use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_log::kafka::{KafkaLog, KafkaOptions};
use guitong_log::{
    Batch, ExchangeLog, LogError, LogReader, NewRecord, OwnedLog, OwnerId, ReadBudget, Retention, Role, TopicPartition, TopicSpec,
};
use guitong_schemas::contract::KafkaConfig;
use guitong_tests::log_conformance::noise;
use tempfile::TempDir;

use crate::topics::{broker, cluster};
use crate::watched::{Watched, counted};

pub(crate) const KEEP: Retention = Retention::Expire { age: None, bytes: None };
pub(crate) const SMALL: ReadBudget = ReadBudget { bytes: 64 << 10, wait: Duration::from_secs(1) };
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn embedded(dir: &TempDir) -> Arc<EmbeddedLog> {
    let config = EmbeddedConfig { path: dir.path().join(format!("{}.log", unique())), max_bytes: None };
    Arc::new(EmbeddedLog::open(&config).await.unwrap())
}

/// An exchange of its own on the broker of all tests.
pub(crate) async fn kafka(dir: &TempDir) -> Arc<KafkaLog> {
    let exchange = format!("shared-{}", unique());
    let config = KafkaConfig { cluster: cluster(&broker().await), state_path: dir.path().join(&exchange) };
    let metrics = guitong_log::metrics::Metrics::new().unwrap();
    let roles = vec![Role::Normalise, Role::Deliver];
    let options = KafkaOptions { exchange, config, roles, patience: Duration::from_secs(30), metrics };
    Arc::new(KafkaLog::open(options).await.unwrap())
}

fn unique() -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

pub(crate) struct World {
    pub(crate) watched: Arc<Watched>,
    pub(crate) log: Arc<dyn ExchangeLog>,
    pub(crate) reads: SharedReads,
    pub(crate) topic: Arc<str>,
    pub(crate) written: u64,
    hold: Box<dyn OwnedLog>,
    pub(crate) dir: TempDir,
    kafka: Option<Arc<KafkaLog>>,
}

impl World {
    pub(crate) async fn embedded() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = embedded(&dir).await;
        Self::of(dir, log, None, KEEP).await
    }

    pub(crate) async fn kept_for(retention: Retention) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = embedded(&dir).await;
        Self::of(dir, log, None, retention).await
    }

    pub(crate) async fn kafka() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = kafka(&dir).await;
        Self::of(dir, Arc::clone(&log) as Arc<dyn ExchangeLog>, Some(log), KEEP).await
    }

    async fn of(dir: TempDir, log: Arc<dyn ExchangeLog>, kafka: Option<Arc<KafkaLog>>, retention: Retention) -> Self {
        let topic: Arc<str> = format!("std.shared-{}", unique()).into();
        let hold = Self::made(&*log, &topic, retention).await;
        let watched = Arc::new(Watched::new(log));
        let log = Arc::clone(&watched) as Arc<dyn ExchangeLog>;
        Self { watched, log, reads: SharedReads::default(), topic, written: 0, hold, dir, kafka }
    }

    async fn made(log: &dyn ExchangeLog, topic: &Arc<str>, retention: Retention) -> Box<dyn OwnedLog> {
        log.ensure_topic(&TopicSpec { name: Arc::clone(topic), partitions: 2, retention }).await.unwrap();
        log.open(&OwnerId::new(Role::Normalise, "shared")).await.unwrap()
    }

    /// Goes on with an empty topic of the same name.
    pub(crate) async fn make_anew(&mut self) {
        let log = embedded(&self.dir).await;
        self.hold = Self::made(&*log, &self.topic, KEEP).await;
        self.watched.replace(log);
        self.written = 0;
    }

    pub(crate) fn at(&self, partition: u32) -> TopicPartition {
        TopicPartition::new(Arc::clone(&self.topic), partition)
    }

    /// Record `n` is in partition `n % 2` and says its number.
    pub(crate) async fn append(&mut self, count: u64, size: usize) {
        let numbers = self.written..self.written + count;
        self.append_all(numbers.map(|n| self.record((n % 2) as u32, n, size)).collect()).await;
        self.written += count;
    }

    pub(crate) async fn append_to(&mut self, partition: u32, count: u64, size: usize) {
        let numbers = self.written..self.written + count;
        self.append_all(numbers.map(|n| self.record(partition, n, size)).collect()).await;
        self.written += count;
    }

    fn record(&self, partition: u32, n: u64, size: usize) -> NewRecord {
        NewRecord {
            topic: Arc::clone(&self.topic),
            partition: Some(partition),
            key: Some(Bytes::from(n.to_string())),
            value: Some([&n.to_be_bytes()[..], &noise(n, size)].concat().into()),
            headers: vec![("n".into(), Bytes::from(n.to_string()))],
            timestamp_ms: 0,
        }
    }

    pub(crate) async fn append_all(&mut self, records: Vec<NewRecord>) {
        self.hold.append(Batch { records, ..Batch::default() }).await.unwrap();
    }

    pub(crate) async fn begin(&self, from: [u64; 2]) -> Result<Reading, LogError> {
        let counted = counted();
        let from = [0, 1].map(|partition| (self.at(partition), from[partition as usize]));
        let reader = self.reads.reader(&self.log, from.into(), counted.clone()).await?;
        Ok(Reading { reader, counted, seen: [Vec::new(), Vec::new()], next: [0, 0] })
    }

    /// Several that begin where the topic begins.
    pub(crate) async fn begin_many(&self, count: usize) -> Vec<Reading> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(self.begin([0, 0]).await.unwrap());
        }
        all
    }

    /// All of them read at once until they have everything.
    pub(crate) async fn all_read(&self, all: &mut [Reading]) {
        let reading = all.iter_mut().map(|reading| reading.up_to(self.written, SMALL));
        futures::future::join_all(reading).await;
    }

    pub(crate) async fn close(self) {
        if let Some(kafka) = self.kafka {
            kafka.close().await;
        }
    }
}

/// One who reads, and what it got.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) reader: Box<dyn LogReader>,
    pub(crate) counted: Counted,
    /// Numbers by partition.
    pub(crate) seen: [Vec<u64>; 2],
    pub(crate) next: [u64; 2],
}

impl Reading {
    /// Reads once; gives how much came.
    pub(crate) async fn read(&mut self, budget: ReadBudget) -> Result<usize, LogError> {
        let batch = self.reader.read(budget).await?;
        let bytes: usize = batch.records.iter().map(guitong_log::Record::size).sum();
        assert!(batch.records.len() == 1 || bytes <= budget.bytes, "{bytes} bytes with a budget of {}", budget.bytes);
        for record in &batch.records {
            let n = u64::from_be_bytes(record.value.as_ref().unwrap()[..8].try_into().unwrap());
            let partition = record.at.partition as usize;
            assert!(record.offset >= self.next[partition], "offset {} came after {}", record.offset, self.next[partition]);
            self.next[partition] = record.offset + 1;
            self.seen[partition].push(n);
        }
        for (at, next) in &batch.next {
            let known = &mut self.next[at.partition as usize];
            assert!(next >= known, "{at}: from {known} back to {next}");
            *known = *next;
        }
        Ok(batch.records.len())
    }

    /// Reads until it has every number below `end`, each once and in order.
    pub(crate) async fn up_to(&mut self, end: u64, budget: ReadBudget) {
        let mut wait = budget.wait;
        let reading = async {
            while (self.seen[0].len() + self.seen[1].len()) < end as usize {
                let came = self.read(ReadBudget { wait, ..budget }).await.unwrap();
                // As who reads much does, which waits only where nothing came.
                wait = if came == 0 { Duration::from_secs(1) } else { budget.wait };
            }
        };
        let ended = tokio::time::timeout(PATIENCE, reading).await;
        assert!(ended.is_ok(), "{} and {} of {end} came", self.seen[0].len(), self.seen[1].len());
        for (partition, seen) in (0..).zip(&self.seen) {
            assert_eq!(*seen, (0..end).filter(|n| n % 2 == partition).collect::<Vec<_>>(), "of partition {partition}");
        }
    }
}
