//! The one task that writes. Work that waits when it is free goes into one SQLite transaction, so that a thousand owners do not
//! mean a thousand disk syncs; each piece stands behind a savepoint, so that one that fails takes no other with it.
//!
//! How a piece ends: an error before COMMIT, or SQLITE_FULL at COMMIT, means that nothing of it is in the file (`Refused`). Any
//! other error at COMMIT leaves that open (`Unknown`): the connection is made anew and memory is read from the file again.
//! Owners are fenced here: the queue orders a fence after every append sent before it, and appends of the older epoch that come
//! later are refused. Epochs live in memory, since the file's lock sees to it that holders die with the process.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{Connection, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use super::fault::Fault;
use super::file::{FileLock, LogFile, WAL_BYTES};
use super::rows::{self, Statements};
use super::stand::{self, Stand};
use super::state::State;
use super::topics::{Extent, Partition, Topics};
use crate::contract::{AppendError, LogError, OwnerId};
use crate::metrics::Metrics;

/// Pieces that wait for the writer; senders wait beyond that.
const QUEUE: usize = 1024;
/// Bytes of work after which a transaction takes no more.
const GROUP_BYTES: usize = 16 << 20;

/// A piece of work that is done whole or not at all.
#[async_trait]
pub(crate) trait Work: Send {
    /// Writes through `tx`; nothing in memory may change yet. May be called again, after everything it wrote was undone.
    async fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), WorkError>;

    /// The work is durable; called before anybody is told.
    fn committed(&mut self) {}

    /// Bytes that it writes, roughly.
    fn bytes(&self) -> usize {
        0
    }
}

/// Why a piece of work was not done.
#[derive(Debug)]
pub(crate) enum WorkError {
    Fault(Fault),
    Refused(LogError),
}

impl From<sqlx::Error> for WorkError {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl From<LogError> for WorkError {
    fn from(error: LogError) -> Self {
        Self::Refused(error)
    }
}

/// The open transaction, seen by one piece of work.
pub(crate) struct Tx<'a> {
    pub(crate) conn: &'a mut SqliteConnection,
    pub(crate) statements: &'a mut Statements,
    /// Extents as the transaction leaves them.
    staged: &'a mut Staged,
    /// Those that this piece changed.
    own: Staged,
}

type Staged = HashMap<u32, (Arc<Partition>, Extent)>;

impl Tx<'_> {
    pub(crate) fn extent(&self, partition: &Partition) -> Extent {
        let staged = self.own.get(&partition.id).or_else(|| self.staged.get(&partition.id));
        staged.map_or_else(|| *partition.extent.borrow(), |(_, extent)| *extent)
    }

    pub(crate) fn set_extent(&mut self, partition: &Arc<Partition>, extent: Extent) {
        self.own.insert(partition.id, (Arc::clone(partition), extent));
    }
}

type Answer = oneshot::Sender<Result<(), AppendError>>;

enum Message {
    Work { work: Box<dyn Work>, holder: Option<(OwnerId, u64)>, answer: Answer },
    Fence { owner: OwnerId, answer: oneshot::Sender<Result<Taken, LogError>> },
    Close { answer: oneshot::Sender<()> },
}

/// An owner that a new holder has taken over.
pub(crate) struct Taken {
    pub(crate) epoch: u64,
    pub(crate) stand: Stand,
}

/// A holder that waits for its owner.
struct Fence {
    owner: OwnerId,
    epoch: u64,
    answer: oneshot::Sender<Result<Taken, LogError>>,
}

/// Where work is sent.
#[derive(Debug, Clone)]
pub(crate) struct Queue(mpsc::Sender<Message>);

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Message")
    }
}

fn stopped() -> LogError {
    LogError::Unavailable { detail: "the log is closed".to_owned() }
}

impl Queue {
    /// Does `work`, for the holder of `owner` at that epoch where one is named.
    pub(crate) async fn submit(&self, work: Box<dyn Work>, holder: Option<(OwnerId, u64)>) -> Result<(), AppendError> {
        let (answer, told) = oneshot::channel();
        self.0.send(Message::Work { work, holder, answer }).await.map_err(|_| AppendError::Refused(stopped()))?;
        told.await.map_err(|_| AppendError::Unknown(stopped()))?
    }

    /// As [`Queue::submit`] for work that may simply be done again.
    pub(crate) async fn perform(&self, work: Box<dyn Work>) -> Result<(), LogError> {
        self.submit(work, None).await.map_err(|(AppendError::Refused(error) | AppendError::Unknown(error))| error)
    }

    /// Refuses every append of older holders from here on, and tells where those sent before have left the owner.
    pub(crate) async fn fence(&self, owner: &OwnerId) -> Result<Taken, LogError> {
        let (answer, told) = oneshot::channel();
        self.0.send(Message::Fence { owner: owner.clone(), answer }).await.map_err(|_| stopped())?;
        told.await.map_err(|_| stopped())?
    }

    /// Ends the writer after what was sent before; the file can be opened again then.
    pub(crate) async fn close(&self) {
        let (answer, told) = oneshot::channel();
        if self.0.send(Message::Close { answer }).await.is_ok() {
            // An error says that the writer has ended already.
            told.await.ok();
        }
    }
}

pub(crate) struct Writer {
    file: LogFile,
    conn: Option<SqliteConnection>,
    topics: Arc<Topics>,
    state: Arc<State>,
    statements: Statements,
    epochs: HashMap<OwnerId, u64>,
    metrics: Metrics,
    /// Length of the write-ahead log at which it is to begin anew.
    wal_mark: u64,
    _lock: FileLock,
}

struct Piece {
    work: Box<dyn Work>,
    answer: Answer,
}

#[derive(Default)]
struct Group {
    pieces: Vec<Piece>,
    fences: Vec<Fence>,
    closed: Option<oneshot::Sender<()>>,
    bytes: usize,
}

impl Group {
    fn takes_more(&self) -> bool {
        self.bytes < GROUP_BYTES && self.pieces.len() < QUEUE && self.closed.is_none()
    }
}

impl Writer {
    /// Starts the task; it ends when it is told to or every [`Queue`] is gone.
    pub(crate) fn start(
        file: LogFile,
        conn: SqliteConnection,
        memory: (Arc<Topics>, Arc<State>),
        metrics: Metrics,
        lock: FileLock,
    ) -> Queue {
        let (topics, state) = memory;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let writer = Self {
            file,
            conn: Some(conn),
            topics,
            state,
            statements: Statements::default(),
            epochs: HashMap::new(),
            metrics,
            wal_mark: WAL_BYTES,
            _lock: lock,
        };
        tokio::spawn(writer.run(receiver));
        Queue(sender)
    }

    async fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        let mut closed = None;
        let mut merging = false;
        while closed.is_none() {
            let first = match queue.try_recv() {
                // What was gathered of keyed state goes on its way while nobody waits.
                Err(mpsc::error::TryRecvError::Empty) if merging => {
                    merging = self.merge().await;
                    continue;
                }
                Err(_) => queue.recv().await,
                Ok(first) => Some(first),
            };
            let Some(first) = first else { break };
            let mut group = Group::default();
            self.admit(first, &mut group);
            while group.takes_more() {
                match queue.try_recv() {
                    Ok(message) => self.admit(message, &mut group),
                    Err(_) => break,
                }
            }
            self.write(std::mem::take(&mut group.pieces)).await;
            self.tell(group.fences).await;
            closed = group.closed;
            merging = self.merge().await;
        }
        if let Some(conn) = self.conn.take()
            && let Err(error) = conn.close().await
        {
            tracing::warn!(path = %self.file.path.display(), %error, "the log's file did not close cleanly");
        }
        drop(self);
        if let Some(answer) = closed {
            answer.send(()).ok();
        }
    }

    /// Writes the next slice of keyed state into its table; whether there may be more to write now.
    async fn merge(&mut self) -> bool {
        let Some(work) = self.state.slice() else { return false };
        let (answer, mut told) = oneshot::channel();
        self.write(vec![Piece { work, answer }]).await;
        // A slice that failed is tried again after the next commit.
        matches!(told.try_recv(), Ok(Ok(())))
    }

    fn admit(&mut self, message: Message, group: &mut Group) {
        match message {
            Message::Work { work, holder, answer } => {
                if let Some((owner, epoch)) = holder
                    && self.epochs.get(&owner) != Some(&epoch)
                {
                    answer.send(Err(AppendError::Refused(LogError::Fenced { owner }))).ok();
                    return;
                }
                group.bytes += work.bytes();
                group.pieces.push(Piece { work, answer });
            }
            Message::Fence { owner, answer } => {
                let epoch = self.epochs.entry(owner.clone()).or_default();
                *epoch += 1;
                group.fences.push(Fence { owner, epoch: *epoch, answer });
            }
            Message::Close { answer } => group.closed = Some(answer),
        }
    }

    /// Tells new holders where their owners stand, all by one look into the file: a node opens a thousand at once when it starts.
    async fn tell(&mut self, fences: Vec<Fence>) {
        if fences.is_empty() {
            return;
        }
        let owners: Vec<String> = fences.iter().map(|fence| fence.owner.to_string()).collect();
        let stands = self.stands(&owners).await;
        for (Fence { epoch, answer, .. }, owner) in fences.into_iter().zip(owners) {
            let taken = match &stands {
                Ok(stands) => Ok(Taken { epoch, stand: stands.get(&owner).cloned().unwrap_or_default() }),
                Err(fault) => Err(fault.error(&self.file.path)),
            };
            // Nobody waits any more: the fence stands all the same.
            answer.send(taken).ok();
        }
    }

    async fn stands(&mut self, owners: &[String]) -> Result<HashMap<String, Stand>, Fault> {
        let mut conn = self.connection().await.map_err(|error| Fault::unavailable(&error))?;
        let stands = stand::read(&mut conn, owners).await;
        self.conn = Some(conn);
        stands
    }

    /// Writes `pieces` in one transaction, or each in its own where that is lost for one of them, and tells each how it ended.
    async fn write(&mut self, pieces: Vec<Piece>) {
        if pieces.is_empty() {
            return;
        }
        for piece in self.write_together(pieces).await {
            self.write_together(vec![piece]).await;
        }
    }

    /// Gives back, in their order, the pieces that are to be written one by one. One alone is always told.
    async fn write_together(&mut self, pieces: Vec<Piece>) -> Vec<Piece> {
        let path = self.file.path.clone();
        let mut conn = match self.connection().await {
            Ok(conn) => conn,
            Err(error) => {
                let detail = error.to_string();
                answer_all(pieces, || AppendError::Refused(LogError::Unavailable { detail: detail.clone() }));
                return Vec::new();
            }
        };
        let mut staged = Staged::new();
        let timer = self.metrics.commit_seconds.start_timer();
        let written = transact(&mut conn, &mut self.statements, pieces, &mut staged, &path).await;
        timer.observe_duration();
        match written {
            Written::Committed(pieces) => {
                self.metrics.transactions.inc();
                committed(pieces, staged);
                self.shorten_wal(&mut conn).await;
            }
            Written::Lost { pieces, .. } if pieces.len() > 1 => {
                self.conn = Some(conn);
                return pieces;
            }
            Written::Lost { pieces, fault } => answer_all(pieces, || AppendError::Refused(fault.error(&path))),
            Written::Unknown { pieces, fault } => {
                tracing::error!(path = %path.display(), ?fault, "a commit of the log ended without an answer");
                // Best effort: what counts is what the next connection reads.
                conn.close().await.ok();
                answer_all(pieces, || AppendError::Unknown(fault.error(&path)));
                return Vec::new();
            }
        }
        self.conn = Some(conn);
        Vec::new()
    }

    /// SQLite copies the write-ahead log into the file by itself, but begins it again only when no reader is in it; where there
    /// always is one, it would grow without end.
    /// A backup stays in it for long, so the next attempt comes only when it has grown as much again.
    async fn shorten_wal(&mut self, conn: &mut SqliteConnection) {
        let length = std::fs::metadata(self.file.wal()).map_or(0, |meta| meta.len());
        if length <= WAL_BYTES {
            self.wal_mark = WAL_BYTES;
        } else if length > self.wal_mark {
            self.wal_mark = length + WAL_BYTES;
            if let Err(error) = execute(conn, "PRAGMA wal_checkpoint(RESTART)").await {
                tracing::warn!(path = %self.file.path.display(), %error, "the write-ahead log could not be written back; it is tried again");
            }
        }
    }

    /// The connection, made anew after a commit without an answer, with memory as the file has it.
    async fn connection(&mut self) -> Result<SqliteConnection, LogError> {
        if let Some(conn) = self.conn.take() {
            return Ok(conn);
        }
        let mut conn = self.file.writer().await?;
        let extents = rows::extents(&mut conn).await.map_err(|error| self.file.error(error))?;
        for partition in self.topics.all().iter().flat_map(|topic| &topic.partitions) {
            if let Some(extent) = extents.get(&partition.id) {
                partition.extent.send_replace(*extent);
            }
        }
        self.state.load(&mut conn, |error| self.file.error(error)).await?;
        Ok(conn)
    }
}

fn answer_all(pieces: Vec<Piece>, error: impl Fn() -> AppendError) {
    for piece in pieces {
        piece.answer.send(Err(error())).ok();
    }
}

/// Memory follows the file, then everybody is told.
fn committed(mut pieces: Vec<Piece>, staged: Staged) {
    for piece in &mut pieces {
        piece.work.committed();
    }
    for (partition, extent) in staged.into_values() {
        partition.extent.send_replace(extent);
    }
    for piece in pieces {
        // Who does not wait any more finds it in the log.
        piece.answer.send(Ok(())).ok();
    }
}

/// How a transaction ended for the pieces that nobody has told yet.
enum Written {
    Committed(Vec<Piece>),
    /// Nothing was written.
    Lost {
        pieces: Vec<Piece>,
        fault: Fault,
    },
    Unknown {
        pieces: Vec<Piece>,
        fault: Fault,
    },
}

async fn transact(
    conn: &mut SqliteConnection,
    statements: &mut Statements,
    pieces: Vec<Piece>,
    staged: &mut Staged,
    path: &Path,
) -> Written {
    let alone = pieces.len() == 1;
    if let Err(error) = execute(conn, "BEGIN IMMEDIATE").await {
        return Written::Lost { pieces, fault: error.into() };
    }
    let mut done = Vec::with_capacity(pieces.len());
    let mut pieces = pieces.into_iter();
    while let Some(mut piece) = pieces.next() {
        match attempt(conn, statements, staged, &mut *piece.work, alone).await {
            Ok(()) => done.push(piece),
            Err(WorkError::Refused(error)) => {
                piece.answer.send(Err(AppendError::Refused(error))).ok();
            }
            // Some errors end the whole transaction in SQLite; then the savepoint is gone, and all before it.
            Err(WorkError::Fault(fault)) if alone || undo(conn).await.is_err() => {
                done.push(piece);
                done.extend(pieces);
                return lost(conn, done, fault).await;
            }
            Err(WorkError::Fault(fault)) => {
                piece.answer.send(Err(AppendError::Refused(fault.error(path)))).ok();
            }
        }
    }
    if let Err(error) = rows::put_extents(conn, statements, staged.values()).await {
        return lost(conn, done, error.into()).await;
    }
    match execute(conn, "COMMIT").await {
        Ok(()) => Written::Committed(done),
        Err(error) => {
            let fault = Fault::from(error);
            if fault.commit_refused() { lost(conn, done, fault).await } else { Written::Unknown { pieces: done, fault } }
        }
    }
}

async fn lost(conn: &mut SqliteConnection, pieces: Vec<Piece>, fault: Fault) -> Written {
    // Fails where SQLite has rolled back already.
    execute(conn, "ROLLBACK").await.ok();
    Written::Lost { pieces, fault }
}

/// Runs one piece behind a savepoint. `alone`: the transaction itself is its savepoint. What was refused is undone already.
async fn attempt(
    conn: &mut SqliteConnection,
    statements: &mut Statements,
    staged: &mut Staged,
    work: &mut dyn Work,
    alone: bool,
) -> Result<(), WorkError> {
    if !alone {
        execute(conn, "SAVEPOINT piece").await?;
    }
    let mut tx = Tx { conn: &mut *conn, statements, staged, own: Staged::new() };
    let ended = work.run(&mut tx).await;
    let own = tx.own;
    match ended {
        Ok(()) => {
            if !alone {
                execute(conn, "RELEASE piece").await?;
            }
            staged.extend(own);
            Ok(())
        }
        Err(WorkError::Refused(error)) => {
            undo_piece(conn, alone).await?;
            Err(WorkError::Refused(error))
        }
        Err(fault) => Err(fault),
    }
}

async fn undo_piece(conn: &mut SqliteConnection, alone: bool) -> Result<(), sqlx::Error> {
    if alone {
        execute(conn, "ROLLBACK").await?;
        execute(conn, "BEGIN IMMEDIATE").await
    } else {
        undo(conn).await
    }
}

async fn undo(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    execute(conn, "ROLLBACK TO piece").await?;
    execute(conn, "RELEASE piece").await
}

async fn execute(conn: &mut SqliteConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::query(sql).execute(conn).await.map(drop)
}
