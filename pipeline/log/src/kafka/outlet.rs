//! A subscriber's topic, written by one holder at a time, on the exchange's cluster or any other.
//!
//! The producer's transactional id is the topic's name: a new holder's producer ends what an older one left open, and from then on the
//! brokers refuse the older one. Where delivery stands is a record of a small compacted topic beside it, written in the same transaction as
//! the records that lead there; the last one counts. So whoever reads committed records sees each change once, and a new holder reads, after
//! it fenced the older one, exactly what that one wrote.
//!
//! A call that is dropped goes on at the brokers. The next one waits for its end: a producer that was asked for and given up would else
//! fence the one that took its place.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use guitong_schemas::contract::{KafkaCluster, KafkaTopic};
use rdkafka::error::RDKafkaErrorCode;
use thiserror::Error;
use tokio::sync::Mutex;

use super::client::{Cluster, REQUEST, spawn};
use super::producer::{Failed, Outgoing, Producer, Refused};
use super::reader::{From as Start, Pages, Readers};
use super::topics::{self, Topics};
use crate::contract::{Bounds, Headers, LogError, TopicPartition};
use crate::partition::partition_for;

/// Key of the only record that the topic of stands keeps.
const STAND: &[u8] = b"stand";
/// Offsets before the end among which the last stand is looked for first. Each transaction leaves two there, one of them its marker.
const TAIL: u64 = 64;

/// A cluster with topics of subscribers; clones share its clients.
#[derive(Debug, Clone)]
pub struct Outlets {
    cluster: Cluster,
    topics: Arc<Topics>,
    readers: Arc<Readers>,
}

/// One subscriber's topic.
pub struct Outlet {
    of: Outlets,
    topic: Arc<str>,
    stands: TopicPartition,
    partitions: u32,
    /// None before the topic was taken over, and after a transaction that left it of no more use. Locked by the thread that waits for
    /// the brokers.
    producer: Arc<Mutex<Option<Producer>>>,
}

/// A record of a subscriber's topic; its key decides its partition.
#[derive(Debug, Clone)]
pub struct OutletRecord {
    pub key: Bytes,
    /// `None`: a tombstone.
    pub value: Option<Bytes>,
    pub headers: Headers,
}

/// Why something was not done.
#[derive(Debug, Error)]
pub enum OutletError {
    #[error("topic {0} was taken over by another holder")]
    Fenced(Arc<str>),
    /// Nothing was written.
    #[error("{0}")]
    TooLarge(String),
    #[error("the cluster does not allow it: {0}")]
    Denied(String),
    /// It passes by itself. A transaction was written or not: the next holder reads which.
    #[error("{0}")]
    Unreachable(String),
    #[error("{0}")]
    Other(String),
}

impl From<LogError> for OutletError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Unavailable { detail } => Self::Unreachable(detail),
            LogError::Denied { detail } => Self::Denied(detail),
            // The topic is looked at anew, and made where it is not, when it is taken over again.
            error @ (LogError::NoTopic { .. } | LogError::Gap { .. }) => Self::Unreachable(error.to_string()),
            error => Self::Other(error.to_string()),
        }
    }
}

impl Outlets {
    /// Nothing is sent before the first call.
    ///
    /// # Errors
    /// For a property that librdkafka does not know.
    pub fn new(config: &KafkaCluster) -> Result<Self, OutletError> {
        let cluster = Cluster::new("deliver", config.clone());
        let topics = Arc::new(Topics::new(cluster.clone())?);
        let readers = Arc::new(Readers::new(cluster.clone(), Arc::clone(&topics)));
        Ok(Self { cluster, topics, readers })
    }

    #[must_use]
    pub fn outlet(&self, topic: &str) -> Outlet {
        let stands = TopicPartition::new(format!("{topic}{}", KafkaTopic::STAND), 0);
        Outlet { of: self.clone(), topic: topic.into(), stands, partitions: 0, producer: Arc::default() }
    }

    /// The cluster's own id.
    ///
    /// # Errors
    /// [`OutletError::Unreachable`] when no broker answers.
    pub async fn id(&self) -> Result<String, OutletError> {
        Ok(self.topics.cluster_id(REQUEST).await?)
    }
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlet").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl Outlet {
    /// Makes the topics where there are none, with as many partitions; says how many there are. A topic that is there stays as its owner
    /// made it.
    ///
    /// # Errors
    /// Where a topic is not there and may not be made.
    pub async fn make(&mut self, partitions: u32) -> Result<u32, OutletError> {
        let Outlets { topics, .. } = &self.of;
        topics.make(&self.stands.topic, 1, &topics::slot_settings()).await?;
        self.partitions = topics.make(&self.topic, partitions, &topics::outlet_settings()).await?;
        Ok(self.partitions)
    }

    /// Fences whoever held the topic before, and ends what it left open.
    ///
    /// # Errors
    /// Where the brokers do not answer, or do not let it.
    pub async fn take_over(&mut self) -> Result<(), OutletError> {
        let (cluster, id) = (self.of.cluster.clone(), Arc::clone(&self.topic));
        let mut held = Arc::clone(&self.producer).lock_owned().await;
        let replace = move || {
            retire(held.take());
            *held = Some(Producer::new(&cluster, &id)?);
            Ok(())
        };
        let replaced = tokio::task::spawn_blocking(replace).await.map_err(given_up)?;
        replaced.map_err(|refused| self.refused(refused))
    }

    /// Where delivery stands: what the last transaction says.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub async fn stand(&self) -> Result<Option<Bytes>, OutletError> {
        let Bounds { earliest, end } = self.of.topics.high_watermark(self.stands.clone()).await?;
        let mut tail = TAIL;
        loop {
            let from = end.saturating_sub(tail).max(earliest);
            let (mut pages, mut last) = (self.pages(self.stands.clone(), from, end)?, None);
            while let Some(records) = pages.next().await? {
                last = records.into_iter().next_back().and_then(|record| record.value).or(last);
            }
            if last.is_some() || from == earliest {
                return Ok(last);
            }
            tail = tail.saturating_mul(16);
        }
    }

    /// First offset of a partition, and the one after its last record, committed or not.
    ///
    /// # Errors
    /// Where the brokers do not answer.
    pub async fn bounds(&self, partition: u32) -> Result<Bounds, OutletError> {
        Ok(self.of.topics.high_watermark(TopicPartition::new(Arc::clone(&self.topic), partition)).await?)
    }

    /// What is committed in a partition from `next` on and before `end`.
    ///
    /// # Errors
    /// Where no reader can be made.
    pub fn records(&self, partition: u32, next: u64, end: u64) -> Result<Pages, OutletError> {
        self.pages(TopicPartition::new(Arc::clone(&self.topic), partition), next, end)
    }

    fn pages(&self, at: TopicPartition, next: u64, end: u64) -> Result<Pages, OutletError> {
        Ok(self.of.readers.pages(Start { at, next, end })?)
    }

    /// Writes records and where delivery stands with them, all or nothing; the offsets after the last record of each partition.
    ///
    /// # Errors
    /// [`OutletError::Fenced`] where it is not held; where the brokers refuse it.
    pub async fn write(&mut self, records: Vec<OutletRecord>, stand: Bytes) -> Result<Vec<(u32, u64)>, OutletError> {
        let mut held = Arc::clone(&self.producer).lock_owned().await;
        let (topic, stands, partitions) = (Arc::clone(&self.topic), Arc::clone(&self.stands.topic), self.partitions);
        let transact = move || {
            let producer = held.as_mut().ok_or(Failed::Fenced)?;
            let (no_headers, stand_key) = (Headers::new(), Bytes::from_static(STAND));
            let outgoing = records.iter().map(|OutletRecord { key, value, headers }| {
                let partition = partition_for(key, partitions);
                Outgoing { topic: &topic, partition, key: Some(key), value: value.as_ref(), headers, timestamp_ms: None }
            });
            let (key, value, headers) = (Some(&stand_key), Some(&stand), &no_headers);
            let stand = Outgoing { topic: &stands, partition: 0, key, value, headers, timestamp_ms: None };
            let done = producer.transact(outgoing.chain([stand]), None);
            if !producer.is_usable() {
                retire(held.take());
            }
            done
        };
        let done = tokio::task::spawn_blocking(transact).await.map_err(given_up)?;
        let ends = done.map_err(|failed| match failed {
            Failed::Fenced => OutletError::Fenced(Arc::clone(&self.topic)),
            Failed::Refused(refused) => self.refused(refused),
            Failed::Unknown(error) => OutletError::Unreachable(OutletError::from(error).to_string()),
        })?;
        Ok(ends.into_iter().filter(|(at, _)| at.topic == self.topic).map(|(at, end)| (at.partition, end)).collect())
    }

    /// Handles what the producer tells of itself; that is not to pile up.
    pub fn serve(&mut self) {
        // One that a call holds serves itself.
        if let Ok(mut held) = self.producer.try_lock()
            && let Some(producer) = held.as_mut()
        {
            producer.serve();
        }
    }

    fn refused(&self, Refused { error, code }: Refused) -> OutletError {
        use RDKafkaErrorCode as Code;
        match code {
            Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch) => {
                OutletError::Fenced(Arc::clone(&self.topic))
            }
            Some(Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidRecord) => OutletError::TooLarge(format!(
                "topic {} does not take a record of that size (max.message.bytes): {error}",
                self.topic
            )),
            _ => error.into(),
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        // Where a call that was dropped holds it, its thread drops it last.
        if let Ok(mut held) = self.producer.try_lock() {
            retire(held.take());
        }
    }
}

/// Closing its connections takes a moment; where no thread can be had it does so here.
fn retire(producer: Option<Producer>) {
    if let Some(producer) = producer {
        let _ = spawn("kafka-close", move || drop(producer));
    }
}

fn given_up(error: tokio::task::JoinError) -> OutletError {
    OutletError::Unreachable(format!("a call to the brokers was given up: {error}"))
}
