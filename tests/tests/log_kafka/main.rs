//! The exchange log on a real Kafka under the suite that every exchange log passes, and what only several nodes, brokers and
//! connections can do wrong.

#![allow(clippy::unwrap_used, reason = "a test helper that cannot go on fails its test")]

mod late;
mod takeover;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use guitong_log::kafka::{KafkaLog, KafkaOptions};
use guitong_log::metrics::Metrics;
use guitong_log::{
    AppendError, Batch, Bounds, ExchangeLog, LogError, NewRecord, OwnedLog, OwnerId, Placement, Record, Retention, Role, Span,
    StateChange, TopicPartition, TopicSpec,
};
use guitong_schemas::contract::{KafkaCluster, KafkaConfig, Secret};
use guitong_tests::log_conformance::LogUnderTest;
use guitong_tests::servers::kafka::{Kafka, Options};
use guitong_tests::servers::proxy::{END_TXN, Mode, PRODUCE, Proxy};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use tempfile::TempDir;
use tokio::sync::{OnceCell, watch};

/// One broker for the whole suite: its checks keep apart by their exchanges' names.
async fn broker() -> String {
    static SHARED: OnceCell<Kafka> = OnceCell::const_new();
    let settings = vec![("log.cleaner.min.cleanable.ratio".to_owned(), "0.01".to_owned())];
    let start = || async { Kafka::start_with(Options { settings, ..Options::default() }).await.unwrap() };
    SHARED.get_or_init(start).await.bootstrap()
}

/// A topic with segments as small as Kafka takes them, so that there is something to clean and to delete. What an operator set on
/// a topic stays when an exchange finds it there.
async fn with_small_segments(brokers: &str, name: &str) {
    let admin: AdminClient<_> = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let topic = NewTopic::new(name, 1, TopicReplication::Fixed(1)).set("segment.bytes", "1048576");
    for made in admin.create_topics([&topic], &AdminOptions::new()).await.unwrap() {
        made.unwrap();
    }
}

fn options(brokers: &str, exchange: &str, state: &Path) -> KafkaOptions {
    let properties = [
        // What segments hold is to be what the checks write.
        ("compression.type", "none"),
        ("session.timeout.ms", "3000"),
        ("heartbeat.interval.ms", "100"),
        ("transaction.timeout.ms", "5000"),
    ];
    KafkaOptions {
        exchange: exchange.to_owned(),
        config: KafkaConfig {
            cluster: KafkaCluster {
                brokers: vec![brokers.to_owned()],
                replication_factor: 1,
                properties: properties
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), Secret::new(value.to_owned())))
                    .collect(),
            },
            state_path: state.to_owned(),
        },
        roles: vec![Role::Connect],
        patience: Duration::from_secs(30),
        metrics: Metrics::new().unwrap(),
    }
}

/// An exchange of its own on the shared broker.
#[derive(Debug)]
struct Fixture {
    brokers: String,
    exchange: String,
    state: TempDir,
    metrics: Metrics,
    open: Mutex<Option<Arc<KafkaLog>>>,
}

impl Fixture {
    async fn fresh() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        Self {
            brokers: broker().await,
            exchange: format!("suite-{}", COUNT.fetch_add(1, Ordering::Relaxed)),
            state: tempfile::tempdir().unwrap(),
            metrics: Metrics::new().unwrap(),
            open: Mutex::new(None),
        }
    }
}

#[async_trait]
impl LogUnderTest for Fixture {
    const KILLS: usize = 3;

    async fn open(&self) -> Arc<dyn ExchangeLog> {
        let options = options(&self.brokers, &self.exchange, self.state.path());
        let log = KafkaLog::open(KafkaOptions { metrics: self.metrics.clone(), ..options }).await.unwrap();
        let log = Arc::new(log);
        *self.open.lock().unwrap() = Some(Arc::clone(&log));
        log
    }

    async fn close(&self) {
        let open = self.open.lock().unwrap().take();
        if let Some(log) = open {
            log.close().await;
        }
    }

    fn topic(&self, name: &str) -> Arc<str> {
        let topic = format!("{}.{name}", self.exchange);
        if ["raw.age.public.t", "raw.bytes.public.t", "std.compact"].contains(&name) {
            let make = with_small_segments(&self.brokers, &topic);
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(make));
        }
        topic.into()
    }

    fn child(&self) -> String {
        format!("{} {} {}", self.brokers, self.exchange, self.state.path().display())
    }

    async fn open_in_child(described: &str) -> Arc<dyn ExchangeLog> {
        let [brokers, exchange, state] = described.splitn(3, ' ').collect::<Vec<_>>().try_into().unwrap();
        Arc::new(KafkaLog::open(options(brokers, exchange, &PathBuf::from(state))).await.unwrap())
    }

    fn transactions(&self) -> u64 {
        self.metrics.transactions.get()
    }

    async fn forget_local_copies(&self) {
        for entry in std::fs::read_dir(self.state.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.to_string_lossy().contains(".state") {
                std::fs::remove_file(path).unwrap();
            }
        }
    }

    fn tombstones(&self) -> Duration {
        Duration::ZERO
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }
}

guitong_tests::log_conformance!(Fixture, Fixture::fresh().await);

async fn setting(brokers: &str, topic: &str, name: &str) -> String {
    let admin: AdminClient<_> = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let of = ResourceSpecifier::Topic(topic);
    let described = admin.describe_configs([&of], &AdminOptions::new()).await.unwrap().pop().unwrap().unwrap();
    described.get(name).and_then(|entry| entry.value.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_gets_its_retention_and_keeps_what_an_operator_set() {
    let fixture = Fixture::fresh().await;
    let log = fixture.open().await;
    let name: Arc<str> = format!("{}.kept", fixture.exchange).into();
    with_small_segments(&fixture.brokers, &name).await;
    for (retention, settings) in [
        (
            Retention::Expire { age: Some(Duration::from_secs(60)), bytes: Some(7_000_000) },
            [("cleanup.policy", "delete"), ("retention.ms", "60000"), ("retention.bytes", "7000000")],
        ),
        (
            Retention::Expire { age: None, bytes: None },
            [("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "-1")],
        ),
        (
            Retention::Compact { after: Duration::from_secs(5), tombstones: Duration::from_secs(9) },
            [("cleanup.policy", "compact"), ("min.compaction.lag.ms", "5000"), ("delete.retention.ms", "9000")],
        ),
    ] {
        let spec = TopicSpec { name: Arc::clone(&name), partitions: 1, retention };
        log.ensure_topic(&spec).await.unwrap();
        log.ensure_topic(&spec).await.unwrap();
        for (setting_name, value) in settings {
            // The controller answers before the broker that is asked knows of it.
            let deadline = Instant::now() + Duration::from_secs(10);
            while setting(&fixture.brokers, &name, setting_name).await != value {
                assert!(Instant::now() < deadline, "{setting_name} of {spec:?}");
            }
        }
        assert_eq!(setting(&fixture.brokers, &name, "segment.bytes").await, "1048576", "{spec:?}");
    }
    fixture.close().await;
}

/// A broker of its own, with a listener behind a proxy.
struct Cluster {
    kafka: Kafka,
    proxy: Proxy,
    folder: TempDir,
}

impl Cluster {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    async fn start_with(settings: &[(&str, &str)]) -> Self {
        let (listener, port) = Proxy::bind().await.unwrap();
        let settings = settings.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let kafka = Kafka::start_with(Options { advertise: Some(port), settings, ..Options::default() }).await.unwrap();
        let proxy = Proxy::start(listener, kafka.second_port()).unwrap();
        Self { kafka, proxy, folder: tempfile::tempdir().unwrap() }
    }

    /// A node of the exchange `faults`, whose state lies in a folder of its name.
    fn node(&self, name: &str, brokers: &str, transaction_ms: u32) -> KafkaOptions {
        let mut options = options(brokers, "faults", &self.folder.path().join(name));
        let mut set = |name: &str, value: String| options.config.cluster.properties.insert(name.to_owned(), Secret::new(value));
        set("session.timeout.ms", "1500".to_owned());
        set("transaction.timeout.ms", transaction_ms.to_string());
        options
    }

    /// A node whose connections all go through the proxy.
    async fn behind_proxy(&self, transaction_ms: u32) -> KafkaLog {
        KafkaLog::open(self.node("a", &self.proxy.address().to_string(), transaction_ms)).await.unwrap()
    }

    async fn direct(&self) -> KafkaLog {
        KafkaLog::open(self.node("b", &self.kafka.bootstrap(), 5000)).await.unwrap()
    }
}

fn owner() -> OwnerId {
    OwnerId::new(Role::Connect, "licensing")
}

const TOPIC: &str = "raw.licensing.public.qy_jbxx";

async fn make_topic(log: &KafkaLog) {
    let retention = Retention::Expire { age: None, bytes: None };
    log.ensure_topic(&TopicSpec { name: TOPIC.into(), partitions: 1, retention }).await.unwrap();
}

/// One record that says `n`, with `n` as the position.
fn numbered(n: u64) -> Batch {
    let record = NewRecord {
        topic: TOPIC.into(),
        partition: None,
        key: Some("k".into()),
        value: Some(n.to_string().into()),
        headers: Vec::new(),
        timestamp_ms: 1_700_000_000_000,
    };
    let state = StateChange { map: "m".into(), key: "last".into(), value: Some(n.to_string().into()) };
    Batch { records: vec![record], position: Some(n.to_string().into()), state: vec![state], ..Batch::default() }
}

fn stands(hold: &dyn OwnedLog) -> Option<u64> {
    hold.position().map(|position| std::str::from_utf8(&position).unwrap().parse().unwrap())
}

/// The numbers that the topic holds.
async fn read_numbers(log: &KafkaLog) -> Vec<u64> {
    let at = TopicPartition::new(TOPIC, 0);
    let Bounds { earliest, end } = log.bounds(&at).await.unwrap();
    read_span(Span::open(log, at, earliest, end).await.unwrap()).await
}

async fn read_span(mut span: Span) -> Vec<u64> {
    let mut numbers = Vec::new();
    while let Some(records) = span.read(1 << 20).await.unwrap() {
        let read = |record: &Record| std::str::from_utf8(record.value.as_ref().unwrap()).unwrap().parse::<u64>().unwrap();
        numbers.extend(records.iter().map(read));
    }
    numbers
}

async fn held_state(hold: &dyn OwnedLog) -> Option<u64> {
    try_held_state(hold).await.unwrap()
}

async fn try_held_state(hold: &dyn OwnedLog) -> Result<Option<u64>, LogError> {
    let value = hold.get("m", &["last".into()]).await?.pop().flatten();
    Ok(value.map(|value| std::str::from_utf8(&value).unwrap().parse().unwrap()))
}

/// Appends as a stage does: opens again where it must, tries again where it may, until `n` is committed. Gives how often an
/// append was refused and how often its outcome was not known.
async fn append_until(log: &KafkaLog, last: u64, progress: &watch::Sender<u64>) -> (u32, u32) {
    let (mut refused, mut unknown) = (0, 0);
    loop {
        let mut hold = match log.open(&owner()).await {
            Ok(hold) => hold,
            Err(error) if error.is_transient() => continue,
            Err(error) => panic!("{error}"),
        };
        let mut next = stands(&*hold).map_or(0, |stands| stands + 1);
        match try_held_state(&*hold).await {
            Err(LogError::Fenced { .. }) => continue,
            held => assert_eq!(held.unwrap(), next.checked_sub(1)),
        }
        loop {
            progress.send_replace(next);
            if next > last {
                return (refused, unknown);
            }
            match hold.append(numbered(next)).await {
                Ok(_) => next += 1,
                Err(AppendError::Refused(error)) if error.is_transient() => refused += 1,
                Err(AppendError::Refused(LogError::Fenced { .. })) => break,
                Err(AppendError::Refused(error)) => panic!("{error}"),
                Err(AppendError::Unknown(_)) => {
                    unknown += 1;
                    break;
                }
            }
        }
    }
}

/// The answer to a commit never comes: the outcome is not known, and the batch is there once after the owner was opened again.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_neither_lost_nor_doubled() {
    let cluster = Cluster::start().await;
    let log = cluster.behind_proxy(2000).await;
    make_topic(&log).await;
    let mut hold = log.open(&owner()).await.unwrap();
    hold.append(numbered(0)).await.unwrap();
    cluster.proxy.set(Mode::LoseReply { api_key: END_TXN });
    let lost = hold.append(numbered(1)).await.unwrap_err();
    assert!(matches!(lost, AppendError::Unknown(_)), "{lost:?}");
    assert_eq!(cluster.proxy.mode(), Mode::Cut);
    let after = hold.append(numbered(2)).await.unwrap_err();
    assert!(matches!(after, AppendError::Refused(LogError::Fenced { .. })), "a hold in doubt writes nothing: {after:?}");
    assert!(hold.get("m", &["last".into()]).await.is_err(), "nor does it say what it holds");

    cluster.proxy.set(Mode::Pass);
    let hold = log.open(&owner()).await.unwrap();
    assert_eq!((stands(&*hold), held_state(&*hold).await), (Some(1), Some(1)), "the commit had reached the broker");
    append_until(&log, 3, &watch::Sender::new(0)).await;
    assert_eq!(read_numbers(&log).await, [0, 1, 2, 3]);
    log.close().await;
}

/// A record reached the broker, its acknowledgement did not come back, and the try was given up before it could be repeated. What is
/// appended next must not pass for that record sent again.
#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_lost_acknowledgement_is_written() {
    const LIMIT: Duration = Duration::from_secs(2);
    // The broker is not to give the transaction up by itself: that would bring a new epoch in any case.
    let cluster = Cluster::start_with(&[("transaction.abort.timed.out.transaction.cleanup.interval.ms", "60000")]).await;
    let mut options = cluster.node("a", &cluster.proxy.address().to_string(), u32::try_from(LIMIT.as_millis()).unwrap());
    options.config.cluster.properties.insert("session.timeout.ms".to_owned(), Secret::new("20000".to_owned()));
    let log = KafkaLog::open(options).await.unwrap();
    make_topic(&log).await;
    append_until(&log, 3, &watch::Sender::new(0)).await;
    let mut hold = log.open(&owner()).await.unwrap();
    cluster.proxy.set(Mode::LoseReply { api_key: PRODUCE });
    let trying = tokio::spawn(async move { hold.append(numbered(4)).await });
    cluster.proxy.reached(Mode::Cut).await;
    // The try ends with its limit, and its end takes as long again at most: between the two the broker comes back.
    tokio::time::sleep(LIMIT + LIMIT / 4).await;
    cluster.proxy.set(Mode::Pass);
    let given_up = trying.await.unwrap().unwrap_err();
    assert!(matches!(given_up, AppendError::Refused(_)), "{given_up:?}");
    append_until(&log, 8, &watch::Sender::new(0)).await;
    assert_eq!(read_numbers(&log).await, (0..=8).collect::<Vec<_>>());
    log.close().await;
}

async fn wait_for_slot(log: &KafkaLog) {
    let mut placement = log.placement();
    let held = placement.wait_for(|placement| placement.holds(&owner()));
    tokio::time::timeout(Duration::from_secs(30), held).await.unwrap().unwrap();
}

/// The broker stops, cleanly and by a crash, while batches are appended; each is there once.
#[tokio::test(flavor = "multi_thread")]
async fn long_fault_appends_go_on_after_the_broker_was_away() {
    let mut cluster = Cluster::start().await;
    let log = Arc::new(KafkaLog::open(cluster.node("a", &cluster.kafka.bootstrap(), 5000)).await.unwrap());
    make_topic(&log).await;
    let (progress, mut seen) = watch::channel(0);
    let writing = Arc::clone(&log);
    let writer = tokio::spawn(async move { append_until(&writing, 240, &progress).await });
    for (number, clean) in [(60, true), (140, false)] {
        seen.wait_for(|n| *n >= number).await.unwrap();
        if clean {
            cluster.kafka.stop().await.unwrap();
        } else {
            cluster.kafka.kill();
        }
        cluster.kafka.start_again().await.unwrap();
    }
    let (refused, unknown) = writer.await.unwrap();
    println!("refused {refused}, unknown {unknown}");
    assert_eq!(read_numbers(&log).await, (0..=240).collect::<Vec<_>>());
    log.close().await;
}

/// A broker that stands still for longer than a transaction may take: what was under way is refused or in doubt, never half there.
#[tokio::test(flavor = "multi_thread")]
async fn appends_go_on_after_the_broker_stood_still() {
    let cluster = Cluster::start().await;
    let log = Arc::new(KafkaLog::open(cluster.node("a", &cluster.kafka.bootstrap(), 1000)).await.unwrap());
    make_topic(&log).await;
    let (progress, mut seen) = watch::channel(0);
    let writing = Arc::clone(&log);
    let writer = tokio::spawn(async move { append_until(&writing, 200, &progress).await });
    seen.wait_for(|n| *n >= 50).await.unwrap();
    cluster.kafka.pause().unwrap();
    let stuck = *seen.borrow_and_update();
    let waited = tokio::time::timeout(Duration::from_secs(4), seen.wait_for(|n| *n > stuck + 1)).await;
    assert!(waited.is_err(), "something was committed while the broker stood still");
    cluster.kafka.resume().unwrap();
    let (refused, unknown) = writer.await.unwrap();
    println!("refused {refused}, unknown {unknown}");
    assert_eq!(read_numbers(&log).await, (0..=200).collect::<Vec<_>>());
    log.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_down_at_the_start_is_waited_for() {
    let mut cluster = Cluster::start().await;
    cluster.kafka.stop().await.unwrap();
    let options = cluster.node("a", &cluster.kafka.bootstrap(), 5000);
    let impatient = KafkaLog::open(KafkaOptions { patience: Duration::from_millis(300), ..options.clone() }).await.unwrap_err();
    assert!(impatient.is_transient() && impatient.to_string().contains(&cluster.kafka.bootstrap()), "{impatient}");
    let opening = tokio::spawn(KafkaLog::open(KafkaOptions { patience: Duration::MAX, ..options }));
    cluster.kafka.start_again().await.unwrap();
    let log = tokio::time::timeout(Duration::from_secs(30), opening).await.unwrap().unwrap().unwrap();
    make_topic(&log).await;
    append_until(&log, 3, &watch::Sender::new(0)).await;
    log.close().await;
}

/// A second node takes a part of the slots; owners whose slots stay go on without a break, and the slots of a node that went come back.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_share_the_slots_and_what_stays_goes_on() {
    let cluster = Cluster::start().await;
    let a = KafkaLog::open(cluster.node("a", &cluster.kafka.bootstrap(), 5000)).await.unwrap();
    make_topic(&a).await;
    let slots = |log: &KafkaLog| match log.placement().borrow().clone() {
        Placement::Slots(roles) => roles.into_iter().flat_map(|(_, slots)| slots).collect::<Vec<_>>(),
        Placement::All => panic!("placed by the group"),
    };
    let mut holds = Vec::new();
    for n in 0..40 {
        holds.push(a.open(&OwnerId::new(Role::Connect, format!("system-{n}"))).await.unwrap());
    }
    assert_eq!(slots(&a).len(), 64);
    let b = cluster.direct().await;
    let mut placed = b.placement();
    let some =
        |placement: &Placement| matches!(placement, Placement::Slots(roles) if roles.iter().any(|(_, slots)| !slots.is_empty()));
    tokio::time::timeout(Duration::from_secs(30), placed.wait_for(some)).await.unwrap().unwrap();
    let mut all = [slots(&a), slots(&b)].concat();
    assert!(slots(&a).len() >= 20 && slots(&b).len() >= 20, "{} and {}", slots(&a).len(), slots(&b).len());
    all.sort_unstable();
    assert_eq!(all, (0..64).collect::<Vec<_>>());
    for hold in &mut holds {
        let stays = a.placement().borrow().holds(hold.owner());
        let appended = hold.append(Batch { position: Some("1".into()), ..Batch::default() }).await;
        match appended {
            Ok(_) => assert!(stays, "{} was taken away", hold.owner()),
            Err(AppendError::Refused(LogError::Fenced { .. })) => assert!(!stays, "{} has stayed", hold.owner()),
            Err(error) => panic!("{error}"),
        }
    }
    b.close().await;
    drop(b);
    let whole =
        |placement: &Placement| matches!(placement, Placement::Slots(roles) if roles.iter().any(|(_, slots)| slots.len() == 64));
    tokio::time::timeout(Duration::from_secs(30), a.placement().wait_for(whole)).await.unwrap().unwrap();
    a.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_has_a_state_directory() {
    let fixture = Fixture::fresh().await;
    let _log = fixture.open().await;
    let second = KafkaLog::open(options(&fixture.brokers, &fixture.exchange, fixture.state.path())).await.unwrap_err();
    assert!(matches!(second, LogError::Locked { .. }), "{second}");
    fixture.close().await;
    let again = fixture.open().await;
    drop(again);
    fixture.close().await;
}

/// SASL/SCRAM by the operator's properties; a wrong password is told as such and shown nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_proved_by_scram() {
    let users = vec![("exchange".to_owned(), "synthetic-password".to_owned())];
    let kafka = Kafka::start_with(Options { users, ..Options::default() }).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let with = |password: &str| {
        let mut options = options(&kafka.sasl_bootstrap(), "secured", folder.path());
        for (name, value) in [
            ("security.protocol", "SASL_PLAINTEXT"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.username", "exchange"),
            ("sasl.password", password),
        ] {
            options.config.cluster.properties.insert(name.to_owned(), Secret::new(value.to_owned()));
        }
        options
    };
    let wrong = KafkaOptions { patience: Duration::from_secs(3), ..with("another-password") };
    let refused = KafkaLog::open(wrong).await.unwrap_err().to_string();
    assert!(refused.contains("uthentication") && !refused.contains("another-password"), "{refused}");
    let log = KafkaLog::open(with("synthetic-password")).await.unwrap();
    make_topic(&log).await;
    append_until(&log, 2, &watch::Sender::new(0)).await;
    assert_eq!(read_numbers(&log).await, [0, 1, 2]);
    assert!(!format!("{log:?}").contains("synthetic-password"));
    log.close().await;
}
