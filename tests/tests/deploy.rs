//! What stands in `deploy/` fits the binary: alerts use metrics that exist, and the compose file's exchange is valid and finds its
//! database prepared.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use guitong::template;
use guitong_schemas::contract::{Directory, LogConfig, Purpose, SinkConfig, SourceConfig, load};
use guitong_tests::servers::postgres::{ADMIN, PASSWORD, Postgres};
use prometheus::{IntGauge, Registry};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// Every metric of a node.
fn registry() -> Result<Registry, prometheus::Error> {
    let registry = Registry::new();
    guitong_log::metrics::Metrics::register(&registry)?;
    guitong_connectors::metrics::Metrics::register(&registry)?;
    guitong_normalise::Metrics::register(&registry)?;
    guitong_deliver::Metrics::register(&registry)?;
    Ok(registry)
}

/// A registry tells nothing of a metric without values, but it refuses its name to another.
fn has(registry: &Registry, name: &str) -> Result<bool, prometheus::Error> {
    let probe = IntGauge::new(name, "whether the name is taken")?;
    let free = registry.register(Box::new(probe.clone())).is_ok();
    if free {
        registry.unregister(Box::new(probe))?;
    }
    Ok(!free)
}

#[test]
fn alerts_use_metrics_that_exist() -> Outcome {
    let registry = registry()?;
    assert!(!has(&registry, "guitong_connect_nothing_total")?);
    let alerts = std::fs::read_to_string(deploy().join("prometheus/alerts.yml"))?;
    let word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let mut names: BTreeSet<&str> = alerts.split(word).filter(|name| name.starts_with("guitong_")).collect();
    assert!(names.len() > 12, "only {names:?}");
    // A histogram's series carry these endings.
    names = names.iter().map(|name| name.strip_suffix("_bucket").unwrap_or(name)).collect();
    for name in names {
        assert!(has(&registry, name)?, "no stage has the metric {name}");
    }
    Ok(())
}

#[test]
fn every_alert_is_tested() -> Outcome {
    let alerts = std::fs::read_to_string(deploy().join("prometheus/alerts.yml"))?;
    let tests = std::fs::read_to_string(deploy().join("prometheus/alerts.test.yml"))?;
    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(!names.is_empty());
    for name in names {
        let fires = format!("alertname: {name}\n        exp_alerts:");
        assert!(tests.contains(&fires), "no test shows that {name} fires");
    }
    Ok(())
}

/// The environment of a service in the compose file.
fn environment(service: &str) -> Result<Vec<(String, String)>, std::io::Error> {
    let text = std::fs::read_to_string(deploy().join("compose.yaml"))?;
    let block = text.lines().skip_while(|line| *line != format!("  {service}:")).skip(1);
    let block = block.take_while(|line| line.is_empty() || line.starts_with("    "));
    let variables = block.skip_while(|line| *line != "    environment:").skip(1).take_while(|line| line.starts_with("      "));
    let split =
        |line: &str| line.trim().split_once(": ").map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()));
    Ok(variables.filter_map(split).collect())
}

/// The directory that `init` writes, as the compose file's node reads it.
fn composed() -> Result<Directory, Box<dyn std::error::Error>> {
    let root = tempfile::tempdir()?;
    for (path, content) in template::FILES {
        let target = root.path().join(path);
        target.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        std::fs::write(target, content)?;
    }
    let variables = environment("guitong")?;
    let lookup = |name: &str| variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    Ok(load(root.path(), &lookup, jiff::Timestamp::now(), Purpose::Run)?)
}

#[test]
fn the_composed_exchange_is_valid() -> Outcome {
    let directory = composed()?;
    let LogConfig::Kafka(kafka) = &directory.exchange.log else { return Err("not Kafka".into()) };
    assert_eq!((kafka.cluster.brokers.as_slice(), kafka.cluster.replication_factor), (["kafka:9092".to_owned()].as_slice(), 1));
    assert!(directory.exchange.registry.is_some());
    assert_eq!(directory.exchange.listen.port(), 8086);
    let scraped = std::fs::read_to_string(deploy().join("prometheus/prometheus.yml"))?;
    assert!(scraped.contains("guitong:8086"));
    Ok(())
}

/// Runs the compose file's SQL, then looks whether both roles find what the exchange needs.
#[tokio::test]
async fn the_composed_databases_are_prepared() -> Outcome {
    let directory = composed()?;
    let server = Postgres::start().await?;
    let script = deploy().join("compose/postgres.sql");
    let run = Command::new("psql")
        .args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--host=127.0.0.1", "--dbname=postgres"])
        .args([format!("--port={}", server.port()), format!("--username={ADMIN}"), format!("--file={}", script.display())])
        .env("PGPASSWORD", PASSWORD)
        .output()?;
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));

    let local = |url: &str| url.replace("@postgres/", &format!("@127.0.0.1:{}/", server.port()));
    let SourceConfig::Postgres(source) = &directory.systems["licensing"].source else { return Err("not PostgreSQL".into()) };
    let reader = sqlx::PgPool::connect(&local(source.url.reveal())).await?;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM qy_jbxx").fetch_one(&reader).await?;
    assert_eq!(rows, 4);
    let published = "SELECT count(*) FROM pg_publication_tables WHERE pubname = $1 AND tablename = 'qy_jbxx'";
    let published: i64 = sqlx::query_scalar(published).bind(&source.publication).fetch_one(&reader).await?;
    assert_eq!(published, 1, "no publication {}", source.publication);

    let SinkConfig::Postgres { url, schema, table } = &directory.subscriptions["credit-enterprise"].sink else {
        return Err("not PostgreSQL".into());
    };
    let writer = sqlx::PgPool::connect(&local(url.reveal())).await?;
    let create = format!("CREATE TABLE \"{schema}\".\"{table}\" (id int)");
    sqlx::query(sqlx::AssertSqlSafe(create)).execute(&writer).await?;
    Ok(())
}
