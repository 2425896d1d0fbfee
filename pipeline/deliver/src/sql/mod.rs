//! SQL sinks. The table, the offsets, the versions of deleted keys and the last audit entries live in the subscriber's database
//! and change in one transaction. One folder for each database, all of one shape: `mod` (the sink), `table` (making and checking
//! it), `write` (a batch), `errors`; and SQLite's `opening`, where subscriptions are taken over together.
//!
//! Beside the table, `guitong_subscriptions` has one row for each subscription (the fence: its epoch), `guitong_offsets` one for
//! each partition, `guitong_deleted` one for each deleted key that is still remembered. What soft deletes and histories keep, and how a table is written
//! that is the department's own, the modules `kept` and `foreign` say once for all databases; `holders`, that deletes go only to who was sent
//! the row.

pub(crate) mod foreign;
pub(crate) mod holders;
pub(crate) mod kept;
pub(crate) mod layout;
mod lease;
pub mod mysql;
pub mod postgres;
mod prints;
pub(crate) mod reshape;
pub mod sqlite;
mod stored;

pub(crate) use stored::{fenced, signed, unsigned};

pub use self::holders::Holders;
pub(crate) use crate::sink::KEY;

/// Names of the columns that the exchange adds to a subscriber's table, beside [`KEY`].
pub(crate) const VERSION: &str = "guitong_version";
/// Epoch of the deliverer that wrote the row: what a refill did not meet has an older one.
pub(crate) const EPOCH: &str = "guitong_epoch";
