//! A topic of enterprises in an embedded log, and the whole deliverer from there to a sink.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use guitong_deliver::{Deliverer, Delivery, Metrics, Phase, Pools};
use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_log::registry::{BuiltinRegistry, SchemaRegistry};
use guitong_log::{Batch, ExchangeLog, NewRecord, OwnedLog, OwnerId, Retention, Role, TopicPartition, TopicSpec};
use guitong_schemas::avro::{RecordEncoder, Value};
use guitong_schemas::contract::load::{Purpose, load};
use guitong_schemas::contract::{Directory, Name, SinkConfig, Subscription};
use guitong_schemas::position::Version;
use guitong_schemas::standard::Entity;
use guitong_tests::exchange::{Exchange, Layout, credit_code};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::Failure;

/// Records appended at once.
const PART: u64 = 1_000;
const PARTITIONS: u32 = 4;
const TOPIC: &str = "std.enterprise";

pub(crate) struct Backlog {
    _home: TempDir,
    exchange: Exchange,
    directory: Directory,
    entity: Arc<Entity>,
    log: Arc<dyn ExchangeLog>,
    registry: Arc<dyn SchemaRegistry>,
    owner: Box<dyn OwnedLog>,
    value: (RecordEncoder, u32),
    key: (RecordEncoder, u32),
    metrics: Metrics,
    /// Versions that were given.
    given: u64,
}

/// Name of an enterprise in its version `given`.
pub(crate) fn name(number: u64, given: u64) -> String {
    format!("南宁第{number}示例有限公司{given}")
}

impl Backlog {
    pub(crate) async fn new() -> Result<Self, Failure> {
        let exchange = Exchange::write(&Layout {
            source: "kind = \"sqlite\"\npath = \"licensing.db\"\n".to_owned(),
            schema: "main",
            log: String::new(),
            sink: "kind = \"sqlite\"\npath = \"sink.db\"\ntable = \"enterprise\"\n".to_owned(),
        })?;
        let directory = load(exchange.path(), &|_| None, jiff::Timestamp::now(), Purpose::Run);
        let directory = directory.map_err(|problems| problems.render(false))?;
        let home = TempDir::new()?;
        let file = EmbeddedLog::open(&EmbeddedConfig { path: home.path().join("log.db"), max_bytes: None }).await?;
        let registry: Arc<dyn SchemaRegistry> = Arc::new(BuiltinRegistry::open(&file).await?);
        let entity = Arc::clone(directory.standard.entity("LegalEntity").ok_or("no such entity")?);
        let value = registry.register("std.enterprise-value", &entity.schema_json).await?;
        let key = registry.register("std.enterprise-key", &entity.key_schema_json).await?;
        let retention = Retention::Compact { after: Duration::from_secs(86_400), tombstones: Duration::from_secs(86_400) };
        file.ensure_topic(&TopicSpec { name: TOPIC.into(), partitions: PARTITIONS, retention }).await?;
        Ok(Self {
            _home: home,
            exchange,
            owner: file.open(&OwnerId::new(Role::Normalise, "enterprise")).await?,
            value: (RecordEncoder::compile(&entity.schema_json)?, value),
            key: (RecordEncoder::compile(&entity.key_schema_json)?, key),
            metrics: Metrics::register(&prometheus::Registry::new())?,
            log: Arc::new(file),
            directory,
            entity,
            registry,
            given: 0,
        })
    }

    /// Appends another version of the first so many enterprises.
    pub(crate) async fn fill(&mut self, records: u64) -> Result<(), Failure> {
        for first in (0..records).step_by(PART as usize) {
            let numbers = first..records.min(first + PART);
            let records = numbers.map(|number| self.record(number)).collect::<Result<_, _>>()?;
            self.owner.append(Batch { records, ..Batch::default() }).await?;
        }
        self.given += records;
        Ok(())
    }

    fn record(&self, number: u64) -> Result<NewRecord, Failure> {
        let (uscc, name) = (credit_code(u32::try_from(number)?), name(number, self.given));
        let fields = BTreeMap::from([("uscc", uscc.as_str()), ("name", &name), ("legal_rep_name", "韦小明")]);
        let of = |field: &str| fields.get(field).map_or(Value::Null, |text| Value::Text(text));
        let values: Vec<_> = self.entity.fields.iter().map(|field| of(&field.name)).collect();
        let (mut value, mut key) = (Vec::new(), Vec::new());
        self.value.0.encode(&values, self.value.1, &mut value)?;
        self.key.0.encode(&[Value::Text(&uscc)], self.key.1, &mut key)?;
        let version = Version { epoch: 1, commit: self.given + number + 1, change: 1, index: 0, revision: 1 };
        let now = jiff::Timestamp::now();
        let headers = [("guitong-version", version.to_string()), ("guitong-source-ts", now.as_microsecond().to_string())];
        Ok(NewRecord {
            topic: TOPIC.into(),
            partition: None,
            key: Some(key.into()),
            value: Some(value.into()),
            headers: headers.map(|(name, value)| (name.into(), Bytes::from(value))).into(),
            timestamp_ms: now.as_millisecond(),
        })
    }

    /// The time until all of the topic is durable with a subscription.
    pub(crate) async fn deliver(&self, name: &str, sink: SinkConfig) -> Result<Delivered, Failure> {
        let declared = self.directory.subscriptions.values().next().ok_or("no subscription")?;
        let name = Name::parse(name).ok_or("a name")?;
        let resource = self.directory.resources.values().next().ok_or("no resource")?;
        let deliverer = Deliverer::new(Delivery {
            exchange: Arc::new(self.directory.exchange.clone()),
            revision: self.directory.revision,
            subscription: Arc::new(Subscription { name, sink, ..(**declared).clone() }),
            resource: Arc::clone(resource),
            entity: Arc::clone(&self.entity),
            log: Arc::clone(&self.log),
            registry: Arc::clone(&self.registry),
            pools: Pools::default(),
            metrics: self.metrics.clone(),
        })?;
        let mut ends = Vec::new();
        for partition in 0..PARTITIONS {
            ends.push((partition, self.log.bounds(&TopicPartition::new(TOPIC, partition)).await?.end));
        }
        let (mut status, shutdown) = (deliverer.status(), CancellationToken::new());
        let begun = Instant::now();
        let task = tokio::spawn(deliverer.run(shutdown.clone()));
        status.wait_for(|status| matches!(status.phase, Phase::Live | Phase::Refilling { .. })).await?;
        let takeover = begun.elapsed();
        status.wait_for(|status| status.phase == Phase::Live && status.offsets == ends).await?;
        let took = begun.elapsed();
        let parked = status.borrow().parked;
        shutdown.cancel();
        task.await??;
        if parked > 0 {
            return Err(format!("{parked} records were refused in {}", self.exchange.path().display()).into());
        }
        Ok(Delivered { takeover, took })
    }
}

/// From the start of a subscription.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivered {
    /// Until it holds the sink and knows where it stands there.
    pub(crate) takeover: Duration,
    /// Until everything was durable.
    pub(crate) took: Duration,
}
