//! Random histories against the rows themselves, with stops, kills, corrections and replays in between.

use std::collections::BTreeMap;
use std::sync::Arc;

use guitong_normalise::Filter;
use guitong_schemas::change::Operation;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::harness::{Stage, World, key_only, row, uscc};
use super::quality::figures;

const ROWS: u32 = 6;
const CODES: u32 = 5;

/// What the department holds: rows by id, with all versions that are not known to be overtaken, newest last.
#[derive(Default)]
struct Department {
    rows: BTreeMap<u32, Vec<Edition>>,
    at: u64,
    /// Versions that were written, good and bad, and rows that were deleted.
    written: [u64; 2],
    deleted: u64,
}

#[derive(Clone)]
struct Edition {
    at: u64,
    code: String,
    name: String,
    is_good: bool,
}

impl Department {
    fn write(&mut self, id: u32, code: String, is_good: bool) -> Edition {
        self.at += 1;
        self.written[usize::from(!is_good)] += 1;
        let edition = Edition { at: self.at, name: format!("示例{}公司", self.at), code, is_good };
        self.rows.entry(id).or_default().push(edition.clone());
        edition
    }

    /// Each code's name: of the newest last-good edition among the rows.
    fn standing(&self, all_good: bool) -> BTreeMap<String, String> {
        let mut newest: BTreeMap<&str, &Edition> = BTreeMap::new();
        for editions in self.rows.values() {
            let Some(last) = editions.iter().rev().find(|edition| edition.is_good || all_good) else { continue };
            let holder = newest.entry(&last.code).or_insert(last);
            if last.at > holder.at {
                *holder = last;
            }
        }
        newest.into_iter().map(|(code, edition)| (code.to_owned(), edition.name.clone())).collect()
    }

    /// Codes that several rows' last good editions have.
    fn shared(&self, all_good: bool) -> u64 {
        let mut claims: BTreeMap<&str, u64> = BTreeMap::new();
        for editions in self.rows.values() {
            let Some(last) = editions.iter().rev().find(|edition| edition.is_good || all_good) else { continue };
            *claims.entry(&last.code).or_default() += 1;
        }
        claims.values().filter(|count| **count > 1).count() as u64
    }

    /// Whether the figures are those of the rows.
    async fn compare(&self, stage: &Stage, all_good: bool, seed: u64) {
        let now = figures(stage).await;
        let good = self.rows.values().filter(|editions| editions.last().is_some_and(|last| last.is_good || all_good));
        assert_eq!((now.rows, now.good_rows), (self.rows.len() as u64, good.count() as u64), "seed {seed}");
        let keys = self.standing(all_good).len() as u64;
        assert_eq!((now.keys, now.shared_keys), (keys, self.shared(all_good)), "seed {seed}");
        let sum = |of: fn(&guitong_normalise::DayReport) -> u64| now.days.iter().map(of).sum::<u64>();
        assert_eq!([sum(|day| day.good), sum(|day| day.rejected)], self.written, "seed {seed}");
        assert_eq!(sum(|day| day.deleted), self.deleted, "seed {seed}");
        assert_eq!(sum(|day| day.records), self.written[0], "seed {seed}");
        assert_eq!(sum(|day| day.timed), self.written[0] + self.written[1] + self.deleted, "seed {seed}");
    }

    fn held_back(&self) -> u64 {
        let held = |editions: &&Vec<Edition>| {
            editions.last().is_some_and(|last| !last.is_good) && editions.iter().any(|edition| edition.is_good)
        };
        self.rows.values().filter(held).count() as u64
    }
}

async fn history(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::new().await;
    let mut department = Department::default();
    let mut stage: Option<Stage> = None;
    for _ in 0..random.random_range(5..25) {
        for _ in 0..random.random_range(1..12) {
            let mut changes = Vec::new();
            for _ in 0..random.random_range(1..4) {
                changes.push(change(&mut random, &mut department));
            }
            world.transaction(&changes).await;
        }
        match random.random_range(0..6) {
            0 => {
                if let Some(stage) = stage.take() {
                    stage.stop().await;
                }
            }
            1 => {
                if let Some(stage) = stage.take() {
                    stage.kill().await;
                }
            }
            2 if stage.is_some() => {
                let running = stage.as_ref().unwrap();
                let status = world.settled(running).await;
                assert_eq!(status.held_back, department.held_back(), "seed {seed}");
                assert_eq!(world.names().await, department.standing(false), "seed {seed}");
                assert_eq!(running.handle.replay(Filter::default()).await.unwrap().released, 0, "seed {seed}");
                department.compare(running, false, seed).await;
            }
            _ => stage = stage.or_else(|| Some(world.start())),
        }
    }
    let stage = stage.unwrap_or_else(|| world.start());
    let status = world.settled(&stage).await;
    assert_eq!(status.held_back, department.held_back(), "seed {seed}");
    assert_eq!(world.names().await, department.standing(false), "seed {seed}");
    let mut resource = world.resource.clone();
    resource.map.get_mut("status").unwrap().codes.insert("不明".into(), "9".into());
    stage.handle.reload(Arc::new(resource)).await.unwrap();
    let report = stage.handle.replay(Filter::default()).await.unwrap();
    assert_eq!(report.kept, 0, "seed {seed}");
    assert_eq!(world.names().await, department.standing(true), "seed {seed}");
    department.compare(&stage, true, seed).await;
    let status = stage.until(|status| status.quarantined == 0).await;
    assert_eq!(status.held_back, 0, "seed {seed}");
    stage.stop().await;
}

fn change(random: &mut StdRng, department: &mut Department) -> (Operation, guitong_schemas::change::RowImage) {
    let id = random.random_range(1..=ROWS);
    let exists = department.rows.contains_key(&id);
    if exists && random.random_bool(0.2) {
        department.rows.remove(&id);
        department.deleted += 1;
        return (Operation::Delete, key_only(id));
    }
    let edition = department.write(id, uscc(random.random_range(1..=CODES)), random.random_bool(0.8));
    let status = if edition.is_good { "在营" } else { "不明" };
    let image = row(id, &edition.code, &[("qymc", Some(&edition.name)), ("djzt", Some(status))]);
    (if exists { Operation::Update } else { Operation::Create }, image)
}

/// `GUITONG_SEED` repeats one history.
#[tokio::test]
async fn random_histories_end_as_the_rows_say() {
    let seeds = match std::env::var("GUITONG_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => (0..12).map(|_| rand::random()).collect(),
    };
    for seed in seeds {
        println!("GUITONG_SEED={seed}");
        history(seed).await;
    }
}

/// Corrections of the mapping and replays of any entries, in any order and at any time, end as if the mapping had been right from
/// the beginning. Of a row that has several versions in quarantine the newest is the one that counts.
async fn repairs(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::new().await;
    let mut department = Department::default();
    let mut stage = world.start();
    let mut open = vec!["不明", "未知", "待定"];
    for _ in 0..random.random_range(8..20) {
        for _ in 0..random.random_range(1..8) {
            let id = random.random_range(1..=ROWS);
            let exists = department.rows.contains_key(&id);
            let (operation, image) = if exists && random.random_bool(0.15) {
                department.rows.remove(&id);
                (Operation::Delete, key_only(id))
            } else {
                let edition = department.write(id, uscc(random.random_range(1..=CODES)), true);
                let status = ["在营", "不明", "未知", "待定"][random.random_range(0..4)];
                let image = row(id, &edition.code, &[("qymc", Some(&edition.name)), ("djzt", Some(status))]);
                (if exists { Operation::Update } else { Operation::Create }, image)
            };
            world.transaction(&[(operation, image)]).await;
        }
        match random.random_range(0..5) {
            0 if !open.is_empty() => {
                let status = open.swap_remove(random.random_range(0..open.len()));
                world.resource.map.get_mut("status").unwrap().codes.insert(status.into(), "9".into());
                stage.handle.reload(Arc::new(world.resource.clone())).await.unwrap();
                stage.until(|status| status.phase == guitong_normalise::Phase::Running).await;
            }
            1 => {
                stage.kill().await;
                stage = world.start();
            }
            _ => {
                world.settled(&stage).await;
                let mut filter = Filter::default();
                match random.random_range(0..3) {
                    0 => filter.key = Some(random.random_range(1..=ROWS).to_string()),
                    1 => filter.ids = (0..4).map(|_| format!("{:x}", random.random_range(0..60))).collect(),
                    _ => filter.field = Some("status".to_owned()),
                }
                stage.handle.replay(filter).await.unwrap();
            }
        }
    }
    for status in open {
        world.resource.map.get_mut("status").unwrap().codes.insert(status.into(), "9".into());
    }
    stage.handle.reload(Arc::new(world.resource.clone())).await.unwrap();
    world.settled(&stage).await;
    let report = stage.handle.replay(Filter::default()).await.unwrap();
    assert_eq!(report.kept, 0, "seed {seed}");
    assert_eq!(world.names().await, department.standing(true), "seed {seed}");
    let now = figures(&stage).await;
    assert_eq!((now.rows, now.good_rows, now.open), (department.rows.len() as u64, now.rows, 0), "seed {seed}");
    stage.stop().await;
}

/// `GUITONG_SEED` repeats one history.
#[tokio::test]
async fn repairs_in_any_order_end_as_a_run_with_the_right_mapping() {
    let seeds = match std::env::var("GUITONG_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => (0..10).map(|_| rand::random()).collect(),
    };
    for seed in seeds {
        println!("GUITONG_SEED={seed}");
        repairs(seed).await;
    }
}
