//! `guitong system inspect` on real databases: what it says, what it never shows, and what it needs.

use std::time::{Duration, Instant};

use guitong_schemas::profile::Profile;
use guitong_tests::exchange::{Answer, Exchange, Layout, credit_code};
use guitong_tests::servers::postgres::{ADMIN, PASSWORD, Postgres};
use serde_json::Value;
use sqlx::Connection;
use sqlx::postgres::PgPool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

/// A person's table and an enterprise's, with titles as a department writes them.
const TABLES: &str = r#"
CREATE TABLE rk ("编号" bigint PRIMARY KEY, "姓名" varchar(50) NOT NULL, gmsfhm char(18), lxdh text, xb char(1), mz varchar(2), hyzk text, gxsj timestamp);
COMMENT ON TABLE rk IS '人口基本信息';
COMMENT ON COLUMN rk.gmsfhm IS '公民身份号码';
INSERT INTO rk SELECT n, (ARRAY['韦小明','覃丽','黄海燕','欧阳海'])[1 + n % 4], CASE WHEN n % 2 = 0 THEN '450102199001019997' ELSE '450102199001019989' END,
  '1600000000' || n % 3, (1 + n % 2)::text, '0' || (1 + n % 8), '1' || n % 2, now() FROM generate_series(1, 60) n;
"#;

async fn department() -> (Postgres, PgPool, Exchange) {
    let server = Postgres::start().await.unwrap();
    server.create_database("department").await.unwrap();
    let department = server.admin_of("department").await.unwrap();
    sqlx::raw_sql(TABLES).execute(&department).await.unwrap();
    server.create_role("reader", "").await.unwrap();
    let source = format!("kind = \"postgres\"\nurl = \"{}\"\n", server.url_of("reader", PASSWORD, "department"));
    let sink = format!("kind = \"postgres\"\nurl = \"{}\"\ntable = \"public.e\"\n", server.url_of(ADMIN, PASSWORD, "department"));
    let exchange = Exchange::write(&Layout { source, schema: "public", log: String::new(), sink }).unwrap();
    (server, department, exchange)
}

fn inspect(exchange: &Exchange, arguments: &[&str]) -> Answer {
    exchange.command(&[&["system", "inspect", "licensing"], arguments].concat()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_described_and_no_persons_value_is_shown() {
    let (_server, department, exchange) = department().await;
    let refused = inspect(&exchange, &["--table", "rk"]);
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    for words in ["role \"reader\" may not read public.rk", r#"GRANT SELECT ON "public"."rk" TO "reader""#] {
        assert!(refused.err.contains(words), "{words}: {}", refused.err);
    }
    sqlx::raw_sql("GRANT SELECT ON rk TO reader").execute(&department).await.unwrap();

    let shown = inspect(&exchange, &["--table", "rk", "--json"]);
    assert_eq!(shown.code, Some(0), "{}", shown.err);
    let profile: Value = serde_json::from_str(&shown.out).unwrap();
    let table = &profile["tables"][0];
    assert_eq!((&table["table"], &table["comment"]), (&"public.rk".into(), &"人口基本信息".into()));
    assert_eq!((&table["key"][0], &table["sampled"]), (&"编号".into(), &60.into()));
    let column = |name: &str| table["columns"].as_array().unwrap().iter().find(|column| column["name"] == name).unwrap().clone();
    let number = column("gmsfhm");
    assert_eq!((&number["comment"], &number["type"]), (&"公民身份号码".into(), &"character(18)".into()));
    assert_eq!((&number["checks"]["citizen_id"], &number["distinct"]), (&60.into(), &2.into()));
    assert_eq!(number["shapes"][0]["value"], "d18");
    assert_eq!(column("姓名")["checks"]["person_name"], 60);
    assert_eq!(column("xb")["values"][0]["rows"], 30);
    assert_eq!(column("mz")["lists"]["gbt3304_ethnic"]["by_code"], 60);

    // Marital status is sensitive, and nothing in the values shows it: the field that the column would be drafted to does.
    let marital = column("hyzk");
    assert_eq!((&marital["values"], &marital["withheld"]), (&Value::Null, &"probably personal (G3)".into()));

    let text = inspect(&exchange, &["--table", "rk"]);
    let saved = std::fs::read_to_string(exchange.path().join("profiles/licensing.json")).unwrap();
    for out in [&shown.out, &text.out, &saved] {
        for value in ["450102199001019997", "16000000001", "韦小明", "欧阳海"] {
            assert!(!out.contains(value), "{value} is shown: {out}");
        }
    }
    assert!(text.out.contains("about 60 rows") && text.out.contains("citizen_id 100 %"), "{}", text.out);
    let all = inspect(&exchange, &["--table", "rk", "--values"]);
    assert!(all.out.contains("450102199001019997") && all.out.contains("韦小明"), "{}", all.out);
    let saved = std::fs::read_to_string(exchange.path().join("profiles/licensing.json")).unwrap();
    assert!(!saved.contains("450102199001019997"), "what was asked for on the screen is not saved");
    assert_eq!(exchange.command(&["check", "--unset-secrets"]).unwrap().code, Some(0), "a profile is part of a directory");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_inspected_again_takes_its_place_and_the_rest_stays() {
    let (_server, department, exchange) = department().await;
    sqlx::raw_sql("CREATE TABLE qy (bh int PRIMARY KEY, zt text); GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
        .execute(&department)
        .await
        .unwrap();
    assert_eq!(inspect(&exchange, &["--table", "rk"]).code, Some(0));
    assert_eq!(inspect(&exchange, &[]).code, Some(0), "the tables that are tailed");
    let names = |profile: &Profile| profile.tables.iter().map(|table| table.table.clone()).collect::<Vec<_>>();
    let first = Profile::load(exchange.path(), "licensing").unwrap().unwrap();
    assert_eq!(names(&first), ["public.qy", "public.rk"]);
    sqlx::raw_sql("INSERT INTO qy VALUES (1, '存续'); CREATE TABLE closed (a int)").execute(&department).await.unwrap();
    let all = inspect(&exchange, &["--all"]);
    assert_eq!(all.code, Some(0), "{}", all.err);
    assert!(all.err.contains(r#"GRANT SELECT ON "public"."closed""#), "{}", all.err);
    let second = Profile::load(exchange.path(), "licensing").unwrap().unwrap();
    assert_eq!((names(&second), second.table("public.qy").unwrap().sampled), (names(&first), 1));
    assert_eq!(second.table("public.rk"), first.table("public.rk"), "the same rows give the same profile");
    let missing = inspect(&exchange, &["--table", "public.qyy"]);
    assert_eq!(missing.code, Some(2));
    assert!(missing.err.contains("there is no table public.qyy"), "{}", missing.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_rows_are_sampled_quickly_and_from_all_over_the_table() {
    let (_server, department, exchange) = department().await;
    sqlx::raw_sql(
        "CREATE TABLE qy AS SELECT n AS bh, CASE WHEN n > 500000 THEN '吊销' ELSE '存续' END AS zt, repeat('经', 20) AS jyfw \
         FROM generate_series(1, 1000000) n; GRANT SELECT ON qy TO reader",
    )
    .execute(&department)
    .await
    .unwrap();
    let begun = Instant::now();
    let shown = inspect(&exchange, &["--json"]);
    let took = begun.elapsed();
    assert_eq!(shown.code, Some(0), "{}", shown.err);
    let profile: Value = serde_json::from_str(&shown.out).unwrap();
    let table = &profile["tables"][0];
    assert_eq!(table["sampled"], 2000);
    let rows = table["rows"].as_u64().unwrap();
    assert!((500_000..2_000_000).contains(&rows), "{rows} rows estimated");
    assert_eq!(table["columns"][1]["distinct"], 2, "rows of both halves");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_table_is_described_with_the_comments_of_its_text() {
    let sink = "kind = \"sqlite\"\npath = \"sink.db\"\ntable = \"enterprise\"\n".to_owned();
    let source = "kind = \"sqlite\"\npath = \"department.db\"\n".to_owned();
    let exchange = Exchange::write(&Layout { source, schema: "main", log: String::new(), sink }).unwrap();
    let path = exchange.path().join("department.db");
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut database = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("CREATE TABLE qy ( -- 企业\n bh INTEGER PRIMARY KEY, -- 企业编号\n tyshxydm TEXT, -- 统一社会信用代码\n 状态 TEXT, bz BLOB)")
        .execute(&mut database)
        .await
        .unwrap();
    for number in 1..=9_u32 {
        let insert = sqlx::query("INSERT INTO qy VALUES (?, ?, '存续', x'00ff')").bind(number).bind(credit_code(number));
        insert.execute(&mut database).await.unwrap();
    }
    database.close().await.unwrap();
    let shown = inspect(&exchange, &["--json"]);
    assert_eq!(shown.code, Some(0), "{}", shown.err);
    let profile: Value = serde_json::from_str(&shown.out).unwrap();
    let table = &profile["tables"][0];
    assert_eq!((&table["table"], &table["comment"], &table["rows"]), (&"main.qy".into(), &"企业".into(), &9.into()));
    let code = &table["columns"][1];
    assert_eq!((&code["comment"], &code["checks"]["uscc"]), (&"统一社会信用代码".into(), &9.into()));
    assert_eq!(table["columns"][2]["values"][0]["value"], "存续");
}
