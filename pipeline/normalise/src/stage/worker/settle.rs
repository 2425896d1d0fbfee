//! What the events of a batch come to: claims settled, entries opened and released, records made, and all of it committed.

use std::sync::Arc;

use guitong_log::{Batch, NewRecord, OwnedLog};
use guitong_schemas::avro::{DecodePlan, frame};
use guitong_schemas::change::Operation;

use super::{Ends, Read, Verdict, Worker};
use crate::claims::{self, Effect, Published};
use crate::error::SessionError;
use crate::join;
use crate::keyed::overlay::Overlay;
use crate::keyed::row::RowState;
use crate::mapping::Columns;
use crate::quarantine::{Entry, record};
use crate::rebuild;
use crate::stage::arrival::Arrival;
use crate::stage::figures::Came;
use crate::stage::known::note_seen;
use crate::stage::output::{Cause, Output};
use crate::transform::describe_key;

impl Worker {
    /// Settles the events and commits what they came to.
    pub(super) async fn settle(
        &mut self,
        owner: &mut dyn OwnedLog,
        mut overlay: Overlay,
        events: Vec<Read<'_>>,
        offsets: Ends,
    ) -> Result<(), SessionError> {
        let mut keys = Vec::with_capacity(events.len());
        for event in &events {
            if matches!(event.verdict, Verdict::Stale | Verdict::Bad(_)) {
                continue;
            }
            let row = event.arrival.source.as_ref().and_then(|source| overlay.rows.get(source));
            keys.extend(row.into_iter().flat_map(|row| row.keys.iter().cloned()));
            if let Verdict::Good(records) = &event.verdict {
                keys.extend(records.iter().map(|record| record.key.clone()));
            }
        }
        self.load_entities(owner, &mut overlay, keys).await?;
        let mut output = Output::new(Arc::clone(&self.names));
        let now_us = jiff::Timestamp::now().as_microsecond();
        let mut records = Vec::with_capacity(events.len() + 8);
        for event in events {
            let key = match &event.verdict {
                Verdict::Bad(_) => self.describe_key(event.arrival).await,
                _ => String::new(),
            };
            self.settle_one(&mut overlay, event, key, now_us, &mut output, &mut records);
        }
        self.commit(owner, overlay, records, offsets).await
    }

    fn settle_one(
        &self,
        overlay: &mut Overlay,
        event: Read<'_>,
        key: String,
        now_us: i64,
        output: &mut Output,
        records: &mut Vec<NewRecord>,
    ) {
        let Read { arrival, source_ts_us, verdict, operation, is_again, columns, uses } = event;
        let source = arrival.source.as_ref();
        let newest = uses.newest;
        let made = self.made(arrival, &verdict, uses, columns.as_ref());
        let entry = matches!(verdict, Verdict::Bad(_)).then(|| self.entry(arrival, columns.clone().unwrap_or_default(), key));
        if let (Some(source), Verdict::Good(_) | Verdict::Bad(_)) = (source, &verdict) {
            note_seen(overlay, source, arrival, columns);
        }
        let mut came = None;
        let effect = match (verdict, source) {
            (Verdict::Stale, _) => {
                self.metrics.stale.inc();
                match arrival.entry {
                    // A newer version of the row overtook the entry.
                    Some(seq) => claims::let_go(overlay, source, seq),
                    None => return,
                }
            }
            (Verdict::Removed, Some(source)) => {
                // A delete and the tombstone after it are one.
                let was_there = overlay.rows.get(source).is_some();
                let effect = claims::remove(overlay, source);
                if self.keeps_gone {
                    overlay.rows.put(source.clone(), RowState::gone(arrival.version));
                }
                if was_there && !arrival.is_beside {
                    self.metrics.deleted.inc();
                    came = Some(Came::Deleted);
                }
                effect
            }
            (Verdict::Good(made), Some(source)) => {
                let repeat = self.repeats && operation == Operation::Update && arrival.entry.is_none();
                let effect = claims::settle(overlay, source, arrival.version, made, source_ts_us, repeat);
                let (count, how) = if effect.changes_nothing() {
                    (&self.metrics.unchanged, Came::Unchanged)
                } else {
                    (&self.metrics.published, Came::Published)
                };
                count.inc();
                came = Some(how);
                effect
            }
            // An event that reads as a change has a key; a tombstone without one says nothing.
            (Verdict::Removed | Verdict::Good(_), None) => return,
            (Verdict::Bad(rejections), source) => {
                self.metrics.quarantined.inc();
                came = Some(Came::Rejected);
                let Some(mut entry) = entry else { return };
                entry.rejections.clone_from(&rejections);
                match arrival.entry {
                    // Run again and still bad: the event stays where it is, its reasons are the new ones.
                    Some(seq) => claims::retell(overlay, seq, entry),
                    None => {
                        let (seq, effect) = claims::quarantine(overlay, source, arrival.version, entry);
                        if let (Some(plan), None) = (&self.mapping.joins, source) {
                            overlay.joins.note_unread(plan, arrival, seq);
                        }
                        records.push(record::of(&self.quarantine_topic, seq, &arrival.record, &rejections));
                        effect
                    }
                }
            }
        };
        if let (Some(_), Some(source)) = (&self.mapping.joins, source) {
            join::overlay::note(overlay, source, made);
        }
        if let Some(came) = came.filter(|_| !is_again) {
            self.count(overlay, (source_ts_us, operation), came, now_us);
        }
        let cause = Cause { version: arrival.version.max(newest), source_ts_us, timestamp_ms: arrival.record.timestamp_ms };
        self.emit(overlay, cause, effect, output, records);
    }

    pub(crate) fn entry(&self, arrival: &Arrival, columns: Columns, key: String) -> Entry {
        Entry {
            source: arrival.source.clone(),
            key,
            version: arrival.version,
            topic: Arc::clone(&arrival.record.at.topic),
            offset: arrival.record.offset,
            stored_from: self.quarantine_end,
            at_us: jiff::Timestamp::now().as_microsecond(),
            rejections: Vec::new(),
            columns,
        }
    }

    /// The event's key for people; empty where it cannot be read now.
    pub(crate) async fn describe_key(&mut self, arrival: &Arrival) -> String {
        let Some((schema, avro)) = arrival.record.key.as_deref().and_then(|key| frame::read(key).ok()) else {
            return String::new();
        };
        if !self.key_plans.contains_key(&schema) {
            let Ok(json) = self.registry.schema(schema).await else { return String::new() };
            self.key_plans.insert(schema, DecodePlan::compile(&json).ok());
        }
        let plan = self.key_plans.get(&schema).and_then(Option::as_ref);
        plan.map_or_else(String::new, |plan| describe_key(&self.mapping, plan, avro))
    }

    /// Writes what an effect emits and releases.
    pub(crate) fn emit(
        &self,
        overlay: &mut Overlay,
        mut cause: Cause,
        effect: Effect,
        output: &mut Output,
        records: &mut Vec<NewRecord>,
    ) {
        let timestamp_ms = cause.timestamp_ms;
        if !effect.emissions.is_empty() {
            cause.version = overlay.totals.stamp(cause.version);
            for (n, emission) in effect.emissions.into_iter().enumerate() {
                match &emission.change {
                    Published::Upsert { unchanged: false, .. } => &self.metrics.upserts,
                    Published::Upsert { unchanged: true, .. } => &self.metrics.repeats,
                    Published::Delete => &self.metrics.deletes,
                }
                .inc();
                let record = output.record(cause, n, emission);
                records.push(record);
            }
        }
        records.extend(effect.released.iter().map(|seq| record::released(&self.quarantine_topic, *seq, timestamp_ms)));
    }

    pub(crate) async fn commit(
        &mut self,
        owner: &mut dyn OwnedLog,
        mut overlay: Overlay,
        mut records: Vec<NewRecord>,
        offsets: Ends,
    ) -> Result<(), SessionError> {
        let settled = overlay.joins.take_settled();
        overlay.entries.load(owner, settled.iter().copied().map(claims::entry_key)).await?;
        for seq in settled {
            // One that a person gave up is there no longer.
            if overlay.entries.get(&claims::entry_key(seq)).is_none() {
                continue;
            }
            claims::let_go(&mut overlay, None, seq);
            let timestamp_ms = jiff::Timestamp::now().as_millisecond();
            records.push(record::released(&self.quarantine_topic, seq, timestamp_ms));
        }
        let pause = overlay.pause.clone();
        if !offsets.is_empty() {
            overlay.totals.read_us = jiff::Timestamp::now().as_microsecond();
        }
        let (mut state, counters) = overlay.into_changes();
        state.extend(self.drift.take_change());
        if self.is_rebuilt {
            rebuild::follow(&mut state);
        }
        let quarantined = records.iter().filter(|record| record.topic == self.quarantine_topic).count();
        let batch = Batch { records, offsets, position: None, state };
        owner.begin(batch).await?;
        self.counters = counters;
        self.pause = pause.or(self.pause.take());
        self.quarantine_end += quarantined as u64;
        self.metrics.show(&self.counters);
        Ok(())
    }
}
