//! Transactions that the server sends before they are committed (protocol 2, `streaming`): what comes of them is kept until their end
//! says that it counts, in memory while it is little and then in a file.
//!
//! The server sends one when it holds more of all open transactions than the session's `logical_decoding_work_mem`, and would otherwise
//! write it to its own disk and begin to send only at the commit. What is kept are the messages as they came. After the commit they are
//! taken up in the order of their LSNs like those of any other transaction ([`Replay`]): whether a transaction came in streams makes no
//! difference to what is published. After a restart the server sends it again from its beginning.
//!
//! Subtransactions that are rolled back are cut off: while one is open, everything of its transaction is of it or of one inside it, so
//! that nothing follows its first message which counts when it is rolled back.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::io::{self, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use prometheus::IntGauge;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use super::decode::{DecodeError, Part, part};
use super::wire::{Block, Frames};

/// Bytes of one transaction from which on they go to its file, so that writing costs little beside receiving.
const PIECE: usize = 256 << 10;
/// Bytes of all transactions from which on even short ones go to files.
const ALL: usize = 8 << 20;

/// Kind of the frames that are kept; their body is an LSN and the message at it.
const KEPT: u8 = b'd';
const HEAD: usize = 1 + 4 + 8;

#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    #[error("a part of a transaction in progress: {0}")]
    Decode(#[from] DecodeError),
    #[error("keeping a transaction in progress in {}, {bytes} bytes of it by now: {error}", directory.display())]
    Io { directory: Arc<Path>, bytes: u64, error: io::Error },
    #[error("a transaction that was kept in {} does not read as it was written", .0.display())]
    Damaged(Arc<Path>),
}

/// All of a session.
#[derive(Debug)]
pub(crate) struct InProgress {
    directory: Arc<Path>,
    /// Whose stream is being received.
    open: Option<u32>,
    transactions: HashMap<u32, Kept>,
    /// Bytes in memory.
    held: usize,
    on_disk: IntGauge,
}

impl InProgress {
    pub(crate) fn new(directory: Arc<Path>, on_disk: IntGauge) -> Self {
        Self { directory, open: None, transactions: HashMap::new(), held: 0, on_disk }
    }

    /// The stream begins anew: the server sends all of it again.
    pub(crate) fn begin_anew(&mut self) {
        (self.open, self.held) = (None, 0);
        self.transactions.clear();
    }

    /// What comes next is of a transaction in progress and is to be kept.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub(crate) fn start(&mut self, xid: u32) {
        self.transactions.entry(xid).or_insert_with(|| Kept::new(self.on_disk.clone()));
        self.open = Some(xid);
    }

    /// Keeps a message of the open stream, or closes that.
    pub(crate) async fn keep(&mut self, lsn: u64, data: &[u8]) -> Result<(), KeepError> {
        let (part, kind, rest) = match part(data)? {
            Part::Stop => {
                self.open = None;
                return Ok(());
            }
            Part::Other => return Ok(()),
            Part::Of { xid, kind, rest } => (xid, kind, rest),
        };
        let Some(kept) = self.open.and_then(|xid| self.transactions.get_mut(&xid)) else { return Ok(()) };
        self.held += kept.add(part, lsn, (kind, rest));
        if kept.tail.len() >= PIECE {
            self.held -= kept.write(&self.directory).await?;
        } else if self.held >= ALL {
            for kept in self.transactions.values_mut() {
                self.held -= kept.write(&self.directory).await?;
            }
        }
        Ok(())
    }

    /// Forgets what is rolled back: a subtransaction, or all where it is the transaction itself.
    pub(crate) async fn abort(&mut self, xid: u32, part: u32) -> Result<(), KeepError> {
        if part == xid {
            self.held -= self.transactions.remove(&xid).map_or(0, |kept| kept.tail.len());
        } else if let Some(kept) = self.transactions.get_mut(&xid) {
            self.held -= kept.cut(part, &self.directory).await?;
        }
        Ok(())
    }

    /// What was kept of a transaction that is committed; `end` is where the next one can begin.
    pub(crate) async fn commit(&mut self, xid: u32, end: u64) -> Result<Replay, KeepError> {
        let mut kept = self.transactions.remove(&xid).unwrap_or_else(|| Kept::new(self.on_disk.clone()));
        self.held -= kept.tail.len();
        if let Some(file) = &mut kept.file {
            file.rewind().await.map_err(|error| kept.written.failed(&self.directory, error))?;
        }
        let Kept { file, written, tail, .. } = kept;
        let directory = Arc::clone(&self.directory);
        Ok(Replay { end, file, written, tail: Bytes::from(tail), frames: Frames::default(), directory })
    }
}

/// What came of one transaction: the file's bytes, then those in memory.
#[derive(Debug)]
struct Kept {
    file: Option<File>,
    written: OnDisk,
    tail: Vec<u8>,
    /// Where the messages of each subtransaction begin, in their order. The server holds many times as much for each.
    parts: Vec<(u32, u64)>,
}

impl Kept {
    fn new(gauge: IntGauge) -> Self {
        Self { file: None, written: OnDisk { bytes: 0, gauge }, tail: Vec::new(), parts: Vec::new() }
    }

    /// Bytes that it took.
    fn add(&mut self, part: u32, lsn: u64, (kind, rest): (u8, &[u8])) -> usize {
        let begin = self.tail.len();
        // One that began before the last known is its parent: it ends with that one, and not after it.
        if self.parts.last().is_none_or(|(last, _)| order(*last, part).is_lt()) {
            self.parts.push((part, self.written.bytes + begin as u64));
        }
        let length = u32::try_from(HEAD + rest.len()).unwrap_or(u32::MAX);
        self.tail.push(KEPT);
        self.tail.extend_from_slice(&length.to_be_bytes());
        self.tail.extend_from_slice(&lsn.to_be_bytes());
        self.tail.push(kind);
        self.tail.extend_from_slice(rest);
        self.tail.len() - begin
    }

    /// Bytes that left the memory.
    async fn write(&mut self, directory: &Arc<Path>) -> Result<usize, KeepError> {
        let written = async {
            let file = match &mut self.file {
                Some(file) => file,
                None => self.file.insert(nameless(directory).await?),
            };
            file.write_all(&self.tail).await?;
            // Else an error would come with a later piece, or not at all.
            file.flush().await
        };
        written.await.map_err(|error| self.written.failed(directory, error))?;
        let count = std::mem::take(&mut self.tail).len();
        self.written.set(self.written.bytes + count as u64);
        Ok(count)
    }

    /// Bytes that left the memory.
    async fn cut(&mut self, part: u32, directory: &Arc<Path>) -> Result<usize, KeepError> {
        let Ok(at) = self.parts.binary_search_by(|(xid, _)| order(*xid, part)) else { return Ok(0) };
        let Some((_, begin)) = self.parts.get(at).copied() else { return Ok(0) };
        self.parts.truncate(at);
        let held = self.tail.len();
        self.tail.truncate(usize::try_from(begin.saturating_sub(self.written.bytes)).unwrap_or(usize::MAX));
        if begin < self.written.bytes
            && let Some(file) = &mut self.file
        {
            let cut = async {
                file.set_len(begin).await?;
                file.seek(SeekFrom::Start(begin)).await
            };
            cut.await.map_err(|error| self.written.failed(directory, error))?;
            self.written.set(begin);
        }
        Ok(held - self.tail.len())
    }
}

/// Which of two transactions' numbers, which begin again after the last, was given out earlier.
fn order(one: u32, other: u32) -> Ordering {
    one.wrapping_sub(other).cast_signed().cmp(&0)
}

/// Bytes of one transaction in its file, which the system's gauge counts.
#[derive(Debug)]
struct OnDisk {
    bytes: u64,
    gauge: IntGauge,
}

impl OnDisk {
    fn set(&mut self, bytes: u64) {
        self.gauge.add(bytes.cast_signed() - self.bytes.cast_signed());
        self.bytes = bytes;
    }

    fn failed(&self, directory: &Arc<Path>, error: io::Error) -> KeepError {
        KeepError::Io { directory: Arc::clone(directory), bytes: self.bytes, error }
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// A file that nobody else can open, and that is gone with the process.
async fn nameless(directory: &Path) -> io::Result<File> {
    let directory = directory.to_owned();
    let made = tokio::task::spawn_blocking(move || tempfile::tempfile_in(directory)).await;
    made.map_err(io::Error::other)?.map(File::from_std)
}

/// The messages of a committed transaction, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Replay {
    /// Where the next transaction can begin.
    pub(crate) end: u64,
    file: Option<File>,
    written: OnDisk,
    tail: Bytes,
    frames: Frames,
    directory: Arc<Path>,
}

impl Replay {
    /// The next message with its LSN; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<(u64, Bytes, Block)>, KeepError> {
        loop {
            if let Some(mut frame) = self.frames.next().map_err(|_| self.damaged())? {
                let lsn = frame.body.try_get_u64().map_err(|_| self.damaged())?;
                return Ok(Some((lsn, frame.body, frame.block)));
            }
            if !self.fill().await? {
                return if self.frames.is_empty() { Ok(None) } else { Err(self.damaged()) };
            }
        }
    }

    /// Reads on; `false` where nothing is left.
    async fn fill(&mut self) -> Result<bool, KeepError> {
        let Ok(room) = self.frames.room() else { return Err(self.damaged()) };
        if let Some(file) = &mut self.file {
            let count = file.read_buf(room).await.map_err(|error| self.written.failed(&self.directory, error))?;
            if count > 0 {
                return Ok(true);
            }
            self.file = None;
        }
        let count = self.tail.len().min(room.capacity() - room.len());
        room.extend_from_slice(&self.tail.split_to(count));
        Ok(count > 0)
    }

    fn damaged(&self) -> KeepError {
        KeepError::Damaged(Arc::clone(&self.directory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_progress(directory: &Path) -> InProgress {
        InProgress::new(directory.into(), IntGauge::new("in_progress", "test").unwrap())
    }

    fn insert(xid: u32, text: &str) -> Vec<u8> {
        [b"I", &xid.to_be_bytes()[..], text.as_bytes()].concat()
    }

    async fn texts(mut replay: Replay) -> Vec<(u64, String)> {
        let mut all = Vec::new();
        while let Some((lsn, data, _)) = replay.next().await.unwrap() {
            all.push((lsn, String::from_utf8(data.to_vec()).unwrap()));
        }
        all
    }

    #[tokio::test]
    async fn what_is_rolled_back_is_cut_off_wherever_it_is() {
        let home = tempfile::tempdir().unwrap();
        // Numbers that begin again in the middle; rows in memory alone, and beyond what is held there.
        for (top, size) in [(100, 3), (u32::MAX - 1, 3), (100, PIECE / 3), (u32::MAX - 1, PIECE / 3), (u32::MAX, 3 * PIECE)] {
            let mut all = in_progress(home.path());
            let [first, second, third] = [1, 2, 3].map(|more| top.wrapping_add(more));
            let row = |name: &str| name.repeat(size);
            all.start(top);
            let messages = [(top, "a"), (first, "b"), (second, "c"), (second, "d")];
            for (lsn, (xid, name)) in (1..).zip(messages) {
                all.keep(lsn, &insert(xid, &row(name))).await.unwrap();
            }
            all.keep(6, b"O\0").await.unwrap();
            all.keep(6, b"E").await.unwrap();
            assert!(!all.is_open());
            all.abort(top, second).await.unwrap();
            all.start(top);
            all.keep(7, &insert(top, &row("f"))).await.unwrap();
            // The outer one has its first message after the inner one, which is rolled back with it.
            all.keep(7, &insert(third.wrapping_add(1), &row("g"))).await.unwrap();
            all.keep(7, &insert(third, &row("h"))).await.unwrap();
            all.keep(7, b"E").await.unwrap();
            all.abort(top, third.wrapping_add(1)).await.unwrap();
            all.abort(top, third).await.unwrap();
            all.start(top);
            all.keep(8, &insert(top, &row("i"))).await.unwrap();
            let replay = all.commit(top, 9).await.unwrap();
            assert_eq!(replay.end, 9);
            let wanted = [(1, "a"), (2, "b"), (7, "f"), (8, "i")].map(|(lsn, name)| (lsn, format!("I{}", row(name))));
            assert_eq!(texts(replay).await, wanted);
            assert_eq!((all.held, all.on_disk.get()), (0, 0));
        }
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "a file has a name");
    }

    #[tokio::test]
    async fn many_short_transactions_are_held_in_bounded_memory() {
        let home = tempfile::tempdir().unwrap();
        let mut all = in_progress(home.path());
        let row = "r".repeat(1_000);
        for round in 0..3 {
            for xid in 0..(ALL / 2_000) as u32 {
                all.start(xid);
                all.keep(round, &insert(xid, &row)).await.unwrap();
                all.keep(round, b"E").await.unwrap();
                assert!(all.held < ALL + 2_000);
                assert_eq!(all.held, all.transactions.values().map(|kept| kept.tail.len()).sum::<usize>());
            }
        }
        assert!(all.on_disk.get() >= ALL as i64);
        for xid in 0..(ALL / 2_000) as u32 {
            if xid % 2 == 0 {
                all.abort(xid, xid).await.unwrap();
            } else {
                assert_eq!(texts(all.commit(xid, 1).await.unwrap()).await.len(), 3);
            }
        }
        assert_eq!((all.held, all.on_disk.get(), all.transactions.len()), (0, 0, 0));
    }

    #[tokio::test]
    async fn a_file_that_lost_its_end_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        let mut all = in_progress(home.path());
        all.start(1);
        all.keep(1, &insert(1, &"r".repeat(PIECE))).await.unwrap();
        let file = all.transactions.get_mut(&1).and_then(|kept| kept.file.as_mut()).unwrap();
        file.set_len(PIECE as u64).await.unwrap();
        let mut replay = all.commit(1, 2).await.unwrap();
        assert!(matches!(replay.next().await, Err(KeepError::Damaged(_))));
    }
}
