//! What a comparison found.

use serde::{Deserialize, Serialize};

use crate::runner::parked::{Place, Word};

/// What a comparison is to do.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Verify {
    /// Puts right what is wrong; who says so.
    pub repair: Option<Word>,
    /// Rows that are told of one by one, at most.
    pub limit: usize,
}

/// What a sink holds, held against what is granted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// Up to where both sides stood: next offset of each partition. Of a table that is compared in several goes, of the first one.
    pub positions: Vec<Place>,
    /// Rows that the subscription grants.
    pub entitled: u64,
    /// Rows that the sink has.
    pub held: u64,
    /// Ranges of keys that were compared by their digests.
    pub ranges: u64,
    pub differing_ranges: u64,
    /// Rows of the differing ranges that were looked at one by one.
    pub rows_read: u64,
    /// Rows that are granted and not there.
    pub missing: u64,
    /// Rows that are there and not granted.
    pub superfluous: u64,
    /// Rows that are there otherwise than granted.
    pub differing: u64,
    /// Rows that the sink does not have as granted since it refused them: they are set aside.
    pub parked: u64,
    /// Rows that kept changing for as long as they were looked at.
    pub unsettled: u64,
    pub repaired: u64,
    /// More differ than are looked at one by one, and not everything was compared.
    pub more: bool,
    /// Some of the rows that are missing, superfluous or differing.
    pub rows: Vec<DifferentRow>,
}

impl Verification {
    /// Rows that are wrong, and were when it ended.
    #[must_use]
    pub fn wrong(&self) -> u64 {
        (self.missing + self.superfluous + self.differing).saturating_sub(self.repaired)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrong {
    Missing,
    Superfluous,
    Differing,
}

/// A row that is not as it is granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DifferentRow {
    pub wrong: Wrong,
    /// As the subscriber knows it; `None` where its grade is not shown.
    pub key: Option<String>,
    /// The record that says what is granted.
    pub record: Option<Place>,
    /// The columns that differ.
    pub cells: Vec<DifferentCell>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DifferentCell {
    pub name: String,
    pub title: String,
    pub grade: String,
    /// Values of the grades G2 and G3 are not shown.
    pub concealed: bool,
    pub granted: Option<String>,
    pub held: Option<String>,
}
