//! The file of all outboxes of one exchange.

use std::collections::HashMap;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use guitong_schemas::contract::Exchange;
use guitong_schemas::contract::LogConfig;
use sqlx::SqlitePool;
use tokio::sync::{OnceCell, watch};

use crate::sink::{SinkError, SinkErrorKind};
use crate::sql::sqlite::{SqliteFile, sink_error};

/// `whole`: everything granted was met once since the grant is what it is. `first`: position of the first change under it.
/// `acknowledged`: position up to which the subscriber has said that it needs nothing again.
const TABLES: &str = "
CREATE TABLE IF NOT EXISTS guitong_outboxes (
    subscription TEXT PRIMARY KEY, whole INTEGER NOT NULL, first INTEGER NOT NULL, acknowledged INTEGER);
CREATE TABLE IF NOT EXISTS guitong_terms (
    id INTEGER PRIMARY KEY AUTOINCREMENT, subscription TEXT NOT NULL, term TEXT NOT NULL, first INTEGER NOT NULL,
    UNIQUE (subscription, term));
CREATE TABLE IF NOT EXISTS guitong_tokens (
    subscription TEXT PRIMARY KEY, holder TEXT NOT NULL, hash BLOB NOT NULL, expires_us INTEGER NOT NULL);
";

/// One for an exchange; its subscriptions' outboxes and the hashes of their tokens.
#[derive(Debug)]
pub struct OutboxFile {
    path: PathBuf,
    pub(crate) writer: Arc<SqliteFile>,
    pub(super) readers: SqlitePool,
    made: OnceCell<()>,
    bells: Mutex<HashMap<Arc<str>, watch::Sender<()>>>,
}

impl OutboxFile {
    /// `writer` and `readers` open `path` once something is asked of them.
    pub(crate) fn new(path: &Path, writer: SqliteFile, readers: SqlitePool) -> Self {
        Self { path: path.to_owned(), writer: Arc::new(writer), readers, made: OnceCell::new(), bells: Mutex::default() }
    }

    /// Where it lies: beside the embedded log. `None` with Kafka, where nothing is pulled.
    #[must_use]
    pub fn path_of(exchange: &Exchange) -> Option<PathBuf> {
        match &exchange.log {
            LogConfig::Embedded { path } => Some(path.with_extension("outbox.db")),
            LogConfig::Kafka(_) => None,
        }
    }

    /// Whether any subscription was ever pulled or given a token.
    pub(super) fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Makes file and tables where there are none. Only the node's user may read them.
    pub(crate) async fn make(&self) -> Result<(), SinkError> {
        let make = async || {
            let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path);
            file.map_err(|error| SinkError::new(SinkErrorKind::Denied, format!("{}: {error}", self.path.display())))?;
            sqlx::raw_sql(TABLES).execute(&self.writer.pool).await.map(drop).map_err(sink_error)
        };
        self.made.get_or_try_init(make).await.map(drop)
    }

    /// Rings whenever the subscription's outbox has changed.
    pub(super) fn bell(&self, subscription: &Arc<str>) -> watch::Sender<()> {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        bells.entry(Arc::clone(subscription)).or_insert_with(|| watch::Sender::new(())).clone()
    }
}
