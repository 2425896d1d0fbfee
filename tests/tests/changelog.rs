//! The change-log source against real SQLite files, published into a real embedded log with its registry.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test helper that cannot go on fails its test")]

mod changelog {
    mod faults;
    pub(crate) mod harness;
    mod rows;
    mod run;
}
