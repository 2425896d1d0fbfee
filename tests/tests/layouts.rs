//! The twelve layouts of departments' tables: what their mappings make of the example rows is what is expected, whether the examples are
//! checked, tried, or come from a department's database through a whole exchange to a subscriber's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use guitong_schemas::standard::Standard;
use guitong_tests::exchange::binary;
use guitong_tests::layouts::{self, Layout, Layouts};
use serde_json::{Map, Value};
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{ConnectOptions, Row, ValueRef};

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
    let layouts = Layouts::build().await.unwrap();
    layouts.share().unwrap();
    let dir = layouts.path();
    let checked = guitong(dir, &["check"]);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    for system in layouts::systems().unwrap() {
        let prepared = guitong(dir, &["system", "prepare", &system, "--apply"]);
        assert!(prepared.status.success(), "{system}: {}", text(&prepared.stderr));
    }
    let _node = Node::start(dir);
    for layout in layouts::all().unwrap() {
        let tried = tried(dir, &layout);
        settles(&layouts, &layout, &tried).await;
    }
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

/// What `guitong resource try` makes of the examples.
fn tried(dir: &Path, layout: &Layout) -> Standing {
    let examples = dir.join(format!("resources/{}.examples.jsonl", layout.resource));
    let tried = guitong(dir, &["resource", "try", &layout.resource, "--input", examples.to_str().unwrap(), "--json"]);
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

/// The parts of the entity's key that are fields of the record.
fn key(layout: &Layout, fields: &BTreeMap<String, String>) -> Vec<String> {
    let entity = Standard::builtin().entity(&layout.entity).unwrap();
    let is_key = |name: &str| entity.field(name).is_some_and(|field| field.in_key);
    fields.iter().filter(|(name, _)| is_key(name)).map(|(_, value)| value.clone()).collect()
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
