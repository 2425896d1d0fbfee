//! Appending, reading, resuming, fencing, waking.

use std::time::{Duration, Instant};

use bytes::Bytes;
use guitong_log::{AppendError, Batch, Bounds, LogError, TopicPartition};

use super::LogUnderTest;
use super::build::{BRIEF, BUDGET, everything, keep, owner, record, records, values};

/// Keys, values, headers and timestamps come back, nulls as nulls.
pub async fn a_batch_is_read_as_it_was_appended(fixture: &impl LogUnderTest) {
    let log = fixture.open().await;
    let topic = fixture.topic("raw.a.public.t");
    log.ensure_topic(&keep(&topic, 1)).await.unwrap();
    log.ensure_topic(&keep(&topic, 1)).await.unwrap();
    assert_eq!(log.partitions(&topic).await.unwrap(), Some(1));
    assert_eq!(log.partitions(&fixture.topic("raw.none")).await.unwrap(), None);
    assert!(matches!(log.ensure_topic(&keep(&topic, 2)).await, Err(LogError::Partitions { has: 1, wanted: 2, .. })));

    let mut hold = log.open(&owner("a")).await.unwrap();
    let mut tombstone = record(&topic, "k1", "");
    (tombstone.value, tombstone.headers) = (None, Vec::new());
    let mut keyless = record(&topic, "", "三");
    (keyless.key, keyless.timestamp_ms) = (None, 1_700_000_000_007);
    let written = vec![record(&topic, "k1", "one"), tombstone, keyless];
    assert_eq!(hold.append(records(written.clone())).await.unwrap().records, 3);

    let at = TopicPartition::new(topic, 0);
    assert!(log.written(&at).await.unwrap() >= 3);
    let read = everything(&*log, &at).await;
    assert_eq!(read.len(), 3);
    for (read, written) in read.iter().zip(&written) {
        assert_eq!(read.at, at);
        assert_eq!((&read.key, &read.value), (&written.key, &written.value));
        assert_eq!((&read.headers, read.timestamp_ms), (&written.headers, written.timestamp_ms));
    }
    assert!(read.is_sorted_by(|a, b| a.offset < b.offset));
    fixture.close().await;
}

pub async fn order_in_a_partition_is_the_order_of_appends(fixture: &impl LogUnderTest) {
    let log = fixture.open().await;
    let topic = fixture.topic("raw.order.public.t");
    log.ensure_topic(&keep(&topic, 1)).await.unwrap();
    let mut hold = log.open(&owner("order")).await.unwrap();
    let mut expected = Vec::new();
    for batch in 0..40 {
        let rows: Vec<_> = (0..1 + batch * 7 % 13).map(|row| format!("{batch}/{row}")).collect();
        hold.append(records(rows.iter().map(|row| record(&topic, row, row)).collect())).await.unwrap();
        expected.extend(rows);
    }
    assert_eq!(values(&everything(&*log, &TopicPartition::new(topic, 0)).await), expected);
    fixture.close().await;
}

/// The position, the consumed offsets and the log's id are what they were; the partition goes on where it ended.
pub async fn offsets_and_position_resume_after_a_restart(fixture: &impl LogUnderTest) {
    let log = fixture.open().await;
    let topic = fixture.topic("raw.resume.public.t");
    let at = TopicPartition::new(topic.clone(), 0);
    log.ensure_topic(&keep(&topic, 1)).await.unwrap();
    let id = log.id().clone();
    let mut hold = log.open(&owner("resume")).await.unwrap();
    assert_eq!((hold.position(), hold.offset(&at)), (None, None));
    let first = Batch {
        records: vec![record(&topic, "a", "1"), record(&topic, "b", "2")],
        offsets: vec![(at.clone(), 1)],
        position: Some(Bytes::from_static(b"16/B374D848")),
        ..Batch::default()
    };
    hold.append(first).await.unwrap();
    hold.append(Batch { offsets: vec![(at.clone(), 2)], ..Batch::default() }).await.unwrap();
    assert_eq!(hold.offset(&at).unwrap().next, 2);
    drop((hold, log));
    fixture.close().await;

    let log = fixture.open().await;
    assert_eq!(log.id(), &id);
    let mut hold = log.open(&owner("resume")).await.unwrap();
    assert_eq!(hold.position(), Some(Bytes::from_static(b"16/B374D848")));
    let stored = hold.offset(&at).unwrap();
    assert_eq!((stored.next, stored.log), (2, id));
    let other = log.open(&owner("another")).await.unwrap();
    assert_eq!((other.position(), other.offset(&at)), (None, None));
    hold.append(records(vec![record(&topic, "c", "3")])).await.unwrap();
    assert_eq!(values(&everything(&*log, &at).await), ["1", "2", "3"]);
    fixture.close().await;
}

/// A second opening ends the first holder, which is told so and leaves no trace; other owners are not touched.
pub async fn an_older_holder_is_fenced_and_writes_nothing(fixture: &impl LogUnderTest) {
    let log = fixture.open().await;
    let topic = fixture.topic("raw.fence.public.t");
    let at = TopicPartition::new(topic.clone(), 0);
    log.ensure_topic(&keep(&topic, 1)).await.unwrap();
    let mut other = log.open(&owner("other")).await.unwrap();
    let mut older = log.open(&owner("fence")).await.unwrap();
    older.append(Batch { position: Some(Bytes::from_static(b"1")), ..records(vec![record(&topic, "k", "old")]) }).await.unwrap();
    let mut newer = log.open(&owner("fence")).await.unwrap();
    assert_eq!(newer.position(), Some(Bytes::from_static(b"1")));
    let late = Batch { position: Some(Bytes::from_static(b"2")), ..records(vec![record(&topic, "k", "late")]) };
    let refused = older.append(late).await.unwrap_err();
    assert!(matches!(refused, AppendError::Refused(LogError::Fenced { .. })), "{refused:?}");
    newer.append(records(vec![record(&topic, "k", "new")])).await.unwrap();
    other.append(records(vec![record(&topic, "k", "other")])).await.unwrap();
    assert_eq!(values(&everything(&*log, &at).await), ["old", "new", "other"]);
    assert_eq!(log.open(&owner("fence")).await.unwrap().position(), Some(Bytes::from_static(b"1")));
    fixture.close().await;
}

/// Milliseconds, not a polling interval: the median of many.
pub async fn a_waiting_reader_wakes_on_an_append(fixture: &impl LogUnderTest) {
    let log = fixture.open().await;
    let topic = fixture.topic("raw.wake.public.t");
    let at = TopicPartition::new(topic.clone(), 0);
    log.ensure_topic(&keep(&topic, 1)).await.unwrap();
    let mut reader = log.reader(vec![(at.clone(), 0)]).await.unwrap();
    let before = Instant::now();
    assert!(reader.read(BRIEF).await.unwrap().records.is_empty());
    assert!(before.elapsed() >= BRIEF.wait);

    let mut hold = log.open(&owner("wake")).await.unwrap();
    let mut waits = Vec::new();
    for n in 0..21 {
        let waiting = tokio::spawn(async move {
            let batch = reader.read(BUDGET).await.unwrap();
            (reader, batch, Instant::now())
        });
        tokio::task::yield_now().await;
        hold.append(records(vec![record(&topic, "k", &n.to_string())])).await.unwrap();
        let committed = Instant::now();
        let (back, batch, came) = waiting.await.unwrap();
        reader = back;
        assert_eq!(values(&batch.records), [n.to_string()]);
        waits.push(came.saturating_duration_since(committed));
    }
    waits.sort();
    assert!(waits[10] < Duration::from_millis(20), "median {:?} of {waits:?}", waits[10]);
    assert!(log.bounds(&at).await.unwrap().end >= 21);
    assert_eq!(log.bounds(&at).await.unwrap(), Bounds { earliest: 0, ..log.bounds(&at).await.unwrap() });
    fixture.close().await;
}
