//! One resource: its log, its registry, what its connector publishes, and what stands in `std.`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use guitong_connectors::publish::{PublishSettings, Publisher};
use guitong_connectors::source::SourceBatch;
use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_log::registry::{Compatibility, RegistryError, SchemaRegistry};
use guitong_log::{Batch, ExchangeLog, NewRecord, OwnerId, Record, Role, TopicPartition};
use guitong_normalise::{Metrics, NormaliseContext, NormaliseError, Normaliser, NormaliserHandle, NormaliserStatus, Phase};
use guitong_schemas::avro::schema::SourceKind;
use guitong_schemas::avro::{DecodePlan, EncodePlan, EventForm, Marks, Stamp, TableContext, Value, frame};
use guitong_schemas::change::{Before, Change, Operation, Origin, Place, RowBuilder, RowImage, SnapshotMark};
use guitong_schemas::contract::{Exchange, Name, Resource, Subscription, load};
use guitong_schemas::position::Version;
use guitong_schemas::standard::Standard;
use guitong_schemas::table::{Column, ColumnType, Table, TableName};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const RAW: &str = "raw.registration.main.qy_jbxx";
pub(crate) const STD: &str = "std.enterprise";
pub(crate) const QUARANTINE: &str = "quarantine.enterprise";
/// 2026-11-23T00:00:00Z
pub(crate) const NOW_US: i64 = 1_795_392_000_000_000;
const PLACE: Place = Place::Postgres { xid: Some(1), lsn: 1, last_commit_lsn: None, order: None };
const PATIENCE: Duration = Duration::from_secs(60);

/// Columns of the department's table, the key first.
const COLUMNS: [&str; 13] =
    ["id", "tyshxydm", "qymc", "fddbr", "clrq", "djzt", "djjg", "djjgdm", "zs", "xzqh", "jyfw", "lxr", "zczb"];

const HIDDEN: &str = "";

/// Numbers schemas; can be made unreachable.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    schemas: Mutex<Vec<Arc<str>>>,
    pub(crate) is_down: AtomicBool,
}

impl Registry {
    /// Forgets the schemas of envelopes; gives back what it forgot.
    pub(crate) fn hide_values(&self) -> Vec<Arc<str>> {
        let mut known = self.schemas.lock().unwrap();
        let all = known.clone();
        known.iter_mut().filter(|schema| schema.contains("Envelope")).for_each(|schema| *schema = HIDDEN.into());
        all
    }

    pub(crate) fn show(&self, schemas: Vec<Arc<str>>) {
        let mut known = self.schemas.lock().unwrap();
        let more = known.split_off(schemas.len());
        *known = schemas;
        known.extend(more);
    }

    fn reach(&self) -> Result<(), RegistryError> {
        if self.is_down.load(Ordering::SeqCst) {
            return Err(RegistryError::Unavailable { detail: "connection refused".into() });
        }
        Ok(())
    }
}

#[async_trait]
impl SchemaRegistry for Registry {
    async fn register(&self, _subject: &str, schema: &str) -> Result<u32, RegistryError> {
        self.reach()?;
        let mut known = self.schemas.lock().unwrap();
        let at = known.iter().position(|other| &**other == schema).unwrap_or_else(|| {
            known.push(schema.into());
            known.len() - 1
        });
        Ok(u32::try_from(at).unwrap())
    }

    async fn schema(&self, id: u32) -> Result<Arc<str>, RegistryError> {
        self.reach()?;
        let found = self.schemas.lock().unwrap().get(id as usize).cloned();
        found.filter(|schema| &**schema != HIDDEN).ok_or(RegistryError::NoSchema { id })
    }

    async fn set_compatibility(&self, _subject: &str, _level: Compatibility) -> Result<(), RegistryError> {
        self.reach()
    }
}

/// The log and what surrounds it.
pub(crate) struct World {
    pub(crate) log: EmbeddedLog,
    pub(crate) registry: Arc<Registry>,
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) resource: Resource,
    pub(crate) standard: Arc<Standard>,
    pub(crate) prometheus: prometheus::Registry,
    metrics: Metrics,
    subscriptions: watch::Sender<Arc<BTreeMap<Name, Arc<Subscription>>>>,
    pub(crate) table: Arc<Table>,
    publisher: Publisher,
    commit: u64,
    /// When the department commits.
    pub(crate) source_us: i64,
    _home: TempDir,
}

/// A stage that runs.
pub(crate) struct Stage {
    pub(crate) handle: NormaliserHandle,
    pub(crate) task: JoinHandle<Result<(), NormaliseError>>,
    pub(crate) shutdown: CancellationToken,
}

/// One record of `std.`, decoded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Standing {
    pub(crate) fields: BTreeMap<String, String>,
    pub(crate) headers: BTreeMap<String, String>,
}

/// A credit code that passes its checks; `n` numbers the organisation in the range of samples.
pub(crate) fn uscc(n: u32) -> String {
    let value = |c: char| i64::from(c.to_digit(36).unwrap());
    let organisation = format!("PDY{n:05}");
    let sum: i64 = organisation.chars().zip([3, 7, 9, 10, 5, 8, 4, 2]).map(|(c, weight)| value(c) * weight).sum();
    let check = match 11 - sum % 11 {
        10 => "X".to_owned(),
        11 => "0".to_owned(),
        digit => digit.to_string(),
    };
    let body = format!("91450100{organisation}{check}");
    let alphabet: Vec<char> = "0123456789ABCDEFGHJKLMNPQRTUWXY".chars().collect();
    let (mut weight, mut sum) = (1, 0);
    for c in body.chars() {
        sum += alphabet.iter().position(|known| *known == c).unwrap() * weight;
        weight = weight * 3 % 31;
    }
    format!("{body}{}", alphabet[(31 - sum % 31) % 31])
}

/// What a cell of a row is set to.
pub(crate) type Cells<'a> = [(&'a str, Option<&'a str>)];

/// A value that the source does not send.
pub(crate) const ABSENT: &str = "\u{0}absent";

/// A row of the department's table: a good company, with `cells` set to something else.
pub(crate) fn row(id: u32, code: &str, cells: &Cells<'_>) -> RowImage {
    let id = id.to_string();
    let usual = |column: &str| match column {
        "id" => Some(id.clone()),
        "tyshxydm" => Some(code.to_owned()),
        "qymc" => Some("南宁示例商贸有限公司".to_owned()),
        "fddbr" => Some("张示例".to_owned()),
        "clrq" => Some("20170922".to_owned()),
        "djzt" => Some("在营".to_owned()),
        "djjg" => Some("南宁市市场监督管理局".to_owned()),
        "djjgdm" => Some("450100".to_owned()),
        "zs" => Some("南宁市青秀区示例路1号".to_owned()),
        "xzqh" => Some("450103".to_owned()),
        _ => None,
    };
    let mut out = RowBuilder::default();
    for column in COLUMNS {
        let set = cells.iter().find(|(name, _)| *name == column).map(|(_, value)| value.map(str::to_owned));
        match set.unwrap_or_else(|| usual(column)).as_deref() {
            None => out.null(),
            Some(ABSENT) => out.absent(),
            Some(text) => out.text(text.as_bytes()).unwrap(),
        }
    }
    out.finish()
}

/// Only the key, as a delete under the default replica identity has it.
pub(crate) fn key_only(id: u32) -> RowImage {
    let mut out = RowBuilder::default();
    out.text(id.to_string().as_bytes()).unwrap();
    (1..COLUMNS.len()).for_each(|_| out.null());
    out.finish()
}

impl World {
    pub(crate) async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(&EmbeddedConfig { path: home.path().join("log.db"), max_bytes: None }).await.unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/quickstart");
        let now = jiff::Timestamp::from_microsecond(NOW_US).unwrap();
        let purpose = load::Purpose::Check { unset_secrets: true };
        let directory = load::load(&root, &|_| None, now, purpose).unwrap();
        let mut resource = (*directory.resources[&Name::parse("enterprise").unwrap()]).clone();
        let is_here = |column: &str| COLUMNS.contains(&column);
        resource.map.retain(|_, field| match &field.value {
            guitong_schemas::contract::mapping::ValueSource::Column(column) => is_here(column),
            _ => true,
        });
        let column = |(at, name): (usize, &&str)| Column {
            name: (*name).to_owned(),
            kind: if at == 0 { ColumnType::Int64 } else { ColumnType::Text },
            nullable: at > 0,
            default: None,
        };
        let table = Table {
            name: TableName::new("main", "qy_jbxx"),
            columns: COLUMNS.iter().enumerate().map(column).collect(),
            key: vec![0],
        };
        let registry = Arc::<Registry>::default();
        let publisher = publisher(&log, &registry, false).await;
        let prometheus = prometheus::Registry::new();
        let metrics = Metrics::register(&prometheus).unwrap();
        let subscriptions = watch::Sender::new(Arc::new(directory.subscriptions));
        let mut exchange = directory.exchange;
        // Small batches, so that a history takes several commits.
        exchange.budgets.batch = 4 << 10;
        let (table, exchange) = (Arc::new(table), Arc::new(exchange));
        let standard = Arc::new(Standard::builtin().clone());
        Self {
            log,
            registry,
            exchange,
            resource,
            standard,
            prometheus,
            metrics,
            subscriptions,
            table,
            publisher,
            commit: 0,
            source_us: NOW_US,
            _home: home,
        }
    }

    /// One whose raw topic keeps the last event of each row, and deletes surely for `kept`.
    pub(crate) async fn keeping_deletes_for(kept: Duration) -> Self {
        let mut world = Self::new().await;
        world.publisher = publisher(&world.log, &world.registry, true).await;
        Arc::make_mut(&mut world.exchange).trace = keeps(kept);
        world
    }

    /// One transaction of the department, published.
    pub(crate) async fn transaction(&mut self, changes: &[(Operation, RowImage)]) {
        self.commit += 1;
        let changes = changes.iter().zip(1_u64..).map(|((operation, image), at)| {
            let (before, after) = match operation {
                Operation::Delete => (Before::Key(image.clone()), None),
                _ => (Before::None, Some(image.clone())),
            };
            Change {
                table: Arc::clone(&self.table),
                operation: *operation,
                version: Version { epoch: 1, commit: self.commit, change: at, ..Version::default() },
                before,
                after,
                origin: Origin { ts_us: self.source_us, snapshot: SnapshotMark::Streamed, place: PLACE },
            }
        });
        let batch = SourceBatch {
            changes: changes.collect(),
            position: Some(Bytes::from(self.commit.to_string())),
            ..SourceBatch::default()
        };
        self.publisher.publish(batch).await.unwrap();
    }

    /// A truncate as Debezium writes it: an event without key and row.
    pub(crate) async fn truncate(&mut self) {
        self.commit += 1;
        let context = TableContext {
            prefix: "raw.registration",
            name: "registration",
            database: "register",
            kind: SourceKind::Postgres,
            form: &EventForm::DEFAULT,
        };
        let plan = EncodePlan::compile(&self.table, &context).unwrap();
        let version = Version { epoch: 1, commit: self.commit, change: 1, ..Version::default() };
        let change = Change {
            table: Arc::clone(&self.table),
            operation: Operation::Truncate,
            version,
            before: Before::None,
            after: None,
            origin: Origin { ts_us: NOW_US, snapshot: SnapshotMark::Streamed, place: PLACE },
        };
        let schema_id = self.registry.register("raw", plan.value_schema().unwrap()).await.unwrap();
        let (mut value, mut marks) = (Vec::new(), Marks::default());
        plan.value(&change, Stamp { schema_id, processed_us: NOW_US }, &mut value, &mut marks).unwrap();
        let record = NewRecord {
            topic: RAW.into(),
            partition: Some(0),
            key: None,
            value: Some(Bytes::from(value)),
            headers: vec![("guitong-version".into(), Bytes::from(version.to_string()))],
            timestamp_ms: 1,
        };
        self.append_raw(vec![record]).await;
    }

    pub(crate) async fn create(&mut self, id: u32, code: &str, cells: &Cells<'_>) {
        self.transaction(&[(Operation::Create, row(id, code, cells))]).await;
    }

    pub(crate) async fn update(&mut self, id: u32, code: &str, cells: &Cells<'_>) {
        self.transaction(&[(Operation::Update, row(id, code, cells))]).await;
    }

    pub(crate) async fn delete(&mut self, id: u32) {
        self.transaction(&[(Operation::Delete, key_only(id))]).await;
    }

    /// Renames a column, as `ALTER TABLE` does.
    pub(crate) fn drop_column(&mut self, name: &str) {
        let mut table = (*self.table).clone();
        table.columns.iter_mut().filter(|column| column.name == name).for_each(|column| column.name.push_str("_old"));
        self.table = Arc::new(table);
    }

    /// Changes the table, as `ALTER TABLE` does.
    pub(crate) fn alter(&mut self, column: &str, change: impl FnOnce(&mut Column)) {
        let mut table = (*self.table).clone();
        change(table.columns.iter_mut().find(|other| other.name == column).unwrap());
        self.table = Arc::new(table);
    }

    pub(crate) fn restore_columns(&mut self) {
        let mut table = (*self.table).clone();
        table.columns.iter_mut().zip(COLUMNS).for_each(|(column, name)| name.clone_into(&mut column.name));
        table.columns.iter_mut().skip(1).for_each(|column| column.kind = ColumnType::Text);
        self.table = Arc::new(table);
    }

    /// Records that no connector would write.
    pub(crate) async fn append_raw(&self, records: Vec<NewRecord>) {
        let mut owner = self.log.open(&OwnerId::new(Role::Connect, "vandal")).await.unwrap();
        owner.append(Batch { records, ..Batch::default() }).await.unwrap();
    }

    pub(crate) fn context(&self) -> NormaliseContext {
        NormaliseContext {
            log: Arc::new(self.log.clone()),
            registry: Arc::<Registry>::clone(&self.registry),
            standard: Arc::clone(&self.standard),
            exchange: Arc::clone(&self.exchange),
            metrics: self.metrics.clone(),
            subscriptions: self.subscriptions.subscribe(),
        }
    }

    pub(crate) fn start(&self) -> Stage {
        self.start_as(self.resource.clone())
    }

    /// Starts another resource over the same log.
    pub(crate) fn start_as(&self, resource: Resource) -> Stage {
        Self::run(self.context(), resource)
    }

    /// Starts it over a log that stands before this one.
    pub(crate) fn start_over(&self, log: Arc<dyn ExchangeLog>) -> Stage {
        Self::run(NormaliseContext { log, ..self.context() }, self.resource.clone())
    }

    fn run(context: NormaliseContext, resource: Resource) -> Stage {
        let (normaliser, handle) = Normaliser::new(context, Arc::new(resource)).unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(normaliser.run(shutdown.clone()));
        Stage { handle, task, shutdown }
    }

    /// Waits until the stage has committed everything in the raw topic.
    pub(crate) async fn settled(&self, stage: &Stage) -> NormaliserStatus {
        let end = self.log.bounds(&TopicPartition::new(RAW, 0)).await.unwrap().end;
        stage.until(|status| status.offset >= end && status.phase == Phase::Running).await
    }

    /// All records of a topic, in the order of each partition.
    pub(crate) async fn records(&self, topic: &str) -> Vec<Record> {
        let mut out = Vec::new();
        for partition in 0..self.log.partitions(topic).await.unwrap().unwrap_or(0) {
            out.extend(guitong_tests::everything(&self.log, &TopicPartition::new(topic, partition)).await);
        }
        out
    }

    /// What stands in `std.` by credit code. On the way it checks that each key's versions rise and that no event is there twice.
    pub(crate) async fn standing(&self) -> BTreeMap<String, Standing> {
        self.standing_in(STD).await
    }

    /// The same of another resource's topic.
    pub(crate) async fn standing_in(&self, topic: &str) -> BTreeMap<String, Standing> {
        let mut standing = BTreeMap::new();
        let mut versions: BTreeMap<Bytes, Version> = BTreeMap::new();
        let mut ids = std::collections::BTreeSet::new();
        for record in self.records(topic).await {
            let headers = headers(&record);
            let version: Version = headers["guitong-version"].parse().unwrap();
            let key = record.key.clone().unwrap();
            let before = versions.insert(key, version);
            assert!(before.is_none_or(|before| before < version), "{version} after {before:?}");
            assert!(ids.insert(headers["ce_id"].clone()), "{} is there twice", headers["ce_id"]);
            let subject = headers["ce_subject"].clone();
            match &record.value {
                None => {
                    assert_eq!(headers["guitong-op"], "delete");
                    standing.remove(&subject);
                }
                Some(value) => {
                    assert_eq!(headers["guitong-op"], "upsert");
                    let fields = self.decode(value).await;
                    assert_eq!(fields["uscc"], subject);
                    standing.insert(subject, Standing { fields, headers });
                }
            }
        }
        standing
    }

    async fn decode(&self, value: &Bytes) -> BTreeMap<String, String> {
        let (id, avro) = frame::read(value).unwrap();
        let schema = self.registry.schema(id).await.unwrap();
        let plan = DecodePlan::compile(&schema).unwrap();
        let values = plan.record(avro).unwrap();
        let text = |value: &Value<'_>| match value {
            Value::Null => None,
            Value::Text(text) => Some((*text).to_owned()),
            other => Some(format!("{other:?}")),
        };
        plan.fields().iter().zip(&values).filter_map(|(field, value)| Some((field.name.to_string(), text(value)?))).collect()
    }

    /// Names of companies by credit code.
    pub(crate) async fn names(&self) -> BTreeMap<String, String> {
        self.standing().await.into_iter().map(|(code, standing)| (code, standing.fields["name"].clone())).collect()
    }

    pub(crate) fn metric(&self, name: &str, label: (&str, &str)) -> f64 {
        let families = self.prometheus.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap_or_else(|| panic!("no metric {name}"));
        let has =
            |metric: &&prometheus::proto::Metric| metric.get_label().iter().any(|pair| (pair.name(), pair.value()) == label);
        family
            .get_metric()
            .iter()
            .filter(has)
            .map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
            .sum()
    }
}

/// The trace of an exchange that relies on deletes for `kept`.
pub(crate) fn keeps(kept: Duration) -> Duration {
    Duration::from_secs(2 * 3600) + kept
}

async fn publisher(log: &EmbeddedLog, registry: &Arc<Registry>, complete: bool) -> Publisher {
    let owned = log.open(&OwnerId::new(Role::Connect, "registration")).await.unwrap();
    let settings = PublishSettings {
        system: "registration".into(),
        database: "register".into(),
        kind: SourceKind::Postgres,
        trace: Duration::from_secs(86_400),
        max_record: 16 << 20,
        complete,
        form: EventForm::DEFAULT,
    };
    let registry: Arc<dyn SchemaRegistry> = Arc::<Registry>::clone(registry);
    Publisher::new(owned, Arc::new(log.clone()), registry, settings).await.unwrap()
}

pub(crate) fn headers(record: &Record) -> BTreeMap<String, String> {
    let text = |value: &Bytes| String::from_utf8(value.to_vec()).unwrap();
    record.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

impl Stage {
    /// Waits until the status is as wanted.
    pub(crate) async fn until(&self, mut wanted: impl FnMut(&NormaliserStatus) -> bool) -> NormaliserStatus {
        let mut status = self.handle.status();
        let found = tokio::time::timeout(PATIENCE, status.wait_for(|status| wanted(status))).await;
        match found {
            Ok(Ok(status)) => status.clone(),
            Ok(Err(_)) => panic!("the stage ended: {:?}", self.handle.status().borrow()),
            Err(_) => panic!("not within {PATIENCE:?}: {:?}", self.handle.status().borrow()),
        }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("stops in time").unwrap().unwrap();
    }

    /// Ends it wherever it stands, as a kill would.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.is_err_and(|error| error.is_cancelled()));
    }

    /// The error that a person has to decide.
    pub(crate) async fn failure(self) -> NormaliseError {
        tokio::time::timeout(PATIENCE, self.task).await.expect("ends in time").unwrap().expect_err("an error")
    }
}
