//! A standby takes over. With a copy of the slot and everything that was published, changes go on there; without, it is a gap.

use std::time::{Duration, Instant};

use guitong_connectors::source::SourceError;
use guitong_schemas::change::{Change, Operation};
use guitong_schemas::contract::Secret;
use guitong_schemas::contract::system::{GapPolicy, System};
use guitong_tests::servers::postgres::{Options, PASSWORD, Postgres, Stop};
use guitong_tests::servers::proxy::Proxy;
use sqlx::postgres::PgPool;

use super::harness::*;

const PATIENCE: Duration = Duration::from_secs(90);
const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, name text)";

/// A primary and a standby that keeps a copy of the slot, and one address for whichever is the primary.
struct Pair {
    primary: Postgres,
    standby: Postgres,
    proxy: Proxy,
    system: System,
}

impl Pair {
    /// `None`, and why in words, where the server has no such slots. `settings` are the primary's.
    async fn start(settings: Options) -> Option<Self> {
        let primary = Postgres::start_with(settings).await.unwrap();
        primary.execute(TABLE).await.unwrap();
        let mut system = prepared(&primary).await;
        config(&mut system).failover = true;
        let version: i32 = number(&primary.admin().await.unwrap(), "current_setting('server_version_num')::int").await;
        if version < 170_000 {
            let refused = Exchange::new().await.connect(&system).await.unwrap_err();
            assert!(matches!(refused, SourceError::Setup { .. }), "{refused:?}");
            assert!(refused.to_string().contains("failover = true needs PostgreSQL 17, the server is 1"), "{refused}");
            println!("PostgreSQL {version} has no failover slots: only that it says so is tried");
            return None;
        }
        primary.execute("SELECT pg_create_physical_replication_slot('standby_1', true)").await.unwrap();
        let memory: String =
            sqlx::query_scalar("SHOW logical_decoding_work_mem").fetch_one(&primary.admin().await.unwrap()).await.unwrap();
        let options = following("standby_1").set("logical_decoding_work_mem", &memory);
        let standby = primary.standby("standby_1", options).await.unwrap();
        let (listener, _) = Proxy::bind().await.unwrap();
        let proxy = Proxy::start(listener, primary.port()).unwrap();
        config(&mut system).url = Secret::new(format!("postgres://{READER}:{PASSWORD}@{}/postgres", proxy.address()));
        Some(Self { primary, standby, proxy, system })
    }

    async fn copied(&self, session: &mut Session, all: &mut Vec<Change>) {
        copied(&self.primary, &self.standby, session, all).await;
    }

    /// The primary is gone, and its address leads to the standby.
    async fn fail(&mut self) {
        self.primary.stop(Stop::Immediate).await.unwrap();
        self.proxy.redirect(self.standby.port());
    }
}

/// Steps, with something to read, until the standby has a copy of the slot that outlives a promotion.
async fn copied(primary: &Postgres, standby: &Postgres, session: &mut Session, all: &mut Vec<Change>) {
    let (primary, standby) = (primary.admin().await.unwrap(), standby.admin().await.unwrap());
    let copies =
        "(SELECT count(*)::int4 FROM pg_replication_slots WHERE slot_name = 'exchange_register' AND synced AND NOT temporary)";
    let deadline = Instant::now() + PATIENCE;
    while number(&standby, copies).await == 0 {
        assert!(Instant::now() < deadline, "the standby keeps no copy of the slot");
        sqlx::query("INSERT INTO t SELECT coalesce(min(id), 0) - 1, 'fill' FROM t").execute(&primary).await.unwrap();
        // The copy waits for such a record, which the primary writes by itself every 15 s.
        sqlx::query("SELECT pg_log_standby_snapshot()").execute(&primary).await.unwrap();
        all.extend(session.step().await.unwrap());
    }
}

/// Settings of a standby that keeps copies of slots, and follows by a slot itself.
fn following(slot: &str) -> Options {
    let settings = [("sync_replication_slots", "on"), ("hot_standby_feedback", "on"), ("primary_slot_name", slot)];
    settings.iter().fold(Options::default(), |options, (name, value)| options.set(name, value))
}

async fn number(pool: &PgPool, expression: &str) -> i32 {
    sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT {expression}"))).fetch_one(pool).await.unwrap()
}

/// The table as the server has it.
async fn table(server: &Postgres) -> Vec<Vec<Option<String>>> {
    let rows: Vec<(String, Option<String>)> =
        sqlx::query_as("SELECT id::text, name FROM t").fetch_all(&server.admin().await.unwrap()).await.unwrap();
    sorted(rows.into_iter().map(|(id, name)| vec![Some(id), name]).collect())
}

fn sorted(mut rows: Vec<Vec<Option<String>>>) -> Vec<Vec<Option<String>>> {
    rows.sort();
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_has_everything_is_gone_on_with() {
    gone_on_with("64MB").await;
}

/// The transaction that is published in part comes before its commit, from either server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_came_in_progress_is_gone_on_with() {
    gone_on_with("64kB").await;
}

/// `memory` is what the servers hold of a transaction before they send it.
async fn gone_on_with(memory: &str) {
    let settings = Options::default().set("synchronized_standby_slots", "standby_1").set("logical_decoding_work_mem", memory);
    let Some(mut pair) = Pair::start(only_where_known(settings)).await else { return };
    pair.primary.execute("INSERT INTO t SELECT n, 'before' FROM generate_series(1, 100) n").await.unwrap();
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&pair.system).await.unwrap();
    let mut all = session.load().await;
    pair.copied(&mut session, &mut all).await;
    pair.primary.execute("UPDATE t SET name = 'changed' WHERE id % 10 = 0; DELETE FROM t WHERE id = 5").await.unwrap();
    all.extend(session.until(|more| more.iter().any(|change| change.operation == Operation::Delete)).await);
    // Published in part when the primary goes: the rest comes from the standby.
    pair.primary.execute("INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series(1001, 4000) n").await.unwrap();
    session.batch = 50_000;
    all.extend(session.until(|more| more.len() > 100).await);
    let position = json(&session.publisher.position().unwrap());
    assert!(position["inside"].is_object() && position["timeline"] == 1, "{position}");
    drop(session);
    pair.fail().await;

    let waits = exchange.connect(&pair.system).await.unwrap_err();
    assert!(waits.is_transient() && waits.to_string().contains("is a standby: changes are read once it takes over"), "{waits}");
    pair.standby.promote().await.unwrap();
    pair.standby.execute("INSERT INTO t VALUES (9001, 'after'); UPDATE t SET name = 'again' WHERE id = 20").await.unwrap();
    pair.standby.execute("DELETE FROM t WHERE id = 1001").await.unwrap();
    // Killed before anything of the new timeline is stored: all of it comes again.
    let mut session = exchange.reconnect(&pair.system).await;
    while session.read_and_lose().await.is_empty() {}
    assert_eq!(json(&session.publisher.position().unwrap())["timeline"], 1);
    drop(session);
    let mut session = exchange.reconnect(&pair.system).await;
    all.extend(session.until(|more| more.iter().any(|change| change.operation == Operation::Delete)).await);
    session.quiet().await;
    let position = json(&session.publisher.position().unwrap());
    assert_eq!((&position["timeline"], &position["epoch"]), (&2.into(), &1.into()), "{position}");
    drop(session);

    // Proved once; from then on the server is the one that changes are read from.
    let mut session = exchange.reconnect(&pair.system).await;
    pair.standby.execute("INSERT INTO t VALUES (9002, 'later')").await.unwrap();
    all.extend(session.take(1).await);
    session.quiet().await;
    assert_rising(&all);
    let created = all.iter().filter(|change| change.operation == Operation::Create && line(change).contains("xxx")).count();
    assert_eq!(created, 3000, "each row once");
    let mut mirror = Mirror::default();
    mirror.apply(&all);
    assert_eq!(sorted(mirror.table("t")), table(&pair.standby).await);
}

/// Servers before 17 do not start with it.
fn only_where_known(settings: Options) -> Options {
    let major = guitong_tests::servers::postgres::programs().unwrap().display().to_string();
    let known = ["/14/", "/15/", "/16/", "-14/", "-15/", "-16/"].iter().all(|old| !major.contains(old));
    if known { settings } else { Options::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_published_and_never_reached_the_standby_is_a_gap() {
    let Some(mut pair) = Pair::start(Options::default()).await else { return };
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&pair.system).await.unwrap();
    let mut all = session.load().await;
    pair.copied(&mut session, &mut all).await;
    // The standby is cut off, and the primary goes on.
    pair.standby.execute("ALTER SYSTEM SET primary_conninfo = ''").await.unwrap();
    pair.standby.execute("SELECT pg_reload_conf()").await.unwrap();
    let standby = pair.standby.admin().await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while number(&standby, "(SELECT count(*)::int4 FROM pg_stat_wal_receiver)").await > 0 {
        assert!(Instant::now() < deadline, "the standby still follows");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    pair.primary.execute("INSERT INTO t VALUES (1, 'only on the old primary')").await.unwrap();
    all.extend(session.until(|more| more.iter().any(|change| line(change).contains("old primary"))).await);
    drop(session);
    pair.fail().await;
    pair.standby.promote().await.unwrap();
    pair.standby.execute("INSERT INTO t VALUES (2, 'on the new one')").await.unwrap();

    for _ in 0..2 {
        let error = exchange.connect(&pair.system).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, SourceError::Gap { .. }), "{error:?}");
        let text = error.to_string();
        for words in
            ["which left timeline 1 at", "had not reached the standby", "synchronized_standby_slots", "on_gap = \"resnapshot\""]
        {
            assert!(text.contains(words), "{words} in:\n{text}");
        }
    }
    config(&mut pair.system).on_gap = GapPolicy::Resnapshot;
    let mut session = exchange.connect(&pair.system).await.unwrap();
    let again = session.load().await;
    assert!(again.iter().all(|change| change.version.epoch == 2), "the new truth is above what never happened");
    all.extend(again);
    let mut mirror = Mirror::default();
    mirror.apply(&all);
    assert_eq!(sorted(mirror.table("t")), table(&pair.standby).await);
    assert!(!mirror.table("t").iter().any(|row| row[0].as_deref() == Some("1")));
}

/// Two standbys that are promoted apart both call their timeline 2.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_standby_on_a_timeline_of_the_same_number_is_a_gap() {
    let Some(mut pair) = Pair::start(Options::default()).await else { return };
    pair.primary.execute("SELECT pg_create_physical_replication_slot('standby_2', true)").await.unwrap();
    let other = pair.primary.standby("standby_2", following("standby_2")).await.unwrap();
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&pair.system).await.unwrap();
    let mut all = session.load().await;
    pair.copied(&mut session, &mut all).await;
    copied(&pair.primary, &other, &mut session, &mut all).await;
    drop(session);
    pair.standby.promote().await.unwrap();
    pair.proxy.redirect(pair.standby.port());
    pair.standby.execute("INSERT INTO t VALUES (1, 'on the first')").await.unwrap();
    let mut session = exchange.reconnect(&pair.system).await;
    session.until(|all| all.iter().any(|change| line(change) == "c t [1,on the first]")).await;
    drop(session);
    // The old primary goes on, and the other standby with it, until that is promoted too.
    pair.primary.execute("INSERT INTO t VALUES (2, 'on the old primary')").await.unwrap();
    let (followed, deadline) = (other.admin().await.unwrap(), Instant::now() + PATIENCE);
    while number(&followed, "(SELECT count(*)::int4 FROM t WHERE id = 2)").await == 0 {
        assert!(Instant::now() < deadline, "the other standby does not follow");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    pair.primary.stop(Stop::Immediate).await.unwrap();
    other.promote().await.unwrap();
    other.execute("INSERT INTO t SELECT n, 'further than the first' FROM generate_series(10, 500) n").await.unwrap();
    pair.proxy.redirect(other.port());
    let error = exchange.connect(&pair.system).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, SourceError::Gap { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("the server's timeline 2 began at") && text.contains("another standby took over"), "{text}");
}

/// Where it is wanted later, the slot that is there is changed; without it a slot is not copied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_is_made_and_changed_as_the_file_says() {
    let Some(mut pair) = Pair::start(Options::default()).await else { return };
    let primary = pair.primary.admin().await.unwrap();
    let failover = "(SELECT count(*)::int4 FROM pg_replication_slots WHERE slot_name = 'exchange_register' AND failover)";
    let exchange = Exchange::new().await;
    config(&mut pair.system).failover = false;
    exchange.connect(&pair.system).await.unwrap().load().await;
    assert_eq!(number(&primary, failover).await, 0);
    config(&mut pair.system).failover = true;
    let mut session = exchange.reconnect(&pair.system).await;
    assert_eq!(number(&primary, failover).await, 1);
    pair.primary.execute("INSERT INTO t VALUES (1, 'a')").await.unwrap();
    assert_eq!(lines(&session.take(1).await), ["c t [1,a]"]);
}
