//! Where reading begins, how much it brings, and what it never brings.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use guitong_log::{AppendError, ExchangeLog, LogError, LogId, MAX_RECORD, ReadBudget, StoredOffset, TopicPartition};

use super::LogUnderTest;
use super::build::{BRIEF, BUDGET, everything, keep, owner, record, records, values};

const T0: i64 = 1_700_000_000_000;

pub async fn reading_begins_at_the_earliest_the_latest_or_a_time(fixture: &impl LogUnderTest) {
    let log = fixture.open().await;
    let topic = fixture.topic("raw.begin.public.t");
    let at = TopicPartition::new(topic.clone(), 0);
    log.ensure_topic(&keep(&topic, 1)).await.unwrap();
    let empty = log.bounds(&at).await.unwrap();
    assert_eq!((empty.earliest, empty.end), (0, 0));
    assert_eq!(log.offset_at(&at, T0).await.unwrap(), 0);
    let mut hold = log.open(&owner("begin")).await.unwrap();
    for second in 0..30 {
        let mut pair = vec![record(&topic, "k", &format!("{second}")), record(&topic, "k", &format!("{second}.5"))];
        for (record, half) in pair.iter_mut().zip([0, 500]) {
            record.timestamp_ms = T0 + 1000 * second + half;
        }
        hold.append(records(pair)).await.unwrap();
    }
    for (time, first) in
        [(0, Some("0")), (T0 + 11_000, Some("11")), (T0 + 11_001, Some("11.5")), (T0 + 29_500, Some("29.5")), (T0 + 29_501, None)]
    {
        let offset = log.offset_at(&at, time).await.unwrap();
        let mut reader = log.reader(vec![(at.clone(), offset)]).await.unwrap();
        let read = values(&reader.read(BRIEF).await.unwrap().records);
        assert_eq!(read.first().map(String::as_str), first, "from {time}");
    }
    let latest = log.bounds(&at).await.unwrap().end;
    let mut reader = log.reader(vec![(at.clone(), latest)]).await.unwrap();
    hold.append(records(vec![record(&topic, "k", "after")])).await.unwrap();
    assert_eq!(values(&reader.read(BUDGET).await.unwrap().records), ["after"]);
    fixture.close().await;
}

/// No read brings more than its budget, except one record that is larger alone; nothing is skipped over it.
pub async fn byte_budgets_hold(fixture: &impl LogUnderTest) {
    let log = fixture.open().await;
    let topic = fixture.topic("raw.budget.public.t");
    log.ensure_topic(&keep(&topic, 2)).await.unwrap();
    let mut hold = log.open(&owner("budget")).await.unwrap();
    let mut batch = Vec::new();
    for n in 0..200 {
        let size = if n == 77 { 300_000 } else { 1 + n * 37 % 9000 };
        let mut row = record(&topic, "k", &format!("{n:0>4}{}", "x".repeat(size)));
        row.partition = Some(n as u32 % 2);
        batch.push(row);
    }
    hold.append(records(batch)).await.unwrap();
    let parts = [0, 1].map(|partition| TopicPartition::new(topic.clone(), partition));
    for bytes in [1, 20_000, 100_000, 10 << 20] {
        let mut reader = log.reader(parts.iter().map(|at| (at.clone(), 0)).collect()).await.unwrap();
        let mut read: HashMap<u32, Vec<usize>> = HashMap::new();
        while read.values().map(Vec::len).sum::<usize>() < 200 {
            let batch = reader.read(ReadBudget { bytes, ..BUDGET }).await.unwrap();
            let size: usize = batch.records.iter().map(|record| record.value.as_ref().map_or(0, Bytes::len)).sum();
            assert!(batch.records.len() == 1 || size <= bytes, "{size} bytes with a budget of {bytes}");
            for record in batch.records {
                let value = record.value.unwrap();
                read.entry(record.at.partition).or_default().push(std::str::from_utf8(&value[..4]).unwrap().parse().unwrap());
            }
        }
        for (partition, read) in read {
            assert_eq!(read, (0..200).filter(|n| *n as u32 % 2 == partition).collect::<Vec<_>>(), "budget {bytes}");
        }
    }
    fixture.close().await;
}

async fn gap_at(log: &dyn ExchangeLog, at: &TopicPartition, offset: u64) -> bool {
    match log.reader(vec![(at.clone(), offset)]).await {
        Err(LogError::Gap { wanted, .. }) => wanted == offset,
        Err(error) => panic!("{error}"),
        Ok(mut reader) => matches!(reader.read(BRIEF).await, Err(LogError::Gap { wanted, .. }) if wanted == offset),
    }
}

/// An offset that this log cannot go on from is an error that names the gap, never another place to read from.
pub async fn offsets_that_the_log_does_not_hold_are_a_gap(fixture: &impl LogUnderTest) {
    let log = fixture.open().await;
    let topic = fixture.topic("raw.gap.public.t");
    let at = TopicPartition::new(topic.clone(), 0);
    log.ensure_topic(&keep(&topic, 1)).await.unwrap();
    let mut hold = log.open(&owner("gap")).await.unwrap();
    hold.append(records(vec![record(&topic, "k", "1")])).await.unwrap();
    let end = log.bounds(&at).await.unwrap().end;
    assert!(!gap_at(&*log, &at, end).await);
    assert!(gap_at(&*log, &at, end + 1).await);
    assert!(gap_at(&*log, &at, end + 1_000_000).await);

    let mut stored = StoredOffset { log: log.id().clone(), next: end };
    assert_eq!(stored.within(&*log, &at).await.unwrap(), end);
    stored.next = end + 1;
    assert!(matches!(stored.within(&*log, &at).await, Err(LogError::Gap { of: None, .. })));
    let other = StoredOffset { log: LogId("another".into()), next: 0 };
    let gap = other.within(&*log, &at).await.unwrap_err();
    assert!(gap.to_string().contains("another") && gap.to_string().contains(&at.to_string()), "{gap}");
    assert!(matches!(log.bounds(&TopicPartition::new("raw.none", 0)).await, Err(LogError::NoTopic { .. })));
    fixture.close().await;
}

/// The largest record passes; one byte more is refused, says so, and harms nothing.
pub async fn a_record_of_16_mib_passes_and_a_larger_one_is_refused(fixture: &impl LogUnderTest) {
    let log = fixture.open().await;
    let topic = fixture.topic("raw.large.public.t");
    let at = TopicPartition::new(topic.clone(), 0);
    log.ensure_topic(&keep(&topic, 1)).await.unwrap();
    let mut hold = log.open(&owner("large")).await.unwrap();
    let mut large = record(&topic, "k", "");
    large.value = None;
    large.value = Some(Bytes::from(vec![0xA5; MAX_RECORD - large.size()]));
    assert_eq!(large.size(), MAX_RECORD);
    let mut larger = large.clone();
    larger.value = Some(Bytes::from(vec![0xA5; MAX_RECORD]));
    let refused = hold.append(records(vec![record(&topic, "k", "before"), larger])).await.unwrap_err();
    assert!(matches!(refused, AppendError::Refused(LogError::TooLarge { limit: MAX_RECORD, .. })), "{refused:?}");
    hold.append(records(vec![record(&topic, "k", "small"), large.clone(), record(&topic, "k", "last")])).await.unwrap();
    let read = everything(&*log, &at).await;
    assert_eq!(read.len(), 3);
    assert_eq!(read[1].value, large.value);
    assert_eq!(read[2].value.as_deref(), Some(b"last".as_slice()));
    fixture.close().await;
}

/// Hashes of Kafka's own unit test (`UtilsTest.testMurmur2`), sign bit cleared, modulo the number of partitions.
pub async fn keys_land_where_java_puts_them(fixture: &impl LogUnderTest) {
    let log = fixture.open().await;
    let topic = fixture.topic("std.keys");
    log.ensure_topic(&keep(&topic, 6)).await.unwrap();
    let mut hold = log.open(&owner("keys")).await.unwrap();
    let hashes = [
        ("21", -973_932_308_i32),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ("abc", 479_470_107),
    ];
    hold.append(records(hashes.iter().map(|(key, _)| record(&topic, key, key)).collect())).await.unwrap();
    for (key, hash) in hashes {
        let at = TopicPartition::new(topic.clone(), (hash as u32 & 0x7fff_ffff) % 6);
        assert!(values(&everything(&*log, &at).await).contains(&key.to_owned()), "{key} is not in {at}");
    }
    fixture.close().await;
}

/// A reader that reads as fast as it can meets whole batches only, and none that was refused.
pub async fn readers_never_see_an_uncommitted_record(fixture: &impl LogUnderTest) {
    const BATCHES: usize = 150;
    const EACH: usize = 20;
    let log = fixture.open().await;
    let topic = fixture.topic("raw.committed.public.t");
    let at = TopicPartition::new(topic.clone(), 0);
    log.ensure_topic(&keep(&topic, 1)).await.unwrap();
    let reading = tokio::spawn(follow(Arc::clone(&log), at.clone(), BATCHES * EACH));
    let mut hold = log.open(&owner("committed")).await.unwrap();
    for n in 0..BATCHES {
        let mut batch: Vec<_> = (0..EACH).map(|row| record(&topic, "k", &format!("{n}/{row}"))).collect();
        if n % 3 == 0 {
            // Refused for its last record, when all others are on their way.
            let mut bad: Vec<_> = (0..EACH).map(|_| record(&topic, "k", "refused")).collect();
            bad.push(record(&topic, "k", ""));
            bad[EACH].value = Some(Bytes::from(vec![0; MAX_RECORD + 1]));
            assert!(matches!(hold.append(records(bad)).await, Err(AppendError::Refused(_))));
        }
        for row in &mut batch {
            row.headers.push(("filler".into(), Bytes::from(vec![0; n * 97 % 5000])));
        }
        hold.append(records(batch)).await.unwrap();
    }
    let read = tokio::time::timeout(Duration::from_secs(60), reading).await.unwrap().unwrap();
    let expected: Vec<_> = (0..BATCHES).flat_map(|n| (0..EACH).map(move |row| format!("{n}/{row}"))).collect();
    assert_eq!(read, expected);
    fixture.close().await;
}

/// What a reader of many small reads sees, checked against the bounds at the moment it sees it.
async fn follow(log: Arc<dyn ExchangeLog>, at: TopicPartition, wanted: usize) -> Vec<String> {
    let mut reader = log.reader(vec![(at.clone(), 0)]).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < wanted {
        let batch = reader.read(ReadBudget { bytes: 7_000, ..BUDGET }).await.unwrap();
        let end = log.bounds(&at).await.unwrap().end;
        assert!(batch.records.iter().all(|record| record.offset < end), "a record beyond the committed end {end}");
        seen.extend(values(&batch.records));
    }
    seen
}
