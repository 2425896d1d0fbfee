//! Looks at one subscriber's table, as that department's own program would, and notes when each new company is there.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use guitong_schemas::contract::{Directory, SinkConfig};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Row};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::DemoError;
use super::typing::Entered;

/// The subscription that every new company reaches.
const SUBSCRIPTION: &str = "hall-enterprise";
/// Time between two looks; the figure's resolution.
const LOOK: Duration = Duration::from_millis(1);
/// A company that has not come by then is left to the comparison.
const LOST: Duration = Duration::from_secs(10);

pub(super) struct Watch {
    entered: mpsc::UnboundedSender<Entered>,
    task: JoinHandle<Result<Vec<Duration>, DemoError>>,
}

impl Watch {
    pub(super) fn start(directory: &Directory) -> Result<Self, DemoError> {
        let sink = directory.subscriptions.get(SUBSCRIPTION).map(|subscription| &subscription.sink);
        let Some(SinkConfig::Sqlite { path, table }) = sink else {
            return Err(DemoError::Directory(format!("{SUBSCRIPTION} is not the quick start's subscription")));
        };
        let options = SqliteConnectOptions::new().filename(directory.root.join(path)).read_only(true).disable_statement_logging();
        let sql = format!("SELECT uscc FROM \"{table}\" WHERE uscc IN (SELECT value FROM json_each(?1))");
        let (entered, inbox) = mpsc::unbounded_channel();
        Ok(Self { entered, task: tokio::spawn(look(options, sql, inbox)) })
    }

    pub(super) fn expect(&self, entered: Entered) {
        // The task ends only with an error, which `finish` reports.
        let _ = self.entered.send(entered);
    }

    /// Latencies in ascending order.
    pub(super) async fn finish(self) -> Result<Vec<Duration>, DemoError> {
        drop(self.entered);
        let mut latencies = match self.task.await {
            Ok(latencies) => latencies?,
            Err(error) => return Err(DemoError::Directory(format!("the watch on {SUBSCRIPTION} ended: {error}"))),
        };
        latencies.sort_unstable();
        Ok(latencies)
    }
}

async fn look(
    options: SqliteConnectOptions,
    sql: String,
    mut inbox: mpsc::UnboundedReceiver<Entered>,
) -> Result<Vec<Duration>, DemoError> {
    let mut connection = options.connect().await?;
    let mut waiting: HashMap<String, Instant> = HashMap::new();
    let mut latencies = Vec::new();
    let mut open = true;
    while open || !waiting.is_empty() {
        loop {
            match inbox.try_recv() {
                Ok(entered) => drop(waiting.insert(entered.code, entered.at)),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    open = false;
                    break;
                }
            }
        }
        arrived(&mut connection, &sql, &mut waiting, &mut latencies).await?;
        waiting.retain(|_, at| at.elapsed() < LOST);
        tokio::time::sleep(LOOK).await;
    }
    Ok(latencies)
}

async fn arrived(
    connection: &mut SqliteConnection,
    sql: &str,
    waiting: &mut HashMap<String, Instant>,
    latencies: &mut Vec<Duration>,
) -> Result<(), DemoError> {
    if waiting.is_empty() {
        return Ok(());
    }
    let keys = serde_json::Value::from(waiting.keys().cloned().collect::<Vec<_>>()).to_string();
    for row in sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).bind(keys).fetch_all(connection).await? {
        if let Some(at) = waiting.remove(&row.try_get::<String, _>(0)?) {
            latencies.push(at.elapsed());
        }
    }
    Ok(())
}
