//! What was read of a topic lately: pieces of its partitions, in runs without a gap.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use guitong_log::{ReadBatch, Record};
use tokio::time::Instant;

use super::topic::Positions;

/// Bytes that a topic's pieces take at most. In what a sink takes for a batch or two, nobody in step falls further behind than that; and
/// all topics that an exchange delivers together take less than one large batch of each of its subscriptions.
const MOST: usize = 8 << 20;
/// Bytes of one read that is shared: several of them are kept, also where records are so small that what describes them is larger.
pub(super) const PIECE: usize = 1 << 20;
/// Whatever was read longer ago is read again: an idle node keeps nothing.
pub(super) const LIFE: Duration = Duration::from_secs(60);

/// What one read of the log gave of one partition: every record from `from` on, and before `next`.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) partition: u32,
    pub(super) from: u64,
    pub(super) next: u64,
    pub(super) records: Arc<Vec<Record>>,
    /// Bytes that count against a read's budget.
    pub(super) bytes: usize,
    /// Who read it.
    pub(super) by: u64,
    read: Instant,
}

impl Piece {
    /// What a read gave that began at `at`.
    pub(super) fn of(batch: ReadBatch, at: &Positions, by: u64, read: Instant) -> Vec<Self> {
        let mut records: BTreeMap<u32, Vec<Record>> = BTreeMap::new();
        for record in batch.records {
            records.entry(record.at.partition).or_default().push(record);
        }
        let mut moved = Positions::new();
        for (of, next) in batch.next {
            moved.entry(of.partition).and_modify(|furthest| *furthest = next.max(*furthest)).or_insert(next);
        }
        let piece = |(partition, next)| {
            let from = *at.get(&partition)?;
            let records = records.remove(&partition).unwrap_or_default();
            let bytes = records.iter().map(Record::size).sum();
            Some(Self { partition, from, next, records: Arc::new(records), bytes, by, read })
        };
        moved.into_iter().filter_map(piece).collect()
    }

    /// Bytes that it takes, nearly.
    fn weight(&self) -> usize {
        let headers: usize = self.records.iter().map(|record| record.headers.len()).sum();
        size_of::<Self>() + self.bytes + self.records.len() * size_of::<Record>() + headers * size_of::<(Arc<str>, Bytes)>()
    }

    /// The same without what lies before `from`.
    fn after(&self, from: u64) -> Self {
        if from <= self.from {
            return self.clone();
        }
        let records: Vec<_> = self.records.iter().filter(|record| record.offset >= from).cloned().collect();
        let bytes = records.iter().map(Record::size).sum();
        Self { from, records: Arc::new(records), bytes, ..self.clone() }
    }
}

/// Pieces that follow one another, the oldest first; never without one.
#[derive(Debug)]
struct Run {
    partition: u32,
    start: u64,
    end: u64,
    pieces: VecDeque<(Piece, usize)>,
}

#[derive(Debug, Default)]
pub(super) struct Cache {
    runs: Vec<Run>,
    weight: usize,
}

impl Cache {
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether one read more fits without another one having to go.
    pub(super) fn has_room(&self) -> bool {
        self.weight + PIECE <= MOST
    }

    /// The run that has the offset or ends there; of several the one that goes furthest.
    fn run(&self, partition: u32, offset: u64) -> Option<&Run> {
        let has = |run: &&Run| run.partition == partition && (run.start..=run.end).contains(&offset);
        self.runs.iter().filter(has).max_by_key(|run| run.end)
    }

    /// From where on everything is here up to the offset.
    pub(super) fn since(&self, partition: u32, offset: u64) -> u64 {
        self.run(partition, offset).map_or(offset, |run| run.start)
    }

    /// Whether what follows the offset is here.
    pub(super) fn covers(&self, partition: u32, offset: u64) -> bool {
        self.run(partition, offset).is_some_and(|run| offset < run.end)
    }

    /// What follows the offset without a gap.
    pub(super) fn from(&self, partition: u32, offset: u64) -> impl Iterator<Item = &Piece> {
        self.run(partition, offset).into_iter().flat_map(move |run| {
            let passed = run.pieces.partition_point(|(piece, _)| piece.next <= offset);
            run.pieces.iter().skip(passed).map(|(piece, _)| piece)
        })
    }

    /// The furthest that is known of a partition.
    pub(super) fn end(&self, partition: u32) -> Option<u64> {
        self.runs.iter().filter(|run| run.partition == partition).map(|run| run.end).max()
    }

    /// Takes a piece in; gives those that had to go for it.
    pub(super) fn add(&mut self, piece: &Piece) -> Vec<Piece> {
        let Piece { partition, from, next, .. } = *piece;
        let has = |run: &&mut Run| run.partition == partition && (run.start..=run.end).contains(&from);
        let piece = match self.runs.iter_mut().filter(has).max_by_key(|run| run.end) {
            Some(run) if run.end >= next => return Vec::new(),
            Some(run) => {
                let piece = piece.after(run.end);
                let weight = piece.weight();
                run.end = next;
                run.pieces.push_back((piece, weight));
                weight
            }
            None => {
                let weight = piece.weight();
                self.runs.push(Run { partition, start: from, end: next, pieces: VecDeque::from([(piece.clone(), weight)]) });
                weight
            }
        };
        self.weight += piece;
        self.remove(|weight, _| weight > MOST)
    }

    /// Takes out what was read too long ago.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Piece> {
        self.remove(|_, read| now.saturating_duration_since(read) >= LIFE)
    }

    /// Takes out the oldest pieces, as long as `goes` wants it by what all weigh and when the oldest was read.
    fn remove(&mut self, goes: impl Fn(usize, Instant) -> bool) -> Vec<Piece> {
        let mut gone = Vec::new();
        while let Some(run) = self.runs.iter_mut().min_by_key(|run| run.pieces.front().map(|(piece, _)| piece.read)) {
            if run.pieces.front().is_some_and(|(oldest, _)| !goes(self.weight, oldest.read)) {
                break;
            }
            if let Some((oldest, weight)) = run.pieces.pop_front() {
                run.start = oldest.next;
                self.weight -= weight;
                gone.push(oldest);
            }
            self.runs.retain(|run| !run.pieces.is_empty());
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use guitong_log::TopicPartition;

    use super::*;

    fn at() -> TopicPartition {
        TopicPartition::new("std.enterprise", 0)
    }

    fn record(offset: u64, size: usize) -> Record {
        Record { at: at(), offset, timestamp_ms: 0, key: None, value: Some(vec![0; size].into()), headers: Vec::new() }
    }

    /// Records of these offsets, read at once.
    fn piece(from: u64, next: u64, size: usize, read: Instant) -> Piece {
        let records = (from..next).map(|offset| record(offset, size)).collect();
        let batch = ReadBatch { records, next: vec![(at(), next)] };
        Piece::of(batch, &Positions::from([(0, from)]), 1, read).remove(0)
    }

    fn offsets(cache: &Cache, from: u64) -> Vec<u64> {
        let all = cache.from(0, from).flat_map(|piece| piece.records.iter().map(|record| record.offset));
        all.filter(|offset| *offset >= from).collect()
    }

    #[test]
    fn what_is_given_has_no_gap_and_nothing_twice() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for (from, next) in [(10, 20), (20, 25), (40, 50), (22, 30), (12, 28), (30, 45)] {
            cache.add(&piece(from, next, 1, now));
        }
        assert_eq!(offsets(&cache, 15), (15..45).collect::<Vec<_>>());
        assert_eq!(offsets(&cache, 45), (45..50).collect::<Vec<_>>(), "the run that begins at 40");
        assert!(!cache.covers(0, 50) && !cache.covers(0, 9) && !cache.covers(1, 15));
        assert_eq!((cache.since(0, 30), cache.since(0, 50), cache.since(0, 9), cache.end(0)), (10, 40, 9, Some(50)));
    }

    #[test]
    fn bytes_and_age_are_bounded() {
        let (mut cache, began) = (Cache::default(), Instant::now());
        for n in 0..100 {
            cache.add(&piece(n, n + 1, PIECE, began + Duration::from_secs(n)));
            assert!(cache.weight <= MOST && cache.covers(0, n), "the newest stays");
        }
        assert_eq!(offsets(&cache, 90), Vec::<u64>::new(), "the oldest went");
        assert_eq!(offsets(&cache, 93), (93..100).collect::<Vec<_>>());
        cache.expire(began + Duration::from_secs(95) + LIFE);
        assert_eq!((cache.covers(0, 95), offsets(&cache, 96)), (false, (96..100).collect()));
        cache.expire(began + Duration::from_secs(99) + LIFE);
        assert!(cache.is_empty() && cache.weight == 0);
        // What is larger than all room is there for nobody else.
        assert_eq!(cache.add(&piece(0, 1, MOST, began)).len(), 1);
        assert!(cache.is_empty());
    }
}
