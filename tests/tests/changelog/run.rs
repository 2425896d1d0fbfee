//! The connector as a node runs it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use guitong_connectors::changelog;
use guitong_connectors::metrics::Metrics;
use guitong_connectors::run::{Connector, ConnectorError, ConnectorSettings, ConnectorState, SourceFactory};
use guitong_log::{ExchangeLog, ReadBudget, TopicPartition};
use tokio_util::sync::CancellationToken;

use super::harness::{Department, Exchange};

const TABLE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)";
const TOPIC: &str = "raw.licensing.main.t";

fn connector(exchange: &Exchange, department: &Department, prometheus: &prometheus::Registry) -> Connector {
    let (system, config) = (department.system.clone(), department.config().clone());
    let factory: SourceFactory = Arc::new(move |position| {
        let (system, config) = (system.clone(), config.clone());
        async move { changelog::open(&system, &config, position).await }.boxed()
    });
    let settings = ConnectorSettings { publish: Exchange::settings(16 << 20), batch: 1 << 20, wait: Duration::from_millis(100) };
    let metrics = Metrics::register(prometheus).unwrap().of("licensing");
    Connector::new(settings, exchange.log.clone(), exchange.registry.clone(), factory, metrics)
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_are_readable_in_milliseconds_and_shutdown_is_clean() {
    let mut department = Department::new(TABLE).await;
    department.run("INSERT INTO t VALUES (0, 'before')").await;
    department.prepare().await;
    let exchange = Exchange::new().await;
    let prometheus = prometheus::Registry::new();
    let connector = connector(&exchange, &department, &prometheus);
    let mut status = connector.status();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(connector.run(shutdown.clone()));
    status.wait_for(|status| status.totals.events == 1).await.unwrap();
    let at = TopicPartition::new(TOPIC, 0);
    let mut reader = exchange.log.reader(vec![(at, 1)]).await.unwrap();
    let mut took = vec![];
    for id in 1..=200 {
        department.run(&format!("INSERT INTO t VALUES ({id}, 'n')")).await;
        let committed = Instant::now();
        let read = reader.read(ReadBudget { bytes: 1 << 20, wait: Duration::from_secs(10) }).await.unwrap();
        assert_eq!(read.records.len(), 1);
        took.push(committed.elapsed());
    }
    took.sort_unstable();
    println!("commit to readable record: p50 {:?}, p99 {:?}", took[100], took[198]);
    assert!(took[100] < Duration::from_millis(100), "p50 {:?}", took[100]);
    shutdown.cancel();
    task.await.unwrap().unwrap();
    assert_eq!(status.borrow().state, ConnectorState::Stopped);
    let families = prometheus.gather();
    let events = families.iter().find(|family| family.name() == "guitong_connect_events_total").unwrap();
    assert_eq!(events.get_metric()[0].get_counter().get_value() as u64, 201);
    // Another run begins where this one ended.
    let connector = self::connector(&exchange, &department, &prometheus::Registry::new());
    let mut status = connector.status();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(connector.run(shutdown.clone()));
    department.run("UPDATE t SET name = 'm' WHERE id = 0").await;
    status.wait_for(|status| status.totals.events == 1).await.unwrap();
    shutdown.cancel();
    task.await.unwrap().unwrap();
    assert_eq!(exchange.records(TOPIC).await.len(), 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_must_settle_ends_the_connector_with_its_message() {
    let department = Department::new(TABLE).await;
    let exchange = Exchange::new().await;
    let connector = connector(&exchange, &department, &prometheus::Registry::new());
    let status = connector.status();
    let error = connector.run(CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, ConnectorError::Source(_)) && error.to_string().contains("guitong system prepare"), "{error}");
    assert!(matches!(&status.borrow().state, ConnectorState::Failed { error, gap: false } if error.contains("not prepared")));
}
