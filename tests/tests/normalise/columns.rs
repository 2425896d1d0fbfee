//! A department changes its table: what no mapping reads changes nothing, and what one reads follows the resource's policy.

use std::sync::Arc;

use guitong_normalise::{ColumnChange, Filter, Phase, What};
use guitong_schemas::contract::Resource;
use guitong_schemas::contract::mapping::ValueSource;
use guitong_schemas::contract::quality::PauseAbove;
use guitong_schemas::contract::resource::OnChange;
use guitong_schemas::table::ColumnType;

use super::harness::{Stage, World, uscc};

const CONTACT: [(&str, Option<&str>); 1] = [("lxr", Some("李示例"))];

/// The resource with a field that reads another column.
fn reading(resource: &Resource, field: &str, column: &str) -> Arc<Resource> {
    let mut resource = resource.clone();
    resource.map.get_mut(field).unwrap().value = ValueSource::Column(column.into());
    Arc::new(resource)
}

pub(super) async fn paused(stage: &Stage) -> String {
    let status = stage.until(|status| matches!(status.phase, Phase::Paused(_))).await;
    let Phase::Paused(reason) = status.phase else { panic!("{status:?}") };
    reason
}

async fn changed(stage: &Stage) -> ColumnChange {
    let status = stage.until(|status| !status.changes.is_empty()).await;
    status.changes[0].clone()
}

#[tokio::test]
async fn columns_that_no_mapping_reads_come_and_go() {
    let mut world = World::new().await;
    let stage = world.start();
    let mut resource = world.resource.clone();
    resource.map.remove("contact");
    stage.handle.reload(Arc::new(resource)).await.unwrap();
    world.create(1, &uscc(1), &CONTACT).await;
    world.drop_column("lxr");
    world.create(2, &uscc(2), &CONTACT).await;
    world.alter("lxr_old", |column| column.kind = ColumnType::Int64);
    world.create(3, &uscc(3), &[("lxr", Some("7"))]).await;
    // A wider type reads the same.
    world.alter("qymc", |column| column.kind = ColumnType::Json);
    world.create(4, &uscc(4), &[("lxr", Some("7"))]).await;
    let status = world.settled(&stage).await;
    assert_eq!((status.entities, status.quarantined, status.changes.len()), (4, 0, 0));
    stage.stop().await;
}

#[tokio::test]
async fn a_paused_resource_goes_on_where_it_stood_once_the_column_is_back() {
    let mut world = World::new().await;
    world.create(1, &uscc(1), &[]).await;
    world.create(2, "bad", &[]).await;
    world.drop_column("djzt");
    world.create(3, &uscc(3), &[]).await;
    let stage = world.start();
    let reason = paused(&stage).await;
    for said in ["`djzt`", "main.qy_jbxx", "is gone", "1/3/1", "2026-11-23T08:00:00+08:00", "`djzt_old`", "fields: status"] {
        assert!(reason.contains(said), "{said} is not in: {reason}");
    }
    let touched = "subscriptions: credit-enterprise, projects-enterprise, trading-enterprise;";
    assert!(reason.contains(touched) && reason.contains("resources/enterprise.toml"), "{reason}");
    let status = stage.until(|status| status.offset == 2).await;
    assert_eq!(status.entities, 1, "what came before is committed, and nothing after it");
    assert_eq!(world.metric("guitong_normalise_changed_columns", ("resource", "enterprise")), 1.0);
    assert_eq!(stage.handle.list(Filter::default(), None, 10).await.unwrap().items.len(), 1, "it still answers");
    assert_eq!(stage.handle.replay(Filter::default()).await.unwrap().kept, 1);

    world.restore_columns();
    world.create(4, &uscc(4), &[]).await;
    let status = world.settled(&stage).await;
    assert_eq!((status.entities, status.quarantined, status.changes.len()), (2, 2, 0));
    assert_eq!(world.metric("guitong_normalise_changed_columns", ("resource", "enterprise")), 0.0);
    let between = &stage.handle.list(Filter::default(), None, 10).await.unwrap().items[1];
    assert_eq!((between.key.as_str(), between.rejections[0].rule.as_str()), ("id=3", "column.gone"));
    assert!(between.rejections[0].zh.contains("已不存在") && between.rejections[0].en.contains("credit-enterprise"));
    // Read again, the row is whole.
    world.update(3, &uscc(3), &[]).await;
    let status = world.settled(&stage).await;
    assert_eq!((status.entities, status.quarantined), (3, 1));
    stage.stop().await;
}

#[tokio::test]
async fn a_paused_resource_goes_on_where_it_stood_under_a_changed_mapping() {
    let mut world = World::new().await;
    world.create(1, &uscc(1), &CONTACT).await;
    let stage = world.start();
    world.settled(&stage).await;
    world.drop_column("lxr");
    world.update(1, &uscc(1), &[("lxr", Some("王示例"))]).await;
    world.create(2, &uscc(2), &CONTACT).await;
    paused(&stage).await;
    stage.stop().await;
    // A restart changes nothing, and tells the same.
    let stage = world.start();
    assert!(paused(&stage).await.contains("perhaps renamed to `lxr_old`"));
    stage.handle.reload(reading(&world.resource, "contact", "lxr_old")).await.unwrap();
    let status = world.settled(&stage).await;
    assert_eq!((status.entities, status.quarantined, status.changes.len()), (2, 0, 0));
    let standing = world.standing().await;
    assert_eq!(standing[&uscc(1)].fields["contact"], "王示例");
    assert_eq!(standing[&uscc(2)].fields["contact"], "李示例");
    stage.stop().await;
}

#[tokio::test]
async fn rows_of_an_earlier_form_that_come_late_are_read_under_a_changed_mapping() {
    for policy in [OnChange::Pause, OnChange::Quarantine] {
        let mut world = World::new().await;
        world.resource.on_change = policy;
        world.create(1, &uscc(1), &CONTACT).await;
        let earlier = Arc::clone(&world.table);
        world.drop_column("lxr");
        let now = Arc::clone(&world.table);
        world.create(2, &uscc(2), &CONTACT).await;
        // What the first load had read before the change is handed out beside the stream.
        world.table = earlier;
        world.create(3, &uscc(3), &CONTACT).await;
        world.table = now;
        world.create(4, &uscc(4), &CONTACT).await;
        world.resource = Resource::clone(&reading(&world.resource, "contact", "lxr_old"));
        let stage = world.start();
        let status = world.settled(&stage).await;
        assert_eq!((status.entities, status.quarantined, status.changes.len()), (4, 0, 0), "{policy:?}");
        let standing = world.standing().await;
        for (id, contact, quality) in [(1, None, Some("contact:column.gone")), (2, Some("李示例"), None)] {
            for id in [id, id + 2] {
                let record = &standing[&uscc(id)];
                assert_eq!(record.fields.get("contact").map(String::as_str), contact, "{policy:?} {id}");
                assert_eq!(record.headers.get("guitong-quality").map(String::as_str), quality, "{policy:?} {id}");
            }
        }
        stage.stop().await;
    }
}

#[tokio::test]
async fn a_resource_that_goes_on_leaves_fields_empty_where_they_may_be() {
    let mut world = World::new().await;
    world.resource.on_change = OnChange::Continue;
    world.create(1, &uscc(1), &CONTACT).await;
    let stage = world.start();
    world.settled(&stage).await;
    world.drop_column("lxr");
    world.create(2, &uscc(2), &CONTACT).await;
    world.drop_column("djzt");
    world.create(3, &uscc(3), &CONTACT).await;
    let status = world.settled(&stage).await;
    assert_eq!((status.entities, status.quarantined, status.changes.len()), (2, 1, 2));
    let standing = world.standing().await;
    assert!(!standing[&uscc(2)].fields.contains_key("contact"));
    assert_eq!(standing[&uscc(2)].headers["guitong-quality"], "contact:column.gone");
    let item = &stage.handle.list(Filter::default(), None, 10).await.unwrap().items[0];
    let rules: Vec<_> = item.rejections.iter().map(|rejection| (&*rejection.rule, &*rejection.field)).collect();
    assert_eq!(rules, [("column.gone", "status")]);
    stage.stop().await;
}

#[tokio::test]
async fn rows_of_a_changed_table_wait_in_quarantine_until_the_mapping_follows() {
    let mut world = World::new().await;
    world.resource.on_change = OnChange::Quarantine;
    for id in 1..=3 {
        world.create(id, &uscc(id), &CONTACT).await;
    }
    let stage = world.start();
    world.settled(&stage).await;
    world.drop_column("lxr");
    world.update(1, &uscc(1), &[("lxr", Some("王示例"))]).await;
    world.create(4, &uscc(4), &CONTACT).await;
    world.delete(2).await;
    let status = world.settled(&stage).await;
    assert_eq!((status.entities, status.quarantined, status.held_back), (2, 2, 1), "a delete is no row");
    assert_eq!(world.standing().await[&uscc(1)].fields["contact"], "李示例", "the last good version stays");
    let change = changed(&stage).await;
    assert_eq!(change.what, What::Gone { perhaps: Some("lxr_old".into()) });
    assert_eq!((change.version.as_str(), change.fields.as_slice()), ("1/4/1/0/1", &["contact".to_owned()][..]));
    assert_eq!(change.subscriptions, Vec::<String>::new());
    stage.stop().await;

    let stage = world.start();
    assert_eq!(changed(&stage).await, change, "a restart knows it still");
    assert_eq!(stage.handle.replay(Filter::default()).await.unwrap().kept, 2);
    stage.handle.reload(reading(&world.resource, "contact", "lxr_old")).await.unwrap();
    assert_eq!(stage.handle.replay(Filter::default()).await.unwrap().released, 2);
    let status = stage.until(|status| status.quarantined == 0 && status.changes.is_empty()).await;
    assert_eq!((status.entities, status.held_back), (3, 0));
    assert_eq!(world.standing().await[&uscc(1)].fields["contact"], "王示例");
    stage.stop().await;
}

#[tokio::test]
async fn a_column_of_another_type_waits_for_a_person() {
    let mut world = World::new().await;
    world.create(1, &uscc(1), &[("zczb", Some("100"))]).await;
    let stage = world.start();
    world.settled(&stage).await;
    world.alter("zczb", |column| column.kind = ColumnType::Date);
    world.create(2, &uscc(2), &[("zczb", Some("2026-01-02"))]).await;
    let reason = paused(&stage).await;
    assert!(reason.contains("was text and is date") && reason.contains("raise `revision`"), "{reason}");
    let mut resource = world.resource.clone();
    resource.revision += 1;
    stage.handle.reload(Arc::new(resource.clone())).await.unwrap();
    stage.until(|status| status.rebuild.is_none() && status.rebuilt.is_some()).await;
    let status = world.settled(&stage).await;
    assert_eq!((status.entities, status.quarantined, status.changes.len()), (2, 0, 0));
    let standing = world.standing().await;
    assert_eq!(standing[&uscc(1)].headers["guitong-quality"], "reg_capital:column.retyped", "a row of an earlier form");
    assert_eq!(standing[&uscc(2)].headers["guitong-quality"], "reg_capital:number.form", "as the mapping and the standard say");

    // Read as it comes, and marked.
    resource.on_change = OnChange::Continue;
    stage.handle.reload(Arc::new(resource)).await.unwrap();
    world.alter("zczb", |column| column.kind = ColumnType::Int64);
    world.create(3, &uscc(3), &[("zczb", Some("300"))]).await;
    world.settled(&stage).await;
    let standing = world.standing().await;
    assert_eq!(standing[&uscc(3)].headers["guitong-quality"], "reg_capital:column.retyped");
    assert_eq!(changed(&stage).await.what, What::Retyped { from: "date".into(), to: "integer".into() });
    stage.stop().await;
}

#[tokio::test]
async fn rows_that_a_changed_column_sets_aside_do_not_count_as_too_many() {
    let mut world = World::new().await;
    world.resource.on_change = OnChange::Quarantine;
    world.resource.quality.pause_above = PauseAbove { percent: 50, of: 10 };
    world.create(1, &uscc(1), &CONTACT).await;
    let stage = world.start();
    world.settled(&stage).await;
    world.drop_column("lxr");
    for id in 2..=21 {
        world.create(id, &uscc(id), &CONTACT).await;
    }
    let status = world.settled(&stage).await;
    assert_eq!((status.phase, status.quarantined), (Phase::Running, 20));
    stage.stop().await;
}
