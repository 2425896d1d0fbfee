//! Delivery to an endpoint that holds nothing and behaves in every way of the contract.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use guitong_deliver::{Phase, Pools};
use guitong_schemas::contract::webhook::{Mode, Webhook};
use guitong_schemas::contract::{Secret, SinkConfig, Subscription};
use guitong_tests::receiver::{Answer, Receiver};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::fixture::{Bench, Running, names};
use crate::scenarios::assert_each_batch_once;

const MODES: [Mode; 3] = [Mode::Binary, Mode::Structured, Mode::Batch];

/// An endpoint that has one record, `K1`.
pub(crate) struct World {
    pub(crate) bench: Bench,
    pub(crate) receiver: Arc<Receiver>,
    pub(crate) subscription: Subscription,
    pub(crate) running: Running,
}

impl World {
    pub(crate) async fn new(mode: Mode) -> Self {
        let receiver = Receiver::start().await;
        let sink = receiver.config(mode);
        Self::with(receiver, sink).await
    }

    async fn with(receiver: Arc<Receiver>, sink: Webhook) -> Self {
        let mut bench = Bench::new().await;
        let subscription = bench.subscription("credit", SinkConfig::Webhook(Box::new(sink)), &["uscc", "name"]);
        bench.append(vec![bench.named("K1", "1", 1)]).await;
        let mut running = bench.start(&subscription);
        bench.caught_up(&mut running).await;
        Self { bench, receiver, subscription, running }
    }

    pub(crate) async fn change(&mut self, key: &str, commit: u64) {
        self.bench.append(vec![self.bench.named(key, &commit.to_string(), commit)]).await;
    }

    pub(crate) async fn caught_up(&mut self) {
        self.bench.caught_up(&mut self.running).await;
    }

    pub(crate) async fn phase(&mut self, wanted: impl Fn(&Phase) -> bool) -> Phase {
        self.running.reaches(|status| wanted(&status.phase)).await.phase
    }

    pub(crate) async fn paused(&mut self) -> String {
        match self.phase(|phase| matches!(phase, Phase::Paused { .. })).await {
            Phase::Paused { error } => error,
            other => panic!("{other:?}"),
        }
    }

    /// Ends the deliverer wherever it is, and starts another one with nothing but what the log has.
    async fn crash(&mut self) {
        self.bench.pools = Pools::default();
        let next = self.bench.start(&self.subscription);
        std::mem::replace(&mut self.running, next).kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mode_carries_what_is_granted_and_follows_changes() {
    for mode in MODES {
        let mut world = World::new(mode).await;
        let records = (2..40).map(|n| world.bench.named(&format!("K{n}"), "x", n)).collect();
        world.bench.append(records).await;
        world.caught_up().await;
        let changes = vec![world.bench.named("K2", "新", 50), world.bench.delete("K3", 51), world.bench.delete("NEVER", 52)];
        world.bench.append(changes).await;
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
            assert!(world.receiver.count() < 12, "many events in a request");
        }
        world.running.stop().await.unwrap();
        assert_each_batch_once(&world.bench, 42).await;
    }
}

/// The endpoint took it, and the process dies before the log knows. The same event comes again under the same id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_again_after_a_crash_has_the_same_id() {
    for mode in MODES {
        let mut world = World::new(mode).await;
        world.receiver.then(Answer::Silence);
        world.change("K1", 2).await;
        world.receiver.is_silent().await;
        world.crash().await;
        world.caught_up().await;
        let taken = world.receiver.taken();
        assert_eq!(taken.len(), 3, "{mode:?}");
        assert_eq!(taken[1].id, taken[2].id, "{mode:?}");
        let requests = world.receiver.requests();
        assert_eq!(requests[1].header("webhook-id"), requests[2].header("webhook-id"), "{mode:?}");
        assert_eq!(requests[1].body, requests[2].body, "{mode:?}");
        world.running.stop().await.unwrap();
        assert_each_batch_once(&world.bench, 2).await;
    }
}

/// The endpoint has a row of which the log does not know that it has it. It hears of the delete all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_after_a_crash_reaches_an_endpoint_that_may_have_the_row() {
    let mut world = World::new(Mode::Binary).await;
    world.receiver.then(Answer::Silence);
    world.change("K2", 2).await;
    world.receiver.is_silent().await;
    world.bench.append(vec![world.bench.delete("K2", 3), world.bench.delete("NEVER", 4)]).await;
    world.crash().await;
    world.caught_up().await;
    assert_eq!(world.receiver.holds("name"), names(&[("K1", "1")]));
    assert!(!world.receiver.came().iter().any(|came| came.subject == "NEVER"), "deletes go only to those who may hold the row");
    world.running.stop().await.unwrap();
    assert_each_batch_once(&world.bench, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_gone_suspends_its_subscription_until_a_person_resumes_it() {
    let mut world = World::new(Mode::Binary).await;
    world.receiver.then(Answer::Status(410));
    world.change("K1", 2).await;
    let Phase::Held { reason, .. } = world.phase(|phase| matches!(phase, Phase::Held { .. })).await else { panic!("held") };
    assert!(reason.contains("410") && reason.contains("wants nothing more"), "{reason}");
    let next = world.bench.start(&world.subscription);
    std::mem::replace(&mut world.running, next).stop().await.unwrap();
    world.phase(|phase| matches!(phase, Phase::Held { .. })).await;
    assert_eq!(world.receiver.count(), 2, "a restart changes nothing of it");
    assert!(world.running.handle.resume().await.unwrap());
    world.caught_up().await;
    assert_eq!(world.receiver.holds("name"), names(&[("K1", "2")]));
    world.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_is_left_alone_as_long_as_it_asks() {
    let mut world = World::new(Mode::Binary).await;
    world.receiver.then(Answer::Later(2));
    world.receiver.then(Answer::Status(429));
    world.change("K1", 2).await;
    world.caught_up().await;
    let requests = world.receiver.requests();
    let [_, asked, again, done] = &requests[..] else { panic!("{} requests", requests.len()) };
    assert!(again.at - asked.at >= Duration::from_secs(2));
    let ids = [asked, again, done].map(|request| request.header("webhook-id"));
    assert!(ids.iter().all(|id| *id == ids[0]), "the same event under the same id: {ids:?}");
    world.running.stop().await.unwrap();
}

/// Whether it took the event before the answer was lost or not: it comes again, under the same id, and the next one after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_cut_or_late_answer_sends_the_same_event_again() {
    for answer in [Answer::Lost, Answer::Cut, Answer::Silence, Answer::Status(500), Answer::Status(503)] {
        let receiver = Receiver::start().await;
        let sink = Webhook { timeout: Duration::from_millis(300), ..receiver.config(Mode::Binary) };
        let mut world = World::with(receiver, sink).await;
        world.receiver.then(answer);
        world.change("K1", 2).await;
        world.caught_up().await;
        world.change("K1", 3).await;
        world.caught_up().await;
        let requests = world.receiver.requests();
        let ids: Vec<_> = requests.iter().map(|request| request.header("webhook-id")).collect();
        assert!(matches!(ids[..], [_, lost, again, next] if lost == again && next != again), "{answer:?}: {ids:?}");
        assert_eq!(world.receiver.holds("name"), names(&[("K1", "3")]), "{answer:?}");
        world.running.stop().await.unwrap();
        assert_each_batch_once(&world.bench, 3).await;
    }
    // An answer was given, whatever became of its body.
    let mut world = World::new(Mode::Binary).await;
    world.receiver.then(Answer::CutBody);
    world.change("K1", 2).await;
    world.caught_up().await;
    assert_eq!(world.receiver.count(), 2);
    world.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_event_is_set_aside_and_the_others_come_once() {
    for mode in [Mode::Binary, Mode::Batch] {
        let mut world = World::new(mode).await;
        world.receiver.refuse(Some("poison"));
        let mut records: Vec<_> = (2..60).map(|n| world.bench.named(&format!("K{n}"), "good", n)).collect();
        records[20] = world.bench.named("K22", "poison", 22);
        world.bench.append(records).await;
        world.caught_up().await;
        let parked = world.running.handle.parked(None, 10).await.unwrap();
        assert_eq!(parked.iter().map(|parked| parked.key.as_deref()).collect::<Vec<_>>(), [Some("K22")], "{mode:?}");
        assert!(parked[0].reason.contains("422") && !parked[0].reason.contains("s3cret-token"), "{}", parked[0].reason);
        let taken = world.receiver.taken();
        assert_eq!(taken.len(), 58, "{mode:?}: nobody gets an event again for another one's sake");
        world.receiver.refuse(None);
        assert_eq!(world.running.handle.replay(vec![]).await.unwrap().delivered, 1);
        assert_eq!(world.receiver.holds("name")["K22"], "poison", "{mode:?}");
        world.running.stop().await.unwrap();
    }
}

/// What says nothing of the event itself sets nothing aside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_wrong_paths_and_refused_signatures_pause() {
    let answers = [(Answer::Redirect, "redirects are not followed"), (Answer::Status(401), "401"), (Answer::Status(404), "path")];
    for (answer, words) in answers {
        let mut world = World::new(Mode::Binary).await;
        world.receiver.then(answer);
        world.change("K1", 2).await;
        let error = world.paused().await;
        assert!(error.contains(words) && !error.contains("/events") && !error.contains("s3cret"), "{error}");
        assert_eq!(world.running.status.borrow().parked, 0);
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
    let config = receiver.config(Mode::Binary);
    for (name, scheme, host) in
        [("literal", "http", "127.0.0.1"), ("named", "http", "localhost"), ("public", "https", "localhost")]
    {
        let url = config.url.reveal().replace("127.0.0.1", host).replace("http", scheme);
        let allow = vec!["10.0.0.0/8".parse().unwrap()];
        let sink = SinkConfig::Webhook(Box::new(Webhook { url: Secret::new(url), allow, ..config.clone() }));
        let mut running = bench.start(&bench.subscription(name, sink, &["uscc", "name"]));
        let status = running.reaches(|status| matches!(status.phase, Phase::Paused { .. })).await;
        let Phase::Paused { error } = status.phase else { panic!("paused") };
        assert!(error.contains("`allow` does not name"), "{error}");
        running.stop().await.unwrap();
    }
    assert_eq!(receiver.count(), 0);
}

/// After some failures an endpoint is left alone for longer and longer, by all that deliver there; then it goes on where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_fails_on_and_on_is_left_alone_by_all_who_call_it() {
    let mut world = World::new(Mode::Binary).await;
    world.receiver.usually(Some(Answer::Status(500)));
    let other = world.bench.subscription("other", world.receiver.sink(Mode::Binary), &["uscc", "name"]);
    let records = (2..200).map(|n| world.bench.named(&format!("K{n}"), "x", n)).collect();
    world.bench.append(records).await;
    let mut beside = world.bench.start(&other);
    let alone = |phase: &Phase| matches!(phase, Phase::Retrying { error } if error.contains("left alone"));
    world.phase(alone).await;
    beside.reaches(|status| alone(&status.phase)).await;
    let before = world.receiver.count();
    assert!(before <= 1 + 2 * 5 + 2 * 4, "{before} requests of two subscriptions with 4 at once");
    world.receiver.usually(None);
    world.caught_up().await;
    world.bench.caught_up(&mut beside).await;
    assert_eq!(world.receiver.holds("name").len(), 199);
    beside.stop().await.unwrap();
    world.running.stop().await.unwrap();
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
    let ids: HashSet<_> = receiver.taken().into_iter().map(|came| came.id).collect();
    assert_eq!(ids.len(), receiver.taken().len(), "what is sent again by intention is another event");
}

/// Neither body nor header nor what is set aside holds a value that is not granted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_granted_is_in_no_body_and_no_header() {
    const HIDDEN: [&str; 3] = ["CANARY-KEY", "CANARY-DELETED", "欧阳测试"];
    for mode in MODES {
        let mut bench = Bench::new().await;
        let receiver = Receiver::start().await;
        receiver.refuse(Some("poison"));
        let subscription = bench.subscription("credit", receiver.sink(mode), &["name"]);
        bench.append(vec![bench.named(HIDDEN[0], "poison", 1), bench.named(HIDDEN[1], "good", 2)]).await;
        let mut running = bench.start(&subscription);
        bench.caught_up(&mut running).await;
        bench.append(vec![bench.delete(HIDDEN[1], 3), bench.delete("NEVER", 4)]).await;
        bench.caught_up(&mut running).await;
        let came = receiver.came();
        assert!(came.iter().any(|came| came.deleted) && came.iter().any(|came| came.data["name"] == "good"), "{mode:?}");
        assert!(came.iter().all(|came| came.subject.len() == 32), "{mode:?}");
        let requests = receiver.requests();
        let sent = requests.iter().map(|request| format!("{:?}{}", request.headers, String::from_utf8_lossy(&request.body)));
        let parked = running.handle.parked(None, 10).await.unwrap();
        assert_eq!(parked.len(), 1, "{mode:?}");
        for text in sent.chain([format!("{parked:?}")]) {
            let encoded = percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned();
            assert!(HIDDEN.iter().all(|hidden| !text.contains(hidden) && !encoded.contains(hidden)), "{mode:?}: {text}");
        }
        running.stop().await.unwrap();
    }
}

/// Random changes against random answers and crashes: the subscriber that takes the newest of each subject ends as the model, and
/// no row ever goes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_answers_and_crashes_lose_nothing_and_keep_the_order_of_each_row() {
    let seed = guitong_tests::seed();
    let mut random = StdRng::seed_from_u64(seed);
    for mode in [Mode::Binary, Mode::Batch] {
        let World { mut bench, receiver, subscription, running } = World::new(mode).await;
        running.stop().await.unwrap();
        let mut expected = HashMap::from([("K1".to_owned(), "1".to_owned())]);
        let mut commit = 1;
        for _ in 0..12 {
            for _ in 0..random.random_range(0..3) {
                let answers = [Answer::Status(503), Answer::Status(200), Answer::Lost, Answer::Cut];
                receiver.then(answers[random.random_range(0..answers.len())]);
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
                let requests = receiver.count();
                let wanted = requests + random.random_range(0..6);
                let reached = async {
                    while receiver.count() < wanted {
                        tokio::task::yield_now().await;
                    }
                };
                tokio::select! {
                    () = reached => {}
                    () = bench.caught_up(&mut running) => {}
                }
                running.kill().await;
            } else {
                bench.caught_up(&mut running).await;
                running.stop().await.unwrap();
            }
        }
        bench.deliver(&subscription).await;
        assert_eq!(receiver.holds("name"), expected, "seed {seed}, {mode:?}");
        let mut newest: HashMap<String, String> = HashMap::new();
        for came in receiver.taken() {
            let before = newest.insert(came.subject.clone(), came.sequence.clone()).unwrap_or_default();
            assert!(before <= came.sequence, "seed {seed}, {mode:?}: {} goes back", came.subject);
        }
        assert_each_batch_once(&bench, commit).await;
    }
}
