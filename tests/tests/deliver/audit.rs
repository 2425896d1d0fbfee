//! The record of what was delivered, held against itself.

use std::collections::BTreeMap;

use bytes::Bytes;
use guitong_deliver::{AUDIT_TOPIC, Broken, audited};
use guitong_govern::audit::Digest;
use guitong_log::{Batch, ExchangeLog as _, NewRecord, OwnerId, Role};

use crate::fixture::{Bench, Target};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_was_tampered_with_is_found() {
    let mut bench = Bench::new().await;
    let target = Target::sqlite(&bench).await;
    let (first, second) = (
        bench.subscription("credit", target.config("t"), &["uscc", "name"]),
        bench.subscription("other", target.config("u"), &["uscc"]),
    );
    for commit in 1..=5 {
        bench.append(vec![bench.named("A", "甲", commit)]).await;
        bench.deliver(&first).await;
        bench.deliver(&second).await;
    }
    let mut running = bench.start(&first);
    bench.caught_up(&mut running).await;
    let known = BTreeMap::from([("credit".to_owned(), running.handle.last_audited().await.unwrap())]);
    running.stop().await.unwrap();
    let whole = audited(&*bench.log, &known).await.unwrap();
    assert_eq!(
        whole.iter().map(|of| (of.subscription.as_str(), of.broken.clone())).collect::<Vec<_>>(),
        [("credit", None), ("other", None)]
    );
    assert!(whole[0].entries >= 5 && whole[0].last == known["credit"], "{whole:?}");

    // The subscription knows of a later entry than there is.
    let cut = BTreeMap::from([("credit".to_owned(), Digest("a".repeat(64)))]);
    assert_eq!(audited(&*bench.log, &cut).await.unwrap()[0].broken, Some(Broken::Cut));
    // One that claims more than was delivered.
    let mut forged = bench.audit("credit").await.pop().unwrap();
    forged.count += 1;
    let at = guitong_log::TopicPartition::new(AUDIT_TOPIC, 0);
    let end = bench.log.bounds(&at).await.unwrap().end;
    let record = NewRecord {
        topic: AUDIT_TOPIC.into(),
        partition: Some(0),
        key: Some(Bytes::from_static(b"credit")),
        value: Some(Bytes::from(forged.to_json())),
        headers: Vec::new(),
        timestamp_ms: 0,
    };
    let mut anybody = bench.log.open(&OwnerId::new(Role::Deliver, "anybody")).await.unwrap();
    anybody.append(Batch { records: vec![record], ..Batch::default() }).await.unwrap();
    let broken = audited(&*bench.log, &known).await.unwrap();
    assert_eq!((&broken[0].broken, &broken[1].broken), (&Some(Broken::Between { offset: end }), &None));
}
