//! A subscription's hold on the log: its journal writes there, and a sink that holds no offsets itself keeps its stand there.

use std::sync::Arc;

use guitong_log::OwnedLog;
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
}
