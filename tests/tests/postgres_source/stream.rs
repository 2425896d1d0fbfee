//! Streaming: operations, keys, before images, types, restarts.

use super::harness::*;
use guitong_connectors::source::Source;
use guitong_schemas::change::{Change, Operation, Place};
use guitong_schemas::contract::system::Origins;
use guitong_schemas::table::ColumnType;
use guitong_tests::servers::postgres::Postgres;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_arrives_in_commit_order_with_what_the_identity_gives() {
    let server = Postgres::start().await.unwrap();
    server
        .execute(
            "CREATE TABLE \"企业\" (\"编号\" int PRIMARY KEY, \"名称\" text, \"说明\" text);
             CREATE TABLE whole (a int, b text); ALTER TABLE whole REPLICA IDENTITY FULL;
             CREATE TABLE full_key (a int PRIMARY KEY, b text); ALTER TABLE full_key REPLICA IDENTITY FULL;",
        )
        .await
        .unwrap();
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&prepared(&server).await).await.unwrap();
    assert!(session.load().await.is_empty());
    server
        .execute(
            "BEGIN; INSERT INTO \"企业\" VALUES (1, '桂通', repeat('长', 4)), (2, NULL, ''); \
             UPDATE \"企业\" SET \"名称\" = 'b' WHERE \"编号\" = 1; UPDATE \"企业\" SET \"编号\" = 3 WHERE \"编号\" = 2; \
             DELETE FROM \"企业\" WHERE \"编号\" = 1; COMMIT;
             INSERT INTO whole VALUES (1, 'x'); UPDATE whole SET b = 'y'; DELETE FROM whole;
             INSERT INTO full_key VALUES (1, 'x'); UPDATE full_key SET b = 'y'; UPDATE full_key SET a = 2;
             TRUNCATE full_key, whole;",
        )
        .await
        .unwrap();
    let changes = session.take(15).await;
    session.quiet().await;
    assert_eq!(
        lines(&changes),
        [
            "c 企业 [1,桂通,长长长长]",
            "c 企业 [2,~,]",
            "u 企业 [1,b,长长长长]",
            "d 企业 <-key [2,~,~]",
            "c 企业 [3,~,]",
            "d 企业 <-key [1,~,~]",
            "c whole [1,x]",
            "u whole [1,y] <-full [1,x]",
            "d whole <-full [1,y]",
            "c full_key [1,x]",
            "u full_key [1,y] <-full [1,x]",
            "d full_key <-full [1,y]",
            "c full_key [2,y]",
            "t full_key",
            "t whole",
        ]
    );
    assert_rising(&changes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unchanged_toast_is_absent_unless_the_identity_sends_it() {
    let server = Postgres::start().await.unwrap();
    server
        .execute(
            "CREATE TABLE t (id int PRIMARY KEY, long text, n int); ALTER TABLE t ALTER long SET STORAGE EXTERNAL;
             CREATE TABLE f (id int PRIMARY KEY, long text, n int); ALTER TABLE f ALTER long SET STORAGE EXTERNAL;
             ALTER TABLE f REPLICA IDENTITY FULL;",
        )
        .await
        .unwrap();
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&prepared(&server).await).await.unwrap();
    session.load().await;
    server
        .execute(
            "INSERT INTO t VALUES (1, repeat('x', 9000), 1); UPDATE t SET n = 2; UPDATE t SET id = 2;
             INSERT INTO f VALUES (1, repeat('y', 9000), 1); UPDATE f SET n = 2;",
        )
        .await
        .unwrap();
    let changes = session.take(6).await;
    assert_eq!(lines(&changes[1..4]), ["u t [1,?,2]", "d t <-key [1,~,~]", "c t [2,?,2]"]);
    let full = "y".repeat(9000);
    assert_eq!(line(&changes[5]), format!("u f [1,{full},2] <-full [1,{full},1]"));
}

/// Every type that has a form of its own.
const TYPES: &str = "
    CREATE TYPE state AS ENUM ('在营', '注销, 迁出');
    CREATE DOMAIN amount AS numeric(12, 2);
    CREATE TYPE pair AS (a int, b text);
    CREATE TABLE types (id int PRIMARY KEY, b bool, i2 int2, i8 int8, f4 float4, f8 float8, n numeric, n2 numeric(10, 2), m money,
        am amount, d date, t time(3), ts timestamp(3), tz timestamptz, ttz timetz, iv interval, tx text, c char(6), bin bytea, u uuid,
        j json, jb jsonb, x xml, e state, arr int[], ea state[], p point, r tstzrange, bits bit(5), inet inet, com pair, ltv tsvector,
        q \"char\", nm name, o oid, def text DEFAULT '未知', made timestamptz DEFAULT now());
    INSERT INTO types VALUES
      (1, true, -32768, 9223372036854775807, 'NaN', -0.0, 1.500, 12.30, '-1234.5', 7.1, '0044-03-15 BC', '24:00:00',
       '2026-11-23 09:39:29.123', '2026-11-23 09:39:29.123456+08', '17:02:03.1+08', '1 year 2 mons -3 days 04:05:06.7',
       E'tab\\there\\nand \\\\N', 'ab', '\\xdeadbeef', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{\"a\": 1}', '{\"b\":  2}', '<a>桂</a>', '注销, 迁出',
       '{{1,2},{3,NULL}}', '{在营,NULL}', '(1.5,-2)', '[2026-01-01 00:00+08,)', '10110', '192.168.0.1/24', '(1,\"x y\")', 'a:1 b:2',
       'z', 'name', 4294967295, 'd', '2020-01-01 00:00+00'),
      (2, NULL, NULL, NULL, 'Infinity', 1e-300, 'NaN', NULL, NULL, NULL, 'infinity', NULL, '-infinity', 'infinity', NULL, NULL, '',
       '', '', NULL, NULL, NULL, NULL, NULL, '{}', NULL, NULL, 'empty', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_has_the_same_bytes_and_table_from_first_load_and_stream() {
    let server = Postgres::start().await.unwrap();
    server.execute(TYPES).await.unwrap();
    server.execute(STRANGE_DEFAULTS).await.unwrap();
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&prepared(&server).await).await.unwrap();
    let read = session.load().await;
    assert_eq!(read.iter().map(|change| change.operation).collect::<Vec<_>>(), [Operation::Read; 2]);
    server.execute("UPDATE types SET id = id").await.unwrap();
    let streamed = session.take(2).await;
    for (read, streamed) in read.iter().zip(&streamed) {
        assert_eq!(read.after, streamed.after, "\n{}\n{}", line(read), line(streamed));
        assert_eq!(read.table, streamed.table);
    }
    let text = line(&read[0]);
    for part in [
        "0044-03-15 BC",
        "2026-11-23 01:39:29.123456+00",
        "1 year 2 mons -3 days +04:05:06.7",
        "\\xdeadbeef",
        "tab\there\nand \\N",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let table = &read[0].table;
    let kind = |name: &str| table.column(name).unwrap().1.kind.clone();
    assert_eq!(kind("e"), ColumnType::Enum { labels: vec!["在营".into(), "注销, 迁出".into()] });
    assert_eq!(kind("am"), ColumnType::Decimal { precision: 12, scale: 2 });
    assert_eq!(kind("arr"), ColumnType::Array(Box::new(ColumnType::Int32)));
    assert_eq!(kind("com"), ColumnType::Other);
    assert_eq!(kind("nm"), ColumnType::Text);
    assert_eq!(table.column("def").unwrap().1.default.as_deref(), Some("未知"));
    assert_eq!(table.column("made").unwrap().1.default.as_deref(), Some("1970-01-01 00:00:00+00"), "a function's is the zero");
    assert!(!table.column("id").unwrap().1.nullable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_replicated_into_the_database_is_left_out_where_that_is_wanted() {
    let server = Postgres::start().await.unwrap();
    server.execute("CREATE TABLE t (id int PRIMARY KEY, name text)").await.unwrap();
    let mut system = prepared(&server).await;
    config(&mut system).origin = Origins::None;
    let exchange = Exchange::new().await;
    let version: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::int4")
        .fetch_one(&server.admin().await.unwrap())
        .await
        .unwrap();
    if version < 160_000 {
        let refused = exchange.connect(&system).await.unwrap_err().to_string();
        assert!(refused.contains("origin = \"none\" needs PostgreSQL 16, the server is 1"), "{refused}");
        config(&mut system).origin = Origins::Any;
    }
    let mut session = exchange.connect(&system).await.unwrap();
    session.load().await;
    server
        .execute(
            "INSERT INTO t VALUES (1, 'typed here'); SELECT pg_replication_origin_create('elsewhere'); COMMIT;
             SELECT pg_replication_origin_session_setup('elsewhere'); BEGIN; INSERT INTO t VALUES (2, 'replicated'); COMMIT;
             SELECT pg_replication_origin_session_reset(); BEGIN; INSERT INTO t VALUES (3, 'typed here'); COMMIT",
        )
        .await
        .unwrap();
    let wanted: &[&str] = match version {
        160_000.. => &["c t [1,typed here]", "c t [3,typed here]"],
        _ => &["c t [1,typed here]", "c t [2,replicated]", "c t [3,typed here]"],
    };
    assert_eq!(lines(&session.take(wanted.len()).await), wanted);
    session.quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn altered_tables_and_added_labels_give_new_tables() {
    let server = Postgres::start().await.unwrap();
    server.execute("CREATE TYPE state AS ENUM ('a'); CREATE TABLE t (id int PRIMARY KEY, e state, gone text)").await.unwrap();
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&prepared(&server).await).await.unwrap();
    session.load().await;
    server.execute("INSERT INTO t VALUES (1, 'a', 'x')").await.unwrap();
    server.execute("ALTER TYPE state ADD VALUE 'b'").await.unwrap();
    server.execute("INSERT INTO t VALUES (2, 'b', 'x')").await.unwrap();
    server.execute("ALTER TABLE t ADD \"备注\" text NOT NULL DEFAULT '无', DROP gone").await.unwrap();
    server.execute("INSERT INTO t VALUES (3, 'b')").await.unwrap();
    let changes = session.take(3).await;
    assert_eq!(lines(&changes), ["c t [1,a,x]", "c t [2,b,x]", "c t [3,b,无]"]);
    let labels = |at: usize| changes[at].table.columns[1].kind.clone();
    assert_eq!(labels(1), ColumnType::Enum { labels: vec!["a".into(), "b".into()] });
    assert_eq!(labels(2), labels(1));
    let added = &changes[2].table.columns[2];
    assert_eq!((added.name.as_str(), added.nullable, added.default.as_deref()), ("备注", false, Some("无")));
}

/// Rows of one transaction, most of them by COPY, whose rows share log records and so LSNs.
async fn one_transaction(server: &Postgres, rows: i32) {
    let pool = server.admin().await.unwrap();
    let mut connection = pool.acquire().await.unwrap();
    sqlx::raw_sql("BEGIN").execute(&mut *connection).await.unwrap();
    let mut copy = connection.copy_in_raw("COPY t FROM STDIN").await.unwrap();
    let text: String = (1..=rows).map(|id| format!("{id}\tname {id}\n")).collect();
    copy.send(text.as_bytes()).await.unwrap();
    copy.finish().await.unwrap();
    sqlx::raw_sql("UPDATE t SET name = name || '!' WHERE id % 3 = 0; COMMIT").execute(&mut *connection).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_inside_a_transaction_goes_on_where_the_log_ends() {
    let server = Postgres::start().await.unwrap();
    server.execute("CREATE TABLE t (id int PRIMARY KEY, name text)").await.unwrap();
    let exchange = Exchange::new().await;
    let system = prepared(&server).await;
    exchange.connect(&system).await.unwrap().load().await;
    one_transaction(&server, 3000).await;
    server.execute("INSERT INTO t VALUES (0, 'after')").await.unwrap();
    let mut all = Vec::new();
    let mut restarts = 0;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(90);
    while all.len() < 4001 {
        assert!(std::time::Instant::now() < deadline, "{} changes", all.len());
        let mut session = exchange.reconnect(&system).await;
        session.batch = 100_000;
        for _ in 0..2 {
            let changes = session.step().await.unwrap();
            let bytes: usize = changes.iter().map(guitong_schemas::change::Change::size).sum();
            assert!(bytes < 101_000, "a batch of {bytes} bytes");
            all.extend(changes);
        }
        // Read and lost: it has to come again.
        session.read_and_lose().await;
        restarts += 1;
    }
    assert!(restarts > 3, "{restarts}");
    exchange.reconnect(&system).await.quiet().await;
    assert_rising(&all);
    assert!(all.iter().any(|change| change.version.index > 0), "no changes shared an LSN, so the index was not tried");
    let expected: Vec<String> = (1..=3000)
        .map(|id| format!("c t [{id},name {id}]"))
        .chain((1..=1000).map(|n| format!("u t [{0},name {0}!]", n * 3)))
        .chain(["c t [0,after]".to_owned()])
        .collect();
    let mut got = lines(&all);
    // Rows that an UPDATE meets come in the order of the table, which COPY filled in order.
    got.truncate(expected.len());
    assert_eq!(got, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_loses_and_doubles_nothing() {
    let server = Postgres::start().await.unwrap();
    server.execute("CREATE TABLE t (id serial PRIMARY KEY, name text)").await.unwrap();
    let exchange = Exchange::new().await;
    let system = prepared(&server).await;
    let mut session = exchange.connect(&system).await.unwrap();
    session.load().await;
    let mut all = Vec::new();
    for round in 0..4 {
        server.execute(&format!("INSERT INTO t (name) SELECT '{round}' FROM generate_series(1, 200)")).await.unwrap();
        if round % 2 == 0 {
            all.extend(session.step().await.unwrap());
        }
        server.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active").await.unwrap();
        let error = loop {
            match session.step().await {
                Ok(changes) => all.extend(changes),
                Err(error) => break error,
            }
        };
        assert!(error.is_transient(), "{error}");
        session = exchange.reconnect(&system).await;
    }
    all.extend(session.until(|more| all.len() + more.len() >= 800).await);
    session.quiet().await;
    assert_eq!(all.len(), 800);
    assert_rising(&all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slot_advances_by_what_is_durable_and_in_idle_databases_too() {
    let options = guitong_tests::servers::postgres::Options::default().set("wal_sender_timeout", "1500");
    let server = Postgres::start_with(options).await.unwrap();
    server.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE SCHEMA other; CREATE TABLE other.busy (a text)").await.unwrap();
    let exchange = Exchange::new().await;
    let system = prepared(&server).await;
    let mut session = exchange.connect(&system).await.unwrap();
    session.load().await;
    let admin = server.admin().await.unwrap();
    let confirmed = async || -> i64 {
        let sql = "SELECT (confirmed_flush_lsn - '0/0'::pg_lsn)::int8 FROM pg_replication_slots";
        sqlx::query_scalar(sql).fetch_one(&admin).await.unwrap()
    };
    let end = async || -> i64 {
        sqlx::query_scalar("SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::int8").fetch_one(&admin).await.unwrap()
    };

    // Read, but never durable: the server keeps it however long that takes, and the session lives on.
    let before = end().await;
    server.execute("INSERT INTO t SELECT generate_series(1, 2000)").await.unwrap();
    // More waits than the wire holds, so that the session stands still with all its buffers full.
    session.batch = 50_000;
    let mut read = 0;
    while read == 0 {
        // A batch also ends, empty, where the server has sent nothing for a while.
        read = session.read_and_lose().await.len();
    }
    assert!(read <= 50_000 / size_of::<Change>() + 1, "{read} rows are more than the batch may hold");
    tokio::time::sleep(std::time::Duration::from_millis(3500)).await;
    assert!(confirmed().await <= before, "confirmed beyond what was durable");
    session.batch = 4 << 20;
    let mut rest = session.read_and_lose().await.len();
    while rest < 2000 - read {
        rest += session.read_and_lose().await.len();
    }
    server.execute("INSERT INTO t VALUES (9999)").await.unwrap();
    drop(session);
    let mut session = exchange.reconnect(&system).await;
    session.take(2001).await;

    // Nothing that concerns this system happens, and the log must be let go all the same.
    server.execute("INSERT INTO other.busy SELECT repeat('x', 1000) FROM generate_series(1, 500)").await.unwrap();
    let target = end().await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while confirmed().await < target {
        assert!(std::time::Instant::now() < deadline, "{} of {target}", confirmed().await);
        assert!(session.step().await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transaction_comes_in_batches_of_the_budget() {
    let server = Postgres::start().await.unwrap();
    server.execute("CREATE TABLE t (id int PRIMARY KEY, pad text)").await.unwrap();
    let exchange = Exchange::new().await;
    let mut session = exchange.connect_with(&prepared(&server).await, 512 << 10).await.unwrap();
    session.load().await;
    server.execute("INSERT INTO t SELECT n, repeat('p', 500) FROM generate_series(1, 30000) n").await.unwrap();
    let (mut rows, mut batches) = (0, 0);
    while rows < 30_000 {
        let changes = session.step().await.unwrap();
        let bytes: usize = changes.iter().map(guitong_schemas::change::Change::size).sum();
        assert!(bytes < (512 << 10) + 2_000, "a batch of {bytes} bytes");
        rows += changes.len();
        batches += 1;
        if let Some(last) = changes.last() {
            let Place::Postgres { xid, .. } = last.origin.place else { panic!("{:?}", last.origin) };
            assert!(xid.is_some());
        }
    }
    assert_eq!(rows, 30_000);
    assert!(batches >= 30, "{batches}");
    assert_eq!(session.source.status().newest_commit_us.map(|us| us > 1_700_000_000_000_000), Some(true));
}
