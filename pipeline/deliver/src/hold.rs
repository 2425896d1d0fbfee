//! A subscription's hold on the log, shared by its journal and by a sink that keeps its stand there.

use std::sync::Arc;

use guitong_log::{AppendError, Batch, LogError, OwnedLog};
use tokio::sync::{Mutex, MutexGuard};

/// Cheap to clone; those that share it take turns.
#[derive(Debug, Clone)]
pub struct Hold(Arc<Mutex<Box<dyn OwnedLog>>>);

impl Hold {
    #[must_use]
    pub fn new(owned: Box<dyn OwnedLog>) -> Self {
        Self(Arc::new(Mutex::new(owned)))
    }

    pub(crate) async fn lock(&self) -> MutexGuard<'_, Box<dyn OwnedLog>> {
        self.0.lock().await
    }

    /// Writes a batch, all or nothing. It does so to the end when the call is dropped: a hold whose append was cut short would write
    /// nothing more, and others share it.
    pub(crate) async fn append(&self, batch: Batch) -> Result<(), AppendError> {
        let hold = self.clone();
        let appended = tokio::spawn(async move { hold.lock().await.append(batch).await.map(drop) }).await;
        appended.unwrap_or_else(|error| Err(AppendError::Unknown(LogError::Unavailable { detail: error.to_string() })))
    }
}
