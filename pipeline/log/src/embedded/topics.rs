//! Topics and partitions as committed, in memory: who asks for bounds or waits for records asks no file.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::watch;

use crate::contract::{Bounds, LogError, Retention, TopicPartition};

/// What the file holds about a partition besides its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Extent {
    pub(crate) earliest: u64,
    /// Offset of the next record. Persisted, never derived from the records: they can all have expired.
    pub(crate) next: u64,
    /// Bytes of its blocks.
    pub(crate) bytes: u64,
    /// Latest timestamp ever written.
    pub(crate) high_ms: i64,
    /// Every key below this offset occurs once below it.
    pub(crate) cleaned: u64,
    /// Bytes of the blocks below `cleaned`.
    pub(crate) clean_bytes: u64,
    /// Timestamp of the oldest tombstone below `cleaned`.
    pub(crate) tombstone_ms: Option<i64>,
}

/// One partition. Its extent changes only after the commit that changed it, and waiting readers are woken by that.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) id: u32,
    pub(crate) at: TopicPartition,
    pub(crate) extent: watch::Sender<Extent>,
}

impl Partition {
    /// Offsets of a partition lie below this, so that a block's row id can hold the partition and the block's first offset.
    pub(crate) const OFFSETS: u64 = 1 << 44;
    const IDS: u32 = 1 << 19;

    /// # Errors
    /// When the file has no more ids.
    pub(crate) fn new(id: u32, at: TopicPartition, extent: Extent) -> Result<Self, LogError> {
        if id >= Self::IDS {
            return Err(LogError::Other(format!("the log cannot hold more than {} partitions", Self::IDS)));
        }
        Ok(Self { id, at, extent: watch::Sender::new(extent) })
    }

    pub(crate) fn bounds(&self) -> Bounds {
        let extent = self.extent.borrow();
        Bounds { earliest: extent.earliest, end: extent.next }
    }

    /// Row id of the block whose first offset is `base`; row ids of a partition are adjacent and sort as offsets do.
    pub(crate) fn row(&self, base: u64) -> i64 {
        (i64::from(self.id) << 44) | (base.min(Self::OFFSETS - 1) as i64)
    }

    /// First offset of the block in that row.
    pub(crate) fn base(row: i64) -> u64 {
        (row as u64) & (Self::OFFSETS - 1)
    }
}

#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: Arc<str>,
    pub(crate) partitions: Vec<Arc<Partition>>,
    retention: Mutex<Retention>,
}

impl Topic {
    pub(crate) fn new(name: Arc<str>, partitions: Vec<Arc<Partition>>, retention: Retention) -> Self {
        Self { name, partitions, retention: Mutex::new(retention) }
    }

    pub(crate) fn retention(&self) -> Retention {
        self.retention.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_retention(&self, retention: Retention) {
        *self.retention.lock().unwrap_or_else(PoisonError::into_inner) = retention;
    }
}

#[derive(Debug, Default)]
pub(crate) struct Topics(RwLock<HashMap<Arc<str>, Arc<Topic>>>);

impl Topics {
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Topic>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub(crate) fn get(&self, name: &str) -> Result<Arc<Topic>, LogError> {
        self.find(name).ok_or_else(|| LogError::NoTopic { topic: name.into() })
    }

    pub(crate) fn partition(&self, at: &TopicPartition) -> Result<Arc<Partition>, LogError> {
        let topic = self.get(&at.topic)?;
        pick(&topic, at.partition).cloned()
    }

    pub(crate) fn insert(&self, topic: Arc<Topic>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(&topic.name), topic);
    }

    /// All topics, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Topic>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// The partition with that number.
pub(crate) fn pick(topic: &Topic, number: u32) -> Result<&Arc<Partition>, LogError> {
    topic.partitions.get(number as usize).ok_or_else(|| LogError::Partitions {
        topic: Arc::clone(&topic.name),
        has: topic.partitions.len() as u32,
        wanted: number.saturating_add(1),
    })
}
