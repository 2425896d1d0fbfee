//! What SQL sinks keep of rows that are gone and of versions that are past.

use std::collections::BTreeMap;

use guitong_deliver::sink::SinkErrorKind;
use guitong_deliver::{DeliverError, Phase, Verify, Word};
use guitong_log::NewRecord;
use guitong_schemas::avro::Value;
use guitong_schemas::contract::subscription::Mask;
use guitong_schemas::contract::{Deletes, OnTypeChange, SinkTable, Subscription};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::faulty::{Script, Step};
use crate::fixture::{Bench, Target, committed, names};

const fn keeping(deletes: Deletes, history: bool) -> SinkTable {
    SinkTable { deletes, history, columns: BTreeMap::new(), on_type_change: OnTypeChange::Rebuild }
}

const PLAIN: SinkTable = keeping(Deletes::Hard, false);
const SOFT: SinkTable = keeping(Deletes::Soft, false);
pub(crate) const HISTORY: SinkTable = keeping(Deletes::Hard, true);

fn kept(bench: &Bench, target: &Target, table: SinkTable) -> Subscription {
    Subscription { table, ..bench.subscription("credit", target.config("t"), &["uscc", "name", "contact"]) }
}

/// The record, committed at the source so many seconds after the epoch as its commit says.
fn timed(record: NewRecord, commit: u64) -> NewRecord {
    committed(record, i64::try_from(commit).unwrap() * 1_000_000)
}

pub(crate) fn named(bench: &Bench, key: &str, name: &str, commit: u64) -> NewRecord {
    timed(bench.named(key, name, commit), commit)
}

pub(crate) fn delete(bench: &Bench, key: &str, commit: u64) -> NewRecord {
    timed(bench.delete(key, commit), commit)
}

/// The seconds of a column that holds an instant, as [`Target::rows`] takes them.
fn seconds(target: &Target, column: &str) -> String {
    match target {
        Target::Sqlite(..) => format!("unixepoch({column})"),
        Target::Postgres(..) => format!("extract(epoch FROM {column})::bigint"),
        Target::Mariadb(..) => format!("TIMESTAMPDIFF(SECOND,'1970-01-01 08:00:00',{column})"),
        Target::Files(_) | Target::Kafka(_) => panic!("has no table"),
    }
}

/// By key the name, the contact, and the second of the delete.
async fn rows(target: &Target) -> BTreeMap<String, (Option<String>, Option<String>, Option<u64>)> {
    let rows = target.rows(&format!("uscc, name, contact, {}", seconds(target, "deleted_at")), "t").await;
    let row = |(key, row): (String, Vec<Option<String>>)| {
        let at = row[2].as_ref().map(|at| at.parse().unwrap());
        (key, (row[0].clone(), row[1].clone(), at))
    };
    rows.into_iter().map(row).collect()
}

fn whole(name: &str, at: Option<u64>) -> (Option<String>, Option<String>, Option<u64>) {
    (Some(name.to_owned()), Some("欧阳测试".to_owned()), at)
}

pub(crate) async fn soft_deletes_keep_what_was_granted_to_the_last(mut bench: Bench, target: &Target) {
    let subscription = kept(&bench, target, SOFT);
    bench.append(vec![named(&bench, "A", "甲", 1), named(&bench, "B", "乙", 2)]).await;
    bench.deliver(&subscription).await;
    bench.append(vec![delete(&bench, "A", 3), delete(&bench, "never", 4)]).await;
    bench.deliver(&subscription).await;
    let expected = [("A", whole("甲", Some(3))), ("B", whole("乙", None))];
    assert_eq!(rows(target).await, expected.map(|(key, row)| (key.to_owned(), row)).into());

    // What came before the delete brings nothing back and changes nothing, and a second delete is no other.
    bench.append(vec![named(&bench, "A", "old", 2), delete(&bench, "A", 5)]).await;
    bench.deliver(&subscription).await;
    assert_eq!(rows(target).await["A"], whole("甲", Some(3)));
    bench.append(vec![named(&bench, "A", "甲二", 6)]).await;
    bench.deliver(&subscription).await;
    assert_eq!(rows(target).await["A"], whole("甲二", None), "it is there again");

    // In one batch as in several.
    let records =
        vec![named(&bench, "B", "乙二", 7), delete(&bench, "B", 8), named(&bench, "C", "丙", 9), delete(&bench, "C", 10)];
    bench.append(records).await;
    bench.deliver(&subscription).await;
    let held = rows(target).await;
    assert_eq!((&held["B"], &held["C"]), (&whole("乙二", Some(8)), &whole("丙", Some(10))));
    assert_eq!(target.count("guitong_deleted").await, 0);

    // Hard from now on: what is deleted goes.
    let hard = Subscription { table: PLAIN, ..subscription };
    bench.deliver(&hard).await;
    assert_eq!(target.names("t").await, names(&[("A", "甲二")]));
}

pub(crate) async fn a_row_that_leaves_the_grant_leaves_its_key_alone(mut bench: Bench, target: &Target) {
    let mut subscription = kept(&bench, target, SOFT);
    subscription.condition = Some("name != 'hidden'".into());
    bench.append(vec![named(&bench, "A", "甲", 1), named(&bench, "B", "乙", 2), named(&bench, "C", "丙", 3)]).await;
    bench.deliver(&subscription).await;
    // Of C its leaving and its delete come in one batch.
    bench.append(vec![named(&bench, "A", "hidden", 4), delete(&bench, "B", 5)]).await;
    bench.append(vec![named(&bench, "C", "hidden", 6), delete(&bench, "C", 7)]).await;
    bench.deliver(&subscription).await;
    let expected = [("A", (None, None, Some(4))), ("B", whole("乙", Some(5))), ("C", (None, None, Some(6)))];
    assert_eq!(rows(target).await, expected.map(|(key, row)| (key.to_owned(), row)).into());
    // B is there again, and not for this subscriber.
    bench.append(vec![named(&bench, "B", "hidden", 8), named(&bench, "A", "甲二", 9)]).await;
    bench.deliver(&subscription).await;
    let held = rows(target).await;
    assert_eq!((&held["A"], &held["B"]), (&whole("甲二", None), &(None, None, Some(5))));
}

pub(crate) async fn a_changed_grant_clears_rows_that_are_gone(mut bench: Bench, target: &Target) {
    let wide = kept(&bench, target, SOFT);
    let records = ["A", "B", "C", "D"].iter().zip(1..).map(|(key, commit)| named(&bench, key, "other", commit));
    let records = records.chain([named(&bench, "M", "mine", 5), named(&bench, "N", "mine", 6)]).collect();
    bench.append(records).await;
    bench.deliver(&wide).await;
    bench.append(vec![delete(&bench, "A", 7), delete(&bench, "M", 8)]).await;
    bench.deliver(&wide).await;
    assert_eq!(rows(target).await["A"], whole("other", Some(7)));
    // While nobody delivers, B is deleted: under the new grant nobody saw it.
    bench.append(vec![delete(&bench, "B", 9), delete(&bench, "N", 10)]).await;
    let narrow = Subscription { condition: Some("name == 'mine'".into()), ..wide.clone() };
    bench.deliver(&narrow).await;
    let held = rows(target).await;
    assert_eq!(held.len(), 6);
    for key in ["A", "B", "C", "D", "M"] {
        assert!(held[key].0.is_none() && held[key].1.is_none() && held[key].2.is_some(), "{key}: {held:?}");
    }
    assert_eq!(held["A"].2, Some(7));
    assert_eq!(held["N"], whole("mine", Some(10)), "this one the refill met under the new grant");

    // Of a column that is granted no longer nothing stays, and nothing is cleared that was not there.
    let narrower = Subscription { fields: vec!["uscc".into(), "name".into()], masks: BTreeMap::new(), ..narrow };
    bench.append(vec![named(&bench, "A", "mine", 11)]).await;
    bench.deliver(&narrower).await;
    let held = rows(target).await;
    assert!(held.values().all(|(_, contact, _)| contact.is_none()), "{held:?}");
    assert_eq!(held["A"], (Some("mine".to_owned()), None, None));
}

/// Of a row that was delivered under an earlier grant the log may have nothing left but its delete.
pub(crate) async fn a_delete_that_a_refill_meets_keeps_nothing_of_an_earlier_grant(mut bench: Bench, target: &Target) {
    let wide = kept(&bench, target, SOFT);
    bench.append(vec![named(&bench, "A", "other", 1), named(&bench, "B", "mine", 2)]).await;
    bench.deliver(&wide).await;
    // As a log that was restored has it.
    let notes = bench.notes().await;
    bench.replace_log().await;
    bench.note(notes).await;
    bench.append(vec![delete(&bench, "A", 3), named(&bench, "B", "mine", 4), delete(&bench, "B", 5)]).await;
    bench.deliver(&Subscription { condition: Some("name == 'mine'".into()), ..wide }).await;
    let expected = [("A", (None, None, Some(3))), ("B", whole("mine", Some(5)))];
    assert_eq!(rows(target).await, expected.map(|(key, row)| (key.to_owned(), row)).into());
}

pub(crate) async fn soft_deletes_need_columns_that_may_be_null(mut bench: Bench, target: &Target) {
    let (key, own) = match target {
        Target::Sqlite(..) => ("TEXT", "guitong_version BLOB, guitong_epoch INTEGER, deleted_at TEXT"),
        Target::Postgres(..) => ("text", "guitong_version bytea, guitong_epoch bigint, deleted_at timestamptz"),
        Target::Mariadb(..) => {
            ("VARCHAR(40) COLLATE utf8mb4_bin", "guitong_version VARBINARY(40), guitong_epoch BIGINT, deleted_at DATETIME(6)")
        }
        Target::Files(_) | Target::Kafka(_) => panic!("has no table"),
    };
    let table = target.named("t");
    target.execute(&format!("CREATE TABLE {table} (uscc {key} PRIMARY KEY, name TEXT NOT NULL, contact TEXT, {own})")).await;
    bench.append(vec![named(&bench, "A", "甲", 1)]).await;
    let mut refused = bench.start(&kept(&bench, target, SOFT));
    refused.reaches(|status| matches!(status.phase, Phase::Stopped { .. })).await;
    let Err(DeliverError::Sink { error, .. }) = refused.stop().await else { panic!("has to be refused") };
    assert_eq!(error.kind, SinkErrorKind::Shape);
    assert!(error.detail.contains("column name is NOT NULL"), "{error}");
    assert!(!error.detail.contains("deleted_at is"), "{error}");
}

/// One version: the name, and from and until when it was the newest.
pub(crate) type Version = (String, u64, Option<u64>);

/// By key its versions, in order.
pub(crate) async fn history(target: &Target) -> BTreeMap<String, Vec<Version>> {
    let version = match target {
        Target::Postgres(..) => "encode(guitong_version,'hex')",
        _ => "hex(guitong_version)",
    };
    let (from, to) = (seconds(target, "valid_from"), seconds(target, "valid_to"));
    let rows = target.rows(&format!("{version}, uscc, name, {from}, {to}"), "t_history").await;
    let mut history: BTreeMap<String, Vec<Version>> = BTreeMap::new();
    for row in rows.into_values() {
        let second = |at: usize| row[at].as_ref().map(|at| at.parse::<u64>().unwrap());
        let name = row[1].clone().unwrap_or_default();
        history.entry(row[0].clone().unwrap()).or_default().push((name, second(2).unwrap(), second(3)));
    }
    history
}

fn versions(of: &[(&str, u64, Option<u64>)]) -> Vec<Version> {
    of.iter().map(|&(name, from, to)| (name.to_owned(), from, to)).collect()
}

pub(crate) async fn a_history_holds_every_version_once_and_in_order(mut bench: Bench, target: &Target) {
    let subscription = kept(&bench, target, HISTORY);
    // In one batch and in several.
    bench.append(vec![named(&bench, "A", "1", 1), named(&bench, "A", "2", 2), named(&bench, "B", "3", 3)]).await;
    bench.deliver(&subscription).await;
    bench.append(vec![named(&bench, "A", "4", 4), delete(&bench, "B", 5), named(&bench, "A", "6", 6)]).await;
    bench.deliver(&subscription).await;
    // What is older is no version, and neither is a delete.
    bench.append(vec![named(&bench, "B", "4", 4), named(&bench, "A", "5", 5), delete(&bench, "A", 3)]).await;
    bench.append(vec![named(&bench, "C", "7", 7), delete(&bench, "C", 8), named(&bench, "B", "9", 9)]).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let expected = BTreeMap::from([
        ("A".to_owned(), versions(&[("1", 1, Some(2)), ("2", 2, Some(4)), ("4", 4, Some(6)), ("6", 6, None)])),
        ("B".to_owned(), versions(&[("3", 3, Some(5)), ("9", 9, None)])),
        ("C".to_owned(), versions(&[("7", 7, Some(8))])),
    ]);
    assert_eq!(history(target).await, expected);
    assert_eq!(target.names("t").await, names(&[("A", "6"), ("B", "9")]));

    // Everything again: the same versions.
    running.handle.resync(Word::default()).await.unwrap();
    running.reaches(|status| matches!(status.phase, Phase::Refilling { .. }) || status.upserts > 9).await;
    bench.caught_up(&mut running).await;
    assert_eq!(history(target).await, expected);
    running.stop().await.unwrap();
}

/// A sink whose answers are lost, that is busy or slow, and a deliverer that is killed: every version once, each ending where the next
/// begins.
pub(crate) async fn random_faults_double_no_version(mut bench: Bench, target: &Target) {
    let mut random = StdRng::seed_from_u64(guitong_tests::seed());
    let script = Script::new();
    let soft = random.random_bool(0.5);
    let table = SinkTable { deletes: if soft { Deletes::Soft } else { Deletes::Hard }, ..HISTORY };
    let subscription = kept(&bench, target, table);
    let mut expected: BTreeMap<String, Vec<Version>> = BTreeMap::new();
    let (mut commit, mut served) = (0, 0);
    for _ in 0..12 {
        let fails = (0..random.random_range(0..3))
            .map(|_| if random.random_bool(0.7) { Step::LoseReply } else { Step::Fail(SinkErrorKind::Busy) });
        script.only(fails);
        let mut records = Vec::new();
        for _ in 0..random.random_range(1..40) {
            commit += 1;
            let key = format!("K{}", random.random_range(0..8));
            let versions = expected.entry(key.clone()).or_default();
            if let Some(last) = versions.last_mut().filter(|last| last.2.is_none()) {
                last.2 = Some(commit);
            }
            if random.random_bool(0.25) {
                records.push(delete(&bench, &key, commit));
            } else {
                versions.push((commit.to_string(), commit, None));
                records.push(named(&bench, &key, &commit.to_string(), commit));
            }
        }
        bench.append(records).await;
        let mut running = bench.start_faulty(&subscription, target, &script);
        if random.random_bool(0.4) {
            tokio::time::sleep(std::time::Duration::from_micros(random.random_range(0..40_000))).await;
            running.kill().await;
        } else {
            bench.caught_up(&mut running).await;
            running.stop().await.unwrap();
            served += 1;
        }
    }
    let mut running = bench.start_faulty(&subscription, target, &script);
    bench.caught_up(&mut running).await;
    running.stop().await.unwrap();
    expected.retain(|_, versions| !versions.is_empty());
    assert_eq!(history(target).await, expected, "soft deletes: {soft}");
    assert!(script.attempts().len() >= served);
}

pub(crate) async fn a_narrower_grant_rewrites_the_history(mut bench: Bench, target: &Target) {
    let wide = kept(&bench, target, HISTORY);
    bench.append(vec![named(&bench, "A", "1", 1), named(&bench, "A", "2", 2), named(&bench, "B", "3", 3)]).await;
    bench.deliver(&wide).await;
    let columns = format!("{}, contact, name", seconds(target, "valid_from"));
    let contacts = || target.rows(&columns, "t_history");
    assert!(contacts().await.values().all(|row| row[0].is_some()));

    // A mask: versions that the log has still get what is granted now, others nothing; none keeps what was shown.
    let mut masked = wide.clone();
    masked.masks.insert("contact".into(), Mask::Name);
    bench.deliver(&masked).await;
    assert!(contacts().await.values().all(|row| row[0].as_deref().is_none_or(|contact| contact == "欧阳**")));
    let narrow = Subscription { fields: vec!["uscc".into(), "name".into()], masks: BTreeMap::new(), ..wide.clone() };
    bench.deliver(&narrow).await;
    assert!(contacts().await.values().all(|row| row[0].is_none()));
    let whole = BTreeMap::from([
        ("A".to_owned(), versions(&[("1", 1, Some(2)), ("2", 2, None)])),
        ("B".to_owned(), versions(&[("3", 3, None)])),
    ]);
    assert_eq!(history(target).await, whole, "the versions are those that they were");

    // A row that leaves the grant takes its history along.
    let few = Subscription { condition: Some("name != 'hidden'".into()), ..narrow.clone() };
    bench.deliver(&few).await;
    bench.append(vec![named(&bench, "A", "hidden", 4), named(&bench, "B", "5", 5)]).await;
    bench.deliver(&few).await;
    let rest = BTreeMap::from([("B".to_owned(), versions(&[("3", 3, Some(5)), ("5", 5, None)]))]);
    assert_eq!(history(target).await, rest);

    // Versions that another condition granted go, but for what the log has still.
    let fewer = Subscription { condition: Some("name == '5'".into()), ..narrow.clone() };
    bench.deliver(&fewer).await;
    assert_eq!(history(target).await, BTreeMap::from([("B".to_owned(), versions(&[("5", 5, None)]))]));

    // Without a history there is no table of one.
    let without = Subscription { table: PLAIN, ..fewer };
    bench.deliver(&without).await;
    let stays = match target {
        Target::Sqlite(..) => "SELECT name FROM sqlite_master WHERE name = 't_history'",
        _ => "SELECT CAST(table_name AS CHAR(64)) FROM information_schema.tables WHERE table_name = 't_history'",
    };
    assert_eq!(target.texts(stays).await, [""; 0]);
}

pub(crate) async fn a_table_of_the_historys_name_is_left_alone(mut bench: Bench, target: &Target) {
    target.execute(&format!("CREATE TABLE {} (uscc INTEGER)", target.named("t_history"))).await;
    bench.append(vec![named(&bench, "A", "甲", 1)]).await;
    let mut refused = bench.start(&kept(&bench, target, HISTORY));
    refused.reaches(|status| matches!(status.phase, Phase::Stopped { .. })).await;
    let error = refused.stop().await.unwrap_err().to_string();
    assert!(error.contains("t_history") && error.contains("there already"), "{error}");
    assert_eq!(target.count("t_history").await, 0);
}

pub(crate) async fn a_column_of_another_type_waits_where_it_is_told_to(mut bench: Bench, target: &Target) {
    let dated = |on_type_change| Subscription {
        table: SinkTable { on_type_change, ..HISTORY },
        ..bench.subscription("credit", target.config("t"), &["uscc", "established"])
    };
    let (pause, rebuild) = (dated(OnTypeChange::Pause), dated(OnTypeChange::Rebuild));
    bench.append(vec![bench.upsert("A", &[("established", Value::Int(17_431))], 1)]).await;
    bench.deliver(&pause).await;
    let held = async || target.rows("uscc, established", "t").await["A"][0].clone();
    assert_eq!(held().await.as_deref(), Some("2017-09-22"));
    // What stands for a date by a hash is a text.
    let masked = |subscription: &Subscription| {
        let mut masked = subscription.clone();
        masked.masks.insert("established".into(), Mask::Hash);
        masked
    };
    if matches!(target, Target::Sqlite(..)) {
        // There dates are texts as well.
        bench.deliver(&masked(&pause)).await;
    } else {
        for _ in 0..2 {
            let mut refused = bench.start(&masked(&pause));
            refused.reaches(|status| matches!(status.phase, Phase::Stopped { .. })).await;
            let error = refused.stop().await.unwrap_err().to_string();
            assert!(error.contains("column established is date, and has to be"), "{error}");
            assert_eq!(held().await, None, "what is masked now is not shown meanwhile");
        }
        bench.deliver(&masked(&rebuild)).await;
    }
    assert_eq!(held().await.map(|hash| hash.len()), Some(32));
    assert_eq!(target.count("t_history").await, 1);
}

pub(crate) async fn a_column_that_comes_back_is_of_the_type_that_it_has_then(mut bench: Bench, target: &Target) {
    let of = |fields: &[&str]| Subscription { table: HISTORY, ..bench.subscription("credit", target.config("t"), fields) };
    let (dated, bare) = (of(&["uscc", "established"]), of(&["uscc"]));
    let mut masked = dated.clone();
    masked.masks.insert("established".into(), Mask::Hash);
    bench.append(vec![bench.upsert("A", &[("established", Value::Int(17_431))], 1)]).await;
    let held = async || target.rows("uscc, established", "t").await["A"][0].clone();
    for (granted, length) in
        [(&dated, Some(10)), (&bare, None), (&masked, Some(32)), (&bare, None), (&bare, None), (&dated, Some(10))]
    {
        bench.deliver(granted).await;
        assert_eq!(held().await.map(|text| text.len()), length);
    }
}

pub(crate) async fn what_is_kept_is_not_taken_for_what_is_granted(mut bench: Bench, target: &Target) {
    let subscription = kept(&bench, target, keeping(Deletes::Soft, true));
    bench.append(vec![named(&bench, "A", "甲", 1), named(&bench, "B", "乙", 2), named(&bench, "C", "丙", 3)]).await;
    bench.deliver(&subscription).await;
    bench.append(vec![delete(&bench, "A", 4)]).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let clean = running.handle.verify(&Verify { repair: None, limit: 10 }).await.unwrap();
    assert_eq!((clean.entitled, clean.held, clean.wrong()), (2, 2, 0), "{clean:?}");
    let before = history(target).await;
    let table = target.named("t");
    target.execute(&format!("DELETE FROM {table} WHERE uscc = 'B'")).await;
    let repair = Verify { repair: Some(Word::default()), limit: 10 };
    assert_eq!(running.handle.verify(&repair).await.unwrap().missing, 1);
    assert_eq!(rows(target).await["B"], whole("乙", None));
    assert_eq!(history(target).await, before, "put right, it is the version that it was");
    running.stop().await.unwrap();
}
