//! First load while the tables change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use guitong_connectors::source::{Phase, Source};
use guitong_schemas::change::{Change, Operation, SnapshotMark};
use guitong_schemas::table::TableName;
use guitong_tests::servers::postgres::{Postgres, Stop};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;
use sqlx::postgres::PgPool;

use super::harness::*;

/// Rows of a table as text, in the order of the mirror.
async fn table(pool: &PgPool, sql: &'static str) -> Vec<Vec<Option<String>>> {
    let rows: Vec<Vec<Option<String>>> = sqlx::query_scalar(sql).fetch_all(pool).await.unwrap();
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_are_read_in_chunks_of_their_keys_and_marked() {
    let server = Postgres::start().await.unwrap();
    server
        .execute(
            "CREATE TABLE \"a 企业\" (region text, \"it's\" numeric, note text, PRIMARY KEY (\"it's\", region));
             INSERT INTO \"a 企业\" SELECT (ARRAY['南宁''s', E'桂\\\\林', '北'])[n % 3 + 1], n / 3, repeat('n', 100)
               FROM generate_series(1, 3000) n;
             CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY);
             INSERT INTO c VALUES (1), (2);
             CREATE TABLE parts (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
             CREATE TABLE parts_2025 PARTITION OF parts FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
             CREATE TABLE parts_2026 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
             INSERT INTO parts VALUES (1, '2025-05-05'), (2, '2026-05-05'); ANALYZE;",
        )
        .await
        .unwrap();
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&prepared(&server).await).await.unwrap();
    assert!(matches!(session.source.status().phase, Phase::Snapshot { rows_done: 0, rows_estimated: Some(3000..) }));
    let changes = session.load().await;
    assert_rising(&changes);
    let mut of: BTreeMap<&str, Vec<&Change>> = BTreeMap::new();
    for change in &changes {
        assert_eq!(change.operation, Operation::Read);
        of.entry(&change.table.name.name).or_default().push(change);
    }
    let counts: Vec<(&str, usize)> = of.iter().map(|(name, changes)| (*name, changes.len())).collect();
    assert_eq!(counts, [("a 企业", 3000), ("c", 2), ("parts", 2)]);
    let watermarks: std::collections::BTreeSet<u64> = of["a 企业"].iter().map(|change| change.version.commit).collect();
    // Chunks that are ready together share a watermark, and only so many may be ready.
    assert!(watermarks.len() >= 2, "watermarks: {}", watermarks.len());
    let marks: Vec<SnapshotMark> = changes.iter().map(|change| change.origin.snapshot).collect();
    assert_eq!(marks[0], SnapshotMark::First);
    assert_eq!(marks[1..2999], vec![SnapshotMark::Inside; 2998]);
    let tail = [
        SnapshotMark::LastInTable,
        SnapshotMark::FirstInTable,
        SnapshotMark::LastInTable,
        SnapshotMark::FirstInTable,
        SnapshotMark::Last,
    ];
    assert_eq!(marks[2999..], tail);
    server.execute("UPDATE parts SET day = '2026-06-06' WHERE id = 1").await.unwrap();
    let moved = session.take(2).await;
    assert!(moved.iter().all(|change| change.table.name == TableName::new("public", "parts")), "{:?}", lines(&moved));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_is_killed_goes_on_at_its_chunk() {
    let server = Postgres::start().await.unwrap();
    server
        .execute("CREATE TABLE t (id int PRIMARY KEY, pad text); INSERT INTO t SELECT n, repeat('p', 200) FROM generate_series(1, 5000) n")
        .await
        .unwrap();
    let exchange = Exchange::new().await;
    let mut system = prepared(&server).await;
    system.snapshot.chunk = 16 << 10;
    let mut all = Vec::new();
    let mut sessions = 0;
    loop {
        let mut session = exchange.reconnect(&system).await;
        sessions += 1;
        let before = all.len();
        while all.len() == before && session.source.status().phase != Phase::Streaming {
            all.extend(session.step().await.unwrap());
        }
        if session.source.status().phase == Phase::Streaming {
            break;
        }
        session.read_and_lose().await;
    }
    assert!(sessions > 2, "{sessions}");
    let ids: Vec<String> = all.iter().map(|change| line(change).split(['[', ',']).nth(1).unwrap().to_owned()).collect();
    let expected: Vec<String> = (1..=5000).map(|id: i32| id.to_string()).collect();
    assert_eq!(ids, expected, "each row once, although sessions were lost");
}

/// A random statement on keys 0..300 of `t`; several of them make a transaction.
fn statement(random: &mut StdRng) -> String {
    let (a, b) = (random.random_range(0..300), random.random_range(0..300));
    let n: u32 = random.random();
    match random.random_range(0..9) {
        0 | 1 => {
            format!("INSERT INTO t VALUES ({a}, {n}, repeat(md5('{n}'), 100)) ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n")
        }
        2..=4 => format!("UPDATE t SET n = {n} WHERE id = {a}"),
        5 => format!("UPDATE t SET big = repeat(md5('{n}'), 100) WHERE id = {a}"),
        6 => format!("UPDATE t SET id = {b} WHERE id = {a} AND NOT EXISTS (SELECT FROM t WHERE id = {b})"),
        7 => format!("DELETE FROM t WHERE id = {a}"),
        _ => format!("SAVEPOINT s; UPDATE t SET n = {n} WHERE id = {a}; ROLLBACK TO s; UPDATE t SET n = n + 1 WHERE id = {b}"),
    }
}

async fn writer(pool: PgPool, seed: u64, stop: Arc<AtomicBool>) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut connection = pool.acquire().await.unwrap();
    while !stop.load(Ordering::Relaxed) {
        let statements: Vec<String> = (0..random.random_range(1..5)).map(|_| statement(&mut random)).collect();
        let sql = format!("BEGIN; {}; COMMIT", statements.join("; "));
        match sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut *connection).await {
            Ok(_) => {}
            // Two writers can deadlock or meet on a key; the server then undoes one of them.
            Err(sqlx::Error::Database(_)) => {
                sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await.unwrap();
            }
            Err(_) => return,
        }
        // Leaves the machine to the load, which otherwise never catches up with three writers.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..8))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_under_writes_equals_the_table() {
    let seed = guitong_tests::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let server = Postgres::start().await.unwrap();
    server
        .execute(
            "CREATE TABLE t (id int PRIMARY KEY, n bigint, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
             INSERT INTO t SELECT i, 0, repeat(md5(i::text), 100) FROM generate_series(0, 299, 2) i;",
        )
        .await
        .unwrap();
    let exchange = Exchange::new().await;
    let mut system = prepared(&server).await;
    system.snapshot.chunk = 32 << 10;
    let stop = Arc::new(AtomicBool::new(false));
    let pool = server.admin().await.unwrap();
    let writers: Vec<_> = (0..3).map(|_| tokio::spawn(writer(pool.clone(), random.random(), Arc::clone(&stop)))).collect();
    let mut mirror = Mirror::default();
    let mut session = exchange.connect(&system).await.unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    // Some sessions are lost before a chunk is read. On a fast machine that would go on for ever, so later ones are lost behind a chunk.
    let (mut losses, mut kept) = (0, 0);
    let rows = || exchange.metric("guitong_postgres_snapshot_rows_total");
    while session.source.status().phase != Phase::Streaming {
        assert!(std::time::Instant::now() < deadline, "{:?}", session.source.status());
        mirror.apply(&session.step().await.unwrap());
        if (losses < 10 || rows() > kept) && random.random_range(0..6) == 0 {
            (losses, kept) = (losses + 1, rows());
            session.read_and_lose().await;
            drop(session);
            session = exchange.reconnect(&system).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    server.execute("INSERT INTO t VALUES (1000, 1000, '')").await.unwrap();
    let last = session.until(|all| all.iter().any(|change| line(change).starts_with("c t [1000,"))).await;
    mirror.apply(&last);
    let yielded = exchange.metric("guitong_postgres_snapshot_yielded_rows_total");
    println!("{losses} sessions lost, {yielded} rows gave way, {} loaded", rows());
    let mut wanted = table(&pool, "SELECT ARRAY[id::text, n::text, big] FROM t").await;
    wanted.sort();
    let mut got = mirror.table("t");
    got.sort();
    assert_eq!(got.len(), wanted.len());
    for (got, wanted) in got.iter().zip(&wanted) {
        assert_eq!(got, wanted);
    }
}

/// A commit that waits for a synchronous standby is written and decoded, and not visible yet: the row that a snapshot reads then
/// is older than what was streamed, and must not win.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_streamed_before_it_is_visible_is_not_lost() {
    let server = Postgres::start().await.unwrap();
    server
        .execute("CREATE TABLE t (id int PRIMARY KEY, name text); INSERT INTO t VALUES (1, 'old'), (2, 'other')")
        .await
        .unwrap();
    let exchange = Exchange::new().await;
    let system = prepared(&server).await;
    drop(exchange.connect(&system).await.unwrap());
    // A transaction that is open when the session begins holds its first load back, so that the stream comes first.
    let pool = server.admin().await.unwrap();
    let mut open = pool.acquire().await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT pg_current_xact_id()").execute(&mut *open).await.unwrap();
    let mut session = exchange.reconnect(&system).await;
    server.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.unwrap();
    server.signal(Signal::HUP).unwrap();
    while sqlx::query_scalar::<_, String>("SHOW synchronous_standby_names").fetch_one(&pool).await.unwrap() != "nobody" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let writer = pool.clone();
    let waiting = tokio::spawn(async move { sqlx::raw_sql("UPDATE t SET name = 'new' WHERE id = 1").execute(&writer).await });
    let mut changes = session.until(|all| !all.is_empty()).await;
    assert_eq!(lines(&changes), ["u t [1,new]"], "streamed before anything was read");
    sqlx::raw_sql("ROLLBACK").execute(&mut *open).await.unwrap();
    // By log positions alone the row would count as newer: the snapshot that sees the old one is taken behind the commit.
    let (name, place): (String, i64) =
        sqlx::query_as("SELECT name, (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::int8 FROM t WHERE id = 1")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(name, "old", "not visible");
    assert!(place.unsigned_abs() > changes[0].version.commit, "and written before");
    for _ in 0..5 {
        changes.extend(session.step().await.unwrap());
    }
    assert_eq!(changes.len(), 1, "nothing may be read before: {:?}", lines(&changes));
    assert!(exchange.metric("guitong_postgres_snapshot_retaken_total") > 0);
    server.execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    server.signal(Signal::HUP).unwrap();
    waiting.await.unwrap().unwrap();
    changes.extend(session.load().await);
    assert_eq!(lines(&changes), ["u t [1,new]", "r t [1,new]", "r t [2,other]"]);
}

/// A server whose commits wait for a standby that never comes, where the session sets `synchronous_commit`: they are written and decoded, and not
/// visible. From the server's start on, so that no commit can pass before it is known.
async fn waiting_for_nobody() -> Postgres {
    let mut server = Postgres::start().await.unwrap();
    server.execute("ALTER DATABASE postgres SET synchronous_commit = local").await.unwrap();
    server.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.unwrap();
    server.restart(Stop::Fast).await.unwrap();
    server
}

/// A row moves to another key in a commit that is decoded before it is visible, while its table waits for another that is being read: what was
/// not sent is under the old key in the snapshot that comes next, and is read under the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_moved_before_its_table_was_read_is_whole() {
    let server = waiting_for_nobody().await;
    server
        .execute(
            "CREATE TABLE a (id int PRIMARY KEY, pad text); INSERT INTO a SELECT n, repeat('x', 100) FROM generate_series(1, 20000) n;
             CREATE TABLE t (id int PRIMARY KEY, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
             INSERT INTO t SELECT n, repeat('x', 3000) || n FROM generate_series(1, 2) n; CREATE TABLE b (id int PRIMARY KEY)",
        )
        .await
        .unwrap();
    let mut system = prepared(&server).await;
    (system.snapshot.workers, system.snapshot.chunk) = (2, 8 << 10);
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&system).await.unwrap();
    // One worker reads a and then t; the other one waits for b.
    let pool = server.admin().await.unwrap();
    let mut locked = pool.acquire().await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE b IN ACCESS EXCLUSIVE MODE").execute(&mut *locked).await.unwrap();
    let mut changes = session.until(|all| !all.is_empty()).await;
    assert!(lines(&changes)[0].starts_with("r a "), "t waits for a");
    let mut writer = pool.acquire().await.unwrap();
    let waiting = tokio::spawn(async move {
        sqlx::raw_sql("SET synchronous_commit = on; UPDATE t SET id = 7 WHERE id = 1").execute(&mut *writer).await
    });
    let of_t = |all: &[Change]| lines(all).into_iter().filter(|line| line[2..].starts_with("t ")).collect::<Vec<_>>();
    changes.extend(session.until(|all| of_t(all).len() == 2).await);
    assert_eq!(of_t(&changes), ["d t <-key [1,~]", "c t [7,?]"], "streamed before t was read");
    // Its other row is read by a snapshot that does not see the commit.
    changes.extend(session.until(|all| !of_t(all).is_empty()).await);
    let visible: i64 = sqlx::query_scalar("SELECT count(*) FROM t WHERE id = 7").fetch_one(&pool).await.unwrap();
    assert_eq!(visible, 0);
    sqlx::raw_sql("ROLLBACK").execute(&mut *locked).await.unwrap();
    server.execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    server.signal(Signal::HUP).unwrap();
    waiting.await.unwrap().unwrap();
    changes.extend(session.load().await);
    let big = "x".repeat(3000);
    assert_eq!(of_t(&changes)[2..], [format!("r t [2,{big}2]"), format!("r t [7,{big}1]")]);
}

/// Changes that are streamed while a chunk is being read, under a snapshot that does not see them: the chunk's rows yield when it comes, and
/// complete what was not sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_yield_to_what_was_streamed_while_they_were_read() {
    let server = waiting_for_nobody().await;
    server
        .execute(
            "CREATE TABLE t (id int PRIMARY KEY, n int, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
             INSERT INTO t SELECT n, 0, repeat('x', 3000) || n FROM generate_series(1, 4) n",
        )
        .await
        .unwrap();
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&prepared(&server).await).await.unwrap();
    let pool = server.admin().await.unwrap();
    // The lock stops the reader behind its snapshot, and is held until the commit is visible.
    let mut writer = pool.acquire().await.unwrap();
    sqlx::raw_sql("SET synchronous_commit = on; BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *writer)
        .await
        .unwrap();
    let waits = "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND NOT granted";
    while sqlx::query_scalar::<_, i64>(waits).fetch_one(&pool).await.unwrap() == 0 {
        assert!(session.step().await.unwrap().is_empty());
    }
    let waiting = tokio::spawn(async move {
        let sql = "UPDATE t SET n = 1 WHERE id = 1; UPDATE t SET big = 'new' WHERE id = 2; DELETE FROM t WHERE id = 3; COMMIT";
        sqlx::raw_sql(sql).execute(&mut *writer).await
    });
    let mut changes = session.take(3).await;
    assert_eq!(lines(&changes), ["u t [1,1,?]", "u t [2,0,new]", "d t <-key [3,~,~]"], "streamed while the reader waits");
    server.execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    server.signal(Signal::HUP).unwrap();
    waiting.await.unwrap().unwrap();
    let read = session.load().await;
    let big = "x".repeat(3000);
    assert_eq!(lines(&read), [format!("r t [1,1,{big}1]"), format!("r t [4,0,{big}4]")]);
    changes.extend(read);
    assert_rising(&changes);
    assert_eq!(exchange.metric("guitong_postgres_snapshot_yielded_rows_total"), 2);
}

/// A table that is read whole.
const KEYLESS: &str = "CREATE TABLE k (a int, pad text); ALTER TABLE k REPLICA IDENTITY FULL; \
    INSERT INTO k SELECT n, repeat('p', 300) FROM generate_series(1, 5000) n;";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyless_rows_arrive_once_while_they_are_written() {
    let server = Postgres::start().await.unwrap();
    server.execute(KEYLESS).await.unwrap();
    let exchange = Exchange::new().await;
    let stop = Arc::new(AtomicBool::new(false));
    let pool = server.admin().await.unwrap();
    let (writing, stopped) = (pool.clone(), Arc::clone(&stop));
    let writer = tokio::spawn(async move {
        let mut n = 5000;
        while !stopped.load(Ordering::Relaxed) {
            n += 1;
            sqlx::query("INSERT INTO k VALUES ($1, 'late')").bind(n).execute(&writing).await.unwrap();
        }
        n
    });
    let mut session = exchange.connect_with(&prepared(&server).await, 256 << 10).await.unwrap();
    let mut all = session.load().await;
    // Some that come after the rows were read.
    all.extend(session.until(|more| more.len() > 20).await);
    stop.store(true, Ordering::Relaxed);
    let written = writer.await.unwrap();
    let last = format!("c k [{written},late]");
    if !all.iter().any(|change| line(change) == last) {
        all.extend(session.until(|more| more.iter().any(|change| line(change) == last)).await);
    }
    assert_rising(&all);
    let mut ids: Vec<i32> = all.iter().map(|change| line(change).split(['[', ',']).nth(1).unwrap().parse().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=written).collect::<Vec<_>>());
    let read = all.iter().filter(|change| change.operation == Operation::Read).count();
    assert!(read >= 5000 && read < all.len(), "{read} of {}", all.len());
}

/// What a snapshot saw may be ahead of the stream: with the first of its rows the position says how far.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_table_that_is_read_whole_are_never_ahead_of_the_position() {
    let server = Postgres::start().await.unwrap();
    server.execute(KEYLESS).await.unwrap();
    let exchange = Exchange::new().await;
    let mut session = exchange.connect_with(&prepared(&server).await, 64 << 10).await.unwrap();
    let some = session.until(|all| !all.is_empty()).await;
    assert!(some.len() < 5000, "{}", some.len());
    let position = json(&session.publisher.position().unwrap());
    assert_eq!(position["settling"][0]["name"], "k", "{position}");
    assert!(position["tables"].as_array().unwrap().is_empty(), "it is not read to its end: {position}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn added_tables_are_loaded_and_snapshots_can_be_off() {
    let server = Postgres::start().await.unwrap();
    server.execute("CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1)").await.unwrap();
    let exchange = Exchange::new().await;
    let mut system = prepared(&server).await;
    system.snapshot.enabled = false;
    let mut session = exchange.connect(&system).await.unwrap();
    assert!(session.load().await.is_empty());
    server.execute("INSERT INTO a VALUES (2)").await.unwrap();
    assert_eq!(lines(&session.take(1).await), ["c a [2]"]);
    drop(session);
    server
        .execute(
            "CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (1), (2); GRANT SELECT ON b TO reader;
             ALTER PUBLICATION exchange_register ADD TABLE ONLY b",
        )
        .await
        .unwrap();
    system.snapshot.enabled = true;
    let mut session = exchange.reconnect(&system).await;
    assert_eq!(lines(&session.load().await), ["r b [1]", "r b [2]"]);
    server.execute("INSERT INTO b VALUES (3); INSERT INTO a VALUES (3)").await.unwrap();
    assert_eq!(lines(&session.take(2).await), ["c b [3]", "c a [3]"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_moves_to_where_the_load_has_been_is_made_whole() {
    let server = Postgres::start().await.unwrap();
    server
        .execute(
            "CREATE TABLE t (id int PRIMARY KEY, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
             INSERT INTO t SELECT n, repeat('x', 3000) || n FROM generate_series(1, 200) n",
        )
        .await
        .unwrap();
    let exchange = Exchange::new().await;
    let mut system = prepared(&server).await;
    system.snapshot.chunk = 1;
    system.snapshot.rows_per_second = Some(1_000);
    let began = std::time::Instant::now();
    let mut session = exchange.connect(&system).await.unwrap();
    let mut mirror = Mirror::default();
    mirror.apply(&session.until(|all| !all.is_empty()).await);
    server.execute("UPDATE t SET id = 0 WHERE id = 200").await.unwrap();
    let mut rest = session.load().await;
    if !lines(&rest).iter().any(|line| line.starts_with("d t")) {
        rest.extend(session.take(2).await);
    }
    assert!(began.elapsed() > Duration::from_millis(195), "200 rows at 1,000 a second took {:?}", began.elapsed());
    let text = lines(&rest);
    assert!(text.contains(&"c t [0,?]".to_owned()), "the case was not met");
    let whole = format!("r t [0,{}200]", "x".repeat(3000));
    assert!(text.contains(&whole), "the moved row was never read");
    mirror.apply(&rest);
    assert!(!mirror.table("t").iter().flatten().any(|value| value.as_deref() == Some("<absent>")));
}

/// A generated column is in the rows of the first load and in those of the stream where the server publishes it, and else in neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_columns_come_where_the_server_publishes_them() {
    let server = Postgres::start().await.unwrap();
    server
        .execute(
            "CREATE TABLE t (id int PRIMARY KEY, qty int, total int GENERATED ALWAYS AS (qty * 2) STORED, note text);
             INSERT INTO t VALUES (1, 5, DEFAULT, 'a')",
        )
        .await
        .unwrap();
    let system = prepared(&server).await;
    let update = "UPDATE t SET qty = 7 WHERE id = 1; INSERT INTO t VALUES (2, 4, DEFAULT, 'b')";
    let never = ["r t [1,5,a]", "u t [1,7,a]", "c t [2,4,b]"];
    let mut session = Exchange::new().await.connect(&system).await.unwrap();
    let mut changes = session.load().await;
    server.execute(update).await.unwrap();
    changes.extend(session.take(2).await);
    assert_eq!(lines(&changes), never);
    drop(session);

    if server.major() < 18 {
        println!("PostgreSQL {} publishes no generated columns", server.major());
        return;
    }
    server.execute("UPDATE t SET qty = 5 WHERE id = 1; DELETE FROM t WHERE id = 2").await.unwrap();
    server.execute(&format!("ALTER PUBLICATION {SLOT} SET (publish_generated_columns = stored)")).await.unwrap();
    let mut system = system;
    config(&mut system).slot = "generated".into();
    let mut session = Exchange::new().await.connect(&system).await.unwrap();
    let mut changes = session.load().await;
    server.execute(update).await.unwrap();
    changes.extend(session.take(2).await);
    assert_eq!(lines(&changes), ["r t [1,5,10,a]", "u t [1,7,14,a]", "c t [2,4,8,b]"]);
    let names: Vec<&str> = changes[0].table.columns.iter().map(|column| &*column.name).collect();
    assert_eq!(names, ["id", "qty", "total", "note"]);
}
