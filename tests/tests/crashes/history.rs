//! Random histories of transactions, changed columns, kills and tables that are read again: the raw topics, read back from the log and
//! replayed, are the tables. The seed that replays a history is printed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use guitong_tests::exchange::{Exchange, Node};
use guitong_tests::seed;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::clerks::{Shapes, TABLES, make, write};
use crate::department::{Department, PATIENCE};
use crate::raw::embedded;
use crate::replay::{Row, replay};

/// Has a table read again, whole or in part; whether the node took it up.
async fn read_again(exchange: &Exchange, random: &mut StdRng) -> bool {
    let (table, key) = TABLES[random.random_range(0..TABLES.len())];
    let number = key.split(", ").last().unwrap();
    let condition = format!("{number} % 3 = {} OR {number} < 100", random.random_range(0..3));
    let mut arguments = vec!["system", "snapshot", "licensing", "--table", table];
    if random.random_bool(0.5) {
        arguments.extend(["--where", &condition]);
    }
    let answer = tokio::task::block_in_place(|| exchange.command(&arguments)).unwrap();
    answer.code == Some(0)
}

async fn reads_no_table(exchange: &Exchange) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = exchange.status(PATIENCE).await.unwrap();
        let system = &status["systems"][0];
        if system["state"] == "streaming" && system["snapshot"].is_null() {
            return;
        }
        assert!(Instant::now() < deadline, "{status:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Runs the node for a random time, with tables that are read again in it; how many were.
async fn runs(exchange: &Exchange, random: &mut StdRng) -> (Node, u32) {
    let node = exchange.start().unwrap();
    let until = Instant::now() + Duration::from_millis(random.random_range(300..3_500));
    let mut read = 0;
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..700))).await;
        read += u32::from(random.random_bool(0.5) && read_again(exchange, random).await);
    }
    (node, read)
}

/// Some rows that are not among the others.
fn beside(rows: &[Row], others: &[Row]) -> String {
    let short = |cell: &Option<String>| cell.as_ref().map(|text| format!("{text:.30}"));
    let beside: Vec<&Row> = rows.iter().filter(|row| !others.contains(row)).collect();
    let shown: Vec<Vec<_>> =
        beside.iter().take(3).map(|row| row.iter().map(|(name, cell)| (name, short(cell))).collect()).collect();
    format!("{} others: {shown:?}", beside.len())
}

async fn ends_as_the_tables(kills: u32) {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let department = Department::with(&make()).await;
    let complete = random.random_bool(0.5);
    let exchange = Exchange::tailing(
        &format!(
            "tables = [\"public.*\"]\ncomplete = {complete}\nheartbeat = \"1s\"\n{}\n[snapshot]\nchunk = \"64 KiB\"\nworkers = 3\n",
            department.system(department.server.port())
        ),
        "",
    )
    .unwrap();
    let (shapes, stop) = (Shapes::default(), Arc::new(AtomicBool::new(false)));
    let clerks: Vec<_> = (0..2)
        .map(|_| tokio::spawn(write(department.pool.clone(), random.random(), Arc::clone(&shapes), Arc::clone(&stop))))
        .collect();
    let mut read = 0;
    for _ in 0..kills {
        let (node, again) = runs(&exchange, &mut random).await;
        read += again;
        node.kill().unwrap();
    }
    let node = exchange.start().unwrap();
    reads_no_table(&exchange).await;
    for _ in 0..2 {
        read += u32::from(read_again(&exchange, &mut random).await);
    }
    stop.store(true, Ordering::Relaxed);
    let mut changes = 0;
    for clerk in clerks {
        changes += clerk.await.unwrap();
    }
    reads_no_table(&exchange).await;
    department.is_confirmed().await;
    assert_eq!(node.terminate().unwrap().0, Some(0));
    assert!(read > 0, "seed {seed}: no table was read again");

    for (at, table) in TABLES.into_iter().enumerate() {
        let columns = shapes[at].lock().await;
        let records = embedded(&exchange, table.0).await;
        let replayed = replay(&records, |name| columns.first_name(name));
        let mut replayed: Vec<_> = replayed.into_iter().map(|row| columns.as_present(row)).collect();
        let mut wanted = columns.rows(&department.pool, table).await;
        replayed.sort();
        wanted.sort();
        println!("{}: {} records, {} rows; read again {read}, changed {changes} times", table.0, records.len(), wanted.len());
        assert!(
            replayed == wanted,
            "seed {seed}, {}: the log has {}\nthe table has {}",
            table.0,
            beside(&replayed, &wanted),
            beside(&wanted, &replayed)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_random_history_replayed_from_the_log_is_the_table() {
    ends_as_the_tables(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_fault_random_histories_replayed_from_the_log_are_the_tables() {
    ends_as_the_tables(40).await;
}
