//! The next batch made ready while the present one is being written: its records need nothing of what the log holds, as far as no change
//! is to be completed from keyed state and no truncate asks for keys. Whatever else there is waits for its turn, and so do errors.
//!
//! Where writing the present batch fails, the session ends and this one is dropped with it.

use std::collections::HashMap;

use guitong_schemas::change::{Change, Operation};

use super::draft::{Draft, Finished};
use super::tables::Tables;
use super::{PublishSettings, Run, add, rows, runs};
use crate::source::SourceBatch;
use bytes::Bytes;

/// A batch on its way to the log.
#[derive(Debug)]
pub struct Upcoming {
    /// Bytes of its changes.
    pub size: usize,
    /// Commit time of its last change, microseconds since 1970-01-01T00:00:00Z.
    pub newest_us: Option<i64>,
    pub(super) stage: Stage,
}

#[derive(Debug)]
pub(super) enum Stage {
    Read(SourceBatch),
    Drafted(Drafted),
}

/// Records, and the position that is stored with them.
#[derive(Debug)]
pub(super) struct Drafted {
    pub(super) out: Finished,
    pub(super) position: Option<Bytes>,
    /// All of the batch was published before a truncate was cut off, and more may be.
    pub(super) behind: bool,
}

impl From<SourceBatch> for Upcoming {
    fn from(batch: SourceBatch) -> Self {
        Self {
            size: batch.changes.iter().map(Change::size).sum(),
            newest_us: batch.changes.last().map(|change| change.origin.ts_us),
            stage: Stage::Read(batch),
        }
    }
}

/// Drafts the batch where that needs nothing but the tables that are known already.
pub(super) fn ahead(tables: &mut Tables, settings: &PublishSettings, room: usize, batch: SourceBatch) -> Upcoming {
    let out = drafted(tables, settings, room, &batch);
    let mut upcoming = Upcoming::from(batch);
    if let (Some(out), Stage::Read(batch)) = (out, &mut upcoming.stage) {
        let position = batch.position.take();
        upcoming.stage = Stage::Drafted(Drafted { out, position, behind: false });
    }
    upcoming
}

fn drafted(tables: &mut Tables, settings: &PublishSettings, room: usize, batch: &SourceBatch) -> Option<Finished> {
    let changes = &batch.changes;
    if !batch.notices.is_empty()
        || !batch.loaded.is_empty()
        || changes.iter().any(|change| change.operation == Operation::Truncate)
    {
        return None;
    }
    let known: Vec<Run> = changes
        .chunk_by(|a, b| std::sync::Arc::ptr_eq(&a.table, &b.table))
        .map(|run| run.first().and_then(|first| tables.known(&first.table)).map(|table| (run.len(), table)))
        .collect::<Option<_>>()?;
    let mut draft = Draft::new(jiff::Timestamp::now().as_microsecond(), HashMap::new(), room);
    for (index, (change, table)) in changes.iter().zip(runs(&known)).enumerate() {
        if table.keeps_cells() && change.after.as_ref().is_some_and(rows::has_absent) {
            return None;
        }
        add(&mut draft, index, changes, table, settings).ok()?;
    }
    Some(draft.finish())
}
