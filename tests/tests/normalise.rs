//! The normalise stage on a real embedded log: what stands in `std.` follows from the rows, however the stage is stopped, fenced
//! or starved, and whatever the events look like.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test helper that cannot go on fails its test")]

mod normalise {
    mod ahead;
    mod away;
    mod bad_input;
    mod claims;
    mod columns;
    mod enumerated;
    mod faults;
    pub(crate) mod harness;
    mod histories;
    mod joined;
    mod quality;
    mod quarantine;
    mod rebuild;
}
