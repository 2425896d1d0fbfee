//! Tables that are read again or added while the source runs, and what keeps them from being read.

use std::time::{Duration, Instant};

use guitong_connectors::source::{Phase, SnapshotCommand, Source};
use guitong_schemas::contract::system::Window;
use guitong_schemas::table::TableName;
use guitong_tests::servers::postgres::Postgres;

use super::harness::*;

fn read(table: &str, filter: Option<&str>) -> SnapshotCommand {
    SnapshotCommand::Read { table: TableName::new("public", table), filter: filter.map(str::to_owned) }
}

async fn started(server: &Postgres, exchange: &Exchange) -> Session {
    server
        .execute(
            "CREATE TABLE t (id int PRIMARY KEY, name text); INSERT INTO t SELECT n, 'n' || n FROM generate_series(1, 5) n;
             CREATE TABLE keyless (a int); ALTER TABLE keyless REPLICA IDENTITY FULL; INSERT INTO keyless VALUES (1)",
        )
        .await
        .unwrap();
    let mut session = exchange.connect(&prepared(server).await).await.unwrap();
    assert_eq!(session.load().await.len(), 6);
    session
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_read_again_as_far_as_its_condition_holds() {
    let server = Postgres::start().await.unwrap();
    let exchange = Exchange::new().await;
    let mut session = started(&server, &exchange).await;
    // Neither an OR nor a comment reaches beyond the condition.
    let told = session.source.command(read("t", Some("id = 2 OR id = 4 -- these"))).await.unwrap();
    assert!(told.contains("public.t is read again"), "{told}");
    assert!(matches!(session.source.status().phase, Phase::Snapshot { .. }));
    let twice = session.source.command(read("t", None)).await.unwrap_err().to_string();
    assert!(twice.contains("being read already"), "{twice}");
    let again = session.load().await;
    assert_eq!(lines(&again), ["r t [2,n2]", "r t [4,n4]"]);
    assert_rising(&again);

    session.source.command(read("t", None)).await.unwrap();
    // Asked for and stored, but not read: the next session does it.
    let stored = session.source.next_batch(guitong_connectors::source::SourceBudget { bytes: 1, wait: Duration::ZERO }).await;
    session.publisher.publish(stored.unwrap()).await.unwrap();
    drop(session);
    let mut session = exchange.reconnect(&system(&server, READER)).await;
    assert_eq!(session.load().await.len(), 5);
    server.execute("UPDATE t SET name = 'x' WHERE id = 1").await.unwrap();
    assert_eq!(lines(&session.take(1).await), ["u t [1,x]"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_refused_with_its_reason() {
    let server = Postgres::start().await.unwrap();
    let exchange = Exchange::new().await;
    let mut session = started(&server, &exchange).await;
    for (command, reason) in [
        (read("t", Some("nmae = 'x'")), "nmae"),
        (read("t", Some("id = 1)) TO STDOUT; DROP TABLE t; --")), "does not hold up"),
        (read("t", Some("true; DROP TABLE t")), "does not hold up"),
        (read("keyless", None), "has no key"),
        (read("missing", None), "there is no table"),
        (SnapshotCommand::Read { table: TableName::new("other", "t"), filter: None }, "no pattern"),
        (SnapshotCommand::Cancel { table: None }, "no table is being read"),
    ] {
        let refused = session.source.command(command).await.unwrap_err().to_string();
        assert!(refused.contains(reason), "{refused}");
    }
    session.quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_added_is_read_while_the_source_runs() {
    let server = Postgres::start().await.unwrap();
    let exchange = Exchange::new().await;
    let mut session = started(&server, &exchange).await;
    server.execute("CREATE TABLE added (id int PRIMARY KEY); INSERT INTO added VALUES (1), (2)").await.unwrap();
    let refused = session.source.command(read("added", None)).await.unwrap_err().to_string();
    let grant = "GRANT SELECT ON \"public\".\"added\" TO \"reader\"";
    assert!(refused.contains(grant), "{refused}");
    server.execute(grant).await.unwrap();
    let refused = session.source.command(read("added", None)).await.unwrap_err().to_string();
    assert!(refused.contains("ALTER PUBLICATION"), "{refused}");
    server.execute("ALTER PUBLICATION exchange_register ADD TABLE ONLY added").await.unwrap();
    session.source.command(read("added", None)).await.unwrap();
    assert_eq!(lines(&session.load().await), ["r added [1]", "r added [2]"]);
    server.execute("INSERT INTO added VALUES (3)").await.unwrap();
    assert_eq!(lines(&session.take(1).await), ["c added [3]"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_is_paused_across_restarts_and_can_be_cancelled() {
    let server = Postgres::start().await.unwrap();
    let exchange = Exchange::new().await;
    let mut session = started(&server, &exchange).await;
    session.source.command(SnapshotCommand::Pause).await.unwrap();
    session.source.command(read("t", None)).await.unwrap();
    session.quiet().await;
    drop(session);
    let mut session = exchange.reconnect(&system(&server, READER)).await;
    session.quiet().await;
    let status = session.source.status().snapshot.unwrap();
    assert_eq!(status.hold.as_deref(), Some("paused by an operator"));
    assert_eq!(status.tables, ["public.t"]);
    // The changes go on.
    server.execute("INSERT INTO t VALUES (6, 'n6')").await.unwrap();
    assert_eq!(lines(&session.take(1).await), ["c t [6,n6]"]);
    session.source.command(SnapshotCommand::Resume).await.unwrap();
    assert_eq!(session.load().await.len(), 6);

    session.source.command(SnapshotCommand::Pause).await.unwrap();
    session.source.command(read("t", None)).await.unwrap();
    session.source.command(SnapshotCommand::Cancel { table: Some(TableName::new("public", "t")) }).await.unwrap();
    session.source.command(SnapshotCommand::Resume).await.unwrap();
    assert_eq!(session.source.status().phase, Phase::Streaming);
    session.quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_departments_limits_are_kept_and_told() {
    let server = Postgres::start().await.unwrap();
    server
        .execute(
            "CREATE TABLE t (id int PRIMARY KEY, name text); INSERT INTO t SELECT n, 'n' || n FROM generate_series(1, 300) n",
        )
        .await
        .unwrap();
    let mut system = prepared(&server).await;
    (system.snapshot.rows_per_second, system.snapshot.workers) = (Some(100), 3);
    let zone = jiff::tz::TimeZone::UTC;
    let now = jiff::Timestamp::now().to_zoned(zone.clone());
    let hours = |hours: i64| now.checked_add(jiff::Span::new().hours(hours)).unwrap().time();
    system.snapshot.window = Some(Window { from: hours(2), to: hours(4), zone });
    system.snapshot.filters = vec![(TableName::new("public", "t"), "id > 100".to_owned())];
    system.limits.retained_log = Some(1 << 30);
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&system).await.unwrap();
    session.quiet().await;
    let status = session.source.status().snapshot.unwrap();
    assert!(status.hold.unwrap().starts_with("waits for "), "the window is closed");
    assert_eq!(status.limits.len(), 3, "{:?}", status.limits);
    drop(session);

    system.snapshot.window = None;
    let began = Instant::now();
    let mut session = exchange.reconnect(&system).await;
    let rows = session.load().await;
    assert_eq!(lines(&rows)[0], "r t [101,n101]");
    assert_eq!(rows.len(), 200, "those that the filter leaves");
    // A second's rows may come at once.
    assert!(began.elapsed() > Duration::from_millis(990), "200 rows at 100 a second took {:?}", began.elapsed());
}
