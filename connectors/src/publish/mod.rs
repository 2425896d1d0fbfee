//! Changes and position into the log, in one commit: the one path that may confirm upstream.
//!
//! Invariants: a [`Durable`] exists only for a position that a commit holds; a batch that is tried again after its log was
//! opened anew is published once, also where a truncate made it several commits and the source cuts its batches elsewhere then
//! ([`state::Progress`]); a value that cannot be published whole is marked (`guitong-absent`, `guitong-lossy`, `guitong-too-large`,
//! `guitong-unkeyed`) and stops nothing. Several commits are made for one batch only by a truncate, and only the last of them holds
//! the position.

mod ahead;
mod draft;
mod held;
mod notices;
mod outbox;
mod rows;
mod state;
mod tables;
mod unkeyed;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use guitong_log::registry::{RegistryError, SchemaRegistry};
use guitong_log::{AppendError, Batch, Committed, ExchangeLog, LogError, OwnedLog, loaded};
use guitong_schemas::avro::decode::PlanError;
use guitong_schemas::avro::form::Truncates;
use guitong_schemas::avro::schema::SourceKind;
use guitong_schemas::avro::{EncodeError, EventForm, SchemaError};
use guitong_schemas::change::{BadImage, Change, Operation, Place};
use guitong_schemas::position::Version;
use thiserror::Error;

pub use self::ahead::Upcoming;
use self::ahead::{Drafted, Stage};
use self::draft::Draft;
use self::notices::Notices;
use self::state::{KeptRow, Progress};
use self::tables::{Published, Tables};
use self::unkeyed::Worded;
use crate::source::{Durable, SourceBatch};

/// Keys that a truncate deletes in one commit.
const TRUNCATE_CHUNK: usize = 1000;

/// What the publisher of one system has to know.
#[derive(Debug, Clone)]
pub struct PublishSettings {
    /// Topics are `raw.<system>.<schema>.<table>` where `form` gives no other prefix.
    pub system: Arc<str>,
    /// `source.db` of the envelope.
    pub database: String,
    pub kind: SourceKind,
    /// Raw topics keep every change this long before they are compacted or expire.
    pub trace: Duration,
    /// Largest record, key and headers included.
    pub max_record: usize,
    /// Columns that the source did not send are completed from keyed state.
    pub complete: bool,
    pub form: EventForm,
}

/// Why a batch was not published.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PublishError {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Schema(#[from] SchemaError),
    #[error("a key's schema does not read: {0}")]
    KeySchema(#[source] PlanError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error("{table}: {problem}")]
    Image { table: String, problem: &'static str },
    #[error("{table}: a record of {size} bytes is over the limit of {limit} with all but its key left out; shorten the key")]
    TooLarge { table: String, size: usize, limit: usize },
    #[error(
        "{table} was truncated, which events without envelopes cannot say of a table without key or of incomplete rows; set `truncate` to \
         \"skip\", which leaves it out, or take `transforms.unwrap` out"
    )]
    Truncate { table: String },
    #[error("{one} and {other} would both be published as {topic}; take one out of `tables`, or leave `names` at its default")]
    OneTopic { one: String, other: String, topic: Arc<str> },
    #[error("the keyed state of this connector is damaged: {0}")]
    State(&'static str),
}

impl PublishError {
    /// Whether opening the owner again and reading the source from there may succeed without anybody's doing.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Append(AppendError::Unknown(_)) => true,
            Self::Append(AppendError::Refused(error)) | Self::Log(error) => {
                error.is_transient() || matches!(error, LogError::Fenced { .. })
            }
            Self::Registry(error) => error.is_transient(),
            _ => false,
        }
    }
}

/// Publishes one system's changes; holds the system's owner.
#[derive(Debug)]
pub struct Publisher {
    owned: Box<dyn OwnedLog>,
    tables: Tables,
    notices: Notices,
    settings: PublishSettings,
    progress: Option<Progress>,
    /// Room for the records of a batch like the last one, in bytes.
    room: usize,
    totals: Totals,
}

/// What was published since the publisher was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub events: u64,
    pub bytes: u64,
    /// Events with a column that the Avro type could not hold or that could not be read.
    pub lossy: u64,
    /// Events with a column left out because the record was over the limit.
    pub too_large: u64,
    /// Messages declared as outbox events that do not read as ones.
    pub outbox_errors: u64,
}

impl Publisher {
    /// Takes over an owner that was just opened.
    ///
    /// # Errors
    /// [`PublishError::Log`] where its keyed state cannot be read.
    pub async fn new(
        owned: Box<dyn OwnedLog>,
        log: Arc<dyn ExchangeLog>,
        registry: Arc<dyn SchemaRegistry>,
        settings: PublishSettings,
    ) -> Result<Self, PublishError> {
        let progress = Progress::load(&*owned).await?;
        let notices = Notices::new(Arc::clone(&log), Arc::clone(&registry), &settings);
        Ok(Self { tables: Tables::new(log, registry), notices, owned, settings, progress, room: 0, totals: Totals::default() })
    }

    /// Where the source stood at the last commit.
    #[must_use]
    pub fn position(&self) -> Option<Bytes> {
        self.owned.position()
    }

    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Publishes the batch. `None` where it had no position: there is nothing that the source may forget.
    ///
    /// # Errors
    /// [`PublishError`]. Unless it is refused for its content, open the owner again and read the source from the position found.
    pub async fn publish(&mut self, batch: impl Into<Upcoming>) -> Result<Option<Durable>, PublishError> {
        let Some(Drafted { out, position, behind }) = self.draft(batch.into()).await? else { return Ok(None) };
        let committed = self.append(out.batch).await?;
        Ok(self.published(&committed, position, behind))
    }

    /// Publishes the batch as [`Publisher::publish`] does. While it is being written, the next one is read, and made ready as far as it can
    /// be.
    ///
    /// # Errors
    /// As [`Publisher::publish`]; what was read is lost then, and is read again from the position found.
    pub async fn publish_while<E>(
        &mut self,
        batch: Upcoming,
        reading: impl Future<Output = Result<SourceBatch, E>>,
    ) -> Result<(Option<Durable>, Result<Upcoming, E>), PublishError> {
        let Some(Drafted { out, position, behind }) = self.draft(batch).await? else {
            return Ok((None, reading.await.map(Upcoming::from)));
        };
        let (tables, settings, room, whole) = (&mut self.tables, &self.settings, self.room, self.progress.is_none());
        let next = async {
            let batch = reading.await?;
            Ok(if whole { ahead::ahead(tables, settings, room, batch) } else { Upcoming::from(batch) })
        };
        let (committed, next) = tokio::join!(self.owned.append(out.batch), next);
        Ok((self.published(&committed?, position, behind), next))
    }

    fn published(&mut self, committed: &Committed, position: Option<Bytes>, behind: bool) -> Option<Durable> {
        let position = position?;
        if !behind {
            self.progress = None;
        }
        Some(Durable::from_commit(committed, position))
    }

    /// The batch as it is written at last; `None` where nothing is left to be written.
    async fn draft(&mut self, batch: Upcoming) -> Result<Option<Drafted>, PublishError> {
        let Drafted { mut out, position, behind } = match batch.stage {
            Stage::Drafted(drafted) => drafted,
            Stage::Read(batch) => self.encode(batch).await?,
        };
        self.count(&out.totals);
        self.room = out.bytes + out.bytes / 8;
        out.batch.position.clone_from(&position);
        if position.is_some() && self.progress.is_some() && !behind {
            out.batch.state.push(Progress::removal());
        }
        Ok((!out.batch.is_empty()).then_some(Drafted { out, position, behind }))
    }

    async fn encode(&mut self, batch: SourceBatch) -> Result<Drafted, PublishError> {
        let now_us = jiff::Timestamp::now().as_microsecond();
        let SourceBatch { mut changes, notices, loaded, position } = batch;
        // The source may cut its batches elsewhere now: several may end before what is published does.
        let behind = self.progress.is_some_and(|progress| {
            changes.retain(|change| change.version > progress.done);
            changes.is_empty()
        });
        if self.settings.form.truncates == Truncates::Skip {
            changes.retain(|change| change.operation != Operation::Truncate || ends_epoch(change));
        }
        let tables = self.resolve(&changes).await?;
        let kept = self.fetch(&changes, &tables).await?;
        let mut draft = Draft::new(now_us, kept, self.room);
        let mut done = None;
        for (index, (change, table)) in changes.iter().zip(runs(&tables)).enumerate() {
            let is_truncate = change.operation == Operation::Truncate;
            if is_truncate && table.is_compacted() {
                draft = self.truncate(change, table, done, draft).await?;
            } else if is_truncate && self.settings.form.unwrap.is_some() {
                unsaid(change)?;
            } else if let Err(error) = add(&mut draft, index, &changes, table, &self.settings) {
                let worded = Worded::of(change, error)?;
                let table = self.tables.resolve(&worded.change.table, &self.settings, &*self.owned).await?;
                draft.add_unkeyed(worded, &table, &self.settings)?;
            }
            done = Some(change.version);
        }
        // The source's rows are of no more use, and while this batch is written the next one is read.
        drop(changes);
        let mut out = draft.finish();
        if !notices.is_empty() {
            let records = self.notices.records(&notices, now_us, &self.settings, &mut self.totals).await?;
            out.batch.records.extend(records);
        }
        if !loaded.is_empty() {
            self.tables.ensure_loaded(&self.settings.system).await?;
            let told = loaded.iter().map(|table| loaded::record(&self.settings.system, table, now_us.div_euclid(1_000)));
            out.batch.records.extend(told);
        }
        Ok(Drafted { out, position, behind })
    }

    fn count(&mut self, more: &Totals) {
        self.totals.events += more.events;
        self.totals.bytes += more.bytes;
        self.totals.lossy += more.lossy;
        self.totals.too_large += more.too_large;
        self.totals.outbox_errors += more.outbox_errors;
    }

    async fn append(&mut self, batch: Batch) -> Result<Committed, PublishError> {
        Ok(self.owned.append(batch).await?)
    }

    /// The tables of the changes, in runs.
    async fn resolve(&mut self, changes: &[Change]) -> Result<Vec<Run>, PublishError> {
        let mut tables = Vec::new();
        for run in changes.chunk_by(|a, b| Arc::ptr_eq(&a.table, &b.table)) {
            let Some(first) = run.first() else { continue };
            let table = self.tables.resolve(&first.table, &self.settings, &*self.owned).await?;
            tables.push((run.len(), table));
        }
        Ok(tables)
    }

    /// Kept columns of the rows that came with absent ones.
    async fn fetch(
        &self,
        changes: &[Change],
        tables: &[Run],
    ) -> Result<HashMap<(Arc<str>, Bytes), Option<KeptRow>>, PublishError> {
        let mut wanted: HashMap<&Arc<str>, Vec<Bytes>> = HashMap::new();
        for (index, (change, table)) in changes.iter().zip(runs(tables)).enumerate() {
            let Some(after) = change.after.as_ref().filter(|after| table.keeps_cells() && rows::has_absent(after)) else {
                continue;
            };
            let key = rows::state_key(rows::row_before_key_change(changes, index).unwrap_or(after), &change.table)
                .map_err(|error| image(change, error))?;
            wanted.entry(table.topic()).or_default().push(key);
        }
        let mut kept = HashMap::new();
        for (topic, keys) in wanted {
            for (key, value) in keys.iter().zip(self.owned.get(topic, &keys).await?) {
                let row = value.as_deref().map(KeptRow::decode).transpose()?;
                kept.insert((Arc::clone(topic), key.clone()), row);
            }
        }
        Ok(kept)
    }

    /// Deletes every key that the topic holds, some at a time: first what came before the truncate, then chunk after chunk, each a commit
    /// that notes how far it went. Where it is cut off, what is deleted already is no longer held.
    async fn truncate(
        &mut self,
        change: &Change,
        table: &Arc<Published>,
        done: Option<Version>,
        draft: Draft,
    ) -> Result<Draft, PublishError> {
        let mut progress = self.progress.take().unwrap_or_default();
        if let Some(done) = done {
            progress = Progress { done, truncated: 0 };
        }
        let (now_us, kept) = (draft.now_us(), draft.kept_beside(table.topic()));
        self.step(draft, progress).await?;
        let mut held = self.tables.held(table, &self.settings);
        while let Some(keys) = held.next().await? {
            for chunk in keys.chunks(TRUNCATE_CHUNK) {
                let mut draft = Draft::new(now_us, HashMap::new(), 0);
                for key in chunk {
                    progress.truncated += 1;
                    let version = state::truncate_version(change.version, progress.truncated);
                    let delete = Change { operation: Operation::Delete, version, ..change.clone() };
                    draft.delete(key, &delete, table, &self.settings)?;
                }
                self.step(draft, progress).await?;
            }
        }
        loop {
            let rows = self.owned.scan(table.topic(), &[], None, TRUNCATE_CHUNK).await?;
            if rows.is_empty() {
                return Ok(Draft::new(now_us, kept, 0));
            }
            let mut draft = Draft::new(now_us, HashMap::new(), 0);
            draft.forget(table.topic(), rows.into_iter().map(|(key, _)| key));
            self.step(draft, progress).await?;
        }
    }

    /// A commit on the way to the batch's end.
    async fn step(&mut self, draft: Draft, progress: Progress) -> Result<(), PublishError> {
        let mut out = draft.finish();
        if !out.batch.is_empty() {
            out.batch.state.push(progress.change());
            self.count(&out.totals);
            self.append(out.batch).await?;
        }
        self.progress = Some(progress);
        Ok(())
    }
}

/// Adds the records and state changes of one change.
fn add(
    draft: &mut Draft,
    index: usize,
    changes: &[Change],
    table: &Arc<Published>,
    settings: &PublishSettings,
) -> Result<(), PublishError> {
    let Some(change) = changes.get(index) else { return Ok(()) };
    let mut change = Cow::Borrowed(change);
    if table.keeps_cells()
        && let Some(after) = change.after.as_ref().filter(|after| rows::has_absent(after))
    {
        let old = rows::row_before_key_change(changes, index);
        let key = rows::state_key(old.unwrap_or(after), &change.table).map_err(|error| image(&change, error))?;
        let kept = if old.is_some() { draft.kept_of_removed(table.topic(), &key) } else { draft.kept(table.topic(), &key) };
        if let Some(kept) = kept {
            let completed = rows::complete(after, &change.table, kept).map_err(|error| image(&change, error))?;
            change.to_mut().after = Some(completed);
        }
    }
    draft.add(change, table, rows::other_half(changes, index), settings)
}

/// A truncate that no event can say, since events are rows and the topic's keys expire.
fn unsaid(change: &Change) -> Result<(), PublishError> {
    let table = change.table.name.to_string();
    if !ends_epoch(change) {
        return Err(PublishError::Truncate { table });
    }
    tracing::warn!(%table, "the table is read again from its beginning, which its unwrapped events cannot say");
    Ok(())
}

/// A truncate that no transaction made: what was published of the table in an earlier epoch holds no longer.
fn ends_epoch(change: &Change) -> bool {
    !matches!(change.origin.place, Place::Postgres { xid: Some(_), .. })
}

/// Changes of one table that follow each other: how many, and what they are published by.
type Run = (usize, Arc<Published>);

fn runs(tables: &[Run]) -> impl Iterator<Item = &Arc<Published>> {
    tables.iter().flat_map(|(count, table)| std::iter::repeat_n(table, *count))
}

fn image(change: &Change, BadImage(problem): BadImage) -> PublishError {
    PublishError::Image { table: change.table.name.to_string(), problem }
}
