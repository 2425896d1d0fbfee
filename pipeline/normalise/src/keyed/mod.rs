//! Keyed state of one resource's normaliser: five maps of its owner, changed in the same commit as the records that they
//! explain, and the overlay that holds what a batch under way has read and changed.
//!
//! | map | key | value |
//! |---|---|---|
//! | `rows` | source key (the raw key without its frame) | [`row::RowState`] |
//! | `entities` | entity key (the standard key without its frame) | [`entity::EntityState`] |
//! | `quarantine` | entry number, big-endian | [`crate::quarantine::Entry`] |
//! | `totals` | empty | [`totals::Totals`] |
//! | `columns` | empty | [`crate::drift::Drift`] |
//! | `quality` | see [`crate::quality`] | figures of the data's quality |

pub(crate) mod codec;
pub(crate) mod entity;
pub(crate) mod overlay;
pub(crate) mod row;
pub(crate) mod totals;

pub(crate) const ROWS: &str = "rows";
pub(crate) const ENTITIES: &str = "entities";
pub(crate) const QUARANTINE: &str = "quarantine";
pub(crate) const TOTALS: &str = "totals";
