//! What a changed grant leaves nothing of, and what a call that is dropped leaves to others.

use std::time::Duration;

use guitong_deliver::sink::{Change, SinkBatch, What};
use guitong_govern::audit::{AuditEntry, Digest};
use guitong_govern::{Row, RowKey};
use guitong_schemas::standard::StandardValue;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::dropped::JSON;
use crate::fixture::{Bench, Target, names, now_us, version};

/// Deleted keys are remembered in the subscriber's database; not where rows are known by another key from now on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_no_longer_granted_is_remembered_nowhere() {
    let home = Bench::new().await;
    let targets = [Target::postgres().await, Target::mariadb().await, Target::sqlite(&home).await];
    for target in targets {
        let mut bench = Bench::new().await;
        let clear = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
        bench.append(vec![bench.named("A", "甲", 1), bench.named("B", "乙", 2)]).await;
        bench.deliver(&clear).await;
        bench.append(vec![bench.delete("A", 3)]).await;
        bench.deliver(&clear).await;
        assert_eq!(target.count("guitong_deleted").await, 1);
        bench.deliver(&bench.subscription("credit", target.config("t"), &["name"])).await;
        assert_eq!((target.count("guitong_deleted").await, target.count("t").await), (0, 1));
    }
}

/// Files of a new grant say nothing of rows that were delivered under the one before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_a_new_grant_tell_of_no_row_outside_it() {
    let mut bench = Bench::new().await;
    let target = Target::files(&bench, JSON).await;
    let Target::Files(files) = &target else { panic!("files") };
    let wide = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    bench.append(vec![bench.named("SECRET", "other", 1), bench.named("A", "mine", 2)]).await;
    bench.deliver(&wide).await;
    // In one process: the connection to the outbox is the same.
    let mut narrow = bench.subscription("credit", target.config("t"), &["uscc", "name", "contact"]);
    narrow.condition = Some("name == 'mine'".into());
    let mut running = bench.start(&narrow);
    bench.caught_up(&mut running).await;
    running.stop().await.unwrap();
    assert_eq!(target.names("t").await, names(&[("A", "mine")]));
    for name in files.listed("t") {
        let text = std::fs::read_to_string(files.folder("t").join(&name)).unwrap();
        assert!(!text.contains("SECRET"), "{name}: {text}");
    }
}

/// More rows than go as arrays: a COPY, which is dropped wherever it stands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_dropped_leaves_no_answer_to_others() {
    let mut random = StdRng::seed_from_u64(guitong_tests::seed());
    let (bench, target) = (Bench::new().await, Target::postgres().await);
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    let mut sink = target.sink(&bench, &subscription);
    let mut epoch = sink.open().await.unwrap().epoch;
    let text = |text: String| StandardValue::Text(text.into());
    let upserts: Vec<Change<'_>> = (0..2_000_u32)
        .map(|n| {
            let key = RowKey { id: n.to_be_bytes().to_vec(), clear: vec![text(format!("K{n}"))] };
            let row = Row { key, cells: vec![text(format!("K{n}")), text("甲".repeat(500))] };
            Change::new(version(1), 1_000_000, What::Upsert(row))
        })
        .collect();
    let all: Vec<&Change<'_>> = upserts.iter().collect();
    let entry = |epoch| AuditEntry {
        subscription: "credit".into(),
        resource: "enterprise".into(),
        epoch,
        ranges: Vec::new(),
        count: 1,
        content: Digest::start(),
        grant: String::new(),
        revision: String::new(),
        at_us: now_us(),
        previous: Digest::start(),
    };
    for _ in 0..40 {
        let entry = entry(epoch);
        let batch = SinkBatch { changes: &all, earlier: &[], ranges: &[], entry: &entry, unlogged: &[], sealed: None };
        drop(tokio::time::timeout(Duration::from_micros(random.random_range(0..40_000)), sink.write(&batch)).await);
        epoch = sink.open().await.unwrap().epoch;
    }
    let entry = entry(epoch);
    sink.write(&SinkBatch { changes: &all, earlier: &[], ranges: &[], entry: &entry, unlogged: &[], sealed: None })
        .await
        .unwrap();
    assert_eq!(target.count("t").await, 2_000);
}
