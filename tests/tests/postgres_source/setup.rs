//! What stands in the way of a start: each named, with what mends it. And gaps, which are never passed over.

use std::time::Duration;

use guitong_connectors::postgres::{prepare_sql, survey, unprepare_sql};
use guitong_connectors::registration;
use guitong_connectors::source::SourceError;
use guitong_schemas::change::Operation;
use guitong_schemas::contract::Secret;
use guitong_schemas::contract::system::{GapPolicy, System, TablePattern};
use guitong_schemas::table::TableName;
use guitong_tests::servers::postgres::{ADMIN, Options, PASSWORD, Postgres, Stop};

use super::harness::*;
use super::logs;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, name text, phone text)";

/// The error of a connection that must be a matter of setup, with all the words.
async fn refused(exchange: &Exchange, system: &System, words: &[&str]) {
    let error = exchange.connect(system).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, SourceError::Setup { .. }), "{error:?}");
    let text = error.to_string();
    assert!(words.iter().all(|word| text.contains(word)) && !text.contains(PASSWORD), "{words:?} in:\n{text}");
}

async fn gap(exchange: &Exchange, system: &System, words: &str) {
    let error = exchange.connect(system).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, SourceError::Gap { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(words) && text.contains("on_gap = \"resnapshot\""), "{words} in:\n{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_and_settings() {
    let mut server = Postgres::start().await.unwrap();
    server.execute(TABLE).await.unwrap();
    let exchange = Exchange::new().await;
    let mut system = system(&server, ADMIN);
    config(&mut system).url = Secret::new(server.url_of(ADMIN, "not-the-password", "postgres"));
    refused(&exchange, &system, &["password authentication failed", "check user and password"]).await;
    config(&mut system).url = Secret::new(server.url_of(ADMIN, PASSWORD, "登记"));
    refused(&exchange, &system, &["does not exist", "database's name"]).await;
    config(&mut system).url = Secret::new(server.url(ADMIN));
    system.tables = vec![TablePattern { schema: "public".into(), name: "nothing_*".into() }];
    refused(&exchange, &system, &["no table matches public.nothing_*"]).await;
    let none = registration::prepare(&system).await.unwrap_err().to_string();
    assert!(none.contains("no table matches public.nothing_*"), "{none}");
    server.set("wal_level", "replica");
    server.restart(Stop::Fast).await.unwrap();
    refused(&exchange, &system, &["wal_level = replica", "ALTER SYSTEM SET wal_level = 'logical'", "restart"]).await;
    server.stop(Stop::Fast).await.unwrap();
    let error = exchange.connect(&system).await.unwrap_err();
    assert!(error.is_transient(), "a server that is down comes back: {error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_least_rights_suffice_and_less_is_named() {
    let server = Postgres::start().await.unwrap();
    server
        .execute(&format!("{TABLE}; CREATE TABLE keyless (a int); CREATE ROLE \"读取\" LOGIN PASSWORD '{PASSWORD}'"))
        .await
        .unwrap();
    server.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC; INSERT INTO t VALUES (1, 'a', '13900000000')").await.unwrap();
    let exchange = Exchange::new().await;
    let mut system = system(&server, "读取");
    system.exclude_columns = vec![(TableName::new("public", "t"), "phone".into())];
    refused(&exchange, &system, &["role \"读取\" may not replicate", "ALTER ROLE \"读取\" REPLICATION"]).await;
    server.execute("ALTER ROLE \"读取\" REPLICATION").await.unwrap();
    refused(&exchange, &system, &["public.keyless has no primary key", "REPLICA IDENTITY FULL"]).await;
    server.execute("ALTER TABLE keyless REPLICA IDENTITY FULL").await.unwrap();
    let usage = "GRANT USAGE ON SCHEMA \"public\" TO \"读取\"";
    refused(&exchange, &system, &["may not read", usage, "GRANT SELECT (\"id\", \"name\") ON \"public\".\"t\""]).await;
    server.execute(usage).await.unwrap();
    server.execute("GRANT SELECT (id, name) ON t TO \"读取\"; GRANT SELECT ON keyless TO \"读取\"").await.unwrap();
    refused(&exchange, &system, &["publication \"exchange_register\" does not exist", "CREATE PUBLICATION"]).await;

    let facts = survey(&system).await.unwrap();
    let settings = config(&mut system.clone()).clone();
    for sql in prepare_sql(&system, &settings, &facts.role, facts.server_version, &facts.tables) {
        server.execute(&sql).await.unwrap();
    }
    let mut session = exchange.connect(&system).await.unwrap();
    assert_eq!(lines(&session.load().await), ["r t [1,a]"]);
    server.execute("UPDATE t SET phone = '13900000001'; INSERT INTO keyless VALUES (7)").await.unwrap();
    assert_eq!(lines(&session.take(2).await), ["u t [1,a]", "c keyless [7]"]);
    drop(session);
    exchange.reconnect(&system).await;

    let admin = server.admin().await.unwrap();
    let active = "SELECT count(*) FROM pg_replication_slots WHERE active";
    while sqlx::query_scalar::<_, i64>(active).fetch_one(&admin).await.unwrap() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for sql in unprepare_sql(&settings, &facts.role, &facts.tables) {
        server.execute(&sql).await.unwrap();
    }
    let traces = "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_publication) \
                  + (SELECT count(*) FROM information_schema.column_privileges WHERE grantee = '读取')";
    assert_eq!(sqlx::query_scalar::<_, i64>(traces).fetch_one(&admin).await.unwrap(), 0);
}

/// What everybody has until an administrator takes it away is named too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_that_everybody_had_are_named() {
    let server = Postgres::start().await.unwrap();
    server.execute(TABLE).await.unwrap();
    let exchange = Exchange::new().await;
    let system = prepared(&server).await;
    server.execute("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC").await.unwrap();
    let connect = "GRANT CONNECT ON DATABASE \"postgres\" TO \"reader\"";
    refused(&exchange, &system, &[connect]).await;
    server.execute(connect).await.unwrap();
    let admin = server.admin().await.unwrap();
    let functions = "SELECT oid::regprocedure::text FROM pg_proc
        WHERE proname IN ('pg_logical_emit_message', 'pg_create_logical_replication_slot') ORDER BY 1";
    let functions: Vec<String> = sqlx::query_scalar(functions).fetch_all(&admin).await.unwrap();
    for function in functions.iter().filter(|function| !function.contains("bytea")) {
        server.execute(&format!("REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")).await.unwrap();
        let grant = format!("GRANT EXECUTE ON FUNCTION {function} TO \"reader\"");
        refused(&exchange, &system, &["may not call", &grant]).await;
        server.execute(&grant).await.unwrap();
    }
    server.execute("ALTER ROLE reader NOLOGIN").await.unwrap();
    refused(&exchange, &system, &["not permitted to log in"]).await;
    server.execute("ALTER ROLE reader LOGIN").await.unwrap();
    exchange.connect(&system).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publications_that_would_lose_changes() {
    let server = Postgres::start().await.unwrap();
    server.execute(&format!("{TABLE}; CREATE TABLE \"另\" (id int PRIMARY KEY)")).await.unwrap();
    let exchange = Exchange::new().await;
    let system = system(&server, ADMIN);
    server.execute("CREATE PUBLICATION exchange_register FOR TABLE t").await.unwrap();
    refused(&exchange, &system, &["lacks public.另", "ALTER PUBLICATION \"exchange_register\" ADD TABLE ONLY \"public\".\"另\""])
        .await;
    server
        .execute(
            "ALTER PUBLICATION exchange_register ADD TABLE \"另\"; ALTER PUBLICATION exchange_register SET (publish = 'insert')",
        )
        .await
        .unwrap();
    refused(&exchange, &system, &["leaves out some kinds of changes", "insert, update, delete, truncate"]).await;
    server.execute("ALTER PUBLICATION exchange_register SET (publish = 'insert, update, delete, truncate')").await.unwrap();
    // There are row filters since PostgreSQL 15.
    let admin = server.admin().await.unwrap();
    let version: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::int").fetch_one(&admin).await.unwrap();
    if version >= 150_000 {
        server.execute("ALTER PUBLICATION exchange_register SET TABLE t WHERE (id > 0), \"另\"").await.unwrap();
        refused(&exchange, &system, &["row filter on public.t"]).await;
        server.execute("ALTER PUBLICATION exchange_register SET TABLE t, \"另\"").await.unwrap();
    }
    server.execute("ALTER TABLE t ENABLE ROW LEVEL SECURITY; INSERT INTO t VALUES (1)").await.unwrap();
    server.create_role("reader", "REPLICATION").await.unwrap();
    server.execute("GRANT SELECT ON t, \"另\" TO reader").await.unwrap();
    let hidden = super::harness::system(&server, "reader");
    let mut session = exchange.connect(&hidden).await.unwrap();
    let error = loop {
        if let Err(error) = session.step().await {
            break error;
        }
    };
    assert!(matches!(error, SourceError::Setup { .. }) && error.to_string().contains("row-level security"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_of_others_and_slots_in_use() {
    let server = Postgres::start().await.unwrap();
    server.execute(TABLE).await.unwrap();
    server.create_database("other").await.unwrap();
    let exchange = Exchange::new().await;
    let mut system = system(&server, ADMIN);
    let other = server.admin_of("other").await.unwrap();
    sqlx::raw_sql("SELECT pg_create_logical_replication_slot('of_other', 'pgoutput')").execute(&other).await.unwrap();
    server
        .execute(
            "SELECT pg_create_logical_replication_slot('of_plugin', 'test_decoding');
             SELECT pg_create_physical_replication_slot('physical')",
        )
        .await
        .unwrap();
    for (slot, words) in
        [("of_other", "belongs to database other"), ("of_plugin", "of plugin test_decoding"), ("physical", "is physical")]
    {
        config(&mut system).slot = slot.into();
        refused(&exchange, &system, &[words, "pg_drop_replication_slot", slot]).await;
    }
    config(&mut system).slot = SLOT.into();
    let _holder = exchange.connect(&system).await.unwrap();
    let second = Exchange::new().await;
    let error = second.connect(&system).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("in use by server process"), "{error}");
}

/// Loads two rows, makes the gap by `sql` with nobody connected, and expects it to be noticed, then to be repaired where allowed.
async fn broken_by(server: &mut Postgres, words: &str, how: impl AsyncFnOnce(&mut Postgres)) {
    server.execute(&format!("{TABLE}; INSERT INTO t VALUES (1, 'a', 'p'), (2, 'b', 'p')")).await.unwrap();
    let exchange = Exchange::new().await;
    let mut system = prepared(server).await;
    let mut mirror = Mirror::default();
    let mut session = exchange.connect(&system).await.unwrap();
    mirror.apply(&session.load().await);
    drop(session);
    let admin = server.admin().await.unwrap();
    let active = "SELECT count(*) FROM pg_replication_slots WHERE active";
    while sqlx::query_scalar::<_, i64>(active).fetch_one(&admin).await.unwrap() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.execute("DELETE FROM t WHERE id = 1; UPDATE t SET name = 'lost'; INSERT INTO t VALUES (3, 'c', 'p')").await.unwrap();
    how(server).await;
    config(&mut system).url = Secret::new(server.url(READER));
    gap(&exchange, &system, words).await;
    gap(&exchange, &system, words).await;

    config(&mut system).on_gap = GapPolicy::Resnapshot;
    let mut session = exchange.connect(&system).await.unwrap();
    let changes = session.load().await;
    assert_eq!(changes[0].operation, Operation::Truncate);
    assert!(changes.iter().all(|change| change.version.epoch == 2), "{:?}", changes[0].version);
    mirror.apply(&changes);
    server.execute("UPDATE t SET name = 'd' WHERE id = 3").await.unwrap();
    mirror.apply(&session.take(1).await);
    let rows: Vec<String> = mirror.table("t").iter().map(|row| row[1].clone().unwrap()).collect();
    assert_eq!(rows, ["lost", "d"]);
    let position = json(&session.publisher.position().unwrap());
    assert_eq!(position["epoch"], 2);
    drop(session);
    // Repaired once, not at every start.
    let mut session = exchange.reconnect(&system).await;
    session.quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_is_gone_is_a_gap() {
    let mut server = Postgres::start().await.unwrap();
    broken_by(&mut server, "is gone", async |server| {
        server.execute("SELECT pg_drop_replication_slot('exchange_register')").await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_went_ahead_is_a_gap() {
    let mut server = Postgres::start().await.unwrap();
    broken_by(&mut server, "the exchange log ends at", async |server| {
        server.execute("SELECT pg_replication_slot_advance('exchange_register', pg_current_wal_lsn())").await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_whose_log_was_removed_is_a_gap() {
    let options = Options::default().set("max_slot_wal_keep_size", "1MB").set("min_wal_size", "32MB").set("max_wal_size", "32MB");
    let mut server = Postgres::start_with(options).await.unwrap();
    broken_by(&mut server, "has lost its log", async |server| {
        for _ in 0..6 {
            server.execute("SELECT pg_logical_emit_message(false, 'fill', 'x')").await.unwrap();
            server.execute("SELECT pg_switch_wal()").await.unwrap();
            server.execute("CHECKPOINT").await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_took_over_is_a_gap() {
    let mut server = Postgres::start().await.unwrap();
    broken_by(&mut server, "is on timeline 2", async |server| {
        let standby = server.standby("second", Options::default()).await.unwrap();
        let exchange = Exchange::new().await;
        refused(&exchange, &system(&standby, ADMIN), &["is a standby"]).await;
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        let admin = standby.admin().await.unwrap();
        while sqlx::query_scalar::<_, i64>("SELECT count(*) FROM t WHERE name = 'lost'").fetch_one(&admin).await.unwrap() == 0 {
            assert!(std::time::Instant::now() < deadline, "the standby does not follow");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        standby.promote().await.unwrap();
        *server = standby;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_is_a_gap() {
    let mut server = Postgres::start().await.unwrap();
    broken_by(&mut server, "this is another server", async |server| {
        let other = Postgres::start_with(Options { own_identity: true, ..Options::default() }).await.unwrap();
        other.execute(&format!("{TABLE}; INSERT INTO t VALUES (2, 'lost', 'p'), (3, 'c', 'p')")).await.unwrap();
        prepared(&other).await;
        *server = other;
    })
    .await;
}

/// Such a slot sends transactions before they are committed, which this connector does not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_with_two_phase_is_refused_and_the_command_mends_it() {
    let server = Postgres::start_with(Options::default().set("max_prepared_transactions", "4")).await.unwrap();
    server.execute(TABLE).await.unwrap();
    let exchange = Exchange::new().await;
    let system = prepared(&server).await;
    server.execute("SELECT pg_create_logical_replication_slot('exchange_register', 'pgoutput', false, true)").await.unwrap();
    let mend = "SELECT pg_drop_replication_slot('exchange_register')";
    refused(&exchange, &system, &["replication slot exchange_register was made with two_phase", mend]).await;
    server.execute(mend).await.unwrap();
    let mut session = exchange.connect(&system).await.unwrap();
    session.load().await;
    server.execute("BEGIN; INSERT INTO t VALUES (1, 'a', 'p'); PREPARE TRANSACTION 'later'").await.unwrap();
    server.execute("COMMIT PREPARED 'later'").await.unwrap();
    assert_eq!(lines(&session.take(1).await), ["c t [1,a,p]"]);
}

/// What updates and deletes will say of the row before is told at start; a table that says nothing of it, as a warning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_each_replica_identity_means_is_told() {
    logs::start();
    let server = Postgres::start().await.unwrap();
    server
        .execute(
            "CREATE TABLE known_key (id int PRIMARY KEY);
             CREATE TABLE known_index (id int PRIMARY KEY, no int NOT NULL UNIQUE);
             ALTER TABLE known_index REPLICA IDENTITY USING INDEX known_index_no_key;
             CREATE TABLE known_row (id int); ALTER TABLE known_row REPLICA IDENTITY FULL;
             CREATE TABLE known_nothing (id int PRIMARY KEY)",
        )
        .await
        .unwrap();
    let system = prepared(&server).await;
    server.execute("ALTER TABLE known_nothing REPLICA IDENTITY NOTHING").await.unwrap();
    Exchange::new().await.connect(&system).await.unwrap();
    for (level, table, meaning) in [
        ("INFO", "known_key", "is the primary key: deletes, and updates that change it, say the key before"),
        ("INFO", "known_index", "is an index: deletes, and updates that change its columns, say these before"),
        ("INFO", "known_row", "is the full row: updates and deletes say the whole row before"),
        ("WARN", "known_nothing", "no replica identity: inserts arrive, and the server refuses updates and deletes"),
    ] {
        let told = logs::with(&[table, "replica identity"]);
        let [line] = &told[..] else { panic!("{told:?}") };
        assert!(line.contains(level) && line.contains(meaning), "{line}");
    }
}
