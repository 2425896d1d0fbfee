//! `guitong run`: the exchange itself.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use guitong_log::Role;
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::Failure;
use crate::node::Node;
use crate::{open, telemetry};

/// How long stages may take to finish their batches after SIGTERM.
const DRAIN: Duration = Duration::from_secs(9);

#[derive(Debug, Args)]
pub(super) struct Run {
    /// The exchange directory
    #[arg(default_value = ".", env = "GUITONG_DIR")]
    dir: PathBuf,
    /// Stages to run on this node; all of them unless named
    #[arg(long, value_enum, value_delimiter = ',')]
    roles: Vec<RoleName>,
    /// How logs are written; `RUST_LOG` chooses what is written
    #[arg(long, value_enum, default_value_t = telemetry::Format::Text)]
    log_format: telemetry::Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RoleName {
    Connect,
    Normalise,
    Deliver,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Connect => Self::Connect,
            RoleName::Normalise => Self::Normalise,
            RoleName::Deliver => Self::Deliver,
        }
    }
}

impl Run {
    pub(super) async fn execute(self, color: bool) -> Result<(), Failure> {
        telemetry::start(self.log_format, telemetry::USUAL);
        let roles: Vec<Role> = match self.roles.as_slice() {
            [] => vec![Role::Connect, Role::Normalise, Role::Deliver],
            named => named.iter().copied().map(Role::from).collect(),
        };
        let mut terminate = listen(SignalKind::terminate())?;
        let mut interrupt = listen(SignalKind::interrupt())?;
        let directory = open::load_or_report(&self.dir, color)?;
        let node = tokio::select! {
            node = Node::start(directory, roles) => node?,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: finishing batches"),
            _ = interrupt.recv() => tracing::info!("interrupted: finishing batches"),
        }
        node.stop(DRAIN).await
    }
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    signal(kind).map_err(|error| Failure::unreachable(format!("signals cannot be received: {error}")))
}
