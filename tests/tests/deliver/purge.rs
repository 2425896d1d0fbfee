//! Taking back what was delivered under a grant that has ended.

use guitong_deliver::{CommandError, Phase, Word};
use guitong_schemas::contract::sink_table::Deletes;
use guitong_schemas::contract::subscription::Approval;

use crate::fixture::{Bench, Target};

fn word() -> Word {
    Word { by: "韦小明 (uid 1000)".into(), reason: "协议终止".into() }
}

pub(crate) async fn what_was_delivered_is_taken_back_once_the_approval_ended(mut bench: Bench, target: &Target) {
    let mut subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    bench.append((1..=20).map(|n| bench.named(&format!("K{n}"), "甲", n)).collect()).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let Err(CommandError::Unfit(why)) = running.handle.purge(word()).await else { panic!("what is granted would come again") };
    assert!(why.contains("end the approval"), "{why}");
    let delivered = target.names("t").await;
    assert_eq!(delivered.len(), 20);
    running.stop().await.unwrap();

    let until = jiff::civil::date(2020, 12, 31);
    subscription.approval = Some(Approval { number: "桂数共〔2020〕1号".into(), from: None, until });
    let mut running = bench.start(&subscription);
    running.reaches(|status| matches!(status.phase, Phase::Waiting { .. })).await;
    assert_eq!(target.names("t").await, delivered, "an end takes nothing away by itself");
    running.handle.pause(word()).await.unwrap();
    assert_eq!(running.handle.purge(word()).await.unwrap(), 20, "a pause keeps nobody from it");
    assert_eq!(target.names("t").await.len(), 0);
    assert_eq!(running.handle.purge(word()).await.unwrap(), 0);
    running.handle.resume().await.unwrap();
    running.stop().await.unwrap();

    subscription.approval = None;
    bench.deliver(&subscription).await;
    assert_eq!(target.names("t").await, delivered, "what is granted anew comes again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_a_topic_is_told_that_the_rows_are_gone() {
    what_was_delivered_is_taken_back_once_the_approval_ended(Bench::new().await, &Target::kafka().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stays_with_the_subscriber_is_not_said_to_be_taken_back() {
    let mut bench = Bench::new().await;
    let until = jiff::civil::date(2020, 12, 31);
    let approval = Some(Approval { number: "桂数共〔2020〕1号".into(), from: None, until });
    let (tables, files) = (Target::sqlite(&bench).await, Target::files(&bench, crate::dropped::JSON).await);
    bench.append(vec![bench.named("A", "甲", 1)]).await;
    let mut soft = bench.subscription("soft", tables.config("t"), &["uscc", "name"]);
    soft.table.deletes = Deletes::Soft;
    let mut past = bench.subscription("past", tables.config("u"), &["uscc", "name"]);
    past.table.history = true;
    let dropped = bench.subscription("dropped", files.config("t"), &["uscc", "name"]);
    for (mut subscription, told) in [(soft, "deletes = \"hard\""), (past, "history = false"), (dropped, "by hand")] {
        bench.deliver(&subscription).await;
        subscription.approval.clone_from(&approval);
        let mut running = bench.start(&subscription);
        running.reaches(|status| matches!(status.phase, Phase::Waiting { .. })).await;
        let Err(CommandError::Unfit(why)) = running.handle.purge(word()).await else { panic!("{told}") };
        assert!(why.contains(told), "{why}");
        running.stop().await.unwrap();
    }
}
