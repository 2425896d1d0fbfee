//! `systems/<name>.toml`: a department's database and how it is tailed.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Time;
use jiff::tz::TimeZone;

use super::load::World;
use super::reading::document::Found;
use super::reading::scalar;
use super::reading::section::Section;
use super::{Name, Secret, form};
use crate::avro::EventForm;
use crate::avro::schema::SourceKind;
use crate::delivered::OWN;
use crate::table::TableName;

#[derive(Debug, Clone, PartialEq)]
pub struct System {
    pub name: Name,
    pub title: String,
    pub department: Name,
    pub source: SourceConfig,
    /// Patterns `schema.table` in which `*` stands for any run of characters.
    pub tables: Vec<TablePattern>,
    /// `schema.table.column`: cut before anything leaves the department.
    pub exclude_columns: Vec<(TableName, String)>,
    /// Key of tables that declare none in the database.
    pub keys: Vec<(TableName, Vec<String>)>,
    pub snapshot: SnapshotConfig,
    pub limits: Limits,
    /// Complete columns that the source did not send from keyed state; `false` gives Debezium's markers.
    pub complete: bool,
    /// How rows become events.
    pub form: EventForm,
}

impl System {
    /// Whether the table is tailed: one that `tables` names and that is none of an exchange's own.
    #[must_use]
    pub fn tails(&self, table: &TableName) -> bool {
        !OWN.contains(&table.name.as_str()) && self.tables.iter().any(|pattern| pattern.matches(table))
    }
}

/// Which database, and how to reach it.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceConfig {
    Postgres(PostgresConfig),
    Sqlite(SqliteConfig),
}

#[derive(Debug, Clone, PartialEq)]
pub struct PostgresConfig {
    /// Name of the exchange, which takes nothing of what it delivers itself ([`crate::delivered`]).
    pub exchange: String,
    /// `postgres://user:password@host:port/database?sslmode=…&sslrootcert=…`
    pub url: Secret,
    /// Where `url` leads to a standby, which then decodes: its primary, on which tables are read and watermarks are written.
    pub primary_url: Option<Secret>,
    /// Default `<exchange>_<system>`, dashes as underscores.
    pub slot: String,
    /// Default as `slot`.
    pub publication: String,
    /// How often an idle database is written to (a logical message), so that its slot can advance.
    pub heartbeat: Duration,
    pub on_gap: GapPolicy,
    pub origin: Origins,
    /// Receive what transactions have changed before they are committed, once the server holds some MiB of it, and keep it here until
    /// then; `false` leaves it with the server.
    pub streaming: bool,
    /// Receive values in the server's binary form where every table of the system can be read so. `false` is text.
    pub binary: bool,
    /// Standbys may keep a copy of the slot, so that changes go on after one of them took over. The server has to be 17 or newer.
    pub failover: bool,
}

/// Which changes are taken, by their replication origin (PostgreSQL documentation, "Replication Progress Tracking").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origins {
    #[default]
    Any,
    /// Only those without one, which nobody replicated into the database. The server has to be 16 or newer.
    None,
}

#[derive(Debug, Clone, PartialEq)]
pub struct SqliteConfig {
    /// As [`PostgresConfig::exchange`].
    pub exchange: String,
    pub path: PathBuf,
    /// Longest time between two looks when the file gives no sign of change.
    pub poll: Duration,
    pub on_gap: GapPolicy,
}

/// What a connector does when changes may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GapPolicy {
    #[default]
    Stop,
    /// Read everything again under a new epoch.
    Resnapshot,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablePattern {
    pub schema: String,
    pub name: String,
}

impl TablePattern {
    #[must_use]
    pub fn matches(&self, table: &TableName) -> bool {
        glob(&self.schema, &table.schema) && glob(&self.name, &table.name)
    }
}

/// Matches `text` against `pattern`, in which `*` stands for any run of characters.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| rest.get(at..).is_some_and(|end| glob(tail, end)))
        }),
    }
}

/// How tables are read for the first time and again.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotConfig {
    /// `false`: only changes from now on.
    pub enabled: bool,
    /// Bytes a chunk aims at.
    pub chunk: usize,
    /// Of all workers together.
    pub rows_per_second: Option<u32>,
    /// Connections that read at the same time.
    pub workers: usize,
    /// Hours outside which nothing is read.
    pub window: Option<Window>,
    /// Conditions in the database's own SQL: only such rows are read at first.
    pub filters: Vec<(TableName, String)>,
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self { enabled: true, chunk: 4 << 20, rows_per_second: None, workers: 2, window: None, filters: Vec::new() }
    }
}

impl SnapshotConfig {
    /// The condition that a table's rows are read under.
    #[must_use]
    pub fn filter(&self, table: &TableName) -> Option<&str> {
        self.filters.iter().find(|(of, _)| of == table).map(|(_, filter)| filter.as_str())
    }
}

/// Hours of the day, `22:00-06:00` over midnight.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    pub from: Time,
    pub to: Time,
    pub zone: TimeZone,
}

impl Window {
    /// When the window opens again; `None` where it is open.
    #[must_use]
    pub fn opens(&self, now: Timestamp) -> Option<Timestamp> {
        let now = now.to_zoned(self.zone.clone());
        let time = now.time();
        let open = if self.from <= self.to { self.from <= time && time < self.to } else { self.from <= time || time < self.to };
        if open {
            return None;
        }
        let day = if time < self.from { Ok(now.date()) } else { now.date().tomorrow() };
        // A day beyond the calendar's end never comes.
        day.and_then(|day| day.to_datetime(self.from).to_zoned(self.zone.clone()))
            .map_or(Some(Timestamp::MAX), |at| Some(at.timestamp()))
    }
}

/// What the department allows beside the hours and rows of the snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of log that the department's server may keep because of this system before reading of tables waits.
    pub retained_log: Option<u64>,
}

impl SourceConfig {
    /// The schema of tables that are named without one.
    #[must_use]
    pub fn usual_schema(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "public",
            Self::Sqlite(_) => "main",
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Postgres,
    Sqlite,
}

impl Kind {
    fn of_source(self) -> SourceKind {
        match self {
            Self::Postgres => SourceKind::Postgres,
            Self::Sqlite => SourceKind::Changelog,
        }
    }
}

/// What other files need to know of a system, as far as its own file could be read.
#[derive(Debug, Default)]
pub(super) struct Outline {
    pub(super) usual_schema: Option<&'static str>,
    /// `None`: the list has a problem of its own.
    pub(super) tables: Option<Vec<TablePattern>>,
    pub(super) exclude_columns: Vec<(TableName, String)>,
    /// Which database it is, as [`database`] or a file's path tells it.
    pub(super) database: Option<String>,
    pub(super) form: EventForm,
}

/// Host, port and name of a database on a server, whoever connects to it.
pub(super) fn database(url: &Secret, usual_port: u16) -> Option<String> {
    let (_, rest) = url.reveal().split_once("://")?;
    let place = rest.split('?').next()?;
    let (address, name) = place.rsplit_once('@').map_or(place, |(_, place)| place).split_once('/')?;
    let port = if address.contains(':') { String::new() } else { format!(":{usual_port}") };
    Some(format!("{}{port}/{name}", address.to_lowercase()))
}

pub(super) fn read(name: Option<Name>, root: Section<'_>, world: &World<'_>) -> (Outline, Option<System>) {
    let title = root.required("title", Section::words);
    let department = root.required("department", |root, key| world.department(root, key));
    let kind = root.required("kind", |root, key| root.choice(key, &[("postgres", Kind::Postgres), ("sqlite", Kind::Sqlite)]));
    let usual = match kind.as_ref().map(|kind| kind.value) {
        Some(Kind::Postgres) => Some("public"),
        Some(Kind::Sqlite) => Some("main"),
        None => None,
    };
    let source = match kind.as_ref().map(|kind| kind.value) {
        Some(Kind::Postgres) => read_postgres(name.as_ref(), &root, world).map(SourceConfig::Postgres),
        Some(Kind::Sqlite) => read_sqlite(&root, world).map(SourceConfig::Sqlite),
        None => {
            // Without a kind every key of every kind may be right.
            ["url", "slot", "publication", "heartbeat", "on_gap", "origin", "streaming", "binary", "primary_url", "path", "poll"]
                .iter()
                .for_each(|key| root.know(key));
            None
        }
    };
    let schema = usual.unwrap_or("public");
    let tables = root.required("tables", |root, key| read_tables(root, key, schema));
    let exclude_columns = root.texts("exclude_columns").map_or_else(Vec::new, |found| read_excluded(&root, &found, schema));
    let keys = root.own_section("keys").map_or_else(Vec::new, |section| read_keys(section, schema, tables.as_deref()));
    let complete = root.flag("complete").is_none_or(|found| found.value);
    let snapshot = root.own_section("snapshot");
    let snapshot = snapshot.map_or_else(SnapshotConfig::default, |section| match &source {
        Some(SourceConfig::Sqlite(_)) => {
            let plain = read_plain_snapshot(&section);
            section.finish();
            plain
        }
        _ => read_snapshot(section, schema, world, tables.as_deref()),
    });
    let limits = match &source {
        Some(SourceConfig::Sqlite(_)) => Limits::default(),
        _ => root.own_section("limits").map_or_else(Limits::default, read_limits),
    };
    let form = form::read(&root, kind.as_ref().map(|kind| kind.value.of_source()));
    check_prefix(name.as_ref(), &root, &form, world);
    root.finish();
    let database = match &source {
        Some(SourceConfig::Postgres(config)) => database(&config.url, 5432),
        Some(SourceConfig::Sqlite(config)) => Some(config.path.to_string_lossy().into_owned()),
        None => None,
    };
    let outline = Outline {
        usual_schema: usual,
        tables: tables.clone(),
        exclude_columns: exclude_columns.clone(),
        database,
        form: form.clone(),
    };
    let system = (|| {
        let (title, department, source, tables) = (title?.value, department?.value, source?, tables?);
        Some(System { name: name?, title, department, source, tables, exclude_columns, keys, snapshot, limits, complete, form })
    })();
    (outline, system)
}

/// Topics of two systems never meet: no prefix is the beginning of another.
fn check_prefix(name: Option<&Name>, root: &Section<'_>, form: &EventForm, world: &World<'_>) {
    let (Some(name), Some(prefix)) = (name, &form.topic_prefix) else { return };
    let within =
        |inner: &str, outer: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let other = world
        .systems
        .iter()
        .find(|(_, other)| other.form.topic_prefix.as_ref().is_some_and(|other| within(prefix, other) || within(other, prefix)));
    if let Some((other, _)) = other {
        let message = format_args!("the topics of {name} would stand among those of {other}: both begin with `topic.prefix`");
        root.problem(&root.key_at("debezium"), "duplicate", message, Some("give each system a prefix of its own".to_owned()));
    }
}

fn read_postgres(name: Option<&Name>, root: &Section<'_>, world: &World<'_>) -> Option<PostgresConfig> {
    let usual = format!("{}_{}", world.exchange_name, name.map_or("system", Name::as_str)).replace('-', "_");
    // A slot's name: PostgreSQL, "Replication Slots": lower-case letters, digits and underscores, shorter than NAMEDATALEN.
    let identifier = |text: &str| {
        let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        match plain && (1..=63).contains(&text.len()) {
            true => Ok(text.to_owned()),
            false => Err("must be 1 to 63 lower-case letters, digits and underscores".to_owned()),
        }
    };
    let read_url = |root: &Section<'_>, key: &str| {
        let found = root.text(key)?;
        let url = world.surroundings.secret(root, key, &found)?;
        world.surroundings.check_url(root, key, &found, url, scalar::postgres_url)
    };
    let url = root.required("url", read_url);
    let primary_url = root.has("primary_url").then(|| read_url(root, "primary_url"));
    let slot = root.parsed("slot", identifier).map_or_else(|| cut(&usual), |found| found.value);
    let publication = root.parsed("publication", identifier).map_or_else(|| cut(&usual), |found| found.value);
    let heartbeat = root.parsed("heartbeat", scalar::duration).map_or(Duration::from_secs(10), |found| found.value);
    let on_gap = read_gap_policy(root);
    let origins = [("any", Origins::Any), ("none", Origins::None)];
    let origin = root.choice("origin", &origins).map_or_else(Origins::default, |found| found.value);
    let streaming = root.flag("streaming").is_none_or(|found| found.value);
    let binary = root.flag("binary").is_some_and(|found| found.value);
    let failover = root.flag("failover").is_some_and(|found| found.value);
    if failover && primary_url.is_some() {
        let help = "with `failover`, `url` leads to whichever server is the primary; take one of the two out".to_owned();
        root.problem(&root.key_at("failover"), "bad-value", "a slot on a standby cannot be copied to standbys", Some(help));
    }
    let primary_url = match primary_url {
        None => None,
        Some(read) => Some(read?),
    };
    let exchange = world.exchange_name.clone();
    Some(PostgresConfig {
        exchange,
        url: url?,
        primary_url,
        slot,
        publication,
        heartbeat,
        on_gap,
        origin,
        streaming,
        binary,
        failover,
    })
}

fn read_gap_policy(root: &Section<'_>) -> GapPolicy {
    let policies = [("stop", GapPolicy::Stop), ("resnapshot", GapPolicy::Resnapshot)];
    root.choice("on_gap", &policies).map_or_else(GapPolicy::default, |found| found.value)
}

/// PostgreSQL's identifiers end at 63 bytes.
fn cut(name: &str) -> String {
    name.chars().take(63).collect()
}

fn read_sqlite(root: &Section<'_>, world: &World<'_>) -> Option<SqliteConfig> {
    let path = root.required("path", Section::words);
    let poll = |text: &str| match scalar::duration(text)? {
        poll if (Duration::from_millis(1)..=Duration::from_secs(60)).contains(&poll) => Ok(poll),
        _ => Err("must be from 1 ms to 1 min".to_owned()),
    };
    let poll = root.parsed("poll", poll).map_or(Duration::from_millis(100), |found| found.value);
    let on_gap = read_gap_policy(root);
    let (exchange, path) = (world.exchange_name.clone(), world.surroundings.root.join(path?.value));
    Some(SqliteConfig { exchange, path, poll, on_gap })
}

fn read_tables(root: &Section<'_>, key: &str, schema: &str) -> Option<Vec<TablePattern>> {
    let found = root.texts(key)?;
    if found.value.is_empty() {
        root.problem(&found.at, "empty", "`tables` is empty", Some(format!("as [\"{schema}.*\"]")));
        return None;
    }
    let mut patterns: Vec<TablePattern> = Vec::with_capacity(found.value.len());
    let mut sound = true;
    for text in &found.value {
        match scalar::table_name(&text.value, schema).map(|table| TablePattern { schema: table.schema, name: table.name }) {
            Ok(pattern) if patterns.contains(&pattern) => {
                root.problem(
                    &text.at,
                    "duplicate",
                    format_args!("`{}` stands twice in `tables`", scalar::short(&text.value)),
                    None,
                );
            }
            Ok(pattern) => patterns.push(pattern),
            Err(why) => {
                root.problem(&text.at, "bad-value", format_args!("a pattern of `tables` {why}"), None);
                sound = false;
            }
        }
    }
    sound.then_some(patterns)
}

fn read_excluded(root: &Section<'_>, found: &Found<Vec<Found<String>>>, schema: &str) -> Vec<(TableName, String)> {
    let mut columns = Vec::with_capacity(found.value.len());
    for text in &found.value {
        let parts = text.value.rsplit_once('.').filter(|(_, column)| !column.is_empty());
        match parts.and_then(|(table, column)| Some((scalar::table_name(table, schema).ok()?, column.to_owned()))) {
            Some(column) => columns.push(column),
            None => {
                let message = format!("`{}` names no column", scalar::short(&text.value));
                root.problem(&text.at, "bad-value", message, Some(format!("as `{schema}.table.column`")));
            }
        }
    }
    columns
}

fn read_keys(section: Section<'_>, schema: &str, tables: Option<&[TablePattern]>) -> Vec<(TableName, Vec<String>)> {
    let mut keys = Vec::new();
    for key in section.keys() {
        let columns = section.texts(&key.value);
        let table = match scalar::table_name(&key.value, schema) {
            Ok(table) => table,
            Err(why) => {
                section.problem(&key.at, "bad-value", format_args!("a key of `keys` {why}"), None);
                continue;
            }
        };
        if tables.is_some_and(|tables| !tables.iter().any(|pattern| pattern.matches(&table))) {
            section.problem(&key.at, "not-tailed", format_args!("no pattern of `tables` holds {table}"), None);
        }
        let Some(columns) = columns else { continue };
        if columns.value.is_empty() || columns.value.iter().any(|column| column.value.is_empty()) {
            section.problem(&columns.at, "empty", format_args!("the key of {table} names no column"), None);
            continue;
        }
        keys.push((table, columns.value.into_iter().map(|column| column.value).collect()));
    }
    keys
}

/// What every kind of system has.
fn read_plain_snapshot(section: &Section<'_>) -> SnapshotConfig {
    let chunk = |text: &str| match scalar::size(text)? {
        size if ((64 << 10)..=(64 << 20)).contains(&size) => Ok(size),
        _ => Err("must be from 64 KiB to 64 MiB".to_owned()),
    };
    let usual = SnapshotConfig::default();
    SnapshotConfig {
        enabled: section.flag("enabled").is_none_or(|found| found.value),
        chunk: section.parsed("chunk", chunk).map_or(usual.chunk, |found| found.value),
        rows_per_second: section.number("rows_per_second", 1..10_000_001).map(|found| found.value),
        ..usual
    }
}

fn read_snapshot(section: Section<'_>, schema: &str, world: &World<'_>, tables: Option<&[TablePattern]>) -> SnapshotConfig {
    let plain = read_plain_snapshot(&section);
    let filters = section.own_section("where");
    let snapshot = SnapshotConfig {
        workers: section.number("workers", 1..17).map_or(plain.workers, |found| found.value as usize),
        window: section.parsed("window", |text| window(text, &world.zone)).map(|found| found.value),
        filters: filters.map_or_else(Vec::new, |section| read_filters(section, schema, tables)),
        ..plain
    };
    section.finish();
    snapshot
}

fn window(text: &str, zone: &TimeZone) -> Result<Window, String> {
    let time = |text: &str| {
        let (hour, minute) = text.trim().split_once(':')?;
        Time::new(hour.parse().ok()?, minute.parse().ok().filter(|_| minute.len() == 2)?, 0, 0).ok()
    };
    let times = text.split_once('-').and_then(|(from, to)| Some((time(from)?, time(to)?)));
    match times {
        Some((from, to)) if from != to => Ok(Window { from, to, zone: zone.clone() }),
        _ => Err("must be two times of the day as `22:00-06:00`".to_owned()),
    }
}

fn read_filters(section: Section<'_>, schema: &str, tables: Option<&[TablePattern]>) -> Vec<(TableName, String)> {
    let mut filters = Vec::new();
    for key in section.keys() {
        let condition = section.words(&key.value);
        match scalar::table_name(&key.value, schema) {
            Ok(table) if tables.is_some_and(|tables| !tables.iter().any(|pattern| pattern.matches(&table))) => {
                section.problem(&key.at, "not-tailed", format_args!("no pattern of `tables` holds {table}"), None);
            }
            Ok(table) => filters.extend(condition.map(|condition| (table, condition.value))),
            Err(why) => section.problem(&key.at, "bad-value", format_args!("a key of `snapshot.where` {why}"), None),
        }
    }
    section.finish();
    filters
}

fn read_limits(section: Section<'_>) -> Limits {
    let bytes = |text: &str| scalar::size(text).map(|bytes| bytes as u64);
    let limits = Limits { retained_log: section.parsed("retained_log", bytes).map(|found| found.value) };
    section.finish();
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_run() {
        for (pattern, text, holds) in [
            ("qy_*", "qy_jbxx", true),
            ("qy_*", "qx_jbxx", false),
            ("*", "企业登记", true),
            ("*登记*", "企业登记表", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("qy", "qy_jbxx", false),
        ] {
            assert_eq!(glob(pattern, text), holds, "{pattern} {text}");
        }
    }
    #[test]
    fn a_window_opens_in_its_zone_and_over_midnight() {
        let zone = TimeZone::get("Asia/Shanghai").unwrap();
        let night = window("22:00-06:00", &zone).unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        for (now, opens) in [
            ("2026-11-23T14:00:00Z", None),
            ("2026-11-23T21:59:59Z", None),
            ("2026-11-23T22:00:00Z", Some("2026-11-24T14:00:00Z")),
            ("2026-11-24T13:59:59Z", Some("2026-11-24T14:00:00Z")),
        ] {
            assert_eq!(night.opens(at(now)), opens.map(at), "{now}");
        }
        let noon = window("11:30-13:00", &zone).unwrap();
        assert_eq!(noon.opens(at("2026-11-23T04:00:00Z")), None);
        assert_eq!(noon.opens(at("2026-11-23T05:00:00Z")), Some(at("2026-11-24T03:30:00Z")));
        for wrong in ["22-06", "22:00", "24:00-06:00", "6:0-7:00", "06:00-06:00"] {
            assert!(window(wrong, &zone).is_err(), "{wrong}");
        }
    }
}
