//! The next batch, read, decided on and, where the sink can do that, staged while the sink has the one before: what the subscriber's
//! server takes for a batch is as long as what reading the next one takes, or longer.
//!
//! At most one batch waits, beside the one that is handed over. Nothing of what waits counts: where a session ends, the next one reads
//! from the sink's own offsets again.
//!
//! That is for who is behind. At the tail the next batch would be the one record that has come since, and all that come while the sink
//! has the one before would wait for it as well: there the next batch is read once it is asked for.

#![allow(unsafe_code, reason = "self_cell's macro, which is safe to use")]

use std::collections::HashSet;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use foldhash::fast::RandomState;
use guitong_govern::{Entitlement, Stop};
use guitong_log::{LogReader, ReadBatch};
use jiff::Timestamp;
use self_cell::self_cell;
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::Fault;
use super::appetite::{Appetite, Place};
use super::batch::{Item, at, decide, places_of_newest};
use super::decode::Schemas;
use crate::sink::{Change, Staged, Stager};

/// What comes of each record, and where the newest change of each key is.
#[derive(Debug)]
pub(super) struct Decisions<'r> {
    items: Vec<Item<'r>>,
    newest: Vec<usize>,
}

/// A batch, and what the sink made ready of it.
pub(super) type Next = (Decided, Option<Staged>);

/// Items that take long to stage and to free.
const MANY: usize = 2_000;

self_cell! {
    /// What was read, and what comes of it.
    pub(super) struct Decided {
        owner: Read,
        #[covariant]
        dependent: Decisions,
    }

    impl { Debug }
}

#[derive(Debug)]
pub(super) struct Read {
    pub(super) batch: ReadBatch,
    schemas: Schemas,
    _place: Option<Place>,
}

impl Decided {
    pub(super) fn read(&self) -> &ReadBatch {
        &self.borrow_owner().batch
    }

    pub(super) fn items(&self) -> &[Item<'_>] {
        &self.borrow_dependent().items
    }

    /// The newest change of each key.
    pub(super) fn newest(&self) -> Vec<&Change<'_>> {
        at(self.items(), &self.borrow_dependent().newest)
    }

    /// Frees it. What is large takes milliseconds, in which the sink would have nothing to do.
    pub(super) fn let_go(self) {
        if self.items().len() > MANY {
            tokio::task::spawn_blocking(move || drop(self));
        }
    }
}

/// Keys of the batch before where it was a large one, as hashes: two keys may be taken for one, but never one for two.
#[derive(Debug, Default)]
pub(super) struct Before {
    hasher: RandomState,
    keys: HashSet<u64, RandomState>,
}

impl Before {
    /// Whether the keys before are known and none is in the batch, which is now the one before.
    fn is_apart_from(&mut self, batch: &[&Change<'_>]) -> bool {
        let keys = batch.iter().map(|change| self.hasher.hash_one(&change.key().id)).collect();
        let before = std::mem::replace(&mut self.keys, keys);
        !before.is_empty() && before.is_disjoint(&self.keys)
    }
}

/// What decides on the records of a session.
#[derive(Debug)]
pub(super) struct Decider {
    pub(super) schemas: Schemas,
    pub(super) entitlement: Arc<Entitlement>,
    /// The subscription asks for records that are as they were.
    pub(super) unchanged: bool,
    /// As [`super::Session::caught_up`].
    pub(super) caught_up: Arc<AtomicBool>,
    pub(super) stager: Option<Box<dyn Stager>>,
    pub(super) before: Before,
    pub(super) appetite: Appetite,
}

impl Decider {
    async fn next(&mut self, reader: &mut dyn LogReader) -> Result<Next, Fault> {
        let (batch, place) = loop {
            let (budget, place) = self.appetite.budget();
            let batch = reader.read(budget).await?;
            self.appetite.had(&batch);
            if !batch.next.is_empty() {
                break (batch, place);
            }
        };
        self.schemas.prepare(&batch.records).await.map_err(Fault::Registry)?;
        let read = Read { batch, schemas: self.schemas.clone(), _place: place };
        let decided = Decided::try_new(read, |read| self.decide(read)).map_err(Fault::Stopped)?;
        let staged = match &self.stager {
            Some(stager) if decided.items().len() > MANY => {
                let newest = decided.newest();
                let apart = self.before.is_apart_from(&newest);
                stager.stage(&newest, apart).await
            }
            _ => {
                self.before = Before::default();
                None
            }
        };
        Ok((decided, staged))
    }

    fn decide<'r>(&self, Read { batch, schemas, .. }: &'r Read) -> Result<Decisions<'r>, Stop> {
        // Of what is far behind the log may have dropped the record that a later one repeats.
        let repeats = self.unchanged || !self.caught_up.load(Ordering::Relaxed);
        let items = decide(&self.entitlement, schemas, &batch.records, repeats, Timestamp::now())?;
        Ok(Decisions { newest: places_of_newest(&items), items })
    }
}

/// Reads ahead until it is dropped or a fault ends it.
#[derive(Debug)]
pub(super) struct Ahead {
    /// Boxed: the channel has room for many more than come.
    decided: mpsc::Receiver<Result<Next, Box<Fault>>>,
    /// How many batches: those that were taken, and the one that is waited for.
    asked: watch::Sender<u64>,
    taken: u64,
    _task: AbortOnDropHandle<()>,
}

impl Ahead {
    pub(super) fn start(mut reader: Box<dyn LogReader>, mut decider: Decider) -> Self {
        let (sender, decided) = mpsc::channel(1);
        let (asked, mut asks) = watch::channel(0);
        let task = tokio::spawn(async move {
            for given in 0.. {
                if !decider.appetite.expects_more() && asks.wait_for(|asked| *asked > given).await.is_err() {
                    return;
                }
                // Room first: what is read then waits here and nowhere else.
                let Ok(room) = sender.reserve().await else { return };
                let next = decider.next(reader.as_mut()).await.map_err(Box::new);
                let over = next.is_err();
                room.send(next);
                if over {
                    return;
                }
            }
        });
        Self { decided, asked, taken: 0, _task: AbortOnDropHandle::new(task) }
    }

    /// The next batch; `None` where none comes within `wait`.
    pub(super) async fn next(&mut self, wait: Duration) -> Result<Option<Next>, Fault> {
        self.asked.send_replace(self.taken + 1);
        match tokio::time::timeout(wait, self.decided.recv()).await {
            Ok(Some(next)) => {
                self.taken += 1;
                next.map(Some).map_err(|fault| *fault)
            }
            // After a fault there is nothing more, and the session is over.
            Ok(None) | Err(_) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use guitong_govern::{Gone, RowKey};
    use guitong_schemas::position::Version;

    use super::*;
    use crate::sink::What;

    fn batch(keys: std::ops::Range<u32>) -> Vec<Change<'static>> {
        let key = |n: u32| RowKey { id: n.to_be_bytes().to_vec(), clear: Vec::new() };
        keys.map(|n| Change::new(Version::default(), 0, What::Delete(key(n), Gone::Deleted))).collect()
    }

    #[test]
    fn a_batch_is_apart_where_no_key_is_in_the_one_before() {
        let mut before = Before::default();
        let mut is_apart = |keys| before.is_apart_from(&batch(keys).iter().collect::<Vec<_>>());
        assert!(!is_apart(0..100), "what is before is not known");
        assert!(is_apart(100..200));
        assert!(!is_apart(199..300), "one key is in both");
        assert!(is_apart(0..199), "the one before that is over");
    }
}
