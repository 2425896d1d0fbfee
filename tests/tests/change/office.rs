//! A department on PostgreSQL with clerks at work, its exchange, and a subscriber on SQLite.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use guitong_tests::exchange::{COMPANIES, Exchange, Layout, Node, RESOURCE, credit_code};
use guitong_tests::servers::postgres::{PASSWORD, Postgres};
use serde_json::Value;
use sqlx::postgres::PgPool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, Row};
use tokio::task::JoinHandle;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Name and scope by credit code.
pub(crate) type Companies = BTreeMap<String, (String, Option<String>)>;

pub(crate) struct Office {
    pub(crate) server: Postgres,
    pub(crate) pool: PgPool,
    pub(crate) exchange: Exchange,
    next: Arc<AtomicU32>,
}

/// Clerks who type until they are stopped.
pub(crate) struct Clerks {
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

/// The resource of an exchange, with the scope of business and more lines before `[map]`.
pub(crate) fn resource(schema: &str, scope: &str, lines: &str) -> String {
    let text = RESOURCE.replace("SCHEMA", schema).replace("\n[map]\n", &format!("{lines}\n\n[map]\nscope = {scope}\n"));
    assert!(text.contains(scope));
    text
}

/// Writes the resource's file, and grants the scope of business to the subscriber.
pub(crate) fn declare(exchange: &Exchange, text: &str) {
    std::fs::write(exchange.path().join("resources/enterprise.toml"), text).unwrap();
    let path = exchange.path().join("subscriptions/credit-enterprise.toml");
    let subscription = std::fs::read_to_string(&path).unwrap();
    if !subscription.contains("\"scope\"") {
        std::fs::write(&path, subscription.replace("\"legal_rep_name\"]", "\"legal_rep_name\", \"scope\"]")).unwrap();
    }
}

pub(crate) const SINK: &str = "kind = \"sqlite\"\npath = \"sink.db\"\ntable = \"enterprise\"\n";

impl Office {
    /// Thirty companies, and an exchange that is not running yet.
    pub(crate) async fn new(lines: &str) -> Self {
        let server = Postgres::start().await.unwrap();
        server.create_database("department").await.unwrap();
        server.create_role("guitong", "REPLICATION").await.unwrap();
        let pool = server.admin_of("department").await.unwrap();
        pool.execute(COMPANIES).await.unwrap();
        pool.execute("ALTER TABLE qy ADD COLUMN jyfw text").await.unwrap();
        pool.execute("GRANT SELECT ON qy TO guitong; CREATE PUBLICATION test_licensing FOR TABLE qy").await.unwrap();
        let exchange = Exchange::write(&Layout {
            source: format!("kind = \"postgres\"\nurl = \"{}\"\n", server.url_of("guitong", PASSWORD, "department")),
            schema: "public",
            log: String::new(),
            sink: SINK.to_owned(),
        });
        let exchange = exchange.unwrap();
        declare(&exchange, &resource("public", "\"jyfw\"", lines));
        let office = Self { server, pool, exchange, next: Arc::new(AtomicU32::new(1)) };
        for _ in 0..30 {
            insert(&office.pool, &office.next).await;
        }
        office
    }

    pub(crate) async fn execute(&self, sql: &str) {
        self.pool.execute(AssertSqlSafe(sql.to_owned())).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// One more company.
    pub(crate) async fn insert(&self) {
        insert(&self.pool, &self.next).await;
    }

    /// New companies, and others that change their names, one statement after the other.
    pub(crate) fn clerks(&self) -> Clerks {
        let stop = Arc::new(AtomicBool::new(false));
        let (pool, next, stopped) = (self.pool.clone(), Arc::clone(&self.next), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let number = insert(&pool, &next).await;
                let sql = format!("UPDATE qy SET qymc = '更名{number}' WHERE bh = {}", number / 2);
                pool.execute(AssertSqlSafe(sql)).await.unwrap();
            }
        });
        Clerks { stop, task }
    }

    /// Waits until the clerks have typed in so many companies more.
    pub(crate) async fn typed(&self, more: u32) {
        let until = self.next.load(Ordering::Relaxed) + more;
        while self.next.load(Ordering::Relaxed) < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What the department holds, with the scope from this column.
    pub(crate) async fn companies(&self, scope: &str) -> Companies {
        let sql = format!("SELECT tyshxydm, qymc, {scope} FROM qy");
        // Planned anew each time: its columns change their types.
        let rows = sqlx::query(AssertSqlSafe(sql)).persistent(false).fetch_all(&self.pool).await.unwrap();
        rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
    }

    /// Starts the exchange and waits until the first load is done, so that what comes after is streamed.
    pub(crate) async fn start(&self) -> Node {
        let node = self.exchange.start().unwrap();
        self.arrived("jyfw").await;
        status_where(&self.exchange, |status| status["systems"][0]["state"] == "streaming").await;
        node
    }

    /// Waits until the subscriber holds just what the department does.
    pub(crate) async fn arrived(&self, scope: &str) {
        let wanted = self.companies(scope).await;
        until(&self.exchange, &wanted).await;
    }
}

async fn insert(pool: &PgPool, next: &AtomicU32) -> u32 {
    let number = next.fetch_add(1, Ordering::Relaxed);
    let sql = format!(
        "INSERT INTO qy (bh, tyshxydm, qymc, fddbr) VALUES ({number}, '{}', '公司{number}', '韦小明')",
        credit_code(number)
    );
    pool.execute(AssertSqlSafe(sql)).await.unwrap();
    number
}

impl Clerks {
    pub(crate) async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

/// What the subscriber holds; nothing where there is no table yet.
pub(crate) async fn held(exchange: &Exchange) -> Companies {
    let options = SqliteConnectOptions::new().filename(exchange.path().join("sink.db")).read_only(true);
    let Ok(mut sink) = options.connect().await else { return Companies::new() };
    let rows = sqlx::query("SELECT uscc, name, scope FROM enterprise").fetch_all(&mut sink).await.unwrap_or_default();
    rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
}

pub(crate) async fn until(exchange: &Exchange, wanted: &Companies) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let held = held(exchange).await;
        if held == *wanted {
            return;
        }
        if Instant::now() > deadline {
            let differ: Vec<_> = wanted.iter().filter(|(code, row)| held.get(*code) != Some(row)).take(3).collect();
            let more = held.keys().filter(|code| !wanted.contains_key(*code)).count();
            let status = exchange.status(PATIENCE).await.unwrap();
            panic!("{} of {} held, {more} too many; differ: {differ:?}\n{status:#}", held.len(), wanted.len());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) async fn status_where(exchange: &Exchange, holds: impl Fn(&Value) -> bool) -> Value {
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

/// Whether the one resource is in this state.
pub(crate) fn resource_is(state: &'static str) -> impl Fn(&Value) -> bool {
    move |status| status["resources"][0]["state"] == state
}

/// Runs a command that must be done.
pub(crate) fn command(exchange: &Exchange, arguments: &[&str]) -> String {
    let answer = exchange.command(arguments).unwrap();
    assert_eq!(answer.code, Some(0), "{arguments:?}: {}{}", answer.out, answer.err);
    answer.out
}

pub(crate) async fn open(exchange: &Exchange, file: &str) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(exchange.path().join(file)).create_if_missing(true);
    options.busy_timeout(PATIENCE).connect().await.unwrap()
}

pub(crate) async fn run(connection: &mut SqliteConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.unwrap();
}
