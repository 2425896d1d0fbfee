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
use guitong_normalise::{Filter, NormaliseContext, Normaliser, NormaliserHandle, Phase, Rejection};
use guitong_schemas::change::Change;
use guitong_schemas::contract::{Directory, Resource, System};
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
    Ok(registration::of(system, &directory.exchange, &metrics).0.publish)
}

/// Runs changes of the resource's table, in their order; tells the fate of each.
///
/// # Errors
/// When the mapping does not fit the rows' columns, or the temporary log cannot be written.
pub(crate) async fn run(
    directory: &Directory,
    resource: &Arc<Resource>,
    settings: PublishSettings,
    changes: Vec<Change>,
) -> Result<Vec<Fate>, Failure> {
    let folder = tempfile::Builder::new().prefix("guitong-try-").tempdir().map_err(broken)?;
    let log = EmbeddedLog::open(&EmbeddedConfig { path: folder.path().join("log.db"), max_bytes: None }).await?;
    let registry: Arc<dyn SchemaRegistry> = Arc::new(BuiltinRegistry::open(&log).await.map_err(broken)?);
    let count = changes.len();
    publish(&log, &registry, settings, changes).await?;
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
    let fates = settle(&log, resource, &handle, count).await;
    stop.cancel();
    ended(running).await;
    log.close().await;
    fates
}

async fn ended<T>(running: JoinHandle<T>) {
    // What the stage had to say stands in its status, which was read.
    let _ = running.await;
}

/// Publishes the changes, numbered in their order.
async fn publish(
    log: &EmbeddedLog,
    registry: &Arc<dyn SchemaRegistry>,
    settings: PublishSettings,
    changes: Vec<Change>,
) -> Result<(), Failure> {
    let owned = log.open(&OwnerId::new(Role::Connect, Arc::clone(&settings.system))).await?;
    let log: Arc<dyn ExchangeLog> = Arc::new(log.clone());
    let mut publisher = Publisher::new(owned, log, Arc::clone(registry), settings).await.map_err(broken)?;
    let (mut batch, mut size) = (Vec::new(), 0);
    let last = changes.len();
    for (number, mut change) in (1..).zip(changes) {
        change.version = Version { epoch: 1, commit: number as u64, ..Version::default() };
        size += change.size();
        batch.push(change);
        if size >= BATCH || number == last {
            let position = Some(Bytes::from(number.to_string()));
            let changes = std::mem::take(&mut batch);
            publisher.publish(SourceBatch { changes, position, ..SourceBatch::default() }).await.map_err(broken)?;
            size = 0;
        }
    }
    Ok(())
}

/// Waits until the stage has worked on everything, and reads what it wrote.
async fn settle(log: &EmbeddedLog, resource: &Resource, handle: &NormaliserHandle, count: usize) -> Result<Vec<Fate>, Failure> {
    let end = log.bounds(&TopicPartition::new(resource.raw_topic.as_str(), 0)).await?.end;
    let mut status = handle.status();
    let reached = status.wait_for(|status| match &status.phase {
        Phase::Running => status.offset >= end,
        Phase::Starting | Phase::WaitingForTopic | Phase::Loading => false,
        Phase::WaitingForTables(_) | Phase::Paused(_) | Phase::Retrying(_) | Phase::Stopped => true,
    });
    let phase = reached.await.map_err(broken)?.phase.clone();
    match phase {
        Phase::Running => {}
        Phase::WaitingForTables(tables) => {
            let why = format!("resource {} joins {tables}, and only rows of its own table are tried", resource.name);
            return Err(Failure::usage(why));
        }
        Phase::Paused(reason) | Phase::Retrying(reason) => return Err(Failure::usage(reason)),
        _ => return Err(broken("the stage ended")),
    }
    let mut fates: Vec<Fate> = (0..count).map(|_| Fate::default()).collect();
    for record in read(log, &format!("std.{}", resource.name)).await? {
        let version = record.header("guitong-version").and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        if let Some(fate) = version.and_then(|version| fate_of(&mut fates, version)) {
            fate.records.push(record);
        }
    }
    let mut after = None;
    loop {
        let page = handle.list(Filter::default(), after, PAGE).await.map_err(broken)?;
        for item in page.items {
            if let Some(fate) = item.version.parse().ok().and_then(|version| fate_of(&mut fates, version)) {
                fate.rejections = item.rejections;
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(fates);
        }
    }
}

/// The fate of the change that was published under this version.
fn fate_of(fates: &mut [Fate], version: Version) -> Option<&mut Fate> {
    fates.get_mut(usize::try_from(version.commit).ok()?.checked_sub(1)?)
}

/// Every record of a topic.
async fn read(log: &EmbeddedLog, topic: &str) -> Result<Vec<Record>, Failure> {
    let mut ends = BTreeMap::new();
    for partition in 0..log.partitions(topic).await?.unwrap_or(0) {
        let at = TopicPartition::new(topic, partition);
        let bounds = log.bounds(&at).await?;
        ends.insert(at, bounds);
    }
    let from = ends.iter().map(|(at, bounds)| (at.clone(), bounds.earliest)).collect();
    let mut reader = log.reader(from).await?;
    let mut records = Vec::new();
    ends.retain(|_, bounds| bounds.earliest < bounds.end);
    while !ends.is_empty() {
        let batch = reader.read(ReadBudget { bytes: READ, wait: Duration::from_secs(1) }).await?;
        records.extend(batch.records);
        for (at, next) in batch.next {
            if ends.get(&at).is_some_and(|bounds| next >= bounds.end) {
                ends.remove(&at);
            }
        }
    }
    Ok(records)
}

fn broken(error: impl std::fmt::Display) -> Failure {
    Failure::unreachable(format!("the rows cannot be tried: {error}"))
}
