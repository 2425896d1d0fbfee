//! A department whose companies name their authority by a number of its own dictionary, and the authority its region by another; and
//! whose cases have their steps in a table beside them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use guitong_connectors::publish::{PublishSettings, Publisher};
use guitong_connectors::source::SourceBatch;
use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_log::kafka::{KafkaLog, KafkaOptions};
use guitong_log::registry::SchemaRegistry;
use guitong_log::{ExchangeLog, OwnerId, Role, TopicPartition};
use guitong_normalise::{Metrics, NormaliseContext, Normaliser, NormaliserStatus, Phase};
use guitong_schemas::avro::schema::SourceKind;
use guitong_schemas::avro::{DecodePlan, EventForm, Value, frame};
use guitong_schemas::change::{Before, Change, Operation, Origin, Place, RowBuilder, SnapshotMark};
use guitong_schemas::contract::{Directory, KafkaCluster, KafkaConfig, Name, Resource, Subscription, load};
use guitong_schemas::position::Version;
use guitong_schemas::standard::Standard;
use guitong_schemas::table::{Column, ColumnType, Table, TableName};
use guitong_tests::servers::kafka::Kafka;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::super::harness::{NOW_US, Registry, Stage, keeps};

const STD: &str = "std.record";
const PLACE: Place = Place::Postgres { xid: Some(1), lsn: 1, last_commit_lsn: None, order: None };

/// Tables of the department, each with its columns, the key first.
pub(crate) const TABLES: [(&str, &[&str]); 6] = [
    ("bj", &["id", "bjh", "sx", "jg"]),
    ("qy", &["id", "tyshxydm", "qymc", "djjg", "lxr"]),
    ("bm_zd", &["id", "bmdm", "mc", "xydm", "qhid", "bz"]),
    ("qh_zd", &["id", "bm", "dm"]),
    ("ry_zd", &["id", "gh", "xm"]),
    ("hj", &["id", "bjh", "xh", "hj", "jbr", "sj", "yj"]),
];

/// What a resource is of, beside what it reads.
pub(crate) const COMPANIES: &str = "code = \"3450010102/000001\"\ntitle = \"企业\"\nsystem = \"registration\"\ntable = \"main.qy\"\n\
                entity = \"LegalEntity\"\nsharing = { type = 2, condition = \"履职所需\" }\n";
pub(crate) const CASES: &str = "code = \"3450010102/000002\"\ntitle = \"办件\"\nsystem = \"registration\"\ntable = \"main.bj\"\n\
                entity = \"ServiceCase\"\nsharing = { type = 2, condition = \"履职所需\" }\n";

/// Cases of which every step is a row of its own.
pub(crate) const STEPS: &str = "code = \"3450010102/000003\"\ntitle = \"办件\"\nsystem = \"registration\"\ntable = \"main.hj\"\n\
                entity = \"ServiceCase\"\nsharing = { type = 2, condition = \"履职所需\" }\n";
/// Penalties of which every kind is a row of its own.
pub(crate) const PENALTIES: &str = "code = \"3450010102/000004\"\ntitle = \"行政处罚\"\nsystem = \"registration\"\ntable = \"main.bj\"\n\
                entity = \"CreditRecord\"\nsharing = { type = 2, condition = \"履职所需\" }\n";
/// What a case's record has, whatever its rows.
pub(crate) const CASE: &str = r#"
item_basic_code = { const = "4501210010001" }
item_impl_code = { const = "4501210010001114501000000000001" }
division = { const = "450100" }
dept_name = { const = "示例局" }
dept_uscc = { const = "11450000PDY00001X0" }
applicant_kind = { const = "1" }
applicant_name = { const = "张示例" }
applicant_doc_type = { const = "111" }
applicant_doc_no = { const = "450102199001019997" }
received_at = { const = "2017-09-22 08:00:00" }
"#;

/// The companies with their authority by two dictionaries, one found by the other, and a contact by a third.
pub(crate) const LOOKUPS: &str = r#"
[lookups.dept]
table = "main.bm_zd"
key = "bmdm"
from = "djjg"

[lookups.region]
table = "main.qh_zd"
key = "bm"
from = "dept.qhid"

[lookups.staff]
table = "main.ry_zd"
key = "gh"

[map]
uscc = "tyshxydm"
name = "qymc"
reg_authority = "dept.mc"
reg_authority_code = { from = "djjg", lookup = "dept", value = "xydm" }
reg_address_division = "region.dm"
contact = { from = "lxr", lookup = "staff", value = "xm" }
status = { const = "1" }
legal_rep_name = { const = "张示例" }
established = { const = "2017-09-22" }
reg_address = { const = "示例路1号" }
"#;

/// Who has the companies' contacts.
const SUBSCRIPTION: &str = r#"
subscriber = "11450000PDY000044M"
resource = "3450010102/000001"
purpose = "信用主体建档"
approval = { number = "桂数共〔2026〕18号", until = 2099-12-31 }
fields = ["uscc", "contact"]

[sink]
kind = "sqlite"
path = "sink.db"
table = "enterprise"
"#;

/// What a directory needs to hold a resource that reads the department's tables.
pub(super) fn directory(head: &str, resource: &str) -> Result<Directory, guitong_schemas::contract::Problems> {
    let root = tempfile::tempdir().unwrap();
    let mut files = vec![
        ("exchange.toml", "name = \"test\"\ntitle = \"测试\"\ntime_zone = \"Asia/Shanghai\"\n".to_owned()),
        ("departments/registry.toml", "title = \"市场监督管理局\"\ncode = \"11450000PDY00001X0\"\n".to_owned()),
        (
            "systems/registration.toml",
            "title = \"登记\"\ndepartment = \"registry\"\nkind = \"sqlite\"\npath = \"a.db\"\ntables = [\"main.*\"]\n".to_owned(),
        ),
        ("resources/record.toml", format!("{head}{resource}{}", if [CASES, STEPS].contains(&head) { CASE } else { "" })),
        ("departments/credit.toml", "title = \"公共信用信息中心\"\ncode = \"11450000PDY000044M\"\n".to_owned()),
    ];
    files.extend((head == COMPANIES).then(|| ("subscriptions/credit.toml", SUBSCRIPTION.to_owned())));
    for (path, text) in files {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let now = jiff::Timestamp::from_microsecond(NOW_US).unwrap();
    load::load(root.path(), &|_| None, now, load::Purpose::Check { unset_secrets: true })
}

/// Rows by table and key.
pub(crate) type Rows = BTreeMap<&'static str, BTreeMap<u32, Vec<Option<String>>>>;

/// One department, its log, and the rows that its database holds.
pub(crate) struct World {
    pub(crate) log: Arc<dyn ExchangeLog>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) resource: Resource,
    pub(crate) rows: Rows,
    /// What the resource is of, and what it declares.
    declared: (&'static str, &'static str),
    exchange: Arc<guitong_schemas::contract::Exchange>,
    metrics: Metrics,
    tables: BTreeMap<&'static str, Arc<Table>>,
    subscriptions: Arc<BTreeMap<Name, Arc<Subscription>>>,
    publisher: Publisher,
    commit: u64,
    _broker: Option<Kafka>,
    _home: TempDir,
}

/// What a transaction does to one row; `None` deletes it.
pub(crate) type Step<'a> = (&'static str, u32, Option<Vec<Option<&'a str>>>);

/// A row as it is written.
pub(crate) fn put<'a>(table: &'static str, id: u32, values: &[&'a str]) -> Step<'a> {
    (table, id, Some(values.iter().map(|value| (!value.is_empty()).then_some(*value)).collect()))
}

pub(crate) fn gone(table: &'static str, id: u32) -> Step<'static> {
    (table, id, None)
}

fn table(name: &str, columns: &[&str]) -> Arc<Table> {
    let column = |(at, name): (usize, &&str)| Column {
        name: (*name).to_owned(),
        kind: if at == 0 { ColumnType::Int64 } else { ColumnType::Text },
        nullable: at > 0,
        default: None,
    };
    let columns = columns.iter().enumerate().map(column).collect();
    Arc::new(Table { name: TableName::new("main", name), columns, key: vec![0] })
}

impl World {
    pub(crate) async fn new(head: &'static str, resource: &'static str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(&EmbeddedConfig { path: home.path().join("log.db"), max_bytes: None }).await.unwrap();
        Self::over(Arc::new(log), (home, None), (head, resource), false).await
    }

    /// One whose raw topics keep the last event of each row, and deletes surely for `kept`.
    pub(crate) async fn keeping_deletes_for(kept: Duration, head: &'static str, resource: &'static str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(&EmbeddedConfig { path: home.path().join("log.db"), max_bytes: None }).await.unwrap();
        let mut world = Self::over(Arc::new(log), (home, None), (head, resource), true).await;
        Arc::make_mut(&mut world.exchange).trace = keeps(kept);
        world
    }

    /// The same with its records on Kafka.
    pub(crate) async fn on_kafka(head: &'static str, resource: &'static str) -> Self {
        let (home, broker) = (tempfile::tempdir().unwrap(), Kafka::start().await.unwrap());
        let config = KafkaConfig {
            cluster: KafkaCluster { brokers: vec![broker.bootstrap()], replication_factor: 1, properties: BTreeMap::new() },
            state_path: home.path().join("state"),
        };
        let (roles, patience) = (vec![Role::Connect, Role::Normalise], Duration::from_secs(30));
        let metrics = guitong_log::metrics::Metrics::new().unwrap();
        let options = KafkaOptions { exchange: "test".to_owned(), config, roles, patience, metrics };
        let log = KafkaLog::open(options).await.unwrap();
        Self::over(Arc::new(log), (home, Some(broker)), (head, resource), false).await
    }

    async fn over(
        log: Arc<dyn ExchangeLog>,
        (home, broker): (TempDir, Option<Kafka>),
        declared: (&'static str, &'static str),
        complete: bool,
    ) -> Self {
        let (head, resource) = declared;
        let directory = directory(head, resource).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
        let resource = (*directory.resources[&Name::parse("record").unwrap()]).clone();
        let registry = Arc::<Registry>::default();
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
        let known: Arc<dyn SchemaRegistry> = Arc::<Registry>::clone(&registry);
        let publisher = Publisher::new(owned, Arc::clone(&log), known, settings).await.unwrap();
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let mut exchange = directory.exchange;
        // Small batches, so that a history takes several commits.
        exchange.budgets.batch = 4 << 10;
        let tables = TABLES.iter().map(|(name, columns)| (*name, table(name, columns))).collect();
        let (rows, exchange, subscriptions) = (Rows::default(), Arc::new(exchange), Arc::new(directory.subscriptions));
        Self {
            log,
            registry,
            resource,
            rows,
            declared,
            exchange,
            metrics,
            tables,
            subscriptions,
            publisher,
            commit: 0,
            _broker: broker,
            _home: home,
        }
    }

    /// Names a table's column otherwise, as `ALTER TABLE` does.
    pub(crate) fn rename(&mut self, name: &str, column: &str, to: &str) {
        let mut table = (*self.tables[name]).clone();
        to.clone_into(&mut table.columns.iter_mut().find(|known| known.name == column).unwrap().name);
        *self.tables.get_mut(name).unwrap() = Arc::new(table);
    }

    /// Another department with the same rows, each written once, after the same resource has read them.
    pub(crate) async fn afresh(&self) -> Self {
        let mut world = Self::new(self.declared.0, self.declared.1).await;
        for (table, rows) in &self.rows {
            let steps: Vec<Step<'_>> =
                rows.iter().rev().map(|(id, row)| (*table, *id, Some(row.iter().map(Option::as_deref).collect()))).collect();
            world.transaction(&steps).await;
        }
        world.loaded().await;
        let stage = world.start();
        world.settled(&stage).await;
        stage.stop().await;
        world
    }

    /// The resource is declared otherwise from here on.
    pub(crate) fn declare(&mut self, resource: &str) {
        let directory = directory(self.declared.0, resource).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
        self.resource = (*directory.resources[&Name::parse("record").unwrap()]).clone();
    }

    /// The connector has read every table to its end.
    pub(crate) async fn loaded(&mut self) {
        let loaded = self.tables.values().map(|table| table.name.to_string()).collect();
        self.publisher.publish(SourceBatch { loaded, ..SourceBatch::default() }).await.unwrap();
    }

    /// One transaction of the department, published.
    pub(crate) async fn transaction(&mut self, steps: &[Step<'_>]) {
        self.commit += 1;
        let mut changes = Vec::with_capacity(steps.len());
        for (at, (name, id, values)) in (1_u64..).zip(steps) {
            let table = Arc::clone(&self.tables[name]);
            let mut image = RowBuilder::default();
            image.text(id.to_string().as_bytes()).unwrap();
            for place in 1..table.columns.len() {
                match values.as_ref().and_then(|values| values.get(place - 1).copied().flatten()) {
                    None => image.null(),
                    Some(super::super::harness::ABSENT) => image.absent(),
                    Some(text) => image.text(text.as_bytes()).unwrap(),
                }
            }
            let rows = self.rows.entry(name).or_default();
            let (operation, before, after) = match values {
                None => (Operation::Delete, Before::Key(image.finish()), None),
                Some(_) if rows.contains_key(id) => (Operation::Update, Before::None, Some(image.finish())),
                Some(_) => (Operation::Create, Before::None, Some(image.finish())),
            };
            match values {
                None => drop(rows.remove(id)),
                Some(values) => {
                    let old = rows.remove(id).unwrap_or_default();
                    let value = |(at, value): (usize, &Option<&str>)| match *value {
                        Some(super::super::harness::ABSENT) => old.get(at).cloned().flatten(),
                        value => value.map(str::to_owned),
                    };
                    rows.insert(*id, values.iter().enumerate().map(value).collect());
                }
            }
            changes.push(Change {
                table,
                operation,
                version: Version { epoch: 1, commit: self.commit, change: at, ..Version::default() },
                before,
                after,
                origin: Origin { ts_us: NOW_US, snapshot: SnapshotMark::Streamed, place: PLACE },
            });
        }
        let position = Some(Bytes::from(self.commit.to_string()));
        self.publisher.publish(SourceBatch { changes, position, ..SourceBatch::default() }).await.unwrap();
    }

    /// Empties a table.
    pub(crate) async fn truncate(&mut self, table: &'static str) {
        self.commit += 1;
        self.rows.remove(table);
        let change = Change {
            table: Arc::clone(&self.tables[table]),
            operation: Operation::Truncate,
            version: Version { epoch: 1, commit: self.commit, change: 1, ..Version::default() },
            before: Before::None,
            after: None,
            origin: Origin { ts_us: NOW_US, snapshot: SnapshotMark::Streamed, place: PLACE },
        };
        let position = Some(Bytes::from(self.commit.to_string()));
        self.publisher.publish(SourceBatch { changes: vec![change], position, ..SourceBatch::default() }).await.unwrap();
    }

    pub(crate) fn start(&self) -> Stage {
        let context = NormaliseContext {
            log: Arc::clone(&self.log),
            registry: Arc::<Registry>::clone(&self.registry),
            standard: Arc::new(Standard::builtin().clone()),
            exchange: Arc::clone(&self.exchange),
            metrics: self.metrics.clone(),
            subscriptions: tokio::sync::watch::Sender::new(Arc::clone(&self.subscriptions)).subscribe(),
        };
        let (normaliser, handle) = Normaliser::new(context, Arc::new(self.resource.clone())).unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(normaliser.run(shutdown.clone()));
        Stage { handle, task, shutdown }
    }

    /// Waits until the stage has committed everything in the raw topics and what follows from it.
    pub(crate) async fn settled(&self, stage: &Stage) -> NormaliserStatus {
        let mut ends = BTreeMap::new();
        for topic in self.resource.joins.values().map(|join| &join.raw_topic).chain([&self.resource.raw_topic]) {
            if self.log.partitions(topic).await.unwrap().is_some() {
                ends.insert(topic, self.log.bounds(&TopicPartition::new(topic.as_str(), 0)).await.unwrap().end);
            }
        }
        let reached = |status: &NormaliserStatus, topic: &String, end: u64| match status.joined.get(topic) {
            Some(next) => *next >= end,
            None => *topic == self.resource.raw_topic && status.offset >= end,
        };
        stage
            .until(|status| {
                let all = ends.iter().all(|(topic, end)| reached(status, topic, *end));
                all && !status.refreshing && status.phase == Phase::Running
            })
            .await
    }

    /// What stands in `std.` by the entity's key. On the way it checks that each key's versions rise and that no event is there twice.
    pub(crate) async fn standing(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let mut standing = BTreeMap::new();
        let mut versions: BTreeMap<Bytes, Version> = BTreeMap::new();
        let mut ids = std::collections::BTreeSet::new();
        for partition in 0..self.log.partitions(STD).await.unwrap().unwrap_or(0) {
            for record in guitong_tests::everything(&*self.log, &TopicPartition::new(STD, partition)).await {
                let headers = super::super::harness::headers(&record);
                assert!(ids.insert(headers["ce_id"].clone()), "{} is there twice", headers["ce_id"]);
                let version: Version = headers["guitong-version"].parse().unwrap();
                let before = versions.insert(record.key.clone().unwrap(), version);
                assert!(before.is_none_or(|before| before < version), "{before:?} then {version}");
                match &record.value {
                    None => drop(standing.remove(&headers["ce_subject"])),
                    Some(value) => {
                        let mut fields = self.decode(value).await;
                        fields.extend(headers.get("guitong-quality").map(|marks| ("quality".to_owned(), marks.clone())));
                        standing.insert(headers["ce_subject"].clone(), fields);
                    }
                }
            }
        }
        standing
    }

    /// Records written so far.
    pub(crate) async fn published(&self) -> usize {
        let mut count = 0;
        for partition in 0..self.log.partitions(STD).await.unwrap().unwrap_or(0) {
            count += guitong_tests::everything(&*self.log, &TopicPartition::new(STD, partition)).await.len();
        }
        count
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
}
