//! A process that is killed while it commits.
//!
//! The test binary runs again as the child: it commits numbered batches, says each number once it is committed, and is killed
//! somewhere in between. Batch `n` writes to three partitions, one offset, the position and three keys of keyed state, so a batch
//! that is there in part shows.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use guitong_log::{Batch, ExchangeLog, OwnedLog, StateChange, TopicPartition};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::LogUnderTest;
use super::build::{everything, keep, owner, record, text, values};

/// Holds what [`LogUnderTest::child`] gave, in the child's environment.
pub const CHILD: &str = "GUITONG_LOG_UNDER_TEST";
/// The child's topic, in its environment.
const TOPIC: &str = "GUITONG_LOG_UNDER_TEST_TOPIC";
const PARTITIONS: u32 = 3;
const MAP: &str = "m";

/// Everything of the last batch that was committed is there and nothing of the one after, whenever the kill comes.
pub async fn a_killed_process_leaves_whole_batches<L: LogUnderTest>(fixture: &L) {
    let seed = crate::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let topic = fixture.topic("raw.kill.public.t");
    for _ in 0..L::KILLS {
        fixture.close().await;
        let said = kill_somewhere(fixture, &topic, &mut random);
        let log = fixture.open().await;
        let hold = log.open(&owner("killed")).await.unwrap();
        let last = number(&*hold);
        assert!(said <= last, "batch {said:?} was committed, the position is {last:?}");
        check(&*log, &*hold, &topic, last).await;
    }
    fixture.close().await;
}

fn kill_somewhere<L: LogUnderTest>(fixture: &L, topic: &str, random: &mut StdRng) -> Option<u64> {
    let mut child = start(&fixture.child(), topic);
    let mut said = None;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let wanted = random.random_range(1..40);
    let mut count = 0;
    while count < wanted {
        let line = lines.next().expect("the child ended by itself").unwrap();
        if let Some(n) = line.strip_prefix("committed ") {
            (said, count) = (Some(n.parse().unwrap()), count + 1);
        }
    }
    std::thread::sleep(Duration::from_micros(random.random_range(0..8_000)));
    child.kill().unwrap();
    child.wait().unwrap();
    // What it said before it died.
    for line in lines.map_while(Result::ok) {
        if let Some(n) = line.strip_prefix("committed ").and_then(|n| n.parse().ok()) {
            said = Some(n);
        }
    }
    said
}

fn start(described: &str, topic: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture"])
        .env(CHILD, described)
        .env(TOPIC, topic)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The child: commits until it is killed.
pub async fn commit_until_killed(log: Arc<dyn ExchangeLog>) {
    let topic: Arc<str> = std::env::var(TOPIC).unwrap().into();
    log.ensure_topic(&keep(&topic, PARTITIONS)).await.unwrap();
    let mut hold = log.open(&owner("killed")).await.unwrap();
    let mut n = number(&*hold).map_or(0, |last| last + 1);
    loop {
        hold.append(batch(&topic, n)).await.unwrap();
        println!("committed {n}");
        n += 1;
    }
}

fn number(hold: &dyn OwnedLog) -> Option<u64> {
    hold.position().map(|position| text(Some(&position)).parse().unwrap())
}

fn batch(topic: &Arc<str>, n: u64) -> Batch {
    let value = n.to_string();
    let mut records: Vec<_> = (0..PARTITIONS).map(|partition| (partition, record(topic, "k", &value))).collect();
    for (partition, record) in &mut records {
        record.partition = Some(*partition);
        // Some hundred kilobytes, so that a kill can fall into the write.
        record.headers.push(("filler".into(), Bytes::from(vec![7; (n % 5) as usize * 30_000])));
    }
    let change = |key: &str, value: Option<&str>| StateChange {
        map: MAP.into(),
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
    };
    Batch {
        records: records.into_iter().map(|(_, record)| record).collect(),
        offsets: vec![(TopicPartition::new(Arc::clone(topic), 0), n)],
        position: Some(value.clone().into()),
        state: vec![
            change("last", Some(&value)),
            change(&format!("of {n}"), Some(&value)),
            change(&format!("of {}", n.wrapping_sub(2)), None),
        ],
    }
}

async fn check(log: &dyn ExchangeLog, hold: &dyn OwnedLog, topic: &Arc<str>, last: Option<u64>) {
    let expected: Vec<_> = (0..last.map_or(0, |last| last + 1)).map(|n| n.to_string()).collect();
    for partition in 0..PARTITIONS {
        let at = TopicPartition::new(Arc::clone(topic), partition);
        assert_eq!(values(&everything(log, &at).await), expected, "{at}");
    }
    let at = TopicPartition::new(Arc::clone(topic), 0);
    assert_eq!(hold.offset(&at).map(|stored| stored.next), last);
    let mut state: Vec<_> = last.iter().map(|n| ("last".to_owned(), n.to_string())).collect();
    state.extend(last.iter().flat_map(|n| n.saturating_sub(1)..=*n).map(|n| (format!("of {n}"), n.to_string())));
    state.sort();
    let held = hold.scan(MAP, b"", None, 100).await.unwrap();
    let held: Vec<_> = held.iter().map(|(key, value)| (text(Some(key)), text(Some(value)))).collect();
    assert_eq!(held, state);
}
