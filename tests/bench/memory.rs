//! Peak memory while one transaction of 1 GB goes from PostgreSQL to PostgreSQL: on the embedded log, where one process runs every role, and
//! on Kafka with a process for each role.

use std::time::{Duration, Instant};

use guitong_tests::exchange::{Exchange, Node, credit_code};
use guitong_tests::servers::postgres::Postgres;

use crate::department::{self, Cluster, Department};
use crate::rounds::{Verdict, grouped};
use crate::{Failure, Outcome, load, machine};

/// Credit codes of the range that is allotted to nobody.
const ROWS: u32 = 99_999;
/// Bytes of the wide column, which PostgreSQL stores out of line and uncompressed.
const WIDE: u32 = 10_240;
/// A gigabyte through every stage on a busy machine.
const LIMIT: Duration = Duration::from_secs(900);
/// Memory of each role that a process runs may not pass this, nor an idle process the other.
const BAR_MIB: f64 = 100.0;
const IDLE_MIB: f64 = 30.0;

const REMARKS: &str = "ALTER TABLE qy ADD COLUMN bz text; ALTER TABLE qy ALTER COLUMN bz SET STORAGE EXTERNAL;
    CREATE TABLE codes (number bigint PRIMARY KEY, code text NOT NULL)";

pub(crate) async fn run(with_kafka: bool) -> Outcome {
    let server = load::database().await?;
    department::role(&server).await?;
    println!("one transaction of {} rows, {:.2} GB", grouped(f64::from(ROWS)), f64::from(ROWS) * f64::from(WIDE) / 1e9);
    let department = Department::make(&server, "embedded", REMARKS).await?;
    measure(&server, &department, "", &[("embedded log, three roles in one process", &[], 3)]).await?;
    if with_kafka {
        let cluster = Cluster::start().await?;
        let department = Department::make(&server, "kafka", REMARKS).await?;
        let roles: [Part<'_>; 3] = [
            ("Kafka, connect", &["--roles", "connect"], 1),
            ("Kafka, normalise", &["--roles", "normalise"], 1),
            ("Kafka, deliver", &["--roles", "deliver"], 1),
        ];
        measure(&server, &department, &cluster.sections(), &roles).await?;
    }
    Ok(Verdict::Valid)
}

/// A process: its name, the arguments of `run`, and how many roles that gives it.
type Part<'a> = (&'a str, &'a [&'a str], u32);

/// Runs a node for each of `parts`, each in a directory of its own, and prints what each of them took.
async fn measure(server: &Postgres, department: &Department, log: &str, parts: &[Part<'_>]) -> Result<(), Failure> {
    let mut nodes: Vec<(&str, Exchange, Node, f64)> = Vec::new();
    for (name, arguments, roles) in parts {
        let directory = department.exchange(server, log)?;
        let node = directory.start_with(arguments)?;
        nodes.push((name, directory, node, BAR_MIB * f64::from(*roles)));
    }
    first_row(department).await?;
    // What is mapped of files is the program's own code and tables, which the processes of one machine share.
    let resident = |node: &Node| ["VmRSS", "RssFile"].map(|line| machine::memory_mib(node.pid(), line));
    let idle: Vec<[f64; 2]> = nodes.iter().map(|(_, _, node, _)| resident(node)).collect();
    let begun = Instant::now();
    sqlx::query("INSERT INTO qy SELECT number, code, '公司' || number, '韦小明', repeat(md5(number::text), $1) FROM codes WHERE number > 1")
        .bind(i32::try_from(WIDE / 32)?)
        .execute(&department.source)
        .await?;
    let committed = begun.elapsed();
    department.delivered(i64::from(ROWS), LIMIT).await?;
    println!(
        "  committed in {:.0} s, at the subscriber {:.0} s later",
        committed.as_secs_f64(),
        (begun.elapsed() - committed).as_secs_f64()
    );
    for ((name, _, node, bar), [idle, of_files]) in nodes.iter().zip(idle) {
        let peak = machine::memory_mib(node.pid(), "VmHWM");
        let met = |value: f64, bar: f64| if value < bar { "met" } else { "NOT met" };
        println!(
            "  {name:<40} peak {peak:>6.0} MiB, bar {bar:.0}: {}; idle {idle:>4.0} MiB ({of_files:.0} of files), bar {IDLE_MIB:.0}: {}; CPU {:.1} s",
            met(peak, *bar),
            met(idle, IDLE_MIB),
            machine::cpu_seconds(&node.pid().to_string())
        );
    }
    for (_, _, node, _) in nodes {
        node.terminate()?;
    }
    Ok(())
}

/// One row all the way, so that every stage is at work; and the credit codes of the others.
async fn first_row(department: &Department) -> Result<(), Failure> {
    let numbers: Vec<i64> = (1..=i64::from(ROWS)).collect();
    let codes: Vec<String> = (1..=ROWS).map(credit_code).collect();
    sqlx::query("INSERT INTO codes SELECT * FROM unnest($1::bigint[], $2::text[])")
        .bind(&numbers)
        .bind(&codes)
        .execute(&department.source)
        .await?;
    sqlx::query("INSERT INTO qy SELECT number, code, '公司1', '韦小明' FROM codes WHERE number = 1")
        .execute(&department.source)
        .await?;
    department.delivered(1, Duration::from_secs(90)).await
}
