//! Which open entries a command means.

use serde::{Deserialize, Serialize};

use super::Entry;
use super::store::id;

/// Every condition that is given has to hold; without any, all entries are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Entries by their ids.
    #[serde(default)]
    pub ids: Vec<String>,
    /// A rule that the event broke.
    pub rule: Option<String>,
    /// A field of the entity that a broken rule is about.
    pub field: Option<String>,
    /// The row's key as entries show it, or one of its values.
    pub key: Option<String>,
    /// Quarantined at this time or later, microseconds since 1970-01-01T00:00:00Z.
    pub since_us: Option<i64>,
    /// Quarantined before this time.
    pub until_us: Option<i64>,
}

impl Filter {
    pub(crate) fn matches(&self, seq: u64, entry: &Entry) -> bool {
        let is_key = |wanted: &str| {
            let value = |part: &str| part.split_once('=').is_some_and(|(_, value)| value == wanted);
            entry.key == wanted || entry.key.split(", ").any(|part| part == wanted || value(part))
        };
        (self.ids.is_empty() || self.ids.contains(&id(seq)))
            && self.since_us.is_none_or(|since| entry.at_us >= since)
            && self.until_us.is_none_or(|until| entry.at_us < until)
            && self.key.as_deref().is_none_or(is_key)
            && (self.rule.is_none() && self.field.is_none()
                || entry.rejections.iter().any(|rejection| {
                    self.rule.as_ref().is_none_or(|rule| rejection.rule == *rule)
                        && self.field.as_ref().is_none_or(|field| rejection.field == *field)
                }))
    }
}
