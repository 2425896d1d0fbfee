//! Cases with their steps in another table: whatever happens to either, a case's record holds its steps of now, in their order.

use std::collections::BTreeMap;

use guitong_normalise::Filter;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::harness::{ABSENT, Stage};
use super::world::{CASES, PENALTIES, Rows, Step, World, gone, put};

/// Steps by a number of the department; one whose number is 0 is a draft.
const STEPS: &str = r#"
[details.steps]
table = "main.hj"
key = "bjh"
order_by = "xh"
where = "row.xh != '0'"

[map]
case_no = "bjh"
item_name = "sx"
steps = { details = "steps", item = { name = "hj", handler = "jbr", started = "sj", opinion = "yj" } }
accepted_at = { details = "steps", of = "first", from = "sj" }
finished_at = { details = "steps", of = "row.hj == '办结'", from = "sj" }
status = { cases = [
    { when = "row.jg == '撤回'", const = "80" },
    { details = "steps", of = "last", from = "hj", codes = { "收件" = "10", "办结" = "60" }, other = "50", default = "10" },
] }
"#;

const DAY: &str = "2017-09-22 08:";

/// A record's subject matter, names of its steps with their handlers, its status, and when it was accepted and finished.
type Case = (String, Vec<String>, String, String, String);

/// What stands of the cases by their number.
async fn cases(world: &World) -> BTreeMap<String, Case> {
    let standing = world.standing().await.into_iter();
    let case = |(key, fields): (String, BTreeMap<String, String>)| {
        let text = |name: &str| fields.get(name).cloned().unwrap_or_default();
        let number = key.strip_prefix("registration/").unwrap().to_owned();
        (number, (text("item_name"), step_names(&text("steps")), text("status"), text("accepted_at"), text("finished_at")))
    };
    standing.map(case).collect()
}

/// Name and handler of each step of a decoded list.
pub(super) fn step_names(steps: &str) -> Vec<String> {
    let texts = |record: &str| -> Vec<String> {
        record.split("Text(\"").skip(1).take(2).filter_map(|part| Some(part.split_once('"')?.0.to_owned())).collect()
    };
    steps.split("Record(").skip(1).map(|record| texts(record).join("/")).collect()
}

fn step<'a>(id: u32, case: &'a str, number: &'a str, name: &'a str, at: &'a str) -> Step<'a> {
    put("hj", id, &[case, number, name, "李示例", at])
}

async fn started() -> (World, Stage) {
    let mut world = World::new(CASES, STEPS).await;
    world.loaded().await;
    world.transaction(&[put("bj", 1, &["甲", "开户", ""])]).await;
    let stage = world.start();
    world.settled(&stage).await;
    (world, stage)
}

#[tokio::test]
async fn a_case_holds_its_steps_in_their_order_whoever_comes_first() {
    let mut world = World::new(CASES, STEPS).await;
    // Steps before their case, out of their order.
    world
        .transaction(&[
            step(3, "甲", "10", "办结", "2017-09-25 16:30:00"),
            step(1, "甲", "9", "审核", "2017-09-23 09:00:00"),
            step(2, "甲", "1", "收件", "2017-09-22 08:30:05"),
            step(4, "甲", "0", "草稿", "2017-09-22 08:00:00"),
            step(5, "", "1", "无主", ""),
        ])
        .await;
    world.transaction(&[put("bj", 1, &["甲", "开户", ""]), put("bj", 2, &["乙", "变更", ""])]).await;
    let stage = world.start();
    world.loaded().await;
    let status = world.settled(&stage).await;
    assert_eq!((status.entities, status.quarantined, status.received), (2, 0, 2));
    let standing = cases(&world).await;
    let (subject, steps, status, accepted, finished) = &standing["甲"];
    assert_eq!((subject.as_str(), status.as_str()), ("开户", "60"));
    assert_eq!(*steps, ["收件/李示例", "审核/李示例", "办结/李示例"]);
    assert_eq!((accepted.as_str(), finished.as_str()), ("Int(1506040205000000)", "Int(1506328200000000)"));
    assert_eq!(standing["乙"], ("变更".to_owned(), vec![], "10".to_owned(), String::new(), String::new()));

    // A case before its steps.
    let before = world.published().await;
    world.transaction(&[step(6, "乙", "2", "审核", ""), step(7, "乙", "1", "收件", "")]).await;
    world.settled(&stage).await;
    let standing = cases(&world).await;
    assert_eq!((&standing["乙"].1, standing["乙"].2.as_str()), (&vec!["收件/李示例".to_owned(), "审核/李示例".to_owned()], "50"));
    assert_eq!(world.published().await, before + 1, "only the case whose steps they are, once");
    stage.stop().await;
}

#[tokio::test]
async fn a_step_that_changes_moves_and_goes_is_followed() {
    let (mut world, stage) = started().await;
    world.transaction(&[put("bj", 2, &["乙", "变更", ""]), step(1, "甲", "1", "收件", ""), step(2, "甲", "2", "审核", "")]).await;
    world.settled(&stage).await;
    let steps = async |world: &World, case: &str| cases(world).await[case].1.clone();
    assert_eq!(steps(&world, "甲").await, ["收件/李示例", "审核/李示例"]);

    // It changes its place, and keeps what was not sent.
    world.transaction(&[step(1, ABSENT, "3", ABSENT, ABSENT)]).await;
    world.settled(&stage).await;
    assert_eq!(steps(&world, "甲").await, ["审核/李示例", "收件/李示例"]);

    // It moves to another case.
    world.transaction(&[step(1, "乙", "3", "收件", "")]).await;
    world.settled(&stage).await;
    assert_eq!((steps(&world, "甲").await, steps(&world, "乙").await), (vec!["审核/李示例".into()], vec!["收件/李示例".into()]));

    // The case is gone and its steps after it; then it is there again.
    world.transaction(&[gone("bj", 1)]).await;
    world.settled(&stage).await;
    let before = world.published().await;
    world.transaction(&[gone("hj", 2), step(3, "甲", "1", "收件", "")]).await;
    let status = world.settled(&stage).await;
    assert_eq!((status.entities, world.published().await), (1, before), "steps without their case publish nothing");
    world.transaction(&[put("bj", 7, &["甲", "重开", ""])]).await;
    world.settled(&stage).await;
    assert_eq!(cases(&world).await["甲"].1, ["收件/李示例"]);

    // A truncate of the steps.
    world.truncate("hj").await;
    world.settled(&stage).await;
    assert_eq!((steps(&world, "甲").await.len(), steps(&world, "乙").await.len()), (0, 0));
    world.transaction(&[step(1, "甲", "1", "收件", "")]).await;
    world.settled(&stage).await;
    assert_eq!(steps(&world, "甲").await, ["收件/李示例"]);
    stage.stop().await;
}

#[tokio::test]
async fn a_case_with_too_many_steps_is_set_aside_and_mends_when_they_are_fewer() {
    let mut world = World::new(CASES, STEPS).await;
    let numbers: Vec<String> = (0..5_100).map(|number| (number + 1).to_string()).collect();
    for (part, numbers) in numbers.chunks(500).enumerate() {
        let steps: Vec<Step<'_>> =
            numbers.iter().zip(1 + 500 * part as u32..).map(|(number, id)| step(id, "甲", number, "审核", "")).collect();
        world.transaction(&steps).await;
    }
    world.transaction(&[put("bj", 1, &["甲", "开户", ""]), put("bj", 2, &["乙", "变更", ""])]).await;
    world.loaded().await;
    let stage = world.start();
    let status = world.settled(&stage).await;
    assert_eq!((status.entities, status.quarantined, status.held_back), (1, 1, 0), "the rest goes on");
    let rules: std::collections::BTreeSet<String> = stage.handle.list(Filter::default(), None, 10).await.unwrap().items[0]
        .rejections
        .iter()
        .map(|rejection| format!("{}:{}", rejection.field, rejection.rule))
        .collect();
    assert!(rules.contains("steps:join.too_many_rows"), "{rules:?}");

    // A step of theirs changes, with what is not sent; a hundred are gone, and the case is whole.
    world.transaction(&[step(5_000, ABSENT, "5000", "办结", ABSENT)]).await;
    let gone: Vec<Step<'_>> = (1..=100).map(|id| gone("hj", id)).collect();
    world.transaction(&gone).await;
    let status = world.settled(&stage).await;
    assert_eq!((status.entities, status.quarantined, status.held_back), (2, 0, 0));
    let (_, steps, ..) = &cases(&world).await["甲"];
    assert_eq!((steps.len(), steps[4_899].as_str()), (5_000, "办结/李示例"));
    stage.stop().await;
}

/// What the rows come to by case number.
fn wanted(rows: &Rows) -> BTreeMap<String, Case> {
    let none = BTreeMap::new();
    let text = |row: &[Option<String>], at: usize| row.get(at).cloned().flatten().unwrap_or_default();
    let mut cases = BTreeMap::new();
    for row in rows.get("bj").unwrap_or(&none).values() {
        let mut steps: Vec<(u32, u32, &Vec<Option<String>>)> = rows
            .get("hj")
            .unwrap_or(&none)
            .iter()
            .filter(|(_, step)| text(step, 0) == text(row, 0) && text(step, 1) != "0")
            .map(|(id, step)| (text(step, 1).parse().unwrap(), *id, step))
            .collect();
        steps.sort();
        let names: Vec<String> = steps.iter().map(|(.., step)| format!("{}/{}", text(step, 2), text(step, 3))).collect();
        let status = match steps.last().map(|(.., step)| text(step, 2)).as_deref() {
            _ if text(row, 2) == "撤回" => "80",
            None | Some("收件") => "10",
            Some("办结") => "60",
            Some(_) => "50",
        };
        let time = |step: Option<&(u32, u32, &Vec<Option<String>>)>| {
            let at = step.map(|(.., step)| text(step, 4));
            let minute = at.as_deref().and_then(|at| at.strip_prefix(DAY)?.split(':').next()?.parse::<i64>().ok());
            minute.map_or_else(String::new, |minute| format!("Int({})", (1_506_038_400 + minute * 60) * 1_000_000))
        };
        let finished = steps.iter().rev().find(|(.., step)| text(step, 2) == "办结");
        let case = (text(row, 1), names, status.to_owned(), time(steps.first()), time(finished));
        cases.insert(text(row, 0), case);
    }
    cases
}

/// One random transaction of the department.
async fn transaction(random: &mut StdRng, world: &mut World, at: &mut u32, long: usize) {
    const CASE_NUMBERS: [&str; 4] = ["甲", "乙", "丙", "丁"];
    if random.random_ratio(1, 40) {
        return world.truncate("hj").await;
    }
    let mut owned: BTreeMap<(&'static str, u32), Option<Vec<String>>> = BTreeMap::new();
    for _ in 0..random.random_range(1..6) {
        *at += 1;
        let table = if random.random_ratio(1, 3) { "bj" } else { "hj" };
        // A case's number is that of its row, so that two rows never claim one case.
        let id = random.random_range(1..=if table == "bj" { 4 } else { 12_u32 });
        let exists = world.rows.get(table).is_some_and(|rows| rows.contains_key(&id));
        let values = match table {
            _ if exists && random.random_ratio(1, 4) => None,
            "bj" => {
                let state = if random.random_ratio(1, 5) { "撤回" } else { "" };
                Some(vec![CASE_NUMBERS[id as usize - 1].to_owned(), format!("第{at}件"), state.to_owned()])
            }
            _ => {
                let case = CASE_NUMBERS[random.random_range(0..4)].to_owned();
                let name = ["收件", "审核", "办结"][random.random_range(0..3)].to_owned();
                let (number, handler) = (random.random_range(0..12).to_string(), format!("示例{at}"));
                let time = format!("{DAY}{:02}:00", random.random_range(0..60));
                Some(vec![case, number, name, handler, time, "意".repeat(long * random.random_range(0..2))])
            }
        };
        owned.insert((table, id), values);
    }
    let steps: Vec<Step<'_>> = owned
        .iter()
        .filter(|((table, id), values)| values.is_some() || world.rows.get(table).is_some_and(|rows| rows.contains_key(id)))
        .map(|((table, id), values)| match values {
            None => gone(table, *id),
            Some(values) => put(table, *id, &values.iter().map(String::as_str).collect::<Vec<_>>()),
        })
        .collect();
    world.transaction(&steps).await;
}

async fn history(seed: u64, mut world: World) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut at = 0;
    // Long opinions make what belongs to one case too large for one value of the state.
    let long = random.random_range(0..3) * 300;
    for _ in 0..random.random_range(0..10) {
        transaction(&mut random, &mut world, &mut at, long).await;
    }
    world.loaded().await;
    let mut stage: Option<Stage> = None;
    for _ in 0..random.random_range(5..20) {
        for _ in 0..random.random_range(1..12) {
            transaction(&mut random, &mut world, &mut at, long).await;
        }
        match random.random_range(0..6) {
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
                assert_eq!(cases(&world).await, wanted(&world.rows), "seed {seed}");
            }
            _ => stage = stage.or_else(|| Some(world.start())),
        }
    }
    world.transaction(&[put("bj", 9, &["末", "末件", ""])]).await;
    let stage = stage.unwrap_or_else(|| world.start());
    let status = world.settled(&stage).await;
    assert_eq!((status.quarantined, status.held_back), (0, 0), "seed {seed}");
    assert_eq!(cases(&world).await, wanted(&world.rows), "seed {seed}");
    stage.stop().await;
    // Read anew, the tables come to the same.
    let fresh = world.afresh().await;
    assert_eq!(cases(&fresh).await, cases(&world).await, "seed {seed}: a fresh run differs");
}

/// `GUITONG_SEED` repeats one history.
#[tokio::test]
async fn random_histories_over_details_end_as_the_tables_say() {
    let seeds = match std::env::var("GUITONG_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => (0..12).map(|_| rand::random()).collect(),
    };
    for seed in seeds {
        println!("GUITONG_SEED={seed}");
        history(seed, World::new(CASES, STEPS).await).await;
    }
}

#[tokio::test]
async fn a_history_over_details_ends_as_the_tables_say_on_kafka() {
    let seed = guitong_tests::seed();
    history(seed, World::on_kafka(CASES, STEPS).await).await;
}

/// A penalty whose kinds are rows of another table.
const KINDS: &str = r#"
[details.kinds]
table = "main.hj"
key = "bjh"
order_by = "xh"
where = "row.xh != '0'"

[map]
record_kind = { const = "2" }
subject_name = { const = "示例公司" }
subject_kind = { const = "1" }
doc_no = "bjh"
content = "sx"
decided = { const = "2017-09-22" }
authority = { const = "示例局" }
authority_uscc = { const = "11450000PDY00001X0" }
source_unit = { const = "示例局" }
source_unit_uscc = { const = "11450000PDY00001X0" }
penalty_kind = { details = "kinds", of = "every", from = "hj", clean = "brackets", codes = { "警告" = "1", "罚款" = "2", "没收" = "3" } }
"#;

#[tokio::test]
async fn a_list_holds_what_each_row_gives() {
    let mut world = World::new(PENALTIES, KINDS).await;
    let kind = |id, number, name| put("hj", id, &["甲", number, name]);
    world.transaction(&[put("bj", 1, &["甲", "占道经营"]), kind(1, "2", "警告"), kind(2, "1", "罚款（当场）")]).await;
    world.transaction(&[kind(3, "3", "罚款"), kind(4, "4", ""), kind(5, "0", "没收")]).await;
    world.loaded().await;
    let stage = world.start();
    world.settled(&stage).await;
    let kinds = async |world: &World| {
        let record = world.standing().await.into_values().next().unwrap();
        let list = record.get("penalty_kind").cloned().unwrap_or_default();
        let marks = record.get("quality").cloned().unwrap_or_default();
        (list, marks.split(',').filter(|mark| mark.starts_with("penalty_kind")).map(str::to_owned).collect::<Vec<_>>())
    };
    let list = |codes: &[&str]| {
        format!("List([{}])", codes.iter().map(|code| format!("Text(\"{code}\")")).collect::<Vec<_>>().join(", "))
    };
    assert_eq!(kinds(&world).await, (list(&["2", "1"]), vec![]), "in their order, each once, without the draft");

    world.transaction(&[gone("hj", 2), gone("hj", 3), kind(5, "5", "没收")]).await;
    world.settled(&stage).await;
    assert_eq!(kinds(&world).await, (list(&["1", "3"]), vec![]));

    // One that the list does not have: the field is conditional, so it is null with a mark.
    world.transaction(&[kind(4, "4", "通报")]).await;
    world.settled(&stage).await;
    assert_eq!(kinds(&world).await, (String::new(), vec!["penalty_kind:code.unknown".to_owned()]));

    world.transaction(&[gone("hj", 1), gone("hj", 4), gone("hj", 5)]).await;
    world.settled(&stage).await;
    assert_eq!(kinds(&world).await.0, "");
    stage.stop().await;
}
