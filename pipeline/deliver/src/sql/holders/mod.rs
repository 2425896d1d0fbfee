//! Deletes go to holders only: a subscriber's server never hears the key of a row that the subscriber was never sent, neither as a
//! parameter nor in what it logs. Every SQL sink of a subscriber stands behind this one, which leaves such deletes out before there is an
//! audit entry or a statement.
//!
//! **Why there is held state.** A record outside the condition does not say whether the row lay within it before, nor a tombstone
//! whether the row was there while the subscription was. Without a condition a tombstone seems to be of a row that was granted by
//! necessity, and is not where it was deleted before the subscription began, while its approval had ended, or between two reads of which
//! the log dropped the former record. So all subscriptions are decided in one way: by the keys that were sent, in the subscription's own
//! keyed state in the log.
//!
//! **It has too many keys, never too few.** A key is noted durably before the batch goes in which its row is first sent; so whatever the
//! subscriber's database has after a kill was noted (rows that are staged come before that, and go with their connection). Once a delete
//! is durable, its key goes to those that were sent once, where it stays until the log relies on no delete as old as that: a database
//! that is restored from a backup of before reads the same deletes again, and one of before that age is filled anew. Where rows or
//! versions that are gone stay at the subscriber, keys are never forgotten. What is there too many was sent once: a delete of it tells
//! the subscriber nothing new.
//!
//! **What is noted, and of what.** The notes have a mark, a random one, which the database is stamped with by the same transaction that
//! forgets its offsets. A database without it (the notes were lost, or it was filled before there were any) is therefore filled anew, and
//! one with it has no row that was not noted, save rows that a refill has still to meet or to sweep. Those need no delete: a refill
//! notes what it sends, and sweeps by epochs, without a key, what it did not meet. Notes under a mark are never emptied, so every backup
//! that has the mark is as good as the database. Nothing is read back from the subscriber's table, whose texts its types and collations
//! may have altered.
//!
//! **Cost.** An update of a row that was sent lately is found in a table of fingerprints of fixed size ([`known`]), into which a
//! takeover reads a part of what is noted: no look-up and no write. Otherwise one look-up for the batch, and one commit in the log where rows are new or gone. Nothing else is kept in memory.

mod foreseen;
mod index;
pub(crate) mod known;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use async_trait::async_trait;
use bytes::Bytes;
use guitong_schemas::contract::sink_table::Deletes;

use self::foreseen::{Foreseen, Foresight};
use self::index::Index;
use self::known::{Known, Seal};
use crate::hold::Hold;
use crate::pools::Pools;
use crate::sink::holdings::{HeldRow, Holdings};
use crate::sink::{
    Ack, Change, Mark, PartitionStand, Sink, SinkBatch, SinkError, SinkErrorKind, SinkPlan, Staged, Stager, Stand, Wants, What,
};

/// Rows that are learnt when a subscription is taken over.
const LEARNT: usize = 1 << 17;

/// A subscriber's SQL sink, which is handed deletes only of what the subscriber was sent.
#[derive(Debug)]
pub struct Holders {
    inner: Box<dyn Sink>,
    subscription: Arc<str>,
    /// What the inner sink stamps the database with.
    mark: Mark,
    /// Something stays at the subscriber of rows that are gone.
    keeps: bool,
    index: Option<Index>,
    known: Arc<Known>,
    seal: Arc<Seal>,
    /// Rises whenever rows are known no longer.
    forgotten: Arc<AtomicU64>,
    /// Rows that are gone, since when (microseconds since 1970-01-01T00:00Z), and not noted to be so.
    gone: HashMap<Bytes, i64>,
}

impl Holders {
    /// `inner`: of the same plan.
    #[must_use]
    pub fn new(pools: &Pools, plan: &SinkPlan, inner: Box<dyn Sink>) -> Self {
        Self {
            inner,
            subscription: Arc::clone(&plan.subscription),
            mark: plan.mark.clone(),
            keeps: plan.table.deletes == Deletes::Soft || plan.table.history,
            index: None,
            known: pools.known(),
            seal: Arc::default(),
            forgotten: Arc::default(),
            gone: HashMap::new(),
        }
    }

    fn index(&self) -> Result<Index, SinkError> {
        let unheld = || SinkError::new(SinkErrorKind::Fenced, format!("subscription {} is not held", self.subscription));
        self.index.clone().ok_or_else(unheld)
    }

    /// Learns what is noted, as far as it is few: read in order, rows cost a part of what it takes to find each.
    async fn learn(&self) -> Result<(), SinkError> {
        let (index, mut after, mut learnt) = (self.index()?, None, 0);
        while learnt < LEARNT {
            let page = index.page(after.as_deref()).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            learnt += page.len();
            self.known.add(&self.seal, page.iter().map(|row| &**row));
        }
        Ok(())
    }

    /// Notes what is about to be sent for the first time, with what is gone by now.
    async fn note(&mut self, sent: &[Bytes]) -> Result<(), SinkError> {
        if sent.is_empty() && self.gone.is_empty() {
            return Ok(());
        }
        let gone = self.gone.iter().map(|(row, since)| (row.clone(), *since));
        self.index()?.note(sent, gone).await?;
        self.gone.clear();
        Ok(())
    }

    /// Rows that the batch deleted are gone.
    fn deleted(&mut self, batch: &SinkBatch<'_, '_>) {
        if self.keeps {
            return;
        }
        for change in batch.changes.iter().filter(|change| is_delete(change)) {
            foreseen::forget(&self.known, &self.seal, &self.forgotten, row(change));
            self.gone.insert(Bytes::copy_from_slice(row(change)), batch.entry.at_us);
        }
    }
}

fn row<'i>(change: &'i Change<'_>) -> &'i [u8] {
    &change.key().id
}

fn is_delete(change: &Change<'_>) -> bool {
    matches!(change.what, What::Delete(..))
}

#[async_trait]
impl Sink for Holders {
    fn wants(&self) -> Wants {
        self.inner.wants()
    }

    fn keep_in(&mut self, hold: &Hold) {
        self.index = Some(Index::new(hold));
        self.inner.keep_in(hold);
    }

    async fn open(&mut self) -> Result<Stand, SinkError> {
        // What others noted in the meantime, this process does not know.
        (self.seal, self.gone) = (Arc::default(), HashMap::new());
        self.mark.set(self.index()?.mark().await?);
        let stand = self.inner.open().await?;
        self.learn().await?;
        Ok(stand)
    }

    async fn begin_refill(&mut self, partitions: &[PartitionStand]) -> Result<(), SinkError> {
        self.inner.begin_refill(partitions).await
    }

    async fn sift<'i, 'r>(
        &mut self,
        earlier: &mut [Vec<&'i Change<'r>>],
        newest: &mut Vec<&'i Change<'r>>,
        staged: Option<&Staged>,
    ) -> Result<(), SinkError> {
        if staged.and_then(Staged::get::<Foreseen>).is_some_and(|foreseen| foreseen.is_known(&self.forgotten)) {
            return Ok(());
        }
        let all: Vec<&'i Change<'r>> = earlier.iter().flatten().chain(newest.iter()).copied().collect();
        let unknown = self.known.lacks(&self.seal, all.iter().map(|change| row(change)));
        if unknown.is_empty() {
            return Ok(());
        }
        let index = self.index()?;
        let mut held = index.held(unknown.iter().copied()).await?;
        let asked = all.iter().filter(|change| is_delete(change)).map(|change| row(change));
        let asked: HashSet<&[u8]> = asked.filter(|row| unknown.contains(row) && !held.contains(row)).collect();
        let gone = index.gone(asked.into_iter().collect()).await?;
        let mut new = Vec::new();
        let mut goes = |change: &&'i Change<'r>| {
            let row = row(change);
            // What is noted of it waits until this is durable.
            self.gone.remove(row);
            if is_delete(change) {
                return !unknown.contains(row) || held.contains(row) || gone.contains(row);
            }
            if unknown.contains(row) && held.insert(row) {
                new.push(Bytes::copy_from_slice(row));
            }
            true
        };
        // In the order in which they are applied: what one part sends the next may delete.
        earlier.iter_mut().for_each(|part| part.retain(&mut goes));
        newest.retain(&mut goes);
        self.note(&new).await?;
        self.known.add(&self.seal, held.into_iter());
        Ok(())
    }

    async fn write(&mut self, batch: &SinkBatch<'_, '_>) -> Result<Ack, SinkError> {
        let ack = self.inner.write(batch).await?;
        self.deleted(batch);
        Ok(ack)
    }

    fn stager(&self) -> Option<Box<dyn Stager>> {
        let (known, seal, forgotten) = (Arc::clone(&self.known), Arc::clone(&self.seal), Arc::clone(&self.forgotten));
        Some(Box::new(Foresight { inner: self.inner.stager(), known, seal, forgotten }))
    }

    async fn write_staged(&mut self, batch: &SinkBatch<'_, '_>, staged: Staged) -> Result<Ack, SinkError> {
        let ack = match staged.downcast::<Foreseen>().and_then(|foreseen| foreseen.staged) {
            Some(staged) => self.inner.write_staged(batch, staged).await?,
            None => self.inner.write(batch).await?,
        };
        self.deleted(batch);
        Ok(ack)
    }

    fn keeps(&self) -> Option<&'static str> {
        self.inner.keeps()
    }

    fn replays(&self) -> bool {
        self.inner.replays()
    }

    async fn begin_replay(&mut self, partitions: &[PartitionStand]) -> Result<(), SinkError> {
        self.inner.begin_replay(partitions).await
    }

    fn holdings(&self) -> Option<Arc<dyn Holdings>> {
        self.inner.holdings()
    }

    async fn remove(&mut self, rows: &[HeldRow], batch: &SinkBatch<'_, '_>) -> Result<u64, SinkError> {
        self.inner.remove(rows, batch).await
    }

    async fn settle(&mut self) -> Result<(), SinkError> {
        self.note(&[]).await?;
        self.inner.settle().await
    }

    async fn sweep(&mut self) -> Result<u64, SinkError> {
        self.inner.sweep().await
    }

    async fn forget_deleted(&mut self, before_us: i64) -> Result<(), SinkError> {
        self.index()?.forget_gone(before_us).await?;
        self.inner.forget_deleted(before_us).await
    }
}
