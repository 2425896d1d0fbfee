//! The log's file: who may open it, what it must be, and how it is made.
//!
//! One process at a time has the log. The operating system holds that lock on a file beside it and lets it go when the process
//! dies; a lock on the SQLite file itself would end with the first descriptor that SQLite closes. The file names itself
//! (`application_id`), its format (`user_version`) and itself for good (the log's id); a file of something else and one of a newer
//! format are refused before anything is written into them.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::RngCore;
use sqlx::sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection, SqlitePool};

use super::fault::Fault;
use crate::contract::{LogError, LogId};

/// `GTLG`, in the file's header.
const APPLICATION_ID: i64 = 0x4754_4C47;
/// The file's format. An older file is upgraded when it is opened; there is none yet.
const FORMAT: u32 = 1;
/// Pages of 4 KiB: a small commit and a changed entry of keyed state do not write much more than they must.
const PAGE: u32 = 4 << 10;
/// Page cache of the writer, in KiB: the inner pages of the keyed state stay in it.
const WRITER_CACHE: u32 = 6 << 10;
/// Bytes of the write-ahead log beyond which the writer waits for its readers, so that it begins again at the front.
pub(crate) const WAL_BYTES: u64 = 64 << 20;
/// Pages of the write-ahead log after which SQLite copies it into the file: 16 MiB, so that a page which changes with every commit is
/// copied once for many of them.
const CHECKPOINT: u32 = (16 << 20) / PAGE;
const READER_CACHE: u32 = 1 << 10;
/// Reads at one time; more wait. Each costs a thread and its page cache.
const READERS: u32 = 4;

const SCHEMA: &str = "
    CREATE TABLE log (one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL);
    CREATE TABLE topic (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, compact INTEGER NOT NULL, age_ms INTEGER, extra INTEGER);
    CREATE TABLE partition (
        id INTEGER PRIMARY KEY, topic INTEGER NOT NULL, number INTEGER NOT NULL, earliest INTEGER NOT NULL, next INTEGER NOT NULL,
        bytes INTEGER NOT NULL, high_ms INTEGER NOT NULL, cleaned INTEGER NOT NULL,
        clean_bytes INTEGER NOT NULL, tombstone_ms INTEGER);
    CREATE TABLE block (id INTEGER PRIMARY KEY, bytes INTEGER NOT NULL, max_ms INTEGER NOT NULL, high_ms INTEGER NOT NULL, data BLOB NOT NULL);
    CREATE TABLE position (owner TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE consumed (owner TEXT NOT NULL, partition INTEGER NOT NULL, next INTEGER NOT NULL, PRIMARY KEY (owner, partition)) WITHOUT ROWID;
    CREATE TABLE map (id INTEGER PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, UNIQUE (owner, name));
    CREATE TABLE state (map INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (map, key)) WITHOUT ROWID;
    CREATE TABLE state_run (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
    CREATE TABLE schema_text (id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, text TEXT NOT NULL);
    CREATE TABLE schema_version (
        subject TEXT NOT NULL, version INTEGER NOT NULL, schema INTEGER NOT NULL, deleted INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (subject, version)) WITHOUT ROWID;
    CREATE TABLE schema_config (subject TEXT PRIMARY KEY, compatibility TEXT NOT NULL) WITHOUT ROWID;
";

/// The right to use a log's file; ends with the value or the process.
#[derive(Debug)]
pub(crate) struct FileLock {
    _file: File,
}

impl FileLock {
    /// # Errors
    /// [`LogError::Locked`] where another holder has it.
    pub(crate) fn take(log: &Path) -> Result<Self, LogError> {
        let side = beside(log, "lock");
        let io = |error: std::io::Error| io_error(&side, &error);
        let file = File::options().create(true).truncate(false).write(true).open(&side).map_err(io)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LogError::Locked { path: log.display().to_string() }),
            Err(TryLockError::Error(error)) => Err(io(error)),
        }
    }
}

/// `<path>.<what>`.
pub(crate) fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}

pub(crate) fn io_error(path: &Path, error: &std::io::Error) -> LogError {
    let text = path.display().to_string();
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            LogError::DiskFull { path: text, detail: error.to_string() }
        }
        _ => LogError::Other(format!("{text}: {error}")),
    }
}

/// How the file is reached once it was checked.
#[derive(Debug, Clone)]
pub(crate) struct LogFile {
    pub(crate) path: PathBuf,
    /// Pages the file may have.
    max_pages: Option<u64>,
}

impl LogFile {
    pub(crate) fn new(path: &Path, max_bytes: Option<u64>) -> Self {
        Self { path: path.to_owned(), max_pages: max_bytes.map(|bytes| (bytes / u64::from(PAGE)).max(1)) }
    }

    /// The write-ahead log beside the file.
    pub(crate) fn wal(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push("-wal");
        name.into()
    }

    pub(crate) fn error(&self, error: sqlx::Error) -> LogError {
        Fault::from(error).error(&self.path)
    }

    /// The file as it is, with no wish about it.
    pub(crate) fn options(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new().filename(&self.path).foreign_keys(false).disable_statement_logging()
    }

    /// Makes the file where there is none, checks it where there is one, and gives the log's id with the writer's connection.
    pub(crate) async fn prepare(&self) -> Result<(LogId, SqliteConnection), LogError> {
        let there = std::fs::metadata(&self.path).is_ok_and(|meta| meta.len() > 0);
        let mut conn = if there { self.prepared_writer().await? } else { self.writer().await? };
        if check(&mut conn, &self.path).await? {
            let id = new_id();
            fill(&mut conn, &id).await.map_err(|error| self.error(error))?;
            return Ok((id, conn));
        }
        let id: String =
            sqlx::query_scalar("SELECT id FROM log").fetch_one(&mut conn).await.map_err(|error| self.error(error))?;
        Ok((LogId(id.into()), conn))
    }

    /// The writer's connection to a file that is a log or empty: SQLite marks a file as soon as it is opened for writing, so that is
    /// looked at first.
    pub(crate) async fn prepared_writer(&self) -> Result<SqliteConnection, LogError> {
        self.look().await?;
        self.writer().await
    }

    /// Whether the file is still to be filled: SQLite knows it and nothing is in it (a first start that was interrupted).
    async fn look(&self) -> Result<bool, LogError> {
        let mut look = self.options().read_only(true).connect().await.map_err(|error| self.error(error))?;
        let found = check(&mut look, &self.path).await;
        look.close().await.map_err(|error| self.error(error))?;
        found
    }

    /// The one connection that writes.
    pub(crate) async fn writer(&self) -> Result<SqliteConnection, LogError> {
        let mut options = self
            .options()
            .create_if_missing(true)
            .page_size(PAGE)
            .auto_vacuum(SqliteAutoVacuum::Incremental)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("cache_size", format!("-{WRITER_CACHE}"))
            .pragma("journal_size_limit", WAL_BYTES.to_string())
            .pragma("wal_autocheckpoint", CHECKPOINT.to_string())
            .statement_cache_capacity(256)
            // Only a reader that keeps the write-ahead log from beginning anew is ever waited for.
            .busy_timeout(Duration::from_millis(500))
            .thread_name(|_| "log-writer".to_owned());
        if let Some(pages) = self.max_pages {
            options = options.pragma("max_page_count", pages.to_string());
        }
        options.connect().await.map_err(|error| self.error(error))
    }

    /// Connections that read what is committed.
    pub(crate) fn readers(&self) -> SqlitePool {
        let options = self
            .options()
            .read_only(true)
            .pragma("cache_size", format!("-{READER_CACHE}"))
            .busy_timeout(Duration::from_secs(10))
            .thread_name(|n| format!("log-reader-{n}"));
        SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(Duration::from_secs(60))
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_lazy_with(options)
    }
}

/// Whether the file is an empty database.
///
/// # Errors
/// [`LogError::Foreign`], [`LogError::Newer`].
pub(crate) async fn check(conn: &mut SqliteConnection, path: &Path) -> Result<bool, LogError> {
    let fault = |error: sqlx::Error| Fault::from(error).error(path);
    let application: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *conn).await.map_err(fault)?;
    let format: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *conn).await.map_err(fault)?;
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *conn).await.map_err(fault)?;
    if application == 0 && format == 0 && tables == 0 {
        return Ok(true);
    }
    let path = path.display().to_string();
    if application != APPLICATION_ID {
        let detail = format!("it is an SQLite database of another program (application id {application})");
        return Err(LogError::Foreign { path, detail });
    }
    match u32::try_from(format) {
        Ok(FORMAT) => Ok(false),
        Ok(found) if found > FORMAT => Err(LogError::Newer { path, found, known: FORMAT }),
        _ => Err(LogError::Foreign { path, detail: format!("it has no known format ({format})") }),
    }
}

async fn fill(conn: &mut SqliteConnection, id: &LogId) -> Result<(), sqlx::Error> {
    let mut tx = conn.begin().await?;
    sqlx::raw_sql(SCHEMA).execute(&mut *tx).await?;
    sqlx::query("INSERT INTO log VALUES (1, ?)").bind(&*id.0).execute(&mut *tx).await?;
    let stamp = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT};");
    sqlx::raw_sql(sqlx::AssertSqlSafe(stamp)).execute(&mut *tx).await?;
    tx.commit().await
}

/// An id that no other log has: 128 random bits.
pub(crate) fn new_id() -> LogId {
    let mut bytes = [0_u8; 16];
    rand::rng().fill_bytes(&mut bytes);
    LogId(hex::encode(bytes).into())
}
