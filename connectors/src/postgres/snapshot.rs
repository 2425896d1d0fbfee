//! First load by watermarks (DBLog), while the stream goes on.
//!
//! A table with a key is read in chunks in the key's order. Each chunk is read under a snapshot that says which transactions it
//! sees, then a watermark is committed; rows of the chunk are handed out when the stream reaches the watermark, with its commit LSN as
//! version. Until then a row gives way to every streamed change of its key whose transaction the snapshot does not see; a change with
//! absent columns takes them from the row that it replaces. A transaction that the stream delivered already and that the snapshot does
//! not see yet (its commit record is written, its end is not announced, as while it waits for a synchronous standby) means: take the
//! snapshot again. The high watermark of one chunk is the low one of the next.
//!
//! What was streamed before this process began could also be invisible still. So the first snapshot of a session waits until every
//! transaction that was open at its start has ended (the *barrier*), as making a slot does.
//!
//! A row that moves from a key that is not read yet to one that is, with a column that was not sent, would never be whole: such keys are
//! noted in the position and read once more with the next chunk.
//!
//! A table without a key that the server vouches for is read whole under one snapshot. Its changes are left out until that snapshot
//! is taken and checked to see all of them; the stream then waits while the rows are handed out, and afterwards changes that the
//! snapshot saw are left out (`Settling`). So each row arrives once, unless the process ends within such a table: then it is read again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guitong_schemas::change::{Before, Operation, RowImage};
use guitong_schemas::contract::system::SnapshotConfig;
use guitong_schemas::table::{Table, TableName};

use super::chunk::{Chunk, Pending, select_all};
use super::image;
use super::position::{Position, Settling};
use super::session::Session;
use super::visibility::Visibility;
use super::whole::{WholeBlock, WholeRows};
use crate::source::SourceError;

/// How soon a snapshot that came too early is taken again.
const RETAKE: Duration = Duration::from_millis(20);
/// Keys that one chunk reads once more.
const AGAIN: usize = 1_000;
/// Transactions noted before the ones that became visible are forgotten.
const NOTED: usize = 8_192;

/// Whether a streamed change is to be handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Deliver,
    /// The table's rows hold it, or will.
    InSnapshot,
}

/// The first load of one session.
#[derive(Debug)]
pub(crate) struct FirstLoad {
    pending: VecDeque<Pending>,
    chunk_bytes: usize,
    rows_per_second: Option<u32>,
    /// An id that was given out when the session began: all below must have ended before a snapshot counts.
    barrier: Option<u64>,
    /// Transactions with changes of tables that are still to be read.
    noted: Vec<u32>,
    stage: Stage,
    due: Instant,
    /// Tells this session's watermarks from others'.
    nonce: u64,
    watermarks: u64,
    first_row: bool,
    pub(crate) rows_done: u64,
}

#[derive(Debug)]
enum Stage {
    Idle,
    /// A chunk that is handed out at its watermark.
    Chunk {
        chunk: Chunk,
        mark: String,
        reached: bool,
    },
    /// A whole table is read when the stream reaches this watermark.
    Whole {
        mark: String,
        reached: bool,
    },
    Rows(WholeRows),
}

impl FirstLoad {
    pub(crate) fn new(config: &SnapshotConfig, pending: VecDeque<Pending>, barrier: Option<u64>, rows_done: u64) -> Self {
        Self {
            pending,
            chunk_bytes: config.chunk,
            rows_per_second: config.rows_per_second,
            barrier,
            noted: Vec::new(),
            stage: Stage::Idle,
            due: Instant::now(),
            nonce: rand::random(),
            watermarks: 0,
            first_row: rows_done == 0,
            rows_done,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.pending.is_empty()
    }

    pub(crate) fn rows_left(&self) -> u64 {
        self.pending.iter().map(|table| table.rows).sum()
    }

    /// When [`FirstLoad::advance`] has something to do, where it waits for time and not for the stream.
    pub(crate) fn due(&self) -> Option<Instant> {
        (matches!(self.stage, Stage::Idle) && !self.pending.is_empty()).then_some(self.due)
    }

    /// Notes a streamed change, lets the rows of the chunk yield to it, and completes it from them.
    pub(crate) fn meet(
        &mut self,
        table: &Arc<Table>,
        xid: u32,
        operation: Operation,
        before: &Before,
        after: &mut Option<RowImage>,
    ) -> Verdict {
        let Some(at) = self.pending.iter().position(|pending| pending.relation.table.name == table.name) else {
            return Verdict::Deliver;
        };
        if self.noted.last() != Some(&xid) {
            self.noted.push(xid);
        }
        if self.pending.get(at).is_some_and(|pending| !pending.relation.chunkable) {
            return Verdict::InSnapshot;
        }
        if let Stage::Chunk { chunk, .. } = &mut self.stage
            && chunk.relation.table.name == table.name
            && !chunk.snapshot.sees(xid)
        {
            chunk.give_way(table, operation, before, after);
        }
        Verdict::Deliver
    }

    /// A row that moved to another key, completed from the chunk's row under its old key.
    pub(crate) fn complete_moved(&mut self, table: &Arc<Table>, xid: u32, old: &RowImage, new: RowImage) -> RowImage {
        match &mut self.stage {
            Stage::Chunk { chunk, .. } if chunk.relation.table == *table && !chunk.snapshot.sees(xid) => {
                let row = chunk.by_key().get(&image::key(old, &table.key)).copied();
                let row = row.and_then(|at| chunk.rows.get(at)).and_then(Option::as_ref);
                row.map_or(new.clone(), |row| image::complete(&new, row, None))
            }
            _ => new,
        }
    }

    /// Part of the table is read, or is being read, and part of it is not.
    pub(crate) fn has_read_of(&self, table: &TableName) -> bool {
        let reading = matches!(&self.stage, Stage::Chunk { chunk, .. } if chunk.relation.table.name == *table);
        self.pending.iter().any(|pending| pending.relation.table.name == *table && (reading || pending.after.is_some()))
    }

    /// A logical message of ours has come, inside its transaction.
    pub(crate) fn message(&mut self, content: &[u8]) {
        if let Stage::Chunk { mark, reached, .. } | Stage::Whole { mark, reached } = &mut self.stage
            && mark.as_bytes() == content
        {
            *reached = true;
        }
    }

    /// The transaction of the last message is committed: the chunk whose watermark it was.
    pub(crate) fn take_chunk(&mut self, position: &mut Position) -> Option<Chunk> {
        if !matches!(self.stage, Stage::Chunk { reached: true, .. }) {
            return None;
        }
        let Stage::Chunk { mut chunk, .. } = std::mem::replace(&mut self.stage, Stage::Idle) else { return None };
        let name = chunk.relation.table.name.clone();
        position.was_read_again(&name, &chunk.again);
        if chunk.next.is_none() && position.again(&name).next().is_some() {
            // At the end, with keys left to be read once more: another chunk begins after the last key.
            let read_before = || self.pending.front().and_then(|pending| pending.after.clone());
            chunk.next = chunk.last.take().or_else(read_before);
        }
        position.set_progress(&name, chunk.next.clone(), chunk.read);
        self.rows_done += chunk.read;
        chunk.first_of_all = std::mem::replace(&mut self.first_row, false);
        match (&chunk.next, self.pending.front_mut()) {
            (Some(_), Some(pending)) => {
                pending.rows = pending.rows.saturating_sub(chunk.read);
                pending.per_row = chunk.bytes.checked_div(chunk.read);
                pending.after.clone_from(&chunk.next);
            }
            _ => {
                self.pending.pop_front();
                chunk.last_of_all = self.pending.is_empty();
            }
        }
        self.due = paced(chunk.rows.len(), self.rows_per_second);
        Some(chunk)
    }

    /// The watermark before a whole table has been passed: its rows may be read, with `commit` as their version.
    pub(crate) fn whole_is_due(&self) -> bool {
        matches!(self.stage, Stage::Whole { reached: true, .. })
    }

    /// Does the next step, between two transactions of the stream.
    pub(crate) async fn advance(
        &mut self,
        session: &mut Session,
        position: &Position,
        retaken: &prometheus::IntCounter,
    ) -> Result<(), SourceError> {
        if !matches!(self.stage, Stage::Idle) || Instant::now() < self.due || self.pending.is_empty() {
            return Ok(());
        }
        if let Some(barrier) = self.barrier {
            if session.visibility().await?.xmin() < barrier {
                self.due = Instant::now() + RETAKE * 5;
                return Ok(());
            }
            self.barrier = None;
        }
        self.forget_visible(session).await?;
        let Some(pending) = self.pending.front() else { return Ok(()) };
        if !pending.relation.chunkable {
            let mark = self.next_mark();
            session.watermark(&mark).await?;
            self.stage = Stage::Whole { mark, reached: false };
            return Ok(());
        }
        let mut reading = session.read().await?;
        if !self.sees_all_noted(&reading.snapshot) {
            retaken.inc();
            session.end(reading).await?;
            self.due = Instant::now() + RETAKE;
            return Ok(());
        }
        let Some(pending) = self.pending.front() else { return Ok(()) };
        let name = &pending.relation.table.name;
        let again = position.again(name).take(AGAIN).cloned().collect();
        let chunk = Chunk::read(pending, again, self.chunk_bytes, &mut reading, &session.faults).await?;
        session.end(reading).await?;
        let mark = self.next_mark();
        session.watermark(&mark).await?;
        self.stage = Stage::Chunk { chunk, mark, reached: false };
        Ok(())
    }

    /// Forgets noted transactions that the snapshot sees; true where none is left.
    fn sees_all_noted(&mut self, snapshot: &Visibility) -> bool {
        self.noted.retain(|xid| !snapshot.sees(*xid));
        self.noted.is_empty()
    }

    async fn forget_visible(&mut self, session: &mut Session) -> Result<(), SourceError> {
        if self.noted.len() > NOTED {
            let snapshot = session.visibility().await?;
            self.sees_all_noted(&snapshot);
        }
        Ok(())
    }

    fn next_mark(&mut self) -> String {
        self.watermarks += 1;
        format!("{:016x}:{}", self.nonce, self.watermarks)
    }

    /// Starts to read a whole table, or finds that it is too early.
    pub(crate) async fn open_whole(
        &mut self,
        session: &mut Session,
        (commit, ts_us): (u64, i64),
        retaken: &prometheus::IntCounter,
    ) -> Result<(), SourceError> {
        self.stage = Stage::Idle;
        let reading = session.read().await?;
        if !self.sees_all_noted(&reading.snapshot) {
            retaken.inc();
            session.end(reading).await?;
            self.due = Instant::now() + RETAKE;
            return Ok(());
        }
        let Some(pending) = self.pending.front() else { return Ok(()) };
        let query = select_all(pending);
        let relation = Arc::clone(&pending.relation);
        self.stage = Stage::Rows(WholeRows::start(relation, query, reading, (commit, ts_us), session.faults.clone()));
        Ok(())
    }

    /// The next rows of a whole table that is being read, with commit LSN, time and number of the first; `None` when no table is.
    pub(crate) async fn whole_rows(&mut self, position: &mut Position) -> Result<Option<WholeBlock>, SourceError> {
        let Stage::Rows(rows) = &mut self.stage else { return Ok(None) };
        tokio::time::sleep_until(self.due.into()).await;
        let received = rows.blocks.recv().await;
        let block = match received {
            Some(Ok(block)) => block,
            Some(Err(error)) => return Err(error),
            // The task that reads ended without a last block.
            None => return Err(rows.faults.unavailable("the reader of a table ended")),
        };
        let first = rows.number;
        rows.number = rows.number.saturating_add(u32::try_from(block.rows.len()).unwrap_or(u32::MAX));
        self.rows_done += block.rows.len() as u64;
        self.due = paced(block.rows.len(), self.rows_per_second);
        let out = WholeBlock {
            table: Arc::clone(&rows.relation.table),
            rows: block.rows,
            at: rows.at,
            first,
            first_of_all: std::mem::replace(&mut self.first_row, false),
            last_of_table: block.last,
            last_of_all: block.last && self.pending.len() == 1,
        };
        if block.last {
            let name = &rows.relation.table.name;
            position.set_progress(name, None, u64::from(rows.number));
            position.settling.push(Settling {
                schema: name.schema.clone(),
                name: name.name.clone(),
                snapshot: rows.snapshot.clone(),
                until: rows.until,
            });
            self.pending.pop_front();
            self.stage = Stage::Idle;
        }
        Ok(Some(out))
    }

    pub(crate) fn reads_whole(&self) -> bool {
        matches!(self.stage, Stage::Rows(_))
    }
}

/// When the next rows may be read after so many.
fn paced(rows: usize, per_second: Option<u32>) -> Instant {
    let pause = per_second.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(rows as f64 / f64::from(rate.max(1))));
    Instant::now() + pause
}

/// Tables in the order in which they are read: those with a key first, since a whole one holds the stream up.
pub(crate) fn order(tables: &mut [Pending]) {
    tables.sort_by(|a, b| {
        let name = |pending: &Pending| pending.relation.table.name.clone();
        (!a.relation.chunkable, name(a)).cmp(&(!b.relation.chunkable, name(b)))
    });
}
