//! The sink `kafka` of a subscription: a topic of its own, on the cluster of the exchange's log or on the subscriber's.

use super::exchange::{read_cluster, read_registry};
use super::load::World;
use super::reading::section::Section;
use super::{KafkaCluster, RegistryConfig};

/// Every key of the section.
pub(super) const KEYS: [&str; 8] =
    ["topic", "format", "partitions", "brokers", "replication_factor", "properties", "registry", "kind"];

/// Kafka's bound of a topic's name.
const LONGEST: usize = 249;

/// How the topics of the exchange itself begin, beside those that begin with its name; and Kafka's own.
const OWN: [&str; 5] = ["raw.", "std.", "quarantine.", "audit", "__"];

#[derive(Debug, Clone, PartialEq)]
pub struct KafkaTopic {
    pub cluster: KafkaCluster,
    pub topic: String,
    /// Of a topic that is not there yet.
    pub partitions: u32,
    pub format: TopicFormat,
}

impl KafkaTopic {
    /// Ends the name of the topic beside it, in which the exchange notes where it stands.
    pub const STAND: &str = ".stand";
}

#[derive(Debug, Clone, PartialEq)]
pub enum TopicFormat {
    Json,
    /// Framed as Confluent's clients do, by schemas in this registry; `None`: the exchange's.
    Avro(Option<RegistryConfig>),
}

#[derive(Clone, Copy, PartialEq)]
enum Format {
    Avro,
    Json,
}

const FORMATS: [(&str, Format); 2] = [("avro", Format::Avro), ("json", Format::Json)];

pub(super) fn read(section: &Section<'_>, world: &World<'_>) -> Option<KafkaTopic> {
    let cluster = read_cluster(section, &world.surroundings, world.kafka.as_ref());
    let topic = section.required("topic", |section, key| section.parsed(key, |text| topic_name(text, &world.exchange_name)));
    let partitions = section.number("partitions", 1..1_001).map_or(1, |found| found.value);
    let format = section.required("format", |section, key| section.choice(key, &FORMATS)).map(|found| found.value);
    let registry = section.own_section("registry").map(|registry| read_registry(registry, &world.surroundings));
    if format == Some(Format::Json) && section.has("registry") {
        let help = "leave it out, or write format = \"avro\"".to_owned();
        section.problem(&section.key_at("registry"), "avro-only", "`registry` is for the format \"avro\" alone", Some(help));
    }
    let format = match (format?, registry) {
        (Format::Json, _) => TopicFormat::Json,
        (Format::Avro, None) => TopicFormat::Avro(None),
        (Format::Avro, Some(registry)) => TopicFormat::Avro(Some(registry?)),
    };
    Some(KafkaTopic { cluster: cluster?, topic: topic?.value, partitions, format })
}

/// A name that Kafka takes and that no topic of the exchange has, also with what is appended to it.
fn topic_name(text: &str, exchange: &str) -> Result<String, String> {
    let most = LONGEST - KafkaTopic::STAND.len();
    if text.is_empty() || text.len() > most || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return Err(format!("must have 1 to {most} of the characters a-z, A-Z, 0-9, `.`, `_` and `-`"));
    }
    if text.chars().all(|c| c == '.') {
        return Err("must have more than dots".to_owned());
    }
    let exchanges = format!("{exchange}.");
    match OWN.into_iter().chain([exchanges.as_str()]).find(|own| text.starts_with(own)) {
        Some(own) => Err(format!("must not begin with `{own}`, as topics of the exchange or of Kafka itself do")),
        None => Ok(text.to_owned()),
    }
}
