//! What every exchange log promises.
//!
//! [`ExchangeLog::open`] fences every older holder of an owner, *then* reads where the owner stands. [`OwnedLog::append`] writes
//! records, consumed offsets, the source's position and keyed-state changes all or nothing, and ends as committed, refused
//! (nothing written) or unknown (the owner must be opened again and read where it stands). Readers see committed records only.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;
use tokio::sync::watch;

/// Largest encoded record, key and headers included.
pub const MAX_RECORD: usize = 16 << 20;

/// Names one log for good: a copy, a restored backup and a new log have other ids.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LogId(pub Arc<str>);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which part of the node an owner belongs to; on Kafka each role is one consumer group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    Connect,
    Normalise,
    Deliver,
}

impl Role {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Normalise => "normalise",
            Self::Deliver => "deliver",
        }
    }
}

/// Who appends: one connector, one resource's normaliser, one subscription. Offsets, position and keyed state belong to an owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerId {
    pub role: Role,
    /// The system's, resource's or subscription's name.
    pub name: Arc<str>,
}

impl OwnerId {
    /// Assignment slots of a role; on Kafka the partitions of its assignment topic.
    pub const SLOTS: u32 = 64;

    #[must_use]
    pub fn new(role: Role, name: impl Into<Arc<str>>) -> Self {
        Self { role, name: name.into() }
    }
}

impl fmt::Display for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.role.as_str(), self.name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    pub topic: Arc<str>,
    pub partition: u32,
}

impl TopicPartition {
    #[must_use]
    pub fn new(topic: impl Into<Arc<str>>, partition: u32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}

/// A topic as it should be; its partition count never changes once made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    pub name: Arc<str>,
    pub partitions: u32,
    pub retention: Retention,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retention {
    /// Records leave by age or when the topic's partition, compressed as it lies there, exceeds `bytes`; `None` keeps them.
    Expire { age: Option<Duration>, bytes: Option<u64> },
    /// The last record of each key stays; older ones go once they are `after` old, tombstones `tombstones` after they were written.
    Compact { after: Duration, tombstones: Duration },
}

/// Header names are ASCII; values are bytes.
pub type Headers = Vec<(Arc<str>, Bytes)>;

#[derive(Debug, Clone)]
pub struct NewRecord {
    pub topic: Arc<str>,
    /// `None`: by murmur2 of the key, as Java's client does; without a key, partition 0.
    pub partition: Option<u32>,
    pub key: Option<Bytes>,
    /// `None`: a tombstone.
    pub value: Option<Bytes>,
    pub headers: Headers,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub timestamp_ms: i64,
}

impl NewRecord {
    /// Bytes that count against [`MAX_RECORD`] and batch budgets.
    #[must_use]
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len) + headers
    }
}

#[derive(Debug, Clone)]
pub struct Record {
    pub at: TopicPartition,
    pub offset: u64,
    pub timestamp_ms: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Headers,
}

impl Record {
    /// Bytes that count against a read's budget.
    #[must_use]
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len) + headers
    }

    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().find(|(key, _)| &**key == name).map(|(_, value)| value)
    }
}

/// One change of a keyed-state map; `value` `None` removes the key.
#[derive(Debug, Clone)]
pub struct StateChange {
    pub map: Arc<str>,
    pub key: Bytes,
    pub value: Option<Bytes>,
}

/// What one commit writes, all or nothing.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub records: Vec<NewRecord>,
    /// Next offset to read, for each partition that was consumed.
    pub offsets: Vec<(TopicPartition, u64)>,
    /// Where the source stands, in its connector's own form.
    pub position: Option<Bytes>,
    pub state: Vec<StateChange>,
}

impl Batch {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.offsets.is_empty() && self.position.is_none() && self.state.is_empty()
    }

    /// Bytes of records and keyed state.
    pub(crate) fn size(&self) -> usize {
        let state = self.state.iter().map(|change| change.key.len() + change.value.as_ref().map_or(0, Bytes::len));
        self.records.iter().map(NewRecord::size).chain(state).sum()
    }
}

/// Proof that a batch is durable. Only a log makes one.
#[derive(Debug)]
#[non_exhaustive]
pub struct Committed {
    /// Records in the batch.
    pub records: usize,
}

impl Committed {
    pub(crate) fn new(records: usize) -> Self {
        Self { records }
    }
}

/// How an append that did not commit ended.
#[derive(Debug, Error)]
pub enum AppendError {
    /// Nothing of the batch was written.
    #[error("the log refused the batch: {0}")]
    Refused(#[source] LogError),
    /// The answer was lost: the batch is in the log or it is not. Open the owner again and read where it stands.
    #[error("whether the log has the batch is not known: {0}")]
    Unknown(#[source] LogError),
}

/// What goes wrong with a log.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LogError {
    #[error("{owner} was opened by another holder; this one writes nothing more")]
    Fenced { owner: OwnerId },
    #[error("{at}: offset {wanted} is not in this log, which holds {earliest} to {end}{}", .of.as_ref().map(|id| format!("; the offset is of log {id}")).unwrap_or_default())]
    Gap { at: TopicPartition, wanted: u64, earliest: u64, end: u64, of: Option<LogId> },
    #[error("{at}: what follows offset {next} was written so long ago that deletes among it may be gone from this log")]
    Stale { at: TopicPartition, next: u64 },
    #[error("topic {topic} does not exist")]
    NoTopic { topic: Arc<str> },
    #[error("topic {topic} has {has} partitions, not {wanted}; the number never changes once a topic is made")]
    Partitions { topic: Arc<str>, has: u32, wanted: u32 },
    #[error("a record of {size} bytes for {topic} is over the limit of {limit}")]
    TooLarge { topic: Arc<str>, size: usize, limit: usize },
    #[error("the log {path} is in use by another process (is `guitong run` active?)")]
    Locked { path: String },
    #[error("the disk that holds {path} is full: {detail}; nothing was lost, free space and it goes on")]
    DiskFull { path: String, detail: String },
    #[error("{path} was written by a newer version (format {found}, this one reads up to {known}); use that version")]
    Newer { path: String, found: u32, known: u32 },
    #[error("{path} is no log of this program: {detail}")]
    Foreign { path: String, detail: String },
    #[error("the log is not reachable: {detail}")]
    Unavailable { detail: String },
    /// Kafka knows who asks, and does not let it.
    #[error("the brokers do not allow it: {detail}")]
    Denied { detail: String },
    #[error("the log's data is damaged: {detail}")]
    Corrupt { detail: String },
    #[error("{0}")]
    Other(String),
}

impl LogError {
    /// Whether the same call may succeed later without anybody's doing.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::DiskFull { .. })
    }
}

/// What a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Offset of the oldest record kept.
    pub earliest: u64,
    /// Offset after the newest committed record.
    pub end: u64,
}

/// Bounds of one read.
#[derive(Debug, Clone, Copy)]
pub struct ReadBudget {
    /// A read returns at least one record where there is one, and stops before it exceeds this.
    pub bytes: usize,
    /// How long to wait for the first record.
    pub wait: Duration,
}

/// What a read gave: records in order within each partition, and where each partition is to be read next, which can be further
/// than the last record (compaction and transaction markers leave holes).
#[derive(Debug, Default)]
pub struct ReadBatch {
    pub records: Vec<Record>,
    pub next: Vec<(TopicPartition, u64)>,
}

/// A stored offset with the log it counts in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredOffset {
    pub log: LogId,
    pub next: u64,
}

impl StoredOffset {
    /// The offset, where `log` can go on from it.
    ///
    /// # Errors
    /// [`LogError::Gap`] where it counts in another log or is not in what this one holds.
    pub async fn within(&self, log: &dyn ExchangeLog, at: &TopicPartition) -> Result<u64, LogError> {
        let Bounds { earliest, end } = log.bounds(at).await?;
        let of = (self.log != *log.id()).then(|| self.log.clone());
        if of.is_some() || self.next < earliest || self.next > end {
            return Err(LogError::Gap { at: at.clone(), wanted: self.next, earliest, end, of });
        }
        Ok(self.next)
    }
}

/// Deletes that a log keeps for less than this are not relied on: they may go before they are read.
const DELETES_LEFT: Duration = Duration::from_secs(2 * 3600);

/// How long a log surely has the deletes whose tombstones stay for `tombstones`.
#[must_use]
pub fn deletes_kept(tombstones: Duration) -> Duration {
    tombstones.saturating_sub(DELETES_LEFT)
}

/// Whether a compacted partition still holds every delete from `next` on, where its tombstones stay for `tombstones`.
///
/// # Errors
/// [`LogError::Stale`] where something that follows is so old that a tombstone may be gone.
pub async fn holds_deletes(log: &dyn ExchangeLog, at: &TopicPartition, next: u64, tombstones: Duration) -> Result<(), LogError> {
    if next >= log.bounds(at).await?.end {
        return Ok(());
    }
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let oldest_ms = now_ms.saturating_sub(deletes_kept(tombstones).as_millis());
    let held = log.offset_at(at, i64::try_from(oldest_ms).unwrap_or(i64::MAX)).await?;
    if next < held { Err(LogError::Stale { at: at.clone(), next }) } else { Ok(()) }
}

/// Which owners this node holds. With the embedded log: all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    All,
    /// Slots of each role, placed by the group protocol.
    Slots(Vec<(Role, Vec<u32>)>),
}

impl Placement {
    #[must_use]
    pub fn holds(&self, owner: &OwnerId) -> bool {
        match self {
            Self::All => true,
            Self::Slots(slots) => slots.iter().any(|(role, held)| *role == owner.role && held.contains(&slot(owner))),
        }
    }
}

/// The assignment slot of an owner: murmur2 of its name, as partitions are chosen.
#[must_use]
pub fn slot(owner: &OwnerId) -> u32 {
    crate::partition::partition_for(owner.name.as_bytes(), OwnerId::SLOTS)
}

/// A durable, partitioned log.
#[async_trait]
pub trait ExchangeLog: fmt::Debug + Send + Sync {
    fn id(&self) -> &LogId;

    /// Makes the topic, or checks that it has the wanted partitions and gives it the wanted retention.
    async fn ensure_topic(&self, topic: &TopicSpec) -> Result<(), LogError>;

    /// Partition count of a topic, `None` where there is none.
    async fn partitions(&self, topic: &str) -> Result<Option<u32>, LogError>;

    /// Which owners this node should run.
    fn placement(&self) -> watch::Receiver<Placement>;

    /// Fences every older holder of `owner`, then reads where it stands.
    async fn open(&self, owner: &OwnerId) -> Result<Box<dyn OwnedLog>, LogError>;

    async fn bounds(&self, at: &TopicPartition) -> Result<Bounds, LogError>;

    /// Offset after the last record written, committed or not. A reader that has come so far has seen every commit that was answered
    /// before, also by other nodes.
    async fn written(&self, at: &TopicPartition) -> Result<u64, LogError>;

    /// Offset of the first record whose timestamp is at or after `timestamp_ms`; the end where there is none.
    async fn offset_at(&self, at: &TopicPartition, timestamp_ms: i64) -> Result<u64, LogError>;

    /// Reads each partition from its offset on. An offset below the earliest or beyond the end is [`LogError::Gap`].
    async fn reader(&self, from: Vec<(TopicPartition, u64)>) -> Result<Box<dyn LogReader>, LogError>;

    /// Removes what retention and compaction let go, as of `now_ms`. On Kafka the brokers do it themselves.
    async fn maintain(&self, now_ms: i64) -> Result<(), LogError>;

    /// Bytes on disk, where the log knows them.
    async fn size(&self) -> Result<Option<u64>, LogError>;
}

#[async_trait]
pub trait LogReader: fmt::Debug + Send {
    /// The next records. Waits up to `budget.wait` for one; an empty batch means that none came in time, and not that none is there:
    /// [`crate::Span`] reads up to an end. Cancelling loses nothing.
    async fn read(&mut self, budget: ReadBudget) -> Result<ReadBatch, LogError>;
}

/// What an owner's maps hold.
#[async_trait]
pub trait KeyedState: fmt::Debug + Send + Sync {
    /// As [`OwnedLog::get`].
    async fn get(&self, map: &str, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LogError>;
}

/// One owner's hold on the log.
#[async_trait]
pub trait OwnedLog: fmt::Debug + Send + Sync {
    fn owner(&self) -> &OwnerId;

    /// The source's position as of the last commit.
    fn position(&self) -> Option<Bytes>;

    /// The consumed offset as of the last commit.
    fn offset(&self, at: &TopicPartition) -> Option<StoredOffset>;

    /// Writes the batch, all or nothing. After [`AppendError::Unknown`] and after `Refused(Fenced)` this holder is of no more use.
    async fn append(&mut self, batch: Batch) -> Result<Committed, AppendError>;

    /// Hands the batch over to be written. A hold that lets the next batch be made meanwhile answers before it is durable, reads state as
    /// of it, and tells how it ended with its next answer; every other one appends it.
    async fn begin(&mut self, batch: Batch) -> Result<(), AppendError> {
        self.append(batch).await.map(drop)
    }

    /// The owner's keyed state, to be read also while an append is under way: each entry as before it or as after it.
    fn state(&self) -> Arc<dyn KeyedState>;

    /// Values of `keys` in the owner's map, in their order, as of the last commit.
    async fn get(&self, map: &str, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LogError>;

    /// Entries whose keys start with `prefix` and sort after `after`, in the order of their keys, at most `limit`.
    async fn scan(&self, map: &str, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>, LogError>;
}
