//! The stream in binary form: what is published is what a stream in text gives, whatever becomes of the tables.

use std::time::{Duration, Instant};

use guitong_schemas::contract::system::System;
use guitong_tests::servers::postgres::{Options, Postgres};

use super::harness::*;
use super::in_progress::streamed;

/// Says each command of a replication session in its log.
fn telling() -> Options {
    Options::default().set("log_replication_commands", "on")
}

pub(super) async fn binary(server: &Postgres) -> System {
    let mut system = prepared(server).await;
    config(&mut system).binary = true;
    system
}

/// Whether the streams of the slot were begun in binary; several tries of one form are one.
pub(super) fn forms(server: &Postgres, slot: &str) -> Vec<bool> {
    let log = std::fs::read_to_string(server.log_path()).unwrap();
    let begun = format!("received replication command: START_REPLICATION SLOT \"{slot}\"");
    let mut forms: Vec<bool> =
        log.lines().filter(|line| line.contains(&begun)).map(|line| line.contains("binary 'true'")).collect();
    forms.dedup();
    forms
}

const TABLE: &str = "CREATE TYPE state AS ENUM ('new', 'old'); CREATE DOMAIN amount AS numeric(12, 2);
    CREATE TABLE t (id int PRIMARY KEY, name text, state state, paid amount, at timestamptz, data bytea, pad text);
    ALTER TABLE t ALTER pad SET STORAGE EXTERNAL";

/// Inserts a row for each of these numbers.
fn insert(from: i32, to: i32) -> String {
    format!(
        "INSERT INTO t SELECT n, '桂' || n, 'new', n / 4.0, 'epoch'::timestamptz + n * interval '1.5 h', '\\x00ff', 'short'
         FROM generate_series({from}, {to}) n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_form_of_a_row_before_a_change_reads_in_binary() {
    let server = Postgres::start_with(telling()).await.unwrap();
    server.execute(TABLE).await.unwrap();
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&binary(&server).await).await.unwrap();
    session.load().await;
    for sql in [
        insert(4, 4).as_str(),
        "UPDATE t SET pad = repeat('p', 5000)",
        "UPDATE t SET name = 'n'",
        "ALTER TABLE t REPLICA IDENTITY FULL",
        "UPDATE t SET name = 'full'",
        "ALTER TABLE t REPLICA IDENTITY DEFAULT",
        "UPDATE t SET id = 5, pad = 'short'",
        "CREATE UNIQUE INDEX t_paid ON t (paid); ALTER TABLE t ALTER paid SET NOT NULL, REPLICA IDENTITY USING INDEX t_paid",
        "UPDATE t SET paid = -0.5",
        "ALTER TYPE state ADD VALUE 'newer'",
        "UPDATE t SET state = 'newer', name = NULL",
        "DELETE FROM t",
        "TRUNCATE t",
    ] {
        server.execute(sql).await.unwrap();
    }
    let all = session.take(11).await;
    let rest = "1970-01-01 06:00:00+00,\\x00ff";
    let long = "p".repeat(5000);
    let wanted = [
        format!("c t [4,桂4,new,1.00,{rest},short]"),
        format!("u t [4,桂4,new,1.00,{rest},{long}]"),
        format!("u t [4,n,new,1.00,{rest},?]"),
        format!("u t [4,full,new,1.00,{rest},{long}] <-full [4,n,new,1.00,{rest},{long}]"),
        "d t <-key [4,~,~,~,~,~,~]".to_owned(),
        format!("c t [5,full,new,1.00,{rest},short]"),
        "d t <-key [~,~,~,1.00,~,~,~]".to_owned(),
        format!("c t [5,full,new,-0.50,{rest},short]"),
        format!("u t [5,~,newer,-0.50,{rest},short]"),
        "d t <-key [~,~,~,-0.50,~,~,~]".to_owned(),
        "t t".to_owned(),
    ];
    assert_eq!(lines(&all), wanted);
    assert_eq!(forms(&server, SLOT), [true]);
}

/// A column that is read in text comes within a transaction, of which a part was handed out by then.
async fn goes_on_in_text(options: Options) -> Postgres {
    let server = Postgres::start_with(options).await.unwrap();
    server.execute(TABLE).await.unwrap();
    let exchange = Exchange::new().await;
    let system = binary(&server).await;
    let mut session = exchange.connect(&system).await.unwrap();
    session.load().await;
    let admin = server.admin().await.unwrap();
    let confirmed = async || -> Option<i64> {
        // Of a session that has reported.
        let sql = "SELECT (s.confirmed_flush_lsn - '0/0'::pg_lsn)::int8 FROM pg_replication_slots s
                   JOIN pg_stat_replication r ON r.pid = s.active_pid WHERE r.flush_lsn IS NOT NULL";
        sqlx::query_scalar(sql).fetch_optional(&admin).await.unwrap()
    };
    let sql = "SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::int8";
    let before: i64 = sqlx::query_scalar(sql).fetch_one(&admin).await.unwrap();
    server.execute(&insert(1, 100)).await.unwrap();
    server
        .execute(&format!(
            "BEGIN; {}; ALTER TABLE t ADD tags text[] DEFAULT '{{a,NULL}}'; {}; UPDATE t SET name = 'u' WHERE id = 7; COMMIT",
            insert(101, 2000),
            insert(2001, 4000)
        ))
        .await
        .unwrap();
    server.execute(&insert(4001, 4001)).await.unwrap();
    // Nothing of it becomes durable.
    session.batch = 50_000;
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut all = Vec::new();
    while all.len() < 4002 {
        assert!(Instant::now() < deadline, "{} changes, then nothing", all.len());
        all.extend(session.read_and_lose().await);
    }
    assert_eq!(all.len(), 4002);
    assert_rising(&all);
    let created = |id: i32| {
        let tags = if id > 2000 { ",{a,NULL}" } else { "" };
        format!("{id},桂{id},new,{:.2},", f64::from(id) / 4.0) + "|" + tags
    };
    for (id, change) in (1..=4000).zip(&all) {
        let (row, tags) =
            created(id).split_once('|').map(|(row, tags)| (format!("c t [{row}"), format!("short{tags}]"))).unwrap();
        let shown = line(change);
        assert!(shown.starts_with(&row) && shown.ends_with(&tags), "{shown} for {id}");
    }
    assert!(line(&all[4000]).starts_with("u t [7,u,") && line(&all[4000]).ends_with(",{a,NULL}]"), "{}", line(&all[4000]));
    assert_eq!(forms(&server, SLOT), [true, false]);
    let reported = loop {
        assert!(Instant::now() < deadline, "the new session does not report");
        if let Some(reported) = confirmed().await {
            break reported;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(reported <= before, "confirmed beyond what was durable");
    drop(session);
    let mut session = exchange.reconnect(&system).await;
    assert_eq!(lines(&session.take(4002).await), lines(&all));
    session.quiet().await;
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_is_read_in_text_turns_the_stream_to_it() {
    goes_on_in_text(telling()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn such_a_column_in_a_transaction_in_progress_does_too() {
    let server = goes_on_in_text(telling().set("logical_decoding_work_mem", "64kB")).await;
    assert!(streamed(&server, SLOT).await > 0, "the transaction came before its commit");
}

/// The catalogue knows nothing any more of the column that is met, nor of its type.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_came_and_went_is_read_in_text() {
    let server = Postgres::start_with(telling()).await.unwrap();
    server.execute(TABLE).await.unwrap();
    let exchange = Exchange::new().await;
    let system = binary(&server).await;
    let mut session = exchange.connect(&system).await.unwrap();
    session.load().await;
    drop(session);
    for sql in [
        insert(1, 1).as_str(),
        "CREATE TYPE pair AS (a int, b text); ALTER TABLE t ADD odd pair DEFAULT '(1,x)'",
        &insert(2, 2),
        "ALTER TABLE t DROP odd; DROP TYPE pair",
        &insert(3, 3),
    ] {
        server.execute(sql).await.unwrap();
    }
    let all = exchange.reconnect(&system).await.take(3).await;
    let ends: Vec<bool> = all.iter().map(|change| line(change).ends_with(",short,(1,x)]")).collect();
    assert_eq!(ends, [false, true, false], "{:?}", lines(&all));
    assert_eq!(forms(&server, SLOT), [true, false]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_read_in_text_is_added_to_a_stream_in_binary() {
    let server = Postgres::start_with(telling()).await.unwrap();
    server.execute(TABLE).await.unwrap();
    let exchange = Exchange::new().await;
    let system = binary(&server).await;
    let mut session = exchange.connect(&system).await.unwrap();
    session.load().await;
    let unseen =
        format!("CREATE SCHEMA unseen; CREATE TABLE unseen.t (tags text[]); ALTER PUBLICATION {SLOT} ADD TABLE unseen.t");
    server.execute(&unseen).await.unwrap();
    server.execute(&format!("INSERT INTO unseen.t VALUES ('{{x}}'); {}", insert(1, 1))).await.unwrap();
    session.take(1).await;
    assert_eq!(forms(&server, SLOT), [true], "a table that is not wanted decides nothing");
    server
        .execute(&format!(
            "CREATE TABLE added (id int PRIMARY KEY, tags text[]); GRANT SELECT ON added TO {READER};
             INSERT INTO added VALUES (1, '{{before}}'); ALTER PUBLICATION {SLOT} ADD TABLE added"
        ))
        .await
        .unwrap();
    server.execute("INSERT INTO added VALUES (2, '{after}')").await.unwrap();
    server.execute(&insert(2, 2)).await.unwrap();
    let mut all = session.until(|all| all.len() >= 2).await;
    all.extend(session.load().await);
    let mut mirror = Mirror::default();
    mirror.apply(&all);
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(mirror.table("added"), [[text("1"), text("{before}")], [text("2"), text("{after}")]]);
    assert_eq!(mirror.table("t").len(), 1);
    assert_eq!(forms(&server, SLOT), [true, false]);
    // From the start of the next session on.
    drop(session);
    exchange.reconnect(&system).await.quiet().await;
    assert_eq!(forms(&server, SLOT), [true, false]);
}
