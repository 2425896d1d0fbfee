//! Everything that the process logs, in memory.

use std::io::{Result, Write};
use std::sync::{Mutex, Once, PoisonError};

use tracing_subscriber::EnvFilter;

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Captured;

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        LINES.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

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
    let taken = std::mem::take(&mut *LINES.lock().unwrap_or_else(PoisonError::into_inner));
    String::from_utf8(taken).unwrap().lines().map(str::to_owned).collect()
}
