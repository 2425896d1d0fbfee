//! A subscriber's server runs out of room within a stream: its subscription waits and says what for, others go on, and once there is
//! room everything is there, each version once.
//!
//! Each test is a child of its own, in which a small disk is mounted under a real server.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use guitong_deliver::Phase;
use guitong_schemas::contract::Subscription;
use guitong_tests::child;
use guitong_tests::servers::postgres::Stop;

use crate::fixture::{Bench, Running, Target};
use crate::kept::{HISTORY, Version, delete, history, named};

/// The folder for the disk, in the environment of a child of this test binary.
const DIR: &str = "GUITONG_TEST_DIR";
/// Versions that no disk of these tests holds before it is made larger.
const MANY: u64 = 4_000;

fn in_a_child(test: &str) {
    let dir = tempfile::tempdir().unwrap();
    let test = format!("full::{test}");
    let said = tokio::task::block_in_place(|| child::run(&test, &child::MOUNTING, &[(DIR, dir.path().as_os_str())]));
    assert!(said.contains("went on"), "{said}");
}

fn disk() -> Option<PathBuf> {
    std::env::var_os(DIR).map(PathBuf::from)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sqlite_file_that_has_no_room_is_waited_for() {
    in_a_child("sqlite_on_a_small_disk");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_on_a_small_disk() {
    let Some(disk) = disk() else { return };
    child::disk(&disk, "3m", false);
    let target = Target::sqlite_at(disk.join("subscriber.db")).await;
    fills_up(&target, &disk, "database or disk is full").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_server_that_has_no_room_is_waited_for() {
    in_a_child("postgresql_on_a_small_disk");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_on_a_small_disk() {
    let Some(disk) = disk() else { return };
    child::disk(&disk, "3m", false);
    let space = disk.join("space");
    std::fs::create_dir(&space).unwrap();
    let target = Target::postgres().await;
    for sql in [
        format!("CREATE TABLESPACE small LOCATION '{}'", space.display()),
        "GRANT CREATE ON TABLESPACE small TO office".to_owned(),
        "ALTER ROLE office SET default_tablespace = small".to_owned(),
    ] {
        target.execute(&sql).await;
    }
    fills_up(&target, &disk, "No space left on device").await;
}

/// Without room for its write-ahead log the server goes down within a COMMIT, and somebody has to start it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_server_whose_write_ahead_log_has_no_room_is_waited_for() {
    in_a_child("postgresql_with_a_small_log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_with_a_small_log() {
    if disk().is_none() {
        return;
    }
    let target = Target::postgres().await;
    let data = PathBuf::from(target.texts("SHOW data_directory").await.remove(0));
    let (log, aside) = (data.join("pg_wal"), data.join("pg_wal.aside"));
    target.server().stop(Stop::Fast).await.unwrap();
    std::fs::rename(&log, &aside).unwrap();
    std::fs::create_dir(&log).unwrap();
    child::disk(&log, "17m", false);
    let copied = std::process::Command::new("cp").arg("-a").arg(aside.join(".")).arg(&log).status().unwrap();
    assert!(copied.success());
    target.server().start_again().await.unwrap();
    // One segment is there, and for the next one there is no room.
    let filled = "SELECT pg_logical_emit_message(false, 'filler', repeat('x',
        (16777216 - (pg_current_wal_lsn() - '0/0'::pg_lsn) % 16777216)::int - 2000000))::text";
    target.texts(filled).await;
    let bench = Bench::new().await;
    let elsewhere = Target::sqlite(&bench).await;
    let mut scene = Scene::new(bench, &target, &elsewhere).await;
    scene.ends[0].0.reaches(|status| matches!(status.phase, Phase::Paused { .. } | Phase::Retrying { .. })).await;
    scene.others_go_on().await;
    let said = std::fs::read_to_string(target.server().log_path()).unwrap();
    assert!(said.contains("PANIC") && said.contains("No space left on device"), "{said}");
    child::disk(&log, "256m", true);
    target.server().restart(Stop::Immediate).await.unwrap();
    scene.ends_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mariadb_server_that_has_no_room_is_waited_for() {
    in_a_child("mariadb_on_a_small_disk");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_on_a_small_disk() {
    if disk().is_none() {
        return;
    }
    let target = Target::mariadb().await;
    let data = PathBuf::from(target.texts("SELECT @@datadir").await.remove(0));
    let database = data.join("shared");
    child::disk(&database, "8m", false);
    fills_up(&target, &database, "is full").await;
}

/// What a subscriber is to have.
#[derive(Default)]
struct Wanted {
    rows: HashMap<String, String>,
    versions: BTreeMap<String, Vec<Version>>,
}

impl Wanted {
    async fn upsert(&mut self, bench: &mut Bench, commits: std::ops::RangeInclusive<u64>, key: impl Fn(u64) -> String) {
        let mut records = Vec::new();
        for commit in commits {
            let (key, name) = (key(commit), format!("{commit:>400}").replace(' ', "司"));
            records.push(named(bench, &key, &name, commit));
            let versions = self.versions.entry(key.clone()).or_default();
            if let Some(last) = versions.last_mut() {
                last.2 = Some(commit);
            }
            versions.push((name.clone(), commit, None));
            self.rows.insert(key, name);
        }
        bench.append(records).await;
    }

    async fn delete(&mut self, bench: &mut Bench, key: &str, commit: u64) {
        bench.append(vec![delete(bench, key, commit)]).await;
        self.rows.remove(key);
        if let Some(last) = self.versions.get_mut(key).and_then(|versions| versions.last_mut()) {
            last.2 = Some(commit);
        }
    }
}

/// A subscription whose server runs out of room, and one whose server has enough.
struct Scene<'t> {
    bench: Bench,
    wanted: Wanted,
    ends: [(Running, &'t Target); 2],
}

fn key(commit: u64) -> String {
    format!("K{}", commit % 1_000)
}

impl<'t> Scene<'t> {
    /// Delivers a little, and then has more to deliver than the disk takes.
    async fn new(mut bench: Bench, target: &'t Target, elsewhere: &'t Target) -> Self {
        let mut wanted = Wanted::default();
        wanted.upsert(&mut bench, 1..=100, key).await;
        let ends = [("credit", target), ("other", elsewhere)].map(|(name, target)| {
            let plain = bench.subscription(name, target.config("t"), &["uscc", "name"]);
            (bench.start(&Subscription { table: HISTORY, ..plain }), target)
        });
        let mut scene = Self { bench, wanted, ends };
        scene.bench.caught_up(&mut scene.ends[0].0).await;
        for from in (101..=MANY).step_by(100) {
            scene.wanted.upsert(&mut scene.bench, from..=from + 99, key).await;
        }
        scene
    }

    /// Nobody else hears of it, and what comes meanwhile waits.
    async fn others_go_on(&mut self) {
        self.wanted.upsert(&mut self.bench, MANY + 1..=MANY + 10, key).await;
        self.wanted.delete(&mut self.bench, "K20", MANY + 11).await;
        let [(waiting, _), (unharmed, elsewhere)] = &mut self.ends;
        self.bench.caught_up(unharmed).await;
        assert!(elsewhere.names("t").await == self.wanted.rows);
        let waiting = waiting.status.borrow().clone();
        assert!(matches!(waiting.phase, Phase::Paused { .. } | Phase::Retrying { .. }), "{waiting:?}");
    }

    /// There is room again.
    async fn ends_whole(mut self) {
        assert!(self.ends[0].0.handle.resume().await.unwrap());
        self.bench.caught_up(&mut self.ends[0].0).await;
        for (running, target) in self.ends {
            running.stop().await.unwrap();
            assert!(target.names("t").await == self.wanted.rows, "every row as it is");
            assert!(history(target).await == self.wanted.versions, "each version once");
        }
        println!("went on");
    }
}

async fn fills_up(target: &Target, disk: &Path, says: &str) {
    let bench = Bench::new().await;
    let elsewhere = Target::sqlite(&bench).await;
    let mut scene = Scene::new(bench, target, &elsewhere).await;
    let status = scene.ends[0].0.reaches(|status| matches!(status.phase, Phase::Paused { .. })).await;
    let Phase::Paused { error } = status.phase else { panic!("paused") };
    assert!(error.contains(says), "{error}");
    scene.others_go_on().await;
    child::disk(disk, "256m", true);
    scene.ends_whole().await;
}
