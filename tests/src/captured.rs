//! What the process logs, in memory, for tests that look at it.

use std::io::{Result, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

static LOGGED: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// The writer of a subscriber.
#[derive(Debug)]
pub struct Captured;

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        logged().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Everything that was logged and not taken out.
pub fn logged() -> MutexGuard<'static, Vec<u8>> {
    LOGGED.lock().unwrap_or_else(PoisonError::into_inner)
}
