//! A subscription's hold on the log, shared by its journal and by a sink that keeps its stand there.

use std::sync::Arc;

use guitong_log::{AppendError, Batch, OwnedLog};
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

    /// Writes a batch, all or nothing. A call that is dropped half-way leaves a hold that writes nothing more: the log is opened again.
    pub(crate) async fn append(&self, batch: Batch) -> Result<(), AppendError> {
        self.lock().await.append(batch).await.map(drop)
    }
}
