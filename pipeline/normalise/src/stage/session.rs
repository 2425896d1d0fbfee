//! One hold on the resource's owner: from opening it to whatever ends the hold.

mod commands;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use guitong_log::registry::Compatibility;
use guitong_log::{
    Batch, ExchangeLog, LogError, LogReader, OwnedLog, OwnerId, ReadBatch, ReadBudget, Record, Retention, Role, StateChange,
    TopicPartition, TopicSpec,
};
use tokio_util::sync::CancellationToken;

use super::Normaliser;
use super::ahead::Ahead;
use super::arrival::Arrival;
use super::away::Away;
use super::binding::Unfit;
use super::output::Names;
use super::worker::{Ends, Progress, Worker};
use crate::drift::{Drift, Surroundings};
use crate::error::SessionError;
use crate::handle::Phase;
use crate::join;
use crate::join::begin::{Load, Standing};
use crate::join::merge::Merge;
use crate::keyed::TOTALS;
use crate::keyed::overlay::StateError;
use crate::keyed::totals::Totals;
use crate::metrics::{Metrics, ResourceMetrics};
use crate::quality::standing;
use crate::quality::window::{Pause, Window};
use crate::quality::{PAUSED, QUALITY, WINDOW};
use crate::quarantine::replay::Replay;
use crate::quarantine::{DROPPED_TOPIC, QuarantineStore};
use crate::rebuild::{self, Rebuild, RebuildReport, RebuildStatus, Stepped};
use crate::transform::SHARED_KEY;

/// How long one read waits for a record.
const WAIT: Duration = Duration::from_secs(1);
/// How often the raw topic's end and the oldest entry are asked for.
const STATUS_EVERY: Duration = Duration::from_secs(1);

pub(super) enum End {
    Shutdown,
    /// The resource has changed.
    Reopen,
    /// The connector has not made the raw topic yet.
    NoTopic,
    /// The first load of joined tables is not done.
    NotLoaded(String),
    /// The records that stand were made of several rows each, and the mapping makes one of each row.
    Ungrouped,
}

/// What the loop of a session works with.
struct Session {
    owner: Ahead,
    worker: Worker,
    raw: TopicPartition,
    next: u64,
    /// What of joined tables is read before anything else.
    load: Option<Load>,
    /// Where joined tables are read from.
    beside: Vec<(TopicPartition, u64)>,
    /// Rows may have to be made again.
    refreshing: bool,
    replay: Option<Replay>,
    rebuild: Option<Rebuild>,
    /// What the last one came to.
    rebuilt: Option<RebuildReport>,
    halt: Option<Halt>,
    asked: Option<Instant>,
}

/// Why nothing is read for a time.
enum Halt {
    /// Too many rows are rejected: until the mapping changes or a person resumes.
    Rejections,
    /// The table has not the columns that the mapping needs: until it has changed.
    Columns {
        /// Its raw topic, and the schema of its newest event when the pause began.
        table: TopicPartition,
        newest: Option<u32>,
        /// The topic's end when it was last asked for its newest event.
        looked_at: u64,
    },
}

impl Session {
    /// Whether something may be read: the resource's own rows do not change while a rebuild's take their place.
    fn is_open(&self) -> bool {
        let is_replacing = self.load.is_none() && self.rebuild.as_ref().is_some_and(Rebuild::is_replacing);
        self.halt.is_none() && !is_replacing
    }

    /// Whether there is work that waits for nothing.
    fn is_busy(&self) -> bool {
        self.replay.is_some() || self.rebuilds() && !self.rebuild_waits()
    }

    /// Whether a rebuild has read all that it may, until the resource itself is further.
    fn rebuild_waits(&self) -> bool {
        self.rebuild.as_ref().is_some_and(|rebuild| rebuild.waits(self.next))
    }

    /// Whether a rebuild goes on now.
    fn rebuilds(&self) -> bool {
        self.load.is_none() && self.rebuild.as_ref().is_some_and(|rebuild| !rebuild.is_halted())
    }

    /// What was counted before, and whether the resource paused under this very mapping.
    async fn take_pause(&mut self) -> Result<(), SessionError> {
        let read = |error| StateError::Codec { map: QUALITY, error };
        self.worker.counters.standing = standing::Standing::load(&self.owner).await?;
        let stored = self.owner.get(QUALITY, &[WINDOW, PAUSED]).await?;
        let [window, paused] = stored.as_slice() else { return Ok(()) };
        if let Some(window) = window {
            self.worker.counters.window = Window::decode(window).map_err(read)?;
        }
        let Some(paused) = paused else { return Ok(()) };
        let pause = Pause::decode(paused).map_err(read)?;
        if pause.mapping == self.worker.mapping.fingerprint {
            self.halt = Some(Halt::Rejections);
            self.worker.pause = Some(pause);
        } else {
            self.forget_window().await?;
        }
        Ok(())
    }

    /// Counts rejections anew from here on.
    async fn forget_window(&mut self) -> Result<(), SessionError> {
        let forget = |key| StateChange { map: QUALITY.into(), key, value: None };
        self.owner.append(Batch { state: vec![forget(WINDOW), forget(PAUSED)], ..Batch::default() }).await?;
        self.worker.counters.window = Window::default();
        Ok(())
    }
}

impl Normaliser {
    pub(super) async fn session(&mut self, shutdown: &CancellationToken) -> Result<End, SessionError> {
        if shutdown.is_cancelled() {
            return Ok(End::Shutdown);
        }
        let raw_topic = self.resource.raw_topic.clone();
        let names = self.register().await?;
        let quarantine = self.ensure_topics().await?;
        if self.context.log.partitions(&raw_topic).await?.is_none() {
            return Ok(End::NoTopic);
        }
        let log = Arc::clone(&self.context.log);
        let mut owner = log.open(&OwnerId::new(Role::Normalise, self.resource.name.as_str())).await?;
        if !self.mapping.is_grouped() && join::begin::was_grouped(&*owner).await? {
            return Ok(End::Ungrouped);
        }
        let raw = TopicPartition::new(raw_topic, 0);
        let metrics = self.context.metrics.of(&self.resource);
        let mut worker = self.worker(&names, &quarantine, metrics);
        worker.repeats = self.resource.publish_unchanged;
        worker.quarantine_end = log.bounds(&TopicPartition::new(quarantine, 0)).await?.end;
        let next = begin(&*log, &*owner, &mut worker, &raw, self.resource.revision).await?;
        let away = Away { read_us: worker.counters.totals.read_us, trace: self.context.exchange.trace };
        let missed = away.has_missed(&*log, &raw, next).await?;
        let (rebuild, rebuilt) = self.take_rebuild(&mut *owner, &mut worker, &raw, missed).await?;
        let (mut load, mut beside) = (None, Vec::new());
        if let Some(plan) = &self.mapping.joins {
            let mut settled = Vec::new();
            let standing =
                join::begin::standing(&*log, &mut *owner, plan, (self.resource.system.as_str(), away), &mut settled).await?;
            worker.let_go(&mut *owner, settled).await?;
            match standing {
                Standing::Waiting(tables) => return Ok(End::NotLoaded(tables)),
                Standing::Unread(unread) => load = Some(unread),
                Standing::Ready(from) => beside = from,
            }
        } else {
            join::begin::forget_all(&mut *owner).await?;
        }
        worker.joining.loading = load.iter().flat_map(|load| load.ids.clone()).collect();
        if self.mapping.group().is_some_and(|table| worker.joining.loading.iter().any(|id| **id == table.id)) {
            // The rows that make the records are read again as if for the first time.
            worker.drift = Drift::forgotten();
        }
        let refreshing = self.mapping.joins.is_some() && load.is_none();
        let (replay, halt, asked) = (None, None, None);
        let owner = Ahead::new(owner);
        let mut session = Session { owner, worker, raw, next, load, beside, refreshing, replay, rebuild, rebuilt, halt, asked };
        session.take_pause().await?;
        let kept = join::begin::kept_records(&session.owner).await?;
        self.status.send_modify(|status| status.kept = kept);
        session.worker.metrics.kept.set(kept.try_into().unwrap_or(i64::MAX));
        session.worker.metrics.show(&session.worker.counters);
        // Whoever waits for the phase finds the figures with it.
        self.report(&mut session).await?;
        let ready = if session.load.is_some() { Phase::Loading } else { Phase::Running };
        self.set_phase(session.worker.pause.as_ref().map_or(ready, |pause| Phase::Paused(pause.to_string())));
        let ended = self.work(&mut session, shutdown).await;
        // What is under way is as good as written, unless the log says otherwise.
        let settled = session.owner.settle().await;
        if let Some(replay) = session.replay {
            replay.interrupt("the normaliser opens its state again; what was run so far is kept");
        }
        let ended = ended?;
        settled?;
        Ok(ended)
    }

    fn worker(&self, names: &Arc<Names>, quarantine: &Arc<str>, metrics: ResourceMetrics) -> Worker {
        let around = Surroundings {
            resource: Arc::clone(&self.resource),
            subscriptions: self.context.subscriptions.clone(),
            time_zone: self.context.exchange.time_zone.clone(),
        };
        let reach = (Arc::clone(&self.context.log), Arc::clone(&self.context.registry));
        let mapping = (Arc::clone(&self.mapping), around);
        Worker::new(reach, mapping, Arc::clone(names), Arc::clone(quarantine), &self.resource.quality, metrics)
    }

    /// The rebuild that is under way or asked for, and what the last one came to.
    async fn take_rebuild(
        &self,
        owner: &mut dyn OwnedLog,
        live: &mut Worker,
        raw: &TopicPartition,
        missed: bool,
    ) -> Result<(Option<Rebuild>, Option<RebuildReport>), SessionError> {
        if self.mapping.is_grouped() {
            // The rows that make its records are kept, and read again with its revision.
            return Ok((None, None));
        }
        let (declared, mapping) = (self.resource.revision, self.mapping.fingerprint);
        let before = live.counters.totals.revision;
        let stored = rebuild::standing(owner, &mut live.counters.totals, (declared, mapping), missed).await?;
        if live.counters.totals.revision != before {
            // In the log before the rebuild, which can end before an event is read that would write it.
            live.drift = std::mem::take(&mut live.drift).begun_anew();
            let state = live.drift.take_change().into_iter().collect();
            owner.append(Batch { state, ..Batch::default() }).await?;
        }
        let last = stored.last;
        if stored.run.is_none() {
            return Ok((None, last));
        }
        let metrics = Metrics::uncollected().map_err(|error| SessionError::Transient(error.to_string()))?;
        let worker = self.worker(&live.names, &live.quarantine_topic, metrics.of(&self.resource));
        Ok((Some(Rebuild::open(owner, live, stored, worker, (raw.clone(), self.context.exchange.trace)).await?), last))
    }

    /// Registers the entity's schemas.
    async fn register(&mut self) -> Result<Arc<Names>, SessionError> {
        let registry = &self.context.registry;
        let entity = Arc::clone(&self.mapping.entity);
        let (key, value) = (format!("std.{}-key", self.resource.name), format!("std.{}-value", self.resource.name));
        let level = Compatibility::FullTransitive;
        let key_schema = registry.register_with(&key, &entity.key_schema_json, level).await?;
        let value_schema = registry.register_with(&value, &entity.schema_json, level).await?;
        let first = entity.key.first().map(|part| part.name.as_str());
        let key_field = first.filter(|_| !self.mapping.switches.hides(SHARED_KEY));
        Ok(Arc::new(Names::new(self.context.exchange.name.as_str(), &self.resource, key_field, (key_schema, value_schema))))
    }

    /// Makes the topics that the stage writes; gives the name of the quarantine topic.
    async fn ensure_topics(&self) -> Result<Arc<str>, SessionError> {
        let exchange = &self.context.exchange;
        let quarantine: Arc<str> = format!("quarantine.{}", self.resource.name).into();
        let retention = Retention::Compact { after: exchange.trace, tombstones: exchange.trace };
        let std: Arc<str> = format!("std.{}", self.resource.name).into();
        // Keys stay where they are: a topic that is there keeps its number.
        let partitions = self.context.log.partitions(&std).await?.unwrap_or(exchange.std_partitions);
        for (name, partitions) in [(std, partitions), (Arc::clone(&quarantine), 1)] {
            self.context.log.ensure_topic(&TopicSpec { name, partitions, retention: retention.clone() }).await?;
        }
        let forever = Retention::Expire { age: None, bytes: None };
        self.context.log.ensure_topic(&TopicSpec { name: DROPPED_TOPIC.into(), partitions: 1, retention: forever }).await?;
        Ok(quarantine)
    }

    async fn work(&mut self, session: &mut Session, shutdown: &CancellationToken) -> Result<End, SessionError> {
        let log = Arc::clone(&self.context.log);
        let mut intake = self.intake(session).await?;
        loop {
            let own = (session.raw.clone(), session.next);
            let stands: Ends = session.beside.iter().cloned().chain([own]).collect();
            if let Some(load) = session.load.take_if(|load| load.is_done(&stands)) {
                load.finish(&mut session.owner, stands).await?;
                return Ok(End::Reopen);
            }
            let mut is_followed = false;
            let wait = if session.is_busy() || session.owner.is_under_way() { Duration::ZERO } else { WAIT };
            let budget = ReadBudget { bytes: self.context.exchange.budgets.batch, wait };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(End::Shutdown),
                Some(command) = self.inbox.recv() => {
                    if let Some(end) = self.serve(session, command).await? {
                        return Ok(end);
                    }
                }
                () = std::future::ready(()), if session.refreshing && session.worker.pause.is_none() => {
                    session.refreshing = session.worker.refresh(&mut session.owner, budget.bytes).await?;
                    if let Some(pause) = &session.worker.pause {
                        let reason = pause.to_string();
                        self.pause(session, reason, Halt::Rejections).await?;
                    }
                }
                batch = intake.read(&*log, budget), if session.is_open() => {
                    let batch = batch?;
                    is_followed = !batch.records.is_empty();
                    self.take_batch(session, batch).await?;
                    session.refreshing = self.mapping.joins.is_some() && session.load.is_none();
                }
                // Where something may be read, the read itself ends at once: dropped for this, it would never come to anything.
                () = std::future::ready(()), if session.is_busy() && !session.is_open() => {}
                () = tokio::time::sleep(wait), if session.halt.is_some() => {
                    if self.may_go_on(session).await? {
                        return Ok(End::Reopen);
                    }
                }
            }
            if session.rebuilds() && self.step_rebuild(session).await? == Stepped::Ended {
                return Ok(End::Reopen);
            }
            if session.replay.is_some() {
                self.step_replay(session).await?;
            }
            let is_due = session.asked.is_none_or(|asked| asked.elapsed() >= STATUS_EVERY);
            if is_due && self.has_new_topic(session).await? {
                return Ok(End::Reopen);
            }
            // A batch under way is told of when it is durable: where there is nothing to read meanwhile, and every second.
            if is_due || !(is_followed && session.owner.is_under_way()) {
                session.owner.settle().await?;
                self.report(session).await?;
            }
        }
    }

    /// Whether a joined table that had no rows has some now.
    async fn has_new_topic(&self, session: &mut Session) -> Result<bool, SessionError> {
        let Some(plan) = self.mapping.joins.as_ref().filter(|_| session.load.is_none()) else { return Ok(false) };
        for table in plan.tables.iter().filter(|table| !table.is_group()) {
            let is_read = session.beside.iter().any(|(at, _)| at.topic == table.topic);
            if !is_read && self.context.log.partitions(&table.topic).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What is read: the resource's topic alone, or with those of joined tables.
    async fn intake(&self, session: &mut Session) -> Result<Intake, SessionError> {
        let log = &*self.context.log;
        let own = (session.raw.clone(), session.next);
        if self.mapping.joins.is_none() {
            return Ok(Intake::One(log.reader(vec![own]).await?));
        }
        let from = match &session.load {
            Some(load) => {
                if let Some((_, first)) = load.from.iter().find(|(at, _)| *at == session.raw) {
                    session.next = *first;
                }
                load.from.clone()
            }
            None => session.beside.iter().cloned().chain([own]).collect(),
        };
        Ok(Intake::Several(Merge::begin(log, from, &session.raw.topic).await?))
    }

    async fn take_batch(&mut self, session: &mut Session, batch: ReadBatch) -> Result<(), SessionError> {
        let next = batch.next.iter().find(|(at, _)| *at == session.raw).map_or(session.next, |(_, next)| *next);
        let beside: Ends = batch.next.iter().filter(|(at, _)| *at != session.raw).cloned().collect();
        if batch.records.is_empty() {
            (session.next, session.beside) = (next, beside);
            return Ok(());
        }
        let started = Instant::now();
        let size = |record: &Record| [&record.key, &record.value].into_iter().flatten().map(Bytes::len).sum::<usize>();
        let bytes: usize = batch.records.iter().map(size).sum();
        // Where much was read there is more. A small batch is waited for: what comes meanwhile is in the next one, and so fewer are written.
        let is_much = bytes >= self.context.exchange.budgets.batch / 2;
        let (revision, is_grouped) = (session.worker.counters.totals.revision, self.mapping.is_grouped());
        let arrived = |record| arrival(&session.raw, is_grouped, record, revision, None);
        let arrivals: Vec<_> = batch.records.into_iter().map(arrived).collect();
        let at = if batch.next.is_empty() { vec![(session.raw.clone(), next)] } else { batch.next };
        session.owner.runs_ahead = is_much && session.rebuild.is_none() && session.replay.is_none();
        let progress = session.worker.work(&mut session.owner, &arrivals, Some(at)).await?;
        session.owner.runs_ahead = false;
        match progress {
            Progress::Done => (session.next, session.beside) = (next, beside),
            Progress::Flooded(reason) => self.pause(session, reason, Halt::Rejections).await?,
            Progress::Unfit(Unfit { reason, table, newest }) => {
                self.pause(session, reason, Halt::Columns { table, newest, looked_at: 0 }).await?;
            }
        }
        session.worker.metrics.batch_seconds.observe(started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Reads nothing more for the time being.
    async fn pause(&self, session: &mut Session, reason: String, halt: Halt) -> Result<(), SessionError> {
        session.owner.settle().await?;
        tracing::error!(resource = %self.resource.name, reason, "paused");
        session.next = session.owner.offset(&session.raw).map_or(session.next, |offset| offset.next);
        self.report(session).await?;
        self.set_phase(Phase::Paused(reason));
        session.halt = Some(halt);
        Ok(())
    }

    /// Whether the table has changed since the pause began, so that it may be as the mapping needs it.
    async fn may_go_on(&self, session: &mut Session) -> Result<bool, SessionError> {
        let Some(Halt::Columns { table, newest, looked_at }) = &mut session.halt else { return Ok(false) };
        let end = self.context.log.bounds(table).await?.end;
        if *looked_at == end {
            return Ok(false);
        }
        *looked_at = end;
        session.worker.has_changed(table, *newest).await
    }

    /// How far a rebuild is, and why it goes no further.
    fn rebuild_status(&self, session: &Session) -> Option<RebuildStatus> {
        let mut rebuild = session.rebuild.as_ref()?.status(session.next, &session.worker)?;
        if let (Phase::Paused(why), true) = (&self.status.borrow().phase, session.rebuild_waits()) {
            rebuild.halted.get_or_insert_with(|| format!("it is as far as the resource, which is paused: {why}"));
        }
        Some(rebuild)
    }

    async fn step_rebuild(&mut self, session: &mut Session) -> Result<Stepped, SessionError> {
        let Some(rebuild) = &mut session.rebuild else { return Ok(Stepped::Ended) };
        let (log, bytes) = (&*self.context.log, self.context.exchange.budgets.batch);
        let upto = (session.next, !session.refreshing);
        rebuild.work(log, &mut session.owner, &mut session.worker, upto, bytes).await
    }

    async fn step_replay(&mut self, session: &mut Session) -> Result<(), SessionError> {
        let Some(mut replay) = session.replay.take() else { return Ok(()) };
        let events = replay.next(&*self.context.log, self.context.exchange.budgets.batch).await?;
        if events.is_empty() {
            replay.finish();
            return Ok(());
        }
        let numbers: Vec<u64> = events.iter().map(|(seq, _)| *seq).collect();
        let (revision, is_grouped) = (session.worker.counters.totals.revision, self.mapping.is_grouped());
        let events = session.worker.make_entries_again(&mut session.owner, events).await?;
        let arrived = |(seq, raw)| arrival(&session.raw, is_grouped, raw, revision, Some(seq));
        let arrivals: Vec<_> = events.into_iter().map(arrived).collect();
        session.worker.work(&mut session.owner, &arrivals, None).await?;
        session.refreshing |= self.mapping.joins.is_some();
        replay.count(&session.owner, &numbers).await?;
        session.replay = Some(replay);
        Ok(())
    }

    /// Brings status and gauges up to date.
    async fn report(&self, session: &mut Session) -> Result<(), SessionError> {
        let worker = &session.worker;
        let totals = worker.counters.totals.clone();
        let rebuild = self.rebuild_status(session);
        let asked = session.asked.is_some_and(|asked| asked.elapsed() < STATUS_EVERY);
        let (mut end, mut oldest) = (None, None);
        if !asked {
            session.asked = Some(Instant::now());
            end = Some(self.context.log.bounds(&session.raw).await?.end);
            oldest = Some(QuarantineStore::new(&session.owner).oldest_us().await?);
        }
        let now = jiff::Timestamp::now().as_microsecond();
        self.status.send_modify(|status| {
            status.received = totals.received;
            status.entities = totals.entities;
            status.held_back = totals.held_back;
            status.quarantined = totals.open;
            status.newest_source_us = worker.newest_source_us.or(status.newest_source_us);
            status.offset = session.next;
            status.joined = session.beside.iter().map(|(at, next)| (at.topic.to_string(), *next)).collect();
            status.refreshing = session.refreshing;
            status.rebuild = rebuild;
            status.rebuilt = session.rebuilt;
            status.version = totals.stamp.to_string();
            if status.changes.len() != worker.drift.away() || !asked {
                status.changes = worker.drift.changes(&worker.mapping, &worker.around);
            }
            if let Some(end) = end {
                status.lag_records = end.saturating_sub(session.next);
                let behind = status.newest_source_us.map_or(0, |newest| now.saturating_sub(newest).max(0));
                status.lag_seconds = if status.lag_records == 0 { 0.0 } else { behind as f64 / 1e6 };
            }
            if let Some(oldest) = oldest {
                status.oldest_quarantine_us = oldest;
            }
            worker.metrics.changed_columns.set(worker.drift.away().try_into().unwrap_or(i64::MAX));
            worker.metrics.paused.set(i64::from(matches!(status.phase, Phase::Paused(_))));
            let age = status.oldest_quarantine_us.map_or(0, |oldest| now.saturating_sub(oldest).max(0));
            worker.metrics.oldest_seconds.set(age as f64 / 1e6);
            worker.metrics.lag_seconds.set(status.lag_seconds);
            worker.metrics.lag_records.set(status.lag_records.try_into().unwrap_or(i64::MAX));
        });
        Ok(())
    }
}

/// Reads where the owner stands; gives the raw offset to go on from.
async fn begin(
    log: &dyn ExchangeLog,
    owner: &dyn OwnedLog,
    worker: &mut Worker,
    raw: &TopicPartition,
    revision: u32,
) -> Result<u64, SessionError> {
    let stored = owner.get(TOTALS, &[Bytes::new()]).await?.pop().flatten();
    let bounds = log.bounds(raw).await?;
    worker.drift = Drift::load(owner).await?;
    worker.drift.follow(&worker.mapping);
    let Some(stored) = stored else {
        worker.counters.totals = Totals { revision, ..Totals::default() };
        return Ok(bounds.earliest);
    };
    worker.counters.totals = Totals::decode(&stored).map_err(|error| StateError::Codec { map: TOTALS, error })?;
    match owner.offset(raw) {
        None => Ok(bounds.earliest),
        Some(offset) if offset.log != *log.id() => Err(SessionError::Log(LogError::Gap {
            at: raw.clone(),
            wanted: offset.next,
            earliest: bounds.earliest,
            end: bounds.end,
            of: Some(offset.log),
        })),
        Some(offset) => Ok(offset.next),
    }
}

/// Where records come from.
enum Intake {
    One(Box<dyn LogReader>),
    Several(Merge),
}

impl Intake {
    async fn read(&mut self, log: &dyn ExchangeLog, budget: ReadBudget) -> Result<ReadBatch, LogError> {
        match self {
            Self::One(reader) => reader.read(budget).await,
            Self::Several(merge) => merge.read(log, budget).await,
        }
    }
}

/// A record as it comes in, of the resource's own table or of a joined one.
fn arrival(own: &TopicPartition, is_grouped: bool, record: Record, revision: u32, entry: Option<u64>) -> Arrival {
    let is_own = record.at.topic == own.topic;
    let arrival = Arrival::new(record, revision, entry);
    match is_own {
        true if is_grouped => arrival.of_group(),
        true => arrival,
        false => arrival.beside(),
    }
}
