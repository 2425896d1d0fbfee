//! Topics: made, checked, given their retention; and what their partitions hold.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ConfigSource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

use super::client::{Cluster, Context, MAX_MESSAGE, REQUEST, Served, blocking};
use crate::contract::{Bounds, LogError, Retention, TopicPartition, TopicSpec};

/// Between two questions to a partition without a leader.
const LEADERLESS: Duration = Duration::from_millis(20);

/// Tombstones of offsets, positions and state stay this long; a local copy that was away for longer is made anew.
pub(crate) const INTERNAL_TOMBSTONES: Duration = Duration::from_secs(7 * 24 * 3600);

/// Records of subscribers' topics that later ones replaced are gone after this long.
const OUTLET_COMPACTED: Duration = Duration::from_secs(24 * 3600);

/// The cluster's topics as this process knows them.
pub(crate) struct Topics {
    cluster: Cluster,
    /// Made on first use and dropped after a fault: nobody serves its messages about itself.
    admin: Mutex<Option<Arc<AdminClient<Context>>>>,
    /// Asks for metadata and for ends of uncommitted records; makes no topic by asking.
    control: Served,
    /// Asks for committed records' offsets. Those that read would be answered only after their waiting fetch: a broker answers a
    /// connection's requests one after another.
    committed: Served,
    /// Partition counts never change, so what was seen once stays true.
    counts: Mutex<HashMap<Arc<str>, u32>>,
}

impl fmt::Debug for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topics").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl Topics {
    pub(crate) fn new(cluster: Cluster) -> Result<Self, LogError> {
        let control = cluster.consumer(&[("isolation.level", "read_uncommitted"), ("allow.auto.create.topics", "false")])?;
        let committed = cluster.consumer(&[("isolation.level", "read_committed"), ("allow.auto.create.topics", "false")])?;
        Ok(Self { cluster, admin: Mutex::default(), control, committed, counts: Mutex::default() })
    }

    /// The cluster's own id; blocks until a broker answers or `limit` is over.
    pub(crate) async fn cluster_id(&self, limit: Duration) -> Result<String, LogError> {
        let (cluster, consumer) = (self.cluster.clone(), Arc::clone(&self.control.consumer));
        blocking(move || consumer.client().fetch_cluster_id(limit).ok_or_else(|| cluster.unavailable("no broker answered"))).await
    }

    /// Partition count; `None` where there is no such topic.
    pub(crate) async fn partitions(&self, topic: &str) -> Result<Option<u32>, LogError> {
        if let Some(known) = self.counts().get(topic) {
            return Ok(Some(*known));
        }
        let (cluster, consumer) = (self.cluster.clone(), Arc::clone(&self.control.consumer));
        let name = topic.to_owned();
        let found = blocking(move || {
            let metadata = consumer.fetch_metadata(Some(&name), REQUEST).map_err(|error| cluster.error(&error))?;
            let topic = metadata.topics().iter().find(|topic| topic.name() == name);
            match topic.map(|topic| (topic.error(), topic.partitions())) {
                None | Some((Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART), _)) => Ok(None),
                Some((Some(error), _)) => Err(cluster.error(&KafkaError::MetadataFetch(error.into()))),
                // A new partition has no leader for a moment.
                Some((None, all)) if all.iter().any(|partition| partition.leader() < 0) => {
                    Err(cluster.error(&KafkaError::MetadataFetch(RDKafkaErrorCode::LeaderNotAvailable)))
                }
                Some((None, all)) => Ok(u32::try_from(all.len()).ok()),
            }
        });
        let found = found.await?;
        if let Some(count) = found {
            self.counts().insert(topic.into(), count);
        }
        Ok(found)
    }

    /// # Errors
    /// [`LogError::NoTopic`] where it does not exist.
    pub(crate) async fn count(&self, topic: &Arc<str>) -> Result<u32, LogError> {
        self.partitions(topic).await?.ok_or_else(|| LogError::NoTopic { topic: Arc::clone(topic) })
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, u32>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the topic or checks its partitions and gives it `settings`.
    pub(crate) async fn ensure(&self, name: &Arc<str>, wanted: u32, settings: &[(&str, String)]) -> Result<(), LogError> {
        let has = match self.partitions(name).await? {
            Some(has) => has,
            None => return self.create(name, wanted, settings).await,
        };
        if has != wanted {
            return Err(LogError::Partitions { topic: Arc::clone(name), has, wanted });
        }
        self.configure(name, settings).await
    }

    /// Makes the topic where there is none, and leaves one that is there as it is: it may have been made anew by others. Its partitions.
    pub(crate) async fn make(&self, name: &Arc<str>, wanted: u32, settings: &[(&str, String)]) -> Result<u32, LogError> {
        self.counts().remove(name);
        match self.partitions(name).await? {
            Some(has) => Ok(has),
            None => self.create(name, wanted, settings).await.map(|()| wanted),
        }
    }

    async fn create(&self, name: &Arc<str>, wanted: u32, settings: &[(&str, String)]) -> Result<(), LogError> {
        let partitions = i32::try_from(wanted).unwrap_or(i32::MAX);
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(self.cluster.replication()));
        for (setting, value) in settings {
            topic = topic.set(setting, value);
        }
        let made = self.admin()?.create_topics([&topic], &options()).await;
        let ours = match self.answered(made)?.into_iter().next() {
            // Another node may make the same topic at the same time, or it was made and is not known everywhere yet.
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => false,
            Some(Err((_, code))) => return Err(self.refused(name, code)),
            Some(Ok(_)) | None => true,
        };
        let deadline = Instant::now() + REQUEST;
        loop {
            match self.partitions(name).await {
                Ok(Some(has)) if has == wanted && ours => return Ok(()),
                Ok(Some(has)) if has == wanted => return self.configure(name, settings).await,
                Ok(Some(has)) => return Err(LogError::Partitions { topic: Arc::clone(name), has, wanted }),
                Err(error) if !error.is_transient() => return Err(error),
                // Made, but not known to every broker yet.
                Ok(None) | Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(20)).await,
                Ok(None) => return Err(self.cluster.unavailable(format!("topic {name} was made and is not seen"))),
                Err(error) => return Err(error),
            }
        }
    }

    /// Changes only what differs, and keeps what an operator set on the topic besides: the request replaces all of a topic's settings.
    async fn configure(&self, name: &Arc<str>, settings: &[(&str, String)]) -> Result<(), LogError> {
        let admin = self.admin()?;
        let of = ResourceSpecifier::Topic(name);
        let described = self.answered(admin.describe_configs([&of], &options()).await)?;
        let current = match described.into_iter().next() {
            Some(Ok(current)) => current,
            Some(Err(code)) => return Err(self.refused(name, code)),
            None => return Err(self.cluster.unavailable(format!("no settings of topic {name}"))),
        };
        let same = |(setting, value): &(&str, String)| {
            current.get(setting).and_then(|entry| entry.value.as_ref()).is_some_and(|has| has == value)
        };
        if settings.iter().all(same) {
            return Ok(());
        }
        let mut wanted = AlterConfig::new(of);
        for entry in &current.entries {
            let ours = settings.iter().any(|(setting, _)| *setting == entry.name);
            if let (ConfigSource::DynamicTopic, Some(value), false) = (&entry.source, &entry.value, ours) {
                wanted = wanted.set(&entry.name, value);
            }
        }
        for (setting, value) in settings {
            wanted = wanted.set(setting, value);
        }
        match self.answered(admin.alter_configs([&wanted], &options()).await)?.into_iter().next() {
            Some(Err((_, code))) => Err(self.refused(name, code)),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    fn refused(&self, name: &str, code: RDKafkaErrorCode) -> LogError {
        match self.cluster.error(&KafkaError::AdminOp(code)) {
            LogError::Other(detail) => LogError::Other(format!("topic {name}: {detail}")),
            error => error,
        }
    }

    fn admin(&self) -> Result<Arc<AdminClient<Context>>, LogError> {
        let mut kept = self.admin.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(admin) = kept.as_ref() {
            return Ok(Arc::clone(admin));
        }
        let admin = AdminClient::from_config_and_context(&self.cluster.client(&[]), self.cluster.context());
        let admin = Arc::new(admin.map_err(|error| self.cluster.error(&error))?);
        *kept = Some(Arc::clone(&admin));
        Ok(admin)
    }

    fn answered<T>(&self, answer: Result<T, KafkaError>) -> Result<T, LogError> {
        answer.map_err(|error| {
            *self.admin.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.cluster.error(&error)
        })
    }

    /// Offset after the last record, committed or not.
    pub(crate) async fn high_watermark(&self, at: TopicPartition) -> Result<Bounds, LogError> {
        self.ends(&self.control, at).await
    }

    /// First offset and the end of committed records, the last stable offset.
    pub(crate) async fn bounds(&self, at: TopicPartition) -> Result<Bounds, LogError> {
        self.ends(&self.committed, at).await
    }

    /// As [`Topics::bounds`], the end being at least `reached`: a commit is answered before its partitions know of it.
    pub(crate) async fn bounds_from(&self, at: &TopicPartition, reached: u64) -> Result<Bounds, LogError> {
        let deadline = Instant::now() + REQUEST;
        let mut pause = Duration::from_millis(1);
        loop {
            let bounds = self.bounds(at.clone()).await?;
            // Where another's transaction that began earlier is open, the end lies before it for as long.
            if bounds.end >= reached || Instant::now() >= deadline {
                return Ok(bounds);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    async fn ends(&self, by: &Served, at: TopicPartition) -> Result<Bounds, LogError> {
        let (cluster, consumer) = (self.cluster.clone(), Arc::clone(&by.consumer));
        blocking(move || {
            let number = i32::try_from(at.partition).unwrap_or(i32::MAX);
            let deadline = Instant::now() + REQUEST;
            let found = loop {
                match consumer.fetch_watermarks(&at.topic, number, REQUEST) {
                    Err(error) if is_moving(&error) && Instant::now() < deadline => std::thread::sleep(LEADERLESS),
                    found => break found,
                }
            };
            let (low, high) = found.map_err(|error| missing(&cluster, &at, &error))?;
            Ok(Bounds { earliest: u64::try_from(low).unwrap_or(0), end: u64::try_from(high).unwrap_or(0) })
        })
        .await
    }

    /// An offset at or before that of the first record from `timestamp_ms` or later; `None` where there is no such record. The
    /// brokers count control records too, whose time is that of their commit.
    pub(crate) async fn offset_before(&self, at: TopicPartition, timestamp_ms: i64) -> Result<Option<u64>, LogError> {
        let (cluster, consumer) = (self.cluster.clone(), Arc::clone(&self.committed.consumer));
        blocking(move || {
            let mut asked = TopicPartitionList::with_capacity(1);
            let number = i32::try_from(at.partition).unwrap_or(i32::MAX);
            // A time before 1970 is before every record, and negative offsets have other meanings.
            let time = Offset::Offset(timestamp_ms.max(0));
            asked.add_partition_offset(&at.topic, number, time).map_err(|error| cluster.error(&error))?;
            let found = consumer.offsets_for_times(asked, REQUEST).map_err(|error| missing(&cluster, &at, &error))?;
            let found = found.elements().into_iter().next().map(|element| (element.error(), element.offset()));
            match found {
                Some((Err(error), _)) => Err(missing(&cluster, &at, &error)),
                Some((Ok(()), Offset::Offset(offset))) => Ok(u64::try_from(offset).ok()),
                _ => Ok(None),
            }
        })
        .await
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(REQUEST)).operation_timeout(Some(REQUEST))
}

/// A partition that was just made, or whose broker goes, has no leader for a moment.
fn is_moving(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(error.rdkafka_error_code(), Some(Code::NotLeaderForPartition | Code::LeaderNotAvailable))
}

fn missing(cluster: &Cluster, at: &TopicPartition, error: &KafkaError) -> LogError {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition) => {
            LogError::NoTopic { topic: Arc::clone(&at.topic) }
        }
        _ => cluster.error(error),
    }
}

/// A topic's settings for its retention.
pub(crate) fn settings(topic: &TopicSpec) -> Vec<(&'static str, String)> {
    let ms = |age: Duration| i64::try_from(age.as_millis()).unwrap_or(i64::MAX).to_string();
    let mut settings = vec![
        ("max.message.bytes", MAX_MESSAGE.to_string()),
        // A record's time is its department's clock's, which may be ahead.
        ("message.timestamp.after.max.ms", i64::MAX.to_string()),
    ];
    match &topic.retention {
        Retention::Expire { age, bytes } => settings.extend([
            ("cleanup.policy", "delete".to_owned()),
            ("retention.ms", age.map_or("-1".to_owned(), ms)),
            ("retention.bytes", bytes.map_or("-1".to_owned(), |bytes| bytes.to_string())),
        ]),
        Retention::Compact { after, tombstones } => settings.extend([
            ("cleanup.policy", "compact".to_owned()),
            ("min.compaction.lag.ms", ms(*after)),
            ("delete.retention.ms", ms(*tombstones)),
        ]),
    }
    settings
}

/// Settings of the topic whose partitions are the slots of a role.
pub(crate) fn slot_settings() -> Vec<(&'static str, String)> {
    vec![
        ("max.message.bytes", MAX_MESSAGE.to_string()),
        ("cleanup.policy", "compact".to_owned()),
        ("delete.retention.ms", INTERNAL_TOMBSTONES.as_millis().to_string()),
        // The newest segment is not compacted; positions change with every commit, so it must not grow long.
        ("segment.bytes", (64 << 20).to_string()),
    ]
}

/// Settings of a subscriber's topic that the exchange makes.
pub(crate) fn outlet_settings() -> Vec<(&'static str, String)> {
    vec![
        ("max.message.bytes", MAX_MESSAGE.to_string()),
        ("cleanup.policy", "compact".to_owned()),
        ("delete.retention.ms", INTERNAL_TOMBSTONES.as_millis().to_string()),
        // What a narrower grant takes away has left the disk by then.
        ("max.compaction.lag.ms", OUTLET_COMPACTED.as_millis().to_string()),
    ]
}

/// Settings of the topic that names the log: nothing in it ever goes.
pub(crate) fn name_settings() -> Vec<(&'static str, String)> {
    vec![("cleanup.policy", "delete".to_owned()), ("retention.ms", "-1".to_owned()), ("retention.bytes", "-1".to_owned())]
}
