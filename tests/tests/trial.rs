//! `guitong resource try` and the examples that `guitong check` runs, on the quick start's mapping of companies.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use guitong_tests::exchange::{COMPANIES, Exchange, Layout, binary, credit_code};
use guitong_tests::servers::postgres::Postgres;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions};

/// An exchange whose department has no database yet.
fn exchange() -> Exchange {
    Exchange::write(&Layout {
        source: "kind = \"sqlite\"\npath = \"department.db\"\n".to_owned(),
        schema: "main",
        log: String::new(),
        sink: "kind = \"sqlite\"\npath = \"sink.db\"\ntable = \"enterprise\"\n".to_owned(),
    })
    .unwrap()
}

/// `guitong resource try enterprise` with these rows on standard input.
fn try_rows(exchange: &Exchange, rows: &[u8], more: &[&str]) -> Output {
    let mut child = Command::new(binary().unwrap())
        .args(["resource", "try", "enterprise", "--input", "-"])
        .args(more)
        .env("GUITONG_DIR", exchange.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its arguments reads nothing.
    let _ = child.stdin.take().unwrap().write_all(rows);
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn objects(output: &Output) -> Vec<Value> {
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn row(number: u32, code: &str, name: &str) -> String {
    json!({ "bh": number, "tyshxydm": code, "qymc": name, "fddbr": "韦小明" }).to_string()
}

fn write(exchange: &Exchange, file: &str, content: &str) {
    fs::write(exchange.path().join(file), content).unwrap();
}

#[test]
fn rows_of_a_file_need_no_database() {
    let exchange = exchange();
    let rows = [row(1, &credit_code(1), "广西甲有限公司"), row(2, "91450103PDY00004XX", "广西乙有限公司")].join("\n");
    let tried = try_rows(&exchange, rows.as_bytes(), &["--json"]);
    assert_eq!(tried.status.code(), Some(1), "{}", text(&tried.stderr));
    let [good, bad] = objects(&tried).try_into().unwrap();
    assert_eq!((&good["key"], &good["verdict"], &good["reasons"]), (&json!("bh=1"), &json!("ok"), &json!([])));
    assert_eq!(good["record"]["name"], "广西甲有限公司");
    assert_eq!(good["record"]["established"], "2017-09-22");
    assert_eq!(good["record"]["phone"], Value::Null);
    assert_eq!((&bad["verdict"], &bad["record"]), (&json!("rejected"), &Value::Null));
    let reason = &bad["reasons"][0];
    assert_eq!((&reason["level"], &reason["field"]), (&json!("error"), &json!("uscc")));
    assert!(reason["rule"].as_str().unwrap().starts_with("uscc."), "{reason}");
    assert!(!exchange.path().join("data").exists(), "nothing was published");

    let good = try_rows(&exchange, row(1, &credit_code(1), "广西甲有限公司").as_bytes(), &[]);
    assert_eq!(good.status.code(), Some(0));
    let shown = text(&good.stdout);
    assert!(shown.contains("1 row: 1 ok, 0 with warnings, 0 rejected. Nothing was published."), "{shown}");
    assert!(shown.contains("韦小明") && shown.contains("legal_rep_name"), "{shown}");
}

#[test]
fn a_line_that_is_no_row_is_told_with_its_number_and_the_rest_goes_on() {
    let exchange = exchange();
    let mut rows = row(1, &credit_code(1), "广西甲有限公司").into_bytes();
    // 南宁 in GB 18030.
    rows.extend(b"\n{\"bh\": 2, \"qymc\": \"\xC4\xCF\xC4\xFE\"}\n[1, 2]\nnot json\n");
    rows.extend(row(5, &credit_code(5), &"长".repeat(10 << 20)).into_bytes());
    rows.push(b'\n');
    rows.extend(row(6, &credit_code(6), "广西丙有限公司").into_bytes());
    let tried = try_rows(&exchange, &rows, &["--json"]);
    assert_eq!(tried.status.code(), Some(1), "{}", text(&tried.stderr));
    let rules: Vec<(u64, String)> = objects(&tried)
        .iter()
        .map(|object| {
            let rule = object["reasons"][0]["rule"].as_str().unwrap_or("none").to_owned();
            (object["line"].as_u64().unwrap(), rule)
        })
        .collect();
    let expected = [
        (1, "none"),
        (2, "input.encoding"),
        (3, "input.form"),
        (4, "input.form"),
        // 30 MB, which is more than the connector publishes of one value.
        (5, "row.too_large"),
        (6, "none"),
    ];
    assert_eq!(rules, expected.map(|(line, rule)| (line, rule.to_owned())));
}

#[test]
fn wrong_use_is_told_before_anything_runs() {
    let exchange = exchange();
    let misspelt =
        try_rows(&exchange, json!({ "bh": 1, "tyshxydm": "x", "qymc": "x", "fddbrr": "x" }).to_string().as_bytes(), &[]);
    assert_eq!(misspelt.status.code(), Some(2));
    let message = text(&misspelt.stderr);
    assert!(message.contains("`fddbr`, which no row has") && message.contains("fddbrr"), "{message}");
    for (arguments, part) in [
        (["resource", "try", "enterprize"], "resources are: enterprise"),
        (["resource", "try", "enterprise"], "no database file"),
    ] {
        let answer = exchange.command(&arguments).unwrap();
        assert_eq!(answer.code, Some(2), "{arguments:?}");
        assert!(answer.err.contains(part), "{}", answer.err);
    }
    let both = exchange.command(&["resource", "try", "enterprise", "--limit", "3", "--input", "-"]).unwrap();
    assert_eq!(both.code, Some(2));
}

#[tokio::test]
async fn rows_of_the_departments_table_are_read_and_nothing_is_written_there() {
    let exchange = exchange();
    let path = exchange.path().join("department.db");
    fill(&path).await;
    let before = fs::read(&path).unwrap();
    let tried = exchange.command(&["resource", "try", "enterprise", "--limit", "2", "--json"]).unwrap();
    assert_eq!(tried.code, Some(0), "{}", tried.err);
    let keys: Vec<Value> = tried.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["key"].clone()).collect();
    assert_eq!(keys, ["bh=1", "bh=2"]);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn rows_of_a_postgres_table_need_no_slot_and_no_more_than_the_right_to_read() {
    let postgres = Postgres::start().await.unwrap();
    postgres.create_role("reader", "").await.unwrap();
    let rows: Vec<String> =
        (1..=3).map(|n| format!("INSERT INTO qy VALUES ({n}, '{}', '公司{n}', '韦小明');", credit_code(n))).collect();
    postgres.execute(&format!("{COMPANIES};{}", rows.join(""))).await.unwrap();
    let exchange = Exchange::write(&Layout {
        source: format!("kind = \"postgres\"\nurl = \"{}\"\n", postgres.url("reader")),
        schema: "public",
        log: String::new(),
        sink: "kind = \"sqlite\"\npath = \"sink.db\"\ntable = \"enterprise\"\n".to_owned(),
    })
    .unwrap();
    let command = ["resource", "try", "enterprise", "--limit", "2", "--json"];
    let refused = exchange.command(&command).unwrap();
    assert_eq!(refused.code, Some(2), "{}", refused.out);
    assert!(refused.err.contains("may not read public.qy") && refused.err.contains("GRANT SELECT"), "{}", refused.err);

    postgres.execute("GRANT USAGE ON SCHEMA public TO reader; GRANT SELECT ON qy TO reader").await.unwrap();
    let tried = exchange.command(&command).unwrap();
    assert_eq!(tried.code, Some(0), "{}", tried.err);
    let names: Vec<(Value, Value)> = tried
        .out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|outcome| (outcome["key"].clone(), outcome["record"]["name"].clone()))
        .collect();
    assert_eq!(names, [(json!("bh=1"), json!("公司1")), (json!("bh=2"), json!("公司2"))]);
}

async fn fill(path: &Path) {
    let mut department = SqliteConnectOptions::new().filename(path).create_if_missing(true).connect().await.unwrap();
    let rows: Vec<String> =
        (1..=3).map(|n| format!("INSERT INTO qy VALUES ({n}, '{}', '公司{n}', '韦小明');", credit_code(n))).collect();
    sqlx::raw_sql(AssertSqlSafe(format!("{COMPANIES};{}", rows.join("")))).execute(&mut department).await.unwrap();
}

#[test]
fn check_runs_examples_and_tells_each_difference_with_its_line() {
    let exchange = exchange();
    let dir = exchange.path().to_str().unwrap().to_owned();
    let tried = try_rows(&exchange, row(1, &credit_code(1), "广西甲(集团)有限公司").as_bytes(), &["--json"]);
    let whole: Value = objects(&tried).remove(0);
    let given: Value = serde_json::from_str(&row(1, &credit_code(1), "广西甲(集团)有限公司")).unwrap();
    let examples = "resources/enterprise.examples.jsonl";

    // What `try` printed is what is expected.
    write(&exchange, examples, &format!("{}\n", json!({ "row": given, "expect": whole })));
    let checked = exchange.command(&["check", &dir]).unwrap();
    assert_eq!(checked.code, Some(0), "{}", checked.err);

    let company = |n| serde_json::from_str::<Value>(&row(n, &credit_code(n), "广西甲(集团)有限公司")).unwrap();
    let lines = [
        json!({ "row": company(1), "expect": { "partial": true, "record": { "name": "广西甲(集团)有限公司" } } }),
        json!({ "row": company(2), "expect": { "verdict": "rejected", "reasons": [{ "field": "uscc", "rule": "uscc.length" }] } }),
        json!({ "row": company(3), "expect": { "record": { "name": "广西甲（集团）有限公司" } } }),
        json!({ "row": company(4), "expects": {} }),
    ];
    write(&exchange, examples, &lines.map(|line| line.to_string()).join("\n"));
    let checked = exchange.command(&["check", &dir]).unwrap();
    assert_eq!(checked.code, Some(1));
    for part in [
        "name: expected \"广西甲(集团)有限公司\", got \"广西甲（集团）有限公司\"\n  --> resources/enterprise.examples.jsonl:1:1",
        "error[example]: verdict: expected rejected, got ok\n  --> resources/enterprise.examples.jsonl:2:1",
        "reasons: expected uscc:uscc.length",
        "uscc: expected null, got",
        "resources/enterprise.examples.jsonl:3:1",
        "resources/enterprise.examples.jsonl:4:1",
        "0 resources",
    ] {
        assert!(checked.err.contains(part), "{part}\n{}", checked.err);
    }
    let json = exchange.command(&["check", &dir, "--json"]).unwrap();
    let json: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((&json["errors"][0]["code"], &json["errors"][0]["line"]), (&json!("example"), &json!(1)));
}
