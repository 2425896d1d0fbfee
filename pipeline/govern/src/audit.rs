//! What was delivered, one entry per batch, chained per subscription: an entry that is changed, left out or added breaks the
//! chain of digests from there on.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// SHA-256 in hexadecimal; the first entry of a chain follows 64 zeros.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(pub String);

impl Digest {
    #[must_use]
    pub fn start() -> Self {
        Self("0".repeat(64))
    }
}

/// Offsets of one partition that a batch covered: `from` inclusive, `to` exclusive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    pub partition: u32,
    pub from: u64,
    pub to: u64,
}

/// One delivered batch. Its identity is (subscription, epoch, ranges).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    pub subscription: String,
    pub resource: String,
    /// Epoch of the deliverer: rises whenever one takes the subscription over.
    pub epoch: u64,
    pub ranges: Vec<Range>,
    /// Rows and deletes handed to the sink.
    pub count: u64,
    /// SHA-256 in hexadecimal over those of what was handed to the sink, in their order.
    pub content: Digest,
    /// Fingerprint in hexadecimal of the grant it was delivered under.
    pub grant: String,
    /// Revision in hexadecimal of the exchange directory.
    pub revision: String,
    /// Microseconds since 1970-01-01T00:00:00Z.
    pub at_us: i64,
    /// [`AuditEntry::digest`] of the subscription's entry before this one.
    pub previous: Digest,
}

impl AuditEntry {
    /// The entry as JSON, the form of the topic `audit`.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Texts and numbers always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Digest over every field, `previous` included; each field is preceded by its length, so that no two entries share one.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        let mut put = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        put(self.subscription.as_bytes());
        put(self.resource.as_bytes());
        put(&self.epoch.to_be_bytes());
        put(&(self.ranges.len() as u64).to_be_bytes());
        for range in &self.ranges {
            put(&range.partition.to_be_bytes());
            put(&range.from.to_be_bytes());
            put(&range.to.to_be_bytes());
        }
        put(&self.count.to_be_bytes());
        put(self.content.0.as_bytes());
        put(self.grant.as_bytes());
        put(self.revision.as_bytes());
        put(&self.at_us.to_be_bytes());
        put(self.previous.0.as_bytes());
        Digest(hex::encode(hash.finalize()))
    }
}

/// One subscription's chain, as far as it was read.
#[derive(Debug, Clone)]
pub struct Chain(Digest);

impl Default for Chain {
    fn default() -> Self {
        Self(Digest::start())
    }
}

impl Chain {
    /// Takes on the next entry; whether it follows from the one before it.
    pub fn follows(&mut self, entry: &AuditEntry) -> bool {
        let previous = std::mem::replace(&mut self.0, entry.digest());
        previous == entry.previous
    }

    /// Digest of the last entry.
    #[must_use]
    pub fn last(&self) -> &Digest {
        &self.0
    }
}

/// Position of the first entry of one subscription's chain that does not follow from the one before it.
#[must_use]
pub fn first_break<'a>(entries: impl IntoIterator<Item = &'a AuditEntry>) -> Option<usize> {
    let mut chain = Chain::default();
    entries.into_iter().position(|entry| !chain.follows(entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(length: u64) -> Vec<AuditEntry> {
        let mut previous = Digest::start();
        (0..length)
            .map(|n| {
                let entry = AuditEntry {
                    subscription: "credit".into(),
                    resource: "enterprise".into(),
                    epoch: 1,
                    ranges: vec![Range { partition: 0, from: n, to: n + 1 }],
                    count: 1,
                    content: Digest(format!("{n:064x}")),
                    grant: "aa".into(),
                    revision: "bb".into(),
                    at_us: 1,
                    previous: previous.clone(),
                };
                previous = entry.digest();
                entry
            })
            .collect()
    }

    #[test]
    fn a_changed_or_missing_entry_breaks_the_chain() {
        assert_eq!(first_break(&chain(5)), None);
        let mut changed = chain(5);
        changed[2].count = 7;
        assert_eq!(first_break(&changed), Some(3));
        let mut missing = chain(5);
        missing.remove(2);
        assert_eq!(first_break(&missing), Some(2));
        assert_eq!(first_break(&chain(5)[1..]), Some(0), "the beginning is cut off");
    }
}
