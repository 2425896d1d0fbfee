//! Tables that come into the stream while the source runs: with their first change they are read, whatever was in them before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use guitong_connectors::source::{Phase, Source, SourceError};
use guitong_schemas::change::{Change, Operation};
use guitong_schemas::contract::system::TablePattern;
use guitong_tests::servers::postgres::{Options, Postgres};
use sqlx::postgres::PgPool;

use super::harness::*;
use super::in_progress::streamed;

const OLD: &str = "CREATE TABLE old (id int PRIMARY KEY, name text); INSERT INTO old VALUES (1, 'known')";

/// A table that is not published yet, with rows.
fn table(name: &str, rows: u32) -> String {
    format!(
        "CREATE TABLE {name} (id int PRIMARY KEY, name text); GRANT SELECT ON {name} TO reader;
         INSERT INTO {name} SELECT n, 'before' FROM generate_series(1, {rows}) n"
    )
}

fn publish(name: &str) -> String {
    format!("ALTER PUBLICATION exchange_register ADD TABLE ONLY {name}")
}

async fn streaming(server: &Postgres) -> (Exchange, guitong_schemas::contract::system::System, Session) {
    server.execute(OLD).await.unwrap();
    let (exchange, system) = (Exchange::new().await, prepared(server).await);
    let mut session = exchange.connect(&system).await.unwrap();
    assert_eq!(lines(&session.load().await), ["r old [1,known]"]);
    (exchange, system, session)
}

/// Steps until a change shows, then to the end of the load that it has to begin.
async fn shown_and_loaded(session: &mut Session) -> Vec<Change> {
    let mut all = session.until(|all| !all.is_empty()).await;
    all.extend(session.load().await);
    all
}

fn of(changes: &[Change], operation: Operation) -> usize {
    changes.iter().filter(|change| change.operation == operation).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_read_when_its_first_change_shows_it() {
    let server = Postgres::start().await.unwrap();
    let (exchange, system, mut session) = streaming(&server).await;
    server.execute(&table("added", 3)).await.unwrap();
    server.execute(&publish("added")).await.unwrap();
    session.quiet().await;
    server.execute("UPDATE added SET name = 'after' WHERE id = 2").await.unwrap();
    let all = shown_and_loaded(&mut session).await;
    assert_eq!(lines(&all), ["u added [2,after]", "r added [1,before]", "r added [2,after]", "r added [3,before]"]);
    assert_rising(&all);
    assert!(session.source.status().tables.contains(&"public.added".to_owned()));
    // Once, also after a restart.
    server.execute("INSERT INTO added VALUES (4, 'later')").await.unwrap();
    assert_eq!(lines(&session.take(1).await), ["c added [4,later]"]);
    drop(session);
    let mut session = exchange.reconnect(&system).await;
    assert_eq!(session.source.status().phase, Phase::Streaming);
    session.quiet().await;
}

/// Made and filled in the transaction that publishes it, or renamed so that a pattern names it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_come_by_their_transaction_and_by_a_name() {
    let server = Postgres::start().await.unwrap();
    server
        .execute(&format!("{OLD}; CREATE TABLE hidden (id int PRIMARY KEY, name text); INSERT INTO hidden VALUES (1, 'before')"))
        .await
        .unwrap();
    let exchange = Exchange::new().await;
    let mut system = prepared(&server).await;
    system.tables = ["old", "qy_*"].map(|name| TablePattern { schema: "public".into(), name: name.into() }).into();
    let mut session = exchange.connect(&system).await.unwrap();
    session.load().await;
    server.execute("INSERT INTO hidden VALUES (2, 'not wanted')").await.unwrap();
    session.quiet().await;
    server.execute("ALTER TABLE hidden RENAME TO qy_shown; INSERT INTO qy_shown VALUES (3, 'wanted')").await.unwrap();
    let all = shown_and_loaded(&mut session).await;
    assert_eq!(
        lines(&all),
        ["c qy_shown [3,wanted]", "r qy_shown [1,before]", "r qy_shown [2,not wanted]", "r qy_shown [3,wanted]"]
    );
    server
        .execute(&format!(
            "BEGIN; {}; {}; INSERT INTO qy_whole VALUES (3, 'with it'); COMMIT",
            table("qy_whole", 2),
            publish("qy_whole")
        ))
        .await
        .unwrap();
    let mut mirror = Mirror::default();
    mirror.apply(&shown_and_loaded(&mut session).await);
    let ids: Vec<String> = mirror.table("qy_whole").iter().map(|row| row[0].clone().unwrap()).collect();
    assert_eq!(ids, ["1", "2", "3"]);
}

/// What a transaction in progress shows is looked up once it is committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_a_transaction_in_progress_shows_is_read() {
    let server = Postgres::start_with(Options::default().set("logical_decoding_work_mem", "64kB")).await.unwrap();
    let (_exchange, _, mut session) = streaming(&server).await;
    server.execute(&table("added", 3)).await.unwrap();
    let rows = "INSERT INTO added SELECT n, 'with it' FROM generate_series(4, 3000) n";
    for end in ["ROLLBACK", "COMMIT"] {
        server.execute(&format!("BEGIN; {}; {rows}; {end}", publish("added"))).await.unwrap();
    }
    let mut mirror = Mirror::default();
    let all = shown_and_loaded(&mut session).await;
    assert_eq!(of(&all, Operation::Create), 2997);
    assert!(streamed(&server, SLOT).await > 0, "the transaction came before its commit");
    mirror.apply(&all);
    assert_eq!(mirror.table("added").len(), 3000);
}

/// Commits changes of every kind, each alone.
async fn clerk(pool: PgPool, next: Arc<AtomicI32>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let id = next.fetch_add(1, Ordering::Relaxed);
        for sql in [
            "INSERT INTO busy VALUES ($1, 'new')",
            "UPDATE busy SET name = 'changed ' || $1 WHERE id = $1 * 37 % 3000",
            "UPDATE busy SET id = -id WHERE id = $1 * 11 % 3000",
            "DELETE FROM busy WHERE id = $1 * 53 % 3000",
        ] {
            sqlx::query(sql).bind(id).execute(&pool).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_added_under_load_equals_its_rows() {
    let server = Postgres::start().await.unwrap();
    let (exchange, mut system, mut session) = streaming(&server).await;
    server.execute(&table("busy", 3000)).await.unwrap();
    // Open when the table comes into the publication: what it wrote before is in no change, and must be in the rows.
    let admin = server.admin().await.unwrap();
    let mut open = admin.begin().await.unwrap();
    sqlx::query("UPDATE busy SET name = 'unpublished' WHERE id = 1").execute(&mut *open).await.unwrap();
    let (next, stop) = (Arc::new(AtomicI32::new(5000)), Arc::new(AtomicBool::new(false)));
    let clerk = tokio::spawn(clerk(admin.clone(), Arc::clone(&next), Arc::clone(&stop)));
    server.execute(&publish("busy")).await.unwrap();
    let mut all = session.until(|all| all.len() > 50).await;
    assert_eq!(of(&all, Operation::Read), 0, "rows were read before a transaction ended that may have changed them");
    assert!(matches!(session.source.status().phase, Phase::Snapshot { .. }));
    open.commit().await.unwrap();
    // The load is broken off in its middle and goes on.
    system.snapshot.chunk = 4 << 10;
    all.extend(session.until(|more| of(more, Operation::Read) > 0).await);
    drop(session);
    let mut session = exchange.reconnect(&system).await;
    all.extend(session.load().await);
    all.extend(session.until(|more| more.len() > 20).await);
    stop.store(true, Ordering::Relaxed);
    clerk.await.unwrap();
    server.execute("INSERT INTO busy VALUES (100000, 'last')").await.unwrap();
    all.extend(session.until(|more| more.last().is_some_and(|last| line(last) == "c busy [100000,last]")).await);
    assert_rising(&all);
    let mut mirror = Mirror::default();
    mirror.apply(&all);
    let got: Vec<Vec<Option<String>>> = mirror.table("busy");
    let mut wanted: Vec<(String, Option<String>)> =
        sqlx::query_as("SELECT id::text, name FROM busy").fetch_all(&admin).await.unwrap();
    wanted.sort();
    let wanted: Vec<Vec<Option<String>>> = wanted.into_iter().map(|(id, name)| vec![Some(id), name]).collect();
    assert_eq!(got, wanted);
}

/// Nothing tells its rows apart, so each must come once: by its change or by the reading.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_keyless_table_that_is_added_come_once() {
    let server = Postgres::start().await.unwrap();
    let (_exchange, _, mut session) = streaming(&server).await;
    server
        .execute(
            "CREATE TABLE k (a int); ALTER TABLE k REPLICA IDENTITY FULL; GRANT SELECT ON k TO reader;
             INSERT INTO k SELECT generate_series(1, 1000)",
        )
        .await
        .unwrap();
    let (admin, stop) = (server.admin().await.unwrap(), Arc::new(AtomicBool::new(false)));
    let (writing, stopped) = (admin.clone(), Arc::clone(&stop));
    let writer = tokio::spawn(async move {
        let mut n = 1000;
        while !stopped.load(Ordering::Relaxed) {
            n += 1;
            sqlx::query("INSERT INTO k VALUES ($1)").bind(n).execute(&writing).await.unwrap();
        }
        n
    });
    server.execute(&publish("k")).await.unwrap();
    let mut all = session.until(|all| all.len() > 1020).await;
    stop.store(true, Ordering::Relaxed);
    let last = format!("c k [{}]", writer.await.unwrap() + 1);
    server.execute("INSERT INTO k SELECT max(a) + 1 FROM k").await.unwrap();
    all.extend(session.until(|more| more.last().is_some_and(|change| line(change) == last)).await);
    let mut ids: Vec<i64> = all.iter().map(|change| line(change).split(['[', ']']).nth(1).unwrap().parse().unwrap()).collect();
    ids.sort_unstable();
    let wanted: Vec<i64> = (1..=i64::try_from(ids.len()).unwrap()).collect();
    assert!(ids == wanted, "{} rows, from {:?} to {:?}", ids.len(), ids.first(), ids.last());
    assert!(of(&all, Operation::Read) >= 1000 && of(&all, Operation::Create) > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_snapshots_are_off_only_changes_are_taken() {
    let server = Postgres::start().await.unwrap();
    let (exchange, mut system, session) = streaming(&server).await;
    drop(session);
    system.snapshot.enabled = false;
    let mut session = exchange.reconnect(&system).await;
    server.execute(&table("added", 3)).await.unwrap();
    server.execute(&publish("added")).await.unwrap();
    server.execute("INSERT INTO added VALUES (4, 'after')").await.unwrap();
    assert_eq!(lines(&session.take(1).await), ["c added [4,after]"]);
    session.quiet().await;
    drop(session);
    // Its reading counts as done: switched on again, snapshots are for what comes then.
    system.snapshot.enabled = true;
    exchange.reconnect(&system).await.quiet().await;
}

/// As at a start: what cannot be read stops the connector with what mends it, and nothing is passed over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_may_not_be_read_is_named() {
    let server = Postgres::start().await.unwrap();
    let (exchange, system, mut session) = streaming(&server).await;
    server.execute(&table("closed", 2)).await.unwrap();
    server.execute("REVOKE ALL ON closed FROM reader").await.unwrap();
    server.execute(&publish("closed")).await.unwrap();
    server.execute("INSERT INTO closed VALUES (3, 'after')").await.unwrap();
    let error = loop {
        match session.step().await {
            Ok(changes) => assert!(changes.is_empty(), "{:?}", lines(&changes)),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, SourceError::Setup { .. }), "{error:?}");
    let grant = "GRANT SELECT ON \"public\".\"closed\" TO \"reader\"";
    assert!(error.to_string().contains(grant), "{error}");
    drop(session);
    server.execute(grant).await.unwrap();
    let mut session = exchange.reconnect(&system).await;
    let mut mirror = Mirror::default();
    mirror.apply(&session.load().await);
    assert_eq!(mirror.table("closed").len(), 3);
}

/// The connector is behind: what it is shown is gone by now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_gone_again_gives_its_changes() {
    let server = Postgres::start().await.unwrap();
    let (exchange, system, session) = streaming(&server).await;
    drop(session);
    server.execute(&table("brief", 2)).await.unwrap();
    server.execute(&publish("brief")).await.unwrap();
    server.execute("INSERT INTO brief VALUES (3, 'seen'); DROP TABLE brief; INSERT INTO old VALUES (2, 'too')").await.unwrap();
    let mut session = exchange.reconnect(&system).await;
    assert_eq!(lines(&session.take(2).await), ["c brief [3,seen]", "c old [2,too]"]);
    session.quiet().await;
}

/// A commit that waits for a standby is streamed, and what it did is not to be seen before the standby is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_waited_for_until_others_see_it() {
    let options = Options::default().set("synchronous_standby_names", "second").set("synchronous_commit", "local");
    let server = Postgres::start_with(options).await.unwrap();
    let (_exchange, _, mut session) = streaming(&server).await;
    server.execute(&table("added", 2)).await.unwrap();
    let admin = server.admin().await.unwrap();
    let writing = admin.clone();
    let waits = tokio::spawn(async move {
        let sql = "SET synchronous_commit = on; BEGIN; ALTER PUBLICATION exchange_register ADD TABLE ONLY added; \
                   INSERT INTO added VALUES (3, 'with it'); COMMIT";
        sqlx::raw_sql(sql).execute(&writing).await.unwrap();
    });
    let reading = tokio::spawn(async move { shown_and_loaded(&mut session).await });
    let asks = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'guitong register'
                AND query = 'SELECT pg_current_snapshot()::text'";
    let deadline = Instant::now() + Duration::from_secs(30);
    while sqlx::query_scalar::<_, i64>(asks).fetch_one(&admin).await.unwrap() == 0 {
        assert!(Instant::now() < deadline && !reading.is_finished(), "the table is not waited for");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let _standby = server.standby("second", Options::default()).await.unwrap();
    waits.await.unwrap();
    assert_eq!(
        lines(&reading.await.unwrap()),
        ["c added [3,with it]", "r added [1,before]", "r added [2,before]", "r added [3,with it]"]
    );
}

/// Partitions that `tables` names, and their root that it does not, are tables like any other: of their own names, read on their own, and
/// a row that moves leaves one and comes into the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_without_their_root_are_tables_of_their_own() {
    let server = Postgres::start().await.unwrap();
    server
        .execute(
            "CREATE TABLE parts (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
             CREATE TABLE parts_2025 PARTITION OF parts FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
             CREATE TABLE parts_2026 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
             INSERT INTO parts VALUES (1, '2025-05-05'), (2, '2026-05-05')",
        )
        .await
        .unwrap();
    let exchange = Exchange::new().await;
    let mut system = prepared_for(&server, &["parts_*"]).await;
    let mut session = exchange.connect(&system).await.unwrap();
    assert_eq!(lines(&session.load().await), ["r parts_2025 [1,2025-05-05]", "r parts_2026 [2,2026-05-05]"]);
    server.execute("UPDATE parts SET day = '2026-06-06' WHERE id = 1").await.unwrap();
    assert_eq!(lines(&session.take(2).await), ["d parts_2025 <-key [1,2025-05-05]", "c parts_2026 [1,2026-06-06]"]);
    // A partition that comes later is read when it shows, also what it held before it was one.
    server
        .execute(
            "CREATE TABLE parts_2027 (id int NOT NULL, day date NOT NULL, PRIMARY KEY (id, day));
             GRANT SELECT ON parts_2027 TO reader; INSERT INTO parts_2027 VALUES (3, '2027-01-01');
             ALTER TABLE parts ATTACH PARTITION parts_2027 FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');
             ALTER PUBLICATION exchange_register ADD TABLE ONLY parts_2027",
        )
        .await
        .unwrap();
    server.execute("INSERT INTO parts VALUES (4, '2027-02-02')").await.unwrap();
    let all = shown_and_loaded(&mut session).await;
    assert_eq!(lines(&all), ["c parts_2027 [4,2027-02-02]", "r parts_2027 [3,2027-01-01]", "r parts_2027 [4,2027-02-02]"]);
    server.execute("TRUNCATE parts").await.unwrap();
    let mut emptied = lines(&session.take(3).await);
    emptied.sort();
    assert_eq!(emptied, ["t parts_2025", "t parts_2026", "t parts_2027"]);
    drop(session);
    // With the root named too they go with it.
    system.tables = vec![TablePattern { schema: "public".into(), name: "*".into() }];
    server
        .execute(
            "GRANT SELECT ON parts TO reader; ALTER PUBLICATION exchange_register ADD TABLE parts;
             INSERT INTO parts VALUES (5, '2025-01-01')",
        )
        .await
        .unwrap();
    let mut session = exchange.reconnect(&system).await;
    let mut mirror = Mirror::default();
    mirror.apply(&session.load().await);
    assert_eq!(mirror.table("parts").len(), 1, "read from the root");
}
