//! What says that an entry was given up by a person: who, when, why and what. Records of the topic `audit.quarantine`, which nothing
//! expires; the event itself stays in the raw log.

use std::sync::Arc;

use bytes::Bytes;
use guitong_log::NewRecord;
use serde::{Deserialize, Serialize};

use super::{Entry, store};

/// Topic of the entries below.
pub const DROPPED_TOPIC: &str = "audit.quarantine";

/// Who gives entries up, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surrender {
    /// The operating system's name of the person.
    pub by: String,
    pub reason: String,
}

/// What giving up came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropReport {
    pub dropped: u64,
    /// Rows of them whose last good version stays with the subscribers and is held back no longer.
    pub settled: u64,
}

/// One entry that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    pub resource: String,
    pub id: String,
    /// The row's key for people, masked as its fields are.
    pub key: String,
    pub version: String,
    /// Where the event stands in the raw log.
    pub topic: String,
    pub offset: u64,
    pub rules: Vec<String>,
    pub by: String,
    pub reason: String,
    /// Microseconds since 1970-01-01T00:00:00Z.
    pub at_us: i64,
    /// An older good version of the row stays with the subscribers.
    pub good_version_stays: bool,
}

/// The record that tells of it.
pub(crate) fn record(resource: &str, seq: u64, entry: &Entry, surrender: &Surrender, at_us: i64, stays: bool) -> NewRecord {
    let dropped = Dropped {
        resource: resource.to_owned(),
        id: store::id(seq),
        key: entry.key.clone(),
        version: entry.version.to_string(),
        topic: entry.topic.to_string(),
        offset: entry.offset,
        rules: entry.rejections.iter().map(|rejection| format!("{}:{}", rejection.field, rejection.rule)).collect(),
        by: surrender.by.clone(),
        reason: surrender.reason.clone(),
        at_us,
        good_version_stays: stays,
    };
    NewRecord {
        topic: Arc::from(DROPPED_TOPIC),
        partition: Some(0),
        key: Some(Bytes::from(resource.to_owned())),
        // Texts and numbers always serialise.
        value: Some(Bytes::from(serde_json::to_vec(&dropped).unwrap_or_default())),
        headers: Vec::new(),
        timestamp_ms: at_us / 1_000,
    }
}
