//! What every sink promises.
//!
//! A sink takes a subscription over ([`Sink::open`]), which fences whoever held it before, and says where it stands: its own
//! offsets are the truth, not the log's. A batch's changes, its offsets and its audit entry become durable together
//! ([`Sink::write`]): all or nothing, and only if the stored offsets are still those that the batch starts from. What was
//! handed over is *accepted*; only what [`Ack`] names is *durable*, and only that moves progress. Dropping a call before it
//! answered loses nothing: the batch is durable or it is not, and `open` tells.
//!
//! Changes are guarded by version: neither an older upsert nor an older delete undoes a newer change, and a deleted key keeps
//! its version for a while so that an older record does not bring it back.
//!
//! Where the subscriber's end can hold no offsets, the sink keeps its stand in the subscription's hold on the log
//! ([`Sink::keep_in`]), and says in its own module what that leaves to the subscriber.

pub mod holdings;

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use guitong_govern::audit::{AuditEntry, Range};
use guitong_govern::{Column, Gone, KeyForm, Row, RowKey};
use guitong_log::{LogId, StateChange};
use guitong_schemas::contract::SinkTable;
use guitong_schemas::position::Version;
use guitong_schemas::standard::StandardValue;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use self::holdings::{HeldRow, Holdings};
use crate::hold::Hold;

/// What a subscriber's rows are known by where their own key is not granted in clear ([`KeyForm::Hashed`]).
pub(crate) const KEY: &str = "guitong_key";

/// What a sink is to hold for one subscription.
#[derive(Debug, Clone)]
pub struct SinkPlan {
    /// Name of the exchange.
    pub exchange: Arc<str>,
    pub subscription: Arc<str>,
    /// Chinese title of the resource.
    pub title: String,
    pub log: LogId,
    pub topic: Arc<str>,
    pub columns: Vec<Column>,
    pub key: KeyForm,
    /// In which days begin and end.
    pub time_zone: TimeZone,
    /// Fingerprint of the grant: where it differs from the stored one, everything is delivered again.
    pub grant: [u8; 32],
    /// Which rows are granted.
    pub condition: Option<String>,
    /// How a SQL sink keeps its table.
    pub table: SinkTable,
    /// Of which notes a SQL sink has the rows.
    pub mark: Mark,
}

/// What a database is stamped with whose rows were noted before they were sent ([`crate::sql::Holders`]); none before the subscription is
/// held. Shared by all who have the plan.
#[derive(Debug, Clone, Default)]
pub struct Mark(Arc<Mutex<Option<Arc<str>>>>);

impl Mark {
    pub(crate) fn set(&self, mark: Arc<str>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(mark);
    }

    pub(crate) fn get(&self) -> Option<Arc<str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Where a sink stands after it was taken over.
#[derive(Debug, Clone, PartialEq)]
pub struct Stand {
    /// Rises with every holder; older ones write nothing more.
    pub epoch: u64,
    /// Where each partition is to be read next; empty where everything is to be read from the start ([`Sink::begin_refill`]).
    pub partitions: Vec<PartitionStand>,
    /// A refill is under way: rows that it does not meet are removed at its end.
    pub refilling: bool,
    /// Audit entries of the last batch that became durable, and of those before it that the log may lack; oldest first.
    pub entries: Vec<AuditEntry>,
    /// What was kept with the last of them ([`SinkBatch::sealed`]).
    pub sealed: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionStand {
    pub partition: u32,
    pub next: u64,
    /// Where a refill ends; 0 outside one.
    pub refill_to: u64,
}

/// One change of a subscriber's row.
#[derive(Debug, Clone, PartialEq)]
pub struct Change<'a> {
    pub version: Version,
    /// Commit at the source, microseconds since 1970-01-01T00:00Z.
    pub source_us: i64,
    pub what: What<'a>,
    /// SHA-256 over what is handed over: version, key and cells, each part after its length or kind.
    pub content: [u8; 32],
}

#[derive(Debug, Clone, PartialEq)]
pub enum What<'a> {
    Upsert(Row<'a>),
    Delete(RowKey<'a>, Gone),
}

impl<'a> Change<'a> {
    #[must_use]
    pub fn new(version: Version, source_us: i64, what: What<'a>) -> Self {
        let content = content(version, &what);
        Self { version, source_us, what, content }
    }

    #[must_use]
    pub fn key(&self) -> &RowKey<'a> {
        match &self.what {
            What::Upsert(row) => &row.key,
            What::Delete(key, _) => key,
        }
    }
}

fn content(version: Version, what: &What<'_>) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(version.to_bytes());
    let key = match what {
        What::Upsert(row) => &row.key,
        What::Delete(key, _) => key,
    };
    hash.update((key.id.len() as u64).to_be_bytes());
    hash.update(&key.id);
    match what {
        What::Delete(..) => hash.update(b"d"),
        What::Upsert(row) => row.cells.iter().for_each(|cell| put(&mut hash, cell)),
    }
    hash.finalize().into()
}

fn put(hash: &mut Sha256, cell: &StandardValue<'_>) {
    let mut text = |kind: &[u8], text: &str| {
        hash.update(kind);
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    };
    match cell {
        StandardValue::Null => hash.update(b"n"),
        StandardValue::Text(value) => text(b"t", value),
        StandardValue::Steps(steps) => text(b"s", &crate::json::steps(steps).to_string()),
        value => text(b"v", &value.to_string()),
    }
}

/// What a sink is handed of the changes of one key in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    Newest,
    /// Where the newest is a delete, the row as it was before, too, and every delete since.
    Ends,
    Every,
}

/// What becomes durable together. Of each key only the last change is among `changes`.
#[derive(Debug)]
pub struct SinkBatch<'b, 'a> {
    pub changes: &'b [&'b Change<'a>],
    /// What came before, where the sink wants it ([`Sink::wants`]): parts that follow each other, each with one change of a key at most.
    pub earlier: &'b [Vec<&'b Change<'a>>],
    /// At most one for each partition; may move an offset on without any change.
    pub ranges: &'b [Range],
    pub entry: &'b AuditEntry,
    /// Entries of earlier batches that the log may lack; oldest first.
    pub unlogged: &'b [AuditEntry],
    /// What else the sink keeps with its entry for who takes the subscription over.
    pub sealed: Option<&'b str>,
}

impl<'b, 'a> SinkBatch<'b, 'a> {
    /// All of it, in the order in which it is to be applied.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &'b [&'b Change<'a>]> + use<'b, 'a> {
        self.earlier.iter().map(Vec::as_slice).chain([self.changes])
    }

    /// What is said once the batch is durable.
    pub(crate) fn ack(&self) -> Ack {
        Ack { durable: self.ranges.iter().map(|range| (range.partition, range.to)).collect(), notes: Vec::new() }
    }

    /// What the sink keeps of audit entries once this batch is durable: a list in JSON, its own last.
    pub(crate) fn entries(&self) -> String {
        let own = KeptEntry { entry: self.entry, sealed: self.sealed };
        let all: Vec<_> = self.unlogged.iter().map(|entry| KeptEntry { entry, sealed: None }).chain([own]).collect();
        // Texts and numbers always serialise.
        serde_json::to_string(&all).unwrap_or_default()
    }
}

/// An audit entry as a sink keeps it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeptEntry<E, S> {
    #[serde(flatten)]
    pub(crate) entry: E,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sealed: Option<S>,
}

/// What became durable.
#[derive(Debug, Clone)]
pub struct Ack {
    /// Next offset of each partition up to which everything is durable.
    pub durable: Vec<(u32, u64)>,
    /// What the log is to be told with the batch's audit entry, in the subscription's keyed state.
    pub notes: Vec<StateChange>,
}

/// The subscriber's end of one subscription.
#[async_trait]
pub trait Sink: fmt::Debug + Send + Sync {
    fn wants(&self) -> Wants {
        Wants::Newest
    }

    /// Gives a sink that holds no offsets itself the subscription's hold on the log, before [`Sink::open`].
    fn keep_in(&mut self, _hold: &Hold) {}

    /// Makes the table where there is none, checks it where there is one, takes the subscription over and says where it stands.
    /// Where the grant, the log or the table is another than before, what is no longer granted is removed and `partitions` is
    /// empty.
    async fn open(&mut self) -> Result<Stand, SinkError>;

    /// Delivers everything again: reading starts at each partition's `next`; once all have reached `refill_to`,
    /// [`Sink::sweep`] removes what was not met.
    async fn begin_refill(&mut self, partitions: &[PartitionStand]) -> Result<(), SinkError>;

    /// Leaves out deletes of what the subscriber was never sent, where that is not left to [`Sink::write`], before which it comes: with
    /// all that is to be written, in its order, and what was made of it meanwhile.
    async fn sift<'i, 'r>(
        &mut self,
        _earlier: &mut [Vec<&'i Change<'r>>],
        _newest: &mut Vec<&'i Change<'r>>,
        _staged: Option<&Staged>,
    ) -> Result<(), SinkError> {
        Ok(())
    }

    async fn write(&mut self, batch: &SinkBatch<'_, '_>) -> Result<Ack, SinkError>;

    /// What makes the next batch ready meanwhile, under this hold; `None` where nothing is gained by it.
    fn stager(&self) -> Option<Box<dyn Stager>> {
        None
    }

    /// As [`Sink::write`], of a batch that was made ready.
    async fn write_staged(&mut self, batch: &SinkBatch<'_, '_>, _staged: Staged) -> Result<Ack, SinkError> {
        self.write(batch).await
    }

    /// Whether it can go back ([`Sink::begin_replay`]).
    fn replays(&self) -> bool {
        false
    }

    /// Delivers again what came since: reading starts at each partition's `next`, and up to `refill_to` everything was delivered
    /// before. Newer changes stay, and nothing is removed that is not met.
    async fn begin_replay(&mut self, _partitions: &[PartitionStand]) -> Result<(), SinkError> {
        Err(SinkError::new(SinkErrorKind::Shape, "this kind of sink cannot go back to a position"))
    }

    /// Why rows stay with the subscriber, wholly or in part, that a refill did not meet; `None` where none does.
    fn keeps(&self) -> Option<&'static str> {
        None
    }

    /// What it holds, where that can be read.
    fn holdings(&self) -> Option<Arc<dyn Holdings>> {
        None
    }

    /// Removes rows of its [`Holdings`] whatever their version, each only if it still is the one that was seen, together with the
    /// batch's audit entry. Says how many went.
    async fn remove(&mut self, _rows: &[HeldRow], _batch: &SinkBatch<'_, '_>) -> Result<u64, SinkError> {
        Err(SinkError::new(SinkErrorKind::Shape, "this kind of sink holds no rows that can be removed"))
    }

    /// Does what became due by time alone. Comes before each read of the log, and at least once a second or so.
    async fn settle(&mut self) -> Result<(), SinkError> {
        Ok(())
    }

    /// Ends a refill: removes the rows that it did not meet and says how many.
    async fn sweep(&mut self) -> Result<u64, SinkError>;

    /// Forgets the versions of keys deleted before this moment, microseconds since 1970-01-01T00:00Z.
    async fn forget_deleted(&mut self, before_us: i64) -> Result<(), SinkError>;
}

/// Makes a batch ready while the batch before is written: takes its rows to the subscriber's server, for one.
#[async_trait]
pub trait Stager: fmt::Debug + Send + Sync {
    /// The newest change of each key of a batch. `apart`: none of the keys is in the batch before, and no other batch is still to be
    /// written. `None` where nothing is made ready, for whatever reason: the batch goes as any other, and what is wrong comes out then.
    async fn stage(&self, changes: &[&Change<'_>], apart: bool) -> Option<Staged>;
}

/// What is ready of a batch that is still to be written, as only its sink knows it. What lies at the subscriber's server of it nobody
/// sees, and it is gone once this is dropped.
pub struct Staged(Box<dyn Any + Send + Sync>);

impl Staged {
    pub(crate) fn new(rows: impl Any + Send + Sync) -> Self {
        Self(Box::new(rows))
    }

    pub(crate) fn get<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }

    pub(crate) fn downcast<T: Any>(self) -> Option<T> {
        self.0.downcast().ok().map(|rows| *rows)
    }
}

impl fmt::Debug for Staged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Staged")
    }
}

/// Why a sink did not do it. Details name tables, columns and conditions; they hold no data but what the subscriber may have.
#[derive(Debug, Clone, Error)]
#[error("{detail}")]
pub struct SinkError {
    pub kind: SinkErrorKind,
    pub detail: String,
    /// The sink asked not to be tried again before (`Retry-After`).
    pub retry_after: Option<Duration>,
}

impl SinkError {
    #[must_use]
    pub fn new(kind: SinkErrorKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), retry_after: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SinkErrorKind {
    /// No connection, or it broke.
    Unreachable,
    /// A lock, a deadlock, a server that starts or stops.
    Busy,
    /// Login or privilege refused.
    Denied,
    /// No space, or read-only.
    Full,
    /// The table is not what the subscription needs.
    Shape,
    /// The sink does not take a value of the batch.
    Data,
    /// Another holder took the subscription over.
    Fenced,
    /// The subscriber said that it wants nothing more.
    Gone,
}

/// What the runner does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Try again with growing pauses: it goes away by itself.
    Retry,
    /// Try again now and then: somebody has to change something at the subscriber's side.
    Pause,
    /// Find the record by halving the batch, set it aside, go on with the rest.
    Park,
    /// Stop this subscription: somebody has to decide, and then lets it go on or starts the node again.
    Stop,
    /// The same, and a restart changes nothing of it.
    Suspend,
    /// Ask the sink where it stands, and go on from there.
    Reopen,
}

impl SinkErrorKind {
    pub const ALL: [Self; 8] =
        [Self::Unreachable, Self::Busy, Self::Denied, Self::Full, Self::Shape, Self::Data, Self::Fenced, Self::Gone];

    #[must_use]
    pub fn reaction(self) -> Reaction {
        match self {
            Self::Unreachable | Self::Busy => Reaction::Retry,
            Self::Denied | Self::Full => Reaction::Pause,
            Self::Data => Reaction::Park,
            Self::Shape => Reaction::Stop,
            Self::Fenced => Reaction::Reopen,
            Self::Gone => Reaction::Suspend,
        }
    }

    /// Label of metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Busy => "busy",
            Self::Denied => "denied",
            Self::Full => "full",
            Self::Shape => "shape",
            Self::Data => "data",
            Self::Fenced => "fenced",
            Self::Gone => "gone",
        }
    }
}
