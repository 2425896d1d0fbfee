//! Values over the limit: read past on the wire, left out by name, and never taken from an older state.

use guitong_schemas::change::Change;
use guitong_tests::servers::postgres::{Options, Postgres};

use super::binary::binary;
use super::harness::*;
use super::in_progress::streamed;

/// Columns that a record names as too large, or as unreadable.
fn named(record: &guitong_log::Record, header: &str) -> String {
    record.header(header).map(|names| String::from_utf8(names.to_vec()).unwrap().replace('\n', " ")).unwrap_or_default()
}

/// Which columns were too large, unreadable, and absent at all, of each event of the table.
async fn left_out(exchange: &Exchange) -> Vec<[String; 3]> {
    let records = exchange.records("raw.register.public.t").await;
    let events = records.iter().filter(|record| record.value.is_some());
    events.map(|record| ["guitong-too-large", "guitong-lossy", "guitong-absent"].map(|header| named(record, header))).collect()
}

/// No row takes more memory than what is kept of its values.
fn assert_short(changes: &[Change], values: usize) {
    for change in changes {
        assert!(change.size() <= values * (33 << 20) + (1 << 20), "{} bytes of one row", change.size());
    }
}

/// In binary, rows of the first load and of the stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_over_the_limit_are_read_past_in_binary_too() {
    let server = Postgres::start().await.unwrap();
    server
        .execute(
            "CREATE TABLE t (id int PRIMARY KEY, long text, data bytea, tail text);
             INSERT INTO t VALUES (1, repeat('桂\t', 15000000), decode(repeat('ab', 100000), 'hex'), 'z'),
                                  (2, 'short', decode(repeat('cd', 40000000), 'hex'), 'z')",
        )
        .await
        .unwrap();
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&binary(&server).await).await.unwrap();
    let mut all = session.load().await;
    assert_short(&all, 1);
    server.execute("INSERT INTO t SELECT id + 2, long, data, tail FROM t ORDER BY id").await.unwrap();
    let streamed = session.take(2).await;
    assert_short(&streamed, 1);
    all.extend(streamed);
    let wanted = [["long", "", "long"], ["data", "", "data"]];
    assert_eq!(left_out(&exchange).await, [wanted, wanted].concat());
    let tails: Vec<bool> = all.iter().map(|change| line(change).ends_with(",z]")).collect();
    assert_eq!(tails, [true; 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_over_the_limit_are_read_past_in_first_load_and_stream() {
    let server = Postgres::start().await.unwrap();
    // 75 MB of text and 90 MB of bytes are over the limit, 12 MB of bytes are not, though in digits they are longer than it.
    server
        .execute(
            "CREATE TABLE t (id int PRIMARY KEY, name text, long text, data bytea, list text[], tail text);
             INSERT INTO t VALUES (1, 'a', repeat('桂\t', 15000000), decode(repeat('ab', 12000000), 'hex'), NULL, 'z')",
        )
        .await
        .unwrap();
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&prepared(&server).await).await.unwrap();
    let mut all = session.load().await;
    assert_short(&all, 2);
    server
        .execute(
            "INSERT INTO t SELECT 2, name, long, data, list, tail FROM t;
             UPDATE t SET long = 'short', data = decode(repeat('cd', 90000000), 'hex') WHERE id = 1;
             UPDATE t SET data = NULL, list = ARRAY[repeat('x', 40000000)] WHERE id = 1",
        )
        .await
        .unwrap();
    let streamed = session.take(3).await;
    assert_short(&streamed, 2);
    all.extend(streamed);
    assert_rising(&all);
    let wanted = [["long", "", "long"], ["long", "", "long"], ["data", "", "data"], ["", "list", "list"]];
    assert_eq!(left_out(&exchange).await, wanted);
    // What stands beside them is whole.
    let tails: Vec<bool> = all.iter().map(|change| line(change).ends_with(",z]")).collect();
    assert_eq!(tails, [true; 4]);
}

/// Rows of a transaction in progress have its number too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_over_the_limit_are_read_past_before_their_commit_too() {
    let server = Postgres::start_with(Options::default().set("logical_decoding_work_mem", "64kB")).await.unwrap();
    server.execute("CREATE TABLE t (id int PRIMARY KEY, long text, tail text)").await.unwrap();
    let exchange = Exchange::new().await;
    let mut session = exchange.connect(&prepared(&server).await).await.unwrap();
    session.load().await;
    server
        .execute(
            "BEGIN; INSERT INTO t SELECT n, 'short', 'z' FROM generate_series(1, 2000) n;
             INSERT INTO t VALUES (0, repeat('桂', 15000000), 'z'); INSERT INTO t VALUES (-1, 'short', 'z'); COMMIT",
        )
        .await
        .unwrap();
    let changes = session.take(2002).await;
    assert_short(&changes, 1);
    let left_out = left_out(&exchange).await;
    assert_eq!(left_out.iter().filter(|names| names[0] == "long").count(), 1);
    assert_eq!(streamed(&server, SLOT).await, 1, "the transaction came before its commit");
    assert!(changes.iter().all(|change| line(change).ends_with(",z]")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_was_read_past_is_never_an_older_one() {
    let server = Postgres::start().await.unwrap();
    server
        .execute(
            "CREATE TABLE t (id int PRIMARY KEY, long text, tail text); ALTER TABLE t ALTER long SET STORAGE EXTERNAL;
             INSERT INTO t VALUES (1, repeat('old', 2000), 'a')",
        )
        .await
        .unwrap();
    let exchange = Exchange::new().await;
    let mut system = prepared(&server).await;
    system.complete = true;
    let mut session = exchange.connect(&system).await.unwrap();
    session.load().await;
    // Sent, sent and too large, not sent and too large as before, sent.
    for sql in [
        "UPDATE t SET tail = 'b'",
        "UPDATE t SET long = repeat('new', 14000000)",
        "UPDATE t SET tail = 'c'",
        "UPDATE t SET long = repeat('short', 1000)",
        "UPDATE t SET tail = 'd'",
    ] {
        server.execute(sql).await.unwrap();
        assert_short(&session.take(1).await, 1);
    }
    let none = ["", "", ""];
    let too_large = ["long", "", "long"];
    assert_eq!(left_out(&exchange).await, [none, none, too_large, too_large, none, none]);
}
