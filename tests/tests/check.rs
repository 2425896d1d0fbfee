//! `guitong check` after `guitong system inspect`: what is known of a department's real tables is held against the mappings.

use guitong_tests::exchange::{Exchange, Layout, credit_code};
use guitong_tests::servers::postgres::{ADMIN, PASSWORD, Postgres};
use serde_json::{Value, json};

const TABLE: &str = "CREATE TABLE qy (bh bigint PRIMARY KEY, tyshxydm char(18), qymc varchar(500), fddbr text, clrq timestamp, djzt text, \
                     zczb float8, rs numeric(8,1), gxsj timestamptz); GRANT SELECT ON qy TO reader";

async fn department() -> (Postgres, Exchange) {
    let server = Postgres::start().await.unwrap();
    server.create_database("department").await.unwrap();
    server.create_role("reader", "").await.unwrap();
    let department = server.admin_of("department").await.unwrap();
    sqlx::raw_sql(TABLE).execute(&department).await.unwrap();
    for number in 1..=40_u32 {
        let state = ["存续", "吊销", "吊销未注销"][number as usize % 3];
        let insert = "INSERT INTO qy VALUES ($1, $2, '测试有限公司', '测甲', '2017-09-22 08:30:00', $3, 500.5, 12.5, now())";
        let insert = sqlx::query(insert).bind(i64::from(number)).bind(credit_code(number)).bind(state);
        insert.execute(&department).await.unwrap();
    }
    let source = format!("kind = \"postgres\"\nurl = \"{}\"\n", server.url_of("reader", PASSWORD, "department"));
    let sink = format!("kind = \"postgres\"\nurl = \"{}\"\ntable = \"public.e\"\n", server.url_of(ADMIN, PASSWORD, "department"));
    (server, Exchange::write(&Layout { source, schema: "public", log: String::new(), sink }).unwrap())
}

fn change(exchange: &Exchange, changes: &[(&str, &str)]) {
    let path = exchange.path().join("resources/enterprise.toml");
    let mut text = std::fs::read_to_string(&path).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    std::fs::write(path, text).unwrap();
}

/// Kind, code, line and column of each problem.
fn places(list: &Value) -> Vec<(String, u64, u64)> {
    let place = |problem: &Value| {
        (problem["code"].as_str().unwrap().to_owned(), problem["line"].as_u64().unwrap(), problem["column"].as_u64().unwrap())
    };
    list.as_array().unwrap().iter().map(place).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_is_held_against_the_table_that_was_inspected() {
    let (_server, exchange) = department().await;
    let established = "established = { const = \"2017-09-22\" }";
    let status = "status = { const = \"1\" }";
    change(
        &exchange,
        &[
            ("name = \"qymc\"", "name = \"qymcc\""),
            (established, "established = \"clrq\""),
            (
                status,
                "status = { from = \"djzt\", codes = { \"存续\" = \"1\", \"吊销\" = \"3\" } }\nemployees = \"rs\"\nreg_capital = { from = \"zczb\", unit = \"元\" }",
            ),
        ],
    );
    let blind = exchange.command(&["check"]).unwrap();
    assert_eq!(blind.code, Some(0), "{}", blind.err);
    let hint = "public.qy was not looked at, so its columns, types and codes are not checked; `guitong system inspect licensing` looks\n";
    assert_eq!(blind.err, hint);
    let blind: Value = serde_json::from_str(&exchange.command(&["check", "--json"]).unwrap().out).unwrap();
    assert_eq!(blind["unseen"], json!([{ "system": "licensing", "table": "public.qy" }]));

    assert_eq!(exchange.command(&["system", "inspect", "licensing"]).unwrap().code, Some(0));
    let seen = exchange.command(&["check"]).unwrap();
    assert_eq!(seen.code, Some(1), "{}", seen.err);
    for words in [
        "error[unknown-column]: table public.qy has no column `qymcc`\n   --> resources/enterprise.toml:10:8",
        "did you mean `qymc`? `guitong system inspect licensing` looks again",
        "`clrq` holds a time of day in 40 of 40 sampled rows\n   --> resources/enterprise.toml:12:15",
        "\"吊销未注销\" in 13 of 40 sampled rows; give it a code, or say what becomes of others with `other`",
        "`rs` (numeric(8,1)) holds fractions in 40 of 40 sampled rows",
        "4 errors in 1 file and 1 warning; 2 departments, 1 system, 0 resources and 1 subscription are well.",
    ] {
        assert!(seen.err.contains(words), "{words}\n{}", seen.err);
    }
    let seen: Value = serde_json::from_str(&exchange.command(&["check", "--json"]).unwrap().out).unwrap();
    let expected = [("unknown-column", 10, 8), ("lossy", 12, 15), ("not-covered", 13, 35), ("lossy", 14, 13)];
    assert_eq!(places(&seen["errors"]), expected.map(|(code, line, column)| (code.to_owned(), line, column)));
    assert_eq!(places(&seen["warnings"]), [("lossy".to_owned(), 15, 24)]);

    // What the file settles is well; what it cannot settle is a warning, and refuses nothing.
    change(
        &exchange,
        &[
            ("\"qymcc\"", "\"qymc\""),
            ("\"clrq\"", "{ from = \"clrq\", format = \"yyyy-MM-dd HH:mm:ss\" }"),
            ("\"吊销\" = \"3\" }", "\"吊销\" = \"3\" }, other = \"9\""),
            ("employees = \"rs\"", "employees = { cel = \"int(double(row.rs))\" }"),
        ],
    );
    let settled = exchange.command(&["check"]).unwrap();
    assert_eq!(settled.code, Some(0), "{}", settled.err);
    let warnings: Vec<&str> = settled.err.lines().filter(|line| line.starts_with("warning[lossy]")).collect();
    let [long, float] = warnings[..] else { panic!("{}", settled.err) };
    assert!(long.contains("`name` (机构名称) takes 200 characters, and `qymc` is declared for 500"), "{long}");
    assert!(float.contains("`zczb` (double precision) holds about 15 digits"), "{float}");
    assert!(settled.out.contains("There are 2 warnings. Nothing was started."), "{}", settled.out);
    let tried = exchange.command(&["resource", "try", "enterprise", "--limit", "1", "--json"]).unwrap();
    let tried: Value = serde_json::from_str(tried.out.lines().next().unwrap()).unwrap();
    let record = &tried["record"];
    assert_eq!(
        (&record["established"], &record["employees"]),
        (&"2017-09-22".into(), &12.into()),
        "as it was asked for: {tried}"
    );
}
