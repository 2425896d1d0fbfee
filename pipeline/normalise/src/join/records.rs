//! Records that several rows make: whatever happens to one of them, the record is made again of those that are there, and goes with the
//! last. A record has the key of its group in the place of a source key.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use guitong_log::{NewRecord, OwnedLog, Record};
use guitong_schemas::change::Operation;

use super::beside::Uses;
use super::overlay::note;
use super::refresh::{Again, Version, Wanted, decode, keys_of, read_versions};
use super::state::{Group, Refresh};
use super::{GroupKey, REFRESH};
use crate::claims::{self, entry_key};
use crate::error::SessionError;
use crate::keyed::overlay::{Cached, Overlay};
use crate::mapping::column::Row;
use crate::mapping::{Bound, Mapping, Refusal};
use crate::quality::flow::Flows;
use crate::stage::arrival::{Arrival, Body, UNREAD};
use crate::stage::figures::Came;
use crate::stage::output::{Cause, Output};
use crate::stage::worker::{Ends, Verdict, Worker};
use crate::transform::{Change, Runner};

/// Most records that one commit makes.
const PAGE: usize = 500;

/// A record made of its rows, or gone with them.
enum Made<'v> {
    Gone(&'v Wanted),
    There {
        again: Again<'v>,
        operation: Operation,
        /// The rows are as they were; something that they use is not.
        is_again: bool,
        wanted: &'v Wanted,
    },
}

impl Worker {
    /// Makes a page of the records whose rows changed.
    pub(super) async fn refresh_records(&mut self, owner: &mut dyn OwnedLog, bytes: usize) -> Result<(), SessionError> {
        let mapping = Arc::clone(&self.mapping);
        let Some(table) = mapping.group() else { return Ok(()) };
        let mut overlay = Overlay::new(self.counters.clone());
        let mut wanted = Vec::new();
        for (group, stored) in owner.scan(REFRESH, &table.id, None, PAGE).await? {
            match table.record_of(&group) {
                Some(source) => wanted.push(Wanted { source, refresh: decode(&stored)? }),
                None => overlay.joins.write(REFRESH, group, None),
            }
        }
        let (done, records) = self.make_again(owner, &mut overlay, &wanted, bytes).await?;
        for Wanted { source, .. } in wanted.iter().take(done) {
            overlay.joins.write(REFRESH, table.group_of_record(source), None);
        }
        self.commit(owner, overlay, records, Ends::new()).await
    }

    /// Makes the records of quarantined events again; gives the events that are to be read again themselves.
    pub(crate) async fn make_entries_again(
        &mut self,
        owner: &mut dyn OwnedLog,
        events: Vec<(u64, Record)>,
    ) -> Result<Vec<(u64, Record)>, SessionError> {
        if !self.mapping.is_grouped() {
            return Ok(events);
        }
        let mut overlay = Overlay::new(self.counters.clone());
        overlay.entries.load(owner, events.iter().map(|(seq, _)| entry_key(*seq))).await?;
        let (mut rest, mut wanted): (Vec<(u64, Record)>, Vec<Wanted>) = (Vec::new(), Vec::new());
        for (seq, record) in events {
            let source = overlay.entries.get(&entry_key(seq)).and_then(|entry| entry.source.clone());
            match source.filter(|source| source.first() != Some(&UNREAD)) {
                Some(source) if wanted.iter().all(|other| other.source != source) => {
                    wanted.push(Wanted { source, refresh: Refresh::default() });
                }
                Some(_) => {}
                None => rest.push((seq, record)),
            }
        }
        let mut wanted = wanted.as_slice();
        while !wanted.is_empty() {
            let mut overlay = Overlay::new(self.counters.clone());
            let (done, records) = self.make_again(owner, &mut overlay, wanted, usize::MAX).await?;
            self.commit(owner, overlay, records, Ends::new()).await?;
            wanted = wanted.get(done.max(1)..).unwrap_or_default();
        }
        Ok(rest)
    }

    /// Makes the first of the records, as many as there is room for; gives how many, and what is to be published.
    pub(super) async fn make_records(
        &mut self,
        owner: &dyn OwnedLog,
        overlay: &mut Overlay,
        wanted: &[Wanted],
    ) -> Result<(usize, Vec<NewRecord>), SessionError> {
        let mapping = Arc::clone(&self.mapping);
        let (Some(plan), Some(table)) = (&mapping.joins, mapping.group()) else { return Ok((wanted.len(), Vec::new())) };
        let missing = |overlay: &Overlay, at: usize| {
            let group = table.group_of_record(&wanted.get(at)?.source);
            plan.join_of(&Row::joined(&[]), Some(&group), Some(&overlay.joins.groups)).err()
        };
        self.load_found(owner, overlay, wanted.len(), missing, 1).await?;
        let loaded = (0..wanted.len()).find(|at| missing(overlay, *at).is_some()).unwrap_or(wanted.len());
        let wanted = wanted.get(..loaded).unwrap_or_default();
        let versions = read_versions(owner, overlay, wanted).await?;
        let bounds = self.bind_group(&versions).await?;
        let (made, flows, is_flooded) = self.run_records(overlay, wanted, &versions, &bounds);
        let mut keys: Vec<Bytes> = Vec::new();
        let (mut days, mut again) = (Vec::new(), Vec::new());
        for one in &made {
            match one {
                Made::Gone(gone) => {
                    keys.extend(overlay.rows.get(&gone.source).into_iter().flat_map(|row| row.keys.iter().cloned()));
                    days.push(gone.refresh.source_ts_us);
                }
                Made::There { again: it, is_again, .. } => {
                    again.push(it);
                    days.extend((!is_again).then_some(it.source_ts_us));
                }
            }
        }
        keys.extend(keys_of(overlay, again.iter().copied()));
        self.load_entities(owner, overlay, keys).await?;
        self.open_days(owner, overlay, days, &flows).await?;
        if is_flooded {
            let new = again.iter().flat_map(|again| again.verdict.rejections());
            overlay.pause = Some(self.pause(owner, overlay, new).await?);
        }
        let done = made.len();
        Ok((done, self.settle_records(overlay, made)))
    }

    /// Makes the records, up to the one with which too many are rejected.
    fn run_records<'v>(
        &self,
        overlay: &mut Overlay,
        wanted: &'v [Wanted],
        versions: &'v [Version],
        bounds: &HashMap<u32, Arc<Bound>>,
    ) -> (Vec<Made<'v>>, Flows, bool) {
        let mapping = Arc::clone(&self.mapping);
        let mut runner = Runner::new(&mapping, self.names.value_schema);
        let by_source: HashMap<&[u8], &'v Version> = versions.iter().map(|version| (&version.source[..], version)).collect();
        let (mut made, mut is_flooded) = (Vec::with_capacity(wanted.len()), false);
        let Some(table) = mapping.group() else { return (made, runner.flows, false) };
        for wanted in wanted {
            let group = table.group_of_record(&wanted.source);
            let is_there = overlay.joins.groups.get(&group).is_some_and(|rows| !rows.is_empty());
            let Some(version) = by_source.get(&wanted.source[..]).filter(|_| is_there) else {
                made.push(Made::Gone(wanted));
                continue;
            };
            let (source_ts_us, operation) = told_by(&version.arrival, bounds);
            let seen = overlay.rows.get(&wanted.source).map(|row| row.seen.with_revision(0));
            let is_again = seen.is_some_and(|seen| version.arrival.version.with_revision(0) <= seen);
            runner.flows.is_again = is_again;
            let (change, uses) = run_record(&mapping, &mut runner, &group, source_ts_us, &overlay.joins.groups);
            let verdict = match change {
                Change::Good(records) => Verdict::Good(records),
                Change::Bad { rejections } => Verdict::Bad(rejections),
                // What it needs is loaded, and its rows are there.
                Change::Delete | Change::Truncate | Change::Unloaded => continue,
            };
            is_flooded = !is_again && self.note(overlay, &version.arrival, &verdict);
            let again = Again { version, verdict, uses, source_ts_us };
            made.push(Made::There { again, operation, is_again, wanted });
            if is_flooded {
                break;
            }
        }
        for (level, rule, count) in runner.flows.iter().flat_map(|flow| flow.tally.counts()) {
            self.metrics.finding(level, rule, count);
        }
        (made, runner.flows, is_flooded)
    }

    fn settle_records(&self, overlay: &mut Overlay, made: Vec<Made<'_>>) -> Vec<NewRecord> {
        let now_us = jiff::Timestamp::now().as_microsecond();
        let (mut output, mut records) = (Output::new(Arc::clone(&self.names)), Vec::new());
        for one in made {
            match one {
                Made::Gone(Wanted { source, refresh }) => {
                    let was_there = overlay.rows.get(source).is_some();
                    let effect = claims::remove(overlay, source);
                    note(overlay, source, None);
                    if was_there {
                        self.metrics.deleted.inc();
                        self.count(overlay, (refresh.source_ts_us, Operation::Delete), Came::Deleted, now_us);
                    }
                    let timestamp_ms = refresh.source_ts_us.div_euclid(1_000);
                    let cause = Cause { version: refresh.version, source_ts_us: refresh.source_ts_us, timestamp_ms };
                    self.emit(overlay, cause, effect, &mut output, &mut records);
                }
                Made::There { again, operation, is_again, wanted } => {
                    let key = match &again.verdict {
                        Verdict::Bad(_) => self.mapping.describe_record(&wanted.source),
                        _ => String::new(),
                    };
                    let source_ts_us = again.source_ts_us;
                    let came = self.settle_again(overlay, again, key, &wanted.refresh, &mut output, &mut records);
                    if let Some(came) = came.filter(|_| !is_again) {
                        match came {
                            Came::Published => self.metrics.published.inc(),
                            Came::Unchanged => self.metrics.unchanged.inc(),
                            Came::Rejected | Came::Deleted => {}
                        }
                        self.count(overlay, (source_ts_us, operation), came, now_us);
                    }
                }
            }
        }
        records
    }
}

/// When an event of a group's row was committed at the source, and what it did.
fn told_by(arrival: &Arrival, bounds: &HashMap<u32, Arc<Bound>>) -> (i64, Operation) {
    let fallback = (arrival.record.timestamp_ms.saturating_mul(1_000), Operation::Delete);
    let Body::Framed { schema } = arrival.body else { return fallback };
    let raw = arrival.raw();
    let envelope = bounds.get(&schema).and_then(|bound| bound.plan.envelope(raw.avro).ok());
    envelope.map_or(fallback, |envelope| (envelope.source_ts_us.unwrap_or(fallback.0), envelope.operation))
}

/// What the rows of a group make.
fn run_record(
    mapping: &Mapping,
    runner: &mut Runner<'_>,
    group: &GroupKey,
    source_ts_us: i64,
    groups: &Cached<Group>,
) -> (Change, Uses) {
    let beside = mapping.joins.as_ref().map(|plan| plan.join_of(&Row::joined(&[]), Some(group), Some(groups)));
    let Some(Ok(beside)) = beside else { return (Change::Unloaded, Uses::default()) };
    let refused = match groups.get(group).map(|rows| (rows.is_too_large(), rows.rows().unwrap_or_default())) {
        Some((true, _)) => Some(Refusal::TooManyRows),
        Some((false, rows)) => match mapping.group().map_or(Ok(true), |table| table.means_any(rows)) {
            Ok(true) => None,
            // None of the rows is one that is meant.
            Ok(false) => return (Change::Good(Vec::new()), beside.uses),
            Err(refusal) => Some(refusal),
        },
        None => None,
    };
    if let Some(refusal) = refused {
        return (runner.refuse_rows(refusal, source_ts_us), beside.uses);
    }
    let row = Row { lists: &beside.lists, ..Row::joined(&beside.cells) };
    (runner.run_row(&row, source_ts_us, None), beside.uses)
}
