//! The contract between the runner and any sink, proven with one whose faults are scripted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use guitong_deliver::sink::{Reaction, SinkErrorKind};
use guitong_deliver::{End, Phase};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::faulty::{Script, Step};
use crate::fixture::{Bench, Running, Target, names};
use crate::scenarios::assert_each_batch_once;

/// A subscription that has caught up with one record, `K1`.
struct World {
    bench: Bench,
    target: Target,
    script: Arc<Script>,
    subscription: guitong_schemas::contract::Subscription,
    running: Running,
}

impl World {
    async fn new() -> Self {
        let mut bench = Bench::new().await;
        let target = Target::sqlite(&bench).await;
        let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
        bench.append(vec![bench.named("K1", "1", 1)]).await;
        let script = Script::new();
        let mut running = bench.start_faulty(&subscription, &target, &script);
        bench.caught_up(&mut running).await;
        Self { bench, target, script, subscription, running }
    }

    /// Appends `name` for a key, where the commit is the name.
    async fn change(&mut self, key: &str, commit: u64) {
        self.bench.append(vec![self.bench.named(key, &commit.to_string(), commit)]).await;
    }

    async fn caught_up(&mut self) {
        self.bench.caught_up(&mut self.running).await;
    }

    async fn restart(&mut self) {
        let next = self.bench.start_faulty(&self.subscription, &self.target, &self.script);
        std::mem::replace(&mut self.running, next).stop().await.unwrap();
    }

    async fn held(&self) -> HashMap<String, String> {
        self.target.names("t").await
    }

    /// Ends of what was set aside, by offset's commit.
    async fn ends(&self) -> Vec<(String, End)> {
        let ended = self.bench.ended("credit").await;
        ended.into_iter().map(|ended| (ended.parked.key.unwrap_or_default(), ended.end)).collect()
    }
}

/// Which kinds of error lead to which reaction, and that each is what the runner does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_of_error_does_what_the_table_says() {
    for (at, kind) in (2..).zip(SinkErrorKind::ALL) {
        let mut world = World::new().await;
        let (attempts, opened) = (world.script.attempts().len(), world.script.opened());
        world.script.then(Step::Fail(kind));
        world.change("K2", at).await;
        match kind.reaction() {
            Reaction::Retry | Reaction::Reopen => {
                world.caught_up().await;
                assert_eq!(world.script.opened(), opened + 1, "{kind:?}: the sink says where it stands");
            }
            Reaction::Park => {
                world.caught_up().await;
                assert_eq!((world.held().await.len(), world.script.opened()), (1, opened), "{kind:?}");
                assert_eq!(world.running.status.borrow().parked, 1);
                assert_eq!(world.running.handle.replay(vec![]).await.unwrap().delivered, 1);
            }
            Reaction::Pause => {
                world.running.reaches(|status| matches!(status.phase, Phase::Paused { .. })).await;
                assert_eq!(world.script.attempts().len(), attempts + 1, "{kind:?}: tried once, and not again at once");
                assert!(world.running.handle.resume().await.unwrap());
                world.caught_up().await;
            }
            Reaction::Stop => {
                world.running.reaches(|status| matches!(status.phase, Phase::Stopped { .. })).await;
                assert!(world.running.handle.resume().await.unwrap());
                world.caught_up().await;
            }
            Reaction::Suspend => {
                world.running.reaches(|status| matches!(status.phase, Phase::Held { .. })).await;
                world.restart().await;
                world.running.reaches(|status| matches!(status.phase, Phase::Held { .. })).await;
                assert_eq!(world.script.attempts().len(), attempts + 1, "{kind:?}: a restart changes nothing of it");
                assert!(world.running.handle.resume().await.unwrap());
                world.caught_up().await;
            }
        }
        assert_eq!(world.held().await, names(&[("K1", "1"), ("K2", &at.to_string())]), "{kind:?}");
        world.running.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_reply_doubles_nothing() {
    let mut world = World::new().await;
    for commit in 2..8 {
        world.script.then(Step::LoseReply);
        world.change("K1", commit).await;
        world.caught_up().await;
    }
    assert_eq!(world.held().await, names(&[("K1", "7")]));
    let taken = world.script.attempts().into_iter().filter(|attempt| attempt.taken).flat_map(|attempt| attempt.changes);
    let commits: Vec<u64> = taken.map(|(_, commit, _)| commit).collect();
    assert_eq!(commits, [1, 2, 3, 4, 5, 6, 7], "each change once");
    world.running.stop().await.unwrap();
    assert_each_batch_once(&world.bench, 7).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pauses_grow_with_jitter_and_a_sink_is_left_alone_as_long_as_it_asks() {
    let mut world = World::new().await;
    let before = world.script.attempts().len();
    (0..4).for_each(|_| world.script.then(Step::Fail(SinkErrorKind::Busy)));
    world.script.then(Step::BusyFor(Duration::from_secs(2)));
    world.change("K1", 2).await;
    world.caught_up().await;
    let attempts = world.script.attempts();
    let pauses: Vec<Duration> = attempts[before..].windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    for (pause, least) in pauses.iter().zip([50, 100, 200, 400, 2_000]) {
        assert!(*pause >= Duration::from_millis(least), "{pauses:?}");
    }
    assert_eq!(pauses.len(), 5, "{pauses:?}");
    assert!(pauses[0] < Duration::from_secs(2), "what the sink asks for holds for once: {pauses:?}");
    // After a success they begin anew.
    world.script.then(Step::Fail(SinkErrorKind::Busy));
    world.change("K1", 3).await;
    world.caught_up().await;
    let [.., failed, done] = &world.script.attempts()[..] else { panic!("two attempts") };
    assert!(done.at - failed.at < Duration::from_millis(1_600), "the next pause would be that long");
    world.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn halving_finds_exactly_the_bad_records() {
    const RECORDS: u64 = 400;
    let mut random = StdRng::seed_from_u64(guitong_tests::seed());
    for bad in [1, 3, 17] {
        let mut world = World::new().await;
        let before = world.script.attempts().len();
        let all: Vec<u64> = (2..2 + RECORDS).collect();
        let bad: HashSet<u64> = all.choose_multiple(&mut random, bad).copied().collect();
        bad.iter().for_each(|commit| world.script.refuse(&format!("K{commit}"), *commit));
        // What is appended at once is read at once.
        let records = all.iter().map(|commit| world.bench.named(&format!("K{commit}"), "x", *commit)).collect();
        world.bench.append(records).await;
        world.caught_up().await;
        let parked = world.running.handle.parked(None, 1_000).await.unwrap();
        let found: HashSet<u64> = parked.iter().map(|parked| parked.key.as_ref().unwrap()[1..].parse().unwrap()).collect();
        assert_eq!(found, bad);
        assert_eq!(world.held().await.len() as u64, 1 + RECORDS - bad.len() as u64);
        let calls = world.script.attempts().len() - before;
        let most = 4 * bad.len() * (RECORDS.ilog2() as usize + 1) + 8;
        assert!(calls <= most, "{calls} calls for {} bad records of {RECORDS}", bad.len());
        world.running.stop().await.unwrap();
    }
}

/// The later change goes on, the parked one is void and said to be so, and nobody can put it over the later one by hand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_change_of_a_parked_row_supersedes_it_and_says_so() {
    let mut world = World::new().await;
    world.script.refuse("K1", 2);
    world.change("K1", 2).await;
    world.caught_up().await;
    let parked = world.running.handle.parked(None, 10).await.unwrap();
    assert_eq!((parked.len(), parked[0].key.as_deref()), (1, Some("K1")));
    assert_eq!(world.held().await, names(&[("K1", "1")]), "the last good version stays");
    // Another row's change leaves it where it is.
    world.change("K2", 3).await;
    world.caught_up().await;
    assert_eq!(world.running.status.borrow().parked, 1);

    world.change("K1", 4).await;
    world.caught_up().await;
    world.running.reaches(|status| status.parked == 0).await;
    assert_eq!(world.ends().await, [("K1".to_owned(), End::Superseded)]);
    world.script.refuse_nothing();
    assert_eq!(world.running.handle.replay(vec![]).await.unwrap().tried, 0);
    world.caught_up().await;
    assert_eq!(world.held().await["K1"], "4");

    // A delete supersedes as well, also over a restart.
    world.script.refuse("K2", 5);
    world.change("K2", 5).await;
    world.caught_up().await;
    world.restart().await;
    world.bench.append(vec![world.bench.delete("K2", 6)]).await;
    world.caught_up().await;
    world.running.reaches(|status| status.parked == 0).await;
    assert_eq!(world.held().await, names(&[("K1", "4")]));
    world.running.stop().await.unwrap();
}

/// Of two refused changes of one row the newer one is set aside, and replayed it stands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_row_the_newest_refused_change_is_set_aside() {
    let mut world = World::new().await;
    for commit in [2, 3] {
        world.script.refuse("K1", commit);
        world.change("K1", commit).await;
        world.caught_up().await;
    }
    assert_eq!(world.ends().await, [("K1".to_owned(), End::Superseded)]);
    let report = world.running.handle.replay(vec![]).await.unwrap();
    assert_eq!((report.tried, report.kept, report.delivered), (1, 1, 0));
    world.script.refuse_nothing();
    let report = world.running.handle.replay(vec![]).await.unwrap();
    assert_eq!((report.tried, report.kept, report.delivered), (1, 0, 1));
    assert_eq!(world.ends().await, [("K1".to_owned(), End::Superseded), ("K1".to_owned(), End::Delivered)]);
    assert_eq!(world.held().await, names(&[("K1", "3")]));
    world.running.stop().await.unwrap();
}

/// A sink that never answers holds nobody else, answers commands through its deliverer, and is left at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_holds_its_answer_holds_nobody_else() {
    let mut world = World::new().await;
    let other = world.bench.subscription("other", world.target.config("u"), &["uscc", "name"]);
    let mut unharmed = world.bench.start(&other);
    world.script.then(Step::Hold);
    world.change("K1", 2).await;
    world.script.holds().await;
    world.bench.caught_up(&mut unharmed).await;
    assert_eq!(world.target.names("u").await, names(&[("K1", "2")]));
    assert_eq!(world.held().await, names(&[("K1", "1")]));
    assert_eq!(world.running.handle.parked(None, 1).await.unwrap(), []);
    // The command ends the waiting, and the batch is handed over again.
    assert!(!world.running.handle.resume().await.unwrap());
    world.caught_up().await;
    assert_eq!(world.held().await, names(&[("K1", "2")]));
    world.script.then(Step::Hold);
    world.change("K1", 3).await;
    world.script.holds().await;
    world.running.stop().await.unwrap();
    unharmed.stop().await.unwrap();
    world.bench.deliver(&world.subscription).await;
    assert_eq!(world.target.names("t").await, names(&[("K1", "3")]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_while_a_sink_is_at_work_waits_for_one_batch_and_no_more() {
    let mut world = World::new().await;
    let before = world.script.attempts().len();
    world.script.then(Step::Hold);
    world.change("K2", 2).await;
    world.script.holds().await;
    for commit in 3..30 {
        world.change(&format!("K{commit}"), commit).await;
    }
    world.script.let_go();
    world.caught_up().await;
    world.running.stop().await.unwrap();
    let batches = world.script.attempts().split_off(before);
    assert_eq!(batches.iter().map(|attempt| attempt.changes.len()).collect::<Vec<_>>(), [1, 27]);
}

/// Random changes against random faults and crashes: what is held at the end is the newest change of each row that is not
/// refused, and of no row an older change was taken after a newer one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_faults_lose_nothing_and_keep_the_order_of_each_row() {
    let mut random = StdRng::seed_from_u64(guitong_tests::seed());
    let World { mut bench, target, script, subscription, running } = World::new().await;
    running.stop().await.unwrap();
    let mut expected = BTreeMap::from([("K1".to_owned(), Some(1))]);
    let mut commit = 1;
    for _ in 0..20 {
        script.only((0..random.random_range(0..3)).map(|_| match random.random_range(0..5) {
            0 => Step::Fail(SinkErrorKind::Busy),
            1 => Step::Fail(SinkErrorKind::Fenced),
            2 => Step::Slow(Duration::from_millis(random.random_range(0..10))),
            _ => Step::LoseReply,
        }));
        let mut records = Vec::new();
        for _ in 0..random.random_range(1..60) {
            commit += 1;
            let key = format!("K{}", random.random_range(0..20));
            if random.random_bool(0.1) {
                script.refuse(&key, commit);
            } else if random.random_bool(0.2) {
                expected.insert(key.clone(), None);
                records.push(bench.delete(&key, commit));
                continue;
            } else {
                expected.insert(key.clone(), Some(commit));
            }
            records.push(bench.named(&key, &commit.to_string(), commit));
        }
        bench.append(records).await;
        let mut running = bench.start_faulty(&subscription, &target, &script);
        if random.random_bool(0.4) {
            tokio::time::sleep(Duration::from_micros(random.random_range(0..30_000))).await;
            running.kill().await;
        } else {
            bench.caught_up(&mut running).await;
            running.stop().await.unwrap();
        }
    }
    let mut running = bench.start_faulty(&subscription, &target, &script);
    bench.caught_up(&mut running).await;
    let parked = running.handle.parked(None, 1_000).await.unwrap();
    running.stop().await.unwrap();

    let held = target.names("t").await;
    let wanted: HashMap<String, String> =
        expected.iter().filter_map(|(key, commit)| Some((key.clone(), (*commit)?.to_string()))).collect();
    assert_eq!(held, wanted);
    let mut newest: HashMap<String, u64> = HashMap::new();
    for (key, commit, _) in script.attempts().into_iter().filter(|attempt| attempt.taken).flat_map(|attempt| attempt.changes) {
        let before = newest.insert(key.clone(), commit).unwrap_or(0);
        assert!(before <= commit, "{key}: {commit} after {before}");
    }
    for parked in parked {
        let (key, commit) =
            (parked.key.unwrap(), parked.version.unwrap().parse::<guitong_schemas::position::Version>().unwrap().commit);
        assert!(newest.get(&key).is_none_or(|newest| *newest < commit), "{key}: {commit} is void and still set aside");
    }
    assert_each_batch_once(&bench, commit).await;
}
