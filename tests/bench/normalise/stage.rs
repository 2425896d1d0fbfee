//! The whole stage of one resource, from its raw topic to records that are durable, beside a copy of the same raw records into another
//! topic: read, appended with the offset that was consumed, committed, and nothing else. On both logs.
//!
//! A copy writes more bytes (events are longer than records) and keeps no state; the stage decodes, checks and encodes, and notes for each
//! row which version and which record it has.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use guitong_connectors::publish::{PublishSettings, Publisher};
use guitong_connectors::source::SourceBatch;
use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_log::registry::{BuiltinRegistry, SchemaRegistry};
use guitong_log::{Batch, ExchangeLog, NewRecord, OwnerId, ReadBudget, Retention, Role, TopicPartition, TopicSpec};
use guitong_normalise::{Metrics, NormaliseContext, Normaliser};
use guitong_schemas::avro::schema::SourceKind;
use guitong_schemas::avro::{EventForm, topic_name};
use guitong_schemas::change::Change;
use guitong_schemas::contract::{Directory, Resource};
use guitong_schemas::standard::Standard;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::rounds::{Bar, Reference, Rounds};
use crate::{Failure, Outcome, load, log};

/// The node's usual budget of a batch.
const BATCH: ReadBudget = ReadBudget { bytes: 4 << 20, wait: Duration::from_secs(10) };
/// Changes of one batch of the connector.
const PUBLISHED: usize = 5_000;
/// A stage that has not ended by then never will.
const LIMIT: Duration = Duration::from_secs(120);
const STAGE: &str = "read, normalised, durable";
const COPY: &str = "read, copied, durable (reference)";
const BARS: [Bar; 1] = [Bar { name: STAGE, ratio: 0.8 }];
/// What copying was measured at on an idle machine.
const EMBEDDED: Reference = Reference { name: COPY, measured: 300_000.0 };
const KAFKA: Reference = Reference { name: COPY, measured: 200_000.0 };

/// What is normalised, and by what.
pub(super) struct Load<'a> {
    pub(super) directory: &'a Directory,
    pub(super) resource: &'a Arc<Resource>,
    pub(super) changes: &'a [Change],
}

pub(super) async fn run(load: &Load<'_>, runs: usize, with_kafka: bool) -> Outcome {
    let mut rounds = Rounds::new("normalise, the whole stage on the embedded log", "events");
    for _ in 0..runs {
        let home = TempDir::new()?;
        let file = EmbeddedLog::open(&EmbeddedConfig { path: home.path().join("log.db"), max_bytes: None }).await?;
        contest(load, Arc::new(file.clone()), &file, &mut rounds).await?;
        file.close().await;
    }
    let verdict = rounds.finish(EMBEDDED, &BARS);
    Ok(if with_kafka { verdict.and(kafka(load, runs).await?) } else { verdict })
}

async fn kafka(load: &Load<'_>, runs: usize) -> Outcome {
    let broker = load::broker().await?;
    let mut rounds = Rounds::new("normalise, the whole stage on Kafka", "events");
    let mut unwatched = Rounds::new("", "events");
    // The first round is not counted: the broker is young.
    for number in 0..=runs {
        let (home, state) = (TempDir::new()?, TempDir::new()?);
        let schemas = EmbeddedLog::open(&EmbeddedConfig { path: home.path().join("schemas.db"), max_bytes: None }).await?;
        let kafka = Arc::new(
            log::kafka::open(&broker.bootstrap(), &format!("normalise{number}"), &[Role::Connect, Role::Normalise], &state)
                .await?,
        );
        let rounds = if number > 0 { &mut rounds } else { &mut unwatched };
        contest(load, Arc::<guitong_log::kafka::KafkaLog>::clone(&kafka), &schemas, rounds).await?;
        kafka.close().await;
        schemas.close().await;
    }
    Ok(rounds.finish(KAFKA, &BARS))
}

/// One run of each on a log of its own.
async fn contest(load: &Load<'_>, log: Arc<dyn ExchangeLog>, schemas: &EmbeddedLog, rounds: &mut Rounds) -> Result<(), Failure> {
    let registry: Arc<dyn SchemaRegistry> = Arc::new(BuiltinRegistry::open(schemas).await?);
    publish(load, &log, &registry).await?;
    let system = load.resource.system.as_str();
    let raw = TopicPartition::new(topic_name(&format!("raw.{system}"), &load.resource.table, EventForm::DEFAULT.names), 0);
    let events = load.changes.len() as u64;
    rounds.add(COPY, events, copy(log.as_ref(), &raw, events).await?);
    rounds.add(STAGE, events, stage(load, log, registry).await?);
    Ok(())
}

async fn publish(load: &Load<'_>, log: &Arc<dyn ExchangeLog>, registry: &Arc<dyn SchemaRegistry>) -> Result<(), Failure> {
    let system = load.resource.system.as_str();
    let settings = PublishSettings {
        system: system.into(),
        database: "hall".into(),
        kind: SourceKind::Changelog,
        trace: Duration::from_secs(86_400),
        max_record: 16 << 20,
        complete: false,
        form: EventForm::DEFAULT,
    };
    let owned = log.open(&OwnerId::new(Role::Connect, system)).await?;
    let mut publisher = Publisher::new(owned, Arc::clone(log), Arc::clone(registry), settings).await?;
    for (number, changes) in load.changes.chunks(PUBLISHED).enumerate() {
        let position = Some(Bytes::from(number.to_string()));
        publisher.publish(SourceBatch { changes: changes.to_vec(), position, ..SourceBatch::default() }).await?;
    }
    Ok(())
}

/// Reads the next batch while the one before it is made durable, as the stage does.
async fn copy(log: &dyn ExchangeLog, raw: &TopicPartition, events: u64) -> Result<Duration, Failure> {
    let topic: Arc<str> = "std.copy".into();
    log.ensure_topic(&TopicSpec {
        name: Arc::clone(&topic),
        partitions: 1,
        retention: Retention::Expire { age: None, bytes: None },
    })
    .await?;
    let mut owned = log.open(&OwnerId::new(Role::Normalise, "copy")).await?;
    let begun = Instant::now();
    let mut reader = log.reader(vec![(raw.clone(), 0)]).await?;
    // Not up to the topic's end: on Kafka that is the end of the last transaction, behind its last record.
    let (mut copied, mut read) = (0, reader.read(BATCH).await?);
    while copied < events {
        let records = std::mem::take(&mut read.records);
        copied += records.len() as u64;
        let next = records.last().ok_or("a record of the raw topic did not come")?.offset + 1;
        let records = records.into_iter().map(|record| NewRecord {
            topic: Arc::clone(&topic),
            partition: Some(0),
            key: record.key,
            value: record.value,
            headers: record.headers,
            timestamp_ms: record.timestamp_ms,
        });
        let batch = Batch { records: records.collect(), offsets: vec![(raw.clone(), next)], ..Batch::default() };
        let more = async { if copied < events { reader.read(BATCH).await.map(Some) } else { Ok(None) } };
        let (appended, more) = tokio::join!(owned.append(batch), more);
        appended?;
        read = match more? {
            Some(more) => more,
            None => break,
        };
    }
    Ok(begun.elapsed())
}

async fn stage(load: &Load<'_>, log: Arc<dyn ExchangeLog>, registry: Arc<dyn SchemaRegistry>) -> Result<Duration, Failure> {
    let events = load.changes.len() as u64;
    let context = NormaliseContext {
        log,
        registry,
        standard: Arc::new(Standard::builtin().clone()),
        exchange: Arc::new(load.directory.exchange.clone()),
        metrics: Metrics::register(&prometheus::Registry::new())?,
        subscriptions: tokio::sync::watch::Sender::new(Arc::default()).subscribe(),
    };
    let (normaliser, handle) = Normaliser::new(context, Arc::clone(load.resource))?;
    let (shutdown, mut status) = (CancellationToken::new(), handle.status());
    let begun = Instant::now();
    let running = tokio::spawn(normaliser.run(shutdown.clone()));
    let done = tokio::time::timeout(LIMIT, status.wait_for(|status| status.received >= events)).await.map(|_| begun.elapsed());
    let last = status.borrow().clone();
    shutdown.cancel();
    running.await??;
    match done {
        Ok(took) if last.quarantined == 0 && last.entities == events => Ok(took),
        _ => Err(format!("the stage did not end: {last:?}").into()),
    }
}
