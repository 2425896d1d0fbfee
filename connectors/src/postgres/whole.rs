//! A table that is read whole under one snapshot, by a task of its own, two blocks ahead at most.

use std::sync::Arc;

use guitong_schemas::change::{RowImage, SnapshotMark};
use guitong_schemas::position::Lsn;
use guitong_schemas::table::Table;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::chunk::marks;
use super::copy::CopyRows;
use super::fault::Faults;
use super::relation::Relation;
use super::session::Reading;
use super::visibility::Visibility;
use crate::source::SourceError;

/// Bytes that the reader puts together before it hands them on.
const BLOCK: usize = 256 << 10;

/// A whole table that a task of its own reads, two blocks ahead at most.
#[derive(Debug)]
pub(crate) struct WholeRows {
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
    pub(crate) fn start(relation: Arc<Relation>, query: String, mut reading: Reading, at: (u64, i64), faults: Faults) -> Self {
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
