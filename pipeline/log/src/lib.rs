//! The exchange log: the durable, partitioned log between the stages, with owners, offsets, positions and keyed state
//! written in one commit with the records. One contract ([`ExchangeLog`]), two implementations, one conformance suite.

pub mod contract;
pub mod embedded;
pub mod kafka;
pub mod loaded;
pub mod metrics;
pub mod partition;
pub mod registry;
mod span;
pub mod tls;

pub use contract::*;
pub use span::{Span, record_at};
