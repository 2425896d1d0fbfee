//! What delivery keeps in the exchange log: the audit entries, chained, the records set aside, and what a person told it to do.
//!
//! The sink commits first, and its transaction holds the batch's entry and every earlier one that the log is not known to have.
//! The log gets them next, in a task of its own, several at once where they have gathered: the sink does not wait for it. What a
//! crash kept from the log is completed from the sink when the subscription is opened again, so the chain has every batch once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use guitong_govern::audit::{AuditEntry, Digest};
use guitong_log::{
    AppendError, Batch, ExchangeLog, LogError, NewRecord, OwnedLog, OwnerId, Retention, Role, StateChange, TopicSpec,
};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::orders::Orders;
use super::parked::{Aside, End, PARKED, PARKED_TOPIC, Parked, Word, ended};
use crate::hold::Hold;

/// Topic of the audit entries; keyed by subscription, JSON, kept for good.
pub const AUDIT_TOPIC: &str = "audit";

/// Keyed state of a subscription's owner: digest of its last audit entry.
const CHAIN: &str = "audit";
const LAST: &[u8] = b"last";
/// Entries read at once.
const PAGE: usize = 256;
/// Entries that the log may lack; the sink waits rather than hold more.
const UNLOGGED: usize = 32;
/// How long entries gather after the log was given some: a transaction for each would be a third of the log's work.
const GATHER: Duration = Duration::from_millis(200);

/// A subscription's hold on the exchange log, before anything is delivered under it.
#[derive(Debug)]
pub(crate) struct OpenJournal {
    hold: Hold,
    subscription: Arc<str>,
    /// Digest of the last entry that the log has.
    pub(super) last: Digest,
    aside: Aside,
    pub(super) orders: Orders,
}

impl OpenJournal {
    /// `aside` takes on what the log has set aside.
    pub(crate) async fn open(log: &dyn ExchangeLog, subscription: Arc<str>, aside: &Aside) -> Result<Self, LogError> {
        ensure(log, AUDIT_TOPIC).await?;
        let owned = log.open(&OwnerId::new(Role::Deliver, Arc::clone(&subscription))).await?;
        let last = owned.get(CHAIN, &[Bytes::from_static(LAST)]).await?.into_iter().next().flatten();
        let last = last.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok()).map_or_else(Digest::start, Digest);
        aside.load(parked(&*owned).await?.into_iter());
        let orders = Orders::read(&*owned).await?;
        Ok(Self { hold: Hold::new(owned), subscription, last, aside: aside.clone(), orders })
    }

    /// For a sink that keeps its stand in it.
    pub(super) fn hold(&self) -> &Hold {
        &self.hold
    }

    /// Gives or takes back a person's order.
    pub(crate) async fn order(&mut self, change: StateChange) -> Result<(), AppendError> {
        self.hold.append(Batch { state: vec![change], ..Batch::default() }).await
    }

    /// Ends entries, in one commit with the records that tell of it.
    pub(crate) async fn end(
        &mut self,
        log: &dyn ExchangeLog,
        entries: &[(Parked, End)],
        word: &Word,
        at_us: i64,
    ) -> Result<(), AppendError> {
        let batch = ended(&self.subscription, entries, word, at_us);
        end(log, &self.aside, entries, self.hold.append(batch)).await
    }

    /// Appends those of the sink's entries that the log lacks.
    pub(crate) async fn complete(&mut self, entries: &[AuditEntry]) -> Result<(), AppendError> {
        // Where none follows what the log has last, the log knows a longer chain than a sink that was restored from a backup.
        let known = entries.iter().position(|entry| entry.previous == self.last).unwrap_or(entries.len());
        let missing = entries.get(known..).unwrap_or_default();
        if let Some(newest) = missing.last() {
            self.last = newest.digest();
            self.hold.append(noted(&self.subscription, missing)).await?;
        }
        Ok(())
    }

    /// Forgets what is set aside: a refill tries all of it again.
    pub(crate) async fn clear_parked(&mut self) -> Result<(), AppendError> {
        let keys = list_parked(&**self.hold.lock().await).await.map_err(AppendError::Refused)?;
        let state: Vec<_> = keys.into_iter().map(|(key, _)| StateChange { map: PARKED.into(), key, value: None }).collect();
        if !state.is_empty() {
            self.hold.append(Batch { state, ..Batch::default() }).await?;
        }
        self.aside.load(std::iter::empty());
        Ok(())
    }

    /// Starts the task that writes. When the journal goes, it ends after what it was given; whoever stops in peace waits for it.
    pub(crate) fn start(self) -> (Journal, JoinHandle<()>) {
        let Self { hold, subscription, last, aside, .. } = self;
        let (asks, asked) = mpsc::channel(UNLOGGED);
        let (logged, count) = watch::channel(0);
        let (failing, failed) = oneshot::channel();
        let name = Arc::clone(&subscription);
        let task = tokio::spawn(async move {
            if let Err(error) = write(hold, name, asked, logged).await {
                // Where nobody waits any more, the next hold completes what is missing.
                let _ = failing.send(error);
            }
        });
        (Journal { subscription, asks, failed: Some(failed), unlogged: VecDeque::new(), count, noted: 0, last, aside }, task)
    }
}

/// Ends entries by what `append` writes: once the topic that tells of it is there, and they are set aside until it is written.
async fn end(
    log: &dyn ExchangeLog,
    aside: &Aside,
    entries: &[(Parked, End)],
    append: impl Future<Output = Result<(), AppendError>>,
) -> Result<(), AppendError> {
    ensure(log, PARKED_TOPIC).await.map_err(AppendError::Refused)?;
    append.await?;
    entries.iter().for_each(|(parked, _)| aside.remove(parked.place()));
    Ok(())
}

/// What the writing task is asked for.
enum Ask {
    /// Boxed: the channel has room for as many asks as it may hold, for each subscription.
    Note(Box<Note>),
    Append {
        batch: Box<Batch>,
        done: oneshot::Sender<()>,
    },
}

/// What the log is told of a batch.
struct Note {
    entry: AuditEntry,
    state: Vec<StateChange>,
}

/// A subscription's hold on the exchange log.
#[derive(Debug)]
pub(crate) struct Journal {
    subscription: Arc<str>,
    asks: mpsc::Sender<Ask>,
    /// Why the task ended before its journal.
    failed: Option<oneshot::Receiver<AppendError>>,
    /// Entries that are not known to be in the log.
    unlogged: VecDeque<AuditEntry>,
    /// How many entries of this hold the log has.
    count: watch::Receiver<u64>,
    /// How many entries left `unlogged`.
    noted: u64,
    last: Digest,
    pub(crate) aside: Aside,
}

impl Journal {
    /// Digest that the next entry follows.
    pub(crate) fn last(&self) -> Digest {
        self.last.clone()
    }

    /// The entries that the next batch's transaction is to keep beside its own.
    pub(crate) async fn unlogged(&mut self) -> Result<&[AuditEntry], AppendError> {
        let least = (self.noted + self.unlogged.len() as u64).saturating_sub(UNLOGGED as u64 - 1);
        let reached = self.count.wait_for(|count| *count >= least).await.map(|count| *count);
        let Ok(count) = reached else { return Err(self.failed().await) };
        while self.noted < count {
            self.unlogged.pop_front();
            self.noted += 1;
        }
        Ok(self.unlogged.make_contiguous())
    }

    /// Takes on the entry of a batch that is durable at the sink, and what else the log is to be told with it.
    pub(crate) async fn note(&mut self, entry: AuditEntry, state: Vec<StateChange>) -> Result<(), AppendError> {
        self.last = entry.digest();
        self.unlogged.push_back(entry.clone());
        // There is room: whoever wrote had waited for it ([`Journal::unlogged`]). So no stop comes between the sink's answer and this.
        let noted = match self.asks.try_send(Ask::Note(Box::new(Note { entry, state }))) {
            Err(TrySendError::Full(ask)) => self.asks.send(ask).await.is_ok(),
            sent => sent.is_ok(),
        };
        if noted { Ok(()) } else { Err(self.failed().await) }
    }

    /// Keeps records aside. Comes before the sink moves past them: a crash between parks them again, under the same key.
    pub(crate) async fn park(&mut self, parked: Vec<Parked>) -> Result<(), AppendError> {
        if parked.is_empty() {
            return Ok(());
        }
        let state = parked.iter().map(Parked::kept).collect();
        self.append(Batch { state, ..Batch::default() }).await?;
        parked.into_iter().for_each(|parked| self.aside.insert(parked));
        Ok(())
    }

    /// As [`OpenJournal::end`].
    pub(crate) async fn end(
        &mut self,
        log: &dyn ExchangeLog,
        entries: &[(Parked, End)],
        word: &Word,
        at_us: i64,
    ) -> Result<(), AppendError> {
        let (batch, aside) = (ended(&self.subscription, entries, word, at_us), self.aside.clone());
        end(log, &aside, entries, self.append(batch)).await
    }

    /// Waits until the log has the batch.
    async fn append(&mut self, batch: Batch) -> Result<(), AppendError> {
        let (done, answer) = oneshot::channel();
        let asked = self.asks.send(Ask::Append { batch: Box::new(batch), done }).await;
        if asked.is_err() || answer.await.is_err() {
            return Err(self.failed().await);
        }
        Ok(())
    }

    /// Why the task ended.
    async fn failed(&mut self) -> AppendError {
        if let Some(failed) = self.failed.take()
            && let Ok(error) = failed.await
        {
            return error;
        }
        AppendError::Unknown(LogError::Unavailable { detail: "the journal's writer ended".to_owned() })
    }
}

/// Writes what is asked for, in order; entries that have gathered go together. What somebody waits for waits for nothing, nor does
/// the end.
async fn write(
    hold: Hold,
    subscription: Arc<str>,
    mut asked: mpsc::Receiver<Ask>,
    logged: watch::Sender<u64>,
) -> Result<(), AppendError> {
    let mut due = Instant::now();
    while let Some(first) = asked.recv().await {
        let (mut entries, mut state, mut next) = (Vec::new(), Vec::new(), Some(first));
        let asked_for = loop {
            match next.take() {
                Some(Ask::Note(note)) => {
                    entries.push(note.entry);
                    state.extend(note.state);
                }
                Some(Ask::Append { batch, done }) => break Some((batch, done)),
                None => break None,
            }
            if entries.len() < UNLOGGED / 2 {
                next = timeout_at(due, asked.recv()).await.ok().flatten();
            }
        };
        if !entries.is_empty() {
            let mut batch = noted(&subscription, &entries);
            batch.state.extend(state);
            hold.append(batch).await?;
            logged.send_modify(|count| *count += entries.len() as u64);
            due = Instant::now() + GATHER;
        }
        if let Some((batch, done)) = asked_for {
            hold.append(*batch).await?;
            // Whoever asked may have given up.
            let _ = done.send(());
        }
    }
    Ok(())
}

/// A topic of one partition that nothing expires.
async fn ensure(log: &dyn ExchangeLog, topic: &'static str) -> Result<(), LogError> {
    let retention = Retention::Expire { age: None, bytes: None };
    log.ensure_topic(&TopicSpec { name: topic.into(), partitions: 1, retention }).await
}

/// The batch that brings entries into the log.
fn noted(subscription: &Arc<str>, entries: &[AuditEntry]) -> Batch {
    let record = |entry: &AuditEntry| NewRecord {
        topic: AUDIT_TOPIC.into(),
        partition: None,
        key: Some(Bytes::copy_from_slice(subscription.as_bytes())),
        value: Some(Bytes::from(entry.to_json())),
        headers: Vec::new(),
        timestamp_ms: entry.at_us / 1000,
    };
    let last = entries.last().map(|newest| StateChange {
        map: CHAIN.into(),
        key: Bytes::from_static(LAST),
        value: Some(Bytes::from(newest.digest().0)),
    });
    Batch { records: entries.iter().map(record).collect(), state: last.into_iter().collect(), ..Batch::default() }
}

/// What a subscription has set aside, in the order of partition and offset.
///
/// # Errors
/// When the log cannot be read.
pub async fn parked(owned: &dyn OwnedLog) -> Result<Vec<Parked>, LogError> {
    let entries = list_parked(owned).await?.into_iter();
    Ok(entries.filter_map(|(_, value)| serde_json::from_slice(&value).ok()).collect())
}

async fn list_parked(owned: &dyn OwnedLog) -> Result<Vec<(Bytes, Bytes)>, LogError> {
    let mut all: Vec<(Bytes, Bytes)> = Vec::new();
    loop {
        let after = all.last().map(|(key, _)| key.to_vec());
        let page = owned.scan(PARKED, b"", after.as_deref(), PAGE).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}
