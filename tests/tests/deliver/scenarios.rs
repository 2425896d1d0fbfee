//! What every sink has to hold.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use guitong_deliver::sink::{Change, PartitionStand, Sink, SinkBatch, SinkErrorKind, What};
use guitong_deliver::{DeliverError, Phase, parked};
use guitong_govern::audit::{AuditEntry, Digest, Range, first_break};
use guitong_govern::{Gone, Row, RowKey};
use guitong_log::{ExchangeLog as _, NewRecord, OwnerId, Role, TopicPartition};
use guitong_schemas::avro::Value;
use guitong_schemas::contract::subscription::{Approval, Mask};
use guitong_schemas::standard::StandardValue;
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, ToSpan as _};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::faults::{Lose, LosingLog};
use crate::fixture::{Bench, PARTITIONS, Target, names, now_us, version, with_county};
pub(crate) use crate::foreign::{
    a_column_map_that_does_not_fit_is_told_at_start, a_departments_own_table_gets_its_columns_and_no_other,
    a_narrower_grant_takes_from_a_departments_own_table, crashes_double_nothing_in_a_departments_own_table,
};
pub(crate) use crate::holders::{
    a_delete_arrives_whatever_is_noted_of_its_row, a_repair_keeps_the_list_of_rows_that_were_sent_last,
    a_row_that_goes_at_once_is_noted_to_be_gone, a_server_never_hears_of_a_row_that_was_never_granted,
    random_faults_lose_no_delete, the_list_of_rows_that_were_sent_last_is_sealed,
};
pub(crate) use crate::kept::{
    a_changed_grant_clears_rows_that_are_gone, a_column_of_another_type_waits_where_it_is_told_to,
    a_column_that_comes_back_is_of_the_type_that_it_has_then, a_delete_that_a_refill_meets_keeps_nothing_of_an_earlier_grant,
    a_history_holds_every_version_once_and_in_order, a_narrower_grant_rewrites_the_history,
    a_row_that_leaves_the_grant_leaves_its_key_alone, a_table_of_the_historys_name_is_left_alone,
    random_faults_double_no_version, soft_deletes_keep_what_was_granted_to_the_last, soft_deletes_need_columns_that_may_be_null,
    what_is_kept_is_not_taken_for_what_is_granted,
};
pub(crate) use crate::purge::what_was_delivered_is_taken_back_once_the_approval_ended;
pub(crate) use crate::replay::{a_replay_doubles_nothing_and_obeys_what_is_granted_now, a_replay_goes_on_after_a_crash};
pub(crate) use crate::verify::{
    random_values_of_every_kind_are_digested_as_they_are_here, rows_of_the_subscribers_own_are_left_alone,
    rows_that_are_known_by_a_hash_are_compared, rows_that_somebody_changed_are_found_and_put_right,
    what_is_being_delivered_is_not_reported,
};

pub(crate) async fn a_new_subscription_gets_the_whole_state_and_what_follows(mut bench: Bench, target: &Target) {
    let whole = [
        ("name", Value::Text("测试公司\"甲\"\n；,\\N")),
        ("reg_capital", Value::Decimal { unscaled: &(-1_234_500_001_i64).to_be_bytes(), scale: 6 }),
        ("established", Value::Int(17_431)),
        ("term_to", Value::Int(2_932_896)),
        ("employees", Value::Int(42)),
    ];
    let records = vec![bench.upsert("A", &whole, 1), bench.named("B", "乙", 2), bench.named("C", "丙", 3), bench.delete("C", 4)];
    bench.append(records).await;
    let fields = ["uscc", "name", "reg_capital", "established", "term_to", "employees"];
    let subscription = bench.subscription("credit", target.config("企业"), &fields);
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let all = "uscc, name, reg_capital, established, term_to, employees";
    let some = |values: &[&str]| values.iter().map(|&value| Some(value.to_owned())).collect::<Vec<_>>();
    let rows = target.rows(all, "企业").await;
    let a = some(&["测试公司\"甲\"\n；,\\N", "-1234.500001", "2017-09-22", "9999-12-31", "42"]);
    assert_eq!(rows["A"], a);
    assert_eq!(rows["B"], [some(&["乙"]), vec![None; 4]].concat());
    assert_eq!(rows.len(), 2);

    let records = vec![bench.named("B", "乙二", 5), bench.delete("A", 6), bench.named("D", "丁", 7), bench.named("B", "乙三", 8)];
    bench.append(records).await;
    bench.caught_up(&mut running).await;
    assert_eq!(target.names("企业").await, names(&[("B", "乙三"), ("D", "丁")]));
    running.stop().await.unwrap();

    bench.append(vec![bench.delete("D", 9), bench.named("A", "甲", 10)]).await;
    bench.deliver(&subscription).await;
    assert_eq!(target.names("企业").await, names(&[("A", "甲"), ("B", "乙三")]));
}

pub(crate) async fn older_records_undo_nothing(mut bench: Bench, target: &Target) {
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    bench.append(vec![bench.named("A", "new", 10), bench.named("B", "new", 10)]).await;
    bench.deliver(&subscription).await;
    // In batches of their own: within one batch the newest would win without the sink's guard.
    bench.append(vec![bench.delete("B", 20)]).await;
    bench.deliver(&subscription).await;
    bench.append(vec![bench.named("A", "old", 9), bench.named("B", "old", 15)]).await;
    bench.deliver(&subscription).await;
    assert_eq!(target.names("t").await, names(&[("A", "new")]), "older upserts");
    bench.append(vec![bench.delete("A", 5)]).await;
    bench.deliver(&subscription).await;
    assert_eq!(target.names("t").await, names(&[("A", "new")]), "an older delete");
    bench.append(vec![bench.named("B", "again", 21), bench.named("A", "newest", 11)]).await;
    bench.deliver(&subscription).await;
    assert_eq!(target.names("t").await, names(&[("A", "newest"), ("B", "again")]));
    assert_eq!(target.count("guitong_deleted").await, 0, "a key that is there again is no longer remembered as deleted");
}

pub(crate) async fn a_delete_leaves_no_trace_with_those_who_never_held_the_row(mut bench: Bench, target: &Target) {
    let mut subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    subscription.condition = Some("name == 'mine'".into());
    bench.append(vec![bench.named("SECRET", "other", 1), bench.named("A", "mine", 2)]).await;
    bench.deliver(&subscription).await;
    bench.append(vec![bench.delete("SECRET", 3), bench.delete("A", 4)]).await;
    bench.deliver(&subscription).await;
    assert_eq!(target.count("t").await, 0);
    assert_eq!(target.count("guitong_deleted").await, 1, "only the key that was held is remembered");
}

pub(crate) async fn crashes_anywhere_neither_lose_nor_double(mut bench: Bench, target: &Target) {
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    let (expected, commit) = bench.crash(&subscription, 25, 50..400, 300, 40).await;
    bench.deliver(&subscription).await;
    assert_eq!(target.names("t").await, expected);
    assert_each_batch_once(&bench, commit).await;
}

pub(crate) async fn an_older_holder_writes_nothing(mut bench: Bench, target: &Target) {
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    bench.append(vec![bench.named("A", "one", 1)]).await;
    let mut first = bench.start(&subscription);
    bench.caught_up(&mut first).await;
    // Both believe that they hold the subscription; each batch is applied by one of them.
    let mut second = bench.start(&subscription);
    for commit in 2..60 {
        bench.append(vec![bench.named("A", &commit.to_string(), commit), bench.named(&format!("K{commit}"), "k", commit)]).await;
    }
    bench.caught_up(&mut second).await;
    bench.caught_up(&mut first).await;
    assert_eq!(target.names("t").await["A"], "59");
    assert_eq!(target.count("t").await, 59);
    first.stop().await.unwrap();
    second.stop().await.unwrap();
    let entries = bench.audit("credit").await;
    let mut covered: Vec<_> = entries.iter().flat_map(|entry| &entry.ranges).map(|range| (range.partition, range.from)).collect();
    let all = covered.len();
    covered.sort_unstable();
    covered.dedup();
    assert_eq!(covered.len(), all, "no batch was applied twice");
}

pub(crate) async fn a_batch_is_taken_only_where_the_sink_stands_and_from_its_holder(bench: Bench, target: &Target) {
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    let (mut first, mut second) = (target.sink(&bench, &subscription), target.sink(&bench, &subscription));
    let write = async |sink: &mut Box<dyn Sink>, epoch, from, to| {
        let text = |text: &str| StandardValue::Text(text.to_owned().into());
        let key = RowKey { id: vec![from as u8], clear: vec![text(&format!("K{from}"))] };
        let row = Row { key, cells: vec![text(&format!("K{from}")), text("甲")] };
        let change = Change::new(version(1), 1_000_000, What::Upsert(row));
        let ranges = vec![Range { partition: 0, from, to }];
        let entry = AuditEntry {
            subscription: "credit".into(),
            resource: "enterprise".into(),
            epoch,
            ranges,
            count: 1,
            content: Digest::start(),
            grant: String::new(),
            revision: String::new(),
            at_us: now_us(),
            previous: Digest::start(),
        };
        let batch =
            SinkBatch { changes: &[&change], earlier: &[], ranges: &entry.ranges, entry: &entry, unlogged: &[], sealed: None };
        sink.write(&batch).await.map(|ack| ack.durable).map_err(|error| error.kind)
    };
    let begin = |next| [PartitionStand { partition: 0, next, refill_to: 0 }];
    let epoch = first.open().await.unwrap().epoch;
    first.begin_refill(&begin(0)).await.unwrap();
    assert_eq!(write(&mut first, epoch, 0, 10).await, Ok(vec![(0, 10)]));
    assert_eq!(write(&mut first, epoch, 0, 10).await, Err(SinkErrorKind::Fenced), "the same batch again");
    assert_eq!(write(&mut first, epoch, 5, 15).await, Err(SinkErrorKind::Fenced), "a batch that overlaps");
    assert_eq!(write(&mut first, epoch, 11, 15).await, Err(SinkErrorKind::Fenced), "a batch that leaves out");
    let stand = second.open().await.unwrap();
    assert!(stand.epoch > epoch);
    assert_eq!((stand.partitions[0].next, stand.entries[0].epoch), (10, epoch));
    assert_eq!(write(&mut first, epoch, 10, 20).await, Err(SinkErrorKind::Fenced), "an older holder");
    assert_eq!(first.begin_refill(&begin(0)).await.unwrap_err().kind, SinkErrorKind::Fenced);
    assert_eq!(first.sweep().await.unwrap_err().kind, SinkErrorKind::Fenced);
    assert_eq!(target.count("t").await, 1, "what is refused writes nothing");
    assert_eq!(write(&mut second, stand.epoch, 10, 20).await, Ok(vec![(0, 20)]));
    assert_eq!(target.count("t").await, 2);
}

pub(crate) async fn an_audit_entry_that_did_not_reach_the_log_is_completed(mut bench: Bench, target: &Target) {
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    let log = Arc::new(LosingLog::new(bench.log.clone()));
    let mut running = bench.start_on(log.clone(), &subscription);
    bench.append(vec![bench.named("A", "1", 1)]).await;
    bench.caught_up(&mut running).await;
    for (commit, lose) in [(2, Lose::Append), (3, Lose::Answer), (4, Lose::Append), (5, Lose::Nothing)] {
        log.lose(lose);
        bench.append(vec![bench.named("A", &commit.to_string(), commit)]).await;
        bench.caught_up(&mut running).await;
        running.reaches(|_| log.lost()).await;
    }
    // The last entry is in the log once the deliverer is at its next turn.
    bench.append(vec![bench.named("B", "6", 6)]).await;
    bench.caught_up(&mut running).await;
    running.stop().await.unwrap();
    bench.deliver(&subscription).await;
    assert_eq!(target.names("t").await, names(&[("A", "5"), ("B", "6")]));
    assert_each_batch_once(&bench, 6).await;
}

/// What is cut short at the end is not in the way of the last entry.
pub(crate) async fn a_stop_leaves_no_audit_entry_behind(mut bench: Bench, target: &Target) {
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    let log = Arc::new(LosingLog::new(bench.log.clone()));
    let mut running = bench.start_on(log.clone(), &subscription);
    bench.append(vec![bench.named("A", "1", 1)]).await;
    bench.caught_up(&mut running).await;
    log.answers_late(true);
    // That the row is gone is noted behind the delete.
    bench.append(vec![bench.delete("A", 2)]).await;
    log.is_late().await;
    running.shutdown.cancel();
    // Where the entry was in the log before, nothing is waited for.
    let early = tokio::time::timeout(Duration::from_millis(300), &mut running.task).await;
    log.answers_late(false);
    let ended = if let Ok(ended) = early { ended } else { running.task.await };
    ended.unwrap().unwrap();
    assert_eq!(target.count("t").await, 0);
    assert_each_batch_once(&bench, 2).await;
}

/// The subscription's audit entries are one chain that covers every record once.
pub(crate) async fn assert_each_batch_once(bench: &Bench, records: u64) {
    let entries = bench.audit("credit").await;
    assert_eq!(first_break(&entries), None, "the chain of audit entries");
    let mut next = HashMap::new();
    for range in entries.iter().flat_map(|entry| &entry.ranges) {
        assert_eq!(*next.get(&range.partition).unwrap_or(&0), range.from, "each batch once, and none left out");
        next.insert(range.partition, range.to);
    }
    assert_eq!(next.values().sum::<u64>(), records);
}

pub(crate) async fn a_table_of_the_wrong_shape_stops_only_its_subscription(mut bench: Bench, target: &Target) {
    target.execute(&format!("CREATE TABLE {} (uscc INTEGER, name TEXT, local TEXT NOT NULL)", target.named("theirs"))).await;
    let wrong = bench.subscription("wrong", target.config("theirs"), &["uscc", "name", "established"]);
    let right = bench.subscription("right", target.config("t"), &["uscc", "name"]);
    bench.append(vec![bench.named("A", "甲", 1)]).await;
    let mut stopped = bench.start(&wrong);
    let mut running = bench.start(&right);
    stopped.reaches(|status| matches!(status.phase, Phase::Stopped { .. })).await;
    let error = stopped.stop().await.unwrap_err();
    assert!(matches!(error, DeliverError::Sink { .. }));
    let text = error.to_string();
    for named in ["theirs", "wrong", "uscc", "established", "local", "guitong_version", "unique"] {
        assert!(text.contains(named), "{named} is not in: {text}");
    }
    bench.caught_up(&mut running).await;
    bench.append(vec![bench.named("B", "乙", 2)]).await;
    bench.caught_up(&mut running).await;
    assert_eq!(target.count("t").await, 2);
    running.stop().await.unwrap();
}

pub(crate) async fn of_many_that_open_one_database_each_is_taken_over_for_itself(bench: Bench, target: &Target) {
    target.execute(&format!("CREATE TABLE {} (uscc INTEGER)", target.named("t3"))).await;
    let named = |n: u64| bench.subscription(&format!("s{n}"), target.config(&format!("t{n}")), &["uscc", "name"]);
    let mut sinks: Vec<_> = (0..12).map(|n| target.sink(&bench, &named(n))).collect();
    for round in 1..=2 {
        let opened = futures::future::join_all(sinks.iter_mut().map(|sink| sink.open())).await;
        for (n, stand) in (0_u64..).zip(&opened) {
            match stand {
                Ok(stand) => {
                    assert_eq!((n == 3, stand.epoch), (false, round), "s{n}");
                    assert_eq!(stand.partitions.first().map(|at| at.next), (round == 2).then_some(n), "s{n}");
                }
                Err(error) => assert_eq!((n, error.kind), (3, SinkErrorKind::Shape), "{error}"),
            }
        }
        for (n, sink) in (0_u64..).zip(&mut sinks).filter(|(n, _)| round == 1 && *n != 3) {
            sink.begin_refill(&[PartitionStand { partition: 0, next: n, refill_to: n }]).await.unwrap();
        }
    }
}

pub(crate) async fn a_row_follows_the_condition(mut bench: Bench, target: &Target) {
    let mut subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    subscription.condition = Some("reg_address_division.startsWith('4501')".into());
    let at = |bench: &Bench, division, commit| {
        bench.upsert("A", &[("name", Value::Text("甲")), ("reg_address_division", division)], commit)
    };
    let mut running = bench.start(&subscription);
    let mut commit = 0;
    for (division, held) in [
        (Value::Text("450102"), 1),
        (Value::Text("450202"), 0),
        (Value::Text("450103"), 1),
        // What cannot be judged is not delivered.
        (Value::Null, 0),
    ] {
        commit += 1;
        bench.append(vec![at(&bench, division, commit)]).await;
        bench.caught_up(&mut running).await;
        assert_eq!(target.count("t").await, held, "after {commit}");
    }
    let status = running.reaches(|status| status.unjudged == 1).await;
    assert!(status.last_unjudged.is_some_and(|reason| !reason.contains('甲')));
    running.stop().await.unwrap();
}

pub(crate) async fn nothing_is_delivered_after_the_approval_ends(mut bench: Bench, target: &Target) {
    // A zone whose day ends in three seconds.
    let now = Timestamp::now();
    let of_day = now.as_second().rem_euclid(86_400);
    let to_midnight = i32::try_from(86_397 - of_day).unwrap();
    let offset = if to_midnight > 50_000 { to_midnight - 86_400 } else { to_midnight };
    bench.time_zone = TimeZone::fixed(Offset::from_seconds(offset).unwrap());
    let today = now.to_zoned(bench.time_zone.clone()).date();
    let mut subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    subscription.approval = Some(Approval { number: "桂数共〔2026〕18号".into(), from: None, until: today });
    bench.append(vec![bench.named("A", "甲", 1)]).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    assert_eq!(target.count("t").await, 1);
    let ended = today.checked_add(1.day()).unwrap().to_zoned(bench.time_zone.clone()).unwrap().timestamp();
    running.reaches(|status| matches!(status.phase, Phase::Waiting { .. })).await;
    let late = now_us() - ended.as_microsecond();
    assert!((0..1_000_000).contains(&late), "noticed after {late} us");
    bench.append(vec![bench.named("B", "乙", 2)]).await;
    running.stop().await.unwrap();
    // A new task does not begin.
    let mut again = bench.start(&subscription);
    again.reaches(|status| matches!(status.phase, Phase::Waiting { .. })).await;
    again.stop().await.unwrap();
    assert_eq!(target.count("t").await, 1);
}

pub(crate) async fn a_changed_grant_takes_away_before_anything_new(mut bench: Bench, target: &Target) {
    let wide = bench.subscription("credit", target.config("t"), &["uscc", "name", "contact"]);
    let records = (1..=40).map(|n| bench.named(&format!("K{n}"), if n <= 10 { "mine" } else { "other" }, n)).collect();
    bench.append(records).await;
    bench.deliver(&wide).await;
    assert_eq!(target.rows("uscc, contact", "t").await["K1"], [Some("欧阳测试".to_owned())]);

    let mut masked = wide.clone();
    masked.masks.insert("contact".into(), Mask::Name);
    bench.deliver(&masked).await;
    let rows = target.rows("uscc, contact", "t").await;
    assert_eq!(rows.len(), 40);
    assert!(rows.values().all(|row| row[0].as_deref() == Some("欧阳**")), "{rows:?}");

    let mut narrow = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    narrow.condition = Some("name == 'mine'".into());
    bench.deliver(&narrow).await;
    let rows = target.rows("uscc, contact", "t").await;
    assert_eq!(rows.len(), 10, "rows that left the grant are gone");
    assert!(rows.values().all(|row| row[0].is_none()), "a field that is no longer granted is gone");

    let hashed = bench.subscription("credit", target.config("t"), &["name"]);
    bench.deliver(&hashed).await;
    assert_eq!(target.count("t").await, 40);
    let key = match target {
        Target::Sqlite(..) | Target::Mariadb(..) => "hex(guitong_key)",
        Target::Postgres(..) => "encode(guitong_key,'hex')",
        Target::Files(_) | Target::Kafka(_) => "guitong_key",
    };
    assert!(target.rows(&format!("{key}, name"), "t").await.keys().all(|key| key.len() == 32));
    bench.append(vec![bench.delete("K1", 100)]).await;
    bench.deliver(&hashed).await;
    assert_eq!(target.count("t").await, 39, "deletes go by the hashed key");

    bench.deliver(&wide).await;
    assert_eq!(target.rows("uscc, contact", "t").await.len(), 39, "a wider grant backfills from the log");
}

pub(crate) async fn a_new_table_of_divisions_masks_addresses_anew(mut bench: Bench, target: &Target) {
    let mut masked = bench.subscription("credit", target.config("t"), &["uscc", "reg_address"]);
    masked.masks.insert("reg_address".into(), Mask::Address);
    let clear = bench.subscription("other", target.config("o"), &["uscc", "reg_address"]);
    let county = with_county("示例新区");
    let address = Value::Text("广西壮族自治区南宁市示例新区民族大道1号");
    bench.append(vec![bench.upsert("A", &[("reg_address", address)], 1)]).await;
    bench.deliver(&masked).await;
    bench.deliver(&clear).await;
    let (known, builtin) = ("广西壮族自治区南宁市", Arc::clone(&bench.entity));
    assert_eq!(target.rows("uscc, reg_address", "t").await["A"], [Some(known.to_owned())]);
    for (entity, shown) in [(county, "广西壮族自治区南宁市示例新区"), (builtin, known)] {
        bench.entity = entity;
        bench.deliver(&masked).await;
        assert_eq!(target.rows("uscc, reg_address", "t").await["A"], [Some(shown.to_owned())]);
        let mut running = bench.start(&clear);
        bench.caught_up(&mut running).await;
        assert_eq!(running.status.borrow().upserts, 0, "what asks no table is as it was");
        running.stop().await.unwrap();
    }
}

pub(crate) async fn a_record_the_sink_refuses_is_set_aside(mut bench: Bench, target: &Target) {
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    let (key, own) = match target {
        Target::Sqlite(..) => ("TEXT", "guitong_version BLOB, guitong_epoch INTEGER"),
        Target::Postgres(..) => ("text", "guitong_version bytea, guitong_epoch bigint"),
        Target::Files(_) | Target::Kafka(_) => panic!("has no table"),
        Target::Mariadb(..) => ("VARCHAR(40) COLLATE utf8mb4_bin", "guitong_version VARBINARY(40), guitong_epoch BIGINT"),
    };
    let table = target.named("t");
    target.execute(&format!("CREATE TABLE {table} (uscc {key} PRIMARY KEY, name TEXT CHECK (name <> 'poison'), {own})")).await;
    if let Target::Postgres(..) = target {
        target.execute(&format!("ALTER TABLE {table} OWNER TO office")).await;
    }
    let mut records: Vec<_> = (1..=100).map(|n| bench.named(&format!("K{n}"), "good", n)).collect();
    records[36] = bench.named("K37", "poison", 37);
    records[80] = bench.named("K81", "poison", 81);
    let mut broken = bench.named("K50", "good", 50);
    broken.value = Some(bytes::Bytes::from_static(b"\0\0\0\0\x01rubbish"));
    records[49] = broken;
    bench.append(records).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    assert_eq!(target.count("t").await, 97);
    running.reaches(|status| status.parked == 3).await;
    bench.append(vec![bench.named("K37", "healed", 101)]).await;
    bench.caught_up(&mut running).await;
    assert_eq!(target.names("t").await["K37"], "healed");
    running.stop().await.unwrap();
    let owned = bench.log.open(&OwnerId::new(Role::Deliver, "credit")).await.unwrap();
    let aside = parked(&*owned).await.unwrap();
    assert_eq!(aside.len(), 2, "the healed row's is void");
    assert!(aside.iter().all(|parked| parked.topic == "std.enterprise" && !parked.reason.contains("poison')")), "{aside:?}");
}

pub(crate) async fn another_log_is_a_gap_that_a_refill_closes(mut bench: Bench, target: &Target) {
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    let records = (1..=30).map(|n| bench.named(&format!("K{n}"), "old", n)).collect();
    bench.append(records).await;
    bench.deliver(&subscription).await;
    bench.replace_log().await;
    let records = (1..=3).map(|n| bench.named(&format!("K{n}"), "new", 100 + n)).collect();
    bench.append(records).await;
    bench.deliver(&subscription).await;
    assert_eq!(target.names("t").await, names(&[("K1", "new"), ("K2", "new"), ("K3", "new")]));
}

/// The record, as if it had been written so many hours ago.
fn aged(mut record: NewRecord, hours: i64) -> NewRecord {
    record.timestamp_ms -= hours * 3_600_000;
    record
}

pub(crate) async fn who_was_away_for_longer_than_deletes_are_kept_is_filled_anew(mut bench: Bench, target: &Target) {
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    bench.append((1..=6).map(|n| aged(bench.named(&format!("K{n}"), "甲", n), 120)).collect()).await;
    bench.deliver(&subscription).await;
    // While it is away, rows are deleted and change, and the deletes leave the log.
    bench.append(vec![aged(bench.delete("K2", 12), 60), aged(bench.delete("K3", 13), 60)]).await;
    bench.append(vec![aged(bench.named("K3", "又", 14), 50), aged(bench.delete("K4", 15), 25)]).await;
    bench.append(vec![aged(bench.delete("K1", 16), 10), bench.named("K5", "新", 17)]).await;
    bench.log.maintain(now_us() / 1_000).await.unwrap();
    let mut deletes = 0;
    for partition in 0..PARTITIONS {
        let records = guitong_tests::everything(&*bench.log, &TopicPartition::new("std.enterprise", partition)).await;
        deletes += records.iter().filter(|record| record.value.is_none()).count();
    }
    assert_eq!(deletes, 1, "that of K1 alone is young enough to be there");
    bench.deliver(&subscription).await;
    assert_eq!(target.names("t").await, names(&[("K3", "又"), ("K5", "新"), ("K6", "甲")]));

    // Where nothing that is old is left to be read, nothing is delivered again.
    bench.append(vec![aged(bench.delete("K6", 18), 10)]).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    assert_eq!((running.status.borrow().upserts, target.count("t").await), (0, 2));
    running.stop().await.unwrap();
}

pub(crate) async fn a_refill_that_stood_still_for_as_long_begins_anew(mut bench: Bench, target: &Target) {
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    bench.append((1..=6).map(|n| bench.named(&format!("K{n}"), "甲", n)).collect()).await;
    bench.deliver(&subscription).await;
    // Begun at the end: it would sweep everything, for it met nothing.
    let mut sink = target.sink(&bench, &subscription);
    sink.open().await.unwrap();
    let mut ends = Vec::new();
    for partition in 0..PARTITIONS {
        let end = bench.log.bounds(&TopicPartition::new("std.enterprise", partition)).await.unwrap().end;
        ends.push(PartitionStand { partition, next: end, refill_to: end });
    }
    sink.begin_refill(&ends).await.unwrap();
    target.age_entries("t", 23).await;
    bench.deliver(&subscription).await;
    assert_eq!(target.count("t").await, 6);
}

/// Calls that are dropped wherever they stand cost the subscription no connection: later ones are done.
pub(crate) async fn calls_that_are_dropped_leave_connections_for_others(bench: Bench, target: &Target) {
    let mut random = StdRng::seed_from_u64(guitong_tests::seed());
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    let mut sink = target.sink(&bench, &subscription);
    let epoch = sink.open().await.unwrap().epoch;
    let deletes: Vec<Change<'_>> = (0..60_u8)
        .map(|n| {
            let key = RowKey { id: vec![n], clear: vec![StandardValue::Text(format!("K{n}").into())] };
            Change::new(version(1), 1_000_000, What::Delete(key, Gone::Deleted))
        })
        .collect();
    let entry = AuditEntry {
        subscription: "credit".into(),
        resource: "enterprise".into(),
        epoch,
        ranges: Vec::new(),
        count: 1,
        content: Digest::start(),
        grant: String::new(),
        revision: String::new(),
        at_us: now_us(),
        previous: Digest::start(),
    };
    let all: Vec<&Change<'_>> = deletes.iter().collect();
    // As many deletes as never before are a statement that the server has not seen: its preparation is dropped too.
    for count in 1..=all.len() {
        let batch = SinkBatch { changes: &all[..count], earlier: &[], ranges: &[], entry: &entry, unlogged: &[], sealed: None };
        let within = std::time::Duration::from_micros(random.random_range(0..3_000));
        drop(tokio::time::timeout(within, sink.write(&batch)).await);
    }
    let batch = SinkBatch { changes: &all, earlier: &[], ranges: &[], entry: &entry, unlogged: &[], sealed: None };
    sink.write(&batch).await.unwrap();
}

/// `K1` as it was, at a later commit.
fn unchanged(bench: &Bench, commit: u64) -> NewRecord {
    let mut record = bench.named("K1", "甲", commit);
    record.headers.push(("guitong-unchanged".into(), "true".into()));
    record
}

pub(crate) async fn what_changes_nothing_is_delivered_only_where_it_is_asked_for(mut bench: Bench, target: &Target) {
    let usual = bench.subscription("usual", target.config("t"), &["uscc", "name"]);
    let mut asking = bench.subscription("asking", target.config("u"), &["uscc", "name"]);
    asking.unchanged = true;
    bench.append(vec![bench.named("K1", "甲", 1), bench.named("K2", "乙", 2)]).await;
    let (mut first, mut second) = (bench.start(&usual), bench.start(&asking));
    bench.caught_up(&mut first).await;
    bench.caught_up(&mut second).await;
    bench.append(vec![unchanged(&bench, 3)]).await;
    bench.caught_up(&mut first).await;
    bench.caught_up(&mut second).await;
    let delivered = |running: &crate::fixture::Running| running.status.borrow().upserts;
    assert_eq!((delivered(&first), delivered(&second)), (2, 3));
    assert_eq!(target.names("t").await, target.names("u").await);
    first.stop().await.unwrap();
    second.stop().await.unwrap();

    // Where the log has only the last record of the key left, everybody who reads it from its beginning gets that.
    let late = bench.subscription("late", target.config("v"), &["uscc", "name"]);
    bench.replace_log().await;
    bench.append(vec![unchanged(&bench, 3)]).await;
    bench.deliver(&late).await;
    bench.deliver(&usual).await;
    assert_eq!(target.names("v").await, names(&[("K1", "甲")]));
    assert_eq!(target.names("t").await, names(&[("K1", "甲")]));
}
