//! Commands about the reading of a system's tables, handed to its running connector.

use std::time::Duration;

use guitong_connectors::run::Request;
use guitong_connectors::source::SnapshotCommand;
use guitong_schemas::contract::{SourceConfig, System};
use guitong_schemas::table::TableName;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::Shared;
use crate::exit::Failure;

/// Longest wait for a connector that is starting or busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is to be done, as the command line sends it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub(crate) enum Action {
    Read { table: String, filter: Option<String> },
    Pause,
    Resume,
    Cancel { table: Option<String> },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SnapshotRequest {
    pub(crate) system: String,
    #[serde(flatten)]
    pub(crate) action: Action,
}

impl Shared {
    /// What the connector answers once its doing survives a restart.
    pub(crate) async fn snapshot(&self, request: SnapshotRequest) -> Result<String, Failure> {
        let name = request.system;
        let (requests, command) = {
            let state = self.state.read().await;
            let mut systems = state.parts.values().filter_map(super::Part::requests);
            let Some((system, requests)) = systems.find(|(system, _)| system.name.as_str() == name) else {
                let known = state.directory.systems.keys().any(|known| known.as_str() == name);
                return Err(match known {
                    true => Failure::no(format!("system {name} runs on another node")).help("give the command to that node"),
                    false => Failure::usage(format!("there is no system `{name}`")),
                });
            };
            (requests.clone(), command(request.action, system))
        };
        let (answer, answered) = oneshot::channel();
        let asked = async {
            requests.send(Request { command, answer }).await.ok()?;
            answered.await.ok()
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Some(Ok(done))) => Ok(done),
            Ok(Some(Err(refused))) => Err(Failure::no(refused.to_string())),
            Ok(None) => Err(Failure::unreachable(format!("the connector of {name} stopped before it answered"))
                .help("`guitong status` shows why, and what of the command holds")),
            Err(_) => Err(Failure::unreachable(format!("the connector of {name} has not answered in {PATIENCE:?}"))
                .help("it does the command when it can; `guitong status` shows what it is doing")),
        }
    }
}

fn command(action: Action, system: &System) -> SnapshotCommand {
    match action {
        Action::Read { table, filter } => SnapshotCommand::Read { table: table_of(&table, &system.source), filter },
        Action::Pause => SnapshotCommand::Pause,
        Action::Resume => SnapshotCommand::Resume,
        Action::Cancel { table } => SnapshotCommand::Cancel { table: table.map(|table| table_of(&table, &system.source)) },
    }
}

/// `schema.table`, or a table of the usual schema.
fn table_of(text: &str, source: &SourceConfig) -> TableName {
    let (schema, name) = text.split_once('.').unwrap_or((source.usual_schema(), text));
    TableName::new(schema, name)
}
