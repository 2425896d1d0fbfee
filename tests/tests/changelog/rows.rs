//! What is in the tables is what the topics tell, through first load, changes and odd values.

use std::time::Duration;

use guitong_connectors::source::SourceBudget;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::harness::{Department, Exchange};

const SCHEMA: &str = r#"
    CREATE TABLE "企业登记" ("编号" INTEGER PRIMARY KEY, "名称" TEXT NOT NULL, "注册资本" DECIMAL(18,2), "在营" BOOLEAN, "附件" BLOB);
    CREATE TABLE licence (region TEXT, number INT, note, PRIMARY KEY (region, number));
"#;
const ENTERPRISES: &str = "raw.licensing.main._u4f01_u4e1a_u767b_u8bb0";
const LICENCES: &str = "raw.licensing.main.licence";
const ENTERPRISE_ROWS: &str =
    r#"SELECT CAST("编号" AS TEXT), "名称", printf('%.2f', "注册资本"), CAST("在营" AS TEXT), hex("附件") FROM "企业登记""#;
const LICENCE_ROWS: &str = "SELECT region, CAST(number AS TEXT), CAST(note AS TEXT) FROM licence";

async fn write(department: &mut Department, random: &mut StdRng) {
    let (id, region) = (random.random_range(1..200), ["450102", "中", "it''s", ""][random.random_range(0..4)]);
    let number = random.random_range(1..6);
    let sql = match random.random_range(0..8) {
        0 | 1 => format!(
            r#"INSERT OR REPLACE INTO "企业登记" VALUES ({id}, '示例企业{id}', {}, {}, x'00ff{:02x}')"#,
            random.random_range(-100_000..100_000) as f64 / 100.0,
            random.random_range(0..2),
            random.random_range(0..256),
        ),
        2 => format!(r#"UPDATE "企业登记" SET "注册资本" = 0.1 + 0.2, "名称" = '改''名, "{id}"' WHERE "编号" = {id}"#),
        3 => format!(r#"DELETE FROM "企业登记" WHERE "编号" = {id}"#),
        4 => format!(r#"UPDATE OR IGNORE "企业登记" SET "编号" = "编号" + 300 WHERE "编号" = {id}"#),
        5 | 6 => format!("INSERT OR REPLACE INTO licence VALUES ('{region}', {number}, 'n' || {id})"),
        _ => format!("DELETE FROM licence WHERE region = '{region}' AND number = {number}"),
    };
    department.run(&sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_load_and_changes_together_are_the_tables() {
    let seed = guitong_tests::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let mut department = Department::new(SCHEMA).await;
    for id in 1..=150 {
        department.run(&format!(r#"INSERT INTO "企业登记" VALUES ({id}, '企业{id}', {id}.5, 1, NULL)"#)).await;
    }
    department.run("INSERT INTO licence VALUES ('中', 1, NULL), ('', 2, 'x'), ('450102', 3, 7)").await;
    department.prepare().await;
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&department).await.unwrap();
    for _ in 0..120 {
        for _ in 0..random.random_range(0..6) {
            write(&mut department, &mut random).await;
        }
        let batch = session.source.next_batch(SourceBudget { bytes: 1 << 10, wait: Duration::ZERO }).await.unwrap();
        let durable = session.publisher.publish(batch).await.unwrap();
        if random.random_range(0..8) == 0 {
            // Dies after its commit, before the source heard of it.
            session = exchange.connect(&department).await.unwrap();
        } else if let Some(durable) = durable {
            session.source.confirm(durable).await.unwrap();
        }
    }
    session.drain().await.unwrap();
    // The mirror has NULL where hex() gives an empty text.
    let enterprises = exchange.mirrored(ENTERPRISES).await;
    let wanted = department.rows(&ENTERPRISE_ROWS.replace(r#"hex("附件")"#, r#"NULLIF(hex("附件"), '')"#)).await;
    assert!(wanted.len() > 50);
    assert_eq!(enterprises, wanted, "seed {seed}");
    assert_eq!(exchange.mirrored(LICENCES).await, department.rows(LICENCE_ROWS).await, "seed {seed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_every_row_deletes_every_key() {
    let mut department = Department::new(SCHEMA).await;
    department.run("INSERT INTO licence SELECT 'r', value, 'n' FROM (WITH RECURSIVE s(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM s LIMIT 500) SELECT value FROM s)").await;
    department.prepare().await;
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&department).await.unwrap();
    session.drain().await.unwrap();
    assert_eq!(exchange.mirrored(LICENCES).await.len(), 500);
    department.run("DELETE FROM licence").await;
    assert_eq!(session.drain().await.unwrap(), 500);
    assert!(exchange.mirrored(LICENCES).await.is_empty());
    let tombstones = exchange.records(LICENCES).await.iter().filter(|record| record.value.is_none()).count();
    assert_eq!(tombstones, 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_another_type_is_kept_as_text() {
    let mut department = Department::new("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER, d DECIMAL(10,2), b BLOB)").await;
    department.prepare().await;
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&department).await.unwrap();
    session.drain().await.unwrap();
    department.run("INSERT INTO t VALUES (1, 7, 1.5, x'01')").await;
    department.run("INSERT INTO t VALUES (2, '约七百', 12.345, '文')").await;
    department.run("UPDATE t SET n = 'a' || char(0) || 'b' WHERE id = 2").await;
    session.drain().await.unwrap();
    let text = |text: &str| Some(text.to_owned());
    let rows = exchange.mirrored("raw.licensing.main.t").await;
    let wanted =
        [vec![text("1"), text("7"), text("1.50"), text("01")], vec![text("2"), text("a\0b"), text("12.345"), text("E69687")]];
    assert_eq!(rows, wanted.into_iter().collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn excluded_columns_reach_neither_log_nor_change_log() {
    let mut department = Department::new("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, secret TEXT)").await;
    department.system.exclude_columns = vec![(guitong_schemas::table::TableName::new("main", "t"), "secret".to_owned())];
    department.run("INSERT INTO t VALUES (1, 'a', 'hidden-1')").await;
    department.prepare().await;
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&department).await.unwrap();
    session.drain().await.unwrap();
    department.run("INSERT INTO t VALUES (2, 'b', 'hidden-2')").await;
    assert_eq!(department.count("SELECT count(*) FROM guitong_changes WHERE after_row LIKE '%hidden%'").await, 0);
    session.drain().await.unwrap();
    let records = exchange.records("raw.licensing.main.t").await;
    assert_eq!(records.len(), 2);
    let leaked = |bytes: &[u8]| bytes.windows(6).any(|window| window == b"hidden");
    assert!(!records.iter().any(|record| leaked(record.value.as_ref().unwrap())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_over_the_limit_is_left_out_and_named() {
    let mut department = Department::new("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, scan BLOB)").await;
    department.prepare().await;
    let exchange = Exchange::new().await;
    let mut session = exchange.connect_with(&department, Exchange::settings(64 << 10)).await.unwrap();
    session.drain().await.unwrap();
    department.run("INSERT INTO t VALUES (1, 'a', zeroblob(100000)), (2, 'b', zeroblob(10))").await;
    session.drain().await.unwrap();
    let records = exchange.records("raw.licensing.main.t").await;
    let marks: Vec<Option<&[u8]>> =
        records.iter().map(|record| record.header("guitong-too-large").map(|mark| mark.as_ref())).collect();
    assert_eq!(marks, vec![Some(&b"scan"[..]), None]);
    assert_eq!(records[0].header("guitong-absent").unwrap().as_ref(), b"scan");
    // What is over any limit is not even in the change log.
    department.run("INSERT INTO t VALUES (3, 'c', zeroblob(5000000))").await;
    assert_eq!(department.count("SELECT max(length(after_row)) < 1000000 FROM guitong_changes").await, 1);
    session.drain().await.unwrap();
    let records = exchange.records("raw.licensing.main.t").await;
    assert_eq!(records[2].header("guitong-too-large").unwrap().as_ref(), b"scan");
}

/// A key that is no UTF-8 costs its row alone its key's text: it loads, changes and goes under its bytes, and every other row flows.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_no_utf_8_is_spelled_out_and_stops_nothing() {
    let mut department =
        Department::new("CREATE TABLE t (dm TEXT, xh INTEGER, name TEXT, PRIMARY KEY (dm, xh)) WITHOUT ROWID").await;
    // 南宁 in GB 18030, with a NUL behind it, and between keys that sort before and after it; each row fills a chunk.
    let long = "长".repeat(1_000);
    let keys = ["'A'", "CAST(x'C4CFC4FE' AS TEXT)", "CAST(x'C4CFC4FE00' AS TEXT)", "CAST(x'C4CFC4FE0001' AS TEXT)", "'南宁'"];
    for key in keys {
        department.run(&format!("INSERT INTO t VALUES ({key}, 1, '{long}'), ({key}, 2, '{long}')")).await;
    }
    department.prepare().await;
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&department).await.unwrap();
    assert_eq!(session.drain().await.unwrap(), 10, "each row is read once");
    let text = |text: &str| Some(text.to_owned());
    let row = |key: &str, number: &str, name: &str| vec![text(key), text(number), text(name)];
    let spelled = ["A", "\\xC4CFC4FE", "\\xC4CFC4FE00", "\\xC4CFC4FE0001", "南宁"];
    let mut wanted: std::collections::BTreeSet<_> =
        spelled.iter().flat_map(|key| [row(key, "1", &long), row(key, "2", &long)]).collect();
    assert_eq!(exchange.mirrored("raw.licensing.main.t").await, wanted);

    department.run(&format!("UPDATE t SET name = '新' WHERE dm = {} AND xh = 1", keys[1])).await;
    department.run(&format!("DELETE FROM t WHERE dm = {} AND xh = 2", keys[1])).await;
    department.run(&format!("UPDATE t SET dm = '南宁', xh = 3 WHERE dm = {} AND xh = 1", keys[2])).await;
    department.run("INSERT INTO t VALUES ('B', 1, '后')").await;
    session.drain().await.unwrap();
    for gone in [row(spelled[1], "1", &long), row(spelled[1], "2", &long), row(spelled[2], "1", &long)] {
        assert!(wanted.remove(&gone), "{gone:?}");
    }
    wanted.extend([row(spelled[1], "1", "新"), row("南宁", "3", &long), row("B", "1", "后")]);
    assert_eq!(exchange.mirrored("raw.licensing.main.t").await, wanted);
    let records = exchange.records("raw.licensing.main.t").await;
    let marks = records.iter().filter_map(|record| record.header("guitong-unreadable"));
    let marks: std::collections::BTreeSet<&[u8]> = marks.map(|mark| mark.as_ref()).collect();
    assert_eq!(marks.into_iter().collect::<Vec<_>>(), [&b"c4cfc4fe dm"[..], b"c4cfc4fe00 dm", b"c4cfc4fe0001 dm"]);
}
