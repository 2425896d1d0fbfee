//! A backlog of changes to one local endpoint, in batches and one by one: the whole deliverer on the embedded log, and beside it a
//! plain HTTP client that posts bodies as large, signs nothing, remembers nothing and keeps no order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use guitong_deliver::{Deliverer, Delivery, Metrics, Phase, Pools};
use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_log::registry::{BuiltinRegistry, SchemaRegistry};
use guitong_log::{Batch, ExchangeLog, NewRecord, OwnerId, Retention, Role, TopicPartition, TopicSpec};
use guitong_schemas::avro::{RecordEncoder, Value};
use guitong_schemas::contract::load::{Purpose, load};
use guitong_schemas::contract::webhook::{Mode, Webhook};
use guitong_schemas::contract::{Directory, Secret, SinkConfig, Subscription};
use guitong_schemas::position::Version;
use guitong_tests::exchange::{Exchange, Layout, credit_code};
use guitong_tests::receiver::{KEY, whsec};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::rounds::{Verdict, grouped, median};
use crate::{Failure, Outcome};

/// Records appended at once.
const PART: u64 = 1_000;
const PARTITIONS: u32 = 4;
const TOPIC: &str = "std.enterprise";

struct Way {
    title: &'static str,
    mode: Mode,
    records: u64,
    /// Events of one request.
    batch: usize,
    /// Events a second.
    bar: f64,
}

const WAYS: [Way; 2] = [
    Way { title: "webhook, 100 events a request", mode: Mode::Batch, records: 50_000, batch: 100, bar: 5_000.0 },
    Way { title: "webhook, one event a request", mode: Mode::Binary, records: 10_000, batch: 1, bar: 1_000.0 },
];

const CONCURRENCY: usize = 8;

pub(crate) async fn run(runs: usize) -> Outcome {
    let endpoint = Endpoint::start().await?;
    for way in WAYS {
        let backlog = Backlog::new(way.records).await?;
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        for number in 0..runs {
            let before = endpoint.bytes.load(Ordering::Relaxed);
            ours.push(way.records as f64 / backlog.deliver(&endpoint, &way, number).await?.as_secs_f64());
            let body = (endpoint.bytes.load(Ordering::Relaxed) - before) as usize / (way.records as usize / way.batch);
            plain.push(way.records as f64 / post(&endpoint, &way, body).await?.as_secs_f64());
        }
        println!("{} ({runs} alternating runs, medians)", way.title);
        for (name, rates) in [("ours", &mut ours), ("plain client", &mut plain)] {
            let median = median(rates);
            print!("  {name:<14} {:>9} events/s  ({} to ", grouped(median), grouped(rates.first().copied().unwrap_or_default()));
            print!("{})", grouped(rates.last().copied().unwrap_or_default()));
            match name {
                "ours" if median >= way.bar => println!("  bar {}: met", grouped(way.bar)),
                "ours" => println!("  bar {}: NOT met", grouped(way.bar)),
                _ => println!(),
            }
        }
    }
    Ok(Verdict::Valid)
}

/// Answers 200 to everything, on loopback.
struct Endpoint {
    port: u16,
    /// Of bodies.
    bytes: Arc<AtomicU64>,
}

impl Endpoint {
    async fn start() -> Result<Self, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (port, bytes) = (listener.local_addr()?.port(), Arc::new(AtomicU64::new(0)));
        let counted = Arc::clone(&bytes);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&counted)));
            }
        });
        Ok(Self { port, bytes })
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/events", self.port)
    }
}

async fn answer(stream: TcpStream, bytes: Arc<AtomicU64>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufStream::new(stream);
    let (mut line, mut length, mut body) = (String::new(), 0, Vec::new());
    while stream.read_line(&mut line).await? > 0 {
        let head = line.trim_end().to_ascii_lowercase();
        if let Some(value) = head.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        } else if head.is_empty() {
            body.resize(length, 0);
            stream.read_exact(&mut body).await?;
            bytes.fetch_add(length as u64, Ordering::Relaxed);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
            stream.flush().await?;
        }
        line.clear();
    }
    Ok(())
}

/// The time that a plain client takes for the same requests.
async fn post(endpoint: &Endpoint, way: &Way, body: usize) -> Result<Duration, Failure> {
    let (client, url, body) = (reqwest::Client::builder().no_proxy().build()?, endpoint.url(), Bytes::from(vec![b' '; body]));
    let begun = Instant::now();
    let requests = (0..way.records / way.batch as u64).map(|_| client.post(&url).body(body.clone()).send());
    let mut answers = futures::stream::iter(requests).buffer_unordered(CONCURRENCY);
    while let Some(answer) = answers.next().await {
        answer?.error_for_status()?;
    }
    Ok(begun.elapsed())
}

/// A topic of enterprises, each of which is delivered once.
struct Backlog {
    _home: TempDir,
    exchange: Exchange,
    directory: Directory,
    log: Arc<dyn ExchangeLog>,
    registry: Arc<dyn SchemaRegistry>,
    metrics: Metrics,
}

impl Backlog {
    async fn new(records: u64) -> Result<Self, Failure> {
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
        let log: Arc<dyn ExchangeLog> = Arc::new(file);
        let metrics = Metrics::register(&prometheus::Registry::new())?;
        let backlog = Self { _home: home, exchange, directory, log, registry, metrics };
        backlog.fill(records).await?;
        Ok(backlog)
    }

    async fn fill(&self, records: u64) -> Result<(), Failure> {
        let entity = self.directory.standard.entity("LegalEntity").ok_or("no such entity")?;
        let value = (
            RecordEncoder::compile(&entity.schema_json)?,
            self.registry.register("std.enterprise-value", &entity.schema_json).await?,
        );
        let key = (
            RecordEncoder::compile(&entity.key_schema_json)?,
            self.registry.register("std.enterprise-key", &entity.key_schema_json).await?,
        );
        let retention = Retention::Compact { after: Duration::from_secs(86_400), tombstones: Duration::from_secs(86_400) };
        self.log.ensure_topic(&TopicSpec { name: TOPIC.into(), partitions: PARTITIONS, retention }).await?;
        let mut owner = self.log.open(&OwnerId::new(Role::Normalise, "enterprise")).await?;
        for first in (0..records).step_by(PART as usize) {
            let mut batch = Batch::default();
            for number in first..records.min(first + PART) {
                let (uscc, name) = (credit_code(u32::try_from(number)?), format!("南宁第{number}示例有限公司"));
                let fields = BTreeMap::from([("uscc", uscc.as_str()), ("name", &name), ("legal_rep_name", "韦小明")]);
                let of = |field: &str| fields.get(field).map_or(Value::Null, |text| Value::Text(text));
                let values: Vec<_> = entity.fields.iter().map(|field| of(&field.name)).collect();
                let (mut bytes, mut key_bytes) = (Vec::new(), Vec::new());
                value.0.encode(&values, value.1, &mut bytes)?;
                key.0.encode(&[Value::Text(&uscc)], key.1, &mut key_bytes)?;
                let version = Version { epoch: 1, commit: number + 1, change: 1, index: 0, revision: 1 };
                let now = jiff::Timestamp::now();
                let headers = [("guitong-version", version.to_string()), ("guitong-source-ts", now.as_microsecond().to_string())];
                batch.records.push(NewRecord {
                    topic: TOPIC.into(),
                    partition: None,
                    key: Some(key_bytes.into()),
                    value: Some(bytes.into()),
                    headers: headers.map(|(name, value)| (name.into(), Bytes::from(value))).into(),
                    timestamp_ms: now.as_millisecond(),
                });
            }
            owner.append(batch).await?;
        }
        Ok(())
    }

    /// The time from the start of a new subscription until all of the topic is durable with it.
    async fn deliver(&self, endpoint: &Endpoint, way: &Way, number: usize) -> Result<Duration, Failure> {
        let declared = self.directory.subscriptions.values().next().ok_or("no subscription")?;
        let sink = SinkConfig::Webhook(Box::new(Webhook {
            url: Secret::new(endpoint.url()),
            mode: way.mode,
            signing_keys: vec![Secret::new(whsec(KEY))],
            batch: way.batch,
            concurrency: CONCURRENCY,
            timeout: Duration::from_secs(15),
            allow: vec!["127.0.0.1".parse()?],
            ca: None,
            client_certificate: None,
        }));
        let name = guitong_schemas::contract::Name::parse(&format!("{}-{number}", declared.name)).ok_or("a name")?;
        let resource = self.directory.resources.values().next().ok_or("no resource")?;
        let deliverer = Deliverer::new(Delivery {
            exchange: Arc::new(self.directory.exchange.clone()),
            revision: self.directory.revision,
            subscription: Arc::new(Subscription { name, sink, ..(**declared).clone() }),
            resource: Arc::clone(resource),
            entity: Arc::clone(self.directory.standard.entity("LegalEntity").ok_or("no such entity")?),
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
        status.wait_for(|status| status.phase == Phase::Live && status.offsets == ends).await?;
        let took = begun.elapsed();
        let parked = status.borrow().parked;
        shutdown.cancel();
        task.await??;
        if parked > 0 {
            return Err(format!("{parked} records were refused in {}", self.exchange.path().display()).into());
        }
        Ok(took)
    }
}
