//! What goes wrong between a department's database and the log, and what is said about it.

use std::time::Duration;

use guitong_connectors::changelog;
use guitong_connectors::source::{SourceBudget, SourceError};
use guitong_log::Record;
use guitong_schemas::avro::frame;
use guitong_schemas::contract::system::GapPolicy;
use guitong_schemas::position::Version;

use super::harness::{Department, Exchange};

const TABLE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT)";
const TOPIC: &str = "raw.licensing.main.t";

async fn setup() -> (Department, Exchange) {
    let mut department = Department::new(TABLE).await;
    department.run("INSERT INTO t VALUES (1, 'before')").await;
    department.prepare().await;
    (department, Exchange::new().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_commit_and_confirmation_doubles_nothing() {
    let (mut department, exchange) = setup().await;
    for id in 2..30 {
        department.run(&format!("INSERT INTO t VALUES ({id}, 'n')")).await;
        let mut session = exchange.connect(&department).await.unwrap();
        session.publish_only().await;
    }
    let mut session = exchange.connect(&department).await.unwrap();
    session.drain().await.unwrap();
    let records = exchange.records(TOPIC).await;
    // Row 1 by the first load; row 2 by both, since the load's chunk was read after its insert.
    assert_eq!(records.len(), 30);
    assert_eq!(exchange.mirrored(TOPIC).await.len(), 29);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_durable_is_removed_and_ids_go_on() {
    let (mut department, exchange) = setup().await;
    let mut session = exchange.connect(&department).await.unwrap();
    department.run("INSERT INTO t SELECT value + 10, 'n' FROM (WITH RECURSIVE s(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM s LIMIT 3000) SELECT value FROM s)").await;
    session.drain().await.unwrap();
    session.source.next_batch(SourceBudget { bytes: 1 << 10, wait: Duration::from_secs(2) }).await.unwrap();
    assert_eq!(department.count("SELECT count(*) FROM guitong_changes WHERE id > 0").await, 1);
    assert_eq!(department.count("SELECT count(*) FROM guitong_changes WHERE after_row IS NOT NULL").await, 0);
    department.run("UPDATE t SET name = 'm' WHERE id = 1").await;
    assert_eq!(department.count("SELECT max(id) FROM guitong_changes").await, 3001);
    assert_eq!(session.drain().await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_smaller_id_that_commits_later_is_not_lost() {
    let (mut department, exchange) = setup().await;
    let mut session = exchange.connect(&department).await.unwrap();
    session.drain().await.unwrap();
    let change =
        |id: i64| format!("INSERT INTO guitong_changes VALUES ({id}, 0, 't', 'c', '''id'',''name''', NULL, '{id},''late''')");
    department.run(&change(10)).await;
    assert_eq!(session.drain().await.unwrap(), 1);
    department.run(&change(7)).await;
    // Found when what was published is removed; another source may start in between.
    let mut session = exchange.connect(&department).await.unwrap();
    let batch = loop {
        let batch = session.source.next_batch(SourceBudget { bytes: 1 << 10, wait: Duration::from_secs(5) }).await.unwrap();
        if !batch.changes.is_empty() {
            break batch;
        }
        // At first it only tells which tables are read to their end.
        session.publisher.publish(batch).await.unwrap();
    };
    assert_eq!(batch.changes.len(), 1);
    let durable = session.publisher.publish(batch).await.unwrap().unwrap();
    session.source.confirm(durable).await.unwrap();
    session.drain().await.unwrap();
    assert_eq!(exchange.mirrored(TOPIC).await.len(), 3);
    assert_eq!(exchange.records(TOPIC).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn prepare_is_repeatable_and_unprepare_leaves_no_trace() {
    let mut department = Department::new(TABLE).await;
    let catalogue = "SELECT type, name, tbl_name, sql FROM sqlite_master";
    let before = department.rows(catalogue).await;
    department.prepare().await;
    assert_eq!(department.rows(catalogue).await.len(), before.len() + 5);
    assert!(changelog::prepare_sql(&department.system, department.config()).await.unwrap().is_empty());
    department.run("INSERT INTO t VALUES (1, 'n')").await;
    let statements = changelog::unprepare_sql(&department.system, department.config()).await.unwrap();
    changelog::apply(&department.system, department.config(), &statements).await.unwrap();
    assert_eq!(department.rows(catalogue).await, before);
    assert!(changelog::unprepare_sql(&department.system, department.config()).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_prepared_is_said_to_be() {
    let department = Department::new(TABLE).await;
    let exchange = Exchange::new().await;
    let error = exchange.connect(&department).await.err().unwrap();
    assert!(matches!(&error, SourceError::Setup { help, .. } if help.contains("guitong system prepare licensing")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_columns_stop_the_source_until_they_are_prepared_and_then_nothing_is_missing() {
    let (mut department, exchange) = setup().await;
    let mut session = exchange.connect(&department).await.unwrap();
    session.drain().await.unwrap();
    department.run("ALTER TABLE t ADD COLUMN phone TEXT").await;
    department.run("INSERT INTO t VALUES (2, 'new', '16000000001')").await;
    let error = session.drain().await.unwrap_err();
    assert!(error.to_string().contains("columns of table t"), "{error}");
    assert!(exchange.connect(&department).await.is_err());
    department.prepare().await;
    let mut session = exchange.connect(&department).await.unwrap();
    session.drain().await.unwrap();
    assert_eq!(exchange.mirrored(TOPIC).await, department.rows("SELECT CAST(id AS TEXT), name, phone FROM t").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_is_a_gap() {
    let (mut department, exchange) = setup().await;
    let backup = department.beside("backup.db");
    department.run(&format!("VACUUM INTO '{}'", backup.display())).await;
    let mut session = exchange.connect(&department).await.unwrap();
    department.run("UPDATE t SET name = 'later'").await;
    session.drain().await.unwrap();
    drop(session);
    let mut restored = department.system.clone();
    let mut config = department.config().clone();
    config.path = backup;
    restored.source = guitong_schemas::contract::SourceConfig::Sqlite(config);
    department.system = restored;
    let error = exchange.connect(&department).await.err().unwrap();
    assert!(matches!(&error, SourceError::Gap { detail, .. } if detail.contains("backup")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_gap_everything_is_read_again_and_what_is_gone_is_deleted() {
    let (mut department, exchange) = setup().await;
    department.run("INSERT INTO t VALUES (2, 'goes in the gap'), (3, 'stays')").await;
    let mut session = exchange.connect(&department).await.unwrap();
    session.drain().await.unwrap();
    let statements = changelog::unprepare_sql(&department.system, department.config()).await.unwrap();
    changelog::apply(&department.system, department.config(), &statements).await.unwrap();
    department.run("DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (4, 'came in the gap')").await;
    department.prepare().await;
    department.run("UPDATE t SET name = 'after' WHERE id = 1").await;
    department.on_gap(GapPolicy::Resnapshot);
    // Dies again and again on its way.
    for _ in 0..3 {
        exchange.connect(&department).await.unwrap().publish_only().await;
    }
    let mut session = exchange.connect(&department).await.unwrap();
    session.drain().await.unwrap();
    assert_eq!(exchange.mirrored(TOPIC).await, department.rows("SELECT CAST(id AS TEXT), name FROM t").await);
    let mut versions = std::collections::BTreeMap::new();
    for record in exchange.records(TOPIC).await {
        let version: Version = std::str::from_utf8(record.header("guitong-version").unwrap()).unwrap().parse().unwrap();
        let newest = versions.entry(record.key.clone()).or_insert(version);
        assert!(version >= *newest || version.epoch == newest.epoch, "an older epoch comes after a newer one");
        *newest = version.max(*newest);
    }
    assert!(versions.values().all(|version| version.epoch == 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_log_that_was_made_anew_is_a_gap() {
    let (department, exchange) = setup().await;
    let mut session = exchange.connect(&department).await.unwrap();
    session.drain().await.unwrap();
    let statements = changelog::unprepare_sql(&department.system, department.config()).await.unwrap();
    changelog::apply(&department.system, department.config(), &statements).await.unwrap();
    department.prepare().await;
    let error = exchange.connect(&department).await.err().unwrap();
    assert!(matches!(&error, SourceError::Gap { detail, .. } if detail.contains("anew")), "{error}");
}

/// What is set aside of a topic: marks of rows under keys in words, by the key's last word; checks that each has its key in its row.
async fn set_aside(exchange: &Exchange, topic: &str) -> Vec<(String, String)> {
    let mark = |record: &Record, name| record.header(name).map(|mark| String::from_utf8(mark.to_vec()).unwrap());
    let marked = exchange.records(topic).await.into_iter().filter_map(|record| {
        let unkeyed = mark(&record, "guitong-unkeyed")?;
        let key = record.key.clone().unwrap();
        let word = String::from_utf8(key[frame::LEN + 1..].to_vec()).unwrap();
        let large = mark(&record, "guitong-too-large").map(|large| format!(" {large} too large")).unwrap_or_default();
        Some((word, format!("{unkeyed}{large}")))
    });
    marked.collect()
}

/// A key that is none costs its row alone its place among the others: it is set aside as it loads, changes and goes, and the rest flows.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_none_stops_nothing() {
    let mut department =
        Department::new("CREATE TABLE t (code TEXT PRIMARY KEY, name TEXT); CREATE TABLE n (id INT PRIMARY KEY)").await;
    let long = "长".repeat(500);
    // Rows without a key before all others, more of them than a chunk holds; and one that is too long to be a place in the table.
    department.run(&format!("INSERT INTO t VALUES (NULL, '{long}'), (NULL, '{long}'), (NULL, '{long}'), (NULL, 'n')")).await;
    department
        .run(&format!("INSERT INTO t VALUES ('A', '{long}'), (replace(hex(zeroblob(2500000)), '0', 'b'), 'b'), ('c', '{long}')"))
        .await;
    department.run("INSERT INTO n VALUES (1), ('一'), (2), (NULL)").await;
    department.prepare().await;
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&department).await.unwrap();
    assert_eq!(session.drain().await.unwrap(), 7 + 4, "each row is read once");
    let topic = "raw.licensing.main.t";
    let said = |word: &str, mark: &str| (word.to_owned(), mark.to_owned());
    let null = || said("null", "code");
    assert_eq!(set_aside(&exchange, topic).await, [null(), null(), null(), null(), said("too large", "code code too large")]);
    let good = |records: Vec<Record>| records.iter().filter(|record| record.header("guitong-unkeyed").is_none()).count();
    assert_eq!(good(exchange.records(topic).await), 2);
    assert_eq!(set_aside(&exchange, "raw.licensing.main.n").await, [said("null", "id"), said("一", "id")]);

    // Streamed rows likewise. What is mended ends what was set aside, by its tombstone, and is there under its key.
    let before = exchange.records(topic).await.len();
    department.run("INSERT INTO t VALUES (NULL, 'x'), ('d', 'd')").await;
    department.run("UPDATE t SET code = 'e' WHERE name = 'x'").await;
    department.run("DELETE FROM t WHERE code = 'd'").await;
    session.drain().await.unwrap();
    let records = exchange.records(topic).await.split_off(before);
    let form = |record: &Record| (record.value.is_some(), record.header("guitong-unkeyed").is_some());
    let event = (true, false);
    let wanted = [(true, true), event, (false, false), event, event, (false, false)];
    assert_eq!(records.iter().map(form).collect::<Vec<_>>(), wanted);
    assert_eq!(records[2].key, records[0].key);
}

/// A key that is over what a record may hold.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_no_record_holds_stops_nothing() {
    let mut department = Department::new("CREATE TABLE t (code TEXT PRIMARY KEY, name TEXT)").await;
    department.prepare().await;
    let exchange = Exchange::new().await;
    let mut session = exchange.connect_with(&department, Exchange::settings(64 << 10)).await.unwrap();
    session.drain().await.unwrap();
    department.run("INSERT INTO t VALUES ('a', 'a'), (hex(zeroblob(50000)), 'b'), ('c', 'c')").await;
    session.drain().await.unwrap();
    let topic = "raw.licensing.main.t";
    assert_eq!(set_aside(&exchange, topic).await, [("too large".to_owned(), "code code too large".to_owned())]);
    assert_eq!(exchange.records(topic).await.len(), 3);
}
