//! The demo: its outcome holds, and a single wrong cell makes it fail.

use guitong::demo::{self, Comparison, Progress};
use guitong_schemas::contract::SinkConfig;
use sqlx::{ConnectOptions, Connection};

struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _: &'static str, _: u64) {}
    fn reach(&mut self, _: u64) {}
    fn end(&mut self) {}
}

fn prepare() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    guitong_schemas::avro::set_name_validators();
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_hold_what_they_are_granted_and_one_wrong_cell_is_found() {
    prepare();
    let root = tempfile::tempdir().unwrap();
    let first = demo::run(root.path(), 400, &mut Silent).await.unwrap();
    let differences: Vec<&Comparison> = first.comparisons.iter().filter(|comparison| !comparison.is_equal()).collect();
    assert!(differences.is_empty(), "{differences:#?}");
    assert!(first.typed.wrong > 0 && first.typed.withdrawn > 0);
    assert!(!first.latencies.is_empty());
    let quarantined: u64 = first.resources.iter().map(|resource| resource.quarantined).sum();
    // Every fourth mistake is put right again and leaves the quarantine.
    assert!(quarantined > 0 && quarantined < u64::from(first.typed.wrong), "{quarantined} of {}", first.typed.wrong);

    let again = demo::run(root.path(), 100, &mut Silent).await.unwrap();
    assert_eq!(again.filled, 0, "a second run continues where the first ended");
    assert!(again.is_equal(), "{:#?}", again.comparisons);

    let directory = guitong::open::load(root.path()).unwrap();
    let SinkConfig::Sqlite { path, .. } = &directory.subscriptions["credit-enterprise"].sink else { panic!("a SQLite sink") };
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(root.path().join(path));
    let mut sink = options.connect().await.unwrap();
    let corrupt = "UPDATE enterprise SET name = name || '?' WHERE rowid = (SELECT min(rowid) FROM enterprise)";
    sqlx::query(corrupt).execute(&mut sink).await.unwrap();
    sink.close().await.unwrap();
    let after = demo::compare(&directory).await.unwrap();
    let broken: Vec<&str> =
        after.iter().filter(|comparison| !comparison.is_equal()).map(|comparison| comparison.subscription.as_str()).collect();
    assert_eq!(broken, ["credit-enterprise"]);
}
