//! Readers that run beside a busy writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use guitong_log::{Batch, ExchangeLog, NewRecord, ReadBudget, Retention, TopicPartition, TopicSpec};

use super::{open, owner};

const READERS: usize = 8;
const APPENDS: usize = 6_000;

/// A commit is in the file before it is announced: a reader that had it already would be told that it is beyond the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_reader_comes_before_the_end_that_is_announced() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(open(&dir).await);
    let topic: Arc<str> = "raw.running.main.t".into();
    let retention = Retention::Expire { age: None, bytes: None };
    log.ensure_topic(&TopicSpec { name: Arc::clone(&topic), partitions: 1, retention }).await.unwrap();
    let at = TopicPartition::new(Arc::clone(&topic), 0);
    let over = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..READERS)
        .map(|_| {
            let (log, at, over) = (Arc::clone(&log), at.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                let mut reader = log.reader(vec![(at.clone(), 0)]).await.unwrap();
                let mut next = 0;
                while !over.load(Ordering::Relaxed) || next < APPENDS as u64 {
                    let read = reader.read(ReadBudget { bytes: 1 << 20, wait: Duration::from_millis(5) }).await.unwrap();
                    for record in read.records {
                        assert_eq!(record.offset, next);
                        next += 1;
                    }
                    assert!(next <= log.bounds(&at).await.unwrap().end);
                }
            })
        })
        .collect();
    let mut hold = log.open(&owner("writer")).await.unwrap();
    for number in 0..APPENDS {
        let value = Some(number.to_string().into());
        let record =
            NewRecord { topic: Arc::clone(&topic), partition: Some(0), key: None, value, headers: Vec::new(), timestamp_ms: 0 };
        hold.append(Batch { records: vec![record], ..Batch::default() }).await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    log.close().await;
}
