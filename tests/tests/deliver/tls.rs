//! Delivery over an encrypted connection that verifies both sides.

use std::sync::Arc;

use guitong_deliver::{DeliverStatus, Phase};
use guitong_schemas::contract::{Secret, SinkConfig};
use guitong_tests::servers::postgres::{Options, PASSWORD, Postgres};
use guitong_tests::servers::tls::Authority;
use tokio::sync::Mutex;

use crate::fixture::{Bench, Target, names};

const HBA: &str = "host all postgres 127.0.0.1/32 scram-sha-256
hostssl all office 127.0.0.1/32 scram-sha-256 clientcert=verify-full
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_is_verified_and_an_unproved_one_gets_nothing() {
    let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
    let tls = Some((authority.issue("server", "DNS:localhost").unwrap(), authority.certificate()));
    let server = Postgres::start_with(Options { hba: Some(HBA.to_owned()), tls, ..Options::default() }).await.unwrap();
    server.create_role("office", "").await.unwrap();
    server.execute("CREATE SCHEMA shared AUTHORIZATION office").await.unwrap();
    let (port, pool) = (server.port(), server.admin().await.unwrap());
    let target = Target::Postgres(Arc::new(Mutex::new(server)), String::new(), pool);
    let sink = |host: &str, parameters: &str| SinkConfig::Postgres {
        url: Secret::new(format!("postgres://office:{PASSWORD}@{host}:{port}/postgres?sslmode=verify-full&{parameters}")),
        schema: "shared".into(),
        table: "t".into(),
    };
    let own = authority.issue("office", "DNS:exchange.example").unwrap();
    let own = format!("sslcert={}&sslkey={}", own.certificate.display(), own.key.display());
    let trusting = |authority: &Authority| format!("sslrootcert={}", authority.certificate().display());

    let mut bench = Bench::new().await;
    bench.append(vec![bench.named("A", "甲", 1)]).await;
    for (host, parameters, words) in [
        (
            "localhost",
            format!("{}&{own}", trusting(&stranger)),
            ["the authority that signed the server's certificate", "sslrootcert"],
        ),
        ("127.0.0.1", format!("{}&{own}", trusting(&authority)), ["localhost", "write the host as"]),
        ("localhost", trusting(&authority), ["valid client certificate"; 2]),
        ("localhost", "sslrootcert=/nowhere/ca.pem".to_owned(), ["No such file", "sslrootcert"]),
    ] {
        let subscription = bench.subscription("refused", sink(host, &parameters), &["uscc", "name"]);
        let mut refused = bench.start(&subscription);
        let over = |status: &DeliverStatus| !matches!(status.phase, Phase::Starting | Phase::Refilling { .. });
        let status = refused.reaches(over).await;
        let (Phase::Paused { error } | Phase::Retrying { error }) = status.phase else { panic!("{status:?}") };
        assert!(words.iter().all(|word| error.contains(word)) && !error.contains(PASSWORD), "{words:?} in {error}");
        refused.stop().await.unwrap();
    }

    let subscription =
        bench.subscription("office", sink("localhost", &format!("{}&{own}", trusting(&authority))), &["uscc", "name"]);
    let mut delivering = bench.start(&subscription);
    bench.caught_up(&mut delivering).await;
    assert_eq!(target.names("t").await, names(&[("A", "甲")]));
    let encrypted = "SELECT DISTINCT ssl::text FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'office'";
    assert_eq!(target.texts(encrypted).await, ["true"]);
    delivering.stop().await.unwrap();
}
