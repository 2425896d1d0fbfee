//! What may leave the log and what may not. Logs may keep more than they must (Kafka keeps whole segments), so these checks ask
//! that something went, and that nothing went which has to stay.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use guitong_log::{ExchangeLog, LogError, LogReader, NewRecord, Record, Retention, TopicPartition, TopicSpec, holds_deletes};

use super::LogUnderTest;
use super::build::{BRIEF, everything, keep, noise, owner, record, records, text};

const DAY: Duration = Duration::from_secs(86_400);
const ROWS: usize = 40;

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

fn row(topic: &Arc<str>, key: &str, n: usize, days_ago: i64) -> NewRecord {
    let mut row = record(topic, key, &n.to_string());
    row.headers.push(("filler".into(), Bytes::from(noise(n as u64, 100_000))));
    row.timestamp_ms = now_ms() - days_ago * DAY.as_millis() as i64;
    row
}

/// Asks again until the log has done it or its time is up.
async fn eventually<F: Future<Output = bool>>(
    fixture: &impl LogUnderTest,
    log: &dyn ExchangeLog,
    what: &str,
    done: impl Fn() -> F,
) {
    let until = Instant::now() + fixture.patience();
    loop {
        log.maintain(now_ms()).await.unwrap();
        if done().await {
            return;
        }
        assert!(Instant::now() < until, "not within {:?}: {what}", fixture.patience());
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

async fn earliest(log: &dyn ExchangeLog, at: &TopicPartition) -> u64 {
    log.bounds(at).await.unwrap().earliest
}

/// A reader that stood at the first of `count` numbered records when old ones went: what it had fetched before comes in order, and then it
/// is a gap. It never jumps over what is gone.
async fn never_jumps(reader: &mut dyn LogReader, count: usize) {
    let mut next = 0;
    while next < count {
        match reader.read(BRIEF).await {
            Err(LogError::Gap { .. }) => return,
            Err(error) => panic!("{error}"),
            Ok(read) => {
                for record in read.records {
                    assert_eq!(text(record.value.as_ref()), next.to_string());
                    next += 1;
                }
            }
        }
    }
}

async fn read_at(log: &dyn ExchangeLog, at: &TopicPartition, offset: u64) -> Result<(), LogError> {
    let mut reader = log.reader(vec![(at.clone(), offset)]).await?;
    loop {
        if !reader.read(BRIEF).await?.records.is_empty() {
            return Ok(());
        }
    }
}

/// Old records go and the offset of what is gone is a gap, also for a reader that already stands there; young ones stay.
pub async fn records_leave_by_age(fixture: &impl LogUnderTest) {
    let log = fixture.open().await;
    let topic = fixture.topic("raw.age.public.t");
    let at = TopicPartition::new(topic.clone(), 0);
    let retention = Retention::Expire { age: Some(3 * DAY), bytes: None };
    log.ensure_topic(&TopicSpec { name: topic.clone(), partitions: 1, retention }).await.unwrap();
    let mut late = log.reader(vec![(at.clone(), 0)]).await.unwrap();
    let mut hold = log.open(&owner("age")).await.unwrap();
    for n in 0..ROWS {
        hold.append(records(vec![row(&topic, "k", n, 10)])).await.unwrap();
    }
    for n in ROWS..ROWS + 5 {
        hold.append(records(vec![row(&topic, "k", n, 0)])).await.unwrap();
    }
    eventually(fixture, &*log, "old records go", || async { earliest(&*log, &at).await > 0 }).await;
    never_jumps(&mut *late, ROWS + 5).await;
    assert!(matches!(read_at(&*log, &at, 0).await, Err(LogError::Gap { wanted: 0, .. })));
    let young: Vec<_> = (ROWS..ROWS + 5).map(|n| n.to_string()).collect();
    let kept: Vec<_> = everything(&*log, &at).await.iter().map(|record| text(record.value.as_ref())).collect();
    assert!(kept.ends_with(&young), "{kept:?}");
    fixture.close().await;
    let log = fixture.open().await;
    assert!(earliest(&*log, &at).await > 0);
    fixture.close().await;
}

/// A partition that is larger than it may be loses its oldest records, as far as it must.
pub async fn records_leave_by_bytes(fixture: &impl LogUnderTest) {
    let log = fixture.open().await;
    let topic = fixture.topic("raw.bytes.public.t");
    let at = TopicPartition::new(topic.clone(), 0);
    let retention = Retention::Expire { age: None, bytes: Some(1_500_000) };
    log.ensure_topic(&TopicSpec { name: topic.clone(), partitions: 1, retention }).await.unwrap();
    let mut hold = log.open(&owner("bytes")).await.unwrap();
    for n in 0..ROWS {
        hold.append(records(vec![row(&topic, "k", n, 0)])).await.unwrap();
    }
    eventually(fixture, &*log, "the oldest records go", || async { earliest(&*log, &at).await > 0 }).await;
    let kept: Vec<_> = everything(&*log, &at).await.iter().map(|record| text(record.value.as_ref())).collect();
    let newest: Vec<_> = (ROWS - 10..ROWS).map(|n| n.to_string()).collect();
    assert!(kept.ends_with(&newest), "{kept:?}");
    fixture.close().await;
}

fn fold(read: &[Record]) -> BTreeMap<String, String> {
    let mut last = BTreeMap::new();
    for record in read {
        match &record.value {
            Some(value) => last.insert(text(record.key.as_ref()), text(Some(value))),
            None => last.remove(&text(record.key.as_ref())),
        };
    }
    last
}

/// Whatever goes, reading from the earliest on gives each key's last value; superseded values and old tombstones go.
pub async fn compaction_keeps_the_last_value_of_each_key(fixture: &impl LogUnderTest) {
    let log = fixture.open().await;
    let topic = fixture.topic("std.compact");
    let at = TopicPartition::new(topic.clone(), 0);
    let retention = Retention::Compact { after: Duration::ZERO, tombstones: fixture.tombstones() };
    log.ensure_topic(&TopicSpec { name: topic.clone(), partitions: 1, retention }).await.unwrap();
    let mut hold = log.open(&owner("compact")).await.unwrap();
    let mut expected = BTreeMap::new();
    for n in 0..ROWS {
        let key = format!("key-{}", n % 4);
        let mut row = row(&topic, &key, n, 10);
        if n == ROWS - 3 {
            row.value = None;
            expected.remove(&key);
        } else {
            expected.insert(key, n.to_string());
        }
        hold.append(records(vec![row])).await.unwrap();
    }
    let has = |wanted: &'static str| {
        let (log, at) = (&log, &at);
        async move { everything(&**log, at).await.iter().any(|record| text(record.value.as_ref()) == wanted) }
    };
    eventually(fixture, &*log, "a superseded value goes", || async { !has("0").await }).await;
    // What a log leaves alone until more is written (Kafka: its active segment).
    for n in 0..ROWS {
        hold.append(records(vec![row(&topic, "other", n, 0)])).await.unwrap();
    }
    expected.insert("other".to_owned(), (ROWS - 1).to_string());
    let tombstones = || async { everything(&*log, &at).await.iter().filter(|record| record.value.is_none()).count() };
    eventually(fixture, &*log, "an old tombstone goes", || async { tombstones().await == 0 }).await;
    let end = log.bounds(&at).await.unwrap().end;
    assert_eq!(fold(&everything(&*log, &at).await), expected);
    fixture.close().await;
    let log = fixture.open().await;
    assert_eq!(log.bounds(&at).await.unwrap().end, end);
    assert_eq!(fold(&everything(&*log, &at).await), expected);
    fixture.close().await;
}

/// Whoever stands before something that is older than deletes are kept may have missed some; who stands behind all of it has not.
pub async fn deletes_that_may_be_gone_are_told_of(fixture: &impl LogUnderTest) {
    let log = fixture.open().await;
    let topic = fixture.topic("raw.stale.public.t");
    let at = TopicPartition::new(topic.clone(), 0);
    log.ensure_topic(&keep(&topic, 1)).await.unwrap();
    let mut hold = log.open(&owner("stale")).await.unwrap();
    for (n, days_ago) in [(0, 40), (1, 31), (2, 10)] {
        hold.append(records(vec![row(&topic, "k", n, days_ago)])).await.unwrap();
    }
    let offsets: Vec<u64> = everything(&*log, &at).await.iter().map(|record| record.offset).collect();
    let end = log.bounds(&at).await.unwrap().end;
    for (days, next, missed) in [(30, 0, true), (30, 1, true), (30, 2, false), (35, 0, true), (35, 1, false), (45, 0, false)] {
        let answer = holds_deletes(&*log, &at, offsets[next], days * DAY).await;
        let is_stale = matches!(&answer, Err(LogError::Stale { next: stale, .. }) if *stale == offsets[next]);
        assert_eq!((is_stale, answer.is_ok()), (missed, !missed), "kept for {days} days, read from {next} on: {answer:?}");
    }
    holds_deletes(&*log, &at, end, DAY).await.unwrap();
    fixture.close().await;
}
