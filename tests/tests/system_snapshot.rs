//! `guitong system snapshot` on a running node over PostgreSQL: read again, pause, resume, cancel, and what the status says of it.

use std::time::{Duration, Instant};

use guitong_tests::exchange::{Answer, COMPANIES, Exchange, Layout, credit_code};
use guitong_tests::servers::postgres::{ADMIN, PASSWORD, Postgres};
use serde_json::Value;

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

fn snapshot(exchange: &Exchange, arguments: &[&str]) -> Answer {
    exchange.command(&[&["system", "snapshot", "licensing"], arguments].concat()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_steers_the_reading_of_tables() {
    let server = Postgres::start().await.unwrap();
    server.create_database("department").await.unwrap();
    server.create_database("subscriber").await.unwrap();
    let department = server.admin_of("department").await.unwrap();
    sqlx::raw_sql(COMPANIES).execute(&department).await.unwrap();
    for number in 1..=20_u32 {
        let insert = sqlx::query("INSERT INTO qy VALUES ($1, $2, '公司', '韦小明')").bind(i64::from(number));
        insert.bind(credit_code(number)).execute(&department).await.unwrap();
    }
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
