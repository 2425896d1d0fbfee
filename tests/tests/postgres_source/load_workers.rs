//! First load by several workers: how tables are cut, and random histories while they are read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use guitong_connectors::source::{Phase, Source};
use guitong_schemas::contract::System;
use guitong_schemas::table::TableName;
use guitong_tests::servers::postgres::Postgres;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;

use super::harness::*;

/// Tables of every kind of order that rows are read in; `n` is written by the histories, `big` is stored out of line.
const TABLES: [(&str, &str); 6] = [
    ("numbers", "CREATE TABLE numbers (k bigint PRIMARY KEY, n bigint, big text)"),
    ("pairs", "CREATE TABLE pairs (a text, k int, n bigint, big text, PRIMARY KEY (a, k))"),
    ("uuids", "CREATE TABLE uuids (k uuid PRIMARY KEY, n bigint, big text)"),
    ("words", "CREATE TABLE words (k text COLLATE \"zh-x-icu\" PRIMARY KEY, n bigint, big text)"),
    // Its index keeps apart what its column's collation takes for the same.
    (
        "cases",
        "CREATE COLLATION either_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE TABLE cases (k text COLLATE either_case NOT NULL, n bigint, big text);
         CREATE UNIQUE INDEX cases_key ON cases (k COLLATE \"C\"); ALTER TABLE cases REPLICA IDENTITY USING INDEX cases_key",
    ),
    // No index vouches for its declared key.
    ("places", "CREATE TABLE places (k bigint NOT NULL, n bigint, big text); ALTER TABLE places REPLICA IDENTITY FULL"),
];

/// The key of a table's `number`-th row, as SQL.
fn key(table: &str, number: u32) -> String {
    match table {
        "pairs" => format!("'{}区', {number}", ["南", "北", "西"][number as usize % 3]),
        "uuids" => format!("md5('{number}')::uuid"),
        "words" => format!("'{}{}'", ["桂林", "a", "Zürich", "南宁", "_", "z"][number as usize % 6], number / 6),
        "cases" => format!("'{}{}'", ["k", "K"][number as usize % 2], number / 2),
        _ => number.to_string(),
    }
}

fn key_columns(table: &str) -> &'static str {
    if table == "pairs" { "a, k" } else { "k" }
}

/// The key as its index compares it.
fn compared(table: &str) -> &'static str {
    if table == "cases" { "k COLLATE \"C\"" } else { key_columns(table) }
}

/// What makes `k` and `K` equal.
const EITHER_CASE: &str = "(provider = icu, locale = 'und-u-ks-level2', deterministic = false)";

async fn make(server: &Postgres, rows: u32) {
    let icu = "SELECT EXISTS (SELECT FROM pg_collation WHERE collname = 'zh-x-icu')";
    let icu: bool = sqlx::query_scalar(icu).fetch_one(&server.admin().await.unwrap()).await.unwrap();
    for (table, sql) in TABLES {
        // A server that is built without ICU has to do with the order of bytes.
        let sql = if icu { sql.to_owned() } else { sql.replace("zh-x-icu", "C").replace(EITHER_CASE, "FROM \"C\"") };
        server.execute(&sql).await.unwrap();
        server.execute(&format!("ALTER TABLE {table} ALTER big SET STORAGE EXTERNAL")).await.unwrap();
        let values: Vec<String> =
            (0..rows).map(|number| format!("({}, {number}, repeat('x', {}))", key(table, number), number % 150)).collect();
        server.execute(&format!("INSERT INTO {table} VALUES {}", values.join(", "))).await.unwrap();
    }
}

async fn several(server: &Postgres) -> System {
    let mut system = prepared(server).await;
    system.snapshot.workers = 3;
    system.snapshot.chunk = 8 << 10;
    system.keys = vec![(TableName::new("public", "places"), vec!["k".to_owned()])];
    system
}

async fn assert_equal(pool: &PgPool, mirror: &Mirror) {
    for (table, _) in TABLES {
        let key = if table == "pairs" { "a, k::text" } else { "k::text" };
        let (sql, width) = (format!("SELECT ARRAY[{key}, n::text, big] FROM {table}"), key.split(',').count() + 2);
        let mut wanted: Vec<Vec<Option<String>>> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(pool).await.unwrap();
        wanted.sort();
        // Columns that came and went in between are behind the others.
        let mut got: Vec<Vec<Option<String>>> =
            mirror.table(table).into_iter().map(|row| row.into_iter().take(width).collect()).collect();
        got.sort();
        assert_eq!(got.len(), wanted.len(), "rows of {table}");
        for (got, wanted) in got.iter().zip(&wanted) {
            assert_eq!(got, wanted, "{table}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_is_read_once_whatever_orders_the_keys() {
    let server = Postgres::start().await.unwrap();
    make(&server, 2_000).await;
    server.execute("ANALYZE").await.unwrap();
    let exchange = Exchange::new().await;
    let mut session = exchange.connect_with(&several(&server).await, 64 << 10).await.unwrap();
    let mut all = Vec::new();
    let mut most = 0;
    while session.source.status().phase != Phase::Streaming {
        all.extend(session.step().await.unwrap());
        let position = json(&session.publisher.position().unwrap());
        let ranges = position["tables"].as_array().unwrap().iter().filter_map(|table| table["ranges"].as_array());
        most = most.max(ranges.map(Vec::len).max().unwrap_or(0));
    }
    assert!(most > 2, "a table was cut into {most} ranges");
    assert_rising(&all);
    for (table, _) in TABLES {
        assert_eq!(all.iter().filter(|change| change.table.name.name == table).count(), 2_000, "{table}: each row once");
    }
    let mut mirror = Mirror::default();
    mirror.apply(&all);
    assert_equal(&server.admin().await.unwrap(), &mirror).await;
}

/// A random statement on one of the tables.
fn statement(random: &mut StdRng, rows: u32) -> String {
    let table = TABLES[random.random_range(0..TABLES.len())].0;
    let (a, b, n) = (random.random_range(0..rows), random.random_range(0..rows), random.random::<u32>());
    let (columns, compared) = (key_columns(table), compared(table));
    let (from, to) = (key(table, a), key(table, b));
    match random.random_range(0..9) {
        0 | 1 => format!(
            "INSERT INTO {table} ({columns}, n, big) SELECT {from}, {n}, repeat(md5('{n}'), 70) \
             WHERE NOT EXISTS (SELECT FROM {table} WHERE ({compared}) = ({from}) FOR UPDATE)"
        ),
        2 | 3 => format!("UPDATE {table} SET n = {n} WHERE ({compared}) = ({from})"),
        4 => format!("UPDATE {table} SET big = repeat(md5('{n}'), 70) WHERE ({compared}) = ({from})"),
        5 => format!(
            "UPDATE {table} SET ({columns}) = ROW({to}) WHERE ({compared}) = ({from}) \
             AND NOT EXISTS (SELECT FROM {table} WHERE ({compared}) = ({to}))"
        ),
        6 => format!("DELETE FROM {table} WHERE ({compared}) = ({from})"),
        7 => match n % 48 {
            // Each of them ends a session that has not read the table yet, so they are few. The first two write it anew, with nothing streamed.
            0 => format!("ALTER TABLE {table} ALTER n TYPE numeric"),
            1 => format!("ALTER TABLE {table} ALTER n TYPE bigint"),
            2 | 3 => format!("ALTER TABLE {table} ADD COLUMN IF NOT EXISTS more text DEFAULT 'x'"),
            4 | 5 => format!("ALTER TABLE {table} DROP COLUMN IF EXISTS more"),
            _ => format!("UPDATE {table} SET n = {n}, big = big || 'x' WHERE ({compared}) IN (({from}), ({to}))"),
        },
        _ => format!("SAVEPOINT s; DELETE FROM {table} WHERE ({compared}) = ({from}); ROLLBACK TO s"),
    }
}

/// One writer: the table without a unique index could get a key twice from two.
async fn write(pool: PgPool, seed: u64, rows: u32, stop: Arc<AtomicBool>) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut connection = pool.acquire().await.unwrap();
    while !stop.load(Ordering::Relaxed) {
        let statements: Vec<String> = (0..random.random_range(1..6)).map(|_| statement(&mut random, rows)).collect();
        let end = if random.random_range(0..10) == 0 { "ROLLBACK" } else { "COMMIT" };
        let sql = format!("BEGIN; {}; {end}", statements.join("; "));
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await.unwrap();
        // Leaves the machine to the load.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..4))).await;
    }
}

/// Transactions, lost sessions and tables that are read: what was published, applied in its order, is the tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_histories_end_as_the_tables() {
    let seed = guitong_tests::seed();
    let mut random = StdRng::seed_from_u64(seed);
    const ROWS: u32 = 1_500;
    let server = Postgres::start().await.unwrap();
    make(&server, ROWS).await;
    server.execute("ANALYZE numbers, words, cases").await.unwrap();
    let exchange = Exchange::new().await;
    let system = several(&server).await;
    let stop = Arc::new(AtomicBool::new(false));
    let pool = server.admin().await.unwrap();
    let writer = tokio::spawn(write(pool.clone(), random.random(), ROWS, Arc::clone(&stop)));
    let mut mirror = Mirror::default();
    let mut session = exchange.connect(&system).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(90);
    while session.source.status().phase != Phase::Streaming {
        assert!(Instant::now() < deadline, "{:?}", session.source.status());
        let lost = match session.step().await {
            Ok(changes) => {
                mirror.apply(&changes);
                random.random_range(0..12) == 0 && {
                    session.source.next_batch(session.budget()).await.ok();
                    true
                }
            }
            Err(error) => {
                // The table is another than when the session began.
                assert!(error.is_transient(), "{error}");
                true
            }
        };
        if lost {
            drop(session);
            session = exchange.reconnect(&system).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    server.execute("INSERT INTO numbers VALUES (1000000, 1, '')").await.unwrap();
    let last = session.until(|all| all.iter().any(|change| line(change).starts_with("c numbers [1000000,"))).await;
    mirror.apply(&last);
    println!(
        "{} rows gave way, {} loaded",
        exchange.metric("guitong_postgres_snapshot_yielded_rows_total"),
        exchange.metric("guitong_postgres_snapshot_rows_total")
    );
    assert_equal(&pool, &mirror).await;
}

/// Writes a table anew, and commits once somebody waits for it.
async fn written_anew(pool: &PgPool, table: &str) -> tokio::task::JoinHandle<()> {
    let mut department = pool.begin().await.unwrap();
    let alter = format!("ALTER TABLE {table} ALTER n TYPE bigint");
    sqlx::raw_sql(AssertSqlSafe(alter)).execute(&mut *department).await.unwrap();
    tokio::spawn(commit_when_waited_for(pool.clone(), department))
}

async fn commit_when_waited_for(pool: PgPool, department: sqlx::Transaction<'static, sqlx::Postgres>) {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    let deadline = Instant::now() + Duration::from_secs(30);
    while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&pool).await.unwrap() == 0 {
        assert!(Instant::now() < deadline, "nobody waits");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    department.commit().await.unwrap();
}

/// Nothing of a table is taken that was written anew between a snapshot and its reading, or between two parts of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_written_anew_while_it_is_read_is_whole() {
    let server = Postgres::start().await.unwrap();
    server
        .execute(
            "CREATE TABLE numbers (k int PRIMARY KEY, n int, pad text);
             INSERT INTO numbers SELECT n, n, repeat('x', 200) FROM generate_series(1, 3000) n;
             CREATE TABLE loose (n int); INSERT INTO loose SELECT generate_series(1, 3000);
             CREATE TABLE places (k int NOT NULL, pad text); ALTER TABLE places REPLICA IDENTITY FULL;
             INSERT INTO places SELECT n, repeat('x', 200) FROM generate_series(1, 6000) n; DELETE FROM places WHERE k <= 3000;",
        )
        .await
        .unwrap();
    let mut system = prepared(&server).await;
    system.snapshot.chunk = 16 << 10;
    system.keys = vec![(TableName::new("public", "places"), vec!["k".to_owned()])];
    let exchange = Exchange::new().await;
    let pool = server.admin().await.unwrap();
    let mut session = exchange.connect(&system).await.unwrap();
    let (mut mirror, mut loose, mut anew, mut moved, mut refused) = (Mirror::default(), 0, Vec::new(), false, 0);
    let deadline = Instant::now() + Duration::from_secs(60);
    while session.source.status().phase != Phase::Streaming {
        assert!(Instant::now() < deadline, "{:?}", session.source.status());
        match session.step().await {
            Ok(mut changes) => {
                loose += changes.iter().filter(|change| change.table.name.name == "loose").count();
                changes.retain(|change| change.table.name.name != "loose");
                // Read whole, it comes after the others.
                if refused == 2 && anew.len() == 1 && !changes.is_empty() {
                    anew.push(written_anew(&pool, "loose").await);
                }
                mirror.apply(&changes);
            }
            Err(error) => {
                assert!(error.is_transient() && error.to_string().contains("written anew"), "{error}");
                refused += 1;
                drop(session);
                session = exchange.reconnect(&system).await;
            }
        }
        if anew.is_empty() && !mirror.table("numbers").is_empty() {
            anew.push(written_anew(&pool, "numbers").await);
        }
        let read = session.source.status().snapshot.map(|status| status.rows_done);
        if !moved && mirror.table("numbers").len() == 3_000 && read > Some(3_000) {
            // What is not read moves to where the reading has been.
            server.execute("VACUUM FULL places").await.unwrap();
            moved = true;
        }
    }
    for commit in anew {
        commit.await.unwrap();
    }
    assert_eq!((mirror.table("numbers").len(), mirror.table("places").len(), loose), (3_000, 3_000, 3_000));
    assert_eq!(refused, 3, "each table was met once when it did not count");
}

/// A table is read in binary, where eight bytes can be a number as well as a text: its columns are held against what was asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_of_another_type_is_not_read_as_what_it_was() {
    let server = Postgres::start().await.unwrap();
    server.execute("CREATE TABLE numbers (k int PRIMARY KEY, n bigint); INSERT INTO numbers VALUES (1, 1)").await.unwrap();
    let (system, exchange) = (prepared(&server).await, Exchange::new().await);
    let mut session = exchange.connect(&system).await.unwrap();
    server.execute("ALTER TABLE numbers ALTER n TYPE text USING 'abcdefgh'").await.unwrap();
    let error = loop {
        match session.step().await {
            Ok(changes) => assert!(changes.is_empty(), "{changes:?}"),
            Err(error) => break error,
        }
    };
    assert!(error.is_transient() && error.to_string().contains("columns of public.numbers were changed"), "{error}");
    drop(session);
    let mut session = exchange.reconnect(&system).await;
    let read: Vec<String> = session.load().await.iter().map(line).collect();
    assert_eq!(read, ["r numbers [1,abcdefgh]"]);
}
