//! What a subscriber's database says of a subscription, and what follows from it when a deliverer takes it over.

use std::collections::BTreeMap;

use guitong_govern::audit::AuditEntry;
use guitong_schemas::position::Version;

use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};

use super::layout::{Layout, misfit};
use super::reshape::{Reshape, Shape};
use crate::sink::{KeptEntry, PartitionStand, SinkError, SinkErrorKind, SinkPlan};

/// The row of `guitong_subscriptions`.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) table_name: String,
    /// The table was made by the exchange, which may therefore alter it.
    pub(crate) made: bool,
    pub(crate) log_id: String,
    pub(crate) topic: String,
    pub(crate) epoch: i64,
    pub(crate) sweep_epoch: Option<i64>,
    pub(crate) grant_fingerprint: Vec<u8>,
    pub(crate) shape: String,
    pub(crate) entries: Option<String>,
}

/// The row of `guitong_offsets`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoredOffset {
    pub(crate) partition: i64,
    pub(crate) next_offset: i64,
    pub(crate) refill_to: i64,
}

impl<'r, R> FromRow<'r, R> for Stored
where
    R: Row,
    &'static str: ColumnIndex<R>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    Vec<u8>: Decode<'r, R::Database> + Type<R::Database>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    bool: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        Ok(Self {
            table_name: row.try_get("table_name")?,
            made: row.try_get("made")?,
            log_id: row.try_get("log_id")?,
            topic: row.try_get("topic")?,
            epoch: row.try_get("epoch")?,
            sweep_epoch: row.try_get("sweep_epoch")?,
            grant_fingerprint: row.try_get("grant_fingerprint")?,
            shape: row.try_get("shape")?,
            entries: row.try_get("entries")?,
        })
    }
}

impl<'r, R> FromRow<'r, R> for StoredOffset
where
    R: Row,
    &'static str: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        Ok(Self {
            partition: row.try_get("partition")?,
            next_offset: row.try_get("next_offset")?,
            refill_to: row.try_get("refill_to")?,
        })
    }
}

/// What taking over does to the table and to the offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Takeover {
    /// Go on from the stored offsets.
    Resume,
    /// Deliver everything again; the table's rows stay until they are met or swept.
    Refill,
    /// The same after taking away what is no longer granted.
    Regrant(Reshape),
}

/// Which of a subscription's tables are there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct There {
    pub(crate) rows: bool,
    pub(crate) past: bool,
    pub(crate) versions: bool,
}

impl Takeover {
    pub(crate) fn rekeys(&self) -> bool {
        matches!(self, Self::Regrant(reshape) if reshape.rekeys())
    }

    pub(crate) fn of(stored: Option<&Stored>, plan: &SinkPlan, layout: &Layout, there: There) -> Result<Self, SinkError> {
        let shape = stored_shape(stored, layout)?;
        let ours = |which: fn(&Shape) -> bool| shape.as_ref().is_some_and(which);
        for (name, is_taken) in [
            (layout.past().name, layout.history && there.past && !ours(|shape| shape.history)),
            (layout.versions().name, layout.foreign && there.versions && !ours(|shape| shape.foreign)),
        ] {
            if is_taken {
                let problem = "it is there already, and the exchange did not make it for this subscription".to_owned();
                return Err(misfit(&name, &plan.subscription, &[problem], "rename or drop it, or name another table"));
            }
        }
        let (Some(stored), Some(shape)) = (stored, shape) else { return Ok(Self::Refill) };
        if !there.rows {
            return Ok(if there.past && shape.history { Self::Regrant(Reshape::orphaned()) } else { Self::Refill });
        }
        let new = Shape::of(layout);
        if stored.grant_fingerprint != plan.grant || !shape.is_as(&new) {
            return Ok(Self::Regrant(shape.change_to(&new)));
        }
        let same_log = stored.log_id == *plan.log.0 && stored.topic == *plan.topic;
        let whole = (there.past || !layout.history) && (there.versions || !layout.foreign);
        let noted = plan.mark.get().is_none_or(|mark| *mark == *shape.mark);
        Ok(if same_log && whole && noted { Self::Resume } else { Self::Refill })
    }
}

/// What was stored of the grant under which the table is.
fn stored_shape(stored: Option<&Stored>, layout: &Layout) -> Result<Option<Shape>, SinkError> {
    let stored = stored.filter(|stored| stored.table_name == layout.table);
    stored.map(|stored| Shape::from_json(&stored.shape)).transpose()
}

/// What is to be stored of the new grant.
pub(crate) fn shape_to_store(stored: Option<&Stored>, plan: &SinkPlan, layout: &Layout) -> Result<String, SinkError> {
    let new = Shape::of(layout);
    let mut shape = match stored_shape(stored, layout)? {
        Some(old) => new.after(&old),
        None => new,
    };
    if let Some(mark) = plan.mark.get() {
        shape.mark = mark.to_string();
    }
    shape.to_json()
}

/// Next offset of each partition, where the sink stands as the plan wants it and its rows are those of its offsets: no refill is
/// under way, nor is anything delivered again.
pub(crate) fn settled(
    stored: Option<&Stored>,
    offsets: &[StoredOffset],
    plan: &SinkPlan,
    layout: &Layout,
) -> Result<Option<BTreeMap<u32, u64>>, SinkError> {
    let resumes = Takeover::of(stored, plan, layout, There { rows: true, past: layout.history, versions: layout.foreign })?
        == Takeover::Resume;
    let refills = stored.is_none_or(|stored| stored.sweep_epoch.is_some());
    let behind = offsets.is_empty() || offsets.iter().any(|offset| offset.next_offset < offset.refill_to);
    if !resumes || refills || behind {
        return Ok(None);
    }
    let stands = offsets.iter().map(|&offset| PartitionStand::from(offset));
    Ok(Some(stands.map(|stand| (stand.partition, stand.next)).collect()))
}

impl Stored {
    /// Audit entries, and what was kept with the last of them.
    pub(crate) fn entries(&self) -> Result<(Vec<AuditEntry>, Option<String>), SinkError> {
        let parse = |text: &String| serde_json::from_str::<Vec<KeptEntry<AuditEntry, String>>>(text);
        let kept = self.entries.as_ref().map(parse).transpose();
        let kept = kept.map_err(|error| {
            SinkError::new(SinkErrorKind::Shape, format!("guitong_subscriptions.entries is damaged: {error}"))
        })?;
        let mut sealed = None;
        let entries = kept.unwrap_or_default().into_iter().map(|kept| {
            sealed = kept.sealed;
            kept.entry
        });
        Ok((entries.collect(), sealed))
    }
}

/// A count or offset as databases store it; beyond their range it is no offset that a log ever gives.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

pub(crate) fn fenced(subscription: &str) -> SinkError {
    SinkError::new(SinkErrorKind::Fenced, format!("subscription {subscription} was taken over by another deliverer"))
}

/// A row of `guitong_deleted`: the row's key, the version and the epoch of its deletion.
pub(crate) type Deleted = (Vec<u8>, Vec<u8>, i64);

/// Whether a row that was deleted as `deleted` says comes back with this version, written by the holder of this epoch.
pub(crate) fn comes_back(deleted: &Deleted, version: Version, epoch: i64) -> bool {
    let (_, at, by) = deleted;
    (at.as_slice(), *by) < (version.to_bytes().as_slice(), epoch)
}

impl From<StoredOffset> for PartitionStand {
    fn from(stored: StoredOffset) -> Self {
        Self {
            partition: u32::try_from(stored.partition).unwrap_or(u32::MAX),
            next: unsigned(stored.next_offset),
            refill_to: unsigned(stored.refill_to),
        }
    }
}
