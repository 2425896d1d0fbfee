//! A cold copy of the server's files is put back: the same server, the same timeline, and yet another history. And what looks like it
//! and is not: a server or a connector that crashed before the slot was confirmed.

use std::time::Duration;

use guitong_connectors::source::SourceError;
use guitong_schemas::contract::system::{GapPolicy, System};
use guitong_schemas::position::Lsn;
use guitong_tests::servers::postgres::{Options, Postgres, Stop};

use super::harness::*;
use super::logs;

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, name text); CREATE TABLE other (a text)";
const FILL: &str = "INSERT INTO other SELECT repeat('x', 100) FROM generate_series(1, 20000)";

async fn lsn(server: &Postgres, expression: &str) -> Lsn {
    let sql = format!("SELECT ({expression} - '0/0'::pg_lsn)::int8");
    let lsn: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&server.admin().await.unwrap()).await.unwrap();
    Lsn(lsn.cast_unsigned())
}

async fn confirmed(server: &Postgres) -> Lsn {
    lsn(server, "(SELECT confirmed_flush_lsn FROM pg_replication_slots)").await
}

/// The place that is stored.
async fn position(exchange: &Exchange) -> (Lsn, serde_json::Value) {
    let stored = exchange.stored().await;
    (Lsn(stored["lsn"].as_u64().unwrap()), stored)
}

/// Waits until nobody reads from the slot.
async fn let_go(server: &Postgres) {
    let admin = server.admin().await.unwrap();
    let active = "SELECT count(*) FROM pg_replication_slots WHERE active";
    while sqlx::query_scalar::<_, i64>(active).fetch_one(&admin).await.unwrap() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Loads a table, copies the server, has `read` done by whoever reads on, puts the copy back, writes `rewritten` and more, and expects that
/// to be noticed, twice, and then repaired where it may be.
async fn put_back(read: impl AsyncFnOnce(&Postgres, &Exchange, &System), rewritten: &str) {
    let mut server = Postgres::start().await.unwrap();
    server.execute(&format!("{TABLES}; INSERT INTO t VALUES (1, 'a')")).await.unwrap();
    let exchange = Exchange::new().await;
    let mut system = prepared_for(&server, &["t"]).await;
    let mut session = exchange.connect(&system).await.unwrap();
    session.load().await;
    server.execute("UPDATE t SET name = 'b'").await.unwrap();
    session.take(1).await;
    drop(session);
    let_go(&server).await;
    server.stop(Stop::Fast).await.unwrap();
    server.back_up().unwrap();
    server.start_again().await.unwrap();

    read(&server, &exchange, &system).await;
    let_go(&server).await;
    server.stop(Stop::Fast).await.unwrap();
    server.restore().unwrap();
    server.start_again().await.unwrap();
    let (read_to, stored) = position(&exchange).await;
    server.execute(rewritten).await.unwrap();
    assert!(lsn(&server, "pg_current_wal_lsn()").await < read_to, "written over what was read");
    while lsn(&server, "pg_current_wal_lsn()").await < read_to {
        server.execute(FILL).await.unwrap();
    }
    server.execute("INSERT INTO t VALUES (9, 'beyond')").await.unwrap();
    assert!(confirmed(&server).await <= read_to);
    let published = exchange.records("raw.register.public.t").await.len();
    for _ in 0..2 {
        let error = exchange.connect(&system).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, SourceError::Gap { .. }), "{error:?}");
        assert!(error.to_string().contains("it was restored from a backup"), "{error}");
        let_go(&server).await;
        assert_eq!(position(&exchange).await.1, stored);
        assert_eq!(exchange.records("raw.register.public.t").await.len(), published, "nothing is published");
    }
    config(&mut system).on_gap = GapPolicy::Resnapshot;
    let mut session = exchange.connect(&system).await.unwrap();
    let again = session.load().await;
    assert!(again.iter().all(|change| change.version.epoch == 2));
    let mut mirror = Mirror::default();
    mirror.apply(&again);
    let rows: Vec<(String, Option<String>)> =
        sqlx::query_as("SELECT id::text, name FROM t").fetch_all(&server.admin().await.unwrap()).await.unwrap();
    let mut wanted: Vec<_> = rows.into_iter().map(|(id, name)| vec![Some(id), name]).collect();
    let mut got = mirror.table("t");
    wanted.sort();
    got.sort();
    assert_eq!(got, wanted);
    drop(session);
    // Repaired once.
    exchange.reconnect(&system).await.quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_put_back_to_before_what_was_read_is_a_gap() {
    let read = async |server: &Postgres, exchange: &Exchange, system: &System| {
        let mut session = exchange.connect(system).await.unwrap();
        server.execute(FILL).await.unwrap();
        server.execute("INSERT INTO t VALUES (2, 'lost with the disk')").await.unwrap();
        session.take(1).await;
    };
    put_back(read, "INSERT INTO t VALUES (3, 'in its place')").await;
}

/// Nothing but keepalives moved the position after the copy: the last transaction is in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_put_back_to_before_where_nothing_was_read_is_a_gap() {
    let read = async |server: &Postgres, exchange: &Exchange, system: &System| {
        let mut session = exchange.connect(system).await.unwrap();
        server.execute(FILL).await.unwrap();
        let end = lsn(server, "pg_current_wal_lsn()").await;
        while position_of(&session) < end {
            assert!(session.step().await.unwrap().is_empty());
        }
    };
    put_back(read, "INSERT INTO t VALUES (3, 'in its place')").await;
}

/// The transaction that is published in part never happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_put_back_to_before_a_transaction_that_was_read_in_part_is_a_gap() {
    let read = async |server: &Postgres, exchange: &Exchange, system: &System| {
        let mut session = exchange.connect_with(system, 50_000).await.unwrap();
        server.execute(FILL).await.unwrap();
        server.execute("INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series(100, 3000) n").await.unwrap();
        session.until(|all| !all.is_empty()).await;
        let stored = json(&session.publisher.position().unwrap());
        assert!(stored["inside"]["mark"].is_object(), "{stored}");
    };
    put_back(read, "INSERT INTO other VALUES ('nothing that is read')").await;
}

fn position_of(session: &Session) -> Lsn {
    Lsn(json(&session.publisher.position().unwrap())["lsn"].as_u64().unwrap())
}

/// Whatever was read last and however it came, a slot that is confirmed less far is no gap where the server has it all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_before_the_slot_is_confirmed_is_no_gap() {
    logs::start();
    let options = Options::default().set("logical_decoding_work_mem", "64kB").set("max_prepared_transactions", "4");
    let mut server = Postgres::start_with(options).await.unwrap();
    server.execute(TABLES).await.unwrap();
    let exchange = Exchange::new().await;
    let mut system = prepared_for(&server, &["t"]).await;
    config(&mut system).slot = "exchange_crashes".into();
    exchange.connect(&system).await.unwrap().load().await;
    let prepared = "BEGIN; INSERT INTO t VALUES (5000, 'p'); PREPARE TRANSACTION 'p'";
    let cases: [(&str, &[&str], usize); 6] = [
        ("one row", &["INSERT INTO t VALUES (1, 'a')"], 1),
        ("in streams", &["INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series(100, 2100) n"], 2001),
        ("prepared", &[prepared, "INSERT INTO t VALUES (5001, 'q')", "COMMIT PREPARED 'p'"], 2),
        (
            "a part rolled back",
            &["BEGIN; INSERT INTO t VALUES (2, 'a'); SAVEPOINT s; INSERT INTO t VALUES (3, 'b'); ROLLBACK TO s; COMMIT"],
            1,
        ),
        ("others after it", &["INSERT INTO t VALUES (4, 'a')", FILL, "CREATE TABLE more (a int)"], 1),
        ("a message", &["SELECT pg_logical_emit_message(true, 'app', 'x')", "INSERT INTO t VALUES (6, 'a')"], 1),
    ];
    let mut next = 10_000;
    for stop in [None, Some(Stop::Immediate), Some(Stop::Fast)] {
        for (case, statements, count) in cases {
            let mut session = exchange.reconnect(&system).await;
            next += 1;
            server.execute("DELETE FROM t WHERE id < 10000; DROP TABLE IF EXISTS more").await.unwrap();
            server.execute(&format!("INSERT INTO t VALUES ({next}, 'before')")).await.unwrap();
            session.until(|all| all.last().is_some_and(|last| line(last) == format!("c t [{next},before]"))).await;
            session.quiet().await;
            for statement in statements {
                server.execute(statement).await.unwrap();
            }
            let mut read = 0;
            while read < count {
                read += session.step_unconfirmed().await.len();
            }
            let end = lsn(&server, "pg_current_wal_lsn()").await;
            while case == "others after it" && position_of(&session) < end {
                session.step_unconfirmed().await;
            }
            assert_eq!(read, count, "{case}");
            drop(session);
            let_go(&server).await;
            if let Some(stop) = stop {
                server.restart(stop).await.unwrap();
            }
            assert!(confirmed(&server).await < position(&exchange).await.0, "{case}: not the case that is meant");
            let looked = logs::with(&["looking whether the server still has that"]).len();
            let mut session = exchange.reconnect(&system).await;
            assert!(logs::with(&["looking whether the server still has that"]).len() > looked, "{case}");
            next += 1;
            server.execute(&format!("INSERT INTO t VALUES ({next}, 'after')")).await.unwrap();
            assert_eq!(lines(&session.take(1).await), [format!("c t [{next},after]")], "{case}");
            session.quiet().await;
            assert_eq!(confirmed(&server).await.max(position_of(&session)), position_of(&session), "{case}");
        }
    }
}

/// What was read is no proof where another publication is asked for by now: it may not have it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_that_has_less_is_no_gap() {
    let server = Postgres::start().await.unwrap();
    server.execute(TABLES).await.unwrap();
    server.execute("CREATE TABLE more (id int PRIMARY KEY)").await.unwrap();
    let exchange = Exchange::new().await;
    let mut system = prepared_for(&server, &["t", "more"]).await;
    server.execute("CREATE PUBLICATION less FOR TABLE t WITH (publish_via_partition_root = true)").await.unwrap();
    let mut session = exchange.connect(&system).await.unwrap();
    session.load().await;
    server.execute("INSERT INTO more VALUES (1)").await.unwrap();
    while session.step_unconfirmed().await.is_empty() {}
    drop(session);
    let_go(&server).await;
    system.tables.pop();
    config(&mut system).publication = "less".into();
    let mut session = exchange.reconnect(&system).await;
    server.execute("INSERT INTO t VALUES (2, 'b')").await.unwrap();
    assert_eq!(lines(&session.take(1).await), ["c t [2,b]"]);
}
