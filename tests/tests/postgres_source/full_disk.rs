//! The disk on which transactions in progress wait is full half way through one: the server keeps it, and it comes once there is room.

use std::path::PathBuf;
use std::time::Duration;

use guitong_connectors::source::SourceError;
use guitong_schemas::contract::Secret;
use guitong_tests::child;
use guitong_tests::servers::postgres::{ADMIN, Options, Postgres};
use sqlx::postgres::PgPool;

use super::harness::*;

/// The directory and the server's addresses, in the environment of a child of this test binary.
const DIR: &str = "GUITONG_TEST_DIR";
const READER_URL: &str = "GUITONG_TEST_READER";
const ADMIN_URL: &str = "GUITONG_TEST_ADMIN";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_within_a_transaction_loses_nothing_of_it() {
    let server = Postgres::start_with(Options::default().set("logical_decoding_work_mem", "64kB")).await.unwrap();
    server.execute("CREATE TABLE t (id int PRIMARY KEY, pad text)").await.unwrap();
    prepared(&server).await;
    let dir = tempfile::tempdir().unwrap();
    let (reader, admin) = (server.url(READER), server.url(ADMIN));
    let variables = [(DIR, dir.path().as_os_str()), (READER_URL, reader.as_ref()), (ADMIN_URL, admin.as_ref())];
    let test = "postgres_source::full_disk::on_a_small_disk";
    let said = tokio::task::block_in_place(|| child::run(test, &child::MOUNTING, &variables));
    assert!(said.contains("went on"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_small_disk() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    child::disk(&dir, "2m", false);
    let url = |name: &str| std::env::var(name).unwrap();
    let exchange = Exchange::new().await;
    let system = system_at(Secret::new(url(READER_URL)));
    let admin = PgPool::connect(&url(ADMIN_URL)).await.unwrap();
    let directory = dir.to_str().unwrap();
    let mut session = exchange.connect_in(&system, directory).await.unwrap();
    session.load().await;
    let rows = "INSERT INTO t SELECT n, repeat('p', 500) FROM generate_series(1, 8000) n";
    sqlx::query(rows).execute(&admin).await.unwrap();
    sqlx::query("INSERT INTO t VALUES (9999, 'after')").execute(&admin).await.unwrap();
    // Twice: what was kept of the first time is gone with its session.
    let mut session = Ok(session);
    for _ in 0..2 {
        let error = match session {
            Ok(session) => until_full(session, &exchange).await,
            // Where the slot is not confirmed as far as was read, the server is heard before the session is open.
            Err(error) => error,
        };
        assert!(error.is_transient(), "{error:?}");
        for words in [directory, "No space left on device", "make room there", "streaming = false in systems/register.toml"] {
            assert!(error.to_string().contains(words), "{error}");
        }
        assert_eq!(exchange.gauge("guitong_postgres_in_progress_bytes"), 0);
        session = loop {
            match exchange.connect_in(&system, directory).await {
                Err(error) if error.to_string().contains("in use by server process") => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                opened => break opened,
            }
        };
    }
    drop(session);
    child::disk(&dir, "64m", true);
    let mut session = exchange.reconnect_in(&system, directory).await;
    let changes = session.take(8001).await;
    assert_eq!(line(&changes[8000]), "c t [9999,after]");
    println!("went on");
}

async fn until_full(mut session: Session, exchange: &Exchange) -> SourceError {
    loop {
        match session.step().await {
            Ok(changes) => assert!(changes.is_empty(), "{} changes of a transaction that is not here", changes.len()),
            Err(error) => {
                assert!(exchange.gauge("guitong_postgres_in_progress_bytes") > 1_000_000, "half of it was kept");
                return error;
            }
        }
    }
}
