//! A transactional producer: one transaction at a time, begun only when everything it is to hold is there.
//!
//! The order is what the log's fencing rests on: records first, all of them acknowledged; then the group's metadata, which the brokers
//! refuse if its generation is over; then the commit. What passes the fencing is therefore in the log before its slot can change
//! hands, and a new holder sees it by the end of the slot's partition. Where no group is, a producer is fenced by the next one with
//! its transactional id.
//!
//! Up to the commit request nothing of a transaction that fails is ever seen. After it was sent librdkafka repeats it by itself, and no
//! later error tells whether an earlier try got through: then the outcome is not known.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::client::{Cluster, MAX_MESSAGE, REQUEST, SERVE};
use super::native::{Sender, Sent};
use crate::contract::{Headers, LogError, TopicPartition};

/// A record on its way, its partition decided.
pub(crate) struct Outgoing<'a> {
    pub(crate) topic: &'a Arc<str>,
    pub(crate) partition: u32,
    pub(crate) key: Option<&'a Bytes>,
    pub(crate) value: Option<&'a Bytes>,
    pub(crate) headers: &'a Headers,
    /// `None`: the time of sending.
    pub(crate) timestamp_ms: Option<i64>,
}

/// How a transaction failed.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The group's generation is over. Nothing was written.
    Fenced,
    /// Nothing was written.
    Refused(Refused),
    /// Written or not. The producer is of no more use.
    Unknown(LogError),
}

/// Why nothing was written.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) error: LogError,
    /// What the brokers or librdkafka called it.
    pub(crate) code: Option<RDKafkaErrorCode>,
}

impl From<LogError> for Refused {
    fn from(error: LogError) -> Self {
        Self { error, code: None }
    }
}

/// The group that a transaction is fenced by: the slots of it that it is about, and the metadata of its generation.
pub(crate) type Generation<'a> = (&'a TopicPartitionList, &'a ConsumerGroupMetadata);

/// Offset after the last record that the transaction wrote to each partition.
pub(crate) type Ends = Vec<(TopicPartition, u64)>;

pub(crate) struct Producer {
    sender: Sender,
    underway: Underway,
    cluster: Cluster,
    /// Whether it is between transactions, as far as it knows, and its sequence numbers are the brokers'.
    clean: bool,
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Producer")
    }
}

impl Producer {
    /// Ends whatever an earlier producer with this id left open, and blocks until that is done.
    pub(crate) fn new(cluster: &Cluster, transactional_id: &str) -> Result<Self, Refused> {
        let limit = cluster.transaction_limit();
        let config = cluster.client(&[
            ("enable.idempotence", "true"),
            ("transactional.id", transactional_id),
            ("transaction.timeout.ms", &limit.as_millis().to_string()),
            // A batch is whole when it comes here: there is nothing to linger for.
            ("linger.ms", "0"),
            ("compression.type", "lz4"),
            ("message.max.bytes", &MAX_MESSAGE.to_string()),
            ("batch.size", "1048576"),
            ("queue.buffering.max.kbytes", "32768"),
            ("queue.buffering.max.messages", "100000"),
        ]);
        let refused = |error: KafkaError| Refused { error: cluster.error(&error), code: error.rdkafka_error_code() };
        let sender = Sender::new(&config, cluster.context()).map_err(refused)?;
        let mut made = Self { sender, underway: Underway::default(), cluster: cluster.clone(), clean: true };
        let ready = made.sender.producer().init_transactions(limit);
        // What went wrong on the way is told by events.
        made.serve();
        ready.map_err(refused)?;
        Ok(made)
    }

    /// Writes `records` in one transaction, which is one of the group's generation where there is a group; blocks until it ended.
    pub(crate) fn transact<'a>(
        &mut self,
        records: impl Iterator<Item = Outgoing<'a>>,
        generation: Option<Generation<'_>>,
    ) -> Result<Ends, Failed> {
        let deadline = Instant::now() + self.cluster.transaction_limit();
        self.serve();
        self.underway = Underway::default();
        self.sender.producer().begin_transaction().map_err(|error| self.refused(&error))?;
        let written = self.write(records, deadline);
        match written.and_then(|()| generation.map_or(Ok(()), |generation| self.fence(generation, deadline))) {
            Ok(()) => self.commit(deadline).map(|()| self.underway.ends()),
            Err(failed) => {
                self.abort();
                // A record that was sent and not acknowledged may be in the log, and librdkafka gives its sequence number to the next
                // transaction's first record. The broker would take that for the same one sent again: acknowledge it and write
                // nothing. The next producer has an epoch of its own.
                self.clean &= self.underway.is_acknowledged();
                Err(match (failed, self.underway.cause()) {
                    // What became of a record is why the rest was refused.
                    (Failed::Refused(_), Some(cause)) => self.refused(&cause),
                    (failed, _) => failed,
                })
            }
        }
    }

    /// Returns when every record is acknowledged.
    fn write<'a>(&mut self, records: impl Iterator<Item = Outgoing<'a>>, deadline: Instant) -> Result<(), Failed> {
        for record in records {
            self.send(&record, deadline).map_err(|error| self.refused(&error))?;
        }
        self.underway.finish(&self.sender, deadline).map_err(|error| self.refused(&error))
    }

    fn send(&mut self, record: &Outgoing<'_>, deadline: Instant) -> Result<(), KafkaError> {
        let mark = self.underway.mark(record, &mut self.sender)?;
        while let Err(error) = self.underway.send(&self.sender, record, mark) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) || Instant::now() > deadline {
                return Err(error);
            }
            self.underway.serve(&self.sender, SERVE);
        }
        // Those that are acknowledged are given back while they are still in the processor's cache.
        if self.underway.pending.is_multiple_of(SERVED) {
            self.serve();
        }
        Ok(())
    }

    /// Handles what has happened.
    pub(crate) fn serve(&mut self) {
        while self.underway.serve(&self.sender, Duration::ZERO) {}
    }

    /// Makes the transaction one of the group's generation.
    fn fence(&self, (slots, metadata): Generation<'_>, deadline: Instant) -> Result<(), Failed> {
        let left = deadline.saturating_duration_since(Instant::now());
        let fenced = self.sender.producer().send_offsets_to_transaction(slots, metadata, left);
        fenced.map_err(|error| match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::IllegalGeneration
                | RDKafkaErrorCode::UnknownMemberId
                | RDKafkaErrorCode::FencedInstanceId
                | RDKafkaErrorCode::RebalanceInProgress,
            ) => Failed::Fenced,
            _ => self.refused(&error),
        })
    }

    /// The outcome is known only if the answer comes: librdkafka repeats the request until the deadline.
    fn commit(&mut self, deadline: Instant) -> Result<(), Failed> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            match self.sender.producer().commit_transaction(left) {
                Ok(()) => return Ok(()),
                // Before the request: everything was acknowledged, so there is nothing to flush.
                Err(error @ KafkaError::Flush(_)) => {
                    self.abort();
                    return Err(self.refused(&error));
                }
                Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {}
                Err(error) => {
                    self.clean = false;
                    return Err(Failed::Unknown(self.cluster.error(&error)));
                }
            }
        }
    }

    /// Where the abort itself fails, the brokers end the transaction after its timeout.
    fn abort(&mut self) {
        let deadline = Instant::now() + self.cluster.transaction_limit();
        loop {
            match self.sender.producer().abort_transaction(SERVE) {
                Ok(()) => return,
                // It waits for what is still under way, which nobody but this thread takes back, and goes on when it is asked again.
                Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => self.serve(),
                Err(error) => {
                    tracing::debug!(%error, "a transaction is left to its timeout");
                    self.clean = false;
                    return;
                }
            }
        }
    }

    /// Whether it can begin another transaction.
    pub(crate) fn is_usable(&self) -> bool {
        self.clean && self.sender.producer().client().fatal_error().is_none()
    }

    /// Where only this producer is at its end, the next one goes on.
    fn refused(&self, error: &KafkaError) -> Failed {
        use RDKafkaErrorCode as Code;
        let code = error.rdkafka_error_code();
        let told = match code {
            Some(
                Code::Fatal
                | Code::Fenced
                | Code::ProducerFenced
                | Code::InvalidProducerEpoch
                | Code::InvalidProducerIdMapping
                | Code::UnknownProducerId
                | Code::InvalidTransactionalState,
            ) => self.cluster.unavailable(error),
            _ => self.cluster.error(error),
        };
        let fatal = self.sender.producer().client().fatal_error().map(|(code, _)| code);
        Failed::Refused(Refused { error: told, code: fatal.or(code) })
    }
}

/// Records sent after which those that are acknowledged are taken back.
const SERVED: usize = 512;

/// The records of a transaction that are with librdkafka.
#[derive(Debug, Default)]
struct Underway {
    pending: usize,
    /// Why a record was not written.
    failed: Option<RDKafkaErrorCode>,
    /// Where the records go, numbered by their marks.
    targets: Vec<Target>,
    /// By the sender's number of the topic and the partition.
    marks: HashMap<(usize, u32), usize>,
    /// Mark of the record before.
    last: usize,
}

#[derive(Debug)]
struct Target {
    at: TopicPartition,
    /// The sender's number of its topic.
    topic: usize,
    /// Offset after the last record written there.
    end: u64,
}

impl Underway {
    fn mark(&mut self, record: &Outgoing<'_>, sender: &mut Sender) -> Result<usize, KafkaError> {
        let is_of = |target: &Target| target.at.partition == record.partition && Arc::ptr_eq(&target.at.topic, record.topic);
        if self.targets.get(self.last).is_some_and(is_of) {
            return Ok(self.last);
        }
        let topic = sender.topic(record.topic)?;
        self.last = *self.marks.entry((topic, record.partition)).or_insert_with(|| {
            let at = TopicPartition::new(Arc::clone(record.topic), record.partition);
            self.targets.push(Target { at, topic, end: 0 });
            self.targets.len() - 1
        });
        Ok(self.last)
    }

    fn send(&mut self, sender: &Sender, record: &Outgoing<'_>, mark: usize) -> Result<(), KafkaError> {
        let topic = self.targets.get(mark).map_or(usize::MAX, |target| target.topic);
        sender.send(topic, record, mark)?;
        self.pending += 1;
        Ok(())
    }

    /// Handles one event, waiting for it for at most `wait`; whether one came.
    fn serve(&mut self, sender: &Sender, wait: Duration) -> bool {
        sender.serve(wait, |sent, done| self.told(&sent, done))
    }

    fn told(&mut self, sent: &Sent, done: Result<i64, RDKafkaErrorCode>) {
        self.pending = self.pending.saturating_sub(1);
        match done {
            Ok(offset) => {
                if let (Some(target), Ok(offset)) = (self.targets.get_mut(sent.mark), u64::try_from(offset)) {
                    target.end = target.end.max(offset + 1);
                }
            }
            Err(code) if self.failed.is_none_or(is_given_up) => self.failed = Some(code),
            Err(_) => {}
        }
    }

    /// Waits until everything is acknowledged.
    fn finish(&mut self, sender: &Sender, deadline: Instant) -> Result<(), KafkaError> {
        while self.pending > 0 && self.failed.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut));
            }
            self.serve(sender, left);
        }
        self.failed.map_or(Ok(()), |code| Err(KafkaError::MessageProduction(code)))
    }

    fn is_acknowledged(&self) -> bool {
        self.pending == 0 && self.failed.is_none()
    }

    /// Why a record was not written, other than that the transaction was given up.
    fn cause(&self) -> Option<KafkaError> {
        self.failed.filter(|code| !is_given_up(*code)).map(KafkaError::MessageProduction)
    }

    fn ends(&mut self) -> Ends {
        std::mem::take(&mut self.targets).into_iter().map(|target| (target.at, target.end)).collect()
    }
}

fn is_given_up(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight)
}

/// Writes one record outside of any transaction; blocks until it is acknowledged.
pub(crate) fn write_one(cluster: &Cluster, topic: &Arc<str>, value: Bytes) -> Result<(), LogError> {
    let config = cluster.client(&[("enable.idempotence", "true"), ("linger.ms", "0")]);
    let (mut underway, headers) = (Underway::default(), Headers::new());
    let written = Sender::new(&config, cluster.context()).and_then(|mut sender| {
        let record = Outgoing { topic, partition: 0, key: None, value: Some(&value), headers: &headers, timestamp_ms: None };
        let mark = underway.mark(&record, &mut sender)?;
        underway.send(&sender, &record, mark)?;
        underway.finish(&sender, Instant::now() + REQUEST)
    });
    written.map_err(|error| cluster.error(&error))
}

/// The slots of a transaction, for [`Producer::transact`].
pub(crate) fn slot_list(topic: &str, slots: impl Iterator<Item = u32>) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for slot in slots {
        // No one reads from these offsets: what matters is that they are committed under the generation.
        list.add_partition_offset(topic, i32::try_from(slot).unwrap_or(i32::MAX), Offset::Offset(0))?;
    }
    Ok(list)
}
