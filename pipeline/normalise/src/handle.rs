//! How the rest of the node speaks with a running normaliser: its status, its quarantine, a new version of its resource.
//!
//! The owner is fenced, so everything that reads or writes its state runs inside the stage, between two batches.

use std::collections::BTreeMap;
use std::sync::Arc;

use guitong_schemas::contract::Resource;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use crate::drift::ColumnChange;
use crate::mapping::MappingError;
use crate::quality::QualityReport;
use crate::quarantine::{DropReport, Filter, QuarantineItem, QuarantineList, Surrender};
use crate::rebuild::{RebuildReport, RebuildStatus};

/// Requests that may wait for the stage.
const WAITING: usize = 16;

/// What an operator sees of one resource.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct NormaliserStatus {
    pub phase: Phase,
    /// Row changes read since the resource exists.
    pub received: u64,
    /// Entity records that stand in `std.`.
    pub entities: u64,
    /// Rows whose newest version is in quarantine while an older one stands.
    pub held_back: u64,
    /// Open quarantine entries.
    pub quarantined: u64,
    /// When the oldest of them was quarantined, microseconds since 1970-01-01T00:00:00Z.
    pub oldest_quarantine_us: Option<i64>,
    /// Commit time of the newest change that was normalised, microseconds since 1970-01-01T00:00:00Z.
    pub newest_source_us: Option<i64>,
    /// Seconds between that time and its commit here; zero once everything is read.
    pub lag_seconds: f64,
    /// Raw records not yet read.
    pub lag_records: u64,
    /// Next offset of the raw topic to be read; everything before it is committed.
    pub offset: u64,
    /// The same of the topics of joined tables.
    pub joined: BTreeMap<String, u64>,
    /// Rows are being made again since what is joined to them changed.
    pub refreshing: bool,
    /// How far the resource is made again, where it is.
    pub rebuild: Option<RebuildStatus>,
    /// What its last rebuild came to.
    pub rebuilt: Option<RebuildReport>,
    /// Records of several rows that stayed as they were when those rows were read last: the log held none of them any more.
    pub kept: u64,
    /// Version under which the newest records were published.
    pub version: String,
    /// Columns that the mapping reads and that the table no longer has so.
    pub changes: Vec<ColumnChange>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "reason")]
pub enum Phase {
    #[default]
    Starting,
    /// The raw topic does not exist yet.
    WaitingForTopic,
    /// The first load of these joined tables is not done.
    WaitingForTables(String),
    /// Joined tables are read before anything else.
    Loading,
    Running,
    /// The mapping does not fit the source's columns, or too many rows are rejected: waits for a new mapping, or a word.
    Paused(String),
    /// The log or the registry is not reachable: tries again.
    Retrying(String),
    Stopped,
}

/// What a replay came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayReport {
    /// Open entries that were run again.
    pub tried: u64,
    /// Now good, and released.
    pub released: u64,
    /// Still break a rule; their reasons are the new ones.
    pub kept: u64,
}

#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HandleError {
    #[error("the resource's normaliser has stopped")]
    Stopped,
    #[error("the resource's normaliser cannot answer now: {0}")]
    Unavailable(String),
    #[error("a replay of this resource is under way")]
    Busy,
    #[error("a rebuild of this resource is under way: {0}")]
    Rebuilding(String),
    #[error("several rows make one record of this resource: raise `revision` in its file, and all of its records are made again")]
    Grouped,
    #[error(transparent)]
    Mapping(#[from] MappingError),
}

type Reply<T> = oneshot::Sender<Result<T, HandleError>>;

#[derive(Debug)]
pub(crate) enum Command {
    List { filter: Filter, after: Option<String>, limit: usize, reply: Reply<QuarantineList> },
    Show { id: String, reply: Reply<Option<QuarantineItem>> },
    Replay { filter: Filter, reply: Reply<ReplayReport> },
    Drop { filter: Filter, surrender: Surrender, reply: Reply<DropReport> },
    Resume { reply: Reply<bool> },
    Rebuild { reply: Reply<u32> },
    Quality { days: (i32, i32), reply: Reply<QualityReport> },
    Reload { resource: Arc<Resource>, reply: Reply<()> },
}

impl Command {
    /// Answers that the stage cannot now.
    pub(crate) fn refuse(self, why: &str) {
        let unavailable = || HandleError::Unavailable(why.to_owned());
        // Who asked may have gone.
        match self {
            Self::List { reply, .. } => drop(reply.send(Err(unavailable()))),
            Self::Show { reply, .. } => drop(reply.send(Err(unavailable()))),
            Self::Replay { reply, .. } => drop(reply.send(Err(unavailable()))),
            Self::Drop { reply, .. } => drop(reply.send(Err(unavailable()))),
            Self::Resume { reply } => drop(reply.send(Err(unavailable()))),
            Self::Rebuild { reply } => drop(reply.send(Err(unavailable()))),
            Self::Quality { reply, .. } => drop(reply.send(Err(unavailable()))),
            Self::Reload { reply, .. } => drop(reply.send(Err(unavailable()))),
        }
    }
}

/// Speaks with one running normaliser; cheap to clone.
#[derive(Debug, Clone)]
pub struct NormaliserHandle {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<NormaliserStatus>,
}

pub(crate) fn channel() -> (NormaliserHandle, mpsc::Receiver<Command>, watch::Sender<NormaliserStatus>) {
    let (commands, inbox) = mpsc::channel(WAITING);
    let (publish, status) = watch::channel(NormaliserStatus::default());
    (NormaliserHandle { commands, status }, inbox, publish)
}

impl NormaliserHandle {
    /// Follows the stage's status.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<NormaliserStatus> {
        self.status.clone()
    }

    /// At most `limit` open entries that `filter` means after the entry `after`, oldest first.
    ///
    /// # Errors
    /// [`HandleError`] where the stage has stopped or the log cannot be read.
    pub async fn list(&self, filter: Filter, after: Option<String>, limit: usize) -> Result<QuarantineList, HandleError> {
        self.ask(|reply| Command::List { filter, after, limit, reply }).await
    }

    /// One open entry.
    ///
    /// # Errors
    /// As [`NormaliserHandle::list`].
    pub async fn show(&self, id: String) -> Result<Option<QuarantineItem>, HandleError> {
        self.ask(|reply| Command::Show { id, reply }).await
    }

    /// Runs the open entries that `filter` means through the current mapping again, in the order of each row's versions.
    /// What is good now is published unless the row has a newer good version; the rest stays with its new reasons.
    ///
    /// # Errors
    /// As [`NormaliserHandle::list`], and [`HandleError::Busy`].
    pub async fn replay(&self, filter: Filter) -> Result<ReplayReport, HandleError> {
        self.ask(|reply| Command::Replay { filter, reply }).await
    }

    /// Gives up the open entries that `filter` means. Each leaves an audit entry in the same commit; its event stays in the raw log, and
    /// the last good version of its row, if there is one, with the subscribers.
    ///
    /// # Errors
    /// As [`NormaliserHandle::list`], and [`HandleError::Busy`].
    pub async fn surrender(&self, filter: Filter, surrender: Surrender) -> Result<DropReport, HandleError> {
        self.ask(|reply| Command::Drop { filter, surrender, reply }).await
    }

    /// Lets a resource that paused since too many rows were rejected go on; whether it was paused so.
    ///
    /// # Errors
    /// As [`NormaliserHandle::list`].
    pub async fn resume(&self) -> Result<bool, HandleError> {
        self.ask(|reply| Command::Resume { reply }).await
    }

    /// Makes every record again from the raw log, by the mapping in force, while the resource goes on; the status tells how far it is.
    /// Gives the mapping revision under which it is made.
    ///
    /// # Errors
    /// As [`NormaliserHandle::list`], [`HandleError::Busy`], and [`HandleError::Rebuilding`].
    pub async fn rebuild(&self) -> Result<u32, HandleError> {
        self.ask(|reply| Command::Rebuild { reply }).await
    }

    /// The figures of the days `from` to `to`, days since 1970-01-01 on the exchange's clock.
    ///
    /// # Errors
    /// As [`NormaliserHandle::list`].
    pub async fn quality(&self, from: i32, to: i32) -> Result<QualityReport, HandleError> {
        self.ask(|reply| Command::Quality { days: (from, to), reply }).await
    }

    /// Takes a changed resource from the next batch on. A higher revision reads the raw topic again from its beginning.
    ///
    /// # Errors
    /// [`HandleError::Mapping`] where the mapping does not compile: the old one stays.
    pub async fn reload(&self, resource: Arc<Resource>) -> Result<(), HandleError> {
        self.ask(|reply| Command::Reload { resource, reply }).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, HandleError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| HandleError::Stopped)?;
        answer.await.map_err(|_| HandleError::Stopped)?
    }
}
