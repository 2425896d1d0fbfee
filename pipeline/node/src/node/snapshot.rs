//! Commands about the reading of a system's tables, handed to its running connector, and the repair of one that stopped at a gap.

use std::sync::Arc;
use std::time::Duration;

use guitong_connectors::run::Request;
use guitong_connectors::source::SnapshotCommand;
use guitong_log::OwnerId;
use guitong_schemas::contract::{SourceConfig, System};
use guitong_schemas::table::TableName;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::{Shared, State};
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
            let (_, system, requests) = state.system(&name)?;
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

impl Shared {
    /// Starts the connector of a system that stopped because changes are missing: it reads every table again, under a new epoch.
    pub(crate) async fn repair(&self, name: &str) -> Result<String, Failure> {
        let mut state = self.state.write().await;
        let (owner, system, _) = state.system(name)?;
        let (owner, system) = (owner.clone(), Arc::clone(system));
        let Some(stopped) = state.parts.get(&owner).filter(|part| part.has_gap()) else {
            return Err(Failure::no(format!("system {name} has not stopped at a gap: nothing of it is missing"))
                .help(format!("to read one of its tables again: guitong system snapshot {name} --table TABLE")));
        };
        // It has ended; what looks beside it at the server has not.
        stopped.cancel();
        let part = self.stages.repair(&state.directory, &self.opened, &system);
        state.parts.insert(owner, part);
        Ok(format!("{name}: every table is read again, under a new epoch; `guitong status` shows how far that is"))
    }
}

impl State {
    /// A system that this node runs, with where its commands go.
    fn system(&self, name: &str) -> Result<(&OwnerId, &Arc<System>, &mpsc::Sender<Request>), Failure> {
        let mut systems = self.parts.iter().filter_map(|(owner, part)| Some((owner, part.requests()?)));
        if let Some((owner, (system, requests))) = systems.find(|(_, (system, _))| system.name.as_str() == name) {
            return Ok((owner, system, requests));
        }
        Err(match self.directory.systems.keys().any(|known| known.as_str() == name) {
            true => Failure::no(format!("system {name} runs on another node")).help("give the command to that node"),
            false => Failure::usage(format!("there is no system `{name}`")),
        })
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
