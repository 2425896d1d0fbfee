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

    for part in ["企业登记 main.qy  key bh=4", "rule GB 32100-2015   grade G0", "guitong quarantine replay enterprise 0"] {
        assert!(shown.out.contains(part), "{part}\n{}", shown.out);
    }
    let replayed = exchange.command(&["quarantine", "replay", "enterprise", "--rule", "uscc.length", "--json"]).unwrap();
    let replayed: Value = serde_json::from_str(&replayed.out).unwrap_or_else(|_| panic!("{}", replayed.err));
    assert_eq!((replayed["tried"].as_u64(), replayed["released"].as_u64()), (Some(0), Some(0)), "another rule's entries");
    for arguments in [&["replay", "enterprise", "99"][..], &["drop", "enterprise", "99", "--reason", "测试", "--yes"]] {
        let none = exchange.command(&[&["quarantine"], arguments].concat()).unwrap();
        assert!(none.code == Some(1) && none.err.contains("1 of the entries that were named are not open"), "{none:?}");
    }
    let resumed = exchange.command(&["resource", "resume", "enterprise"]).unwrap();
    assert_eq!(resumed.code, Some(1), "{}", resumed.err);

    run(&mut department, format!("UPDATE qy SET tyshxydm = '{}' WHERE bh = 4", credit_code(4))).await;
    holds(&exchange, &["公司1", "公司2", "公司3", "公司4"]).await;
    status_where(&exchange, |status| status["resources"][0]["quarantined"] == 0).await;
    let (code, time) = node.terminate().unwrap();
    assert_eq!((code, time < Duration::from_secs(10)), (Some(0), true), "stopped in {time:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_or_a_field_that_exists_nowhere_is_told_with_the_nearest() {
    let (exchange, mut department) = exchange().await;
    let _node = exchange.start().unwrap();
    run(&mut department, company(4, "91450103PDY00004XX")).await;
    status_where(&exchange, |status| status["resources"][0]["quarantined"] == 1).await;
    let drop = ["drop", "enterprise", "--reason", "测试", "--yes"];
    for (filter, known, near) in [
        (["--rule", "uscc.lenght"], "there is no rule `uscc.lenght`", "did you mean `uscc.length` (统一社会信用代码不是 18 位)?"),
        (["--rule", "row.to_large"], "there is no rule `row.to_large`", "did you mean `row.too_large`?"),
        (["--field", "ussc"], "entity LegalEntity has no field `ussc`", "did you mean `uscc` (统一社会信用代码)?"),
        (["--field", "tyshxydm"], "no field `tyshxydm`", "`uscc` (统一社会信用代码), made of the column `tyshxydm`?"),
        (["--field", "机构名称"], "no field `机构名称`", "did you mean `name` (机构名称)?"),
        (["--field", "%%%"], "no field `%%%`", "guitong standard show LegalEntity names its fields"),
    ] {
        for command in [&["list"][..], &["list", "enterprise"], &["replay", "enterprise"], &drop, &drop[..4]] {
            let answer = exchange.command(&[&["quarantine"], command, &filter].concat()).unwrap();
            assert_eq!(answer.code, Some(1), "{command:?} {filter:?}: {answer:?}");
            assert!(answer.err.contains(known) && answer.err.contains(near), "{command:?} {filter:?}: {}", answer.err);
        }
    }
    for filter in [["--rule", "row.too_large"], ["--rule", "date.form"], ["--field", "name"], ["--key", "bh=9"]] {
        for command in [&["list", "enterprise"][..], &["replay", "enterprise"], &drop] {
            let answer = exchange.command(&[&["quarantine"], command, &filter].concat()).unwrap();
            assert_eq!(answer.code, Some(0), "what exists may match nothing: {command:?} {filter:?}: {answer:?}");
        }
    }
}

/// Looks after a record that the subscriber's table refuses, with the node running and without.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_record_and_its_subscription_are_looked_after_by_command() {
    let (exchange, _department) = exchange().await;
    let mut sink = open(&exchange.path().join("sink.db")).await;
    let table = "CREATE TABLE enterprise (uscc TEXT PRIMARY KEY, name TEXT CHECK (name <> '公司2'), legal_rep_name TEXT,
        guitong_version BLOB, guitong_epoch INTEGER)";
    run(&mut sink, table.to_owned()).await;
    let node = exchange.start().unwrap();
    holds(&exchange, &["公司1", "公司3"]).await;
    status_where(&exchange, |status| status["subscriptions"][0]["parked"] == 1).await;
    assert!(exchange.command(&["status"]).unwrap().out.contains("guitong subscription parked list credit-enterprise"));

    let parked = |arguments: &[&str]| exchange.command(&[&["subscription", "parked"], arguments].concat()).unwrap();
    let list: Value = serde_json::from_str(&parked(&["list", "--json"]).out).unwrap();
    let id = list[0]["id"].as_str().unwrap().to_owned();
    assert_eq!((list[0]["key"].as_str(), list[0]["subscription"].as_str()), (Some(&*credit_code(2)), Some("credit-enterprise")));
    let shown = parked(&["show", "credit-enterprise", &id]);
    for part in ["CHECK constraint failed", "机构名称  公司2", "法定代表人  韦小明", "parked replay credit-enterprise"]
    {
        assert!(shown.out.contains(part), "{part}\n{}{}", shown.out, shown.err);
    }
    assert_eq!(parked(&["replay", "credit-enterprise"]).code, Some(1), "refused again");
    assert_eq!(parked(&["show", "credit-enterprise", "7-7"]).code, Some(1));
    assert_eq!(parked(&["show", "credit-enterprise", "seven"]).code, Some(1));
    let asked = parked(&["drop", "credit-enterprise", "--all", "--reason", "测试"]);
    assert!(asked.code == Some(2) && asked.err.contains("1 records"), "{}", asked.err);

    let of = |arguments: &[&str]| exchange.command(&[&["subscription"], arguments].concat()).unwrap();
    assert_eq!(of(&["pause", "credit-enterprise", "--reason", "盘点"]).code, Some(0));
    assert_eq!(of(&["pause", "credit-enterprise", "--reason", "盘点"]).code, Some(1), "it is paused already");
    let paused = status_where(&exchange, |status| status["subscriptions"][0]["state"] == "paused").await;
    assert!(paused["subscriptions"][0]["problem"].as_str().unwrap().contains("盘点"), "{paused:#}");
    assert_eq!(of(&["resync", "credit-enterprise"]).code, Some(2), "it says what it would do");
    node.terminate().unwrap();

    // Without a node the log answers, and the pause is still there.
    assert_eq!(parked(&["replay", "credit-enterprise"]).code, Some(1));
    assert_eq!(of(&["resume", "credit-enterprise"]).code, Some(0));
    run(&mut sink, "UPDATE enterprise SET name = '公司9' WHERE name = '公司3'".to_owned()).await;
    let dropped = parked(&["drop", "credit-enterprise", &id, "--reason", "测试", "--yes", "--json"]);
    assert_eq!((dropped.code, dropped.out.trim()), (Some(0), "{\"dropped\":1}"), "{}", dropped.err);
    assert_eq!(of(&["resync", "credit-enterprise", "--yes"]).code, Some(0));
    assert_eq!(of(&["resume", "nobody"]).code, Some(2));
    let node = exchange.start().unwrap();
    holds(&exchange, &["公司1", "公司3"]).await;
    // What was given up is tried again by a resync.
    status_where(&exchange, |status| status["subscriptions"][0]["parked"] == 1).await;
    node.terminate().unwrap();
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
async fn a_changed_code_list_is_taken_or_refused() {
    let (exchange, mut department) = exchange().await;
    let _node = exchange.start().unwrap();
    holds(&exchange, &["公司1", "公司2", "公司3"]).await;
    let put = |path: &str, text: &str| {
        let path = exchange.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let resource = std::fs::read_to_string(exchange.path().join("resources/enterprise.toml")).unwrap();
    let listed = |list: &str| {
        let entry = format!("name = {{ from = \"qymc\", codes = \"{list}\", other = \"keep\" }}");
        resource.replace("name = \"qymc\"", &entry)
    };
    let is_taken = |status: &Value| status["refused_change"].is_null();
    // No list of the directory in force yet, and looked at all the same.
    put("codes/early.csv", "名称,代码\n");
    put("resources/enterprise.toml", &listed("codes/early.csv"));
    status_where(&exchange, |status| !is_taken(status)).await;
    put("codes/early.csv", "value,code\n公司9,机构9\n");
    status_where(&exchange, is_taken).await;
    for (number, list) in [(4, "codes/names.csv"), (5, "lists/of/names.csv")] {
        let good = format!("value,code\n公司{number},机构{number}\n");
        put(list, &good);
        let before = status_where(&exchange, is_taken).await["revision"].clone();
        put("resources/enterprise.toml", &listed(list));
        status_where(&exchange, |status| status["revision"] != before).await;
        put(list, &good.replace("value,code", "名称,代码"));
        let refused = status_where(&exchange, |status| !is_taken(status)).await;
        let why = refused["refused_change"].as_str().unwrap();
        assert!(why.contains("wrong-header") && why.contains(&format!("{list}:1:1")), "{why}");
        assert_eq!(refused["resources"][0]["state"], "running", "the one before stays in force: {refused:#}");
        put(list, &good.replace("机构", "单位"));
        status_where(&exchange, |now| is_taken(now) && now["revision"] != refused["revision"]).await;
        run(&mut department, company(number, &credit_code(number))).await;
        let wanted = ["公司1", "公司2", "公司3", "单位4", "单位5"];
        holds(&exchange, &wanted[..number as usize]).await;
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn rejected_rows_are_looked_at_given_up_and_reported_with_and_without_a_node() {
    let (exchange, mut department) = exchange().await;
    let node = exchange.start().unwrap();
    holds(&exchange, &["公司1", "公司2", "公司3"]).await;
    for number in 4..=6 {
        run(&mut department, company(number, "91450103PDY00004XX")).await;
    }
    run(&mut department, "UPDATE qy SET tyshxydm = 'x' WHERE bh = 1".to_owned()).await;
    status_where(&exchange, |status| status["resources"][0]["quarantined"] == 4).await;

    let json = |arguments: &[&str]| {
        let answer = exchange.command(arguments).unwrap();
        serde_json::from_str::<Value>(&answer.out).unwrap_or_else(|_| panic!("{}{}", answer.out, answer.err))
    };
    let report = |report: Value| {
        let now = &report[0]["now"];
        let total = &report[0]["total"];
        assert_eq!((now["rows"].as_u64(), now["good"].as_u64(), now["quarantined"].as_u64()), (Some(6), Some(2), Some(4)));
        assert_eq!(now["held_back"], 1);
        assert_eq!((total["good"].as_u64(), total["rejected"].as_u64()), (Some(3), Some(4)), "{report:#}");
        assert_eq!(now["figures"]["pass_rate"]["denominator"], 6);
        total["rules"].to_string()
    };
    let rules = report(json(&["report", "quality", "enterprise", "--json"]));
    let first = exchange.command(&["quarantine", "list", "--limit", "3"]).unwrap();
    assert!(first.out.contains("there are more: guitong quarantine list enterprise --after 2"), "{}", first.out);
    assert_eq!(node.terminate().unwrap().0, Some(0));

    // The same without a node: the commands open the log themselves.
    assert_eq!(report(json(&["report", "quality", "--json"])), rules);
    let rest = json(&["quarantine", "list", "enterprise", "--after", "2", "--json"]);
    assert_eq!((rest.as_array().unwrap().len(), rest[0]["held_back"].as_bool()), (1, Some(true)), "{rest:#}");
    let misspelt = exchange.command(&["quarantine", "list", "--rule", "uscc.lenght", "--json"]).unwrap();
    assert!(misspelt.code == Some(1) && misspelt.err.contains("`uscc.length`"), "{misspelt:?}");
    let one = json(&["quarantine", "list", "enterprise", "--key", "bh=5", "--json"]);
    assert_eq!(one.as_array().unwrap().len(), 1, "{one:#}");

    let asked = exchange.command(&["quarantine", "drop", "enterprise", "--field", "uscc", "--reason", "测试"]).unwrap();
    assert_eq!(asked.code, Some(2));
    assert!(asked.err.contains("4 entries of enterprise would be given up, 1 of rows"), "{}", asked.err);
    let nothing = exchange.command(&["quarantine", "drop", "enterprise", "--reason", "测试", "--yes"]).unwrap();
    assert_eq!(nothing.code, Some(2), "all of them are never meant by saying nothing");
    let dropped =
        exchange.command(&["quarantine", "drop", "enterprise", "--field", "uscc", "--reason", "测试", "--yes"]).unwrap();
    assert_eq!(dropped.code, Some(0), "{}", dropped.err);
    assert!(dropped.out.contains("4 given up") && dropped.out.contains("1 rows keep"), "{}", dropped.out);
    assert_eq!(json(&["quarantine", "list", "--json"]), Value::Array(Vec::new()));

    let text = exchange.command(&["report", "quality"]).unwrap();
    assert!(text.out.contains("合格率        33.33 %   rows whose newest version is good (2 of 6)"), "{}", text.out);
    let _node = exchange.start().unwrap();
    holds(&exchange, &["公司1", "公司2", "公司3"]).await;
    // The subscriber held them before the node was up, so the stage may not have shown its figures yet.
    let deadline = Instant::now() + PATIENCE;
    for name in ["guitong_normalise_rows{", "guitong_normalise_keys{", "guitong_normalise_quarantine_oldest_seconds{"] {
        while !exchange.get("/metrics", PATIENCE).await.unwrap().contains(name) {
            assert!(Instant::now() < deadline, "{name} is missing");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_another_character_set_and_a_name_of_ten_megabytes_harm_nobody_else() {
    let (exchange, mut department) = exchange().await;
    let _node = exchange.start().unwrap();
    holds(&exchange, &["公司1", "公司2", "公司3"]).await;
    // 南宁甲 in GB 18030.
    let bytes = "CAST(x'C4CFC4FEBCD7' AS TEXT)";
    run(&mut department, format!("INSERT INTO qy VALUES (4, '{}', {bytes}, '韦小明')", credit_code(4))).await;
    let long = "hex(zeroblob(5 * 1024 * 1024))";
    run(&mut department, format!("INSERT INTO qy VALUES (5, '{}', {long}, '韦小明')", credit_code(5))).await;
    run(&mut department, company(6, &credit_code(6))).await;
    holds(&exchange, &["公司1", "公司2", "公司3", "公司6"]).await;
    status_where(&exchange, |status| status["resources"][0]["quarantined"] == 2).await;
    let list = exchange.command(&["quarantine", "list", "--json"]).unwrap();
    let list: Value = serde_json::from_str(&list.out).unwrap();
    assert_eq!((list[0]["key"].as_str(), list[1]["key"].as_str()), (Some("bh=4"), Some("bh=5")), "{list:#}");
    let reason = &list[0]["reasons"][0];
    assert_eq!((&reason["field"], &reason["rule"]), (&"name".into(), &"column.unreadable".into()), "{list:#}");
    assert_eq!(reason["value"], "\\xC4CFC4FEBCD7", "its bytes are kept");
    assert!(list[1]["reasons"].to_string().contains("row.too_large"), "{list:#}");
    let shown = exchange.command(&["quarantine", "show", "enterprise", list[1]["id"].as_str().unwrap()]).unwrap();
    assert!(shown.out.contains("guitong system snapshot licensing --table main.qy --where"), "{}", shown.out);
    assert!(list.to_string().len() < 10_000, "what is shown is cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_rejects_too_much_halts_and_says_so() {
    let (exchange, _department) = exchange().await;
    let _node = exchange.start().unwrap();
    holds(&exchange, &["公司1", "公司2", "公司3"]).await;
    let unknown = exchange.command(&["resource", "rebuild", "enterprises"]).unwrap();
    assert_eq!(unknown.code, Some(1), "{}", unknown.err);
    assert!(unknown.err.contains("enterprises") && unknown.err.contains("enterprise"), "{}", unknown.err);
    let path = exchange.path().join("resources/enterprise.toml");
    let file = std::fs::read_to_string(&path).unwrap();
    let declare = async |text: String| {
        let before = exchange.status(PATIENCE).await.unwrap()["revision"].clone();
        std::fs::write(&path, text).unwrap();
        status_where(&exchange, |status| status["revision"] != before && status["resources"][0]["state"] == "running").await;
    };
    let bound = "[quality]\npause_above = { percent = 1, of = 10 }\n\n[map]";
    let rejecting = "status = { from = \"fddbr\", codes = { \"覃丽\" = \"1\" } }";
    declare(file.replace("status = { const = \"1\" }", rejecting).replace("[map]", bound)).await;
    let halted = exchange.command(&["resource", "rebuild", "enterprise", "--wait"]).unwrap();
    assert_eq!(halted.code, Some(1), "{}{}", halted.out, halted.err);
    let said = ["the rebuild of enterprise halts: 1 of the last 1 row changes were rejected: status:code.unknown (1)"];
    for words in
        said.into_iter().chain(["with a corrected mapping it begins anew by itself", "guitong resource resume enterprise"])
    {
        assert!(halted.err.contains(words), "{words}: {}", halted.err);
    }
    let status = exchange.command(&["status"]).unwrap();
    assert!(status.out.contains("its rebuild halts: 1 of the last 1 row changes were rejected"), "{}", status.out);
    holds(&exchange, &["公司1", "公司2", "公司3"]).await;
    // It begins anew with the corrected mapping.
    declare(file.replace("name = \"qymc\"", "name = { from = [\"qymc\", \"fddbr\"], join = \"·\" }")).await;
    holds(&exchange, &["公司1·韦小明", "公司2·韦小明", "公司3·韦小明"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_leaves_the_condition_of_its_resource_and_comes_back() {
    let (exchange, mut department) = exchange().await;
    let path = exchange.path().join("resources/enterprise.toml");
    let file = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, file.replace("[map]", "where = \"row.fddbr != '停用'\"\n\n[map]")).unwrap();
    let node = exchange.start().unwrap();
    holds(&exchange, &["公司1", "公司2", "公司3"]).await;
    run(&mut department, "UPDATE qy SET fddbr = '停用' WHERE bh = 2".to_owned()).await;
    holds(&exchange, &["公司1", "公司3"]).await;
    // Changes of a row that stays outside give nothing, and are not lost: it comes back as it is by then.
    run(&mut department, "UPDATE qy SET qymc = '公司9' WHERE bh = 2".to_owned()).await;
    run(&mut department, format!("INSERT INTO qy VALUES (4, '{}', '公司4', '停用')", credit_code(4))).await;
    run(&mut department, "UPDATE qy SET fddbr = '韦小明' WHERE bh = 2".to_owned()).await;
    holds(&exchange, &["公司1", "公司3", "公司9"]).await;
    run(&mut department, "UPDATE qy SET fddbr = '停用' WHERE bh = 2".to_owned()).await;
    holds(&exchange, &["公司1", "公司3"]).await;
    drop(node);
    let rejected = exchange.command(&["quarantine", "list", "--json"]).unwrap();
    assert_eq!(rejected.out.trim(), "[]", "a row outside is not rejected: {}", rejected.out);
}
