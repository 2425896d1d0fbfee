//! A subscription's reader of a topic that others read, too.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use guitong_log::{Bounds, LogError, LogReader, ReadBatch, ReadBudget, TopicPartition};
use tokio::time::Instant;

use super::Counted;
use super::cache::{PIECE, Piece};
use super::topic::{Asked, Flight, Positions, Step, Topic, Turn, follow};

const DAY: Duration = Duration::from_secs(86_400);

#[derive(Debug)]
pub(super) struct SharedReader {
    topic: Arc<Topic>,
    id: u64,
    /// Moves when a read is answered, and only then.
    at: Positions,
    /// The partition that is given first, in turn, so that a busy one does not starve the others.
    first: u32,
    counted: Counted,
}

impl SharedReader {
    pub(super) fn new(topic: Arc<Topic>, at: Positions, counted: Counted) -> Self {
        Self { id: topic.join(&at), topic, at, first: 0, counted }
    }

    /// Sees to it that the log holds where reading begins, as the log does for a reader of its own.
    pub(super) async fn begin(&self) -> Result<(), LogError> {
        let gaps = self.topic.gaps();
        if self.topic.serves(&self.at) {
            return self.forgetting(self.check().await);
        }
        let reader = self.forgetting(self.topic.log.reader(self.from()).await)?;
        self.topic.keep(self.at.clone(), reader, &[], gaps);
        Ok(())
    }

    async fn check(&self) -> Result<(), LogError> {
        for (at, wanted) in self.from() {
            let Bounds { earliest, end } = self.topic.log.bounds(&at).await?;
            if wanted < earliest || wanted > end {
                return Err(LogError::Gap { at, wanted, earliest, end, of: None });
            }
            if self.topic.end(at.partition) > Some(end) {
                self.topic.forget();
            }
        }
        Ok(())
    }

    /// After a gap, or where the topic is gone, what was read before may be of a topic that is no more.
    fn forgetting<T>(&self, read: Result<T, LogError>) -> Result<T, LogError> {
        if let Err(LogError::Gap { .. } | LogError::NoTopic { .. }) = &read {
            self.topic.forget();
        }
        read
    }

    /// Where it stands, first the partition whose turn it is.
    fn from(&self) -> Vec<(TopicPartition, u64)> {
        let turns = self.at.range(self.first..).chain(self.at.range(..self.first));
        turns.map(|(&partition, &next)| (self.partition(partition), next)).collect()
    }

    fn partition(&self, partition: u32) -> TopicPartition {
        TopicPartition::new(Arc::clone(&self.topic.name), partition)
    }

    async fn next(&mut self, budget: ReadBudget) -> Result<ReadBatch, LogError> {
        let until = Instant::now() + budget.wait.min(DAY);
        loop {
            let asked = Asked { id: self.id, at: &self.at, first: self.first, bytes: budget.bytes, until };
            match self.topic.next(asked) {
                Step::Take(pieces) => return Ok(self.take(&pieces, budget.bytes)),
                Step::Follow(flight) => {
                    if !follow(flight, until).await {
                        return Ok(ReadBatch::default());
                    }
                }
                Step::Lead(flight, turn) => return self.lead(flight, turn, budget.bytes, until).await,
                Step::Alone(turn) => return self.alone(turn, budget).await,
            }
        }
    }

    /// Reads a piece for all, and takes of it as much as it asked for.
    async fn lead(&mut self, flight: Flight, mut turn: Turn, bytes: usize, until: Instant) -> Result<ReadBatch, LogError> {
        let reader = self.opened(&mut turn).await?;
        let mut read = reader.read(ReadBudget { bytes: PIECE, wait: Duration::ZERO }).await?;
        let wait = until.saturating_duration_since(Instant::now());
        if read.next.is_empty() && !wait.is_zero() {
            flight.waits();
            read = reader.read(ReadBudget { bytes: PIECE, wait }).await?;
        }
        self.counted.log.inc_by(read.records.len() as u64);
        let pieces = Piece::of(read, &self.at, self.id, Instant::now());
        flight.land(turn, &pieces);
        Ok(self.take(&pieces, bytes))
    }

    /// Reads as if there were nobody else; nothing is copied.
    async fn alone(&mut self, mut turn: Turn, budget: ReadBudget) -> Result<ReadBatch, LogError> {
        let batch = self.opened(&mut turn).await?.read(budget).await?;
        for (at, next) in &batch.next {
            self.at.entry(at.partition).and_modify(|furthest| *furthest = (*next).max(*furthest));
            self.first = at.partition.saturating_add(1);
        }
        turn.end(&self.topic, &self.at);
        self.counted.log.inc_by(batch.records.len() as u64);
        Ok(batch)
    }

    /// The reader that stands here; one is opened where there is none.
    async fn opened<'t>(&self, turn: &'t mut Turn) -> Result<&'t mut Box<dyn LogReader>, LogError> {
        match &mut turn.reader {
            Some(reader) => Ok(reader),
            none => Ok(none.insert(self.topic.log.reader(self.from()).await?)),
        }
    }

    /// As much of the pieces as the budget allows, from where it stands on.
    fn take(&mut self, pieces: &[Piece], bytes: usize) -> ReadBatch {
        let before = self.at.clone();
        let (mut records, mut used) = (Vec::new(), 0);
        for piece in pieces {
            let Some(next) = self.at.get_mut(&piece.partition) else { continue };
            let had = records.len();
            let passed = piece.records.partition_point(|record| record.offset < *next);
            let mut full = false;
            for record in piece.records.iter().skip(passed) {
                used += record.size();
                full = used > bytes && !records.is_empty();
                if full {
                    break;
                }
                *next = record.offset + 1;
                records.push(record.clone());
            }
            if piece.by != self.id {
                self.counted.shared.inc_by((records.len() - had) as u64);
            }
            // Whose next record found no room has its turn still.
            let passed_over = full && records.len() == had;
            self.first = if passed_over { piece.partition } else { piece.partition.saturating_add(1) };
            if full {
                break;
            }
            *next = piece.next.max(*next);
        }
        let moved = self.at.iter().filter(|(partition, next)| before.get(partition) != Some(next));
        let next = moved.map(|(&partition, &next)| (self.partition(partition), next)).collect();
        ReadBatch { records, next }
    }
}

#[async_trait]
impl LogReader for SharedReader {
    async fn read(&mut self, budget: ReadBudget) -> Result<ReadBatch, LogError> {
        let read = self.next(budget).await;
        self.forgetting(read)
    }
}

impl Drop for SharedReader {
    fn drop(&mut self) {
        self.topic.leave(self.id);
    }
}
