//! What is delivered into a database says so, for connectors that tail it.

use guitong_connectors::changelog;
use guitong_schemas::avro::EventForm;
use guitong_schemas::contract::Name;
use guitong_schemas::contract::sink_table::Deletes;
use guitong_schemas::contract::system::{GapPolicy, Limits, SnapshotConfig, SourceConfig, SqliteConfig, System, TablePattern};

use crate::fixture::{Bench, Target};

const SEEN: &str = "SELECT data FROM pg_logical_slot_get_changes('seen', NULL, NULL)";

/// Every transaction since the last look that changes one of the tables says first that it does. How many there were.
async fn assert_marked(target: &Target, tables: &[&str]) -> usize {
    let lines = target.texts(SEEN).await;
    let mut count = 0;
    for transaction in lines.split(|line| line.starts_with("BEGIN")) {
        let changed = |table: &&&str| transaction.iter().any(|line| line.starts_with(&format!("table shared.{table}: ")));
        let changed: Vec<_> = tables.iter().filter(changed).collect();
        count += usize::from(!changed.is_empty());
        let first = transaction.first().map_or("", String::as_str);
        for table in changed {
            let named = first.starts_with("message: transactional: 1 prefix: guitong,")
                && first.contains(&format!("[\"shared\",\"{table}\"]"));
            assert!(named, "{table}: {transaction:?}");
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_written_into_a_table_is_marked() {
    let mut bench = Bench::new().await;
    let target = Target::postgres().await;
    target.execute("SELECT pg_create_logical_replication_slot('seen', 'test_decoding')").await;
    let mut subscription = bench.subscription("credit", target.config("t"), &["uscc", "name", "contact"]);
    subscription.table.deletes = Deletes::Soft;
    subscription.table.history = true;
    let tables = ["t", "t_history"];
    // More than go as arrays, then few.
    bench.append((1..=3_000).map(|n| bench.named(&format!("K{n}"), "甲", n)).collect()).await;
    bench.deliver(&subscription).await;
    assert!(assert_marked(&target, &tables).await > 0);
    bench.append(vec![bench.named("K1", "乙", 3_001), bench.delete("K2", 3_002)]).await;
    bench.deliver(&subscription).await;
    assert!(assert_marked(&target, &tables).await > 0);

    // A narrower grant takes away in the takeover, and a refill sweeps.
    let mut narrower = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    narrower.table = subscription.table.clone();
    narrower.condition = Some("uscc != 'K3'".into());
    bench.deliver(&narrower).await;
    assert!(assert_marked(&target, &tables).await > 1);
}

/// Where an administrator keeps the function to himself, everything is delivered as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_mark_delivers_all_the_same() {
    let mut bench = Bench::new().await;
    let target = Target::postgres().await;
    let kept =
        "DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT oid FROM pg_proc WHERE proname = 'pg_logical_emit_message' LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f); END LOOP; END $$";
    target.execute(kept).await;
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    bench.append(vec![bench.named("K1", "甲", 1)]).await;
    bench.deliver(&subscription).await;
    assert_eq!(target.names("t").await.len(), 1);
}

/// Makes the subscriber's file ready for a connector of an exchange.
async fn tail(target: &Target, exchange: &str) {
    let Target::Sqlite(path, _) = target else { panic!("SQLite") };
    let config = SqliteConfig {
        exchange: exchange.into(),
        path: path.clone(),
        poll: std::time::Duration::from_millis(200),
        on_gap: GapPolicy::Stop,
    };
    let system = System {
        name: Name::parse("credit").unwrap(),
        title: "信用".into(),
        department: Name::parse("credit-office").unwrap(),
        source: SourceConfig::Sqlite(config.clone()),
        tables: vec![TablePattern { schema: "main".into(), name: "*".into() }],
        exclude_columns: vec![],
        keys: vec![],
        snapshot: SnapshotConfig::default(),
        limits: Limits::default(),
        complete: false,
        form: EventForm::DEFAULT,
    };
    let statements = changelog::prepare_sql(&system, &config).await.unwrap();
    changelog::apply(&system, &config, &statements).await.unwrap();
    assert_eq!(changelog::prepare_sql(&system, &config).await.unwrap(), [""; 0]);
}

/// What a connector would publish, as table and operation.
async fn news(target: &Target) -> Vec<String> {
    target.texts("SELECT tbl || ' ' || op FROM guitong_changes WHERE id > 0 ORDER BY id").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_written_into_a_sqlite_file_is_no_news_to_the_exchange_that_wrote_it() {
    let mut bench = Bench::new().await;
    let target = Target::sqlite(&bench).await;
    let mut subscription = bench.subscription("credit", target.config("t"), &["uscc", "name", "contact"]);
    (subscription.table.deletes, subscription.table.history) = (Deletes::Soft, true);
    bench.append(vec![bench.named("K1", "甲", 1), bench.named("K2", "甲", 2), bench.named("K3", "甲", 3)]).await;
    bench.deliver(&subscription).await;
    // What a trigger of the department's makes of what comes is the department's.
    target.execute("CREATE TABLE seen (uscc TEXT PRIMARY KEY)").await;
    target
        .execute("CREATE TRIGGER sees AFTER UPDATE ON t WHEN NEW.name = '乙' AND OLD.name <> '乙' BEGIN INSERT INTO seen VALUES (NEW.uscc); END")
        .await;
    tail(&target, "guitong").await;

    bench.append(vec![bench.named("K1", "乙", 4), bench.delete("K2", 5), bench.named("K4", "甲", 6)]).await;
    bench.deliver(&subscription).await;
    assert_eq!(news(&target).await, ["seen c"]);
    // A narrower grant takes away in the takeover, and a refill sweeps.
    let mut narrower = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    narrower.table = subscription.table.clone();
    narrower.condition = Some("uscc != 'K3'".into());
    bench.deliver(&narrower).await;
    assert_eq!(news(&target).await, ["seen c"]);
    // What the department writes itself is news, between two deliveries and after them.
    target.execute("UPDATE t SET name = '丙' WHERE uscc = 'K4'").await;
    bench.append(vec![bench.named("K5", "甲", 7)]).await;
    bench.deliver(&narrower).await;
    target.execute("DELETE FROM t WHERE uscc = 'K5'").await;
    assert_eq!(news(&target).await, ["seen c", "t u", "t d"]);
    assert_eq!(target.count("guitong_delivering").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_exchange_writes_into_a_sqlite_file_is_news() {
    let mut bench = Bench::new().await;
    let target = Target::sqlite(&bench).await;
    target.execute("CREATE TABLE other (id INTEGER PRIMARY KEY)").await;
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    bench.append(vec![bench.named("K1", "甲", 1)]).await;
    bench.deliver(&subscription).await;
    tail(&target, "another").await;
    bench.append(vec![bench.named("K1", "乙", 2)]).await;
    bench.deliver(&subscription).await;
    assert_eq!(news(&target).await, ["t u"]);
}
