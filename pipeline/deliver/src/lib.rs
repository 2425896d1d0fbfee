//! Delivery: each subscription's records into its sink, cut to what it grants, once each.

mod avro;
mod event;
pub mod files;
mod hold;
mod http;
mod json;
pub mod kafka;
mod metrics;
mod pools;
pub mod pull;
mod runner;
mod shared;
mod shown;
pub mod sink;
pub mod sql;
mod stand;
mod status;
pub mod webhook;

pub use hold::Hold;
pub use metrics::Metrics;
pub use pools::Pools;
pub use runner::{
    AUDIT_TOPIC, Audited, Broken, Cell, CommandError, Comparing, ComparingStage, DeliverError, Deliverer, DelivererHandle,
    Delivery, DifferentCell, DifferentRow, End, Ended, MOST_PARKED, Made, PARKED_TOPIC, Parked, Place, Redelivered, ReplayReport,
    Shown, Since, Verification, Verify, Word, Wrong, audited, parked,
};
pub use shared::{Counted, SharedReads};
pub use status::{DeliverStatus, Phase};
