//! From the start of the process to ready, with as much declared as a region has: 100 systems, 500 resources, 1,000 subscriptions,
//! all on SQLite, so that no other server's start is measured. The first start makes topics, schemas and tables; the later ones
//! find them.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use guitong_connectors::registration;
use guitong_schemas::contract::load::{Purpose, load};
use guitong_tests::exchange::{COMPANIES, Exchange, Layout, RESOURCE};
use sqlx::{ConnectOptions, Connection};

use crate::load::until;
use crate::rounds::{Verdict, median};
use crate::{Failure, Outcome, machine};

const SYSTEMS: usize = 100;
/// Of each system.
const RESOURCES: usize = 5;
/// Of each resource.
const SUBSCRIPTIONS: usize = 2;
const BAR: Duration = Duration::from_secs(1);
/// A first start on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

pub(crate) async fn run(runs: usize) -> Outcome {
    let exchange = Exchange::write(&Layout {
        source: "kind = \"sqlite\"\npath = \"databases/licensing.db\"\n".to_owned(),
        schema: "main",
        log: String::new(),
        sink: "kind = \"sqlite\"\npath = \"sinks/s0.db\"\ntable = \"r0_0\"\n".to_owned(),
    })?;
    declare(exchange.path())?;
    make_departments(exchange.path()).await?;
    println!("{SYSTEMS} systems, {} resources, {} subscriptions", SYSTEMS * RESOURCES, SYSTEMS * RESOURCES * SUBSCRIPTIONS);

    let first = start(&exchange, true).await?;
    println!("  first start {:.2} s, {:.2} s of CPU", first.ready.as_secs_f64(), first.cpu);
    let (mut ready, mut cpu, mut memory) = (Vec::new(), Vec::new(), 0_f64);
    for _ in 0..runs {
        let later = start(&exchange, false).await?;
        ready.push(later.ready.as_secs_f64());
        cpu.push(later.cpu);
        memory = memory.max(later.peak_mib);
    }
    let (median_ready, median_cpu) = (median(&mut ready), median(&mut cpu));
    println!(
        "  later starts ({runs}, medians) {median_ready:.2} s ({:.2} to {:.2}), {median_cpu:.2} s of CPU, peak {memory:.0} MiB; bar {:.0} s: {}",
        ready.first().copied().unwrap_or(f64::NAN),
        ready.last().copied().unwrap_or(f64::NAN),
        BAR.as_secs_f64(),
        if median_ready < BAR.as_secs_f64() { "met" } else { "NOT met" }
    );
    Ok(Verdict::Valid)
}

struct Started {
    ready: Duration,
    cpu: f64,
    peak_mib: f64,
}

/// Starts a node and ends it again: once it is ready, or with `whole` once every subscriber has its row, so that no later start has
/// anything left to do.
async fn start(exchange: &Exchange, whole: bool) -> Result<Started, Failure> {
    let begun = Instant::now();
    let node = exchange.start()?;
    exchange.get("/readyz", LIMIT).await?;
    let ready = begun.elapsed();
    let (cpu, peak_mib) = (machine::cpu_seconds(&node.pid().to_string()), machine::memory_mib(node.pid(), "VmHWM"));
    if whole {
        delivered(exchange).await?;
    }
    node.terminate()?;
    Ok(Started { ready, cpu, peak_mib })
}

/// Waits until every subscriber has got its row.
async fn delivered(exchange: &Exchange) -> Result<(), Failure> {
    until(LIMIT, "the first rows at their subscribers", async || {
        let status = exchange.status(LIMIT).await.ok()?;
        let subscriptions = status["subscriptions"].as_array()?;
        subscriptions.iter().all(|subscription| subscription["delivered"].as_u64() > Some(0)).then_some(())
    })
    .await
}

/// Writes what the exchange does not declare yet; it has one system, one resource of it and one subscription.
fn declare(root: &Path) -> Result<(), Failure> {
    let write = |path: String, text: String| std::fs::write(root.join(path), text);
    for system in 0..SYSTEMS {
        let name = system_name(system);
        if system > 0 {
            write(
                format!("systems/{name}.toml"),
                format!(
                    "title = \"企业登记{system}\"\ndepartment = \"11450000PDY00001X0\"\ntables = [\"main.qy*\"]\nkind = \"sqlite\"\n\
                     path = \"databases/{name}.db\"\n"
                ),
            )?;
        }
        for resource in 0..RESOURCES {
            let number = system * RESOURCES + resource;
            let code = format!("3450010102/{:06}", number + 1);
            if number > 0 {
                let text = RESOURCE
                    .replace("3450010102/000001", &code)
                    .replace("\"licensing\"", &format!("\"{name}\""))
                    .replace("SCHEMA.qy", &format!("main.{}", table(resource)));
                write(format!("resources/r{number}.toml"), text)?;
            }
            for subscription in 0..SUBSCRIPTIONS {
                if number + subscription > 0 {
                    write(
                        format!("subscriptions/r{number}-{subscription}.toml"),
                        format!(
                            "subscriber = \"credit\"\nresource = \"{code}\"\npurpose = \"信用主体建档\"\n\
                             fields = [\"uscc\", \"name\", \"legal_rep_name\"]\n\n[sink]\nkind = \"sqlite\"\n\
                             path = \"sinks/s{}.db\"\ntable = \"r{number}_{subscription}\"\n",
                            system % 20
                        ),
                    )?;
                }
            }
        }
    }
    // The one system that is there already has one table only.
    let licensing = root.join("systems/licensing.toml");
    let text = std::fs::read_to_string(&licensing)?.replace("main.qy\"", "main.qy*\"");
    Ok(std::fs::write(licensing, text)?)
}

fn system_name(system: usize) -> String {
    if system == 0 { "licensing".to_owned() } else { format!("s{system}") }
}

fn table(resource: usize) -> String {
    if resource == 0 { "qy".to_owned() } else { format!("qy{resource}") }
}

/// Makes every department's database, with a row in each table, and prepares it for the connector.
async fn make_departments(root: &Path) -> Result<(), Failure> {
    for folder in ["databases", "sinks"] {
        std::fs::create_dir_all(root.join(folder))?;
    }
    let begun = Instant::now();
    let directory = load(root, &|_| None, jiff::Timestamp::now(), Purpose::Run);
    let directory = directory.map_err(|problems| problems.render(false))?;
    println!("the directory loads in {:.2} s", begun.elapsed().as_secs_f64());
    for system in 0..SYSTEMS {
        let name = system_name(system);
        let file = root.join(format!("databases/{name}.db"));
        let mut sql = String::new();
        for resource in 0..RESOURCES {
            let table = table(resource);
            let _ = write!(
                sql,
                "{}; INSERT INTO {table} VALUES (1, '{}', '南宁甲有限公司', '韦小明');",
                COMPANIES.replacen("qy", &table, 1),
                guitong_tests::exchange::credit_code(1)
            );
        }
        let mut connection = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).create_if_missing(true).connect().await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await?;
        connection.close().await?;
        let declared = directory.systems.get(name.as_str()).ok_or("a system is not declared")?;
        let statements = registration::prepare(declared).await?;
        registration::apply(declared, None, &statements).await?;
    }
    Ok(())
}
