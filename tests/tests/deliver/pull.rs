//! The outbox that a subscriber pulls from, against its deliverer and the log.

use std::collections::BTreeMap;
use std::time::Duration;

use guitong_deliver::Phase;
use guitong_deliver::pull::{Cursor, Event, PullError, Puller};
use guitong_schemas::contract::SinkConfig;
use guitong_schemas::contract::subscription::{Approval, Mask};
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, ToSpan as _};
use sqlx::Connection as _;

use crate::fixture::{Bench, Running, now_us};

const PULL: SinkConfig = SinkConfig::Pull { keep: Duration::from_secs(7 * 86_400) };

fn puller(running: &Running) -> Puller {
    running.handle.puller().unwrap().clone()
}

/// Everything behind a cursor, and where that ends.
async fn events(puller: &Puller, after: Option<&Cursor>) -> (Vec<Event>, Cursor) {
    let (mut all, mut at) = (Vec::new(), after.cloned());
    loop {
        let page = puller.events(at.as_ref(), 3).await.unwrap();
        all.extend(page.events);
        at = Some(page.next.clone());
        if !page.more {
            return (all, page.next);
        }
    }
}

/// Rows by key after `events`.
fn replayed(mut rows: BTreeMap<String, String>, events: &[Event]) -> BTreeMap<String, String> {
    for event in events {
        match &event.record {
            Some(record) => drop(rows.insert(event.key.clone(), record.clone())),
            None => drop(rows.remove(&event.key)),
        }
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_come_in_order_and_a_resync_repeats_none() {
    let mut bench = Bench::new().await;
    let subscription = bench.subscription("credit", PULL, &["uscc", "name"]);
    bench.append((1..=5).map(|n| bench.named(&format!("K{n}"), "一", n)).collect()).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let puller = puller(&running);
    let (first, at) = events(&puller, None).await;
    assert_eq!(first.len(), 5);
    assert!(first.iter().any(|event| event.record.as_deref() == Some("{\"uscc\":\"K1\",\"name\":\"一\"}")), "{first:?}");

    bench
        .append(vec![bench.named("K1", "二", 6), bench.delete("K2", 7), bench.delete("K9", 8), bench.named("K3", "旧", 2)])
        .await;
    bench.caught_up(&mut running).await;
    let (second, at) = events(&puller, Some(&at)).await;
    let kinds: Vec<_> = second.iter().map(|event| (event.key.as_str(), event.record.is_some())).collect();
    assert!(kinds.contains(&("{\"uscc\":\"K1\"}", true)) && kinds.contains(&("{\"uscc\":\"K2\"}", false)), "{kinds:?}");
    assert_eq!(kinds.len(), 2, "no delete of what is not held, no older change: {kinds:?}");

    running.handle.resync(guitong_deliver::Word::default()).await.unwrap();
    running.reaches(|status| status.phase != Phase::Live).await;
    bench.caught_up(&mut running).await;
    assert_eq!(events(&puller, Some(&at)).await.0, [], "what is as it was is not told again");
    running.stop().await.unwrap();

    let mut again = bench.start(&subscription);
    bench.append(vec![bench.named("K5", "五", 9)]).await;
    bench.caught_up(&mut again).await;
    assert_eq!(events(&puller, Some(&at)).await.0.len(), 1, "a cursor of the hold before is good");
    again.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_put_back_is_a_gap() {
    let mut bench = Bench::new().await;
    let subscription = bench.subscription("credit", PULL, &["uscc", "name"]);
    bench.append(vec![bench.named("K1", "一", 1)]).await;
    bench.deliver(&subscription).await;
    let file = bench.dir.path().join("exchange.outbox.db");
    let copy = bench.dir.path().join("copy.db");
    let address = format!("sqlite://{}", file.display());
    let mut first = sqlx::SqliteConnection::connect(&address).await.unwrap();
    sqlx::query("VACUUM INTO $1").bind(copy.to_str().unwrap().to_owned()).execute(&mut first).await.unwrap();
    first.close().await.unwrap();

    bench.append(vec![bench.named("K2", "二", 2)]).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let (_, beyond) = events(&puller(&running), None).await;
    running.stop().await.unwrap();

    // The last connection takes the journal with it, unless two that close see each other: then it takes another.
    bench.pools = guitong_deliver::Pools::default();
    let deadline = now_us() + 30_000_000;
    while file.with_extension("db-wal").exists() {
        assert!(now_us() < deadline, "the outbox is still open");
        tokio::time::sleep(Duration::from_millis(10)).await;
        let mut last = sqlx::SqliteConnection::connect(&address).await.unwrap();
        sqlx::query("SELECT count(*) FROM sqlite_schema").execute(&mut last).await.unwrap();
        last.close().await.unwrap();
    }
    // The same place in the copy: other changes come to have the positions that were given already.
    std::fs::rename(&copy, &file).unwrap();
    bench.append(vec![bench.named("K3", "三", 3), bench.named("K4", "四", 4)]).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let puller = puller(&running);
    assert!(matches!(puller.events(Some(&beyond), 10).await, Err(PullError::Gap(_))), "{beyond} is of no term of the copy");
    assert!(matches!(puller.acknowledge(&beyond).await, Err(PullError::Gap(_))));
    let rows = replayed(BTreeMap::new(), &events(&puller, None).await.0);
    assert_eq!(rows.len(), 4, "read from the start all is there");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_is_let_go_and_its_cursor_is_a_gap() {
    let mut bench = Bench::new().await;
    let keep = Duration::from_secs(1);
    let subscription = bench.subscription("credit", SinkConfig::Pull { keep }, &["uscc", "name"]);
    bench.append(vec![bench.named("K1", "一", 1), bench.named("K2", "一", 2)]).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let first = puller(&running).events(None, 1).await.unwrap();
    let (_, end) = events(&puller(&running), None).await;
    running.stop().await.unwrap();
    let old = now_us() + 1_100_000;
    while now_us() < old {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // A new hold looks at once.
    bench.append(vec![bench.named("K3", "三", 3)]).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let puller = puller(&running);
    assert_eq!(puller.events(Some(&first.next), 10).await, Err(PullError::Gap("what followed the cursor is kept no longer")));
    assert!(matches!(puller.events(None, 10).await, Err(PullError::Gap(_))), "the start is not there any more, and that is said");
    let page = puller.snapshot(Some((&first.next, 0)), 10).await;
    assert!(matches!(page, Err(PullError::Gap(_))), "what followed the first page's cursor is gone: {page:?}");
    assert_eq!(events(&puller, Some(&end)).await.0.len(), 1, "nothing is missing behind the last one");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_pulled_after_the_approval_ends() {
    let mut bench = Bench::new().await;
    // A zone whose day ends in three seconds.
    let now = Timestamp::now();
    let to_midnight = i32::try_from(86_397 - now.as_second().rem_euclid(86_400)).unwrap();
    let offset = if to_midnight > 50_000 { to_midnight - 86_400 } else { to_midnight };
    bench.time_zone = TimeZone::fixed(Offset::from_seconds(offset).unwrap());
    let today = now.to_zoned(bench.time_zone.clone()).date();
    let mut subscription = bench.subscription("credit", PULL, &["uscc", "name"]);
    subscription.approval = Some(Approval { number: "桂数共〔2026〕18号".into(), from: None, until: today });
    bench.append(vec![bench.named("A", "甲", 1)]).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let puller = puller(&running);
    let ended = today.checked_add(1.day()).unwrap().to_zoned(bench.time_zone.clone()).unwrap().timestamp();
    loop {
        let asked = Timestamp::now();
        let answer = puller.events(None, 10).await;
        if asked >= ended {
            assert!(matches!(answer, Err(PullError::Stopped(_))), "{answer:?}");
            break;
        }
        assert!(matches!(&answer, Err(PullError::Stopped(_)) | Ok(_)), "{answer:?}");
    }
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_what_is_pulled_too() {
    let mut bench = Bench::new().await;
    let subscription = bench.subscription("credit", PULL, &["uscc", "name"]);
    bench.append(vec![bench.named("A", "甲", 1)]).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let word = guitong_deliver::Word { by: "测试".into(), reason: "盘点".into() };
    running.handle.pause(word).await.unwrap();
    running.reaches(|status| matches!(status.phase, Phase::Held { .. })).await;
    let held = puller(&running).events(None, 10).await;
    assert_eq!(held, Err(PullError::Held("by 测试: 盘点".into())));
    running.handle.resume().await.unwrap();
    bench.caught_up(&mut running).await;
    assert_eq!(events(&puller(&running), None).await.0.len(), 1);
    running.stop().await.unwrap();
}

/// Grants that change, with the node stopped and running: nothing of the earlier grant is there once the later one is in force.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_grant_empties_the_outbox() {
    let mut bench = Bench::new().await;
    let wide = bench.subscription("credit", PULL, &["uscc", "name", "contact"]);
    bench.append((1..=20).map(|n| bench.named(&format!("K{n}"), if n <= 5 { "mine" } else { "other" }, n)).collect()).await;
    bench.deliver(&wide).await;
    let mut running = bench.start(&wide);
    bench.caught_up(&mut running).await;
    let (all, at) = events(&puller(&running), None).await;
    assert!(all.iter().all(|event| event.record.as_ref().unwrap().contains("欧阳测试")), "{all:?}");
    let before = puller(&running);
    running.stop().await.unwrap();

    let mut masked = wide.clone();
    masked.masks.insert("contact".into(), Mask::Name);
    masked.condition = Some("name == 'mine'".into());
    // Before its deliverer has taken over, the outbox is of another grant, and nothing of it is given under this one.
    let unopened = guitong_deliver::Deliverer::new(bench.delivery(&masked)).unwrap();
    let early = unopened.handle().puller().unwrap().events(None, 10).await;
    assert_eq!(early, Err(PullError::Filling));
    let mut running = bench.start(&masked);
    bench.caught_up(&mut running).await;
    let after = puller(&running);
    assert!(matches!(after.events(Some(&at), 10).await, Err(PullError::Gap(_))));
    assert_eq!(before.events(None, 10).await, Err(PullError::Filling), "who reads by the grant before has nothing any more");
    let (all, _) = events(&after, None).await;
    assert!(all.iter().all(|event| !format!("{event:?}").contains("欧阳测试")), "{all:?}");
    assert_eq!(replayed(BTreeMap::new(), &all).len(), 5);
    running.stop().await.unwrap();

    // Rows are keyed by a hash where the key is not granted.
    let hashed = bench.subscription("credit", PULL, &["name"]);
    let mut running = bench.start(&hashed);
    bench.caught_up(&mut running).await;
    let (all, _) = events(&puller(&running), None).await;
    assert!(all.iter().all(|event| event.key.starts_with("{\"guitong_key\":\"") && !event.key.contains("K1")), "{all:?}");
    assert_eq!(replayed(BTreeMap::new(), &all).len(), 20);
    running.stop().await.unwrap();
}

/// Until everything granted was met once, rows are not given as if they were all; changes are.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_given_once_they_are_whole() {
    let mut bench = Bench::new().await;
    let subscription = bench.subscription("credit", PULL, &["uscc", "name"]);
    bench.append(vec![bench.named("K1", "一", 1)]).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let puller = puller(&running);
    assert_eq!(puller.snapshot(None, 10).await.unwrap().rows.len(), 1);
    assert!(puller.record(&["K1".to_owned()]).await.unwrap().is_some());
    let address = format!("sqlite://{}", bench.dir.path().join("exchange.outbox.db").display());
    let mut file = sqlx::SqliteConnection::connect(&address).await.unwrap();
    sqlx::query("UPDATE guitong_outboxes SET whole = 0").execute(&mut file).await.unwrap();
    assert_eq!(puller.snapshot(None, 10).await, Err(PullError::Filling));
    assert_eq!(puller.record(&["K1".to_owned()]).await, Err(PullError::Filling));
    assert_eq!(puller.events(None, 10).await.unwrap().events.len(), 1);
    running.handle.resync(guitong_deliver::Word::default()).await.unwrap();
    running.reaches(|status| status.phase != Phase::Live).await;
    bench.caught_up(&mut running).await;
    assert!(puller.record(&["K1".to_owned()]).await.unwrap().is_some());
    running.stop().await.unwrap();
}
