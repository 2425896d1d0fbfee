//! A resource that is away for longer than its joined tables' deletes are kept.

use super::super::away::{KEPT, grow_old};
use super::super::harness::uscc;
use super::groups::{GROUPED, cases, step};
use super::world::{COMPANIES, LOOKUPS, STEPS, World, gone, put};

#[tokio::test]
async fn a_dictionary_entry_that_was_deleted_unseen_gives_nothing_more() {
    let mut world = World::keeping_deletes_for(KEPT, COMPANIES, LOOKUPS).await;
    world
        .transaction(&[
            put("bm_zd", 1, &["01", "市场监督管理局", "11450000PDY00001X0", "nn"]),
            put("qh_zd", 1, &["nn", "450103"]),
            put("ry_zd", 1, &["9", "李示例"]),
            put("ry_zd", 2, &["8", "覃示例"]),
        ])
        .await;
    world.loaded().await;
    world.transaction(&[put("qy", 1, &[&uscc(1), "甲", "01", "9"]), put("qy", 2, &[&uscc(2), "乙", "01", "8"])]).await;
    let stage = world.start();
    world.settled(&stage).await;
    stage.stop().await;
    world.transaction(&[gone("ry_zd", 1)]).await;
    grow_old(&*world.log).await;
    let stage = world.start();
    world.settled(&stage).await;
    let standing = world.standing().await;
    assert_eq!(standing[&uscc(1)]["quality"], "contact:lookup.missing");
    assert_eq!(standing[&uscc(2)]["contact"], "覃示例");
    stage.stop().await;
}

#[tokio::test]
async fn a_step_that_was_deleted_unseen_leaves_its_record() {
    let mut world = World::keeping_deletes_for(KEPT, STEPS, GROUPED).await;
    world.transaction(&[put("ry_zd", 1, &["01", "李示例"])]).await;
    world.loaded().await;
    world
        .transaction(&[
            step(1, "甲", "1", "收件", "01", "2017-09-22 08:10:00"),
            step(2, "甲", "2", "审核", "01", "2017-09-22 08:20:00"),
            step(3, "乙", "1", "收件", "01", "2017-09-22 08:10:00"),
            step(4, "丙", "1", "收件", "01", "2017-09-22 08:10:00"),
        ])
        .await;
    let stage = world.start();
    assert_eq!(world.settled(&stage).await.entities, 3);
    stage.stop().await;
    world.transaction(&[gone("hj", 2), gone("hj", 3)]).await;
    grow_old(&*world.log).await;
    let stage = world.start();
    let status = world.settled(&stage).await;
    assert_eq!(status.entities, 2);
    let standing = cases(&world).await;
    assert_eq!(standing.keys().collect::<Vec<_>>(), ["丙", "甲"]);
    assert_eq!(standing["甲"].5, ["收件/01"]);
    stage.stop().await;
}

/// Nothing is left of the table, not even what said so.
#[tokio::test]
async fn a_dictionary_that_was_emptied_unseen_is_empty() {
    let mut world = World::keeping_deletes_for(KEPT, STEPS, GROUPED).await;
    world.transaction(&[put("ry_zd", 1, &["01", "李示例"])]).await;
    world.loaded().await;
    world.transaction(&[step(1, "甲", "1", "收件", "01", "2017-09-22 08:10:00")]).await;
    let stage = world.start();
    world.settled(&stage).await;
    assert_eq!(cases(&world).await["甲"].2, "李示例");
    stage.stop().await;
    world.transaction(&[gone("ry_zd", 1)]).await;
    grow_old(&*world.log).await;
    let stage = world.start();
    world.settled(&stage).await;
    assert_eq!(cases(&world).await["甲"].2, "");
    stage.stop().await;
}
