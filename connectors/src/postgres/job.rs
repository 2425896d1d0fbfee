//! A table that is being read, or is to be: its ranges and how far each is.

use std::sync::Arc;

use guitong_schemas::table::{Column, TableName};
use tokio_util::sync::CancellationToken;

use super::catalogue::TableFacts;
use super::chunk::{Chunk, Place};
use super::position::{Asked, Range, TableProgress};
use super::ranges::{Plan, Shape};
use super::relation::Relation;

/// Keys that are read once more at a time.
const AGAIN: usize = 1_000;

/// How a table is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// In parts, by its key or by the places of its rows, while the stream goes on.
    Parts,
    /// Under one snapshot, while the stream waits: nothing tells its rows apart.
    Whole,
}

#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: u64,
    pub(crate) relation: Arc<Relation>,
    pub(crate) shape: Shape,
    pub(crate) way: Way,
    pub(crate) asked: Option<Asked>,
    /// Rows left, as the server estimates them.
    pub(crate) rows: u64,
    /// Bytes of a row: the server's estimate, then what the last chunk showed.
    pub(crate) per_row: Option<u64>,
    /// Made when the table's turn comes.
    pub(crate) plan: Option<Arc<Plan>>,
    ranges: Vec<Part>,
    stored: Option<TableProgress>,
    reads_again: bool,
    /// The transaction in which the stream showed the table with another shape than it is read in.
    reshaped: Option<u32>,
    /// Something of it is read, or being read.
    pub(crate) begun: bool,
    /// Something of it was handed out in this session or before.
    pub(crate) handed: bool,
    pub(crate) stop: CancellationToken,
}

/// A range of this session.
#[derive(Debug)]
struct Part {
    number: u32,
    /// What is not handed out.
    left: Range,
    /// Last key that arrived: where reading goes on.
    read: Option<Vec<String>>,
    /// Read to its end, though not handed out.
    ended: bool,
    worker: Option<usize>,
}

impl Job {
    pub(crate) fn new(id: u64, relation: Arc<Relation>, facts: &TableFacts, stored: Option<TableProgress>) -> Self {
        let by_places = relation.has_key() && facts.identity == b'f' && !facts.partitioned;
        // One range that has no bounds is what was asked for and not begun.
        let begun = stored.as_ref().is_some_and(|stored| stored.ranges != [Range::default()]);
        Self {
            id,
            way: if relation.chunkable || by_places { Way::Parts } else { Way::Whole },
            shape: Shape { oid: facts.oid, partitioned: facts.partitioned, bytes: facts.bytes, columns: facts.columns.len() },
            asked: stored.as_ref().and_then(|stored| stored.asked.clone()),
            rows: facts.rows.saturating_sub(stored.as_ref().map_or(0, |stored| stored.rows)),
            per_row: facts.bytes.checked_div(facts.rows),
            plan: None,
            ranges: Vec::new(),
            stored,
            reads_again: false,
            reshaped: None,
            begun,
            handed: begun,
            stop: CancellationToken::new(),
            relation,
        }
    }

    pub(crate) fn name(&self) -> &TableName {
        &self.relation.table.name
    }

    /// Goes on with the stored ranges where they are of this order of rows; whether there are such.
    pub(crate) fn resume(&mut self, plan: Plan) -> bool {
        let stored = self.stored.take().filter(|_| self.begun);
        let fits = stored.filter(|stored| {
            let fits = plan.fits(&stored.order, &stored.ranges);
            if !fits {
                tracing::warn!(table = %self.relation.table.name, "the table's order of rows changed: it is read from its beginning");
            }
            fits
        });
        self.plan = Some(Arc::new(plan));
        match fits {
            Some(stored) => {
                self.cut(stored.ranges);
                true
            }
            None => false,
        }
    }

    pub(crate) fn cut(&mut self, ranges: Vec<Range>) {
        let part = |(number, left): (u32, Range)| Part { number, read: left.after.clone(), left, ended: false, worker: None };
        self.ranges = (0..).zip(ranges).map(part).collect();
    }

    /// The next part for a worker: a range that nobody reads, or at the end the keys to be read once more.
    pub(crate) fn give(&mut self, worker: usize, again: impl Iterator<Item = Vec<String>>) -> Option<(Place, Range)> {
        if let Some(part) = self.ranges.iter_mut().find(|part| part.worker.is_none() && !part.ended) {
            part.worker = Some(worker);
            self.begun = true;
            let span = Range { after: part.read.clone(), upto: part.left.upto.clone() };
            return Some((Place::Range(part.number), span));
        }
        if !self.ranges.is_empty() || self.reads_again {
            return None;
        }
        let keys: Vec<Vec<String>> = again.take(AGAIN).collect();
        self.reads_again = !keys.is_empty();
        self.reads_again.then_some((Place::Again(keys), Range::default()))
    }

    /// A worker has no order any more.
    pub(crate) fn free(&mut self, worker: usize) {
        for part in self.ranges.iter_mut().filter(|part| part.worker == Some(worker)) {
            part.worker = None;
        }
    }

    /// A chunk has arrived; it is not handed out yet.
    pub(crate) fn arrived(&mut self, chunk: &Chunk) {
        if let Place::Range(number) = chunk.range
            && let Some(part) = self.ranges.iter_mut().find(|part| part.number == number)
        {
            match &chunk.next {
                Some(next) => part.read = Some(next.clone()),
                None => part.ended = true,
            }
        }
    }

    /// The stream shows the table in this shape from a change of this transaction on.
    pub(crate) fn shown(&mut self, relation: &Relation, xid: u32) {
        let (shown, read) = (&relation.table.columns, &self.relation.table.columns);
        let is_same = |(shown, read): (&Column, &Column)| (&shown.name, &shown.kind) == (&read.name, &read.kind);
        if shown.len() != read.len() || !shown.iter().zip(read).all(is_same) {
            self.reshaped = Some(xid);
        }
    }

    /// Whether the chunk was read before the table got the shape in which the stream shows it. (A stream that is behind shows an older
    /// one, of transactions that the chunk sees.)
    pub(crate) fn is_of_older_shape(&self, chunk: &Chunk) -> bool {
        self.reshaped.is_some_and(|xid| !chunk.snapshot.sees(xid))
    }

    /// A chunk is handed out.
    pub(crate) fn hand_out(&mut self, chunk: &Chunk) {
        match (&chunk.range, &chunk.next) {
            (Place::Again(_), _) => self.reads_again = false,
            (Place::Range(number), Some(next)) => {
                if let Some(part) = self.ranges.iter_mut().find(|part| part.number == *number) {
                    part.left.after = Some(next.clone());
                }
            }
            (Place::Range(number), None) => self.ranges.retain(|part| part.number != *number),
        }
        self.rows = self.rows.saturating_sub(chunk.read);
        self.per_row = chunk.bytes.checked_div(chunk.read).or(self.per_row);
        self.handed = true;
    }

    pub(crate) fn has_ranges(&self) -> bool {
        !self.ranges.is_empty()
    }

    /// Writes what is left into the table's progress.
    pub(crate) fn store(&self, progress: &mut TableProgress) {
        progress.ranges = self.ranges.iter().map(|part| part.left.clone()).collect();
        progress.order = self.plan.as_ref().map_or_else(Vec::new, |plan| plan.order.clone());
        progress.asked.clone_from(&self.asked);
    }
}
