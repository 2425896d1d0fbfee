//! A resource is made again by the command while clerks go on typing and the node is killed: the subscribers' tables end as that of
//! another exchange that had the mapping from the beginning over the same rows. The seed that replays a run is printed.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use guitong_tests::exchange::{COMPANIES, Exchange, Layout, credit_code};
use guitong_tests::seed;
use guitong_tests::servers::kafka::Kafka;
use guitong_tests::servers::postgres::{PASSWORD, Postgres};
use guitong_tests::servers::registry::Registry;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use sqlx::postgres::PgPool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, Row};

const PATIENCE: Duration = Duration::from_secs(60);
const KILLS: usize = 2;

type Companies = BTreeMap<u32, (u32, String, &'static str)>;

async fn open(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).create_if_missing(true).busy_timeout(PATIENCE).connect().await.unwrap()
}

async fn run(connection: &mut SqliteConnection, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.unwrap();
}

/// An exchange whose department holds these companies.
async fn exchange(log: &str, companies: &Companies) -> (Exchange, SqliteConnection) {
    let exchange = Exchange::write(&Layout {
        source: "kind = \"sqlite\"\npath = \"department.db\"\n".to_owned(),
        schema: "main",
        log: log.to_owned(),
        sink: "kind = \"sqlite\"\npath = \"sink.db\"\ntable = \"enterprise\"\n".to_owned(),
    })
    .unwrap();
    let mut department = open(&exchange.path().join("department.db")).await;
    run(&mut department, format!("PRAGMA journal_mode = WAL; {COMPANIES}")).await;
    let rows: Vec<String> = companies
        .iter()
        .map(|(number, (code, name, person))| format!("({number}, '{}', '{name}', '{person}')", credit_code(*code)))
        .collect();
    run(&mut department, format!("INSERT INTO qy VALUES {}", rows.join(", "))).await;
    let prepared = exchange.command(&["system", "prepare", "licensing", "--apply"]).unwrap();
    assert_eq!(prepared.code, Some(0), "{}", prepared.err);
    (exchange, department)
}

/// A second subscriber, on PostgreSQL, whose role may write into one schema and no more.
async fn with_hall(exchange: &Exchange) -> (Postgres, PgPool) {
    let server = Postgres::start().await.unwrap();
    server.create_database("hall").await.unwrap();
    server.create_role("writer", "").await.unwrap();
    let hall = server.admin_of("hall").await.unwrap();
    hall.execute("CREATE SCHEMA shared AUTHORIZATION writer").await.unwrap();
    let url = server.url_of("writer", PASSWORD, "hall");
    let subscription = format!(
        "subscriber = \"hall\"\nresource = \"3450010102/000001\"\npurpose = \"办事免填\"\nfields = [\"uscc\", \"name\"]\n\n\
         [sink]\nkind = \"postgres\"\nurl = \"{url}\"\ntable = \"shared.enterprise\"\n"
    );
    let department = "title = \"政务服务大厅\"\ncode = \"11450000PDY000052G\"\n";
    std::fs::write(exchange.path().join("departments/hall.toml"), department).unwrap();
    std::fs::write(exchange.path().join("subscriptions/hall-enterprise.toml"), subscription).unwrap();
    (server, hall)
}

/// The rows of the subscriber on PostgreSQL.
async fn held_by_hall(hall: &PgPool) -> Vec<(String, String)> {
    let rows = sqlx::query("SELECT uscc, name FROM shared.enterprise ORDER BY uscc COLLATE \"C\"").fetch_all(hall).await;
    rows.unwrap_or_default().iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// The rows of the subscriber on SQLite.
async fn held(exchange: &Exchange) -> Vec<(String, String)> {
    let options = SqliteConnectOptions::new().filename(exchange.path().join("sink.db")).read_only(true);
    let Ok(mut sink) = options.connect().await else { return Vec::new() };
    let rows = sqlx::query("SELECT uscc, name FROM enterprise ORDER BY uscc").fetch_all(&mut sink).await.unwrap_or_default();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn holds(exchange: &Exchange, wanted: &[(String, String)]) {
    let deadline = Instant::now() + PATIENCE;
    while held(exchange).await != wanted {
        if Instant::now() > deadline {
            assert_eq!(held(exchange).await, wanted, "{:#}", exchange.status(PATIENCE).await.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
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

/// One statement of the clerks.
async fn act(random: &mut StdRng, next: &mut u32, companies: &mut Companies, department: &mut SqliteConnection) {
    let place = random.random_range(0..companies.len());
    let row = *companies.keys().nth(place).unwrap();
    match random.random_range(0..6) {
        0 => {
            *next += 1;
            companies.insert(*next, (*next, format!("公司{next}"), "韦小明"));
            let code = credit_code(*next);
            run(department, format!("INSERT INTO qy VALUES ({next}, '{code}', '公司{next}', '韦小明')")).await;
        }
        1 => {
            companies.remove(&row);
            run(department, format!("DELETE FROM qy WHERE bh = {row}")).await;
        }
        2 => {
            let person = ["韦小明", "覃丽"][random.random_range(0..2)];
            companies.get_mut(&row).unwrap().2 = person;
            run(department, format!("UPDATE qy SET fddbr = '{person}' WHERE bh = {row}")).await;
        }
        3 => {
            *next += 1;
            companies.get_mut(&row).unwrap().0 = *next;
            run(department, format!("UPDATE qy SET tyshxydm = '{}' WHERE bh = {row}", credit_code(*next))).await;
        }
        _ => {
            let name = format!("更名{}", random.random::<u32>());
            run(department, format!("UPDATE qy SET qymc = '{name}' WHERE bh = {row}")).await;
            companies.get_mut(&row).unwrap().1 = name;
        }
    }
}

#[tokio::test]
async fn a_resource_of_which_several_rows_make_a_record_asks_for_a_higher_revision() {
    let companies = BTreeMap::from([(1, (1, "公司1".to_owned(), "韦小明")), (2, (1, "公司2".to_owned(), "覃丽"))]);
    let (exchange, _department) = exchange("", &companies).await;
    let path = exchange.path().join("resources/enterprise.toml");
    let group = "[group]\nby = \"tyshxydm\"\norder_by = \"bh\"\n\n[map]";
    let text = std::fs::read_to_string(&path).unwrap().replace("[map]", group);
    std::fs::write(&path, &text).unwrap();
    let _node = exchange.start().unwrap();
    holds(&exchange, &[(credit_code(1), "公司2".to_owned())]).await;
    let refused = exchange.command(&["resource", "rebuild", "enterprise", "--wait"]).unwrap();
    assert!(refused.code == Some(1) && refused.err.contains("raise `revision` in its file"), "{refused:?}");
    let text = text.replace("name = \"qymc\"", "name = { from = \"qymc\", of = \"first\" }");
    std::fs::write(&path, text.replace("title = ", "revision = 2\ntitle = ")).unwrap();
    holds(&exchange, &[(credit_code(1), "公司1".to_owned())]).await;
}

/// The mapping leaves companies of one person out, and names the others otherwise.
fn change(exchange: &Exchange) {
    let path = exchange.path().join("resources/enterprise.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("[map]", "where = \"row.fddbr != '覃丽'\"\n\n[map]");
    std::fs::write(path, text.replace("name = \"qymc\"", "name = { from = [\"qymc\", \"fddbr\"], join = \"·\" }")).unwrap();
}

async fn made_again_under_load(log: &str, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut companies: Companies = (1..=600)
        .map(|number| (number, (number, format!("公司{number}"), if number % 5 == 0 { "覃丽" } else { "韦小明" })))
        .collect();
    let mut next = 600;
    let (exchange, mut department) = exchange(log, &companies).await;
    let (_server, hall) = with_hall(&exchange).await;
    let mut node = exchange.start().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while held(&exchange).await.len().min(held_by_hall(&hall).await.len()) < companies.len() {
        assert!(Instant::now() < deadline, "{:#}", exchange.status(PATIENCE).await.unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let before = exchange.status(PATIENCE).await.unwrap()["revision"].clone();
    change(&exchange);
    status_where(&exchange, |status| status["revision"] != before && status["resources"][0]["state"] == "running").await;
    let begun = exchange.command(&["resource", "rebuild", "enterprise", "--json"]).unwrap();
    assert_eq!(begun.code, Some(0), "{}", begun.err);
    let begun: Value = serde_json::from_str(&begun.out).unwrap();
    assert_eq!(begun["revision"], 2, "{begun}");
    for _ in 0..KILLS {
        let until = Instant::now() + Duration::from_millis(random.random_range(50..800));
        while Instant::now() < until {
            act(&mut random, &mut next, &mut companies, &mut department).await;
        }
        node.kill().unwrap();
        act(&mut random, &mut next, &mut companies, &mut department).await;
        node = exchange.start().unwrap();
        exchange.status(PATIENCE).await.unwrap();
    }
    let is_done = |status: &Value| status["resources"][0]["rebuilt"]["revision"].as_u64() >= Some(2);
    status_where(&exchange, is_done).await;

    let (fresh, _) = self::exchange("", &companies).await;
    change(&fresh);
    let _fresh = fresh.start().unwrap();
    let mut wanted: Vec<(String, String)> = companies
        .values()
        .filter(|(_, _, person)| *person != "覃丽")
        .map(|(code, name, person)| (credit_code(*code), format!("{name}·{person}")))
        .collect();
    wanted.sort();
    holds(&fresh, &wanted).await;
    holds(&exchange, &wanted).await;
    let deadline = Instant::now() + PATIENCE;
    while held_by_hall(&hall).await != wanted {
        if Instant::now() > deadline {
            assert_eq!(held_by_hall(&hall).await, wanted, "{:#}", exchange.status(PATIENCE).await.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    // Nothing is otherwise any more, and the command waits for that.
    let again = exchange.command(&["resource", "rebuild", "enterprise", "--wait"]).unwrap();
    assert_eq!(again.code, Some(0), "seed {seed}: {}", again.err);
    let told = format!("as revision 3: 0 records published, 0 deleted, {} as they were", wanted.len());
    assert!(again.out.contains(&told), "seed {seed}: {}", again.out);
    assert_eq!(node.terminate().unwrap().0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_embedded_log_it_ends_as_a_fresh_exchange() {
    made_again_under_load("", seed()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_kafka_it_ends_as_a_fresh_exchange() {
    let kafka = Kafka::start().await.unwrap();
    let registry = Registry::start().await.unwrap();
    let log = format!(
        "[log]\nkind = \"kafka\"\nbrokers = [\"{}\"]\nreplication_factor = 1\n\n[registry]\nurl = \"{}\"\n",
        kafka.bootstrap(),
        registry.url()
    );
    made_again_under_load(&log, seed()).await;
}
