//! The publisher on a real log, mostly the embedded one: truncates cut by a crash, completion of absent columns, values that do not read,
//! messages.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test helper that cannot go on fails its test")]

mod publish {
    mod ahead;
    mod outbox;
}

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use guitong_connectors::publish::{PublishError, PublishSettings, Publisher};
use guitong_connectors::source::SourceBatch;
use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_log::kafka::{KafkaLog, KafkaOptions};
use guitong_log::metrics::Metrics;
use guitong_log::registry::{BuiltinRegistry, SchemaRegistry};
use guitong_log::{
    AppendError, Batch, Committed, ExchangeLog, KeyedState, LogError, OwnedLog, OwnerId, Record, Role, StoredOffset,
    TopicPartition,
};
use guitong_schemas::avro::form::{Converter, Truncates, Unwrap, UnwrappedDeletes};
use guitong_schemas::avro::schema::SourceKind;
use guitong_schemas::avro::{DecodePlan, EventForm, SchemaError, Value, frame};
use guitong_schemas::change::{Before, Change, Notice, Operation, Origin, Place, RowBuilder, RowImage, SnapshotMark};
use guitong_schemas::contract::{KafkaCluster, KafkaConfig};
use guitong_schemas::position::Version;
use guitong_schemas::table::{Column, ColumnType, Table, TableName};
use guitong_tests::servers::kafka::Kafka;
use tempfile::TempDir;

const TOPIC: &str = "raw.licensing.public.t";

struct Exchange {
    log: Arc<dyn ExchangeLog>,
    registry: Arc<BuiltinRegistry>,
    _home: TempDir,
    _broker: Option<Kafka>,
}

/// Refuses every append after the first few, as a log that goes away does.
#[derive(Debug)]
struct GoesAway {
    inner: Box<dyn OwnedLog>,
    left: usize,
}

#[async_trait]
impl OwnedLog for GoesAway {
    fn owner(&self) -> &OwnerId {
        self.inner.owner()
    }

    fn position(&self) -> Option<Bytes> {
        self.inner.position()
    }

    fn offset(&self, at: &TopicPartition) -> Option<StoredOffset> {
        self.inner.offset(at)
    }

    async fn append(&mut self, batch: Batch) -> Result<Committed, AppendError> {
        if self.left == 0 {
            return Err(AppendError::Refused(LogError::Unavailable { detail: "gone".to_owned() }));
        }
        self.left -= 1;
        self.inner.append(batch).await
    }

    fn state(&self) -> Arc<dyn KeyedState> {
        self.inner.state()
    }

    async fn get(&self, map: &str, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LogError> {
        self.inner.get(map, keys).await
    }

    async fn scan(&self, map: &str, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>, LogError> {
        self.inner.scan(map, prefix, after, limit).await
    }
}

impl Exchange {
    async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(&EmbeddedConfig { path: home.path().join("log.db"), max_bytes: None }).await.unwrap();
        let registry = BuiltinRegistry::open(&log).await.unwrap();
        Self { log: Arc::new(log), registry: Arc::new(registry), _home: home, _broker: None }
    }

    /// The same with its records on Kafka.
    async fn on_kafka() -> Self {
        let broker = Kafka::start().await.unwrap();
        let mut exchange = Self::new().await;
        let config = KafkaConfig {
            cluster: KafkaCluster { brokers: vec![broker.bootstrap()], replication_factor: 1, properties: BTreeMap::new() },
            state_path: exchange._home.path().join("state"),
        };
        let (roles, patience) = (vec![Role::Connect], Duration::from_secs(30));
        let options = KafkaOptions { exchange: "region".to_owned(), config, roles, patience, metrics: Metrics::new().unwrap() };
        exchange.log = Arc::new(KafkaLog::open(options).await.unwrap());
        exchange._broker = Some(broker);
        exchange
    }

    async fn publisher(&self, appends: usize) -> Publisher {
        self.publisher_in(appends, EventForm::DEFAULT).await
    }

    async fn publisher_in(&self, appends: usize, form: EventForm) -> Publisher {
        self.publisher_of(appends, form, SourceKind::Postgres).await
    }

    async fn publisher_of(&self, appends: usize, form: EventForm, kind: SourceKind) -> Publisher {
        let inner = self.log.open(&OwnerId::new(Role::Connect, "licensing")).await.unwrap();
        let settings = PublishSettings {
            system: "licensing".into(),
            database: "djk".into(),
            kind,
            trace: Duration::from_secs(86_400),
            max_record: 16 << 20,
            complete: true,
            form,
        };
        let log = Arc::clone(&self.log);
        let registry: Arc<dyn SchemaRegistry> = Arc::<BuiltinRegistry>::clone(&self.registry);
        Publisher::new(Box::new(GoesAway { inner, left: appends }), log, registry, settings).await.unwrap()
    }

    async fn records(&self) -> Vec<Record> {
        self.records_of(TOPIC).await
    }

    async fn records_of(&self, topic: &str) -> Vec<Record> {
        guitong_tests::everything(&*self.log, &TopicPartition::new(topic, 0)).await
    }

    /// The last event's row, and the names that its headers list.
    async fn last(&self) -> (Vec<Option<String>>, BTreeMap<String, String>) {
        let records = self.records().await;
        let record = records.iter().rfind(|record| record.value.is_some()).unwrap();
        let (id, body) = frame::read(record.value.as_ref().unwrap()).unwrap();
        let schema = self.registry.schema(id).await.unwrap();
        let plan = DecodePlan::compile(&schema).unwrap();
        let row = plan.envelope(body).unwrap().after.unwrap();
        let text = |value: &Value<'_>| match value {
            Value::Null => None,
            Value::Text(text) => Some((*text).to_owned()),
            Value::Int(number) => Some(number.to_string()),
            other => panic!("{other:?}"),
        };
        let text_of = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let headers = record.headers.iter().map(|(name, value)| (name.to_string(), text_of(value))).collect();
        (row.iter().map(text).collect(), headers)
    }
}

fn table() -> Arc<Table> {
    let column = |name: &str, kind, nullable| Column { name: name.to_owned(), kind, nullable, default: None };
    let columns = vec![
        column("id", ColumnType::Int64, false),
        column("n", ColumnType::Int32, true),
        column("note", ColumnType::Text, true),
    ];
    Arc::new(Table { name: TableName::new("public", "t"), columns, key: vec![0] })
}

/// `None` is null, `Some("?")` was not sent.
fn row(cells: &[Option<&str>]) -> RowImage {
    let mut builder = RowBuilder::default();
    for cell in cells {
        match cell {
            None => builder.null(),
            Some("?") => builder.absent(),
            Some(text) => builder.text(text.as_bytes()).unwrap(),
        }
    }
    builder.finish()
}

fn change(
    table: &Arc<Table>,
    operation: Operation,
    at: u64,
    index: u32,
    before: Option<RowImage>,
    after: Option<RowImage>,
) -> Change {
    Change {
        table: Arc::clone(table),
        operation,
        version: Version { epoch: 1, commit: at, change: at, index, revision: 0 },
        before: before.map_or(Before::None, Before::Key),
        after,
        origin: Origin {
            ts_us: 0,
            snapshot: SnapshotMark::Streamed,
            place: Place::Postgres { xid: None, lsn: at, last_commit_lsn: None, order: None },
        },
    }
}

fn batch(changes: Vec<Change>, position: &'static str) -> SourceBatch {
    SourceBatch { changes, position: Some(Bytes::from_static(position.as_bytes())), ..SourceBatch::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_that_is_cut_off_is_finished_and_doubles_nothing() {
    const ROWS: u64 = 2_500;
    let exchange = Exchange::new().await;
    let table = table();
    let text = |number: u64| number.to_string();
    let create =
        |id: u64, at: u64| change(&table, Operation::Create, at, 0, None, Some(row(&[Some(&text(id)), None, Some("x")])));
    let created = (1..=ROWS).map(|id| create(id, id)).collect();
    exchange.publisher(9).await.publish(batch(created, "created")).await.unwrap().unwrap();
    let changes =
        || vec![create(ROWS + 1, ROWS + 1), change(&table, Operation::Truncate, ROWS + 2, 0, None, None), create(7, ROWS + 3)];
    // The commits are: what came before, three chunks of deletes, what came after.
    for appends in [0, 1, 1, 1, 1] {
        let error = exchange.publisher(appends).await.publish(batch(changes(), "truncated")).await.unwrap_err();
        assert!(matches!(error, PublishError::Append(_)) && error.is_transient(), "{error}");
    }
    let mut publisher = exchange.publisher(9).await;
    assert_eq!(publisher.position().unwrap(), "created");
    let durable = publisher.publish(batch(changes(), "truncated")).await.unwrap().unwrap();
    assert_eq!(durable.position(), "truncated");
    let (mut versions, mut held, mut deletes) = (BTreeSet::new(), BTreeMap::new(), 0);
    for record in exchange.records().await {
        let version: Version = std::str::from_utf8(record.header("guitong-version").unwrap()).unwrap().parse().unwrap();
        match &record.value {
            None => {
                held.remove(record.key.as_ref().unwrap());
                deletes += 1;
            }
            Some(_) => {
                assert!(versions.insert(version), "{version} came twice");
                if let Some(last) = held.insert(record.key.clone().unwrap(), version) {
                    assert!(last < version, "{last} before {version}");
                }
            }
        }
    }
    assert_eq!(deletes, ROWS + 1);
    assert_eq!(held.len(), 1);
    // The progress is gone with the batch: an older version counts again in another epoch's batch.
    assert!(exchange.publisher(1).await.publish(batch(vec![create(8, ROWS + 4)], "next")).await.unwrap().is_some());
}

/// After a restart the source cuts its batches elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_a_truncate_that_is_cut_off_is_doubled_in_no_smaller_batch() {
    let exchange = Exchange::new().await;
    let table = table();
    let create = |at: u64| change(&table, Operation::Create, at, 0, None, Some(row(&[Some(&at.to_string()), None, Some("x")])));
    let truncate = || change(&table, Operation::Truncate, 7, 0, None, None);
    let mut changes: Vec<_> = (1..=6).map(create).collect();
    changes.extend([truncate(), create(8)]);
    exchange.publisher(1).await.publish(batch(changes, "all")).await.unwrap_err();
    let again = [
        (vec![], "0"),
        ((1..=2).map(create).collect(), "2"),
        ((3..=4).map(create).collect(), "4"),
        (vec![create(5), create(6), truncate()], "7"),
        (vec![create(8)], "8"),
    ];
    // Some of them by one publisher, the next by another.
    let mut publisher = exchange.publisher(2).await;
    for (changes, position) in again {
        let changes: Vec<Change> = changes;
        if publisher.publish(batch(changes.clone(), position)).await.is_err() {
            publisher = exchange.publisher(3).await;
            publisher.publish(batch(changes, position)).await.unwrap();
        }
    }
    let records = exchange.records().await;
    let rows = records.iter().filter(|record| record.value.is_some());
    let versions: Vec<_> = rows.map(|record| record.header("guitong-version").unwrap().clone()).collect();
    let once: BTreeSet<_> = versions.iter().collect();
    assert_eq!((versions.len(), once.len()), (7 + 6, 7 + 6), "seven rows come and six go: {versions:?}");
    assert_eq!(records.len(), 7 + 6 + 6, "a tombstone for each that goes");
}

/// The keys that are held by what the topic says, and how many records it has.
async fn held(exchange: &Exchange) -> (BTreeSet<Bytes>, usize) {
    let mut held = BTreeSet::new();
    let records = exchange.records().await;
    for record in &records {
        let Some(value) = &record.value else {
            held.remove(record.key.as_ref().unwrap());
            continue;
        };
        let (id, body) = frame::read(value).unwrap();
        let plan = DecodePlan::compile(&exchange.registry.schema(id).await.unwrap()).unwrap();
        match plan.envelope(body).unwrap() {
            envelope if envelope.operation == Operation::Delete => {
                assert_eq!((envelope.after, record.header("guitong-before").unwrap().as_ref()), (None, &b"key"[..]));
                let key = record.key.as_ref().unwrap();
                let before = envelope.before.unwrap();
                let (_, body) = frame::read(key).unwrap();
                assert_eq!(DecodePlan::compile(LONG_KEY).unwrap().record(body).unwrap(), before[..1], "the key in `before`");
                assert_eq!(before[1..], [Value::Null, Value::Null]);
                held.remove(key);
            }
            _ => {
                held.insert(record.key.clone().unwrap());
            }
        }
    }
    (held, records.len())
}

/// Any record with one field of type long: as the keys of [`table`].
const LONG_KEY: &str = r#"{"type": "record", "name": "Key", "fields": [{"name": "id", "type": "long"}]}"#;

fn rows_of(table: &Arc<Table>, ids: std::ops::Range<u64>, at: u64) -> Vec<Change> {
    let create = |id: u64| change(table, Operation::Create, at + id, 0, None, Some(row(&[Some(&id.to_string()), None, None])));
    ids.map(create).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_deletes_what_is_held_also_where_deletes_leave_no_tombstones() {
    truncate_without_tombstones(&Exchange::new().await).await;
}

/// There what was written just before the truncate may not be readable yet when the topic's keys are read.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_deletes_what_kafka_holds() {
    truncate_without_tombstones(&Exchange::on_kafka().await).await;
}

async fn truncate_without_tombstones(exchange: &Exchange) {
    let table = table();
    let form = EventForm { tombstones: false, ..EventForm::DEFAULT };
    let mut publisher = exchange.publisher_in(99, form).await;
    let mut changes = rows_of(&table, 0..10, 1);
    changes.push(change(&table, Operation::Delete, 20, 0, Some(row(&[Some("3"), None, None])), None));
    changes.push(change(&table, Operation::Truncate, 21, 0, None, None));
    changes.extend(rows_of(&table, 4..6, 30));
    publisher.publish(batch(changes, "a")).await.unwrap();
    let (keys, count) = held(exchange).await;
    assert_eq!((keys.len(), count), (2, 10 + 1 + 9 + 2));
    publisher.publish(batch(vec![change(&table, Operation::Truncate, 50, 0, None, None)], "b")).await.unwrap();
    let (keys, count) = held(exchange).await;
    assert_eq!((keys.len(), count), (0, 22 + 2), "only what was there again is deleted again");
}

/// The keys that the topic's events and tombstones leave, in forms that have no envelope in Avro; how many records it has.
async fn held_in_any_form(exchange: &Exchange) -> (BTreeSet<Bytes>, usize) {
    let mut held = BTreeSet::new();
    let records = exchange.records().await;
    for record in &records {
        let key = record.key.clone().unwrap();
        let is_delete = match record.value.as_deref() {
            None => true,
            Some(value) if value.starts_with(b"{") => {
                let value: serde_json::Value = serde_json::from_slice(value).unwrap();
                value["op"] == "d" || value["__deleted"] == "true"
            }
            Some(value) => {
                let (id, body) = frame::read(value).unwrap();
                let plan = DecodePlan::compile(&exchange.registry.schema(id).await.unwrap()).unwrap();
                let row = plan.record(body).unwrap();
                plan.field("__deleted").is_some_and(|field| row[field] == Value::Text("true"))
            }
        };
        if is_delete { assert!(held.remove(&key), "a delete of what is not held") } else { assert!(held.insert(key)) }
    }
    (held, records.len())
}

fn unwrapped(deletes: UnwrappedDeletes) -> EventForm {
    EventForm { unwrap: Some(Unwrap { deletes, added: vec![] }), ..EventForm::DEFAULT }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_deletes_what_is_held_in_every_form() {
    let json = EventForm { converter: Converter::Json, tombstones: false, ..EventForm::DEFAULT };
    let json_row = EventForm { converter: Converter::Json, ..unwrapped(UnwrappedDeletes::Rewrite) };
    for form in [json, json_row, unwrapped(UnwrappedDeletes::Rewrite), unwrapped(UnwrappedDeletes::Tombstone)] {
        let (exchange, table) = (Exchange::new().await, table());
        let mut changes = rows_of(&table, 0..10, 1);
        changes.push(change(&table, Operation::Delete, 20, 0, Some(row(&[Some("3"), None, None])), None));
        changes.push(change(&table, Operation::Truncate, 21, 0, None, None));
        changes.extend(rows_of(&table, 4..6, 30));
        exchange.publisher_in(99, form.clone()).await.publish(batch(changes, "a")).await.unwrap();
        let (keys, count) = held_in_any_form(&exchange).await;
        assert_eq!((keys.len(), count), (2, 10 + 1 + 9 + 2), "{form:?}");
        assert!(exchange.records().await.iter().all(|record| record.header("guitong-version").is_some()));
    }
}

/// The events that an older configuration left count too, whatever they are written in.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_ends_keys_that_were_published_in_another_form() {
    let (exchange, table) = (Exchange::new().await, table());
    let removed = |id, at| change(&table, Operation::Delete, at, 0, Some(row(&[Some(id), None, None])), None);
    let mut changes = rows_of(&table, 0..3, 1);
    changes.push(removed("0", 9));
    let avro = EventForm { tombstones: false, ..EventForm::DEFAULT };
    exchange.publisher_in(9, avro).await.publish(batch(changes, "a")).await.unwrap();
    let json = EventForm { converter: Converter::Json, tombstones: false, ..EventForm::DEFAULT };
    let mut changes = rows_of(&table, 5..8, 10);
    changes.extend([removed("5", 20), change(&table, Operation::Truncate, 30, 0, None, None)]);
    exchange.publisher_in(99, json).await.publish(batch(changes, "b")).await.unwrap();
    let last: Vec<Record> = exchange.records().await.split_off(8);
    let ended: BTreeSet<(Bytes, bool)> =
        last.iter().map(|record| (record.key.clone().unwrap(), record.value.is_none())).collect();
    let of_json = ended.iter().filter(|(key, _)| key.starts_with(b"{")).count();
    // A key in Avro is no key of JSON events: its tombstone alone ends it.
    assert_eq!((last.len(), ended.len(), of_json), (4, 4, 2));
    assert!(ended.iter().all(|(key, is_tombstone)| *is_tombstone != key.starts_with(b"{")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rows_without_envelopes_cannot_say_stops_and_is_never_left_out() {
    let keyless = {
        let mut table = (*table()).clone();
        table.key.clear();
        Arc::new(table)
    };
    let exchange = Exchange::new().await;
    let mut publisher = exchange.publisher_in(9, unwrapped(UnwrappedDeletes::Tombstone)).await;
    let error = publisher.publish(batch(rows_of(&keyless, 0..1, 1), "a")).await.unwrap_err();
    assert!(matches!(&error, PublishError::Schema(SchemaError::DeletesLost { .. })) && !error.is_transient(), "{error}");

    let mut publisher = exchange.publisher_in(9, unwrapped(UnwrappedDeletes::Rewrite)).await;
    let place = Place::Postgres { xid: Some(7), lsn: 2, last_commit_lsn: None, order: None };
    let mut truncate = change(&keyless, Operation::Truncate, 2, 0, None, None);
    // One that starts an epoch is the exchange's own, which cannot wait for a person.
    publisher.publish(batch(vec![truncate.clone()], "b")).await.unwrap();
    truncate.origin.place = place;
    let error = publisher.publish(batch(vec![truncate.clone()], "c")).await.unwrap_err();
    assert!(matches!(&error, PublishError::Truncate { .. }) && !error.is_transient(), "{error}");
    let skip = EventForm { truncates: Truncates::Skip, ..unwrapped(UnwrappedDeletes::Rewrite) };
    exchange.publisher_in(9, skip).await.publish(batch(vec![truncate], "d")).await.unwrap();
    assert_eq!(exchange.records().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_ends_keys_of_an_older_schema() {
    let exchange = Exchange::new().await;
    let narrow = {
        let mut table = (*table()).clone();
        table.columns[0].kind = ColumnType::Text;
        Arc::new(table)
    };
    let mut publisher = exchange.publisher(99).await;
    publisher.publish(batch(rows_of(&narrow, 0..3, 1), "a")).await.unwrap();
    let mut changes = rows_of(&table(), 7..9, 10);
    changes.push(change(&table(), Operation::Truncate, 30, 0, None, None));
    publisher.publish(batch(changes, "b")).await.unwrap();
    let records = exchange.records().await;
    // Those of the present schema have an event each, too.
    assert_eq!(records.len(), 3 + 2 + 3 + 2 * 2);
    assert_eq!(records.iter().filter(|record| record.value.is_none()).count(), 5);
    assert!(records.iter().rev().take(7).all(|record| record.header("guitong-version").is_some()));
    assert_eq!(held(&exchange).await.0.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn short_rows_keep_nothing_and_a_truncate_forgets_what_long_ones_keep() {
    let exchange = Exchange::new().await;
    let table = table();
    let long = "长".repeat(400);
    let create =
        |id: &str, at, note: &str| change(&table, Operation::Create, at, 0, None, Some(row(&[Some(id), None, Some(note)])));
    let update =
        |id: &str, at, note: &str| change(&table, Operation::Update, at, 0, None, Some(row(&[Some(id), None, Some(note)])));
    let kept = async || {
        let owned = exchange.log.open(&OwnerId::new(Role::Connect, "licensing")).await.unwrap();
        owned.scan(TOPIC, &[], None, 99).await.unwrap().len()
    };
    let mut publisher = exchange.publisher(99).await;
    let removed = change(&table, Operation::Delete, 4, 0, Some(row(&[Some("1"), None, None])), None);
    publisher.publish(batch(vec![create("1", 1, "短"), create("2", 2, "短"), update("2", 3, "短"), removed], "a")).await.unwrap();
    assert_eq!(kept().await, 0);
    let mut publisher = exchange.publisher(99).await;
    publisher.publish(batch(vec![create("3", 5, &long), create("4", 6, &long), create("5", 7, &long)], "b")).await.unwrap();
    assert_eq!(kept().await, 3);
    // Known again after a restart: what a row kept goes with its length or with the row.
    let mut publisher = exchange.publisher(99).await;
    let removed = change(&table, Operation::Delete, 9, 0, Some(row(&[Some("4"), None, None])), None);
    publisher.publish(batch(vec![update("3", 8, "短"), removed], "c")).await.unwrap();
    assert_eq!(kept().await, 1);
    let mut publisher = exchange.publisher(99).await;
    let again = change(&table, Operation::Update, 11, 0, None, Some(row(&[Some("5"), None, Some("?")])));
    publisher.publish(batch(vec![change(&table, Operation::Truncate, 10, 0, None, None), again], "d")).await.unwrap();
    assert_eq!(kept().await, 0);
    let (values, headers) = exchange.last().await;
    assert_eq!(
        values[2].as_deref(),
        Some("__debezium_unavailable_value"),
        "what was there before the truncate is no longer known"
    );
    assert_eq!(headers["guitong-absent"], "note");
}

#[tokio::test(flavor = "multi_thread")]
async fn absent_columns_are_completed_from_what_was_published() {
    let exchange = Exchange::new().await;
    let table = table();
    let long = "长".repeat(400);
    let longer = "更".repeat(400);
    let note = |text: &str| Some(text.to_owned());
    let update = |id: &str, at, note: Option<&str>| {
        change(&table, Operation::Update, at, 0, None, Some(row(&[Some(id), Some("1"), note])))
    };
    let create = change(&table, Operation::Create, 1, 0, None, Some(row(&[Some("1"), None, Some(&long)])));
    let mut publisher = exchange.publisher(99).await;
    // Within one batch.
    publisher.publish(batch(vec![create, update("1", 2, Some("?"))], "a")).await.unwrap();
    let (values, headers) = exchange.last().await;
    assert_eq!(values[2], note(&long));
    assert!(!headers.contains_key("guitong-absent"));
    // From an earlier one, and after a restart.
    let mut publisher = exchange.publisher(99).await;
    publisher.publish(batch(vec![update("1", 3, Some(&longer)), update("1", 4, Some("?"))], "b")).await.unwrap();
    assert_eq!(exchange.last().await.0[2], note(&longer));
    // A key change takes them along.
    let moved = vec![
        change(&table, Operation::Delete, 5, 0, Some(row(&[Some("1"), None, None])), None),
        change(&table, Operation::Create, 5, 1, None, Some(row(&[Some("2"), None, Some("?")]))),
    ];
    publisher.publish(batch(moved, "c")).await.unwrap();
    let (values, headers) = exchange.last().await;
    assert_eq!((values[0].as_deref(), &values[2]), (Some("2"), &note(&longer)));
    assert!(!headers.contains_key("guitong-absent"));
    // What was never seen stays absent, and says so.
    publisher.publish(batch(vec![update("9", 6, Some("?"))], "d")).await.unwrap();
    let (values, headers) = exchange.last().await;
    assert_eq!(values[2], note("__debezium_unavailable_value"));
    assert_eq!(headers["guitong-absent"], "note");
    assert_eq!((headers["guitong-version"].as_str(), headers["guitong-before"].as_str()), ("1/6/6/0/0", "none"));
}

/// A trigger writes whole rows: what is not there was over the limit, and an older value would be a wrong one.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_trigger_left_out_is_too_large_and_no_older_value() {
    let exchange = Exchange::new().await;
    let table = table();
    let long = "长".repeat(400);
    let mut publisher = exchange.publisher_of(9, EventForm::DEFAULT, SourceKind::Changelog).await;
    for (change_id, operation, note) in [(1, Operation::Create, long.as_str()), (2, Operation::Update, "?")] {
        let mut change = change(&table, operation, change_id, 0, None, Some(row(&[Some("1"), None, Some(note)])));
        change.origin.place = Place::Changelog { change_id: change_id.cast_signed() };
        publisher.publish(batch(vec![change], "a")).await.unwrap();
    }
    let (values, headers) = exchange.last().await;
    assert_eq!(values[2].as_deref(), Some("__debezium_unavailable_value"));
    assert_eq!((headers["guitong-absent"].as_str(), headers["guitong-too-large"].as_str()), ("note", "note"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_does_not_read_is_left_out_and_the_rest_goes_on() {
    let exchange = Exchange::new().await;
    let table = table();
    let mut publisher = exchange.publisher(9).await;
    let bad = change(&table, Operation::Create, 1, 0, None, Some(row(&[Some("1"), Some("12a"), Some("rest")])));
    publisher.publish(batch(vec![bad], "a")).await.unwrap();
    let (values, headers) = exchange.last().await;
    assert_eq!(values, vec![Some("1".to_owned()), None, Some("rest".to_owned())]);
    assert_eq!(headers["guitong-lossy"], "n");
    assert_eq!(publisher.totals().lossy, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_alone_is_stored_and_nothing_is_not() {
    let exchange = Exchange::new().await;
    let mut publisher = exchange.publisher(1).await;
    assert!(publisher.publish(SourceBatch::default()).await.unwrap().is_none());
    assert!(publisher.publish(batch(vec![], "idle")).await.unwrap().is_some());
    assert_eq!(exchange.publisher(0).await.position().unwrap(), "idle");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_is_published_without_its_content() {
    let exchange = Exchange::new().await;
    let message = |at: u64, length: usize| Notice::Message {
        prefix: "outbox".to_owned(),
        content: Bytes::from(vec![b'x'; length]),
        version: Version { epoch: 1, commit: at, change: at, index: 0, revision: 0 },
        origin: change(&table(), Operation::Create, at, 0, None, None).origin,
    };
    let notices = vec![message(1, 17 << 20), message(2, 4)];
    let batch = SourceBatch { notices, ..batch(vec![], "messages") };
    exchange.publisher(9).await.publish(batch).await.unwrap().unwrap();
    let records = exchange.records_of("raw.licensing.message").await;
    let header = |record: &Record| record.header("guitong-too-large").map(|value| value.to_vec());
    assert_eq!(records.iter().map(header).collect::<Vec<_>>(), [Some(b"content".to_vec()), None]);
    assert!(records[0].value.as_ref().unwrap().len() < 1_000);
    assert!(records[1].value.as_ref().unwrap().ends_with(b"xxxx"));
}
