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

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use guitong_schemas::change::{Before, Operation, RowImage, SnapshotMark};
use guitong_schemas::contract::system::SnapshotConfig;
use guitong_schemas::position::Lsn;
use guitong_schemas::table::{Table, TableName};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::catalogue::TableFacts;
use super::config::{quote_literal, quote_name};
use super::copy::CopyRows;
use super::fault::Faults;
use super::image;
use super::position::{Position, Settling};
use super::prepare::quoted;
use super::relation::Relation;
use super::session::{Reading, Session};
use super::visibility::Visibility;
use crate::source::SourceError;

/// How soon a snapshot that came too early is taken again.
const RETAKE: Duration = Duration::from_millis(20);
/// Rows of the first chunk of a table of which the server has no estimate.
const FIRST_ROWS: usize = 1_000;
/// Keys that one chunk reads once more.
const AGAIN: usize = 1_000;
/// Transactions noted before the ones that became visible are forgotten.
const NOTED: usize = 8_192;
/// Bytes that a reader of a whole table puts together before it hands them on; two such blocks wait at most.
const BLOCK: usize = 256 << 10;

/// A table to be read.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) relation: Arc<Relation>,
    pub(crate) partitioned: bool,
    /// Rows left, as the server estimates them.
    rows: u64,
    /// Bytes of a row: the server's estimate, then what the last chunk showed.
    per_row: Option<u64>,
    /// Text of the last key that was read.
    pub(crate) after: Option<Vec<String>>,
}

impl Pending {
    pub(crate) fn new(relation: Arc<Relation>, facts: &TableFacts, after: Option<Vec<String>>) -> Self {
        let per_row = facts.bytes.checked_div(facts.rows);
        Self { relation, partitioned: facts.partitioned, rows: facts.rows, per_row, after }
    }
}

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
        if let Some(rate) = self.rows_per_second {
            self.due = Instant::now() + Duration::from_secs_f64(chunk.rows.len() as f64 / f64::from(rate.max(1)));
        }
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
        let chunk = read_chunk(pending, again, self.chunk_bytes, &mut reading, &session.faults).await?;
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
        let query = select(pending, None);
        let relation = Arc::clone(&pending.relation);
        self.stage = Stage::Rows(WholeRows::start(relation, query, reading, (commit, ts_us), session.faults.clone()));
        Ok(())
    }

    /// The next rows of a whole table that is being read, with commit LSN, time and number of the first; `None` when no table is.
    pub(crate) async fn whole_rows(&mut self, position: &mut Position) -> Result<Option<WholeBlock>, SourceError> {
        let Stage::Rows(rows) = &mut self.stage else { return Ok(None) };
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

/// Rows of one table between two keys, as one snapshot saw them.
#[derive(Debug)]
pub(crate) struct Chunk {
    relation: Arc<Relation>,
    snapshot: Visibility,
    rows: Vec<Option<RowImage>>,
    /// Place of each key's row; made when the first change of the table comes.
    by_key: Option<HashMap<Vec<u8>, usize>>,
    /// Rows read, yielded ones included.
    read: u64,
    bytes: u64,
    /// The first chunk of its table.
    first: bool,
    /// Text of the last key; `None` when the table is at its end.
    next: Option<Vec<String>>,
    /// Text of the last key, whether the table is at its end or not.
    last: Option<Vec<String>>,
    /// Keys that were read once more.
    again: Vec<Vec<String>>,
    first_of_all: bool,
    last_of_all: bool,
}

impl Chunk {
    fn give_way(&mut self, table: &Arc<Table>, operation: Operation, before: &Before, after: &mut Option<RowImage>) {
        if operation == Operation::Truncate {
            self.rows.iter_mut().for_each(|row| *row = None);
            return;
        }
        let mut replaced = None;
        for image in before.row().into_iter().chain(after.as_ref()) {
            if let Some(at) = self.by_key().remove(&image::key(image, &table.key))
                && let Some(row) = self.rows.get_mut(at)
            {
                replaced = replaced.or(row.take());
            }
        }
        if let (Some(old), Some(new)) = (replaced, after.as_mut())
            && self.relation.table == *table
            && image::has_absent(new)
        {
            *new = image::complete(new, &old, None);
        }
    }

    /// Places of the rows by key.
    fn by_key(&mut self) -> &mut HashMap<Vec<u8>, usize> {
        let (rows, key) = (&self.rows, &self.relation.table.key);
        self.by_key.get_or_insert_with(|| {
            rows.iter().enumerate().filter_map(|(at, row)| Some((image::key(row.as_ref()?, key), at))).collect()
        })
    }

    pub(crate) fn yielded(&self) -> usize {
        self.rows.iter().filter(|row| row.is_none()).count()
    }

    /// The rows that are left, each with its mark.
    pub(crate) fn into_rows(self) -> (Arc<Table>, Vec<RowImage>, Vec<SnapshotMark>) {
        let rows: Vec<RowImage> = self.rows.into_iter().flatten().collect();
        let ends = self.next.is_none();
        let marks = marks(rows.len(), (self.first_of_all, self.first), (self.last_of_all, ends));
        (Arc::clone(&self.relation.table), rows, marks)
    }
}

/// Debezium's words for where rows stand: `first` and `last` are (of all tables, of this table).
fn marks(rows: usize, first: (bool, bool), last: (bool, bool)) -> Vec<SnapshotMark> {
    let mut marks = vec![SnapshotMark::Inside; rows];
    if let Some(mark) = marks.first_mut() {
        *mark = match first {
            (true, _) => SnapshotMark::First,
            (false, true) => SnapshotMark::FirstInTable,
            (false, false) => SnapshotMark::Inside,
        };
    }
    if let Some(mark) = marks.last_mut() {
        *mark = match last {
            (true, _) => SnapshotMark::Last,
            (false, true) => SnapshotMark::LastInTable,
            (false, false) => *mark,
        };
    }
    marks
}

/// Reads the next chunk: about `chunk_bytes` of rows, at least one.
async fn read_chunk(
    pending: &Pending,
    again: Vec<Vec<String>>,
    chunk_bytes: usize,
    reading: &mut Reading,
    faults: &Faults,
) -> Result<Chunk, SourceError> {
    let columns = pending.relation.table.columns.len();
    let limit = pending
        .per_row
        .map_or(FIRST_ROWS, |bytes| usize::try_from(chunk_bytes as u64 / bytes.max(1)).unwrap_or(FIRST_ROWS).clamp(1, 500_000));
    let mut rows: Vec<Option<RowImage>> = Vec::new();
    let (mut bytes, mut more) = (0, false);
    let mut lines = CopyRows::default();
    let mut stream = reading.lines(&select(pending, Some(limit + 1))).await?;
    while let Some(line) = stream.next().await? {
        // The estimate can be far off: bytes decide, and the chunk ends with the last row that is kept. The rest is read past.
        if more || rows.len() == limit || (bytes >= chunk_bytes && !rows.is_empty()) {
            more = true;
            continue;
        }
        let row = lines.row(&line, columns).map_err(|error| faults.protocol(format!("a row of COPY: {error}")))?;
        bytes += row.0.len();
        rows.push(Some(row));
    }
    drop(stream);
    let table = &pending.relation.table;
    let last = match rows.last().and_then(Option::as_ref) {
        Some(row) => {
            let key = image::key_text(row, &table.key);
            Some(key.ok_or_else(|| faults.protocol(format!("a row of {} has no key", table.name)))?)
        }
        None => None,
    };
    let mut chunk = Chunk {
        relation: Arc::clone(&pending.relation),
        snapshot: reading.snapshot.clone(),
        read: rows.len() as u64,
        bytes: bytes as u64,
        rows,
        by_key: None,
        first: pending.after.is_none(),
        next: last.clone().filter(|_| more),
        last,
        again,
        first_of_all: false,
        last_of_all: false,
    };
    if !chunk.again.is_empty() {
        let mut stream = reading.lines(&select_keys(pending, &chunk.again)).await?;
        while let Some(line) = stream.next().await? {
            let row = lines.row(&line, columns).map_err(|error| faults.protocol(format!("a row of COPY: {error}")))?;
            let at = chunk.rows.len();
            if let Entry::Vacant(place) = chunk.by_key().entry(image::key(&row, &table.key)) {
                place.insert(at);
                chunk.rows.push(Some(row));
            }
        }
    }
    Ok(chunk)
}

/// The query of a chunk (with a limit) or of the whole table.
fn select(pending: &Pending, limit: Option<usize>) -> String {
    let sql = select_all(pending);
    let Some(limit) = limit else { return sql };
    let key = key_names(&pending.relation.table);
    let after = pending.after.as_ref().map(|after| format!(" WHERE ({key}) > {}", key_literal(after)));
    format!("{sql}{} ORDER BY {key} LIMIT {limit}", after.unwrap_or_default())
}

/// The query of single rows.
fn select_keys(pending: &Pending, keys: &[Vec<String>]) -> String {
    let literals: Vec<String> = keys.iter().map(|key| key_literal(key)).collect();
    format!("{} WHERE ({}) IN ({})", select_all(pending), key_names(&pending.relation.table), literals.join(", "))
}

fn select_all(pending: &Pending) -> String {
    let table = &pending.relation.table;
    let columns: Vec<String> = table.columns.iter().map(|column| quote_name(&column.name)).collect();
    let only = if pending.partitioned { "" } else { "ONLY " };
    format!("SELECT {} FROM {only}{}", columns.join(", "), quoted(&table.name))
}

fn key_names(table: &Table) -> String {
    table.key_columns().map(|column| quote_name(&column.name)).collect::<Vec<_>>().join(", ")
}

fn key_literal(key: &[String]) -> String {
    let values: Vec<String> = key.iter().map(|value| quote_literal(value)).collect();
    format!("({})", values.join(", "))
}

/// A whole table that a task of its own reads, two blocks ahead at most.
#[derive(Debug)]
struct WholeRows {
    relation: Arc<Relation>,
    blocks: mpsc::Receiver<Result<Block, SourceError>>,
    reader: JoinHandle<()>,
    snapshot: Visibility,
    until: Lsn,
    at: (u64, i64),
    number: u32,
    faults: Faults,
}

#[derive(Debug)]
struct Block {
    rows: Vec<RowImage>,
    last: bool,
}

/// Rows of a whole table in the order in which they were read.
#[derive(Debug)]
pub(crate) struct WholeBlock {
    pub(crate) table: Arc<Table>,
    rows: Vec<RowImage>,
    /// Commit LSN and time of the watermark.
    pub(crate) at: (u64, i64),
    /// Number of the first row.
    pub(crate) first: u32,
    first_of_all: bool,
    last_of_table: bool,
    last_of_all: bool,
}

impl WholeBlock {
    pub(crate) fn into_rows(self) -> impl Iterator<Item = (RowImage, SnapshotMark)> {
        let marks = marks(self.rows.len(), (self.first_of_all, self.first == 0), (self.last_of_all, self.last_of_table));
        self.rows.into_iter().zip(marks)
    }
}

impl WholeRows {
    fn start(relation: Arc<Relation>, query: String, mut reading: Reading, at: (u64, i64), faults: Faults) -> Self {
        let (send, blocks) = mpsc::channel(1);
        let (snapshot, until) = (reading.snapshot.clone(), reading.end);
        let columns = relation.table.columns.len();
        let task_faults = faults.clone();
        let reader = tokio::spawn(async move {
            let ended = read_whole(&query, &mut reading, columns, &send, &task_faults).await;
            if let Err(error) = ended {
                // The receiver goes when the source is dropped; nobody is left to tell.
                send.send(Err(error)).await.ok();
            }
        });
        Self { relation, blocks, reader, snapshot, until, at, number: 0, faults }
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
    columns: usize,
    send: &mpsc::Sender<Result<Block, SourceError>>,
    faults: &Faults,
) -> Result<(), SourceError> {
    let mut stream = reading.lines(query).await?;
    let mut lines = CopyRows::default();
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while let Some(line) = stream.next().await? {
        let row = lines.row(&line, columns).map_err(|error| faults.protocol(format!("a row of COPY: {error}")))?;
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

/// Tables in the order in which they are read: those with a key first, since a whole one holds the stream up.
pub(crate) fn order(tables: &mut [Pending]) {
    tables.sort_by(|a, b| {
        let name = |pending: &Pending| pending.relation.table.name.clone();
        (!a.relation.chunkable, name(a)).cmp(&(!b.relation.chunkable, name(b)))
    });
}
