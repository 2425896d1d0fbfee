//! How much a subscription reads at once. A sink that is far behind is served best with much at once, and a thousand of them that are
//! would take all memory there is: so much is read only while there is room, which the node's subscriptions share. Nobody waits for it.
//! Where it is taken, by a sink that does not answer, perhaps, the others go on in small reads.

use std::sync::Arc;
use std::time::Duration;

use guitong_log::{ReadBatch, ReadBudget};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::READ_WAIT;

/// Bytes that everybody may read at any time.
const SMALL: usize = 64 << 10;
/// By how much a read may be larger than the one before, so that the sink has something to do while more is read: to read and stage a
/// record takes some half of what it takes to write it.
const GROWTH: usize = 3;
/// Bytes of all larger reads of a node: up to two of each subscription, what is handed over and what waits.
const ROOM: usize = 128 << 20;

/// One for the node; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Room(Arc<Semaphore>);

/// Room that somebody has; it is given back with the value.
pub(super) type Place = OwnedSemaphorePermit;

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(kib(ROOM))))
    }
}

fn kib(bytes: usize) -> usize {
    bytes >> 10
}

#[derive(Debug)]
pub(super) struct Appetite {
    room: Room,
    /// Of the next read.
    bytes: usize,
    most: usize,
    full: bool,
}

impl Appetite {
    /// `most`: bytes of the largest read.
    pub(super) fn new(room: Room, most: usize) -> Self {
        Self { room, bytes: SMALL.min(most), most, full: false }
    }

    /// What the next read may be, and its place where it is a large one.
    pub(super) fn budget(&self) -> (ReadBudget, Option<Place>) {
        let large = || Arc::clone(&self.room.0).try_acquire_many_owned(u32::try_from(kib(self.bytes)).ok()?).ok();
        match (self.bytes > SMALL).then(large).flatten() {
            // Nobody keeps a place while nothing comes.
            Some(place) => (ReadBudget { bytes: self.bytes, wait: Duration::ZERO }, Some(place)),
            None => (ReadBudget { bytes: SMALL.min(self.most), wait: READ_WAIT }, None),
        }
    }

    /// Whether the last read was full: there is more already, likely.
    pub(super) fn expects_more(&self) -> bool {
        self.full
    }

    /// More is read after a read that was full, and little after one that was not.
    pub(super) fn had(&mut self, batch: &ReadBatch) {
        let bytes = |part: &Option<bytes::Bytes>| part.as_ref().map_or(0, bytes::Bytes::len);
        let had: usize = batch.records.iter().map(|record| bytes(&record.key) + bytes(&record.value)).sum();
        self.full = had >= self.bytes.min(SMALL) / 2;
        self.bytes = if self.full { self.most.min(self.bytes * GROWTH) } else { SMALL.min(self.most) };
    }
}

#[cfg(test)]
mod tests {
    use guitong_log::{Record, TopicPartition};

    use super::*;

    const MOST: usize = 4 << 20;

    fn read_of(bytes: usize) -> ReadBatch {
        let at = TopicPartition { topic: "std.enterprise".into(), partition: 0 };
        let value = Some(bytes::Bytes::from(vec![0; bytes]));
        let record = Record { at, offset: 0, timestamp_ms: 0, key: None, value, headers: Vec::new() };
        ReadBatch { records: vec![record], next: Vec::new() }
    }

    #[test]
    fn reads_grow_while_they_are_full_and_wait_only_where_they_are_small() {
        let mut appetite = Appetite::new(Room::default(), MOST);
        let budgets = std::iter::repeat_with(|| {
            let (budget, place) = appetite.budget();
            assert_eq!(budget.wait.is_zero(), place.is_some());
            appetite.had(&read_of(budget.bytes));
            budget.bytes >> 10
        });
        assert_eq!(budgets.take(5).collect::<Vec<_>>(), [64, 192, 576, 1728, 4096]);
        appetite.had(&read_of(100));
        let (budget, place) = appetite.budget();
        assert_eq!((budget.bytes, budget.wait, place.is_none()), (SMALL, READ_WAIT, true));
    }

    #[test]
    fn who_has_no_room_reads_little_and_does_not_wait_for_it() {
        let room = Room(Arc::new(Semaphore::new(kib(MOST))));
        let [mut one, mut other] = [(); 2].map(|()| Appetite::new(room.clone(), MOST));
        for _ in 0..4 {
            one.had(&read_of(MOST));
            other.had(&read_of(MOST));
        }
        let (budget, place) = one.budget();
        assert_eq!((budget.bytes, place.is_some()), (MOST, true));
        let small = other.budget().0;
        assert_eq!((small.bytes, small.wait), (SMALL, READ_WAIT));
        drop(place);
        assert_eq!(other.budget().0.bytes, MOST, "what was given back is there for others");
    }
}
