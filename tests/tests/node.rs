//! A whole node between two SQLite databases, through its command line: quarantine, reload, backup and restore, a second node, a drained stop.

use std::path::Path;
use std::time::{Duration, Instant};

use guitong_tests::exchange::{COMPANIES, Exchange, Layout, credit_code};
use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Row};

const PATIENCE: Duration = Duration::from_secs(30);

async fn open(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).create_if_missing(true).busy_timeout(PATIENCE).connect().await.unwrap()
}

async fn run(connection: &mut SqliteConnection, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.unwrap();
}

fn company(number: u32, code: &str) -> String {
    format!("INSERT INTO qy VALUES ({number}, '{code}', '公司{number}', '韦小明');")
}

/// A department with three companies, prepared, and its exchange.
async fn exchange() -> (Exchange, SqliteConnection) {
    let exchange = Exchange::write(&Layout {
        source: "kind = \"sqlite\"\npath = \"department.db\"\n".to_owned(),
        schema: "main",
        log: String::new(),
        sink: "kind = \"sqlite\"\npath = \"sink.db\"\ntable = \"enterprise\"\n".to_owned(),
    })
    .unwrap();
    let mut department = open(&exchange.path().join("department.db")).await;
    run(&mut department, format!("PRAGMA journal_mode = WAL; {COMPANIES}")).await;
    for number in 1..=3 {
        run(&mut department, company(number, &credit_code(number))).await;
    }
    let prepared = exchange.command(&["system", "prepare", "licensing", "--apply"]).unwrap();
    assert_eq!(prepared.code, Some(0), "{}", prepared.err);
    (exchange, department)
}

/// Names the subscriber holds, once they are `wanted`.
async fn holds(exchange: &Exchange, wanted: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    let mut names: Vec<String> = Vec::new();
    while Instant::now() < deadline {
        let options = SqliteConnectOptions::new().filename(exchange.path().join("sink.db")).read_only(true);
        if let Ok(mut sink) = options.connect().await
            && let Ok(rows) = sqlx::query("SELECT name FROM enterprise ORDER BY name").fetch_all(&mut sink).await
        {
            names = rows.iter().map(|row| row.get(0)).collect();
            if names == wanted {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the subscriber holds {names:?}, not {wanted:?}\n{:#}", exchange.status(PATIENCE).await.unwrap());
}

async fn status_where(exchange: &Exchange, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = exchange.status(PATIENCE).await.unwrap();
        if holds(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "{status:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_row_is_explained_and_flows_once_it_is_put_right() {
    let (exchange, mut department) = exchange().await;
    let node = exchange.start().unwrap();
    holds(&exchange, &["公司1", "公司2", "公司3"]).await;
    run(&mut department, company(4, "91450103PDY00004XX")).await;
    status_where(&exchange, |status| status["resources"][0]["quarantined"] == 1).await;

    let list = exchange.command(&["quarantine", "list", "enterprise", "--json"]).unwrap();
    let list: Value = serde_json::from_str(&list.out).unwrap();
    assert!(list[0]["reasons"].to_string().contains("uscc."), "{list:#}");
    let shown = exchange.command(&["quarantine", "show", "enterprise", list[0]["id"].as_str().unwrap()]).unwrap();
    assert_eq!(shown.code, Some(0), "{}", shown.err);
    assert!(shown.out.contains("统一社会信用代码"), "{}", shown.out);
    let table = exchange.command(&["status"]).unwrap();
    assert!(table.out.contains("guitong quarantine list enterprise"), "{}", table.out);

    run(&mut department, format!("UPDATE qy SET tyshxydm = '{}' WHERE bh = 4", credit_code(4))).await;
    holds(&exchange, &["公司1", "公司2", "公司3", "公司4"]).await;
    status_where(&exchange, |status| status["resources"][0]["quarantined"] == 0).await;
    let (code, time) = node.terminate().unwrap();
    assert_eq!((code, time < Duration::from_secs(10)), (Some(0), true), "stopped in {time:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_directory_is_taken_whole_or_refused() {
    let (exchange, _department) = exchange().await;
    let _node = exchange.start().unwrap();
    holds(&exchange, &["公司1", "公司2", "公司3"]).await;
    let path = exchange.path().join("subscriptions/credit-enterprise.toml");
    let good = std::fs::read_to_string(&path).unwrap();

    std::fs::write(&path, good.replace("\"name\"", "\"nmae\"")).unwrap();
    let refused = status_where(&exchange, |status| !status["refused_change"].is_null()).await;
    assert!(refused["refused_change"].as_str().unwrap().contains("nmae"), "{refused:#}");
    assert_eq!(refused["subscriptions"][0]["state"], "live", "the one before stays in force");

    std::fs::write(&path, good.replace("[sink]", "where = \"name == '公司2'\"\n\n[sink]")).unwrap();
    holds(&exchange, &["公司2"]).await;
    let taken = status_where(&exchange, |status| status["refused_change"].is_null()).await;
    assert_ne!(taken["revision"], refused["revision"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_running_log_is_restored_as_another_log() {
    let (exchange, mut department) = exchange().await;
    let node = exchange.start().unwrap();
    holds(&exchange, &["公司1", "公司2", "公司3"]).await;
    let backup = exchange.path().join("backup.db");
    let backup = backup.to_str().unwrap();
    let made = exchange.command(&["backup", backup]).unwrap();
    assert_eq!(made.code, Some(0), "{}", made.err);
    assert_eq!(exchange.command(&["backup", backup]).unwrap().code, Some(2), "never overwritten");
    let busy = exchange.command(&["restore", backup, "--yes"]).unwrap();
    assert_eq!(busy.code, Some(3), "in use: {}", busy.err);
    node.terminate().unwrap();

    assert_eq!(exchange.command(&["restore", backup]).unwrap().code, Some(2), "says what it would do and wants --yes");
    let restored = exchange.command(&["restore", backup, "--yes"]).unwrap();
    assert_eq!(restored.code, Some(0), "{}", restored.err);
    run(&mut department, company(5, &credit_code(5))).await;
    let _node = exchange.start().unwrap();
    holds(&exchange, &["公司1", "公司2", "公司3", "公司5"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_node_is_refused_and_health_is_told() {
    let (exchange, _department) = exchange().await;
    let _node = exchange.start().unwrap();
    assert_eq!(exchange.get("/readyz", PATIENCE).await.unwrap(), "ready\n");
    assert_eq!(exchange.get("/healthz", PATIENCE).await.unwrap(), "ok\n");
    holds(&exchange, &["公司1", "公司2", "公司3"]).await;
    let metrics = exchange.get("/metrics", PATIENCE).await.unwrap();
    for name in ["guitong_connect_events_total", "guitong_normalise_", "guitong_deliver_"] {
        assert!(metrics.contains(name), "{name} is missing");
    }
    let subjects = exchange.get("/registry/subjects", PATIENCE).await.unwrap();
    assert!(subjects.contains("raw.licensing.main.qy-value"), "{subjects}");

    let (code, log) = exchange.start().unwrap().wait().unwrap();
    assert_eq!(code, Some(3), "{log}");
}
