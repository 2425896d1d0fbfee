//! A table that is read whole under one snapshot, since nothing tells its rows apart.
//!
//! Its changes are left out until that snapshot is taken and checked to see all of them; the stream then waits while the rows are handed
//! out, and afterwards changes that the snapshot saw are left out (`Settling`). So each row arrives once, unless the process ends within
//! such a table: then it is read again. A task of its own reads, two blocks ahead at most.

use std::sync::Arc;
use std::time::Instant;

use guitong_schemas::change::{RowImage, SnapshotMark};
use guitong_schemas::position::Lsn;
use guitong_schemas::table::Table;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::chunk::marks;
use super::copy::{CopyRows, Form};
use super::fault::Faults;
use super::job::Job;
use super::position::{Position, Settling};
use super::ranges::{self, Files};
use super::relation::Relation;
use super::session::{Reading, Session};
use super::snapshot::{FirstLoad, RETAKE};
use super::visibility::Visibility;
use super::worker::{retyped, rewritten};
use crate::source::SourceError;

/// Bytes that the reader puts together before it hands them on.
const BLOCK: usize = 256 << 10;

/// How far the reading of the first table is.
#[derive(Debug)]
pub(crate) enum WholeTable {
    Idle,
    /// It is read when the stream reaches this watermark.
    Marked {
        /// Job of the table: others can be added meanwhile.
        job: u64,
        mark: String,
        reached: bool,
    },
    Rows(WholeRows),
}

impl WholeTable {
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self, Self::Idle)
    }

    /// Whether this is the watermark that it waits for.
    pub(crate) fn reaches(&mut self, content: &str) -> bool {
        match self {
            Self::Marked { mark, reached, .. } if mark == content => {
                *reached = true;
                true
            }
            _ => false,
        }
    }
}

/// A whole table that a task of its own reads.
#[derive(Debug)]
pub(crate) struct WholeRows {
    job: u64,
    pub(crate) relation: Arc<Relation>,
    pub(crate) blocks: mpsc::Receiver<Result<Block, SourceError>>,
    reader: JoinHandle<()>,
    pub(crate) snapshot: Visibility,
    pub(crate) until: Lsn,
    pub(crate) at: (u64, i64),
    pub(crate) number: u32,
    pub(crate) faults: Faults,
}

#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) rows: Vec<RowImage>,
    pub(crate) last: bool,
}

/// Rows of a whole table in the order in which they were read.
#[derive(Debug)]
pub(crate) struct WholeBlock {
    pub(crate) table: Arc<Table>,
    pub(crate) rows: Vec<RowImage>,
    /// Commit LSN and time of the watermark.
    pub(crate) at: (u64, i64),
    /// Number of the first row.
    pub(crate) first: u32,
    pub(crate) first_of_all: bool,
    pub(crate) last_of_table: bool,
    pub(crate) last_of_all: bool,
}

impl WholeBlock {
    pub(crate) fn into_rows(self) -> impl Iterator<Item = (RowImage, SnapshotMark)> {
        let marks = marks(self.rows.len(), (self.first_of_all, self.first == 0), (self.last_of_all, self.last_of_table));
        self.rows.into_iter().zip(marks)
    }
}

impl WholeRows {
    fn start(job: &Job, query: String, mut reading: Reading, at: (u64, i64), faults: Faults) -> Self {
        let relation = Arc::clone(&job.relation);
        let (send, blocks) = mpsc::channel(1);
        let (snapshot, until) = (reading.snapshot.clone(), reading.end);
        let form = relation.form();
        let task_faults = faults.clone();
        let reader = tokio::spawn(async move {
            let ended = read_whole(&query, &mut reading, form, &send, &task_faults).await;
            if let Err(error) = ended {
                // The receiver goes when the source is dropped; nobody is left to tell.
                send.send(Err(error)).await.ok();
            }
        });
        Self { job: job.id, relation, blocks, reader, snapshot, until, at, number: 0, faults }
    }
}

impl FirstLoad {
    /// The watermark before a whole table has been passed: its rows may be read, with `commit` as their version.
    pub(crate) fn whole_is_due(&self) -> bool {
        matches!(self.whole, WholeTable::Marked { reached: true, .. })
    }

    pub(crate) fn reads_whole(&self) -> bool {
        matches!(self.whole, WholeTable::Rows(_))
    }

    /// Starts to read a whole table, or finds that it is too early.
    pub(crate) async fn open_whole(
        &mut self,
        session: &mut Session,
        (commit, ts_us): (u64, i64),
        retaken: &prometheus::IntCounter,
    ) -> Result<(), SourceError> {
        let WholeTable::Marked { job, .. } = std::mem::replace(&mut self.whole, WholeTable::Idle) else { return Ok(()) };
        let snapshot = session.visibility().await?;
        if !self.sees_all_noted(&snapshot) {
            retaken.inc();
            self.due = Instant::now() + RETAKE;
            return Ok(());
        }
        // A later one sees all that an earlier one saw, and the stream stands still in between.
        let mut reading = session.read().await?;
        let Some(job) = self.jobs.iter().find(|other| other.id == job) else { return Ok(()) };
        let query = ranges::select(&job.relation.table, job.shape.partitioned, self.filter(job), false);
        // Nobody can write the table anew once it was touched.
        let touch = format!("{query} LIMIT 0; {}", Files::query(&job.shape));
        match Files::read(&reading.reader.run(&touch).await?) {
            Some(files) if !files.are_of(&job.relation, &job.shape) => {
                return Err(session.faults.unavailable(retyped(&job.relation)));
            }
            Some(files) if files.seen => {}
            Some(_) => return Err(session.faults.unavailable(rewritten(&job.relation))),
            None => return Err(session.faults.protocol("the files of a table were not told")),
        }
        self.whole = WholeTable::Rows(WholeRows::start(job, query, reading, (commit, ts_us), session.faults.clone()));
        Ok(())
    }

    /// The next rows of a whole table that is being read, with commit LSN, time and number of the first; `None` when no table is.
    pub(crate) async fn whole_rows(&mut self, position: &mut Position) -> Result<Option<WholeBlock>, SourceError> {
        let WholeTable::Rows(rows) = &mut self.whole else { return Ok(None) };
        tokio::time::sleep_until(self.pace.due().into()).await;
        let received = rows.blocks.recv().await;
        let block = match received {
            Some(Ok(block)) => block,
            Some(Err(error)) => return Err(error),
            // The task that reads ended without a last block.
            None => return Err(rows.faults.unavailable("the reader of a table ended")),
        };
        let first = rows.number;
        rows.number = rows.number.saturating_add(u32::try_from(block.rows.len()).unwrap_or(u32::MAX));
        self.progress.add(block.rows.len() as u64);
        self.pace.take(block.rows.len());
        let out = WholeBlock {
            table: Arc::clone(&rows.relation.table),
            rows: block.rows,
            at: rows.at,
            first,
            first_of_all: std::mem::replace(&mut self.first_row, false),
            last_of_table: block.last,
            last_of_all: block.last && self.jobs.len() == 1,
        };
        let name = &rows.relation.table.name;
        if first == 0 {
            // Stored with the first rows: they may be ahead of the stream, which a server that takes over has to have as well.
            position.settling.push(Settling {
                schema: name.schema.clone(),
                name: name.name.clone(),
                snapshot: rows.snapshot.clone(),
                until: rows.until,
            });
        }
        if block.last {
            position.of(name).rows += u64::from(rows.number);
            position.finish(name);
            let read = rows.job;
            self.jobs.retain(|job| job.id != read);
            self.whole = WholeTable::Idle;
            if self.jobs.is_empty() {
                self.end();
            }
        }
        Ok(Some(out))
    }
}

impl Drop for WholeRows {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read_whole(
    query: &str,
    reading: &mut Reading,
    form: Form,
    send: &mpsc::Sender<Result<Block, SourceError>>,
    faults: &Faults,
) -> Result<(), SourceError> {
    reading.reader.copy(&format!("COPY ({query}) TO STDOUT{}", form.clause())).await?;
    let mut images = CopyRows::new(form);
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while let Some(message) = reading.reader.row().await? {
        let row = images.row(&message).map_err(|error| faults.protocol(format!("a row of COPY: {error}")))?;
        let Some(row) = row else { continue };
        bytes += row.0.len();
        rows.push(row);
        if bytes >= BLOCK {
            bytes = 0;
            if send.send(Ok(Block { rows: std::mem::take(&mut rows), last: false })).await.is_err() {
                return Ok(());
            }
        }
    }
    send.send(Ok(Block { rows, last: true })).await.ok();
    Ok(())
}
