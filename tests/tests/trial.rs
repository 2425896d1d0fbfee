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
    try_rows_of(exchange, "enterprise", rows, more)
}

fn try_rows_of(exchange: &Exchange, resource: &str, rows: &[u8], more: &[&str]) -> Output {
    let mut child = Command::new(binary().unwrap())
        .args(["resource", "try", resource, "--input", "-"])
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

/// A department's values go to a terminal: what would steer it, or is not seen there, is written as its code point.
#[test]
fn what_is_not_seen_in_a_value_is_written_out() {
    let exchange = exchange();
    let rows = [row(1, &credit_code(1), "广西\u{1b}[2J甲\u{202e}公司"), row(2, &credit_code(2), "广西乙\u{200b}公司")].join("\n");
    let tried = try_rows(&exchange, rows.as_bytes(), &["--values"]);
    assert_eq!(tried.status.code(), Some(1), "{}", text(&tried.stderr));
    let shown = text(&tried.stdout);
    assert!(!shown.contains(['\u{1b}', '\u{202e}', '\u{200b}']), "{shown:?}");
    for part in ["广西\\u{1b}[2J甲\\u{202e}公司", "[广西乙\\u{200b}公司]"] {
        assert!(shown.contains(part), "{part}\n{shown}");
    }
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
        "beside `row` stand `table`, `at` (RFC 3339) and `expect`",
        "resources/enterprise.examples.jsonl:4:1",
        "0 resources",
    ] {
        assert!(checked.err.contains(part), "{part}\n{}", checked.err);
    }
    let json = exchange.command(&["check", &dir, "--json"]).unwrap();
    let json: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((&json["errors"][0]["code"], &json["errors"][0]["line"]), (&json!("example"), &json!(1)));

    // Expectations may be written by hand: they are replaced for who says so.
    let refused = try_rows(&exchange, row(1, &credit_code(1), "广西甲(集团)有限公司").as_bytes(), &["--save"]);
    assert!(refused.status.code() == Some(2) && text(&refused.stderr).contains("say --yes to replace it"), "{refused:?}");
    assert!(fs::read_to_string(exchange.path().join(examples)).unwrap().contains("expects"), "nothing was written");
    let saved = try_rows(&exchange, row(1, &credit_code(1), "广西甲(集团)有限公司").as_bytes(), &["--save", "--yes"]);
    assert_eq!(saved.status.code(), Some(0), "{}", text(&saved.stderr));
    assert_eq!(exchange.command(&["check", &dir]).unwrap().code, Some(0));
}

/// Cases with their steps in a table beside them, and the same steps as rows of a resource that folds them to cases.
const CASES: &str = r#"
code = "3450010102/000002"
title = "政务服务办件"
system = "licensing"
table = "SCHEMA.bj"
entity = "ServiceCase"
sharing = { type = 2, condition = "协同办理所需" }

[lookups.staff]
table = "SCHEMA.ry"
key = "gh"

[lookups.office]
table = "SCHEMA.ks"
key = "ksh"
from = "steps_of.ks"

[joins.steps_of]
table = "SCHEMA.ry"
key = "gh"
from = "jbr"

[details.steps]
table = "SCHEMA.hj"
key = "bjh"
order_by = "xh"

[map]
case_no = "bjh"
item_name = "sx"
agent_name = { from = "jbr", lookup = "staff", value = "xm" }
dept_name = "office.mc"
steps = { details = "steps", item = { name = "hj", started = "sj" } }
accepted_at = { details = "steps", of = "first", from = "sj" }
CONSTANT
"#;

const FOLDED: &str = r#"
code = "3450010102/000003"
title = "政务服务办件（按环节）"
system = "licensing"
table = "SCHEMA.hj"
entity = "ServiceCase"
sharing = { type = 2, condition = "协同办理所需" }

[group]
by = "bjh"
order_by = "xh"

[map]
case_no = "bjh"
item_name = { from = "hj", of = "last" }
dept_name = { const = "示例局" }
steps = { details = "group", item = { name = "hj", started = "sj" } }
accepted_at = { from = "sj", of = "first" }
CONSTANT
"#;

const CONSTANT: &str = r#"
item_basic_code = { const = "000101001000" }
item_impl_code = { const = "11450000PDY00001X04000101001000" }
division = { const = "450100" }
dept_uscc = { const = "11450000PDY00001X0" }
applicant_kind = { const = "1" }
applicant_name = { const = "张示例" }
applicant_doc_type = { const = "111" }
applicant_doc_no = { const = "450102199001019997" }
received_at = { const = "2017-09-22 08:00:00" }
accept_result = { const = "0" }
status = { const = "50" }
"#;

const TABLES: &str = "CREATE TABLE bj (id bigint PRIMARY KEY, bjh varchar(20), sx varchar(40), jbr bigint);
    CREATE TABLE hj (id bigint PRIMARY KEY, bjh varchar(20), xh bigint, hj varchar(40), sj varchar(40));
    CREATE TABLE ry (id bigint PRIMARY KEY, gh varchar(10), xm varchar(40), ks varchar(10));
    CREATE TABLE ks (id bigint PRIMARY KEY, ksh varchar(10), mc varchar(40));
    INSERT INTO bj VALUES (1, '甲', '开户', 7), (2, '乙', '变更', 8);
    INSERT INTO hj VALUES (1, '甲', 2, '审核', '2017-09-22 09:00:00'), (2, '乙', 1, '收件', '2017-09-23 08:00:00'),
        (3, '甲', 1, '收件', '2017-09-22 08:30:00'), (4, '丙', 1, '收件', '2017-09-22 08:30:00');
    INSERT INTO ry VALUES (1, '7', '李示例', 'A'), (2, '8', '覃示例', 'B'), (3, '9', '无关', 'C');
    INSERT INTO ks VALUES (1, 'A', '一科'), (2, 'B', '二科'), (3, 'C', '三科');";

/// An exchange with the resources `case` and `folded`.
fn office(source: &str, schema: &'static str) -> Exchange {
    let exchange = Exchange::write(&Layout {
        source: source.to_owned(),
        schema,
        log: String::new(),
        sink: "kind = \"sqlite\"\npath = \"sink.db\"\ntable = \"enterprise\"\n".to_owned(),
    })
    .unwrap();
    let system = fs::read_to_string(exchange.path().join("systems/licensing.toml")).unwrap();
    write(&exchange, "systems/licensing.toml", &system.replace(&format!("{schema}.qy"), &format!("{schema}.*")));
    for (name, text) in [("case", CASES), ("folded", FOLDED)] {
        let text = text.replace("SCHEMA", schema).replace("CONSTANT", CONSTANT);
        write(&exchange, &format!("resources/{name}.toml"), &text);
    }
    exchange
}

fn steps(record: &Value) -> Vec<&str> {
    record["steps"].as_array().unwrap().iter().map(|step| step["name"].as_str().unwrap()).collect()
}

#[test]
fn rows_of_tables_beside_the_resources_own_say_so_in_a_file() {
    let exchange = office("kind = \"sqlite\"\npath = \"department.db\"\n", "main");
    let rows = [
        json!({ "id": 1, "bjh": "甲", "sx": "开户", "jbr": 7 }),
        json!({ "table": "main.hj", "row": { "id": 1, "bjh": "甲", "xh": 2, "hj": "审核", "sj": "2017-09-22 09:00:00" } }),
        json!({ "table": "ry", "row": { "id": 1, "gh": "7", "xm": "李示例", "ks": "A" } }),
        json!({ "table": "hj", "row": { "id": 2, "bjh": "甲", "xh": 1, "hj": "收件", "sj": "2017-09-22 08:30:00" } }),
        json!({ "table": "ks", "row": { "id": 1, "ksh": "A", "mc": "一科" } }),
        json!({ "table": "main.bj", "row": { "id": 2, "bjh": "乙", "sx": "变更", "jbr": 8 } }),
    ];
    let rows = rows.map(|row| row.to_string()).join("\n");
    let tried = try_rows_of(&exchange, "case", rows.as_bytes(), &["--json"]);
    assert_eq!(tried.status.code(), Some(1), "{}", text(&tried.stderr));
    let [good, bad] = objects(&tried).try_into().unwrap();
    assert_eq!((&good["key"], &good["verdict"], &good["line"]), (&json!("id=1"), &json!("ok"), &json!(1)), "{good}");
    assert_eq!((&good["record"]["agent_name"], &good["record"]["dept_name"]), (&json!("李示例"), &json!("一科")));
    assert_eq!(
        (steps(&good["record"]), &good["record"]["accepted_at"]),
        (vec!["收件", "审核"], &json!("2017-09-22T08:30:00+08:00"))
    );
    assert_eq!((&bad["line"], &bad["reasons"][0]["field"]), (&json!(6), &json!("dept_name")), "{bad}");

    // Saved, they are examples with which the directory's check finds what became otherwise.
    let saved = try_rows_of(&exchange, "case", rows.as_bytes(), &["--save"]);
    assert_eq!(saved.status.code(), Some(1), "{}", text(&saved.stderr));
    let dir = exchange.path().to_str().unwrap().to_owned();
    let checked = exchange.command(&["check", &dir]).unwrap();
    assert_eq!(checked.code, Some(0), "{}", checked.err);
    let examples = fs::read_to_string(exchange.path().join("resources/case.examples.jsonl")).unwrap();
    write(&exchange, "resources/case.examples.jsonl", &examples.replace("一科", "三科").replacen("三科", "一科", 1));
    let checked = exchange.command(&["check", &dir]).unwrap();
    assert!(checked.code == Some(1) && checked.err.contains("dept_name: expected \"一科\", got \"三科\""), "{}", checked.err);

    for (row, part) in [
        (
            json!({ "table": "qy", "row": { "id": 1 } }),
            "line 1: the mapping of case reads no table `qy`\n  it reads main.bj, main.",
        ),
        (json!({ "table": "ry", "row": { "gh": "7", "xm": "x" } }), "reads `ks`, which no row of main.ry has"),
        (json!({ "table": "ry", "row": { "gh": "7", "xm": "x", "ks": "A" }, "expect": {} }), "makes no record by itself"),
    ] {
        let refused = try_rows_of(&exchange, "case", row.to_string().as_bytes(), &[]);
        let told = text(&refused.stderr);
        assert!(refused.status.code() == Some(2) && told.replace("help: ", "").contains(part), "{part}: {told}");
    }
}

#[test]
fn rows_that_make_one_record_are_told_with_it() {
    let exchange = office("kind = \"sqlite\"\npath = \"department.db\"\n", "main");
    let row = |id: u32, case: Option<&str>, number: u32, name: &str| {
        json!({ "id": id, "bjh": case, "xh": number, "hj": name, "sj": "2017-09-22 08:30:00" }).to_string()
    };
    let rows = [
        row(1, Some("甲"), 2, "审核"),
        row(2, Some("乙"), 1, "收件"),
        row(3, Some("甲"), 1, "收件"),
        row(4, None, 1, "收件"),
        row(5, Some("丙"), 1, "无"),
    ];
    let tried = try_rows_of(&exchange, "folded", rows.join("\n").as_bytes(), &["--json", "--save"]);
    assert_eq!(tried.status.code(), Some(1), "{}", text(&tried.stderr));
    let [first, other, last, lost, bad] = objects(&tried).try_into().unwrap();
    assert_eq!((&first["verdict"], &first["record"], &first["told_with"]), (&json!("ok"), &Value::Null, &json!("id=3")));
    assert_eq!(
        (steps(&last["record"]), &last["record"]["item_name"], &last["told_with"]),
        (vec!["收件", "审核"], &json!("审核"), &Value::Null)
    );
    assert_eq!((steps(&other["record"]), &other["record"]["case_no"]), (vec!["收件"], &json!("乙")));
    assert_eq!((&lost["verdict"], &lost["reasons"][0]["rule"]), (&json!("rejected"), &json!("row.group")));
    assert_eq!((&bad["verdict"], &bad["reasons"][0]["field"]), (&json!("rejected"), &json!("item_name")));
    let dir = exchange.path().to_str().unwrap().to_owned();
    let checked = exchange.command(&["check", &dir]).unwrap();
    assert_eq!(checked.code, Some(0), "{}", checked.err);
    let shown = text(&try_rows_of(&exchange, "folded", rows[..3].join("\n").as_bytes(), &[]).stdout);
    assert!(shown.contains("shown with the last of the rows") && shown.contains("3 rows: 3 ok"), "{shown}");
}

/// What the department's tables hold of the first case, and of the first step's.
fn tries_the_departments_tables(exchange: &Exchange) {
    let try_first = |resource: &str| {
        let tried = exchange.command(&["resource", "try", resource, "--limit", "1", "--json"]).unwrap();
        assert_eq!(tried.code, Some(0), "{resource}: {}{}", tried.err, tried.out);
        tried.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    let [case] = try_first("case").try_into().unwrap();
    assert_eq!((&case["record"]["agent_name"], &case["record"]["dept_name"]), (&json!("李示例"), &json!("一科")));
    assert_eq!(steps(&case["record"]), ["收件", "审核"]);
    // The other step of the same case comes with the first.
    let [first, last] = try_first("folded").try_into().unwrap();
    assert_eq!((&first["told_with"], &first["record"]), (&json!("id=3"), &Value::Null));
    assert_eq!(steps(&last["record"]), ["收件", "审核"]);
}

#[tokio::test]
async fn what_belongs_to_the_first_rows_is_read_from_the_tables_beside_them() {
    let exchange = office("kind = \"sqlite\"\npath = \"department.db\"\n", "main");
    let path = exchange.path().join("department.db");
    let mut department = SqliteConnectOptions::new().filename(&path).create_if_missing(true).connect().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(TABLES)).execute(&mut department).await.unwrap();
    tries_the_departments_tables(&exchange);

    let postgres = Postgres::start().await.unwrap();
    postgres.execute(TABLES).await.unwrap();
    let exchange = office(&format!("kind = \"postgres\"\nurl = \"{}\"\n", postgres.url("postgres")), "public");
    tries_the_departments_tables(&exchange);
}
