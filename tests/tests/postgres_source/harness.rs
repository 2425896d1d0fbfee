//! One system: its server, its log, and a mirror that applies what is published.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use guitong_connectors::postgres::{Metrics, PostgresSource, SlotWatch};
use guitong_connectors::publish::{PublishSettings, Publisher};
use guitong_connectors::registration;
use guitong_connectors::source::{Kept, Phase, Source, SourceBudget, SourceError, Watch};
use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_log::registry::{Compatibility, RegistryError, SchemaRegistry};
use guitong_log::{ExchangeLog, OwnerId, Record, Role, TopicPartition};
use guitong_schemas::avro::EventForm;
use guitong_schemas::avro::schema::SourceKind;
use guitong_schemas::change::{Cell, Change, Operation, RowImage};
use guitong_schemas::contract::system::{
    GapPolicy, Limits, Origins, PostgresConfig, SnapshotConfig, SourceConfig, System, TablePattern,
};
use guitong_schemas::contract::{Name, Secret};
use guitong_schemas::position::Version;
use guitong_schemas::table::{Table, TableName};
use guitong_tests::everything;
use guitong_tests::servers::postgres::{ADMIN, Postgres};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const SLOT: &str = "exchange_register";
/// The role of [`prepared`] systems.
pub(crate) const READER: &str = "reader";

/// Defaults of sessions that would change how values are written.
pub(crate) const STRANGE_DEFAULTS: &str = "ALTER DATABASE postgres SET timezone = 'Asia/Shanghai';
    ALTER DATABASE postgres SET datestyle = 'German';
    ALTER DATABASE postgres SET intervalstyle = 'iso_8601';
    ALTER DATABASE postgres SET bytea_output = 'escape';
    ALTER DATABASE postgres SET extra_float_digits = -5;";

/// A system that reads every table of `public` as `user`.
pub(crate) fn system(server: &Postgres, user: &str) -> System {
    system_at(Secret::new(server.url(user)))
}

pub(crate) fn system_at(url: Secret) -> System {
    let config = PostgresConfig {
        exchange: "exchange".into(),
        url,
        primary_url: None,
        slot: SLOT.into(),
        publication: SLOT.into(),
        heartbeat: Duration::from_millis(50),
        on_gap: GapPolicy::Stop,
        origin: Origins::Any,
        streaming: true,
        binary: false,
        failover: false,
    };
    System {
        name: Name::parse("register").unwrap(),
        title: "企业登记".into(),
        department: Name::parse("market").unwrap(),
        source: SourceConfig::Postgres(config),
        tables: vec![TablePattern { schema: "public".into(), name: "*".into() }],
        exclude_columns: Vec::new(),
        keys: Vec::new(),
        snapshot: SnapshotConfig { chunk: 64 << 10, workers: 1, ..SnapshotConfig::default() },
        limits: Limits::default(),
        complete: false,
        form: EventForm::DEFAULT,
    }
}

/// A system that reads as a role with nothing but what `guitong system prepare` prints for it.
pub(crate) async fn prepared(server: &Postgres) -> System {
    prepared_for(server, &["*"]).await
}

/// The same for these tables of `public`.
pub(crate) async fn prepared_for(server: &Postgres, tables: &[&str]) -> System {
    let mut system = system(server, READER);
    system.tables = tables.iter().map(|name| TablePattern { schema: "public".into(), name: (*name).into() }).collect();
    server.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC").await.unwrap();
    server.create_role(READER, "").await.unwrap();
    let statements = registration::prepare(&system).await.unwrap();
    registration::apply(&system, Some(&Secret::new(server.url(ADMIN))), &statements).await.unwrap();
    system
}

pub(crate) fn config(system: &mut System) -> &mut PostgresConfig {
    match &mut system.source {
        SourceConfig::Postgres(config) => config,
        other => panic!("{other:?}"),
    }
}

/// Numbers schemas: the publisher asks for ids, and nobody reads them here.
#[derive(Debug, Default)]
pub(crate) struct Numbers(Mutex<Vec<Arc<str>>>);

#[async_trait]
impl SchemaRegistry for Numbers {
    async fn register(&self, _subject: &str, schema: &str) -> Result<u32, RegistryError> {
        let mut known = self.0.lock().unwrap();
        let at = known.iter().position(|other| &**other == schema).unwrap_or_else(|| {
            known.push(schema.into());
            known.len() - 1
        });
        Ok(u32::try_from(at).unwrap())
    }

    async fn schema(&self, id: u32) -> Result<Arc<str>, RegistryError> {
        let known = self.0.lock().unwrap();
        known.get(id as usize).cloned().ok_or(RegistryError::NoSchema { id })
    }

    async fn set_compatibility(&self, _subject: &str, _level: Compatibility) -> Result<(), RegistryError> {
        Ok(())
    }
}

/// A log that outlives the source's sessions.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) log: EmbeddedLog,
    pub(crate) registry: Arc<Numbers>,
    metrics: Metrics,
    pub(crate) prometheus: prometheus::Registry,
    home: TempDir,
}

impl Exchange {
    pub(crate) async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(&EmbeddedConfig { path: home.path().join("log.db"), max_bytes: None }).await.unwrap();
        let prometheus = prometheus::Registry::new();
        let metrics = Metrics::register(&prometheus).unwrap();
        Self { log, registry: Arc::default(), metrics, prometheus, home }
    }

    pub(crate) async fn connect(&self, system: &System) -> Result<Session, SourceError> {
        self.connect_with(system, 4 << 20).await
    }

    pub(crate) async fn connect_with(&self, system: &System, batch: usize) -> Result<Session, SourceError> {
        self.open(system, batch, self.home.path()).await
    }

    /// With another directory for files beside the log, named from its own.
    pub(crate) async fn connect_in(&self, system: &System, directory: &str) -> Result<Session, SourceError> {
        self.open(system, 4 << 20, &self.home.path().join(directory)).await
    }

    pub(crate) fn settings(system: &System) -> PublishSettings {
        PublishSettings {
            system: "register".into(),
            database: "postgres".into(),
            kind: SourceKind::Postgres,
            trace: Duration::from_secs(86_400),
            max_record: 16 << 20,
            complete: system.complete,
            form: system.form.clone(),
        }
    }

    async fn open(&self, system: &System, batch: usize, directory: &Path) -> Result<Session, SourceError> {
        let owned = self.log.open(&OwnerId::new(Role::Connect, "register")).await.unwrap();
        let settings = Self::settings(system);
        let registry: Arc<dyn SchemaRegistry> = Arc::<Numbers>::clone(&self.registry);
        let publisher = Publisher::new(owned, Arc::new(self.log.clone()), registry, settings).await.unwrap();
        let system = Arc::new(system.clone());
        let watch = Arc::new(SlotWatch::new(Arc::clone(&system), &self.metrics));
        let kept = watch.kept();
        let ended = CancellationToken::new();
        let looking = ended.clone().drop_guard();
        tokio::spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = watch.run(&|_| {}) => {}
            }
        });
        let source =
            PostgresSource::connect(system, publisher.position(), directory.into(), (&self.metrics, kept.clone())).await?;
        Ok(Session { source, publisher, batch, kept, looking })
    }

    /// The stored position.
    pub(crate) async fn stored(&self) -> serde_json::Value {
        let owned = self.log.open(&OwnerId::new(Role::Connect, "register")).await.unwrap();
        json(&owned.position().unwrap())
    }

    /// Connects again until the server has let the earlier connection go.
    pub(crate) async fn reconnect(&self, system: &System) -> Session {
        self.reconnect_in(system, "").await
    }

    pub(crate) async fn reconnect_in(&self, system: &System, directory: &str) -> Session {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match self.connect_in(system, directory).await {
                Ok(session) => return session,
                Err(error) if error.is_transient() && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Everything that a topic holds.
    pub(crate) async fn records(&self, topic: &str) -> Vec<Record> {
        everything(&self.log, &TopicPartition::new(topic, 0)).await
    }

    pub(crate) fn schema(&self, id: u32) -> Arc<str> {
        Arc::clone(&self.registry.0.lock().unwrap()[id as usize])
    }

    pub(crate) fn metric(&self, name: &str) -> u64 {
        self.sum(name, |metric| metric.get_counter().get_value())
    }

    pub(crate) fn gauge(&self, name: &str) -> u64 {
        self.sum(name, |metric| metric.get_gauge().get_value())
    }

    fn sum(&self, name: &str, value: impl Fn(&prometheus::proto::Metric) -> f64) -> u64 {
        let families = self.prometheus.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap_or_else(|| panic!("no metric {name}"));
        family.get_metric().iter().map(|metric| value(metric) as u64).sum()
    }
}

/// One connection of the source, with the publisher behind it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) source: PostgresSource,
    pub(crate) publisher: Publisher,
    pub(crate) batch: usize,
    /// What the server keeps.
    pub(crate) kept: watch::Receiver<Kept>,
    /// Dropped, nobody asks for that any more.
    pub(crate) looking: DropGuard,
}

impl Session {
    pub(crate) fn budget(&self) -> SourceBudget {
        SourceBudget { bytes: self.batch, wait: Duration::from_millis(100) }
    }

    /// One batch, published and confirmed.
    pub(crate) async fn step(&mut self) -> Result<Vec<Change>, SourceError> {
        let batch = self.source.next_batch(self.budget()).await?;
        let changes = batch.changes.clone();
        if let Some(durable) = self.publisher.publish(batch).await.unwrap() {
            self.source.confirm(durable).await?;
        }
        Ok(changes)
    }

    /// One batch, published, of which the server does not hear.
    pub(crate) async fn step_unconfirmed(&mut self) -> Vec<Change> {
        let batch = self.source.next_batch(self.budget()).await.unwrap();
        let changes = batch.changes.clone();
        self.publisher.publish(batch).await.unwrap();
        changes
    }

    /// One batch that is read and then lost with the process.
    pub(crate) async fn read_and_lose(&mut self) -> Vec<Change> {
        self.source.next_batch(self.budget()).await.unwrap().changes
    }

    /// Changes until `enough` says so of all of them.
    pub(crate) async fn until(&mut self, mut enough: impl FnMut(&[Change]) -> bool) -> Vec<Change> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut all = Vec::new();
        while !enough(&all) {
            assert!(Instant::now() < deadline, "{} changes, then nothing: {}", all.len(), show(&all));
            all.extend(self.step().await.unwrap());
        }
        all
    }

    pub(crate) async fn take(&mut self, count: usize) -> Vec<Change> {
        let all = self.until(|all| all.len() >= count).await;
        assert_eq!(all.len(), count, "{}", show(&all));
        all
    }

    /// Everything up to the end of the first load.
    pub(crate) async fn load(&mut self) -> Vec<Change> {
        let deadline = Instant::now() + Duration::from_secs(120);
        let mut all = Vec::new();
        while self.source.status().phase != Phase::Streaming {
            assert!(Instant::now() < deadline, "the first load does not end: {:?}", self.source.status());
            all.extend(self.step().await.unwrap());
        }
        all
    }

    /// Nothing comes any more.
    pub(crate) async fn quiet(&mut self) {
        for _ in 0..3 {
            let more = self.step().await.unwrap();
            assert!(more.is_empty(), "{}", show(&more));
        }
    }
}

/// A change in one line: `u public.t [1,a] <- [1,b]`.
pub(crate) fn line(change: &Change) -> String {
    let row = |image: &RowImage| {
        let cells: Vec<String> = image
            .cells()
            .map(|cell| match cell.unwrap() {
                Cell::Null => "~".to_owned(),
                Cell::Absent => "?".to_owned(),
                Cell::Text(text) | Cell::Binary(text) => String::from_utf8_lossy(text).into_owned(),
            })
            .collect();
        format!("[{}]", cells.join(","))
    };
    let mut out = format!("{} {}", change.operation.code(), change.table.name.name);
    if let Some(after) = &change.after {
        out.push_str(&format!(" {}", row(after)));
    }
    if let Some(before) = change.before.row() {
        out.push_str(&format!(" <-{} {}", change.before.code(), row(before)));
    }
    out
}

pub(crate) fn lines(changes: &[Change]) -> Vec<String> {
    changes.iter().map(line).collect()
}

fn show(changes: &[Change]) -> String {
    lines(&changes[..changes.len().min(40)]).join("\n")
}

/// Versions rise from change to change, across batches and sessions.
pub(crate) fn assert_rising(changes: &[Change]) {
    for pair in changes.windows(2) {
        assert!(pair[0].version < pair[1].version, "{} then {}", pair[0].version, pair[1].version);
    }
}

/// A row as text, with the version that it has.
type Versioned = (Version, Vec<Option<String>>);

/// Rows by key, as a sink that applies each change in turn would have them.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    pub(crate) rows: BTreeMap<(TableName, Vec<String>), Versioned>,
    /// The row that was deleted last: the other half of a key change has the same LSN.
    deleted: Option<Versioned>,
}

impl Mirror {
    pub(crate) fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            self.apply_one(change);
        }
    }

    fn apply_one(&mut self, change: &Change) {
        let name = change.table.name.clone();
        if change.operation == Operation::Truncate {
            self.rows.retain(|(table, _), _| *table != name);
            return;
        }
        let key = |image: &RowImage| (name.clone(), key_of(&change.table, image));
        let Some(after) = &change.after else {
            let before = change.before.row().expect("a delete has a before image");
            self.deleted = self.rows.remove(&key(before)).map(|(_, row)| (change.version, row));
            return;
        };
        let key = key(after);
        let moved = self.deleted.take().filter(|(version, _)| {
            (version.commit, version.change, version.index + 1)
                == (change.version.commit, change.version.change, change.version.index)
        });
        let old = self.rows.get(&key).or(moved.as_ref());
        if let Some((version, _)) = old {
            assert!(*version < change.version, "{} after {version}", line(change));
        }
        let values = cells(after).into_iter().enumerate().map(|(at, cell)| match (cell, old) {
            (Ok(value), _) => value,
            (Err(()), Some((_, known))) => known[at].clone(),
            // A row that the first load has not come to yet: reading it must mend this.
            (Err(()), None) => Some("<absent>".to_owned()),
        });
        let values = values.collect();
        self.rows.insert(key, (change.version, values));
    }

    /// The rows of one table.
    pub(crate) fn table(&self, name: &str) -> Vec<Vec<Option<String>>> {
        self.rows.iter().filter(|((table, _), _)| table.name == name).map(|(_, (_, row))| row.clone()).collect()
    }
}

/// Values of a row; `Err` where one was not sent.
fn cells(image: &RowImage) -> Vec<Result<Option<String>, ()>> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    image
        .cells()
        .map(|cell| match cell.unwrap() {
            Cell::Null => Ok(None),
            Cell::Absent => Err(()),
            Cell::Text(bytes) | Cell::Binary(bytes) => Ok(Some(text(bytes))),
        })
        .collect()
}

fn key_of(table: &Table, image: &RowImage) -> Vec<String> {
    let cells = cells(image);
    table.key.iter().map(|&at| cells[at].clone().expect("a key is sent").expect("a key is not null")).collect()
}

/// The bytes of a stored position as JSON.
pub(crate) fn json(position: &Bytes) -> serde_json::Value {
    serde_json::from_slice(position).unwrap()
}
