//! What a person can ask of a subscription.

use guitong_deliver::{CommandError, End, Made, Phase, Word};
use guitong_schemas::avro::Value;
use guitong_schemas::contract::subscription::{Approval, Mask};

use crate::faulty::Script;
use crate::fixture::{Bench, Target, names};

fn word(reason: &str) -> Word {
    Word { by: "韦小明 (uid 1000)".into(), reason: reason.into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_holds_over_restarts_until_it_is_taken_back() {
    let mut bench = Bench::new().await;
    let target = Target::sqlite(&bench).await;
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    bench.append(vec![bench.named("A", "1", 1)]).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    assert!(running.handle.pause(word("盘点")).await.unwrap());
    assert!(!running.handle.pause(word("again")).await.unwrap());
    let status = running.reaches(|status| matches!(status.phase, Phase::Held { .. })).await;
    assert_eq!(status.phase, Phase::Held { by: "韦小明 (uid 1000)".into(), reason: "盘点".into() });
    bench.append(vec![bench.named("A", "2", 2)]).await;
    running.stop().await.unwrap();
    let mut running = bench.start(&subscription);
    running.reaches(|status| matches!(status.phase, Phase::Held { .. })).await;
    assert!(matches!(running.handle.replay(vec![]).await, Err(CommandError::NotNow(_))));
    assert_eq!(target.names("t").await, names(&[("A", "1")]));
    assert!(running.handle.resume().await.unwrap());
    bench.caught_up(&mut running).await;
    assert_eq!(target.names("t").await, names(&[("A", "2")]));
    assert!(!running.handle.resume().await.unwrap(), "it was running");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resync_mends_what_was_changed_by_hand() {
    let mut bench = Bench::new().await;
    let target = Target::sqlite(&bench).await;
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    bench.append((1..=50).map(|n| bench.named(&format!("K{n}"), "good", n)).collect()).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let before = target.names("t").await;
    target.execute("UPDATE t SET name = 'bad' WHERE uscc = 'K1'; DELETE FROM t WHERE uscc = 'K2'").await;
    target.execute("INSERT INTO t SELECT 'X', name, guitong_version, guitong_epoch FROM t WHERE uscc = 'K3'").await;
    running.handle.resync(word("changed by hand")).await.unwrap();
    // A crash between the order and its doing forgets nothing.
    running.kill().await;
    let mut running = bench.start(&subscription);
    running.reaches(|status| status.upserts >= 50).await;
    bench.caught_up(&mut running).await;
    assert_eq!(target.names("t").await, before);
    running.stop().await.unwrap();
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    assert_eq!(running.status.borrow().upserts, 0, "it is done once");
    running.stop().await.unwrap();
}

/// What is set aside is shown as it would be delivered, and given up with a name and a reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parked_records_show_what_is_granted_and_nothing_else() {
    let mut bench = Bench::new().await;
    let target = Target::sqlite(&bench).await;
    let mut subscription = bench.subscription("credit", target.config("t"), &["name", "contact"]);
    subscription.masks.insert("contact".into(), Mask::Name);
    // The name is granted, the key is not: the row is known by a keyed hash.
    let table = "CREATE TABLE t (guitong_key BLOB PRIMARY KEY, name TEXT CHECK (name <> 'poison'), contact TEXT,
        guitong_version BLOB, guitong_epoch INTEGER)";
    target.execute(table).await;
    let fields = [("name", Value::Text("poison")), ("contact", Value::Text("欧阳测试")), ("address", Value::Text("SECRET-ROAD"))];
    bench.append(vec![bench.upsert("SECRET-KEY", &fields, 1), bench.upsert("SECRET-KEY-2", &fields, 2)]).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let parked = running.handle.parked(None, 10).await.unwrap();
    assert_eq!(parked.len(), 2);
    for entry in &parked {
        assert_eq!(entry.key.as_ref().map(String::len), Some(32), "{entry:?}");
        let (plain, open) = (running.handle.show(entry.place(), false).await, running.handle.show(entry.place(), true).await);
        let Made::Upsert { cells } = open.unwrap().made else { panic!("an upsert") };
        let cells: Vec<_> = cells.iter().map(|cell| (cell.name.as_str(), cell.value.as_deref())).collect();
        assert_eq!(cells, [("name", Some("poison")), ("contact", Some("欧阳**"))]);
        let plain = serde_json::to_string(&plain.unwrap()).unwrap();
        assert!(!plain.contains("SECRET") && !plain.contains("欧阳") && plain.contains("poison"), "{plain}");
    }
    let last = parked[1].place();
    assert_eq!(running.handle.surrender(vec![last], word("不再需要")).await.unwrap(), 1);
    assert!(matches!(running.handle.show(last, false).await, Err(CommandError::NoEntry(place)) if place == last));
    assert!(matches!(running.handle.surrender(vec![last], word("twice")).await, Err(CommandError::NoEntry(_))));
    running.reaches(|status| status.parked == 1).await;
    let ended = bench.ended("credit").await;
    assert_eq!((ended.len(), ended[0].end, ended[0].word.because.as_str()), (1, End::Dropped, "不再需要"));
    running.stop().await.unwrap();
}

/// After the approval ended nothing is replayed, and what is set aside can be looked at all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_replayed_that_is_granted_no_longer() {
    let mut bench = Bench::new().await;
    let target = Target::sqlite(&bench).await;
    let mut subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    let script = Script::new();
    script.refuse("A", 1);
    bench.append(vec![bench.named("A", "1", 1)]).await;
    let mut running = bench.start_faulty(&subscription, &target, &script);
    bench.caught_up(&mut running).await;
    running.stop().await.unwrap();
    script.refuse_nothing();

    let mut expired = subscription.clone();
    expired.approval =
        Some(Approval { number: "桂数共〔2026〕18号".into(), from: None, until: jiff::civil::date(2026, 1, 1) });
    let mut running = bench.start_faulty(&expired, &target, &script);
    running.reaches(|status| matches!(status.phase, Phase::Waiting { .. })).await;
    let place = running.handle.parked(None, 10).await.unwrap()[0].place();
    assert!(matches!(running.handle.replay(vec![place]).await, Err(CommandError::NotNow(_))));
    assert!(matches!(running.handle.show(place, true).await, Err(CommandError::NotNow(_))));
    running.stop().await.unwrap();

    // Under another condition everything is tried anew, and what it excludes does not come by replay either.
    subscription.condition = Some("name == 'other'".into());
    let mut running = bench.start_faulty(&subscription, &target, &script);
    bench.caught_up(&mut running).await;
    assert_eq!(running.handle.replay(vec![]).await.unwrap().delivered, 0);
    assert_eq!(target.count("t").await, 0);
    running.stop().await.unwrap();
}

/// A record that cannot be read is of a row that the subscription may never have been granted: it is set aside without its key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_set_aside_names_no_row_that_was_not_delivered() {
    let mut bench = Bench::new().await;
    let target = Target::sqlite(&bench).await;
    let mut subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    subscription.condition = Some("name == 'mine'".into());
    let mut broken = bench.named("SECRET", "other", 2);
    broken.value = Some(bytes::Bytes::from_static(b"\0\0\0\0\x01rubbish"));
    bench.append(vec![broken]).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let parked = running.handle.parked(None, 10).await.unwrap();
    let text = serde_json::to_string(&parked).unwrap();
    assert_eq!(parked.len(), 1);
    assert!(!text.contains("SECRET") && !text.contains(&hex::encode("SECRET")), "{text}");
    // A later change of the row finds it all the same.
    bench.append(vec![bench.named("SECRET", "mine", 3)]).await;
    bench.caught_up(&mut running).await;
    running.reaches(|status| status.parked == 0).await;
    assert_eq!(target.names("t").await, names(&[("SECRET", "mine")]));
    running.stop().await.unwrap();
}
