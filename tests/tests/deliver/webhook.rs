//! Delivery to an endpoint that holds nothing and behaves in every way of the contract.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use guitong_deliver::Phase;
use guitong_deliver::sql::Pools;
use guitong_schemas::contract::webhook::{Mode, Webhook};
use guitong_schemas::contract::{Secret, SinkConfig, Subscription};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::fixture::{Bench, Running, names};
use crate::receiver::{Answer, Receiver};
use crate::scenarios::assert_each_batch_once;

struct World {
    bench: Bench,
    receiver: Arc<Receiver>,
    subscription: Subscription,
    running: Running,
}

impl World {
    /// An endpoint that has one record, `K1`.
    async fn new(mode: Mode) -> Self {
        let mut bench = Bench::new().await;
        let receiver = Receiver::start().await;
        let subscription = bench.subscription("credit", receiver.sink(mode), &["uscc", "name"]);
        bench.append(vec![bench.named("K1", "1", 1)]).await;
        let mut running = bench.start(&subscription);
        bench.caught_up(&mut running).await;
        Self { bench, receiver, subscription, running }
    }

    async fn change(&mut self, key: &str, commit: u64) {
        self.bench.append(vec![self.bench.named(key, &commit.to_string(), commit)]).await;
    }

    async fn caught_up(&mut self) {
        self.bench.caught_up(&mut self.running).await;
    }

    async fn phase(&mut self, wanted: impl Fn(&Phase) -> bool) -> Phase {
        self.running.reaches(|status| wanted(&status.phase)).await.phase
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mode_carries_what_is_granted_and_follows_changes() {
    for mode in [Mode::Structured, Mode::Binary, Mode::Batch] {
        let mut world = World::new(mode).await;
        let records = (2..40).map(|n| world.bench.named(&format!("K{n}"), "x", n)).collect();
        world.bench.append(records).await;
        world.caught_up().await;
        world.bench.append(vec![world.bench.named("K2", "新", 50), world.bench.delete("K3", 51), world.bench.delete("NEVER", 52)]).await;
        world.caught_up().await;
        let held = world.receiver.holds("name");
        assert_eq!((held.len(), held["K2"].as_str(), held.contains_key("K3")), (38, "新", false), "{mode:?}");
        let taken = world.receiver.taken();
        assert!(!taken.iter().any(|came| came.subject == "NEVER"), "{mode:?}: deletes go only to holders");
        assert_eq!(taken.iter().map(|came| &came.id).collect::<HashSet<_>>().len(), taken.len(), "{mode:?}: each event once");
        assert!(taken.iter().all(|came| came.data.as_object().unwrap().keys().all(|field| ["uscc", "name"].contains(&&**field))));
        let most = world.receiver.most_at_once();
        assert!(most <= 4 && (mode == Mode::Batch || most > 1), "{mode:?}: {most} requests at once");
        if mode == Mode::Batch {
            assert!(world.receiver.requests().len() < 12, "many events in a request");
        }
        world.running.stop().await.unwrap();
        assert_each_batch_once(&world.bench, 42).await;
    }
}

/// The endpoint took it and answered; the process dies before the log knows. The same event comes again under the same id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_again_after_a_crash_has_the_same_id() {
    for mode in [Mode::Structured, Mode::Binary, Mode::Batch] {
        let mut world = World::new(mode).await;
        world.receiver.then(Answer::Silence);
        world.change("K1", 2).await;
        world.receiver.is_silent().await;
        let next = world.bench.start(&world.subscription);
        std::mem::replace(&mut world.running, next).kill().await;
        world.caught_up().await;
        let taken = world.receiver.taken();
        assert_eq!(taken.len(), 3, "{mode:?}");
        assert_eq!(taken[1].id, taken[2].id, "{mode:?}");
        let requests = world.receiver.requests();
        assert_eq!(requests[1].1, requests[2].1, "{mode:?}: `webhook-id`");
        world.running.stop().await.unwrap();
        assert_each_batch_once(&world.bench, 2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_gone_suspends_its_subscription_until_a_person_resumes_it() {
    let mut world = World::new(Mode::Structured).await;
    world.receiver.then(Answer::Status(410));
    world.change("K1", 2).await;
    let Phase::Held { reason, .. } = world.phase(|phase| matches!(phase, Phase::Held { .. })).await else { panic!("held") };
    assert!(reason.contains("410"), "{reason}");
    let next = world.bench.start(&world.subscription);
    std::mem::replace(&mut world.running, next).stop().await.unwrap();
    world.phase(|phase| matches!(phase, Phase::Held { .. })).await;
    assert_eq!(world.receiver.requests().len(), 2, "a restart changes nothing of it");
    assert!(world.running.handle.resume().await.unwrap());
    world.caught_up().await;
    assert_eq!(world.receiver.holds("name"), names(&[("K1", "2")]));
    world.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_is_left_alone_as_long_as_it_asks() {
    let mut world = World::new(Mode::Structured).await;
    world.receiver.then(Answer::Later(2));
    world.receiver.then(Answer::Status(429));
    world.change("K1", 2).await;
    world.caught_up().await;
    let requests = world.receiver.requests();
    let [_, asked, again, done] = &requests[..] else { panic!("{requests:?}") };
    assert!(again.0 - asked.0 >= Duration::from_secs(2));
    assert_eq!((&asked.1, &again.1), (&again.1, &done.1), "the same event under the same id");
    world.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_event_is_set_aside_and_the_others_come_once() {
    for mode in [Mode::Structured, Mode::Batch] {
        let mut world = World::new(mode).await;
        world.receiver.refuse(Some("poison"));
        let mut records: Vec<_> = (2..60).map(|n| world.bench.named(&format!("K{n}"), "good", n)).collect();
        records[20] = world.bench.named("K22", "poison", 22);
        world.bench.append(records).await;
        world.caught_up().await;
        let parked = world.running.handle.parked(None, 10).await.unwrap();
        assert_eq!(parked.iter().map(|parked| parked.key.as_deref()).collect::<Vec<_>>(), [Some("K22")], "{mode:?}");
        let taken = world.receiver.taken();
        assert_eq!(taken.len(), 58, "{mode:?}: nobody gets an event again for another one's sake");
        world.receiver.refuse(None);
        assert_eq!(world.running.handle.replay(vec![]).await.unwrap().delivered, 1);
        assert_eq!(world.receiver.holds("name")["K22"], "poison", "{mode:?}");
        world.running.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_and_refused_logins_pause() {
    for (answer, words) in [(Answer::Redirect, "redirects are not followed"), (Answer::Status(401), "401")] {
        let mut world = World::new(Mode::Structured).await;
        world.receiver.then(answer);
        world.change("K1", 2).await;
        let Phase::Paused { error } = world.phase(|phase| matches!(phase, Phase::Paused { .. })).await else { panic!("paused") };
        assert!(error.contains(words) && !error.contains("/events"), "{error}");
        assert!(world.running.handle.resume().await.unwrap());
        world.caught_up().await;
        assert_eq!(world.receiver.redirected(), 0);
        world.running.stop().await.unwrap();
    }
}

/// An endpoint at an address that is not allowed is never called, by whichever name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_is_not_allowed_is_not_called() {
    let mut bench = Bench::new().await;
    let receiver = Receiver::start().await;
    bench.append(vec![bench.named("K1", "1", 1)]).await;
    let config = receiver.config(Mode::Structured);
    for (name, host) in [("literal", "127.0.0.1"), ("named", "localhost")] {
        let url = Secret::new(config.url.reveal().replace("127.0.0.1", host));
        let allow = vec!["10.0.0.0/8".parse().unwrap()];
        let sink = SinkConfig::Webhook(Box::new(Webhook { url, allow, ..config.clone() }));
        let mut running = bench.start(&bench.subscription(name, sink, &["uscc", "name"]));
        let status = running.reaches(|status| matches!(status.phase, Phase::Paused { .. })).await;
        let Phase::Paused { error } = status.phase else { panic!("paused") };
        assert!(error.contains("`allow` does not name"), "{error}");
        running.stop().await.unwrap();
    }
    assert_eq!(receiver.requests().len(), 0);
}

/// Fewer fields come as changes, rows that left the condition as deletes, and another form of key takes the old rows away first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_narrower_grant_takes_away_what_was_delivered() {
    let mut bench = Bench::new().await;
    let receiver = Receiver::start().await;
    let wide = bench.subscription("credit", receiver.sink(Mode::Batch), &["uscc", "name", "contact"]);
    let records = (1..=30).map(|n| bench.named(&format!("K{n}"), if n <= 10 { "mine" } else { "other" }, n)).collect();
    bench.append(records).await;
    bench.deliver(&wide).await;
    assert_eq!(receiver.holds("contact")["K1"], "欧阳测试");

    let mut narrow = bench.subscription("credit", receiver.sink(Mode::Batch), &["uscc", "name"]);
    narrow.condition = Some("name == 'mine'".into());
    bench.deliver(&narrow).await;
    let held = receiver.holds("contact");
    assert_eq!(held.len(), 10);
    assert!(held.values().all(String::is_empty), "{held:?}");

    let before = receiver.taken().len();
    let hashed = bench.subscription("credit", receiver.sink(Mode::Batch), &["name"]);
    bench.deliver(&hashed).await;
    let after = receiver.taken();
    let (gone, new) = after[before..].split_at(10);
    assert!(gone.iter().all(|came| came.deleted && came.subject.starts_with('K')), "what is known by its key goes first");
    assert!(new.len() == 30 && new.iter().all(|came| !came.deleted && came.subject.len() == 32));
    bench.append(vec![bench.delete("K1", 100)]).await;
    bench.deliver(&hashed).await;
    assert_eq!(receiver.holds("name").len(), 29, "deletes go by the hashed key");
}

/// Random changes against random answers and crashes: the subscriber that takes the newest of each subject ends as the model.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_answers_and_crashes_lose_nothing_and_keep_the_order_of_each_row() {
    let mut random = StdRng::seed_from_u64(guitong_tests::seed());
    for mode in [Mode::Structured, Mode::Batch] {
        let World { mut bench, receiver, subscription, running } = World::new(mode).await;
        running.stop().await.unwrap();
        let mut expected = HashMap::from([("K1".to_owned(), "1".to_owned())]);
        let mut commit = 1;
        for _ in 0..12 {
            for _ in 0..random.random_range(0..3) {
                receiver.then(if random.random_bool(0.5) { Answer::Status(503) } else { Answer::Status(200) });
            }
            let mut records = Vec::new();
            for _ in 0..random.random_range(1..40) {
                commit += 1;
                let key = format!("K{}", random.random_range(0..15));
                if random.random_bool(0.2) {
                    expected.remove(&key);
                    records.push(bench.delete(&key, commit));
                } else {
                    expected.insert(key.clone(), commit.to_string());
                    records.push(bench.named(&key, &commit.to_string(), commit));
                }
            }
            bench.append(records).await;
            // The breaker is the process's, which crashes too.
            bench.pools = Pools::default();
            let mut running = bench.start(&subscription);
            if random.random_bool(0.5) {
                tokio::time::sleep(Duration::from_micros(random.random_range(0..30_000))).await;
                running.kill().await;
            } else {
                bench.caught_up(&mut running).await;
                running.stop().await.unwrap();
            }
        }
        bench.deliver(&subscription).await;
        assert_eq!(receiver.holds("name"), expected, "{mode:?}");
        let mut newest: HashMap<String, String> = HashMap::new();
        for came in receiver.taken() {
            let before = newest.insert(came.subject.clone(), came.sequence.clone()).unwrap_or_default();
            assert!(before <= came.sequence, "{mode:?}: {} goes back", came.subject);
        }
        assert_each_batch_once(&bench, commit).await;
    }
}
