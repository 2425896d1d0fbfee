//! Every short history of two or three rows that insert, swap, share and give up two entity keys, become invalid and valid again, and are
//! deleted: what stands after each step and what is published on the way are those of a model of a few lines.
//!
//! All histories run side by side in one resource, each with rows and keys of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use guitong_log::registry::SchemaRegistry;
use guitong_normalise::{Filter, Phase};
use guitong_schemas::avro::{DecodePlan, Value, frame};
use guitong_schemas::change::{Operation, RowImage};
use guitong_schemas::contract::Exchange;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::harness::{STD, Stage, World, headers, key_only, row, uscc};

/// What happens to one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    /// A good version with this key.
    Good(u8),
    /// A version that breaks a rule, with this key.
    Bad(u8),
    Delete,
}

type Step = (u8, Act);

/// All histories of `length` steps over `rows` rows and two keys. Rows and keys come in the order of their first use, since their names
/// make no difference; only rows that are there are deleted.
fn histories(rows: u8, length: usize) -> Vec<Vec<Step>> {
    let mut all = vec![Vec::<Step>::new()];
    for _ in 0..length {
        let longer = |history: &Vec<Step>| {
            let history = history.clone();
            next_steps(&history, rows).into_iter().map(move |step| [history.as_slice(), &[step]].concat())
        };
        all = all.iter().flat_map(longer).collect();
    }
    all
}

/// What can happen after a history.
fn next_steps(history: &[Step], rows: u8) -> Vec<Step> {
    let used = history.iter().map(|(row, _)| row + 1).max().unwrap_or(0);
    let is_there = |row: u8| {
        let last = history.iter().rev().find(|(of, _)| *of == row);
        last.is_some_and(|(_, act)| *act != Act::Delete)
    };
    let has_key = history.iter().any(|(_, act)| matches!(act, Act::Good(_) | Act::Bad(_)));
    let mut steps = Vec::new();
    for row in 0..rows.min(used + 1) {
        for key in 0..if has_key { 2 } else { 1 } {
            steps.extend([Act::Good(key), Act::Bad(key)].map(|act| (row, act)));
        }
        if is_there(row) {
            steps.push((row, Act::Delete));
        }
    }
    steps
}

/// So many of the histories of `length` steps, as they come.
fn sample(rows: u8, length: usize, count: usize, random: &mut StdRng) -> Vec<Vec<Step>> {
    let one = |random: &mut StdRng| {
        (0..length).fold(Vec::new(), |mut history, _| {
            let steps = next_steps(&history, rows);
            history.push(steps[random.random_range(0..steps.len())]);
            history
        })
    };
    (0..count).map(|_| one(random)).collect()
}

/// What the stage promises of one history.
#[derive(Debug, Clone, Default)]
struct Model {
    /// The last good version of each row: step, key and name.
    good: BTreeMap<u8, (usize, u8, String)>,
    /// The newest version of each row where it is bad, and how many bad ones there are since the last good one.
    bad: BTreeMap<u8, ((usize, u8, String), u64)>,
    /// What was published of each key, in order; `None` is a delete.
    published: BTreeMap<u8, Vec<Option<String>>>,
}

impl Model {
    fn act(&mut self, at: usize, (row, act): Step, name: String) {
        let before = Self::standing(&self.good);
        match act {
            Act::Good(key) => {
                self.good.insert(row, (at, key, name));
                self.bad.remove(&row);
            }
            Act::Bad(key) => {
                let count = self.bad.get(&row).map_or(0, |(_, count)| *count);
                self.bad.insert(row, ((at, key, name), count + 1));
            }
            Act::Delete => {
                self.good.remove(&row);
                self.bad.remove(&row);
            }
        }
        let after = Self::standing(&self.good);
        for key in 0..2 {
            if before.get(&key) != after.get(&key) {
                self.published.entry(key).or_default().push(after.get(&key).cloned());
            }
        }
    }

    /// The newest row of each key.
    fn standing(rows: &BTreeMap<u8, (usize, u8, String)>) -> BTreeMap<u8, String> {
        let mut newest: BTreeMap<u8, &(usize, u8, String)> = BTreeMap::new();
        for version in rows.values() {
            let holder = newest.entry(version.1).or_insert(version);
            *holder = (*holder).max(version);
        }
        newest.into_iter().map(|(key, (_, _, name))| (key, name.clone())).collect()
    }

    /// What stands once a changed mapping takes the bad versions.
    fn corrected(&self) -> BTreeMap<u8, String> {
        let mut rows = self.good.clone();
        rows.extend(self.bad.iter().map(|(row, (version, _))| (*row, version.clone())));
        Self::standing(&rows)
    }
}

/// Histories with their models, and the department that they happen in.
struct Run {
    world: World,
    histories: Vec<(Vec<Step>, Model)>,
    codes: Vec<String>,
}

impl Run {
    async fn new(histories: Vec<Vec<Step>>) -> Self {
        let mut world = World::new().await;
        let mut exchange = Exchange::clone(&world.exchange);
        exchange.budgets.batch = 256 << 10;
        world.exchange = Arc::new(exchange);
        // Most histories have bad versions; the resource is to go on.
        world.resource.quality.pause_above.percent = 100;
        let codes = (0..histories.len() * 2).map(|number| uscc(number.try_into().unwrap())).collect();
        Self { world, histories: histories.into_iter().map(|history| (history, Model::default())).collect(), codes }
    }

    /// One step of every history, in transactions of many.
    async fn step(&mut self, at: usize) {
        let mut changes: Vec<(Operation, RowImage)> = Vec::new();
        for (number, (history, model)) in self.histories.iter_mut().enumerate() {
            let Some(&(row_number, act)) = history.get(at) else { continue };
            let id = u32::try_from(number * 4).unwrap() + u32::from(row_number);
            let name = format!("示例{number}第{at}公司");
            changes.push(match act {
                Act::Delete => (Operation::Delete, key_only(id)),
                Act::Good(key) | Act::Bad(key) => {
                    let status = if matches!(act, Act::Good(_)) { "在营" } else { "不明" };
                    let code = &self.codes[number * 2 + usize::from(key)];
                    (Operation::Update, row(id, code, &[("qymc", Some(&name)), ("djzt", Some(status))]))
                }
            });
            model.act(at, (row_number, act), name);
        }
        for changes in changes.chunks(500) {
            self.world.transaction(changes).await;
        }
    }

    /// The names that were published of each code, in order; `None` is a delete.
    async fn published(&self) -> BTreeMap<String, Vec<Option<String>>> {
        let mut published: BTreeMap<String, Vec<Option<String>>> = BTreeMap::new();
        let mut plans: BTreeMap<u32, DecodePlan> = BTreeMap::new();
        for record in self.world.records(STD).await {
            let code = headers(&record)["ce_subject"].clone();
            let mut name = None;
            if let Some(value) = &record.value {
                let (id, avro) = frame::read(value).unwrap();
                if let std::collections::btree_map::Entry::Vacant(place) = plans.entry(id) {
                    place.insert(DecodePlan::compile(&self.world.registry.schema(id).await.unwrap()).unwrap());
                }
                let place = plans[&id].fields().iter().position(|field| &*field.name == "name").unwrap();
                let Value::Text(text) = plans[&id].record(avro).unwrap()[place] else { panic!("no name") };
                name = Some(text.to_owned());
            }
            published.entry(code).or_default().push(name);
        }
        published
    }

    /// What was published, against the models; the first history that differs is told.
    async fn compare(&self, when: &str) {
        let published = self.published().await;
        for (number, (history, model)) in self.histories.iter().enumerate() {
            for key in 0..2_u8 {
                let seen = published.get(&self.codes[number * 2 + usize::from(key)]);
                assert_eq!(seen, model.published.get(&key), "{when}: key {key} of {history:?}");
            }
        }
    }

    /// What stands under the corrected mapping.
    async fn compare_corrected(&self, when: &str) {
        let published = self.published().await;
        for (number, (history, model)) in self.histories.iter().enumerate() {
            let wanted = model.corrected();
            for key in 0..2_u8 {
                let seen = published.get(&self.codes[number * 2 + usize::from(key)]).and_then(|names| names.last()?.as_ref());
                assert_eq!(seen, wanted.get(&key), "{when}: key {key} of {history:?}");
            }
        }
    }

    /// Figures of the status.
    async fn compare_status(&self, stage: &Stage, when: &str) {
        let status = self.world.settled(stage).await;
        let models = || self.histories.iter().map(|(_, model)| model);
        let open: u64 = models().flat_map(|model| model.bad.values()).map(|(_, count)| count).sum();
        let held: usize = models().map(|model| model.bad.keys().filter(|row| model.good.contains_key(row)).count()).sum();
        let keys: usize = models().map(|model| Model::standing(&model.good).len()).sum();
        assert_eq!((status.quarantined, status.held_back, status.entities), (open, held as u64, keys as u64), "{when}");
    }

    /// Everything is read at once: the steps of a history meet in one batch or not, as it comes.
    async fn read_at_once(&mut self, length: usize) {
        for at in 0..length {
            self.step(at).await;
        }
        let stage = self.world.start();
        self.compare_status(&stage, "at once").await;
        self.compare("at once").await;
        self.correct(&stage).await;
        assert_eq!(stage.handle.replay(Filter::default()).await.unwrap().kept, 0);
        self.compare_corrected("replayed").await;
        stage.stop().await;
    }

    /// Each step is read by a stage that is killed on its way, and by another one.
    async fn read_with_kills(&mut self, length: usize) {
        for at in 0..length {
            self.step(at).await;
            let stage = self.world.start();
            let read = stage.handle.status().borrow().offset;
            stage.until(|status| status.offset > read + 100).await;
            stage.kill().await;
            let stage = self.world.start();
            self.compare_status(&stage, &format!("after step {at}")).await;
            self.compare(&format!("after step {at}")).await;
            stage.stop().await;
        }
        let stage = self.world.start();
        self.world.settled(&stage).await;
        self.correct(&stage).await;
        let revision = stage.handle.rebuild().await.unwrap();
        stage.until(|status| status.rebuilt.is_some_and(|report| report.revision == revision)).await;
        self.compare_corrected("made again").await;
        stage.stop().await;
    }

    /// A mapping that takes what was bad.
    async fn correct(&self, stage: &Stage) {
        let mut resource = self.world.resource.clone();
        resource.map.get_mut("status").unwrap().codes.insert("不明".into(), "9".into());
        stage.handle.reload(Arc::new(resource)).await.unwrap();
        stage.until(|status| status.phase == Phase::Running).await;
    }
}

#[tokio::test]
async fn every_short_history_is_published_as_the_model_says() {
    let mut run = Run::new(histories(3, 4)).await;
    assert!(run.histories.len() > 2_500, "{}", run.histories.len());
    run.read_at_once(4).await;
}

#[tokio::test]
async fn every_short_history_outlives_a_kill_at_every_step() {
    let mut run = Run::new(histories(3, 4)).await;
    run.read_with_kills(4).await;
}

/// There are too many of these to take all of them: those of five steps alone are forty thousand.
#[tokio::test]
async fn a_sample_of_longer_histories_is_published_as_the_model_says() {
    let mut random = StdRng::seed_from_u64(guitong_tests::seed());
    for length in [5, 6] {
        let mut run = Run::new(sample(3, length, 400, &mut random)).await;
        run.read_at_once(length).await;
        let mut run = Run::new(sample(3, length, 200, &mut random)).await;
        run.read_with_kills(length).await;
    }
}
