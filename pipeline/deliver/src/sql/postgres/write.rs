//! A batch's changes, in the transaction that is open: into a temporary table, then one MERGE.
//!
//! Many rows go by COPY. Few go as arrays, a column each, in one statement: the client library leaves Nagle's algorithm on, so the
//! message that ends a COPY waits for the server's delayed acknowledgement of its data, 40 ms, whatever the number of rows. Where
//! nothing is deleted nor was, the arrays go into the MERGE itself, without the temporary table.
//!
//! MERGE needs PostgreSQL 15; version 14 takes `INSERT … ON CONFLICT` and a DELETE.

use guitong_govern::{ColumnKind, RowKey};
use guitong_schemas::standard::StandardValue;
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, PgConnection};

use super::array::{self, Column, Element};
use super::copy::Copy;
use super::errors::sink_error;
use super::table::{Kind, Place, needed};
use crate::sink::{Change, SinkError, SinkPlan, What};
use crate::sql::layout::{Layout, join, older, quote};
use crate::sql::{EPOCH, KEY, VERSION};

/// Bytes handed to the connection at once.
const CHUNK: usize = 1 << 20;
/// Rows up to which arrays are the faster way.
const FEW: usize = 1000;
/// First version with MERGE.
pub(crate) const MERGE_VERSION: i32 = 150_000;

/// Columns of the temporary table that the subscriber's table does not have.
const ROW: &str = "guitong_row";
const DELETE: &str = "guitong_delete";

/// Statements of one layout.
#[derive(Debug)]
pub(crate) struct Statements {
    /// Makes the temporary table where the connection has none, and begins the transaction.
    pub(crate) begin: String,
    copy: String,
    /// The same rows from arrays; `None` where a column is an array itself, of which there are no arrays.
    few: Option<Few>,
    leave_out: String,
    forget: String,
    remember: String,
    write: Write,
    delete: String,
    /// Kind of each written column, and for a key column its place in the key.
    columns: Vec<(Kind, Option<usize>)>,
}

/// Rows that come as arrays.
#[derive(Debug)]
struct Few {
    /// Into the temporary table.
    stage: String,
    /// Into the subscriber's table.
    write: Write,
}

/// From a source of rows into the subscriber's table.
#[derive(Debug)]
struct Write {
    merge: String,
    upsert: String,
}

impl Write {
    fn new(source: &str, layout: &Layout, values: &str, held: &str) -> Self {
        let (table, written, same_key) = (&layout.table, layout.quoted_written(), layout.same_key("t", "s"));
        Self {
            merge: format!(
                "MERGE INTO {table} t USING {source} s ON {same_key}
                 WHEN MATCHED AND s.{DELETE} AND {held} THEN DELETE
                 WHEN MATCHED AND NOT s.{DELETE} AND {} THEN UPDATE SET {}
                 WHEN NOT MATCHED AND NOT s.{DELETE} THEN INSERT ({written}) VALUES ({values})",
                older("t", "s"),
                layout.assignments("s"),
            ),
            upsert: format!(
                "INSERT INTO {table} AS t ({written}) SELECT {values} FROM {source} s WHERE NOT s.{DELETE}
                 ON CONFLICT ({}) DO UPDATE SET {} WHERE {}",
                layout.quoted_key(),
                layout.assignments("excluded"),
                older("t", "excluded"),
            ),
        }
    }
}

impl Statements {
    pub(crate) fn new(place: &Place, layout: &Layout, plan: &SinkPlan) -> Self {
        let needed = needed(layout);
        // A pooled connection may hold the temporary table of another subscription, or of another grant.
        let mut name = Sha256::new();
        name.update(plan.subscription.as_bytes());
        name.update(plan.grant);
        let stage = format!("pg_temp.guitong_{}", hex::encode(&name.finalize()[..12]));
        let columns = join(needed.iter().map(|column| format!("{} {}", quote(column.name), column.kind.sql())), ", ");
        let (table, deleted) = (&layout.table, place.qualified("guitong_deleted"));
        let same_key = layout.same_key("t", "s");
        let held = format!("(t.{VERSION}, t.{EPOCH}) < (s.{VERSION}, s.{EPOCH})");
        let values = join(needed.iter().map(|column| format!("s.{}", quote(column.name))), ", ");
        let deletion = format!("d.subscription = $1 AND d.row_key = s.{ROW} AND NOT s.{DELETE}");
        let kinds = [Kind::Bytes.sql(), "boolean".to_owned()].into_iter().chain(needed.iter().map(|column| column.kind.sql()));
        let arrays = join(kinds.enumerate().map(|(index, kind)| format!("${}::{kind}[]", index + 1)), ", ");
        let names = [ROW.to_owned(), DELETE.to_owned()].into_iter().chain(needed.iter().map(|column| quote(column.name)));
        let rows = format!("(SELECT * FROM unnest({arrays}) AS r({}))", join(names, ", "));
        let nested = needed.iter().any(|column| column.kind == Kind::Granted(ColumnKind::TextList));
        let key_place = |name: &str| (name != KEY).then(|| layout.key.iter().position(|key| key == name)).flatten();
        Self {
            copy: format!("COPY {stage} FROM STDIN (FORMAT binary)"),
            few: (!nested).then(|| Few {
                stage: format!("INSERT INTO {stage} SELECT * FROM unnest({arrays})"),
                write: Write::new(&rows, layout, &values, &held),
            }),
            leave_out: format!(
                "DELETE FROM {stage} s USING {deleted} d WHERE {deletion} AND (d.version, d.epoch) >= (s.{VERSION}, s.{EPOCH})"
            ),
            forget: format!("DELETE FROM {deleted} d USING {stage} s WHERE {deletion}"),
            remember: format!(
                "INSERT INTO {deleted} (subscription, row_key, version, epoch, deleted_us)
                 SELECT $1, s.{ROW}, s.{VERSION}, s.{EPOCH}, $2 FROM {stage} s JOIN {table} t ON {same_key} WHERE s.{DELETE} AND {held}
                 ON CONFLICT (subscription, row_key) DO UPDATE
                 SET version = excluded.version, epoch = excluded.epoch, deleted_us = excluded.deleted_us"
            ),
            write: Write::new(&stage, layout, &values, &held),
            delete: format!("DELETE FROM {table} t USING {stage} s WHERE {same_key} AND s.{DELETE} AND {held}"),
            columns: needed.iter().map(|column| (column.kind, key_place(column.name))).collect(),
            begin: format!(
                "CREATE TEMPORARY TABLE IF NOT EXISTS {} ({ROW} bytea, {DELETE} boolean, {columns}) ON COMMIT DELETE ROWS; BEGIN",
                stage.trim_start_matches("pg_temp.")
            ),
        }
    }

    /// One row of the temporary table.
    fn encode(&self, copy: &mut Copy, change: &Change<'_>, hashed: bool, epoch: i64) -> Result<(), SinkError> {
        let key = change.key();
        copy.row(self.columns.len() as u16 + 2);
        copy.field(&key.id);
        copy.boolean(matches!(change.what, What::Delete(_)));
        if hashed {
            copy.field(&key.id);
        }
        // Between `guitong_key` and version and epoch stand the granted columns.
        let granted = self.columns.get(usize::from(hashed)..self.columns.len() - 2).unwrap_or_default();
        match &change.what {
            What::Upsert(row) => {
                for ((kind, _), cell) in granted.iter().zip(&row.cells) {
                    copy.cell(*kind, cell)?;
                }
            }
            What::Delete(key) => {
                for (kind, place) in granted {
                    copy.cell(*kind, key_cell(key, *place))?;
                }
            }
        }
        copy.field(&change.version.to_bytes());
        copy.long(epoch);
        Ok(())
    }
}

fn deletes(changes: &[&Change<'_>]) -> bool {
    changes.iter().any(|change| matches!(change.what, What::Delete(_)))
}

fn key_cell<'k, 'a>(key: &'k RowKey<'a>, place: Option<usize>) -> &'k StandardValue<'a> {
    place.and_then(|place| key.clear.get(place)).unwrap_or(&StandardValue::Null)
}

/// Who writes, and how.
#[derive(Debug)]
pub(crate) struct Writer<'w> {
    pub(crate) statements: &'w Statements,
    pub(crate) subscription: &'w str,
    pub(crate) epoch: i64,
    pub(crate) hashed: bool,
    pub(crate) merges: bool,
    pub(crate) remembers: bool,
    pub(crate) now_us: i64,
}

impl Writer<'_> {
    /// Statement for rows as arrays that needs no temporary table.
    fn direct(&self, changes: &[&Change<'_>]) -> Option<&str> {
        let few = self.statements.few.as_ref().filter(|_| changes.len() <= FEW && !self.remembers && !deletes(changes))?;
        Some(self.write(&few.write))
    }

    fn write<'s>(&self, write: &'s Write) -> &'s str {
        if self.merges { &write.merge } else { &write.upsert }
    }

    /// Begins a transaction for the changes; their temporary table comes in the same round trip.
    pub(crate) fn begin(&self, changes: &[&Change<'_>]) -> &str {
        let needs_no_table = changes.is_empty() || self.direct(changes).is_some();
        if needs_no_table { "BEGIN" } else { &self.statements.begin }
    }

    /// Applies the changes; says whether it deleted, and so remembers, a key. What [`Writer::begin`] says was done before.
    pub(crate) async fn apply(
        &self,
        connection: &mut PgConnection,
        buffer: &mut Copy,
        changes: &[&Change<'_>],
    ) -> Result<bool, SinkError> {
        if changes.is_empty() {
            return Ok(false);
        }
        if let Some(direct) = self.direct(changes) {
            self.arrays(connection, direct, buffer, changes).await?;
            return Ok(false);
        }
        let statements = self.statements;
        match &statements.few {
            Some(few) if changes.len() <= FEW => self.arrays(connection, &few.stage, buffer, changes).await?,
            _ => self.copy(connection, buffer, changes).await?,
        }
        if self.remembers {
            self.execute(connection, &statements.leave_out, false).await?;
            self.execute(connection, &statements.forget, false).await?;
        }
        let deletes = deletes(changes);
        let remembered = deletes && self.execute(connection, &statements.remember, true).await? > 0;
        let write = sqlx::query(AssertSqlSafe(self.write(&statements.write)));
        write.execute(&mut *connection).await.map_err(sink_error)?;
        if deletes && !self.merges {
            sqlx::query(AssertSqlSafe(statements.delete.as_str())).execute(connection).await.map_err(sink_error)?;
        }
        Ok(remembered)
    }

    async fn execute(&self, connection: &mut PgConnection, sql: &str, timed: bool) -> Result<u64, SinkError> {
        let query = sqlx::query(AssertSqlSafe(sql)).bind(self.subscription);
        let query = if timed { query.bind(self.now_us) } else { query };
        Ok(query.execute(connection).await.map_err(sink_error)?.rows_affected())
    }

    /// Executes a statement on the changes as arrays.
    async fn arrays(
        &self,
        connection: &mut PgConnection,
        sql: &str,
        buffer: &mut Copy,
        changes: &[&Change<'_>],
    ) -> Result<(), SinkError> {
        let own = [Element::Bytes, Element::Boolean];
        let written = self.statements.columns.iter().map(|(kind, _)| Element::of(*kind));
        let mut columns: Vec<Column> = own.into_iter().chain(written).map(Column::new).collect();
        for change in changes {
            buffer.bytes.clear();
            self.statements.encode(buffer, change, self.hashed, self.epoch)?;
            array::take_row(&mut columns, &buffer.bytes);
        }
        let bound = columns.into_iter().fold(sqlx::query(AssertSqlSafe(sql)), sqlx::query::Query::bind);
        bound.execute(connection).await.map_err(sink_error)?;
        Ok(())
    }

    async fn copy(&self, connection: &mut PgConnection, buffer: &mut Copy, changes: &[&Change<'_>]) -> Result<(), SinkError> {
        let mut copy = connection.copy_in_raw(&self.statements.copy).await.map_err(sink_error)?;
        buffer.start();
        for change in changes {
            if let Err(error) = self.statements.encode(buffer, change, self.hashed, self.epoch) {
                copy.abort("a value that cannot be written").await.map_err(sink_error)?;
                return Err(error);
            }
            if buffer.bytes.len() >= CHUNK {
                copy.send(buffer.bytes.as_slice()).await.map_err(sink_error)?;
                buffer.bytes.clear();
            }
        }
        buffer.end();
        copy.send(buffer.bytes.as_slice()).await.map_err(sink_error)?;
        copy.finish().await.map_err(sink_error)?;
        Ok(())
    }
}
