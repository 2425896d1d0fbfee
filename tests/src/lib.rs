//! What the tests and benches share: real servers.

pub mod log_conformance;
pub mod servers;
