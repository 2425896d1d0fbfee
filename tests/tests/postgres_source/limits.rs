//! The department comes first while its tables are being read: nobody who writes is kept waiting, and its limits take hold: reading
//! stops, says why, and goes on by itself.

use std::time::{Duration, Instant};

use guitong_connectors::source::{Phase, Source};
use guitong_schemas::change::Operation;
use guitong_schemas::contract::system::Window;
use guitong_schemas::table::TableName;
use guitong_tests::servers::postgres::Postgres;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use sqlx::Executor as _;
use sqlx::postgres::PgPool;

use super::harness::*;

const ROWS: usize = 400;

/// A table that takes four seconds at a hundred rows a second, and another one that nobody reads.
async fn made() -> (Postgres, guitong_schemas::contract::System) {
    let server = Postgres::start().await.unwrap();
    server
        .execute(&format!(
            "CREATE TABLE t (id int PRIMARY KEY, name text); INSERT INTO t SELECT n, 'n' || n FROM generate_series(1, {ROWS}) n;
             CREATE TABLE other (x text); ALTER TABLE other ALTER x SET STORAGE EXTERNAL"
        ))
        .await
        .unwrap();
    let mut system = prepared_for(&server, &["t"]).await;
    system.snapshot.rows_per_second = Some(100);
    (server, system)
}

fn hold(session: &Session) -> Option<String> {
    session.source.status().snapshot.and_then(|status| status.hold)
}

fn assert_each_once(mut rows: Vec<String>) {
    rows.sort();
    let mut wanted: Vec<String> = (1..=ROWS).map(|id| format!("r t [{id},n{id}]")).collect();
    wanted.sort();
    assert_eq!(rows, wanted);
}

/// The hours end while the table is read: the rest comes from their next beginning on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hours_that_end_while_a_table_is_read_pause_it_until_they_begin_again() {
    let (_server, mut system) = made().await;
    // Open around the clock but for two seconds and a half.
    let (begun, now) = (Instant::now(), Timestamp::now());
    let (closes, opens) = (now + 1_500.milliseconds(), now + 4.seconds());
    let time = |at: Timestamp| at.to_zoned(TimeZone::UTC).time();
    system.snapshot.window = Some(Window { from: time(opens), to: time(closes), zone: TimeZone::UTC });
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&system).await.unwrap();
    let (mut rows, mut held, mut last) = (Vec::new(), Vec::new(), 0);
    let mut read_while_held = 0;
    while session.source.status().phase != Phase::Streaming {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", session.source.status());
        rows.extend(lines(&session.step().await.unwrap()));
        if let Some(words) = hold(&session) {
            // A chunk that was being read when the hours ended still comes.
            read_while_held += usize::from(!held.is_empty()) * (rows.len() - last);
            held.push((words, rows.len()));
        }
        last = rows.len();
    }
    let (words, before) = held.first().expect("it was paused");
    assert!((1..ROWS).contains(before), "{before} rows were read before the hours ended");
    assert_eq!(*words, format!("waits for {}", opens.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M %Z")));
    assert!(read_while_held <= 100, "{read_while_held} rows were read out of hours, more than one chunk");
    assert!(Timestamp::now() > opens && hold(&session).is_none());
    assert_each_once(rows);
}

/// A transaction that stays open has the server keep its log: reading waits until that is over, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_log_than_the_department_allows_pauses_reading_until_it_is_gone() {
    let (server, mut system) = made().await;
    system.limits.retained_log = Some(16 << 20);
    // Ten seconds for all: the server is asked every three what it keeps.
    system.snapshot.rows_per_second = Some(40);
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&system).await.unwrap();
    let mut rows = Vec::new();
    while rows.is_empty() {
        rows.extend(lines(&session.step().await.unwrap()));
    }
    let pool = server.admin().await.unwrap();
    let mut department = pool.begin().await.unwrap();
    department.execute("INSERT INTO other SELECT repeat(md5(n::text), 100) FROM generate_series(1, 8000) n").await.unwrap();
    let begun = Instant::now();
    while hold(&session).is_none() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", session.source.status());
        rows.extend(lines(&session.step().await.unwrap()));
    }
    let words = hold(&session).unwrap();
    let retained: u64 = words.split(' ').find_map(|word| word.parse().ok()).unwrap();
    assert!(retained > 16 << 20 && rows.len() < ROWS, "{retained} bytes are kept, {} rows are read", rows.len());
    assert_eq!(
        words,
        format!("waits while the server keeps {retained} bytes of log, more than the 16777216 of limits.retained_log")
    );
    // What was being read comes, and no more, though the time for all rows goes by.
    let (begun, held) = (Instant::now(), rows.len());
    while begun.elapsed() < Duration::from_secs(3) {
        rows.extend(lines(&session.step().await.unwrap()));
    }
    assert!(rows.len() <= held + 100, "{} rows were read meanwhile", rows.len() - held);

    department.commit().await.unwrap();
    let begun = Instant::now();
    while session.source.status().phase != Phase::Streaming {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", session.source.status());
        // The server looks at which transactions run when it writes a checkpoint.
        server.execute("INSERT INTO other VALUES ('x'); CHECKPOINT").await.unwrap();
        rows.extend(lines(&session.step().await.unwrap()));
    }
    assert_each_once(rows);
}

/// The locks that the reader has on the table.
async fn locks(department: &PgPool) -> Vec<String> {
    let held =
        "SELECT DISTINCT mode FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE relation = 't'::regclass AND usename = $1";
    sqlx::query_scalar(held).bind(READER).fetch_all(department).await.unwrap()
}

/// Whoever writes to the table or makes an index goes on while it is read: the reader has the lock of any SELECT and no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_who_writes_waits_for_a_table_that_is_read() {
    let (server, mut system) = made().await;
    system.snapshot.rows_per_second = None;
    // Each row takes its time, within the transaction that reads it.
    system.snapshot.filters = vec![(TableName::new("public", "t"), "pg_sleep(0.01) IS NOT NULL".to_owned())];
    let department = server.admin().await.unwrap();
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&system).await.unwrap();
    let writes = async {
        while locks(&department).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        department
            .execute(
                "SET lock_timeout = '500ms'; INSERT INTO t VALUES (1000, 'x'); UPDATE t SET name = 'y' WHERE id = 1000;
                 DELETE FROM t WHERE id = 1000; CREATE INDEX ON t (name)",
            )
            .await
            .unwrap();
        locks(&department).await
    };
    let (held, rows) = tokio::join!(writes, session.load());
    assert_eq!(held, ["AccessShareLock"], "it is still being read, and that is all that it holds");
    assert_eq!(rows.iter().filter(|row| row.operation == Operation::Read).count(), ROWS);
}
