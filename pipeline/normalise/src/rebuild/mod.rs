//! A resource made again from the raw log under the mapping in force, with no gap for whoever reads `std.`.
//!
//! The raw topic is read again from its beginning by a [`Worker`] like the resource's own, only that its keyed state goes into maps
//! aside ([`aside`]) and its records nowhere. The resource goes on meanwhile. Once both have read the same events, nothing more is
//! read until what was made aside has taken the place of what stands ([`replace`]): a record that is otherwise is published, one
//! that is made no longer is deleted, one that is as it was is left alone. What stands in the end is what a resource would have
//! made of the same log that had the mapping from the beginning. Each step is a commit that notes how far it went, so a stop
//! anywhere goes on from there; a mapping that changes before the end begins again, and one that rejects too much halts the
//! rebuild before anything of it counts.
//!
//! Rows that the raw log holds only in a form that the mapping cannot read stay as they are and are counted; so do those that it no
//! longer holds, where its topic lost its beginning. A topic that has it has every row that is there: others were deleted, and what
//! said so may be gone by now, so they are deleted here. A resource that was away for so long ([`Away`]) is made again for that.
//!
//! | map | key | value |
//! |---|---|---|
//! | `rebuild` | empty | [`state::Stored`]: the declared revision that was followed, how far a rebuild is, what the last came to |
//! | `rebuild.rows`, … | as in `rows`, … | what is made aside |

mod aside;
mod replace;
mod state;

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use guitong_log::{Batch, ExchangeLog, LogError, LogReader, OwnedLog, ReadBudget, StateChange, TopicPartition};
use guitong_schemas::position::Version;
use serde::{Deserialize, Serialize};

pub use state::RebuildReport;

pub(crate) use aside::follow;

use crate::drift::Drift;
use crate::error::SessionError;
use crate::keyed::overlay::StateError;
use crate::keyed::row::RowState;
use crate::keyed::totals::Totals;
use crate::keyed::{ROWS, TOTALS};
use crate::quality::window::{Pause, Window};
use crate::quality::{PAUSED, QUALITY, WINDOW, standing};
use crate::stage::arrival::{Arrival, Body};
use crate::stage::away::Away;
use crate::stage::worker::{Progress, Worker};
use aside::Aside;
use state::{Step, Stored};

pub(crate) const REBUILD: &str = "rebuild";

/// How long a read waits for records that are there.
const WAIT: Duration = Duration::from_secs(1);

/// How far a rebuild is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RebuildStatus {
    /// Mapping revision under which the resource is made again.
    pub revision: u32,
    /// Microseconds since 1970-01-01T00:00:00Z.
    pub began_us: i64,
    pub phase: RebuildPhase,
    /// Raw events read, or rows and records put in place; of so many now.
    pub done: u64,
    pub of: u64,
    /// Why it does not go on.
    pub halted: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RebuildPhase {
    /// The raw log is read again; the resource goes on beside.
    Reading,
    /// What was made takes the place of what stands.
    Replacing,
}

impl fmt::Display for RebuildStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { done, of, .. } = self;
        match (&self.halted, self.phase) {
            (Some(why), _) => write!(f, "it halts: {why}"),
            (None, RebuildPhase::Reading) => write!(f, "{done} of {of} raw events are read again"),
            (None, RebuildPhase::Replacing) => write!(f, "{done} of about {of} rows and records are in place"),
        }
    }
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stepped {
    Worked,
    Ended,
}

/// A rebuild under way, in a session of its resource.
#[derive(Debug)]
pub(crate) struct Rebuild {
    stored: Stored,
    /// Makes the rows aside.
    worker: Worker,
    raw: TopicPartition,
    reader: Option<Box<dyn LogReader>>,
    /// Where the raw topic began when it was last looked at.
    earliest: u64,
    /// Where it ended once it was read up to the resource's own rows. A row of which nothing was met may have its newest event up to
    /// there; older ones go from the log.
    until: Option<u64>,
    /// How long the raw topic keeps deletes.
    trace: Duration,
}

/// How the resource stands to rebuilds. One that its file's revision asks for is begun, or that deletes `missed` ask for, and one whose
/// mapping changed begins anew; what is taking its place already is left to finish.
pub(crate) async fn standing(
    owner: &mut dyn OwnedLog,
    totals: &mut Totals,
    (declared, mapping): (u32, u64),
    missed: bool,
) -> Result<Stored, SessionError> {
    let stored = Stored::load(owner).await?;
    let mut stored = stored.unwrap_or_else(|| Stored { declared: totals.revision, ..Stored::default() });
    let run = stored.run.as_ref();
    if !run.is_some_and(state::Run::is_replacing) {
        let revision = match run {
            _ if stored.declared != declared => Some(totals.revision.saturating_add(1).max(declared)),
            Some(run) if run.mapping != mapping => Some(run.revision),
            None if missed => Some(totals.revision.saturating_add(1)),
            _ => None,
        };
        if let Some(revision) = revision {
            tracing::info!(revision, "makes the resource again from the raw log");
            stored.declared = declared;
            stored.begin(revision, mapping);
            owner.append(Batch { state: vec![stored.change()], ..Batch::default() }).await?;
        }
    }
    if let Some(run) = &stored.run {
        totals.revision = totals.revision.max(run.revision);
    }
    Ok(stored)
}

/// Notes that a rebuild is wanted; it begins when the resource is opened again.
pub(crate) async fn ask(owner: &mut dyn OwnedLog, totals: &Totals, declared: u32, mapping: u64) -> Result<u32, SessionError> {
    let mut stored = Stored::load(owner).await?.unwrap_or_default();
    let revision = totals.revision.saturating_add(1);
    stored.declared = declared;
    stored.begin(revision, mapping);
    owner.append(Batch { state: vec![stored.change()], ..Batch::default() }).await?;
    Ok(revision)
}

impl Rebuild {
    /// Goes on with the rebuild that `stored` tells of; `worker` has nothing done yet.
    pub(crate) async fn open(
        owner: &mut dyn OwnedLog,
        live: &mut Worker,
        mut stored: Stored,
        mut worker: Worker,
        (raw, trace): (TopicPartition, Duration),
    ) -> Result<Self, SessionError> {
        let aside = Aside { owner, stored: &mut stored, quarantine: &live.quarantine_topic };
        let read = |map| move |error| StateError::Codec { map, error };
        let totals = aside.get(TOTALS, &[Bytes::new()]).await?.pop().flatten();
        let totals = totals.map(|bytes| Totals::decode(&bytes).map_err(read(TOTALS))).transpose()?;
        worker.counters.totals = Totals { revision: live.counters.totals.revision, ..totals.unwrap_or_default() };
        worker.counters.standing = standing::Standing::load(&aside).await?;
        worker.drift = Drift::load(&aside).await?;
        worker.drift.follow(&worker.mapping);
        let is_begun = aside.stored.run.as_ref().is_some_and(|run| run.step != Step::Clearing);
        // An older run's halt goes with what it left.
        if let ([window, paused], true) = (aside.get(QUALITY, &[WINDOW, PAUSED]).await?.as_slice(), is_begun) {
            let window = window.as_ref().map(|bytes| Window::decode(bytes).map_err(read(QUALITY)));
            worker.counters.window = window.transpose()?.unwrap_or_default();
            worker.pause = paused.as_ref().map(|bytes| Pause::decode(bytes).map_err(read(QUALITY))).transpose()?;
        }
        worker.keeps_gone = true;
        live.is_rebuilt = true;
        let mut rebuild = Self { stored, worker, raw, reader: None, earliest: 0, until: None, trace };
        rebuild.share_numbers(live);
        Ok(rebuild)
    }

    /// Entries made aside and others are numbered together: both have their events in the one topic.
    fn share_numbers(&mut self, live: &mut Worker) {
        let (live, aside) = (&mut live.counters.totals.next_seq, &mut self.worker.counters.totals.next_seq);
        *live = (*live).max(*aside);
        *aside = *live;
    }

    fn step(&self) -> Option<&Step> {
        self.stored.run.as_ref().map(|run| &run.step)
    }

    fn go_to(&mut self, step: Step) {
        if let Some(run) = &mut self.stored.run {
            run.step = step;
        }
    }

    pub(crate) fn is_replacing(&self) -> bool {
        self.stored.run.as_ref().is_some_and(state::Run::is_replacing)
    }

    pub(crate) fn is_halted(&self) -> bool {
        self.worker.pause.is_some()
    }

    pub(crate) fn status(&self, upto: u64, live: &Worker) -> Option<RebuildStatus> {
        let run = self.stored.run.as_ref()?;
        let halted = self.worker.pause.as_ref().map(ToString::to_string);
        let (phase, done, of) = match run.step {
            Step::Clearing => (RebuildPhase::Reading, 0, upto.saturating_sub(self.earliest)),
            Step::Reading { next } => {
                let done = next.unwrap_or(self.earliest).saturating_sub(self.earliest);
                (RebuildPhase::Reading, done, upto.saturating_sub(self.earliest))
            }
            _ => {
                let standing = &live.counters.standing;
                let done = run.tally.keys + run.tally.rows;
                (RebuildPhase::Replacing, done, done.max(standing.keys.all + standing.rows.all))
            }
        };
        Some(RebuildStatus { revision: run.revision, began_us: run.began_us, phase, done, of, halted })
    }

    /// Whether it has read all that it may, and goes on once the resource itself, whose rows are made up to `end`, is further.
    pub(crate) fn waits(&self, end: u64) -> bool {
        let is_read = matches!(self.step(), Some(Step::Reading { next }) if next.unwrap_or(self.earliest) >= end);
        is_read && self.until.is_some_and(|until| end < until)
    }

    /// Lets a halted rebuild go on.
    pub(crate) async fn resume(&mut self, owner: &mut dyn OwnedLog) -> Result<(), SessionError> {
        let forget = |key| StateChange { map: QUALITY.into(), key, value: None };
        let quarantine = std::sync::Arc::clone(&self.worker.quarantine_topic);
        let mut aside = Aside { owner, stored: &mut self.stored, quarantine: &quarantine };
        aside.append(Batch { state: vec![forget(WINDOW), forget(PAUSED)], ..Batch::default() }).await?;
        self.worker.pause = None;
        self.worker.counters.window = Window::default();
        Ok(())
    }

    /// Does the next piece. `upto` is how far the resource's own rows are read, and whether none of them is still to be made again.
    pub(crate) async fn work(
        &mut self,
        log: &dyn ExchangeLog,
        owner: &mut dyn OwnedLog,
        live: &mut Worker,
        upto: (u64, bool),
        bytes: usize,
    ) -> Result<Stepped, SessionError> {
        match self.step().cloned() {
            Some(Step::Clearing) => {
                if !aside::clear(owner, &live.quarantine_topic).await? {
                    let Totals { revision, next_seq, .. } = live.counters.totals;
                    self.worker.counters = crate::keyed::overlay::Counters::default();
                    self.worker.counters.totals = Totals { revision, next_seq, ..Totals::default() };
                    self.worker.drift = Drift::default();
                    self.go_to(Step::Reading { next: None });
                }
            }
            Some(Step::Reading { .. }) if Away { read_us: self.worker.counters.totals.read_us, trace: self.trace }.is_long() => {
                tracing::warn!("the rebuild stood still for so long that deletes of what it read may be gone; it begins anew");
                (self.reader, self.until) = (None, None);
                self.go_to(Step::Clearing);
                // In the log before anything is removed: what is left of it is not what was read up to where it stood.
                owner.append(Batch { state: vec![self.stored.change()], ..Batch::default() }).await?;
            }
            Some(Step::Reading { next }) => {
                let (end, is_settled) = upto;
                self.share_numbers(live);
                let is_read = self.read(log, owner, next, end, bytes).await?;
                self.share_numbers(live);
                if is_read && self.until.is_none() {
                    self.until = Some(log.bounds(&self.raw).await?.end);
                }
                if is_read && is_settled && !self.waits(end) {
                    let is_whole = self.earliest == 0;
                    self.stored.run.iter_mut().for_each(|run| run.is_whole = is_whole);
                    self.go_to(Step::Entities { after: None });
                }
            }
            Some(Step::Entities { after }) => self.replace_entities(owner, live, after, bytes).await?,
            Some(Step::Rows { after }) => self.replace_rows(owner, live, after, bytes).await?,
            Some(Step::Sweeping) => {
                if !aside::clear(owner, &live.quarantine_topic).await? {
                    self.finish(owner, live).await?;
                    return Ok(Stepped::Ended);
                }
            }
            None => return Ok(Stepped::Ended),
        }
        Ok(Stepped::Worked)
    }

    /// Makes the rows of one read of the raw topic aside; whether there are no more before `end`.
    async fn read(
        &mut self,
        log: &dyn ExchangeLog,
        owner: &mut dyn OwnedLog,
        next: Option<u64>,
        end: u64,
        bytes: usize,
    ) -> Result<bool, SessionError> {
        let Self { stored, worker, raw, reader, earliest, .. } = self;
        let quarantine = std::sync::Arc::clone(&worker.quarantine_topic);
        if worker.mapping.joins.is_some() {
            let mut aside = Aside { owner: &mut *owner, stored: &mut *stored, quarantine: &quarantine };
            if worker.refresh(&mut aside, bytes).await? {
                return Ok(false);
            }
        }
        *earliest = log.bounds(raw).await?.earliest.min(end);
        // What the log let go meanwhile is nowhere else.
        let next = next.unwrap_or(*earliest).max(*earliest);
        if next >= end {
            return Ok(true);
        }
        let from = match reader {
            Some(reader) => reader,
            None => reader.insert(log.reader(vec![(raw.clone(), next)]).await?),
        };
        let batch = match from.read(ReadBudget { bytes, wait: WAIT }).await {
            Ok(batch) => batch,
            Err(LogError::Gap { .. }) => {
                *reader = None;
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        let mut read = batch.next.iter().find(|(at, _)| at == raw).map_or(next, |(_, next)| *next);
        if read >= end {
            // Whatever was read beyond is read again once the resource's own rows are there.
            (read, *reader) = (end, None);
        }
        let revision = worker.counters.totals.revision;
        let (mut arrivals, mut unread) = (Vec::with_capacity(batch.records.len()), Vec::new());
        let mut whole: HashMap<u32, bool> = HashMap::new();
        for record in batch.records.into_iter().filter(|record| record.offset < end) {
            let arrival = Arrival::new(record, revision, None);
            let is_whole = match arrival.body {
                Body::Framed { schema } => match whole.get(&schema) {
                    Some(is_whole) => *is_whole,
                    None => *whole.entry(schema).or_insert(worker.is_whole(schema).await?),
                },
                Body::Tombstone | Body::Faulty(_) => true,
            };
            if is_whole {
                arrivals.push(arrival);
            } else {
                unread.extend(arrival.source);
            }
        }
        let mut aside = Aside { owner: &mut *owner, stored: &mut *stored, quarantine: &quarantine };
        note_unread(&mut aside, unread).await?;
        if let Some(run) = stored.run.as_mut().filter(|_| arrivals.is_empty()) {
            run.step = Step::Reading { next: Some(read) };
            return Ok(false);
        }
        let mut aside = Aside { owner, stored, quarantine: &quarantine };
        if let Progress::Flooded(reason) = worker.work(&mut aside, &arrivals, Some(vec![(raw.clone(), read)])).await? {
            tracing::error!(reason, "the rebuild halts; what stood before stands");
            *reader = None;
        }
        Ok(false)
    }
}

/// Notes of rows that the topic holds them, in a form that the mapping cannot read: at a version below all others where none was read.
async fn note_unread(aside: &mut Aside<'_>, mut sources: Vec<Bytes>) -> Result<(), SessionError> {
    sources.sort_unstable();
    sources.dedup();
    if sources.is_empty() {
        return Ok(());
    }
    let known = aside.get(ROWS, &sources).await?;
    let new = sources.into_iter().zip(known).filter(|(_, known)| known.is_none()).map(|(source, _)| source);
    let there = RowState::gone(Version::default()).encode();
    let note = |key| StateChange { map: ROWS.into(), key, value: Some(there.clone()) };
    aside.append(Batch { state: new.map(note).collect(), ..Batch::default() }).await?;
    Ok(())
}
