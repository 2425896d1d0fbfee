//! Tables that are the department's own, written by a column map.

use std::collections::BTreeMap;

use guitong_deliver::{Phase, Word};
use guitong_schemas::contract::{SinkTable, Subscription};

use crate::fixture::{Bench, Target};

/// A table of the department's with a row that it put there itself.
async fn register(target: &Target) {
    let text = if matches!(target, Target::Mariadb(..)) { "VARCHAR(40) COLLATE utf8mb4_bin" } else { "TEXT" };
    let options = if matches!(target, Target::Mariadb(..)) { "CHARACTER SET utf8mb4" } else { "" };
    let table = target.named("登记");
    target
        .execute(&format!(
            "CREATE TABLE {table} (xydm {text} PRIMARY KEY, qymc TEXT NOT NULL, lxr TEXT, bz {text} DEFAULT 'own') {options}"
        ))
        .await;
    target.execute(&format!("INSERT INTO {table} (xydm, qymc) VALUES ('LOCAL', 'theirs')")).await;
    if let Target::Postgres(..) = target {
        target.execute(&format!("ALTER TABLE {table} OWNER TO office")).await;
    }
}

fn mapped(bench: &Bench, target: &Target, fields: &[&str]) -> Subscription {
    let columns =
        [("uscc", "xydm"), ("name", "qymc"), ("contact", "lxr")].into_iter().filter(|(field, _)| fields.contains(field));
    let columns = columns.map(|(field, column)| (field.to_owned(), column.to_owned())).collect();
    Subscription {
        table: SinkTable { columns, ..SinkTable::default() },
        ..bench.subscription("credit", target.config("登记"), fields)
    }
}

/// Name, contact and the department's own column by key.
async fn rows(target: &Target) -> BTreeMap<String, [Option<String>; 3]> {
    let rows = target.rows("xydm, qymc, lxr, bz", "登记").await;
    rows.into_iter().map(|(key, row)| (key, row.try_into().unwrap())).collect()
}

fn row(name: &str, contact: Option<&str>, own: &str) -> [Option<String>; 3] {
    [Some(name.to_owned()), contact.map(str::to_owned), Some(own.to_owned())]
}

pub(crate) async fn a_departments_own_table_gets_its_columns_and_no_other(mut bench: Bench, target: &Target) {
    register(target).await;
    let subscription = mapped(&bench, target, &["uscc", "name", "contact"]);
    bench.append(vec![bench.named("A", "甲", 1), bench.named("B", "乙", 2), bench.named("C", "丙", 3)]).await;
    bench.deliver(&subscription).await;
    let local = || ("LOCAL".to_owned(), row("theirs", None, "own"));
    let held = |name: &str| row(name, Some("欧阳测试"), "own");
    let named = [("A", "甲"), ("B", "乙"), ("C", "丙")].map(|(key, name)| (key.to_owned(), held(name)));
    assert_eq!(rows(target).await, named.into_iter().chain([local()]).collect());
    assert_eq!(target.count("登记_guitong").await, 3);

    target.execute(&format!("UPDATE {} SET bz = 'noted' WHERE xydm = 'A'", target.named("登记"))).await;
    // Older ones undo nothing, what is deleted stays deleted, and what is not ours is not deleted.
    bench.append(vec![bench.named("A", "甲二", 5), bench.delete("B", 6), bench.delete("LOCAL", 7)]).await;
    bench.deliver(&subscription).await;
    bench.append(vec![bench.named("A", "old", 4), bench.named("B", "old", 5), bench.delete("C", 2)]).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    let expected = [("A".to_owned(), row("甲二", Some("欧阳测试"), "noted")), ("C".to_owned(), held("丙")), local()];
    assert_eq!(rows(target).await, expected.clone().into());

    // Delivered again, what was changed by hand is mended; what nobody delivered stays.
    target.execute(&format!("UPDATE {} SET qymc = 'wrong' WHERE xydm = 'C'", target.named("登记"))).await;
    running.handle.resync(Word::default()).await.unwrap();
    running.reaches(|status| status.upserts > 2).await;
    bench.caught_up(&mut running).await;
    assert_eq!(rows(target).await, expected.into());
    running.stop().await.unwrap();

    // A row of the department's is taken over once one of its key is delivered.
    bench.append(vec![bench.named("LOCAL", "ours", 8), bench.named("B", "乙二", 9)]).await;
    bench.deliver(&subscription).await;
    bench.append(vec![bench.delete("LOCAL", 10)]).await;
    bench.deliver(&subscription).await;
    assert_eq!(rows(target).await.into_keys().collect::<Vec<_>>(), ["A", "B", "C"]);
}

pub(crate) async fn a_narrower_grant_takes_from_a_departments_own_table(mut bench: Bench, target: &Target) {
    register(target).await;
    let wide = mapped(&bench, target, &["uscc", "name", "contact"]);
    bench.append(vec![bench.named("A", "mine", 1), bench.named("B", "other", 2)]).await;
    bench.deliver(&wide).await;
    let narrow = Subscription { condition: Some("name == 'mine'".into()), ..wide.clone() };
    bench.deliver(&narrow).await;
    let held = rows(target).await;
    assert_eq!(held.keys().collect::<Vec<_>>(), ["A", "LOCAL"]);
    let fields = Subscription { condition: narrow.condition.clone(), ..mapped(&bench, target, &["uscc", "name"]) };
    bench.deliver(&fields).await;
    assert_eq!(
        rows(target).await,
        [("A", row("mine", None, "own")), ("LOCAL", row("theirs", None, "own"))].map(|(key, row)| (key.to_owned(), row)).into()
    );
    // By another key all of them come anew, into a table that has a column for it.
    let hashed = mapped(&bench, target, &["name"]);
    let refused = refusal(&bench, &hashed).await;
    assert!(refused.contains("column guitong_key is missing"), "{refused}");
    assert_eq!(rows(target).await.into_keys().collect::<Vec<_>>(), ["LOCAL"]);
}

async fn refusal(bench: &Bench, subscription: &Subscription) -> String {
    let mut refused = bench.start(subscription);
    refused.reaches(|status| matches!(status.phase, Phase::Stopped { .. })).await;
    refused.stop().await.unwrap_err().to_string()
}

pub(crate) async fn a_column_map_that_does_not_fit_is_told_at_start(mut bench: Bench, target: &Target) {
    bench.append(vec![bench.named("A", "甲", 1)]).await;
    let mut subscription = mapped(&bench, target, &["uscc", "name", "employees"]);
    let absent = refusal(&bench, &subscription).await;
    assert!(absent.contains("登记") && absent.contains("not there") && absent.contains("CREATE TABLE"), "{absent}");
    register(target).await;
    subscription.table.columns.insert("employees".into(), "qymc".into());
    subscription.table.columns.insert("name".into(), "mc".into());
    let unfit = refusal(&bench, &subscription).await;
    for words in ["登记", "column mc is missing", "column qymc is", "has to be", "`columns`"] {
        assert!(unfit.contains(words), "{words} is not in {unfit}");
    }
    assert!(!unfit.contains("guitong_version"), "nothing of ours is needed there: {unfit}");
    target.execute(&format!("DROP TABLE {}", target.named("登记"))).await;
    register(target).await;
    target.execute(&format!("CREATE TABLE {} (uscc INTEGER)", target.named("登记_guitong"))).await;
    let taken = refusal(&bench, &mapped(&bench, target, &["uscc", "name"])).await;
    assert!(taken.contains("登记_guitong") && taken.contains("there already"), "{taken}");
}

pub(crate) async fn crashes_double_nothing_in_a_departments_own_table(mut bench: Bench, target: &Target) {
    register(target).await;
    let subscription = mapped(&bench, target, &["uscc", "name"]);
    let (mut expected, _) = bench.crash(&subscription, 12, 20..200, 150, 40).await;
    expected.insert("LOCAL".to_owned(), "theirs".to_owned());
    bench.deliver(&subscription).await;
    let held = rows(target).await.into_iter().map(|(key, [name, ..])| (key, name.unwrap()));
    assert_eq!(held.collect::<std::collections::HashMap<_, _>>(), expected);
}
