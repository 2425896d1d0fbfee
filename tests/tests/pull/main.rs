//! What a subscribing department pulls from a running node over HTTP: nothing lost, nothing twice, nothing that is not granted, to
//! nobody without the subscription's token.

// Helpers beside the tests may fail as tests do.
#![allow(clippy::unwrap_used, clippy::panic)]

mod access;
mod events;
mod harness;
mod rows;
