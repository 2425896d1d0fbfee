//! Tables that are cut into ranges by the server's statistics of their key's first column, and read by several workers: its values are of
//! types that are compared in ways of their own.

use std::collections::{BTreeMap, BTreeSet};

use guitong_connectors::source::{Phase, Source};
use guitong_tests::servers::postgres::{Options, Postgres};

use super::harness::*;

const ROWS: usize = 3_000;

/// Reads table `t`, made with these columns of its key, whose values these expressions of `n` are.
async fn is_cut_and_read_by_several(columns: &str, key: &str, values: &str) {
    // The server notes who reads what.
    let options = Options::default().set("log_statement", "all").set("log_line_prefix", "%p ");
    let server = Postgres::start_with(options).await.unwrap();
    server
        .execute(&format!(
            "CREATE TABLE t ({columns}, pad text, PRIMARY KEY ({key}));
             INSERT INTO t SELECT {values}, repeat('x', 100) FROM generate_series(1, {ROWS}) n; ANALYZE t"
        ))
        .await
        .unwrap();
    let mut system = prepared(&server).await;
    (system.snapshot.workers, system.snapshot.chunk) = (3, 8 << 10);
    let exchange = Exchange::new().await;
    let mut session = exchange.connect_with(&system, 64 << 10).await.unwrap();
    let (mut all, mut most) = (Vec::new(), 0);
    while session.source.status().phase != Phase::Streaming {
        all.extend(session.step().await.unwrap());
        let position = json(&session.publisher.position().unwrap());
        most = most.max(position["tables"][0]["ranges"].as_array().map_or(0, Vec::len));
    }
    assert!(most >= 6, "the table was cut into {most} ranges");
    let rows: BTreeSet<String> = all.iter().map(line).collect();
    assert_eq!((all.len(), rows.len()), (ROWS, ROWS), "each row once");

    let log = std::fs::read_to_string(server.log_path()).unwrap();
    let mut chunks: BTreeMap<&str, usize> = BTreeMap::new();
    for line in log.lines().filter(|line| line.contains("COPY (SELECT") && line.contains("\"t\"")) {
        *chunks.entry(line.split(' ').next().unwrap()).or_default() += 1;
    }
    assert!(chunks.len() == 3 && chunks.values().all(|&count| count > 1), "chunks by the processes that read them: {chunks:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_uuids_is_cut_by_its_statistics() {
    is_cut_and_read_by_several("k uuid", "k", "md5(n::text)::uuid").await;
}

/// Quotes, commas and braces are written in a way of their own where the server lists what it noted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_texts_is_cut_by_its_statistics() {
    is_cut_and_read_by_several("k text", "k", "md5(n::text) || '桂, {\"''\\' || n").await;
}

/// Its first column has few values, each of them often.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_with_a_key_of_two_columns_is_cut_by_the_first_of_them() {
    is_cut_and_read_by_several("district varchar(20), k int", "district, k", "(n % 40) || '区', n").await;
}
