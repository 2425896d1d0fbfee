//! PostgreSQL sink (14 or newer): binary COPY, or arrays, into a temporary table and one MERGE, one transaction for each batch.

mod array;
mod copy;
mod errors;
mod holdings;
mod own;
mod stage;
mod table;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use guitong_schemas::contract::Secret;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool, Postgres, Transaction};
use tokio::sync::Semaphore;

use self::copy::Copy;
use self::errors::sink_error;
use self::holdings::PostgresHoldings;
use self::own::Own;
use self::stage::{Applied, PostgresStager, Reached, Rows};
use self::table::Place;
use self::write::{Form, MERGE_VERSION, Writer, is_delete};
use super::kept::{self, Dialect};
use super::layout::{Layout, join, quote};
use super::lease::Lease;
use super::reshape::Which;
use super::stored::{Stored, StoredOffset, Takeover, There, fenced, shape_to_store, signed, unsigned};
use super::{EPOCH, VERSION};
use crate::pools::{Pools, PostgresServer};
use crate::sink::holdings::{HeldRow, Holdings};
use crate::sink::{Ack, PartitionStand, Sink, SinkBatch, SinkError, SinkErrorKind, SinkPlan, Staged, Stager, Stand, Wants};

/// One subscription's table in a PostgreSQL database.
#[derive(Debug)]
pub struct PostgresSink {
    pool: PgPool,
    place: Place,
    plan: SinkPlan,
    layout: Arc<Layout>,
    form: Arc<Form>,
    buffer: Copy,
    held: Held,
    /// Whose turn it is to stage rows.
    staging: Arc<Semaphore>,
    /// No batch is applied before the one before it is durable.
    stays_behind: Arc<AtomicBool>,
}

/// What a takeover brought, as it is by now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    epoch: i64,
    /// Of the refill under way.
    sweep_epoch: Option<i64>,
    /// Versions of deleted keys are kept. Clones share it.
    remembers: Arc<AtomicBool>,
    /// The server has MERGE.
    merges: bool,
    /// What transactions begin with, where they may say that the exchange writes them.
    mark: Option<String>,
}

type Tx<'c> = Transaction<'c, Postgres>;

impl PostgresSink {
    /// # Errors
    /// [`SinkError`] for an address that is none.
    pub fn new(pools: &Pools, url: &Secret, schema: &str, table: &str, plan: SinkPlan) -> Result<Self, SinkError> {
        let place = Place { schema: schema.to_owned() };
        let layout = Arc::new(Layout::new(table, |name| place.qualified(name), &plan));
        let PostgresServer { pool, staging } = pools.postgres(url)?;
        let (form, held) = (Arc::new(Form::new(&layout, &plan)), Held::default());
        Ok(Self { pool, place, plan, layout, form, buffer: Copy::default(), held, staging, stays_behind: Arc::default() })
    }

    /// A transaction that delivers.
    async fn begin(&self) -> Result<Tx<'static>, SinkError> {
        self.pool.begin_with(AssertSqlSafe(write::begin(self.held.mark.as_deref()))).await.map_err(sink_error)
    }

    fn own(&self) -> Own<'_> {
        Own { place: &self.place }
    }

    /// Makes the table fit, and says what is to happen with offsets and whether the exchange made the table.
    async fn prepare(&self, connection: &mut PgConnection, stored: Option<&Stored>) -> Result<(Takeover, bool), SinkError> {
        let place = &self.place;
        let mut exists = table::exists(connection, place, &self.layout.name).await?;
        let there = There {
            rows: exists,
            past: table::exists(connection, place, &self.layout.past().name).await?,
            versions: table::exists(connection, place, &self.layout.versions().name).await?,
        };
        let takeover = Takeover::of(stored, &self.plan, &self.layout, there)?;
        let made = stored.is_some_and(|stored| stored.made && stored.table_name == self.layout.table);
        if let Takeover::Regrant(reshape) = &takeover {
            let rows = table::found(connection, place, &self.layout).await?;
            let past = table::found(connection, place, &self.layout.past()).await?;
            // Taking over is one transaction, so the table of versions is as it was stored.
            let there = |which, name: &str| match which {
                Which::Rows => rows.iter().any(|column| column.name == name),
                Which::Past => past.iter().any(|column| column.name == name),
                Which::Versions => true,
            };
            let (statements, stays) = reshape.statements(Dialect::Postgres, &self.layout, made, &there);
            for statement in statements {
                table::run(connection, statement).await?;
            }
            exists &= stays;
        }
        match exists {
            true => table::fit(connection, place, &self.layout, &self.plan, made).await?,
            false if self.layout.foreign => return Err(table::absent(&self.layout, &self.plan)),
            false => table::create(connection, &self.layout, &self.plan).await?,
        }
        for layout in self.layout.beside() {
            match table::exists(connection, place, &layout.name).await? {
                true => table::fit(connection, place, &layout, &self.plan, true).await?,
                false => table::create(connection, &layout, &self.plan).await?,
            }
        }
        Ok((takeover, made || !exists))
    }

    async fn store(
        &self,
        connection: &mut PgConnection,
        made: bool,
        (epoch, sweep_epoch): (i64, Option<i64>),
        shape: String,
    ) -> Result<(), SinkError> {
        let store = sqlx::query(AssertSqlSafe(self.own().store()))
            .bind(&*self.plan.subscription)
            .bind(&self.layout.table)
            .bind(made)
            .bind(&*self.plan.log.0)
            .bind(&*self.plan.topic)
            .bind(epoch)
            .bind(sweep_epoch)
            .bind(self.plan.grant.as_slice())
            .bind(shape);
        store.execute(connection).await.map_err(sink_error)?;
        Ok(())
    }

    /// Sets the epoch of the refill under way if this holder still has the subscription.
    async fn set_sweep(&self, connection: &mut PgConnection, sweep_epoch: Option<i64>) -> Result<(), SinkError> {
        let set = sqlx::query(AssertSqlSafe(self.own().set_sweep()));
        let set = set.bind(&*self.plan.subscription).bind(self.held.epoch).bind(sweep_epoch);
        match set.execute(connection).await.map_err(sink_error)?.rows_affected() {
            0 => Err(fenced(&self.plan.subscription)),
            _ => Ok(()),
        }
    }

    /// Moves each offset on from where the batch starts, and keeps the audit entries; fenced where one is not there.
    async fn move_offsets(&self, connection: &mut PgConnection, batch: &SinkBatch<'_, '_>) -> Result<(), SinkError> {
        let of = |part: fn(&guitong_govern::audit::Range) -> i64| batch.ranges.iter().map(part).collect::<Vec<_>>();
        let moved = sqlx::query_as::<_, (i64, i64)>(AssertSqlSafe(self.own().move_offsets()))
            .bind(of(|range| i64::from(range.partition)))
            .bind(of(|range| signed(range.from)))
            .bind(of(|range| signed(range.to)))
            .bind(signed(batch.entry.count))
            .bind(&batch.entry.content.0)
            .bind(&*self.plan.subscription)
            .bind(&*self.plan.topic)
            .bind(self.held.epoch)
            .bind(batch.entries());
        match moved.fetch_one(connection).await.map_err(sink_error)? {
            (moved, 1) if unsigned(moved) == batch.ranges.len() as u64 => Ok(()),
            _ => Err(fenced(&self.plan.subscription)),
        }
    }

    /// What was staged of the batch, and its deletes.
    async fn apply_staged(&mut self, connection: &mut PgConnection, batch: &SinkBatch<'_, '_>) -> Result<(), SinkError> {
        let writer = Writer::new(&self.place, &self.layout, &self.form, &self.held);
        let deletes: Vec<_> = batch.changes.iter().filter(|change| is_delete(change)).copied().collect();
        if !deletes.is_empty() {
            writer.stage(connection, &mut self.buffer, &deletes).await?;
        }
        writer.apply_staged(connection, batch.entry.at_us, batch.changes).await
    }

    /// The offsets of a batch that is applied ahead, in its transaction.
    async fn follow(&self, applied: Applied, batch: &SinkBatch<'_, '_>) -> Result<Lease<Postgres>, SinkError> {
        let broken = |error: tokio::task::JoinError| SinkError::new(SinkErrorKind::Unreachable, error.to_string());
        let mut lease = applied.await.map_err(broken)??;
        self.move_offsets(&mut lease, batch).await?;
        Ok(lease)
    }

    /// Sets every offset anew; `sweep_epoch`: that of a refill which begins.
    async fn put_offsets(&mut self, partitions: &[PartitionStand], sweep_epoch: Option<i64>) -> Result<(), SinkError> {
        let mut transaction = self.pool.begin().await.map_err(sink_error)?;
        self.set_sweep(&mut transaction, sweep_epoch).await?;
        let delete = sqlx::query(AssertSqlSafe(self.own().delete_offsets())).bind(&*self.plan.subscription);
        delete.execute(&mut *transaction).await.map_err(sink_error)?;
        for stand in partitions {
            let insert = sqlx::query(AssertSqlSafe(self.own().insert_offset()))
                .bind(&*self.plan.subscription)
                .bind(&*self.plan.log.0)
                .bind(&*self.plan.topic)
                .bind(i64::from(stand.partition))
                .bind(signed(stand.next))
                .bind(signed(stand.refill_to))
                .bind(self.held.epoch);
            insert.execute(&mut *transaction).await.map_err(sink_error)?;
        }
        transaction.commit().await.map_err(sink_error)?;
        self.held.sweep_epoch = sweep_epoch;
        Ok(())
    }

    async fn take_over(&self, transaction: &mut Tx<'_>) -> Result<(Held, Stand), SinkError> {
        let stored = AssertSqlSafe(format!("{} FOR UPDATE", self.own().stored()));
        let stored = sqlx::query_as::<_, Stored>(stored).bind(&*self.plan.subscription);
        let stored = stored.fetch_optional(&mut **transaction).await.map_err(sink_error)?;
        let (takeover, made) = self.prepare(transaction, stored.as_ref()).await?;
        let epoch = stored.as_ref().map_or(0, |stored| stored.epoch) + 1;
        let sweep_epoch = match takeover {
            Takeover::Resume => {
                let resume = sqlx::query(AssertSqlSafe(self.own().resume_offsets()));
                resume.bind(&*self.plan.subscription).bind(epoch).execute(&mut **transaction).await.map_err(sink_error)?;
                stored.as_ref().and_then(|stored| stored.sweep_epoch)
            }
            Takeover::Refill | Takeover::Regrant(_) => {
                let delete = sqlx::query(AssertSqlSafe(self.own().delete_offsets())).bind(&*self.plan.subscription);
                delete.execute(&mut **transaction).await.map_err(sink_error)?;
                if takeover.rekeys() {
                    // Rows are keyed in another way: deleted keys are granted no longer.
                    let forget = sqlx::query(AssertSqlSafe(self.own().forget())).bind(&*self.plan.subscription).bind(i64::MAX);
                    forget.execute(&mut **transaction).await.map_err(sink_error)?;
                }
                Some(epoch)
            }
        };
        let shape = shape_to_store(stored.as_ref(), &self.plan, &self.layout)?;
        self.store(transaction, made, (epoch, sweep_epoch), shape).await?;
        let partitions = sqlx::query_as::<_, StoredOffset>(AssertSqlSafe(self.own().partitions()));
        let partitions = partitions.bind(&*self.plan.subscription).bind(&*self.plan.topic);
        let partitions = partitions.fetch_all(&mut **transaction).await.map_err(sink_error)?;
        let remembers = sqlx::query_scalar::<_, bool>(AssertSqlSafe(self.own().remembers())).bind(&*self.plan.subscription);
        let remembers = remembers.fetch_one(&mut **transaction).await.map_err(sink_error)?;
        let (entries, sealed) = stored.as_ref().map(Stored::entries).transpose()?.unwrap_or_default();
        let partitions = partitions.into_iter().map(PartitionStand::from).collect();
        let stand = Stand { epoch: unsigned(epoch), partitions, refilling: sweep_epoch.is_some(), entries, sealed };
        Ok((Held { epoch, sweep_epoch, remembers: Arc::new(remembers.into()), ..Held::default() }, stand))
    }
}

#[async_trait]
impl Sink for PostgresSink {
    fn wants(&self) -> Wants {
        self.layout.wants()
    }

    async fn open(&mut self) -> Result<Stand, SinkError> {
        let mut transaction = self.pool.begin().await.map_err(sink_error)?;
        // Subscriptions of one database make the same tables at the same moment.
        let lock = "SELECT pg_advisory_xact_lock(hashtext('guitong')::bigint)";
        transaction.execute(lock).await.map_err(sink_error)?;
        let server = "SELECT current_setting('server_version_num')::int,
            (SELECT bool_and(has_function_privilege(oid, 'EXECUTE')) FROM pg_proc WHERE proname = 'pg_logical_emit_message')";
        let server = sqlx::query_as::<_, (i32, Option<bool>)>(server).fetch_one(&mut *transaction).await;
        let (version, may_mark) = server.map_err(sink_error)?;
        let mark = (may_mark == Some(true)).then(|| write::mark(&self.plan.exchange, &self.place, &self.layout));
        if let Some(mark) = &mark {
            table::run(&mut transaction, mark.clone()).await?;
        }
        table::make_own_tables(&mut transaction, &self.place).await?;
        match self.take_over(&mut transaction).await {
            Ok((held, stand)) => {
                let theirs = self.layout.foreign || table::has_triggers(&mut transaction, &self.place, &self.layout.name).await?;
                transaction.commit().await.map_err(sink_error)?;
                self.stays_behind = Arc::new(theirs.into());
                self.held = Held { merges: version >= MERGE_VERSION, mark, ..held };
                if self.held.mark.is_none() {
                    tracing::warn!(
                        subscription = &*self.plan.subscription,
                        "what is delivered is not marked: where the database is tailed by this exchange, it is sent around again; \
                         GRANT EXECUTE ON FUNCTION pg_logical_emit_message TO the sink's user"
                    );
                }
                Ok(stand)
            }
            Err(error) => {
                // What is no longer granted stays away even where the table does not fit what is. After an error of the server
                // there is nothing to commit.
                transaction.commit().await.ok();
                Err(error)
            }
        }
    }

    async fn begin_refill(&mut self, partitions: &[PartitionStand]) -> Result<(), SinkError> {
        self.put_offsets(partitions, Some(self.held.epoch)).await
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
        let writer = Writer::new(&self.place, &self.layout, &self.form, &self.held);
        let begin = AssertSqlSafe(writer.begin(batch));
        // Among what may be dropped is a COPY.
        let mut lease = Lease::from(self.pool.acquire().await.map_err(sink_error)?);
        let mut transaction = lease.begin_with(begin).await.map_err(sink_error)?;
        self.move_offsets(&mut transaction, batch).await?;
        writer.apply(&mut transaction, &mut self.buffer, batch).await?;
        transaction.commit().await.map_err(sink_error)?;
        lease.ended = true;
        Ok(batch.ack())
    }

    fn stager(&self) -> Option<Box<dyn Stager>> {
        // What is sent of rows that stay depends on whether a refill is still under way.
        let plain = !self.layout.keeps();
        plain.then(|| -> Box<dyn Stager> {
            Box::new(PostgresStager {
                pool: self.pool.clone(),
                place: self.place.clone(),
                layout: Arc::clone(&self.layout),
                form: Arc::clone(&self.form),
                held: self.held.clone(),
                turn: Arc::clone(&self.staging),
                stays_behind: Arc::clone(&self.stays_behind),
            })
        })
    }

    async fn write_staged(&mut self, batch: &SinkBatch<'_, '_>, staged: Staged) -> Result<Ack, SinkError> {
        let Some(rows) = staged.downcast::<Rows>().filter(|rows| rows.are_of(batch, self.held.epoch)) else {
            return self.write(batch).await;
        };
        let mut lease = match rows.begin() {
            Reached::Staged(mut lease) => {
                self.move_offsets(&mut lease, batch).await?;
                self.apply_staged(&mut lease, batch).await?;
                lease
            }
            Reached::Applied(applied) => match self.follow(applied, batch).await {
                Ok(lease) => lease,
                Err(error) => {
                    tracing::debug!(subscription = &*self.plan.subscription, %error, "what was applied ahead is applied again");
                    self.stays_behind.store(true, Ordering::Release);
                    return self.write(batch).await;
                }
            },
        };
        lease.execute("COMMIT").await.map_err(sink_error)?;
        lease.ended = true;
        Ok(batch.ack())
    }

    fn holdings(&self) -> Option<Arc<dyn Holdings>> {
        // Which rows are the subscription's, a table of the department's does not say.
        let layout = Some(Arc::clone(&self.layout)).filter(|layout| !layout.foreign)?;
        Some(Arc::new(PostgresHoldings { pool: self.pool.clone(), place: self.place.clone(), plan: self.plan.clone(), layout }))
    }

    async fn remove(&mut self, rows: &[HeldRow], batch: &SinkBatch<'_, '_>) -> Result<u64, SinkError> {
        let key = join(self.layout.key.iter().enumerate().map(|(at, name)| format!("{} = ${}", quote(name), at + 3)), " AND ");
        let seen = format!("{VERSION} IS NOT DISTINCT FROM $1 AND {EPOCH} IS NOT DISTINCT FROM $2");
        let sql = format!("DELETE FROM {} WHERE {key} AND {seen}", self.layout.table);
        let mut transaction = self.begin().await?;
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

    async fn sweep(&mut self) -> Result<u64, SinkError> {
        let Some(sweep_epoch) = self.held.sweep_epoch else { return Ok(0) };
        let mut transaction = self.begin().await?;
        self.set_sweep(&mut transaction, None).await?;
        let now = jiff::Timestamp::now().as_microsecond();
        let mut swept = 0;
        for statement in kept::sweep(Dialect::Postgres, &self.layout, sweep_epoch, self.held.epoch, now) {
            swept = table::run(&mut transaction, statement).await?;
        }
        transaction.commit().await.map_err(sink_error)?;
        self.held.sweep_epoch = None;
        Ok(swept)
    }

    async fn forget_deleted(&mut self, before_us: i64) -> Result<(), SinkError> {
        let forget = sqlx::query(AssertSqlSafe(self.own().forget())).bind(&*self.plan.subscription).bind(before_us);
        forget.execute(&self.pool).await.map_err(sink_error)?;
        Ok(())
    }
}
