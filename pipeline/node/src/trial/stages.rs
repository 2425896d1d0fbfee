//! Rows through the stages that run, publisher and normaliser, over a log of their own that is thrown away afterwards. What comes out is
//! what the exchange would publish, since nothing here knows how that is made.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use guitong_connectors::publish::{PublishSettings, Publisher};
use guitong_connectors::registration;
use guitong_connectors::source::SourceBatch;
use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_log::registry::{BuiltinRegistry, SchemaRegistry};
use guitong_log::{ExchangeLog, OwnerId, ReadBudget, Record, Role, TopicPartition};
use guitong_normalise::{Filter, NormaliseContext, Normaliser, NormaliserHandle, NormaliserStatus, Phase, Rejection};
use guitong_schemas::change::Change;
use guitong_schemas::contract::{Directory, JoinKind, Resource, System};
use guitong_schemas::position::Version;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::exit::Failure;

/// Bytes of rows that are published in one commit.
const BATCH: usize = 4 << 20;
/// Bytes that one read of the log gives.
const READ: usize = 4 << 20;
/// Entries that one page of the quarantine gives.
const PAGE: usize = 1_000;

/// What became of one row.
#[derive(Debug, Default)]
pub(crate) struct Fate {
    /// Records that its change published, as they stand in the log.
    pub(crate) records: Vec<Record>,
    pub(crate) rejections: Vec<Rejection>,
}

/// The settings under which a system's connector publishes.
pub(crate) fn settings(directory: &Directory, system: &Arc<System>) -> Result<PublishSettings, Failure> {
    let metrics = guitong_connectors::metrics::Metrics::register(&prometheus::Registry::new()).map_err(broken)?;
    Ok(registration::of(system, &directory.exchange, &metrics).settings.publish)
}

/// Runs changes: those of tables beside the resource's own, then its own, in steps of which each is some of their places; tells the fate
/// of each change. Where several rows make a record, a step is the rows of one; which of two changes is newer says their order all the
/// same.
///
/// # Errors
/// When the mapping does not fit the rows' columns, or the temporary log cannot be written.
pub(crate) async fn run(
    directory: &Directory,
    resource: &Arc<Resource>,
    settings: PublishSettings,
    (beside, own): (Vec<Change>, Vec<Change>),
    steps: &[Vec<usize>],
) -> Result<Vec<Fate>, Failure> {
    let folder = tempfile::Builder::new().prefix("guitong-try-").tempdir().map_err(broken)?;
    let log = EmbeddedLog::open(&EmbeddedConfig { path: folder.path().join("log.db"), max_bytes: None }).await?;
    let registry: Arc<dyn SchemaRegistry> = Arc::new(BuiltinRegistry::open(&log).await.map_err(broken)?);
    let mut source = Source::open(&log, &registry, settings).await?;
    let (first, count) = (beside.len() + 1, beside.len() + own.len());
    source.publish((1..).zip(beside)).await?;
    source.load(resource.joins.values().map(|join| join.table.to_string()).collect()).await?;
    let own: Vec<(usize, Change)> = (first..).zip(own).collect();
    let mut steps = steps.iter().map(|step| step.iter().filter_map(|at| own.get(*at).cloned()).collect::<Vec<_>>());
    source.publish(steps.next().unwrap_or_default()).await?;
    let context = NormaliseContext {
        log: Arc::new(log.clone()),
        registry,
        standard: Arc::clone(&directory.standard),
        exchange: Arc::new(directory.exchange.clone()),
        metrics: guitong_normalise::Metrics::register(&prometheus::Registry::new()).map_err(broken)?,
        subscriptions: watch::Sender::new(Arc::new(directory.subscriptions.clone())).subscribe(),
    };
    // However many rows are rejected, each is to be told of.
    let mut resource = Resource::clone(resource);
    resource.quality.pause_above.percent = 100;
    let resource = &Arc::new(resource);
    let (normaliser, handle) =
        Normaliser::new(context, Arc::clone(resource)).map_err(|error| Failure::usage(error.to_string()))?;
    let stop = CancellationToken::new();
    let running = tokio::spawn(normaliser.run(stop.clone()));
    let fates = (0..count).map(|_| Fate::default()).collect();
    let fates = follow(&log, resource, &handle, source, (fates, steps)).await;
    stop.cancel();
    ended(running).await;
    log.close().await;
    fates
}

async fn ended<T>(running: JoinHandle<T>) {
    // What the stage had to say stands in its status, which was read.
    let _ = running.await;
}

/// What stands for the department's connector.
struct Source {
    publisher: Publisher,
    /// Number of the newest change published last.
    last: usize,
}

impl Source {
    async fn open(log: &EmbeddedLog, registry: &Arc<dyn SchemaRegistry>, settings: PublishSettings) -> Result<Self, Failure> {
        let owned = log.open(&OwnerId::new(Role::Connect, Arc::clone(&settings.system))).await?;
        let log: Arc<dyn ExchangeLog> = Arc::new(log.clone());
        let publisher = Publisher::new(owned, log, Arc::clone(registry), settings).await.map_err(broken)?;
        Ok(Self { publisher, last: 0 })
    }

    /// Publishes the changes, each with the number that is its commit.
    async fn publish(&mut self, changes: impl IntoIterator<Item = (usize, Change)>) -> Result<(), Failure> {
        let mut changes = changes.into_iter().peekable();
        let (mut batch, mut size) = (Vec::new(), 0);
        while let Some((number, mut change)) = changes.next() {
            self.last = number;
            change.version = Version { epoch: 1, commit: number as u64, ..Version::default() };
            size += change.size();
            batch.push(change);
            if size >= BATCH || changes.peek().is_none() {
                let position = Some(Bytes::from(number.to_string()));
                let changes = std::mem::take(&mut batch);
                self.publisher.publish(SourceBatch { changes, position, ..SourceBatch::default() }).await.map_err(broken)?;
                size = 0;
            }
        }
        Ok(())
    }

    /// Says that these tables are there whole.
    async fn load(&mut self, tables: Vec<String>) -> Result<(), Failure> {
        if !tables.is_empty() {
            self.publisher.publish(SourceBatch { loaded: tables, ..SourceBatch::default() }).await.map_err(broken)?;
        }
        Ok(())
    }
}

/// Publishes step after step, each once the stage has worked on those before it, and reads what it wrote.
async fn follow(
    log: &EmbeddedLog,
    resource: &Resource,
    handle: &NormaliserHandle,
    mut source: Source,
    (mut fates, mut steps): (Vec<Fate>, impl Iterator<Item = Vec<(usize, Change)>>),
) -> Result<Vec<Fate>, Failure> {
    let topic = format!("std.{}", resource.name);
    let is_grouped = resource.joins.values().any(|join| join.kind == JoinKind::Group);
    let mut from = BTreeMap::new();
    loop {
        settle(log, resource, handle).await?;
        for record in read(log, &topic, &mut from).await? {
            let version = || record.header("guitong-version").and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
            let commit = |version: Version| usize::try_from(version.commit).ok();
            let number = if is_grouped { Some(source.last) } else { version().and_then(commit) };
            if let Some(fate) = number.and_then(|number| fate_of(&mut fates, number)) {
                fate.records.push(record);
            }
        }
        let Some(next) = steps.next() else { break };
        source.publish(next).await?;
    }
    let mut after = None;
    loop {
        let page = handle.list(Filter::default(), after, PAGE).await.map_err(broken)?;
        for item in page.items {
            let version: Option<Version> = item.version.parse().ok();
            let number = version.and_then(|version| usize::try_from(version.commit).ok());
            if let Some(fate) = number.and_then(|number| fate_of(&mut fates, number)) {
                fate.rejections = item.rejections;
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(fates);
        }
    }
}

/// Waits until the stage has worked on everything.
async fn settle(log: &EmbeddedLog, resource: &Resource, handle: &NormaliserHandle) -> Result<(), Failure> {
    let mut ends = BTreeMap::new();
    for topic in resource.joins.values().map(|join| &join.raw_topic).chain([&resource.raw_topic]) {
        if log.partitions(topic).await?.is_some() {
            ends.insert(topic, log.bounds(&TopicPartition::new(topic.as_str(), 0)).await?.end);
        }
    }
    let is_read = |status: &NormaliserStatus, topic: &String, end: u64| {
        let next = if *topic == resource.raw_topic { Some(&status.offset) } else { status.joined.get(topic) };
        next.is_some_and(|next| *next >= end)
    };
    let mut status = handle.status();
    let reached = status.wait_for(|status| match &status.phase {
        Phase::Running => !status.refreshing && ends.iter().all(|(topic, end)| is_read(status, topic, *end)),
        Phase::Starting | Phase::WaitingForTopic | Phase::WaitingForTables(_) | Phase::Loading => false,
        Phase::Paused(_) | Phase::Retrying(_) | Phase::Stopped => true,
    });
    let phase = reached.await.map_err(broken)?.phase.clone();
    match phase {
        Phase::Running => Ok(()),
        Phase::Paused(reason) | Phase::Retrying(reason) => Err(Failure::usage(reason)),
        _ => Err(broken("the stage ended")),
    }
}

/// The fate of the change with this number.
fn fate_of(fates: &mut [Fate], number: usize) -> Option<&mut Fate> {
    fates.get_mut(number.checked_sub(1)?)
}

/// Every record of a topic from where it was read before.
async fn read(log: &EmbeddedLog, topic: &str, from: &mut BTreeMap<TopicPartition, u64>) -> Result<Vec<Record>, Failure> {
    let mut ends = BTreeMap::new();
    for partition in 0..log.partitions(topic).await?.unwrap_or(0) {
        let at = TopicPartition::new(topic, partition);
        let bounds = log.bounds(&at).await?;
        let next = from.entry(at.clone()).or_insert(bounds.earliest);
        if *next < bounds.end {
            ends.insert(at, bounds.end);
        }
    }
    let mut records = Vec::new();
    if ends.is_empty() {
        return Ok(records);
    }
    let unread = ends.keys().filter_map(|at| Some((at.clone(), *from.get(at)?))).collect();
    let mut reader = log.reader(unread).await?;
    while !ends.is_empty() {
        let batch = reader.read(ReadBudget { bytes: READ, wait: Duration::from_secs(1) }).await?;
        records.extend(batch.records);
        for (at, next) in batch.next {
            if ends.get(&at).is_some_and(|end| next >= *end) {
                ends.remove(&at);
            }
            from.insert(at, next);
        }
    }
    Ok(records)
}

fn broken(error: impl std::fmt::Display) -> Failure {
    Failure::unreachable(format!("the rows cannot be tried: {error}"))
}
