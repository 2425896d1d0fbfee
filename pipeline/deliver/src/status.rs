//! What an operator sees of a subscription.

use serde::Serialize;

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct DeliverStatus {
    pub phase: Phase,
    /// Since the deliverer started.
    pub upserts: u64,
    pub deletes: u64,
    /// Records that the sink does not take, kept aside with their reason.
    pub parked: u64,
    /// When the oldest of them was set aside, microseconds since 1970-01-01T00:00Z.
    pub oldest_parked_us: Option<i64>,
    /// Rows that were not delivered since the condition could not be evaluated on them, with the last reason.
    pub unjudged: u64,
    pub last_unjudged: Option<String>,
    pub lag_records: u64,
    /// Age in seconds of the newest delivered change while there are more; 0 when there are none.
    pub lag_seconds: f64,
    /// Next offset of each partition.
    pub offsets: Vec<(u32, u64)>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    #[default]
    Starting,
    /// Everything is delivered again: a new subscription, a changed grant, or a gap.
    Refilling {
        remaining_records: u64,
    },
    /// What was delivered before is delivered again, since a person asked for it.
    Replaying {
        remaining_records: u64,
    },
    Live,
    /// Nothing may be delivered now: approval not yet valid, expired, refused; or there is no topic yet.
    Waiting {
        reason: String,
    },
    /// A fault that goes away by itself.
    Retrying {
        error: String,
    },
    /// Somebody has to change something at the subscriber's side; then it goes on by itself.
    Paused {
        error: String,
    },
    /// Somebody has to decide.
    Stopped {
        error: String,
    },
    /// A person, or the subscriber's endpoint, said that nothing is to be delivered until a person lets it go on.
    Held {
        by: String,
        reason: String,
    },
}
