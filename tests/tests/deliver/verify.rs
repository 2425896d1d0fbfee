//! A sink's rows held against what is granted.

use std::collections::BTreeMap;
use std::sync::Arc;

use guitong_deliver::sink::holdings::number;
use guitong_deliver::sink::{Change, PartitionStand, SinkBatch, SinkPlan, What};
use guitong_deliver::{CommandError, Comparing, ComparingStage, Verification, Verify, Word, Wrong};
use guitong_govern::audit::{AuditEntry, Digest, Range};
use guitong_govern::{Entitlement, KeyForm, Row, RowKey};
use guitong_log::{ExchangeLog as _, NewRecord};
use guitong_schemas::avro::Value;
use guitong_schemas::contract::subscription::Approval;
use guitong_schemas::standard::{Standard, StandardValue, Step};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::faulty::Script;
use crate::fixture::{Bench, Running, Target, names, now_us, version};

fn look() -> Verify {
    Verify { repair: None, limit: 100 }
}

fn repair() -> Verify {
    Verify { repair: Some(Word { by: "韦小明 (uid 1000)".into(), reason: String::new() }), limit: 100 }
}

async fn verify(running: &Running) -> Verification {
    running.handle.verify(&look()).await.unwrap()
}

fn found(of: &Verification) -> (u64, u64, u64) {
    (of.missing, of.superfluous, of.differing)
}

/// Texts that a careless comparison takes for others.
const ODD: [&str; 6] = ["甲\"乙\n；,\\N", "-", "3:abc", "", "it's \\' 𠮷", " 空 "];

fn whole(bench: &Bench, n: u64, commit: u64) -> NewRecord {
    let (number, odd) = (i64::try_from(n).unwrap(), ODD[usize::try_from(n).unwrap() % ODD.len()]);
    let cents = ((number - 40) * 1_234_567).to_be_bytes();
    let mut fields = vec![("name", Value::Text(odd)), ("contact", Value::Text("欧阳测试"))];
    if !n.is_multiple_of(3) {
        fields.push(("reg_capital", Value::Decimal { unscaled: &cents, scale: 6 }));
        fields.push(("established", Value::Int(number * 100)));
        fields.push(("term_to", Value::Int(2_932_896)));
        fields.push(("employees", Value::Int(number)));
    }
    bench.upsert(&format!("K{n}"), &fields, commit)
}

const FIELDS: [&str; 7] = ["uscc", "name", "reg_capital", "established", "term_to", "employees", "contact"];

pub(crate) async fn rows_that_somebody_changed_are_found_and_put_right(mut bench: Bench, target: &Target) {
    let subscription = bench.subscription("credit", target.config("t"), &FIELDS);
    bench.append((1..=600).map(|n| whole(&bench, n, n)).collect()).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let clean = verify(&running).await;
    assert_eq!((clean.entitled, clean.held, found(&clean), clean.rows_read), (600, 600, (0, 0, 0), 0), "{clean:?}");

    let (all, table) = ("uscc, name, reg_capital, established, term_to, employees, contact", target.named("t"));
    let before = target.rows(all, "t").await;
    for sql in [
        format!("UPDATE {table} SET name = 'other' WHERE uscc = 'K1'"),
        format!("UPDATE {table} SET name = NULL, contact = 'SECRET' WHERE uscc = 'K2'"),
        format!("UPDATE {table} SET employees = employees + 1 WHERE uscc = 'K4'"),
        format!("DELETE FROM {table} WHERE uscc = 'K3'"),
        format!("INSERT INTO {table} (uscc, name) VALUES ('X1', 'mine')"),
        format!(
            "INSERT INTO {table} (uscc, name, guitong_version, guitong_epoch)
             SELECT 'X2', name, guitong_version, guitong_epoch FROM {table} WHERE uscc = 'K7'"
        ),
    ] {
        target.execute(&sql).await;
    }
    let wrong = verify(&running).await;
    assert_eq!((found(&wrong), wrong.entitled, wrong.held), ((1, 2, 3), 600, 601), "{wrong:?}");
    assert!(wrong.rows_read < 7 * 500, "{wrong:?}");
    let row =
        |key: &str| wrong.rows.iter().find(|row| row.key.as_deref() == Some(key)).unwrap_or_else(|| panic!("{key}: {wrong:?}"));
    assert_eq!((row("K3").wrong, row("X1").wrong, row("X2").wrong), (Wrong::Missing, Wrong::Superfluous, Wrong::Superfluous));
    let cells =
        |key: &str| row(key).cells.iter().map(|c| (c.name.clone(), c.granted.clone(), c.held.clone())).collect::<Vec<_>>();
    assert_eq!(cells("K1"), [("name".to_owned(), Some(ODD[1].to_owned()), Some("other".to_owned()))]);
    assert_eq!(cells("K4")[0].0, "employees");
    // The name's grade is open, the contact's is not: not even what somebody wrote there is shown.
    let second = row("K2");
    assert_eq!(
        second.cells.iter().map(|cell| (cell.name.as_str(), cell.concealed)).collect::<Vec<_>>(),
        [("name", false), ("contact", true)]
    );
    let told = serde_json::to_string(&wrong).unwrap();
    assert!(!told.contains("SECRET") && !told.contains("欧阳"), "{told}");

    let repaired = running.handle.verify(&repair()).await.unwrap();
    assert_eq!((found(&repaired), repaired.repaired, repaired.wrong()), ((1, 2, 3), 6, 0), "{repaired:?}");
    assert_eq!(target.rows(all, "t").await, before);
    assert_eq!(found(&verify(&running).await), (0, 0, 0));
    // A key that was removed is as any other once it is granted.
    bench.append(vec![bench.named("X1", "granted", 700)]).await;
    bench.caught_up(&mut running).await;
    assert_eq!(target.names("t").await["X1"], "granted");
    assert_eq!(found(&verify(&running).await), (0, 0, 0));
    running.stop().await.unwrap();
}

pub(crate) async fn rows_that_are_known_by_a_hash_are_compared(mut bench: Bench, target: &Target) {
    let subscription = bench.subscription("credit", target.config("t"), &["name", "employees"]);
    bench.append((1..=20).map(|n| whole(&bench, n, n)).collect()).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    assert_eq!(found(&verify(&running).await), (0, 0, 0));
    let table = target.named("t");
    target.execute(&format!("UPDATE {table} SET name = 'other' WHERE employees = 4")).await;
    target.execute(&format!("DELETE FROM {table} WHERE employees = 5")).await;
    let wrong = verify(&running).await;
    assert_eq!(found(&wrong), (1, 0, 1), "{wrong:?}");
    assert!(wrong.rows.iter().all(|row| row.key.as_ref().is_some_and(|key| key.len() == 32)), "{wrong:?}");
    let repaired = running.handle.verify(&repair()).await.unwrap();
    assert_eq!((repaired.repaired, target.count("t").await), (2, 20));
    assert_eq!(found(&verify(&running).await), (0, 0, 0));
    running.stop().await.unwrap();
}

/// Of a table that the subscriber made, rows of his own are his own.
pub(crate) async fn rows_of_the_subscribers_own_are_left_alone(mut bench: Bench, target: &Target) {
    let (key, own) = match target {
        Target::Postgres(..) => ("text", "guitong_version bytea, guitong_epoch bigint"),
        Target::Mariadb(..) => {
            ("VARCHAR(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", "guitong_version VARBINARY(40), guitong_epoch BIGINT")
        }
        Target::Sqlite(..) | Target::Files(_) | Target::Kafka(_) => ("TEXT", "guitong_version BLOB, guitong_epoch INTEGER"),
    };
    let text = if let Target::Mariadb(..) = target { "TEXT CHARACTER SET utf8mb4" } else { "TEXT" };
    let table = target.named("t");
    target.execute(&format!("CREATE TABLE {table} (uscc {key} PRIMARY KEY, name {text}, remark TEXT DEFAULT 'r', {own})")).await;
    if let Target::Postgres(..) = target {
        target.execute(&format!("ALTER TABLE {table} OWNER TO office")).await;
    }
    target.execute(&format!("INSERT INTO {table} (uscc, name) VALUES ('MINE', 'mine')")).await;
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    bench.append(vec![bench.named("A", "甲", 1), bench.named("B", "乙", 2)]).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    target.execute(&format!("UPDATE {table} SET name = 'x', remark = 'kept' WHERE uscc = 'A'")).await;
    let repaired = running.handle.verify(&repair()).await.unwrap();
    assert_eq!((repaired.held, found(&repaired), repaired.repaired), (2, (0, 0, 1), 1), "{repaired:?}");
    assert_eq!(target.names("t").await, names(&[("A", "甲"), ("B", "乙"), ("MINE", "mine")]));
    assert_eq!(target.rows("uscc, remark", "t").await["A"], [Some("kept".to_owned())]);
    running.stop().await.unwrap();
}

/// While batches come in, both sides are looked at as of one position.
pub(crate) async fn what_is_being_delivered_is_not_reported(mut bench: Bench, target: &Target) {
    let mut random = StdRng::seed_from_u64(guitong_tests::seed());
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    bench.append((1..=300).map(|n| bench.named(&format!("K{n}"), "first", n)).collect()).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let mut commit = 300;
    for _ in 0..12 {
        let handle = running.handle.clone();
        let looking = tokio::spawn(async move { handle.verify(&look()).await.unwrap() });
        while !looking.is_finished() {
            let mut change = || {
                commit += 1;
                let key = format!("K{}", random.random_range(0..300));
                if random.random_bool(0.2) { bench.delete(&key, commit) } else { bench.named(&key, &commit.to_string(), commit) }
            };
            let records = (0..20).map(|_| change()).collect();
            bench.append(records).await;
        }
        let seen = looking.await.unwrap();
        assert_eq!((found(&seen), seen.unsettled, seen.more), ((0, 0, 0), 0, false), "{seen:?}");
    }
    bench.caught_up(&mut running).await;
    assert_eq!(found(&verify(&running).await), (0, 0, 0));
    running.stop().await.unwrap();
}

/// A record that the sink has is gone from the log, since a later one of its row came that the sink does not have yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_whose_record_was_superseded_is_looked_at_again() {
    let mut bench = Bench::new().await;
    let target = Target::sqlite(&bench).await;
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    let aged = |mut record: NewRecord| {
        record.timestamp_ms -= 30 * 3_600_000;
        record
    };
    bench.append(vec![aged(bench.named("A", "1", 1)), bench.named("B", "1", 2)]).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    assert!(running.handle.pause(Word { by: "韦小明".into(), reason: "盘点".into() }).await.unwrap());
    bench.append(vec![aged(bench.named("A", "2", 3))]).await;
    bench.log.maintain(now_us() / 1_000).await.unwrap();
    let paused = verify(&running).await;
    assert_eq!((found(&paused), paused.unsettled, paused.entitled), ((0, 0, 0), 1, 1), "{paused:?}");
    assert!(running.handle.resume().await.unwrap());
    bench.caught_up(&mut running).await;
    let seen = verify(&running).await;
    assert_eq!((found(&seen), seen.unsettled, seen.entitled), ((0, 0, 0), 0, 2), "{seen:?}");
    running.stop().await.unwrap();
}

/// What the sink refused is told of as that, and a repair does not try it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_set_aside_are_known() {
    let mut bench = Bench::new().await;
    let target = Target::sqlite(&bench).await;
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    let script = Script::new();
    script.refuse("A", 2);
    bench.append(vec![bench.named("A", "1", 1), bench.named("B", "1", 1)]).await;
    let mut running = bench.start_faulty(&subscription, &target, &script);
    bench.caught_up(&mut running).await;
    bench.append(vec![bench.named("A", "2", 2)]).await;
    bench.caught_up(&mut running).await;
    let seen = running.handle.verify(&repair()).await.unwrap();
    assert_eq!((found(&seen), seen.parked, seen.repaired), ((0, 0, 0), 1, 0), "{seen:?}");
    assert_eq!(target.names("t").await["A"], "1");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_compared_or_put_right_after_the_approval_ends() {
    let mut bench = Bench::new().await;
    let target = Target::sqlite(&bench).await;
    let mut subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    bench.append(vec![bench.named("A", "1", 1)]).await;
    bench.deliver(&subscription).await;
    target.execute("DELETE FROM t").await;
    let until = jiff::civil::date(2026, 1, 1);
    subscription.approval = Some(Approval { number: "桂数共〔2026〕18号".into(), from: None, until });
    let running = bench.start(&subscription);
    assert!(matches!(running.handle.verify(&repair()).await, Err(CommandError::NotNow(_))));
    assert_eq!(target.count("t").await, 0);
    running.stop().await.unwrap();
}

/// Of a hundred thousand rows, those of the range that differs are fetched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_large_table_single_ranges_are_read() {
    const ROWS: u64 = 100_000;
    let mut bench = Bench::new().await;
    let target = Target::postgres().await;
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    for first in (0..ROWS).step_by(5_000) {
        bench.append((first..first + 5_000).map(|n| bench.named(&format!("K{n}"), "甲", n + 1)).collect()).await;
    }
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let table = target.named("t");
    target.execute(&format!("UPDATE {table} SET name = '乙' WHERE uscc = 'K4711'")).await;
    let seen = verify(&running).await;
    assert_eq!((found(&seen), seen.entitled, seen.held, seen.differing_ranges), ((0, 0, 1), ROWS, ROWS, 1), "{seen:?}");
    assert!(seen.ranges >= 256 && seen.rows_read < 1_000, "{seen:?}");
    // Where more differ than single rows, that is said, and nothing is done about it.
    target.execute(&format!("DELETE FROM {table} WHERE uscc > 'K2'")).await;
    let left = target.count("t").await;
    let seen = running.handle.verify(&repair()).await.unwrap();
    assert!(seen.more && seen.missing == 10_000, "{seen:?}");
    assert!(target.count("t").await >= left);
    running.stop().await.unwrap();
}

fn any_text(random: &mut StdRng) -> String {
    let letters =
        ['a', 'Z', '0', '"', '\'', '\\', '\n', '\t', '\u{1}', '\u{7f}', '/', ',', ':', ' ', '南', '𠮷', 'é', '%', '\u{2028}'];
    (0..random.random_range(0..12)).map(|_| letters[random.random_range(0..letters.len())]).collect()
}

fn any_value(random: &mut StdRng, kind: guitong_govern::ColumnKind) -> StandardValue<'static> {
    use guitong_govern::ColumnKind;
    if random.random_bool(0.15) {
        return StandardValue::Null;
    }
    let any_time = |random: &mut StdRng| {
        let micros = random.random_range(-4_000_000_000_000_000_i64..4_000_000_000_000_000);
        if random.random_bool(0.3) { micros / 1_000_000 * 1_000_000 } else { micros }
    };
    match kind {
        ColumnKind::Text => StandardValue::Text(any_text(random).into()),
        ColumnKind::Int => StandardValue::Int(random.random_range(-5..1_000_000_000_000)),
        ColumnKind::Date => StandardValue::Date(random.random_range(-100_000..2_932_897)),
        ColumnKind::Time => StandardValue::Time(any_time(random)),
        ColumnKind::Decimal { scale, .. } => {
            let unscaled = random.random_range(-100_000_000_000_i128..100_000_000_000);
            StandardValue::Decimal {
                unscaled: if random.random_bool(0.3) { unscaled / 1_000_000 * 1_000_000 } else { unscaled },
                scale,
            }
        }
        ColumnKind::TextList => {
            StandardValue::TextList((0..random.random_range(0..4)).map(|_| any_text(random).into()).collect())
        }
        ColumnKind::Steps => {
            let text = |random: &mut StdRng| random.random_bool(0.7).then(|| any_text(random));
            let step = |random: &mut StdRng| Step {
                name: text(random),
                handler: text(random),
                started: random.random_bool(0.5).then(|| any_time(random)),
                ended: random.random_bool(0.5).then(|| any_time(random)),
                action: text(random),
                opinion: text(random),
            };
            StandardValue::Steps((0..random.random_range(0..3)).map(|_| step(random)).collect())
        }
    }
}

/// The number that a database makes of a row is the one that is made here of what was written, whatever the values are.
pub(crate) async fn random_values_of_every_kind_are_digested_as_they_are_here(mut bench: Bench, target: &Target) {
    let mut random = StdRng::seed_from_u64(guitong_tests::seed());
    for (entity, fields) in [
        ("CreditRecord", &["record_kind", "subject_name", "penalty_kind", "fine", "decided", "remark"][..]),
        ("ServiceCase", &["case_no", "received_at", "promise_days", "steps", "item_name", "finished_at", "score"][..]),
    ] {
        bench.entity = Arc::clone(Standard::builtin().entity(entity).unwrap());
        let subscription = bench.subscription(&entity.to_lowercase(), target.config(entity), fields);
        let entitlement = Entitlement::compile(&subscription, &bench.resource, &bench.entity, &bench.time_zone).unwrap();
        let plan: SinkPlan = crate::fixture::plan(&bench, &subscription, &entitlement);
        let mut sink = target.sink(&bench, &subscription);
        let epoch = sink.open().await.unwrap().epoch;
        sink.begin_refill(&[PartitionStand { partition: 0, next: 0, refill_to: 1 }]).await.unwrap();
        assert!(sink.holdings().unwrap().look().await.unwrap().is_none(), "it is being filled");
        let changes: Vec<Change<'_>> = (0..200_u32)
            .map(|n| {
                let mut cells: Vec<_> = plan.columns.iter().map(|column| any_value(&mut random, column.kind)).collect();
                let key = match &plan.key {
                    KeyForm::Hashed => RowKey { id: n.to_be_bytes().to_vec(), clear: Vec::new() },
                    KeyForm::Clear(places) => {
                        places
                            .iter()
                            .for_each(|&at| cells[at] = StandardValue::Text(format!("{n} {}", any_text(&mut random)).into()));
                        let clear = places.iter().map(|&at| cells[at].clone()).collect();
                        RowKey { id: n.to_be_bytes().to_vec(), clear }
                    }
                };
                Change::new(version(1), 1, What::Upsert(Row { key, cells }))
            })
            .collect();
        let entry = AuditEntry {
            subscription: plan.subscription.to_string(),
            resource: "enterprise".into(),
            epoch,
            ranges: vec![Range { partition: 0, from: 0, to: 1 }],
            count: 200,
            content: Digest::start(),
            grant: String::new(),
            revision: String::new(),
            at_us: now_us(),
            previous: Digest::start(),
        };
        let all: Vec<&Change<'_>> = changes.iter().collect();
        sink.write(&SinkBatch { changes: &all, earlier: &[], ranges: &entry.ranges, entry: &entry, unlogged: &[], sealed: None })
            .await
            .unwrap();
        sink.sweep().await.unwrap();

        let mut look = sink.holdings().unwrap().look().await.unwrap().unwrap();
        assert_eq!(look.positions(), &BTreeMap::from([(0, 1)]));
        let text_of = look.text_of();
        let mut expected = BTreeMap::new();
        for change in &changes {
            let What::Upsert(row) = &change.what else { panic!("an upsert") };
            let texts =
                plan.columns.iter().zip(&row.cells).map(|(column, cell)| (!cell.is_null()).then(|| text_of(column.kind, cell)));
            let hashed = row.key.clear.is_empty().then(|| Some(hex::encode(&row.key.id)));
            let key: Vec<_> = match &hashed {
                Some(hashed) => vec![hashed.clone()],
                None => row.key.clear.iter().map(|part| Some(part.to_string())).collect(),
            };
            let content: Vec<_> = hashed.into_iter().chain(texts).collect();
            let of = |texts: &[Option<String>]| number(texts.iter().map(Option::as_deref));
            expected.insert(of(&key), (of(&content), content));
        }
        let keys: Vec<u64> = expected.keys().copied().collect();
        let mut seen = 0;
        look.rows(&keys, &mut |row| {
            let (content, texts) = &expected[&row.print.key];
            let own = usize::from(texts.len() > row.cells.len());
            assert_eq!(row.cells, texts[own..], "{entity}");
            assert_eq!(row.print.content, *content, "{entity}: {texts:?}");
            seen += 1;
        })
        .await
        .unwrap();
        assert_eq!(seen, 200, "{entity}");
    }
}

/// While the sink cannot be read, whoever waits sees what was done and what is under way; afterwards nothing is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_far_a_comparison_is_can_be_seen() {
    let mut bench = Bench::new().await;
    let target = Target::postgres().await;
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    bench.append((1..=20).map(|n| bench.named(&format!("K{n}"), "甲", n)).collect()).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let Target::Postgres(_, _, pool) = &target else { panic!("PostgreSQL") };
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE shared.t IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let handle = running.handle.clone();
    assert_eq!(handle.comparing(), None);
    let verifying = tokio::spawn(async move { handle.verify(&look()).await });
    let deadline = now_us() + 30_000_000;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|now: &Comparing| now.stage != ComparingStage::Comparing) {
        assert!(now_us() < deadline, "{seen:?}");
        seen.extend(running.handle.comparing());
        tokio::task::yield_now().await;
    }
    seen.dedup();
    assert!(seen.iter().all(|now| now.done <= now.of), "{seen:?}");
    lock.rollback().await.unwrap();
    assert_eq!(found(&verifying.await.unwrap().unwrap()), (0, 0, 0));
    assert_eq!(running.handle.comparing(), None);
    running.stop().await.unwrap();
}
