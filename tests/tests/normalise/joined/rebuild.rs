//! What becomes of joined tables when a resource is made again, loses its joins, or gains one; and of what was given up.

use std::collections::BTreeMap;
use std::sync::Arc;

use guitong_log::{OwnerId, Role};
use guitong_normalise::{Filter, HandleError, Phase, RebuildReport, Surrender};
use guitong_schemas::contract::quality::PauseAbove;
use guitong_schemas::contract::{Name, Resource};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::harness::{Stage, uscc};
use super::histories::{CODE, Clerks, Fields, published, standing};
use super::world::{COMPANIES, LOOKUPS, World, directory, gone, put};

/// The resource that a file with these lines declares.
fn resource(lines: &str) -> Resource {
    let directory = directory(COMPANIES, lines).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    (*directory.resources[&Name::parse("record").unwrap()]).clone()
}

/// [`LOOKUPS`] without the dictionary of contacts.
fn without_contact() -> Resource {
    let lines = LOOKUPS.replace("[lookups.staff]\ntable = \"main.ry_zd\"\nkey = \"gh\"\n", "");
    resource(&lines.replace("contact = { from = \"lxr\", lookup = \"staff\", value = \"xm\" }\n", ""))
}

/// Without any dictionary.
fn plain() -> Resource {
    let map = LOOKUPS.split_once("[map]").unwrap().1;
    let own = map.lines().filter(|line| !line.contains("dept") && !line.contains("region") && !line.contains("staff"));
    let own: Vec<&str> = own.collect();
    let given = "reg_authority = { const = \"示例局\" }\nreg_authority_code = { const = \"11450000PDY00001X0\" }\n\
                 reg_address_division = { const = \"450103\" }\n";
    resource(&format!("[map]{}\n{given}", own.join("\n")))
}

async fn reload(stage: &Stage, resource: &Resource) {
    stage.handle.reload(Arc::new(resource.clone())).await.unwrap();
}

async fn rebuild(stage: &Stage) -> RebuildReport {
    let revision = stage.handle.rebuild().await.unwrap();
    let is_done = |last: RebuildReport| last.revision >= revision;
    let status = stage.until(|status| status.rebuild.is_none() && status.rebuilt.is_some_and(is_done)).await;
    status.rebuilt.unwrap()
}

/// Entries of each map that is kept for joins.
async fn kept(world: &World) -> BTreeMap<&'static str, usize> {
    let owner = world.log.open(&OwnerId::new(Role::Normalise, "record")).await.unwrap();
    let mut kept = BTreeMap::new();
    for map in ["joined", "beside", "groups", "users", "links", "inputs", "refresh"] {
        kept.insert(map, owner.scan(map, &[], None, 1_000).await.unwrap().len());
    }
    kept
}

async fn department() -> World {
    let mut world = World::new(COMPANIES, LOOKUPS).await;
    world.transaction(&[put("bm_zd", 1, &["01", "甲局", CODE, "nn"]), put("qh_zd", 1, &["nn", "450103"])]).await;
    world.transaction(&[put("ry_zd", 1, &["9", "李示例"])]).await;
    world.transaction(&[put("qy", 1, &[&uscc(1), "南宁甲公司", "01", "9"]), put("qy", 2, &[&uscc(2), "乙公司", "01"])]).await;
    world.loaded().await;
    world
}

#[tokio::test]
async fn what_was_given_up_stays_so_when_its_dictionary_row_comes() {
    let mut world = department().await;
    world.transaction(&[put("qy", 3, &[&uscc(3), "丙公司", "02"]), put("qy", 2, &[&uscc(2), "乙公司二", "02"])]).await;
    let stage = world.start();
    let status = world.settled(&stage).await;
    assert_eq!((status.quarantined, status.held_back, status.entities), (2, 1, 2));
    let surrender = Surrender { by: "wei".into(), reason: "测试".into() };
    stage.handle.surrender(Filter { field: Some("reg_authority".into()), ..Filter::default() }, surrender).await.unwrap();
    let before = world.published().await;
    world.transaction(&[put("bm_zd", 2, &["02", "乙局", CODE, "nn"])]).await;
    let status = world.settled(&stage).await;
    assert_eq!((status.quarantined, status.held_back, status.entities), (0, 0, 2));
    assert_eq!(world.published().await, before, "nothing of it is made again");
    // The last good version of the other is made again like any.
    world.transaction(&[put("bm_zd", 1, &["01", "新局", CODE, "nn"])]).await;
    world.settled(&stage).await;
    let names: Vec<_> = published(&world).await.into_values().map(|(name, authority, _, _)| (name, authority)).collect();
    assert!(names.contains(&("乙公司".to_owned(), "新局".to_owned())), "{names:?}");
    stage.stop().await;
}

#[tokio::test]
async fn a_resource_without_its_last_join_keeps_nothing_of_them() {
    let mut world = department().await;
    let with = world.resource.clone();
    let stage = world.start();
    world.settled(&stage).await;
    stage.stop().await;
    assert!(kept(&world).await["inputs"] > 0);
    world.resource = plain();
    let stage = world.start();
    world.settled(&stage).await;
    world.transaction(&[put("qy", 1, &[&uscc(1), "南宁甲公司改", "01", "9"])]).await;
    world.settled(&stage).await;
    assert_eq!(rebuild(&stage).await.published, 1, "the other one was made without joins already");
    stage.stop().await;
    assert!(kept(&world).await.values().all(|count| *count == 0), "{:?}", kept(&world).await);
    // With the joins back, a dictionary's change makes the newest version again, and no older one.
    world.resource = with;
    let stage = world.start();
    world.settled(&stage).await;
    rebuild(&stage).await;
    world.transaction(&[put("bm_zd", 1, &["01", "新局", CODE, "nn"])]).await;
    world.settled(&stage).await;
    let (wanted, _) = standing(&world.rows, &BTreeMap::from([(1, 2), (2, 1)]));
    assert_eq!(published(&world).await, wanted);
    stage.stop().await;
}

#[tokio::test]
async fn a_second_dictionary_over_the_same_table_loses_no_change_of_the_first() {
    let mut world = department().await;
    let stage = world.start();
    world.settled(&stage).await;
    stage.stop().await;
    world.transaction(&[put("bm_zd", 1, &["01", "新局", CODE, "nn"])]).await;
    let second = "[lookups.second]\ntable = \"main.bm_zd\"\nkey = \"mc\"\n\n[map]\nbusiness_licence = { from = \"qymc\", lookup = \"second\", value = \"bz\" }";
    let second = second.replace("business_licence", "op_address");
    world.resource = resource(&LOOKUPS.replace("[map]", &second));
    let stage = world.start();
    world.settled(&stage).await;
    let authorities: Vec<String> = published(&world).await.into_values().map(|(_, authority, _, _)| authority).collect();
    assert_eq!(authorities, ["新局", "新局"]);
    stage.stop().await;
}

#[tokio::test]
async fn a_kill_while_joined_tables_are_read_leaves_nothing_out() {
    let seed = guitong_tests::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::new(COMPANIES, LOOKUPS).await;
    for id in 1..=30_u32 {
        let key = (id % 10).to_string();
        world.transaction(&[put("bm_zd", id % 10, &[&key, &format!("第{id}局"), CODE, &key])]).await;
        world.transaction(&[put("qh_zd", id % 10, &[&key, "450103"])]).await;
        world.transaction(&[put("qy", id, &[&uscc(id), &format!("公司{id}"), &key])]).await;
    }
    world.transaction(&[gone("bm_zd", 0), put("bm_zd", 10, &["0", "末局", CODE, "0"])]).await;
    world.loaded().await;
    let mut kills = 0;
    for _ in 0..12 {
        let stage = world.start();
        // Short of the 62 events of the joined tables, behind which nothing is left to be read.
        let upto = random.random_range(1..50_u64);
        let read = |status: &guitong_normalise::NormaliserStatus| status.joined.values().sum::<u64>();
        let status = stage.until(|status| status.phase == Phase::Running || read(status) >= upto).await;
        kills += u32::from(status.phase != Phase::Running);
        let is_done = status.phase == Phase::Running;
        stage.kill().await;
        if is_done {
            break;
        }
    }
    assert!(kills > 0, "seed {seed}");
    let stage = world.start();
    world.settled(&stage).await;
    let newest = (1..=30).map(|id| (id, u64::from(id))).collect();
    assert_eq!(published(&world).await, standing(&world.rows, &newest).0, "seed {seed}");
    stage.stop().await;
}

#[tokio::test]
async fn what_changes_beside_a_row_that_is_made_already_is_not_missed() {
    let mut world = World::new(COMPANIES, LOOKUPS).await;
    world.transaction(&[put("bm_zd", 1, &["01", "甲局", CODE, "nn"]), put("qh_zd", 1, &["nn", "450103"])]).await;
    for id in 1..=7 {
        let staff = if id <= 4 { "9" } else { "8" };
        world.transaction(&[put("qy", id, &[&uscc(id), &format!("公司{id}"), "01", staff])]).await;
    }
    world.loaded().await;
    let stage = world.start();
    world.settled(&stage).await;
    // The rebuild halts behind the last row.
    let lines = LOOKUPS.replace("status = { const = \"1\" }", "status = { from = \"lxr\", codes = { \"9\" = \"1\" } }");
    let mut changed = resource(&lines);
    changed.quality.pause_above = PauseAbove { percent: 50, of: 4 };
    reload(&stage, &changed).await;
    let revision = stage.handle.rebuild().await.unwrap();
    stage.until(|status| status.rebuild.as_ref().is_some_and(|rebuild| rebuild.halted.is_some())).await;
    world.transaction(&[put("bm_zd", 1, &["01", "新局", CODE, "nn"])]).await;
    world.settled(&stage).await;
    assert!(stage.handle.resume().await.unwrap());
    stage.until(|status| status.rebuilt.is_some_and(|report| report.revision == revision)).await;
    let authorities: Vec<String> = published(&world).await.into_values().map(|(_, authority, _, _)| authority).collect();
    assert_eq!(authorities, ["新局"; 4]);
    stage.stop().await;
}

/// A resource with dictionaries that is made again under load, by mappings with and without one of them, while tables are emptied and entries
/// replayed, ends as the rows say.
async fn under_load(seed: u64) {
    let mut clerks = Clerks { random: StdRng::seed_from_u64(seed), newest: BTreeMap::new(), at: 0 };
    let mut world = World::new(COMPANIES, LOOKUPS).await;
    let mappings = [world.resource.clone(), without_contact()];
    // Before its table's first row a resource has no topic to read.
    while world.rows.get("qy").is_none_or(BTreeMap::is_empty) {
        clerks.transaction(&mut world).await;
    }
    world.loaded().await;
    let mut stage = world.start();
    for _ in 0..clerks.random.random_range(6..20) {
        for _ in 0..clerks.random.random_range(1..10) {
            clerks.transaction(&mut world).await;
        }
        match clerks.random.random_range(0..9) {
            0 | 1 => {
                stage.kill().await;
                stage = world.start();
            }
            2 => {
                world.resource = mappings[clerks.random.random_range(0..2)].clone();
                reload_when_open(&stage, &world.resource).await;
            }
            3 | 4 => match stage.handle.rebuild().await {
                Ok(_) | Err(HandleError::Rebuilding(_) | HandleError::Unavailable(_)) => {}
                Err(error) => panic!("seed {seed}: {error}"),
            },
            5 => drop(stage.handle.replay(Filter::default()).await),
            6 => world.truncate(["qy", "bm_zd", "qh_zd", "ry_zd"][clerks.random.random_range(0..4)]).await,
            _ => drop(world.settled(&stage).await),
        }
    }
    // Every key comes at last, whatever was missing.
    for id in 1..=3_u32 {
        let (key, name) = (id.to_string(), format!("末{id}局"));
        world.transaction(&[put("bm_zd", id, &[&key, &name, CODE, &key]), put("qh_zd", id, &[&key, "450102"])]).await;
    }
    world.settled(&stage).await;
    stage.until(|status| status.rebuild.is_none()).await;
    rebuild(&stage).await;
    let status = world.settled(&stage).await;
    let (wanted, missing) = standing(&world.rows, &clerks.newest);
    let has_contact = world.resource.map.contains_key("contact");
    let seen = |(name, authority, division, contact): Fields| (name, authority, division, contact.filter(|_| has_contact));
    let wanted: BTreeMap<String, Fields> = wanted.into_iter().map(|(code, fields)| (code, seen(fields))).collect();
    assert_eq!((missing, status.quarantined, status.held_back), (0, 0, 0), "seed {seed}");
    assert_eq!(published(&world).await, wanted, "seed {seed}");
    stage.stop().await;
}

async fn reload_when_open(stage: &Stage, resource: &Resource) {
    reload(stage, resource).await;
    stage.until(|status| status.phase == Phase::Running).await;
}

/// `GUITONG_SEED` repeats one history.
#[tokio::test]
async fn rebuilds_over_dictionaries_end_as_the_rows_say() {
    let seeds = match std::env::var("GUITONG_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => (0..12).map(|_| rand::random()).collect(),
    };
    for seed in seeds {
        println!("GUITONG_SEED={seed}");
        under_load(seed).await;
    }
}
