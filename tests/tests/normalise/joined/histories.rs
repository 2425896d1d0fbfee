//! Random histories over companies and their dictionaries, with stops and kills in between, against the rows themselves.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::harness::{Stage, uscc};
use super::world::{COMPANIES, LOOKUPS, Rows, Step, World, gone, put};

pub(super) const CODE: &str = "11450000PDY00001X0";
const DIVISIONS: [&str; 3] = ["450102", "450103", "450202"];

/// A record's company, authority, division and contact.
pub(super) type Fields = (String, String, String, Option<String>);

/// What the rows come to by credit code, and how many companies lack what they must have.
pub(super) fn standing(rows: &Rows, newest: &BTreeMap<u32, u64>) -> (BTreeMap<String, Fields>, usize) {
    let none = BTreeMap::new();
    let of = |table: &str| rows.get(table).unwrap_or(&none).values();
    let text = |row: &[Option<String>], at: usize| row.get(at).cloned().flatten();
    let (mut found, mut missing): (BTreeMap<String, (u64, Fields)>, usize) = (BTreeMap::new(), 0);
    for (id, row) in rows.get("qy").unwrap_or(&none) {
        let dept = of("bm_zd").find(|dept| text(dept, 0) == text(row, 2));
        let region = dept.and_then(|dept| of("qh_zd").find(|region| text(region, 0) == text(dept, 3)));
        let (Some(dept), Some(region)) = (dept, region) else {
            missing += 1;
            continue;
        };
        let contact = text(row, 3).and_then(|number| of("ry_zd").find(|staff| text(staff, 0).as_ref() == Some(&number)));
        let fields = (
            text(row, 1).unwrap_or_default(),
            text(dept, 1).unwrap_or_default(),
            text(region, 1).unwrap_or_default(),
            contact.and_then(|staff| text(staff, 1)),
        );
        let at = newest[id];
        let holder = found.entry(text(row, 0).unwrap_or_default()).or_insert_with(|| (at, fields.clone()));
        if at > holder.0 {
            *holder = (at, fields);
        }
    }
    (found.into_iter().map(|(code, (_, fields))| (code, fields)).collect(), missing)
}

pub(super) async fn published(world: &World) -> BTreeMap<String, Fields> {
    let standing = world.standing().await.into_iter();
    let fields = |fields: BTreeMap<String, String>| {
        let text = |name: &str| fields.get(name).cloned();
        let must = |name: &str| text(name).unwrap_or_default();
        (must("name"), must("reg_authority"), must("reg_address_division"), text("contact"))
    };
    standing.map(|(code, record)| (code, fields(record))).collect()
}

/// The department at work.
pub(super) struct Clerks {
    pub(super) random: StdRng,
    /// Number of the last change of each company.
    pub(super) newest: BTreeMap<u32, u64>,
    pub(super) at: u64,
}

impl Clerks {
    fn step(&mut self, rows: &Rows) -> (&'static str, u32, Option<Vec<String>>) {
        self.at += 1;
        let random = &mut self.random;
        let table = ["qy", "qy", "qy", "bm_zd", "qh_zd", "ry_zd"][random.random_range(0..6)];
        let id = random.random_range(1..=if table == "qy" { 8 } else { 3 });
        let exists = rows.get(table).is_some_and(|rows| rows.contains_key(&id));
        if exists && random.random_bool(0.2) {
            return (table, id, None);
        }
        let number = |random: &mut StdRng| random.random_range(1..=3_u32);
        let values = match table {
            "qy" => {
                let staff = if random.random_bool(0.5) { number(random).to_string() } else { String::new() };
                vec![uscc(random.random_range(1..=5)), format!("示例{}公司", self.at), number(random).to_string(), staff]
            }
            // Keys of a dictionary are its own: `id` and key go together, but the key may move beyond those of the others.
            "bm_zd" => {
                let key = if random.random_bool(0.8) { id } else { id + 10 };
                vec![key.to_string(), format!("第{}局", self.at), CODE.to_owned(), number(random).to_string()]
            }
            "qh_zd" => vec![id.to_string(), DIVISIONS[random.random_range(0..3)].to_owned()],
            _ => vec![id.to_string(), format!("示例{}", self.at)],
        };
        (table, id, Some(values))
    }

    pub(super) async fn transaction(&mut self, world: &mut World) {
        let mut owned = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..self.random.random_range(1..5) {
            let step = self.step(&world.rows);
            if seen.insert((step.0, step.1)) {
                if step.0 == "qy" && step.2.is_some() {
                    self.newest.insert(step.1, self.at);
                }
                owned.push(step);
            }
        }
        let steps: Vec<Step<'_>> = owned
            .iter()
            .map(|(table, id, values)| match values {
                None => gone(table, *id),
                Some(values) => put(table, *id, &values.iter().map(String::as_str).collect::<Vec<_>>()),
            })
            .collect();
        world.transaction(&steps).await;
    }

    /// Goes on until the resource's own table has a row: before that there is no topic to read.
    pub(crate) async fn first_company(&mut self, world: &mut World) {
        while !world.rows.contains_key("qy") {
            self.transaction(world).await;
        }
    }
}

async fn history(seed: u64, mut world: World) {
    let mut clerks = Clerks { random: StdRng::seed_from_u64(seed), newest: BTreeMap::new(), at: 0 };
    let before_load = clerks.random.random_range(0..10);
    for _ in 0..before_load {
        clerks.transaction(&mut world).await;
    }
    clerks.first_company(&mut world).await;
    world.loaded().await;
    let mut stage: Option<Stage> = None;
    for _ in 0..clerks.random.random_range(5..25) {
        for _ in 0..clerks.random.random_range(1..12) {
            clerks.transaction(&mut world).await;
        }
        match clerks.random.random_range(0..7) {
            0 => {
                if let Some(stage) = stage.take() {
                    stage.stop().await;
                }
            }
            1 | 2 => {
                if let Some(stage) = stage.take() {
                    stage.kill().await;
                }
            }
            3 if stage.is_some() => {
                world.settled(stage.as_ref().unwrap()).await;
                let (wanted, missing) = standing(&world.rows, &clerks.newest);
                if missing == 0 {
                    assert_eq!(published(&world).await, wanted, "seed {seed}");
                }
            }
            _ => stage = stage.or_else(|| Some(world.start())),
        }
    }
    // Every key comes at last, whatever was missing.
    for id in 1..=3_u32 {
        let (key, name) = (id.to_string(), format!("末{id}局"));
        world.transaction(&[put("bm_zd", id, &[&key, &name, CODE, &key]), put("qh_zd", id, &[&key, "450102"])]).await;
    }
    let stage = stage.unwrap_or_else(|| world.start());
    let status = world.settled(&stage).await;
    let (wanted, missing) = standing(&world.rows, &clerks.newest);
    assert_eq!((missing, status.quarantined, status.held_back), (0, 0, 0), "seed {seed}");
    assert_eq!(published(&world).await, wanted, "seed {seed}");
    stage.stop().await;
    let stage = world.start();
    world.settled(&stage).await;
    assert_eq!(published(&world).await, wanted, "seed {seed}: a restart changes nothing");
    stage.stop().await;
}

/// `GUITONG_SEED` repeats one history.
#[tokio::test]
async fn random_histories_over_dictionaries_end_as_the_rows_say() {
    let seeds = match std::env::var("GUITONG_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => (0..12).map(|_| rand::random()).collect(),
    };
    for seed in seeds {
        println!("GUITONG_SEED={seed}");
        history(seed, World::new(COMPANIES, LOOKUPS).await).await;
    }
}

#[tokio::test]
async fn a_history_over_dictionaries_ends_as_the_rows_say_on_kafka() {
    let seed = guitong_tests::seed();
    history(seed, World::on_kafka(COMPANIES, LOOKUPS).await).await;
}
