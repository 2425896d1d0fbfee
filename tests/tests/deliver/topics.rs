//! Topics of a subscriber, read as its consumers read them: committed records, the last one of each key.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use guitong_deliver::Hold;
use guitong_log::kafka::{Outlet, Outlets};
use guitong_log::registry::{RegistryClient, SchemaRegistry as _};
use guitong_log::{ExchangeLog as _, OwnerId, Record, Role};
use guitong_schemas::contract::kafka::TopicFormat;
use guitong_schemas::contract::{KafkaCluster, KafkaTopic, RegistryConfig, SinkConfig};
use guitong_tests::servers::kafka::Kafka;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::fixture::{Bench, Rows};

/// Partitions of a topic that a sink makes.
pub(crate) const WIDTH: u32 = 2;

/// One broker for all tests that do nothing to it: their topics have names of their own.
pub(crate) async fn broker() -> String {
    static SHARED: OnceCell<Kafka> = OnceCell::const_new();
    let start = || async {
        let broker = Kafka::start().await.unwrap();
        // The first transaction of a cluster makes the topic that holds them all.
        let mut outlet = Outlets::new(&cluster(&broker.bootstrap())).unwrap().outlet("warm");
        outlet.make(1).await.unwrap();
        outlet.take_over().await.unwrap();
        broker
    };
    SHARED.get_or_init(start).await.bootstrap()
}

pub(crate) fn cluster(brokers: &str) -> KafkaCluster {
    KafkaCluster { brokers: vec![brokers.to_owned()], replication_factor: 1, properties: BTreeMap::new() }
}

/// A subscriber's row by the names of its fields.
pub(crate) type Held = BTreeMap<String, Option<String>>;

/// A topic for each "table".
pub(crate) struct Topics {
    pub(crate) cluster: KafkaCluster,
    prefix: String,
    registry: Option<RegistryConfig>,
    /// The "table" that a sink was last configured for.
    last: Mutex<String>,
}

impl Topics {
    pub(crate) async fn shared() -> Self {
        Self::on(&broker().await)
    }

    pub(crate) fn on(brokers: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("of-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        Self { cluster: cluster(brokers), prefix, registry: None, last: Mutex::default() }
    }

    /// The same in Avro.
    pub(crate) fn with_registry(self, url: String) -> Self {
        Self { registry: Some(RegistryConfig { url, user: None, password: None }), ..self }
    }

    pub(crate) fn topic(&self, table: &str) -> String {
        let plain = table
            .bytes()
            .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { hex::encode([byte]) });
        format!("{}.{}", self.prefix, plain.collect::<String>())
    }

    pub(crate) fn of(&self, table: &str) -> KafkaTopic {
        table.clone_into(&mut self.last.lock().unwrap());
        let format = self.registry.clone().map_or(TopicFormat::Json, |registry| TopicFormat::Avro(Some(registry)));
        KafkaTopic { cluster: self.cluster.clone(), topic: self.topic(table), partitions: WIDTH, format }
    }

    pub(crate) fn config(&self, table: &str) -> SinkConfig {
        SinkConfig::Kafka(Box::new(self.of(table)))
    }

    /// A hold on the log for a sink without a deliverer; each has its own copy of what the topic has.
    pub(crate) fn hold(&self, bench: &Bench) -> Hold {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let owner = OwnerId::new(Role::Deliver, format!("sink-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let open = async { bench.log.open(&owner).await.unwrap() };
        Hold::new(tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(open)))
    }

    pub(crate) fn outlet(&self, table: &str) -> Outlet {
        Outlets::new(&self.cluster).unwrap().outlet(&self.topic(table))
    }

    /// Every committed record, partition by partition.
    pub(crate) async fn records(&self, table: &str) -> Vec<Record> {
        let outlet = self.outlet(table);
        let mut all = Vec::new();
        for partition in 0..WIDTH {
            let Ok(bounds) = outlet.bounds(partition).await else { continue };
            let mut pages = outlet.records(partition, bounds.earliest, bounds.end).unwrap();
            while let Some(records) = pages.next().await.unwrap() {
                all.extend(records);
            }
        }
        all
    }

    /// The last record of each key.
    pub(crate) async fn latest(&self, table: &str) -> HashMap<Bytes, Record> {
        self.records(table).await.into_iter().map(|record| (record.key.clone().unwrap(), record)).collect()
    }

    /// Fields of a framed or JSON value.
    pub(crate) async fn fields(&self, bytes: &[u8]) -> Held {
        let value: Value = match &self.registry {
            None => serde_json::from_slice(bytes).unwrap(),
            Some(config) => {
                let (id, mut body) = guitong_schemas::avro::frame::read(bytes).unwrap();
                let schema = RegistryClient::new(config).unwrap().schema(id).await.unwrap();
                let schema = apache_avro::Schema::parse_str(&schema).unwrap();
                let read =
                    apache_avro::reader::datum::GenericDatumReader::builder(&schema).build().unwrap().read_value(&mut body);
                assert!(body.is_empty());
                plain(read.unwrap())
            }
        };
        let text = |value: &Value| match value {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        value.as_object().unwrap().iter().map(|(name, value)| (name.clone(), text(value))).collect()
    }

    /// The rows that whoever read the whole topic holds.
    pub(crate) async fn held(&self, table: &str) -> Vec<Held> {
        let mut held = Vec::new();
        for record in self.latest(table).await.into_values() {
            if let Some(value) = &record.value {
                held.push(self.fields(value).await);
            }
        }
        held
    }

    pub(crate) async fn rows(&self, columns: &str, table: &str) -> Rows {
        let names: Vec<&str> = columns.split(", ").collect();
        let rows = self.held(table).await.into_iter().map(|row| {
            let mut values: Vec<_> = names.iter().map(|name| row.get(*name).cloned().flatten()).collect();
            (values.remove(0).unwrap_or_default(), values)
        });
        rows.collect()
    }

    /// Rows, or keys whose rows are deleted.
    pub(crate) async fn count(&self, table: &str) -> i64 {
        let deleted = table == "guitong_deleted";
        let table = if deleted { self.last.lock().unwrap().clone() } else { table.to_owned() };
        let latest = self.latest(&table).await;
        i64::try_from(latest.values().filter(|record| record.value.is_none() == deleted).count()).unwrap()
    }

    /// Where delivery to a topic stands.
    pub(crate) async fn stand(&self, table: &str) -> Value {
        serde_json::from_slice(&self.outlet(table).stand().await.unwrap().unwrap()).unwrap()
    }

    pub(crate) async fn set_stand(&self, table: &str, stand: &Value) {
        let producer: FutureProducer =
            ClientConfig::new().set("bootstrap.servers", self.cluster.brokers.join(",")).create().unwrap();
        let (topic, payload) = (format!("{}{}", self.topic(table), KafkaTopic::STAND), stand.to_string());
        let record = FutureRecord::to(&topic).key("stand").payload(&payload);
        producer.send(record, std::time::Duration::from_secs(10)).await.unwrap();
    }
}

/// An Avro value as JSON has it.
fn plain(value: apache_avro::types::Value) -> Value {
    use apache_avro::types::Value as Avro;
    match value {
        Avro::Union(_, inner) => plain(*inner),
        Avro::Record(fields) => fields.into_iter().map(|(name, value)| (name, plain(value))).collect(),
        Avro::Null => Value::Null,
        Avro::String(text) => text.into(),
        Avro::Long(number) => number.into(),
        Avro::Int(number) | Avro::Date(number) => number.into(),
        Avro::Decimal(decimal) => hex::encode(Vec::<u8>::try_from(&decimal).unwrap()).into(),
        other => panic!("{other:?}"),
    }
}
