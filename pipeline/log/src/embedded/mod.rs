//! The exchange log in one SQLite file: one process, no server.
//!
//! WAL with `synchronous=FULL`: what was answered as committed survives the loss of power. One task writes ([`writer`]), readers
//! have connections of their own and see committed records only. Memory is bounded: appends on their way share
//! [`APPENDING`] bytes, readers hold what they were asked to read.

mod backup;
mod block;
mod fault;
mod file;
mod filter;
mod maintain;
mod owned;
mod reader;
mod rows;
mod stand;
mod state;
mod topics;
mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use sqlx::{Row, SqliteConnection, SqlitePool};
use tokio::sync::{Mutex, MutexGuard, Semaphore, SemaphorePermit, watch};

pub use self::backup::Restored;
use self::file::{FileLock, LogFile};
use self::owned::Hold;
use self::reader::Reader;
use self::rows::unsigned;
use self::state::State;
use self::topics::{Extent, Partition, Topic, Topics};
use self::writer::{Queue, Writer};
pub(crate) use self::writer::{Tx, Work, WorkError};
use crate::contract::{
    Bounds, ExchangeLog, LogError, LogId, LogReader, MAX_RECORD, OwnedLog, OwnerId, Placement, Retention, TopicPartition,
    TopicSpec,
};
use crate::metrics::Metrics;

/// Bytes of batches that may be packed and waiting for the writer at one time; a larger batch goes alone.
const APPENDING: usize = 2 * MAX_RECORD;
const KIB: usize = 1 << 10;

/// Where the log lies.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    pub path: PathBuf,
    /// Bytes that the file may grow to; a full file is [`LogError::DiskFull`]. `None`: what the disk holds.
    pub max_bytes: Option<u64>,
}

/// The embedded log. Clones are the same log.
#[derive(Debug, Clone)]
pub struct EmbeddedLog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: LogId,
    file: LogFile,
    readers: SqlitePool,
    queue: Queue,
    topics: Arc<Topics>,
    maps: Arc<Maps>,
    state: Arc<State>,
    appending: Semaphore,
    placement: watch::Sender<Placement>,
    maintaining: Mutex<()>,
    registering: Mutex<()>,
    metrics: Metrics,
}

impl Inner {
    /// Waits until a batch of so many bytes may be packed.
    async fn room(&self, bytes: usize) -> Result<SemaphorePermit<'_>, LogError> {
        let permits = bytes.div_ceil(KIB).clamp(1, APPENDING / KIB) as u32;
        self.appending.acquire_many(permits).await.map_err(|_| LogError::Unavailable { detail: "the log is closed".to_owned() })
    }
}

impl EmbeddedLog {
    /// Opens the log, or makes it where there is none. For one process at a time.
    ///
    /// # Errors
    /// [`LogError::Locked`], [`LogError::Foreign`], [`LogError::Newer`], [`LogError::DiskFull`].
    pub async fn open(config: &EmbeddedConfig) -> Result<Self, LogError> {
        let metrics = Metrics::new().map_err(|error| LogError::Other(error.to_string()))?;
        Self::open_with(config, metrics).await
    }

    /// As [`EmbeddedLog::open`], counting in `metrics`.
    ///
    /// # Errors
    /// As [`EmbeddedLog::open`].
    pub async fn open_with(config: &EmbeddedConfig, metrics: Metrics) -> Result<Self, LogError> {
        let lock = FileLock::take(&config.path)?;
        let file = LogFile::new(&config.path, config.max_bytes);
        let (id, mut conn) = file.prepare().await?;
        let (topics, maps) = load(&mut conn, &file).await?;
        let (topics, maps) = (Arc::new(topics), Arc::new(maps));
        let state = Arc::new(State::default());
        state.load(&mut conn, |error| file.error(error)).await?;
        let readers = file.readers();
        let queue = Writer::start(file.clone(), conn, (Arc::clone(&topics), Arc::clone(&state)), metrics.clone(), lock);
        let placement = watch::Sender::new(Placement::All);
        let appending = Semaphore::new(APPENDING / KIB);
        Ok(Self {
            inner: Arc::new(Inner {
                id,
                file,
                readers,
                queue,
                topics,
                maps,
                state,
                appending,
                placement,
                maintaining: Mutex::new(()),
                registering: Mutex::new(()),
                metrics,
            }),
        })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.file.path
    }

    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Connections that read what is committed.
    pub(crate) fn readers(&self) -> &SqlitePool {
        &self.inner.readers
    }

    /// Does a piece of work in the writer's next transaction.
    pub(crate) async fn perform(&self, work: Box<dyn Work>) -> Result<(), LogError> {
        self.inner.queue.perform(work).await
    }

    /// What an error of SQLite means for the log.
    pub(crate) fn fault(&self, error: sqlx::Error) -> LogError {
        self.inner.file.error(error)
    }

    /// One change of the schema registry at a time: each is decided by what was read before it.
    pub(crate) async fn registering(&self) -> MutexGuard<'_, ()> {
        self.inner.registering.lock().await
    }

    /// Ends the log after what was appended before; another may open the file when this returns.
    pub async fn close(&self) {
        self.inner.readers.close().await;
        self.inner.queue.close().await;
    }
}

async fn load(conn: &mut SqliteConnection, file: &LogFile) -> Result<(Topics, Maps), LogError> {
    let fault = |error: sqlx::Error| file.error(error);
    let topics = Topics::default();
    let extents = rows::extents(conn).await.map_err(fault)?;
    let mut partitions: HashMap<i64, Vec<(u32, u32)>> = HashMap::new();
    for row in sqlx::query("SELECT topic, id, number FROM partition ORDER BY topic, number")
        .fetch_all(&mut *conn)
        .await
        .map_err(fault)?
    {
        let (topic, id, number) =
            (row.try_get(0).map_err(fault)?, row.try_get(1).map_err(fault)?, row.try_get(2).map_err(fault)?);
        partitions.entry(topic).or_default().push((id, number));
    }
    for row in sqlx::query("SELECT id, name, compact, age_ms, extra FROM topic").fetch_all(&mut *conn).await.map_err(fault)? {
        let (id, name, retention) = topic_row(&row).map_err(fault)?;
        let ids = partitions.remove(&id).unwrap_or_default();
        topics.insert(Arc::new(assemble(&name, ids, &extents, retention)?));
    }
    let maps = Maps::default();
    for row in sqlx::query("SELECT owner, name, id FROM map").fetch_all(conn).await.map_err(fault)? {
        let key = (row.try_get(0).map_err(fault)?, row.try_get(1).map_err(fault)?);
        maps.insert(key, row.try_get(2).map_err(fault)?);
    }
    Ok((topics, maps))
}

fn topic_row(row: &sqlx::sqlite::SqliteRow) -> Result<(i64, Arc<str>, Retention), sqlx::Error> {
    let (compact, age, extra): (bool, Option<i64>, Option<i64>) = (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
    let millis = |ms: Option<i64>| ms.map(|ms| std::time::Duration::from_millis(unsigned(ms)));
    let retention = if compact {
        Retention::Compact { after: millis(age).unwrap_or_default(), tombstones: millis(extra).unwrap_or_default() }
    } else {
        Retention::Expire { age: millis(age), bytes: extra.map(unsigned) }
    };
    Ok((row.try_get(0)?, row.try_get::<String, _>(1)?.into(), retention))
}

/// Ids of keyed-state maps by owner and name.
#[derive(Debug, Default)]
struct Maps(RwLock<HashMap<(String, String), i64>>);

impl Maps {
    fn insert(&self, key: (String, String), id: i64) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(key, id);
    }

    fn known(&self, owner: &OwnerId, name: &str) -> Option<i64> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&(owner.to_string(), name.to_owned())).copied()
    }
}

/// Gives a map its id, for good; that it exists says nothing about what is in it.
struct DefineMap {
    maps: Arc<Maps>,
    key: (String, String),
    id: Option<i64>,
}

#[async_trait]
impl Work for DefineMap {
    async fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), WorkError> {
        let (owner, name) = &self.key;
        let sql = "INSERT INTO map (owner, name) VALUES (?, ?) ON CONFLICT DO UPDATE SET name = excluded.name RETURNING id";
        self.id = Some(sqlx::query_scalar(sql).bind(owner).bind(name).fetch_one(&mut *tx.conn).await?);
        Ok(())
    }

    fn committed(&mut self) {
        if let Some(id) = self.id {
            self.maps.insert(std::mem::take(&mut self.key), id);
        }
    }
}

impl Inner {
    /// The map's id; makes the map where there is none.
    async fn map(&self, owner: &OwnerId, name: &str) -> Result<i64, LogError> {
        loop {
            if let Some(id) = self.maps.known(owner, name) {
                return Ok(id);
            }
            let key = (owner.to_string(), name.to_owned());
            self.queue.perform(Box::new(DefineMap { maps: Arc::clone(&self.maps), key, id: None })).await?;
        }
    }
}

/// Makes a topic, or gives it its retention.
struct EnsureTopic {
    topics: Arc<Topics>,
    spec: TopicSpec,
    made: Option<Topic>,
}

#[async_trait]
impl Work for EnsureTopic {
    async fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), WorkError> {
        let millis = |age: std::time::Duration| i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let (compact, age, extra) = match &self.spec.retention {
            Retention::Expire { age, bytes } => (false, age.map(millis), bytes.map(rows::signed)),
            Retention::Compact { after, tombstones } => (true, Some(millis(*after)), Some(millis(*tombstones))),
        };
        let topic: i64 = sqlx::query_scalar(
            "INSERT INTO topic (name, compact, age_ms, extra) VALUES (?, ?, ?, ?)
             ON CONFLICT (name) DO UPDATE SET compact = excluded.compact, age_ms = excluded.age_ms, extra = excluded.extra RETURNING id",
        )
        .bind(&*self.spec.name)
        .bind(compact)
        .bind(age)
        .bind(extra)
        .fetch_one(&mut *tx.conn)
        .await?;
        let has: u32 =
            sqlx::query_scalar("SELECT count(*) FROM partition WHERE topic = ?").bind(topic).fetch_one(&mut *tx.conn).await?;
        if has != 0 && has != self.spec.partitions {
            return Err(partitions_differ(&self.spec, has).into());
        }
        for number in has..self.spec.partitions {
            let sql = "INSERT INTO partition (topic, number, earliest, next, bytes, high_ms, cleaned, clean_bytes) VALUES (?, ?, 0, 0, 0, 0, 0, 0)";
            sqlx::query(sql).bind(topic).bind(number).execute(&mut *tx.conn).await?;
        }
        self.made = if self.topics.find(&self.spec.name).is_some() { None } else { Some(self.read(tx, topic).await?) };
        Ok(())
    }

    fn committed(&mut self) {
        if let Some(topic) = self.made.take() {
            self.topics.insert(Arc::new(topic));
        } else if let Some(topic) = self.topics.find(&self.spec.name) {
            topic.set_retention(self.spec.retention.clone());
        }
    }
}

impl EnsureTopic {
    /// The topic as the file has it: memory lacks one also when the commit that made it had no answer.
    async fn read(&self, tx: &mut Tx<'_>, topic: i64) -> Result<Topic, WorkError> {
        let extents = rows::extents(tx.conn).await?;
        let ids: Vec<(u32, u32)> = sqlx::query_as("SELECT id, number FROM partition WHERE topic = ? ORDER BY number")
            .bind(topic)
            .fetch_all(&mut *tx.conn)
            .await?;
        Ok(assemble(&self.spec.name, ids, &extents, self.spec.retention.clone())?)
    }
}

/// A topic of the partitions with these ids and numbers.
fn assemble(
    name: &Arc<str>,
    ids: Vec<(u32, u32)>,
    extents: &HashMap<u32, Extent>,
    retention: Retention,
) -> Result<Topic, LogError> {
    let partition = |(id, number)| {
        let at = TopicPartition::new(Arc::clone(name), number);
        Partition::new(id, at, extents.get(&id).copied().unwrap_or_default()).map(Arc::new)
    };
    Ok(Topic::new(Arc::clone(name), ids.into_iter().map(partition).collect::<Result<_, _>>()?, retention))
}

fn partitions_differ(spec: &TopicSpec, has: u32) -> LogError {
    LogError::Partitions { topic: Arc::clone(&spec.name), has, wanted: spec.partitions }
}

#[async_trait]
impl ExchangeLog for EmbeddedLog {
    fn id(&self) -> &LogId {
        &self.inner.id
    }

    async fn ensure_topic(&self, spec: &TopicSpec) -> Result<(), LogError> {
        if spec.partitions == 0 {
            return Err(LogError::Other(format!("topic {} needs at least one partition", spec.name)));
        }
        if let Some(topic) = self.inner.topics.find(&spec.name) {
            let has = topic.partitions.len() as u32;
            if has != spec.partitions {
                return Err(partitions_differ(spec, has));
            }
            if topic.retention() == spec.retention {
                return Ok(());
            }
        }
        let work = EnsureTopic { topics: Arc::clone(&self.inner.topics), spec: spec.clone(), made: None };
        self.inner.queue.perform(Box::new(work)).await
    }

    async fn partitions(&self, topic: &str) -> Result<Option<u32>, LogError> {
        Ok(self.inner.topics.find(topic).map(|topic| topic.partitions.len() as u32))
    }

    fn placement(&self) -> watch::Receiver<Placement> {
        self.inner.placement.subscribe()
    }

    async fn open(&self, owner: &OwnerId) -> Result<Box<dyn OwnedLog>, LogError> {
        Ok(Box::new(Hold::open(Arc::clone(&self.inner), owner).await?))
    }

    async fn bounds(&self, at: &TopicPartition) -> Result<Bounds, LogError> {
        Ok(self.inner.topics.partition(at)?.bounds())
    }

    async fn written(&self, at: &TopicPartition) -> Result<u64, LogError> {
        Ok(self.inner.topics.partition(at)?.bounds().end)
    }

    async fn offset_at(&self, at: &TopicPartition, timestamp_ms: i64) -> Result<u64, LogError> {
        let partition = self.inner.topics.partition(at)?;
        reader::offset_at(&self.inner, &partition, timestamp_ms).await
    }

    async fn reader(&self, from: Vec<(TopicPartition, u64)>) -> Result<Box<dyn LogReader>, LogError> {
        Ok(Box::new(Reader::new(Arc::clone(&self.inner), from)?))
    }

    async fn maintain(&self, now_ms: i64) -> Result<(), LogError> {
        maintain::run(&self.inner, now_ms).await
    }

    async fn size(&self) -> Result<Option<u64>, LogError> {
        let length = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
        Ok(Some(length(&self.inner.file.path) + length(&self.inner.file.wal())))
    }
}
