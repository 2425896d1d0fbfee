//! What the server keeps for the slot is known, and said, while nothing is read: that is when it piles up.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use guitong_connectors::metrics::Metrics;
use guitong_connectors::postgres::{PostgresSource, SlotWatch};
use guitong_connectors::run::{Connector, ConnectorSettings, ConnectorState, ConnectorStatus, SourceFactory};
use guitong_connectors::source::{Phase, Source};
use guitong_log::{
    AppendError, Batch, Bounds, Committed, ExchangeLog, KeyedState, LogError, LogId, LogReader, OwnedLog, OwnerId, Placement,
    StoredOffset, TopicPartition, TopicSpec,
};
use guitong_schemas::contract::system::System;
use guitong_tests::servers::postgres::{Options, Postgres};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::harness::*;
use super::logs;

const PATIENCE: Duration = Duration::from_secs(60);

/// A log whose appends do not come back while it is stuck.
#[derive(Debug)]
struct Sticky<L> {
    inner: L,
    stuck: watch::Receiver<bool>,
}

#[async_trait]
impl ExchangeLog for Sticky<Arc<dyn ExchangeLog>> {
    fn id(&self) -> &LogId {
        self.inner.id()
    }

    async fn ensure_topic(&self, topic: &TopicSpec) -> Result<(), LogError> {
        self.inner.ensure_topic(topic).await
    }

    async fn partitions(&self, topic: &str) -> Result<Option<u32>, LogError> {
        self.inner.partitions(topic).await
    }

    fn placement(&self) -> watch::Receiver<Placement> {
        self.inner.placement()
    }

    async fn open(&self, owner: &OwnerId) -> Result<Box<dyn OwnedLog>, LogError> {
        Ok(Box::new(Sticky { inner: self.inner.open(owner).await?, stuck: self.stuck.clone() }))
    }

    async fn bounds(&self, at: &TopicPartition) -> Result<Bounds, LogError> {
        self.inner.bounds(at).await
    }

    async fn written(&self, at: &TopicPartition) -> Result<u64, LogError> {
        self.inner.written(at).await
    }

    async fn offset_at(&self, at: &TopicPartition, timestamp_ms: i64) -> Result<u64, LogError> {
        self.inner.offset_at(at, timestamp_ms).await
    }

    async fn reader(&self, from: Vec<(TopicPartition, u64)>) -> Result<Box<dyn LogReader>, LogError> {
        self.inner.reader(from).await
    }

    async fn maintain(&self, now_ms: i64) -> Result<(), LogError> {
        self.inner.maintain(now_ms).await
    }

    async fn size(&self) -> Result<Option<u64>, LogError> {
        self.inner.size().await
    }
}

#[async_trait]
impl OwnedLog for Sticky<Box<dyn OwnedLog>> {
    fn owner(&self) -> &OwnerId {
        self.inner.owner()
    }

    fn position(&self) -> Option<Bytes> {
        self.inner.position()
    }

    fn offset(&self, at: &TopicPartition) -> Option<StoredOffset> {
        self.inner.offset(at)
    }

    async fn append(&mut self, batch: Batch) -> Result<Committed, AppendError> {
        self.stuck.wait_for(|stuck| !stuck).await.unwrap();
        self.inner.append(batch).await
    }

    fn state(&self) -> Arc<dyn KeyedState> {
        self.inner.state()
    }

    async fn get(&self, map: &str, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LogError> {
        self.inner.get(map, keys).await
    }

    async fn scan(&self, map: &str, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>, LogError> {
        self.inner.scan(map, prefix, after, limit).await
    }
}

/// A connector that runs, over a log that can be stuck.
struct Running {
    status: watch::Receiver<ConnectorStatus>,
    prometheus: prometheus::Registry,
    stuck: watch::Sender<bool>,
    stop: CancellationToken,
}

impl Running {
    fn start(exchange: &Exchange, system: &System) -> Self {
        let prometheus = prometheus::Registry::new();
        let metrics = Metrics::register(&prometheus).unwrap();
        let (stuck, of_log) = watch::channel(false);
        let log: Arc<dyn ExchangeLog> = Arc::new(exchange.log.clone());
        let log = Arc::new(Sticky { inner: log, stuck: of_log });
        let (system, of_source) = (Arc::new(system.clone()), metrics.postgres().clone());
        let look = Arc::new(SlotWatch::new(Arc::clone(&system), &of_source));
        let kept = look.kept();
        let settings =
            ConnectorSettings { publish: Exchange::settings(&system), batch: 1 << 20, wait: Duration::from_millis(100) };
        let source: SourceFactory = Arc::new(move |position| {
            let (system, metrics, kept) = (Arc::clone(&system), of_source.clone(), kept.clone());
            async move {
                let directory: Arc<Path> = std::env::temp_dir().into();
                let source = PostgresSource::connect(system, position, directory, (&metrics, kept)).await?;
                Ok(Box::new(source) as Box<dyn Source>)
            }
            .boxed()
        });
        let connector = Connector::new(settings, log, exchange.registry.clone(), source, metrics.of("register"));
        let connector = connector.watched(Some(look));
        let (status, stop) = (connector.status(), CancellationToken::new());
        tokio::spawn(connector.run(stop.clone()));
        Self { status, prometheus, stuck, stop }
    }

    async fn until(&mut self, holds: impl FnMut(&ConnectorStatus) -> bool) -> ConnectorStatus {
        let reached = tokio::time::timeout(PATIENCE, self.status.wait_for(holds)).await;
        let reached = reached.map(|status| status.unwrap().clone());
        reached.unwrap_or_else(|_| panic!("still {:?}", self.status.borrow()))
    }

    fn gauge(&self, name: &str) -> f64 {
        let families = self.prometheus.gather();
        families.iter().find(|family| family.name() == name).unwrap().get_metric()[0].get_gauge().get_value()
    }

    /// What the server keeps comes near its bound, is shown and is said once.
    async fn comes_near(&mut self, server: &Postgres, slot: &str) {
        let before = self.gauge("guitong_connect_retained_bytes");
        // Four segments of 16 MB and a part of the fifth, which is the last.
        for _ in 0..4 {
            server.execute("INSERT INTO other VALUES ('x'); SELECT pg_switch_wal()").await.unwrap();
        }
        let rows = "INSERT INTO other SELECT repeat('x', 100) FROM generate_series(1, 30000)";
        server.execute(rows).await.unwrap();
        let near = self.until(|status| status.kept.left_bytes.is_some()).await.kept;
        let (retained, left) = (near.retained_bytes.unwrap(), near.left_bytes.unwrap());
        assert!(retained > 51 << 20 && left > 0, "{near:?}");
        assert!(self.gauge("guitong_connect_retained_bytes") > before + (40_u64 << 20) as f64);
        assert!(self.gauge("guitong_postgres_slot_left_bytes") <= left as f64);
        server.execute("INSERT INTO other SELECT repeat('x', 100) FROM generate_series(1, 3000)").await.unwrap();
        self.until(|status| status.kept.left_bytes.is_some_and(|now| now < left)).await;
        let said = logs::with(&["the server gives up the slot", slot]);
        assert_eq!(said.len(), 1, "{said:#?}");
        assert!(said[0].contains("WARN") && said[0].contains("register") && said[0].contains("retained="), "{}", said[0]);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn department(slot: &str) -> (Postgres, System) {
    logs::start();
    let server = Postgres::start_with(Options::default().set("max_slot_wal_keep_size", "64MB")).await.unwrap();
    server.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE other (a text)").await.unwrap();
    let mut system = prepared_for(&server, &["t"]).await;
    config(&mut system).slot = slot.to_owned();
    (server, system)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_keeps_is_known_while_nothing_is_taken() {
    let (server, system) = department("exchange_stuck").await;
    let exchange = Exchange::new().await;
    let mut running = Running::start(&exchange, &system);
    let streams = |status: &ConnectorStatus| status.source.phase == Phase::Streaming && status.kept.retained_bytes.is_some();
    running.until(streams).await;
    running.stuck.send_replace(true);
    server.execute("INSERT INTO t VALUES (1)").await.unwrap();
    running.comes_near(&server, "exchange_stuck").await;
    assert_eq!(running.status.borrow().state, ConnectorState::Running, "nobody knows that it is stuck");

    running.stuck.send_replace(false);
    running.until(|status| status.totals.events == 1).await;
    // The slot lets go of the log once a later record says which transactions ran.
    let gone = tokio::time::timeout(PATIENCE, async {
        while running.status.borrow().kept.left_bytes.is_some() {
            server.execute("CHECKPOINT; INSERT INTO other VALUES ('x')").await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    gone.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_keeps_is_known_while_the_connector_waits_to_try_again() {
    let (server, system) = department("exchange_waits").await;
    let exchange = Exchange::new().await;
    // Another consumer has the slot and reads nothing.
    let Session { source: _holds, looking, .. } = exchange.connect(&system).await.unwrap();
    drop(looking);
    let mut running = Running::start(&exchange, &system);
    let error = running.until(|status| matches!(status.state, ConnectorState::Retrying { tries: 2.., .. })).await;
    assert!(format!("{:?}", error.state).contains("in use by server process"), "{:?}", error.state);
    running.comes_near(&server, "exchange_waits").await;
    assert!(matches!(running.status.borrow().state, ConnectorState::Retrying { .. }));
}
