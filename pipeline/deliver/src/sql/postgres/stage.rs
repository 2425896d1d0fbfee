//! A batch's rows in the temporary table of a connection of their own, while the batch before is written on another.
//!
//! Only upserts are staged: of which deletes the subscriber may hear is known once the batch before is durable. The transaction that
//! brings the rows is the batch's own and goes on with its offsets; until it commits, nobody sees anything of it.
//!
//! **Applied ahead.** A batch of upserts alone, of which no row is in the batch before, is applied at once, so that the server works on
//! both at a time. It commits after the one before, for which its offsets wait. Its rows are locked until then. No row of the batch
//! before is among them, but there may be something else that both need, such as an entry of a unique index of the subscriber's. The
//! server takes no such wait for a deadlock, since one of the two waits for us. So it ends what was applied ahead and stays idle for
//! [`PATIENCE`], which is less than the batch before waits for a lock. That one goes on, this one is written once more after it, and none
//! is applied ahead any more until the subscription is taken over again. Where triggers of the subscriber's may look at rows of the batch
//! before, and in a table of the department's own, nothing is applied ahead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Executor as _, PgPool, Postgres};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use super::Held;
use super::copy::Copy;
use super::errors::sink_error;
use super::table::Place;
use super::write::{FEW, Form, Writer, is_delete};
use crate::pools::PostgresServer;
use crate::sink::{Change, SinkBatch, SinkError, Staged, Stager};
use crate::sql::layout::Layout;
use crate::sql::lease::Lease;

/// How long the server keeps what is applied while nothing more comes.
const PATIENCE: &str = "SET LOCAL idle_in_transaction_session_timeout = '5s'";

#[derive(Debug, Clone)]
pub(super) struct PostgresStager {
    pub(super) pool: PgPool,
    pub(super) place: Place,
    pub(super) layout: Arc<Layout>,
    pub(super) form: Arc<Form>,
    pub(super) held: Held,
    pub(super) turn: Arc<Semaphore>,
    /// Nothing is applied ahead.
    pub(super) stays_behind: Arc<AtomicBool>,
}

/// Upserts in a transaction that is open.
pub(super) struct Rows {
    reached: Reached,
    count: usize,
    epoch: i64,
    _turn: OwnedSemaphorePermit,
}

/// What comes of rows that are applied ahead.
pub(super) type Applied = AbortOnDropHandle<Result<Lease<Postgres>, SinkError>>;

/// How far they are.
pub(super) enum Reached {
    /// In the temporary table.
    Staged(Lease<Postgres>),
    /// On their way into the subscriber's table.
    Applied(Applied),
}

impl Rows {
    /// Whether they are all upserts of the batch, and have the epoch.
    pub(super) fn are_of(&self, batch: &SinkBatch<'_, '_>, epoch: i64) -> bool {
        let upserts = batch.changes.iter().filter(|change| !is_delete(change)).count();
        batch.earlier.is_empty() && self.count == upserts && self.epoch == epoch
    }

    /// They are to be written: the batch before has let its connection go, and the next one's rows may be staged.
    pub(super) fn begin(self) -> Reached {
        self.reached
    }
}

impl PostgresStager {
    fn writer(&self) -> Writer<'_> {
        Writer::new(&self.place, &self.layout, &self.form, &self.held)
    }

    /// Applies what is staged while the batch before is written.
    async fn apply(self, mut lease: Lease<Postgres>, count: usize) -> Result<Lease<Postgres>, SinkError> {
        lease.execute(PATIENCE).await.map_err(sink_error)?;
        self.writer().upsert_staged(&mut lease, count).await?;
        Ok(lease)
    }
}

#[async_trait]
impl Stager for PostgresStager {
    async fn stage(&self, changes: &[&Change<'_>], apart: bool) -> Option<Staged> {
        let upserts: Vec<_> = changes.iter().filter(|change| !is_delete(change)).copied().collect();
        if upserts.len() <= FEW {
            return None;
        }
        let turn = Arc::clone(&self.turn).try_acquire_owned().ok()?;
        if !PostgresServer::has_room(&self.pool) {
            return None;
        }
        let (writer, count) = (self.writer(), upserts.len());
        let mut lease = Lease::from(self.pool.acquire().await.ok()?);
        lease.execute(AssertSqlSafe(writer.begin_staging())).await.ok()?;
        writer.stage(&mut lease, &mut Copy::default(), &upserts).await.ok()?;
        let ahead = apart && count == changes.len() && !self.stays_behind.load(Ordering::Acquire);
        let reached = match ahead {
            true => Reached::Applied(AbortOnDropHandle::new(tokio::spawn(self.clone().apply(lease, count)))),
            false => Reached::Staged(lease),
        };
        Some(Staged::new(Rows { reached, count, epoch: self.held.epoch, _turn: turn }))
    }
}
