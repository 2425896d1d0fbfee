//! Retention, compaction and vacuum to the record, where the suite for all logs asks for less.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use guitong_log::embedded::EmbeddedLog;
use guitong_log::{Batch, ExchangeLog, LogError, NewRecord, ReadBudget, Record, Retention, TopicPartition, TopicSpec};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{KEEP, all, at, number, numbered, open, owner, record, spec};

const HOUR: Duration = Duration::from_secs(3600);
const HOUR_MS: i64 = 3_600_000;

async fn write(log: &EmbeddedLog, rows: impl IntoIterator<Item = (u64, i64)>) {
    let mut hold = log.open(&owner("writer")).await.unwrap();
    for (n, hour) in rows {
        let mut batch = numbered(n, 10_000);
        batch.records[0].timestamp_ms = hour * HOUR_MS;
        hold.append(batch).await.unwrap();
    }
}

async fn numbers(log: &EmbeddedLog) -> Vec<u64> {
    all(log).await.iter().map(number).collect()
}

#[tokio::test]
async fn retention_takes_exactly_what_is_too_old_or_too_much() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    log.ensure_topic(&spec(Retention::Expire { age: Some(10 * HOUR), bytes: None })).await.unwrap();
    write(&log, (0..30).map(|n| (n, n as i64))).await;
    log.maintain(30 * HOUR_MS).await.unwrap();
    assert_eq!(numbers(&log).await, (20..30).collect::<Vec<_>>());
    assert_eq!(log.bounds(&at()).await.unwrap().earliest, 20);
    assert!(matches!(log.reader(vec![(at(), 19)]).await, Err(LogError::Gap { wanted: 19, earliest: 20, end: 30, .. })));
    assert_eq!(log.offset_at(&at(), 0).await.unwrap(), 20);
    assert_eq!(log.offset_at(&at(), 25 * HOUR_MS).await.unwrap(), 25);

    log.ensure_topic(&spec(Retention::Expire { age: None, bytes: Some(50_500) })).await.unwrap();
    log.maintain(30 * HOUR_MS).await.unwrap();
    assert_eq!(numbers(&log).await, (25..30).collect::<Vec<_>>());

    // All gone: offsets are never given twice, not even after a restart.
    log.ensure_topic(&spec(Retention::Expire { age: Some(HOUR), bytes: None })).await.unwrap();
    log.maintain(300 * HOUR_MS).await.unwrap();
    let bounds = log.bounds(&at()).await.unwrap();
    assert_eq!((bounds.earliest, bounds.end), (30, 30));
    log.close().await;
    let log = open(&dir).await;
    write(&log, [(30, 300)]).await;
    assert_eq!(all(&log).await[0].offset, 30);
    log.close().await;
}

fn fold(records: &[Record]) -> BTreeMap<Vec<u8>, u64> {
    let mut last = BTreeMap::new();
    for record in records {
        let key = record.key.as_ref().unwrap().to_vec();
        match &record.value {
            Some(_) => last.insert(key, number(record)),
            None => last.remove(&key),
        };
    }
    last
}

/// Random writes, compactions and restarts: each key's last value stays, old superseded records and tombstones are gone, young ones
/// are not touched, order and offsets stay, and a reader that stands anywhere goes on.
#[tokio::test]
async fn compaction_keeps_exactly_the_last_value_of_each_key() {
    let seed = guitong_tests::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(&dir).await;
    let retention = Retention::Compact { after: 10 * HOUR, tombstones: 20 * HOUR };
    log.ensure_topic(&spec(retention)).await.unwrap();
    let mut written: Vec<Record> = Vec::new();
    for hour in 0..60 {
        let mut hold = log.open(&owner("writer")).await.unwrap();
        for _ in 0..random.random_range(0..4) {
            let mut batch = Batch::default();
            for _ in 0..random.random_range(1..30) {
                let key = format!("key-{}", random.random_range(0..40));
                let mut value = (written.len() as u64).to_be_bytes().to_vec();
                value.resize(8 + random.random_range(0..3000), 0);
                let mut record = record(&key, value, hour * HOUR_MS);
                if random.random_bool(0.15) {
                    record.value = None;
                }
                written.push(Record {
                    at: at(),
                    offset: written.len() as u64,
                    timestamp_ms: record.timestamp_ms,
                    key: record.key.clone(),
                    value: record.value.clone(),
                    headers: Vec::new(),
                });
                batch.records.push(record);
            }
            hold.append(batch).await.unwrap();
        }
        if random.random_bool(0.1) {
            log.close().await;
            log = open(&dir).await;
        }
        if random.random_bool(0.5) {
            log.maintain(hour * HOUR_MS).await.unwrap();
            verify(&log, &written, hour).await;
        }
    }
    log.maintain(200 * HOUR_MS).await.unwrap();
    let kept = all(&log).await;
    let expected = fold(&written);
    assert_eq!(fold(&kept), expected);
    assert_eq!(kept.len(), expected.len(), "one record a key, no tombstone");
    log.close().await;
}

async fn verify(log: &EmbeddedLog, written: &[Record], hour: i64) {
    let kept = all(log).await;
    assert_eq!(fold(&kept), fold(written));
    assert!(kept.is_sorted_by(|a, b| a.offset < b.offset));
    for record in &kept {
        let original = &written[record.offset as usize];
        assert_eq!((&record.key, &record.value, record.timestamp_ms), (&original.key, &original.value, original.timestamp_ms));
    }
    let offsets: Vec<_> = kept.iter().map(|record| record.offset).collect();
    let old = |record: &&Record| record.timestamp_ms <= (hour - 10) * HOUR_MS;
    let newest: BTreeMap<_, _> = written.iter().filter(old).map(|record| (record.key.clone(), record.offset)).collect();
    for record in written {
        let kept = offsets.binary_search(&record.offset).is_ok();
        if !old(&record) {
            assert!(kept, "a young record went: offset {} at hour {hour}", record.offset);
        } else if newest[&record.key] != record.offset {
            assert!(!kept, "a superseded record stayed: offset {} at hour {hour}", record.offset);
        } else if record.value.is_none() && record.timestamp_ms < (hour - 20) * HOUR_MS {
            assert!(!kept, "an old tombstone stayed: offset {} at hour {hour}", record.offset);
        } else {
            assert!(kept, "the last record of a key went: offset {} at hour {hour}", record.offset);
        }
    }
    // From any offset on, a reader meets what is kept from there on.
    let end = log.bounds(&at()).await.unwrap().end;
    for from in [end / 3, end / 2, end.saturating_sub(1), end] {
        let mut reader = log.reader(vec![(at(), from)]).await.unwrap();
        let (mut next, mut read) = (from, Vec::new());
        while next < end {
            let batch = reader.read(ReadBudget { bytes: 9_000, wait: Duration::ZERO }).await.unwrap();
            next = batch.next.last().unwrap().1;
            read.extend(batch.records.iter().map(|record| record.offset));
        }
        assert_eq!(read, offsets.iter().copied().filter(|offset| *offset >= from).collect::<Vec<_>>(), "from {from}");
    }
}

/// A read that passes what compaction left empty, and then waits, tells of both: whoever waits for the end of a partition waits for no
/// record more.
#[tokio::test]
async fn what_was_passed_is_told_with_what_follows() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    let retention = Retention::Compact { after: Duration::ZERO, tombstones: Duration::ZERO };
    log.ensure_topic(&TopicSpec { partitions: 2, ..spec(retention) }).await.unwrap();
    let mut hold = log.open(&owner("writer")).await.unwrap();
    let gone = NewRecord { value: None, partition: Some(1), ..record("k", Vec::new(), 0) };
    hold.append(Batch { records: vec![gone], ..Batch::default() }).await.unwrap();
    log.maintain(HOUR_MS).await.unwrap();
    let parts = [0, 1].map(|partition| TopicPartition::new("t", partition));
    let mut reader = log.reader(parts.iter().map(|at| (at.clone(), 0)).collect()).await.unwrap();
    let reading = reader.read(ReadBudget { bytes: 1 << 20, wait: Duration::from_secs(30) });
    let came = NewRecord { partition: Some(0), ..record("k", b"came".to_vec(), 0) };
    let appending = hold.append(Batch { records: vec![came], ..Batch::default() });
    // The first is polled first, and waits when the record comes.
    let (read, appended) = futures::future::join(reading, appending).await;
    appended.unwrap();
    let read = read.unwrap();
    let mut next: Vec<_> = read.next.iter().map(|(at, next)| (at.partition, *next)).collect();
    next.sort_unstable();
    assert_eq!((read.records.len(), next), (1, vec![(0, 1), (1, 1)]));
    log.close().await;
}

/// The file shrinks when much of it goes, and writers hardly wait for that.
#[tokio::test(flavor = "multi_thread")]
async fn space_is_given_back_while_writers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    log.ensure_topic(&spec(KEEP)).await.unwrap();
    let mut hold = log.open(&owner("large")).await.unwrap();
    for n in 0..40 {
        hold.append(numbered(n, 1_000_000)).await.unwrap();
    }
    log.ensure_topic(&spec(Retention::Expire { age: Some(HOUR), bytes: None })).await.unwrap();
    let before = log.size().await.unwrap().unwrap();
    let removing = tokio::spawn({
        let log = log.clone();
        async move { log.maintain(100 * HOUR_MS).await.unwrap() }
    });
    let mut longest = Duration::ZERO;
    let mut n = 0;
    while !removing.is_finished() {
        let began = Instant::now();
        let mut batch = numbered(n, 100);
        batch.records[0].timestamp_ms = 100 * HOUR_MS;
        hold.append(batch).await.unwrap();
        longest = longest.max(began.elapsed());
        n += 1;
    }
    removing.await.unwrap();
    assert!(longest < Duration::from_secs(1), "an append waited {longest:?}");
    log.maintain(100 * HOUR_MS).await.unwrap();
    assert!(n > 0 && numbers(&log).await == (0..n).collect::<Vec<_>>());
    // Closing writes the write-ahead log back, so that only the file counts.
    log.close().await;
    let after = std::fs::metadata(log.path()).unwrap().len();
    assert!(after < before / 4, "{before} bytes before, {after} after");
}
