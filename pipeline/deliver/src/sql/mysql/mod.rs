//! MariaDB (10.6 or newer) and MySQL (8.0 or newer, by its documentation: the tests run on MariaDB) sink: multi-row upserts, one
//! transaction for each batch.
//!
//! These servers commit before and after each statement that makes or alters a table, so a takeover is no single transaction: it first
//! raises the epoch, which fences whoever held the subscription, then alters the table in steps that may be done again, and stores what
//! follows from it last, for its own epoch alone.

mod errors;
mod holdings;
mod table;
mod write;

use std::sync::Arc;

use async_trait::async_trait;
use guitong_schemas::contract::Secret;
use sqlx::{AssertSqlSafe, Connection as _, MySql, MySqlConnection, MySqlPool};

use self::errors::sink_error;
use self::holdings::MysqlHoldings;
use self::write::{Statements, Writer};
use super::kept::{self, Dialect};
use super::layout::{Layout, join, quote};
use super::lease::Lease;
use super::reshape::Which;
use super::stored::{Stored, StoredOffset, Takeover, There, fenced, shape_to_store, signed, unsigned};
use super::{EPOCH, VERSION};
use crate::pools::Pools;
use crate::sink::holdings::{HeldRow, Holdings};
use crate::sink::{Ack, PartitionStand, Sink, SinkBatch, SinkError, SinkPlan, Stand, Wants};

/// A new subscription's row says of no table, log or grant, so that everything is delivered.
const CLAIM: &str = "INSERT INTO guitong_subscriptions
        (subscription, table_name, made, log_id, topic, epoch, grant_fingerprint, shape)
    VALUES (?, '', FALSE, '', '', 1, '', '') ON DUPLICATE KEY UPDATE epoch = epoch + 1";
const STORED: &str = "SELECT table_name, made, log_id, topic, epoch, sweep_epoch, grant_fingerprint, shape, entries
    FROM guitong_subscriptions WHERE subscription = ?";
const STORE: &str = "UPDATE guitong_subscriptions
    SET table_name = ?, made = ?, log_id = ?, topic = ?, sweep_epoch = ?, grant_fingerprint = ?, shape = ?
    WHERE subscription = ? AND epoch = ?";
const PARTITIONS: &str = "SELECT \"partition\", next_offset, refill_to FROM guitong_offsets
    WHERE subscription = ? AND topic = ? ORDER BY \"partition\"";
const INSERT_OFFSET: &str = "INSERT INTO guitong_offsets
        (subscription, log_id, topic, \"partition\", next_offset, refill_to, epoch, batch_count, batch_digest)
    VALUES (?, ?, ?, ?, ?, ?, ?, 0, '')";
/// Each offset moves on only from where the batch starts, and only for the holder of the epoch.
const MOVE_OFFSET: &str = "UPDATE guitong_offsets SET next_offset = ?, batch_count = ?, batch_digest = ?
    WHERE subscription = ? AND topic = ? AND \"partition\" = ? AND next_offset = ? AND epoch = ?";

/// Part of a packet that is not a statement's parameters, at most.
const PACKET_REST: usize = 1 << 16;

/// One subscription's table in a MariaDB or MySQL database.
#[derive(Debug)]
pub struct MysqlSink {
    pool: MySqlPool,
    plan: SinkPlan,
    layout: Layout,
    statements: Statements,
    taken: Taken,
}

/// What the sink keeps of a takeover.
#[derive(Debug, Default)]
struct Taken {
    epoch: i64,
    sweep_epoch: Option<i64>,
    /// Versions of deleted keys are kept.
    remembers: bool,
    /// Bytes of parameters that the server takes at once.
    packet: usize,
}

impl MysqlSink {
    /// # Errors
    /// [`SinkError`] for an address that is none.
    pub fn new(pools: &Pools, url: &Secret, table: &str, plan: SinkPlan) -> Result<Self, SinkError> {
        let layout = Layout::new(table, quote, &plan);
        let statements = Statements::new(&layout);
        Ok(Self { pool: pools.mysql(url)?, plan, layout, statements, taken: Taken::default() })
    }

    async fn lease(&self) -> Result<Lease<MySql>, SinkError> {
        Ok(self.pool.acquire().await.map_err(sink_error)?.into())
    }

    /// Takes the subscription from whoever holds it.
    async fn claim(&self, connection: &mut MySqlConnection) -> Result<Stored, SinkError> {
        let mut transaction = connection.begin().await.map_err(sink_error)?;
        sqlx::query(CLAIM).bind(&*self.plan.subscription).execute(&mut *transaction).await.map_err(sink_error)?;
        let stored = sqlx::query_as::<_, Stored>(STORED).bind(&*self.plan.subscription);
        let stored = stored.fetch_one(&mut *transaction).await.map_err(sink_error)?;
        transaction.commit().await.map_err(sink_error)?;
        Ok(stored)
    }

    /// Makes the table fit, and stores what follows.
    async fn prepare(&self, connection: &mut MySqlConnection, stored: &Stored) -> Result<Option<i64>, SinkError> {
        let (layout, plan) = (&self.layout, &self.plan);
        let mut found = table::found(connection, &layout.name).await?;
        let found_past = table::found(connection, &layout.past().name).await?;
        let found_versions = table::found(connection, &layout.versions().name).await?;
        let there = There { rows: !found.is_empty(), past: !found_past.is_empty(), versions: !found_versions.is_empty() };
        let takeover = Takeover::of(Some(stored), plan, layout, there)?;
        let made = stored.made && stored.table_name == layout.table;
        if let Takeover::Regrant(reshape) = &takeover {
            // An earlier takeover may have been stopped half-way.
            let there = |which, name: &str| {
                let found = match which {
                    Which::Rows => &found,
                    Which::Past => &found_past,
                    Which::Versions => &found_versions,
                };
                found.iter().any(|column| table::same(&column.name, name))
            };
            let (statements, stays) = reshape.statements(Dialect::Mysql, layout, made, &there);
            for statement in statements {
                table::run(connection, statement).await?;
            }
            found = if stays { table::found(connection, &layout.name).await? } else { Vec::new() };
        }
        let exists = !found.is_empty();
        match exists {
            true => table::fit(connection, &found, layout, plan, made).await?,
            false if layout.foreign => return Err(table::absent(layout, plan)),
            false => {}
        }
        let sweep_epoch = self.store(connection, stored, &takeover, made || !exists).await?;
        // After it is stored that the exchange makes them: a crash between leaves tables to make.
        if !exists {
            table::create(connection, layout, plan).await?;
        }
        for layout in layout.beside() {
            match table::found(connection, &layout.name).await?.as_slice() {
                [] => table::create(connection, &layout, plan).await?,
                found => table::fit(connection, found, &layout, plan, true).await?,
            }
        }
        Ok(sweep_epoch)
    }

    /// Stores the takeover and gives the offsets to this holder, or forgets them; says whose refill is under way.
    async fn store(
        &self,
        connection: &mut MySqlConnection,
        stored: &Stored,
        takeover: &Takeover,
        made: bool,
    ) -> Result<Option<i64>, SinkError> {
        let mut transaction = connection.begin().await.map_err(sink_error)?;
        let sweep_epoch = match takeover {
            Takeover::Resume => stored.sweep_epoch,
            Takeover::Refill | Takeover::Regrant(_) => Some(stored.epoch),
        };
        let store = sqlx::query(STORE)
            .bind(&self.layout.table)
            .bind(made)
            .bind(&*self.plan.log.0)
            .bind(&*self.plan.topic)
            .bind(sweep_epoch)
            .bind(self.plan.grant.as_slice())
            .bind(shape_to_store(Some(stored), &self.plan, &self.layout)?)
            .bind(&*self.plan.subscription)
            .bind(stored.epoch);
        if store.execute(&mut *transaction).await.map_err(sink_error)?.rows_affected() == 0 {
            return Err(fenced(&self.plan.subscription));
        }
        let offsets = match takeover {
            Takeover::Resume => sqlx::query("UPDATE guitong_offsets SET epoch = ? WHERE subscription = ?").bind(stored.epoch),
            Takeover::Refill | Takeover::Regrant(_) => sqlx::query("DELETE FROM guitong_offsets WHERE subscription = ?"),
        };
        offsets.bind(&*self.plan.subscription).execute(&mut *transaction).await.map_err(sink_error)?;
        if takeover.rekeys() {
            // Rows are keyed in another way: deleted keys are granted no longer.
            let forget = sqlx::query("DELETE FROM guitong_deleted WHERE subscription = ?").bind(&*self.plan.subscription);
            forget.execute(&mut *transaction).await.map_err(sink_error)?;
        }
        transaction.commit().await.map_err(sink_error)?;
        Ok(sweep_epoch)
    }

    async fn stand(&self, connection: &mut MySqlConnection, stored: &Stored, refilling: bool) -> Result<Stand, SinkError> {
        let partitions = sqlx::query_as::<_, StoredOffset>(PARTITIONS).bind(&*self.plan.subscription).bind(&*self.plan.topic);
        let partitions = partitions.fetch_all(connection).await.map_err(sink_error)?;
        let partitions = partitions.into_iter().map(PartitionStand::from).collect();
        let (entries, sealed) = stored.entries()?;
        Ok(Stand { epoch: unsigned(stored.epoch), partitions, refilling, entries, sealed })
    }

    /// Sets the epoch of the refill under way if this holder still has the subscription.
    async fn set_sweep(&self, connection: &mut MySqlConnection, sweep_epoch: Option<i64>) -> Result<(), SinkError> {
        let set = sqlx::query("UPDATE guitong_subscriptions SET sweep_epoch = ? WHERE subscription = ? AND epoch = ?");
        let set = set.bind(sweep_epoch).bind(&*self.plan.subscription).bind(self.taken.epoch);
        match set.execute(connection).await.map_err(sink_error)?.rows_affected() {
            0 => Err(fenced(&self.plan.subscription)),
            _ => Ok(()),
        }
    }

    /// Moves each offset on from where the batch starts, and keeps the audit entries; fenced where one is not there.
    async fn move_offsets(&self, connection: &mut MySqlConnection, batch: &SinkBatch<'_, '_>) -> Result<(), SinkError> {
        for range in batch.ranges {
            let moved = sqlx::query(MOVE_OFFSET)
                .bind(signed(range.to))
                .bind(signed(batch.entry.count))
                .bind(&batch.entry.content.0)
                .bind(&*self.plan.subscription)
                .bind(&*self.plan.topic)
                .bind(i64::from(range.partition))
                .bind(signed(range.from))
                .bind(self.taken.epoch);
            if moved.execute(&mut *connection).await.map_err(sink_error)?.rows_affected() != 1 {
                return Err(fenced(&self.plan.subscription));
            }
        }
        let noted = sqlx::query("UPDATE guitong_subscriptions SET entries = ? WHERE subscription = ? AND epoch = ?");
        let noted = noted.bind(batch.entries()).bind(&*self.plan.subscription).bind(self.taken.epoch);
        match noted.execute(connection).await.map_err(sink_error)?.rows_affected() {
            0 => Err(fenced(&self.plan.subscription)),
            _ => Ok(()),
        }
    }
}

impl MysqlSink {
    async fn take_over(&self, connection: &mut MySqlConnection) -> Result<(Taken, Stand), SinkError> {
        table::make_own_tables(connection).await?;
        let stored = self.claim(connection).await?;
        let sweep_epoch = self.prepare(connection, &stored).await?;
        let asks = "SELECT EXISTS (SELECT 1 FROM guitong_deleted WHERE subscription = ?), CAST(@@max_allowed_packet AS SIGNED)";
        let (remembers, packet): (bool, i64) =
            sqlx::query_as(asks).bind(&*self.plan.subscription).fetch_one(&mut *connection).await.map_err(sink_error)?;
        let packet = usize::try_from(packet).unwrap_or_default().saturating_sub(PACKET_REST);
        let stand = self.stand(connection, &stored, sweep_epoch.is_some()).await?;
        Ok((Taken { epoch: stored.epoch, sweep_epoch, remembers, packet }, stand))
    }

    /// Sets every offset anew; `sweep_epoch`: that of a refill which begins.
    async fn put_offsets(&mut self, partitions: &[PartitionStand], sweep_epoch: Option<i64>) -> Result<(), SinkError> {
        let mut lease = self.lease().await?;
        let put = self.store_offsets(&mut lease, partitions, sweep_epoch).await;
        lease.ended = true;
        put?;
        self.taken.sweep_epoch = sweep_epoch;
        Ok(())
    }

    async fn store_offsets(
        &self,
        connection: &mut MySqlConnection,
        partitions: &[PartitionStand],
        sweep_epoch: Option<i64>,
    ) -> Result<(), SinkError> {
        let mut transaction = connection.begin().await.map_err(sink_error)?;
        self.set_sweep(&mut transaction, sweep_epoch).await?;
        let delete = sqlx::query("DELETE FROM guitong_offsets WHERE subscription = ?").bind(&*self.plan.subscription);
        delete.execute(&mut *transaction).await.map_err(sink_error)?;
        for stand in partitions {
            let insert = sqlx::query(INSERT_OFFSET)
                .bind(&*self.plan.subscription)
                .bind(&*self.plan.log.0)
                .bind(&*self.plan.topic)
                .bind(i64::from(stand.partition))
                .bind(signed(stand.next))
                .bind(signed(stand.refill_to))
                .bind(self.taken.epoch);
            insert.execute(&mut *transaction).await.map_err(sink_error)?;
        }
        transaction.commit().await.map_err(sink_error)
    }

    /// Says whether a deleted key is remembered.
    async fn apply(&self, connection: &mut MySqlConnection, batch: &SinkBatch<'_, '_>) -> Result<bool, SinkError> {
        let mut transaction = connection.begin().await.map_err(sink_error)?;
        self.move_offsets(&mut transaction, batch).await?;
        let mut writer = Writer {
            statements: &self.statements,
            subscription: &self.plan.subscription,
            epoch: self.taken.epoch,
            sweep_epoch: self.taken.sweep_epoch,
            remembers: self.taken.remembers,
            now_us: batch.entry.at_us,
            packet: self.taken.packet,
        };
        for changes in batch.parts() {
            writer.remembers |= writer.apply(&mut transaction, changes).await?;
        }
        let remembers = writer.remembers;
        transaction.commit().await.map_err(sink_error)?;
        Ok(remembers)
    }

    async fn remove_seen(
        &self,
        connection: &mut MySqlConnection,
        rows: &[HeldRow],
        batch: &SinkBatch<'_, '_>,
    ) -> Result<u64, SinkError> {
        let key = join(self.layout.key.iter().map(|name| format!("{} = ?", quote(name))), " AND ");
        let sql = format!("DELETE FROM {} WHERE {VERSION} <=> ? AND {EPOCH} <=> ? AND {key}", self.layout.table);
        let mut transaction = connection.begin().await.map_err(sink_error)?;
        self.move_offsets(&mut transaction, batch).await?;
        let mut removed = 0;
        for row in rows {
            let delete = sqlx::query(AssertSqlSafe(sql.as_str())).bind(&row.version).bind(row.epoch);
            let delete = match self.layout.hashed {
                true => row.hashed_key().into_iter().fold(delete, |delete, key| delete.bind(key)),
                false => row.key.iter().fold(delete, |delete, part| delete.bind(part)),
            };
            removed += delete.execute(&mut *transaction).await.map_err(sink_error)?.rows_affected();
        }
        if let Some(orphans) = kept::orphans(&self.layout) {
            table::run(&mut transaction, orphans).await?;
        }
        transaction.commit().await.map_err(sink_error)?;
        Ok(removed)
    }

    async fn remove_unmet(&self, connection: &mut MySqlConnection, sweep_epoch: i64) -> Result<u64, SinkError> {
        let mut transaction = connection.begin().await.map_err(sink_error)?;
        self.set_sweep(&mut transaction, None).await?;
        let now = jiff::Timestamp::now().as_microsecond();
        let mut swept = 0;
        for statement in kept::sweep(Dialect::Mysql, &self.layout, sweep_epoch, self.taken.epoch, now) {
            swept = table::run(&mut transaction, statement).await?;
        }
        transaction.commit().await.map_err(sink_error)?;
        Ok(swept)
    }
}

#[async_trait]
impl Sink for MysqlSink {
    fn wants(&self) -> Wants {
        self.layout.wants()
    }

    async fn open(&mut self) -> Result<Stand, SinkError> {
        let mut lease = self.lease().await?;
        let taken = self.take_over(&mut lease).await;
        lease.ended = true;
        let (taken, stand) = taken?;
        self.taken = taken;
        Ok(stand)
    }

    async fn begin_refill(&mut self, partitions: &[PartitionStand]) -> Result<(), SinkError> {
        self.put_offsets(partitions, Some(self.taken.epoch)).await
    }

    fn keeps(&self) -> Option<&'static str> {
        self.layout.why_kept()
    }

    fn replays(&self) -> bool {
        true
    }

    async fn begin_replay(&mut self, partitions: &[PartitionStand]) -> Result<(), SinkError> {
        self.put_offsets(partitions, None).await
    }

    async fn write(&mut self, batch: &SinkBatch<'_, '_>) -> Result<Ack, SinkError> {
        let mut lease = self.lease().await?;
        let remembers = self.apply(&mut lease, batch).await;
        lease.ended = true;
        self.taken.remembers = remembers?;
        Ok(batch.ack())
    }

    fn holdings(&self) -> Option<Arc<dyn Holdings>> {
        // Which rows are the subscription's, a table of the department's does not say.
        let layout = Some(self.layout.clone()).filter(|layout| !layout.foreign)?;
        Some(Arc::new(MysqlHoldings { pool: self.pool.clone(), plan: self.plan.clone(), layout }))
    }

    async fn remove(&mut self, rows: &[HeldRow], batch: &SinkBatch<'_, '_>) -> Result<u64, SinkError> {
        let mut lease = self.lease().await?;
        let removed = self.remove_seen(&mut lease, rows, batch).await;
        lease.ended = true;
        removed
    }

    async fn sweep(&mut self) -> Result<u64, SinkError> {
        let Some(sweep_epoch) = self.taken.sweep_epoch else { return Ok(0) };
        let mut lease = self.lease().await?;
        let swept = self.remove_unmet(&mut lease, sweep_epoch).await;
        lease.ended = true;
        let swept = swept?;
        self.taken.sweep_epoch = None;
        Ok(swept)
    }

    async fn forget_deleted(&mut self, before_us: i64) -> Result<(), SinkError> {
        if !self.taken.remembers {
            return Ok(());
        }
        let mut lease = self.lease().await?;
        let forget = sqlx::query("DELETE FROM guitong_deleted WHERE subscription = ? AND deleted_us < ?");
        let forgotten = forget.bind(&*self.plan.subscription).bind(before_us).execute(&mut *lease).await;
        lease.ended = true;
        forgotten.map(|_| ()).map_err(sink_error)
    }
}
