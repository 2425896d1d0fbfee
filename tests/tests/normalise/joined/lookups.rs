//! Dictionaries: what they give, what becomes of keys that they do not have, and what follows from a change of theirs.

use std::collections::BTreeMap;

use guitong_normalise::{Filter, Phase};

use super::super::harness::{ABSENT, uscc};
use super::world::{COMPANIES, LOOKUPS, World, gone, put};

/// The credit code of a department's sample authority.
const CODE: &str = "11450000PDY00001X0";

async fn with_dictionaries() -> World {
    let mut world = World::new(COMPANIES, LOOKUPS).await;
    world
        .transaction(&[
            put("bm_zd", 1, &["01", "市场监督管理局", CODE, "nn"]),
            put("qh_zd", 1, &["nn", "450103"]),
            put("ry_zd", 1, &["9", "李示例"]),
        ])
        .await;
    world
}

#[tokio::test]
async fn a_row_is_made_of_what_the_dictionaries_say() {
    let mut world = with_dictionaries().await;
    world.transaction(&[put("qy", 1, &[&uscc(1), "南宁甲公司", " 01 ", "9"]), put("qy", 2, &[&uscc(2), "乙公司", "01"])]).await;
    let stage = world.start();
    let waits = stage.until(|status| matches!(status.phase, Phase::WaitingForTables(_))).await;
    assert_eq!(waits.phase, Phase::WaitingForTables("main.bm_zd, main.qh_zd, main.ry_zd".to_owned()));
    world.loaded().await;
    let status = world.settled(&stage).await;
    assert_eq!((status.entities, status.quarantined, status.received), (2, 0, 2));
    let standing = world.standing().await;
    let first = &standing[&uscc(1)];
    for (field, value) in [
        ("reg_authority", "市场监督管理局"),
        ("reg_authority_code", CODE),
        ("reg_address_division", "450103"),
        ("contact", "李示例"),
    ] {
        assert_eq!(first.get(field).map(String::as_str), Some(value), "{field}");
    }
    assert!(!standing[&uscc(2)].contains_key("contact"), "an empty column looks nothing up");
    assert!(!standing[&uscc(2)].contains_key("quality"), "{:?}", standing[&uscc(2)]);
    stage.stop().await;
}

#[tokio::test]
async fn a_missing_key_is_an_error_or_a_warning_and_mends_itself_when_it_comes() {
    let mut world = World::new(COMPANIES, LOOKUPS).await;
    world.loaded().await;
    world.transaction(&[put("qy", 1, &[&uscc(1), "南宁甲公司", "01", "9"])]).await;
    let stage = world.start();
    let status = world.settled(&stage).await;
    assert_eq!((status.entities, status.quarantined, status.held_back), (0, 1, 0));
    let list = stage.handle.list(Filter::default(), None, 10).await.unwrap();
    let reasons: Vec<_> = list.items[0].rejections.iter().map(|it| (it.field.as_str(), it.rule.as_str())).collect();
    let wanted = ["reg_authority", "reg_authority_code", "reg_address_division"].map(|field| (field, "lookup.missing"));
    assert_eq!(reasons, wanted);

    // Of two keys the first is not enough, but the reasons are fewer.
    world.transaction(&[put("bm_zd", 1, &["01", "市场监督管理局", CODE, "nn"])]).await;
    let status = stage.until(|status| status.joined.contains_key("raw.registration.main.bm_zd") && !status.refreshing).await;
    assert_eq!((status.entities, status.quarantined), (0, 1));
    world.settled(&stage).await;
    let list = stage.handle.list(Filter::default(), None, 10).await.unwrap();
    assert_eq!(list.items[0].rejections.len(), 1, "{:?}", list.items[0].rejections);

    world.transaction(&[put("qh_zd", 1, &["nn", "450103"])]).await;
    let status = stage.until(|status| status.entities == 1).await;
    assert_eq!((status.quarantined, status.held_back), (0, 0));
    let standing = world.standing().await;
    assert_eq!(standing[&uscc(1)]["quality"], "contact:lookup.missing", "an optional field is null with a mark");

    world.transaction(&[put("ry_zd", 7, &["9", "李示例"])]).await;
    world.settled(&stage).await;
    let standing = world.standing().await;
    assert_eq!(standing[&uscc(1)].get("contact").map(String::as_str), Some("李示例"));
    assert!(!standing[&uscc(1)].contains_key("quality"));
    stage.stop().await;
}

#[tokio::test]
async fn a_change_and_a_delete_of_a_dictionary_row_follow_to_its_users() {
    let mut world = with_dictionaries().await;
    world.loaded().await;
    for id in 1..=3 {
        world.transaction(&[put("qy", id, &[&uscc(id), "甲公司", "01", "9"])]).await;
    }
    world.transaction(&[put("qy", 4, &[&uscc(4), "丁公司", "02"]), put("bm_zd", 2, &["02", "别的局", CODE, "nn"])]).await;
    let stage = world.start();
    world.settled(&stage).await;
    let before = world.published().await;
    world.transaction(&[put("bm_zd", 1, &["01", "大数据局", CODE, "nn"])]).await;
    world.settled(&stage).await;
    assert_eq!(world.published().await, before + 3, "each user once, and nobody else");
    let names = |standing: &BTreeMap<String, BTreeMap<String, String>>| -> Vec<String> {
        standing.values().map(|fields| fields["reg_authority"].clone()).collect()
    };
    assert_eq!(names(&world.standing().await), ["大数据局", "大数据局", "大数据局", "别的局"]);

    // A column that nobody reads changes nothing.
    world.transaction(&[put("bm_zd", 1, &["01", "大数据局", CODE, "nn", "备注"])]).await;
    world.settled(&stage).await;
    assert_eq!(world.published().await, before + 3);

    // The row is gone: what stood stays, held back, until the key is there again.
    world.transaction(&[gone("bm_zd", 1)]).await;
    let status = world.settled(&stage).await;
    assert_eq!((status.entities, status.quarantined, status.held_back), (4, 3, 3));
    assert_eq!(names(&world.standing().await)[0], "大数据局");
    world.transaction(&[gone("qy", 3)]).await;
    let status = world.settled(&stage).await;
    assert_eq!((status.entities, status.quarantined, status.held_back), (3, 2, 2));
    world.transaction(&[put("bm_zd", 9, &["01", "第三局", CODE, "nn"])]).await;
    let status = world.settled(&stage).await;
    assert_eq!((status.entities, status.quarantined, status.held_back), (3, 0, 0));
    assert_eq!(names(&world.standing().await), ["第三局", "第三局", "别的局"]);

    // The key of a dictionary row moves: those that looked for the old one miss it, those that look for the new one find it.
    world.transaction(&[put("bm_zd", 2, &["03", "别的局", CODE, "nn"]), put("qy", 5, &[&uscc(5), "戊公司", "03"])]).await;
    let status = world.settled(&stage).await;
    assert_eq!((status.quarantined, status.held_back), (1, 1));
    assert_eq!(world.standing().await[&uscc(5)]["reg_authority"], "别的局");
    stage.stop().await;
}

#[tokio::test]
async fn a_dictionary_found_by_another_is_followed_too() {
    let mut world = with_dictionaries().await;
    world.loaded().await;
    world.transaction(&[put("qh_zd", 2, &["lz", "450202"]), put("qy", 1, &[&uscc(1), "甲公司", "01"])]).await;
    let stage = world.start();
    world.settled(&stage).await;
    let division = async |world: &World| world.standing().await[&uscc(1)]["reg_address_division"].clone();
    assert_eq!(division(&world).await, "450103");
    world.transaction(&[put("bm_zd", 1, &["01", "市场监督管理局", CODE, "lz"])]).await;
    world.settled(&stage).await;
    assert_eq!(division(&world).await, "450202");
    world.transaction(&[put("qh_zd", 2, &["lz", "450203"]), put("qh_zd", 1, &["nn", "450102"])]).await;
    world.settled(&stage).await;
    assert_eq!(division(&world).await, "450203");
    stage.stop().await;
}

#[tokio::test]
async fn what_a_dictionary_row_leaves_out_stays_as_it_was() {
    let mut world = with_dictionaries().await;
    world.loaded().await;
    world.transaction(&[put("qy", 1, &[&uscc(1), "甲公司", "01"])]).await;
    let stage = world.start();
    world.settled(&stage).await;
    world.transaction(&[put("bm_zd", 1, &[ABSENT, "大数据局", ABSENT, ABSENT])]).await;
    world.transaction(&[put("bm_zd", 1, &[ABSENT, "数据局", ABSENT, ABSENT])]).await;
    let status = world.settled(&stage).await;
    assert_eq!((status.quarantined, status.held_back), (0, 0));
    let standing = world.standing().await;
    let fields = &standing[&uscc(1)];
    assert_eq!((fields["reg_authority"].as_str(), fields["reg_authority_code"].as_str()), ("数据局", CODE));
    stage.stop().await;
}
