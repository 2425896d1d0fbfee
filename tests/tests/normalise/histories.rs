//! Random histories against the rows themselves, with stops, kills, corrections and replays in between.

use std::collections::BTreeMap;
use std::sync::Arc;

use guitong_schemas::change::Operation;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::harness::{Stage, World, key_only, row, uscc};

const ROWS: u32 = 6;
const CODES: u32 = 5;

/// What the department holds: rows by id, with all versions that are not known to be overtaken, newest last.
#[derive(Default)]
struct Department {
    rows: BTreeMap<u32, Vec<Edition>>,
    at: u64,
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
                assert_eq!(running.handle.replay(None).await.unwrap().released, 0, "seed {seed}");
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
    let report = stage.handle.replay(None).await.unwrap();
    assert_eq!(report.kept, 0, "seed {seed}");
    assert_eq!(world.names().await, department.standing(true), "seed {seed}");
    let status = stage.until(|status| status.quarantined == 0).await;
    assert_eq!(status.held_back, 0, "seed {seed}");
    stage.stop().await;
}

fn change(random: &mut StdRng, department: &mut Department) -> (Operation, guitong_schemas::change::RowImage) {
    let id = random.random_range(1..=ROWS);
    let exists = department.rows.contains_key(&id);
    if exists && random.random_bool(0.2) {
        department.rows.remove(&id);
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
