//! Owners that are opened at one time share a look into the file; each finds its own stand.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use guitong_log::{AppendError, Batch, ExchangeLog, LogError, Retention, TopicPartition, TopicSpec};

use super::{open, owner};

const OWNERS: usize = 40;

fn position(n: usize) -> Bytes {
    format!("position {n}").into()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_opens_at_one_time_finds_its_own_stand() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    let topic: Arc<str> = "raw.opening.main.t".into();
    let retention = Retention::Expire { age: None, bytes: None };
    log.ensure_topic(&TopicSpec { name: Arc::clone(&topic), partitions: 2, retention }).await.unwrap();
    let at = |partition| TopicPartition::new(Arc::clone(&topic), partition);
    let owners: Vec<_> = (0..OWNERS).map(|n| owner(&format!("o{n}"))).collect();
    for (n, owner) in owners.iter().enumerate() {
        // Every third has committed nothing, every other one a position without an offset.
        let offsets = if n % 2 == 0 { vec![(at(0), n as u64), (at(1), 1)] } else { Vec::new() };
        if n % 3 != 0 {
            let batch = Batch { position: Some(position(n)), offsets, ..Batch::default() };
            log.open(owner).await.unwrap().append(batch).await.unwrap();
        }
    }
    let holds: Vec<_> = join_all(owners.iter().map(|owner| log.open(owner))).await.into_iter().map(Result::unwrap).collect();
    for (n, hold) in holds.iter().enumerate() {
        let (committed, consumed) = (n % 3 != 0, n % 2 == 0);
        assert_eq!(hold.position(), committed.then(|| position(n)), "{n}");
        let offset = hold.offset(&at(0)).map(|offset| offset.next);
        assert_eq!(offset, (committed && consumed).then_some(n as u64), "{n}");
    }
    log.close().await;
}

/// Both see what was committed; the later one has the owner.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_open_one_owner_at_one_time_one_writes() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir).await;
    let (one, step) = (owner("one"), |text: &'static str| Batch { position: Some(text.into()), ..Batch::default() });
    log.open(&one).await.unwrap().append(step("before")).await.unwrap();
    for _ in 0..20 {
        let before = log.open(&one).await.unwrap().position();
        let (first, second) = tokio::join!(log.open(&one), log.open(&one));
        let mut written = 0;
        for hold in [first, second] {
            let mut hold = hold.unwrap();
            assert_eq!(hold.position(), before);
            match hold.append(step("after")).await {
                Ok(_) => written += 1,
                Err(AppendError::Refused(LogError::Fenced { .. })) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(written, 1);
    }
    log.close().await;
}
