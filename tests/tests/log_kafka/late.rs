//! Brokers that answer late have not said that nothing is there.

use std::pin::pin;

use guitong_log::record_at;
use guitong_tests::servers::proxy::FETCH;

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
