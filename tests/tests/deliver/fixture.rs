//! An exchange of one resource, filled by hand, and the sinks it is delivered to.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use guitong_deliver::files::FileSink;
use guitong_deliver::kafka::KafkaSink;
use guitong_deliver::sink::{Mark, Sink, SinkPlan};
use guitong_deliver::sql::Holders;
use guitong_deliver::sql::mysql::MysqlSink;
use guitong_deliver::sql::postgres::PostgresSink;
use guitong_deliver::sql::sqlite::SqliteSink;
use guitong_deliver::{
    AUDIT_TOPIC, DeliverError, DeliverStatus, Deliverer, DelivererHandle, Delivery, Ended, Metrics, PARKED_TOPIC, Phase, Pools,
};
use guitong_govern::Entitlement;
use guitong_govern::audit::AuditEntry;
use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_log::registry::SchemaRegistry;
use guitong_log::{Batch, ExchangeLog, NewRecord, OwnedLog, OwnerId, ReadBudget, Retention, Role, TopicPartition, TopicSpec};
use guitong_schemas::avro::form::Names;
use guitong_schemas::avro::{RecordEncoder, Value};
use guitong_schemas::contract::files::FileFormat;
use guitong_schemas::contract::resource::OnChange;
use guitong_schemas::contract::subscription::Mask;
use guitong_schemas::contract::{
    Budgets, Exchange, LogConfig, Name, Resource, Revision, Secret, Sharing, SinkConfig, SinkTable, Subscription, load,
};
use guitong_schemas::position::Version;
use guitong_schemas::standard::{Entity, Standard};
use guitong_schemas::table::TableName;
use guitong_tests::schemas::{EntitySchemas, KEY_SCHEMA, VALUE_SCHEMA};
use guitong_tests::servers::mariadb::Mariadb;
use guitong_tests::servers::postgres::Postgres;
use jiff::tz::TimeZone;
use sqlx::{AssertSqlSafe, MySqlPool, PgPool, Row as _, SqlitePool};
use tempfile::TempDir;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::dropped::Dropped;
use crate::faulty::{FaultySink, Script};
use crate::topics::Topics;

pub(crate) const PARTITIONS: u32 = 2;
/// In which more is delivered, or what a test waits for comes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A version by its commit position.
pub(crate) fn version(commit: u64) -> Version {
    Version { epoch: 1, commit, change: 1, index: 0, revision: 1 }
}

/// The record, committed at the source at this moment.
pub(crate) fn committed(mut record: NewRecord, source_us: i64) -> NewRecord {
    record.headers.retain(|(name, _)| &**name != "guitong-source-ts");
    record.headers.push(("guitong-source-ts".into(), source_us.to_string().into()));
    record
}

/// The legal entity of a standard whose table of divisions has one county more.
pub(crate) fn with_county(name: &str) -> Arc<Entity> {
    let root = tempfile::tempdir().unwrap();
    let builtin = include_str!("../../../schemas/codes/gbt2260_guangxi.csv");
    let rows = builtin.lines().map(|line| line.splitn(3, ',').take(2).collect::<Vec<_>>().join(","));
    let table = rows.chain([format!("450199,{name}")]).collect::<Vec<_>>().join("\n");
    std::fs::create_dir(root.path().join("standard")).unwrap();
    std::fs::write(root.path().join("standard/gbt2260_guangxi.csv"), table).unwrap();
    std::fs::write(root.path().join("exchange.toml"), "name = \"guitong\"\ntitle = \"测试\"\n").unwrap();
    let now = jiff::Timestamp::now();
    let directory = load::load(root.path(), &|_| None, now, load::Purpose::Check { unset_secrets: true });
    let directory = directory.unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    Arc::clone(directory.standard.entity("LegalEntity").unwrap())
}

/// A log with `std.enterprise` of legal entities.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) log: Arc<EmbeddedLog>,
    pub(crate) entity: Arc<Entity>,
    pub(crate) resource: Resource,
    pub(crate) time_zone: TimeZone,
    pub(crate) pools: Pools,
    normaliser: Box<dyn OwnedLog>,
    value: RecordEncoder,
    key: RecordEncoder,
    pub(crate) metrics: Metrics,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let entity = Arc::clone(Standard::builtin().entity("LegalEntity").unwrap());
        let dir = tempfile::tempdir().unwrap();
        let (log, normaliser) = Self::open_log(dir.path().join("exchange.log")).await;
        let resource = Resource {
            name: Name::parse("enterprise").unwrap(),
            code: "3450010102/000017".into(),
            title: "企业登记基本信息".into(),
            system: Name::parse("licensing").unwrap(),
            table: TableName::new("public", "qy_jbxx"),
            raw_topic: "raw.licensing.public.qy_jbxx".into(),
            names: Names::Escaped,
            entity: "LegalEntity".into(),
            sharing: Sharing::Unconditional,
            condition: None,
            map: BTreeMap::new(),
            joins: BTreeMap::new(),
            not_provided: BTreeMap::new(),
            rules: Vec::new(),
            quality: guitong_schemas::contract::Quality::usual(None),
            revision: 1,
            on_change: OnChange::default(),
            publish_unchanged: false,
        };
        Self {
            value: RecordEncoder::compile(&entity.schema_json).unwrap(),
            key: RecordEncoder::compile(&entity.key_schema_json).unwrap(),
            metrics: Metrics::register(&prometheus::Registry::new()).unwrap(),
            time_zone: TimeZone::get("Asia/Shanghai").unwrap(),
            pools: Pools::default(),
            dir,
            log,
            entity,
            resource,
            normaliser,
        }
    }

    async fn open_log(path: PathBuf) -> (Arc<EmbeddedLog>, Box<dyn OwnedLog>) {
        let log = Arc::new(EmbeddedLog::open(&EmbeddedConfig { path, max_bytes: None }).await.unwrap());
        let day = Duration::from_secs(86_400);
        let retention = Retention::Compact { after: day, tombstones: day };
        log.ensure_topic(&TopicSpec { name: "std.enterprise".into(), partitions: PARTITIONS, retention }).await.unwrap();
        let owner = log.open(&OwnerId::new(Role::Normalise, "enterprise")).await.unwrap();
        (log, owner)
    }

    /// Goes on with an empty log of another id.
    pub(crate) async fn replace_log(&mut self) {
        (self.log, self.normaliser) = Self::open_log(self.dir.path().join("other.log")).await;
    }

    fn record(&self, uscc: &str, value: Option<Vec<u8>>, commit: u64) -> NewRecord {
        let mut key = Vec::new();
        self.key.encode(&[Value::Text(uscc)], KEY_SCHEMA, &mut key).unwrap();
        let headers = [("guitong-version", version(commit).to_string()), ("guitong-source-ts", now_us().to_string())];
        NewRecord {
            topic: "std.enterprise".into(),
            partition: None,
            key: Some(Bytes::from(key)),
            value: value.map(Bytes::from),
            headers: headers.map(|(name, value)| (name.into(), Bytes::from(value))).into(),
            timestamp_ms: now_us() / 1000,
        }
    }

    pub(crate) fn upsert(&self, uscc: &str, fields: &[(&str, Value<'_>)], commit: u64) -> NewRecord {
        let of = |name: &str| fields.iter().find(|(field, _)| *field == name).map_or(Value::Null, |(_, value)| value.clone());
        let values = self.entity.fields.iter().map(|field| match field.name.as_str() {
            "uscc" => Value::Text(uscc),
            name => of(name),
        });
        let values: Vec<_> = values.collect();
        let mut value = Vec::new();
        self.value.encode(&values, VALUE_SCHEMA, &mut value).unwrap();
        self.record(uscc, Some(value), commit)
    }

    pub(crate) fn named(&self, uscc: &str, name: &str, commit: u64) -> NewRecord {
        let fields =
            [("name", Value::Text(name)), ("contact", Value::Text("欧阳测试")), ("reg_address_division", Value::Text("450102"))];
        self.upsert(uscc, &fields, commit)
    }

    pub(crate) fn delete(&self, uscc: &str, commit: u64) -> NewRecord {
        self.record(uscc, None, commit)
    }

    pub(crate) async fn append(&mut self, records: Vec<NewRecord>) {
        self.normaliser.append(Batch { records, ..Batch::default() }).await.unwrap();
    }

    pub(crate) fn subscription(&self, name: &str, sink: SinkConfig, fields: &[&str]) -> Subscription {
        Subscription {
            name: Name::parse(name).unwrap(),
            subscriber: Name::parse("credit-office").unwrap(),
            resource: self.resource.name.clone(),
            purpose: "信用主体建档".into(),
            approval: None,
            fields: fields.iter().map(|&field| field.into()).collect(),
            condition: None,
            unchanged: false,
            masks: BTreeMap::from([("contact".to_owned(), Mask::None)])
                .into_iter()
                .filter(|(f, _)| fields.contains(&&**f))
                .collect(),
            sink,
            table: SinkTable::default(),
            secret: Some(Secret::new("s3cret".into())),
        }
    }

    pub(crate) fn delivery(&self, subscription: &Subscription) -> Delivery {
        Delivery {
            exchange: Arc::new(Exchange {
                name: Name::parse("guitong").unwrap(),
                title: "测试".into(),
                time_zone: self.time_zone.clone(),
                log: LogConfig::Embedded { path: self.dir.path().join("exchange.log") },
                registry: None,
                listen: ([127, 0, 0, 1], 0).into(),
                std_partitions: PARTITIONS,
                trace: Duration::from_secs(86_400),
                budgets: Budgets { max_record: 16 << 20, batch: 1 << 20, linger: Duration::from_millis(5) },
            }),
            revision: Revision([7; 32]),
            subscription: Arc::new(subscription.clone()),
            resource: Arc::new(self.resource.clone()),
            entity: Arc::clone(&self.entity),
            log: Arc::clone(&self.log) as Arc<dyn ExchangeLog>,
            registry: Arc::new(EntitySchemas(Arc::clone(&self.entity))),
            pools: self.pools.clone(),
            metrics: self.metrics.clone(),
        }
    }

    pub(crate) fn start(&self, subscription: &Subscription) -> Running {
        self.start_on(Arc::clone(&self.log) as Arc<dyn ExchangeLog>, subscription)
    }

    pub(crate) fn start_on(&self, log: Arc<dyn ExchangeLog>, subscription: &Subscription) -> Running {
        Running::of(Deliverer::new(Delivery { log, ..self.delivery(subscription) }).unwrap())
    }

    /// Starts a subscription whose sink does what the script says.
    pub(crate) fn start_faulty(&self, subscription: &Subscription, target: &Target, script: &Arc<Script>) -> Running {
        let sink = |plan: SinkPlan| {
            let faulty = FaultySink { inner: target.sink_of(self, subscription, plan.clone()), script: Arc::clone(script) };
            let faulty = Box::new(faulty) as Box<dyn Sink>;
            match target {
                Target::Files(_) | Target::Kafka(_) => Ok(faulty),
                Target::Sqlite(..) | Target::Postgres(..) | Target::Mariadb(..) => {
                    Ok(Box::new(Holders::new(&self.pools, &plan, faulty)) as Box<dyn Sink>)
                }
            }
        };
        Running::of(Deliverer::with_sink(self.delivery(subscription), sink).unwrap())
    }

    /// Waits until everything in the log is delivered and nothing is left to sweep.
    pub(crate) async fn caught_up(&self, running: &mut Running) {
        let mut ends = Vec::new();
        for partition in 0..PARTITIONS {
            ends.push((partition, self.log.bounds(&TopicPartition::new("std.enterprise", partition)).await.unwrap().end));
        }
        running.reaches(|status| status.phase == Phase::Live && status.offsets == ends).await;
    }

    /// Delivers until everything is there, and stops.
    pub(crate) async fn deliver(&self, subscription: &Subscription) {
        let mut running = self.start(subscription);
        self.caught_up(&mut running).await;
        running.stop().await.unwrap();
    }

    /// Audit entries of a subscription, in order.
    pub(crate) async fn audit(&self, subscription: &str) -> Vec<AuditEntry> {
        let mut entries: Vec<AuditEntry> = self.documents(AUDIT_TOPIC).await;
        entries.retain(|entry| entry.subscription == subscription);
        entries
    }

    /// What ended records that a subscription had set aside, in order.
    pub(crate) async fn ended(&self, subscription: &str) -> Vec<Ended> {
        let mut ended: Vec<Ended> = self.documents(PARKED_TOPIC).await;
        ended.retain(|ended| ended.subscription == subscription);
        ended
    }

    async fn documents<T: serde::de::DeserializeOwned>(&self, topic: &str) -> Vec<T> {
        let at = TopicPartition::new(topic, 0);
        let end = self.log.bounds(&at).await.unwrap().end;
        let mut reader = self.log.reader(vec![(at, 0)]).await.unwrap();
        let (mut entries, mut next) = (Vec::new(), 0);
        while next < end {
            let read = reader.read(ReadBudget { bytes: 1 << 20, wait: Duration::from_secs(1) }).await.unwrap();
            entries.extend(read.records.iter().filter_map(|record| serde_json::from_slice(record.value.as_ref()?).ok()));
            next = read.next.first().map_or(next, |(_, next)| *next);
        }
        entries
    }
}

pub(crate) fn now_us() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

/// A deliverer at work.
pub(crate) struct Running {
    pub(crate) status: watch::Receiver<DeliverStatus>,
    pub(crate) handle: DelivererHandle,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), DeliverError>>,
}

impl Running {
    fn of(deliverer: Deliverer) -> Self {
        let (status, handle, shutdown) = (deliverer.status(), deliverer.handle(), CancellationToken::new());
        Self { status, handle, task: tokio::spawn(deliverer.run(shutdown.clone())), shutdown }
    }

    /// Waits until the status is as it is wanted, for as long as more is delivered every now and then.
    pub(crate) async fn reaches(&mut self, mut wanted: impl FnMut(&DeliverStatus) -> bool) -> DeliverStatus {
        let mut furthest = 0;
        loop {
            let delivered = |status: &DeliverStatus| status.offsets.iter().map(|(_, next)| next).sum::<u64>();
            let next = self.status.wait_for(|status| wanted(status) || delivered(status) > furthest);
            let status = match tokio::time::timeout(PATIENCE, next).await.map(|status| status.map(|status| status.clone())) {
                Ok(Ok(status)) => status,
                Ok(Err(_)) => panic!("the deliverer ended: {:?}", (&mut self.task).await),
                Err(_) => panic!("never reached; last {:?}", *self.status.borrow()),
            };
            if wanted(&status) {
                return status;
            }
            furthest = delivered(&status);
        }
    }

    pub(crate) async fn stop(self) -> Result<(), DeliverError> {
        self.shutdown.cancel();
        self.task.await.unwrap()
    }

    /// Ends it wherever it is, as a crash does.
    pub(crate) async fn kill(self) {
        self.task.abort();
        self.task.await.ok();
    }
}

/// A subscriber's database.
pub(crate) enum Target {
    Sqlite(PathBuf, SqlitePool),
    Postgres(Arc<Mutex<Postgres>>, String, PgPool),
    Mariadb(Arc<Mutex<Mariadb>>, String, MySqlPool),
    Files(Dropped),
    Kafka(Topics),
}

/// Rows by their first column, all values as text.
pub(crate) type Rows = BTreeMap<String, Vec<Option<String>>>;

impl Target {
    pub(crate) async fn sqlite(bench: &Bench) -> Self {
        Self::sqlite_at(bench.dir.path().join("subscriber.db")).await
    }

    pub(crate) async fn sqlite_at(path: PathBuf) -> Self {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        Self::Sqlite(path, SqlitePool::connect_with(options).await.unwrap())
    }

    pub(crate) async fn files(bench: &Bench, format: FileFormat) -> Self {
        Self::Files(Dropped::new(bench.dir.path(), format))
    }

    pub(crate) async fn objects(bench: &Bench, format: FileFormat) -> Self {
        Self::Files(Dropped::stored(bench.dir.path(), format).await)
    }

    pub(crate) async fn kafka() -> Self {
        Self::Kafka(Topics::shared().await)
    }

    pub(crate) async fn postgres() -> Self {
        let server = Postgres::start().await.unwrap();
        server.create_role("office", "").await.unwrap();
        server.execute("CREATE SCHEMA shared AUTHORIZATION office").await.unwrap();
        let (url, pool) = (server.url("office"), server.admin().await.unwrap());
        Self::Postgres(Arc::new(Mutex::new(server)), url, pool)
    }

    pub(crate) async fn mariadb() -> Self {
        let server = Mariadb::start().await.unwrap();
        let privileges = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP";
        server.create_user("office", "shared", privileges).await.unwrap();
        let (url, pool) = (server.url("office", "shared"), server.admin().await.unwrap());
        Self::Mariadb(Arc::new(Mutex::new(server)), url, pool)
    }

    /// The PostgreSQL server behind it.
    pub(crate) fn server(&self) -> OwnedMutexGuard<Postgres> {
        match self {
            Self::Sqlite(..) | Self::Mariadb(..) | Self::Files(_) | Self::Kafka(_) => panic!("no PostgreSQL server"),
            Self::Postgres(server, ..) => Arc::clone(server).try_lock_owned().unwrap(),
        }
    }

    /// What a query of one text column gives.
    pub(crate) async fn texts(&self, sql: &str) -> Vec<String> {
        match self {
            Self::Sqlite(_, pool) => sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(pool).await.unwrap(),
            Self::Postgres(_, _, pool) => sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(pool).await.unwrap(),
            Self::Mariadb(_, _, pool) => sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(pool).await.unwrap(),
            Self::Files(files) => sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&files.outbox().await).await.unwrap(),
            Self::Kafka(_) => panic!("no database"),
        }
    }

    pub(crate) fn config(&self, table: &str) -> SinkConfig {
        match self {
            Self::Sqlite(path, _) => SinkConfig::Sqlite { path: path.clone(), table: table.into() },
            Self::Postgres(_, url, _) => {
                SinkConfig::Postgres { url: Secret::new(url.clone()), schema: "shared".into(), table: table.into() }
            }
            Self::Mariadb(_, url, _) => SinkConfig::Mysql { url: Secret::new(url.clone()), table: table.into() },
            Self::Files(files) => files.config(table),
            Self::Kafka(topics) => topics.config(table),
        }
    }

    /// The sink of a subscription, without a deliverer.
    pub(crate) fn sink(&self, bench: &Bench, subscription: &Subscription) -> Box<dyn Sink> {
        let entitlement = Entitlement::compile(subscription, &bench.resource, &bench.entity, &bench.time_zone).unwrap();
        self.sink_of(bench, subscription, plan(bench, subscription, &entitlement))
    }

    /// The sink of a subscription as its deliverer has it, of a SQL database.
    pub(crate) fn holders(&self, bench: &Bench, subscription: &Subscription) -> Holders {
        let entitlement = Entitlement::compile(subscription, &bench.resource, &bench.entity, &bench.time_zone).unwrap();
        let plan = plan(bench, subscription, &entitlement);
        Holders::new(&bench.pools, &plan, self.sink_of(bench, subscription, plan.clone()))
    }

    fn sink_of(&self, bench: &Bench, subscription: &Subscription, plan: SinkPlan) -> Box<dyn Sink> {
        match &subscription.sink {
            SinkConfig::Sqlite { path, table } => Box::new(SqliteSink::new(&bench.pools, path, table, plan)),
            SinkConfig::Mysql { url, table } => Box::new(MysqlSink::new(&bench.pools, url, table, plan).unwrap()),
            SinkConfig::Pull { .. } => panic!("an outbox is no database of a subscriber"),
            SinkConfig::Postgres { url, schema, table } => {
                Box::new(PostgresSink::new(&bench.pools, url, schema, table, plan).unwrap())
            }
            SinkConfig::Files(files) => Box::new(FileSink::new(&bench.pools, files, plan)),
            SinkConfig::Kafka(topic) => {
                let registry = Arc::new(EntitySchemas(Arc::clone(&bench.entity))) as Arc<dyn SchemaRegistry>;
                let mut sink = KafkaSink::new(&bench.pools, topic, &registry, plan).unwrap();
                let Self::Kafka(topics) = self else { panic!("no topics") };
                sink.keep_in(&topics.hold(bench));
                Box::new(sink)
            }
            SinkConfig::Webhook(_) => panic!("no table"),
        }
    }

    /// The table's name in statements of the subscriber.
    pub(crate) fn named(&self, table: &str) -> String {
        match self {
            Self::Sqlite(..) | Self::Files(_) | Self::Kafka(_) => format!("\"{table}\""),
            Self::Postgres(..) => format!("shared.\"{table}\""),
            Self::Mariadb(..) => format!("shared.`{table}`"),
        }
    }

    pub(crate) async fn execute(&self, sql: &str) {
        match self {
            Self::Sqlite(_, pool) => drop(sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap()),
            Self::Postgres(_, _, pool) => drop(sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap()),
            Self::Mariadb(_, _, pool) => drop(sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap()),
            Self::Files(files) => drop(sqlx::raw_sql(AssertSqlSafe(sql)).execute(&files.outbox().await).await.unwrap()),
            Self::Kafka(_) => panic!("no database"),
        }
    }

    pub(crate) async fn rows(&self, columns: &str, table: &str) -> Rows {
        if let Self::Files(files) = self {
            return files.rows(columns, table);
        }
        if let Self::Kafka(topics) = self {
            return topics.rows(columns, table).await;
        }
        let table = self.named(table);
        let text = if matches!(self, Self::Mariadb(..)) { "CHAR" } else { "TEXT" };
        let columns = columns.split(", ").map(|column| format!("CAST({column} AS {text})")).collect::<Vec<_>>().join(", ");
        let sql = AssertSqlSafe(format!("SELECT {columns} FROM {table}"));
        let rows: Vec<Vec<Option<String>>> = match self {
            Self::Sqlite(_, pool) => {
                let rows = sqlx::query(sql).fetch_all(pool).await.unwrap();
                rows.iter().map(|row| (0..row.len()).map(|at| row.get(at)).collect()).collect()
            }
            Self::Postgres(_, _, pool) => {
                let rows = sqlx::query(sql).fetch_all(pool).await.unwrap();
                rows.iter().map(|row| (0..row.len()).map(|at| row.get(at)).collect()).collect()
            }
            Self::Files(_) | Self::Kafka(_) => panic!("read above"),
            Self::Mariadb(_, _, pool) => {
                let rows = sqlx::query(sql).fetch_all(pool).await.unwrap();
                rows.iter().map(|row| (0..row.len()).map(|at| row.get(at)).collect()).collect()
            }
        };
        let count = rows.len();
        let rows: Rows = rows.into_iter().map(|mut row| (row.remove(0).unwrap_or_default(), row)).collect();
        assert_eq!(rows.len(), count, "a key is there twice");
        rows
    }

    /// Names of a table, `name` by `uscc`.
    pub(crate) async fn names(&self, table: &str) -> HashMap<String, String> {
        let rows = self.rows("uscc, name", table).await;
        rows.into_iter().map(|(key, row)| (key, row[0].clone().unwrap_or_default())).collect()
    }

    /// Makes the audit entries that the subscription `credit` keeps at the sink older.
    pub(crate) async fn age_entries(&self, table: &str, hours: i64) {
        let aged = |entries: serde_json::Value| {
            let mut entries: Vec<AuditEntry> = serde_json::from_value(entries).unwrap();
            entries.iter_mut().for_each(|entry| entry.at_us -= hours * 3_600_000_000);
            serde_json::to_value(entries).unwrap()
        };
        if let Self::Kafka(topics) = self {
            let mut stand = topics.stand(table).await;
            stand["entries"] = aged(stand["entries"].take());
            return topics.set_stand(table, &stand).await;
        }
        let stored = self.named("guitong_subscriptions");
        let entries = self.texts(&format!("SELECT entries FROM {stored}")).await.remove(0);
        let entries = aged(serde_json::from_str(&entries).unwrap());
        self.execute(&format!("UPDATE {stored} SET entries = '{entries}'")).await;
    }

    pub(crate) async fn count(&self, table: &str) -> i64 {
        let sql = AssertSqlSafe(format!("SELECT count(*) FROM {}", self.named(table)));
        match self {
            Self::Sqlite(_, pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            Self::Postgres(_, _, pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            Self::Mariadb(_, _, pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            Self::Kafka(topics) => topics.count(table).await,
            Self::Files(files) if files.is_folder(table) => i64::try_from(files.held(table).len()).unwrap(),
            Self::Files(files) => sqlx::query_scalar(sql).fetch_one(&files.outbox().await).await.unwrap(),
        }
    }
}

/// What a sink is to hold for a subscription.
pub(crate) fn plan(bench: &Bench, subscription: &Subscription, entitlement: &Entitlement) -> SinkPlan {
    SinkPlan {
        exchange: "exchange".into(),
        subscription: subscription.name.as_str().into(),
        title: bench.resource.title.clone(),
        log: bench.log.id().clone(),
        topic: "std.enterprise".into(),
        columns: entitlement.columns().to_vec(),
        key: entitlement.key().clone(),
        time_zone: bench.time_zone.clone(),
        grant: entitlement.fingerprint(),
        condition: subscription.condition.clone(),
        table: subscription.table.clone(),
        mark: Mark::default(),
    }
}

/// `{key: name, …}`.
pub(crate) fn names(of: &[(&str, &str)]) -> HashMap<String, String> {
    of.iter().map(|&(key, name)| (key.to_owned(), name.to_owned())).collect()
}
