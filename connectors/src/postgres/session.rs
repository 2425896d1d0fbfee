//! The session beside the stream: catalogue, watermarks, snapshots. Made when first needed, and again after a fault.

use guitong_schemas::delivered::MESSAGES;
use guitong_schemas::position::Lsn;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::config::{Address, quote_literal};
use super::fault::Faults;
use super::visibility::Visibility;
use super::wire::{Login, Purpose, Reader};
use crate::source::SourceError;

/// Statements that commit a logical message alone. It need not survive a crash or wait for standbys: a watermark that is lost is
/// written again.
pub(crate) fn mark(content: &str) -> String {
    format!(
        "BEGIN; SET LOCAL synchronous_commit = local; SELECT pg_logical_emit_message(true, '{MESSAGES}', {}); COMMIT",
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
    pub(crate) fn new((address, idle): (Address, PgConnection), faults: Faults) -> Self {
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

    /// Opens a transaction whose reads all see one moment, on a connection of its own.
    pub(crate) async fn read(&self) -> Result<Reading, SourceError> {
        let mut reader = Login::open(&self.address, Purpose::Read, &self.faults).await?.reader();
        let values = reader
            .run(
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
                 SELECT pg_current_snapshot()::text, (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::int8",
            )
            .await?;
        let [snapshot, end] = values.as_slice() else {
            return Err(self.faults.protocol("a snapshot was not told"));
        };
        let snapshot = snapshot.parse().map_err(|error: String| self.faults.protocol(error))?;
        let end = end.parse().map_err(|_| self.faults.protocol(format!("`{end}` is no place of the log")))?;
        Ok(Reading { reader, snapshot, end: Lsn(end) })
    }
}

/// A transaction that sees one moment.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) reader: Reader,
    pub(crate) snapshot: Visibility,
    /// Whatever this snapshot sees was committed before this place of the log.
    pub(crate) end: Lsn,
}
