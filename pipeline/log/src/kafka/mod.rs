//! The exchange log on Kafka (3.6 or newer).
//!
//! - `<exchange>.log`: one record that names the log; with the cluster's id it is the [`LogId`].
//! - `<exchange>.assign.<role>`: the assignment topic of a role, 64 partitions, each a slot; compacted. A slot's partition holds
//!   positions, consumed offsets and keyed state of the slot's owners ([`changelog`]), and is what the group protocol places on
//!   nodes ([`group`]). A node keeps a local copy of the slots it holds ([`store`]).
//! - Every role of a node has one committer; the batches that wait share a transaction ([`committer`], [`producer`]).
//!
//! What subscribers get on their own topics is no part of the log ([`outlet`]).
//!
//! **Opening** an owner waits until its slot is held, ends older holders in this process, notes the end of the slot's partition,
//! uncommitted records counted, and reads committed records up to there: a transaction of the slot's former holder that passed
//! the brokers' fencing before the slot changed hands lies before that end, and holds the read back until it is committed or aborted.

mod changelog;
mod client;
mod committer;
mod group;
mod native;
mod outlet;
mod owned;
mod producer;
mod reader;
mod store;
mod topics;

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use guitong_schemas::contract::KafkaConfig;
use rand::Rng;
use tokio::sync::{Mutex, oneshot, watch};

use self::client::{Cluster, REQUEST, blocking};
use self::committer::{Command, Commands, Committer, Ends, Ticket};
use self::group::{Assignments, Member};
pub use self::outlet::{Outlet, OutletError, OutletRecord, Outlets};
use self::owned::KafkaOwned;
pub use self::reader::Pages;
use self::reader::{From, Readers};
use self::store::{SlotChanges, Store};
use self::topics::Topics;
use crate::contract::{
    Bounds, ExchangeLog, LogError, LogId, LogReader, OwnedLog, OwnerId, Placement, Role, TopicPartition, TopicSpec, slot,
};
use crate::metrics::Metrics;

/// How long an opening waits for its slot: a rebalance after a node's death takes its session timeout.
const SLOT_WAIT: Duration = Duration::from_secs(30);
/// A slot can be lost while it is read; how often an opening begins again.
const OPEN_TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What a node wants of its log.
#[derive(Debug, Clone)]
pub struct KafkaOptions {
    /// The exchange's name: prefix of groups, transactional ids and internal topics.
    pub exchange: String,
    pub config: KafkaConfig,
    /// Roles whose owners this node may run; without any it only reads.
    pub roles: Vec<Role>,
    /// How long to go on trying while no broker answers at the start.
    pub patience: Duration,
    pub metrics: Metrics,
}

/// The exchange log on a Kafka cluster.
#[derive(Debug)]
pub struct KafkaLog {
    id: LogId,
    cluster: Cluster,
    topics: Arc<Topics>,
    readers: Arc<Readers>,
    roles: HashMap<Role, RoleLog>,
    placement: watch::Sender<Placement>,
    stop: Arc<AtomicBool>,
    threads: SyncMutex<Vec<JoinHandle<()>>>,
    ends: Arc<Ends>,
    /// The state directory's; no other process uses it meanwhile.
    lock: SyncMutex<Option<File>>,
    metrics: Metrics,
}

/// A role on this node.
#[derive(Debug)]
struct RoleLog {
    topic: Arc<str>,
    assignments: Arc<Assignments>,
    store: Arc<Store>,
    commands: Commands,
    /// One per slot: two owners that are opened at once load their slot once.
    loading: Vec<Mutex<()>>,
}

impl KafkaLog {
    /// Connects, and joins the groups of the node's roles.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] when no broker answered in the options' patience; [`LogError::Locked`] when another process uses
    /// the state directory.
    pub async fn open(options: KafkaOptions) -> Result<Self, LogError> {
        let deadline = Instant::now().checked_add(options.patience);
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match Self::connect(&options).await {
                Ok(log) => return Ok(log),
                Err(error) => error,
            };
            let over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if !error.is_transient() || over {
                return Err(error);
            }
            tracing::warn!(%error, "the log is not reachable yet; trying again");
            let jitter = rand::rng().random_range(0.5..1.0);
            tokio::time::sleep(pause.mul_f64(jitter)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn connect(options: &KafkaOptions) -> Result<Self, LogError> {
        let cluster = Cluster::new(&options.exchange, options.config.cluster.clone());
        let topics = Arc::new(Topics::new(cluster.clone())?);
        let readers = Arc::new(Readers::new(cluster.clone(), Arc::clone(&topics)));
        let limit = options.patience.clamp(Duration::from_secs(1), REQUEST);
        let id = name(&cluster, &topics, &readers, limit).await?;
        let placement = watch::Sender::new(Placement::Slots(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let ends = Arc::default();
        let (threads, lock, metrics) = (SyncMutex::default(), SyncMutex::default(), options.metrics.clone());
        let mut log = Self { id, cluster, topics, readers, roles: HashMap::new(), placement, stop, threads, ends, lock, metrics };
        if options.roles.is_empty() {
            return Ok(log);
        }
        let folder = &options.config.state_path;
        let (lock, node) = {
            let folder = folder.clone();
            blocking(move || take_folder(&folder)).await?
        };
        log.lock = SyncMutex::new(Some(lock));
        for role in &options.roles {
            log.start(*role, folder, &node).await?;
        }
        Ok(log)
    }

    async fn start(&mut self, role: Role, folder: &Path, node: &Arc<str>) -> Result<(), LogError> {
        let exchange = &self.cluster.exchange;
        let topic: Arc<str> = format!("{exchange}.assign.{}", role.as_str()).into();
        self.topics.ensure(&topic, OwnerId::SLOTS, &topics::slot_settings()).await?;
        let store = folder.join(format!("{exchange}.{}.state", role.as_str()));
        let store = Arc::new(Store::open(&store, &self.id).await?);
        let assignments = Arc::new(Assignments::new(role, self.placement.clone()));
        let transactional_id = format!("{exchange}.{}.{node}", role.as_str());
        let (commands, committing) = Committer::start(
            self.cluster.clone(),
            Arc::clone(&topic),
            transactional_id,
            Arc::clone(&assignments),
            Arc::clone(&store),
            Arc::clone(&self.ends),
            self.metrics.clone(),
        )?;
        let member = Member {
            cluster: self.cluster.clone(),
            topic: Arc::clone(&topic),
            node: Arc::clone(node),
            assignments: Arc::clone(&assignments),
        };
        let stop = Arc::clone(&self.stop);
        let following = client::spawn("kafka-group", move || member.run(&stop))?;
        self.threads().extend([committing, following]);
        let loading = (0..OwnerId::SLOTS).map(|_| Mutex::default()).collect();
        let role_log = RoleLog { topic, assignments, store, commands, loading };
        self.roles.insert(role, role_log);
        Ok(())
    }

    fn threads(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends what runs for this log: transactions under way are finished, the groups are left to this node's return.
    pub async fn close(&self) {
        self.stop.store(true, Ordering::Relaxed);
        for role in self.roles.values() {
            // A committer that is gone already has nothing to finish.
            let _ = role.commands.sender.send(Command::Stop).await;
        }
        let threads = std::mem::take(&mut *self.threads());
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                let _ = thread.join();
            }
        });
        let _ = joined.await;
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn role(&self, owner: &OwnerId) -> Result<&RoleLog, LogError> {
        self.roles
            .get(&owner.role)
            .ok_or_else(|| LogError::Other(format!("{owner}: this node does not run the role {}", owner.role.as_str())))
    }

    /// The owner's ticket, once this node holds its slot.
    async fn ticket(&self, role: &RoleLog, owner: &OwnerId) -> Result<Ticket, LogError> {
        let slot = slot(owner);
        let deadline = tokio::time::Instant::now() + SLOT_WAIT;
        let mut changes = role.assignments.watch();
        loop {
            changes.borrow_and_update();
            let (reply, answer) = oneshot::channel();
            let open = Command::Open { owner: Arc::new(owner.clone()), slot, reply };
            let closed = |_| LogError::Unavailable { detail: "this log was closed".to_owned() };
            role.commands.sender.send(open).await.map_err(|_| closed(()))?;
            if let Some(ticket) = answer.await.map_err(|_| closed(()))? {
                return Ok(ticket);
            }
            if !matches!(tokio::time::timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
                return Err(self.cluster.unavailable(format!("{owner}: slot {slot} is not held by this node")));
            }
        }
    }

    /// Brings the local copy of the ticket's slot up to the partition's end as it is now.
    async fn load(&self, role: &RoleLog, ticket: &Ticket) -> Result<(), LogError> {
        let _one = match role.loading.get(ticket.slot as usize) {
            Some(loading) => loading.lock().await,
            None => return Err(LogError::Other(format!("slot {} does not exist", ticket.slot))),
        };
        if role.assignments.is_loaded(ticket.slot, ticket.slot_epoch) {
            return Ok(());
        }
        let at = TopicPartition::new(Arc::clone(&role.topic), ticket.slot);
        let bounds = self.topics.high_watermark(at.clone()).await?;
        let mut next = role.store.next(ticket.slot).await?;
        if next < bounds.earliest || next > bounds.end {
            next = 0;
        }
        if next == 0 {
            role.store.clear(ticket.slot).await?;
            next = bounds.earliest;
        }
        if next < bounds.end {
            self.load_from(role, at, next, bounds.end).await?;
        }
        if role.assignments.set_loaded(ticket.slot, ticket.slot_epoch) {
            return Ok(());
        }
        Err(LogError::Fenced { owner: (*ticket.owner).clone() })
    }

    async fn load_from(&self, role: &RoleLog, at: TopicPartition, next: u64, end: u64) -> Result<(), LogError> {
        let slot = at.partition;
        let mut pages = self.readers.pages(From { at, next, end })?;
        while let Some(records) = pages.next().await? {
            let changes = records.into_iter().filter_map(|record| Some((record.key?, record.value))).collect();
            role.store.apply(&[&SlotChanges { slot, next: pages.position(), changes }]).await?;
        }
        Ok(())
    }

    async fn hold(&self, role: &RoleLog, ticket: Ticket) -> Result<KafkaOwned, LogError> {
        let owner = &ticket.owner.name;
        let position = role.store.get(ticket.slot, &[changelog::position_key(owner)?]).await?.pop().flatten();
        let prefix = changelog::offsets_prefix(owner)?;
        let stored = role.store.scan(ticket.slot, &prefix, None, usize::MAX).await?;
        let offsets = changelog::offsets(stored, prefix.len())?;
        Ok(KafkaOwned {
            ticket,
            log: self.id.clone(),
            topics: Arc::clone(&self.topics),
            store: Arc::clone(&role.store),
            assignments: Arc::clone(&role.assignments),
            commands: role.commands.clone(),
            position,
            offsets,
            written: 0,
            metrics: self.metrics.clone(),
            over: false,
        })
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[async_trait]
impl ExchangeLog for KafkaLog {
    fn id(&self) -> &LogId {
        &self.id
    }

    async fn ensure_topic(&self, topic: &TopicSpec) -> Result<(), LogError> {
        self.topics.ensure(&topic.name, topic.partitions, &topics::settings(topic)).await
    }

    async fn partitions(&self, topic: &str) -> Result<Option<u32>, LogError> {
        self.topics.partitions(topic).await
    }

    fn placement(&self) -> watch::Receiver<Placement> {
        self.placement.subscribe()
    }

    async fn open(&self, owner: &OwnerId) -> Result<Box<dyn OwnedLog>, LogError> {
        let role = self.role(owner)?;
        let mut tries = 0;
        loop {
            let ticket = self.ticket(role, owner).await?;
            tries += 1;
            match self.load(role, &ticket).await {
                Ok(()) => return Ok(Box::new(self.hold(role, ticket).await?)),
                // The slot was lost while it was read; it may come back.
                Err(LogError::Fenced { .. }) if tries < OPEN_TRIES => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn bounds(&self, at: &TopicPartition) -> Result<Bounds, LogError> {
        self.topics.bounds_from(at, self.ends.of(at)).await
    }

    async fn written(&self, at: &TopicPartition) -> Result<u64, LogError> {
        Ok(self.topics.high_watermark(at.clone()).await?.end)
    }

    async fn offset_at(&self, at: &TopicPartition, timestamp_ms: i64) -> Result<u64, LogError> {
        let end = self.bounds(at).await?.end;
        let next = self.topics.offset_before(at.clone(), timestamp_ms).await?;
        let Some(next) = next.filter(|next| *next < end) else { return Ok(end) };
        let mut reader = self.readers.reader(vec![From { at: at.clone(), next, end }])?;
        reader::first_from(&mut reader, timestamp_ms, next, end).await
    }

    async fn reader(&self, from: Vec<(TopicPartition, u64)>) -> Result<Box<dyn LogReader>, LogError> {
        let mut checked = Vec::with_capacity(from.len());
        for (at, next) in from {
            let count = self.topics.count(&at.topic).await?;
            if at.partition >= count {
                return Err(LogError::Other(format!("{at} does not exist: the topic has {count} partitions")));
            }
            let Bounds { earliest, end } = self.bounds(&at).await?;
            if next < earliest || next > end {
                return Err(LogError::Gap { at, wanted: next, earliest, end, of: None });
            }
            checked.push(From { at, next, end });
        }
        Ok(Box::new(self.readers.reader(checked)?))
    }

    async fn maintain(&self, _now_ms: i64) -> Result<(), LogError> {
        Ok(())
    }

    async fn size(&self) -> Result<Option<u64>, LogError> {
        Ok(None)
    }
}

/// The log's id: the cluster's and what the first record of the naming topic says, which is written where there is none.
async fn name(cluster: &Cluster, topics: &Topics, readers: &Readers, limit: Duration) -> Result<LogId, LogError> {
    let of = topics.cluster_id(limit).await?;
    let topic: Arc<str> = format!("{}.log", cluster.exchange).into();
    topics.ensure(&topic, 1, &topics::name_settings()).await?;
    let at = TopicPartition::new(topic, 0);
    if let Some(name) = first_name(topics, readers, &at).await? {
        return Ok(LogId(format!("{of}/{name}").into()));
    }
    {
        let (cluster, topic) = (cluster.clone(), Arc::clone(&at.topic));
        let candidate = hex::encode(rand::rng().random::<[u8; 16]>());
        blocking(move || producer::write_one(&cluster, &topic, candidate.into())).await?;
    }
    // Two nodes may write at once: the first record counts.
    match first_name(topics, readers, &at).await? {
        Some(name) => Ok(LogId(format!("{of}/{name}").into())),
        None => Err(cluster.unavailable("the log's name was written and cannot be read")),
    }
}

async fn first_name(topics: &Topics, readers: &Readers, at: &TopicPartition) -> Result<Option<String>, LogError> {
    let bounds = topics.high_watermark(at.clone()).await?;
    if bounds.earliest == bounds.end {
        return Ok(None);
    }
    let from = From { at: at.clone(), next: bounds.earliest, end: bounds.end };
    let records = reader::read_first(&mut readers.reader(vec![from])?).await?;
    let damaged = || LogError::Corrupt { detail: format!("{at} does not begin with the log's name") };
    let name = records.into_iter().next().and_then(|record| record.value);
    let name = name.and_then(|name| String::from_utf8(name.to_vec()).ok()).ok_or_else(damaged)?;
    Ok(Some(name))
}

/// Takes the state directory for this process; gives the node's own name, which lives in it.
fn take_folder(folder: &Path) -> Result<(File, Arc<str>), LogError> {
    let fault = |error: std::io::Error| LogError::Other(format!("{}: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(fault)?;
    let lock = File::options().create(true).truncate(false).write(true).open(folder.join("lock")).map_err(fault)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(LogError::Locked { path: folder.display().to_string() }),
        Err(TryLockError::Error(error)) => return Err(fault(error)),
    }
    let path = folder.join("node");
    match std::fs::read_to_string(&path) {
        Ok(name) if !name.trim().is_empty() => return Ok((lock, name.trim().into())),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(fault(error)),
    }
    let name = hex::encode(rand::rng().random::<[u8; 8]>());
    let new = folder.join("node.new");
    std::fs::write(&new, &name).map_err(fault)?;
    std::fs::rename(&new, &path).map_err(fault)?;
    Ok((lock, name.into()))
}
