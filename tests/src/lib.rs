//! What the tests and benches share: real servers.

pub mod servers;
