//! One batch of raw events: read state once, run the mapping, settle claims, commit records, offsets and state together.
//!
//! Order of work: rows of the batch are loaded; each event is decoded and mapped in order (the row's absent columns come from
//! the overlay, so from events of the same batch too); then the entity keys are loaded that rows held or events gave; then each
//! event's effects are settled in order. State is read twice per batch, whatever the number of events.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use guitong_log::registry::SchemaRegistry;
use guitong_log::{Batch, ExchangeLog, NewRecord, OwnedLog, TopicPartition};
use guitong_schemas::avro::{DecodePlan, frame};
use guitong_schemas::change::Operation;
use guitong_schemas::contract::Quality;
use guitong_schemas::contract::quality::PauseAbove;
use guitong_schemas::standard::Written;

use super::arrival::{Arrival, Body, Fault};
use super::binding::{Binding, Fit, Unfit};
use super::figures::Came;
use super::known::{Known, note_seen};
use super::output::{Cause, Names, Output};
use crate::claims::{self, Effect, EntityRecord, Published};
use crate::drift::{Drift, Surroundings};
use crate::error::SessionError;
use crate::join;
use crate::join::beside::Uses;
use crate::join::stage::{BesideEvents, Joining};
use crate::join::state::Group;
use crate::keyed::overlay::{Cached, Counters, Overlay};
use crate::keyed::row::RowState;
use crate::mapping::{Columns, Mapping};
use crate::metrics::ResourceMetrics;
use crate::quality::flow::Flows;
use crate::quality::window::Pause;
use crate::quarantine::{Entry, Rejection, record};
use crate::rebuild;
use crate::transform::{Change, Event, Runner, describe_key};

/// Most rows of a resource with joins that one commit works on.
const JOINED_ROWS: usize = 4_096;

/// Next offset of each partition after some arrivals.
pub(crate) type Ends = Vec<(TopicPartition, u64)>;

/// How far a run over arrivals came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Done,
    /// Too many rows are rejected.
    Flooded(String),
    /// The next event is of a table that has not the columns which the mapping needs.
    Unfit(Unfit),
}

/// What the stage keeps between batches, beside the owner.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) log: Arc<dyn ExchangeLog>,
    pub(crate) registry: Arc<dyn SchemaRegistry>,
    pub(crate) mapping: Arc<Mapping>,
    pub(crate) names: Arc<Names>,
    pub(crate) quarantine_topic: Arc<str>,
    /// Updates that change nothing are published too, marked.
    pub(crate) repeats: bool,
    pub(crate) metrics: ResourceMetrics,
    pub(crate) counters: Counters,
    /// Why nothing more is read.
    pub(crate) pause: Option<Pause>,
    /// Rejected rows that are too many.
    pub(crate) pause_above: PauseAbove,
    /// A change is in time that is normalised so long after its commit at the source, microseconds.
    pub(crate) timely_us: i64,
    /// The quarantine topic's next record lands at this offset or after it.
    pub(crate) quarantine_end: u64,
    /// Commit time of the newest event, microseconds since 1970-01-01T00:00:00Z.
    pub(crate) newest_source_us: Option<i64>,
    /// What is known of the columns that the mapping reads.
    pub(crate) drift: Drift,
    pub(crate) around: Surroundings,
    pub(crate) bindings: HashMap<u32, Binding>,
    key_plans: HashMap<u32, Option<DecodePlan>>,
    /// Schemas of other versions of the entity, by which records were written.
    pub(super) versions: HashMap<u32, Option<Written>>,
    pub(crate) joining: Joining,
    /// A row that goes leaves its version behind.
    pub(crate) keeps_gone: bool,
    /// The resource is made again aside.
    pub(crate) is_rebuilt: bool,
}

/// One event, its content read.
pub(super) struct Read<'a> {
    pub(super) arrival: &'a Arrival,
    pub(super) source_ts_us: i64,
    pub(super) verdict: Verdict,
    operation: Operation,
    /// It was counted before.
    pub(super) is_again: bool,
    /// Values that later events of the row may leave out, as of this one; `None` where they are not known.
    pub(super) columns: Option<Columns>,
    /// What it was made of beside its own row.
    uses: Uses,
}

pub(crate) enum Verdict {
    /// At or below what was read of the row before.
    Stale,
    Removed,
    Good(Vec<EntityRecord>),
    Bad(Vec<Rejection>),
}

impl Verdict {
    pub(crate) fn rejections(&self) -> &[Rejection] {
        match self {
            Self::Bad(rejections) => rejections,
            Self::Stale | Self::Removed | Self::Good(_) => &[],
        }
    }
}

/// What one pass over the arrivals read.
struct Reading<'a> {
    events: Vec<Read<'a>>,
    /// Arrivals that are read.
    done: usize,
    /// The arrival after them is a truncate.
    truncate: bool,
    /// With the last event read too many are rejected.
    is_flooded: bool,
    flows: Flows,
}

impl Worker {
    pub(crate) fn new(
        (log, registry): (Arc<dyn ExchangeLog>, Arc<dyn SchemaRegistry>),
        (mapping, around): (Arc<Mapping>, Surroundings),
        names: Arc<Names>,
        quarantine_topic: Arc<str>,
        quality: &Quality,
        metrics: ResourceMetrics,
    ) -> Self {
        Self {
            log,
            registry,
            mapping,
            around,
            drift: Drift::default(),
            names,
            quarantine_topic,
            repeats: false,
            metrics,
            counters: Counters::default(),
            pause: None,
            pause_above: quality.pause_above,
            timely_us: i64::try_from(quality.timely.as_micros()).unwrap_or(i64::MAX),
            quarantine_end: 0,
            newest_source_us: None,
            bindings: HashMap::new(),
            key_plans: HashMap::new(),
            versions: HashMap::new(),
            joining: Joining::default(),
            keeps_gone: false,
            is_rebuilt: false,
        }
    }

    /// Commits what the arrivals come to. `at` are the raw partitions and the offsets after them all; `None` for a replay, which
    /// consumes nothing.
    pub(crate) async fn work(
        &mut self,
        owner: &mut dyn OwnedLog,
        arrivals: &[Arrival],
        at: Option<Ends>,
    ) -> Result<Progress, SessionError> {
        let live = at.is_some();
        if !live {
            // What the registry did not know when the events came it may know now, and what they tell of the table is old.
            self.forget_bindings();
        }
        let mut left = arrivals;
        while !left.is_empty() && (self.pause.is_none() || !live) {
            let count = match self.bind(owner, left, live).await? {
                Fit::Next(count) => count,
                Fit::Unfit(unfit) => return Ok(Progress::Unfit(unfit)),
            };
            let (mut now, later) = left.split_at(count);
            while !now.is_empty() && (self.pause.is_none() || !live) {
                now = self.round(owner, now, later, at.as_ref()).await?;
            }
            left = later;
        }
        if !live {
            self.forget_bindings();
            return Ok(Progress::Done);
        }
        Ok(self.pause.as_ref().map_or(Progress::Done, |pause| Progress::Flooded(pause.to_string())))
    }

    fn forget_bindings(&mut self) {
        self.bindings.clear();
        self.joining.forget_bindings();
    }

    /// Commits the arrivals up to a truncate and the truncate itself; gives those after it.
    async fn round<'a>(
        &mut self,
        owner: &mut dyn OwnedLog,
        arrivals: &'a [Arrival],
        left: &[Arrival],
        at: Option<&Ends>,
    ) -> Result<&'a [Arrival], SessionError> {
        // What is joined to the rows is held with them.
        let window = if self.mapping.joins.is_some() { arrivals.len().min(JOINED_ROWS) } else { arrivals.len() };
        let (all, arrivals) = (arrivals, arrivals.get(..window).unwrap_or(arrivals));
        let mut overlay = Overlay::new(self.counters.clone());
        let sources = arrivals.iter().filter_map(|arrival| arrival.source.clone());
        overlay.rows.load(owner, sources).await?;
        overlay.entries.load(owner, arrivals.iter().filter_map(|arrival| arrival.entry).map(claims::entry_key)).await?;
        let beside = self.load_beside(owner, &mut overlay, arrivals).await?;
        let Reading { events, done, truncate, is_flooded, flows } = self.read(&mut overlay, arrivals, beside);
        let (done, rest) = all.split_at(done);
        let (truncated, rest) = if truncate { rest.split_at_checked(1).unwrap_or((&[], rest)) } else { (&[][..], rest) };
        if !done.is_empty() {
            let new = events.iter().filter(|event| !event.is_again);
            self.open_days(owner, &mut overlay, new.map(|event| event.source_ts_us), &flows).await?;
            if is_flooded {
                let reasons = events.iter().flat_map(|event| event.verdict.rejections());
                overlay.pause = Some(self.pause(owner, &overlay, reasons).await?);
            }
            self.settle(owner, overlay, events, consumed(at, [truncated, rest, left])).await?;
        }
        if let Some(arrival) = truncated.first() {
            let offsets = consumed(at, [rest, left, &[]]);
            if arrival.is_beside {
                self.truncate_beside(owner, arrival, offsets).await?;
            } else {
                self.truncate(owner, arrival, &[], offsets).await?;
            }
        }
        Ok(rest)
    }

    /// Decodes and maps events in order, up to a truncate. State is only read: what events of this batch change for those after
    /// them stands in the events themselves.
    fn read<'a>(&mut self, overlay: &mut Overlay, arrivals: &'a [Arrival], mut beside: BesideEvents) -> Reading<'a> {
        let mapping = Arc::clone(&self.mapping);
        let mut runner = Runner::new(&mapping, self.names.value_schema);
        let mut events: Vec<Read<'a>> = Vec::with_capacity(arrivals.len());
        let mut newest: HashMap<&'a [u8], usize, RandomState> =
            HashMap::with_capacity_and_hasher(arrivals.len(), RandomState::default());
        // Rows of groups of which an event of this batch could not be read.
        let mut unread: HashSet<&'a Bytes> = HashSet::new();
        let (mut truncate, mut is_flooded, mut done) = (false, false, 0);
        for (place, arrival) in arrivals.iter().enumerate() {
            done = place;
            let fallback = arrival.record.timestamp_ms.saturating_mul(1_000);
            if arrival.is_beside {
                match self.take_beside(overlay, arrival, beside.remove(&place)) {
                    // What could not be read of the row is settled with what can be.
                    Ok(false)
                        if arrival
                            .source
                            .as_ref()
                            .is_some_and(|source| overlay.rows.get(source).is_some() || unread.contains(source)) =>
                    {
                        events.push(Read::of(arrival, fallback, Verdict::Removed, true));
                    }
                    Ok(false) => {}
                    Ok(true) => {
                        truncate = true;
                        break;
                    }
                    // Figures are of the resource's own rows.
                    Err(fault) => {
                        let is_again = !arrival.is_of_group() || arrival.entry.is_some();
                        runner.flows.is_again = is_again;
                        let read = self.faulty(&mut runner, arrival, fallback, is_again, fault);
                        is_flooded = !is_again && self.note(overlay, arrival, &read.verdict);
                        unread.extend(&arrival.source);
                        events.push(read);
                    }
                }
                done = place + 1;
                if is_flooded {
                    break;
                }
                continue;
            }
            let before = arrival.source.as_deref().and_then(|source| newest.get(source)).and_then(|at| events.get(*at));
            let known = Known::of(overlay, arrival, before);
            if known.is_stale(arrival) {
                events.push(Read::of(arrival, fallback, Verdict::Stale, true));
                done = place + 1;
                continue;
            }
            let is_again = arrival.entry.is_some() || known.has_seen(arrival);
            runner.flows.is_again = is_again;
            let read = match self.read_one(&mut runner, arrival, known.columns, fallback, &overlay.joins.groups) {
                Ok(Event { change: Change::Truncate, .. }) => {
                    truncate = true;
                    break;
                }
                // An earlier event of the batch changed what finds them.
                Ok(Event { change: Change::Unloaded, .. }) => break,
                Ok(Event { source_ts_us, change, operation, columns, uses }) => {
                    self.newest_source_us = self.newest_source_us.max(Some(source_ts_us));
                    let verdict = match change {
                        Change::Good(records) => Verdict::Good(records),
                        Change::Bad { rejections } => Verdict::Bad(rejections),
                        Change::Delete | Change::Truncate | Change::Unloaded => Verdict::Removed,
                    };
                    Read { arrival, source_ts_us, verdict, operation, is_again, columns, uses }
                }
                Err(fault) => self.faulty(&mut runner, arrival, fallback, is_again, fault),
            };
            if arrival.entry.is_none() {
                self.metrics.bytes.inc_by(arrival.record.value.as_ref().map_or(0, |value| value.len() as u64));
                overlay.totals.received += u64::from(arrival.record.value.is_some());
                if let Some(source) = arrival.source.as_deref() {
                    newest.insert(source, events.len());
                }
                is_flooded = self.note(overlay, arrival, &read.verdict);
            }
            events.push(read);
            done = place + 1;
            if is_flooded {
                break;
            }
        }
        for (level, rule, count) in runner.flows.iter().flat_map(|flow| flow.tally.counts()) {
            self.metrics.finding(level, rule, count);
        }
        Reading { events, done, truncate, is_flooded, flows: runner.flows }
    }

    /// An event that is kept out for what its outside says.
    fn faulty<'a>(
        &self,
        runner: &mut Runner<'_>,
        arrival: &'a Arrival,
        source_ts_us: i64,
        is_again: bool,
        fault: Fault,
    ) -> Read<'a> {
        let rule = fault.texts().0;
        self.metrics.finding("error", rule, 1);
        runner.flows.on(self.mapping.zone.local_days(source_ts_us)).fault(rule);
        Read::of(arrival, source_ts_us, Verdict::Bad(vec![rejection(fault)]), is_again)
    }

    pub(crate) fn read_one(
        &self,
        runner: &mut Runner<'_>,
        arrival: &Arrival,
        columns: Option<&Columns>,
        fallback_us: i64,
        groups: &Cached<Group>,
    ) -> Result<Event, Fault> {
        if self.mapping.joins.is_some() && !join::stage::fits(arrival) {
            return Err(Fault::TooLarge);
        }
        let event = match arrival.body {
            Body::Tombstone => Ok(Event::of(Change::Delete, Operation::Read, fallback_us)),
            Body::Faulty(fault) => Err(fault),
            Body::Framed { schema } => match self.bindings.get(&schema) {
                Some(Binding::Ready(bound)) => {
                    runner.run_beside(bound, &arrival.raw(), columns, fallback_us, Some(groups)).map_err(|_| Fault::Decode)
                }
                Some(Binding::Unusable) | None => Err(Fault::Schema),
            },
        }?;
        let needs_key = !matches!(event.change, Change::Truncate) && arrival.body != Body::Tombstone;
        if needs_key && arrival.source.is_none() { Err(Fault::Key) } else { Ok(event) }
    }

    /// Settles the events and commits what they came to.
    async fn settle(
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

impl<'a> Read<'a> {
    fn of(arrival: &'a Arrival, source_ts_us: i64, verdict: Verdict, is_again: bool) -> Self {
        let (operation, columns, uses) = (Operation::Read, None, Uses::default());
        Self { arrival, source_ts_us, verdict, operation, is_again, columns, uses }
    }
}

/// The offsets of the first arrivals that are not part of a commit; those after them all where every one is.
fn consumed(at: Option<&Ends>, left: [&[Arrival]; 3]) -> Ends {
    let next = |at: &TopicPartition| {
        let first = left.iter().copied().flatten().find(|arrival| arrival.record.at == *at);
        first.map(|arrival| arrival.record.offset)
    };
    at.into_iter().flatten().map(|(at, end)| (at.clone(), next(at).unwrap_or(*end))).collect()
}

pub(crate) fn rejection(fault: Fault) -> Rejection {
    let (rule, zh, en) = fault.texts();
    Rejection { rule: rule.to_owned(), field: String::new(), value: None, zh: zh.to_owned(), en: en.to_owned() }
}
