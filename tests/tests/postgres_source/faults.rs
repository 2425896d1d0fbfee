//! What happens to the server and to the way there while changes stream: nothing is lost, nothing comes twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use guitong_connectors::source::{Source, SourceError};
use guitong_schemas::change::Change;
use guitong_schemas::contract::Secret;
use guitong_tests::servers::postgres::{Options, PASSWORD, Postgres, Stop};
use guitong_tests::servers::proxy::{Mode, Proxy};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::postgres::PgPool;

use super::harness::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// First column of each change.
fn ids(changes: &[Change]) -> Vec<i64> {
    changes.iter().map(|change| line(change).split(['[', ',', ']']).nth(1).unwrap().parse().unwrap()).collect()
}

/// Every committed row once, in some order of commits.
async fn assert_equal_to_table(server: &Postgres, changes: &[Change]) {
    assert_rising(changes);
    let wanted: Vec<i64> =
        sqlx::query_scalar("SELECT id::int8 FROM t ORDER BY 1").fetch_all(&server.admin().await.unwrap()).await.unwrap();
    let mut got = ids(changes);
    got.sort_unstable();
    assert!(got == wanted, "{} rows of {}, from {:?} to {:?}", got.len(), wanted.len(), got.first(), got.last());
}

/// Commits rows of its own, one by one, while the server is there.
async fn clerk(pool: PgPool, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        // A commit whose answer is lost may have happened: the table says so in the end.
        if sqlx::query("INSERT INTO t (name) VALUES ('one')").execute(&pool).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Steps until the session ends, which has to be worth another try.
async fn until_broken(session: &mut Session, all: &mut Vec<Change>) {
    let deadline = Instant::now() + PATIENCE;
    let error = loop {
        assert!(Instant::now() < deadline, "the session goes on");
        match session.step().await {
            Ok(changes) => all.extend(changes),
            Err(error) => break error,
        }
    };
    assert!(error.is_transient(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_under_load_loses_and_doubles_nothing() {
    let mut server = Postgres::start().await.unwrap();
    server.execute("CREATE TABLE t (id serial PRIMARY KEY, name text)").await.unwrap();
    let exchange = Exchange::new().await;
    let system = prepared(&server).await;
    let mut session = exchange.connect_with(&system, 100_000).await.unwrap();
    session.load().await;
    let stop = Arc::new(AtomicBool::new(false));
    let clerk = tokio::spawn(clerk(server.admin().await.unwrap(), Arc::clone(&stop)));
    let mut all = Vec::new();
    for _ in 0..3 {
        server.execute("INSERT INTO t (name) SELECT repeat('m', 100) FROM generate_series(1, 3000)").await.unwrap();
        // Stops somewhere in that transaction: some of it is published.
        while !all.last().is_some_and(|last: &Change| line(last).contains("mmm")) {
            all.extend(session.step().await.unwrap());
        }
        server.restart(Stop::Immediate).await.unwrap();
        until_broken(&mut session, &mut all).await;
        session = exchange.reconnect(&system).await;
        session.batch = 100_000;
        all.extend(session.step().await.unwrap());
    }
    stop.store(true, Ordering::Relaxed);
    clerk.await.unwrap();
    server.execute("INSERT INTO t VALUES (0, 'last')").await.unwrap();
    all.extend(session.until(|more| more.last().is_some_and(|last| line(last) == "c t [0,last]")).await);
    session.quiet().await;
    assert_equal_to_table(&server, &all).await;
}

/// The connection ends in the middle of a message, at any byte: of the handshake, of a row, of a keepalive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_at_any_byte_loses_and_doubles_nothing() {
    let seed = guitong_tests::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let server = Postgres::start().await.unwrap();
    server.execute("CREATE TABLE t (id serial PRIMARY KEY, name text)").await.unwrap();
    let exchange = Exchange::new().await;
    let mut system = prepared(&server).await;
    exchange.connect(&system).await.unwrap().load().await;
    // A transaction comes whole or again from its start, so each has to fit between two cuts.
    let fill = "DO $$ BEGIN FOR part IN 0..39 LOOP
        INSERT INTO t (name) SELECT repeat('x', n * 7) FROM generate_series(1, 100) n; COMMIT; END LOOP; END $$";
    server.execute(fill).await.unwrap();
    let (listener, _) = Proxy::bind().await.unwrap();
    let proxy = Proxy::start(listener, server.port()).unwrap();
    config(&mut system).url = Secret::new(format!("postgres://{READER}:{PASSWORD}@{}/postgres", proxy.address()));
    let mut all: Vec<Change> = Vec::new();
    let mut cuts = 0;
    let deadline = Instant::now() + 2 * PATIENCE;
    while all.len() < 4000 {
        assert!(Instant::now() < deadline, "{} changes after {cuts} cuts", all.len());
        // In the start, which takes some 20 kB, or in the rows: 1.5 MB, so some cuts hit them whatever the seed draws.
        proxy.set(Mode::CutAt { received: proxy.received() + random.random_range(1..300_000) });
        match exchange.connect_with(&system, 50_000).await {
            Ok(mut session) => loop {
                match session.step().await {
                    Ok(changes) if all.len() + changes.len() < 4000 => all.extend(changes),
                    Ok(changes) => {
                        all.extend(changes);
                        break;
                    }
                    Err(error) => {
                        assert!(error.is_transient(), "{error}");
                        break;
                    }
                }
            },
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
        cuts += u32::from(proxy.mode() == Mode::Cut);
    }
    println!("{cuts} cuts");
    assert!(cuts > 3, "{cuts}");
    proxy.set(Mode::Pass);
    exchange.reconnect(&system).await.quiet().await;
    assert_equal_to_table(&server, &all).await;
}

/// A transaction counts from its COMMIT PREPARED on, wherever connector and server were restarted since its PREPARE.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_transactions_count_when_they_are_committed() {
    let mut server = Postgres::start_with(Options::default().set("max_prepared_transactions", "4")).await.unwrap();
    server.execute("CREATE TABLE t (id int PRIMARY KEY, name text)").await.unwrap();
    let exchange = Exchange::new().await;
    let system = prepared(&server).await;
    let mut session = exchange.connect(&system).await.unwrap();
    session.load().await;
    let mut all = Vec::new();
    for name in ["kept", "undone", "later"] {
        let id = name.len();
        server.execute(&format!("BEGIN; INSERT INTO t VALUES ({id}, '{name}'); PREPARE TRANSACTION '{name}'")).await.unwrap();
    }
    server.execute("INSERT INTO t VALUES (1, 'plain')").await.unwrap();
    all.extend(session.take(1).await);
    session.quiet().await;
    server.execute("COMMIT PREPARED 'kept'").await.unwrap();
    all.extend(session.take(1).await);
    server.execute("INSERT INTO t VALUES (2, 'plain')").await.unwrap();
    all.extend(session.take(1).await);
    drop(session);
    server.restart(Stop::Immediate).await.unwrap();
    let mut session = exchange.reconnect(&system).await;
    session.quiet().await;
    server.execute("ROLLBACK PREPARED 'undone'").await.unwrap();
    server.execute("INSERT INTO t VALUES (3, 'plain')").await.unwrap();
    all.extend(session.take(1).await);
    drop(session);
    let mut session = exchange.reconnect(&system).await;
    server.execute("COMMIT PREPARED 'later'").await.unwrap();
    all.extend(session.take(1).await);
    session.quiet().await;
    drop(session);
    exchange.reconnect(&system).await.quiet().await;
    assert_eq!(lines(&all), ["c t [1,plain]", "c t [4,kept]", "c t [2,plain]", "c t [3,plain]", "c t [5,later]"]);
    assert_rising(&all);
}

/// Before the server takes the log away, the status says how much is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_is_near_the_servers_bound_is_told_of() {
    let server = Postgres::start_with(Options::default().set("max_slot_wal_keep_size", "64MB")).await.unwrap();
    server.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE other (a text)").await.unwrap();
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&prepared(&server).await).await.unwrap();
    session.load().await;
    assert_eq!(session.kept.borrow().left_bytes, None);
    // Four segments of 16 MB and a part of the fifth, which is the last; nothing is confirmed meanwhile.
    for _ in 0..4 {
        server.execute("INSERT INTO other VALUES ('x'); SELECT pg_switch_wal()").await.unwrap();
    }
    server.execute("INSERT INTO other SELECT repeat('x', 100) FROM generate_series(1, 30000)").await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    let left = loop {
        session.read_and_lose().await;
        let kept = *session.kept.borrow();
        if let Some(left) = kept.left_bytes {
            break left;
        }
        assert!(Instant::now() < deadline, "nothing is said: {kept:?}");
    };
    assert!((1..16 << 20).contains(&left), "{left}");
    let shown = exchange.prometheus.gather();
    let shown = shown.iter().find(|family| family.name() == "guitong_postgres_slot_left_bytes").unwrap();
    assert!((shown.get_metric()[0].get_gauge().get_value() - left as f64).abs() < 1.0);
}

/// The server takes the log away from a connector that is connected and stands still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_removed_under_a_connected_slot_is_a_gap() {
    let options = Options::default().set("max_slot_wal_keep_size", "1MB").set("min_wal_size", "32MB").set("max_wal_size", "32MB");
    let server = Postgres::start_with(options).await.unwrap();
    server.execute("CREATE TABLE t (id int PRIMARY KEY, name text); CREATE TABLE other (a text)").await.unwrap();
    let exchange = Exchange::new().await;
    let system = prepared(&server).await;
    let mut session = exchange.connect(&system).await.unwrap();
    session.load().await;
    server.execute("INSERT INTO t VALUES (1, 'not confirmed')").await.unwrap();
    let mut read = session.read_and_lose().await;
    while read.is_empty() {
        read = session.read_and_lose().await;
    }
    for _ in 0..6 {
        server.execute("INSERT INTO other VALUES (repeat('x', 100)); SELECT pg_switch_wal()").await.unwrap();
        server.execute("CHECKPOINT").await.unwrap();
    }
    let deadline = Instant::now() + PATIENCE;
    let error = loop {
        assert!(Instant::now() < deadline, "the server does not end the session");
        if let Err(error) = session.source.next_batch(session.budget()).await {
            break error;
        }
    };
    assert!(error.is_transient(), "the server ends the session: {error}");
    drop(session);
    let error = loop {
        match exchange.connect(&system).await.map(|_| ()) {
            Err(error) if error.is_transient() && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await
            }
            Err(error) => break error,
            Ok(()) => panic!("a lost slot streams"),
        }
    };
    assert!(matches!(error, SourceError::Gap { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("has lost its log") && text.contains("max_slot_wal_keep_size"), "{text}");
    assert!(text.contains("repair: run `guitong system repair register`"), "{text}");
}
