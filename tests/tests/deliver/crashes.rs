//! Random changes, and a deliverer that is killed over and over while it delivers them.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use guitong_schemas::contract::Subscription;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::fixture::Bench;

impl Bench {
    /// As often, so many changes of some `keys` are appended, and a deliverer is killed within so many milliseconds. The names that are
    /// there in the end by their keys, and how many changes there were.
    pub(crate) async fn crash(
        &mut self,
        subscription: &Subscription,
        times: usize,
        changes: Range<usize>,
        keys: u32,
        within_ms: u64,
    ) -> (HashMap<String, String>, u64) {
        let mut random = StdRng::seed_from_u64(guitong_tests::seed());
        let (mut names, mut commit) = (HashMap::new(), 0);
        for _ in 0..times {
            let records = (0..random.random_range(changes.clone())).map(|_| {
                commit += 1;
                let key = format!("K{}", random.random_range(0..keys));
                if random.random_bool(0.2) {
                    names.remove(&key);
                    self.delete(&key, commit)
                } else {
                    names.insert(key.clone(), commit.to_string());
                    self.named(&key, &commit.to_string(), commit)
                }
            });
            let records: Vec<_> = records.collect();
            self.append(records).await;
            let running = self.start(subscription);
            tokio::time::sleep(Duration::from_micros(random.random_range(0..within_ms * 1_000))).await;
            running.kill().await;
        }
        (names, commit)
    }
}
