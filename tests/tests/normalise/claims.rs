//! Who holds an entity key, and what is published of it.

use guitong_schemas::change::Operation;

use super::harness::{NOW_US, STD, World, key_only, row, uscc};

#[tokio::test]
async fn a_record_carries_where_it_comes_from() {
    let mut world = World::new().await;
    let code = uscc(1);
    world.create(1, &code, &[("djzt", Some("在营")), ("zczb", Some("很多"))]).await;
    let stage = world.start();
    let status = world.settled(&stage).await;
    assert_eq!((status.received, status.entities, status.quarantined), (1, 1, 0));
    let standing = world.standing().await;
    let headers = &standing[&code].headers;
    for (name, value) in [
        ("ce_specversion", "1.0"),
        ("ce_id", "registration/1/1/1/0/1/0"),
        ("ce_source", "/guitong/quickstart/registration"),
        ("ce_type", "cn.guitong.LegalEntity.upsert"),
        ("ce_time", "2026-11-23T00:00:00Z"),
        ("ce_subject", code.as_str()),
        ("guitong-version", "1/1/1/0/1"),
        ("guitong-op", "upsert"),
        ("guitong-origin", "registration/main.qy_jbxx"),
        ("guitong-quality", "reg_capital:number.form"),
        ("guitong-source-ts", NOW_US.to_string().as_str()),
    ] {
        assert_eq!(headers.get(name).map(String::as_str), Some(value), "{name}");
    }
    world.delete(1).await;
    world.settled(&stage).await;
    assert!(world.standing().await.is_empty());
    let last = world.records(STD).await.into_iter().rev().find(|record| record.value.is_none()).expect("a tombstone");
    let headers = super::harness::headers(&last);
    assert_eq!(headers["ce_type"], "cn.guitong.LegalEntity.delete");
    assert_eq!(headers["guitong-version"], "1/2/1/0/1");
    stage.stop().await;
}

#[tokio::test]
async fn two_rows_swap_their_codes_in_one_transaction() {
    let mut world = World::new().await;
    let (a, b) = (uscc(1), uscc(2));
    world.create(1, &a, &[("qymc", Some("甲公司"))]).await;
    world.create(2, &b, &[("qymc", Some("乙公司"))]).await;
    let stage = world.start();
    world.settled(&stage).await;
    let swap = [
        (Operation::Update, row(1, &b, &[("qymc", Some("甲公司"))])),
        (Operation::Update, row(2, &a, &[("qymc", Some("乙公司"))])),
    ];
    world.transaction(&swap).await;
    world.settled(&stage).await;
    let names = world.names().await;
    assert_eq!((names[&a].as_str(), names[&b].as_str()), ("乙公司", "甲公司"));
    world.delete(1).await;
    world.settled(&stage).await;
    assert_eq!(world.names().await.into_keys().collect::<Vec<_>>(), [a], "a delete without before image finds its key");
    stage.stop().await;
}

#[tokio::test]
async fn a_company_registers_again_before_its_old_row_goes() {
    let mut world = World::new().await;
    let code = uscc(1);
    world.create(1, &code, &[("qymc", Some("旧行"))]).await;
    world.create(2, &code, &[("qymc", Some("新行"))]).await;
    let stage = world.start();
    world.settled(&stage).await;
    let standing = world.standing().await;
    assert_eq!(standing[&code].fields["name"], "新行");
    assert_eq!(standing[&code].headers["guitong-quality"], "uscc:key.shared");
    world.delete(1).await;
    let status = world.settled(&stage).await;
    assert_eq!((world.names().await[&code].as_str(), status.entities), ("新行", 1));
    world.create(3, &code, &[("qymc", Some("第三行"))]).await;
    world.update(2, &code, &[("qymc", Some("新行改"))]).await;
    world.delete(2).await;
    world.settled(&stage).await;
    assert_eq!(world.names().await[&code], "第三行", "the claimant takes over when the holder goes");
    world.delete(3).await;
    assert_eq!(world.settled(&stage).await.entities, 0);
    assert!(world.standing().await.is_empty());
    stage.stop().await;
}

#[tokio::test]
async fn nothing_changed_is_not_published() {
    let mut world = World::new().await;
    let code = uscc(1);
    world.create(1, &code, &[]).await;
    world.update(1, &code, &[("lxr", None)]).await;
    world.update(1, &code, &[("zs", Some("南宁市青秀区示例路２号"))]).await;
    world.update(1, &code, &[("zs", Some("南宁市青秀区示例路2号"))]).await;
    let stage = world.start();
    world.settled(&stage).await;
    assert_eq!(world.records(STD).await.len(), 2, "full-width digits are the same digits");
    assert_eq!(world.metric("guitong_normalise_events_total", ("outcome", "unchanged")), 2.0);
    assert_eq!(world.metric("guitong_normalise_records_total", ("op", "upsert")), 2.0);
    stage.stop().await;
}

#[tokio::test]
async fn what_changes_nothing_is_published_marked_where_a_subscription_asks() {
    let mut world = World::new().await;
    world.resource.publish_unchanged = true;
    let code = uscc(1);
    world.create(1, &code, &[]).await;
    world.update(1, &code, &[]).await;
    // Marks are part of what is delivered.
    world.update(1, &code, &[("zczb", Some("很多"))]).await;
    world.update(1, &code, &[("zczb", Some("许多"))]).await;
    // A row that is read again is no update.
    world.transaction(&[(Operation::Read, row(1, &code, &[("zczb", Some("很多"))]))]).await;
    world.delete(1).await;
    let stage = world.start();
    world.settled(&stage).await;
    let records = world.records(STD).await;
    let marks: Vec<_> = records.iter().map(|record| super::harness::headers(record).contains_key("guitong-unchanged")).collect();
    assert_eq!(marks, [false, true, false, true, false]);
    assert!(records[4].value.is_none(), "a delete is never unchanged");
    assert_eq!(records[0].value, records[1].value);
    assert_eq!(world.metric("guitong_normalise_events_total", ("outcome", "unchanged")), 3.0);
    assert_eq!(world.metric("guitong_normalise_records_total", ("op", "unchanged")), 2.0);
    stage.stop().await;
}

#[tokio::test]
async fn a_row_that_changes_its_code_leaves_the_old_one() {
    let mut world = World::new().await;
    let (a, b) = (uscc(1), uscc(2));
    world.create(1, &a, &[]).await;
    world.update(1, &b, &[]).await;
    // A key change at the source: the old key's row is deleted, the new key's made, in one transaction.
    world.transaction(&[(Operation::Delete, key_only(1)), (Operation::Create, row(9, &b, &[("qymc", Some("改号"))]))]).await;
    let stage = world.start();
    world.settled(&stage).await;
    assert_eq!(world.names().await.into_iter().collect::<Vec<_>>(), [(b, "改号".to_owned())]);
    stage.stop().await;
}

#[tokio::test]
async fn columns_that_were_not_sent_keep_their_values() {
    let mut world = World::new().await;
    let (code, scope) = (uscc(1), "日用百货销售；".repeat(120));
    world.create(1, &code, &[("jyfw", Some(&scope))]).await;
    world.update(1, &code, &[("jyfw", Some(super::harness::ABSENT)), ("lxr", Some("李示例"))]).await;
    let stage = world.start();
    world.settled(&stage).await;
    // Also over a restart, and after a version that went to quarantine in between.
    stage.stop().await;
    world.update(1, &code, &[("jyfw", Some(super::harness::ABSENT)), ("djzt", Some("不明"))]).await;
    world.update(1, &code, &[("jyfw", Some(super::harness::ABSENT)), ("lxr", Some("王示例"))]).await;
    let stage = world.start();
    let status = world.settled(&stage).await;
    assert_eq!((status.quarantined, status.held_back), (0, 0));
    let standing = world.standing().await;
    assert_eq!(standing[&code].fields["contact"], "王示例");
    assert!(standing[&code].fields["scope"].starts_with("日用百货销售"), "{:?}", standing[&code].fields.get("scope"));
    stage.stop().await;
}
