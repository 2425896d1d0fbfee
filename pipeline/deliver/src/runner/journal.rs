//! What delivery keeps in the exchange log: the audit entries, chained, and the records set aside.
//!
//! The sink commits first and holds the entry of its last batch; the log gets it next. An entry that a crash kept from the log is
//! completed from the sink when the subscription is opened again, so the chain has every batch once.

use std::sync::Arc;

use bytes::Bytes;
use guitong_govern::audit::{AuditEntry, Digest};
use guitong_log::{
    AppendError, Batch, ExchangeLog, LogError, NewRecord, OwnedLog, OwnerId, Retention, Role, StateChange, TopicSpec,
};
use serde::{Deserialize, Serialize};

/// Topic of the audit entries; keyed by subscription, JSON, kept for good.
pub const AUDIT_TOPIC: &str = "audit";

/// Keyed state of a subscription's owner: digest of its last audit entry, and what is set aside.
const CHAIN: &str = "audit";
const PARKED: &str = "parked";
const LAST: &[u8] = b"last";
/// Entries read at once.
const PAGE: usize = 256;

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

/// A subscription's hold on the exchange log.
#[derive(Debug)]
pub(crate) struct Journal {
    log: Box<dyn OwnedLog>,
    subscription: Arc<str>,
    last: Digest,
    pub(crate) parked: u64,
}

impl Journal {
    pub(crate) async fn open(log: &dyn ExchangeLog, subscription: Arc<str>) -> Result<Self, LogError> {
        let retention = Retention::Expire { age: None, bytes: None };
        log.ensure_topic(&TopicSpec { name: AUDIT_TOPIC.into(), partitions: 1, retention }).await?;
        let owned = log.open(&OwnerId::new(Role::Deliver, Arc::clone(&subscription))).await?;
        let last = owned.get(CHAIN, &[Bytes::from_static(LAST)]).await?.into_iter().next().flatten();
        let last = last.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok()).map_or_else(Digest::start, Digest);
        let parked = list_parked(&*owned).await?.len() as u64;
        Ok(Self { log: owned, subscription, last, parked })
    }

    /// Digest that the next entry follows.
    pub(crate) fn last(&self) -> Digest {
        self.last.clone()
    }

    /// Appends the sink's last entry if the log lacks it.
    pub(crate) async fn complete(&mut self, entry: Option<&AuditEntry>) -> Result<(), AppendError> {
        match entry {
            // The log knows a longer chain than a sink that was restored from a backup.
            Some(entry) if entry.previous == self.last => self.note(entry).await,
            _ => Ok(()),
        }
    }

    pub(crate) async fn note(&mut self, entry: &AuditEntry) -> Result<(), AppendError> {
        let digest = entry.digest();
        let record = NewRecord {
            topic: AUDIT_TOPIC.into(),
            partition: None,
            key: Some(Bytes::copy_from_slice(self.subscription.as_bytes())),
            value: Some(Bytes::from(entry.to_json())),
            headers: Vec::new(),
            timestamp_ms: entry.at_us / 1000,
        };
        let last = StateChange { map: CHAIN.into(), key: Bytes::from_static(LAST), value: Some(Bytes::from(digest.0.clone())) };
        self.log.append(Batch { records: vec![record], state: vec![last], ..Batch::default() }).await?;
        self.last = digest;
        Ok(())
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
        self.log.append(Batch { state: state.collect(), ..Batch::default() }).await?;
        self.parked += parked.len() as u64;
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
