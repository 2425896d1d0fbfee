//! Subscriptions of one topic read the log together.

mod random;
mod world;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use guitong_deliver::{Metrics, Phase};
use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_log::{Batch, ExchangeLog, LogError, OwnerId, ReadBudget, Retention, Role, TopicPartition, TopicSpec};
use guitong_tests::log_conformance::{self, LogUnderTest};
use tempfile::TempDir;

use self::world::{KEEP, SMALL, World};
use crate::fixture::{Bench, PARTITIONS, Target};
use crate::watched::Watched;

macro_rules! on_both_logs {
    ($($name:ident)+) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::World::embedded().await).await;
            })+
        }

        mod kafka {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::World::kafka().await).await;
            })+
        }
    };
}

on_both_logs! {
    many_that_begin_share_one_read
    who_is_in_step_shares_one_reader
    a_laggard_reads_alone_and_comes_into_step_again
    a_read_that_is_given_up_holds_nobody_up
    who_is_alone_shares_nothing
}

async fn many_that_begin_share_one_read(mut world: World) {
    for _ in 0..6 {
        world.append(500, 1_000).await;
    }
    let mut all = world.begin_many(40).await;
    let budgets = [ReadBudget { bytes: 20_000, ..SMALL }, SMALL, ReadBudget { bytes: 4 << 20, wait: Duration::ZERO }];
    let reading = all.iter_mut().zip(budgets.into_iter().cycle()).map(|(reading, budget)| reading.up_to(3_000, budget));
    futures::future::join_all(reading).await;
    let (opened, records) = world.watched.seen();
    assert!(opened <= 2 && records <= 6_000, "{opened} readers gave {records} records, and 3000 were asked for by 40");
    let of = |from: fn(&world::Reading) -> u64| all.iter().map(from).sum::<u64>();
    assert_eq!(of(|one| one.counted.log.get()), records as u64);
    assert!(of(|one| one.counted.shared.get()) >= 3_000 * 38);
    world.close().await;
}

async fn who_is_in_step_shares_one_reader(mut world: World) {
    world.append(10, 100).await;
    let mut all = world.begin_many(10).await;
    world.all_read(&mut all).await;
    let before = world.watched.seen();
    for _ in 0..40 {
        let end = world.written + 3;
        let waiting = futures::future::join_all(all.iter_mut().map(|reading| reading.up_to(end, SMALL)));
        // Polled first: all of them wait when the records come.
        futures::future::join(waiting, world.append(3, 100)).await;
    }
    let after = world.watched.seen();
    assert_eq!((after.0 - before.0, after.1 - before.1), (0, 120), "readers opened, and records that were read");
    world.close().await;
}

/// Bytes of what is written in a while, which no topic keeps all of.
const MUCH: u64 = 12 << 20;

async fn a_laggard_reads_alone_and_comes_into_step_again(mut world: World) {
    let mut all = world.begin_many(3).await;
    for _ in 0..MUCH / (50 * 20_000) {
        world.append(50, 20_000).await;
        world.all_read(&mut all[..2]).await;
    }
    let (written, (opened, records)) = (world.written, world.watched.seen());
    all[2].up_to(written, ReadBudget { bytes: 4 << 20, wait: Duration::ZERO }).await;
    let (alone, given) = (all[2].counted.log.get(), all[2].counted.shared.get());
    assert!(alone > 0 && given > 0, "{alone} records were read from the log alone, {given} with others");
    assert_eq!(world.watched.seen().1, records + alone as usize);
    assert!(world.watched.seen().0 <= opened + 1, "the laggard has one reader");
    let mut in_step = async || {
        for _ in 0..10 {
            world.append(2, 100).await;
            world.all_read(&mut all).await;
        }
        world.watched.seen()
    };
    let before = in_step().await;
    let after = in_step().await;
    assert_eq!((after.0 - before.0, after.1 - before.1), (0, 20), "readers opened, and records that were read");
    world.close().await;
}

/// Longer than anybody waits for a read of another one.
const SOON: Duration = Duration::from_secs(10);
const LONG: ReadBudget = ReadBudget { bytes: 64 << 10, wait: Duration::from_secs(60) };

async fn a_read_that_is_given_up_holds_nobody_up(mut world: World) {
    let mut all = world.begin_many(3).await;
    world.append(10, 100).await;
    world.watched.hold_next();
    let mut leader = all.remove(0);
    let leading = tokio::spawn(async move {
        let _ = leader.read(SMALL).await;
    });
    world.watched.holds().await;
    // One that hangs and is not stopped is not waited for, either.
    let began = Instant::now();
    all[0].up_to(10, SMALL).await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    world.append(10, 100).await;
    world.watched.hold_next();
    let mut second = all.remove(0);
    let held = tokio::spawn(async move {
        let _ = second.read(LONG).await;
    });
    all[0].up_to(10, SMALL).await;
    world.watched.holds().await;
    let following = all[0].up_to(20, LONG);
    let given_up = async {
        held.abort();
        let _ = held.await;
    };
    let began = Instant::now();
    tokio::join!(following, given_up);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    leading.abort();
    world.close().await;
}

async fn who_is_alone_shares_nothing(mut world: World) {
    world.append(100, 1_000).await;
    let mut all = world.begin_many(1).await;
    world.all_read(&mut all).await;
    assert_eq!((world.watched.seen(), all[0].counted.shared.get()), ((1, 100), 0));
    // What it read is kept for nobody.
    let mut late = world.begin_many(1).await;
    world.all_read(&mut late).await;
    assert_eq!((world.watched.seen().1, late[0].counted.shared.get()), (200, 0));
    // With the last one everything goes.
    drop((all, late));
    let mut again = world.begin_many(2).await;
    world.all_read(&mut again).await;
    assert_eq!(world.watched.seen().1, 300);
    world.close().await;
}

/// Who is far behind in one partition and in step in another one, to which more comes all the time, gets both.
#[tokio::test]
async fn a_busy_partition_starves_no_other() {
    let mut world = World::embedded().await;
    let mut all = world.begin_many(2).await;
    for _ in 0..MUCH / (10 * 100_000) {
        world.append_to(1, 10, 100_000).await;
        while all[0].read(SMALL).await.unwrap() > 0 && all[0].seen[1].len() < world.written as usize {}
    }
    for _ in 0..20 {
        world.append_to(0, 1, 100).await;
        while all[0].seen[0].len() + all[0].seen[1].len() < world.written as usize {
            all[0].read(SMALL).await.unwrap();
        }
        all[1].read(SMALL).await.unwrap();
    }
    let seen = all[1].seen.each_ref().map(Vec::len);
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
}

const HOUR_MS: i64 = 3_600_000;

/// What was read is given also where it is gone from the log by now, all of it; what was not is a gap.
#[tokio::test]
async fn what_retention_took_is_given_whole_or_is_a_gap() {
    let age = Some(Duration::from_secs(3600));
    let mut world = World::kept_for(Retention::Expire { age, bytes: None }).await;
    world.append(100, 1_000).await;
    let mut all = world.begin_many(3).await;
    all[0].up_to(100, SMALL).await;
    world.append(20, 1_000).await;
    world.log.maintain(10 * HOUR_MS).await.unwrap();
    let gap = |read: Result<_, LogError>| matches!(read, Err(LogError::Gap { wanted: 0, earliest: 60, end: 60, .. }));
    assert!(gap(world.begin([0, 0]).await.map(drop)), "nobody begins with what is gone");
    // That somebody was told of a gap made everything forgotten.
    assert!(gap(all[1].read(SMALL).await.map(drop)));
    assert!(matches!(all[0].read(SMALL).await, Err(LogError::Gap { wanted: 50, .. })));

    let mut world = World::kept_for(Retention::Expire { age, bytes: None }).await;
    world.append(100, 1_000).await;
    let mut all = world.begin_many(2).await;
    all[0].up_to(100, SMALL).await;
    world.append(20, 1_000).await;
    world.log.maintain(10 * HOUR_MS).await.unwrap();
    all[1].up_to(100, SMALL).await;
    assert!(matches!(all[1].read(SMALL).await, Err(LogError::Gap { wanted: 50, earliest: 60, .. })));
}

#[tokio::test]
async fn an_offset_beyond_the_end_is_a_gap() {
    let mut world = World::embedded().await;
    world.append(10, 100).await;
    assert!(matches!(world.begin([5, 6]).await, Err(LogError::Gap { wanted: 6, end: 5, .. })));
    let mut all = world.begin_many(2).await;
    world.all_read(&mut all).await;
    assert!(matches!(world.begin([4, 6]).await, Err(LogError::Gap { wanted: 6, end: 5, .. })));
    world.begin([5, 5]).await.unwrap();
}

/// Nothing of a topic is given to who reads the one that took its name, and who stands beyond its end is told so.
#[tokio::test]
async fn a_topic_that_was_made_anew_is_another_one() {
    let mut world = World::embedded().await;
    world.append(100, 1_000).await;
    let mut all = world.begin_many(2).await;
    world.all_read(&mut all[..1]).await;
    world.make_anew().await;
    world.append(10, 2_000).await;
    let mut fresh = world.begin([0, 0]).await.unwrap();
    fresh.up_to(10, SMALL).await;
    assert!(fresh.counted.log.get() >= 10, "of the new one");
    assert!(matches!(all[0].read(SMALL).await, Err(LogError::Gap { wanted: 50, end: 5, .. })));
}

/// Subscriptions as they are: each with its deliverer and its table.
async fn subscriptions_share_their_reads(mut bench: Bench, log: Arc<dyn ExchangeLog>) {
    const MANY: usize = 8;
    const ROWS: usize = 600;
    let registry = prometheus::Registry::new();
    bench.metrics = Metrics::register(&registry).unwrap();
    log.ensure_topic(&TopicSpec { name: "std.enterprise".into(), partitions: PARTITIONS, retention: KEEP }).await.unwrap();
    let mut normaliser = log.open(&OwnerId::new(Role::Normalise, "other")).await.unwrap();
    let watched = Arc::new(Watched::new(Arc::clone(&log)));
    let records = (0..ROWS).map(|n| bench.named(&n.to_string(), "甲", 1 + n as u64)).collect();
    normaliser.append(Batch { records, ..Batch::default() }).await.unwrap();
    let target = Target::sqlite(&bench).await;
    let mut all = Vec::new();
    for n in 0..MANY {
        let subscription = bench.subscription(&format!("s{n}"), target.config(&format!("t{n}")), &["uscc", "name"]);
        all.push(bench.start_on(Arc::clone(&watched) as Arc<dyn ExchangeLog>, &subscription));
    }
    for part in 0..3 {
        let mut ends = Vec::new();
        for partition in 0..PARTITIONS {
            ends.push((partition, log.bounds(&TopicPartition::new("std.enterprise", partition)).await.unwrap().end));
        }
        for running in &mut all {
            running.reaches(|status| status.phase == Phase::Live && status.offsets == ends).await;
        }
        let (opened, read) = watched.seen();
        assert!(opened < MANY && read <= 3 * ROWS, "{opened} readers gave {read} records to {MANY} subscriptions of {ROWS}");
        let records = vec![bench.named("again", "乙", 10_000 + part)];
        normaliser.append(Batch { records, ..Batch::default() }).await.unwrap();
    }
    for running in all {
        running.stop().await.unwrap();
    }
    for n in 0..MANY {
        assert!(target.count(&format!("t{n}")).await >= ROWS as i64);
    }
    let from = |name: &str| {
        let read = registry.gather().into_iter().find(|family| family.name() == "guitong_deliver_read_records_total").unwrap();
        let of = read.get_metric().iter().filter(|metric| metric.get_label().iter().any(|label| label.value() == name));
        of.map(|metric| metric.get_counter().get_value() as usize).sum::<usize>()
    };
    assert_eq!(from("log"), watched.seen().1);
    assert!(from("log") + from("shared") >= MANY * ROWS, "{} and {}", from("log"), from("shared"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_of_the_embedded_log_share_their_reads() {
    let bench = Bench::new().await;
    let log = Arc::clone(&bench.log) as Arc<dyn ExchangeLog>;
    subscriptions_share_their_reads(bench, log).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_of_kafka_share_their_reads() {
    let dir = tempfile::tempdir().unwrap();
    let log = world::kafka(&dir).await;
    subscriptions_share_their_reads(Bench::new().await, Arc::clone(&log) as Arc<dyn ExchangeLog>).await;
    log.close().await;
}

/// The embedded log, each of whose readers reads together with another one.
#[derive(Debug)]
struct Fixture {
    dir: TempDir,
    open: Mutex<Option<EmbeddedLog>>,
}

#[async_trait]
impl LogUnderTest for Fixture {
    async fn open(&self) -> Arc<dyn ExchangeLog> {
        let config = EmbeddedConfig { path: self.dir.path().join("exchange.log"), max_bytes: None };
        let log = EmbeddedLog::open(&config).await.unwrap();
        *self.open.lock().unwrap() = Some(log.clone());
        Arc::new(Watched::shared(Arc::new(log)))
    }

    async fn close(&self) {
        let open = self.open.lock().unwrap().take();
        if let Some(log) = open {
            log.close().await;
        }
    }

    fn topic(&self, name: &str) -> Arc<str> {
        name.into()
    }

    fn transactions(&self) -> u64 {
        self.open.lock().unwrap().as_ref().unwrap().metrics().transactions.get()
    }

    fn child(&self) -> String {
        panic!("nothing is killed here")
    }

    async fn open_in_child(_: &str) -> Arc<dyn ExchangeLog> {
        panic!("nothing is killed here")
    }
}

macro_rules! keeps_the_contract {
    ($($check:ident)+) => {
        mod contract {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $check() {
                let fixture = super::Fixture { dir: tempfile::tempdir().unwrap(), open: Default::default() };
                super::log_conformance::$check(&fixture).await;
            })+
        }
    };
}

keeps_the_contract! {
    a_batch_is_read_as_it_was_appended
    order_in_a_partition_is_the_order_of_appends
    a_waiting_reader_wakes_on_an_append
    random_interleavings_keep_every_promise
    reading_begins_at_the_earliest_the_latest_or_a_time
    byte_budgets_hold
    offsets_that_the_log_does_not_hold_are_a_gap
    a_record_of_16_mib_passes_and_a_larger_one_is_refused
    readers_never_see_an_uncommitted_record
    records_leave_by_age
    records_leave_by_bytes
    compaction_keeps_the_last_value_of_each_key
}
