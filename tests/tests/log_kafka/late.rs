//! Brokers that answer late have not said that nothing is there.

use std::pin::pin;

use guitong_log::record_at;
use guitong_tests::servers::proxy::FETCH;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::*;

/// Longer than one read waits for records.
const LATE: Duration = Duration::from_secs(3);

/// A log behind a proxy that holds every record back, with the numbers 0 to 2 in it.
async fn kept_back(cluster: &Cluster) -> (KafkaLog, Bounds) {
    let log = cluster.behind_proxy(20_000).await;
    make_topic(&log).await;
    append_until(&log, 2, &watch::Sender::new(0)).await;
    let bounds = log.bounds(&TopicPartition::new(TOPIC, 0)).await.unwrap();
    (log, bounds)
}

/// Whoever reads up to an end waits for what lies before it, however late it comes.
#[tokio::test(flavor = "multi_thread")]
async fn records_that_come_late_are_read() {
    let cluster = Cluster::start().await;
    let (log, Bounds { earliest, end }) = kept_back(&cluster).await;
    let span = Span::open(&log, TopicPartition::new(TOPIC, 0), earliest, end).await.unwrap();
    cluster.proxy.set(Mode::HoldRequest { api_key: FETCH });
    let mut reading = pin!(read_span(span));
    let early = tokio::time::timeout(LATE, &mut reading).await;
    assert!(early.is_err(), "it ended with {early:?} before the brokers gave anything");
    assert_eq!(cluster.proxy.mode(), Mode::Hold);
    cluster.proxy.set(Mode::Pass);
    assert_eq!(reading.await, [0, 1, 2]);
    log.close().await;
}

/// A record is gone where the log says so, not where it comes late.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_comes_late_is_not_gone() {
    let cluster = Cluster::start().await;
    let (log, Bounds { earliest, end }) = kept_back(&cluster).await;
    let at = TopicPartition::new(TOPIC, 0);
    assert!(record_at(&log, at.clone(), end).await.unwrap().is_none());
    // The last commit's own mark takes the last offset.
    assert!(record_at(&log, at.clone(), end - 1).await.unwrap().is_none());
    let mut fetches = pin!(record_at(&log, at, earliest));
    cluster.proxy.set(Mode::HoldRequest { api_key: FETCH });
    let early = tokio::time::timeout(LATE, &mut fetches).await;
    assert!(early.is_err(), "it ended with {early:?} before the brokers gave anything");
    cluster.proxy.set(Mode::Pass);
    assert_eq!(fetches.await.unwrap().unwrap().value.as_deref(), Some(b"0".as_slice()));
    log.close().await;
}

/// What lies behind a transaction that nobody ends cannot be read. Whoever waits for it is told what to look for, and goes on once it
/// has ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_does_not_end_is_told() {
    let cluster = Cluster::start().await;
    let brokers = cluster.kafka.bootstrap();
    let log = KafkaLog::open(cluster.node("a", &brokers, 1000)).await.unwrap();
    make_topic(&log).await;
    append_until(&log, 2, &watch::Sender::new(0)).await;
    let slot = i32::try_from(guitong_log::slot(&owner())).unwrap();
    let stuck = tokio::task::spawn_blocking(move || {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("transactional.id", "another").set("transaction.timeout.ms", "60000");
        let producer: BaseProducer = config.create().unwrap();
        producer.init_transactions(Duration::from_secs(30)).unwrap();
        producer.begin_transaction().unwrap();
        producer.send(BaseRecord::<[u8], [u8]>::to("faults.assign.connect").partition(slot).key(b"k").payload(b"v")).unwrap();
        producer.flush(Duration::from_secs(30)).unwrap();
        producer
    });
    let stuck = stuck.await.unwrap();
    log.close().await;
    // What this node knows it does not read again, another has to.
    let log = KafkaLog::open(cluster.node("b", &cluster.kafka.bootstrap(), 1000)).await.unwrap();
    let told = log.open(&owner()).await.unwrap_err();
    assert!(told.is_transient() && told.to_string().contains("find-hanging"), "{told}");
    tokio::task::spawn_blocking(move || stuck.abort_transaction(Duration::from_secs(30))).await.unwrap().unwrap();
    let hold = log.open(&owner()).await.unwrap();
    assert_eq!((stands(&*hold), held_state(&*hold).await), (Some(2), Some(2)));
    log.close().await;
}
