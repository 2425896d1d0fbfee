//! What is particular to files in an object store.

use std::time::Duration;

use guitong_deliver::Phase;
use guitong_schemas::contract::SinkConfig;
use guitong_schemas::contract::files::{Close, FileFormat, Place};

use crate::dropped::{Dropped, JSON};
use crate::fixture::{Bench, Target, names};

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
        let at_once = SinkConfig::Files(Box::new(guitong_schemas::contract::files::Files {
            close: Close { size: 64 << 20, after: Duration::ZERO, daily: false },
            ..of(&target)
        }));
        bench.deliver(&bench.subscription("credit", at_once, &["uscc", "name"])).await;
        let manifest = files.manifests("t").pop().unwrap();
        let (bytes, tag) = files.objects("t").unwrap().read(manifest["files"][0]["name"].as_str().unwrap()).await.unwrap().unwrap();
        assert!(bytes.len() > 9 << 20, "{} bytes", bytes.len());
        assert!(tag.contains('-'), "in parts: {tag}");
        assert_eq!(files.held("t").len(), 3_000);
    }
}

fn of(target: &Target) -> guitong_schemas::contract::files::Files {
    let SinkConfig::Files(files) = target.config("t") else { panic!("files") };
    *files
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
    sqlx::query("UPDATE guitong_files SET made = 0 WHERE number = (SELECT max(number) FROM guitong_files)")
        .execute(&outbox)
        .await
        .unwrap();
    let before = files.listed("t");
    bench.append(vec![bench.named("B", "乙", 2)]).await;
    bench.deliver(&subscription).await;
    assert_eq!(target.names("t").await, names(&[("A", "1"), ("B", "乙")]));
    assert!(files.listed("t").len() > before.len());
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
    let mut config = of(&target);
    let Place::Bucket(bucket) = &mut config.place else { panic!("a bucket") };
    "not-there".clone_into(&mut bucket.bucket);
    let subscription = bench.subscription("credit", SinkConfig::Files(Box::new(config)), &["uscc", "name"]);
    bench.append(vec![bench.named("A", "甲", 1)]).await;
    let mut running = bench.start(&subscription);
    let status = running.reaches(|status| matches!(status.phase, Phase::Retrying { .. })).await;
    let Phase::Retrying { error } = status.phase else { panic!("retrying") };
    assert!(error.contains("NoSuchBucket") && error.contains("make the bucket") && !error.contains("s3cret"), "{error}");
    running.kill().await;
}
