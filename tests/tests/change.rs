//! Departments change their tables, mappings are changed and the standard grows, while a whole exchange runs: nothing is lost, nothing
//! doubled, and whoever is touched is named.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test helper that cannot go on fails its test")]

mod change {
    mod entities;
    pub(crate) mod office;
    mod tables;
}
