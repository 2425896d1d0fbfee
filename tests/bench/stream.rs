//! A backlog out of PostgreSQL, in turn: `pg_recvlogical` writing to /dev/null, and this source with its records dropped after encoding (in
//! text and in binary), committed to the embedded log, and committed to Kafka by the connector that a node runs.
//!
//! Each drain reads a copy of one slot that was made before the first row, so all read the same log from the same place. A drain's
//! time includes its connection.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use guitong_connectors::metrics::Metrics;
use guitong_connectors::postgres::PostgresSource;
use guitong_connectors::publish::PublishSettings;
use guitong_connectors::run::{Connector, ConnectorSettings, SourceFactory};
use guitong_connectors::source::{Kept, Source, SourceBudget};
use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_log::registry::BuiltinRegistry;
use guitong_log::{ExchangeLog, Role};
use guitong_schemas::avro::EventForm;
use guitong_schemas::avro::schema::SourceKind;
use guitong_schemas::avro::{EncodePlan, Marks, Stamp};
use guitong_schemas::contract::system::{
    GapPolicy, Limits, Origins, PostgresConfig, SnapshotConfig, SourceConfig, System, TablePattern,
};
use guitong_schemas::contract::{Name, Secret};
use guitong_tests::servers::postgres::{ADMIN, PASSWORD, Postgres};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::rounds::{Bar, Reference, Rounds, median};
use crate::{Failure, Outcome, load, log, machine, register, transaction};

const ROWS: u64 = 1_000_000;
const SLOT: &str = "backlog";
/// The node's usual budget of a batch.
const BATCH: usize = 4 << 20;
const WAIT: Duration = Duration::from_secs(1);
/// A drain that has not ended by then never will.
const LIMIT: Duration = Duration::from_secs(300);

/// What `pg_recvlogical` was measured at with this table on an idle machine.
const RECVLOGICAL: Reference = Reference { name: "pg_recvlogical to /dev/null (reference)", measured: 110_000.0 };
const DROPPED: &str = "read, decoded, encoded, dropped";
const BINARY: &str = "the same in binary";
const EMBEDDED: &str = "into the embedded log";
const KAFKA: &str = "into Kafka";
const BARS: [Bar; 2] = [Bar { name: DROPPED, ratio: 0.9 }, Bar { name: KAFKA, ratio: 0.7 }];

/// CPU microseconds of this process for each row, by contestant.
pub(crate) struct Costs {
    rows: u64,
    of: Vec<(&'static str, Vec<f64>)>,
}

impl Costs {
    pub(crate) fn new(rows: u64) -> Self {
        Self { rows, of: Vec::new() }
    }

    pub(crate) fn add(&mut self, name: &'static str, seconds: f64) {
        let cost = seconds * 1e6 / self.rows as f64;
        match self.of.iter_mut().find(|(known, _)| *known == name) {
            Some((_, costs)) => costs.push(cost),
            None => self.of.push((name, vec![cost])),
        }
    }

    pub(crate) fn print(&mut self) {
        println!("CPU of the connector's process for a row");
        for (name, costs) in &mut self.of {
            println!("  {name:<46} {:>11.2} us", median(costs));
        }
    }
}

pub(crate) async fn run(runs: usize, with_kafka: bool) -> Outcome {
    let server = load::database().await?;
    load::backlog(&server, SLOT, ROWS).await?;
    let broker = if with_kafka { Some(load::broker().await?) } else { None };
    let mut rounds = Rounds::new("backlog of 1,000,000 rows", "rows");
    let mut costs = Costs::new(ROWS);
    for number in 0..runs {
        let took = recvlogical(&server, &slot(&server, &format!("peer_{number}")).await?).await?;
        rounds.add(RECVLOGICAL.name, ROWS, took);

        let system = system(&server, &slot(&server, &format!("dropped_{number}")).await?)?;
        let before = machine::cpu_seconds("self");
        // A task, as a connector is: the runtime's main thread would be woken across threads for every message.
        rounds.add(DROPPED, ROWS, tokio::spawn(dropped(system.clone(), ROWS)).await??);
        costs.add(DROPPED, machine::cpu_seconds("self") - before);
        release(&server, &system).await?;

        let mut system = self::system(&server, &slot(&server, &format!("binary_{number}")).await?)?;
        if let SourceConfig::Postgres(config) = &mut system.source {
            config.binary = true;
        }
        let before = machine::cpu_seconds("self");
        rounds.add(BINARY, ROWS, tokio::spawn(dropped(system.clone(), ROWS)).await??);
        costs.add(BINARY, machine::cpu_seconds("self") - before);
        release(&server, &system).await?;

        let system = self::system(&server, &slot(&server, &format!("embedded_{number}")).await?)?;
        let home = TempDir::new()?;
        let file = EmbeddedLog::open(&EmbeddedConfig { path: home.path().join("log.db"), max_bytes: None }).await?;
        let before = machine::cpu_seconds("self");
        rounds.add(EMBEDDED, ROWS, into(Arc::new(file.clone()), &file, system.clone(), ROWS).await?);
        costs.add(EMBEDDED, machine::cpu_seconds("self") - before);
        file.close().await;
        release(&server, &system).await?;

        let Some(broker) = &broker else { continue };
        let system = self::system(&server, &slot(&server, &format!("kafka_{number}")).await?)?;
        let schemas = EmbeddedLog::open(&EmbeddedConfig { path: home.path().join("schemas.db"), max_bytes: None }).await?;
        let state = TempDir::new()?;
        let kafka = Arc::new(log::kafka::open(&broker.bootstrap(), &format!("stream{number}"), &[Role::Connect], &state).await?);
        let before = machine::cpu_seconds("self");
        rounds.add(KAFKA, ROWS, into(Arc::<guitong_log::kafka::KafkaLog>::clone(&kafka), &schemas, system.clone(), ROWS).await?);
        costs.add(KAFKA, machine::cpu_seconds("self") - before);
        kafka.close().await;
        schemas.close().await;
        release(&server, &system).await?;
    }
    let verdict = rounds.finish(RECVLOGICAL, &BARS);
    costs.print();
    println!("peak memory of this process, all contestants in one: {:.0} MiB", machine::memory_mib(std::process::id(), "VmHWM"));
    Ok(verdict.and(transaction::run(&server, runs).await?))
}

/// A copy of the slot that stands before the backlog.
async fn slot(server: &Postgres, name: &str) -> Result<String, Failure> {
    server.execute(&format!("SELECT pg_copy_logical_replication_slot('{SLOT}', '{name}')")).await?;
    Ok(name.to_owned())
}

/// Drops the system's slot once its connection is gone.
pub(crate) async fn release(server: &Postgres, system: &System) -> Result<(), Failure> {
    let SourceConfig::Postgres(config) = &system.source else { return Ok(()) };
    let drop = format!("SELECT pg_drop_replication_slot('{}')", config.slot);
    load::until(Duration::from_secs(30), "dropping the slot", async || server.execute(&drop).await.ok()).await
}

pub(crate) fn system(server: &Postgres, slot: &str) -> Result<System, Failure> {
    let name = |text: &str| Name::parse(text).ok_or("not a name");
    let config = PostgresConfig {
        exchange: "exchange".into(),
        url: Secret::new(server.url(ADMIN)),
        primary_url: None,
        slot: slot.to_owned(),
        publication: SLOT.to_owned(),
        heartbeat: Duration::from_secs(10),
        on_gap: GapPolicy::Stop,
        origin: Origins::Any,
        streaming: true,
        binary: false,
        failover: false,
    };
    Ok(System {
        name: name("licensing")?,
        title: "企业登记".to_owned(),
        department: name("market")?,
        source: SourceConfig::Postgres(config),
        tables: vec![TablePattern { schema: "public".to_owned(), name: "register".to_owned() }],
        exclude_columns: Vec::new(),
        keys: Vec::new(),
        snapshot: SnapshotConfig { enabled: false, chunk: BATCH, ..SnapshotConfig::default() },
        limits: Limits::default(),
        complete: true,
        form: EventForm::DEFAULT,
    })
}

async fn recvlogical(server: &Postgres, slot: &str) -> Result<Duration, Failure> {
    let pool = server.admin().await?;
    let end: String = sqlx::query_scalar("SELECT pg_current_wal_lsn()::text").fetch_one(&pool).await?;
    pool.close().await;
    let mut command = Command::new(load::postgres_program("pg_recvlogical")?);
    command
        .args(["-h", "127.0.0.1", "-p", &server.port().to_string(), "-U", ADMIN, "-d", "postgres", "-S", slot, "--start"])
        .args(["-o", "proto_version=1", "-o", &format!("publication_names={SLOT}"), "-f", "/dev/null"])
        .arg(format!("--endpos={end}"))
        .env("PGPASSWORD", PASSWORD)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let (status, took) = tokio::task::spawn_blocking(move || {
        let begun = Instant::now();
        (command.status(), begun.elapsed())
    })
    .await?;
    if !status?.success() {
        return Err("pg_recvlogical failed".into());
    }
    server.execute(&format!("SELECT pg_drop_replication_slot('{slot}')")).await?;
    Ok(took)
}

/// Nobody looks at what the server keeps.
fn unwatched() -> watch::Receiver<Kept> {
    watch::Sender::default().subscribe()
}

/// Every change is encoded as `publish` encodes it, key and value, into a buffer that each batch begins anew.
pub(crate) async fn dropped(system: System, wanted: u64) -> Result<Duration, Failure> {
    let metrics = Metrics::register(&prometheus::Registry::new())?;
    let begun = Instant::now();
    let mut source =
        PostgresSource::connect(Arc::new(system), None, std::env::temp_dir().into(), (metrics.postgres(), unwatched())).await?;
    let (mut buffer, mut marks, mut plan) = (Vec::with_capacity(2 * BATCH), Marks::default(), None);
    let mut rows = 0;
    while rows < wanted {
        if begun.elapsed() > LIMIT {
            return Err(format!("{rows} rows came in {LIMIT:?}").into());
        }
        let batch = source.next_batch(SourceBudget { bytes: BATCH, wait: WAIT }).await?;
        buffer.clear();
        for change in &batch.changes {
            if plan.as_ref().is_none_or(|(of, _)| !Arc::ptr_eq(of, &change.table)) {
                plan = Some((Arc::clone(&change.table), EncodePlan::compile(&change.table, &register::CONTEXT)?));
            }
            let (Some((_, plan)), Some(row)) = (&plan, &change.after) else { return Err("a change without a row".into()) };
            plan.key(row, 1, &mut buffer)?;
            plan.value(change, Stamp { schema_id: 2, processed_us: 1 }, &mut buffer, &mut marks)?;
        }
        std::hint::black_box(&buffer);
        rows += batch.changes.len() as u64;
    }
    Ok(begun.elapsed())
}

/// The connector of a node; schemas go to the registry in `schemas`.
pub(crate) async fn connector(log: Arc<dyn ExchangeLog>, schemas: &EmbeddedLog, system: System) -> Result<Connector, Failure> {
    let metrics = Metrics::register(&prometheus::Registry::new())?;
    let registry = Arc::new(BuiltinRegistry::open(schemas).await?);
    let publish = PublishSettings {
        system: "licensing".into(),
        database: "postgres".to_owned(),
        kind: SourceKind::Postgres,
        trace: Duration::from_secs(30 * 86_400),
        max_record: 16 << 20,
        complete: system.complete,
        form: system.form.clone(),
    };
    let settings = ConnectorSettings { publish, batch: BATCH, wait: WAIT };
    let (system, of_source) = (Arc::new(system), metrics.postgres().clone());
    let source: SourceFactory = Arc::new(move |position| {
        let (system, metrics) = (Arc::clone(&system), of_source.clone());
        Box::pin(async move {
            let source = PostgresSource::connect(system, position, std::env::temp_dir().into(), (&metrics, unwatched())).await?;
            Ok(Box::new(source) as Box<dyn Source>)
        })
    });
    Ok(Connector::new(settings, log, registry, source, metrics.of("licensing")))
}

/// Runs the connector until it has published every row.
pub(crate) async fn into(
    log: Arc<dyn ExchangeLog>,
    schemas: &EmbeddedLog,
    system: System,
    wanted: u64,
) -> Result<Duration, Failure> {
    let connector = connector(log, schemas, system).await?;
    let shutdown = CancellationToken::new();
    let begun = Instant::now();
    let mut status = connector.status();
    let running = tokio::spawn(connector.run(shutdown.clone()));
    let published =
        tokio::time::timeout(LIMIT, status.wait_for(|status| status.totals.events >= wanted)).await.map(|_| begun.elapsed());
    let last = format!("{:?}", status.borrow().state);
    shutdown.cancel();
    running.await??;
    published.map_err(|_| format!("not every row came in {LIMIT:?}: {last}").into())
}
