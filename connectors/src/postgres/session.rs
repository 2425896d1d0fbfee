//! The session beside the stream: catalogue, watermarks, snapshots. Made when first needed, and again after a fault.

use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use guitong_schemas::position::Lsn;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Row};

use super::config::{Address, quote_literal};
use super::fault::Faults;
use super::visibility::Visibility;
use crate::source::SourceError;

/// Prefix of the logical messages that are this program's.
pub(crate) const PREFIX: &str = "guitong";

/// Statements that commit a logical message alone. It need not survive a crash or wait for standbys: a watermark that is lost is
/// written again.
pub(crate) fn mark(content: &str) -> String {
    format!(
        "BEGIN; SET LOCAL synchronous_commit = local; SELECT pg_logical_emit_message(true, '{PREFIX}', {}); COMMIT",
        quote_literal(content)
    )
}

#[derive(Debug)]
pub(crate) struct Session {
    address: Address,
    /// Taken while a query runs, so that one that is cancelled or fails does not leave a session in an unknown state.
    idle: Option<PgConnection>,
    pub(crate) faults: Faults,
}

impl Session {
    pub(crate) fn new(address: Address, idle: PgConnection, faults: Faults) -> Self {
        Self { address, idle: Some(idle), faults }
    }

    pub(crate) async fn take(&mut self) -> Result<PgConnection, SourceError> {
        match self.idle.take() {
            Some(connection) => Ok(connection),
            None => self.address.connect(&self.faults).await,
        }
    }

    pub(crate) fn give_back(&mut self, connection: PgConnection) {
        self.idle = Some(connection);
    }

    pub(crate) async fn watermark(&mut self, content: &str) -> Result<(), SourceError> {
        let mut connection = self.take().await?;
        let done = sqlx::raw_sql(AssertSqlSafe(mark(content))).execute(&mut connection).await;
        done.map_err(|error| self.faults.query("writing a watermark", &error))?;
        self.give_back(connection);
        Ok(())
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// What is visible now.
    pub(crate) async fn visibility(&mut self) -> Result<Visibility, SourceError> {
        let mut connection = self.take().await?;
        let text: Result<String, _> = sqlx::query_scalar("SELECT pg_current_snapshot()::text").fetch_one(&mut connection).await;
        let text = text.map_err(|error| self.faults.query("asking for the snapshot", &error))?;
        self.give_back(connection);
        text.parse().map_err(|error: String| self.faults.protocol(error))
    }

    /// A transaction id that is higher than those of all transactions that write so far. (A snapshot's `xmax` is not: a transaction
    /// that is still open can have a higher id.)
    pub(crate) async fn newest_xid(&mut self) -> Result<u64, SourceError> {
        let mut connection = self.take().await?;
        let xid: Result<String, _> = sqlx::query_scalar("SELECT pg_current_xact_id()::text").fetch_one(&mut connection).await;
        let xid = xid.map_err(|error| self.faults.query("asking for a transaction id", &error))?;
        self.give_back(connection);
        xid.parse().map_err(|_| self.faults.protocol(format!("`{xid}` is no transaction id")))
    }

    /// Bytes of log that the server keeps for the slot.
    pub(crate) async fn retained(&mut self, slot: &str) -> Result<Option<u64>, SourceError> {
        let mut connection = self.take().await?;
        let bytes: Result<Option<Option<i64>>, _> = sqlx::query_scalar(
            "SELECT (pg_current_wal_lsn() - restart_lsn)::int8 FROM pg_replication_slots WHERE slot_name = $1",
        )
        .bind(slot)
        .fetch_optional(&mut connection)
        .await;
        let bytes = bytes.map_err(|error| self.faults.query("asking for the slot", &error))?;
        self.give_back(connection);
        Ok(bytes.flatten().map(|bytes| u64::try_from(bytes).unwrap_or(0)))
    }

    /// Opens a transaction whose reads all see one moment, on a connection that is the reader's alone.
    pub(crate) async fn read(&mut self) -> Result<Reading, SourceError> {
        let mut connection = self.take().await?;
        let opened = async {
            sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut connection).await?;
            let row = sqlx::query(
                "SELECT pg_current_snapshot()::text AS snapshot, (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::int8 AS lsn",
            )
            .fetch_one(&mut connection)
            .await?;
            Ok::<_, sqlx::Error>((row.try_get::<String, _>("snapshot")?, row.try_get::<i64, _>("lsn")?))
        };
        let (snapshot, lsn) = opened.await.map_err(|error| self.faults.query("opening a snapshot", &error))?;
        let snapshot = snapshot.parse().map_err(|error: String| self.faults.protocol(error))?;
        Ok(Reading { connection, snapshot, end: Lsn(lsn.cast_unsigned()), faults: self.faults.clone() })
    }

    /// Ends a reader's transaction and keeps its connection.
    pub(crate) async fn end(&mut self, reading: Reading) -> Result<(), SourceError> {
        let mut connection = reading.connection;
        let done = sqlx::raw_sql("COMMIT").execute(&mut connection).await;
        done.map_err(|error| self.faults.query("ending a snapshot", &error))?;
        if self.idle.is_some() {
            connection.close().await.ok();
        } else {
            self.idle = Some(connection);
        }
        Ok(())
    }
}

/// A transaction that sees one moment.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) connection: PgConnection,
    pub(crate) snapshot: Visibility,
    /// Whatever this snapshot sees was committed before this place of the log.
    pub(crate) end: Lsn,
    faults: Faults,
}

impl Reading {
    /// The rows of a query, as lines of `COPY`'s text format.
    pub(crate) async fn lines(&mut self, query: &str) -> Result<Lines<'_>, SourceError> {
        Lines::of(&mut self.connection, query, &self.faults).await
    }
}

/// Lines of a running `COPY`; it has to be read to its end before its connection does anything else.
pub(crate) struct Lines<'a> {
    stream: BoxStream<'a, Result<Bytes, sqlx::Error>>,
    faults: &'a Faults,
}

impl<'a> Lines<'a> {
    pub(crate) async fn of(connection: &'a mut PgConnection, query: &str, faults: &'a Faults) -> Result<Self, SourceError> {
        match connection.copy_out_raw(&format!("COPY ({query}) TO STDOUT")).await {
            Ok(stream) => Ok(Self { stream, faults }),
            Err(error) => Err(faults.query("reading a table", &error)),
        }
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        self.stream.try_next().await.map_err(|error| self.faults.query("reading a table", &error))
    }
}
