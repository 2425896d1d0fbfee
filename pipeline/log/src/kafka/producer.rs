//! A transactional producer: one transaction at a time, begun only when everything it is to hold is there.
//!
//! The order is what fencing rests on: records first, all of them acknowledged; then the group's metadata, which the brokers
//! refuse if its generation is over; then the commit. Up to the commit request nothing of a transaction that fails is ever seen.
//! After it was sent librdkafka repeats it by itself, and no later error tells whether an earlier try got through: then the
//! outcome is not known.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::client::{Cluster, Context, MAX_MESSAGE, REQUEST};
use crate::contract::{Headers, LogError};

/// A record on its way, its partition decided.
pub(crate) struct Outgoing<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: u32,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: &'a Headers,
    pub(crate) timestamp_ms: Option<i64>,
    /// Which of the transaction's partitions it goes to, as the caller counts them.
    pub(crate) mark: usize,
}

/// How a transaction failed.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The group's generation is over. Nothing was written.
    Fenced,
    /// Nothing was written.
    Refused(LogError),
    /// Written or not. The producer is of no more use.
    Unknown(LogError),
}

/// Offset after the last record that the transaction wrote to each partition, by [`Outgoing::mark`].
pub(crate) type Ends = Vec<u64>;

pub(crate) struct Producer {
    inner: ThreadedProducer<Deliveries>,
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
    pub(crate) fn new(cluster: &Cluster, transactional_id: &str) -> Result<Self, LogError> {
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
        let inner = ThreadedProducer::from_config_and_context(&config, Deliveries::new(cluster))
            .map_err(|error| cluster.error(&error))?;
        inner.init_transactions(limit).map_err(|error| cluster.error(&error))?;
        Ok(Self { inner, cluster: cluster.clone(), clean: true })
    }

    /// Writes `records` in one transaction that also commits `slots` of the group; blocks until it ended.
    pub(crate) fn transact<'a>(
        &mut self,
        records: impl Iterator<Item = Outgoing<'a>>,
        slots: &TopicPartitionList,
        metadata: &ConsumerGroupMetadata,
    ) -> Result<Ends, Failed> {
        let deadline = Instant::now() + self.cluster.transaction_limit();
        self.deliveries().begin();
        self.inner.begin_transaction().map_err(|error| self.refused(&error))?;
        let written = self.write(records, deadline);
        // A record that was sent and not acknowledged may be in the log, and librdkafka gives its sequence number to the next
        // transaction's first record. The broker would take that for the same one sent again: acknowledge it and write nothing.
        // The next producer has an epoch of its own.
        self.clean &= written.is_ok();
        match written.and_then(|ends| self.fence(slots, metadata, deadline).map(|()| ends)) {
            Ok(ends) => self.commit(deadline).map(|()| ends),
            Err(failed) => {
                self.abort();
                Err(failed)
            }
        }
    }

    /// Returns when every record is acknowledged.
    fn write<'a>(&self, records: impl Iterator<Item = Outgoing<'a>>, deadline: Instant) -> Result<Ends, Failed> {
        for record in records {
            self.send(&record, deadline)?;
        }
        self.deliveries().finished(deadline).map_err(|error| self.refused(&error))
    }

    /// Makes the transaction one of the group's generation.
    fn fence(&self, slots: &TopicPartitionList, metadata: &ConsumerGroupMetadata, deadline: Instant) -> Result<(), Failed> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.inner.send_offsets_to_transaction(slots, metadata, left).map_err(|error| match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::IllegalGeneration
                | RDKafkaErrorCode::UnknownMemberId
                | RDKafkaErrorCode::FencedInstanceId
                | RDKafkaErrorCode::RebalanceInProgress,
            ) => Failed::Fenced,
            _ => self.refused(&error),
        })
    }

    fn send(&self, record: &Outgoing<'_>, deadline: Instant) -> Result<(), Failed> {
        let mut base = BaseRecord::with_opaque_to(record.topic, record.mark);
        base.partition = i32::try_from(record.partition).ok();
        (base.key, base.payload, base.timestamp) = (record.key, record.value, record.timestamp_ms);
        if !record.headers.is_empty() {
            let headers = OwnedHeaders::new_with_capacity(record.headers.len());
            let insert = |headers: OwnedHeaders, (key, value): &(Arc<str>, bytes::Bytes)| {
                headers.insert(Header { key, value: Some(&value[..]) })
            };
            base.headers = Some(record.headers.iter().fold(headers, insert));
        }
        self.deliveries().expect_one();
        loop {
            match self.inner.send(base) {
                Ok(()) => return Ok(()),
                Err((error, back)) => {
                    let full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
                    if !full || Instant::now() > deadline {
                        self.deliveries().never_sent();
                        return Err(self.refused(&error));
                    }
                    base = back;
                    self.deliveries().some_done(deadline);
                }
            }
        }
    }

    /// The outcome is known only if the answer comes: librdkafka repeats the request until the deadline.
    fn commit(&mut self, deadline: Instant) -> Result<(), Failed> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            match self.inner.commit_transaction(left) {
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
        if let Err(error) = self.inner.abort_transaction(self.cluster.transaction_limit()) {
            tracing::debug!(%error, "a transaction is left to its timeout");
            self.clean = false;
        }
    }

    /// Whether it can begin another transaction.
    pub(crate) fn is_usable(&self) -> bool {
        self.clean && self.inner.client().fatal_error().is_none()
    }

    fn deliveries(&self) -> &Deliveries {
        self.inner.context()
    }

    /// Where only this producer is at its end, the next one goes on.
    fn refused(&self, error: &KafkaError) -> Failed {
        use RDKafkaErrorCode as Code;
        Failed::Refused(match error.rdkafka_error_code() {
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
        })
    }
}

/// Counts what is under way, so that no record needs a future of its own.
struct Deliveries {
    inner: Context,
    state: Mutex<Underway>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Underway {
    pending: usize,
    failed: Option<KafkaError>,
    ends: Ends,
}

impl Deliveries {
    fn new(cluster: &Cluster) -> Self {
        Self { inner: cluster.context(), state: Mutex::default(), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, Underway> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an aborted transaction left is answered before its abort returns.
    fn begin(&self) {
        *self.state() = Underway::default();
    }

    fn expect_one(&self) {
        self.state().pending += 1;
    }

    fn never_sent(&self) {
        let mut state = self.state();
        state.pending = state.pending.saturating_sub(1);
    }

    fn some_done(&self, deadline: Instant) {
        let state = self.state();
        let before = state.pending;
        let left = deadline.saturating_duration_since(Instant::now());
        drop(self.changed.wait_timeout_while(state, left, |now| now.pending == before && now.failed.is_none()));
    }

    /// Waits until everything is acknowledged.
    fn finished(&self, deadline: Instant) -> Result<Ends, KafkaError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout_while(self.state(), left, |now| now.pending > 0 && now.failed.is_none());
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match state.failed.take() {
            Some(error) => Err(error),
            None if state.pending > 0 => Err(KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut)),
            None => Ok(std::mem::take(&mut state.ends)),
        }
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.inner.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.inner.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    /// [`Outgoing::mark`].
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, mark: usize) {
        let mut state = self.state();
        state.pending = state.pending.saturating_sub(1);
        match result {
            Ok(message) => {
                if state.ends.len() <= mark {
                    state.ends.resize(mark + 1, 0);
                }
                if let Some(end) = state.ends.get_mut(mark) {
                    *end = u64::try_from(message.offset()).map_or(*end, |offset| (*end).max(offset + 1));
                }
            }
            Err((error, _)) => state.failed = state.failed.take().or_else(|| Some(error.clone())),
        }
        if state.pending == 0 || state.failed.is_some() || state.pending.is_multiple_of(256) {
            self.changed.notify_all();
        }
    }
}

/// Writes one record outside of any transaction; blocks until it is acknowledged.
pub(crate) fn write_one(cluster: &Cluster, topic: &str, value: &[u8]) -> Result<(), LogError> {
    let config = cluster.client(&[("enable.idempotence", "true"), ("linger.ms", "0")]);
    let made = ThreadedProducer::from_config_and_context(&config, Deliveries::new(cluster));
    let producer: ThreadedProducer<Deliveries> = made.map_err(|error| cluster.error(&error))?;
    producer.context().expect_one();
    let record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(topic, 0).partition(0).payload(value);
    producer.send(record).map_err(|(error, _)| cluster.error(&error))?;
    let acknowledged = producer.context().finished(Instant::now() + REQUEST);
    acknowledged.map(|_| ()).map_err(|error| cluster.error(&error))
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
