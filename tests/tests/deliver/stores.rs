//! What is particular to files in an object store.

use std::collections::HashMap;
use std::time::Duration;

use guitong_deliver::Phase;
use guitong_schemas::contract::files::{Bucket, Close, FileFormat, Files, Place};
use guitong_schemas::contract::{Secret, SinkConfig};
use guitong_tests::servers::moto::{Moto, Objects};
use guitong_tests::servers::proxy::{Mode, Proxy};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::dropped::{Dropped, JSON};
use crate::fixture::{Bench, Running, Target, names};

fn files(target: &Target) -> &Dropped {
    let Target::Files(files) = target else { panic!("files") };
    files
}

async fn target(bench: &Bench, format: FileFormat, close: Close) -> Target {
    let mut target = Target::objects(bench, format).await;
    let Target::Files(files) = &mut target else { panic!("files") };
    files.close = close;
    target
}

/// A large file comes in parts and is there at once; Parquet, which ends with what says where everything is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_files_are_uploaded_in_parts_and_are_whole() {
    for format in [JSON, FileFormat::Parquet] {
        let mut bench = Bench::new().await;
        let target = target(&bench, format, Close { size: 64 << 20, after: Duration::from_secs(86_400), daily: false }).await;
        let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
        // What does not compress.
        let name = || hex::encode((0..4_000).map(|_| rand::random::<u8>()).collect::<Vec<_>>());
        for part in 0..6_u64 {
            let numbers = (1..=500).map(|n| part * 500 + n);
            bench.append(numbers.map(|n| bench.named(&format!("K{n}"), &name(), n)).collect()).await;
        }
        bench.deliver(&subscription).await;
        let files = files(&target);
        assert!(files.listed("t").is_empty(), "nothing is shown of what is not whole");
        let close = Close { size: 64 << 20, after: Duration::ZERO, daily: false };
        let at_once = SinkConfig::Files(Box::new(Files { close, ..of(&target) }));
        bench.deliver(&bench.subscription("credit", at_once, &["uscc", "name"])).await;
        let manifest = files.manifests("t").pop().unwrap();
        let (bytes, tag) =
            files.objects("t").unwrap().read(manifest["files"][0]["name"].as_str().unwrap()).await.unwrap().unwrap();
        assert!(bytes.len() > 9 << 20, "{} bytes", bytes.len());
        assert!(tag.contains('-'), "in parts: {tag}");
        assert_eq!(files.held("t").len(), 3_000);
    }
}

fn of(target: &Target) -> Files {
    let SinkConfig::Files(files) = target.config("t") else { panic!("files") };
    *files
}

/// The sink of a target with another bucket.
fn with(target: &Target, change: impl FnOnce(&mut Bucket)) -> SinkConfig {
    let mut files = of(target);
    let Place::Bucket(bucket) = &mut files.place else { panic!("a bucket") };
    change(bucket);
    SinkConfig::Files(Box::new(files))
}

/// What a deliverer says that it waits for.
async fn waits(running: &mut Running) -> String {
    let status = running.reaches(|status| matches!(status.phase, Phase::Retrying { .. } | Phase::Paused { .. })).await;
    let (Phase::Retrying { error } | Phase::Paused { error }) = status.phase else { panic!("waits") };
    error
}

/// Stands between a target's sink and its store.
async fn between(target: &Target) -> (Proxy, SinkConfig) {
    let (listener, port) = Proxy::bind().await.unwrap();
    let mut store = 0;
    let sink = with(target, |bucket| {
        store = bucket.endpoint.rsplit(':').next().unwrap().parse().unwrap();
        bucket.endpoint = format!("http://127.0.0.1:{port}");
    });
    (Proxy::start(listener, store).unwrap(), sink)
}

const AT_ONCE: Close = Close { size: 1 << 20, after: Duration::ZERO, daily: false };

/// The deliverer dies when the manifest is there and the outbox does not know yet: what was told of is not touched again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_is_there_is_final() {
    let mut bench = Bench::new().await;
    let target = target(&bench, JSON, AT_ONCE).await;
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    bench.append(vec![bench.named("A", "1", 1)]).await;
    bench.deliver(&subscription).await;
    let files = files(&target);
    let outbox = files.outbox().await;
    sqlx::query("UPDATE guitong_files SET made = 0 WHERE number = (SELECT max(number) FROM guitong_files WHERE last >= first)")
        .execute(&outbox)
        .await
        .unwrap();
    let before = files.listed("t");
    bench.append(vec![bench.named("B", "乙", 2)]).await;
    // Another format by now, in which what was told of would be made anew.
    let parquet = SinkConfig::Files(Box::new(Files { format: FileFormat::Parquet, ..of(&target) }));
    bench.deliver(&bench.subscription("credit", parquet, &["uscc", "name"])).await;
    let after = files.listed("t");
    assert!(after.len() > before.len() && before.iter().all(|name| after.contains(name)), "{before:?} {after:?}");
    let unmade = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM guitong_files WHERE made = 0");
    assert_eq!(unmade.fetch_one(&outbox).await.unwrap(), 0);
}

/// An outbox that was put back would give names a second time: it stops before anything is overwritten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_were_given_are_not_given_again() {
    let mut bench = Bench::new().await;
    let target = target(&bench, JSON, AT_ONCE).await;
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    bench.append(vec![bench.named("A", "1", 1)]).await;
    bench.deliver(&subscription).await;
    let files = files(&target);
    let manifest = files.manifests("t").pop().unwrap();
    let next = manifest["number"].as_u64().unwrap() + 1;
    let stem = format!("credit_{}_{next:06}", manifest["generation"].as_str().unwrap());
    let objects = files.objects("t").unwrap();
    objects.put(&format!("{stem}.jsonl"), b"theirs".to_vec()).await.unwrap();
    objects.put(&format!("{stem}.manifest.json"), b"{\"files\": []}".to_vec()).await.unwrap();
    bench.append(vec![bench.named("B", "乙", 2)]).await;
    let mut running = bench.start(&subscription);
    let status = running.reaches(|status| matches!(status.phase, Phase::Stopped { .. })).await;
    let Phase::Stopped { error } = status.phase else { panic!("stopped") };
    assert!(error.contains(&stem) && error.contains("begin a new generation"), "{error}");
    running.kill().await;
    assert_eq!(objects.read(&format!("{stem}.jsonl")).await.unwrap().unwrap().0, b"theirs");
    let noted = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM guitong_files WHERE number = $1");
    assert_eq!(noted.bind(i64::try_from(next).unwrap()).fetch_one(&files.outbox().await).await.unwrap(), 0, "nothing is noted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_a_grant_that_ended_are_removed() {
    let mut bench = Bench::new().await;
    let target = target(&bench, JSON, AT_ONCE).await;
    let wide = bench.subscription("credit", target.config("t"), &["uscc", "name", "contact"]);
    bench.append((1..=20).map(|n| bench.named(&format!("K{n}"), "甲", n)).collect()).await;
    bench.deliver(&wide).await;
    let files = files(&target);
    let objects = files.objects("t").unwrap();
    objects.put("theirs.txt", "欧阳".into()).await.unwrap();
    bench.deliver(&bench.subscription("credit", target.config("t"), &["uscc", "name"])).await;
    for name in files.listed("t").into_iter().filter(|name| name != "theirs.txt") {
        let text = String::from_utf8(objects.read(&name).await.unwrap().unwrap().0).unwrap();
        assert!(!text.contains("欧阳") && !text.contains("contact"), "{name}");
    }
    assert!(objects.read("theirs.txt").await.unwrap().is_some(), "what is not ours stays");
    assert_eq!(files.held("t").len(), 20);
}

/// A bucket that is not there is told at start, before any file is due.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_is_not_there_is_waited_for() {
    let mut bench = Bench::new().await;
    let target = target(&bench, JSON, Close { size: 1 << 20, after: Duration::from_secs(86_400), daily: false }).await;
    let sink = with(&target, |bucket| "not-there".clone_into(&mut bucket.bucket));
    bench.append(vec![bench.named("A", "甲", 1)]).await;
    let mut running = bench.start(&bench.subscription("credit", sink, &["uscc", "name"]));
    let error = waits(&mut running).await;
    assert!(error.contains("NoSuchBucket") && error.contains("make the bucket") && !error.contains("s3cret"), "{error}");
    running.kill().await;
}

/// Answers are lost, each time somewhere else: to the look for a name, to the object, to its manifest. Whatever was done is done once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_lost_lose_and_double_nothing() {
    let mut random = StdRng::seed_from_u64(guitong_tests::seed());
    let mut bench = Bench::new().await;
    let target = target(&bench, JSON, AT_ONCE).await;
    let (proxy, sink) = between(&target).await;
    let mut running = bench.start(&bench.subscription("credit", sink, &["uscc", "name"]));
    bench.caught_up(&mut running).await;
    let (mut expected, mut lost) = (HashMap::new(), 0);
    for commit in 1..=12 {
        let key = format!("K{}", random.random_range(0..5));
        expected.insert(key.clone(), commit.to_string());
        proxy.set(Mode::CutAt { received: proxy.received() + random.random_range(1..1_200) });
        bench.append(vec![bench.named(&key, &commit.to_string(), commit)]).await;
        let made = async {
            bench.caught_up(&mut running).await;
            closed(&target).await;
        };
        tokio::select! {
            () = proxy.reached(Mode::Cut) => lost += 1,
            () = made => {}
        }
        proxy.set(Mode::Pass);
        bench.caught_up(&mut running).await;
        closed(&target).await;
    }
    assert!(lost > 3, "{lost} answers were lost");
    assert_eq!(target.names("t").await, expected);
    running.stop().await.unwrap();
}

/// Waits until every change that was delivered is in a file that has its manifest.
async fn closed(target: &Target) {
    let outbox = files(target).outbox().await;
    let waits = "SELECT (SELECT count(*) FROM guitong_changes) + (SELECT count(*) FROM guitong_files WHERE made = 0)";
    let closed = async {
        while sqlx::query_scalar::<_, i64>(waits).fetch_one(&outbox).await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), closed).await.unwrap();
}

/// A store that is away is told with its address, and tried again until it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_is_told_and_waited_for() {
    let mut bench = Bench::new().await;
    let target = target(&bench, JSON, AT_ONCE).await;
    let (proxy, sink) = between(&target).await;
    let mut running = bench.start(&bench.subscription("credit", sink, &["uscc", "name"]));
    bench.append(vec![bench.named("A", "甲", 1)]).await;
    bench.caught_up(&mut running).await;
    proxy.set(Mode::Cut);
    bench.append(vec![bench.named("A", "乙", 2)]).await;
    let error = waits(&mut running).await;
    assert!(error.contains("exchange") && error.contains(&proxy.address().to_string()), "{error}");
    assert!(error.ends_with("it is tried again") && !error.contains("s3cret"), "{error}");
    proxy.set(Mode::Pass);
    bench.caught_up(&mut running).await;
    closed(&target).await;
    assert_eq!(target.names("t").await, names(&[("A", "乙")]));
    running.stop().await.unwrap();
}

/// The policy of the guide is enough, whatever is done with objects; a key that is wrong, or whose policy does not reach, is told as such.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_may_what_the_guide_says_and_a_wrong_one_is_told() {
    let server = Moto::start().await.unwrap();
    server.make("exchange").await.unwrap();
    let guide = include_str!("../../../deploy/files.md");
    let policy = guide.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let (id, secret) = server.guard(policy).await.unwrap();
    let right = Bucket { access_key_id: id, secret_access_key: secret, ..server.bucket("exchange", "credit/enterprise") };

    let mut bench = Bench::new().await;
    let target = target(&bench, JSON, AT_ONCE).await;
    let of = |bucket: Bucket| with(&target, |theirs| *theirs = bucket);
    let name = |n: u64| format!("{n}{}", "公司".repeat(2_000));
    bench.append((1..=1_000).map(|n| bench.named(&format!("K{n}"), &name(n), n)).collect()).await;
    let of_grant = |bench: &Bench, fields: &[&str]| bench.subscription("credit", of(right.clone()), fields);
    bench.deliver(&of_grant(&bench, &["uscc", "name", "contact"])).await;
    bench.deliver(&of_grant(&bench, &["uscc", "name"])).await;
    let objects = Objects::of(&right).unwrap();
    assert!(objects.names().await.is_err(), "the exchange's key lists nothing");

    bench.append(vec![bench.named("A", "甲", 2_000)]).await;
    let wrong = Secret::new("wr0ng".to_owned());
    for (bucket, code) in [
        (Bucket { access_key_id: wrong.clone(), ..right.clone() }, "InvalidAccessKeyId"),
        (Bucket { secret_access_key: wrong, ..right.clone() }, "SignatureDoesNotMatch"),
        (Bucket { prefix: "credit/other".to_owned(), ..right.clone() }, "AccessDenied"),
    ] {
        let sink = of(bucket);
        assert!(!format!("{sink:?}").contains("wr0ng"));
        let mut running = bench.start(&bench.subscription("credit", sink, &["uscc", "name"]));
        let error = waits(&mut running).await;
        assert!(error.contains(code) && error.contains("let the key"), "{error}");
        for secret in ["wr0ng", right.access_key_id.reveal(), right.secret_access_key.reveal()] {
            assert!(!error.contains(secret), "{error}");
        }
        running.kill().await;
    }
    bench.deliver(&of_grant(&bench, &["uscc", "name"])).await;
    closed(&target).await;
}
