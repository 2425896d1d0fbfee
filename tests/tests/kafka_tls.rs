//! The exchange log on an encrypted Kafka: by certificate, and by user and password.

#![allow(clippy::unwrap_used, reason = "a test helper that cannot go on fails its test")]

use std::path::Path;
use std::time::Duration;

use guitong_log::kafka::{KafkaLog, KafkaOptions};
use guitong_log::metrics::Metrics;
use guitong_log::registry::{RegistryClient, SchemaRegistry};
use guitong_log::{Batch, ExchangeLog, LogError, NewRecord, OwnerId, ReadBudget, Retention, Role, TopicPartition, TopicSpec};
use guitong_schemas::contract::{KafkaCluster, KafkaConfig, RegistryConfig, Secret};
use guitong_tests::servers::kafka::{Kafka, Options};
use guitong_tests::servers::tls::{Authority, Identity};
use tempfile::TempDir;

const USER: &str = "exchange";
const PASSWORD: &str = "synthetic-password";

/// A broker that proves itself to be 127.0.0.1, and who signed that.
struct Broker {
    kafka: Kafka,
    authority: Authority,
    /// Another authority: nobody here trusts it.
    stranger: Authority,
}

impl Broker {
    async fn start() -> Self {
        let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
        let identity = authority.issue("broker", "IP:127.0.0.1").unwrap();
        let tls = Some((identity, authority.certificate()));
        let users = vec![(USER.to_owned(), PASSWORD.to_owned())];
        let kafka = Kafka::start_with(Options { users, tls, ..Options::default() }).await.unwrap();
        Self { kafka, authority, stranger }
    }

    async fn open(&self, brokers: &str, properties: &[(&str, &str)], state: &TempDir) -> Result<KafkaLog, LogError> {
        let own = [("session.timeout.ms", "3000"), ("transaction.timeout.ms", "5000")];
        let properties = own.iter().chain(properties);
        let properties = properties.map(|&(name, value)| (name.to_owned(), Secret::new(value.to_owned())));
        KafkaLog::open(KafkaOptions {
            exchange: "encrypted".to_owned(),
            config: KafkaConfig {
                cluster: KafkaCluster {
                    brokers: vec![brokers.to_owned()],
                    replication_factor: 1,
                    properties: properties.collect(),
                },
                state_path: state.path().to_owned(),
            },
            roles: vec![Role::Connect],
            patience: Duration::from_secs(3),
            metrics: Metrics::new().unwrap(),
        })
        .await
    }

    /// A record goes through the log.
    async fn carries(&self, brokers: &str, properties: &[(&str, &str)]) {
        let state = tempfile::tempdir().unwrap();
        let log = self.open(brokers, properties, &state).await.unwrap();
        let topic = "encrypted.t";
        let retention = Retention::Expire { age: None, bytes: None };
        log.ensure_topic(&TopicSpec { name: topic.into(), partitions: 1, retention }).await.unwrap();
        let mut owned = log.open(&OwnerId::new(Role::Connect, "register")).await.unwrap();
        let record = NewRecord {
            topic: topic.into(),
            partition: None,
            key: Some("k".into()),
            value: Some("桂".into()),
            headers: Vec::new(),
            timestamp_ms: 1_700_000_000_000,
        };
        owned.append(Batch { records: vec![record], ..Batch::default() }).await.unwrap();
        let at = TopicPartition::new(topic, 0);
        let from = log.bounds(&at).await.unwrap().earliest;
        let mut reader = log.reader(vec![(at, from)]).await.unwrap();
        let read = reader.read(ReadBudget { bytes: 1 << 20, wait: Duration::from_secs(10) }).await.unwrap();
        assert_eq!(read.records.last().and_then(|record| record.value.as_deref()), Some("桂".as_bytes()));
        drop(owned);
        log.close().await;
    }

    async fn refuses(&self, brokers: &str, properties: &[(&str, &str)], words: &[&str]) {
        let state = tempfile::tempdir().unwrap();
        let error = self.open(brokers, properties, &state).await.unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)) && !error.contains(PASSWORD), "{words:?} in:\n{error}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_and_clients_prove_themselves() {
    let broker = Broker::start().await;
    let (trusted, unknown) = (broker.authority.certificate(), broker.stranger.certificate());
    let Identity { certificate, key } = broker.authority.issue("client", "DNS:exchange.example").unwrap();
    let bearing = |authority| {
        [
            ("security.protocol", "ssl"),
            ("ssl.ca.location", text(authority)),
            ("ssl.certificate.location", text(&certificate)),
            ("ssl.key.location", text(&key)),
        ]
    };
    let proving = |authority, password| {
        [
            ("security.protocol", "sasl_ssl"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.username", USER),
            ("sasl.password", password),
            ("ssl.ca.location", text(authority)),
        ]
    };
    let port = broker.kafka.tls_port();
    let (by_certificate, by_password) = (format!("127.0.0.1:{port}"), broker.kafka.sasl_tls_bootstrap());
    broker.carries(&by_certificate, &bearing(&trusted)).await;
    broker.carries(&by_password, &proving(&trusted, PASSWORD)).await;

    let another_name = format!("localhost:{port}");
    let (trusting, doubting, bare) = (bearing(&trusted), bearing(&unknown), &bearing(&trusted)[..2]);
    let (mistaken, unnamed) = (proving(&trusted, "another-password"), &proving(&trusted, PASSWORD)[..4]);
    let unverified = ["certificate verify failed", "ssl.ca.location"];
    tokio::join!(
        broker.refuses(&by_certificate, &doubting, &unverified),
        broker.refuses(&another_name, &trusting, &["certificate verify failed", "`brokers`"]),
        broker.refuses(&by_certificate, bare, &["alert bad certificate", "ssl.certificate.location"]),
        broker.refuses(&by_password, &mistaken, &["uthentication"]),
        // Without ssl.ca.location the machine's own authorities are trusted, of which this is none.
        broker.refuses(&by_password, unnamed, &unverified),
    );

    // A registry's client verifies before it asks, so that any server will do which proves itself by an unknown authority.
    let config = RegistryConfig { url: format!("https://{by_password}"), user: None, password: None };
    let refused = RegistryClient::new(&config).unwrap().schema(1).await.unwrap_err().to_string();
    assert!(refused.contains("UnknownIssuer") && refused.contains("SSL_CERT_FILE"), "{refused}");
}
