//! A hold on sink and log, from which records are handed over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use guitong_log::{LogError, deletes_kept, holds_deletes};
use jiff::Timestamp;

use super::fault::Fault;
use super::journal::{Journal, OpenJournal};
use super::{Deliverer, micros, orders};
use crate::sink::{PartitionStand, Stand};

/// One hold on sink and log.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) journal: Journal,
    pub(super) epoch: u64,
    /// Next offset of each partition.
    pub(super) positions: BTreeMap<u32, u64>,
    /// Where the refill under way ends, by partition.
    pub(super) refill: Option<BTreeMap<u32, u64>>,
    /// Up to where everything was delivered before, by partition.
    pub(super) delivered: BTreeMap<u32, u64>,
    /// Everything in the log was read at some moment of this hold: whatever was still there of each key is with the sink.
    pub(super) caught_up: Arc<AtomicBool>,
    pub(super) measured: Option<Instant>,
    pub(super) forgotten: Option<Instant>,
}

impl Session {
    /// Records that were delivered before and come again.
    pub(super) fn left_to_replay(&self) -> u64 {
        let left = |(at, end): (&u32, &u64)| end.saturating_sub(self.positions.get(at).copied().unwrap_or(*end));
        self.delivered.iter().map(left).sum()
    }

    /// Whether what comes now is no news.
    pub(super) fn repeats(&self) -> bool {
        self.refill.is_some() || self.left_to_replay() > 0
    }
}

impl Deliverer {
    /// The subscription's hold on the log, after what was written under the one before.
    pub(super) async fn open_journal(&mut self) -> Result<OpenJournal, LogError> {
        self.written().await;
        OpenJournal::open(&*self.log, Arc::clone(&self.name), &self.aside).await
    }

    pub(super) async fn open_session(&mut self, partitions: u32) -> Result<Session, Fault> {
        let mut journal = self.open_journal().await?;
        if let Some(order) = journal.orders.pause.take() {
            return Err(Fault::Held(order.word));
        }
        self.sink.keep_in(journal.hold());
        let mut stand = self.sink.open().await?;
        journal.complete(&stand.entries).await?;
        let ordered = journal.orders.resync.take().is_some();
        if self.gap || ordered || self.is_stalled(&stand) || stand.partitions.len() != partitions as usize {
            stand.partitions = self.whole_topic(partitions).await?;
            journal.clear_parked().await?;
            self.sink.begin_refill(&stand.partitions).await?;
            stand.refilling = true;
            self.gap = false;
        }
        if ordered {
            journal.order(orders::resync(None)).await?;
        }
        let (journal, writing) = journal.start();
        self.writing = Some(writing);
        let ends: BTreeMap<_, _> = stand.partitions.iter().map(|stand| (stand.partition, stand.refill_to)).collect();
        let session = Session {
            epoch: stand.epoch,
            positions: stand.partitions.iter().map(|stand| (stand.partition, stand.next)).collect(),
            refill: stand.refilling.then(|| ends.clone()),
            delivered: if stand.refilling { BTreeMap::new() } else { ends },
            caught_up: Arc::default(),
            measured: None,
            forgotten: None,
            journal,
        };
        Ok(session)
    }

    /// Whether a refill stood still for so long that deletes of what it met already may be gone.
    fn is_stalled(&self, stand: &Stand) -> bool {
        let oldest_us = Timestamp::now().as_microsecond().saturating_sub(micros(deletes_kept(self.exchange.trace)));
        stand.refilling && stand.entries.last().is_some_and(|last| last.at_us < oldest_us)
    }

    /// Whether the log still has every delete that is to be read. A refill, which reads what is old, finds by itself what is gone.
    pub(super) async fn holds_deletes(&self, session: &Session) -> Result<(), LogError> {
        if session.refill.is_some() {
            return Ok(());
        }
        for (&partition, &next) in &session.positions {
            holds_deletes(&*self.log, &self.at(partition), next, self.exchange.trace).await?;
        }
        Ok(())
    }

    pub(super) async fn whole_topic(&self, partitions: u32) -> Result<Vec<PartitionStand>, LogError> {
        let mut all = Vec::new();
        for partition in 0..partitions {
            let bounds = self.log.bounds(&self.at(partition)).await?;
            all.push(PartitionStand { partition, next: bounds.earliest, refill_to: bounds.end });
        }
        Ok(all)
    }
}
