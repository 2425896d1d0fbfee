//! An exchange of one resource with many subscriptions, whose policies change while its history goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use guitong_deliver::{
    AUDIT_TOPIC, DeliverError, DeliverStatus, Deliverer, DelivererHandle, Delivery, Metrics, PARKED_TOPIC, Phase, Pools,
};
use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_log::{Batch, ExchangeLog, NewRecord, OwnedLog, OwnerId, Retention, Role, TopicPartition, TopicSpec};
use guitong_schemas::avro::RecordEncoder;
use guitong_schemas::avro::form::Names;
use guitong_schemas::contract::resource::OnChange;
use guitong_schemas::contract::{Budgets, Exchange, LogConfig, Name, Quality, Resource, Revision, Sharing};
use guitong_schemas::position::Version;
use guitong_schemas::standard::{Entity, Standard};
use guitong_schemas::table::TableName;
use guitong_tests::schemas::{EntitySchemas, KEY_SCHEMA, VALUE_SCHEMA};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::canaries::{Canaries, Ids};
use crate::model::{Cell, Maker, Model, Row};
use crate::places::{Place, Servers};
use crate::policy::{Given, Policy};

const TOPIC: &str = "std.shared";
const PARTITIONS: u32 = 2;
const PATIENCE: Duration = Duration::from_secs(60);
/// Of one read: a round's history takes several batches, and a refill many.
const BATCH_BYTES: usize = 6_000;

/// What came of a row.
pub(crate) enum Event {
    Upsert(Vec<Cell>),
    Delete,
    /// Bytes that are no record of the entity, under a key that is one.
    Rubbish,
}

/// A record of the topic.
pub(crate) struct Entry {
    pub(crate) row: usize,
    pub(crate) event: Event,
}

/// A deliverer at work.
pub(crate) struct Running {
    pub(crate) status: watch::Receiver<DeliverStatus>,
    pub(crate) handle: DelivererHandle,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), DeliverError>>,
}

/// A subscription with its subscriber.
pub(crate) struct Subscriber {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) policy: Policy,
    pub(crate) running: Option<Running>,
    /// Whether the policy lets anything flow now.
    pub(crate) open: bool,
    /// What it was granted at any time while it was served.
    pub(crate) may: Ids,
    /// Canaries of keys by which it knew rows under earlier policies.
    pub(crate) knew: Ids,
    /// What an endpoint refuses: records with this in their field `name`.
    pub(crate) refused: Option<String>,
    /// Requests that were looked at.
    pub(crate) looked_at: usize,
}

/// What a subscriber is to hold of a row.
pub(crate) enum Wanted {
    Row(Given),
    /// Its newest version was refused: whether an older one is there is another matter.
    Unknown(String),
}

pub(crate) struct World {
    pub(crate) model: Model,
    pub(crate) canaries: Canaries,
    pub(crate) random: StdRng,
    pub(crate) entries: Vec<Entry>,
    pub(crate) rows: Vec<Row>,
    pub(crate) subscribers: Vec<Subscriber>,
    pub(crate) log: Arc<EmbeddedLog>,
    pub(crate) registry: prometheus::Registry,
    /// How many policies there were.
    pub(crate) policies: usize,
    /// How many canaries were in what servers logged.
    pub(crate) logged: usize,
    alive: BTreeSet<usize>,
    home: TempDir,
    owner: Box<dyn OwnedLog>,
    entity: Arc<Entity>,
    value: RecordEncoder,
    key: RecordEncoder,
    pools: Pools,
    metrics: Metrics,
}

impl World {
    pub(crate) async fn new(number: usize, seed: u64, entity: usize, subscribers: usize, servers: &Arc<Servers>) -> Self {
        let (model, mut random, home) = (Model::new(entity), StdRng::seed_from_u64(seed), tempfile::tempdir().unwrap());
        let entity = Arc::clone(Standard::builtin().entity(model.entity).unwrap());
        let log = EmbeddedLog::open(&EmbeddedConfig { path: home.path().join("exchange.log"), max_bytes: None }).await.unwrap();
        let day = Duration::from_secs(86_400);
        let retention = Retention::Compact { after: day, tombstones: day };
        log.ensure_topic(&TopicSpec { name: TOPIC.into(), partitions: PARTITIONS, retention }).await.unwrap();
        let owner = log.open(&OwnerId::new(Role::Normalise, "shared")).await.unwrap();
        let registry = prometheus::Registry::new();
        let mut all = Vec::new();
        for at in 0..subscribers {
            let name = format!("w{number}-s{at}");
            all.push(Subscriber {
                place: Place::new(&name, (number, at), home.path(), servers).await,
                name,
                policy: Policy::random(&model, &mut random),
                running: None,
                open: false,
                may: Ids::new(),
                knew: Ids::new(),
                refused: None,
                looked_at: 0,
            });
        }
        Self {
            policies: subscribers,
            logged: 0,
            value: RecordEncoder::compile(&entity.schema_json).unwrap(),
            key: RecordEncoder::compile(&entity.key_schema_json).unwrap(),
            metrics: Metrics::register(&registry).unwrap(),
            registry,
            pools: Pools::default(),
            log: Arc::new(log),
            canaries: Canaries::default(),
            entries: Vec::new(),
            rows: Vec::new(),
            alive: BTreeSet::new(),
            subscribers: all,
            model,
            random,
            home,
            owner,
            entity,
        }
    }

    pub(crate) fn outbox(&self) -> PathBuf {
        self.home.path().join("exchange.outbox.db")
    }

    /// So many random changes of rows, in one commit. What is served now may have what it grants of them.
    pub(crate) async fn happen(&mut self, changes: usize) {
        let first = self.entries.len();
        for _ in 0..changes {
            self.happen_once();
        }
        let records = (first..self.entries.len()).map(|at| self.record(at)).collect();
        self.owner.append(Batch { records, ..Batch::default() }).await.unwrap();
        for at in 0..self.subscribers.len() {
            self.entitle(at, first);
        }
    }

    fn happen_once(&mut self) {
        let known = self.alive.iter().copied().choose(&mut self.random);
        match (self.random.random_range(0..20), known) {
            (0..5, _) | (_, None) => self.insert(),
            (5..7, Some(row)) => self.delete(row),
            // Its key changes.
            (7, Some(row)) => {
                self.delete(row);
                self.insert();
            }
            (8, Some(row)) => self.entries.push(Entry { row, event: Event::Rubbish }),
            // Of a row that nobody ever had.
            (9, _) => {
                let row = self.row();
                let event = if self.random.random() { Event::Delete } else { Event::Rubbish };
                self.entries.push(Entry { row, event });
            }
            (_, Some(row)) => self.write(row),
        }
    }

    fn row(&mut self) -> usize {
        let number = self.rows.len();
        let mut maker = Maker { model: &self.model, canaries: &mut self.canaries, random: &mut self.random };
        self.rows.push(maker.row(number));
        number
    }

    fn insert(&mut self) {
        let row = self.row();
        self.alive.insert(row);
        self.write(row);
    }

    fn write(&mut self, row: usize) {
        let mut maker = Maker { model: &self.model, canaries: &mut self.canaries, random: &mut self.random };
        let values = maker.values(&self.rows[row], self.entries.len());
        self.entries.push(Entry { row, event: Event::Upsert(values) });
    }

    fn delete(&mut self, row: usize) {
        self.alive.remove(&row);
        self.entries.push(Entry { row, event: Event::Delete });
    }

    fn record(&self, at: usize) -> NewRecord {
        let entry = &self.entries[at];
        let (mut key, mut bytes) = (Vec::new(), Vec::new());
        let parts: Vec<_> = self.rows[entry.row].key.iter().map(|part| guitong_schemas::avro::Value::Text(part)).collect();
        self.key.encode(&parts, KEY_SCHEMA, &mut key).unwrap();
        let value = match &entry.event {
            Event::Upsert(cells) => {
                let mut numbers = vec![Vec::new(); cells.len()];
                let values: Vec<_> = cells.iter().zip(&mut numbers).map(|(cell, number)| cell.avro(number)).collect();
                self.value.encode(&values, VALUE_SCHEMA, &mut bytes).unwrap();
                Some(Bytes::from(bytes))
            }
            Event::Delete => None,
            Event::Rubbish => Some(Bytes::from_static(b"\0\0\0\0\x01rubbish")),
        };
        let version = Version { epoch: 1, commit: at as u64 + 1, change: 1, index: 0, revision: 1 };
        let now = Timestamp::now();
        let headers = [("guitong-version", version.to_string()), ("guitong-source-ts", now.as_microsecond().to_string())];
        NewRecord {
            topic: TOPIC.into(),
            partition: None,
            key: Some(Bytes::from(key)),
            value,
            headers: headers.map(|(name, value)| (name.into(), Bytes::from(value))).into(),
            timestamp_ms: now.as_millisecond(),
        }
    }

    /// What the policy grants of the records from `first` on, whenever they come.
    pub(crate) fn granted(&self, policy: &Policy, first: usize) -> Ids {
        let mut granted = Ids::new();
        for entry in &self.entries[first..] {
            let row = &self.rows[entry.row];
            match &entry.event {
                Event::Upsert(values) => granted.extend(policy.granted(&self.model, row, values)),
                // The row lies within what is granted, whatever it holds.
                Event::Delete | Event::Rubbish if !policy.is_conditional() => {
                    granted.extend(policy.granted_key(&self.model, row))
                }
                Event::Delete | Event::Rubbish => {}
            }
        }
        granted
    }

    /// What a subscriber may have now; of one that is not served, what it may have had.
    pub(crate) fn now(&self, subscriber: &Subscriber) -> Ids {
        if subscriber.is_served() { self.granted(&subscriber.policy, 0) } else { subscriber.may.clone() }
    }

    fn entitle(&mut self, at: usize, first: usize) {
        let subscriber = &self.subscribers[at];
        if subscriber.is_served() {
            let granted = self.granted(&subscriber.policy, first);
            self.subscribers[at].may.extend(granted);
        }
    }

    /// What a subscriber is to hold, by row.
    pub(crate) fn wanted(&self, subscriber: &Subscriber) -> Vec<Wanted> {
        let mut wanted: BTreeMap<usize, Wanted> = BTreeMap::new();
        for entry in &self.entries {
            let row = &self.rows[entry.row];
            let given = match &entry.event {
                Event::Rubbish => continue,
                Event::Delete => None,
                Event::Upsert(values) => subscriber.policy.given(&self.model, row, values),
            };
            match given {
                Some(given) if subscriber.refuses(&given) => {
                    wanted.insert(entry.row, Wanted::Unknown(given.0));
                }
                Some(given) => drop(wanted.insert(entry.row, Wanted::Row(given))),
                None => drop(wanted.remove(&entry.row)),
            }
        }
        wanted.into_values().collect()
    }

    /// Starts, or starts again, under the policy that is in force.
    pub(crate) fn start(&mut self, at: usize, zone: TimeZone) {
        let subscriber = &self.subscribers[at];
        let today = Timestamp::now().to_zoned(zone.clone()).date();
        let subscription =
            subscriber.policy.subscription(&self.model, &subscriber.name, subscriber.place.config(&subscriber.name), today);
        let delivery = Delivery {
            exchange: Arc::new(self.exchange(zone)),
            revision: Revision([7; 32]),
            subscription: Arc::new(subscription),
            resource: Arc::new(resource(self.model.entity, subscriber.policy.sharing())),
            entity: Arc::clone(&self.entity),
            log: Arc::clone(&self.log) as Arc<dyn ExchangeLog>,
            registry: Arc::new(EntitySchemas(Arc::clone(&self.entity))),
            pools: self.pools.clone(),
            metrics: self.metrics.clone(),
        };
        let deliverer = Deliverer::new(delivery).unwrap();
        let (status, handle, shutdown) = (deliverer.status(), deliverer.handle(), CancellationToken::new());
        let running = Running { status, handle, task: tokio::spawn(deliverer.run(shutdown.clone())), shutdown };
        let subscriber = &mut self.subscribers[at];
        subscriber.open = subscriber.policy.is_open();
        subscriber.running = Some(running);
        self.entitle(at, 0);
    }

    /// Ends it where it is.
    pub(crate) async fn stop(&mut self, at: usize, crash: bool) {
        let (rows, subscriber) = (&self.rows, &mut self.subscribers[at]);
        if subscriber.policy.is_clear(&self.model) {
            let keys = rows.iter().flat_map(|row| &row.key_ids);
            subscriber.knew.extend(keys.filter(|id| subscriber.may.contains(*id)));
        }
        let Some(running) = subscriber.running.take() else { return };
        if crash {
            running.task.abort();
            running.task.await.ok();
        } else {
            running.shutdown.cancel();
            running.task.await.unwrap().unwrap();
        }
    }

    /// Waits until whoever is served has everything, and whoever is not is known to be so.
    pub(crate) async fn settled(&mut self) {
        for at in 0..self.subscribers.len() {
            self.settled_one(at).await;
        }
    }

    pub(crate) async fn settled_one(&mut self, at: usize) {
        let mut ends = Vec::new();
        for partition in 0..PARTITIONS {
            ends.push((partition, self.log.bounds(&TopicPartition::new(TOPIC, partition)).await.unwrap().end));
        }
        let subscriber = &mut self.subscribers[at];
        let (open, name) = (subscriber.open, &subscriber.name);
        let Some(running) = &mut subscriber.running else { return };
        let reached = running.status.wait_for(|status| match (&status.phase, open) {
            (Phase::Live, true) => status.offsets == ends,
            (Phase::Waiting { .. }, false) => true,
            _ => false,
        });
        let reached = tokio::time::timeout(PATIENCE, reached).await.is_ok_and(|status| status.is_ok());
        assert!(reached, "{name} never came so far: {:?}, the end is {ends:?}", *running.status.borrow());
    }

    /// Each endpoint that is served refuses from now on some record that has come.
    pub(crate) fn refuse_something(&mut self) {
        for subscriber in self.subscribers.iter_mut().filter(|subscriber| subscriber.open && subscriber.refused.is_none()) {
            let Place::Webhook(receiver, _) = &subscriber.place else { continue };
            let given = self.entries.iter().filter_map(|entry| match &entry.event {
                Event::Upsert(values) => subscriber.policy.given(&self.model, &self.rows[entry.row], values),
                Event::Delete | Event::Rubbish => None,
            });
            // In clear: a mask makes many alike.
            let named = given.filter_map(|(_, cells)| cells.get("name")?.clone().filter(|name| name.contains("zq")));
            subscriber.refused = named.choose(&mut self.random);
            receiver.refuse(subscriber.refused.as_deref());
        }
    }

    fn exchange(&self, time_zone: TimeZone) -> Exchange {
        Exchange {
            name: Name::parse("guitong").unwrap(),
            title: "测试".into(),
            time_zone,
            log: LogConfig::Embedded { path: self.home.path().join("exchange.log") },
            registry: None,
            listen: ([127, 0, 0, 1], 0).into(),
            std_partitions: PARTITIONS,
            trace: Duration::from_secs(86_400),
            budgets: Budgets { max_record: 16 << 20, batch: BATCH_BYTES, linger: Duration::from_millis(5) },
        }
    }

    /// What the exchange keeps for good of deliveries and of what was set aside: whose it is, and the document.
    pub(crate) async fn audited(&self) -> Vec<(String, Vec<u8>)> {
        let mut all = Vec::new();
        for topic in [AUDIT_TOPIC, PARKED_TOPIC] {
            if self.log.partitions(topic).await.unwrap().is_none() {
                continue;
            }
            for record in guitong_tests::everything(&*self.log, &TopicPartition::new(topic, 0)).await {
                let document = record.value.unwrap().to_vec();
                let subscription = serde_json::from_slice::<serde_json::Value>(&document).unwrap()["subscription"].clone();
                all.push((subscription.as_str().unwrap().to_owned(), document));
            }
        }
        all
    }
}

impl Subscriber {
    pub(crate) fn is_served(&self) -> bool {
        self.running.is_some() && self.open
    }

    pub(crate) fn is_webhook(&self) -> bool {
        matches!(self.place, Place::Webhook(..))
    }

    fn refuses(&self, (_, cells): &Given) -> bool {
        let zero = |cell: &Option<String>| cell.as_ref().is_some_and(|text| text.contains('\0'));
        let named = self.refused.is_some() && cells.get("name").is_some_and(|name| *name == self.refused);
        named || self.place.refuses_zero() && cells.values().any(zero)
    }
}

fn resource(entity: &str, sharing: Sharing) -> Resource {
    Resource {
        name: Name::parse("shared").unwrap(),
        code: "3450010102/000017".into(),
        title: "共享资源".into(),
        system: Name::parse("licensing").unwrap(),
        table: TableName::new("public", "qy_jbxx"),
        raw_topic: "raw.licensing.public.qy_jbxx".into(),
        names: Names::Escaped,
        entity: entity.into(),
        sharing,
        condition: None,
        map: BTreeMap::new(),
        joins: BTreeMap::new(),
        not_provided: BTreeMap::new(),
        rules: Vec::new(),
        quality: Quality::usual(None),
        revision: 1,
        on_change: OnChange::default(),
        publish_unchanged: false,
    }
}
