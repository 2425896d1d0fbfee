//! One department's database, a log, and a mirror that applies what is published.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use guitong_connectors::changelog;
use guitong_connectors::publish::{PublishSettings, Publisher};
use guitong_connectors::source::{Phase, Source, SourceBudget, SourceError};
use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_log::registry::{BuiltinRegistry, SchemaRegistry};
use guitong_log::{ExchangeLog, OwnerId, ReadBudget, Record, Role, TopicPartition};
use guitong_schemas::avro::EventForm;
use guitong_schemas::avro::schema::SourceKind;
use guitong_schemas::avro::{DecodePlan, Value, frame};
use guitong_schemas::change::Operation;
use guitong_schemas::contract::Name;
use guitong_schemas::contract::system::{GapPolicy, Limits, SnapshotConfig, SourceConfig, SqliteConfig, System, TablePattern};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};
use tempfile::TempDir;

pub(crate) struct Department {
    dir: TempDir,
    pub(crate) system: System,
    pub(crate) conn: SqliteConnection,
}

impl Department {
    pub(crate) async fn new(schema: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("登记.db");
        let mut conn = SqliteConnection::connect_with(
            &SqliteConnectOptions::new().filename(&path).create_if_missing(true).journal_mode(SqliteJournalMode::Wal),
        )
        .await
        .unwrap();
        sqlx::raw_sql(AssertSqlSafe(schema.to_owned())).execute(&mut conn).await.unwrap();
        let system = System {
            name: Name::parse("licensing").unwrap(),
            title: "企业登记".into(),
            department: Name::parse("market").unwrap(),
            source: SourceConfig::Sqlite(SqliteConfig {
                exchange: "guitong".into(),
                path,
                poll: Duration::from_millis(200),
                on_gap: GapPolicy::Stop,
            }),
            tables: vec![TablePattern { schema: "main".into(), name: "*".into() }],
            exclude_columns: vec![],
            keys: vec![],
            snapshot: SnapshotConfig { enabled: true, chunk: 2 << 10, ..SnapshotConfig::default() },
            limits: Limits::default(),
            complete: false,
            form: EventForm::DEFAULT,
        };
        Self { dir, system, conn }
    }

    pub(crate) fn on_gap(&mut self, policy: GapPolicy) {
        match &mut self.system.source {
            SourceConfig::Sqlite(config) => config.on_gap = policy,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn config(&self) -> &SqliteConfig {
        match &self.system.source {
            SourceConfig::Sqlite(config) => config,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) async fn run(&mut self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
            .execute(&mut self.conn)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    pub(crate) async fn count(&mut self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut self.conn).await.unwrap()
    }

    pub(crate) async fn prepare(&self) {
        let statements = changelog::prepare_sql(&self.system, self.config()).await.unwrap();
        changelog::apply(&self.system, self.config(), &statements).await.unwrap();
    }

    /// Rows as the mirror has them: every value as text.
    pub(crate) async fn rows(&mut self, sql: &str) -> BTreeSet<Vec<Option<String>>> {
        let rows = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(&mut self.conn).await.unwrap();
        rows.iter().map(|row| (0..row.len()).map(|at| row.get::<Option<String>, _>(at)).collect()).collect()
    }
}

pub(crate) struct Exchange {
    pub(crate) log: Arc<EmbeddedLog>,
    pub(crate) registry: Arc<BuiltinRegistry>,
    _home: TempDir,
}

impl Exchange {
    pub(crate) async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(&EmbeddedConfig { path: home.path().join("log.db"), max_bytes: None }).await.unwrap();
        let registry = BuiltinRegistry::open(&log).await.unwrap();
        Self { log: Arc::new(log), registry: Arc::new(registry), _home: home }
    }

    pub(crate) fn settings(max_record: usize) -> PublishSettings {
        PublishSettings {
            system: "licensing".into(),
            database: "登记".into(),
            kind: SourceKind::Changelog,
            trace: Duration::from_secs(86_400),
            max_record,
            complete: false,
            form: EventForm::DEFAULT,
        }
    }

    pub(crate) async fn connect(&self, department: &Department) -> Result<Session, SourceError> {
        self.connect_with(department, Self::settings(16 << 20)).await
    }

    pub(crate) async fn connect_with(&self, department: &Department, settings: PublishSettings) -> Result<Session, SourceError> {
        let owned = self.log.open(&OwnerId::new(Role::Connect, "licensing")).await.unwrap();
        let log: Arc<dyn ExchangeLog> = Arc::<EmbeddedLog>::clone(&self.log);
        let registry: Arc<dyn SchemaRegistry> = Arc::<BuiltinRegistry>::clone(&self.registry);
        let publisher = Publisher::new(owned, log, registry, settings).await.unwrap();
        let source = changelog::open(&department.system, department.config(), publisher.position()).await?;
        Ok(Session { publisher, source })
    }

    /// Every record of a topic.
    pub(crate) async fn records(&self, topic: &str) -> Vec<Record> {
        let at = TopicPartition::new(topic, 0);
        let end = self.log.bounds(&at).await.unwrap().end;
        let mut reader = self.log.reader(vec![(at, 0)]).await.unwrap();
        let mut records = vec![];
        while records.last().is_none_or(|record: &Record| record.offset + 1 < end) {
            let read = reader.read(ReadBudget { bytes: 1 << 20, wait: Duration::from_secs(5) }).await.unwrap();
            assert!(!read.records.is_empty(), "the log ends at {end}, and reading stops before");
            records.extend(read.records);
        }
        records
    }

    /// The table as its topic tells it, each key's last row; checks on the way that no version comes twice.
    pub(crate) async fn mirror(&self, topic: &str) -> BTreeMap<Vec<u8>, Cells> {
        let mut rows = BTreeMap::new();
        let mut versions = BTreeSet::new();
        for record in self.records(topic).await {
            let key = record.key.clone().unwrap();
            let Some(value) = &record.value else {
                rows.remove(&key[frame::LEN..]);
                continue;
            };
            let version = record.header("guitong-version").unwrap().clone();
            assert!(versions.insert(version.clone()), "version {version:?} came twice");
            let (id, body) = frame::read(value).unwrap();
            let schema = self.registry.schema(id).await.unwrap();
            let plan = DecodePlan::compile(&schema).unwrap();
            let envelope = plan.envelope(body).unwrap();
            match envelope.operation {
                Operation::Delete => {
                    rows.remove(&key[frame::LEN..]);
                }
                _ => {
                    let after = envelope.after.unwrap();
                    rows.insert(key[frame::LEN..].to_vec(), after.iter().map(text).collect());
                }
            }
        }
        rows
    }

    pub(crate) async fn mirrored(&self, topic: &str) -> BTreeSet<Cells> {
        self.mirror(topic).await.into_values().collect()
    }
}

pub(crate) type Cells = Vec<Option<String>>;

fn text(value: &Value<'_>) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Bool(flag) => Some(i64::from(*flag).to_string()),
        Value::Int(number) => Some(number.to_string()),
        Value::Double(number) => Some(format!("{number}")),
        Value::Text(text) => Some((*text).to_owned()),
        Value::Bytes(bytes) => Some(hex::encode_upper(bytes)),
        Value::Decimal { unscaled, scale } => {
            let unscaled =
                unscaled.iter().fold(if unscaled[0] >= 0x80 { -1_i128 } else { 0 }, |all, byte| all << 8 | i128::from(*byte));
            let divisor = 10_i128.pow(u32::try_from(*scale).unwrap());
            let sign = if unscaled < 0 { "-" } else { "" };
            let (whole, rest) = (unscaled.abs() / divisor, unscaled.abs() % divisor);
            Some(format!("{sign}{whole}.{rest:0width$}", width = usize::try_from(*scale).unwrap()))
        }
        other => panic!("{other:?}"),
    }
}

/// One opening of owner and source.
pub(crate) struct Session {
    pub(crate) publisher: Publisher,
    pub(crate) source: Box<dyn Source>,
}

impl Session {
    /// Publishes and confirms until the source has nothing more.
    pub(crate) async fn drain(&mut self) -> Result<usize, SourceError> {
        let mut events = 0;
        loop {
            let batch = self.source.next_batch(SourceBudget { bytes: 8 << 10, wait: Duration::ZERO }).await?;
            let done = batch.position.is_none() && self.source.status().phase == Phase::Streaming;
            events += batch.changes.len();
            if let Some(durable) = self.publisher.publish(batch).await.unwrap() {
                self.source.confirm(durable).await?;
            }
            if done {
                return Ok(events);
            }
        }
    }

    /// Publishes one batch and does not confirm it.
    pub(crate) async fn publish_only(&mut self) -> usize {
        let batch = self.source.next_batch(SourceBudget { bytes: 8 << 10, wait: Duration::ZERO }).await.unwrap();
        let events = batch.changes.len();
        drop(self.publisher.publish(batch).await.unwrap());
        events
    }
}
