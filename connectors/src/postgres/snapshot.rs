//! First load by watermarks (DBLog), while the stream goes on; tables that are added or read again go the same way.
//!
//! A table whose rows can be told apart is cut into ranges ([`super::ranges`]), which workers read chunk by chunk ([`super::worker`]). Each
//! chunk is read under a snapshot that says which transactions it sees, then a watermark is committed; rows of the chunk are handed out
//! when the stream reaches the watermark, with its commit LSN as version. They yield to every streamed change of their key whose
//! transaction the snapshot does not see, wherever it was met: before the chunk arrived ([`super::changed`]) or while it waits. A change
//! that came while the chunk waited takes its absent columns from the row that yields; of one that came before, the completed row is handed
//! out in place of the old one.
//!
//! Changes are noted only while something is being read. Before that only their transactions are: nothing is read until a snapshot sees
//! all of them (a commit record can be written and streamed while its end is not announced, as while it waits for a synchronous
//! standby), and every transaction that was open when the session began (the *barrier*), as making a slot waits for them.
//!
//! A row that moves to another key with a column that was not sent would never be whole if that key is read already: such keys are
//! noted in the position and read once more at the end.
//!
//! A table without a key is read whole under one snapshot, after all others ([`super::whole`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guitong_schemas::change::{Before, Operation, RowImage};
use guitong_schemas::contract::system::{Limits, SnapshotConfig};
use guitong_schemas::table::{Table, TableName};

use super::changed::{Change, Changed};
use super::chunk::{Chunk, Marks, Place};
use super::command;
use super::fault::Faults;
use super::job::{Job, Way};
use super::limits::{self, Hold, Pace};
use super::position::Position;
use super::progress::Progress;
use super::ranges::Plan;
use super::relation::Relation;
use super::session::Session;
use super::team::Team;
use super::visibility::Visibility;
use super::whole::WholeTable;
use super::worker::{Order, Report, retyped};
use crate::source::{SnapshotStatus, SourceError};

/// How soon a snapshot that came too early is taken again.
pub(crate) const RETAKE: Duration = Duration::from_millis(20);
/// How soon it is looked again whether reading is allowed.
const LOOK: Duration = Duration::from_millis(500);
/// Transactions noted before the ones that became visible are forgotten.
const NOTED: usize = 8_192;
/// Bytes of noted changes beyond which the stream waits until the chunks that are being read have come.
const CHANGED: usize = 32 << 20;

/// Whether a streamed change is to be handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Deliver,
    /// The table's rows hold it, or will.
    InSnapshot,
}

/// What one session reads of its tables.
#[derive(Debug)]
pub(crate) struct FirstLoad {
    config: SnapshotConfig,
    limits: Limits,
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) pace: Arc<Pace>,
    /// An id that was given out when the session began: all below must have ended before a snapshot counts.
    barrier: Option<u64>,
    /// Transactions with changes of tables that are still to be read, from times at which nothing was read.
    noted: Vec<u32>,
    changed: Changed,
    team: Option<Team>,
    /// Chunks that wait for their watermarks.
    waiting: Vec<Chunk>,
    /// Chunks whose watermarks the present transaction of the stream holds.
    reached: Vec<u64>,
    pub(crate) whole: WholeTable,
    pub(crate) due: Instant,
    /// Tells this session's watermarks from others'.
    nonce: u64,
    pub(crate) marks_written: u64,
    next_job: u64,
    pub(crate) first_row: bool,
    hold: Option<Hold>,
    pub(crate) progress: Progress,
}

impl FirstLoad {
    pub(crate) fn new(config: &SnapshotConfig, limits: Limits, rows_done: u64) -> Self {
        Self {
            config: config.clone(),
            limits,
            jobs: VecDeque::new(),
            pace: Arc::new(Pace::new(config.rows_per_second)),
            barrier: None,
            noted: Vec::new(),
            changed: Changed::default(),
            team: None,
            waiting: Vec::new(),
            reached: Vec::new(),
            whole: WholeTable::Idle,
            due: Instant::now(),
            nonce: rand::random(),
            marks_written: 0,
            next_job: 0,
            first_row: rows_done == 0,
            hold: None,
            progress: Progress::new(rows_done),
        }
    }

    /// Takes up a table. Parts before whole ones: those hold the stream up.
    pub(crate) fn add(&mut self, make: impl FnOnce(u64) -> Job) {
        self.next_job += 1;
        let job = make(self.next_job);
        if job.way == Way::Whole && !job.relation.has_key() {
            tracing::warn!(
                table = %job.name(),
                "the table has no key: it is read whole while the stream waits, and once more, so that its rows are published twice, where \
                 that is broken off; declare its key under [keys] of the system if it has one"
            );
        }
        let key = |job: &Job| (job.way == Way::Whole, job.name().clone());
        let at = self.jobs.iter().position(|other| key(other) > key(&job)).unwrap_or(self.jobs.len());
        self.jobs.insert(at, job);
    }

    /// Nothing counts that a snapshot sees before every transaction below this id has ended.
    pub(crate) fn wait_for(&mut self, barrier: u64) {
        self.barrier = Some(barrier);
    }

    pub(crate) fn is_done(&self) -> bool {
        self.jobs.is_empty()
    }

    pub(crate) fn rows_left(&self) -> u64 {
        self.jobs.iter().map(|job| job.rows).sum()
    }

    /// When [`FirstLoad::advance`] has something to do, where it waits for time and not for the stream or a worker.
    pub(crate) fn due(&self) -> Option<Instant> {
        (!self.jobs.is_empty() && !self.is_reading() && self.waiting.is_empty() && self.whole.is_idle()).then_some(self.due)
    }

    fn is_reading(&self) -> bool {
        self.team.as_ref().is_some_and(Team::is_reading)
    }

    /// Notes a streamed change, lets rows that wait yield to it, and completes it from them.
    pub(crate) fn meet(
        &mut self,
        table: &Arc<Table>,
        xid: u32,
        operation: Operation,
        before: &Before,
        after: &mut Option<RowImage>,
    ) -> Verdict {
        let Some(job) = self.jobs.iter().find(|job| *job.name() == table.name) else { return Verdict::Deliver };
        let in_parts = job.way == Way::Parts;
        if in_parts && self.is_reading() {
            self.changed.note(Change::new(table, xid, operation, before, after.as_ref()));
        } else if self.noted.last() != Some(&xid) {
            self.noted.push(xid);
        }
        if !in_parts {
            return Verdict::InSnapshot;
        }
        for chunk in &mut self.waiting {
            if chunk.relation.table.name == table.name && !chunk.snapshot.sees(xid) {
                chunk.give_way(table, operation, before, after);
            }
        }
        Verdict::Deliver
    }

    /// A row that moved to another key, completed from the waiting row under its old key.
    pub(crate) fn complete_moved(&mut self, table: &Arc<Table>, xid: u32, old: &RowImage, new: RowImage) -> RowImage {
        let mut chunks = self.waiting.iter_mut().filter(|chunk| chunk.relation.table == *table && !chunk.snapshot.sees(xid));
        chunks.find_map(|chunk| chunk.complete_moved(old, &new)).unwrap_or(new)
    }

    /// Part of the table is read, or is being read, and part of it is not.
    pub(crate) fn has_read_of(&self, table: &TableName) -> bool {
        self.jobs.iter().any(|job| job.name() == table && job.begun)
    }

    /// The stream shows a table from a change of this transaction on.
    pub(crate) fn shown(&mut self, relation: &Relation, xid: u32) {
        for job in self.jobs.iter_mut().filter(|job| *job.name() == relation.table.name) {
            job.shown(relation, xid);
        }
    }

    /// A logical message of ours has come, inside its transaction.
    pub(crate) fn message(&mut self, content: &[u8]) {
        let Some(content) =
            std::str::from_utf8(content).ok().and_then(|text| text.strip_prefix(&format!("{:016x}:", self.nonce)))
        else {
            return;
        };
        if self.whole.reaches(content) {
            return;
        }
        self.reached.extend(content.split(',').filter_map(|id| id.parse::<u64>().ok()));
    }

    /// The transaction of the last message is committed: the chunks whose watermarks it held.
    ///
    /// # Errors
    /// Where the table has another shape by now: to whoever reads on it would look as if it had changed back. The next session reads the
    /// chunk again.
    pub(crate) fn take_chunks(&mut self, position: &mut Position, faults: &Faults) -> Result<Vec<Chunk>, SourceError> {
        if self.reached.is_empty() {
            return Ok(Vec::new());
        }
        // A worker reports a chunk before its watermark is written.
        self.take_reports()?;
        let mut chunks = Vec::new();
        for id in std::mem::take(&mut self.reached) {
            let Some(at) = self.waiting.iter().position(|chunk| chunk.id == id) else { continue };
            let chunk = self.waiting.swap_remove(at);
            if self.jobs.iter().any(|job| job.id == chunk.job && job.is_of_older_shape(&chunk)) {
                return Err(faults.unavailable(retyped(&chunk.relation)));
            }
            chunks.extend(self.hand_out(chunk, position));
        }
        Ok(chunks)
    }

    /// Notes a chunk's end in the position; `None` where its table was cancelled.
    fn hand_out(&mut self, mut chunk: Chunk, position: &mut Position) -> Option<Chunk> {
        let at = self.jobs.iter().position(|job| job.id == chunk.job)?;
        let job = self.jobs.get_mut(at)?;
        let name = job.name().clone();
        if let Place::Again(keys) = &chunk.range {
            position.was_read_again(&name, keys);
        }
        for key in std::mem::take(&mut chunk.lacking) {
            position.read_again(&name, key);
        }
        chunk.marks = Marks { first: !job.handed, ..Marks::default() };
        chunk.marks.first_of_all = std::mem::replace(&mut self.first_row, false);
        job.hand_out(&chunk);
        position.of(&name).rows += chunk.read;
        job.store(position.of(&name));
        let ended = !job.has_ranges() && position.again(&name).next().is_none();
        if ended {
            position.finish(&name);
            self.jobs.remove(at);
            (chunk.marks.last, chunk.marks.last_of_all) = (true, self.jobs.is_empty());
        }
        self.progress.add(chunk.read);
        if self.jobs.is_empty() {
            self.end();
        }
        Some(chunk)
    }

    /// Looks at what the workers have reported.
    fn take_reports(&mut self) -> Result<(), SourceError> {
        while let Some(report) = self.team.as_mut().and_then(Team::next) {
            match report {
                Report::Failed(error) => return Err(error),
                Report::Idle { worker } => self.rest(worker),
                Report::Chunk { worker, chunk } => self.arrive(worker, *chunk),
            }
        }
        Ok(())
    }

    fn rest(&mut self, worker: usize) {
        let Some(team) = &mut self.team else { return };
        if let Some(id) = team.rest(worker)
            && let Some(job) = self.jobs.iter_mut().find(|job| job.id == id)
        {
            job.free(worker);
        }
        if !team.is_reading() {
            self.noted.extend(self.changed.close());
            self.noted.dedup();
        }
    }

    fn arrive(&mut self, worker: usize, mut chunk: Chunk) {
        let name = chunk.relation.table.name.clone();
        let snapshot = chunk.snapshot.clone();
        for change in self.changed.unseen(&name, &snapshot) {
            chunk.replay(change);
        }
        if let Some(team) = &mut self.team {
            let (arrival, begun) = team.arrived(worker, chunk.begun);
            self.changed.forget(&snapshot, arrival, begun);
        }
        if let Some(job) = self.jobs.iter_mut().find(|job| job.id == chunk.job) {
            job.arrived(&chunk);
            self.waiting.push(chunk);
        }
    }

    /// Waits until a worker reports.
    pub(crate) async fn reported(&mut self) {
        match &mut self.team {
            Some(team) => team.wait().await,
            None => std::future::pending().await,
        }
    }

    /// Does the next step; `between` two transactions of the stream.
    pub(crate) async fn advance(
        &mut self,
        session: &mut Session,
        position: &Position,
        (between, retained): (bool, Option<u64>),
        retaken: &prometheus::IntCounter,
    ) -> Result<(), SourceError> {
        if self.jobs.is_empty() {
            return Ok(());
        }
        self.take_reports()?;
        if self.changed.bytes > CHANGED {
            self.drain().await?;
        }
        if !between || !self.allowed(position, retained) {
            return Ok(());
        }
        let starts = !self.is_reading() || self.barrier.is_some();
        if starts && (Instant::now() < self.due || !self.may_begin(session, retaken).await?) {
            return Ok(());
        }
        self.give_orders(session, position).await?;
        let whole = self.jobs.front().filter(|job| job.way == Way::Whole).map(|job| job.id);
        if let Some(job) = whole.filter(|_| self.whole.is_idle() && !self.is_reading()) {
            self.marks_written += 1;
            let mark = format!("whole {}", self.marks_written);
            session.watermark(&format!("{:016x}:{mark}", self.nonce)).await?;
            self.whole = WholeTable::Marked { job, mark, reached: false };
        }
        Ok(())
    }

    /// Whether the department and the operator let tables be read now.
    fn allowed(&mut self, position: &Position, retained: Option<u64>) -> bool {
        self.hold = limits::hold(&self.config, &self.limits, position.paused, retained);
        let allowed = self.hold.is_none();
        if let Some(team) = &self.team {
            team.allow(allowed);
        }
        if !allowed && !self.is_reading() {
            self.due = Instant::now() + LOOK;
        }
        allowed
    }

    /// Lets every chunk that is being read come, while the stream stands still.
    async fn drain(&mut self) -> Result<(), SourceError> {
        while self.is_reading() {
            if let Some(team) = &self.team {
                team.allow(false);
            }
            self.reported().await;
            self.take_reports()?;
        }
        Ok(())
    }

    /// Whether a snapshot sees everything that was streamed so far. (Decoding sends a transaction before others see it.)
    async fn may_begin(&mut self, session: &mut Session, retaken: &prometheus::IntCounter) -> Result<bool, SourceError> {
        if self.barrier.is_none() && self.noted.is_empty() {
            return Ok(true);
        }
        let snapshot = session.visibility().await?;
        if self.barrier.is_some_and(|barrier| snapshot.xmin() < barrier) {
            self.due = Instant::now() + RETAKE * 5;
            return Ok(false);
        }
        self.barrier = None;
        if !self.sees_all_noted(&snapshot) {
            retaken.inc();
            self.due = Instant::now() + RETAKE;
            return Ok(false);
        }
        Ok(true)
    }

    /// Forgets noted transactions that the snapshot sees; true where none is left.
    pub(crate) fn sees_all_noted(&mut self, snapshot: &Visibility) -> bool {
        self.noted.retain(|xid| !snapshot.sees(*xid));
        self.noted.is_empty()
    }

    async fn give_orders(&mut self, session: &mut Session, position: &Position) -> Result<(), SourceError> {
        if self.noted.len() > NOTED {
            let snapshot = session.visibility().await?;
            self.sees_all_noted(&snapshot);
        }
        if !self.jobs.iter().any(|job| job.way == Way::Parts) {
            return Ok(());
        }
        let team = self.team.get_or_insert_with(|| Team::start(&self.config, session, Arc::clone(&self.pace), self.nonce));
        team.allow(true);
        for job in self.jobs.iter_mut().filter(|job| job.way == Way::Parts) {
            let Some(mut worker) = team.idle() else { return Ok(()) };
            let plan = match &job.plan {
                Some(plan) => Arc::clone(plan),
                None => plan(job, session, &self.config).await?,
            };
            let name = job.name().clone();
            while let Some((place, span)) = job.give(worker, position.again(&name).cloned()) {
                let order = Order {
                    job: job.id,
                    place,
                    span,
                    relation: Arc::clone(&job.relation),
                    shape: job.shape.clone(),
                    plan: Arc::clone(&plan),
                    per_row: job.per_row,
                    stop: job.stop.clone(),
                };
                team.order(worker, order);
                match team.idle() {
                    Some(next) => worker = next,
                    None => return Ok(()),
                }
            }
        }
        Ok(())
    }

    /// Leaves the rest of a table unread.
    pub(crate) fn cancel(&mut self, table: &TableName) {
        for job in self.jobs.iter().filter(|job| job.name() == table) {
            job.stop.cancel();
        }
        self.jobs.retain(|job| job.name() != table);
        self.waiting.retain(|chunk| chunk.relation.table.name != *table);
        if self.jobs.is_empty() {
            self.end();
        }
    }

    /// Nothing is left to be read.
    pub(crate) fn end(&mut self) {
        self.team = None;
        self.changed = Changed::default();
        self.noted.clear();
        self.hold = None;
    }

    /// The condition that a table's rows are read under.
    pub(crate) fn filter<'a>(&'a self, job: &'a Job) -> Option<&'a str> {
        filter(job, &self.config)
    }

    /// What an operator sees of it.
    pub(crate) fn status(&self, paused: bool) -> Option<SnapshotStatus> {
        if self.jobs.is_empty() && !paused {
            return None;
        }
        let hold = self.hold.clone().or(paused.then_some(Hold::Paused));
        Some(SnapshotStatus {
            rows_done: self.progress.rows,
            rows_left: self.rows_left(),
            rows_per_second: self.progress.rate(),
            tables: self.jobs.iter().map(|job| job.name().to_string()).collect(),
            hold: hold.map(|hold| hold.words(self.config.window.as_ref())),
            limits: command::limits(&self.config, self.limits.retained_log),
        })
    }
}

/// How the table is cut, with the ranges that are left of an earlier session or those that its statistics suggest.
async fn plan(job: &mut Job, session: &mut Session, config: &SnapshotConfig) -> Result<Arc<Plan>, SourceError> {
    let mut connection = session.take().await?;
    let failed = |error: sqlx::Error| session.faults.query("reading the statistics", &error);
    let made = Plan::make(&mut connection, &job.relation, &job.shape, filter(job, config)).await.map_err(failed)?;
    if !job.resume(made) {
        let ranges = match &job.plan {
            Some(plan) => plan.ranges(&mut connection, &job.relation, &job.shape, config).await.map_err(failed)?,
            None => Vec::new(),
        };
        job.cut(ranges);
    }
    session.give_back(connection);
    job.plan.clone().ok_or_else(|| session.faults.protocol("a table without a plan"))
}

fn filter<'a>(job: &'a Job, config: &'a SnapshotConfig) -> Option<&'a str> {
    job.asked.as_ref().and_then(|asked| asked.filter.as_deref()).or_else(|| config.filter(job.name()))
}
