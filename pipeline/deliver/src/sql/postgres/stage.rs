//! A batch's rows in the temporary table of a connection of their own, while the batch before is merged on another.
//!
//! Only upserts are staged: of which deletes the subscriber may hear is known once the batch before is durable. The transaction that
//! brings the rows is the batch's own and goes on with its offsets; until it commits, nobody sees anything of it.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, Executor as _, PgPool, Postgres};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Held;
use super::copy::Copy;
use super::errors::sink_error;
use super::table::Place;
use super::write::{FEW, Form, Writer, is_delete};
use crate::pools::PostgresServer;
use crate::sink::{Change, SinkBatch, SinkError, Staged, Stager};
use crate::sql::layout::Layout;
use crate::sql::lease::Lease;

#[derive(Debug)]
pub(super) struct PostgresStager {
    pub(super) pool: PgPool,
    pub(super) place: Place,
    pub(super) layout: Arc<Layout>,
    pub(super) form: Arc<Form>,
    pub(super) held: Held,
    pub(super) turn: Arc<Semaphore>,
}

/// Upserts in the temporary table, in a transaction that is open.
pub(super) struct Rows {
    pub(super) lease: Lease<Postgres>,
    count: usize,
    epoch: i64,
    turn: Option<OwnedSemaphorePermit>,
}

impl Rows {
    /// Whether they are all `upserts` of the batch, and have the epoch.
    pub(super) fn are_of(&self, batch: &SinkBatch<'_, '_>, upserts: usize, epoch: i64) -> bool {
        batch.earlier.is_empty() && self.count == upserts && self.epoch == epoch
    }

    /// They are written: the batch before has let its connection go, and the next one's rows may be staged.
    pub(super) fn begin(&mut self) {
        self.turn = None;
    }

    pub(super) async fn commit(mut self) -> Result<(), SinkError> {
        self.lease.execute("COMMIT").await.map_err(sink_error)?;
        self.lease.ended = true;
        Ok(())
    }
}

#[async_trait]
impl Stager for PostgresStager {
    async fn stage(&self, changes: &[&Change<'_>]) -> Option<Staged> {
        let upserts: Vec<_> = changes.iter().filter(|change| !is_delete(change)).copied().collect();
        if upserts.len() <= FEW {
            return None;
        }
        let turn = Arc::clone(&self.turn).try_acquire_owned().ok()?;
        if !PostgresServer::has_room(&self.pool) {
            return None;
        }
        let writer = Writer::new(&self.place, &self.layout, &self.form, self.held.clone());
        let mut lease = Lease::from(self.pool.acquire().await.ok()?);
        lease.execute(AssertSqlSafe(writer.begin_staging())).await.ok()?;
        writer.stage(&mut lease, &mut Copy::default(), &upserts).await.ok()?;
        Some(Staged::new(Rows { lease, count: upserts.len(), epoch: self.held.epoch, turn: Some(turn) }))
    }
}
