//! A running node: its parts (connectors, normalisers, deliveries), the directory in force, and what it serves.
//!
//! A part that fails stops only itself; its problem stands in the status until its configuration changes. A changed directory is
//! read whole: a valid one is swapped in part by part at batch ends, a bad one is refused and the old one stays in force.

mod desk;
mod part;
mod quarantine;
mod reload;
mod snapshot;
mod subscription;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guitong_log::{OwnerId, Role};
use guitong_schemas::contract::Directory;
use tokio::sync::{Mutex, RwLock};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::exit::Failure;
use crate::open::{Kind, Opened};
use crate::pull::Limits;
use crate::status::{LogStatus, Status};
use crate::{control, http};

pub(crate) use desk::Desk;
pub(crate) use part::{Config, Part, Stages};
pub(crate) use quarantine::{Figures, Page, Question, Rebuilding};
pub(crate) use snapshot::{Action, SnapshotRequest};
pub(crate) use subscription::{About, AsidePage, Issued};

/// How often retention and compaction of the embedded log are looked after.
const MAINTENANCE: Duration = Duration::from_secs(60);

/// How long parts may take to finish their batches when a changed directory or placement stops them.
const DRAIN: Duration = Duration::from_secs(9);

/// A node that runs.
#[derive(Debug)]
pub struct Node {
    shared: Arc<Shared>,
    shutdown: CancellationToken,
    supervisor: JoinHandle<()>,
    servers: Vec<JoinHandle<()>>,
}

/// What the node's servers and its supervisor look at together.
#[derive(Debug)]
pub(crate) struct Shared {
    started: Instant,
    pub(crate) opened: Opened,
    pub(crate) metrics: prometheus::Registry,
    stages: Stages,
    state: RwLock<State>,
    /// What subscribers that pull have under way.
    pub(crate) limits: Limits,
    /// One sink is compared at a time: memory is meant for one.
    comparing: Mutex<()>,
}

#[derive(Debug)]
pub(crate) struct State {
    directory: Arc<Directory>,
    /// Problems of a changed directory that was refused.
    refused: Option<String>,
    parts: BTreeMap<OwnerId, Part>,
    /// Where the HTTP listener really is.
    listen: String,
}

impl Node {
    /// Opens the log, serves, and starts every part of `roles` that this node holds.
    ///
    /// # Errors
    /// When the log or a listener cannot be had; nothing is left running then.
    pub async fn start(directory: Directory, roles: Vec<Role>) -> Result<Self, Failure> {
        let metrics = prometheus::Registry::new();
        let unregistered = |error: prometheus::Error| Failure::unreachable(format!("metrics: {error}"));
        let of_log = guitong_log::metrics::Metrics::register(&metrics).map_err(unregistered)?;
        let stages = Stages::register(&metrics, roles.clone()).map_err(unregistered)?;
        let limits = Limits::register(&metrics).map_err(unregistered)?;
        let opened = Opened::open(&directory, &roles, of_log).await?;
        let root = directory.root.clone();
        let listen = directory.exchange.listen;
        let directory = Arc::new(directory);
        let state = State { directory, refused: None, parts: BTreeMap::new(), listen: listen.to_string() };
        let (started, state, comparing) = (Instant::now(), RwLock::new(state), Mutex::default());
        let shared = Arc::new(Shared { started, opened, metrics, stages, state, limits, comparing });

        let shutdown = CancellationToken::new();
        let (address, public) = http::serve(listen, http::public(Arc::clone(&shared)), shutdown.clone()).await?;
        shared.state.write().await.listen = address.to_string();
        let commands = control::serve(&root, http::control(Arc::clone(&shared)), shutdown.clone())?;
        shared.apply().await;
        tracing::info!(exchange = %shared.state.read().await.directory.exchange.name, %address, "running");
        let supervisor = tokio::spawn(reload::supervise(Arc::clone(&shared), shutdown.clone()));
        Ok(Self { shared, shutdown, supervisor, servers: vec![public, commands] })
    }

    /// Finishes batches and stops; parts that take longer than `patience` are dropped, which loses nothing.
    ///
    /// # Errors
    /// When a part had to be dropped.
    pub async fn stop(self, patience: Duration) -> Result<(), Failure> {
        let deadline = tokio::time::Instant::now() + patience;
        self.shutdown.cancel();
        // The supervisor ends at its next await; it must not start parts behind our back.
        let _ = self.supervisor.await;
        let late = self.shared.stop_parts(deadline).await;
        for server in self.servers {
            // A client that keeps its connection open does not hold the node.
            let _ = tokio::time::timeout_at(deadline, server).await;
        }
        self.shared.opened.close().await;
        if late.is_empty() {
            tracing::info!("stopped");
            return Ok(());
        }
        Err(Failure::unreachable(format!("{} did not finish in time and will do its last batch again", late.join(", "))))
    }

    /// What the node says of itself.
    pub async fn status(&self) -> Status {
        self.shared.status().await
    }

    /// Address of the HTTP listener.
    pub async fn address(&self) -> String {
        self.shared.state.read().await.listen.clone()
    }

    /// Records in quarantine by reason: rule, Chinese, English, count.
    ///
    /// # Errors
    /// When a normaliser does not answer.
    pub async fn rejections(&self) -> Result<Vec<(String, String, String, u64)>, Failure> {
        self.shared.rejections().await
    }
}

impl Shared {
    pub(crate) async fn status(&self) -> Status {
        let state = self.state.read().await;
        let exchange = &state.directory.exchange;
        let kind = match &self.opened.kind {
            Kind::Embedded { .. } => "embedded",
            Kind::Kafka(_) => "Kafka",
        };
        let log = LogStatus {
            kind: kind.to_owned(),
            id: self.opened.log.id().to_string(),
            // Without it the status says nothing of the size, and everything else.
            bytes: self.opened.log.size().await.ok().flatten(),
        };
        let mut status = Status {
            exchange: exchange.name.to_string(),
            listen: state.listen.clone(),
            revision: state.directory.revision.to_string(),
            refused_change: state.refused.clone(),
            log,
            uptime_seconds: self.started.elapsed().as_secs(),
            ..Status::default()
        };
        for part in state.parts.values() {
            part.report(&mut status);
        }
        status
    }

    /// The built-in registry's HTTP API, where there is one.
    pub(crate) fn registry_api(&self) -> Option<axum::Router> {
        match &self.opened.kind {
            Kind::Embedded { builtin: Some(builtin), .. } => Some(guitong_log::registry::http::router(builtin.clone())),
            _ => None,
        }
    }

    /// Brings the running parts in line with the directory in force and with what this node holds. Called by one task at a time.
    pub(crate) async fn apply(&self) {
        let placement = self.opened.log.placement().borrow().clone();
        let mut state = self.state.write().await;
        let directory = Arc::clone(&state.directory);
        self.stages.follow(&directory);
        let wanted: BTreeMap<OwnerId, Config> = self.stages.wanted(&directory, &placement);
        let gone = state.parts.extract_if(.., |owner, part| wanted.get(owner) != Some(part.config()));
        let gone: BTreeMap<OwnerId, Part> = gone.collect();
        // Whoever asks for the status does not wait for the last batches of what is stopping.
        drop(state);
        for late in stop(gone, tokio::time::Instant::now() + DRAIN).await {
            tracing::warn!(part = late, "did not finish in time and will do its last batch again");
        }
        let mut state = self.state.write().await;
        for (owner, config) in wanted {
            state.parts.entry(owner).or_insert_with(|| self.stages.start(&directory, &self.opened, config));
        }
    }

    /// Names of parts that did not end before `deadline`.
    async fn stop_parts(&self, deadline: tokio::time::Instant) -> Vec<String> {
        let parts = std::mem::take(&mut self.state.write().await.parts);
        stop(parts, deadline).await
    }
}

/// Lets the parts finish their batches together; those that have not by `deadline` are dropped, which loses nothing, and named.
async fn stop(parts: BTreeMap<OwnerId, Part>, deadline: tokio::time::Instant) -> Vec<String> {
    for part in parts.values() {
        part.cancel();
    }
    let mut late = Vec::new();
    for (owner, part) in parts {
        if !part.finish(deadline).await {
            late.push(owner.to_string());
        }
    }
    late
}

/// Retention and compaction of the log, now and then.
async fn maintain(opened: &Opened) {
    if let Err(error) = opened.log.maintain(jiff::Timestamp::now().as_millisecond()).await {
        tracing::warn!(%error, "retention did not run");
    }
}

/// The directory's root, for messages.
fn shown(root: &Path) -> String {
    root.display().to_string()
}
