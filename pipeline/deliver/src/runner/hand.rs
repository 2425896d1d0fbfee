//! Handing a batch to the sink: all of it in one transaction, or, where the sink refuses a value, by halves until the record is
//! found that it refuses.

use std::collections::BTreeMap;
use std::sync::Arc;

use guitong_govern::audit::{AuditEntry, Range};
use guitong_govern::{Gone, RowKey};
use guitong_log::ExchangeLog;
use guitong_schemas::position::Version;
use jiff::Timestamp;
use tokio::sync::watch;

use super::ahead::Decided;
use super::batch::{Item, Outcome, digest, earlier, newest};
use super::parked::{End, MOST_PARKED, Parked, Place, Word, mark, shortened};
use super::{Fault, Session};
use crate::metrics::SubscriptionMetrics;
use crate::sink::holdings::HeldRow;
use crate::sink::{Change, Reaction, Sink, SinkBatch, SinkError, SinkErrorKind, Staged, What};
use crate::status::DeliverStatus;

/// Hands a batch to the sink.
pub(super) struct Hand<'h> {
    pub(super) name: &'h Arc<str>,
    pub(super) topic: &'h str,
    pub(super) resource: &'h str,
    pub(super) grant: &'h str,
    pub(super) revision: &'h str,
    pub(super) log: &'h dyn ExchangeLog,
    pub(super) sink: &'h mut dyn Sink,
    pub(super) metrics: &'h SubscriptionMetrics,
    pub(super) status: &'h watch::Sender<DeliverStatus>,
    pub(super) session: &'h mut Session,
}

impl Hand<'_> {
    /// Hands over all items; those that cannot be delivered are set aside first. `next`: where each partition is to be read next.
    /// `staged`: what the sink made ready of them.
    pub(super) async fn over(&mut self, decided: &Decided, next: &[(u32, u64)], mut staged: Option<Staged>) -> Result<(), Fault> {
        let items = decided.items();
        let unreadable = items.iter().filter_map(|item| match &item.outcome {
            Outcome::Unreadable(reason, _) => Some(self.parked(item, reason.to_string())),
            _ => None,
        });
        let unreadable: Vec<_> = unreadable.collect();
        self.park(unreadable).await?;
        let mut spans: Vec<_> = std::iter::once(0..items.len()).collect();
        while let Some(span) = spans.pop() {
            let last = span.end == items.len();
            let part = items.get(span.clone()).unwrap_or_default();
            let ranges = self.ranges(part, last.then_some(next));
            // An earlier part may have set a record aside of which this one has a later change.
            self.end_entries(part, false).await?;
            let changes = if part.len() == items.len() { decided.newest() } else { newest(part) };
            // All of them come first.
            let refused = match self.write(part, changes, ranges, true, staged.take()).await {
                Err(Fault::Sink(error)) if error.kind.reaction() == Reaction::Park => error,
                done => {
                    done?;
                    continue;
                }
            };
            self.metrics.sink_error(refused.kind);
            match part {
                [one] if matches!(one.outcome, Outcome::Change(_)) => {
                    let parked = self.parked(one, refused.to_string());
                    self.park(vec![parked]).await?;
                    // The offsets move over it, and nothing is left that the sink could refuse.
                    let ranges = self.ranges(part, last.then_some(next));
                    self.write(&[], Vec::new(), ranges, true, None).await.map_err(|fault| match fault {
                        Fault::Sink(error) if error.kind.reaction() == Reaction::Park => misshapen(error),
                        fault => fault,
                    })?;
                }
                [] | [_] => return Err(misshapen(refused)),
                many => {
                    let middle = span.start + many.len() / 2;
                    spans.push(middle..span.end);
                    spans.push(span.start..middle);
                }
            }
        }
        Ok(())
    }

    /// Hands records to the sink again, all or none; no offset moves. Why they are refused, where they are.
    pub(super) async fn again(&mut self, items: &[Item<'_>]) -> Result<Option<String>, Fault> {
        let unreadable = items.iter().find_map(|item| match &item.outcome {
            Outcome::Unreadable(reason, _) => Some(reason.to_string()),
            _ => None,
        });
        if unreadable.is_some() {
            return Ok(unreadable);
        }
        let range = |item: &Item<'_>| Range { partition: item.partition, from: item.offset, to: item.offset + 1 };
        match self.write(items, newest(items), items.iter().map(range).collect(), false, None).await {
            Err(Fault::Sink(error)) if error.kind.reaction() == Reaction::Park => {
                self.metrics.sink_error(error.kind);
                Ok(Some(error.to_string()))
            }
            done => done.map(|()| None),
        }
    }

    /// Removes rows that were seen at the sink and are not granted.
    pub(super) async fn remove(&mut self, rows: &[HeldRow]) -> Result<(), Fault> {
        let removal = |row: &HeldRow| {
            let version = row.version.as_ref().and_then(|bytes| Version::from_bytes(bytes).ok()).unwrap_or_default();
            let key = RowKey { id: row.key.join("\0").into_bytes(), clear: Vec::new() };
            Change::new(version, 0, What::Delete(key, Gone::NotGranted))
        };
        let removals: Vec<_> = rows.iter().map(removal).collect();
        let changes: Vec<_> = removals.iter().collect();
        let entry = self.entry(changes.iter(), Vec::new());
        let unlogged = self.session.journal.unlogged().await?;
        let batch = SinkBatch { changes: &changes, earlier: &[], ranges: &[], entry: &entry, unlogged, sealed: None };
        let removed = self.sink.remove(rows, &batch).await?;
        self.metrics.deletes.inc_by(removed);
        self.session.journal.note(entry, Vec::new()).await?;
        Ok(())
    }

    fn entry<'b, 'i: 'b, 'r: 'i>(
        &self,
        changes: impl Iterator<Item = &'b &'i Change<'r>> + Clone,
        ranges: Vec<Range>,
    ) -> AuditEntry {
        AuditEntry {
            subscription: self.name.to_string(),
            resource: self.resource.to_owned(),
            epoch: self.session.epoch,
            count: changes.clone().count() as u64,
            content: digest(changes),
            grant: self.grant.to_owned(),
            revision: self.revision.to_owned(),
            at_us: Timestamp::now().as_microsecond(),
            previous: self.session.journal.last(),
            ranges,
        }
    }

    fn parked(&self, item: &Item<'_>, reason: String) -> Parked {
        tracing::warn!(subscription = &**self.name, partition = item.partition, offset = item.offset, reason, "record set aside");
        let (row, version) = match &item.outcome {
            Outcome::Change(change) => (Some(change.key()), Some(change.version.to_string())),
            Outcome::Unreadable(_, row) => (row.as_ref(), None),
            Outcome::Unchanged => (None, None),
        };
        let is_upsert = matches!(&item.outcome, Outcome::Change(change) if matches!(change.what, What::Upsert(_)));
        Parked {
            topic: self.topic.to_owned(),
            partition: item.partition,
            offset: item.offset,
            // Of a row that is not delivered with it nobody knows whether it was ever granted.
            key: row.filter(|_| is_upsert).map(key_text),
            row: row.map(|row| mark(&row.id)),
            version,
            reason: shortened(reason),
            at_us: Timestamp::now().as_microsecond(),
        }
    }

    async fn park(&mut self, parked: Vec<Parked>) -> Result<(), Fault> {
        let count = parked.len() as u64;
        let aside = &self.session.journal.aside;
        let more = parked.iter().filter(|parked| aside.get(parked.place()).is_none()).count();
        if more > 0 && aside.len() + more > MOST_PARKED {
            let last = parked.last().map_or_else(String::new, |parked| format!("; the last one: {}", parked.reason));
            return Err(Fault::Overfull(format!("{} records are set aside, which is the limit{last}", aside.len())));
        }
        self.session.journal.park(parked).await?;
        self.metrics.parked.inc_by(count);
        Ok(())
    }

    /// One transaction at the sink; its audit entry follows in the log, while the sink goes on. `changes`: the newest of each key;
    /// `moves`: the sink's offsets move over the ranges.
    async fn write<'i, 'r>(
        &mut self,
        items: &'i [Item<'r>],
        mut changes: Vec<&'i Change<'r>>,
        ranges: Vec<Range>,
        moves: bool,
        staged: Option<Staged>,
    ) -> Result<(), Fault> {
        let mut earlier = earlier(items, &changes, self.sink.wants());
        self.sink.sift(&mut earlier, &mut changes, staged.as_ref()).await?;
        let entry = self.entry(earlier.iter().flatten().chain(&changes), ranges);
        let unlogged = self.session.journal.unlogged().await?;
        let ranges = if moves { entry.ranges.as_slice() } else { &[] };
        let batch = SinkBatch { changes: &changes, earlier: &earlier, ranges, entry: &entry, unlogged, sealed: None };
        let ack = match staged {
            Some(staged) => self.sink.write_staged(&batch, staged).await?,
            None => self.sink.write(&batch).await?,
        };
        self.session.positions.extend(ack.durable);
        self.count(items);
        self.session.journal.note(entry, ack.notes).await?;
        self.end_entries(items, true).await
    }

    /// Ends what is set aside of the rows that `items` change. Before they are handed over, entries that a later change makes void:
    /// it is delivered or set aside itself, and no crash leaves an older one that somebody could put over it. Once they are
    /// `delivered`, their own too.
    async fn end_entries(&mut self, items: &[Item<'_>], delivered: bool) -> Result<(), Fault> {
        let aside = &self.session.journal.aside;
        if aside.is_empty() {
            return Ok(());
        }
        let mut ended = BTreeMap::new();
        for item in items {
            let Outcome::Change(change) = &item.outcome else { continue };
            let own = Place { partition: item.partition, offset: item.offset };
            for parked in aside.of_row(&change.key().id, change.version) {
                let end = if parked.place() == own { End::Delivered } else { End::Superseded };
                if delivered || end == End::Superseded {
                    tracing::info!(subscription = &**self.name, place = %parked.place(), ?end, "record is set aside no longer");
                    ended.insert(parked.place(), (parked, end));
                }
            }
        }
        if ended.is_empty() {
            return Ok(());
        }
        let ended: Vec<_> = ended.into_values().collect();
        self.metrics.superseded.inc_by(ended.iter().filter(|(_, end)| *end == End::Superseded).count() as u64);
        self.session.journal.end(self.log, &ended, &Word::default(), Timestamp::now().as_microsecond()).await?;
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
        let (now, latency) = (Timestamp::now().as_microsecond(), self.metrics.latency.local());
        let (mut upserts, mut deletes, mut unchanged, mut unjudged, mut reason) = (0, 0, 0, 0, None);
        for item in items {
            if let Some(error) = item.unjudged {
                unjudged += 1;
                reason = Some(error.to_string());
            }
            match &item.outcome {
                Outcome::Change(change) => match change.what {
                    What::Upsert(_) => upserts += 1,
                    What::Delete(..) => deletes += 1,
                },
                Outcome::Unchanged => {
                    unchanged += 1;
                    continue;
                }
                Outcome::Unreadable(..) => continue,
            }
            // The age of what is delivered again says nothing about delivery.
            if !self.session.repeats() {
                latency.observe((now - item.source_us).max(0) as f64 / 1e6);
            }
        }
        latency.flush();
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
            status.parked = self.session.journal.aside.len() as u64;
            status.offsets = self.session.positions.iter().map(|(&partition, &next)| (partition, next)).collect();
        });
    }
}

/// A sink that refuses what holds no value of a record refuses its own form.
fn misshapen(refused: SinkError) -> Fault {
    Fault::Sink(SinkError { kind: SinkErrorKind::Shape, ..refused })
}

/// A row's key as the subscriber knows it.
pub(super) fn key_text(row: &RowKey<'_>) -> String {
    match row.clear.as_slice() {
        [] => hex::encode(&row.id),
        parts => parts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}
