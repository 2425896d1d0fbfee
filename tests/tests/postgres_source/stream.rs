//! Streaming: operations, keys, before images, types, restarts.

use super::harness::*;
use guitong_connectors::source::Source;
use guitong_schemas::change::{Operation, Place};
use guitong_schemas::table::ColumnType;
use guitong_tests::servers::postgres::{ADMIN, Postgres};

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
    let mut session = exchange.connect(&system(&server, ADMIN)).await.unwrap();
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
