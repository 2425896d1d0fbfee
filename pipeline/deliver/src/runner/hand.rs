//! Handing a batch to the sink: all of it in one transaction, or, where the sink refuses a value, by halves until the record is
//! found that it refuses.

use std::collections::BTreeMap;
use std::sync::Arc;

use guitong_govern::audit::{AuditEntry, Range};
use jiff::Timestamp;
use tokio::sync::watch;

use super::batch::{Item, Outcome, digest, newest};
use super::journal::Parked;
use super::{Fault, Session};
use crate::metrics::SubscriptionMetrics;
use crate::sink::{Reaction, Sink, SinkBatch, SinkError, SinkErrorKind, What};
use crate::status::DeliverStatus;

/// Hands a batch to the sink.
pub(super) struct Hand<'h> {
    pub(super) name: &'h Arc<str>,
    pub(super) topic: &'h str,
    pub(super) resource: &'h str,
    pub(super) grant: &'h str,
    pub(super) revision: &'h str,
    pub(super) sink: &'h mut dyn Sink,
    pub(super) metrics: &'h SubscriptionMetrics,
    pub(super) status: &'h watch::Sender<DeliverStatus>,
    pub(super) session: &'h mut Session,
}

impl Hand<'_> {
    /// Hands over all items; those that cannot be delivered are set aside first. `next`: where each partition is to be read next.
    pub(super) async fn over(&mut self, items: &mut [Item<'_>], next: &[(u32, u64)]) -> Result<(), Fault> {
        let unreadable = items.iter().filter_map(|item| match &item.outcome {
            Outcome::Unreadable(reason) => Some(self.parked(item, reason.to_string())),
            _ => None,
        });
        let unreadable: Vec<_> = unreadable.collect();
        self.park(&unreadable).await?;
        let mut spans: Vec<_> = std::iter::once(0..items.len()).collect();
        while let Some(span) = spans.pop() {
            let last = span.end == items.len();
            let part = items.get(span.clone()).unwrap_or_default();
            let refused = match self.write(part, last.then_some(next)).await {
                Err(Fault::Sink(error)) if error.kind.reaction() == Reaction::Park => error,
                done => {
                    done?;
                    continue;
                }
            };
            self.metrics.sink_error(refused.kind);
            match items.get_mut(span.clone()).unwrap_or_default() {
                [] => return Err(Fault::Sink(SinkError { kind: SinkErrorKind::Shape, ..refused })),
                [one] if matches!(one.outcome, Outcome::Change(_)) => {
                    let parked = self.parked(one, refused.to_string());
                    self.park(&[parked]).await?;
                    one.outcome = Outcome::Parked;
                    spans.push(span);
                }
                // Nothing of the record is left that the sink could refuse.
                [_] => return Err(Fault::Sink(SinkError { kind: SinkErrorKind::Shape, ..refused })),
                many => {
                    let middle = span.start + many.len() / 2;
                    spans.push(middle..span.end);
                    spans.push(span.start..middle);
                }
            }
        }
        Ok(())
    }

    fn parked(&self, item: &Item<'_>, reason: String) -> Parked {
        tracing::warn!(subscription = &**self.name, partition = item.partition, offset = item.offset, reason, "record set aside");
        Parked {
            topic: self.topic.to_owned(),
            partition: item.partition,
            offset: item.offset,
            reason,
            at_us: Timestamp::now().as_microsecond(),
        }
    }

    async fn park(&mut self, parked: &[Parked]) -> Result<(), Fault> {
        self.session.journal.park(parked).await?;
        self.metrics.parked.inc_by(parked.len() as u64);
        Ok(())
    }

    /// One transaction at the sink; its audit entry follows in the log, while the sink goes on.
    async fn write(&mut self, items: &[Item<'_>], next: Option<&[(u32, u64)]>) -> Result<(), Fault> {
        let changes = newest(items);
        let ranges = self.ranges(items, next);
        let entry = AuditEntry {
            subscription: self.name.to_string(),
            resource: self.resource.to_owned(),
            epoch: self.session.epoch,
            count: changes.len() as u64,
            content: digest(&changes),
            grant: self.grant.to_owned(),
            revision: self.revision.to_owned(),
            at_us: Timestamp::now().as_microsecond(),
            previous: self.session.journal.last(),
            ranges,
        };
        let unlogged = self.session.journal.unlogged().await?;
        let ack = self.sink.write(&SinkBatch { changes: &changes, ranges: &entry.ranges, entry: &entry, unlogged }).await?;
        self.session.positions.extend(ack.durable);
        self.count(items);
        self.session.journal.note(entry).await?;
        Ok(())
    }

    fn ranges(&self, items: &[Item<'_>], next: Option<&[(u32, u64)]>) -> Vec<Range> {
        let mut ends: BTreeMap<u32, u64> = items.iter().map(|item| (item.partition, item.offset + 1)).collect();
        ends.extend(next.unwrap_or_default().iter().copied());
        let from = |partition| self.session.positions.get(&partition).copied().unwrap_or(0);
        let ranges = ends.into_iter().map(|(partition, to)| Range { partition, from: from(partition), to });
        ranges.filter(|range| range.to > range.from).collect()
    }

    fn count(&self, items: &[Item<'_>]) {
        let now = Timestamp::now().as_microsecond();
        let (mut upserts, mut deletes, mut unchanged, mut unjudged, mut reason) = (0, 0, 0, 0, None);
        for item in items {
            if let Some(error) = item.unjudged {
                unjudged += 1;
                reason = Some(error.to_string());
            }
            match &item.outcome {
                Outcome::Change(change) => match change.what {
                    What::Upsert(_) => upserts += 1,
                    What::Delete(_) => deletes += 1,
                },
                Outcome::Unchanged => {
                    unchanged += 1;
                    continue;
                }
                Outcome::Unreadable(_) | Outcome::Parked => continue,
            }
            // The age of what is delivered again says nothing about delivery.
            if self.session.refill.is_none() {
                self.metrics.latency.observe((now - item.source_us).max(0) as f64 / 1e6);
            }
        }
        self.metrics.batch.observe(items.len() as f64);
        self.metrics.upserts.inc_by(upserts);
        self.metrics.deletes.inc_by(deletes);
        self.metrics.unchanged.inc_by(unchanged);
        self.metrics.unjudged.inc_by(unjudged);
        self.status.send_modify(|status| {
            status.upserts += upserts;
            status.deletes += deletes;
            status.unjudged += unjudged;
            status.last_unjudged = reason.or(status.last_unjudged.take());
            status.parked = self.session.journal.parked;
            status.offsets = self.session.positions.iter().map(|(&partition, &next)| (partition, next)).collect();
        });
    }
}
