//! Delivery: each subscription's records into its sink, cut to what it grants, once each.

mod metrics;
mod runner;
pub mod sink;
pub mod sql;
mod status;

pub use metrics::Metrics;
pub use runner::{AUDIT_TOPIC, DeliverError, Deliverer, Delivery, Parked, parked};
pub use status::{DeliverStatus, Phase};
