//! The exchange directory of a comparison: one system, configured as the dump's connector was.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use guitong_schemas::avro::form::Names;
use guitong_schemas::avro::topic_name;
use guitong_schemas::contract::load::{Purpose, load};
use guitong_schemas::contract::{Directory, System};
use guitong_schemas::table::TableName;

use super::Failure;
use super::dump::Dump;

/// Name of the system.
pub(super) const SYSTEM: &str = "conformance";
/// Slot and publication.
pub(super) const SLOT: &str = "conformance";

/// Debezium's options that the system's file has under the same names.
const SAME: [&str; 8] = [
    "topic.prefix",
    "decimal.handling.mode",
    "time.precision.mode",
    "interval.handling.mode",
    "binary.handling.mode",
    "unavailable.value.placeholder",
    "tombstones.on.delete",
    "provide.transaction.metadata",
];

/// Options that say where and under which name Debezium runs, or that have a place of their own in [`lines`].
const ELSEWHERE: [&str; 19] = [
    "connector.class",
    "tasks.max",
    "plugin.name",
    "database.hostname",
    "database.port",
    "database.user",
    "database.dbname",
    "snapshot.mode",
    "poll.interval.ms",
    "name",
    "slot.name",
    "table.include.list",
    "table.exclude.list",
    "schema.name.adjustment.mode",
    "field.name.adjustment.mode",
    "skipped.operations",
    "include.unknown.datatypes",
    "hstore.handling.mode",
    "transforms",
];

/// Writes the directory and reads it as a node would.
pub(super) fn write(root: &Path, dump: &Dump, url: &str, tables: &Tables) -> Result<(Directory, Arc<System>), Failure> {
    let files = [
        ("exchange.toml", "name = \"test\"\ntitle = \"测试\"\ntime_zone = \"Asia/Shanghai\"\n".to_owned()),
        ("departments/market.toml", "title = \"市场监督管理局\"\ncode = \"11450000PDY00001X0\"\n".to_owned()),
        ("systems/conformance.toml", system(dump, url, tables)?),
    ];
    for (name, text) in files {
        let path = root.join(name);
        path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, text)).map_err(Failure::new)?;
    }
    let directory =
        load(root, &|_| None, jiff::Timestamp::now(), Purpose::Run).map_err(|problems| Failure::new(problems.render(false)))?;
    let system = directory.systems.get(SYSTEM).cloned().ok_or_else(|| Failure::new("the directory has no system"))?;
    Ok((directory, system))
}

fn system(dump: &Dump, url: &str, tables: &Tables) -> Result<String, Failure> {
    let is_known = |name: &str| SAME.contains(&name) || ELSEWHERE.contains(&name) || dump.of_unwrap(name).is_some();
    if let Some(name) = dump.meta.config.keys().find(|name| !is_known(name)) {
        return Err(Failure::new(format!("the dump was made with {name}, which has no counterpart here")));
    }
    // Of these some settings have.
    for (name, here) in [("hstore.handling.mode", ["json"].as_slice()), ("skipped.operations", &["none", "t"])] {
        if let Some(value) = dump.config(name).filter(|value| !here.contains(value)) {
            return Err(Failure::new(format!("the dump was made with {name} = {value}, which has no counterpart here")));
        }
    }
    let names = names(dump)?.0;
    let tables: Vec<String> = tables.values().map(|table| quoted(table)).collect();
    let mut lines = BTreeMap::from([
        ("title", quoted("对照")),
        ("department", quoted("11450000PDY00001X0")),
        ("kind", quoted("postgres")),
        ("url", quoted(url)),
        ("slot", quoted(SLOT)),
        ("publication", quoted(SLOT)),
        ("complete", "false".to_owned()),
        // What is waited for may be in tables that are not tailed.
        ("heartbeat", quoted("50 ms")),
        ("names", quoted(names)),
        ("truncate", quoted(if dump.config("skipped.operations") == Some("none") { "event" } else { "skip" })),
        ("unknown_types", quoted(if dump.config("include.unknown.datatypes") == Some("true") { "bytes" } else { "skip" })),
        ("tables", format!("[{}]", tables.join(", "))),
    ]);
    let mut text = String::new();
    while let Some((name, value)) = lines.pop_first() {
        // Writing into text does not fail.
        let _ = writeln!(text, "{name} = {value}");
    }
    text.push_str("\n[debezium]\n");
    for (name, value) in &dump.meta.config {
        if SAME.contains(&name.as_str()) {
            let is_flag = matches!(value.as_str(), "true" | "false");
            let _ = writeln!(text, "{name} = {}", if is_flag { value.clone() } else { quoted(value) });
        } else if let Some(option) = dump.of_unwrap(name) {
            let _ = writeln!(text, "transforms.unwrap.{option} = {}", quoted(value));
        }
    }
    if dump.is_json() {
        text.push_str("key.converter = \"json\"\nvalue.converter = \"json\"\n");
    }
    Ok(text)
}

fn names(dump: &Dump) -> Result<(&'static str, Names), Failure> {
    match (dump.config("schema.name.adjustment.mode"), dump.config("field.name.adjustment.mode")) {
        (None | Some("none"), None | Some("none")) => Ok(("debezium", Names::Debezium)),
        (Some("avro"), Some("avro")) => Ok(("avro", Names::Avro)),
        (Some("avro_unicode"), Some("avro_unicode")) => Ok(("avro_unicode", Names::AvroUnicode)),
        other => Err(Failure::new(format!("records and fields are named in different ways: {other:?}"))),
    }
}

/// `schema.table` by the topic that the dump has of it.
pub(super) type Tables = BTreeMap<String, String>;

/// The tables of which the dump has a topic. One that the script makes later is named as its topic is.
pub(super) fn tables(dump: &Dump, catalogue: &[TableName]) -> Result<Tables, Failure> {
    let (prefix, names) = (dump.config("topic.prefix").unwrap_or_default(), names(dump)?.1);
    let known: BTreeMap<String, &TableName> = catalogue.iter().map(|table| (topic_name(prefix, table, names), table)).collect();
    let of_topic = |topic: &String| match known.get(topic) {
        Some(table) => Some(table.to_string()),
        None => topic.strip_prefix(prefix)?.strip_prefix('.').filter(|name| name.contains('.')).map(str::to_owned),
    };
    let tables: Tables = dump.topics.keys().filter_map(|topic| Some((topic.clone(), of_topic(topic)?))).collect();
    if tables.is_empty() { Err(Failure::new("the dump holds no table")) } else { Ok(tables) }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
