//! What every source does: yield changes in order, say where it stands, and forget upstream only what is durable.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use guitong_schemas::change::{Change, Notice};
use guitong_schemas::table::{Table, TableName};
use thiserror::Error;

/// Changes in the order of their versions, with the position that stands after them.
#[derive(Debug, Default)]
pub struct SourceBatch {
    pub changes: Vec<Change>,
    /// Committed with the changes; their topics are others, so that their order among the changes does not matter.
    pub notices: Vec<Notice>,
    /// Tables, `schema.name`, that are read to their end with this batch; at a start those that were before.
    pub loaded: Vec<String>,
    /// Stored in the same commit as the changes; handed to the source again when it resumes.
    pub position: Option<Bytes>,
}

/// How much one batch may hold, and how long to wait for its first change.
#[derive(Debug, Clone, Copy)]
pub struct SourceBudget {
    pub bytes: usize,
    pub wait: Duration,
}

/// How much of a table a sample may hold.
#[derive(Debug, Clone, Copy)]
pub struct SampleBudget {
    pub rows: usize,
    /// Of the rows; the one that goes beyond it is the last.
    pub bytes: usize,
}

/// Of a table only the rows are wanted in which a column has one of these values, written as text and without spaces around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub column: String,
    pub values: Vec<String>,
}

/// The first column that is wanted and that the table does not have.
pub(crate) fn missing<'w>(table: &Table, wanted: &'w [Wanted]) -> Option<&'w str> {
    let is_there = |name: &str| table.columns.iter().any(|column| column.name == name);
    wanted.iter().map(|wanted| wanted.column.as_str()).find(|name| !is_there(name))
}

/// Proof that everything up to `position` is durable in the log. Only [`crate::publish`] makes one, and only from a commit.
#[derive(Debug)]
pub struct Durable {
    position: Bytes,
}

impl Durable {
    /// Called by `publish` alone, with what the log committed.
    pub(crate) fn from_commit(_proof: &guitong_log::Committed, position: Bytes) -> Self {
        Self { position }
    }

    #[must_use]
    pub fn position(&self) -> &Bytes {
        &self.position
    }
}

/// A department database that is being tailed.
#[async_trait]
pub trait Source: fmt::Debug + Send {
    /// The next changes. A batch closes at a commit or at the byte budget; an empty one means that nothing came in
    /// `budget.wait`, and may still carry a position that moved on. Feedback to the server goes on however long the caller takes.
    async fn next_batch(&mut self, budget: SourceBudget) -> Result<SourceBatch, SourceError>;

    /// The source may forget everything up to this position.
    async fn confirm(&mut self, durable: Durable) -> Result<(), SourceError>;

    /// Does what an operator says about the reading of tables. What is answered holds once the next position is durable.
    async fn command(&mut self, _command: SnapshotCommand) -> Result<String, Refused> {
        Err(Refused("tables of this kind of system cannot be read again while it runs".to_owned()))
    }

    /// What an operator sees of it.
    fn status(&self) -> SourceStatus;
}

/// What an operator can say about the reading of tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotCommand {
    /// Read a table again, or for the first time where it was added; with a condition only rows that meet it.
    Read {
        table: TableName,
        filter: Option<String>,
    },
    /// Read nothing until `Resume`, also after a restart.
    Pause,
    Resume,
    /// Leave unread what is not read, of one table or of all.
    Cancel {
        table: Option<TableName>,
    },
}

/// Why a command is not carried out, and what to do about it.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// What the department's server keeps because of a source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Bytes of its log.
    pub retained_bytes: Option<u64>,
    /// How many more it may write before it removes changes that were not read, where that is near; 0 once it has removed them.
    pub left_bytes: Option<u64>,
}

/// Looks at what the server keeps. It does so beside the source and not within it: most is kept while nothing is read.
#[async_trait]
pub trait Watch: fmt::Debug + Send + Sync {
    /// Asks again and again until it is dropped, and tells every answer.
    async fn run(&self, tell: &(dyn Fn(Kept) + Send + Sync));
}

/// State of a source, for `guitong status` and metrics.
#[derive(Debug, Clone, Default)]
pub struct SourceStatus {
    pub phase: Phase,
    /// Commit time of the newest change handed out, microseconds since 1970-01-01T00:00:00Z.
    pub newest_commit_us: Option<i64>,
    /// Bytes between the server's end of log and what was handed out.
    pub behind_bytes: Option<u64>,
    pub tables: Vec<String>,
    /// Tables that are being read, or are to be.
    pub snapshot: Option<SnapshotStatus>,
}

/// How far the reading of tables is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SnapshotStatus {
    /// Rows read since this system was first read.
    pub rows_done: u64,
    /// Rows left, as the server estimates them.
    pub rows_left: u64,
    /// Of late.
    pub rows_per_second: Option<f64>,
    /// Tables that are not read to their end.
    pub tables: Vec<String>,
    /// Why nothing is read now.
    pub hold: Option<String>,
    /// What the department allows, in words.
    pub limits: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub enum Phase {
    #[default]
    Starting,
    Snapshot {
        rows_done: u64,
        rows_estimated: Option<u64>,
    },
    Streaming,
}

/// Why a source cannot go on, and what to do about it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Goes away by itself or is worth another try: the connector reconnects with backoff.
    #[error("{system}: {detail}")]
    Unavailable { system: String, detail: String },
    /// A person has to change something in the department's database or in the configuration.
    #[error("{system}: {detail}\n  help: {help}")]
    Setup { system: String, detail: String, help: String },
    /// Changes may be missing. Never repaired silently.
    #[error("{system}: {detail}\n  repair: {repair}")]
    Gap { system: String, detail: String, repair: String },
    /// The server sent something that this version does not understand.
    #[error("{system}: {detail}")]
    Protocol { system: String, detail: String },
}

impl SourceError {
    /// Changes of the system are missing.
    pub(crate) fn gap(system: &str, detail: impl Into<String>) -> Self {
        let repair = format!(
            "run `guitong system repair {system}`: every table is read again under a new epoch (on_gap = \"resnapshot\" in \
             systems/{system}.toml does so by itself)"
        );
        Self::Gap { system: system.to_owned(), detail: detail.into(), repair }
    }

    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}
