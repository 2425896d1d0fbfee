//! Entries that are looked for and given up, a resource that rejects too much, and figures that neither miss nor double anything.

use std::sync::Arc;

use guitong_normalise::{DROPPED_TOPIC, DropReport, Dropped, Filter, Phase, QualityReport, ReplayReport, Surrender};
use guitong_schemas::contract::Resource;
use guitong_schemas::contract::quality::PauseAbove;

use super::harness::{RAW, Stage, World, uscc};

pub(super) fn corrected(resource: &Resource) -> Arc<Resource> {
    let mut resource = resource.clone();
    resource.map.get_mut("status").unwrap().codes.insert("不明".into(), "9".into());
    Arc::new(resource)
}

fn surrender() -> Surrender {
    Surrender { by: "wei".into(), reason: "测试数据".into() }
}

async fn ids(stage: &Stage, filter: Filter) -> Vec<String> {
    let list = stage.handle.list(filter, None, 100).await.unwrap();
    list.items.into_iter().map(|item| item.id).collect()
}

/// Everything that was counted.
pub(crate) async fn figures(stage: &Stage) -> QualityReport {
    stage.handle.quality(i32::MIN, i32::MAX).await.unwrap()
}

#[tokio::test]
async fn entries_are_found_by_what_they_are() {
    let mut world = World::new().await;
    world.create(1, &uscc(1), &[("djzt", Some("不明"))]).await;
    world.create(2, "91450100", &[]).await;
    world.create(3, &uscc(3), &[("djzt", Some("不明")), ("qymc", None)]).await;
    let stage = world.start();
    world.settled(&stage).await;
    let all = stage.handle.list(Filter::default(), None, 100).await.unwrap().items;
    let by = |change: fn(&mut Filter)| {
        let mut filter = Filter::default();
        change(&mut filter);
        filter
    };
    assert_eq!(ids(&stage, by(|filter| filter.rule = Some("code.unknown".into()))).await, ["0", "2"]);
    assert_eq!(ids(&stage, by(|filter| filter.field = Some("name".into()))).await, ["2"]);
    let mut both = by(|filter| filter.rule = Some("code.unknown".into()));
    both.field = Some("name".into());
    assert!(ids(&stage, both).await.is_empty(), "one reason has to have both");
    assert_eq!(ids(&stage, by(|filter| filter.key = Some("id=2".into()))).await, ["1"]);
    assert_eq!(ids(&stage, by(|filter| filter.key = Some("2".into()))).await, ["1"]);
    assert_eq!(ids(&stage, by(|filter| filter.ids = vec!["2".into(), "7".into()])).await, ["2"]);
    let from_second = Filter { since_us: Some(all[1].at_us), ..Filter::default() };
    assert!(ids(&stage, from_second).await.contains(&"2".to_owned()));
    assert!(ids(&stage, Filter { until_us: Some(all[0].at_us), ..Filter::default() }).await.is_empty());
    let rule = by(|filter| filter.rule = Some("code.unknown".into()));
    let first = stage.handle.list(rule.clone(), None, 1).await.unwrap();
    assert_eq!((first.items[0].id.as_str(), first.next.as_deref()), ("0", Some("0")));
    let second = stage.handle.list(rule.clone(), first.next, 1).await.unwrap();
    assert_eq!(second.items[0].id, "2");
    stage.handle.reload(corrected(&world.resource)).await.unwrap();
    assert_eq!(stage.handle.replay(rule).await.unwrap(), ReplayReport { tried: 2, released: 1, kept: 1 });
    stage.stop().await;
}

#[tokio::test]
async fn what_is_given_up_is_told_of_and_never_comes_back() {
    let mut world = World::new().await;
    let (held, new, other) = (uscc(1), uscc(2), uscc(3));
    world.create(1, &held, &[("qymc", Some("第一版"))]).await;
    world.update(1, &held, &[("qymc", Some("第二版")), ("djzt", Some("不明"))]).await;
    world.create(2, &new, &[("djzt", Some("不明"))]).await;
    world.create(3, &other, &[("qymc", None)]).await;
    let stage = world.start();
    let status = world.settled(&stage).await;
    assert_eq!((status.quarantined, status.held_back), (3, 1));
    let unknown = Filter { rule: Some("code.unknown".into()), ..Filter::default() };
    let report = stage.handle.surrender(unknown.clone(), surrender()).await.unwrap();
    assert_eq!(report, DropReport { dropped: 2, settled: 1 });
    assert_eq!(stage.handle.surrender(unknown.clone(), surrender()).await.unwrap(), DropReport::default());
    let status = stage.until(|status| status.quarantined == 1).await;
    assert_eq!((status.held_back, status.entities), (0, 1));
    let now = figures(&stage).await;
    assert_eq!((now.rows, now.good_rows), (3, 0), "a version that was given up is not good");

    let told: Vec<Dropped> = world
        .records(DROPPED_TOPIC)
        .await
        .iter()
        .map(|record| serde_json::from_slice(record.value.as_ref().unwrap()).unwrap())
        .collect();
    assert_eq!(told.len(), 2);
    assert_eq!((told[0].key.as_str(), told[0].by.as_str(), told[0].reason.as_str()), ("id=1", "wei", "测试数据"));
    assert_eq!(told[0].rules, ["status:code.unknown"]);
    assert_eq!((told[0].good_version_stays, told[1].good_version_stays), (true, false));
    let raw = &world.records(RAW).await[usize::try_from(told[0].offset).unwrap()];
    assert!(raw.value.is_some(), "the event stays in the raw log");

    stage.handle.reload(corrected(&world.resource)).await.unwrap();
    stage.until(|status| status.phase == Phase::Running).await;
    assert_eq!(stage.handle.replay(Filter::default()).await.unwrap().tried, 1);
    assert_eq!(world.names().await.into_iter().collect::<Vec<_>>(), [(held.clone(), "第一版".to_owned())]);
    world.update(1, &held, &[("qymc", Some("第三版"))]).await;
    world.settled(&stage).await;
    assert_eq!(world.names().await[&held], "第三版", "what is typed later flows");
    stage.stop().await;
}

#[tokio::test]
async fn too_many_rejections_pause_and_lose_nothing() {
    let mut world = World::new().await;
    world.resource.quality.pause_above = PauseAbove { percent: 50, of: 20 };
    for id in 1..=5 {
        world.create(id, &uscc(id), &[]).await;
    }
    for id in 6..=45 {
        world.create(id, &uscc(id), &[("djzt", Some("不明"))]).await;
    }
    for id in 46..=50 {
        world.create(id, &uscc(id), &[]).await;
    }
    let mut stage = world.start();
    let is_paused = |status: &guitong_normalise::NormaliserStatus| matches!(status.phase, Phase::Paused(_));
    for kill in [true, false] {
        let status = stage.until(is_paused).await;
        assert_eq!((status.quarantined, status.entities, status.offset), (11, 5, 16), "it stops behind the eleventh of twenty");
        let Phase::Paused(why) = status.phase else { panic!() };
        assert!(why.starts_with("11 of the last 16 row changes were rejected: status:code.unknown (11);"), "{why}");
        if kill {
            stage.kill().await;
        } else {
            stage.stop().await;
        }
        stage = world.start();
    }
    stage.until(is_paused).await;
    // A word alone lets it go on as far as the next pause.
    assert!(stage.handle.resume().await.unwrap());
    let status = stage.until(|status| is_paused(status) && status.quarantined == 22).await;
    assert_eq!(status.offset, 27);
    // So does nothing but another mapping, which then reads the rest.
    let resource = corrected(&world.resource);
    stage.handle.reload(Arc::clone(&resource)).await.unwrap();
    let status = world.settled(&stage).await;
    assert_eq!((status.quarantined, status.entities), (22, 28));
    assert!(!stage.handle.resume().await.unwrap(), "it is not paused any more");
    assert_eq!(stage.handle.replay(Filter::default()).await.unwrap(), ReplayReport { tried: 22, released: 22, kept: 0 });
    assert_eq!(world.names().await.len(), 50, "every row is there");
    let now = figures(&stage).await;
    assert_eq!((now.rows, now.good_rows, now.keys, now.open), (50, 50, 50, 0));
    assert_eq!(now.days.iter().map(|day| (day.good, day.rejected)).collect::<Vec<_>>(), [(28, 22)]);
    stage.stop().await;
}

/// What comes late is counted as late on the day on which it was committed, and not on that of its arrival.
#[tokio::test]
async fn a_late_change_is_late_on_the_day_of_its_commit() {
    const HOUR_US: i64 = 3_600_000_000;
    let mut world = World::new().await;
    world.resource.quality.timely = std::time::Duration::from_secs(3 * 24 * 3_600);
    let now_us = jiff::Timestamp::now().as_microsecond();
    let ages = [(1, 100), (2, 74), (3, 70), (4, 0)];
    let mut wanted = std::collections::BTreeMap::<i64, (u64, u64)>::new();
    for (id, hours) in ages {
        world.source_us = now_us - hours * HOUR_US;
        world.create(id, &uscc(id), &[]).await;
        // Days of the exchange's zone.
        let day = wanted.entry((world.source_us + 8 * HOUR_US).div_euclid(24 * HOUR_US)).or_default();
        *day = (day.0 + 1, day.1 + u64::from(hours < 72));
    }
    let stage = world.start();
    world.settled(&stage).await;
    let days = figures(&stage).await.days;
    let found: Vec<_> = days.iter().map(|day| (i64::from(day.day), (day.timed, day.in_time))).collect();
    assert_eq!(found, wanted.into_iter().collect::<Vec<_>>());
    stage.stop().await;
}
