//! Many owners at once, answers that are lost, holders that are fenced in the middle.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use guitong_log::{AppendError, Batch, Committed, ExchangeLog, OwnedLog, StateChange, TopicPartition};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::LogUnderTest;
use super::build::{everything, keep, owner, record, records, text, values};
use crate::seed;

/// A thousand owners that append at one time are far from a thousand commits of the disk.
pub async fn a_thousand_owners_share_the_disk_syncs(fixture: &impl LogUnderTest) {
    const OWNERS: usize = 1000;
    const EACH: usize = 3;
    let log = fixture.open().await;
    let topic = fixture.topic("raw.thousand.public.t");
    log.ensure_topic(&keep(&topic, 4)).await.unwrap();
    let mut holds = Vec::new();
    for n in 0..OWNERS {
        holds.push(log.open(&owner(&format!("thousand-{n}"))).await.unwrap());
    }
    let before = fixture.transactions();
    let tasks = holds.into_iter().enumerate().map(|(n, mut hold)| {
        let topic = Arc::clone(&topic);
        tokio::spawn(async move {
            for round in 0..EACH {
                let row = record(&topic, &n.to_string(), &format!("{n}/{round}"));
                hold.append(Batch { position: Some(round.to_string().into()), ..records(vec![row]) }).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let commits = fixture.transactions() - before;
    assert!(commits <= (OWNERS * EACH / 20) as u64, "{commits} commits for {} batches", OWNERS * EACH);
    let mut read = Vec::new();
    for partition in 0..4 {
        read.extend(values(&everything(&*log, &TopicPartition::new(topic.clone(), partition)).await));
    }
    read.sort();
    let mut expected: Vec<_> = (0..OWNERS).flat_map(|n| (0..EACH).map(move |round| format!("{n}/{round}"))).collect();
    expected.sort();
    assert_eq!(read, expected);
    fixture.close().await;
}

/// Appends are dropped before their answer; the owner opens again, reads where it stands and goes on: nothing lost or doubled.
pub async fn an_append_without_an_answer_is_neither_lost_nor_doubled(fixture: &impl LogUnderTest) {
    let mut random = StdRng::seed_from_u64(seed());
    let log = fixture.open().await;
    let topic = fixture.topic("raw.doubt.public.t");
    log.ensure_topic(&keep(&topic, 1)).await.unwrap();
    let mut hold = log.open(&owner("doubt")).await.unwrap();
    let began = Instant::now();
    hold.append(numbered(&topic, 0)).await.unwrap();
    let usual = began.elapsed();
    let (mut n, mut lost) = (1, 0);
    while n < 60 {
        let patience = usual.mul_f64(random.random_range(0.0..2.0));
        match tokio::time::timeout(patience, hold.append(numbered(&topic, n))).await {
            Ok(Ok(Committed { .. })) => n += 1,
            Ok(Err(error)) => panic!("{error}"),
            Err(_) => {
                lost += 1;
                hold = log.open(&owner("doubt")).await.unwrap();
                let stands: u64 = text(hold.position().as_ref()).parse().unwrap();
                assert!(stands == n || stands == n - 1, "at {stands} after an append of {n}");
                n = stands + 1;
            }
        }
    }
    println!("{lost} answers lost");
    let expected: Vec<_> = (0..60).map(|n| n.to_string()).collect();
    assert_eq!(values(&everything(&*log, &TopicPartition::new(topic, 0)).await), expected);
    fixture.close().await;
}

fn numbered(topic: &Arc<str>, n: u64) -> Batch {
    Batch { position: Some(n.to_string().into()), ..records(vec![record(topic, "k", &n.to_string())]) }
}

const PARTITIONS: u32 = 3;

/// Owners append, are dropped in the middle, opened again, and fenced by others that open them, in random order. At the end each
/// owner's records, state and position are those of the same first batches, whole and in order.
pub async fn random_interleavings_keep_every_promise<L: LogUnderTest>(fixture: &L) {
    let seed = seed();
    let topic = fixture.topic("raw.random.public.t");
    for round in 0..2_u64 {
        let log = fixture.open().await;
        log.ensure_topic(&keep(&topic, PARTITIONS)).await.unwrap();
        let tasks = (0..6_u64).map(|which| {
            let (log, topic) = (Arc::clone(&log), Arc::clone(&topic));
            // Two tasks an owner: each fences the other.
            tokio::spawn(act(log, topic, which / 2, StdRng::seed_from_u64(seed ^ (round * 6 + which))))
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        drop(log);
        fixture.close().await;
    }
    let log = fixture.open().await;
    for which in 0..3 {
        verify(&*log, &topic, which).await;
    }
    fixture.close().await;
}

fn name(which: u64) -> String {
    format!("random-{which}")
}

fn stand(hold: &dyn OwnedLog) -> u64 {
    hold.position().map_or(0, |position| text(Some(&position)).parse().unwrap())
}

async fn act(log: Arc<dyn ExchangeLog>, topic: Arc<str>, which: u64, mut random: StdRng) {
    let mut hold = log.open(&owner(&name(which))).await.unwrap();
    for _ in 0..40 {
        let batch = random_batch(&topic, which, stand(&*hold) + 1);
        let patience = Duration::from_micros(if random.random_bool(0.3) { random.random_range(0..4_000) } else { 60_000_000 });
        let reopen = match tokio::time::timeout(patience, hold.append(batch)).await {
            Ok(Ok(_)) => random.random_bool(0.1),
            Ok(Err(AppendError::Refused(guitong_log::LogError::Fenced { .. }) | AppendError::Unknown(_))) | Err(_) => true,
            Ok(Err(error)) => panic!("{error}"),
        };
        if reopen {
            hold = log.open(&owner(&name(which))).await.unwrap();
        }
    }
}

/// What owner `which` appends as its batch `n`, always the same.
fn random_batch(topic: &Arc<str>, which: u64, n: u64) -> Batch {
    let mut random = StdRng::seed_from_u64(which << 32 | n);
    let rows = random.random_range(0..6);
    let row = |row: u32| {
        let mut record = record(topic, &name(which), &format!("{}/{n}/{row}", name(which)));
        record.partition = Some((n as u32 + row) % PARTITIONS);
        record
    };
    let change = |place: u64| StateChange {
        map: "m".into(),
        key: Bytes::from(format!("{place}")),
        value: (!place.is_multiple_of(3)).then(|| Bytes::from(format!("{n}"))),
    };
    Batch {
        records: (0..rows).map(row).collect(),
        position: Some(n.to_string().into()),
        state: (0..random.random_range(0..5)).map(|_| change(random.random_range(0..20))).collect(),
        offsets: vec![(TopicPartition::new(Arc::clone(topic), 0), n)],
    }
}

async fn verify(log: &dyn ExchangeLog, topic: &Arc<str>, which: u64) {
    let hold = log.open(&owner(&name(which))).await.unwrap();
    let last = stand(&*hold);
    let mut rows: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    let mut state: BTreeMap<String, String> = BTreeMap::new();
    for n in 1..=last {
        let batch = random_batch(topic, which, n);
        for record in batch.records {
            rows.entry(record.partition.unwrap()).or_default().push(text(record.value.as_ref()));
        }
        for change in batch.state {
            let key = text(Some(&change.key));
            match change.value {
                Some(value) => state.insert(key, text(Some(&value))),
                None => state.remove(&key),
            };
        }
    }
    for partition in 0..PARTITIONS {
        let mut read = values(&everything(log, &TopicPartition::new(Arc::clone(topic), partition)).await);
        read.retain(|value| value.starts_with(&format!("{}/", name(which))));
        assert_eq!(read, rows.remove(&partition).unwrap_or_default(), "{} up to {last}, partition {partition}", name(which));
    }
    let held = hold.scan("m", b"", None, 100).await.unwrap();
    let held: BTreeMap<_, _> = held.iter().map(|(key, value)| (text(Some(key)), text(Some(value)))).collect();
    assert_eq!(held, state, "{} up to {last}", name(which));
    assert_eq!(hold.offset(&TopicPartition::new(Arc::clone(topic), 0)).map(|stored| stored.next), (last > 0).then_some(last));
}
