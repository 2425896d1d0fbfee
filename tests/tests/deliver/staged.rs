//! The next batch's rows lie in a PostgreSQL sink's temporary table while the batch before is merged.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::fixture::{Bench, Target};
use crate::scenarios::assert_each_batch_once;

/// Several batches of a size that is staged.
const ROWS: u64 = 24_000;
/// Connections that have begun something and do nothing.
const OPEN: &str = "SELECT pid::text FROM pg_stat_activity WHERE usename = 'office' AND state = 'idle in transaction'";
/// The batch before waits for a lock meanwhile.
const BESIDE_ONE_THAT_WAITS: &str =
    "AND EXISTS (SELECT 1 FROM pg_stat_activity WHERE usename = 'office' AND wait_event_type = 'Lock')";

impl Bench {
    /// Another version of every row.
    async fn change_all(&mut self, name: &str, after: u64) {
        for first in (1..=ROWS).step_by(2_000) {
            let records = (first..first + 2_000).map(|n| self.named(&format!("K{n}"), name, after + n)).collect();
            self.append(records).await;
        }
    }
}

async fn assert_all(bench: &Bench, target: &Target, name: &str, records: u64) {
    let held = target.names("t").await;
    let odd: HashMap<_, _> = held.iter().filter(|(_, held)| *held != name).take(3).collect();
    assert_eq!((held.len() as u64, odd), (ROWS, HashMap::new()));
    assert_each_batch_once(bench, records).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_batch_is_staged_while_one_waits_and_a_connection_that_breaks_then_loses_nothing() {
    let mut bench = Bench::new().await;
    let target = Target::postgres().await;
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    bench.change_all("甲", 0).await;
    bench.deliver(&subscription).await;
    assert_all(&bench, &target, "甲", ROWS).await;

    // A clerk's program holds one row, so that the batch with it waits.
    let Target::Postgres(_, _, pool) = &target else { panic!("PostgreSQL") };
    let mut clerk = pool.begin().await.unwrap();
    let row = format!("SELECT uscc FROM shared.t WHERE uscc = 'K{}' FOR UPDATE", ROWS / 2);
    sqlx::query(sqlx::AssertSqlSafe(row)).execute(&mut *clerk).await.unwrap();
    bench.change_all("乙", ROWS).await;
    let mut running = bench.start(&subscription);
    let deadline = Instant::now() + Duration::from_secs(60);
    let staged = loop {
        assert!(Instant::now() < deadline, "nothing is staged: {:?}", *running.status.borrow());
        running.reaches(|status| !matches!(status.phase, guitong_deliver::Phase::Retrying { .. })).await;
        if let [pid] = &target.texts(&format!("{OPEN} {BESIDE_ONE_THAT_WAITS}")).await[..] {
            break pid.clone();
        }
    };
    assert_eq!(target.texts(&format!("SELECT pg_terminate_backend({staged})::text")).await, ["true"]);
    clerk.rollback().await.unwrap();
    bench.caught_up(&mut running).await;
    // Nothing stays open once everything is delivered.
    assert_eq!(target.texts(OPEN).await, [""; 0]);
    // The last entry of the audit may come after the rows, and is there when it stops.
    running.stop().await.unwrap();
    assert_all(&bench, &target, "乙", 2 * ROWS).await;
}

/// How often the table was read as a whole, as the server counts once connections have ended.
async fn scans(target: &Target) -> u64 {
    let connections = "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity WHERE usename = 'office'";
    let deadline = Instant::now() + Duration::from_secs(60);
    while !target.texts(connections).await.is_empty() {
        assert!(Instant::now() < deadline, "connections stay");
    }
    let scans = "SELECT seq_scan::text FROM pg_stat_user_tables WHERE schemaname = 'shared' AND relname = 't'";
    target.texts(scans).await.concat().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_read_as_a_whole_for_a_batch_that_is_a_large_part_of_it_and_for_no_other() {
    let mut bench = Bench::new().await;
    let target = Target::postgres().await;
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    bench.change_all("甲", 0).await;
    bench.deliver(&subscription).await;
    let made = scans(&target).await;
    bench.change_all("乙", ROWS).await;
    bench.deliver(&subscription).await;
    let changed = scans(&target).await;
    // Version 14 has no MERGE, and finds each row by the key's index.
    let merges = target.texts("SELECT (current_setting('server_version_num')::int >= 150000)::text").await == ["true"];
    assert_eq!(changed > made, merges, "{made} and then {changed}");
    bench.append((1..=20).map(|n| bench.named(&format!("K{n}"), "乙", 2 * ROWS + n)).collect()).await;
    bench.deliver(&subscription).await;
    assert_eq!(scans(&target).await, changed);
    assert_all(&bench, &target, "乙", 2 * ROWS + 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_of_one_database_that_are_all_behind_do_not_wait_for_each_other() {
    let mut bench = Bench::new().await;
    let target = Target::postgres().await;
    bench.change_all("甲", 0).await;
    let subscriptions =
        (0..6).map(|n| bench.subscription(&format!("credit-{n}"), target.config(&format!("t{n}")), &["uscc", "name"]));
    let subscriptions: Vec<_> = subscriptions.collect();
    let mut running: Vec<_> = subscriptions.iter().map(|subscription| bench.start(subscription)).collect();
    for running in &mut running {
        bench.caught_up(running).await;
    }
    for (n, running) in running.into_iter().enumerate() {
        running.stop().await.unwrap();
        assert_eq!(target.count(&format!("t{n}")).await, ROWS as i64);
    }
    let most = "SELECT (count(*) <= 4)::text FROM pg_stat_activity WHERE usename = 'office'";
    assert_eq!(target.texts(most).await, ["true"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_among_large_batches_neither_lose_nor_double() {
    let mut bench = Bench::new().await;
    let target = Target::postgres().await;
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    let (names, records) = bench.crash(&subscription, 8, 10_000..20_000, 30_000, 600).await;
    bench.deliver(&subscription).await;
    assert_eq!(target.names("t").await, names);
    assert_each_batch_once(&bench, records).await;
}
