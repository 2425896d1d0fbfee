//! One transaction of half a million rows: from its commit to its last row in the log, by a connector that takes it when it is committed
//! (protocol 1) and by one that takes it while it is in progress. It is written in statements with a pause after each; one that is written
//! at full speed is decoded long after its commit by either.

use std::sync::Arc;
use std::time::{Duration, Instant};

use guitong_connectors::run::ConnectorState;
use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_schemas::contract::system::SourceConfig;
use guitong_tests::servers::postgres::Postgres;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::rounds::{Bar, Reference, Rounds, Verdict};
use crate::{Failure, load, stream};

const ROWS: u64 = 500_000;
/// Rows of one statement of the transaction, and the pause after it: a job that computes in between, and does not write as fast as its
/// server can.
const STATEMENT: u64 = 5_000;
const PAUSE: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_secs(300);

const AT_COMMIT: Reference = Reference { name: "protocol 1, sent at the commit (reference)", measured: 0.0 };
const BEFORE: &str = "protocol 2, sent before it";

/// On a database whose table and publication `register` are there.
pub(crate) async fn run(server: &Postgres, runs: usize) -> Result<Verdict, Failure> {
    let mut rounds = Rounds::new("one transaction of 500,000 rows, its commit to its last row in the embedded log", "rows");
    for number in 0..runs {
        for (name, streaming) in [(AT_COMMIT.name, false), (BEFORE, true)] {
            let took = one(server, &format!("one_{number}_{streaming}"), streaming).await?;
            rounds.add(name, ROWS, took);
        }
    }
    Ok(rounds.finish(AT_COMMIT, &[Bar { name: BEFORE, ratio: 2.0 }]))
}

async fn one(server: &Postgres, slot: &str, streaming: bool) -> Result<Duration, Failure> {
    server.execute("TRUNCATE register").await?;
    let mut system = stream::system(server, slot)?;
    if let SourceConfig::Postgres(config) = &mut system.source {
        config.streaming = streaming;
    }
    let home = TempDir::new()?;
    let log = EmbeddedLog::open(&EmbeddedConfig { path: home.path().join("log.db"), max_bytes: None }).await?;
    let connector = stream::connector(Arc::new(log.clone()), &log, system.clone()).await?;
    let shutdown = CancellationToken::new();
    let mut status = connector.status();
    let running = tokio::spawn(connector.run(shutdown.clone()));
    let ready = status.wait_for(|status| status.state == ConnectorState::Running);
    tokio::time::timeout(LIMIT, ready).await.map_err(|_| "the connector does not start")??;

    let admin = server.admin().await?;
    let mut transaction = admin.begin().await?;
    for first in (1..=ROWS).step_by(usize::try_from(STATEMENT)?) {
        let insert = load::rows(first, first + STATEMENT - 1);
        sqlx::raw_sql(sqlx::AssertSqlSafe(insert)).execute(&mut *transaction).await?;
        tokio::time::sleep(PAUSE).await;
    }
    let begun = Instant::now();
    transaction.commit().await?;
    let published = tokio::time::timeout(LIMIT, status.wait_for(|status| status.totals.events >= ROWS)).await.is_ok();
    let took = begun.elapsed();
    let last = format!("{:?}", status.borrow().state);
    shutdown.cancel();
    running.await??;
    if !published {
        return Err(format!("not every row came in {LIMIT:?}: {last}").into());
    }
    admin.close().await;
    log.close().await;
    stream::release(server, &system).await?;
    Ok(took)
}
