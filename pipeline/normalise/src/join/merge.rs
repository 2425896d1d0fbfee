//! Several raw topics of one system as one stream, in the order of the source's commits.
//!
//! A record is given out once no topic can still bring one of an earlier commit: every topic has a record waiting, or was read to
//! the end that it had after the waiting ones were seen. Within one commit the joined tables come first, so a row meets what was
//! written with it. Each topic's own order stays as it is.

use std::collections::VecDeque;
use std::time::Duration;

use futures::future::select_all;
use guitong_log::{ExchangeLog, LogError, LogReader, ReadBatch, ReadBudget, Record, TopicPartition};
use guitong_schemas::position::Version;

use crate::stage::arrival::VERSION;

/// How long one read waits for records that another topic's order depends on.
const CATCH_UP: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(crate) struct Merge {
    lanes: Vec<Lane>,
}

/// One topic.
#[derive(Debug)]
struct Lane {
    at: TopicPartition,
    /// Joined tables go before the resource's own in one commit.
    is_own: bool,
    reader: Box<dyn LogReader>,
    /// Next offset to be read.
    next: u64,
    waiting: VecDeque<(Commit, Record)>,
    /// The end that the topic had when it was last asked for.
    end: u64,
}

/// Epoch and position of a commit.
type Commit = (u32, u64);

impl Merge {
    /// Reads each topic from its offset; `own` is the resource's.
    pub(crate) async fn begin(log: &dyn ExchangeLog, from: Vec<(TopicPartition, u64)>, own: &str) -> Result<Self, LogError> {
        let mut lanes = Vec::with_capacity(from.len());
        for (at, next) in from {
            let reader = log.reader(vec![(at.clone(), next)]).await?;
            lanes.push(Lane { is_own: *at.topic == *own, at, reader, next, waiting: VecDeque::new(), end: 0 });
        }
        Ok(Self { lanes })
    }

    /// The next records; none where none came in time. Cancelling loses nothing.
    pub(crate) async fn read(&mut self, log: &dyn ExchangeLog, budget: ReadBudget) -> Result<ReadBatch, LogError> {
        let share = (budget.bytes / self.lanes.len().max(1)).max(1);
        if self.lanes.iter().all(|lane| lane.waiting.is_empty()) {
            self.wait(ReadBudget { bytes: share, wait: budget.wait }).await?;
        }
        for lane in self.lanes.iter_mut().filter(|lane| lane.waiting.is_empty()) {
            lane.read(ReadBudget { bytes: share, wait: Duration::ZERO }).await?;
        }
        for lane in &mut self.lanes {
            lane.end = log.written(&lane.at).await?;
        }
        // An end may lie behind a transaction that is still open.
        for lane in self.lanes.iter_mut().filter(|lane| lane.is_open()) {
            lane.read(ReadBudget { bytes: share, wait: CATCH_UP }).await?;
        }
        Ok(self.take(budget.bytes))
    }

    /// Waits until a topic has something.
    async fn wait(&mut self, budget: ReadBudget) -> Result<(), LogError> {
        if self.lanes.is_empty() {
            tokio::time::sleep(budget.wait).await;
            return Ok(());
        }
        let reads = self.lanes.iter_mut().map(|lane| Box::pin(lane.read(budget)));
        select_all(reads).await.0
    }

    fn take(&mut self, bytes: usize) -> ReadBatch {
        let (mut merged, mut size) = (ReadBatch::default(), 0);
        while size < bytes && !self.lanes.iter().any(Lane::is_open) {
            let heads = self.lanes.iter_mut().filter_map(|lane| {
                // What came while other topics' ends were asked for is later than those.
                let (commit, _) = lane.waiting.front().filter(|(_, record)| record.offset < lane.end)?;
                Some(((*commit, lane.is_own), lane))
            });
            let Some((_, lane)) = heads.min_by_key(|(order, _)| *order) else { break };
            if let Some((_, record)) = lane.waiting.pop_front() {
                size += record.value.as_ref().map_or(64, |value| value.len() + 64);
                merged.records.push(record);
            }
        }
        merged.next = self.lanes.iter().map(|lane| (lane.at.clone(), lane.done())).collect();
        merged
    }
}

impl Lane {
    async fn read(&mut self, budget: ReadBudget) -> Result<(), LogError> {
        let ReadBatch { records, next } = self.reader.read(budget).await?;
        self.next = next.iter().find(|(at, _)| *at == self.at).map_or(self.next, |(_, next)| *next);
        self.waiting.extend(records.into_iter().map(|record| (commit_of(&record), record)));
        Ok(())
    }

    /// A record of an earlier commit may still come.
    fn is_open(&self) -> bool {
        self.waiting.is_empty() && self.next < self.end
    }

    /// Everything before this offset was given out.
    fn done(&self) -> u64 {
        self.waiting.front().map_or(self.next, |(_, record)| record.offset)
    }
}

/// Of a record that does not say, the first: it waits for nothing.
fn commit_of(record: &Record) -> Commit {
    let text = record.header(VERSION).and_then(|text| std::str::from_utf8(text).ok());
    let version = text.and_then(|text| text.parse::<Version>().ok()).unwrap_or_default();
    (version.epoch, version.commit)
}
