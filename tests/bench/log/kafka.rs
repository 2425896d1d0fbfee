//! The log on Kafka beside plain librdkafka: an idempotent producer with delivery callbacks, and a consumer that polls. Both
//! compress as the log does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use guitong_log::kafka::{KafkaLog, KafkaOptions};
use guitong_log::metrics::Metrics;
use guitong_log::{ExchangeLog, Role};
use guitong_schemas::contract::KafkaConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use tempfile::TempDir;

use super::{Content, KAFKA_BATCH, KAFKA_READ, KAFKA_WRITE, RECORDS, finish, read, write};
use crate::rounds::Rounds;
use crate::{Failure, Outcome, load};

const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn compare(content: &Content, runs: usize) -> Outcome {
    let broker = load::broker().await?;
    let bootstrap = broker.bootstrap();
    let mut writing = Rounds::new("log on Kafka, transactions of 20,000 records: write", "records");
    let mut reading = Rounds::new("log on Kafka, read_committed: read", "records");
    let state = TempDir::new()?;
    let log = open(&bootstrap, "bench", &state).await?;
    for number in 0..runs {
        let name = format!("bench{number}");
        writing.add("log on Kafka", RECORDS as u64, write(&log, content, &name, KAFKA_BATCH).await?);
        reading.add("log on Kafka", RECORDS as u64, read(&log, &name).await?);
        let topic = format!("plain{number}");
        make_topic(&bootstrap, &topic).await?;
        writing.add(KAFKA_WRITE.name, RECORDS as u64, tokio::task::block_in_place(|| produce(&bootstrap, &topic, content))?);
        reading.add(KAFKA_READ.name, RECORDS as u64, tokio::task::block_in_place(|| consume(&bootstrap, &topic))?);
    }
    log.close().await;
    Ok(finish(writing, reading))
}

/// The log of an exchange, with the group of its connectors formed: the first opening of an owner would wait for it otherwise.
pub(crate) async fn open(bootstrap: &str, exchange: &str, state: &TempDir) -> Result<KafkaLog, Failure> {
    let options = KafkaOptions {
        exchange: exchange.to_owned(),
        config: KafkaConfig {
            brokers: vec![bootstrap.to_owned()],
            replication_factor: 1,
            properties: std::collections::BTreeMap::new(),
            state_path: state.path().to_owned(),
        },
        roles: vec![Role::Connect],
        patience: PATIENCE,
        metrics: Metrics::new()?,
    };
    let log = KafkaLog::open(options).await?;
    drop(log.open(&guitong_log::OwnerId::new(Role::Connect, "warm")).await?);
    Ok(log)
}

fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    config
}

async fn make_topic(bootstrap: &str, name: &str) -> Result<(), Failure> {
    let admin: AdminClient<_> = client(bootstrap).create()?;
    for made in admin.create_topics([&NewTopic::new(name, 1, TopicReplication::Fixed(1))], &AdminOptions::new()).await? {
        made.map_err(|(topic, error)| format!("{topic}: {error}"))?;
    }
    Ok(())
}

/// Counts what the broker has acknowledged, and what it has not taken.
#[derive(Clone, Default)]
struct Deliveries {
    done: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let count = if result.is_ok() { &self.done } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn produce(bootstrap: &str, topic: &str, content: &Content) -> Result<Duration, Failure> {
    let deliveries = Deliveries::default();
    let producer: ThreadedProducer<Deliveries> = client(bootstrap)
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("queue.buffering.max.messages", "1000000")
        .create_with_context(deliveries.clone())?;
    let begun = Instant::now();
    for (key, value) in &content.records {
        let mut record = BaseRecord::to(topic).key(&key[..]).payload(&value[..]).partition(0);
        while let Err((error, back)) = producer.send(record) {
            if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                return Err(error.into());
            }
            std::thread::yield_now();
            record = back;
        }
    }
    producer.flush(PATIENCE)?;
    let took = begun.elapsed();
    let (done, failed) = (deliveries.done.load(Ordering::Relaxed), deliveries.failed.load(Ordering::Relaxed));
    if (done, failed) != (RECORDS as u64, 0) {
        return Err(format!("{done} records were acknowledged and {failed} refused of {RECORDS}").into());
    }
    Ok(took)
}

fn consume(bootstrap: &str, topic: &str) -> Result<Duration, Failure> {
    let consumer: BaseConsumer = client(bootstrap).set("group.id", "bench.plain").set("enable.auto.commit", "false").create()?;
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(topic, 0, Offset::Beginning)?;
    let begun = Instant::now();
    consumer.assign(&from)?;
    let mut seen = 0;
    while seen < RECORDS {
        match consumer.poll(PATIENCE) {
            Some(message) => drop(std::hint::black_box(message?)),
            None => return Err(format!("{seen} records came of {RECORDS}").into()),
        }
        seen += 1;
    }
    Ok(begun.elapsed())
}
