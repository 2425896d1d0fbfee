//! The next batch's rows lie in a PostgreSQL sink's temporary table, or are applied, while the batch before is merged.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use guitong_deliver::sink::{Change, PartitionStand, Sink, SinkBatch, SinkErrorKind, What};
use guitong_govern::audit::{AuditEntry, Digest, Range};
use guitong_govern::{Row, RowKey};
use guitong_schemas::contract::Subscription;
use guitong_schemas::standard::StandardValue;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction};

use crate::fixture::{Bench, Target, now_us, version};
use crate::scenarios::assert_each_batch_once;

/// Several batches of a size that is staged.
const ROWS: u64 = 24_000;
/// In a batch with several before it and several behind.
const AMONG_THEM: u64 = ROWS / 2;
/// Connections that have begun something and do nothing.
const OPEN: &str = "SELECT pid::text FROM pg_stat_activity a WHERE usename = 'office' AND state = 'idle in transaction'";
/// The batch before waits for a lock meanwhile.
const BESIDE_ONE_THAT_WAITS: &str =
    "EXISTS (SELECT 1 FROM pg_stat_activity WHERE usename = 'office' AND wait_event_type = 'Lock')";
const HAVING_WRITTEN: &str = "EXISTS (SELECT 1 FROM pg_locks l
    WHERE l.pid = a.pid AND l.relation = 'shared.t'::regclass AND l.mode = 'RowExclusiveLock')";
/// So long after its last statement that no other comes by itself: before what [`HAVING_WRITTEN`] says.
const AT_REST_NOT: &str = "clock_timestamp() - a.state_change > interval '1 s' AND NOT";

impl Bench {
    /// With rows, all of which are delivered.
    async fn filled() -> (Self, Target, Subscription) {
        let mut bench = Self::new().await;
        let target = Target::postgres().await;
        let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
        bench.change_all("甲", 0).await;
        bench.deliver(&subscription).await;
        (bench, target, subscription)
    }

    /// Another version of every row, all at once.
    async fn change_all(&mut self, name: &str, after: u64) {
        let records = (1..=ROWS).map(|n| self.named(&format!("K{n}"), name, after + n)).collect();
        self.append(records).await;
    }
}

fn pool(target: &Target) -> &PgPool {
    let Target::Postgres(_, _, pool) = target else { panic!("PostgreSQL") };
    pool
}

/// A clerk's program that holds a row, so that the batch with it waits.
async fn clerk_holds(target: &Target, row: u64) -> Transaction<'static, Postgres> {
    let mut clerk = pool(target).begin().await.unwrap();
    let row = format!("SELECT uscc FROM shared.t WHERE uscc = 'K{row}' FOR UPDATE");
    sqlx::query(AssertSqlSafe(row)).execute(&mut *clerk).await.unwrap();
    clerk
}

/// The connection of the next batch, once it has written to the table, or rests and has not, `beside` something else.
async fn ready(target: &Target, written: bool, beside: &str) -> String {
    let not = if written { "" } else { AT_REST_NOT };
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < deadline, "no connection is ever ready, written: {written}");
        if let [pid] = &target.texts(&format!("{OPEN} AND {not} {HAVING_WRITTEN} AND {beside}")).await[..] {
            return pid.clone();
        }
    }
}

async fn assert_all(bench: &Bench, target: &Target, name: &str, records: u64) {
    let held = target.names("t").await;
    let odd: HashMap<_, _> = held.iter().filter(|(_, held)| *held != name).take(3).collect();
    assert_eq!((held.len() as u64, odd), (ROWS, HashMap::new()));
    assert_each_batch_once(bench, records).await;
}

/// What is there of the next batch while one waits is seen by nobody, and where its connection breaks then, nothing is lost.
async fn assert_a_broken_connection_loses_nothing(applied: bool) {
    let (mut bench, target, subscription) = Bench::filled().await;
    if !applied {
        let theirs = "CREATE FUNCTION shared.looks() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
            CREATE TRIGGER looks AFTER UPDATE ON shared.t EXECUTE FUNCTION shared.looks()";
        sqlx::raw_sql(theirs).execute(pool(&target)).await.unwrap();
    }
    let clerk = clerk_holds(&target, AMONG_THEM).await;
    bench.change_all("乙", ROWS).await;
    let mut running = bench.start(&subscription);
    let pid = ready(&target, applied, BESIDE_ONE_THAT_WAITS).await;
    let as_far_as_read = format!(
        "SELECT ((SELECT count(*) FROM shared.t WHERE name = '乙') = (SELECT sum(next_offset) FROM shared.guitong_offsets) - {ROWS})::text"
    );
    assert_eq!(target.texts(&as_far_as_read).await, ["true"]);
    assert_eq!(target.texts(&format!("SELECT pg_terminate_backend({pid})::text")).await, ["true"]);
    clerk.rollback().await.unwrap();
    bench.caught_up(&mut running).await;
    // Nothing stays open once everything is delivered.
    assert_eq!(target.texts(OPEN).await, [""; 0]);
    // The last entry of the audit may come after the rows, and is there when it stops.
    running.stop().await.unwrap();
    assert_all(&bench, &target, "乙", 2 * ROWS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_batch_is_applied_while_one_waits_and_a_connection_that_breaks_then_loses_nothing() {
    assert_a_broken_connection_loses_nothing(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_batch_is_staged_where_triggers_look_and_a_connection_that_breaks_then_loses_nothing() {
    assert_a_broken_connection_loses_nothing(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_waits_for_the_next_one_goes_on() {
    let (mut bench, target, subscription) = Bench::filled().await;
    let clerk = clerk_holds(&target, AMONG_THEM).await;
    let mut running = bench.start(&subscription);
    bench.caught_up(&mut running).await;
    // Comes after the subscription was taken over, when nobody looks for it: a row that every batch needs.
    let counts = "CREATE TABLE shared.counted (batches bigint); INSERT INTO shared.counted VALUES (0);
        GRANT ALL ON shared.counted TO office;
        CREATE FUNCTION shared.count() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN UPDATE shared.counted SET batches = batches + 1; RETURN NULL; END';
        CREATE TRIGGER counts AFTER UPDATE ON shared.t EXECUTE FUNCTION shared.count()";
    sqlx::raw_sql(counts).execute(pool(&target)).await.unwrap();
    bench.change_all("乙", ROWS).await;
    ready(&target, true, BESIDE_ONE_THAT_WAITS).await;
    clerk.rollback().await.unwrap();
    bench.caught_up(&mut running).await;
    running.stop().await.unwrap();
    assert_all(&bench, &target, "乙", 2 * ROWS).await;
    // It was filled, and then taken over once more: nothing was tried again.
    assert_eq!(target.texts("SELECT epoch::text FROM shared.guitong_subscriptions").await, ["2"]);
    let ended = "SELECT sessions_fatal::text FROM pg_stat_database WHERE datname = current_database()";
    let deadline = Instant::now() + Duration::from_secs(60);
    while target.texts(ended).await == ["0"] {
        assert!(Instant::now() < deadline, "the server ended nothing");
    }
    assert_eq!(target.texts(ended).await, ["1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_was_deleted_since_the_takeover_does_not_come_back_with_an_older_change_that_is_applied_ahead() {
    let (mut bench, target, subscription) = Bench::filled().await;
    // The last row of all, in whatever partition: its batch follows another large one.
    let last = format!("K{ROWS}");
    bench.append(vec![bench.delete(&last, 3 * ROWS)]).await;
    bench.change_all("乙", ROWS).await;
    bench.deliver(&subscription).await;
    let held = target.names("t").await;
    assert_eq!((held.len() as u64, held.get(&last)), (ROWS - 1, None));
    assert!(held.values().all(|name| name == "乙"));
}

/// More than are sent as arrays.
const MANY: u64 = 3_000;

pub(crate) fn upserts(keys: std::ops::Range<u64>) -> Vec<Change<'static>> {
    let text = |text: String| StandardValue::Text(text.into());
    let change = |n: u64| {
        let key = RowKey { id: n.to_be_bytes().to_vec(), clear: vec![text(format!("K{n}"))] };
        Change::new(version(n), 1_000_000, What::Upsert(Row { key, cells: vec![text(format!("K{n}")), text("甲".into())] }))
    };
    keys.map(change).collect()
}

pub(crate) fn entry(epoch: u64, keys: std::ops::Range<u64>) -> AuditEntry {
    AuditEntry {
        subscription: "credit".into(),
        resource: "enterprise".into(),
        epoch,
        count: keys.end - keys.start,
        ranges: vec![Range { partition: 0, from: keys.start, to: keys.end }],
        content: Digest::start(),
        grant: String::new(),
        revision: String::new(),
        at_us: now_us(),
        previous: Digest::start(),
    }
}

/// Applies the upserts of these keys ahead, and writes them once `meanwhile` is done.
async fn write_ahead(
    sink: &mut Box<dyn Sink>,
    epoch: u64,
    keys: std::ops::Range<u64>,
    meanwhile: impl AsyncFnOnce(),
) -> Result<(), SinkErrorKind> {
    let (changes, entry) = (upserts(keys.clone()), entry(epoch, keys));
    let changes: Vec<_> = changes.iter().collect();
    let batch = SinkBatch { changes: &changes, earlier: &[], ranges: &entry.ranges, entry: &entry, unlogged: &[], sealed: None };
    let staged = sink.stager().unwrap().stage(&changes, true).await.unwrap();
    meanwhile().await;
    sink.write_staged(&batch, staged).await.map(drop).map_err(|error| error.kind)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_older_holder_applied_ahead_is_not_written() {
    let (bench, target) = (Bench::new().await, Target::postgres().await);
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    let (mut first, mut second) = (target.sink(&bench, &subscription), target.sink(&bench, &subscription));
    let epoch = first.open().await.unwrap().epoch;
    first.begin_refill(&[PartitionStand { partition: 0, next: 0, refill_to: 0 }]).await.unwrap();
    let taken_over = async || {
        ready(&target, true, "true").await;
        second.open().await.unwrap();
    };
    assert_eq!(write_ahead(&mut first, epoch, 0..MANY, taken_over).await, Err(SinkErrorKind::Fenced));
    assert_eq!(target.count("t").await, 0);
    write_ahead(&mut second, epoch + 1, 0..MANY, async || ()).await.unwrap();
    assert_eq!(target.count("t").await, MANY as i64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_applied_ahead_and_lost_is_written_again_and_nothing_is_applied_ahead_after_it() {
    let (bench, target) = (Bench::new().await, Target::postgres().await);
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    let mut sink = target.sink(&bench, &subscription);
    let epoch = sink.open().await.unwrap().epoch;
    sink.begin_refill(&[PartitionStand { partition: 0, next: 0, refill_to: 0 }]).await.unwrap();
    let lost = async || {
        let pid = ready(&target, true, "true").await;
        assert_eq!(target.texts(&format!("SELECT pg_terminate_backend({pid})::text")).await, ["true"]);
    };
    write_ahead(&mut sink, epoch, 0..MANY, lost).await.unwrap();
    assert_eq!(target.count("t").await, MANY as i64);
    let waits = async || drop(ready(&target, false, "true").await);
    write_ahead(&mut sink, epoch, MANY..2 * MANY, waits).await.unwrap();
    assert_eq!(target.count("t").await, 2 * MANY as i64);
    // Whoever takes it over begins anew.
    let epoch = sink.open().await.unwrap().epoch;
    write_ahead(&mut sink, epoch, 2 * MANY..3 * MANY, async || drop(ready(&target, true, "true").await)).await.unwrap();
    assert_eq!(target.count("t").await, 3 * MANY as i64);
}

/// How often the table was read as a whole, as the server counts once connections have ended.
async fn scans(target: &Target) -> u64 {
    let connections = "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity WHERE usename = 'office'";
    let deadline = Instant::now() + Duration::from_secs(60);
    while !target.texts(connections).await.is_empty() {
        assert!(Instant::now() < deadline, "connections stay");
    }
    let scans = "SELECT seq_scan::text FROM pg_stat_user_tables WHERE schemaname = 'shared' AND relname = 't'";
    target.texts(scans).await.concat().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_read_as_a_whole_for_a_batch_that_is_a_large_part_of_it_and_for_no_other() {
    let (mut bench, target, subscription) = Bench::filled().await;
    let made = scans(&target).await;
    bench.change_all("乙", ROWS).await;
    bench.deliver(&subscription).await;
    let changed = scans(&target).await;
    // Version 14 has no MERGE, and finds each row by the key's index.
    let merges = target.texts("SELECT (current_setting('server_version_num')::int >= 150000)::text").await == ["true"];
    assert_eq!(changed > made, merges, "{made} and then {changed}");
    bench.append((1..=20).map(|n| bench.named(&format!("K{n}"), "乙", 2 * ROWS + n)).collect()).await;
    bench.deliver(&subscription).await;
    assert_eq!(scans(&target).await, changed);
    assert_all(&bench, &target, "乙", 2 * ROWS + 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_of_one_database_that_are_all_behind_do_not_wait_for_each_other() {
    let mut bench = Bench::new().await;
    let target = Target::postgres().await;
    bench.change_all("甲", 0).await;
    let subscriptions =
        (0..6).map(|n| bench.subscription(&format!("credit-{n}"), target.config(&format!("t{n}")), &["uscc", "name"]));
    let subscriptions: Vec<_> = subscriptions.collect();
    let mut running: Vec<_> = subscriptions.iter().map(|subscription| bench.start(subscription)).collect();
    for running in &mut running {
        bench.caught_up(running).await;
    }
    for (n, running) in running.into_iter().enumerate() {
        running.stop().await.unwrap();
        assert_eq!(target.count(&format!("t{n}")).await, ROWS as i64);
    }
    let most = "SELECT (count(*) <= 4)::text FROM pg_stat_activity WHERE usename = 'office'";
    assert_eq!(target.texts(most).await, ["true"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_among_large_batches_neither_lose_nor_double() {
    let mut bench = Bench::new().await;
    let target = Target::postgres().await;
    let subscription = bench.subscription("credit", target.config("t"), &["uscc", "name"]);
    let (names, records) = bench.crash(&subscription, 8, 10_000..20_000, 30_000, 600).await;
    bench.deliver(&subscription).await;
    assert_eq!(target.names("t").await, names);
    assert_each_batch_once(&bench, records).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_among_batches_that_are_applied_ahead_neither_lose_nor_double() {
    let (mut bench, target, subscription) = Bench::filled().await;
    let mut random = StdRng::seed_from_u64(guitong_tests::seed());
    for round in 1..=6 {
        bench.change_all(&round.to_string(), round * ROWS).await;
        let running = bench.start(&subscription);
        tokio::time::sleep(Duration::from_millis(random.random_range(0..2_000))).await;
        running.kill().await;
    }
    bench.deliver(&subscription).await;
    assert_all(&bench, &target, "6", 7 * ROWS).await;
}
