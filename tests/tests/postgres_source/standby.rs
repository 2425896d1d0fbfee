//! A standby decodes; tables are read on its primary.

use std::time::{Duration, Instant};

use guitong_connectors::source::SourceError;
use guitong_schemas::contract::Secret;
use guitong_tests::servers::postgres::{Options, Postgres, Stop};

use super::harness::*;

async fn refused(exchange: &Exchange, system: &guitong_schemas::contract::System, words: &str) {
    let error = exchange.connect(system).await.unwrap_err();
    assert!(matches!(error, SourceError::Setup { .. }) && error.to_string().contains(words), "{error}");
}

async fn rows(server: &Postgres, sql: &'static str) -> Vec<Vec<Option<String>>> {
    sqlx::query_scalar(sql).fetch_all(&server.admin().await.unwrap()).await.unwrap()
}

/// First load, stream, a table without key, restarts of both servers; in the end what was published is the tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_decodes_and_the_primary_is_read() {
    let primary_options = Options::default().set("logical_decoding_work_mem", "64kB");
    let mut primary = Postgres::start_with(primary_options).await.unwrap();
    primary
        .execute(
            "CREATE TABLE t (id int PRIMARY KEY, name text); CREATE TABLE loose (n int);
             INSERT INTO t SELECT n, 'loaded' FROM generate_series(1, 2000) n; INSERT INTO loose SELECT generate_series(1, 300);",
        )
        .await
        .unwrap();
    let mut system = prepared(&primary).await;
    let options = Options::default().set("hot_standby_feedback", "on").set("logical_decoding_work_mem", "64kB");
    let mut standby = primary.standby("standby_1", options).await.unwrap();
    let exchange = Exchange::new().await;
    config(&mut system).primary_url = Some(Secret::new(primary.url(READER)));
    refused(&exchange, &system, if standby.major() < 16 { "primary_url needs PostgreSQL 16" } else { "is no standby" }).await;
    if standby.major() < 16 {
        println!("PostgreSQL {} decodes on no standby: only that it says so is tried", standby.major());
        return;
    }
    config(&mut system).url = Secret::new(standby.url(READER));
    let statements = guitong_connectors::registration::prepare(&system).await.unwrap();
    assert!(statements.iter().any(|statement| statement.contains("pg_log_standby_snapshot")), "{statements:?}");
    primary.execute(&format!("GRANT EXECUTE ON FUNCTION pg_log_standby_snapshot() TO {READER}")).await.unwrap();

    let (mut mirror, mut loose) = (Mirror::default(), 0);
    let mut apply = |mut changes: Vec<guitong_schemas::change::Change>| {
        loose += changes.iter().filter(|change| change.table.name.name == "loose" && change.after.is_some()).count();
        changes.retain(|change| change.table.name.name != "loose");
        mirror.apply(&changes);
    };
    let mut session = exchange.connect(&system).await.unwrap();
    primary.execute("UPDATE t SET name = 'changed' WHERE id % 3 = 0; INSERT INTO loose VALUES (301)").await.unwrap();
    apply(session.load().await);
    for round in 1..=3 {
        primary
            .execute(&format!(
                "INSERT INTO t SELECT {round} * 10000 + n, repeat('x', 300) FROM generate_series(1, 1000) n; \
                 DELETE FROM t WHERE id % 10 = {round}; INSERT INTO loose VALUES ({round}), ({round}); \
                 INSERT INTO t VALUES (-{round}, 'end')"
            ))
            .await
            .unwrap();
        let end = format!("c t [-{round},end]");
        apply(session.until(|all| all.iter().any(|change| line(change) == end)).await);
        drop(session);
        match round {
            1 => standby.restart(Stop::Fast).await.unwrap(),
            2 => primary.restart(Stop::Immediate).await.unwrap(),
            _ => {}
        }
        session = exchange.reconnect(&system).await;
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while session.kept.borrow().retained_bytes.is_none() {
        assert!(Instant::now() < deadline, "the standby's slot is not looked at");
        session.quiet().await;
    }
    let wanted = rows(&primary, "SELECT ARRAY[id::text, name] FROM t ORDER BY id::text COLLATE \"C\"").await;
    let mut got = mirror.table("t");
    got.sort();
    assert_eq!(got, wanted);
    assert_eq!(loose, 307);
    let slots = "SELECT ARRAY[slot_name::text] FROM pg_replication_slots";
    assert_eq!((rows(&primary, slots).await.len(), rows(&standby, slots).await.len()), (0, 1));

    let other = Postgres::start_with(Options { own_identity: true, ..Options::default() }).await.unwrap();
    other.execute("CREATE TABLE t (id int PRIMARY KEY, name text)").await.unwrap();
    let mut foreign = prepared(&other).await;
    config(&mut foreign).primary_url = Some(Secret::new(other.url(READER)));
    config(&mut foreign).url = Secret::new(standby.url(READER));
    drop(session);
    refused(&exchange, &foreign, "the standby's system identifier is").await;
}
