//! What the process logs, in memory. Tests that run beside each other share it, so each looks for a slot or a table of its own.

use std::sync::Once;

use guitong_tests::captured::{Captured, logged};
use tracing_subscriber::EnvFilter;

/// Begins, with what an operator sees.
pub(crate) fn start() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let format = tracing_subscriber::fmt().with_ansi(false).with_env_filter(EnvFilter::new("warn,guitong_connectors=info"));
        format.with_writer(|| Captured).init();
    });
}

/// Lines that hold all the words.
pub(crate) fn with(words: &[&str]) -> Vec<String> {
    let lines = String::from_utf8(logged().clone()).unwrap();
    lines.lines().filter(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned).collect()
}
