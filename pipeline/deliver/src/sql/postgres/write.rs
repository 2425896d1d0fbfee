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
use super::table::{Kind, Place, written};
use crate::sink::{Change, SinkBatch, SinkError, SinkPlan, What};
use crate::sql::foreign::Foreign;
use crate::sql::kept::{self, Dialect, History};
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
/// Where rows or versions that are gone are kept: the commit at the source, and the epoch that [`kept::below`] says.
const AT: &str = "guitong_at";
const BELOW: &str = "guitong_below";

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
    /// Where a row that is deleted does not keep its version itself.
    remember: Option<String>,
    write: Write,
    /// What [`Write`] does not do about deletes, in order.
    deletes: Vec<String>,
    /// Before and after what is done to the versions of a table that is the department's own.
    foreign: Option<(String, String)>,
    /// What is done first where a change takes its row's history with it, and what is always done.
    history: Option<(String, [String; 2])>,
    /// Makes the temporary table ready for what follows in the same transaction.
    empty: String,
    /// Columns of the temporary table before those that are written.
    own: usize,
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
    fn new(source: &str, layout: &Layout, held: &str) -> Self {
        let (table, written, same_key) = (&layout.table, layout.quoted_written(), layout.same_key("t", "s"));
        let values = join(layout.written().into_iter().map(|name| format!("s.{}", quote(name))), ", ");
        let delete = if layout.soft { String::new() } else { format!("WHEN MATCHED AND s.{DELETE} AND {held} THEN DELETE") };
        Self {
            merge: format!(
                "MERGE INTO {table} t USING {source} s ON {same_key}
                 {delete}
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

/// Columns of the temporary table before those that are written.
fn own_columns(layout: &Layout) -> Vec<(&'static str, Kind)> {
    let kept = [(AT, Kind::Granted(ColumnKind::Time)), (BELOW, Kind::Epoch)];
    let kept = kept.into_iter().filter(|_| layout.keeps());
    [(ROW, Kind::Bytes), (DELETE, Kind::Boolean)].into_iter().chain(kept).collect()
}

impl Statements {
    pub(crate) fn new(place: &Place, layout: &Layout, plan: &SinkPlan) -> Self {
        let (own, written) = (own_columns(layout), written(layout));
        // A pooled connection may hold the temporary table of another subscription, or of another grant.
        let mut name = Sha256::new();
        name.update(plan.subscription.as_bytes());
        name.update(plan.grant);
        let staged: Vec<_> = own.iter().copied().chain(written.iter().map(|column| (column.name, column.kind))).collect();
        let columns = join(staged.iter().map(|(name, kind)| format!("{} {}", quote(name), kind.sql())), ", ");
        name.update(&columns);
        let stage = format!("pg_temp.guitong_{}", hex::encode(&name.finalize()[..12]));
        let versioned = layout.versioned();
        let (table, deleted) = (&versioned.table, place.qualified("guitong_deleted"));
        let same_key = layout.same_key("t", "s");
        let held = format!("(t.{VERSION}, t.{EPOCH}) < (s.{VERSION}, s.{EPOCH})");
        let deletion = format!("d.subscription = $1 AND d.row_key = s.{ROW} AND NOT s.{DELETE}");
        let arrays = staged.iter().enumerate().map(|(index, (_, kind))| format!("${}::{}[]", index + 1, kind.sql()));
        let arrays = join(arrays, ", ");
        let names = join(staged.iter().map(|(name, _)| quote(name)), ", ");
        let rows = format!("(SELECT * FROM unnest({arrays}) AS r({names}))");
        let nested = written.iter().any(|column| column.kind == Kind::Granted(ColumnKind::TextList));
        let key_place = |name: &str| (name != KEY).then(|| layout.key.iter().position(|key| key == name)).flatten();
        let delete = format!("DELETE FROM {table} t USING {stage} s WHERE {same_key} AND s.{DELETE} AND {held}");
        let feed = feed(&stage, layout);
        let soft = || {
            kept::soft_deletes(Dialect::Postgres, layout).iter().map(|fed| fed.on(&format!("{feed} WHERE {DELETE}"))).collect()
        };
        Self {
            copy: format!("COPY {stage} FROM STDIN (FORMAT binary)"),
            few: (!nested).then(|| Few {
                stage: format!("INSERT INTO {stage} SELECT * FROM unnest({arrays})"),
                write: Write::new(&rows, &versioned, &held),
            }),
            leave_out: format!(
                "DELETE FROM {stage} s USING {deleted} d WHERE {deletion} AND (d.version, d.epoch) >= (s.{VERSION}, s.{EPOCH})"
            ),
            forget: format!("DELETE FROM {deleted} d USING {stage} s WHERE {deletion}"),
            remember: (!layout.soft).then(|| format!(
                "INSERT INTO {deleted} (subscription, row_key, version, epoch, deleted_us)
                 SELECT $1, s.{ROW}, s.{VERSION}, s.{EPOCH}, $2 FROM {stage} s JOIN {table} t ON {same_key} WHERE s.{DELETE} AND {held}
                 ON CONFLICT (subscription, row_key) DO UPDATE
                 SET version = excluded.version, epoch = excluded.epoch, deleted_us = excluded.deleted_us"
            )),
            write: Write::new(&stage, &versioned, &held),
            deletes: if layout.soft { soft() } else { vec![delete] },
            foreign: layout.foreign.then(|| {
                let foreign = Foreign::new(Dialect::Postgres, layout);
                let removed = format!("SELECT {}{VERSION} AS v, {EPOCH} AS e FROM {stage} WHERE {DELETE}", fed_key(layout));
                (foreign.take.on(&removed), foreign.put.on(&format!("SELECT * FROM {stage} WHERE NOT {DELETE}")))
            }),
            history: layout.history.then(|| {
                let history = History::new(Dialect::Postgres, layout);
                (history.leave.on(&feed), history.follow.map(|fed| fed.on(&feed)))
            }),
            empty: format!("DELETE FROM {stage}"),
            own: own.len(),
            columns: written.iter().map(|column| (column.kind, key_place(column.name))).collect(),
            begin: format!(
                "CREATE TEMPORARY TABLE IF NOT EXISTS {} ({columns}) ON COMMIT DELETE ROWS; BEGIN",
                stage.trim_start_matches("pg_temp.")
            ),
        }
    }

    /// One row of the temporary table.
    fn encode(&self, copy: &mut Copy, change: &Change<'_>, writer: &Writer<'_>) -> Result<(), SinkError> {
        let key = change.key();
        copy.row((self.own + self.columns.len()) as u16);
        copy.field(&key.id);
        copy.boolean(is_delete(change));
        if writer.keeps {
            copy.cell(Kind::Granted(ColumnKind::Time), &StandardValue::Time(change.source_us))?;
            copy.long(kept::below(change, writer.sweep_epoch));
        }
        if writer.hashed {
            copy.field(&key.id);
        }
        // Between `guitong_key` and version and epoch stand the granted columns.
        let granted = self.columns.get(usize::from(writer.hashed)..self.columns.len() - 2).unwrap_or_default();
        match &change.what {
            What::Upsert(row) => {
                for ((kind, _), cell) in granted.iter().zip(&row.cells) {
                    copy.cell(*kind, cell)?;
                }
            }
            What::Delete(key, _) => {
                for (kind, place) in granted {
                    copy.cell(*kind, key_cell(key, *place))?;
                }
            }
        }
        copy.field(&change.version.to_bytes());
        copy.long(writer.epoch);
        Ok(())
    }
}

/// The changes in the temporary table as statements of [`kept`] take them.
fn feed(stage: &str, layout: &Layout) -> String {
    format!("SELECT {}{VERSION} AS v, {EPOCH} AS e, {AT} AS at, {BELOW} AS below FROM {stage}", fed_key(layout))
}

fn fed_key(layout: &Layout) -> String {
    join(layout.key.iter().enumerate().map(|(at, name)| format!("{} AS k{at}, ", quote(name))), "")
}

fn is_delete(change: &Change<'_>) -> bool {
    matches!(change.what, What::Delete(..))
}

fn deletes(changes: &[&Change<'_>]) -> bool {
    changes.iter().any(|change| is_delete(change))
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
    /// Of the refill under way.
    pub(crate) sweep_epoch: Option<i64>,
    pub(crate) hashed: bool,
    pub(crate) keeps: bool,
    pub(crate) merges: bool,
    /// Versions of deleted keys are kept.
    pub(crate) remembers: bool,
    pub(crate) now_us: i64,
}

impl Writer<'_> {
    /// Statement for rows as arrays that needs no temporary table.
    fn direct(&self, changes: &[&Change<'_>]) -> Option<&str> {
        let Statements { few, history, foreign, .. } = self.statements;
        let needs_table = self.remembers || history.is_some() || foreign.is_some() || deletes(changes);
        let few = few.as_ref().filter(|_| changes.len() <= FEW && !needs_table)?;
        Some(self.write(&few.write))
    }

    fn write<'s>(&self, write: &'s Write) -> &'s str {
        if self.merges { &write.merge } else { &write.upsert }
    }

    /// Begins a transaction for the batch; its temporary table comes in the same round trip.
    pub(crate) fn begin(&self, batch: &SinkBatch<'_, '_>) -> &str {
        let needs_no_table = |changes: &[&Change<'_>]| changes.is_empty() || self.direct(changes).is_some();
        if batch.earlier.is_empty() && needs_no_table(batch.changes) { "BEGIN" } else { &self.statements.begin }
    }

    /// Applies the batch; `remembers` says afterwards whether a deleted key is remembered. What [`Writer::begin`] says was done before.
    pub(crate) async fn apply(
        &mut self,
        connection: &mut PgConnection,
        buffer: &mut Copy,
        batch: &SinkBatch<'_, '_>,
    ) -> Result<(), SinkError> {
        let mut begun = false;
        for changes in batch.parts().filter(|changes| !changes.is_empty()) {
            if std::mem::replace(&mut begun, true) {
                self.execute(connection, &self.statements.empty).await?;
            }
            self.remembers |= self.apply_part(connection, buffer, changes).await?;
        }
        Ok(())
    }

    /// Says whether it deleted, and so remembers, a key.
    async fn apply_part(
        &self,
        connection: &mut PgConnection,
        buffer: &mut Copy,
        changes: &[&Change<'_>],
    ) -> Result<bool, SinkError> {
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
            self.execute_for(connection, &statements.leave_out, false).await?;
            self.execute_for(connection, &statements.forget, false).await?;
        }
        let deletes = deletes(changes);
        let remembered = match statements.remember.as_ref().filter(|_| deletes) {
            Some(remember) => self.execute_for(connection, remember, true).await? > 0,
            None => false,
        };
        if let Some((take, _)) = statements.foreign.as_ref().filter(|_| deletes) {
            self.execute(connection, take).await?;
        }
        self.execute(connection, self.write(&statements.write)).await?;
        if deletes && (!self.merges || statements.remember.is_none()) {
            for delete in &statements.deletes {
                self.execute(connection, delete).await?;
            }
        }
        if let Some((_, put)) = &statements.foreign {
            self.execute(connection, put).await?;
        }
        if let Some((leave, follow)) = &statements.history {
            let leave = changes.iter().any(|change| kept::takes_history(change)).then_some(leave);
            for statement in leave.into_iter().chain(follow) {
                self.execute(connection, statement).await?;
            }
        }
        Ok(remembered)
    }

    async fn execute(&self, connection: &mut PgConnection, sql: &str) -> Result<(), SinkError> {
        sqlx::query(AssertSqlSafe(sql)).execute(connection).await.map(drop).map_err(sink_error)
    }

    /// Executes a statement on the keys that the subscription deleted.
    async fn execute_for(&self, connection: &mut PgConnection, sql: &str, timed: bool) -> Result<u64, SinkError> {
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
        let own = [Element::Bytes, Element::Boolean, Element::Time, Element::Long].into_iter().take(self.statements.own);
        let written = self.statements.columns.iter().map(|(kind, _)| Element::of(*kind));
        let mut columns: Vec<Column> = own.chain(written).map(Column::new).collect();
        for change in changes {
            buffer.bytes.clear();
            self.statements.encode(buffer, change, self)?;
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
            if let Err(error) = self.statements.encode(buffer, change, self) {
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
