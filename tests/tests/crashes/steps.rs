//! Between any two steps of publishing (rows received, records appended, committed, confirmed) the node is killed: what it does next is
//! held on the wire until it is dead, and never arrives. After its next start each row is in the raw topic once.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use guitong_log::registry::RegistryClient;
use guitong_schemas::contract::RegistryConfig;
use guitong_tests::exchange::{Exchange, SYSTEM};
use guitong_tests::servers::kafka::{Kafka, Options};
use guitong_tests::servers::proxy::{END_TXN, Mode, PRODUCE, Proxy};
use guitong_tests::servers::registry::Registry;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use sqlx::AssertSqlSafe;

use crate::department::{Department, PATIENCE};
use crate::raw::{Raw, Stored, assert_once, decode, embedded};

const TABLE: &str =
    "CREATE TABLE t (id int PRIMARY KEY, name text); INSERT INTO t SELECT n, 'n' || n FROM generate_series(1, 3) n";

/// Commits these rows one by one, or all in one transaction.
async fn insert(department: &Department, rows: RangeInclusive<u32>, together: bool) {
    let statements: Vec<String> = rows.map(|id| format!("INSERT INTO t VALUES ({id}, 'n{id}')")).collect();
    let parts = if together { vec![statements.join("; ")] } else { statements };
    for sql in parts {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&department.pool).await.unwrap();
    }
}

async fn has_published(exchange: &Exchange, events: u64) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let status = exchange.status(PATIENCE).await.unwrap();
        let system = &status["systems"][0];
        if system["state"] == "streaming" && system["events"] == events {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{events} events are wanted: {status:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The next start comes in past the proxy, which goes, and what it held with it.
fn past(proxy: Proxy, exchange: &Exchange, file: &str, to: &str) {
    let text = std::fs::read_to_string(exchange.path().join(file)).unwrap();
    exchange.put(file, &text.replace(&proxy.address().to_string(), to)).unwrap();
    drop(proxy);
}

fn ids(raw: &[Raw]) -> Vec<u64> {
    assert_once(raw);
    raw.iter().map(|record| record.key["id"].as_u64().unwrap()).collect()
}

/// Committed in the log, and the server has not heard of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_commit_and_confirmation_loses_and_doubles_nothing() {
    let department = Department::with(TABLE).await;
    let (listener, port) = Proxy::bind().await.unwrap();
    let proxy = Proxy::start(listener, department.server.port()).unwrap();
    let exchange = Exchange::tailing(&format!("tables = [\"public.t\"]\n{}", department.system(port)), "").unwrap();
    let node = exchange.start().unwrap();
    has_published(&exchange, 3).await;
    insert(&department, 4..=6, false).await;
    has_published(&exchange, 6).await;
    department.is_confirmed().await;

    proxy.set(Mode::HoldFeedback);
    let before = department.end().await;
    insert(&department, 7..=30, false).await;
    insert(&department, 31..=50, true).await;
    has_published(&exchange, 50).await;
    node.kill().unwrap();
    assert!(department.confirmed().await.unwrap() <= before, "the server heard of what was committed");
    assert_eq!(ids(&embedded(&exchange, "t").await), (1..=50).collect::<Vec<_>>(), "committed before the kill");

    past(proxy, &exchange, SYSTEM, &format!("127.0.0.1:{}", department.server.port()));
    let node = exchange.start().unwrap();
    insert(&department, 51..=53, false).await;
    department.is_confirmed().await;
    assert_eq!(node.terminate().unwrap().0, Some(0));
    assert_eq!(ids(&embedded(&exchange, "t").await), (1..=53).collect::<Vec<_>>());
}

/// Every record of the raw topic in a reader's eyes.
fn stored(brokers: &str, isolation: &str) -> Vec<Stored> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "reader").set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.set("isolation.level", isolation).create().unwrap();
    let mut from = TopicPartitionList::new();
    from.add_partition_offset("raw.licensing.public.t", 0, Offset::Beginning).unwrap();
    consumer.assign(&from).unwrap();
    let mut all = Vec::new();
    loop {
        match consumer.poll(PATIENCE).expect("the broker answers") {
            Ok(message) => {
                let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
                let headers = headers.map(|header| (header.key.to_owned(), Bytes::copy_from_slice(header.value.unwrap())));
                let bytes = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
                all.push((message.key().map(bytes), message.payload().map(bytes), headers.collect()));
            }
            Err(KafkaError::PartitionEOF(_)) => return all,
            Err(error) => panic!("{error}"),
        }
    }
}

/// On Kafka the node is killed while the first request of this kind is kept from the brokers; `written` rows of ten are in the partition then.
async fn is_killed_at(api_key: i16, written: u64) {
    let department = Department::with(TABLE).await;
    let registry = Registry::start().await.unwrap();
    let (listener, port) = Proxy::bind().await.unwrap();
    let kafka = Kafka::start_with(Options { advertise: Some(port), ..Options::default() }).await.unwrap();
    let proxy = Proxy::start(listener, kafka.second_port()).unwrap();
    let log = format!(
        "[log]\nkind = \"kafka\"\nbrokers = [\"{}\"]\nreplication_factor = 1\n\n[registry]\nurl = \"{}\"\n",
        proxy.address(),
        registry.url()
    );
    // Nothing is committed because time passes.
    let system = format!("tables = [\"public.t\"]\nheartbeat = \"1h\"\n{}", department.system(department.server.port()));
    let exchange = Exchange::tailing(&system, &log).unwrap();
    let node = exchange.start().unwrap();
    has_published(&exchange, 3).await;
    insert(&department, 4..=6, false).await;
    has_published(&exchange, 6).await;

    proxy.set(Mode::HoldRequest { api_key });
    let before = department.end().await;
    insert(&department, 7..=10, true).await;
    tokio::time::timeout(PATIENCE, proxy.reached(Mode::Hold)).await.unwrap();
    let client = Arc::new(RegistryClient::new(&RegistryConfig { url: registry.url(), user: None, password: None }).unwrap());
    let seen =
        async |isolation: &str| ids(&decode(Arc::<RegistryClient>::clone(&client), stored(&kafka.bootstrap(), isolation)).await);
    assert_eq!(seen("read_uncommitted").await, (1..=written).collect::<Vec<_>>(), "what is in the partition");
    assert_eq!(seen("read_committed").await, (1..=6).collect::<Vec<_>>(), "what is committed");
    assert!(department.sent().await.unwrap() > before, "the rows were received");
    node.kill().unwrap();
    assert!(department.confirmed().await.unwrap() <= before, "confirmed before it was committed");

    past(proxy, &exchange, "exchange.toml", &kafka.bootstrap());
    let _node = exchange.start().unwrap();
    insert(&department, 11..=13, false).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while seen("read_committed").await.len() < 13 {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", seen("read_committed").await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(seen("read_committed").await, (1..=13).collect::<Vec<_>>());
}

/// Rows were received, and nothing of them is written.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_the_append_loses_and_doubles_nothing() {
    is_killed_at(PRODUCE, 6).await;
}

/// Records are in the partition, and their transaction is open.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_append_and_commit_loses_and_doubles_nothing() {
    is_killed_at(END_TXN, 10).await;
}
