//! Everything that the process logs, in memory.

use std::sync::Once;

use guitong_tests::captured::{Captured, logged};
use tracing_subscriber::EnvFilter;

/// Begins, with more than an operator ever sees.
pub(crate) fn start() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let filter = EnvFilter::new("debug,guitong=trace");
        let format = tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter);
        format.with_writer(|| Captured).init();
    });
}

/// Lines since the last call: one JSON object each.
pub(crate) fn lines() -> Vec<String> {
    let taken = std::mem::take(&mut *logged());
    String::from_utf8(taken).unwrap().lines().map(str::to_owned).collect()
}
