//! The exchange directory of a comparison: one system, configured as the dump's connector was.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use guitong_schemas::contract::load::{Purpose, load};
use guitong_schemas::contract::{Directory, System};
use guitong_schemas::standard::Standard;

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
const ELSEWHERE: [&str; 18] = [
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
];

/// Writes the directory and reads it as a node would.
pub(super) fn write(root: &Path, dump: &Dump, url: &str) -> Result<(Directory, Arc<System>), Failure> {
    let files = [
        ("exchange.toml", "name = \"test\"\ntitle = \"测试\"\ntime_zone = \"Asia/Shanghai\"\n".to_owned()),
        ("departments/market.toml", "title = \"市场监督管理局\"\ncode = \"11450000PDY00001X0\"\n".to_owned()),
        ("systems/conformance.toml", system(dump, url)?),
    ];
    for (name, text) in files {
        let path = root.join(name);
        path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, text)).map_err(Failure::new)?;
    }
    let directory = load(root, &|_| None, Standard::builtin(), jiff::Timestamp::now(), Purpose::Run)
        .map_err(|problems| Failure::new(problems.render(false)))?;
    let system = directory.systems.get(SYSTEM).cloned().ok_or_else(|| Failure::new("the directory has no system"))?;
    Ok((directory, system))
}

fn system(dump: &Dump, url: &str) -> Result<String, Failure> {
    let unknown = dump.meta.config.keys().find(|name| !SAME.contains(&name.as_str()) && !ELSEWHERE.contains(&name.as_str()));
    if !dump.meta.converter.starts_with("avro") {
        return Err(Failure::new(format!("the dump is {}, ours is Avro", dump.meta.converter)));
    }
    if let Some(name) = unknown {
        return Err(Failure::new(format!("the dump was made with {name}, which has no counterpart here")));
    }
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
        ("names", quoted(names(dump)?)),
        ("truncate", quoted(if dump.config("skipped.operations") == Some("none") { "event" } else { "skip" })),
        ("unknown_types", quoted(if dump.config("include.unknown.datatypes") == Some("true") { "bytes" } else { "skip" })),
        ("tables", tables(dump)?),
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
        }
    }
    Ok(text)
}

fn names(dump: &Dump) -> Result<&'static str, Failure> {
    match (dump.config("schema.name.adjustment.mode"), dump.config("field.name.adjustment.mode")) {
        (None | Some("none"), None | Some("none")) => Ok("debezium"),
        (Some("avro"), Some("avro")) => Ok("avro"),
        (Some("avro_unicode"), Some("avro_unicode")) => Ok("avro_unicode"),
        other => Err(Failure::new(format!("records and fields are named in different ways: {other:?}"))),
    }
}

/// The tables of which the dump holds messages: what its lists let through.
fn tables(dump: &Dump) -> Result<String, Failure> {
    let mut names = Vec::new();
    for message in dump.topics.values().flat_map(|topic| &topic.messages) {
        let text = |name| message.source(name).and_then(serde_json::Value::as_str).unwrap_or_default();
        let name = format!("{}.{}", text("schema"), text("table"));
        if name != "." && !names.contains(&name) {
            names.push(name);
        }
    }
    if names.is_empty() {
        return Err(Failure::new("the dump holds no table"));
    }
    let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
    Ok(format!("[{}]", names.join(", ")))
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
