//! Rows of the next batch, looked up while the batch before is written.
//!
//! That all of them are noted as sent stays true but for deletes, of which their number tells.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;

use super::known::{Known, Seal};
use super::row;
use crate::sink::{Change, Staged, Stager};

#[derive(Debug)]
pub(super) struct Foresight {
    /// Of the sink behind.
    pub(super) inner: Option<Box<dyn Stager>>,
    pub(super) known: Arc<Known>,
    pub(super) seal: Arc<Seal>,
    pub(super) forgotten: Arc<AtomicU64>,
}

/// What is ready of a batch.
#[derive(Debug)]
pub(super) struct Foreseen {
    /// By the sink behind.
    pub(super) staged: Option<Staged>,
    /// How many rows had been forgotten when all of its rows were known.
    known_at: Option<u64>,
}

impl Foreseen {
    /// Whether all of its rows are known still.
    pub(super) fn is_known(&self, forgotten: &AtomicU64) -> bool {
        self.known_at == Some(forgotten.load(Ordering::Acquire))
    }
}

/// Forgets a row, and then says so: who counted before and saw it looks again, and who counts afterwards sees it no more.
pub(super) fn forget(known: &Known, seal: &Seal, forgotten: &AtomicU64, row: &[u8]) {
    known.remove(seal, row);
    forgotten.fetch_add(1, Ordering::AcqRel);
}

#[async_trait]
impl Stager for Foresight {
    async fn stage(&self, changes: &[&Change<'_>], apart: bool) -> Option<Staged> {
        // First: what is forgotten from here on counts.
        let forgotten = self.forgotten.load(Ordering::Acquire);
        let all = self.known.lacks(&self.seal, changes.iter().map(|change| row(change))).is_empty();
        let staged = match &self.inner {
            Some(stager) => stager.stage(changes, apart).await,
            None => None,
        };
        Some(Staged::new(Foreseen { staged, known_at: all.then_some(forgotten) }))
    }
}

#[cfg(test)]
mod tests {
    use guitong_govern::{Gone, RowKey};
    use guitong_schemas::position::Version;

    use super::*;
    use crate::sink::What;

    fn change(row: &[u8]) -> Change<'static> {
        let key = RowKey { id: row.to_vec(), clear: Vec::new() };
        Change::new(Version::default(), 0, What::Delete(key, Gone::Deleted))
    }

    #[tokio::test]
    async fn rows_that_were_known_are_so_until_any_row_is_forgotten() {
        let (known, seal, forgotten) = (Arc::new(Known::default()), Arc::new(Seal::default()), Arc::default());
        let foresight =
            Foresight { inner: None, known: Arc::clone(&known), seal: Arc::clone(&seal), forgotten: Arc::clone(&forgotten) };
        let changes = [change(b"one"), change(b"two")];
        let changes: Vec<_> = changes.iter().collect();
        let is_known = async || {
            let staged = foresight.stage(&changes, false).await.unwrap();
            move |forgotten: &AtomicU64| staged.get::<Foreseen>().unwrap().is_known(forgotten)
        };
        known.add(&seal, [b"one".as_slice()].into_iter());
        assert!(!is_known().await(&forgotten), "one is not");
        known.add(&seal, [b"two".as_slice()].into_iter());
        let before = is_known().await;
        assert!(before(&forgotten));
        forget(&known, &seal, &forgotten, b"three");
        assert!(!before(&forgotten), "what was seen before is seen again");
        assert!(is_known().await(&forgotten));
    }

    #[test]
    fn a_row_that_is_forgotten_at_the_same_moment_is_not_taken_for_known() {
        let (known, seal, forgotten) = (Arc::new(Known::default()), Arc::new(Seal::default()), Arc::<AtomicU64>::default());
        let foresight =
            Foresight { inner: None, known: Arc::clone(&known), seal: Arc::clone(&seal), forgotten: Arc::clone(&forgotten) };
        let (change, runtime) = (change(b"one"), tokio::runtime::Builder::new_current_thread().build().unwrap());
        // Both begin when both are there.
        let begin = std::sync::Barrier::new(2);
        for round in 0..200 {
            known.add(&seal, [b"one".as_slice()].into_iter());
            let over = std::sync::atomic::AtomicBool::new(false);
            let looks = || {
                begin.wait();
                let mut staged = Vec::new();
                while !over.load(Ordering::Acquire) {
                    staged.push(runtime.block_on(foresight.stage(&[&change], false)).unwrap());
                }
                staged
            };
            let staged = std::thread::scope(|scope| {
                let looks = scope.spawn(looks);
                begin.wait();
                std::thread::yield_now();
                forget(&known, &seal, &forgotten, b"one");
                over.store(true, Ordering::Release);
                looks.join().unwrap()
            });
            let known = staged.iter().filter(|staged| staged.get::<Foreseen>().unwrap().is_known(&forgotten));
            assert_eq!(known.count(), 0, "round {round}");
        }
    }
}
