//! Taking subscriptions over in one SQLite file. A node opens a thousand when it starts: those that wait for a file share one
//! transaction, so one disk sync, and each is as few statements as can be, since every one is a round trip to SQLite's thread.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::{AssertSqlSafe, FromRow as _, Row as _, SqlitePool};
use tokio::sync::oneshot::{self, error::TryRecvError};

use super::errors::sink_error;
use super::{Tx, table};
use crate::pull::Outbox;
use crate::sink::{PartitionStand, SinkError, SinkPlan, Stand};
use crate::sql::kept::Dialect;
use crate::sql::layout::Layout;
use crate::sql::reshape::Which;
use crate::sql::stored::{Stored, StoredOffset, Takeover, There, shape_to_store, unsigned};

/// Gives the stored offsets to a new holder, or forgets them.
const KEEP_OFFSETS: &str = "UPDATE guitong_offsets SET epoch = $6 WHERE subscription = $1";
const FORGET_OFFSETS: &str = "DELETE FROM guitong_offsets WHERE subscription = $1";
/// Where rows are keyed in another way, the deleted keys too: they are granted no longer.
const FORGET_ALL: &str =
    "DELETE FROM guitong_offsets WHERE subscription = $1; DELETE FROM guitong_deleted WHERE subscription = $1";

/// One of those above goes before it, with the same arguments.
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

/// A file that subscriptions deliver to.
#[derive(Debug)]
pub(crate) struct SqliteFile {
    pub(crate) pool: SqlitePool,
    waiting: Mutex<Vec<Waiting>>,
    /// Held by the one that opens for all that wait.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Waiting {
    opening: Arc<Opening>,
    answer: oneshot::Sender<Result<Taken, SinkError>>,
}

impl SqliteFile {
    pub(crate) fn new(pool: SqlitePool) -> Self {
        Self { pool, waiting: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    /// Takes one subscription over, together with others that wait.
    pub(crate) async fn open(&self, opening: &Arc<Opening>) -> Result<Taken, SinkError> {
        loop {
            let (answer, mut told) = oneshot::channel();
            self.waiting().push(Waiting { opening: Arc::clone(opening), answer });
            let _turn = self.turn.lock().await;
            let outcome = match told.try_recv() {
                Err(TryRecvError::Empty) => {
                    self.open_waiting().await;
                    told.try_recv()
                }
                outcome => outcome,
            };
            // Without an outcome, whoever opened for all was stopped half-way: its transaction is undone.
            if let Ok(outcome) = outcome {
                return outcome;
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn open_waiting(&self) {
        let mut waiting = std::mem::take(&mut *self.waiting());
        waiting.retain(|waiting| !waiting.answer.is_closed());
        let mut together = match self.begin().await {
            Ok(transaction) => take_all(transaction, &waiting).await.unwrap_or_default().into_iter(),
            // The file is locked or not to be had, for all of them.
            Err(error) => return waiting.into_iter().for_each(|waiting| drop(waiting.answer.send(Err(error.clone())))),
        };
        for Waiting { opening, answer } in waiting {
            let outcome = match together.next() {
                Some(taken) => Ok(taken),
                // One of them failed, and nothing was done.
                None => self.open_alone(&opening).await,
            };
            // Who does not wait any more is taken over all the same.
            answer.send(outcome).ok();
        }
    }

    async fn open_alone(&self, opening: &Opening) -> Result<Taken, SinkError> {
        let mut transaction = self.begin().await?;
        let stored = opening.stored(&mut transaction).await?;
        let prepared = match opening.prepare(&mut transaction, stored.as_ref()).await {
            Ok(prepared) => prepared,
            Err(error) => {
                // What is no longer granted stays away even where the table does not fit what is.
                transaction.commit().await.map_err(sink_error)?;
                return Err(error);
            }
        };
        let taken = opening.take(&mut transaction, stored.as_ref(), prepared).await?;
        transaction.commit().await.map_err(sink_error)?;
        Ok(taken)
    }

    pub(crate) async fn begin(&self) -> Result<Tx, SinkError> {
        self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(sink_error)
    }

    /// With a first statement.
    pub(crate) async fn begin_with(&self, first: &str) -> Result<Tx, SinkError> {
        self.pool.begin_with(AssertSqlSafe(format!("BEGIN IMMEDIATE; {first}"))).await.map_err(sink_error)
    }
}

/// Takes all over or none.
async fn take_all(mut transaction: Tx, waiting: &[Waiting]) -> Result<Vec<Taken>, SinkError> {
    let mut all = Vec::with_capacity(waiting.len());
    for Waiting { opening, .. } in waiting {
        let stored = opening.stored(&mut transaction).await?;
        let prepared = opening.prepare(&mut transaction, stored.as_ref()).await?;
        all.push(opening.take(&mut transaction, stored.as_ref(), prepared).await?);
    }
    transaction.commit().await.map_err(sink_error)?;
    Ok(all)
}

/// What one subscription wants of the file.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) plan: SinkPlan,
    pub(crate) layout: Layout,
    /// What of the table is pulled.
    pub(crate) outbox: Option<Outbox>,
}

/// A subscription that was taken over.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) epoch: i64,
    pub(crate) sweep_epoch: Option<i64>,
    /// Versions of deleted keys are kept.
    pub(crate) remembers: bool,
    pub(crate) stand: Stand,
}

/// What is to happen with the offsets, and whether the exchange made the table.
type Prepared = (Takeover, bool);

impl Opening {
    pub(crate) fn subscription(&self) -> String {
        self.plan.subscription.to_string()
    }

    async fn stored(&self, transaction: &mut Tx) -> Result<Option<Stored>, SinkError> {
        let stored = sqlx::query_as::<_, Stored>(table::STORED).bind(self.subscription());
        stored.fetch_optional(&mut **transaction).await.map_err(sink_error)
    }

    /// Makes the table fit.
    async fn prepare(&self, transaction: &mut Tx, stored: Option<&Stored>) -> Result<Prepared, SinkError> {
        let mut found = table::found(transaction, &self.layout.name).await?;
        let mut there = There { rows: !found.is_empty(), past: false, versions: false };
        // Only where they are wanted: a node opens a thousand subscriptions when it starts.
        if self.layout.history {
            there.past = !table::found(transaction, &self.layout.past().name).await?.is_empty();
        }
        if self.layout.foreign {
            there.versions = !table::found(transaction, &self.layout.versions().name).await?.is_empty();
        }
        let takeover = Takeover::of(stored, &self.plan, &self.layout, there)?;
        let made = stored.is_some_and(|stored| stored.made && stored.table_name == self.layout.table);
        let anew = found.is_empty() || matches!(takeover, Takeover::Regrant(_));
        if let Some(outbox) = &self.outbox {
            outbox.detach(transaction).await?;
        }
        if let Takeover::Regrant(reshape) = &takeover {
            let past = table::found(transaction, &self.layout.past().name).await?;
            // Taking over is one transaction, so the table of versions is as it was stored.
            let there = |which, name: &str| match which {
                Which::Rows => found.iter().any(|column| column.name == name),
                Which::Past => past.iter().any(|column| column.name == name),
                Which::Versions => true,
            };
            let (statements, stays) = reshape.statements(Dialect::Sqlite, &self.layout, made, &there);
            table::run(transaction, table::mark(&self.plan.exchange, &self.layout)).await?;
            for statement in statements {
                table::run(transaction, statement).await?;
            }
            table::run(transaction, table::UNMARK.to_owned()).await?;
            found = if stays { table::found(transaction, &self.layout.name).await? } else { Vec::new() };
        }
        let exists = !found.is_empty();
        match exists {
            true => table::fit(transaction, &found, &self.layout, &self.plan, made).await?,
            false if self.layout.foreign => return Err(table::absent(&self.layout, &self.plan)),
            false => table::create(transaction, &self.layout).await?,
        }
        for layout in self.layout.beside() {
            match table::found(transaction, &layout.name).await?.as_slice() {
                [] => table::create(transaction, &layout).await?,
                found => table::fit(transaction, found, &layout, &self.plan, true).await?,
            }
        }
        if let Some(outbox) = &self.outbox {
            outbox.attach(transaction, &self.layout, anew).await?;
        }
        Ok((takeover, made || !exists))
    }

    async fn take(&self, transaction: &mut Tx, stored: Option<&Stored>, prepared: Prepared) -> Result<Taken, SinkError> {
        let (takeover, made) = prepared;
        let epoch = stored.map_or(0, |stored| stored.epoch) + 1;
        let (offsets, sweep_epoch) = match takeover {
            Takeover::Resume => (KEEP_OFFSETS, stored.and_then(|stored| stored.sweep_epoch)),
            _ if takeover.rekeys() => (FORGET_ALL, Some(epoch)),
            Takeover::Refill | Takeover::Regrant(_) => (FORGET_OFFSETS, Some(epoch)),
        };
        let store = sqlx::query(AssertSqlSafe(format!("{offsets}; {STORE}")))
            .bind(self.subscription())
            .bind(self.layout.table.clone())
            .bind(made)
            .bind(self.plan.log.0.to_string())
            .bind(self.plan.topic.to_string())
            .bind(epoch)
            .bind(sweep_epoch)
            .bind(self.plan.grant.to_vec())
            .bind(shape_to_store(stored, &self.plan, &self.layout)?);
        store.execute(&mut **transaction).await.map_err(sink_error)?;
        let (partitions, remembers) = self.partitions(transaction).await?;
        let (entries, sealed) = stored.map(Stored::entries).transpose()?.unwrap_or_default();
        let stand = Stand { epoch: unsigned(epoch), partitions, refilling: sweep_epoch.is_some(), entries, sealed };
        Ok(Taken { epoch, sweep_epoch, remembers, stand })
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
