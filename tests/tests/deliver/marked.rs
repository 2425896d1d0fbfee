//! What is delivered into a PostgreSQL database says so, for connectors that tail it.

use guitong_schemas::contract::sink_table::Deletes;

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
