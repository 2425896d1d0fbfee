//! How far a comparison is, for whoever waits for it.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// A table that memory does not hold at once goes through the first two several times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComparingStage {
    /// What is granted is read from the log: offsets.
    Reading,
    /// It is held against the sink: ranges that differ.
    Comparing,
    /// What is wrong is put right: rows.
    Repairing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparing {
    pub stage: ComparingStage,
    pub done: u64,
    pub of: u64,
}

/// Where the comparison under way is.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<Option<Comparing>>);

impl Progress {
    pub(crate) fn get(&self) -> Option<Comparing> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, comparing: Option<Comparing>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = comparing;
    }

    pub(super) fn begin(&self, stage: ComparingStage, of: u64) {
        self.set(Some(Comparing { stage, done: 0, of }));
    }

    pub(super) fn done(&self, more: u64) {
        if let Some(comparing) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            comparing.done += more;
        }
    }

    /// Nothing is under way any more once this is dropped.
    pub(super) fn until_dropped(&self) -> UnderWay<'_> {
        UnderWay(self)
    }
}

pub(super) struct UnderWay<'p>(&'p Progress);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}
