//! What the tests and benches share: real servers, the conformance suite of logs, and whole exchanges.

pub mod exchange;
pub mod log_conformance;
pub mod servers;
