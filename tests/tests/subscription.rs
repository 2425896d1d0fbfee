//! What a person finds out about a subscription, and puts right, at the command line.

use std::time::{Duration, Instant};

use guitong_tests::exchange::{COMPANIES, Exchange, Layout, credit_code};
use serde_json::Value;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

const PATIENCE: Duration = Duration::from_secs(60);

async fn open(exchange: &Exchange, file: &str) -> SqlitePool {
    let options = SqliteConnectOptions::new().filename(exchange.path().join(file)).create_if_missing(true);
    SqlitePool::connect_with(options).await.unwrap()
}

async fn run(pool: &SqlitePool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap();
}

/// Waits until `sql` counts so many.
async fn counts(pool: &SqlitePool, sql: &str, wanted: i64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let counted = sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql)).fetch_one(pool).await;
        if counted.as_ref().is_ok_and(|counted| *counted == wanted) {
            return;
        }
        assert!(Instant::now() < deadline, "{sql}: {counted:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Compares once the first load is over.
async fn verified(exchange: &Exchange, arguments: &[&str]) -> (Option<i32>, Value) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let all = [&["subscription", "verify", "credit-enterprise", "--json"], arguments].concat();
        let answer = exchange.command(&all).unwrap();
        if let Ok(found) = serde_json::from_str(&answer.out) {
            return (answer.code, found);
        }
        assert!(Instant::now() < deadline && answer.err.contains("being filled"), "{}", answer.err);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscribers_table_is_compared_put_right_and_delivered_again() {
    let sink = "kind = \"sqlite\"\npath = \"sink.db\"\ntable = \"enterprise\"\n".to_owned();
    let source = "kind = \"sqlite\"\npath = \"department.db\"\n".to_owned();
    let exchange = Exchange::write(&Layout { source, schema: "main", log: String::new(), sink }).unwrap();
    let department = open(&exchange, "department.db").await;
    let row = |number: u32| format!("({number}, '{}', '测试{number}有限公司', '测甲')", credit_code(number));
    let rows: Vec<String> = (1..=50).map(row).collect();
    run(&department, &format!("{COMPANIES}; INSERT INTO qy VALUES {}", rows.join(", "))).await;
    let prepared = exchange.command(&["system", "prepare", "licensing", "--apply"]).unwrap();
    assert_eq!(prepared.code, Some(0), "{}", prepared.err);
    let node = exchange.start().unwrap();
    exchange.status(PATIENCE).await.unwrap();
    let table = open(&exchange, "sink.db").await;
    counts(&table, "SELECT count(*) FROM enterprise", 50).await;
    let (code, clean) = verified(&exchange, &[]).await;
    assert_eq!((code, clean["entitled"].as_u64(), clean["held"].as_u64()), (Some(0), Some(50), Some(50)), "{clean}");

    run(&table, "UPDATE enterprise SET name = '别的' WHERE rowid = 1; DELETE FROM enterprise WHERE rowid = 2").await;
    let (code, found) = verified(&exchange, &[]).await;
    assert_eq!((code, found["missing"].as_u64(), found["differing"].as_u64()), (Some(1), Some(1), Some(1)), "{found}");
    let told = exchange.command(&["subscription", "verify", "credit-enterprise"]).unwrap();
    assert_eq!(told.code, Some(1));
    assert!(told.out.contains("held 别的") && told.out.contains("1 missing"), "{}", told.out);
    assert!(told.err.contains("verify credit-enterprise --repair"), "{}", told.err);
    let (code, repaired) = verified(&exchange, &["--repair"]).await;
    assert_eq!((code, repaired["repaired"].as_u64()), (Some(0), Some(2)), "{repaired}");
    assert_eq!(verified(&exchange, &[]).await.0, Some(0));

    run(&table, "UPDATE enterprise SET name = '别的'").await;
    let replayed = exchange.command(&["subscription", "replay", "credit-enterprise", "--from", "1 h"]).unwrap();
    assert_eq!(replayed.code, Some(0), "{}", replayed.err);
    assert!(replayed.out.contains("50 records"), "{}", replayed.out);
    counts(&table, "SELECT count(*) FROM enterprise WHERE name LIKE '测试%'", 50).await;
    let refused = exchange.command(&["subscription", "replay", "credit-enterprise", "--from", "0-100000"]).unwrap();
    assert_eq!(refused.code, Some(1), "{}", refused.err);
    let nobodys = exchange.command(&["subscription", "verify", "nobody"]).unwrap();
    assert_eq!(nobodys.code, Some(1), "{}", nobodys.err);

    let audited = exchange.command(&["report", "audit"]).unwrap();
    assert_eq!(audited.code, Some(0), "{}", audited.err);
    assert!(audited.out.contains("credit-enterprise") && audited.out.contains("whole"), "{}", audited.out);
    // Without a node the same is answered from the directory.
    assert_eq!(node.terminate().unwrap().0, Some(0));
    let (code, alone) = verified(&exchange, &[]).await;
    assert_eq!((code, alone["entitled"].as_u64()), (Some(0), Some(50)), "{alone}");
    let audited = exchange.command(&["report", "audit", "credit-enterprise", "--json"]).unwrap();
    let audited: Value = serde_json::from_str(&audited.out).unwrap();
    assert!(audited[0]["broken"].is_null() && audited[0]["entries"].as_u64() > Some(1), "{audited}");
}
