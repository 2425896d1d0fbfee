//! What is particular to topics: each change once for whoever reads committed records, whatever happens to the holder, the way or the broker.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use guitong_deliver::Phase;
use guitong_log::kafka::OutletRecord;
use guitong_log::registry::{RegistryClient, SchemaRegistry as _};
use guitong_log::{Headers, Record};
use guitong_schemas::avro::{Value, frame};
use guitong_schemas::contract::{KafkaTopic, RegistryConfig, Secret, SinkConfig, Subscription};
use guitong_schemas::position::Version;
use guitong_tests::servers::kafka::{Kafka, Options};
use guitong_tests::servers::proxy::{END_TXN, Mode, Proxy};
use guitong_tests::servers::registry::Registry;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};

use crate::fixture::{Bench, names};
use crate::scenarios::assert_each_batch_once;
use crate::topics::{Topics, WIDTH, cluster};

fn sink(topic: KafkaTopic) -> SinkConfig {
    SinkConfig::Kafka(Box::new(topic))
}

pub(crate) fn header<'r>(record: &'r Record, name: &str) -> &'r str {
    record.header(name).map(|value| std::str::from_utf8(value).unwrap()).unwrap_or_default()
}

/// Key and commit of each record in JSON, and whether it is a tombstone; of one key in order.
fn seen(records: &[Record]) -> Vec<(String, u64, bool)> {
    let seen = records.iter().map(|record| {
        let key: serde_json::Value = serde_json::from_slice(record.key.as_ref().unwrap()).unwrap();
        let sequence = hex::decode(header(record, "ce_sequence")).unwrap();
        let version = Version::from_bytes(&sequence).unwrap();
        (key["uscc"].as_str().unwrap().to_owned(), version.commit, record.value.is_none())
    });
    seen.collect()
}

/// No change came twice, and none of a row after a newer one.
fn assert_once_and_in_order(records: &[Record]) {
    let mut newest: HashMap<String, u64> = HashMap::new();
    for (key, commit, _) in seen(records) {
        let before = newest.insert(key.clone(), commit).unwrap_or(0);
        assert!(before < commit, "{key}: {commit} after {before}");
    }
    let ids: HashSet<&str> = records.iter().map(|record| header(record, "ce_id")).collect();
    assert_eq!(ids.len(), records.len());
}

async fn latest_names(topics: &Topics, table: &str) -> HashMap<String, String> {
    let rows = topics.rows("uscc, name", table).await;
    rows.into_iter().map(|(key, row)| (key, row[0].clone().unwrap_or_default())).collect()
}

fn admin(brokers: &str) -> AdminClient<rdkafka::client::DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap()
}

/// A broker that is reached through a proxy, and past it.
struct Proxied {
    _kafka: Kafka,
    proxy: Proxy,
    topics: Topics,
}

impl Proxied {
    async fn start() -> Self {
        let (listener, port) = Proxy::bind().await.unwrap();
        let kafka = Kafka::start_with(Options { advertise: Some(port), ..Options::default() }).await.unwrap();
        let proxy = Proxy::start(listener, kafka.second_port()).unwrap();
        let topics = Topics::on(&kafka.bootstrap());
        Self { _kafka: kafka, proxy, topics }
    }

    /// The subscription through the proxy.
    fn through(&self, bench: &Bench) -> Subscription {
        let topic = self.topics.of("t");
        let topic = KafkaTopic { cluster: cluster(&self.proxy.address().to_string()), ..topic };
        bench.subscription("credit", sink(topic), &["uscc", "name"])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_says_what_it_is_and_a_delete_goes_to_holders_alone() {
    let mut bench = Bench::new().await;
    let topics = Topics::shared().await;
    let subscription = bench.subscription("credit", topics.config("t"), &["uscc", "name"]);
    bench.append(vec![bench.named("A", "甲", 1), bench.named("B", "乙", 2)]).await;
    bench.deliver(&subscription).await;
    bench.append(vec![bench.delete("A", 3), bench.delete("NEVER", 4)]).await;
    bench.deliver(&subscription).await;
    let records = topics.records("t").await;
    assert_eq!(records.len(), 3);
    assert_once_and_in_order(&records);
    for record in &records {
        let deleted = record.value.is_none();
        let kind = if deleted { "cn.guitong.enterprise.delete" } else { "cn.guitong.enterprise.upsert" };
        let content = if deleted { "" } else { "application/json" };
        let told = ["ce_specversion", "ce_type", "ce_source", "content-type"].map(|name| header(record, name));
        assert_eq!(told, ["1.0", kind, "/subscriptions/credit", content]);
        assert!(!header(record, "ce_time").is_empty());
        let key = record.key.as_ref().unwrap();
        assert!(key == "{\"uscc\":\"A\"}" || key == "{\"uscc\":\"B\"}", "{key:?}");
        assert_eq!(record.at.partition, guitong_log::partition::partition_for(key, WIDTH));
    }
    let bodies: Vec<_> = records.iter().filter_map(|record| record.value.as_deref()).collect();
    assert!(bodies.contains(&"{\"uscc\":\"B\",\"name\":\"乙\"}".as_bytes()), "{bodies:?}");
}

/// Fields that are granted and granted no longer are versions of one schema, each compatible with all before; a key of another form takes
/// the rows under the old one away first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn avro_rows_follow_the_grant() {
    let registry = Registry::start().await.unwrap();
    let topics = Topics::shared().await.with_registry(registry.url());
    let topic = topics.topic("t");
    let mut bench = Bench::new().await;
    let versions = async |part: &str| {
        let url = format!("{}/subjects/{topic}-{part}/versions", registry.url());
        reqwest::get(url).await.unwrap().json::<Vec<u32>>().await.unwrap().len()
    };
    let of = |fields: &[&str]| bench.subscription("credit", topics.config("t"), fields);
    let (wide, wider) = (of(&["uscc", "name", "contact"]), of(&["uscc", "name", "contact", "employees", "established"]));
    let (narrow, hashed) = (of(&["uscc", "name"]), of(&["name", "reg_capital"]));
    let capital = Value::Decimal { unscaled: &[0xfe], scale: 6 };
    let whole = [
        ("name", Value::Text("甲")),
        ("employees", Value::Int(42)),
        ("contact", Value::Text("欧阳测试")),
        ("reg_capital", capital),
    ];
    bench.append(vec![bench.upsert("A", &whole, 1), bench.named("B", "乙", 2)]).await;
    bench.deliver(&wide).await;
    let rows = topics.rows("uscc, name, contact, employees", "t").await;
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(rows["A"], [some("甲"), some("欧阳测试"), None]);
    assert_eq!((rows.len(), versions("value").await, versions("key").await), (2, 1, 1));
    let level = reqwest::get(format!("{}/config/{topic}-value", registry.url())).await.unwrap().text().await.unwrap();
    assert!(level.contains("FULL_TRANSITIVE"), "{level}");

    bench.deliver(&wider).await;
    let rows = topics.rows("uscc, employees, established", "t").await;
    assert_eq!((rows["A"].clone(), versions("value").await), (vec![some("42"), None], 2));
    bench.deliver(&narrow).await;
    bench.append(vec![bench.delete("B", 3)]).await;
    bench.deliver(&narrow).await;
    let rows = topics.rows("uscc, name, contact", "t").await;
    assert_eq!((rows.len(), rows["A"].clone(), versions("value").await), (1, vec![some("甲"), None], 3));
    let latest = topics.latest("t").await;
    assert!(
        latest.values().flat_map(|record| &record.value).all(|value| !value.windows(6).any(|part| part == "欧阳".as_bytes()))
    );

    let before = topics.records("t").await.len();
    bench.deliver(&hashed).await;
    let rows = topics.rows("guitong_key, name, reg_capital", "t").await;
    assert!(rows.len() == 1 && rows.keys().all(|key| key.len() == 32), "{rows:?}");
    assert_eq!(rows.into_values().next(), Some(vec![some("甲"), some("fe")]));
    assert_eq!(versions("key").await, 2);
    let after = topics.records("t").await;
    assert_eq!(after.len(), before + 2, "the row under its old key, and under its new one");
    let newest = |is_gone: bool| {
        let records = after.iter().filter(|record| record.value.is_none() == is_gone);
        records.map(|record| record.timestamp_ms).max()
    };
    assert!(newest(true) <= newest(false), "what goes under its old key goes before anything comes under a new one");
    let config = RegistryConfig { url: registry.url(), user: None, password: None };
    for record in topics.latest("t").await.into_values() {
        let (id, _) = frame::read(record.key.as_ref().unwrap()).unwrap();
        let schema = RegistryClient::new(&config).unwrap().schema(id).await.unwrap();
        assert_eq!(schema.contains("guitong_key"), record.value.is_some(), "{schema}");
    }
}

/// A value that changed its kind cannot be read by who knows the earlier schema: delivery stops and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_no_reader_of_the_topic_takes_stops_only_its_subscription() {
    let registry = Registry::start().await.unwrap();
    let topics = Topics::shared().await.with_registry(registry.url());
    let topic = topics.topic("t");
    let config = RegistryConfig { url: registry.url(), user: None, password: None };
    let other = r#"{"type":"record","name":"credit","namespace":"cn.guitong.delivered","fields":[{"name":"name","type":"int"}]}"#;
    RegistryClient::new(&config).unwrap().register(&format!("{topic}-value"), other).await.unwrap();
    let mut bench = Bench::new().await;
    bench.append(vec![bench.named("A", "甲", 1)]).await;
    let mut stopped = bench.start(&bench.subscription("credit", topics.config("t"), &["uscc", "name"]));
    stopped.reaches(|status| matches!(status.phase, Phase::Stopped { .. })).await;
    let error = stopped.stop().await.unwrap_err().to_string();
    assert!(error.contains(&format!("{topic}-value")) && error.contains("another `topic`"), "{error}");
}

/// The holder dies between its records and their commit, and comes back to life after another one took over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_holder_that_died_before_its_commit_is_ever_seen() {
    let world = Proxied::start().await;
    let mut bench = Bench::new().await;
    let through = world.through(&bench);
    let direct = bench.subscription("credit", world.topics.config("t"), &["uscc", "name"]);
    bench.append(vec![bench.named("A", "1", 1)]).await;
    let mut zombie = bench.start(&through);
    bench.caught_up(&mut zombie).await;
    world.proxy.set(Mode::HoldRequest { api_key: END_TXN });
    bench.append(vec![bench.named("A", "2", 2), bench.named("B", "2", 2)]).await;
    world.proxy.reached(Mode::Hold).await;
    zombie.kill().await;
    bench.append(vec![bench.named("A", "3", 3)]).await;
    bench.deliver(&direct).await;
    let expected = names(&[("A", "3"), ("B", "2")]);
    assert_eq!(latest_names(&world.topics, "t").await, expected);

    let before = world.proxy.received();
    world.proxy.set(Mode::Pass);
    while world.proxy.received() == before {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bench.append(vec![bench.named("B", "4", 4)]).await;
    bench.deliver(&direct).await;
    let records = world.topics.records("t").await;
    assert_once_and_in_order(&records);
    assert_eq!(latest_names(&world.topics, "t").await, names(&[("A", "3"), ("B", "4")]));
    assert_each_batch_once(&bench, 5).await;
}

/// The transaction is committed, and nobody hears of it.
/// A call that is dropped goes on at the brokers: it takes nothing from the one that comes after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_is_not_fenced_by_what_it_gave_up_itself() {
    let mut random = StdRng::seed_from_u64(guitong_tests::seed());
    let topics = Topics::shared().await;
    let mut outlet = topics.outlet("t");
    outlet.make(WIDTH).await.unwrap();
    let record = |key: u32| OutletRecord { key: key.to_string().into(), value: None, headers: Headers::new() };
    for round in 0..10 {
        // Begun and dropped: which of them the brokers hear last is open.
        for _ in 0..8 {
            drop(tokio::time::timeout(Duration::ZERO, outlet.take_over()).await);
        }
        outlet.take_over().await.unwrap();
        let within = Duration::from_micros(random.random_range(0..3_000));
        drop(tokio::time::timeout(within, outlet.write(vec![record(round)], "given up".into())).await);
        outlet.take_over().await.unwrap();
        outlet.write(vec![record(round)], round.to_string().into()).await.unwrap();
        assert_eq!(outlet.stand().await.unwrap().unwrap(), round.to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_a_commit_doubles_nothing() {
    let world = Proxied::start().await;
    let mut bench = Bench::new().await;
    let subscription = world.through(&bench);
    bench.append(vec![bench.named("A", "1", 1)]).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    for commit in 2..4 {
        world.proxy.set(Mode::LoseReply { api_key: END_TXN });
        bench.append(vec![bench.named("A", &commit.to_string(), commit)]).await;
        world.proxy.reached(Mode::Cut).await;
        world.proxy.set(Mode::Pass);
        bench.caught_up(&mut running).await;
    }
    running.stop().await.unwrap();
    let records = world.topics.records("t").await;
    assert_eq!(seen(&records).len(), 3);
    assert_once_and_in_order(&records);
    assert_each_batch_once(&bench, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_crashes_goes_on_where_it_was() {
    let mut kafka = Kafka::start().await.unwrap();
    let topics = Topics::on(&kafka.bootstrap());
    let mut bench = Bench::new().await;
    let subscription = bench.subscription("credit", topics.config("t"), &["uscc", "name"]);
    bench.append(vec![bench.named("A", "甲", 1)]).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    // Read to its end: a broker that dies before it wrote a commit's markers may leave that transaction hanging, for readers too.
    topics.stand("t").await;
    topics.records("t").await;
    kafka.kill();
    bench.append(vec![bench.named("B", "乙", 2), bench.delete("A", 3)]).await;
    running.reaches(|status| matches!(status.phase, Phase::Retrying { .. })).await;
    kafka.start_again().await.unwrap();
    // Not to wait for the pause, which grew meanwhile.
    running.handle.resume().await.unwrap();
    bench.caught_up(&mut running).await;
    running.stop().await.unwrap();
    assert_eq!(latest_names(&topics, "t").await, names(&[("B", "乙")]));
    assert_once_and_in_order(&topics.records("t").await);
    assert_each_batch_once(&bench, 3).await;
}

/// Deliverers that are killed anywhere: who reads committed records sees each change once, and of a row never an older one later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_anywhere_double_nothing_for_who_reads_committed_records() {
    let topics = Topics::shared().await;
    let mut bench = Bench::new().await;
    let subscription = bench.subscription("credit", topics.config("t"), &["uscc", "name"]);
    let (expected, commit) = bench.crash(&subscription, 12, 5..60, 25, 400).await;
    bench.deliver(&subscription).await;
    assert_eq!(latest_names(&topics, "t").await, expected);
    assert_once_and_in_order(&topics.records("t").await);
    assert_each_batch_once(&bench, commit).await;
}

/// The broker refuses what is larger than the topic takes: that is set aside, and the others come once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_larger_than_the_topic_takes_is_set_aside() {
    let mut random = StdRng::seed_from_u64(guitong_tests::seed());
    let topics = Topics::shared().await;
    let mut bench = Bench::new().await;
    let topic = topics.topic("t");
    let made = NewTopic::new(&topic, WIDTH as i32, TopicReplication::Fixed(1)).set("max.message.bytes", "20000");
    let made = admin(&topics.cluster.brokers[0]).create_topics([&made], &AdminOptions::new()).await.unwrap();
    assert!(made.iter().all(Result::is_ok));
    let subscription = bench.subscription("credit", topics.config("t"), &["uscc", "name"]);
    // It cannot be compressed.
    let large = hex::encode((0..40_000).map(|_| random.random()).collect::<Vec<u8>>());
    let mut records: Vec<_> = (1..=40).map(|n| bench.named(&format!("K{n}"), "good", n)).collect();
    records[20] = bench.named("K21", &large, 21);
    bench.append(records).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let parked = running.handle.parked(None, 10).await.unwrap();
    assert_eq!(parked.iter().map(|parked| parked.key.as_deref()).collect::<Vec<_>>(), [Some("K21")]);
    assert!(parked[0].reason.contains("max.message.bytes"), "{}", parked[0].reason);
    let records = topics.records("t").await;
    assert_eq!(records.len(), 39);
    assert_once_and_in_order(&records);
    bench.append(vec![bench.named("K21", "healed", 50)]).await;
    bench.caught_up(&mut running).await;
    running.reaches(|status| status.parked == 0).await;
    running.stop().await.unwrap();
    assert_eq!(latest_names(&topics, "t").await["K21"], "healed");
}

/// A topic that its owner makes anew is filled anew, and one with more partitions, where keys would move, is not written to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_not_what_it_was_is_never_taken_for_it() {
    let topics = Topics::shared().await;
    let mut bench = Bench::new().await;
    let admin = admin(&topics.cluster.brokers[0]);
    let topic = topics.topic("t");
    let subscription = bench.subscription("credit", topics.config("t"), &["uscc", "name"]);
    bench.append(vec![bench.named("A", "甲", 1), bench.named("B", "乙", 2)]).await;
    bench.deliver(&subscription).await;
    admin.delete_topics(&[&topic], &AdminOptions::new()).await.unwrap();
    bench.append(vec![bench.named("C", "丙", 3)]).await;
    bench.deliver(&subscription).await;
    assert_eq!(latest_names(&topics, "t").await, names(&[("A", "甲"), ("B", "乙"), ("C", "丙")]));

    let other = bench.subscription("other", topics.config("t"), &["uscc", "name"]);
    let mut stopped = bench.start(&other);
    stopped.reaches(|status| matches!(status.phase, Phase::Stopped { .. })).await;
    let error = stopped.stop().await.unwrap_err().to_string();
    assert!(error.contains("written by subscription credit"), "{error}");

    admin.create_partitions([&NewPartitions::new(&topic, 4)], &AdminOptions::new()).await.unwrap();
    let mut stopped = bench.start(&subscription);
    stopped.reaches(|status| matches!(status.phase, Phase::Stopped { .. })).await;
    let error = stopped.stop().await.unwrap_err().to_string();
    assert!(error.contains("4 partitions") && error.contains(&topic), "{error}");
}

/// The rights that the guide gives are those that delivery needs, and no password is shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_the_rights_of_the_guide_delivers_and_nobody_else() {
    const PASSWORD: &str = "synthetic-password";
    let guide = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kafka.md")).unwrap();
    let authorizer = "org.apache.kafka.metadata.authorizer.StandardAuthorizer";
    let settings = [("authorizer.class.name", authorizer), ("super.users", "User:ANONYMOUS")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let users = vec![("guitong".to_owned(), PASSWORD.to_owned())];
    let kafka = Kafka::start_with(Options { users, settings, ..Options::default() }).await.unwrap();
    let topics = Topics::on(&kafka.bootstrap());
    let mut bench = Bench::new().await;
    bench.append(vec![bench.named("A", "甲", 1)]).await;
    let of = |password: &str| {
        let login = [
            ("security.protocol", "sasl_plaintext"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.username", "guitong"),
            ("sasl.password", password),
        ];
        let mut topic = topics.of("t");
        topic.cluster = cluster(&kafka.sasl_bootstrap());
        topic.cluster.properties = login.map(|(name, value)| (name.to_owned(), Secret::new(value.to_owned()))).into();
        bench.subscription("credit", sink(topic), &["uscc", "name"])
    };
    let (right, wrong) = (of(PASSWORD), of("another-password"));
    let mut refused = bench.start(&wrong);
    let status = refused.reaches(|status| matches!(status.phase, Phase::Retrying { .. } | Phase::Paused { .. })).await;
    let told = format!("{:?}", status.phase);
    assert!(told.contains("uthentication") && !told.contains("another-password"), "{told}");
    refused.stop().await.unwrap();

    let mut running = bench.start(&right);
    let status = running.reaches(|status| matches!(status.phase, Phase::Paused { .. })).await;
    assert!(format!("{:?}", status.phase).contains("uthorization"), "{:?}", status.phase);
    for line in guide.lines().filter_map(|line| line.strip_prefix("kafka-acls.sh ")) {
        let line = line.replace("localhost:9092", &kafka.bootstrap()).replace("credit-enterprise", &topics.topic("t"));
        kafka.tool("org.apache.kafka.tools.AclCommand", &line.split(' ').collect::<Vec<_>>()).unwrap();
    }
    assert!(running.handle.resume().await.unwrap());
    bench.caught_up(&mut running).await;
    running.stop().await.unwrap();
    assert_eq!(latest_names(&topics, "t").await, names(&[("A", "甲")]));
}
