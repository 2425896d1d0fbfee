//! SQLite sink: multi-row upserts, one transaction for each batch. A node opens a thousand of these when it starts, and each
//! statement costs a round trip to SQLite's thread: what opens one is as few as can be.

mod errors;
mod table;
mod write;

use std::path::Path;

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, FromRow as _, Row as _, Sqlite, SqlitePool, Transaction};

use self::errors::sink_error;
use self::write::{Statements, Writer};
use super::layout::{Layout, Shape, quote};
use super::stored::{Stored, StoredOffset, Takeover, fenced, signed, unsigned};
use super::{EPOCH, Pools};
use crate::sink::{Ack, PartitionStand, Sink, SinkBatch, SinkError, SinkPlan, Stand};

/// Gives the stored offsets to a new holder, or forgets them.
const KEEP_OFFSETS: &str = "UPDATE guitong_offsets SET epoch = $6 WHERE subscription = $1";
const FORGET_OFFSETS: &str = "DELETE FROM guitong_offsets WHERE subscription = $1";

/// One of the two above goes before it, with the same arguments.
const STORE: &str = "INSERT INTO guitong_subscriptions
        (subscription, table_name, made, log_id, topic, epoch, sweep_epoch, grant_fingerprint, shape)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT (subscription) DO UPDATE SET table_name = excluded.table_name, made = excluded.made, log_id = excluded.log_id,
        topic = excluded.topic, epoch = excluded.epoch, sweep_epoch = excluded.sweep_epoch,
        grant_fingerprint = excluded.grant_fingerprint, shape = excluded.shape";

/// Offsets by partition, each with whether versions of deleted keys are kept; a row without a partition where there are none.
const PARTITIONS: &str = "SELECT partition, next_offset, refill_to,
        EXISTS (SELECT 1 FROM guitong_deleted WHERE guitong_deleted.subscription = $1)
    FROM (SELECT 1) LEFT JOIN guitong_offsets ON subscription = $1 AND topic = $2 ORDER BY partition";

const SET_SWEEP: &str = "UPDATE guitong_subscriptions SET sweep_epoch = $3 WHERE subscription = $1 AND epoch = $2";

/// One subscription's table in a SQLite file.
#[derive(Debug)]
pub struct SqliteSink {
    pool: SqlitePool,
    name: String,
    plan: SinkPlan,
    layout: Layout,
    statements: Statements,
    epoch: i64,
    sweep_epoch: Option<i64>,
    remembers: bool,
}

type Tx = Transaction<'static, Sqlite>;

impl SqliteSink {
    #[must_use]
    pub fn new(pools: &Pools, path: &Path, table: &str, plan: SinkPlan) -> Self {
        let layout = Layout::new(quote(table), &plan);
        let statements = Statements::new(&layout);
        let pool = pools.sqlite(path);
        Self { pool, name: table.to_owned(), plan, layout, statements, epoch: 0, sweep_epoch: None, remembers: false }
    }

    fn subscription(&self) -> String {
        self.plan.subscription.to_string()
    }

    async fn begin(&self) -> Result<Tx, SinkError> {
        self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(sink_error)
    }

    /// Makes the table fit, and says what is to happen with offsets and whether the exchange made the table.
    async fn prepare(&self, transaction: &mut Tx, stored: Option<&Stored>) -> Result<(Takeover, bool), SinkError> {
        let mut found = table::found(transaction, &self.name).await?;
        let takeover = Takeover::of(stored, &self.plan, &self.layout, !found.is_empty())?;
        let made = stored.is_some_and(|stored| stored.made && stored.table_name == self.layout.table);
        if let Takeover::Regrant(reshape) = &takeover {
            let (statements, stays) = reshape.statements(&self.layout, made);
            for statement in statements {
                table::run(transaction, statement).await?;
            }
            found = if stays { table::found(transaction, &self.name).await? } else { Vec::new() };
        }
        let exists = !found.is_empty();
        if exists {
            table::fit(transaction, &self.name, &found, &self.layout, &self.plan, made).await?;
        } else {
            table::create(transaction, &self.layout).await?;
        }
        Ok((takeover, made || !exists))
    }

    async fn store(
        &self,
        transaction: &mut Tx,
        offsets: &str,
        made: bool,
        epoch: i64,
        sweep_epoch: Option<i64>,
    ) -> Result<(), SinkError> {
        let store = sqlx::query(AssertSqlSafe(format!("{offsets}; {STORE}")))
            .bind(self.subscription())
            .bind(self.layout.table.clone())
            .bind(made)
            .bind(self.plan.log.0.to_string())
            .bind(self.plan.topic.to_string())
            .bind(epoch)
            .bind(sweep_epoch)
            .bind(self.plan.grant.to_vec())
            .bind(Shape::of(&self.layout).to_json()?);
        store.execute(&mut **transaction).await.map_err(sink_error)?;
        Ok(())
    }

    /// Sets the epoch of the refill under way if this holder still has the subscription.
    async fn set_sweep(&self, transaction: &mut Tx, sweep_epoch: Option<i64>) -> Result<(), SinkError> {
        let set = sqlx::query(SET_SWEEP).bind(self.subscription()).bind(self.epoch).bind(sweep_epoch);
        match set.execute(&mut **transaction).await.map_err(sink_error)?.rows_affected() {
            0 => Err(fenced(&self.plan.subscription)),
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
                .bind(self.plan.topic.to_string())
                .bind(i64::from(range.partition))
                .bind(signed(range.from))
                .bind(self.epoch);
            if moved.execute(&mut **transaction).await.map_err(sink_error)?.rows_affected() != 1 {
                return Err(fenced(&self.plan.subscription));
            }
        }
        let sql = "UPDATE guitong_subscriptions SET entries = $1 WHERE subscription = $2 AND epoch = $3";
        let noted = sqlx::query(sql).bind(batch.entries()).bind(self.subscription()).bind(self.epoch);
        match noted.execute(&mut **transaction).await.map_err(sink_error)?.rows_affected() {
            0 => Err(fenced(&self.plan.subscription)),
            _ => Ok(()),
        }
    }

    /// Where each partition stands, and whether versions of deleted keys are kept.
    async fn partitions(&self, transaction: &mut Tx) -> Result<(Vec<PartitionStand>, bool), SinkError> {
        let rows = sqlx::query(PARTITIONS).bind(self.subscription()).bind(self.plan.topic.to_string());
        let rows = rows.fetch_all(&mut **transaction).await.map_err(sink_error)?;
        let (mut stands, mut remembers) = (Vec::with_capacity(rows.len()), false);
        for row in rows {
            remembers = row.try_get(3).map_err(sink_error)?;
            if row.try_get::<Option<i64>, _>(0).map_err(sink_error)?.is_some() {
                stands.push(StoredOffset::from_row(&row).map_err(sink_error)?.into());
            }
        }
        Ok((stands, remembers))
    }
}

#[async_trait]
impl Sink for SqliteSink {
    async fn open(&mut self) -> Result<Stand, SinkError> {
        let mut transaction = self.begin().await?;
        let stored = sqlx::query_as::<_, Stored>(table::STORED).bind(self.subscription());
        let stored = stored.fetch_optional(&mut *transaction).await.map_err(sink_error)?;
        let (takeover, made) = match self.prepare(&mut transaction, stored.as_ref()).await {
            Ok(prepared) => prepared,
            Err(error) => {
                // What is no longer granted stays away even where the table does not fit what is.
                transaction.commit().await.map_err(sink_error)?;
                return Err(error);
            }
        };
        let epoch = stored.as_ref().map_or(0, |stored| stored.epoch) + 1;
        let (offsets, sweep_epoch) = match takeover {
            Takeover::Resume => (KEEP_OFFSETS, stored.as_ref().and_then(|stored| stored.sweep_epoch)),
            Takeover::Refill | Takeover::Regrant(_) => (FORGET_OFFSETS, Some(epoch)),
        };
        self.store(&mut transaction, offsets, made, epoch, sweep_epoch).await?;
        let (partitions, remembers) = self.partitions(&mut transaction).await?;
        let entries = stored.as_ref().map(Stored::entries).transpose()?.unwrap_or_default();
        transaction.commit().await.map_err(sink_error)?;
        (self.epoch, self.sweep_epoch, self.remembers) = (epoch, sweep_epoch, remembers);
        Ok(Stand { epoch: unsigned(epoch), partitions, refilling: sweep_epoch.is_some(), entries })
    }

    async fn begin_refill(&mut self, partitions: &[PartitionStand]) -> Result<(), SinkError> {
        let mut transaction = self.begin().await?;
        self.set_sweep(&mut transaction, Some(self.epoch)).await?;
        let delete = sqlx::query("DELETE FROM guitong_offsets WHERE subscription = $1").bind(self.subscription());
        delete.execute(&mut *transaction).await.map_err(sink_error)?;
        for stand in partitions {
            let sql = "INSERT INTO guitong_offsets
                (subscription, log_id, topic, partition, next_offset, refill_to, epoch, batch_count, batch_digest)
                VALUES ($1, $2, $3, $4, $5, $6, $7, 0, '')";
            let insert = sqlx::query(sql)
                .bind(self.subscription())
                .bind(self.plan.log.0.to_string())
                .bind(self.plan.topic.to_string())
                .bind(i64::from(stand.partition))
                .bind(signed(stand.next))
                .bind(signed(stand.refill_to))
                .bind(self.epoch);
            insert.execute(&mut *transaction).await.map_err(sink_error)?;
        }
        transaction.commit().await.map_err(sink_error)?;
        self.sweep_epoch = Some(self.epoch);
        Ok(())
    }

    async fn write(&mut self, batch: &SinkBatch<'_, '_>) -> Result<Ack, SinkError> {
        let mut transaction = self.begin().await?;
        self.move_offsets(&mut transaction, batch).await?;
        let writer = Writer {
            statements: &self.statements,
            subscription: &self.plan.subscription,
            epoch: self.epoch,
            remembers: self.remembers,
            now_us: batch.entry.at_us,
        };
        let remembered = writer.apply(&mut transaction, batch.changes).await?;
        transaction.commit().await.map_err(sink_error)?;
        self.remembers |= remembered;
        Ok(Ack { durable: batch.ranges.iter().map(|range| (range.partition, range.to)).collect() })
    }

    async fn sweep(&mut self) -> Result<u64, SinkError> {
        let Some(sweep_epoch) = self.sweep_epoch else { return Ok(0) };
        let mut transaction = self.begin().await?;
        self.set_sweep(&mut transaction, None).await?;
        let sql = format!("DELETE FROM {} WHERE {EPOCH} < {sweep_epoch}", self.layout.table);
        let swept = table::run(&mut transaction, sql).await?;
        transaction.commit().await.map_err(sink_error)?;
        self.sweep_epoch = None;
        Ok(swept)
    }

    async fn forget_deleted(&mut self, before_us: i64) -> Result<(), SinkError> {
        if !self.remembers {
            return Ok(());
        }
        let sql = "DELETE FROM guitong_deleted WHERE subscription = $1 AND deleted_us < $2";
        let forget = sqlx::query(sql).bind(self.subscription()).bind(before_us);
        forget.execute(&self.pool).await.map_err(sink_error)?;
        Ok(())
    }
}
