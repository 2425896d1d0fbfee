//! A dictionary changes its columns: what the resource's policy says of it, and what is told.

use std::sync::Arc;

use guitong_normalise::{Filter, NormaliserStatus, Phase, What};
use guitong_schemas::contract::resource::OnChange;

use super::super::harness::{Stage, uscc};
use super::world::{COMPANIES, LOOKUPS, World, directory, gone, put};

const CODE: &str = "11450000PDY00001X0";

/// Two companies whose contact is in a dictionary.
async fn with_contacts(policy: OnChange) -> (World, Stage) {
    let mut world = World::new(COMPANIES, LOOKUPS).await;
    world.resource.on_change = policy;
    world.transaction(&[put("bm_zd", 1, &["01", "市场监督管理局", CODE, "nn"]), put("qh_zd", 1, &["nn", "450103"])]).await;
    world.transaction(&[put("ry_zd", 1, &["8", "李示例"]), put("ry_zd", 2, &["9", "王示例"])]).await;
    world.loaded().await;
    world.transaction(&[put("qy", 1, &[&uscc(1), "甲公司", "01", "8"]), put("qy", 2, &[&uscc(2), "乙公司", "01", "9"])]).await;
    let stage = world.start();
    assert_eq!(world.settled(&stage).await.entities, 2);
    (world, stage)
}

fn contact(
    standing: &std::collections::BTreeMap<String, std::collections::BTreeMap<String, String>>,
    id: u32,
) -> [Option<&str>; 2] {
    ["contact", "quality"].map(|field| standing[&uscc(id)].get(field).map(String::as_str))
}

fn told(status: &NormaliserStatus) {
    let change = &status.changes[0];
    assert_eq!((change.table.as_str(), change.column.as_str()), ("main.ry_zd", "xm"));
    assert_eq!(change.what, What::Gone { perhaps: Some("xingming".into()) });
    assert_eq!(
        (change.fields.as_slice(), change.subscriptions.as_slice()),
        (&["contact".to_owned()][..], &["credit".to_owned()][..])
    );
}

#[tokio::test]
async fn a_resource_waits_for_a_dictionary_that_lost_a_column() {
    let (mut world, stage) = with_contacts(OnChange::Pause).await;
    world.rename("ry_zd", "xm", "xingming");
    world.transaction(&[put("ry_zd", 1, &["8", "张示例"])]).await;
    let status = stage.until(|status| matches!(status.phase, Phase::Paused(_))).await;
    told(&status);
    let Phase::Paused(reason) = &status.phase else { panic!("{status:?}") };
    for said in ["column `xm` of main.ry_zd is gone", "fields: contact; subscriptions: credit;", "resources/record.toml"] {
        assert!(reason.contains(said), "{said} is not in: {reason}");
    }
    stage.stop().await;
    // A restart tells the same; a mapping that reads the new name reads the older rows as far as they can be.
    let stage = world.start();
    told(&stage.until(|status| matches!(status.phase, Phase::Paused(_)) && !status.changes.is_empty()).await);
    let text = LOOKUPS.replace("value = \"xm\"", "value = \"xingming\"");
    let mut resource = (*directory(COMPANIES, &text).unwrap().resources[&world.resource.name]).clone();
    resource.on_change = OnChange::Pause;
    stage.handle.reload(Arc::new(resource)).await.unwrap();
    let status = world.settled(&stage).await;
    assert_eq!((status.entities, status.quarantined, status.changes.len()), (2, 0, 0));
    let standing = world.standing().await;
    assert_eq!(contact(&standing, 1), [Some("张示例"), None]);
    assert_eq!(contact(&standing, 2), [None, Some("contact:column.gone")]);
    stage.stop().await;
}

#[tokio::test]
async fn a_resource_goes_on_without_a_column_of_a_dictionary() {
    let (mut world, stage) = with_contacts(OnChange::Continue).await;
    world.rename("ry_zd", "xm", "xingming");
    world.transaction(&[put("ry_zd", 1, &["8", "张示例"])]).await;
    told(&world.settled(&stage).await);
    let standing = world.standing().await;
    assert_eq!(contact(&standing, 1), [None, Some("contact:column.gone")]);
    assert_eq!(contact(&standing, 2), [Some("王示例"), None], "what did not change stays");
    world.rename("ry_zd", "xingming", "xm");
    world.transaction(&[put("ry_zd", 1, &["8", "张示例"])]).await;
    assert_eq!(world.settled(&stage).await.changes.len(), 0);
    assert_eq!(contact(&world.standing().await, 1), [Some("张示例"), None]);
    stage.stop().await;
}

#[tokio::test]
async fn rows_of_a_dictionary_that_lost_a_column_are_set_aside() {
    let (mut world, stage) = with_contacts(OnChange::Quarantine).await;
    world.rename("ry_zd", "xm", "xingming");
    world.transaction(&[put("ry_zd", 1, &["8", "张示例"])]).await;
    let status = world.settled(&stage).await;
    told(&status);
    assert_eq!((status.entities, status.quarantined), (2, 1));
    let item = &stage.handle.list(Filter::default(), None, 10).await.unwrap().items[0];
    assert_eq!(item.rejections[0].rule, "event.columns");
    assert_eq!(contact(&world.standing().await, 1), [Some("李示例"), None], "the last good version stays");

    // With the column back the row's next change settles it.
    world.rename("ry_zd", "xingming", "xm");
    world.transaction(&[put("ry_zd", 1, &["8", "张示例二"])]).await;
    assert_eq!(world.settled(&stage).await.quarantined, 0);
    assert_eq!(contact(&world.standing().await, 1), [Some("张示例二"), None]);
    stage.stop().await;
}

/// Two rows of the dictionary that were set aside, with the mapping that can read them.
async fn set_aside() -> (World, Stage, guitong_schemas::contract::Resource) {
    let (mut world, stage) = with_contacts(OnChange::Quarantine).await;
    world.rename("ry_zd", "xm", "xingming");
    world.transaction(&[put("ry_zd", 1, &["8", "张示例"]), put("ry_zd", 2, &["9", "覃示例"])]).await;
    assert_eq!(world.settled(&stage).await.quarantined, 2);
    let text = LOOKUPS.replace("value = \"xm\"", "value = \"xingming\"");
    let mut resource = (*directory(COMPANIES, &text).unwrap().resources[&world.resource.name]).clone();
    resource.on_change = OnChange::Quarantine;
    (world, stage, resource)
}

#[tokio::test]
async fn what_was_set_aside_of_a_dictionary_is_run_again_or_goes_with_its_row() {
    let (mut world, stage, _) = set_aside().await;
    // One row goes, and with it what was set aside of it: nothing brings it back.
    world.transaction(&[gone("ry_zd", 1)]).await;
    assert_eq!(world.settled(&stage).await.quarantined, 1);
    world.truncate("ry_zd").await;
    assert_eq!(world.settled(&stage).await.quarantined, 0);
    assert_eq!(stage.handle.replay(Filter::default()).await.unwrap().tried, 0);
    stage.stop().await;

    // As far as it may be read now, it is, and is let go.
    let (mut world, stage, _) = set_aside().await;
    stage.stop().await;
    world.resource.on_change = OnChange::Continue;
    let stage = world.start();
    world.settled(&stage).await;
    let report = stage.handle.replay(Filter::default()).await.unwrap();
    assert_eq!((report.tried, report.released, world.settled(&stage).await.quarantined), (2, 2, 0));
    assert_eq!(contact(&world.standing().await, 1), [None, Some("contact:column.gone")]);
    stage.stop().await;

    // A mapping that reads the new name reads the table anew, and both rows with it.
    let (mut world, stage, resource) = set_aside().await;
    stage.stop().await;
    world.resource = resource;
    let stage = world.start();
    let status = world.settled(&stage).await;
    assert_eq!(status.quarantined, 0);
    assert_eq!(contact(&world.standing().await, 1), [Some("张示例"), None]);
    world.transaction(&[put("ry_zd", 1, &["8", "张示例二"])]).await;
    world.settled(&stage).await;
    assert_eq!(contact(&world.standing().await, 1), [Some("张示例二"), None]);
    stage.stop().await;
}

#[tokio::test]
async fn a_column_by_which_a_dictionary_is_read_touches_what_it_gives() {
    let (mut world, stage) = with_contacts(OnChange::Quarantine).await;
    world.rename("qy", "lxr", "lianxiren");
    world.transaction(&[put("qy", 1, &[&uscc(1), "甲公司", "01", "8"])]).await;
    let status = world.settled(&stage).await;
    assert_eq!((status.quarantined, status.changes[0].column.as_str()), (1, "lxr"));
    assert_eq!(status.changes[0].fields, ["contact"]);
    let item = &stage.handle.list(Filter::default(), None, 10).await.unwrap().items[0];
    assert_eq!((item.rejections[0].rule.as_str(), item.rejections[0].field.as_str()), ("column.gone", "contact"));
    stage.stop().await;
}
