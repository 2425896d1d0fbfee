//! Connections by sink address: subscriptions that deliver to one database share a few, leased batch by batch.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use guitong_log::kafka::Outlets;
use guitong_schemas::contract::{KafkaCluster, Secret};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, Executor as _, MySqlPool, PgPool, SqlitePool};
use tokio::sync::Semaphore;

use crate::pull::OutboxFile;
use crate::runner::Room;
use crate::runner::decode::Plans;
use crate::shared::SharedReads;
use crate::sink::{SinkError, SinkErrorKind};
use crate::sql::holders::known::Known;
use crate::sql::sqlite::SqliteFile;
use crate::webhook::Endpoints;

/// Connections to one database of a server.
const PER_SERVER: u32 = 4;
/// How long a lease or a new connection may take; beyond it the sink counts as unreachable.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections that nobody leased for so long are closed.
const IDLE: Duration = Duration::from_secs(120);

/// Settings of a PostgreSQL connection. A lock that a subscriber holds is a fault of the sink, not a reason to hang. Notices of
/// tables that exist already are of no use. A batch finds its rows by the key's index: a plan made while the table was small
/// must not scan it once it is large; planning against the disabled ways looks expensive, which must not start the compiler.
const SESSION: &str = "SET lock_timeout = '10s'; SET client_min_messages = 'warning'; SET jit = off;
    SET default_transaction_isolation = 'read committed';
    SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off";

/// Settings of a MariaDB or MySQL connection. Names are quoted as in the standard, a value that does not fit is an error and is never
/// cut, a backslash is a backslash, a lock that a subscriber holds is a fault of the sink. Rows that others write meanwhile lock no
/// more than themselves.
const MYSQL_SESSION: &str = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED;
    SET SESSION sql_mode = 'ANSI_QUOTES,STRICT_ALL_TABLES,NO_BACKSLASH_ESCAPES,NO_ENGINE_SUBSTITUTION,NO_ZERO_DATE,NO_ZERO_IN_DATE',
        innodb_lock_wait_timeout = 10, lock_wait_timeout = 10, sql_notes = 0";
/// The clock of columns that hold an instant without saying of which.
const CLOCK: &str = "+08:00";

/// Connections that read outboxes.
const READERS: u32 = 4;

/// One for the node; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Pools {
    inner: Arc<Inner>,
}

/// Connections to one database of a PostgreSQL server.
#[derive(Debug, Clone)]
pub(crate) struct PostgresServer {
    pub(crate) pool: PgPool,
    /// For whoever holds a second connection while it has another. It is one: were there more, subscriptions that stand still could
    /// hold all connections between two of them.
    pub(crate) staging: Arc<Semaphore>,
}

impl PostgresServer {
    /// Whether a connection is to be had without waiting for somebody.
    pub(crate) fn has_room(pool: &PgPool) -> bool {
        pool.num_idle() > 0 || pool.size() < PER_SERVER
    }
}

#[derive(Default)]
struct Inner {
    postgres: Mutex<HashMap<String, PostgresServer>>,
    mysql: Mutex<HashMap<String, MySqlPool>>,
    sqlite: Mutex<HashMap<PathBuf, Arc<SqliteFile>>>,
    outboxes: Mutex<HashMap<PathBuf, Arc<OutboxFile>>>,
    endpoints: Endpoints,
    kafka: Mutex<Vec<(KafkaCluster, Outlets)>>,
    known: Arc<Known>,
    plans: Arc<Plans>,
    room: Room,
    reads: SharedReads,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Addresses hold passwords.
        f.write_str("Pools")
    }
}

impl Pools {
    pub(crate) fn postgres(&self, url: &Secret) -> Result<PostgresServer, SinkError> {
        let mut servers = self.inner.postgres.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = servers.get(url.reveal()) {
            return Ok(server.clone());
        }
        let options = PgConnectOptions::from_str(url.reveal())
            .map_err(|_| SinkError::new(SinkErrorKind::Shape, "the sink's `url` is no PostgreSQL address"))?
            .application_name("guitong");
        let pool = PgPoolOptions::new()
            .max_connections(PER_SERVER)
            .acquire_timeout(PATIENCE)
            .idle_timeout(IDLE)
            // A lease is one batch: the batch itself finds out, and is tried again.
            .test_before_acquire(false)
            .after_connect(|connection, _| Box::pin(async move { connection.execute(SESSION).await.map(|_| ()) }))
            .connect_lazy_with(options);
        let server = PostgresServer { pool, staging: Arc::new(Semaphore::new(1)) };
        servers.insert(url.reveal().to_owned(), server.clone());
        Ok(server)
    }

    pub(crate) fn mysql(&self, url: &Secret) -> Result<MySqlPool, SinkError> {
        let mut pools = self.inner.mysql.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(url.reveal()) {
            return Ok(pool.clone());
        }
        let options = MySqlConnectOptions::from_str(url.reveal())
            .map_err(|_| SinkError::new(SinkErrorKind::Shape, "the sink's `url` is no MariaDB or MySQL address"))?
            .timezone(CLOCK.to_owned());
        let pool = MySqlPoolOptions::new()
            .max_connections(PER_SERVER)
            .acquire_timeout(PATIENCE)
            .idle_timeout(IDLE)
            .test_before_acquire(false)
            .after_connect(|connection, _| Box::pin(async move { connection.execute(MYSQL_SESSION).await.map(|_| ()) }))
            .connect_lazy_with(options);
        pools.insert(url.reveal().to_owned(), pool.clone());
        Ok(pool)
    }

    pub(crate) fn known(&self) -> Arc<Known> {
        Arc::clone(&self.inner.known)
    }

    pub(crate) fn plans(&self) -> Arc<Plans> {
        Arc::clone(&self.inner.plans)
    }

    pub(crate) fn room(&self) -> Room {
        self.inner.room.clone()
    }

    pub(crate) fn reads(&self) -> SharedReads {
        self.inner.reads.clone()
    }

    pub(crate) fn endpoints(&self) -> &Endpoints {
        &self.inner.endpoints
    }

    /// What asks and reads; whoever writes has a producer of its own.
    pub(crate) fn kafka(&self, cluster: &KafkaCluster) -> Result<Outlets, SinkError> {
        let mut clusters = self.inner.kafka.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, outlets)) = clusters.iter().find(|(known, _)| known == cluster) {
            return Ok(outlets.clone());
        }
        let outlets = Outlets::new(cluster).map_err(|error| SinkError::new(SinkErrorKind::Shape, error.to_string()))?;
        clusters.push((cluster.clone(), outlets.clone()));
        Ok(outlets)
    }

    /// One connection: SQLite has one writer, and subscriptions that share a file take turns here instead of meeting its lock.
    pub(crate) fn sqlite(&self, path: &Path) -> Arc<SqliteFile> {
        let mut pools = self.inner.sqlite.lock().unwrap_or_else(PoisonError::into_inner);
        let file = pools.entry(path.to_owned()).or_insert_with(|| {
            let options = sqlite_file(path);
            // A file that exists keeps its journal mode: it is the subscriber's.
            let options = if path.exists() { options } else { options.journal_mode(SqliteJournalMode::Wal) };
            Arc::new(SqliteFile::new(sqlite_pool(1, options)))
        });
        Arc::clone(file)
    }

    /// The outboxes at `path`: one connection that writes as of every SQLite file, and some that read beside it.
    #[must_use]
    pub fn outbox(&self, path: &Path) -> Arc<OutboxFile> {
        let mut files = self.inner.outboxes.lock().unwrap_or_else(PoisonError::into_inner);
        let file = files.entry(path.to_owned()).or_insert_with(|| {
            let options = sqlite_file(path).journal_mode(SqliteJournalMode::Wal);
            let readers = sqlite_pool(READERS, options.clone().pragma("query_only", "ON"));
            Arc::new(OutboxFile::new(path, SqliteFile::new(sqlite_pool(1, options)), readers))
        });
        Arc::clone(file)
    }
}

fn sqlite_file(path: &Path) -> SqliteConnectOptions {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    options.busy_timeout(PATIENCE).synchronous(SqliteSynchronous::Full)
}

fn sqlite_pool(connections: u32, options: SqliteConnectOptions) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(4 * PATIENCE)
        .idle_timeout(IDLE)
        // A round trip to SQLite's thread for nothing: it has no connection to lose.
        .test_before_acquire(false)
        // A disk that is full ends a transaction by itself. The client library counts it on, and would begin no other ever after.
        .before_acquire(|connection, _| {
            let whole = !connection.is_in_transaction();
            Box::pin(std::future::ready(Ok(whole)))
        })
        .connect_lazy_with(options)
}
