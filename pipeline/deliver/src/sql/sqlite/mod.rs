//! SQLite sink: multi-row upserts, one transaction for each batch.

mod errors;
mod holdings;
mod opening;
mod table;
mod write;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Sqlite, Transaction};

pub(crate) use self::errors::sink_error;
use self::holdings::SqliteHoldings;
pub(crate) use self::opening::SqliteFile;
use self::opening::{Opening, Taken};
use self::write::{Statements, Writer};
use super::kept::{self, Dialect};
use super::layout::{Layout, join, quote};
use super::stored::{fenced, signed};
use super::{EPOCH, VERSION};
use crate::pools::Pools;
use crate::pull::Outbox;
use crate::sink::holdings::{HeldRow, Holdings};
use crate::sink::{Ack, PartitionStand, Sink, SinkBatch, SinkError, SinkPlan, Stand, Wants};

const SET_SWEEP: &str = "UPDATE guitong_subscriptions SET sweep_epoch = $3 WHERE subscription = $1 AND epoch = $2";

/// One subscription's table in a SQLite file.
#[derive(Debug)]
pub struct SqliteSink {
    file: Arc<SqliteFile>,
    opening: Arc<Opening>,
    statements: Statements,
    epoch: i64,
    sweep_epoch: Option<i64>,
    remembers: bool,
}

type Tx = Transaction<'static, Sqlite>;

impl SqliteSink {
    #[must_use]
    pub fn new(pools: &Pools, path: &Path, table: &str, plan: SinkPlan) -> Self {
        Self::into(pools.sqlite(path), table, plan, None)
    }

    /// As [`SqliteSink::new`], into the table of an outbox.
    pub(crate) fn outbox(file: Arc<SqliteFile>, outbox: Outbox, plan: SinkPlan) -> Self {
        let rows = outbox.rows();
        Self::into(file, &rows, plan, Some(outbox))
    }

    fn into(file: Arc<SqliteFile>, name: &str, plan: SinkPlan, outbox: Option<Outbox>) -> Self {
        let layout = Layout::new(name, quote, &plan);
        let statements = Statements::new(&layout);
        let opening = Arc::new(Opening { plan, layout, outbox });
        Self { file, opening, statements, epoch: 0, sweep_epoch: None, remembers: false }
    }

    /// Whoever reads the outbox learns of what was committed.
    fn ring(&self) {
        if let Some(outbox) = &self.opening.outbox {
            outbox.ring();
        }
    }

    fn subscription(&self) -> String {
        self.opening.subscription()
    }

    /// A transaction that delivers.
    async fn begin(&self) -> Result<Tx, SinkError> {
        let Opening { plan, layout, outbox } = &*self.opening;
        match outbox {
            Some(_) => self.file.begin().await,
            None => self.file.begin_with(&table::mark(&plan.exchange, layout)).await,
        }
    }

    async fn commit(&self, mut transaction: Tx) -> Result<(), SinkError> {
        if self.opening.outbox.is_none() {
            table::run(&mut transaction, table::UNMARK.to_owned()).await?;
        }
        transaction.commit().await.map_err(sink_error)
    }

    /// Sets the epoch of the refill under way if this holder still has the subscription.
    async fn set_sweep(&self, transaction: &mut Tx, sweep_epoch: Option<i64>) -> Result<(), SinkError> {
        let set = sqlx::query(SET_SWEEP).bind(self.subscription()).bind(self.epoch).bind(sweep_epoch);
        match set.execute(&mut **transaction).await.map_err(sink_error)?.rows_affected() {
            0 => Err(fenced(&self.opening.plan.subscription)),
            _ => Ok(()),
        }
    }

    /// Moves each offset on from where the batch starts, and keeps the audit entries; fenced where one is not there.
    async fn move_offsets(&self, transaction: &mut Tx, batch: &SinkBatch<'_, '_>) -> Result<(), SinkError> {
        for range in batch.ranges {
            let sql = "UPDATE guitong_offsets SET next_offset = $1, batch_count = $2, batch_digest = $3
                WHERE subscription = $4 AND topic = $5 AND partition = $6 AND next_offset = $7 AND epoch = $8";
            let moved = sqlx::query(sql)
                .bind(signed(range.to))
                .bind(signed(batch.entry.count))
                .bind(batch.entry.content.0.clone())
                .bind(self.subscription())
                .bind(self.opening.plan.topic.to_string())
                .bind(i64::from(range.partition))
                .bind(signed(range.from))
                .bind(self.epoch);
            if moved.execute(&mut **transaction).await.map_err(sink_error)?.rows_affected() != 1 {
                return Err(fenced(&self.opening.plan.subscription));
            }
        }
        let sql = "UPDATE guitong_subscriptions SET entries = $1 WHERE subscription = $2 AND epoch = $3";
        let noted = sqlx::query(sql).bind(batch.entries()).bind(self.subscription()).bind(self.epoch);
        match noted.execute(&mut **transaction).await.map_err(sink_error)?.rows_affected() {
            0 => Err(fenced(&self.opening.plan.subscription)),
            _ => Ok(()),
        }
    }

    /// Sets every offset anew; `sweep_epoch`: that of a refill which begins.
    async fn put_offsets(&mut self, partitions: &[PartitionStand], sweep_epoch: Option<i64>) -> Result<(), SinkError> {
        let mut transaction = self.file.begin().await?;
        self.set_sweep(&mut transaction, sweep_epoch).await?;
        let delete = sqlx::query("DELETE FROM guitong_offsets WHERE subscription = $1").bind(self.subscription());
        delete.execute(&mut *transaction).await.map_err(sink_error)?;
        for stand in partitions {
            let sql = "INSERT INTO guitong_offsets
                (subscription, log_id, topic, partition, next_offset, refill_to, epoch, batch_count, batch_digest)
                VALUES ($1, $2, $3, $4, $5, $6, $7, 0, '')";
            let insert = sqlx::query(sql)
                .bind(self.subscription())
                .bind(self.opening.plan.log.0.to_string())
                .bind(self.opening.plan.topic.to_string())
                .bind(i64::from(stand.partition))
                .bind(signed(stand.next))
                .bind(signed(stand.refill_to))
                .bind(self.epoch);
            insert.execute(&mut *transaction).await.map_err(sink_error)?;
        }
        transaction.commit().await.map_err(sink_error)?;
        self.sweep_epoch = sweep_epoch;
        Ok(())
    }
}

#[async_trait]
impl Sink for SqliteSink {
    fn wants(&self) -> Wants {
        self.opening.layout.wants()
    }

    async fn open(&mut self) -> Result<Stand, SinkError> {
        if let Some(outbox) = &self.opening.outbox {
            outbox.make().await?;
        }
        let Taken { epoch, sweep_epoch, remembers, stand } = self.file.open(&self.opening).await?;
        (self.epoch, self.sweep_epoch, self.remembers) = (epoch, sweep_epoch, remembers);
        self.ring();
        Ok(stand)
    }

    async fn begin_refill(&mut self, partitions: &[PartitionStand]) -> Result<(), SinkError> {
        self.put_offsets(partitions, Some(self.epoch)).await
    }

    /// Of an outbox that is pulled, whoever pulls goes back by himself.
    fn keeps(&self) -> Option<&'static str> {
        self.opening.layout.why_kept()
    }

    fn replays(&self) -> bool {
        self.opening.outbox.is_none()
    }

    async fn begin_replay(&mut self, partitions: &[PartitionStand]) -> Result<(), SinkError> {
        self.put_offsets(partitions, None).await
    }

    async fn write(&mut self, batch: &SinkBatch<'_, '_>) -> Result<Ack, SinkError> {
        let mut transaction = self.begin().await?;
        self.move_offsets(&mut transaction, batch).await?;
        let mut writer = Writer {
            statements: &self.statements,
            subscription: &self.opening.plan.subscription,
            epoch: self.epoch,
            sweep_epoch: self.sweep_epoch,
            remembers: self.remembers,
            now_us: batch.entry.at_us,
        };
        for changes in batch.parts() {
            writer.remembers |= writer.apply(&mut transaction, changes).await?;
        }
        let remembers = writer.remembers;
        if let Some(outbox) = &self.opening.outbox {
            outbox.trim(&mut transaction).await?;
        }
        self.commit(transaction).await?;
        self.remembers = remembers;
        self.ring();
        Ok(batch.ack())
    }

    fn holdings(&self) -> Option<Arc<dyn Holdings>> {
        // Which rows are the subscription's, a table of the department's does not say.
        let Opening { plan, layout, outbox: None } = &*self.opening else { return None };
        let layout = Some(layout.clone()).filter(|layout| !layout.foreign)?;
        Some(Arc::new(SqliteHoldings { file: Arc::clone(&self.file), plan: plan.clone(), layout }))
    }

    async fn remove(&mut self, rows: &[HeldRow], batch: &SinkBatch<'_, '_>) -> Result<u64, SinkError> {
        let layout = &self.opening.layout;
        let key = join(layout.key.iter().enumerate().map(|(at, name)| format!("{} = ${}", quote(name), at + 3)), " AND ");
        let sql = format!("DELETE FROM {} WHERE {VERSION} IS $1 AND {EPOCH} IS $2 AND {key}", layout.table);
        let mut transaction = self.begin().await?;
        self.move_offsets(&mut transaction, batch).await?;
        let mut removed = 0;
        for row in rows {
            let delete = sqlx::query(AssertSqlSafe(sql.as_str())).bind(row.version.clone()).bind(row.epoch);
            let delete = match layout.hashed {
                true => row.hashed_key().into_iter().fold(delete, |delete, key| delete.bind(key)),
                false => row.key.iter().fold(delete, |delete, part| delete.bind(part.clone())),
            };
            removed += delete.execute(&mut *transaction).await.map_err(sink_error)?.rows_affected();
        }
        if let Some(orphans) = kept::orphans(layout) {
            table::run(&mut transaction, orphans).await?;
        }
        self.commit(transaction).await?;
        Ok(removed)
    }

    async fn sweep(&mut self) -> Result<u64, SinkError> {
        let Some(sweep_epoch) = self.sweep_epoch else { return Ok(0) };
        let mut transaction = self.begin().await?;
        self.set_sweep(&mut transaction, None).await?;
        let now = jiff::Timestamp::now().as_microsecond();
        let mut swept = 0;
        for statement in kept::sweep(Dialect::Sqlite, &self.opening.layout, sweep_epoch, self.epoch, now) {
            swept = table::run(&mut transaction, statement).await?;
        }
        if let Some(outbox) = &self.opening.outbox {
            outbox.swept(&mut transaction).await?;
        }
        self.commit(transaction).await?;
        self.sweep_epoch = None;
        self.ring();
        Ok(swept)
    }

    async fn forget_deleted(&mut self, before_us: i64) -> Result<(), SinkError> {
        if !self.remembers {
            return Ok(());
        }
        let sql = "DELETE FROM guitong_deleted WHERE subscription = $1 AND deleted_us < $2";
        let forget = sqlx::query(sql).bind(self.subscription()).bind(before_us);
        forget.execute(&self.file.pool).await.map_err(sink_error)?;
        Ok(())
    }
}
