//! Delivering again what came since a position or a moment.

use std::collections::HashMap;

use guitong_deliver::{CommandError, DeliverStatus, Phase, Place, Redelivered, Since, Word};
use guitong_log::{ExchangeLog as _, Record, TopicPartition};
use guitong_schemas::contract::SinkConfig;
use guitong_schemas::contract::webhook::Mode;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::fixture::{Bench, PARTITIONS, Running, Target, now_us};
use crate::kafka::header;
use crate::topics::Topics;
use crate::webhook::World;

fn word() -> Word {
    Word { by: "韦小明 (uid 1000)".into(), reason: String::new() }
}

fn beginning() -> Since {
    Since::Places((0..PARTITIONS).map(|partition| Place { partition, offset: 0 }).collect())
}

async fn ends(bench: &Bench) -> Vec<u64> {
    let mut ends = Vec::new();
    for partition in 0..PARTITIONS {
        ends.push(bench.log.bounds(&TopicPartition::new("std.enterprise", partition)).await.unwrap().end);
    }
    ends
}

async fn replay(running: &Running, since: Since) -> Result<Vec<Redelivered>, CommandError> {
    running.handle.redeliver(since, word()).await
}

pub(crate) async fn a_replay_doubles_nothing_and_obeys_what_is_granted_now(mut bench: Bench, target: &Target) {
    let mut subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    let numbered = |n: u64| bench.named(&format!("K{n}"), if n.is_multiple_of(2) { "even" } else { "odd" }, n);
    bench.append((1..=40).map(numbered).collect()).await;
    bench.append(vec![bench.delete("K2", 50), bench.named("K3", "newer", 51)]).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let (before, table) = (target.names("t").await, target.named("t"));
    target.execute(&format!("UPDATE {table} SET name = 'by hand' WHERE uscc = 'K7'")).await;
    target.execute(&format!("DELETE FROM {table} WHERE uscc = 'K8'")).await;
    let ranges = replay(&running, beginning()).await.unwrap();
    let all: Vec<_> =
        ends(&bench).await.into_iter().zip(0..).map(|(to, partition)| Redelivered { partition, from: 0, to }).collect();
    assert_eq!(ranges, all);
    running.reaches(|status| status.upserts >= 80).await;
    bench.caught_up(&mut running).await;
    assert_eq!(target.names("t").await, before, "the older K3 and the deleted K2 do not come back");
    // It is done once.
    running.stop().await.unwrap();
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    assert_eq!(running.status.borrow().upserts, 0);
    running.stop().await.unwrap();

    subscription.condition = Some("name != 'odd'".into());
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let granted = target.names("t").await;
    assert!(granted.len() < before.len());
    let served = running.status.borrow().upserts;
    replay(&running, beginning()).await.unwrap();
    running.reaches(|status| status.upserts > served).await;
    bench.caught_up(&mut running).await;
    assert_eq!(target.names("t").await, granted, "what is no longer granted does not come by a replay");
    running.stop().await.unwrap();
}

/// A crash in the middle of a replay goes on with it; from a time on only what was written since comes again.
pub(crate) async fn a_replay_goes_on_after_a_crash(mut bench: Bench, target: &Target) {
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    let old = |mut record: guitong_log::NewRecord| {
        record.timestamp_ms -= 3_600_000;
        record
    };
    bench.append((1..=30).map(|n| old(bench.named(&format!("K{n}"), "old", n))).collect()).await;
    let middle = now_us() - 1_800_000_000;
    bench.append((31..=60).map(|n| bench.named(&format!("K{n}"), "young", n)).collect()).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let table = target.named("t");
    target.execute(&format!("UPDATE {table} SET name = 'by hand'")).await;
    let ranges = replay(&running, Since::Time(middle)).await.unwrap();
    assert_eq!(ranges.iter().map(|range| range.to - range.from).sum::<u64>(), 30);
    running.kill().await;
    let mut running = bench.start(&subscription);
    running.reaches(|status| status.upserts >= 30).await;
    bench.caught_up(&mut running).await;
    let (by_hand, young): (Vec<_>, Vec<_>) = target.names("t").await.into_iter().partition(|(_, name)| name == "by hand");
    assert_eq!((by_hand.len(), young.len()), (30, 30));
    assert!(young.iter().all(|(_, name)| name == "young"));
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_that_cannot_be_whole_is_refused() {
    let mut bench = Bench::new().await;
    let target = Target::sqlite(&bench).await;
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    let aged = |mut record: guitong_log::NewRecord| {
        record.timestamp_ms -= 40 * 3_600_000;
        record
    };
    bench.append((1..=6).map(|n| aged(bench.named(&format!("K{n}"), "甲", n))).collect()).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    // Deletes among what is that old may be gone from the log.
    let Err(CommandError::Gap(why)) = replay(&running, beginning()).await else { panic!("a gap") };
    assert!(why.contains("std.enterprise") && why.contains("deletes"), "{why}");
    let place = |partition, offset| Since::Places(vec![Place { partition, offset }]);
    let Err(CommandError::Unfit(why)) = replay(&running, place(0, 1_000)).await else { panic!("beyond the end") };
    assert!(why.contains("0-1000") && why.contains("stands at"), "{why}");
    assert!(matches!(replay(&running, place(99, 0)).await, Err(CommandError::Unfit(_))));
    assert!(matches!(replay(&running, Since::Time(now_us())).await, Err(CommandError::NotNow(_))));
    bench.append(vec![bench.named("K1", "乙", 7)]).await;
    bench.caught_up(&mut running).await;
    assert_eq!(target.names("t").await["K1"], "乙");
    let pulled =
        bench.subscription("pulled", SinkConfig::Pull { keep: std::time::Duration::from_secs(3_600) }, &["uscc", "name"]);
    let mut other = bench.start(&pulled);
    bench.caught_up(&mut other).await;
    assert!(matches!(replay(&other, beginning()).await, Err(CommandError::Unfit(why)) if why.contains("cursor")));
    running.stop().await.unwrap();
    other.stop().await.unwrap();
}

/// An endpoint gets the newest change of each row again, deletes too, under the ids that they had, and marked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_knows_what_it_gets_again() {
    let mut world = World::new(Mode::Binary).await;
    world.change("K2", 2).await;
    world.caught_up().await;
    world.change("K1", 3).await;
    world.bench.append(vec![world.bench.delete("K2", 4)]).await;
    world.caught_up().await;
    let before = world.receiver.taken();
    replay(&world.running, beginning()).await.unwrap();
    world.running.reaches(|status| matches!(status.phase, Phase::Live) && status.deletes == 2).await;
    world.caught_up().await;
    let after = world.receiver.taken();
    let again = &after[before.len()..];
    let newest = |subject: &str| before.iter().rev().find(|came| came.subject == subject).unwrap();
    assert_eq!(again.len(), 2, "{again:?}");
    for came in again {
        let known = newest(&came.subject);
        assert_eq!((&came.id, &came.data, came.deleted), (&known.id, &known.data, known.deleted));
    }
    let requests = world.receiver.requests();
    let marked: Vec<_> = requests.iter().map(|request| request.header("ce-replayed") == "true").collect();
    assert_eq!(marked.iter().filter(|marked| **marked).count(), 2);
    assert!(marked.ends_with(&[true, true]));
    world.change("K1", 5).await;
    world.caught_up().await;
    assert_eq!(world.receiver.requests().last().unwrap().header("ce-replayed"), "", "what comes after it is news");
    world.running.stop().await.unwrap();
}

/// Whoever takes files finds the changes once more, behind those that he has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_carry_again_what_came_since() {
    let mut bench = Bench::new().await;
    let target = Target::files(&bench, crate::dropped::JSON).await;
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    bench.append((1..=10).map(|n| bench.named(&format!("K{n}"), "甲", n)).collect()).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let before = target.names("t").await;
    replay(&running, beginning()).await.unwrap();
    running.reaches(|status| status.upserts >= 20).await;
    bench.caught_up(&mut running).await;
    assert_eq!(target.names("t").await, before);
    running.stop().await.unwrap();
}

/// Has it delivered again, and waits for the end of that.
async fn replayed(bench: &Bench, running: &mut Running, since: Since) {
    let served = |status: &DeliverStatus| status.upserts + status.deletes;
    let before = served(&running.status.borrow());
    replay(running, since).await.unwrap();
    running.reaches(|status| served(status) > before).await;
    bench.caught_up(running).await;
}

/// The last record of each row before a replay.
fn newest(records: &[Record]) -> HashMap<&[u8], &Record> {
    records.iter().map(|record| (&**record.key.as_ref().unwrap(), record)).collect()
}

/// Who reads a topic gets the newest change of each row again, deletes too, under the ids that they had, marked, and nothing else.
fn assert_again(before: &[Record], again: &[Record]) {
    let known = newest(before);
    assert_eq!((again.len(), newest(again).len()), (known.len(), known.len()), "each row once");
    for record in again {
        let known = known[&**record.key.as_ref().unwrap()];
        assert_eq!(header(record, "ce_replayed"), "true");
        assert_eq!(record.value, known.value);
        for name in ["ce_id", "ce_type", "ce_sequence"] {
            assert_eq!(header(record, name), header(known, name), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_carries_the_newest_change_of_each_row_again() {
    let topics = Topics::shared().await;
    let mut bench = Bench::new().await;
    let mut subscription = bench.subscription("credit", topics.config("t"), &["uscc", "name"]);
    let numbered = |n: u64| bench.named(&format!("K{n}"), if n.is_multiple_of(2) { "even" } else { "odd" }, n);
    bench.append((1..=40).map(numbered).collect()).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    bench.append(vec![bench.delete("K2", 50), bench.named("K3", "newer", 51), bench.delete("NEVER", 52)]).await;
    bench.caught_up(&mut running).await;
    let before = topics.records("t").await;
    replayed(&bench, &mut running, beginning()).await;
    let after = topics.records("t").await;
    let is_new = |record: &&Record| !before.iter().any(|old| (old.at.clone(), old.offset) == (record.at.clone(), record.offset));
    let again: Vec<Record> = after.iter().filter(is_new).cloned().collect();
    assert_eq!(again.len(), 40);
    assert_again(&before, &again);
    bench.append(vec![bench.named("K1", "news", 60)]).await;
    bench.caught_up(&mut running).await;
    let news: Vec<_> = topics.records("t").await.into_iter().filter(|record| header(record, "ce_replayed").is_empty()).collect();
    assert_eq!(news.len(), before.len() + 1, "what comes after it is news");
    running.stop().await.unwrap();

    // What is no longer granted does not come by a replay.
    subscription.condition = Some("name != 'odd'".into());
    bench.deliver(&subscription).await;
    let before = topics.records("t").await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    replayed(&bench, &mut running, beginning()).await;
    let after = topics.records("t").await;
    let again: Vec<_> =
        after.iter().filter(|record| !before.iter().any(|old| old.at == record.at && old.offset == record.offset)).collect();
    assert!(again.iter().any(|record| record.value.is_some()), "what is granted comes");
    let odd =
        again.iter().filter(|record| record.value.as_ref().is_some_and(|value| value.windows(5).any(|part| part == b"\"odd\"")));
    assert_eq!(odd.count(), 0);
    running.stop().await.unwrap();
}

/// Deliverers that are killed within a replay: who reads committed records gets each row again once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_within_a_replay_double_nothing_of_it() {
    const ROWS: u64 = 160;
    let mut random = StdRng::seed_from_u64(guitong_tests::seed());
    let topics = Topics::shared().await;
    let mut bench = Bench::new().await;
    let subscription = bench.subscription("credit", topics.config("t"), &["uscc", "name"]);
    // Several transactions, since a batch is of a mebibyte.
    let filler = "长".repeat(10_000);
    bench.append((1..=ROWS).map(|n| bench.named(&format!("K{n}"), &filler, n)).collect()).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let before = topics.records("t").await;
    replay(&running, beginning()).await.unwrap();
    let mut kills = 0;
    loop {
        let status = running.status.borrow().clone();
        let some = status.upserts + random.random_range(1..60);
        let status = running.reaches(|status| status.upserts >= some || status.phase == Phase::Live).await;
        if status.phase == Phase::Live && kills > 0 {
            break;
        }
        running.kill().await;
        kills += 1;
        running = bench.start(&subscription);
    }
    bench.caught_up(&mut running).await;
    running.stop().await.unwrap();
    let all = topics.records("t").await;
    let (again, once): (Vec<_>, Vec<_>) = all.into_iter().partition(|record| header(record, "ce_replayed") == "true");
    assert_eq!(once.len(), before.len());
    assert_again(&before, &again);
}

/// A replay that is asked for while one is under way begins it anew, and cuts nothing off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_within_a_replay_is_whole() {
    let topics = Topics::shared().await;
    let mut bench = Bench::new().await;
    let subscription = bench.subscription("credit", topics.config("t"), &["uscc", "name"]);
    bench.append((1..=20).map(|n| bench.named(&format!("K{n}"), "甲", n)).collect()).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let (before, ends) = (topics.records("t").await, ends(&bench).await);
    let late = Since::Places(vec![Place { partition: 0, offset: ends[0] - 1 }]);
    // One is answered right behind the other.
    let (first, second) = tokio::join!(replay(&running, beginning()), replay(&running, late));
    assert_eq!(first.unwrap(), second.unwrap());
    running.reaches(|status| status.upserts > 20).await;
    bench.caught_up(&mut running).await;
    running.stop().await.unwrap();
    let mut again = topics.records("t").await;
    again.retain(|record| header(record, "ce_replayed") == "true");
    assert_again(&before, &again);
}
