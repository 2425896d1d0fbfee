//! The exchange log on a real Kafka under the suite that every exchange log passes, and what only several nodes, brokers and
//! connections can do wrong.

#![allow(clippy::unwrap_used, reason = "a test helper that cannot go on fails its test")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use guitong_log::kafka::{KafkaLog, KafkaOptions};
use guitong_log::metrics::Metrics;
use guitong_log::{ExchangeLog, Retention, Role, TopicSpec};
use guitong_schemas::contract::{KafkaConfig, Secret};
use guitong_tests::log_conformance::LogUnderTest;
use guitong_tests::servers::kafka::{Kafka, Options};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use tempfile::TempDir;
use tokio::sync::OnceCell;

/// One broker for the whole suite: its checks keep apart by their exchanges' names.
async fn broker() -> String {
    static SHARED: OnceCell<Kafka> = OnceCell::const_new();
    let settings = vec![("log.cleaner.min.cleanable.ratio".to_owned(), "0.01".to_owned())];
    let start = || async { Kafka::start_with(Options { settings, ..Options::default() }).await.unwrap() };
    SHARED.get_or_init(start).await.bootstrap()
}

/// A topic with segments as small as Kafka takes them, so that there is something to clean and to delete. What an operator set on
/// a topic stays when an exchange finds it there.
async fn with_small_segments(brokers: &str, name: &str) {
    let admin: AdminClient<_> = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let topic = NewTopic::new(name, 1, TopicReplication::Fixed(1)).set("segment.bytes", "1048576");
    for made in admin.create_topics([&topic], &AdminOptions::new()).await.unwrap() {
        made.unwrap();
    }
}

fn options(brokers: &str, exchange: &str, state: &Path) -> KafkaOptions {
    let properties = [
        // What segments hold is to be what the checks write.
        ("compression.type", "none"),
        ("session.timeout.ms", "3000"),
        ("heartbeat.interval.ms", "100"),
        ("transaction.timeout.ms", "5000"),
    ];
    KafkaOptions {
        exchange: exchange.to_owned(),
        config: KafkaConfig {
            brokers: vec![brokers.to_owned()],
            replication_factor: 1,
            properties: properties.into_iter().map(|(name, value)| (name.to_owned(), Secret::new(value.to_owned()))).collect(),
            state_path: state.to_owned(),
        },
        roles: vec![Role::Connect],
        patience: Duration::from_secs(30),
        metrics: Metrics::new().unwrap(),
    }
}

/// An exchange of its own on the shared broker.
#[derive(Debug)]
struct Fixture {
    brokers: String,
    exchange: String,
    state: TempDir,
    metrics: Metrics,
    open: Mutex<Option<Arc<KafkaLog>>>,
}

impl Fixture {
    async fn fresh() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        Self {
            brokers: broker().await,
            exchange: format!("suite-{}", COUNT.fetch_add(1, Ordering::Relaxed)),
            state: tempfile::tempdir().unwrap(),
            metrics: Metrics::new().unwrap(),
            open: Mutex::new(None),
        }
    }
}

#[async_trait]
impl LogUnderTest for Fixture {
    const KILLS: usize = 3;

    async fn open(&self) -> Arc<dyn ExchangeLog> {
        let options = options(&self.brokers, &self.exchange, self.state.path());
        let log = KafkaLog::open(KafkaOptions { metrics: self.metrics.clone(), ..options }).await.unwrap();
        let log = Arc::new(log);
        *self.open.lock().unwrap() = Some(Arc::clone(&log));
        log
    }

    async fn close(&self) {
        let open = self.open.lock().unwrap().take();
        if let Some(log) = open {
            log.close().await;
        }
    }

    fn topic(&self, name: &str) -> Arc<str> {
        let topic = format!("{}.{name}", self.exchange);
        if ["raw.age.public.t", "raw.bytes.public.t", "std.compact"].contains(&name) {
            let make = with_small_segments(&self.brokers, &topic);
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(make));
        }
        topic.into()
    }

    fn child(&self) -> String {
        format!("{} {} {}", self.brokers, self.exchange, self.state.path().display())
    }

    async fn open_in_child(described: &str) -> Arc<dyn ExchangeLog> {
        let [brokers, exchange, state] = described.splitn(3, ' ').collect::<Vec<_>>().try_into().unwrap();
        Arc::new(KafkaLog::open(options(brokers, exchange, &PathBuf::from(state))).await.unwrap())
    }

    fn transactions(&self) -> u64 {
        self.metrics.transactions.get()
    }

    async fn forget_local_copies(&self) {
        for entry in std::fs::read_dir(self.state.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.to_string_lossy().contains(".state") {
                std::fs::remove_file(path).unwrap();
            }
        }
    }

    fn tombstones(&self) -> Duration {
        Duration::ZERO
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }
}

guitong_tests::log_conformance!(Fixture, Fixture::fresh().await);

async fn setting(brokers: &str, topic: &str, name: &str) -> String {
    let admin: AdminClient<_> = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let of = ResourceSpecifier::Topic(topic);
    let described = admin.describe_configs([&of], &AdminOptions::new()).await.unwrap().pop().unwrap().unwrap();
    described.get(name).and_then(|entry| entry.value.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_gets_its_retention_and_keeps_what_an_operator_set() {
    let fixture = Fixture::fresh().await;
    let log = fixture.open().await;
    let name: Arc<str> = format!("{}.kept", fixture.exchange).into();
    with_small_segments(&fixture.brokers, &name).await;
    for (retention, settings) in [
        (
            Retention::Expire { age: Some(Duration::from_secs(60)), bytes: Some(7_000_000) },
            [("cleanup.policy", "delete"), ("retention.ms", "60000"), ("retention.bytes", "7000000")],
        ),
        (
            Retention::Expire { age: None, bytes: None },
            [("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "-1")],
        ),
        (
            Retention::Compact { after: Duration::from_secs(5), tombstones: Duration::from_secs(9) },
            [("cleanup.policy", "compact"), ("min.compaction.lag.ms", "5000"), ("delete.retention.ms", "9000")],
        ),
    ] {
        let spec = TopicSpec { name: Arc::clone(&name), partitions: 1, retention };
        log.ensure_topic(&spec).await.unwrap();
        log.ensure_topic(&spec).await.unwrap();
        for (setting_name, value) in settings {
            assert_eq!(setting(&fixture.brokers, &name, setting_name).await, value, "{setting_name} of {spec:?}");
        }
        assert_eq!(setting(&fixture.brokers, &name, "segment.bytes").await, "1048576", "{spec:?}");
    }
    fixture.close().await;
}
