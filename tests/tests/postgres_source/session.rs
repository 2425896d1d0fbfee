//! The replication session: every way to log in, and a consumer that stands still.

use std::time::Duration;

use guitong_connectors::source::SourceError;
use guitong_schemas::contract::Secret;
use guitong_tests::servers::postgres::{ADMIN, Options, PASSWORD, Postgres};
use guitong_tests::servers::tls::Authority;

use super::harness::*;

const HBA: &str = "host all hashed 127.0.0.1/32 md5
host all clear 127.0.0.1/32 password
host all all 127.0.0.1/32 scram-sha-256
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_in_is_taken_or_refused_with_its_reason() {
    let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
    let tls = Some((authority.issue("server", "DNS:elsewhere.example").unwrap(), authority.certificate()));
    let server = Postgres::start_with(Options { hba: Some(HBA.to_owned()), tls, ..Options::default() }).await.unwrap();
    server
        .execute(&format!(
            "CREATE TABLE t (id int PRIMARY KEY); CREATE ROLE clear LOGIN SUPERUSER PASSWORD '{PASSWORD}';
             SET password_encryption = 'md5'; CREATE ROLE hashed LOGIN SUPERUSER PASSWORD '{PASSWORD}'",
        ))
        .await
        .unwrap();
    let verifying = |authority: &Authority| format!("sslmode=verify-ca&sslrootcert={}", authority.certificate().display());
    let exchange = Exchange::new().await;
    let mut number = 0;
    let cases: [(&str, String, Option<&str>); 9] = [
        (ADMIN, "sslmode=disable".to_owned(), None),
        // The password's proof is tied to the session here, with a server whose certificate nobody has checked.
        (ADMIN, "sslmode=prefer".to_owned(), None),
        (ADMIN, "sslmode=require".to_owned(), None),
        (ADMIN, verifying(&authority), None),
        (ADMIN, verifying(&stranger), Some("sslrootcert")),
        ("hashed", "sslmode=disable".to_owned(), None),
        ("hashed", "sslmode=require".to_owned(), None),
        ("clear", "sslmode=require".to_owned(), None),
        ("clear", "sslmode=disable".to_owned(), Some("password in clear text")),
    ];
    for (user, query, refusal) in cases {
        let mut system = system(&server, user);
        config(&mut system).url = Secret::new(format!("{}?{query}", server.url(user)));
        if let Some(words) = refusal {
            let error = exchange.connect(&system).await.map(|_| ()).unwrap_err();
            assert!(matches!(error, SourceError::Setup { .. }), "{user} {query}: {error:?}");
            assert!(error.to_string().contains(words) && !error.to_string().contains(PASSWORD), "{user} {query}: {error}");
            continue;
        }
        let mut session = exchange.reconnect(&system).await;
        session.load().await;
        number += 1;
        server.execute(&format!("INSERT INTO t VALUES ({number})")).await.unwrap();
        assert_eq!(lines(&session.take(1).await), [format!("c t [{number}]")], "{user} {query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_stands_still_keeps_its_session() {
    let options = Options::default().set("wal_sender_timeout", "1000");
    let server = Postgres::start_with(options).await.unwrap();
    server.execute("CREATE TABLE t (id int PRIMARY KEY, pad text); ALTER TABLE t ALTER pad SET STORAGE EXTERNAL").await.unwrap();
    let exchange = Exchange::new().await;
    let mut session = exchange.connect_with(&system(&server, ADMIN), 256 << 10).await.unwrap();
    session.load().await;
    // More than the buffers of both kernels hold, so that the server stands still in the middle of a message.
    server.execute("INSERT INTO t SELECT n, repeat(md5(n::text), 500) FROM generate_series(1, 3000) n").await.unwrap();
    let mut rows = session.read_and_lose().await.len();
    let admin = server.admin().await.unwrap();
    let sender = async || -> Option<i32> {
        sqlx::query_scalar("SELECT active_pid FROM pg_replication_slots").fetch_one(&admin).await.unwrap()
    };
    let before = sender().await;
    // Time has to pass: three times what the server waits for a word.
    tokio::time::sleep(Duration::from_millis(3200)).await;
    assert_eq!(sender().await, before, "the server gave the session up");
    assert!(before.is_some() && rows < 1000, "{rows}");
    while rows < 3000 {
        rows += session.read_and_lose().await.len();
    }
    assert_eq!(rows, 3000);
}
