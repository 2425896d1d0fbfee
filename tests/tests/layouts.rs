//! The twelve layouts of departments' tables: what their mappings make of the example rows is what is expected, whether the examples are
//! checked, tried, or come from a department's database through a whole exchange to a subscriber's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use guitong_schemas::standard::{KeyPart, KeySource, Standard};
use guitong_tests::exchange::binary;
use guitong_tests::layouts::{self, Layout, Layouts};
use guitong_tests::servers::postgres::{ADMIN, PASSWORD, Postgres};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Row, ValueRef};

const PATIENCE: Duration = Duration::from_secs(60);

/// What stands of a resource: records by the entity's key, and the rules that rejected rows broke.
#[derive(Debug, Default, PartialEq)]
struct Standing {
    records: BTreeMap<Vec<String>, BTreeMap<String, String>>,
    rejections: Vec<BTreeSet<String>>,
}

fn guitong(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(binary().unwrap()).args(arguments).env("GUITONG_DIR", dir).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_out_the_same_checked_tried_and_through_an_exchange() {
    let all = layouts::all().unwrap();
    let layouts = Layouts::build(&all).await.unwrap();
    let checked = guitong(layouts.path(), &["check"]);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    let examples = |layout: &Layout| layouts.path().join(format!("resources/{}.examples.jsonl", layout.resource));
    exchange(&layouts, &all, examples).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mappings_go_with_what_inspections_see() {
    let layouts = Layouts::build(&layouts::all().unwrap()).await.unwrap();
    for system in layouts::systems().unwrap() {
        let inspected = guitong(layouts.path(), &["system", "inspect", &system]);
        assert!(inspected.status.success(), "{system}: {}", text(&inspected.stderr));
    }
    let checked = guitong(layouts.path(), &["check"]);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    let told = text(&checked.stderr);
    let warnings: Vec<&str> = told.lines().filter(|line| line.starts_with("warning")).collect();
    // A text with the time at which a project was reported goes into the day.
    assert!(matches!(warnings[..], [one] if one.starts_with("warning[lossy]: `apply_date`")), "{told}");
    assert!(!told.contains("were not checked"), "every table was seen: {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fresh_drafts_are_checked_well_or_say_what_is_to_be_filled_in() {
    let all = layouts::all().unwrap();
    let layouts = Layouts::build(&all).await.unwrap();
    for layout in &all {
        for ending in ["toml", "examples.jsonl"] {
            std::fs::remove_file(layouts.path().join(format!("resources/{}.{ending}", layout.resource))).unwrap();
        }
    }
    drafts_are_checked(layouts.path(), "main", &all);
    // PostgreSQL has comments, and types for what SQLite keeps as text.
    let server = Postgres::start().await.unwrap();
    for system in layouts::systems().unwrap() {
        server.create_database(&system).await.unwrap();
        let database = server.admin_of(&system).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(layouts::statements(&system, &all).unwrap())).execute(&database).await.unwrap();
        let path = layouts.path().join(format!("systems/{system}.toml"));
        let file = std::fs::read_to_string(&path).unwrap();
        let kept = file.lines().filter(|line| line.starts_with("title") || line.starts_with("department"));
        let url = server.url_of(ADMIN, PASSWORD, &system);
        let kept: Vec<&str> = kept.collect();
        let text = format!("{}\nkind = \"postgres\"\nurl = \"{url}\"\ntables = [\"public.*\"]\n", kept.join("\n"));
        std::fs::write(&path, text).unwrap();
    }
    drafts_are_checked(layouts.path(), "public", &all);
}

/// Drafts each layout's table, and holds the draft against what an inspection saw: what is wrong with it, it says itself.
fn drafts_are_checked(dir: &Path, schema: &str, all: &[Layout]) {
    for system in layouts::systems().unwrap() {
        let inspected = guitong(dir, &["system", "inspect", &system]);
        assert!(inspected.status.success(), "{system}: {}", text(&inspected.stderr));
    }
    let file = dir.join("resources/draft.toml");
    let mut unfinished = Vec::new();
    for layout in all {
        let table = format!("{schema}.{}", layout.table);
        let asked = ["resource", "draft", &layout.system, "--table", &table, "--entity", &layout.entity];
        let drafted = guitong(dir, &[&asked[..], &["--output", file.to_str().unwrap()]].concat());
        assert!(drafted.status.success(), "{}: {}", layout.resource, text(&drafted.stderr));
        let checked: Value = serde_json::from_slice(&guitong(dir, &["check", "--json"]).stdout).unwrap();
        let draft = std::fs::read_to_string(&file).unwrap();
        for error in checked["errors"].as_array().into_iter().flatten() {
            let (code, message) = (error["code"].as_str().unwrap(), error["message"].as_str().unwrap());
            let open = draft.lines().filter_map(|line| line.strip_prefix("# ").filter(|line| line.contains("part of the key")));
            let is_told = open.filter_map(|line| line.split(' ').next()).any(|field| message.contains(&format!("`{field}`")));
            assert!(code == "missing-field" && is_told, "{}: {error:#}\n{draft}", layout.resource);
            unfinished.push(layout.resource.as_str());
        }
        std::fs::remove_file(&file).unwrap();
    }
    // Who decided stands in no column of this table.
    assert_eq!(unfinished, ["city-penalty"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn random_rows_come_out_the_same_tried_and_through_an_exchange() {
    let mut random = StdRng::seed_from_u64(guitong_tests::seed());
    let mut all = layouts::all().unwrap();
    let mut tables: BTreeMap<(String, String), Vec<Map<String, Value>>> = BTreeMap::new();
    for layout in &mut all {
        // Resources of one table have its rows both.
        let table = tables.entry((layout.system.clone(), layout.table.clone()));
        layout.rows = table.or_insert_with(|| shuffled(&layout.rows, &mut random)).clone();
    }
    let layouts = Layouts::build(&all).await.unwrap();
    let file = |layout: &Layout| {
        let path = layouts.path().join(format!("{}.jsonl", layout.resource));
        let beside = layout.beside.iter().map(|(table, row)| json!({ "table": table, "row": row }).to_string());
        let own = layout.rows.iter().map(|row| Value::Object(row.clone()).to_string());
        let lines: Vec<String> = beside.chain(own).collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        path
    };
    exchange(&layouts, &all, file).await;
}

/// Lets departments' tables flow to a subscriber, and compares what arrives with what is made of the same rows in files.
async fn exchange(layouts: &Layouts, all: &[Layout], file: impl Fn(&Layout) -> PathBuf) {
    layouts.share().unwrap();
    let dir = layouts.path();
    for system in layouts::systems().unwrap() {
        let prepared = guitong(dir, &["system", "prepare", &system, "--apply"]);
        assert!(prepared.status.success(), "{system}: {}", text(&prepared.stderr));
    }
    let _node = Node::start(dir);
    for layout in all {
        let tried = tried(dir, layout, &file(layout));
        settles(layouts, layout, &tried).await;
    }
}

/// The rows with their keys, in the order of these, and in the other columns values of other rows, none, or ones that mean trouble.
fn shuffled(rows: &[Map<String, Value>], random: &mut StdRng) -> Vec<Map<String, Value>> {
    const KEYS: [&str; 2] = ["DATAVERSION", "环节"];
    const TROUBLE: [&str; 12] = [
        "",
        "无",
        "0",
        "NULL",
        "２０１７年９月２２日",
        "17-9-22",
        "1/2",
        " 测试 甲 ",
        "测\u{200B}试",
        "a;b",
        "450102199001019997",
        "面议",
    ];
    let mut out: Vec<Map<String, Value>> = rows.to_vec();
    for row in &mut out {
        for (at, (column, value)) in row.iter_mut().enumerate() {
            if at == 0 || KEYS.contains(&column.as_str()) {
                continue;
            }
            let other = &rows[random.random_range(0..rows.len())][column];
            *value = match random.random_range(0..20) {
                0 => Value::Null,
                // A column of numbers holds numbers.
                1 | 2 if rows.iter().all(|row| !row[column].is_number()) => TROUBLE[random.random_range(0..TROUBLE.len())].into(),
                3..8 => other.clone(),
                _ => continue,
            };
        }
    }
    // As a first load reads them; a key that two rows share is that of the later one.
    out.sort_by_key(|row| row.values().next().map(|key| (key.as_i64(), key.to_string())));
    out
}

/// A node that runs on a directory; killed when its handle goes.
struct Node(Child);

impl Node {
    fn start(dir: &Path) -> Self {
        let log = File::create(dir.join("node.log")).unwrap();
        let mut command = Command::new(binary().unwrap());
        Self(command.arg("run").arg(dir).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).unwrap();
    }
}

/// What `guitong resource try` makes of the rows of a file.
fn tried(dir: &Path, layout: &Layout, file: &Path) -> Standing {
    let tried = guitong(dir, &["resource", "try", &layout.resource, "--input", file.to_str().unwrap(), "--json"]);
    assert!(matches!(tried.status.code(), Some(0 | 1)), "{}: {}", layout.resource, text(&tried.stderr));
    let mut standing = Standing::default();
    for line in text(&tried.stdout).lines() {
        let outcome: Value = serde_json::from_str(line).unwrap();
        if outcome["verdict"] == "rejected" {
            standing.rejections.push(rules(&outcome["reasons"]));
        }
        let records = outcome["records"].as_array().cloned().unwrap_or_else(|| vec![outcome["record"].clone()]);
        for record in records.iter().filter_map(Value::as_object) {
            let fields: BTreeMap<String, String> =
                record.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.clone(), flat(value))).collect();
            standing.records.insert(key(layout, &fields), fields);
        }
    }
    standing.rejections.sort();
    standing
}

/// The entity's key; all records of a layout come from one system.
fn key(layout: &Layout, fields: &BTreeMap<String, String>) -> Vec<String> {
    let entity = Standard::builtin().entity(&layout.entity).unwrap();
    let first = |from: &[usize]| from.iter().find_map(|&at| fields.get(&entity.fields[at].name)).cloned();
    let part = |part: &KeyPart| match &part.source {
        KeySource::Fields(from) => first(from).unwrap_or_default(),
        KeySource::System => String::new(),
    };
    entity.key.iter().map(part).collect()
}

fn rules(reasons: &Value) -> BTreeSet<String> {
    let rule = |reason: &Value| format!("{}:{}", reason["field"].as_str().unwrap(), reason["rule"].as_str().unwrap());
    reasons.as_array().unwrap().iter().map(rule).collect()
}

fn flat(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Waits until the subscriber's table and the quarantine are as `expected`.
async fn settles(layouts: &Layouts, layout: &Layout, expected: &Standing) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = delivered(layouts, layout).await;
        if found == *expected {
            return;
        }
        let log = std::fs::read_to_string(layouts.path().join("node.log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "{}\nexpected {expected:#?}\nfound {found:#?}\n{log}", layout.resource);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn delivered(layouts: &Layouts, layout: &Layout) -> Standing {
    let mut standing = Standing::default();
    let sink = SqliteConnectOptions::new().filename(layouts.sink(&layout.resource)).read_only(true);
    if let Ok(mut sink) = sink.connect().await
        && let Ok(rows) = sqlx::query("SELECT * FROM records").fetch_all(&mut sink).await
    {
        for row in rows {
            let fields = fields(layout, &row);
            standing.records.insert(key(layout, &fields), fields);
        }
    }
    let listed = guitong(layouts.path(), &["quarantine", "list", &layout.resource, "--json"]);
    let entries: Vec<Map<String, Value>> = serde_json::from_slice(&listed.stdout).unwrap_or_default();
    standing.rejections = entries.iter().map(|entry| rules(&entry["reasons"])).collect();
    standing.rejections.sort();
    standing
}

/// The row's columns that are fields of the entity; what is empty is left out.
fn fields(layout: &Layout, row: &SqliteRow) -> BTreeMap<String, String> {
    let entity = Standard::builtin().entity(&layout.entity).unwrap();
    let names = entity.fields.iter().map(|field| field.name.clone());
    let value = |name: &str| {
        let raw = row.try_get_raw(name).ok()?;
        if raw.is_null() {
            return None;
        }
        row.try_get::<String, _>(name).ok().or_else(|| Some(row.try_get::<i64, _>(name).ok()?.to_string()))
    };
    names.filter_map(|name| Some((name.clone(), value(&name)?))).collect()
}
