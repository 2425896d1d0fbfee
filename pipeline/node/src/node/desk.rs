//! Where a command's questions are answered: by the node that runs the directory, else by its normalisers or its deliverers alone,
//! started here for the length of the command. Those deliverers do what they are told and nothing by themselves.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guitong_log::Role;
use guitong_schemas::contract::LogConfig;
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, RwLock};

use super::{Question, Shared, Stages, State};
use crate::control::Client;
use crate::exit::Failure;
use crate::open::{self, Opened};
use crate::pull::Limits;

/// How long parts may take to finish their batches.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers questions until it is closed.
pub(crate) enum Desk {
    Node(Client),
    Here(Arc<Shared>),
}

impl Desk {
    /// The node that runs `dir`, or what can be answered about resources without one: `resource` alone, or all of them.
    ///
    /// # Errors
    /// When the directory has problems, or its log cannot be opened.
    pub(crate) async fn open(dir: &Path, resource: Option<&str>, color: bool) -> Result<Self, Failure> {
        Self::open_as(dir, Role::Normalise, resource, color).await
    }

    /// The same about subscriptions.
    ///
    /// # Errors
    /// As [`Desk::open`].
    pub(crate) async fn of_subscriptions(dir: &Path, subscription: Option<&str>, color: bool) -> Result<Self, Failure> {
        Self::open_as(dir, Role::Deliver, subscription, color).await
    }

    async fn open_as(dir: &Path, role: Role, only: Option<&str>, color: bool) -> Result<Self, Failure> {
        if let Some(client) = Client::connect(dir).await? {
            return Ok(Self::Node(client));
        }
        let start = format!("start one with: guitong run {}", dir.display());
        // Sinks are reached with their secrets, and rows are keyed by them.
        let mut directory = match role {
            Role::Deliver => open::load_or_report(dir, color)?,
            _ => open::look_or_report(dir, color)?,
        };
        match &directory.exchange.log {
            LogConfig::Embedded { path } if directory.root.join(path).exists() => {}
            LogConfig::Embedded { .. } => {
                return Err(Failure::unreachable(format!("no node has run {} yet", dir.display())).help(start));
            }
            LogConfig::Kafka(_) => {
                let help = format!("ask on a machine whose node runs it, or {start}");
                return Err(Failure::unreachable(format!("no node runs {} here", dir.display())).help(help));
            }
        }
        if let Some(name) = only {
            directory.resources.retain(|known, _| role == Role::Deliver || known.as_str() == name);
            directory.subscriptions.retain(|known, _| role != Role::Deliver || known.as_str() == name);
            let (kind, found) = match role {
                Role::Deliver => ("subscription", !directory.subscriptions.is_empty()),
                _ => ("resource", !directory.resources.is_empty()),
            };
            if !found {
                return Err(Failure::usage(format!("{} declares no {kind} `{name}`", dir.display())));
            }
        }
        let metrics = prometheus::Registry::new();
        let unregistered = |error: prometheus::Error| Failure::unreachable(format!("metrics: {error}"));
        let roles = vec![role];
        let of_log = guitong_log::metrics::Metrics::register(&metrics).map_err(unregistered)?;
        let stages = Stages::register(&metrics, roles.clone()).map_err(unregistered)?.attending();
        let limits = Limits::register(&metrics).map_err(unregistered)?;
        let opened = Opened::open(&directory, &roles, of_log).await?;
        let listen = directory.exchange.listen.to_string();
        let state = State { directory: Arc::new(directory), refused: None, parts: BTreeMap::new(), listen };
        let (started, state, comparing) = (Instant::now(), RwLock::new(state), Mutex::default());
        let shared = Arc::new(Shared { started, opened, metrics, stages, state, limits, comparing });
        shared.apply().await;
        Ok(Self::Here(shared))
    }

    /// Whether a node answers, which goes on when the command ends.
    pub(crate) fn is_node(&self) -> bool {
        matches!(self, Self::Node(_))
    }

    /// The answer to one question.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, question: Question) -> Result<T, Failure> {
        match self {
            Self::Node(client) => client.ask(&question).await,
            Self::Here(shared) => {
                let answer = shared.answer(question).await?;
                serde_json::from_value(answer).map_err(|error| Failure::unreachable(error.to_string()))
            }
        }
    }

    /// Asks one question and closes.
    ///
    /// # Errors
    /// As [`Desk::ask`].
    pub(crate) async fn ask_once<T: DeserializeOwned>(self, question: Question) -> Result<T, Failure> {
        let answer = self.ask(question).await;
        self.close().await;
        answer
    }

    /// Ends what was started for the command.
    pub(crate) async fn close(self) {
        if let Self::Here(shared) = self {
            // What is dropped at the deadline does its last batch again.
            let _ = shared.stop_parts(tokio::time::Instant::now() + PATIENCE).await;
            shared.opened.close().await;
        }
    }
}
