//! From decoded messages to changes with versions, and the position that stands after them.
//!
//! A change's version is its transaction's commit LSN and its own LSN; several changes can share an LSN (rows of one `COPY` or multi-row
//! record), so each further one has the next index. The server sends a transaction again in the same order after a restart, so that
//! what was published of it is recognised by LSN and index and left out.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use guitong_schemas::change::{Before, Change, Notice, Operation, Origin, Place, RowImage, SnapshotMark};
use guitong_schemas::delivered::Delivered;
use guitong_schemas::position::{Lsn, Version};
use guitong_schemas::table::{Table, TableName};

use super::chunk::Chunk;
use super::decode::{DecodeError, Old, Tuple};
use super::image;
use super::metadata::Metadata;
use super::metrics::SystemMetrics;
use super::position::{Inside, Last, Mark, Position};
use super::printed;
use super::relation::Relation;
use super::snapshot::{FirstLoad, Verdict};
use super::wire::Block;

/// A tuple that is not of its relation's shape.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WrongShape {
    #[error("a row of {0} does not have the columns that were announced")]
    Columns(TableName),
    #[error("a row of {0} has values in binary form, which was not asked for")]
    Binary(TableName),
    #[error("a row of {table}: {error}")]
    Value { table: TableName, error: DecodeError },
}

/// The transaction that is being received.
#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) commit: u64,
    pub(crate) xid: u32,
    /// Commit time, microseconds since 1970-01-01T00:00:00Z.
    pub(crate) ts_us: i64,
    mark: Mark,
    /// It has changes or messages, if only of tables that are not wanted.
    content: bool,
    /// Tables into which the exchange itself delivers in it.
    delivered: Vec<TableName>,
    change: u64,
    index: u32,
    begun: bool,
}

/// What has been received and not handed out.
#[derive(Debug)]
pub(crate) struct Assembly {
    pub(crate) position: Position,
    pub(crate) transaction: Option<Transaction>,
    pub(crate) changes: Vec<Change>,
    pub(crate) notices: Vec<Notice>,
    /// Numbers events within their transactions, where that is wanted.
    metadata: Option<Metadata>,
    held: Held,
    block: Block,
    /// Where rows that come in binary form are printed.
    printed: BytesMut,
    pub(crate) newest_commit_us: Option<i64>,
    metrics: SystemMetrics,
}

/// What the metadata of a transaction calls its messages.
const MESSAGES: &str = "message";

/// Bytes that the gathered changes keep from being freed.
#[derive(Debug, Default)]
struct Held {
    /// The changes without their rows.
    changes: usize,
    rows: usize,
    /// Blocks of the wire that rows are slices of: more than the rows where most of a block is of tables that are not wanted.
    blocks: usize,
    /// The first of these blocks, which is there also without the rows: it is being received.
    first: usize,
    /// The last block that was counted.
    counted: u64,
}

impl Held {
    fn block(&mut self, block: Block) {
        if self.counted != block.number {
            if self.counted == 0 {
                self.first = block.bytes;
            }
            self.counted = block.number;
            self.blocks += block.bytes;
        }
    }
}

/// Microseconds between 1970-01-01, which we count from, and 2000-01-01, which PostgreSQL counts from.
pub(crate) const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

impl Assembly {
    pub(crate) fn new(position: Position, with_metadata: bool, metrics: SystemMetrics) -> Self {
        Self {
            position,
            transaction: None,
            changes: Vec::new(),
            notices: Vec::new(),
            metadata: with_metadata.then(Metadata::default),
            held: Held::default(),
            block: Block::default(),
            printed: BytesMut::new(),
            newest_commit_us: None,
            metrics,
        }
    }

    /// What the gathered changes take, for the batch's budget.
    pub(crate) fn bytes(&self) -> usize {
        self.held.changes + self.held.rows.max(self.held.blocks - self.held.first)
    }

    /// Hands the gathered changes over. They take little more memory than their size says.
    pub(crate) fn take(&mut self) -> Vec<Change> {
        let held = std::mem::take(&mut self.held);
        let mut changes = std::mem::take(&mut self.changes);
        if held.blocks > 2 * held.rows {
            changes.iter_mut().for_each(leave_block);
        }
        changes
    }

    pub(crate) fn begin(&mut self, commit: u64, xid: u32, commit_time: i64) {
        if self.position.inside.is_some_and(|inside| inside.commit < commit) {
            self.position.inside = None;
        }
        self.position.settling.retain(|table| table.until.0 >= commit);
        let ts_us = commit_time.saturating_add(POSTGRES_EPOCH_US);
        if let Some(metadata) = &mut self.metadata {
            let resumed = self.position.inside.is_some_and(|inside| inside.commit == commit);
            metadata.begin((xid, commit, ts_us), resumed);
        }
        self.transaction = Some(Transaction {
            commit,
            xid,
            ts_us,
            mark: Mark { xid, time: commit_time },
            content: false,
            delivered: Vec::new(),
            change: 0,
            index: 0,
            begun: false,
        });
    }

    /// The transaction is whole; `end` is where the next one can begin.
    pub(crate) fn commit(&mut self, end: u64) -> Option<Transaction> {
        self.position.lsn = self.position.lsn.max(Lsn(end));
        self.position.last_commit = Some(Lsn(end));
        let commit = self.transaction.as_ref().map_or(end, |transaction| transaction.commit);
        self.position.inside = self.position.inside.filter(|inside| inside.commit > commit);
        if let Some(transaction) = self.transaction.as_ref().filter(|transaction| transaction.content) {
            self.position.last = Some(Last { commit: transaction.commit, end: Lsn(end), mark: transaction.mark });
        }
        if let Some(metadata) = &mut self.metadata {
            let before = self.notices.len();
            metadata.end(&mut self.notices);
            self.held.changes += (self.notices.len() - before) * size_of::<Notice>();
        }
        self.transaction.take()
    }

    /// Something is to be handed out.
    pub(crate) fn has_news(&self) -> bool {
        !self.changes.is_empty() || !self.notices.is_empty()
    }

    /// The transaction has content.
    pub(crate) fn hold(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.content = true;
        }
    }

    /// The exchange itself writes these tables in the transaction, from here on.
    pub(crate) fn delivers(&mut self, delivered: &Delivered) {
        if let Some(transaction) = &mut self.transaction {
            transaction.delivered.extend(delivered.tables.iter().map(|(schema, name)| TableName::new(schema, name)));
        }
    }

    /// Whether the exchange itself changes this table in the transaction.
    pub(crate) fn is_delivered(&self, table: &TableName) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| transaction.delivered.contains(table))
    }

    /// The transaction holds more than this program's own messages.
    pub(crate) fn touch(&mut self) {
        if let Some(metadata) = &mut self.metadata {
            metadata.touch();
        }
    }

    /// A message that an application wrote, in a transaction or by itself.
    pub(crate) fn message(&mut self, (lsn, transactional): (u64, bool), prefix: &[u8], content: &[u8]) {
        let order = if transactional { self.metadata.as_mut().map(|metadata| metadata.count(MESSAGES)) } else { None };
        // Its LSN is the end of its record, where another can begin: no other version is of a place within it.
        let within = lsn.saturating_sub(1);
        let (version, xid, ts_us) = if transactional {
            let Some(transaction) = &self.transaction else { return };
            let here = self.position.inside.filter(|inside| inside.commit == transaction.commit);
            let here = here.unwrap_or_else(|| Inside::new(transaction.commit, transaction.mark));
            if here.message >= Some(lsn) {
                return;
            }
            self.position.inside = Some(Inside { message: Some(lsn), ..here });
            if let Some(metadata) = &mut self.metadata {
                metadata.open(&mut self.notices);
            }
            let (epoch, commit) = (self.position.epoch, transaction.commit);
            let version = Version { epoch, commit, change: within, index: 0, revision: 0 };
            (version, Some(u64::from(transaction.xid)), transaction.ts_us)
        } else {
            if lsn <= self.position.lsn.0 {
                return;
            }
            // Not beyond: a commit can begin there.
            self.idle(lsn);
            let version = Version { epoch: self.position.epoch, commit: within, change: within, index: 0, revision: 0 };
            (version, None, self.newest_commit_us.unwrap_or_default())
        };
        let last_commit_lsn = self.position.last_commit.map(|lsn| lsn.0);
        let origin =
            Origin { ts_us, snapshot: SnapshotMark::Streamed, place: Place::Postgres { xid, lsn, last_commit_lsn, order } };
        self.held.changes += prefix.len() + content.len() + size_of::<Notice>();
        // Copied, so that it does not keep its block.
        let (prefix, content) = (String::from_utf8_lossy(prefix).into_owned(), Bytes::copy_from_slice(content));
        self.notices.push(Notice::Message { prefix, content, version, origin });
    }

    /// The stream begins anew after the position: what was received of a transaction comes again, and what of it was gathered is left out
    /// then.
    pub(crate) fn begin_anew(&mut self) {
        self.transaction = None;
        self.held.counted = 0;
    }

    /// The server has nothing more before `end`.
    pub(crate) fn idle(&mut self, end: u64) {
        if self.transaction.is_none() {
            self.position.lsn = self.position.lsn.max(Lsn(end));
        }
    }

    /// The version of the change at `lsn`, or `None` where it was published before a restart.
    fn version(&mut self, lsn: u64) -> Option<Version> {
        let transaction = self.transaction.as_mut()?;
        if transaction.begun && lsn <= transaction.change {
            transaction.index += 1;
        } else {
            (transaction.change, transaction.index, transaction.begun) = (lsn, 0, true);
        }
        let here = (transaction.change, transaction.index);
        let inside = self.position.inside.filter(|inside| inside.commit == transaction.commit);
        let inside = inside.unwrap_or_else(|| Inside::new(transaction.commit, transaction.mark));
        if (inside.change, inside.index) >= here {
            return None;
        }
        let (change, index) = here;
        self.position.inside = Some(Inside { change, index, ..inside });
        if let Some(metadata) = &mut self.metadata {
            metadata.open(&mut self.notices);
        }
        Some(Version { epoch: self.position.epoch, commit: inside.commit, change, index, revision: 0 })
    }

    /// The changes that follow, until this is called again, are slices of this block.
    pub(crate) fn inside(&mut self, block: Block) {
        self.block = block;
    }

    pub(crate) fn insert(&mut self, relation: &Relation, new: Tuple, lsn: u64, load: &mut FirstLoad) -> Result<(), WrongShape> {
        let after = self.image(relation, new)?;
        self.deliver(relation, lsn, (Operation::Create, Before::None, Some(after)), load);
        Ok(())
    }

    pub(crate) fn update(
        &mut self,
        relation: &Relation,
        (old, new): (Old, Tuple),
        lsn: u64,
        load: &mut FirstLoad,
    ) -> Result<(), WrongShape> {
        let mut after = self.image(relation, new)?;
        let key = &relation.table.key;
        let before = match old {
            Old::None => Before::None,
            Old::Key(tuple) => {
                let before = self.image(relation, tuple)?;
                if image::key_has_absent(&after, key) {
                    after = image::complete(&after, &before, Some(key));
                }
                Before::Key(before)
            }
            Old::Full(tuple) => {
                let before = self.image(relation, tuple)?;
                if image::has_absent(&after) {
                    after = image::complete(&after, &before, None);
                }
                Before::Full(before)
            }
        };
        let moved = before.row().is_some_and(|before| relation.has_key() && image::key(before, key) != image::key(&after, key));
        if moved {
            // The row under the old key, which the delete ends, is where the new one's absent columns are.
            if image::has_absent(&after)
                && let (Some(transaction), Some(old)) = (&self.transaction, before.row())
            {
                after = load.complete_moved(&relation.table, transaction.xid, old, after);
                if image::has_absent(&after)
                    && load.has_read_of(&relation.table.name)
                    && let Some(key) = image::key_text(&after, key)
                {
                    self.position.read_again(&relation.table.name, key);
                }
            }
            self.deliver(relation, lsn, (Operation::Delete, before, None), load);
            self.deliver(relation, lsn, (Operation::Create, Before::None, Some(after)), load);
        } else {
            self.deliver(relation, lsn, (Operation::Update, before, Some(after)), load);
        }
        Ok(())
    }

    pub(crate) fn delete(&mut self, relation: &Relation, old: Old, lsn: u64, load: &mut FirstLoad) -> Result<(), WrongShape> {
        let before = match old {
            Old::None => Before::None,
            Old::Key(tuple) => Before::Key(self.image(relation, tuple)?),
            Old::Full(tuple) => Before::Full(self.image(relation, tuple)?),
        };
        self.deliver(relation, lsn, (Operation::Delete, before, None), load);
        Ok(())
    }

    pub(crate) fn truncate(&mut self, relation: &Relation, lsn: u64, load: &mut FirstLoad) {
        self.deliver(relation, lsn, (Operation::Truncate, Before::None, None), load);
    }

    fn deliver(
        &mut self,
        relation: &Relation,
        lsn: u64,
        (operation, before, mut after): (Operation, Before, Option<RowImage>),
        load: &mut FirstLoad,
    ) {
        let table = &relation.table;
        let order = self.metadata.as_mut().map(|metadata| metadata.count(&table.name.to_string()));
        let Some(version) = self.version(lsn) else { return };
        let Some(transaction) = &self.transaction else { return };
        let settled =
            self.position.settling.iter().any(|held| {
                held.schema == table.name.schema && held.name == table.name.name && held.snapshot.sees(transaction.xid)
            });
        if settled || load.meet(table, transaction.xid, operation, &before, &mut after) == Verdict::InSnapshot {
            return;
        }
        let origin = Origin {
            ts_us: transaction.ts_us,
            snapshot: SnapshotMark::Streamed,
            place: Place::Postgres {
                xid: Some(u64::from(transaction.xid)),
                lsn,
                last_commit_lsn: self.position.last_commit.map(|lsn| lsn.0),
                order,
            },
        };
        self.newest_commit_us = Some(transaction.ts_us);
        self.held.block(self.block);
        self.push(Change { table: Arc::clone(table), operation, version, before, after, origin });
    }

    /// The rows of a chunk that no streamed change replaced, as of its high watermark; `from` numbers them. The number after them.
    pub(crate) fn chunk(&mut self, chunk: Chunk, watermark: &Transaction, from: u32) -> u32 {
        let (table, rows, marks) = chunk.into_rows();
        let at = (watermark.commit, watermark.ts_us);
        let mut index = from;
        for (row, mark) in rows.into_iter().zip(marks) {
            self.read(&table, row, mark, at, index);
            index = index.saturating_add(1);
        }
        index
    }

    /// One row of a first load.
    pub(crate) fn read(
        &mut self,
        table: &Arc<Table>,
        row: RowImage,
        mark: SnapshotMark,
        (commit, ts_us): (u64, i64),
        index: u32,
    ) {
        self.metrics.snapshot_rows.inc();
        self.push(Change {
            table: Arc::clone(table),
            operation: Operation::Read,
            version: Version { epoch: self.position.epoch, commit, change: 0, index, revision: 0 },
            before: Before::None,
            after: Some(row),
            origin: Origin {
                ts_us,
                snapshot: mark,
                place: Place::Postgres { xid: None, lsn: commit, last_commit_lsn: None, order: None },
            },
        });
    }

    /// What an earlier epoch published of a table holds no longer: every key of it ends before the table is read again.
    pub(crate) fn forget(&mut self, table: &Arc<Table>, ts_us: i64, index: u32) {
        let lsn = self.position.lsn.0;
        self.push(Change {
            table: Arc::clone(table),
            operation: Operation::Truncate,
            version: Version { epoch: self.position.epoch, commit: lsn, change: 0, index, revision: 0 },
            before: Before::None,
            after: None,
            origin: Origin {
                ts_us,
                snapshot: SnapshotMark::Streamed,
                place: Place::Postgres { xid: None, lsn, last_commit_lsn: None, order: None },
            },
        });
    }

    /// The row as text, whatever the form in which it came.
    fn image(&mut self, relation: &Relation, tuple: Tuple) -> Result<RowImage, WrongShape> {
        let name = || relation.table.name.clone();
        let binary = tuple.binary;
        let image = relation.image(tuple).ok_or_else(|| WrongShape::Columns(name()))?;
        if !binary {
            return Ok(image);
        }
        let printed = relation.printed().ok_or_else(|| WrongShape::Binary(name()))?;
        printed::row(&image, printed, &mut self.printed).map_err(|error| WrongShape::Value { table: name(), error })
    }

    fn push(&mut self, change: Change) {
        self.held.changes += size_of::<Change>();
        self.held.rows += change.size() - size_of::<Change>();
        self.changes.push(change);
    }
}

/// Copies the rows of a change, so that it does not keep their block.
fn leave_block(change: &mut Change) {
    let copied = |image: &mut RowImage| image.0 = Bytes::copy_from_slice(&image.0);
    if let Some(row) = &mut change.after {
        copied(row);
    }
    if let Before::Key(row) | Before::Full(row) = &mut change.before {
        copied(row);
    }
}

#[cfg(test)]
mod tests {
    use guitong_schemas::contract::system::{Limits, SnapshotConfig};

    use super::super::metrics::Metrics;
    use super::super::relation::message_of;
    use super::super::relation::tests::{facts, system};
    use super::super::types::Types;
    use super::*;

    const BLOCK: usize = 64 << 10;

    /// Rows of `size` bytes, `rows` of them in each of `blocks` blocks.
    fn gathered(blocks: u64, rows: usize, size: usize) -> (Assembly, Vec<Bytes>) {
        let (facts, system) = (facts(), system());
        let relation = Relation::new(message_of(&facts, None), Some(&facts), &Types::default(), &system);
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap().of("register");
        let mut assembly = Assembly::new(Position::new("7".into(), 1, 1, Lsn(0)), false, metrics);
        let mut load = FirstLoad::new(&SnapshotConfig::default(), Limits::default(), 0);
        assembly.begin(100, 5, 0);
        let mut all = Vec::new();
        for number in 1..=blocks {
            let block = Bytes::from(vec![b'n'; BLOCK]);
            assembly.inside(Block { number, bytes: BLOCK });
            for row in 0..rows {
                let image = RowImage(block.slice(row * size..(row + 1) * size));
                assembly.insert(&relation, Tuple { columns: 3, binary: false, image }, 1, &mut load).unwrap();
            }
            all.push(block);
        }
        (assembly, all)
    }

    #[test]
    fn rows_that_fill_their_blocks_are_not_copied() {
        let (mut assembly, blocks) = gathered(10, 100, BLOCK / 128);
        assert!(assembly.bytes() >= 9 * BLOCK && assembly.bytes() <= 10 * BLOCK + 1000 * size_of::<Change>());
        let first = assembly.take().into_iter().next().and_then(|change| change.after).unwrap();
        assert!(blocks[0].as_ptr_range().contains(&first.0.as_ptr()));
    }

    #[test]
    fn a_few_rows_count_for_the_blocks_they_keep_and_then_leave_them() {
        let (mut assembly, blocks) = gathered(10, 1, 300);
        assert!(assembly.bytes() >= 9 * BLOCK, "{}", assembly.bytes());
        let changes = assembly.take();
        assert_eq!((changes.len(), assembly.bytes()), (10, 0));
        assert!(blocks.iter().all(Bytes::is_unique), "a block is kept");
        assert!(changes.iter().all(|change| change.after.as_ref().is_some_and(|row| row.0.len() == 300)));
    }
}
