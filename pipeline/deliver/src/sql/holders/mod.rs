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
//! **It has too many keys, never too few.** A key is noted durably before the batch goes in which its row is first sent, or, where few
//! are, with it: in the sink's own transaction, from where whoever takes over has the log told ([`unnoted`]). So whatever the
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
//! takeover reads a part of what is noted: no look-up and no write. Otherwise one look-up for the batch. Rows that are new come into the
//! log with the batch's audit entry, or, where they are many, in a commit of their own before the batch; rows that are gone follow now and
//! then. Nothing else is kept in memory.

mod foreseen;
mod index;
pub(crate) mod known;
mod unnoted;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use guitong_schemas::contract::sink_table::Deletes;

use self::foreseen::{Foreseen, Foresight};
use self::index::Index;
use self::known::{Known, Seal};
use self::unnoted::{Envelope, Unnoted};
use crate::hold::Hold;
use crate::pools::Pools;
use crate::sink::holdings::{HeldRow, Holdings};
use crate::sink::{
    Ack, Change, Mark, PartitionStand, Sink, SinkBatch, SinkError, SinkErrorKind, SinkPlan, Staged, Stager, Stand, Wants, What,
};

/// Rows that are learnt when a subscription is taken over.
const LEARNT: usize = 1 << 17;
/// Rows that are gone are noted together: after so long, or when they are so many.
const GATHER: Duration = Duration::from_millis(200);
const GATHERED: usize = 4_096;

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
    /// When they were looked at last.
    looked: Option<Instant>,
    /// Rows that the batch under way sends for the first time, and has the log told of afterwards.
    fresh: Vec<Bytes>,
    unnoted: Unnoted,
    envelope: Option<Envelope>,
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
            looked: None,
            fresh: Vec::new(),
            unnoted: Unnoted::default(),
            envelope: None,
        }
    }

    fn unheld(&self) -> SinkError {
        SinkError::new(SinkErrorKind::Fenced, format!("subscription {} is not held", self.subscription))
    }

    fn index(&self) -> Result<Index, SinkError> {
        self.index.clone().ok_or_else(|| self.unheld())
    }

    fn envelope(&self) -> Result<&Envelope, SinkError> {
        self.envelope.as_ref().ok_or_else(|| self.unheld())
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
        self.look_up_waiting().await?;
        let waiting: HashSet<&[u8]> = self.unnoted.rows().collect();
        // Of a row that waits the log is still to hear that it was sent, and only then that it is gone.
        let gone = self.gone.iter().filter(|(row, _)| !waiting.contains(&***row)).map(|(row, since)| (row.clone(), *since));
        let gone: Vec<_> = gone.collect();
        if !sent.is_empty() || !gone.is_empty() {
            self.index()?.note(sent, gone.into_iter()).await?;
            self.gone.retain(|row, _| waiting.contains(&**row));
        }
        self.looked = Some(Instant::now());
        Ok(())
    }

    /// Rows that are gone wait no longer once the log has them: it had them not when they were sent.
    async fn look_up_waiting(&mut self) -> Result<(), SinkError> {
        let waiting: Vec<_> =
            self.unnoted.rows().filter(|row| self.gone.contains_key(*row)).map(Bytes::copy_from_slice).collect();
        let told = self.index()?.held(waiting.iter().map(|row| &**row)).await?;
        self.unnoted.remove(&told);
        Ok(())
    }

    /// Has the log told of rows that were sent, where it may lack them: they are in the transaction of the last batch.
    async fn complete(&self, envelope: &Envelope, stand: &mut Stand) -> Result<(), SinkError> {
        let Some(sealed) = stand.sealed.take() else { return Ok(()) };
        if let Some(rows) = envelope.open(&sealed) {
            return self.index()?.note(&rows, std::iter::empty()).await;
        }
        tracing::warn!(
            subscription = &*self.subscription,
            "what guitong_subscriptions.entries says of the rows that were sent last cannot be read, so everything is delivered again; \
             nobody else writes there, and a backup goes back with all tables of the subscription"
        );
        stand.partitions.clear();
        Ok(())
    }

    /// What the sink is to keep with a batch that sends these rows for the first time.
    fn sealed(&mut self, batch: &SinkBatch<'_, '_>, fresh: &[Bytes]) -> Result<Option<String>, SinkError> {
        self.unnoted.keep(batch.unlogged);
        self.envelope()?.seal(self.unnoted.rows().chain(fresh.iter().map(|row| &**row)))
    }

    /// The batch is durable, with these rows for the first time.
    fn sent(&mut self, batch: &SinkBatch<'_, '_>, fresh: Vec<Bytes>, ack: Ack) -> Ack {
        let notes = index::notes(&fresh);
        self.known.add(&self.seal, fresh.iter().map(|row| &**row));
        self.unnoted.push(batch.entry, fresh);
        self.deleted(batch);
        Ack { notes, ..ack }
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
        (self.seal, self.gone, self.unnoted) = (Arc::default(), HashMap::new(), Unnoted::default());
        let (mark, key) = self.index()?.mark().await?;
        self.mark.set(mark);
        let mut stand = self.inner.open().await?;
        let envelope = Envelope::new(&key, &self.subscription)?;
        self.complete(&envelope, &mut stand).await?;
        self.envelope = Some(envelope);
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
        self.fresh.clear();
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
        self.unnoted.add_to(&mut held, &unknown);
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
        if self.unnoted.takes(&new) {
            // They are known once they are sent: the batch may be refused, and go in halves.
            for row in &new {
                held.remove(&**row);
            }
            self.fresh = new;
        } else {
            self.note(&new).await?;
        }
        self.known.add(&self.seal, held.into_iter());
        Ok(())
    }

    async fn write(&mut self, batch: &SinkBatch<'_, '_>) -> Result<Ack, SinkError> {
        let fresh = std::mem::take(&mut self.fresh);
        let sealed = self.sealed(batch, &fresh)?;
        let ack = self.inner.write(&SinkBatch { sealed: sealed.as_deref(), ..*batch }).await?;
        Ok(self.sent(batch, fresh, ack))
    }

    fn stager(&self) -> Option<Box<dyn Stager>> {
        let (known, seal, forgotten) = (Arc::clone(&self.known), Arc::clone(&self.seal), Arc::clone(&self.forgotten));
        Some(Box::new(Foresight { inner: self.inner.stager(), known, seal, forgotten }))
    }

    async fn write_staged(&mut self, batch: &SinkBatch<'_, '_>, staged: Staged) -> Result<Ack, SinkError> {
        let Some(staged) = staged.downcast::<Foreseen>().and_then(|foreseen| foreseen.staged) else {
            return self.write(batch).await;
        };
        let fresh = std::mem::take(&mut self.fresh);
        let sealed = self.sealed(batch, &fresh)?;
        let ack = self.inner.write_staged(&SinkBatch { sealed: sealed.as_deref(), ..*batch }, staged).await?;
        Ok(self.sent(batch, fresh, ack))
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
        let sealed = self.sealed(batch, &[])?;
        self.inner.remove(rows, &SinkBatch { sealed: sealed.as_deref(), ..*batch }).await
    }

    async fn settle(&mut self) -> Result<(), SinkError> {
        let due = self.gone.len() >= GATHERED || self.looked.is_none_or(|looked| looked.elapsed() >= GATHER);
        if due && !self.gone.is_empty() {
            self.note(&[]).await?;
        }
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
