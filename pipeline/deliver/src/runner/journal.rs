//! What delivery keeps in the exchange log: the audit entries, chained, and the records set aside.
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
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// Topic of the audit entries; keyed by subscription, JSON, kept for good.
pub const AUDIT_TOPIC: &str = "audit";

/// Keyed state of a subscription's owner: digest of its last audit entry, and what is set aside.
const CHAIN: &str = "audit";
const PARKED: &str = "parked";
const LAST: &[u8] = b"last";
/// Entries read at once.
const PAGE: usize = 256;
/// Entries that the log may lack; the sink waits rather than hold more.
const UNLOGGED: usize = 32;
/// How long entries gather after the log was given some: a transaction for each would be a third of the log's work.
const GATHER: Duration = Duration::from_millis(200);

/// A record that was set aside: where it stands in the log, never what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    pub topic: String,
    pub partition: u32,
    pub offset: u64,
    pub reason: String,
    /// Microseconds since 1970-01-01T00:00Z.
    pub at_us: i64,
}

impl Parked {
    fn key(&self) -> Bytes {
        Bytes::from(format!("{:010}/{:020}", self.partition, self.offset))
    }
}

/// A subscription's hold on the exchange log, before anything is delivered under it.
#[derive(Debug)]
pub(crate) struct OpenJournal {
    log: Box<dyn OwnedLog>,
    subscription: Arc<str>,
    last: Digest,
    parked: u64,
}

impl OpenJournal {
    pub(crate) async fn open(log: &dyn ExchangeLog, subscription: Arc<str>) -> Result<Self, LogError> {
        let retention = Retention::Expire { age: None, bytes: None };
        log.ensure_topic(&TopicSpec { name: AUDIT_TOPIC.into(), partitions: 1, retention }).await?;
        let owned = log.open(&OwnerId::new(Role::Deliver, Arc::clone(&subscription))).await?;
        let last = owned.get(CHAIN, &[Bytes::from_static(LAST)]).await?.into_iter().next().flatten();
        let last = last.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok()).map_or_else(Digest::start, Digest);
        let parked = list_parked(&*owned).await?.len() as u64;
        Ok(Self { log: owned, subscription, last, parked })
    }

    /// Appends those of the sink's entries that the log lacks.
    pub(crate) async fn complete(&mut self, entries: &[AuditEntry]) -> Result<(), AppendError> {
        // Where none follows what the log has last, the log knows a longer chain than a sink that was restored from a backup.
        let known = entries.iter().position(|entry| entry.previous == self.last).unwrap_or(entries.len());
        let missing = entries.get(known..).unwrap_or_default();
        if let Some(newest) = missing.last() {
            self.last = newest.digest();
            self.log.append(noted(&self.subscription, missing)).await?;
        }
        Ok(())
    }

    /// Forgets what is set aside: a refill tries all of it again.
    pub(crate) async fn clear_parked(&mut self) -> Result<(), AppendError> {
        let keys = list_parked(&*self.log).await.map_err(AppendError::Refused)?;
        let state: Vec<_> = keys.into_iter().map(|(key, _)| StateChange { map: PARKED.into(), key, value: None }).collect();
        if !state.is_empty() {
            self.log.append(Batch { state, ..Batch::default() }).await?;
        }
        self.parked = 0;
        Ok(())
    }

    /// Starts the task that writes. When the journal goes, it ends after what it was given; whoever stops in peace waits for it.
    pub(crate) fn start(self) -> (Journal, JoinHandle<()>) {
        let Self { log, subscription, last, parked } = self;
        let (asks, asked) = mpsc::channel(UNLOGGED);
        let (logged, count) = watch::channel(0);
        let (failing, failed) = oneshot::channel();
        let task = tokio::spawn(async move {
            if let Err(error) = write(log, subscription, asked, logged).await {
                // Where nobody waits any more, the next hold completes what is missing.
                let _ = failing.send(error);
            }
        });
        (Journal { asks, failed: Some(failed), unlogged: VecDeque::new(), count, noted: 0, last, parked }, task)
    }
}

/// What the writing task is asked for.
enum Ask {
    Note(AuditEntry),
    Park { state: Vec<StateChange>, done: oneshot::Sender<()> },
}

/// A subscription's hold on the exchange log.
#[derive(Debug)]
pub(crate) struct Journal {
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
    pub(crate) parked: u64,
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

    /// Takes on the entry of a batch that is durable at the sink.
    pub(crate) async fn note(&mut self, entry: AuditEntry) -> Result<(), AppendError> {
        self.last = entry.digest();
        self.unlogged.push_back(entry.clone());
        match self.asks.send(Ask::Note(entry)).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failed().await),
        }
    }

    /// Keeps records aside. Comes before the sink moves past them: a crash between parks them again, under the same key.
    pub(crate) async fn park(&mut self, parked: &[Parked]) -> Result<(), AppendError> {
        if parked.is_empty() {
            return Ok(());
        }
        let state = parked.iter().map(|parked| StateChange {
            map: PARKED.into(),
            key: parked.key(),
            // Texts and numbers always serialise.
            value: Some(Bytes::from(serde_json::to_vec(parked).unwrap_or_default())),
        });
        let (done, answer) = oneshot::channel();
        let asked = self.asks.send(Ask::Park { state: state.collect(), done }).await;
        if asked.is_err() || answer.await.is_err() {
            return Err(self.failed().await);
        }
        self.parked += parked.len() as u64;
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

/// Writes what is asked for, in order; entries that have gathered go together. What is to be parked waits for nothing, nor does the
/// end.
async fn write(
    mut log: Box<dyn OwnedLog>,
    subscription: Arc<str>,
    mut asked: mpsc::Receiver<Ask>,
    logged: watch::Sender<u64>,
) -> Result<(), AppendError> {
    let mut due = Instant::now();
    while let Some(first) = asked.recv().await {
        let (mut entries, mut next) = (Vec::new(), Some(first));
        let parking = loop {
            match next.take() {
                Some(Ask::Note(entry)) => entries.push(entry),
                Some(Ask::Park { state, done }) => break Some((state, done)),
                None => break None,
            }
            if entries.len() < UNLOGGED / 2 {
                next = timeout_at(due, asked.recv()).await.ok().flatten();
            }
        };
        if !entries.is_empty() {
            log.append(noted(&subscription, &entries)).await?;
            logged.send_modify(|count| *count += entries.len() as u64);
            due = Instant::now() + GATHER;
        }
        if let Some((state, done)) = parking {
            log.append(Batch { state, ..Batch::default() }).await?;
            // Whoever asked may have given up.
            let _ = done.send(());
        }
    }
    Ok(())
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
