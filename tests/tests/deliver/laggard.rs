//! A subscription that is an hour behind catches up while changes go on coming, says how far behind it is, and holds nobody up.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use guitong_deliver::DeliverStatus;
use guitong_log::NewRecord;
use guitong_schemas::contract::Subscription;
use tokio::task::JoinHandle;

use crate::fixture::{Bench, Running, Target, committed, now_us};
use crate::kept::HISTORY;

/// Changes of the hour, and the rows that they are of.
const BACKLOG: u64 = 100_000;
const KEYS: u64 = 5_000;
const HOUR_US: i64 = 3_600_000_000;
/// Changes that come at a time while it catches up.
const LIVE: u64 = 50;
/// Records that it still lacks when nothing more comes.
const NEARLY: u64 = 5_000;

/// Everything that was ever changed: by key its names in order. The name of a version is its commit.
#[derive(Default)]
struct Wanted(BTreeMap<String, Vec<u64>>);

impl Wanted {
    fn change(&mut self, bench: &Bench, commit: u64, source_us: i64) -> NewRecord {
        let key = format!("K{}", commit % KEYS);
        let record = committed(bench.named(&key, &commit.to_string(), commit), source_us);
        self.0.entry(key).or_default().push(commit);
        record
    }

    fn newest(&self) -> HashMap<String, String> {
        self.0.iter().map(|(key, commits)| (key.clone(), commits.last().unwrap().to_string())).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hour_is_caught_up_with_while_changes_come_and_others_are_at_the_tail() {
    let mut bench = Bench::new().await;
    let (far, near) = (bench.dir.path().join("far.db"), bench.dir.path().join("near.db"));
    let (far, near) = (Target::sqlite_at(far).await, Target::sqlite_at(near).await);
    let laggard = Subscription { table: HISTORY, ..bench.subscription("far", far.config("t"), &["uscc", "name"]) };
    let other = bench.subscription("near", near.config("t"), &["uscc", "name"]);
    let (mut wanted, began) = (Wanted::default(), now_us() - HOUR_US);
    // Both are there an hour ago; then one of them is away.
    bench.append(vec![wanted.change(&bench, 1, began)]).await;
    bench.deliver(&laggard).await;
    let mut tail = bench.start(&other);
    for from in (2..=BACKLOG).step_by(2_500) {
        let at = |commit: u64| began + HOUR_US / BACKLOG as i64 * commit as i64;
        let commits = from..(from + 2_500).min(BACKLOG + 1);
        let records = commits.map(|commit| wanted.change(&bench, commit, at(commit))).collect();
        bench.append(records).await;
    }
    bench.caught_up(&mut tail).await;

    let mut behind = bench.start(&laggard);
    let said = listen(&behind);
    let (mut commit, mut rounds) = (BACKLOG, 0);
    behind.reaches(|status| status.lag_records > 0).await;
    while behind.status.borrow().lag_records > NEARLY {
        let records = (1..=LIVE).map(|n| wanted.change(&bench, commit + n, now_us())).collect();
        commit += LIVE;
        bench.append(records).await;
        bench.caught_up(&mut tail).await;
        rounds += 1;
    }
    assert!(rounds >= 10, "the other one had {rounds} times what had just come, while this one was behind");
    bench.caught_up(&mut behind).await;
    behind.reaches(|status| status.lag_records == 0 && status.lag_seconds == 0.0).await;
    for running in [behind, tail] {
        running.stop().await.unwrap();
    }

    assert!(far.names("t").await == wanted.newest() && near.names("t").await == wanted.newest());
    let versions = far.rows("hex(guitong_version), uscc, name, valid_from, valid_to", "t_history").await;
    assert_eq!(versions.len() as u64, commit, "each version once");
    assert_eq!(by_key(versions.into_values()), wanted.0, "and of each row in their order");
    is_honest(&said.await.unwrap(), began);
}

/// All that a deliverer says of itself, and when, until it ends.
fn listen(running: &Running) -> JoinHandle<Vec<(i64, DeliverStatus)>> {
    let mut status = running.status.clone();
    tokio::spawn(async move {
        let mut said = Vec::new();
        while status.changed().await.is_ok() {
            let now = status.borrow_and_update().clone();
            said.push((now_us(), now));
        }
        said
    })
}

/// Names of each row's versions, in the order of the times from which they were the newest; each ends where the next begins.
fn by_key(versions: impl Iterator<Item = Vec<Option<String>>>) -> BTreeMap<String, Vec<u64>> {
    let mut all: BTreeMap<String, Vec<(String, Option<String>, u64)>> = BTreeMap::new();
    for row in versions {
        let [Some(key), Some(name), Some(from), to] = <[_; 4]>::try_from(row).unwrap() else {
            panic!("a version without a name")
        };
        all.entry(key).or_default().push((from, to, name.parse().unwrap()));
    }
    let in_order = |mut versions: Vec<(String, Option<String>, u64)>| {
        versions.sort();
        for pair in versions.windows(2) {
            assert_eq!(pair[0].1.as_ref(), Some(&pair[1].0), "{pair:?}");
        }
        versions.into_iter().map(|(_, _, name)| name).collect()
    };
    all.into_iter().map(|(key, versions)| (key, in_order(versions))).collect()
}

/// It says from its first batch on that it is an hour behind, never that it is further behind than it is, and not that it is at the end
/// before it is.
fn is_honest(said: &[(i64, DeliverStatus)], began: i64) {
    let told: Vec<_> = said.iter().skip_while(|(_, status)| status.lag_seconds == 0.0).collect();
    let (_, first) = told.first().unwrap();
    assert!(first.lag_seconds > 3_500.0 && first.upserts == 0, "{first:?}");
    let mut measured = BTreeSet::new();
    for (at, status) in told.into_iter().filter(|(_, status)| status.lag_records > 0) {
        let most = (at - began) as f64 / 1e6;
        assert!(status.lag_seconds > 0.0 && status.lag_seconds <= most, "{most}: {status:?}");
        measured.insert(status.lag_records);
    }
    assert!(measured.len() >= 3, "{measured:?}");
}
