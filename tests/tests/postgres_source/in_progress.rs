//! Transactions that the server sends before their commit: what is published does not depend on it.

use std::time::{Duration, Instant};

use guitong_schemas::change::Change;
use guitong_schemas::contract::system::System;
use guitong_tests::servers::postgres::{ADMIN, Options, Postgres};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnection, PgPool};

use super::binary::forms;
use super::harness::*;

/// Of each writer.
const TRANSACTIONS: i32 = 60;

/// A server that sends nearly every transaction of more than a few hundred rows before its commit.
async fn eager(more: Options) -> Postgres {
    Postgres::start_with(more.set("logical_decoding_work_mem", "64kB")).await.unwrap()
}

/// Transactions that the server sent before their commit, or began to.
pub(super) async fn streamed(server: &Postgres, slot: &str) -> i64 {
    let pool = server.admin().await.unwrap();
    let query = "SELECT stream_txns FROM pg_stat_replication_slots WHERE slot_name = $1";
    sqlx::query_scalar(query).bind(slot).fetch_one(&pool).await.unwrap()
}

/// One statement of a writer, whose rows no other writer changes.
fn statement(random: &mut StdRng, writer: i32, depth: &mut u32) -> String {
    let low = random.random_range(0..2_000) * 2 + writer;
    let high = low + random.random_range(2..400);
    let rows = format!("id % 2 = {writer} AND id BETWEEN {low} AND {high}");
    match random.random_range(0..16) {
        0..=5 => format!(
            "INSERT INTO t (id, name, pad) SELECT n, '企业' || n, repeat(md5(n::text), 6) FROM generate_series({low}, {high}, 2) n \
             ON CONFLICT (id) DO UPDATE SET name = excluded.name || '!'"
        ),
        6 => format!("UPDATE t SET pad = repeat(md5(random()::text), 100) WHERE {rows} AND id % 7 = 0"),
        7 => format!("UPDATE t SET name = 'renamed' WHERE {rows}"),
        8 => format!("UPDATE t SET id = id + 100000 WHERE {rows} AND NOT EXISTS (SELECT FROM t o WHERE o.id = t.id + 100000)"),
        9 => format!("DELETE FROM t WHERE {rows}"),
        // A subtransaction that the stream shows late, or never.
        10 => "INSERT INTO unseen.t VALUES (1)".to_owned(),
        11 => format!("SELECT pg_logical_emit_message({}, 'app', 'from {writer}')", random.random_bool(0.7)),
        12 if *depth > 0 => {
            *depth -= 1;
            format!("{} SAVEPOINT s{depth}", if random.random_bool(0.5) { "ROLLBACK TO" } else { "RELEASE" })
        }
        13 if writer == 0 => {
            let kind = if random.random_bool(0.3) { "text[] DEFAULT '{x}'" } else { "text DEFAULT 'x'" };
            format!("ALTER TABLE t ADD COLUMN IF NOT EXISTS remark {kind}")
        }
        14 if writer == 0 => "ALTER TABLE t DROP COLUMN IF EXISTS remark".to_owned(),
        15 if writer == 0 && random.random_bool(0.2) => "TRUNCATE t".to_owned(),
        _ => {
            *depth += 1;
            format!("SAVEPOINT s{}", *depth - 1)
        }
    }
}

/// Rows of one `COPY`, which share log records.
async fn copy(connection: &mut PgConnection, first: i32) {
    let mut copy = connection.copy_in_raw("COPY t (id, name) FROM STDIN").await.unwrap();
    let text: String = (first..first + 500).map(|id| format!("{id}\tcopied\n")).collect();
    copy.send(text.as_bytes()).await.unwrap();
    copy.finish().await.unwrap();
}

async fn run(connection: &mut PgConnection, sql: String) -> bool {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.is_ok()
}

async fn write(pool: PgPool, seed: u64, writer: i32) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut connection = pool.acquire().await.unwrap();
    for number in 0..TRANSACTIONS {
        let mut depth = 0;
        let statements: Vec<String> =
            (0..random.random_range(1..16)).map(|_| statement(&mut random, writer, &mut depth)).collect();
        let prepare = format!("PREPARE TRANSACTION 'w{writer}'");
        let (end, then) = match random.random_range(0..8) {
            0 => ("ROLLBACK", None),
            1 => (prepare.as_str(), Some("COMMIT PREPARED")),
            2 => (prepare.as_str(), Some("ROLLBACK PREPARED")),
            _ => ("COMMIT", None),
        };
        let done = run(&mut connection, format!("BEGIN; {}; {end}", statements.join("; "))).await;
        match then {
            Some(then) if done => assert!(run(&mut connection, format!("{then} 'w{writer}'")).await),
            // Where two writers wait for each other, one of them is rolled back.
            _ => assert!(done || run(&mut connection, "ROLLBACK".to_owned()).await),
        }
        if random.random_range(0..6) == 0 {
            copy(&mut connection, 1_000_000 * (writer + 1) + 500 * number).await;
        }
    }
}

/// What is compared of a change: its version, its row, and the table that it was decoded by.
fn shown(change: &Change) -> String {
    let columns: Vec<&str> = change.table.columns.iter().map(|column| column.name.as_str()).collect();
    format!("{} {} {}", change.version, columns.join(","), line(change))
}

/// Everything up to the row that is written last, over sessions that are lost where `losses` is given.
async fn read(exchange: &Exchange, system: &System, losses: Option<u64>) -> Vec<String> {
    let mut random = losses.map(StdRng::seed_from_u64);
    let mut session = exchange.reconnect(system).await;
    session.batch = 256 << 10;
    let (mut all, mut versions) = (Vec::new(), None);
    let deadline = Instant::now() + Duration::from_secs(180);
    loop {
        assert!(Instant::now() < deadline, "{} changes, then nothing", all.len());
        let changes = match session.step().await {
            Ok(changes) => changes,
            // A server that decodes a transaction in progress can be surprised by its end, and does better the next time.
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                println!("{error}");
                drop(session);
                session = exchange.reconnect(system).await;
                session.batch = 256 << 10;
                continue;
            }
        };
        for change in changes {
            assert!(versions.replace(change.version).is_none_or(|last| last < change.version), "{}", shown(&change));
            let is_last = change.after.is_some() && line(&change).contains("[-1,");
            all.push(shown(&change));
            if is_last {
                session.quiet().await;
                return all;
            }
        }
        if random.as_mut().is_some_and(|random| random.random_range(0..20) == 0) {
            session.read_and_lose().await;
            drop(session);
            session = exchange.reconnect(system).await;
            session.batch = 256 << 10;
        }
    }
}

/// Savepoints, rollbacks, prepared transactions, altered and truncated tables, lost sessions: two connectors, of which one takes
/// transactions in progress and the other none, publish the same; also where the one asks for binary, and columns come and go that are
/// read in text.
async fn random_histories(binary: bool) {
    let mut random = StdRng::seed_from_u64(guitong_tests::seed());
    let options = Options::default().set("max_prepared_transactions", "4").set("log_replication_commands", "on");
    let server = eager(options).await;
    server
        .execute(
            "CREATE TABLE t (id int PRIMARY KEY, name text, pad text, rate float8 DEFAULT random(), at timestamptz DEFAULT now());
             CREATE SCHEMA unseen; CREATE TABLE unseen.t (id int)",
        )
        .await
        .unwrap();
    let mut early = system(&server, ADMIN);
    server.execute(&format!("CREATE PUBLICATION {SLOT} FOR TABLE t")).await.unwrap();
    let mut late = early.clone();
    config(&mut late).slot = "late".to_owned();
    config(&mut late).streaming = false;
    config(&mut early).binary = binary;
    let exchanges = (Exchange::new().await, Exchange::new().await);
    exchanges.0.connect(&early).await.unwrap().load().await;
    exchanges.1.connect(&late).await.unwrap().load().await;

    let pool = server.admin().await.unwrap();
    let writers = [0, 1].map(|writer| tokio::spawn(write(pool.clone(), random.random(), writer)));
    let written = async {
        for writer in writers {
            writer.await.unwrap();
        }
        server.execute("INSERT INTO t (id) VALUES (-1)").await.unwrap();
    };
    let ((), ours, theirs) =
        tokio::join!(written, read(&exchanges.0, &early, Some(random.random())), read(&exchanges.1, &late, None));
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(&pool).await.unwrap();
    println!("{} changes, {rows} rows in the end, {} transactions streamed", ours.len(), streamed(&server, SLOT).await);
    for (at, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        assert_eq!(ours, theirs, "change {at}");
    }
    assert_eq!(ours.len(), theirs.len());
    assert!(streamed(&server, SLOT).await > 10, "nothing came before its commit");
    assert_eq!(streamed(&server, "late").await, 0);
    let forms_of_early = forms(&server, SLOT);
    println!("forms of the streams: {forms_of_early:?}");
    assert_eq!(forms_of_early.contains(&true), binary);
    assert_eq!(forms(&server, "late"), [false]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_histories_are_the_same_whether_they_come_before_their_commit() {
    random_histories(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_histories_are_the_same_in_binary_and_in_text() {
    random_histories(true).await;
}

/// Rows wait for their commit in a file that is gone with the transaction, or with the session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_progress_waits_in_files_and_goes_with_a_rollback() {
    const ON_DISK: &str = "guitong_postgres_in_progress_bytes";
    let server = eager(Options::default()).await;
    server.execute("CREATE TABLE t (id int PRIMARY KEY, pad text)").await.unwrap();
    let exchange = Exchange::new().await;
    let system = prepared(&server).await;
    let mut session = exchange.connect(&system).await.unwrap();
    session.load().await;
    let pool = server.admin().await.unwrap();
    let mut connection = pool.acquire().await.unwrap();
    let insert = |from: i32, to: i32| format!("INSERT INTO t SELECT n, repeat('p', 500) FROM generate_series({from}, {to}) n");
    let deadline = Instant::now() + Duration::from_secs(60);
    for (number, end) in ["ROLLBACK", "COMMIT"].into_iter().enumerate() {
        assert!(run(&mut connection, format!("BEGIN; {}; SAVEPOINT s; {}", insert(1, 4_000), insert(4_001, 8_000))).await);
        let small = format!("INSERT INTO t VALUES (-{}, '')", number + 1);
        server.execute(&small).await.unwrap();
        session.take(1).await;
        while exchange.gauge(ON_DISK) < 3_000_000 {
            assert!(Instant::now() < deadline, "{} bytes are kept", exchange.gauge(ON_DISK));
            session.quiet().await;
        }
        assert!(run(&mut connection, format!("ROLLBACK TO s; {}", insert(10_001, 10_010))).await);
        while exchange.gauge(ON_DISK) > 2_500_000 {
            assert!(Instant::now() < deadline, "{} bytes are kept", exchange.gauge(ON_DISK));
            session.quiet().await;
        }
        assert!(run(&mut connection, end.to_owned()).await);
    }
    let changes = session.take(4_010).await;
    assert_eq!(line(&changes[4_000]), format!("c t [10001,{}]", "p".repeat(500)));
    session.quiet().await;
    assert_eq!(exchange.gauge(ON_DISK), 0);
    assert_eq!(streamed(&server, SLOT).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_can_be_kept_the_error_says_what_helps() {
    let server = eager(Options::default()).await;
    server.execute("CREATE TABLE t (id int PRIMARY KEY, pad text)").await.unwrap();
    let exchange = Exchange::new().await;
    let system = prepared(&server).await;
    let mut session = exchange.connect_in(&system, "missing").await.unwrap();
    session.load().await;
    server.execute("INSERT INTO t SELECT n, repeat('p', 500) FROM generate_series(1, 4000) n").await.unwrap();
    let error = loop {
        match session.step().await {
            Ok(changes) => assert!(changes.is_empty()),
            Err(error) => break error,
        }
    };
    assert!(error.is_transient(), "{error:?}");
    for words in ["missing", "make room there", "streaming = false in systems/register.toml"] {
        assert!(error.to_string().contains(words), "{error}");
    }
    drop(session);
    exchange.reconnect(&system).await.take(4_000).await;
}
