//! A first load out of PostgreSQL, in turn: `COPY` of the table in binary by `psql` to /dev/null, and this source with its records dropped
//! after encoding, by one worker and by two, and committed to the embedded log and to Kafka by the connector that a node runs.
//!
//! A load's time includes its connection and the making of its slot.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use guitong_log::Role;
use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_schemas::contract::system::System;
use guitong_tests::servers::postgres::{ADMIN, PASSWORD, Postgres};
use tempfile::TempDir;

use crate::rounds::{Bar, Reference, Rounds};
use crate::stream::{Costs, dropped, into, release, system};
use crate::{Failure, Outcome, load, log, machine};

/// Publication of the table.
const PUBLICATION: &str = "backlog";

/// What COPY was measured at with this table on an idle machine.
const COPY: Reference = Reference { name: "COPY (FORMAT binary) to /dev/null (reference)", measured: 721_000.0 };
const ONE: &str = "read, decoded, encoded, dropped: one worker";
const TWO: &str = "read, decoded, encoded, dropped: two workers";
const EMBEDDED: &str = "into the embedded log, two workers";
const KAFKA: &str = "into Kafka, two workers";
const BARS: [Bar; 1] = [Bar { name: ONE, ratio: 0.8 }];
/// Five times what Debezium reached at its best.
const KAFKA_BAR: f64 = 190_000.0;

pub(crate) async fn run(runs: usize, rows: u64, with_kafka: bool) -> Outcome {
    let server = load::database().await?;
    load::table(&server, PUBLICATION, rows).await?;
    let broker = if with_kafka { Some(load::broker().await?) } else { None };
    let mut rounds = Rounds::new("first load of one table", "rows");
    let (mut costs, mut kafka_rates) = (Costs::new(rows), Vec::new());
    for number in 0..runs {
        rounds.add(COPY.name, rows, copy(&server).await?);
        for (name, workers) in [(ONE, 1), (TWO, 2)] {
            let system = of(&server, &format!("dropped_{workers}_{number}"), workers)?;
            let before = machine::cpu_seconds("self");
            // A task, as a connector is: the runtime's main thread would be woken across threads for every message.
            rounds.add(name, rows, tokio::spawn(dropped(system.clone(), rows)).await??);
            costs.add(name, machine::cpu_seconds("self") - before);
            release(&server, &system).await?;
        }

        let system = of(&server, &format!("embedded_{number}"), 2)?;
        let home = TempDir::new()?;
        let file = EmbeddedLog::open(&EmbeddedConfig { path: home.path().join("log.db"), max_bytes: None }).await?;
        let before = machine::cpu_seconds("self");
        rounds.add(EMBEDDED, rows, into(Arc::new(file.clone()), &file, system.clone(), rows).await?);
        costs.add(EMBEDDED, machine::cpu_seconds("self") - before);
        file.close().await;
        release(&server, &system).await?;

        let Some(broker) = &broker else { continue };
        let system = of(&server, &format!("kafka_{number}"), 2)?;
        let schemas = EmbeddedLog::open(&EmbeddedConfig { path: home.path().join("schemas.db"), max_bytes: None }).await?;
        let state = TempDir::new()?;
        let kafka =
            Arc::new(log::kafka::open(&broker.bootstrap(), &format!("snapshot{number}"), &[Role::Connect], &state).await?);
        let before = machine::cpu_seconds("self");
        let took = into(Arc::<guitong_log::kafka::KafkaLog>::clone(&kafka), &schemas, system.clone(), rows).await?;
        rounds.add(KAFKA, rows, took);
        kafka_rates.push(rows as f64 / took.as_secs_f64());
        costs.add(KAFKA, machine::cpu_seconds("self") - before);
        kafka.close().await;
        schemas.close().await;
        release(&server, &system).await?;
    }
    let verdict = rounds.finish(COPY, &BARS);
    if !kafka_rates.is_empty() {
        let rate = crate::rounds::median(&mut kafka_rates);
        println!("into Kafka: bar {KAFKA_BAR:.0} rows/s: {}", if rate >= KAFKA_BAR { "met" } else { "NOT met" });
    }
    costs.print();
    println!("peak memory of this process, all contestants in one: {:.0} MiB", machine::memory_mib(std::process::id(), "VmHWM"));
    Ok(verdict)
}

fn of(server: &Postgres, slot: &str, workers: usize) -> Result<System, Failure> {
    let mut system = system(server, slot)?;
    (system.snapshot.enabled, system.snapshot.workers) = (true, workers);
    Ok(system)
}

async fn copy(server: &Postgres) -> Result<Duration, Failure> {
    let mut command = Command::new(load::postgres_program("psql")?);
    command
        .args(["-h", "127.0.0.1", "-p", &server.port().to_string(), "-U", ADMIN, "-d", "postgres", "-X", "-q"])
        .args(["-c", "COPY register TO STDOUT (FORMAT binary)"])
        .env("PGPASSWORD", PASSWORD)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let (status, took) = tokio::task::spawn_blocking(move || {
        let begun = Instant::now();
        (command.status(), begun.elapsed())
    })
    .await?;
    if status?.success() { Ok(took) } else { Err("COPY failed".into()) }
}
