//! Running open entries through the current mapping again, a read of the quarantine topic at a time.
//!
//! Entries were appended in the order of arrival, so for one row in the order of its versions, and are run again in that order.
//! Every step is one commit; a stop in between leaves the rest open.

use std::collections::BTreeSet;

use bytes::Bytes;
use guitong_log::{ExchangeLog, OwnedLog, Record, Span, TopicPartition, record_at};
use tokio::sync::oneshot;

use super::Filter;
use super::record::{self, Kept};
use super::store::QuarantineStore;
use crate::claims::entry_key;
use crate::error::SessionError;
use crate::handle::{HandleError, ReplayReport};
use crate::keyed::QUARANTINE;

/// Entries that one scan of the map gives.
const PAGE: usize = 1_000;

/// A replay under way.
#[derive(Debug)]
pub(crate) struct Replay {
    left: BTreeSet<u64>,
    topic: Span,
    report: ReplayReport,
    reply: oneshot::Sender<Result<ReplayReport, HandleError>>,
}

impl Replay {
    /// Notes the open entries of this moment; `filter` narrows them. `None` where there are none: the answer is sent.
    pub(crate) async fn begin(
        log: &dyn ExchangeLog,
        owner: &dyn OwnedLog,
        topic: &str,
        filter: &Filter,
        reply: oneshot::Sender<Result<ReplayReport, HandleError>>,
    ) -> Result<Option<Self>, SessionError> {
        let store = QuarantineStore::new(owner);
        let (mut left, mut from, mut after) = (BTreeSet::new(), u64::MAX, None);
        loop {
            let page = store.entries(after, PAGE).await?;
            after = page.last().map(|(seq, _)| *seq);
            for (seq, entry) in &page {
                if filter.matches(*seq, entry) {
                    left.insert(*seq);
                    from = from.min(entry.stored_from);
                }
            }
            if page.len() < PAGE {
                break;
            }
        }
        if left.is_empty() {
            // Who asked may have gone.
            let _ = reply.send(Ok(ReplayReport::default()));
            return Ok(None);
        }
        let at = TopicPartition::new(topic, 0);
        let bounds = log.bounds(&at).await?;
        let next = from.clamp(bounds.earliest, bounds.end);
        let topic = Span::open(log, at, next, bounds.end).await?;
        Ok(Some(Self { left, topic, report: ReplayReport::default(), reply }))
    }

    /// The next events to run again, with their entries' numbers; empty at the end.
    pub(crate) async fn next(&mut self, log: &dyn ExchangeLog, bytes: usize) -> Result<Vec<(u64, Record)>, SessionError> {
        let mut events = Vec::new();
        while events.is_empty() && !self.left.is_empty() {
            let Some(records) = self.topic.read(bytes).await? else { break };
            for kept in records.into_iter().filter_map(record::read) {
                match kept {
                    Kept::Whole { seq, raw } => {
                        if self.left.remove(&seq) {
                            events.push((seq, raw));
                        }
                    }
                    Kept::LeftOut { seq, at, offset } => {
                        if self.left.remove(&seq) {
                            events.extend(record_at(log, at, offset).await?.map(|raw| (seq, raw)));
                        }
                    }
                }
            }
        }
        Ok(events)
    }

    /// Counts what became of the events of one step.
    pub(crate) async fn count(&mut self, owner: &dyn OwnedLog, numbers: &[u64]) -> Result<(), SessionError> {
        let keys: Vec<Bytes> = numbers.iter().map(|seq| entry_key(*seq)).collect();
        let open = owner.get(QUARANTINE, &keys).await?.iter().flatten().count() as u64;
        self.report.tried += numbers.len() as u64;
        self.report.kept += open;
        self.report.released += (numbers.len() as u64).saturating_sub(open);
        Ok(())
    }

    pub(crate) fn finish(self) {
        // Who asked may have gone.
        let _ = self.reply.send(Ok(self.report));
    }

    pub(crate) fn interrupt(self, why: &str) {
        let _ = self.reply.send(Err(HandleError::Unavailable(why.to_owned())));
    }
}
