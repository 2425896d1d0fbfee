//! Where subscribers have what was delivered, read without the product: the rows they hold, and all the bytes that lie there.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use guitong_deliver::pull::{PullError, Puller};
use guitong_schemas::contract::files::{Close, Csv, Encoding, FileFormat, Files, Formulas, Header, Place as Dropped};
use guitong_schemas::contract::webhook::Mode;
use guitong_schemas::contract::{Secret, SinkConfig};
use guitong_tests::containers;
use guitong_tests::receiver::Receiver;
use guitong_tests::servers::mariadb::Mariadb;
use guitong_tests::servers::postgres::{Options, Postgres};
use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{AssertSqlSafe, MySqlPool, PgPool, Row as _, SqlitePool};

use crate::model::Model;
use crate::policy::{BETWEEN, Policy};

/// Rows by their keys, columns by their names.
pub(crate) type Rows = BTreeMap<String, BTreeMap<String, Option<String>>>;

const KEY: &str = "guitong_key";

/// The servers that all subscribers share.
pub(crate) struct Servers {
    server: Postgres,
    postgres: PgPool,
    /// Of what the server logged: up to where it was read, and by user what nobody took yet.
    logged: Mutex<(usize, HashMap<String, Vec<u8>>)>,
    _mariadb: Mariadb,
    mariadb_url: String,
    mariadb: MySqlPool,
}

impl Servers {
    pub(crate) async fn start() -> Self {
        let options = Options::default().set("log_statement", "all").set("log_line_prefix", "%u|").set("max_connections", "500");
        let postgres = Postgres::start_with(options).await.unwrap();
        postgres.create_role("office", "").await.unwrap();
        postgres.execute("CREATE SCHEMA shared AUTHORIZATION office").await.unwrap();
        let mariadb = Mariadb::start().await.unwrap();
        mariadb.create_user("office", "shared", "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP").await.unwrap();
        Self {
            postgres: postgres.admin().await.unwrap(),
            server: postgres,
            logged: Mutex::default(),
            mariadb_url: mariadb.url("office", "shared"),
            mariadb: mariadb.admin().await.unwrap(),
            _mariadb: mariadb,
        }
    }

    /// The address of a user of his own, by whom the server's log tells what he sent. What he makes belongs to the office.
    async fn postgres_user(&self, name: &str) -> String {
        self.server.create_role(name, "IN ROLE office").await.unwrap();
        self.server.execute(&format!("ALTER ROLE \"{name}\" SET role = office")).await.unwrap();
        self.server.url(name)
    }

    /// What the server logged of a user's statements, with their parameters, since it was last asked.
    fn logged(&self, user: &str) -> Vec<u8> {
        let (read, by_user) = &mut *self.logged.lock().unwrap();
        let log = std::fs::read(self.server.log_path()).unwrap();
        let whole = log.iter().rposition(|byte| *byte == b'\n').map_or(*read, |end| end + 1);
        let mut of = String::new();
        for line in log[*read..whole].split_inclusive(|byte| *byte == b'\n') {
            // What goes on in another line is indented there.
            if let Some(end) = line.iter().position(|byte| *byte == b'|').filter(|_| line[0] != b'\t') {
                of = String::from_utf8_lossy(&line[..end]).into_owned();
            }
            by_user.entry(of.clone()).or_default().extend(line);
        }
        *read = whole;
        by_user.remove(user).unwrap_or_default()
    }
}

/// A subscriber's end.
pub(crate) enum Place {
    /// With the address of its own user.
    Postgres(Arc<Servers>, String),
    Mariadb(Arc<Servers>),
    Sqlite(PathBuf),
    Files {
        folder: PathBuf,
        state: PathBuf,
        format: FileFormat,
    },
    Webhook(Arc<Receiver>, Mode),
    Pull,
}

const CSV: FileFormat = FileFormat::Csv(Csv { encoding: Encoding::Gb18030, header: Header::Names, formulas: Formulas::Escaped });
const MODES: [Mode; 3] = [Mode::Binary, Mode::Structured, Mode::Batch];

impl Place {
    /// One after the other, all kinds; endpoints speak another mode in each world.
    pub(crate) async fn new(name: &str, (world, number): (usize, usize), home: &Path, servers: &Arc<Servers>) -> Self {
        let files = |format| {
            let (folder, state) = (home.join(format!("drop-{number}")), home.join(format!("state-{number}")));
            std::fs::create_dir(&folder).unwrap();
            Self::Files { folder, state, format }
        };
        match number % 9 {
            0 => Self::Postgres(Arc::clone(servers), servers.postgres_user(name).await),
            1 => Self::Webhook(Receiver::start().await, MODES[(world + number / 9) % MODES.len()]),
            2 => Self::Sqlite(home.join(format!("subscriber-{number}.db"))),
            3 => Self::Pull,
            4 => Self::Mariadb(Arc::clone(servers)),
            5 => files(FileFormat::JsonLines),
            6 => files(FileFormat::Avro),
            7 => files(FileFormat::Parquet),
            _ => files(CSV),
        }
    }

    pub(crate) fn config(&self, name: &str) -> SinkConfig {
        let table = name.to_owned();
        match self {
            Self::Postgres(_, url) => SinkConfig::Postgres { url: Secret::new(url.clone()), schema: "shared".into(), table },
            Self::Mariadb(servers) => SinkConfig::Mysql { url: Secret::new(servers.mariadb_url.clone()), table },
            Self::Sqlite(path) => SinkConfig::Sqlite { path: path.clone(), table },
            Self::Files { folder, state, format } => {
                let close = Close { size: 1 << 20, after: Duration::ZERO, daily: false };
                SinkConfig::Files(Box::new(Files {
                    place: Dropped::Folder(folder.clone()),
                    state: state.clone(),
                    format: *format,
                    close,
                }))
            }
            Self::Webhook(receiver, mode) => receiver.sink(*mode),
            Self::Pull => SinkConfig::Pull { keep: Duration::from_secs(86_400) },
        }
    }

    /// Whether it takes no U+0000.
    pub(crate) fn refuses_zero(&self) -> bool {
        matches!(self, Self::Postgres(..) | Self::Files { format: FileFormat::Csv(_), .. })
    }

    /// What the subscriber holds.
    pub(crate) async fn rows(&self, name: &str, model: &Model, policy: &Policy, puller: Option<&Puller>) -> Rows {
        let columns = policy.columns(model);
        let mut names: Vec<&str> = columns.keys().map(String::as_str).collect();
        if !policy.is_clear(model) {
            names.push(KEY);
        }
        let rows: Vec<BTreeMap<String, Option<String>>> = match self {
            Self::Postgres(servers, _) => {
                let shown = names.iter().map(|name| match *name {
                    KEY => format!("encode({KEY}, 'hex')"),
                    name => format!("to_jsonb(t) ->> '{name}'"),
                });
                let sql = format!("SELECT {} FROM shared.\"{name}\" t", shown.collect::<Vec<_>>().join(", "));
                let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&servers.postgres).await.unwrap();
                rows.iter().map(|row| named(&names, |at| row.get(at))).collect()
            }
            Self::Mariadb(servers) => {
                let shown = names.iter().map(|name| match *name {
                    KEY => format!("lower(hex({KEY}))"),
                    name => format!("CAST(`{name}` AS CHAR)"),
                });
                let sql = format!("SELECT {} FROM shared.`{name}`", shown.collect::<Vec<_>>().join(", "));
                let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&servers.mariadb).await.unwrap();
                rows.iter().map(|row| named(&names, |at| row.get(at))).collect()
            }
            Self::Sqlite(path) => {
                let shown = names.iter().map(|name| match *name {
                    KEY => format!("lower(hex({KEY}))"),
                    name => format!("CAST(\"{name}\" AS TEXT)"),
                });
                let sql = format!("SELECT {} FROM \"{name}\"", shown.collect::<Vec<_>>().join(", "));
                let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&opened(path).await).await.unwrap();
                rows.iter().map(|row| named(&names, |at| row.get(at))).collect()
            }
            Self::Files { folder, format, .. } => dropped(folder, *format, &columns),
            Self::Webhook(receiver, _) => sent(receiver),
            Self::Pull => pulled(puller.unwrap()).await,
        };
        let parts: Vec<&str> =
            if policy.is_clear(model) { model.key.iter().map(|part| part.name.as_str()).collect() } else { vec![KEY] };
        let count = rows.len();
        let keyed = rows.into_iter().map(|mut row| {
            let key: Vec<_> = parts.iter().map(|part| row[*part].clone().unwrap()).collect();
            row.remove(KEY);
            for name in columns.iter().filter(|(_, is_list)| **is_list).map(|(name, _)| name) {
                let list = row[name]
                    .as_ref()
                    .map(|text| serde_json::from_str::<Value>(text).unwrap_or_else(|_| text.as_str().into()).to_string());
                row.insert(name.clone(), list);
            }
            (key.join(BETWEEN), row)
        });
        let keyed: Rows = keyed.collect();
        assert_eq!(keyed.len(), count, "{name}: a key is there twice");
        keyed
    }

    /// What whoever looks there can read now; and what the exchange keeps there of its own.
    pub(crate) async fn readable(&self, name: &str, outbox: &Path, puller: Option<&Puller>) -> [Vec<u8>; 2] {
        let is_own = |table: &str| table.starts_with("guitong_");
        match self {
            Self::Postgres(servers, _) => servers.in_postgres(name).await,
            Self::Mariadb(servers) => {
                [servers.in_mariadb(&[name], "true").await, servers.in_mariadb(&OWN, &format!("subscription = '{name}'")).await]
            }
            Self::Sqlite(path) if path.exists() => {
                let pool = opened(path).await;
                [
                    all_of(&pool, |table| (!is_own(table)).to_string()).await,
                    all_of(&pool, |table| is_own(table).to_string()).await,
                ]
            }
            Self::Sqlite(_) | Self::Webhook(..) => Default::default(),
            Self::Files { folder, .. } => [bytes_in(folder), Vec::new()],
            Self::Pull if outbox.exists() => {
                let pool = opened(outbox).await;
                let mut shown = all_of(&pool, |table| table.ends_with(&format!(".{name}")).to_string()).await;
                if let Some(puller) = puller {
                    shown.extend(format!("{:?}", events(puller).await).into_bytes());
                }
                let own =
                    |table: &str| if OWN.contains(&table) { format!("subscription = '{name}'") } else { "false".to_owned() };
                [shown, all_of(&pool, own).await]
            }
            Self::Pull => Default::default(),
        }
    }

    /// Every byte on the subscriber's disk, and on the exchange's that is this subscription's alone: also what was removed.
    pub(crate) fn remains(&self) -> Vec<u8> {
        match self {
            Self::Sqlite(path) => bytes_beside(path),
            Self::Files { folder, state, .. } => [bytes_in(folder), bytes_in(state)].concat(),
            Self::Postgres(..) | Self::Mariadb(_) | Self::Webhook(..) | Self::Pull => Vec::new(),
        }
    }

    /// What the subscriber's server was told since the last look, as far as it is logged.
    pub(crate) fn logged(&self, name: &str) -> Vec<u8> {
        match self {
            Self::Postgres(servers, _) => servers.logged(name),
            Self::Mariadb(_) | Self::Sqlite(_) | Self::Files { .. } | Self::Webhook(..) | Self::Pull => Vec::new(),
        }
    }
}

/// Tables of the exchange beside the subscriber's.
const OWN: [&str; 3] = ["guitong_subscriptions", "guitong_offsets", "guitong_deleted"];

impl Servers {
    async fn in_postgres(&self, name: &str) -> [Vec<u8>; 2] {
        let there = "SELECT count(*) FROM pg_tables WHERE schemaname = 'shared' AND tablename = $1";
        if sqlx::query_scalar::<_, i64>(there).bind(name).fetch_one(&self.postgres).await.unwrap() == 0 {
            return Default::default();
        }
        let read = async |sql: String| {
            let rows = sqlx::query_scalar::<_, String>(AssertSqlSafe(sql)).fetch_all(&self.postgres).await.unwrap();
            rows.join("\n").into_bytes()
        };
        let own = OWN.map(|own| format!("SELECT to_jsonb(t)::text FROM shared.{own} t WHERE subscription = '{name}'"));
        [read(format!("SELECT to_jsonb(t)::text FROM shared.\"{name}\" t")).await, read(own.join(" UNION ALL ")).await]
    }

    async fn in_mariadb(&self, tables: &[&str], only: &str) -> Vec<u8> {
        let mut all = Vec::new();
        for table in tables {
            let sql = "SELECT CAST(column_name AS CHAR), CAST(data_type AS CHAR) FROM information_schema.columns
                WHERE table_schema = 'shared' AND table_name = ?";
            let columns: Vec<(String, String)> = sqlx::query_as(sql).bind(*table).fetch_all(&self.mariadb).await.unwrap();
            if columns.is_empty() {
                continue;
            }
            let shown = columns.iter().map(|(column, kind)| match kind.as_str() {
                "varbinary" | "binary" | "blob" | "longblob" => format!("lower(hex(`{column}`))"),
                _ => format!("CAST(`{column}` AS CHAR)"),
            });
            let shown = shown.collect::<Vec<_>>().join(", ");
            let sql = format!("SELECT concat_ws('\\n', {shown}) FROM shared.`{table}` WHERE {only}");
            let rows = sqlx::query_scalar::<_, String>(AssertSqlSafe(sql)).fetch_all(&self.mariadb).await.unwrap();
            all.extend(rows.join("\n").into_bytes());
        }
        all
    }
}

fn named(names: &[&str], value: impl Fn(usize) -> Option<String>) -> BTreeMap<String, Option<String>> {
    names.iter().enumerate().map(|(at, name)| ((*name).to_owned(), value(at))).collect()
}

async fn opened(path: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new().filename(path).busy_timeout(Duration::from_secs(30));
    SqlitePool::connect_with(options).await.unwrap()
}

/// Every value of every table; `only`: which rows of a table.
async fn all_of(pool: &SqlitePool, only: impl Fn(&str) -> String) -> Vec<u8> {
    let tables = sqlx::query_scalar::<_, String>("SELECT name FROM sqlite_master WHERE type = 'table'");
    let mut all = Vec::new();
    for table in tables.fetch_all(pool).await.unwrap() {
        let rows = sqlx::query(AssertSqlSafe(format!("SELECT * FROM \"{table}\" WHERE {}", only(&table))))
            .fetch_all(pool)
            .await
            .unwrap();
        let bytes = |row: &SqliteRow, at: usize| row.get_unchecked::<Option<Vec<u8>>, _>(at).unwrap_or_default();
        rows.iter().for_each(|row| (0..row.len()).for_each(|at| all.extend([bytes(row, at), b"\n".to_vec()].concat())));
    }
    all
}

fn bytes_in(folder: &Path) -> Vec<u8> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    // A file may go while it is looked for.
    let bytes = |path: PathBuf| (path.to_string_lossy().into_owned(), std::fs::read(&path).unwrap_or_default());
    paths
        .map(bytes)
        .flat_map(|(name, bytes)| [name.clone().into_bytes(), bytes.clone(), inflated(&name, bytes)].concat())
        .collect()
}

/// What a compressed file holds.
fn inflated(name: &str, bytes: Vec<u8>) -> Vec<u8> {
    let rows = match name.rsplit_once('.') {
        // A torn one is hidden under another ending.
        Some((_, "avro")) if !bytes.is_empty() => containers::avro(&bytes),
        Some((_, "parquet")) if !bytes.is_empty() => containers::parquet(bytes),
        _ => Vec::new(),
    };
    rows.iter()
        .flat_map(BTreeMap::iter)
        .flat_map(|(name, value)| [name.clone(), value.clone().unwrap_or_default()].concat().into_bytes())
        .collect()
}

/// A database with its journals.
fn bytes_beside(path: &Path) -> Vec<u8> {
    let of = |end: &str| std::fs::read(format!("{}{end}", path.display())).unwrap_or_default();
    ["", "-wal", "-journal", "-shm"].into_iter().flat_map(of).collect()
}

/// A JSON value as text.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn object(value: &Value) -> BTreeMap<String, Option<String>> {
    value.as_object().unwrap().iter().map(|(name, value)| (name.clone(), text(value))).collect()
}

/// What is left to whoever reads every file of the last generation in its order.
fn dropped(folder: &Path, format: FileFormat, columns: &BTreeMap<String, bool>) -> Vec<BTreeMap<String, Option<String>>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.to_string_lossy().ends_with(".manifest.json")).collect();
    paths.sort();
    let read = |path: &PathBuf| serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).unwrap();
    let manifests: Vec<Value> = paths.iter().map(read).collect();
    let mut held = BTreeMap::new();
    for manifest in &manifests {
        assert_eq!(manifest["generation"], manifests[0]["generation"], "files of earlier generations are removed");
        for file in manifest["files"].as_array().unwrap() {
            let bytes = std::fs::read(folder.join(file["name"].as_str().unwrap())).unwrap();
            for mut change in changes(&bytes, format, columns) {
                change.remove("guitong_position");
                let operation = change.remove("guitong_op").flatten();
                let key: Vec<_> =
                    manifest["key"].as_array().unwrap().iter().map(|name| change[name.as_str().unwrap()].clone()).collect();
                match operation.as_deref() {
                    Some("upsert") => drop(held.insert(key, change)),
                    _ => drop(held.remove(&key)),
                }
            }
        }
    }
    held.into_values().collect()
}

fn changes(bytes: &[u8], format: FileFormat, columns: &BTreeMap<String, bool>) -> Vec<BTreeMap<String, Option<String>>> {
    match format {
        FileFormat::JsonLines => {
            let lines = std::str::from_utf8(bytes).unwrap().lines();
            return lines.map(|line| object(&serde_json::from_str(line).unwrap())).collect();
        }
        FileFormat::Avro => return containers::avro(bytes),
        FileFormat::Parquet => return containers::parquet(bytes.to_vec()),
        FileFormat::Csv(_) => {}
    }
    let (decoded, damaged) = encoding_rs::GB18030.decode_without_bom_handling(bytes);
    assert!(!damaged);
    let mut reader = csv::Reader::from_reader(decoded.as_bytes());
    let names = reader.headers().unwrap().clone();
    let value = |name: &str, text: &str| {
        let is_list = columns.get(name).copied().unwrap_or_default();
        let list = || serde_json::to_string(&text.split(';').collect::<Vec<_>>()).unwrap();
        (!text.is_empty()).then(|| if is_list { list() } else { text.to_owned() })
    };
    let row =
        |record: csv::StringRecord| names.iter().zip(&record).map(|(name, text)| (name.to_owned(), value(name, text))).collect();
    reader.records().map(|record| row(record.unwrap())).collect()
}

/// What an endpoint holds that takes the newest of each subject, and of what came again the last.
fn sent(receiver: &Receiver) -> Vec<BTreeMap<String, Option<String>>> {
    let mut held: BTreeMap<String, (String, Option<Value>)> = BTreeMap::new();
    for came in receiver.taken() {
        if held.get(&came.subject).is_none_or(|(sequence, _)| *sequence <= came.sequence) {
            held.insert(came.subject, (came.sequence, (!came.deleted).then_some(came.data)));
        }
    }
    held.into_values().filter_map(|(_, data)| data.as_ref().map(object)).collect()
}

/// Every change that can be pulled.
async fn events(puller: &Puller) -> Vec<(String, Option<String>)> {
    let (mut all, mut at) = (Vec::new(), None);
    loop {
        let page = match puller.events(at.as_ref(), 100).await {
            Ok(page) => page,
            Err(PullError::Stopped(_) | PullError::Held(_) | PullError::Filling) => return Vec::new(),
            Err(error) => panic!("{error}"),
        };
        all.extend(page.events.into_iter().map(|event| (event.key, event.record)));
        if !page.more {
            return all;
        }
        at = Some(page.next);
    }
}

/// Rows as the snapshot has them, which are those that all changes lead to.
async fn pulled(puller: &Puller) -> Vec<BTreeMap<String, Option<String>>> {
    let parsed = |text: &str| object(&serde_json::from_str(text).unwrap());
    let mut replayed = BTreeMap::new();
    for (key, record) in events(puller).await {
        match record {
            Some(record) => drop(replayed.insert(key, record)),
            None => drop(replayed.remove(&key)),
        }
    }
    let (mut rows, mut page) = (BTreeMap::new(), None);
    loop {
        let at = page.as_ref().map(|(live, next)| (live, *next));
        let part = puller.snapshot(at, 7).await.unwrap();
        rows.extend(part.rows);
        let Some(next) = part.next else { break };
        page = Some((part.live, next));
    }
    assert_eq!(rows, replayed, "changes lead to the snapshot");
    let whole = |(key, record): (String, String)| parsed(&key).into_iter().chain(parsed(&record)).collect();
    rows.into_iter().map(whole).collect()
}
