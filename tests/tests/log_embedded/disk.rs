//! Disks that are full and disks that fail: nothing that was committed is lost, and the log goes on when it can.

use std::path::{Path, PathBuf};

use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_log::{AppendError, ExchangeLog, LogError, OwnedLog};
use guitong_tests::child;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{KEEP, all, number, numbered, owner, spec};

/// Holds the directory, in the environment of a child of this test binary.
const DIR: &str = "GUITONG_TEST_DIR";

fn child(test: &str, dir: &Path, shell: &[&str]) -> String {
    child::run(test, shell, &[(DIR, dir.as_os_str())])
}

fn child_dir() -> Option<PathBuf> {
    std::env::var_os(DIR).map(Into::into)
}

async fn numbers(log: &EmbeddedLog) -> Vec<u64> {
    all(log).await.iter().map(number).collect()
}

/// Appends from `n` on until the disk is full; the first number that is not in the log.
async fn fill(hold: &mut dyn OwnedLog, mut n: u64, path: &Path) -> u64 {
    loop {
        match hold.append(numbered(n, 100_000)).await {
            Ok(_) => n += 1,
            Err(AppendError::Refused(full)) => {
                assert!(matches!(full, LogError::DiskFull { .. }) && full.is_transient(), "{full}");
                assert!(full.to_string().contains(path.to_str().unwrap()), "{full}");
                return n;
            }
            Err(unknown) => panic!("{unknown}"),
        }
    }
}

#[tokio::test]
async fn a_log_that_may_not_grow_refuses_and_goes_on_when_it_may() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = EmbeddedConfig { path: dir.path().join("exchange.log"), max_bytes: Some(4 << 20) };
    let log = EmbeddedLog::open(&config).await.unwrap();
    log.ensure_topic(&spec(KEEP)).await.unwrap();
    let mut hold = log.open(&owner("a")).await.unwrap();
    let n = fill(&mut *hold, 0, &config.path).await;
    assert!(n > 20, "{n}");
    assert_eq!(hold.position().unwrap(), (n - 1).to_string());
    // What fits still goes in, and one owner's large batch does not take another's small one with it.
    hold.append(numbered(n, 10)).await.unwrap();
    let mut other = log.open(&owner("b")).await.unwrap();
    let (large, small) = tokio::join!(hold.append(numbered(n + 1, 100_000)), other.append(numbered(n + 2, 10)));
    assert!(matches!(large, Err(AppendError::Refused(LogError::DiskFull { .. }))), "{large:?}");
    small.unwrap();
    let written: Vec<_> = (0..=n).chain([n + 2]).collect();
    assert_eq!(numbers(&log).await, written);
    log.close().await;

    config.max_bytes = None;
    let log = EmbeddedLog::open(&config).await.unwrap();
    assert_eq!(numbers(&log).await, written);
    let mut hold = log.open(&owner("a")).await.unwrap();
    assert_eq!(hold.position().unwrap(), n.to_string());
    hold.append(numbered(n + 3, 100_000)).await.unwrap();
    log.close().await;
}

/// A real disk of a few megabytes, in a mount namespace of the child's own.
#[test]
fn a_full_disk_loses_nothing_and_space_is_all_it_takes() {
    let dir = tempfile::tempdir().unwrap();
    let said = child("disk::on_a_small_disk", dir.path(), &child::MOUNTING);
    assert!(said.contains("went on"), "{said}");
}

#[tokio::test]
async fn on_a_small_disk() {
    let Some(dir) = child_dir() else { return };
    child::disk(&dir, "12m", false);
    let filler = dir.join("filler");
    std::fs::write(&filler, vec![0; 8 << 20]).unwrap();
    let path = dir.join("exchange.log");
    let log = EmbeddedLog::open(&EmbeddedConfig { path: path.clone(), max_bytes: None }).await.unwrap();
    log.ensure_topic(&spec(KEEP)).await.unwrap();
    let mut hold = log.open(&owner("a")).await.unwrap();
    let n = fill(&mut *hold, 0, &path).await;
    assert!(n > 5, "{n}");
    assert_eq!(fill(&mut *hold, n, &path).await, n);
    assert_eq!(numbers(&log).await, (0..n).collect::<Vec<_>>());

    std::fs::remove_file(&filler).unwrap();
    hold.append(numbered(n, 100_000)).await.unwrap();
    log.close().await;
    let log = EmbeddedLog::open(&EmbeddedConfig { path, max_bytes: None }).await.unwrap();
    assert_eq!(numbers(&log).await, (0..=n).collect::<Vec<_>>());
    log.close().await;
    println!("went on after {n}");
}

/// A write that fails in the middle of a commit: the answer is Unknown, the owner opens again and goes on, nothing twice.
#[test]
fn a_commit_that_the_disk_did_not_answer_is_unknown_and_resolved() {
    let dir = tempfile::tempdir().unwrap();
    let said = child("disk::with_a_failing_disk", dir.path(), &["sh", "-c", "trap '' XFSZ; exec \"$0\" \"$@\""]);
    assert!(said.contains("unknown") && said.contains("went on"), "{said}");
}

#[tokio::test]
async fn with_a_failing_disk() {
    let Some(dir) = child_dir() else { return };
    let path = dir.join("exchange.log");
    let config = EmbeddedConfig { path: path.clone(), max_bytes: None };
    let log = EmbeddedLog::open(&config).await.unwrap();
    log.ensure_topic(&spec(KEEP)).await.unwrap();
    let mut hold = log.open(&owner("a")).await.unwrap();
    hold.append(numbered(0, 100_000)).await.unwrap();
    let unlimited = getrlimit(Resource::Fsize);
    let length = std::fs::metadata(dir.join("exchange.log-wal")).unwrap().len();
    setrlimit(Resource::Fsize, Rlimit { current: Some(length + 300_000), maximum: unlimited.maximum }).unwrap();
    let unknown = hold.append(numbered(1, 1_000_000)).await.unwrap_err();
    assert!(matches!(unknown, AppendError::Unknown(_)), "{unknown:?}");
    println!("unknown: {unknown}");
    setrlimit(Resource::Fsize, unlimited).unwrap();

    let mut hold = log.open(&owner("a")).await.unwrap();
    let mut next = hold.position().map_or(0, |at| std::str::from_utf8(&at).unwrap().parse::<u64>().unwrap() + 1);
    while next < 5 {
        hold.append(numbered(next, 1_000_000)).await.unwrap();
        next += 1;
    }
    assert_eq!(numbers(&log).await, [0, 1, 2, 3, 4]);
    log.close().await;
    let log = EmbeddedLog::open(&config).await.unwrap();
    assert_eq!(numbers(&log).await, [0, 1, 2, 3, 4]);
    log.close().await;
    println!("went on");
}
