//! What the tests and benches share: real servers, the conformance suite of logs, the comparison with golden dumps, and whole
//! exchanges.

pub mod captured;
pub mod child;
pub mod conformance;
pub mod containers;
pub mod exchange;
pub mod fuzz;
pub mod layouts;
pub mod log_conformance;
pub mod receiver;
pub mod schemas;
mod seed;
pub mod servers;

pub use self::log_conformance::everything;
pub use self::seed::seed;
