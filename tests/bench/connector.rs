//! The connector alone: commit in PostgreSQL to record readable in the log, at 1,000 commits a second that are sent by the clock whether
//! or not it keeps up.
//!
//! Connector, log and reader are in this process. A row's time runs from the return of its COMMIT (`synchronous_commit = on`,
//! `fsync = on`) to when a reader of committed records has it. Last, the released binary: how long it takes from its start to the
//! first event.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_log::registry::{BuiltinRegistry, SchemaRegistry};
use guitong_log::{ExchangeLog, LogReader, ReadBudget, Role, TopicPartition};
use guitong_schemas::avro::{DecodePlan, Value, frame};
use guitong_schemas::contract::Secret;
use guitong_schemas::contract::system::{SourceConfig, System, TablePattern};
use guitong_tests::exchange::credit_code;
use guitong_tests::servers::kafka::Kafka;
use guitong_tests::servers::postgres::{ADMIN, PASSWORD, Postgres};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clerks::{self, LAST, RATE, SECONDS, Times, WARM, YOUNG};
use crate::department::{self, Department};
use crate::rounds::{Verdict, median};
use crate::{Failure, Outcome, load, log, stream};

const TOPIC: &str = "raw.licensing.public.qy";
const SLOT: &str = "connector";
/// Seconds.
const FIRST_EVENT: f64 = 1.0;

/// One running connector and the figures of its runs.
struct Contestant {
    department: Department,
    schemas: EmbeddedLog,
    log: Arc<dyn ExchangeLog>,
    next: u32,
    warm: u32,
    times: Times,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), Failure>>,
    _home: TempDir,
    /// A server of its own: another's would decode this one's commits, too.
    _server: Postgres,
}

pub(crate) async fn run(runs: usize, with_kafka: bool) -> Outcome {
    let broker = if with_kafka { Some(load::broker().await?) } else { None };
    let mut contestants = vec![Contestant::start(Times::new("embedded log", [Some(10.0), None]), None).await?];
    if let Some(broker) = &broker {
        contestants.push(Contestant::start(Times::new("Kafka", [Some(8.0), Some(40.0)]), Some(broker)).await?);
    }
    for _ in 0..runs {
        for contestant in &mut contestants {
            contestant.measure().await?;
        }
    }
    println!("commit to the record that can be read, {RATE} commits/s for {SECONDS} s ({runs} alternating runs, medians)");
    let mut verdict = Verdict::Valid;
    for contestant in contestants {
        contestant.shutdown.cancel();
        contestant.running.await??;
        verdict = verdict.and(contestant.times.finish());
    }
    first_event(runs).await?;
    Ok(verdict)
}

/// Process start to the first event in the log, of a connector that comes back to a change that was committed meanwhile.
async fn first_event(runs: usize) -> Result<(), Failure> {
    let server = load::database().await?;
    department::role(&server).await?;
    let department = Department::make(&server, "start", "").await?;
    let directory = department.exchange(&server, "")?;
    let mut times = Vec::new();
    // The first start is the one that reads the tables.
    for number in 0..=u32::try_from(runs)? {
        let insert = sqlx::query("INSERT INTO qy VALUES ($1, $2, '公司', '韦小明')").bind(i64::from(number));
        insert.bind(credit_code(number)).execute(&department.source).await?;
        let begun = Instant::now();
        let node = directory.start_with(&["--roles", "connect"])?;
        while directory.status(LAST).await?["systems"][0]["events"].as_u64().unwrap_or(0) == 0 {
            if begun.elapsed() > LAST {
                return Err(format!("no event in {LAST:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        times.push(begun.elapsed().as_secs_f64());
        node.terminate()?;
    }
    let first = times.remove(0);
    let middle = median(&mut times);
    let met = if middle < FIRST_EVENT { "met" } else { "NOT met" };
    println!(
        "process start to the first event {middle:.2} s  bar {FIRST_EVENT:.0} s: {met}; the very first, with the slot's making, {first:.2} s"
    );
    Ok(())
}

impl Contestant {
    async fn start(times: Times, broker: Option<&Kafka>) -> Result<Self, Failure> {
        let server = load::database().await?;
        department::role(&server).await?;
        let department = Department::make(&server, "connector", "").await?;
        sqlx::query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')").bind(SLOT).execute(&department.source).await?;
        let home = TempDir::new()?;
        let schemas = EmbeddedLog::open(&EmbeddedConfig { path: home.path().join("log.db"), max_bytes: None }).await?;
        let log: Arc<dyn ExchangeLog> = match broker {
            Some(broker) => Arc::new(log::kafka::open(&broker.bootstrap(), "connector", &[Role::Connect], &home).await?),
            None => Arc::new(schemas.clone()),
        };
        let connector = stream::connector(Arc::clone(&log), &schemas, system(&server)?).await?;
        let shutdown = CancellationToken::new();
        let stopped = shutdown.clone();
        let running = tokio::spawn(async move { Ok(connector.run(stopped).await?) });
        // The topic is made with the first record.
        sqlx::query("INSERT INTO qy VALUES (1, $1, '公司1', '韦小明')").bind(credit_code(1)).execute(&department.source).await?;
        load::until(LAST, "the first record", async || (log.bounds(&at()).await.ok()?.end > 0).then_some(())).await?;
        let warm = if broker.is_some() { YOUNG } else { WARM };
        Ok(Self { department, schemas, log, next: 2, warm, times, shutdown, running, _home: home, _server: server })
    }

    async fn measure(&mut self) -> Result<(), Failure> {
        let total = RATE * (std::mem::replace(&mut self.warm, WARM) + SECONDS);
        let from = self.log.bounds(&at()).await?.end;
        let reader = self.log.reader(vec![(at(), from)]).await?;
        let registry = BuiltinRegistry::open(&self.schemas).await?;
        let arrivals = tokio::spawn(arrivals(reader, registry, total as usize));
        let (sent, rate) = clerks::commit(&self.department, self.next, total).await?;
        self.next += total;
        let seen = arrivals.await??;
        self.times.add(rate, self.next - RATE * SECONDS, &sent, |number| seen.get(&i64::from(number)).copied())
    }
}

fn at() -> TopicPartition {
    TopicPartition::new(TOPIC, 0)
}

fn system(server: &Postgres) -> Result<System, Failure> {
    let mut system = stream::system(server, SLOT)?;
    system.tables = vec![TablePattern { schema: "public".to_owned(), name: "qy".to_owned() }];
    if let SourceConfig::Postgres(config) = &mut system.source {
        config.url = Secret::new(server.url_of(ADMIN, PASSWORD, "connector"));
        "companies".clone_into(&mut config.publication);
    }
    Ok(system)
}

/// When each row could be read, by its number.
async fn arrivals(
    mut reader: Box<dyn LogReader>,
    registry: BuiltinRegistry,
    total: usize,
) -> Result<HashMap<i64, Instant>, Failure> {
    let mut plan: Option<(u32, DecodePlan)> = None;
    let mut seen = HashMap::with_capacity(total);
    let mut last = Instant::now();
    while seen.len() < total && last.elapsed() < LAST {
        let read = reader.read(ReadBudget { bytes: 4 << 20, wait: Duration::from_secs(1) }).await?;
        let now = Instant::now();
        for key in read.records.iter().filter_map(|record| record.key.as_ref()) {
            last = now;
            let (id, body) = frame::read(key)?;
            if plan.as_ref().is_none_or(|(known, _)| *known != id) {
                plan = Some((id, DecodePlan::compile(&registry.schema(id).await?)?));
            }
            if let Some((_, plan)) = &plan
                && let [Value::Int(number)] = plan.record(body)?[..]
                && seen.insert(number, now).is_some()
            {
                return Err(format!("row {number} was published twice").into());
            }
        }
    }
    Ok(seen)
}
