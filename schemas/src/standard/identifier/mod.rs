//! Identifiers and their check characters. Each check takes the source text and gives the canonical text or the rule that it
//! breaks; repairs and doubts go to the remarks.

pub(crate) mod citizen;
pub(crate) mod clean;
pub(crate) mod credit;
pub(crate) mod numbers;
pub(crate) mod place;
pub(crate) mod project;
