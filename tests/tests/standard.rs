//! The regional standard as an operator meets it: the README's own seventh entity from files alone to a subscriber's table, the files' mistakes
//! while a node runs, and the commands that show and try the standard.

use std::path::Path;
use std::time::{Duration, Instant};

use guitong_tests::exchange::{Answer, Exchange, Layout};
use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Row};

const PATIENCE: Duration = Duration::from_secs(30);

/// A department of civil affairs, as it is.
const ASSISTANCE: &str =
    "CREATE TABLE jzxx (id INTEGER PRIMARY KEY, jzzh varchar(30), xm varchar(100), sfzh varchar(18), jzlb varchar(40),
    xzqh varchar(6), pzrq varchar(20));
    INSERT INTO jzxx VALUES (1, '45010320260001', '韦小明', '450881200807049975', '最低生活保障', '450103', '2026年3月1日');
    INSERT INTO jzxx VALUES (2, '45010320100002', '覃丽', NULL, '03', '450127', '20100701');
    INSERT INTO jzxx VALUES (3, '45010320260003', '欧阳海燕', NULL, '医疗', '450103', '2026-03-01');";

const RESOURCE: &str = r#"code = "3450010103/000001"
title = "社会救助对象信息"
system = "licensing"
table = "main.jzxx"
entity = "SocialAssistance"
sharing = { type = 2, condition = "履行救助职责所需" }

[map]
certificate_no = "jzzh"
holder = "xm"
citizen_id = "sfzh"
assistance = "jzlb"
division = "xzqh"
granted = "pzrq"
"#;

const SUBSCRIPTION: &str = r#"subscriber = "credit"
resource = "3450010103/000001"
purpose = "救助资格核验"
approval = { number = "桂数共〔2026〕1号", from = 2026-01-01, until = 2099-12-31 }
fields = ["certificate_no", "holder", "assistance", "division", "granted"]

[sink]
kind = "sqlite"
path = "sink.db"
table = "assistance"
"#;

/// The files of the README's section: each block behind a line that is a path.
fn readme_files() -> Vec<(String, String)> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let mut parts = readme.split("```");
    let mut files = Vec::new();
    while let (Some(text), Some(block)) = (parts.next(), parts.next()) {
        let last = text.trim_end().lines().last().unwrap_or_default();
        if let Some(path) =
            last.strip_prefix('`').and_then(|path| path.strip_suffix("`:")).filter(|path| path.starts_with("standard/"))
        {
            files.push((path.to_owned(), block.split_once('\n').unwrap().1.to_owned()));
        }
    }
    files
}

fn exchange(files: &[(&str, &str)]) -> Exchange {
    let exchange = Exchange::write(&Layout {
        source: "kind = \"sqlite\"\npath = \"department.db\"\n".to_owned(),
        schema: "main",
        log: String::new(),
        sink: "kind = \"sqlite\"\npath = \"sink.db\"\ntable = \"enterprise\"\n".to_owned(),
    })
    .unwrap();
    std::fs::create_dir(exchange.path().join("standard")).unwrap();
    for (path, text) in files {
        std::fs::write(exchange.path().join(path), text).unwrap();
    }
    exchange
}

async fn open(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).create_if_missing(true).busy_timeout(PATIENCE).connect().await.unwrap()
}

/// What the subscriber holds, once it holds so many rows.
async fn delivered(exchange: &Exchange, rows: usize) -> Vec<Vec<String>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let options = SqliteConnectOptions::new().filename(exchange.path().join("sink.db")).read_only(true);
        if let Ok(mut sink) = options.connect().await
            && let Ok(found) = sqlx::query(
                "SELECT certificate_no, holder, assistance, division, granted FROM assistance ORDER BY certificate_no",
            )
            .fetch_all(&mut sink)
            .await
            && found.len() >= rows
        {
            return found.iter().map(|row| (0..5).map(|at| row.get::<String, _>(at)).collect()).collect();
        }
        assert!(Instant::now() < deadline, "{:#}", exchange.status(PATIENCE).await.unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
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

fn ok(answer: Answer) -> String {
    assert_eq!(answer.code, Some(0), "{}{}", answer.out, answer.err);
    answer.out
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entity_and_its_codes_are_files_from_a_department_to_its_subscriber() {
    let files = readme_files();
    assert_eq!(files.len(), 3, "{files:?}");
    let mut written: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let system =
        "title = \"民政\"\ndepartment = \"registry\"\ntables = [\"main.jzxx\"]\nkind = \"sqlite\"\npath = \"department.db\"\n";
    written.extend([
        ("systems/licensing.toml", system),
        ("resources/assistance.toml", RESOURCE),
        ("subscriptions/credit-assistance.toml", SUBSCRIPTION),
    ]);
    let exchange = exchange(&written);
    for file in ["resources/enterprise.toml", "subscriptions/credit-enterprise.toml"] {
        std::fs::remove_file(exchange.path().join(file)).unwrap();
    }
    let mut department = open(&exchange.path().join("department.db")).await;
    let script = format!("PRAGMA journal_mode = WAL; {ASSISTANCE}");
    sqlx::raw_sql(AssertSqlSafe(script)).execute(&mut department).await.unwrap();
    ok(exchange.command(&["check"]).unwrap());
    ok(exchange.command(&["system", "prepare", "licensing", "--apply"]).unwrap());
    let node = exchange.start().unwrap();

    let rows = delivered(&exchange, 2).await;
    let expected = [
        // A retired code and a retired division are what took their places; the name has the mask of its grade.
        ["45010320100002", "覃*", "02", "450181", "2010-07-01"],
        ["45010320260001", "韦**", "01", "450103", "2026-03-01"],
    ];
    assert_eq!(rows, expected);
    let status = status_where(&exchange, |status| status["resources"][0]["quarantined"] == 1).await;
    assert_eq!(status["resources"][0]["name"], "assistance", "{status:#}");

    // The list that lacks a code is put right while the exchange runs, and the row is let in.
    let table = exchange.path().join("standard/assistance_kinds.csv");
    let codes = std::fs::read_to_string(&table).unwrap();
    std::fs::write(&table, format!("{codes}05,医疗,medical assistance,,,\n")).unwrap();
    status_where(&exchange, |now| now["revision"] != status["revision"]).await;
    ok(exchange.command(&["quarantine", "replay", "assistance"]).unwrap());
    assert_eq!(delivered(&exchange, 3).await[2], ["45010320260003", "欧阳**", "05", "450103", "2026-03-01"]);

    // What would not go with the records that are written is refused, and the standard in force stays.
    let schema = exchange.path().join("standard/SocialAssistance.avsc");
    let text = std::fs::read_to_string(&schema).unwrap();
    let changed = text.replace(
        r#"["null", {"type": "int", "logicalType": "date"}], "default": null, "title": "停发日期""#,
        r#"["null", "string"], "default": null, "title": "停发日期""#,
    );
    let changed = changed
        .replace(r#""doc": "Last day.", "kind": "date""#, r#""doc": "Last day.", "kind": "text:20""#)
        .replace(r#", "fields": ["granted", "ended"]"#, r#", "fields": ["granted", "granted"]"#);
    assert_ne!(changed, text);
    std::fs::write(&schema, changed).unwrap();
    let refused = status_where(&exchange, |status| !status["refused_change"].is_null()).await;
    assert!(
        refused["refused_change"].as_str().unwrap().contains("entity SocialAssistance does not go with the one in force"),
        "{refused:#}"
    );
    // A start finds none in force: the resource alone stops, and says why.
    assert_eq!(node.terminate().unwrap().0, Some(0));
    let _node = exchange.start().unwrap();
    let stopped = status_where(&exchange, |status| !status["resources"][0]["problem"].is_null()).await;
    assert_eq!(stopped["resources"][0]["state"], "stopped", "{stopped:#}");
    let why = stopped["resources"][0]["problem"].as_str().unwrap();
    assert!(why.contains("subject std.assistance-value: the schema is not compatible with an earlier version"), "{why}");
    let live = status_where(&exchange, |status| status["systems"][0]["state"] == "streaming").await;
    assert!(live["systems"][0]["problem"].is_null(), "{live:#}");
    assert_eq!(delivered(&exchange, 3).await.len(), 3, "what was delivered stays");
}

#[test]
fn the_standard_is_listed_and_shown_in_both_languages() {
    let files = readme_files();
    let written: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let exchange = exchange(&written);
    let json = |arguments: &[&str]| -> Value { serde_json::from_str(&ok(exchange.command(arguments).unwrap())).unwrap() };

    let list = json(&["standard", "list", "--json"]);
    let named = |of: &str, name: &str| {
        let found = list[of].as_array().unwrap().iter().find(|it| it["name"] == name).cloned();
        found.unwrap_or_else(|| panic!("no {name} in {list:#}"))
    };
    assert_eq!(list["entities"].as_array().unwrap().len(), 7);
    assert_eq!(named("entities", "SocialAssistance")["built_in"], false);
    assert_eq!(named("entities", "LegalEntity")["title_zh"], "法人");
    let kinds = named("tables", "assistance_kinds");
    assert_eq!((&kinds["codes"], &kinds["retired"], &kinds["built_in"]), (&4.into(), &1.into(), &false.into()));
    assert_eq!(named("tables", "gbt2261_1_sex")["version"], "GB/T 2261.1-2003");
    assert!(list["version"].as_str().unwrap().starts_with("2026.1+"), "{list:#}");

    let entity = json(&["standard", "show", "SocialAssistance", "--json"]);
    assert_eq!((&entity["version"], &entity["key"][0]), (&1.into(), &"certificate_no".into()));
    assert_eq!(entity["fields"][3]["kind"], "code:assistance_kinds");
    assert_eq!(entity["rules"][0]["rule"], "order");
    let shown = ok(exchange.command(&["standard", "show", "SocialAssistance"]).unwrap());
    for text in ["社会救助", "Social assistance granted to a person.", "G3", "order(granted, ended)"] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    let table = ok(exchange.command(&["standard", "show", "assistance_kinds"]).unwrap());
    assert!(table.lines().any(|line| line.starts_with("03") && line.ends_with("–2016-02-16  → 02")), "{table}");
    let rule = json(&["standard", "show", "uscc.check_digit", "--json"]);
    assert_eq!(rule["zh"], "统一社会信用代码校验码不符");
    let rules = json(&["standard", "list", "--rules", "--json"]);
    assert!(rules.as_array().unwrap().len() > 90 && rules.as_array().unwrap().contains(&rule), "{rules:#}");

    for (title, name) in [("社会救助", "SocialAssistance"), ("性别", "gbt2261_1_sex")] {
        let shown = |called| ok(exchange.command(&["standard", "show", called]).unwrap());
        assert_eq!(shown(title), shown(name), "what people call it by is a name as well");
    }
    let check = ok(exchange.command(&["standard", "show", "uscc"]).unwrap());
    assert!(check.contains("统一社会信用代码") && check.contains("guitong standard check uscc VALUE"), "{check}");

    let unknown = exchange.command(&["standard", "show", "SocialAsistance"]).unwrap();
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.err.contains("did you mean `SocialAssistance`?"), "{}", unknown.err);
    let list = exchange.command(&["standard", "show", "regional_lists:penalty"]).unwrap();
    assert_eq!(list.code, Some(0), "the beginning of a list's name is enough: {}", list.err);
    let none = exchange.command(&["standard", "show", "regional_lists:fine"]).unwrap();
    assert!(none.code == Some(2) && none.err.contains("it has no list `fine`"), "{}", none.err);
}

#[test]
fn values_are_checked_with_rules_and_texts() {
    let files = readme_files();
    let written: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let exchange = exchange(&written);
    let command = |arguments: &[&str]| exchange.command(arguments).unwrap();

    let good = command(&["standard", "check", "uscc", "91450103PDY001012U", "９１４５０１０３ＰＤＹ００１０１２Ｕ"]);
    assert_eq!(good.code, Some(0), "{}", good.out);
    assert!(good.out.contains("→ 91450103PDY001012U") && good.out.contains("identifier.repaired"), "{}", good.out);
    let bad = command(&["standard", "check", "uscc", "91450103PDY001012U", "91450302PDY001039X"]);
    assert_eq!(bad.code, Some(1));
    for text in ["uscc.check_digit", "统一社会信用代码校验码不符", "the credit code's check character is wrong"] {
        assert!(bad.out.contains(text), "{text}: {}", bad.out);
    }
    let json = command(&["standard", "check", "code:assistance_kinds", "五保", "农村五保供养", "无", "--json"]);
    assert_eq!(json.code, Some(1));
    let json: Value = serde_json::from_str(&json.out).unwrap();
    let verdicts: Vec<&str> = json.as_array().unwrap().iter().map(|it| it["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["error", "note", "empty"]);
    assert_eq!((&json[1]["normalised"], &json[1]["findings"][1]["rule"]), (&"02".into(), &"code.retired".into()));
    // What a terminal would not show is written out.
    assert!(command(&["standard", "check", "text", "a\u{200b}b"]).out.contains("a\\u{200b}b"));
    let unknown = command(&["standard", "check", "usccc", "1"]);
    assert!(unknown.code == Some(2) && unknown.err.contains("did you mean `uscc`?"), "{}", unknown.err);
}

#[test]
fn a_file_of_examples_passes_or_names_each_line_that_does_not() {
    let exchange = exchange(&[]);
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/tests/data/standard_vectors.csv");
    let passed = ok(exchange.command(&["standard", "test", vectors.to_str().unwrap()]).unwrap());
    assert!(passed.ends_with("629 passed, 0 failed\n"), "{passed}");
    let path = exchange.path().join("examples.csv");
    let run = |text: &str| {
        std::fs::write(&path, text).unwrap();
        exchange.command(&["standard", "test", path.to_str().unwrap()]).unwrap()
    };
    let failed = run("kind,input,valid,normalised,reason\ndate,20170922,true,2017-09-22,\ndate,20170931,true,2017-09-31,\n");
    assert_eq!(failed.code, Some(1));
    assert!(
        failed.out.contains("line 3: date 20170931: expected 2017-09-31, found not valid (date.no_such_day)"),
        "{}",
        failed.out
    );
    for (text, said) in [
        ("kind,input,valid,normalised\n", "line 1: column reason is missing"),
        ("kind,input,valid,normalised,reason\ndat,1,true,1,\n", "line 2: the kind `dat` is not known (did you mean `date`?)"),
        ("kind,input,valid,normalised,reason\ndate,1,yes,1,\n", "line 2: `valid` is true or false, not `yes`"),
    ] {
        let answer = run(text);
        assert!(answer.code == Some(2) && answer.err.contains(said), "{}", answer.err);
    }
    assert_eq!(exchange.command(&["standard", "test", "no-such.csv"]).unwrap().code, Some(3));
}

#[test]
fn without_a_directory_the_built_in_standard_answers() {
    let elsewhere = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(guitong_tests::exchange::binary().unwrap());
        command.args(arguments).current_dir(elsewhere.path()).env_remove("GUITONG_DIR").output().unwrap()
    };
    let list = run(&["standard", "list", "--json"]);
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!((list["entities"].as_array().unwrap().len(), &list["version"]), (6, &"2026.1".into()));
    assert_eq!(run(&["standard", "list", "--dir", "no-such-directory"]).status.code(), Some(2));
    std::fs::create_dir(elsewhere.path().join("standard")).unwrap();
    std::fs::write(elsewhere.path().join("standard/colours.csv"), "dm,mc\n1,红\n").unwrap();
    let broken = run(&["standard", "list", "--dir", "."]);
    assert_eq!(broken.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&broken.stderr).contains("standard/colours.csv:1:1"));
}
