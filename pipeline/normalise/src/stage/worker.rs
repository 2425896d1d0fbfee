//! One batch of raw events: read state once, run the mapping, settle claims, commit records, offsets and state together (`settle`).
//!
//! Order of work: rows of the batch are loaded; each event is decoded and mapped in order (the row's absent columns come from
//! the overlay, so from events of the same batch too); then the entity keys are loaded that rows held or events gave; then each
//! event's effects are settled in order. State is read twice per batch, whatever the number of events.

mod settle;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use guitong_log::registry::SchemaRegistry;
use guitong_log::{ExchangeLog, OwnedLog, TopicPartition};
use guitong_schemas::avro::DecodePlan;
use guitong_schemas::change::Operation;
use guitong_schemas::contract::Quality;
use guitong_schemas::contract::quality::PauseAbove;
use guitong_schemas::standard::Written;

use super::arrival::{Arrival, Body, Fault};
use super::binding::{Binding, Fit, Unfit};
use super::known::Known;
use super::output::Names;
use crate::claims::{self, EntityRecord};
use crate::drift::{Drift, Surroundings};
use crate::error::SessionError;
use crate::join;
use crate::join::beside::Uses;
use crate::join::stage::{BesideEvents, Joining};
use crate::join::state::Group;
use crate::keyed::overlay::{Cached, Counters, Overlay};
use crate::mapping::{Columns, Mapping};
use crate::metrics::ResourceMetrics;
use crate::quality::flow::Flows;
use crate::quality::window::Pause;
use crate::quarantine::Rejection;
use crate::transform::{Change, Event, Runner};

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
