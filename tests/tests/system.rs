//! `guitong system` beside a running node over PostgreSQL: tables read again, paused, resumed, cancelled; slots shown and dropped.

use std::time::{Duration, Instant};

use guitong_tests::exchange::{Answer, COMPANIES, Exchange, Layout, credit_code};
use guitong_tests::servers::postgres::{ADMIN, Options, PASSWORD, Postgres};
use serde_json::Value;
use sqlx::postgres::PgPool;

const PATIENCE: Duration = Duration::from_secs(60);

async fn status_where(exchange: &Exchange, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = exchange.status(PATIENCE).await.unwrap();
        if holds(&status["systems"][0]) {
            return status["systems"][0].clone();
        }
        assert!(Instant::now() < deadline, "{status:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A server with a department's database and a subscriber's, and the exchange between them.
async fn departments() -> (Postgres, PgPool, Exchange) {
    let server = Postgres::start().await.unwrap();
    let (department, exchange) = departments_on(&server).await;
    (server, department, exchange)
}

async fn departments_on(server: &Postgres) -> (PgPool, Exchange) {
    server.create_database("department").await.unwrap();
    server.create_database("subscriber").await.unwrap();
    let department = server.admin_of("department").await.unwrap();
    sqlx::raw_sql(COMPANIES).execute(&department).await.unwrap();
    let exchange = Exchange::write(&Layout {
        source: format!("kind = \"postgres\"\nurl = \"{}\"\n", server.url_of(ADMIN, PASSWORD, "department")),
        schema: "public",
        log: String::new(),
        sink: format!(
            "kind = \"postgres\"\nurl = \"{}\"\ntable = \"public.enterprise\"\n",
            server.url_of(ADMIN, PASSWORD, "subscriber")
        ),
    })
    .unwrap();
    (department, exchange)
}

fn snapshot(exchange: &Exchange, arguments: &[&str]) -> Answer {
    exchange.command(&[&["system", "snapshot", "licensing"], arguments].concat()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_steers_the_reading_of_tables() {
    let (_server, department, exchange) = departments().await;
    for number in 1..=20_u32 {
        let insert = sqlx::query("INSERT INTO qy VALUES ($1, $2, '公司', '韦小明')").bind(i64::from(number));
        insert.bind(credit_code(number)).execute(&department).await.unwrap();
    }
    let node = exchange.start().unwrap();
    status_where(&exchange, |system| system["state"] == "streaming" && system["events"] == 20).await;

    let read = snapshot(&exchange, &["--table", "qy", "--where", "bh <= 5"]);
    assert_eq!(read.code, Some(0), "{}", read.err);
    assert!(read.out.contains("public.qy is read again"), "{}", read.out);
    status_where(&exchange, |system| system["state"] == "streaming" && system["events"] == 25).await;

    let wrong = snapshot(&exchange, &["--table", "qy", "--where", "hb = 1"]);
    assert_eq!(wrong.code, Some(1), "{}", wrong.err);
    assert!(wrong.err.contains("hb"), "{}", wrong.err);
    assert_eq!(snapshot(&exchange, &[]).code, Some(2), "says what it wants to be told");
    assert_eq!(exchange.command(&["system", "snapshot", "nobody", "--pause"]).unwrap().code, Some(1));

    assert_eq!(snapshot(&exchange, &["--pause"]).code, Some(0));
    assert_eq!(snapshot(&exchange, &["--table", "public.qy"]).code, Some(0));
    status_where(&exchange, |system| system["snapshot"]["hold"] == "paused by an operator").await;
    let shown = exchange.command(&["status"]).unwrap().out;
    assert!(shown.contains("paused by an operator; tables: public.qy"), "{shown}");
    // Not forgotten with the process.
    node.kill().unwrap();
    let _node = exchange.start().unwrap();
    status_where(&exchange, |system| system["snapshot"]["tables"][0] == "public.qy").await;
    assert_eq!(snapshot(&exchange, &["--cancel=public.qy"]).code, Some(0));
    assert_eq!(snapshot(&exchange, &["--resume"]).code, Some(0));
    status_where(&exchange, |system| system["state"] == "streaming" && system["snapshot"].is_null()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_nobody_needs_is_shown_and_dropped_and_no_other() {
    let (_server, department, exchange) = departments().await;
    let node = exchange.start().unwrap();
    status_where(&exchange, |system| system["state"] == "streaming").await;
    let slots = |arguments: &[&str]| exchange.command(&[&["system", "slots"], arguments].concat()).unwrap();
    let own: String =
        sqlx::query_scalar("SELECT slot_name::text FROM pg_replication_slots").fetch_one(&department).await.unwrap();
    let prefix = own.strip_suffix("licensing").unwrap();
    let orphan = format!("{prefix}old");
    for name in [&orphan, "elsewhere_old"] {
        sqlx::query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')").bind(name).execute(&department).await.unwrap();
    }

    let shown = slots(&["--json"]);
    assert_eq!(shown.code, Some(0), "{}", shown.err);
    let shown: Value = serde_json::from_str(&shown.out).unwrap();
    let of = |name: &str| shown.as_array().unwrap().iter().find(|slot| slot["slot"] == name).unwrap().clone();
    assert_eq!(
        (&of(&own)["system"], &of(&own)["state"], &of(&own)["orphan"]),
        (&"licensing".into(), &"in use".into(), &false.into())
    );
    assert_eq!(
        (&of(&orphan)["system"], &of(&orphan)["state"], &of(&orphan)["orphan"]),
        (&Value::Null, &"idle".into(), &true.into())
    );
    assert_eq!(of("elsewhere_old")["orphan"], false);
    let table = slots(&[]).out;
    assert!(table.contains(&format!("guitong system slots --drop {orphan}")) && !table.contains("--drop elsewhere"), "{table}");

    for (name, words) in
        [(own.as_str(), "is the slot of licensing"), ("elsewhere_old", "was not made by this exchange"), ("no", "no server has")]
    {
        let refused = slots(&["--drop", name]);
        assert_eq!(refused.code, Some(1), "{}", refused.err);
        assert!(refused.err.contains(words), "{}", refused.err);
    }
    let dropped = slots(&["--drop", &orphan]);
    assert_eq!(dropped.code, Some(0), "{}", dropped.err);
    let left: Vec<String> =
        sqlx::query_scalar("SELECT slot_name::text FROM pg_replication_slots ORDER BY 1").fetch_all(&department).await.unwrap();
    assert_eq!(left, ["elsewhere_old".to_owned(), own.clone()]);

    // The slot of a system whose connector stands still is no orphan.
    node.terminate().unwrap();
    let idle: Value = serde_json::from_str(&slots(&["--json"]).out).unwrap();
    let idle = idle.as_array().unwrap().iter().find(|slot| slot["slot"] == own.as_str()).unwrap().clone();
    assert_eq!((&idle["state"], &idle["orphan"]), (&"idle".into(), &false.into()));
    assert_eq!(slots(&["--drop", &own]).code, Some(1));
}

/// Changes are lost with the slot, and a person decides: everything is read again once, and not by itself the next time.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_repaired_by_the_command_that_it_names_and_only_once() {
    let (server, department, exchange) = departments().await;
    let subscriber = server.admin_of("subscriber").await.unwrap();
    let insert = async |number: u32| {
        let insert = sqlx::query("INSERT INTO qy VALUES ($1, $2, '公司', '韦小明')").bind(i64::from(number));
        insert.bind(credit_code(number)).execute(&department).await.unwrap();
    };
    let repair = || exchange.command(&["system", "repair", "licensing"]).unwrap();
    // Whoever reads comes back at once.
    let lose_slot = "DO $$ BEGIN LOOP BEGIN
            PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active;
            PERFORM pg_drop_replication_slot(slot_name) FROM pg_replication_slots;
            EXIT;
        EXCEPTION WHEN object_in_use THEN PERFORM pg_sleep(0.01);
        END; END LOOP; END $$";
    let delivered = async |count: i64| {
        let deadline = Instant::now() + PATIENCE;
        let counted = "SELECT count(*) FROM public.enterprise";
        while sqlx::query_scalar::<_, i64>(counted).fetch_one(&subscriber).await.ok() != Some(count) {
            assert!(Instant::now() < deadline, "{count} rows are not delivered");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    insert(1).await;
    insert(2).await;
    let _node = exchange.start().unwrap();
    delivered(2).await;
    let refused = repair();
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("nothing of it is missing"), "{}", refused.err);
    assert_eq!(exchange.command(&["system", "repair", "nobody"]).unwrap().code, Some(1));

    for (number, left) in [(3, 2), (4, 3)] {
        sqlx::raw_sql(lose_slot).execute(&department).await.unwrap();
        // One row comes and one goes while nobody reads.
        insert(number).await;
        sqlx::query("DELETE FROM qy WHERE bh = $1").bind(i64::from(number - 2)).execute(&department).await.unwrap();
        let stopped = status_where(&exchange, |system| system["state"] == "stopped").await;
        assert!(stopped["problem"].as_str().unwrap().contains("run `guitong system repair licensing`"), "{stopped:#}");
        let repaired = repair();
        assert_eq!(repaired.code, Some(0), "{}", repaired.err);
        status_where(&exchange, |system| system["state"] == "streaming").await;
        delivered(2).await;
        let names: Vec<String> =
            sqlx::query_scalar("SELECT uscc FROM public.enterprise ORDER BY 1").fetch_all(&subscriber).await.unwrap();
        let mut wanted = [left, number].map(credit_code);
        wanted.sort();
        assert_eq!(names, wanted);
    }
}

/// A connector that has ended keeps nobody from seeing what the department's server keeps for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_keeps_for_a_stopped_connector_is_told() {
    let server = Postgres::start_with(Options::default().set("max_slot_wal_keep_size", "64MB")).await.unwrap();
    let (department, exchange) = departments_on(&server).await;
    let node = exchange.start().unwrap();
    status_where(&exchange, |system| system["state"] == "streaming").await;
    node.terminate().unwrap();
    let publication: String =
        sqlx::query_scalar("SELECT pubname::text FROM pg_publication").fetch_one(&department).await.unwrap();
    let alter = format!("ALTER PUBLICATION {publication} SET (publish = 'insert')");
    sqlx::raw_sql(sqlx::AssertSqlSafe(alter)).execute(&department).await.unwrap();
    let _node = exchange.start().unwrap();
    status_where(&exchange, |system| system["state"] == "stopped").await;
    sqlx::raw_sql("CREATE TABLE other (a text)").execute(&department).await.unwrap();
    for _ in 0..4 {
        sqlx::raw_sql("INSERT INTO other VALUES ('x'); SELECT pg_switch_wal()").execute(&department).await.unwrap();
    }
    let rows = "INSERT INTO other SELECT repeat('x', 100) FROM generate_series(1, 30000)";
    sqlx::raw_sql(rows).execute(&department).await.unwrap();
    let system = status_where(&exchange, |system| system["left_bytes"].is_u64()).await;
    assert_eq!(system["state"], "stopped", "{system:#}");
    assert!(system["retained_bytes"].as_u64().unwrap() > 51 << 20, "{system:#}");
    let shown = exchange.command(&["status"]).unwrap().out;
    assert!(shown.contains("the server gives up the slot after"), "{shown}");
    let log = std::fs::read_to_string(exchange.path().join("node.log")).unwrap();
    assert_eq!(log.matches("the server gives up the slot").count(), 1, "{log}");
    let metrics = exchange.get("/metrics", PATIENCE).await.unwrap();
    let left = metrics.lines().find(|line| line.starts_with("guitong_postgres_slot_left_bytes{")).unwrap();
    assert!(left.ends_with(&format!(" {}", system["left_bytes"])), "{left}");
}
