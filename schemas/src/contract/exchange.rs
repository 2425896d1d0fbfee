//! Reading `exchange.toml` and `departments/<name>.toml`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::load::Surroundings;
use super::reading::document::{At, Found};
use super::reading::scalar;
use super::reading::section::Section;
use super::{Budgets, Department, Exchange, KafkaCluster, KafkaConfig, LogConfig, Name, RegistryConfig, Secret};

/// CONTRACTS' bound of one encoded record.
/// The largest record that an exchange can be set to.
pub const MAX_RECORD: usize = 16 << 20;

/// Properties of librdkafka that the exchange's guarantees rest on.
const OWN_PROPERTIES: [&str; 10] = [
    "acks",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "group.id",
    "isolation.level",
    "metadata.broker.list",
    "partitioner",
    "transactional.id",
];

/// One task delivers a subscription from all partitions, so more of them serve only consumers from outside; and on Kafka each costs
/// every transaction that touches it a request, its verification and a marker.
const STD_PARTITIONS: u32 = 1;

/// Replicas of a topic, unless the directory says otherwise.
const REPLICAS: u16 = 3;

pub(super) fn read_exchange(root: Section<'_>, surroundings: &Surroundings<'_>) -> Option<Exchange> {
    let name = root.required("name", |root, key| {
        root.parsed(key, |text| Name::parse(text).ok_or_else(|| "must be lower-case letters, digits and dashes".to_owned()))
    });
    let title = root.required("title", Section::words);
    let zone = |name: &str| {
        jiff::tz::TimeZone::get(name).map_err(|_| format!("names a time zone that does not exist: {}", scalar::short(name)))
    };
    let time_zone = if root.has("time_zone") { root.parsed("time_zone", zone).map(|zone| zone.value) } else { read_zone(&root) };
    let listen = read_listen(&root);
    let std_partitions = root.number("std_partitions", 1..1001).map_or(STD_PARTITIONS, |found| found.value);
    let trace_days = root.number("trace_days", 1..36_501).map_or(30, |found| found.value);
    let (kind, log) = root.section("log").map_or((None, None), |section| read_log(section, surroundings));
    let registry = root.section("registry").filter(Section::is_declared).map(|section| read_registry(section, surroundings));
    let budgets = root.section("budgets").map_or(DEFAULT_BUDGETS, read_budgets);
    if kind == Some(LogKind::Kafka) && registry.is_none() {
        let help = "add [registry] with its url; the built-in one lives in the embedded log".to_owned();
        root.problem(&root.key_at("log"), "missing-key", "a Kafka log needs a schema registry", Some(help));
    }
    root.finish();
    Some(Exchange {
        name: name?.value,
        title: title?.value,
        time_zone: time_zone?,
        log: log?,
        registry: match registry {
            None => None,
            Some(registry) => Some(registry?),
        },
        listen: listen?,
        std_partitions,
        trace: Duration::from_secs(u64::from(trace_days) * 86_400),
        budgets,
    })
}

/// The zone of an exchange that names none.
fn read_zone(root: &Section<'_>) -> Option<jiff::tz::TimeZone> {
    let zone = jiff::tz::TimeZone::get("Asia/Shanghai").ok();
    if zone.is_none() {
        root.problem(&At::File, "bad-value", "this machine does not know the time zone Asia/Shanghai", None);
    }
    zone
}

fn read_listen(root: &Section<'_>) -> Option<SocketAddr> {
    const USUAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8086);
    let remote = root.flag("allow_remote").is_some_and(|found| found.value);
    if !root.has("listen") {
        root.text("listen");
        return Some(USUAL);
    }
    let parse =
        |text: &str| text.parse::<SocketAddr>().map_err(|_| "must be an address and a port, as 127.0.0.1:8086".to_owned());
    let listen = root.parsed("listen", parse)?;
    if !listen.value.ip().is_loopback() && !remote {
        let message = format!("`listen` is reachable from other machines: {}", listen.value);
        let help = "listen on 127.0.0.1, or declare `allow_remote = true`".to_owned();
        root.problem(&listen.at, "remote-listen", message, Some(help));
        return None;
    }
    Some(listen.value)
}

#[derive(Clone, Copy, PartialEq)]
enum LogKind {
    Embedded,
    Kafka,
}

fn read_log(section: Section<'_>, surroundings: &Surroundings<'_>) -> (Option<LogKind>, Option<LogConfig>) {
    let kinds = [("embedded", LogKind::Embedded), ("kafka", LogKind::Kafka)];
    let kind = match section.has("kind") {
        true => section.choice("kind", &kinds),
        false => Some(Found { value: LogKind::Embedded, at: At::File }),
    };
    section.know("kind");
    let Some(Found { value: kind, at }) = kind else { return (None, None) };
    if matches!(at, At::Variable(_)) {
        // What the file says of the kind that the environment replaces is idle, not wrong.
        ["path", "brokers", "replication_factor", "properties", "state_path"].iter().for_each(|key| section.know(key));
    }
    let path = |key, usual: &str| {
        let given = section.words(key).map_or_else(|| usual.to_owned(), |found| found.value);
        surroundings.root.join(PathBuf::from(given))
    };
    let log = match kind {
        LogKind::Embedded => Some(LogConfig::Embedded { path: path("path", "data/exchange.db") }),
        LogKind::Kafka => {
            let cluster = read_cluster(&section, surroundings, None);
            let state_path = path("state_path", "data/state");
            cluster.map(|cluster| LogConfig::Kafka(KafkaConfig { cluster, state_path }))
        }
    };
    section.finish();
    (Some(kind), log)
}

/// The cluster that a section names. Where it need not name one, it is `usual`, with what the section says over it.
pub(super) fn read_cluster(
    section: &Section<'_>,
    surroundings: &Surroundings<'_>,
    usual: Option<&KafkaCluster>,
) -> Option<KafkaCluster> {
    let usual = usual.filter(|_| !section.has("brokers"));
    let brokers = match usual {
        Some(usual) => Some(usual.brokers.clone()),
        None => section.required("brokers", read_brokers),
    };
    section.know("brokers");
    let replicas = section.number("replication_factor", 1..33).and_then(|found| u16::try_from(found.value).ok());
    let given = section.own_section("properties").map_or(Some(BTreeMap::new()), |it| read_properties(it, surroundings));
    let mut properties = usual.map(|usual| usual.properties.clone()).unwrap_or_default();
    properties.extend(given?);
    let replication_factor = replicas.unwrap_or_else(|| usual.map_or(REPLICAS, |usual| usual.replication_factor));
    Some(KafkaCluster { brokers: brokers?, replication_factor, properties })
}

fn read_brokers(section: &Section<'_>, key: &str) -> Option<Vec<String>> {
    let brokers = section.texts(key)?;
    if brokers.value.is_empty() {
        section.problem(&brokers.at, "empty", "`brokers` is empty", None);
        return None;
    }
    let good = |broker: &Found<String>| match scalar::host_and_port(&broker.value, None) {
        Ok(()) => true,
        Err(why) => {
            section.problem(&broker.at, "bad-value", format_args!("a broker {why}"), Some("as kafka-1:9092".to_owned()));
            false
        }
    };
    let all_good = brokers.value.iter().filter(|broker| !good(broker)).count() == 0;
    all_good.then(|| brokers.value.into_iter().map(|broker| broker.value).collect())
}

fn read_properties(section: Section<'_>, surroundings: &Surroundings<'_>) -> Option<BTreeMap<String, Secret>> {
    let mut properties = BTreeMap::new();
    let mut complete = true;
    for key in section.keys() {
        if OWN_PROPERTIES.contains(&key.value.as_str()) {
            let message = format!("property `{}` is set by the exchange itself", key.value);
            section.problem(&key.at, "own-property", message, Some("the guarantees rest on it: leave it out".to_owned()));
            continue;
        }
        let value = section.scalar(&key.value).and_then(|found| surroundings.secret(&section, &key.value, &found));
        match value {
            Some(value) => drop(properties.insert(key.value, value)),
            None => complete = false,
        }
    }
    complete.then_some(properties)
}

pub(super) fn read_registry(section: Section<'_>, surroundings: &Surroundings<'_>) -> Option<RegistryConfig> {
    let url = section.required("url", |section, key| section.parsed(key, scalar::http_url));
    let user = section.words("user").map(|found| found.value);
    let given = section.text("password");
    let password = given.as_ref().map(|found| surroundings.secret(&section, "password", found));
    section.finish();
    let password = match password {
        None => None,
        Some(password) => Some(password?),
    };
    Some(RegistryConfig { url: url?.value, user, password })
}

const DEFAULT_BUDGETS: Budgets = Budgets { max_record: MAX_RECORD, batch: 4 << 20, linger: Duration::from_millis(5) };

fn read_budgets(section: Section<'_>) -> Budgets {
    let within = |low: usize, high: usize| {
        move |text: &str| match scalar::size(text)? {
            size if (low..=high).contains(&size) => Ok(size),
            _ => Err(format!("must be from {} KiB to {} MiB", low >> 10, high >> 20)),
        }
    };
    let linger = |text: &str| match scalar::duration(text)? {
        linger if linger <= Duration::from_secs(10) => Ok(linger),
        _ => Err("must be at most 10 s".to_owned()),
    };
    let budgets = Budgets {
        max_record: section.parsed("max_record", within(64 << 10, MAX_RECORD)).map_or(MAX_RECORD, |found| found.value),
        batch: section.parsed("batch", within(64 << 10, 64 << 20)).map_or(DEFAULT_BUDGETS.batch, |found| found.value),
        linger: section.parsed("linger", linger).map_or(DEFAULT_BUDGETS.linger, |found| found.value),
    };
    section.finish();
    budgets
}

pub(super) fn read_department(name: Option<Name>, root: Section<'_>, surroundings: &Surroundings<'_>) -> Option<Department> {
    let title = root.required("title", Section::words);
    let code = root.required("code", |root, key| root.parsed(key, |text| surroundings.credit_code(text)));
    let contacts = root.texts("contacts").map_or_else(Vec::new, |found| found.value.into_iter().map(|text| text.value).collect());
    root.finish();
    Some(Department { name: name?, title: title?.value, code: code?.value, contacts })
}
