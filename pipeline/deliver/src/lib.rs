//! Delivery: each subscription's records into its sink, cut to what it grants, once each.

mod metrics;
pub mod pull;
mod runner;
pub mod sink;
pub mod sql;
mod status;

pub use metrics::Metrics;
pub use runner::{
    AUDIT_TOPIC, Cell, CommandError, DeliverError, Deliverer, DelivererHandle, Delivery, End, Ended, MOST_PARKED, Made,
    PARKED_TOPIC, Parked, Place, ReplayReport, Shown, Word, parked,
};
pub use status::{DeliverStatus, Phase};
