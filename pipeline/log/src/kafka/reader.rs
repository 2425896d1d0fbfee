//! Committed records, in order within each partition.
//!
//! A consumer of librdkafka costs threads and connections, so readers share consumers: each reader has a queue of its own that
//! its partitions feed. Two readers of one partition stand at different offsets and therefore use different consumers. What
//! librdkafka fetches ahead is bounded per reader ([`AHEAD`]).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::client::{Cluster, REQUEST, Served};
use super::native::{Fetched, Laid, Queue};
use super::topics::Topics;
use crate::contract::{LogError, LogReader, ReadBatch, ReadBudget, Record, TopicPartition};

/// KiB that a reader's queue may hold before fetching pauses; one fetch more can come on top.
const AHEAD: &str = "4096";

/// Bytes of [`Pages`] that are read at once.
const PAGE: usize = 4 << 20;

/// How often a reader looks at partitions that it has just begun to fetch.
const SETTLING: Duration = Duration::from_millis(10);

/// Where reading of a partition begins.
#[derive(Debug, Clone)]
pub(crate) struct From {
    pub(crate) at: TopicPartition,
    pub(crate) next: u64,
    /// Where the partition ended then. Up to there a reader catches up.
    pub(crate) end: u64,
}

/// The consumers that readers share.
#[derive(Debug)]
pub(crate) struct Readers {
    cluster: Cluster,
    topics: Arc<Topics>,
    shared: Mutex<Vec<Arc<Shared>>>,
}

#[derive(Debug)]
struct Shared {
    served: Served,
    taken: Mutex<HashSet<TopicPartition>>,
}

impl Readers {
    pub(crate) fn new(cluster: Cluster, topics: Arc<Topics>) -> Self {
        Self { cluster, topics, shared: Mutex::default() }
    }

    /// A reader of `from`, whose offsets the caller has checked.
    pub(crate) fn reader(&self, from: Vec<From>) -> Result<KafkaReader, LogError> {
        let shared = self.place(&from)?;
        let next = from.iter().map(|from| from.next).collect();
        let ends = from.iter().map(|from| from.end).collect();
        let partitions: Vec<_> = from.into_iter().map(|from| from.at).collect();
        let release = Release { shared: Arc::clone(&shared), partitions: partitions.clone() };
        let consumer = &shared.served.consumer;
        let queue = Queue::new(consumer, partitions);
        let queue = queue.ok_or_else(|| LogError::Other("a topic's name or partition number cannot be read".to_owned()))?;
        Ok(KafkaReader {
            wake: queue.wake(),
            queue,
            next,
            ends,
            names: Vec::new(),
            cluster: self.cluster.clone(),
            topics: Arc::clone(&self.topics),
            faulted: None,
            started: false,
            release,
        })
    }

    /// What is committed between two offsets; `from.end` is one that the partition has reached, committed or not.
    pub(crate) fn pages(&self, from: From) -> Result<Pages, LogError> {
        let From { at, next, end } = from.clone();
        // A transaction that its holder left is aborted after its timeout; then the end can be reached.
        let limit = self.cluster.transaction_limit() * 2 + REQUEST;
        Ok(Pages { reader: self.reader(vec![from])?, at, next, end, limit })
    }

    /// A shared consumer that reads none of these partitions yet; they count as taken.
    fn place(&self, from: &[From]) -> Result<Arc<Shared>, LogError> {
        let mut all = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        for shared in all.iter() {
            let mut taken = shared.taken.lock().unwrap_or_else(PoisonError::into_inner);
            if from.iter().all(|from| !taken.contains(&from.at)) {
                taken.extend(from.iter().map(|from| from.at.clone()));
                return Ok(Arc::clone(shared));
            }
        }
        let served = self.cluster.consumer(&[
            ("isolation.level", "read_committed"),
            ("auto.offset.reset", "error"),
            ("enable.partition.eof", "true"),
            ("fetch.min.bytes", "1"),
            // A partition that is added while a fetch waits at the broker has to wait for it.
            ("fetch.wait.max.ms", "100"),
            ("fetch.queue.backoff.ms", "5"),
            ("fetch.error.backoff.ms", "50"),
            ("fetch.max.bytes", "8388608"),
            ("queued.min.messages", "20000"),
            ("queued.max.messages.kbytes", AHEAD),
        ])?;
        let taken = from.iter().map(|from| from.at.clone()).collect();
        let shared = Arc::new(Shared { served, taken: Mutex::new(taken) });
        all.push(Arc::clone(&shared));
        Ok(shared)
    }
}

fn number(at: &TopicPartition) -> i32 {
    i32::try_from(at.partition).unwrap_or(i32::MAX)
}

/// Gives a reader's partitions back when it goes.
#[derive(Debug)]
struct Release {
    shared: Arc<Shared>,
    partitions: Vec<TopicPartition>,
}

impl Drop for Release {
    fn drop(&mut self) {
        let mut list = TopicPartitionList::with_capacity(self.partitions.len());
        for at in &self.partitions {
            list.add_partition(&at.topic, number(at));
        }
        if let Err(error) = self.shared.served.consumer.incremental_unassign(&list) {
            tracing::debug!(%error, "partitions of a reader that ended before they were assigned");
        }
        let mut taken = self.shared.taken.lock().unwrap_or_else(PoisonError::into_inner);
        for at in &self.partitions {
            taken.remove(at);
        }
    }
}

/// Reads some partitions, each from its offset on.
#[derive(Debug)]
pub(crate) struct KafkaReader {
    queue: Queue,
    wake: Arc<tokio::sync::Notify>,
    /// Where each of the queue's partitions is to be read next.
    next: Vec<u64>,
    /// Where they ended when reading began.
    ends: Vec<u64>,
    names: Vec<Arc<str>>,
    cluster: Cluster,
    topics: Arc<Topics>,
    /// A fault that came after records; told once they are given.
    faulted: Option<(Option<usize>, RDKafkaErrorCode)>,
    /// Whether fetching has begun: with the first read, not to hold what may be gone by then.
    started: bool,
    /// After the queue, whose partitions it gives back.
    release: Release,
}

impl KafkaReader {
    fn start(&mut self) -> Result<(), LogError> {
        let mut list = TopicPartitionList::with_capacity(self.next.len());
        for (at, offset) in self.queue.partitions().iter().zip(&self.next) {
            list.add_partition_offset(&at.topic, number(at), Offset::Offset(i64::try_from(*offset).unwrap_or(i64::MAX)))
                .map_err(|error| self.cluster.error(&error))?;
        }
        let consumer = &self.release.shared.served.consumer;
        consumer.incremental_assign(&list).map_err(|error| self.cluster.error(&error))?;
        self.started = true;
        Ok(())
    }

    /// What is there, up to `bytes`.
    fn take(&mut self, bytes: usize) -> Result<Vec<Record>, LogError> {
        if let Some((partition, code)) = self.faulted.take() {
            self.fault(partition, code)?;
        }
        let (mut arena, mut laid) = (Vec::new(), Vec::<Laid>::new());
        let mut drained = false;
        loop {
            match self.queue.next() {
                None => {
                    drained = true;
                    break;
                }
                Some(Fetched::Record { partition, message }) => {
                    let Some(next) = self.next.get_mut(partition) else { continue };
                    // librdkafka goes back to an earlier batch after some faults; what was given is not given again.
                    if message.offset() < *next {
                        continue;
                    }
                    if !laid.is_empty() && arena.len() + message.size() > bytes {
                        self.queue.put_back(message);
                        break;
                    }
                    *next = message.offset() + 1;
                    laid.push(message.lay(partition, &mut arena, &mut self.names));
                }
                Some(Fetched::End { partition, offset }) => {
                    if let Some(next) = self.next.get_mut(partition) {
                        *next = offset.max(*next);
                    }
                }
                Some(Fetched::Failed { partition, code }) if laid.is_empty() => self.fault(partition, code)?,
                Some(Fetched::Failed { partition, code }) => {
                    self.faulted = Some((partition, code));
                    break;
                }
            }
        }
        if drained {
            for (next, position) in self.next.iter_mut().zip(self.queue.positions()) {
                *next = position.unwrap_or(0).max(*next);
            }
        }
        let partitions = self.queue.partitions();
        let arena = Bytes::from(arena);
        Ok(laid.into_iter().filter_map(|laid| partitions.get(laid.partition).map(|at| laid.record(at, &arena))).collect())
    }

    /// How far each partition came since it stood at `before`.
    fn moved(&self, before: &[u64]) -> Vec<(TopicPartition, u64)> {
        let all = self.queue.partitions().iter().zip(&self.next).zip(before);
        all.filter(|((_, now), before)| now != before).map(|((at, next), _)| (at.clone(), *next)).collect()
    }

    /// Whether a partition moved that had not reached yet where it ended when reading began.
    fn caught_up(&self, before: &[u64]) -> bool {
        self.next.iter().zip(&self.ends).zip(before).any(|((now, end), before)| before < end && now > before)
    }

    /// An error that the reader has to know of; librdkafka gets over the others by itself.
    fn fault(&self, partition: Option<usize>, code: RDKafkaErrorCode) -> Result<(), LogError> {
        let at = partition.and_then(|index| self.queue.partitions().get(index));
        match (code, at) {
            (RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::AutoOffsetReset, Some(at)) => {
                let wanted = partition.and_then(|index| self.next.get(index).copied()).unwrap_or(0);
                // The bounds are asked for by whoever reports this; a reader does not block.
                Err(LogError::Gap { at: at.clone(), wanted, earliest: 0, end: 0, of: None })
            }
            (RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition, Some(at)) => {
                Err(LogError::NoTopic { topic: Arc::clone(&at.topic) })
            }
            (code, _) if super::client::passes(code) => {
                tracing::debug!(%code, "fetching goes on once the brokers answer");
                Ok(())
            }
            (code, Some(at)) => Err(LogError::Other(format!("{at}: {code}"))),
            (code, None) => Err(LogError::Other(code.to_string())),
        }
    }
}

/// Fills in what a gap is outside of.
async fn explained(topics: Arc<Topics>, error: LogError) -> LogError {
    let LogError::Gap { at, wanted, of, .. } = error else { return error };
    match topics.bounds(at.clone()).await {
        Ok(bounds) => LogError::Gap { at, wanted, earliest: bounds.earliest, end: bounds.end, of },
        Err(error) => error,
    }
}

#[async_trait]
impl LogReader for KafkaReader {
    async fn read(&mut self, budget: ReadBudget) -> Result<ReadBatch, LogError> {
        let deadline = Instant::now() + budget.wait;
        if !self.started {
            self.start()?;
        }
        let before = self.next.clone();
        loop {
            let records = match self.take(budget.bytes) {
                Ok(records) => records,
                Err(error) => return Err(explained(Arc::clone(&self.topics), error).await),
            };
            // A partition can end with control and aborted records: whoever reads up to its end is told at once that it is reached.
            let now = Instant::now();
            if !records.is_empty() || now >= deadline || self.caught_up(&before) {
                return Ok(ReadBatch { records, next: self.moved(&before) });
            }
            // Until every partition gave something, what comes may still lie where it wakes nobody.
            let until = if self.queue.is_settled() { deadline } else { deadline.min(now + SETTLING) };
            // Either way the queue is looked at.
            let _ = tokio::time::timeout_at(until.into(), self.wake.notified()).await;
        }
    }
}

/// Committed records up to an offset.
#[derive(Debug)]
pub struct Pages {
    reader: KafkaReader,
    at: TopicPartition,
    next: u64,
    end: u64,
    /// How long nothing may come.
    limit: Duration,
}

impl Pages {
    /// Everything before this offset was given.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.next
    }

    /// The next records; `None` once all are given.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] where nothing comes that is to be there; others where it cannot be read.
    pub async fn next(&mut self) -> Result<Option<Vec<Record>>, LogError> {
        let moved = Instant::now();
        while self.next < self.end {
            let read = self.reader.read(ReadBudget { bytes: PAGE, wait: Duration::from_secs(1) }).await?;
            if let Some((_, further)) = read.next.last() {
                self.next = *further;
                return Ok(Some(read.records));
            }
            if moved.elapsed() > self.limit {
                return Err(self.reader.cluster.unavailable(format!(
                    "{} was written up to {} and gives nothing from {} on: a transaction there does not end \
                     (`kafka-transactions.sh find-hanging` shows it; \"Which Kafka\" in deploy/README.md says what to do)",
                    self.at, self.end, self.next
                )));
            }
        }
        Ok(None)
    }
}

/// The next records, waiting for them as long as for any answer of the brokers.
pub(crate) async fn read_first(reader: &mut KafkaReader) -> Result<Vec<Record>, LogError> {
    let deadline = Instant::now() + REQUEST;
    loop {
        let wait = deadline.saturating_duration_since(Instant::now());
        let batch = reader.read(ReadBudget { bytes: 1 << 20, wait }).await?;
        if !batch.records.is_empty() || Instant::now() >= deadline {
            return Ok(batch.records);
        }
    }
}

/// Offset of the first record from `next` on, and before `end`, whose time is `timestamp_ms` or later; else `end`.
pub(crate) async fn first_from(reader: &mut KafkaReader, timestamp_ms: i64, mut next: u64, end: u64) -> Result<u64, LogError> {
    while next < end {
        let batch = reader.read(ReadBudget { bytes: 4 << 20, wait: REQUEST }).await?;
        if let Some(found) = batch.records.iter().find(|record| record.timestamp_ms >= timestamp_ms) {
            return Ok(found.offset.min(end));
        }
        match batch.next.last() {
            Some((_, further)) => next = *further,
            None => return Err(reader.cluster.unavailable("no records came")),
        }
    }
    Ok(end)
}
