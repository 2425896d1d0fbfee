//! The log on Kafka beside plain librdkafka: an idempotent producer with delivery callbacks, and a consumer that polls; without
//! compression and with the log's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use guitong_log::kafka::{KafkaLog, KafkaOptions};
use guitong_log::metrics::Metrics;
use guitong_log::{ExchangeLog, Role};
use guitong_schemas::contract::{KafkaCluster, KafkaConfig};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use tempfile::TempDir;

use super::{
    Content, KAFKA_BATCH, KAFKA_READ, KAFKA_READ_ALIKE, KAFKA_TIMES, KAFKA_WRITE, KAFKA_WRITE_ALIKE, RECORDS, finish, read, write,
};
use crate::rounds::Rounds;
use crate::{Failure, Outcome, load};

const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn compare(content: &Content, runs: usize) -> Outcome {
    let broker = load::broker().await?;
    let bootstrap = broker.bootstrap();
    let mut writing = Rounds::new("log on Kafka, transactions of 20,000 records: write", "records");
    let mut reading = Rounds::new("log on Kafka, read_committed: read", "records");
    let state = TempDir::new()?;
    let log = open(&bootstrap, "bench", &[Role::Connect], &state).await?;
    // The first round is not counted: the broker is young.
    for number in 0..=runs {
        let name = format!("bench{number}");
        let mut times = vec![
            (false, "log on Kafka", write(&log, content, &name, KAFKA_BATCH, KAFKA_TIMES).await?),
            (true, "log on Kafka", read(&log, &name, KAFKA_TIMES).await?),
        ];
        for (compression, wrote, has_read) in
            [("lz4", KAFKA_WRITE_ALIKE, KAFKA_READ_ALIKE), ("none", KAFKA_WRITE.name, KAFKA_READ.name)]
        {
            let topic = format!("{compression}{number}");
            make_topic(&bootstrap, &topic).await?;
            times.push((false, wrote, tokio::task::block_in_place(|| produce(&bootstrap, &topic, content, compression))?));
            times.push((true, has_read, tokio::task::block_in_place(|| consume(&bootstrap, &topic))?));
        }
        for (is_read, name, took) in times.into_iter().filter(|_| number > 0) {
            let rounds = if is_read { &mut reading } else { &mut writing };
            rounds.add(name, (RECORDS * KAFKA_TIMES) as u64, took);
        }
    }
    log.close().await;
    Ok(finish(writing, reading))
}

/// The log of an exchange, with the groups of its roles formed: the first opening of an owner would wait for it otherwise.
pub(crate) async fn open(bootstrap: &str, exchange: &str, roles: &[Role], state: &TempDir) -> Result<KafkaLog, Failure> {
    let options = KafkaOptions {
        exchange: exchange.to_owned(),
        config: KafkaConfig {
            cluster: KafkaCluster {
                brokers: vec![bootstrap.to_owned()],
                replication_factor: 1,
                properties: std::collections::BTreeMap::new(),
            },
            state_path: state.path().to_owned(),
        },
        roles: roles.to_vec(),
        patience: PATIENCE,
        metrics: Metrics::new()?,
    };
    let log = KafkaLog::open(options).await?;
    for role in roles {
        drop(log.open(&guitong_log::OwnerId::new(*role, "warm")).await?);
    }
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

fn produce(bootstrap: &str, topic: &str, content: &Content, compression: &str) -> Result<Duration, Failure> {
    let deliveries = Deliveries::default();
    let producer: ThreadedProducer<Deliveries> = client(bootstrap)
        .set("enable.idempotence", "true")
        .set("compression.type", compression)
        .set("queue.buffering.max.messages", "1000000")
        .create_with_context(deliveries.clone())?;
    let begun = Instant::now();
    for (key, value) in std::iter::repeat_n(&content.records, KAFKA_TIMES).flatten() {
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
    let sent = (RECORDS * KAFKA_TIMES) as u64;
    if (done, failed) != (sent, 0) {
        return Err(format!("{done} records were acknowledged and {failed} refused of {sent}").into());
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
    let sent = RECORDS * KAFKA_TIMES;
    while seen < sent {
        match consumer.poll(PATIENCE) {
            Some(message) => drop(std::hint::black_box(message?)),
            None => return Err(format!("{seen} records came of {sent}").into()),
        }
        seen += 1;
    }
    Ok(begun.elapsed())
}
