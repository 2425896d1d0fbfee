//! Encrypted connections: a server that proves who it is is read, one that does not is refused with what to do about it.

use std::path::Path;

use guitong_connectors::source::SourceError;
use guitong_schemas::contract::Secret;
use guitong_schemas::contract::system::System;
use guitong_tests::servers::postgres::{ADMIN, Options, PASSWORD, Postgres};
use guitong_tests::servers::tls::Authority;

use super::harness::*;

/// The readers come encrypted or not at all, `bearer` with a certificate of its name besides the password.
const HBA: &str = "host all postgres 127.0.0.1/32 scram-sha-256
hostssl all reader 127.0.0.1/32 scram-sha-256
hostssl all bearer 127.0.0.1/32 scram-sha-256 clientcert=verify-full
";

/// A server whose certificate has these names, with two roles and a table.
async fn encrypted(authority: &Authority, names: &str) -> Postgres {
    let identity = authority.issue("server", names).unwrap();
    let tls = Some((identity, authority.certificate()));
    let server = Postgres::start_with(Options { hba: Some(HBA.to_owned()), tls, ..Options::default() }).await.unwrap();
    for role in ["reader", "bearer"] {
        server.create_role(role, "REPLICATION").await.unwrap();
    }
    let sql = "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); GRANT SELECT ON t TO reader, bearer;
        CREATE PUBLICATION exchange_register FOR TABLE t";
    server.execute(sql).await.unwrap();
    server
}

fn with(server: &Postgres, user: &str, host: &str, parameters: &str) -> System {
    let mut system = system(server, ADMIN);
    config(&mut system).url = Secret::new(format!("postgres://{user}:{PASSWORD}@{host}:{}/postgres?{parameters}", server.port()));
    system
}

fn verifying(authority: &Path) -> String {
    format!("sslmode=verify-full&sslrootcert={}", authority.display())
}

async fn refused(exchange: &Exchange, system: &System, words: &[&str]) {
    let error = exchange.connect(system).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, SourceError::Setup { .. }), "{error:?}");
    let text = error.to_string();
    assert!(words.iter().all(|word| text.contains(word)) && !text.contains(PASSWORD), "{words:?} in:\n{text}");
}

/// Reads and streams as `user`, all of it encrypted.
async fn is_read(server: &Postgres, exchange: &Exchange, system: &System, user: &str) {
    let mut session = exchange.reconnect(system).await;
    session.load().await;
    let id: i32 = rand::random();
    server.execute(&format!("INSERT INTO t VALUES ({id})")).await.unwrap();
    assert_eq!(lines(&session.take(1).await), [format!("c t [{id}]")]);
    let admin = server.admin().await.unwrap();
    let sessions =
        "SELECT DISTINCT backend_type, ssl FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE usename = $1 ORDER BY 1";
    let sessions: Vec<(String, bool)> = sqlx::query_as(sessions).bind(user).fetch_all(&admin).await.unwrap();
    assert_eq!(sessions, [("client backend".to_owned(), true), ("walsender".to_owned(), true)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_verified_by_its_authority_and_its_name() {
    let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
    let server = encrypted(&authority, "DNS:localhost,IP:127.0.0.1").await;
    let exchange = Exchange::new().await;
    let trusting = verifying(&authority.certificate());
    for host in ["localhost", "127.0.0.1"] {
        is_read(&server, &exchange, &with(&server, "reader", host, &trusting), "reader").await;
    }
    let other = with(&server, "reader", "localhost", &verifying(&stranger.certificate()));
    refused(&exchange, &other, &["the authority that signed the server's certificate", "sslrootcert"]).await;
    let missing = with(&server, "reader", "localhost", "sslmode=verify-full&sslrootcert=/nowhere/ca.pem");
    refused(&exchange, &missing, &["sslrootcert", "/nowhere/ca.pem", "No such file"]).await;
    refused(&exchange, &with(&server, "reader", "localhost", "sslmode=disable"), &["pg_hba.conf", "no encryption"]).await;

    let server = encrypted(&authority, "DNS:db.example").await;
    let elsewhere = with(&server, "reader", "localhost", &trusting);
    refused(&exchange, &elsewhere, &["db.example", "write the host as the server's certificate names it"]).await;
    let nameless = |authority: &Authority| {
        let parameters = format!("sslmode=verify-ca&sslrootcert={}", authority.certificate().display());
        with(&server, "reader", "localhost", &parameters)
    };
    is_read(&server, &Exchange::new().await, &nameless(&authority), "reader").await;
    refused(&exchange, &nameless(&stranger), &["the authority that signed the server's certificate", "sslrootcert"]).await;

    let plain = Postgres::start().await.unwrap();
    refused(&exchange, &with(&plain, ADMIN, "localhost", &trusting), &["does not support TLS", "`ssl` of the server"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_proves_itself_by_certificate_where_the_server_wants_one() {
    let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
    let server = encrypted(&authority, "DNS:localhost").await;
    let exchange = Exchange::new().await;
    let trusting = verifying(&authority.certificate());
    let bearing = |authority: &Authority, name: &str| {
        let identity = authority.issue(name, "DNS:exchange.example").unwrap();
        let own = format!("&sslcert={}&sslkey={}", identity.certificate.display(), identity.key.display());
        with(&server, "bearer", "localhost", &format!("{trusting}{own}"))
    };
    refused(&exchange, &with(&server, "bearer", "localhost", &trusting), &["client certificate", "sslcert", "sslkey"]).await;
    let by_stranger = bearing(&stranger, "bearer");
    refused(&exchange, &by_stranger, &["UnknownCA", "sslcert"]).await;
    let another = bearing(&authority, "reader");
    refused(&exchange, &another, &["bearer", "pg_hba.conf"]).await;
    is_read(&server, &exchange, &bearing(&authority, "bearer"), "bearer").await;
    let half = format!("{trusting}&sslcert={}", authority.certificate().display());
    refused(&exchange, &with(&server, "bearer", "localhost", &half), &["only one of sslcert and sslkey"]).await;
}
