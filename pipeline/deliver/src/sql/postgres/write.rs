//! A batch's changes, in the transaction that is open: into a temporary table, then one MERGE.
//!
//! Many rows go by COPY. Few go as arrays, a column each, in one statement: the client library leaves Nagle's algorithm on, so the
//! message that ends a COPY waits for the server's delayed acknowledgement of its data, 40 ms, whatever the number of rows. Where
//! nothing is deleted nor was, the arrays go into the MERGE itself, without the temporary table.
//!
//! MERGE needs PostgreSQL 15; version 14 takes `INSERT … ON CONFLICT` and a DELETE.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use guitong_govern::{ColumnKind, RowKey};
use guitong_schemas::delivered::{Delivered, MESSAGES};
use guitong_schemas::standard::StandardValue;
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, PgConnection};

use super::Held;
use super::array::{self, Column, Element};
use super::copy::Copy;
use super::errors::sink_error;
use super::table::{Kind, Place, literal, written};
use crate::sink::{Change, SinkBatch, SinkError, SinkPlan, What};
use crate::sql::foreign::Foreign;
use crate::sql::kept::{self, Dialect, History};
use crate::sql::layout::{Layout, join, older, quote};
use crate::sql::{EPOCH, KEY, VERSION};

/// Bytes handed to the connection at once.
const CHUNK: usize = 1 << 20;
/// Rows up to which arrays are the faster way.
pub(super) const FEW: usize = 2_000;
/// What the planner may do where rows are many: read the whole of a table of which they are a large part, past a hash of them. With these
/// costs it does so up to some fifteen times as many rows, from where on it takes longer than to find each by the key's index.
const FREELY: &str = "SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on; SET LOCAL work_mem = '16MB';
    SET LOCAL random_page_cost = 1.1; SET LOCAL cpu_tuple_cost = 0.02";
const BY_INDEX: &str = "SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off";
/// First version with MERGE.
pub(crate) const MERGE_VERSION: i32 = 150_000;

/// Columns of the temporary table that the subscriber's table does not have.
const ROW: &str = "guitong_row";
const DELETE: &str = "guitong_delete";
/// Where rows or versions that are gone are kept: the commit at the source, and the epoch that [`kept::below`] says.
const AT: &str = "guitong_at";
const BELOW: &str = "guitong_below";

/// How rows are written.
#[derive(Debug)]
pub(crate) struct Form {
    subscription: Arc<str>,
    /// The temporary table, without its schema.
    stage: String,
    /// Its columns before those that are written.
    own: usize,
    /// Kind of each written column, and for a key column its place in the key.
    columns: Vec<(Kind, Option<usize>)>,
}

impl Form {
    pub(crate) fn new(layout: &Layout, plan: &SinkPlan) -> Self {
        let (own, written) = (own_columns(layout), written(layout));
        // A pooled connection may hold the temporary table of another subscription, or of another grant.
        let mut name = Sha256::new();
        name.update(plan.subscription.as_bytes());
        name.update(plan.grant);
        name.update(staged(layout));
        let key_place = |name: &str| (name != KEY).then(|| layout.key.iter().position(|key| key == name)).flatten();
        Self {
            subscription: Arc::clone(&plan.subscription),
            stage: format!("guitong_{}", hex::encode(&name.finalize()[..12])),
            own: own.len(),
            columns: written.iter().map(|column| (column.kind, key_place(column.name))).collect(),
        }
    }

    /// One row of the temporary table.
    fn encode(&self, copy: &mut Copy, change: &Change<'_>, writer: &Writer<'_>) -> Result<(), SinkError> {
        let (key, hashed) = (change.key(), writer.statements.layout.hashed);
        copy.row((self.own + self.columns.len()) as u16);
        copy.field(&key.id);
        copy.boolean(is_delete(change));
        if writer.statements.layout.keeps() {
            copy.cell(Kind::Granted(ColumnKind::Time), &StandardValue::Time(change.source_us))?;
            copy.long(kept::below(change, writer.held.sweep_epoch));
        }
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
            What::Delete(key, _) => {
                for (kind, place) in granted {
                    copy.cell(*kind, key_cell(key, *place))?;
                }
            }
        }
        copy.field(&change.version.to_bytes());
        copy.long(writer.held.epoch);
        Ok(())
    }
}

/// Statements of one layout, written where they are used: kept for each of a thousand subscriptions, they would take more than all
/// else that a subscription holds.
#[derive(Debug)]
pub(crate) struct Statements<'s> {
    layout: &'s Layout,
    /// Has each row's version.
    versioned: Cow<'s, Layout>,
    form: &'s Form,
    stage: String,
    /// The table of versions of deleted keys.
    deleted: String,
}

impl<'s> Statements<'s> {
    pub(crate) fn new(place: &Place, layout: &'s Layout, form: &'s Form) -> Self {
        let (versioned, deleted) = (layout.versioned(), place.qualified("guitong_deleted"));
        Self { layout, versioned, form, stage: format!("pg_temp.{}", form.stage), deleted }
    }

    /// Makes the temporary table where the connection has none.
    fn make(&self) -> String {
        format!("CREATE TEMPORARY TABLE IF NOT EXISTS {} ({}) ON COMMIT DELETE ROWS; ", self.form.stage, staged(self.layout))
    }

    fn copy(&self) -> String {
        format!("COPY {} FROM STDIN (FORMAT binary)", self.stage)
    }

    /// Tells the planner that keys in the temporary table are as many as rows, by a sample of 300. Without that it takes them for so few
    /// that it never makes a hash of them.
    fn analyze(&self) -> String {
        format!("SET LOCAL default_statistics_target = 1; ANALYZE {} ({})", self.stage, self.layout.quoted_key())
    }

    /// Makes the temporary table ready for what follows in the same transaction.
    fn empty(&self) -> String {
        format!("DELETE FROM {}", self.stage)
    }

    /// Rows may come as arrays: none of their columns is an array itself, of which there are no arrays.
    fn takes_arrays(&self) -> bool {
        self.form.columns.iter().all(|(kind, _)| *kind != Kind::Granted(ColumnKind::TextList))
    }

    /// The rows that come as arrays, a column each.
    fn arrays(&self) -> String {
        let (own, written) = (own_columns(self.layout), written(self.layout));
        let kinds = own.iter().map(|(_, kind)| *kind).chain(written.iter().map(|column| column.kind));
        let arrays = join(kinds.enumerate().map(|(index, kind)| format!("${}::{}[]", index + 1, kind.sql())), ", ");
        let names = own.iter().map(|(name, _)| *name).chain(written.iter().map(|column| column.name));
        format!("(SELECT * FROM unnest({arrays}) AS r({}))", join(names.map(quote), ", "))
    }

    /// From arrays into the temporary table.
    fn stage_arrays(&self) -> String {
        format!("INSERT INTO {} SELECT * FROM {} AS r", self.stage, self.arrays())
    }

    fn merge(&self, source: &str) -> String {
        let (layout, held) = (&*self.versioned, held());
        let (table, written, same_key) = (&layout.table, layout.quoted_written(), layout.same_key("t", "s"));
        let values = join(layout.written().into_iter().map(|name| format!("s.{}", quote(name))), ", ");
        let delete = if layout.soft { String::new() } else { format!("WHEN MATCHED AND s.{DELETE} AND {held} THEN DELETE") };
        format!(
            "MERGE INTO {table} t USING {source} s ON {same_key}
             {delete}
             WHEN MATCHED AND NOT s.{DELETE} AND {} THEN UPDATE SET {}
             WHEN NOT MATCHED AND NOT s.{DELETE} THEN INSERT ({written}) VALUES ({values})",
            older("t", "s"),
            layout.assignments("s"),
        )
    }

    fn upsert(&self, source: &str) -> String {
        let layout = &*self.versioned;
        let values = join(layout.written().into_iter().map(|name| format!("s.{}", quote(name))), ", ");
        format!(
            "INSERT INTO {} AS t ({}) SELECT {values} FROM {source} s WHERE NOT s.{DELETE}
             ON CONFLICT ({}) DO UPDATE SET {} WHERE {}",
            layout.table,
            layout.quoted_written(),
            layout.quoted_key(),
            layout.assignments("excluded"),
            older("t", "excluded"),
        )
    }

    fn deletion(&self) -> String {
        format!("d.subscription = $1 AND d.row_key = s.{ROW} AND NOT s.{DELETE}")
    }

    fn leave_out(&self) -> String {
        format!(
            "DELETE FROM {} s USING {} d WHERE {} AND (d.version, d.epoch) >= (s.{VERSION}, s.{EPOCH})",
            self.stage,
            self.deleted,
            self.deletion()
        )
    }

    fn forget(&self) -> String {
        format!("DELETE FROM {} d USING {} s WHERE {}", self.deleted, self.stage, self.deletion())
    }

    /// `None` where a row that is deleted keeps its version itself.
    fn remember(&self) -> Option<String> {
        let (layout, held) = (&*self.versioned, held());
        (!self.layout.soft).then(|| {
            format!(
                "INSERT INTO {} (subscription, row_key, version, epoch, deleted_us)
                 SELECT $1, s.{ROW}, s.{VERSION}, s.{EPOCH}, $2 FROM {} s JOIN {} t ON {} WHERE s.{DELETE} AND {held}
                 ON CONFLICT (subscription, row_key) DO UPDATE
                 SET version = excluded.version, epoch = excluded.epoch, deleted_us = excluded.deleted_us",
                self.deleted,
                self.stage,
                layout.table,
                layout.same_key("t", "s")
            )
        })
    }

    /// What [`Statements::merge`] or [`Statements::upsert`] does not do about deletes, in order.
    fn deletes(&self) -> Vec<String> {
        if self.layout.soft {
            let removed = format!("{} WHERE {DELETE}", self.feed());
            return kept::soft_deletes(Dialect::Postgres, self.layout).iter().map(|fed| fed.on(&removed)).collect();
        }
        let (layout, held) = (&*self.versioned, held());
        let same_key = layout.same_key("t", "s");
        vec![format!("DELETE FROM {} t USING {} s WHERE {same_key} AND s.{DELETE} AND {held}", layout.table, self.stage)]
    }

    /// Before and after what is done to the versions of a table that is the department's own.
    fn foreign(&self) -> Option<(String, String)> {
        let Layout { foreign: true, .. } = self.layout else { return None };
        let foreign = Foreign::new(Dialect::Postgres, self.layout);
        let stage = &self.stage;
        let removed = format!("SELECT {}{VERSION} AS v, {EPOCH} AS e FROM {stage} WHERE {DELETE}", fed_key(self.layout));
        Some((foreign.take.on(&removed), foreign.put.on(&format!("SELECT * FROM {stage} WHERE NOT {DELETE}"))))
    }

    /// What is done first where a change takes its row's history with it, and what is always done.
    fn history(&self) -> Option<(String, [String; 2])> {
        let Layout { history: true, .. } = self.layout else { return None };
        let history = History::new(Dialect::Postgres, self.layout);
        let feed = self.feed();
        Some((history.leave.on(&feed), history.follow.map(|fed| fed.on(&feed))))
    }

    /// The changes in the temporary table as statements of [`kept`] take them.
    fn feed(&self) -> String {
        format!("SELECT {}{VERSION} AS v, {EPOCH} AS e, {AT} AS at, {BELOW} AS below FROM {}", fed_key(self.layout), self.stage)
    }
}

/// Columns of the temporary table before those that are written.
fn own_columns(layout: &Layout) -> Vec<(&'static str, Kind)> {
    let kept = [(AT, Kind::Granted(ColumnKind::Time)), (BELOW, Kind::Epoch)];
    let kept = kept.into_iter().filter(|_| layout.keeps());
    [(ROW, Kind::Bytes), (DELETE, Kind::Boolean)].into_iter().chain(kept).collect()
}

/// Every column of the temporary table, with its type.
fn staged(layout: &Layout) -> String {
    let (own, written) = (own_columns(layout), written(layout));
    let columns = own.into_iter().chain(written.iter().map(|column| (column.name, column.kind)));
    join(columns.map(|(name, kind)| format!("{} {}", quote(name), kind.sql())), ", ")
}

/// Begins a transaction, which says first that the exchange writes it where there is a `mark`.
pub(super) fn begin(mark: Option<&str>) -> String {
    mark.map_or("BEGIN".to_owned(), |mark| format!("BEGIN; {mark}"))
}

/// Says that the exchange writes the table and those beside it in the transaction.
pub(super) fn mark(exchange: &str, place: &Place, layout: &Layout) -> String {
    let beside = layout.beside();
    let tables = std::iter::once(layout).chain(&beside).map(|layout| (place.schema.clone(), layout.name.clone()));
    let delivered = Delivered { exchange: exchange.to_owned(), tables: tables.collect() };
    format!("SELECT pg_logical_emit_message(true, '{MESSAGES}', {})", literal(&delivered.content()))
}

/// What `t` holds is older than the delete `s`.
fn held() -> String {
    format!("(t.{VERSION}, t.{EPOCH}) < (s.{VERSION}, s.{EPOCH})")
}

fn fed_key(layout: &Layout) -> String {
    join(layout.key.iter().enumerate().map(|(at, name)| format!("{} AS k{at}, ", quote(name))), "")
}

pub(super) fn is_delete(change: &Change<'_>) -> bool {
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
    statements: Statements<'w>,
    held: &'w Held,
}

impl<'w> Writer<'w> {
    pub(crate) fn new(place: &Place, layout: &'w Layout, form: &'w Form, held: &'w Held) -> Self {
        Self { statements: Statements::new(place, layout, form), held }
    }

    /// Rows go as arrays and need no temporary table.
    fn is_direct(&self, changes: &[&Change<'_>]) -> bool {
        let layout = self.statements.layout;
        let needs_table = self.remembers() || layout.history || layout.foreign || deletes(changes);
        changes.len() <= FEW && !needs_table && self.statements.takes_arrays()
    }

    /// Versions of deleted keys are kept.
    fn remembers(&self) -> bool {
        self.held.remembers.load(Ordering::Acquire)
    }

    fn write(&self, source: &str) -> String {
        if self.held.merges { self.statements.merge(source) } else { self.statements.upsert(source) }
    }

    /// Begins a transaction for the batch; its temporary table comes in the same round trip.
    pub(crate) fn begin(&self, batch: &SinkBatch<'_, '_>) -> String {
        let needs_no_table = |changes: &[&Change<'_>]| changes.is_empty() || self.is_direct(changes);
        match batch.earlier.is_empty() && needs_no_table(batch.changes) {
            true => begin(self.held.mark.as_deref()),
            false => self.begin_staging(),
        }
    }

    /// The same with the temporary table.
    pub(crate) fn begin_staging(&self) -> String {
        self.statements.make() + &begin(self.held.mark.as_deref())
    }

    /// Applies the batch. What [`Writer::begin`] says was done before.
    pub(crate) async fn apply(
        &self,
        connection: &mut PgConnection,
        buffer: &mut Copy,
        batch: &SinkBatch<'_, '_>,
    ) -> Result<(), SinkError> {
        let mut begun = false;
        for changes in batch.parts().filter(|changes| !changes.is_empty()) {
            if std::mem::replace(&mut begun, true) {
                self.execute(connection, &self.statements.empty()).await?;
            }
            if self.is_direct(changes) {
                self.arrays(connection, &self.write(&self.statements.arrays()), buffer, changes).await?;
                continue;
            }
            self.stage(connection, buffer, changes).await?;
            self.apply_staged(connection, batch.entry.at_us, changes).await?;
        }
        Ok(())
    }

    /// Brings changes into the temporary table.
    pub(crate) async fn stage(
        &self,
        connection: &mut PgConnection,
        buffer: &mut Copy,
        changes: &[&Change<'_>],
    ) -> Result<(), SinkError> {
        match changes.len() <= FEW && self.statements.takes_arrays() {
            true => self.arrays(connection, &self.statements.stage_arrays(), buffer, changes).await?,
            false => self.copy(connection, buffer, changes).await?,
        }
        match changes.len() > FEW {
            true => self.execute_as_it_is(connection, self.statements.analyze()).await,
            false => Ok(()),
        }
    }

    /// Applies upserts that are in the temporary table, so many, of a batch without any delete into a table that keeps nothing of rows
    /// that are gone.
    pub(crate) async fn upsert_staged(&self, connection: &mut PgConnection, count: usize) -> Result<(), SinkError> {
        self.leave_out_deleted(connection).await?;
        self.write_staged(connection, count).await
    }

    /// Applies those changes of a batch that are in the temporary table. `at_us`: when, microseconds since 1970-01-01T00:00Z.
    pub(crate) async fn apply_staged(
        &self,
        connection: &mut PgConnection,
        at_us: i64,
        changes: &[&Change<'_>],
    ) -> Result<(), SinkError> {
        let statements = &self.statements;
        self.leave_out_deleted(connection).await?;
        let deletes = deletes(changes);
        let remember = statements.remember();
        let remembered = match remember.as_ref().filter(|_| deletes) {
            Some(remember) => self.execute_for(connection, remember, Some(at_us)).await? > 0,
            None => false,
        };
        let foreign = statements.foreign();
        if let Some((take, _)) = foreign.as_ref().filter(|_| deletes) {
            self.execute(connection, take).await?;
        }
        self.write_staged(connection, changes.len()).await?;
        if deletes && (!self.held.merges || remember.is_none()) {
            for delete in statements.deletes() {
                self.execute(connection, &delete).await?;
            }
        }
        if let Some((_, put)) = &foreign {
            self.execute(connection, put).await?;
        }
        if let Some((leave, follow)) = &statements.history() {
            let leave = changes.iter().any(|change| kept::takes_history(change)).then_some(leave);
            for statement in leave.into_iter().chain(follow) {
                self.execute(connection, statement).await?;
            }
        }
        if remembered {
            // Where the transaction does not become durable, it asks for nothing worse than statements that find nothing.
            self.held.remembers.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Leaves out what is older than its row's delete; of the rest the row is deleted no longer.
    async fn leave_out_deleted(&self, connection: &mut PgConnection) -> Result<(), SinkError> {
        if self.remembers() {
            self.execute_for(connection, &self.statements.leave_out(), None).await?;
            self.execute_for(connection, &self.statements.forget(), None).await?;
        }
        Ok(())
    }

    async fn write_staged(&self, connection: &mut PgConnection, count: usize) -> Result<(), SinkError> {
        let write = self.write(&self.statements.stage);
        match count > FEW {
            true => self.execute_as_it_is(connection, format!("{FREELY}; {write}; {BY_INDEX}")).await,
            false => self.execute(connection, &write).await,
        }
    }

    async fn execute(&self, connection: &mut PgConnection, sql: &str) -> Result<(), SinkError> {
        sqlx::query(AssertSqlSafe(sql)).execute(connection).await.map(drop).map_err(sink_error)
    }

    /// Executes statements that are planned now, for as many rows as there are.
    async fn execute_as_it_is(&self, connection: &mut PgConnection, sql: String) -> Result<(), SinkError> {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop).map_err(sink_error)
    }

    /// Executes a statement on the keys that the subscription deleted.
    async fn execute_for(&self, connection: &mut PgConnection, sql: &str, at_us: Option<i64>) -> Result<u64, SinkError> {
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&*self.statements.form.subscription);
        let query = at_us.into_iter().fold(query, sqlx::query::Query::bind);
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
        let own = [Element::Bytes, Element::Boolean, Element::Time, Element::Long].into_iter().take(self.statements.form.own);
        let written = self.statements.form.columns.iter().map(|(kind, _)| Element::of(*kind));
        let mut columns: Vec<Column> = own.chain(written).map(Column::new).collect();
        for change in changes {
            buffer.bytes.clear();
            self.statements.form.encode(buffer, change, self)?;
            array::take_row(&mut columns, &buffer.bytes);
        }
        let bound = columns.into_iter().fold(sqlx::query(AssertSqlSafe(sql)), sqlx::query::Query::bind);
        bound.execute(connection).await.map_err(sink_error)?;
        Ok(())
    }

    async fn copy(&self, connection: &mut PgConnection, buffer: &mut Copy, changes: &[&Change<'_>]) -> Result<(), SinkError> {
        let mut copy = connection.copy_in_raw(&self.statements.copy()).await.map_err(sink_error)?;
        buffer.start();
        for change in changes {
            if let Err(error) = self.statements.form.encode(buffer, change, self) {
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
