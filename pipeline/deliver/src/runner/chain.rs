//! Whether the record of what was delivered is whole: each subscription's audit entries are a chain, from its start to the entry that
//! the subscription's state says is the last.

use std::collections::BTreeMap;

use guitong_govern::audit::{AuditEntry, Chain, Digest};
use guitong_log::{ExchangeLog, LogError, Record, Span, TopicPartition};
use serde::{Deserialize, Serialize};

use super::journal::AUDIT_TOPIC;

/// Bytes of entries that are read at once.
const READ: usize = 1 << 20;

/// What is recorded of one subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audited {
    pub subscription: String,
    pub entries: u64,
    /// Rows and deletes that were handed over.
    pub changes: u64,
    /// When the first and the last entry were made, microseconds since 1970-01-01T00:00Z.
    pub first_us: i64,
    pub last_us: i64,
    /// Digest of the last entry: whoever notes it elsewhere can tell later that everything before is as it was.
    pub last: Digest,
    pub broken: Option<Broken>,
}

/// Where a chain is broken first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "how")]
pub enum Broken {
    /// The entry at this offset of the topic does not follow from the one before: that, or one between, was changed or left out.
    Between { offset: u64 },
    /// What lies at this offset is no entry.
    Unreadable { offset: u64 },
    /// Entries at the end are not there.
    Cut,
}

struct Walk {
    chain: Chain,
    audited: Audited,
    /// The last entry that the subscription knows of was met.
    met: bool,
}

/// Walks through all entries. `known`: the last entry of each subscription by its own state, where that can be asked; those were
/// written before this is called.
///
/// # Errors
/// When the log cannot be read.
pub async fn audited(log: &dyn ExchangeLog, known: &BTreeMap<String, Digest>) -> Result<Vec<Audited>, LogError> {
    let mut walks: BTreeMap<String, Walk> = known.keys().map(|name| (name.clone(), Walk::new(name))).collect();
    if log.partitions(AUDIT_TOPIC).await?.is_some() {
        let at = TopicPartition::new(AUDIT_TOPIC, 0);
        let bounds = log.bounds(&at).await?;
        let mut span = Span::open(log, at, bounds.earliest, bounds.end).await?;
        while let Some(records) = span.read(READ).await? {
            for record in &records {
                let name = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()).into_owned();
                let known = known.get(&name);
                walks.entry(name).or_insert_with_key(|name| Walk::new(name)).take(record, known);
            }
        }
    }
    Ok(walks.into_values().map(|walk| walk.end(known)).collect())
}

impl Walk {
    fn new(name: &str) -> Self {
        let audited = Audited {
            subscription: name.to_owned(),
            entries: 0,
            changes: 0,
            first_us: 0,
            last_us: 0,
            last: Digest::start(),
            broken: None,
        };
        Self { chain: Chain::default(), audited, met: false }
    }

    fn take(&mut self, record: &Record, known: Option<&Digest>) {
        let (audited, offset) = (&mut self.audited, record.offset);
        let entry = record.value.as_deref().and_then(|bytes| serde_json::from_slice::<AuditEntry>(bytes).ok());
        let Some(entry) = entry.filter(|entry| entry.subscription == audited.subscription) else {
            audited.broken.get_or_insert(Broken::Unreadable { offset });
            return;
        };
        if !self.chain.follows(&entry) {
            audited.broken.get_or_insert(Broken::Between { offset });
        }
        if audited.entries == 0 {
            audited.first_us = entry.at_us;
        }
        audited.entries += 1;
        audited.changes += entry.count;
        (audited.last_us, audited.last) = (entry.at_us, self.chain.last().clone());
        self.met |= known == Some(&audited.last);
    }

    fn end(mut self, known: &BTreeMap<String, Digest>) -> Audited {
        let known = known.get(&self.audited.subscription).filter(|known| **known != Digest::start());
        if known.is_some() && !self.met {
            self.audited.broken.get_or_insert(Broken::Cut);
        }
        self.audited
    }
}
