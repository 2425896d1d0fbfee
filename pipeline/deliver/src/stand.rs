//! Where a subscription stands whose sink is no database: offsets and the last audit entries, and the rows that the subscriber's end may
//! have, these in the subscription's own keyed state in the log.

use std::sync::Arc;

use bytes::Bytes;
use guitong_govern::audit::{AuditEntry, Range};
use guitong_log::{AppendError, Batch, LogError, StateChange};
use guitong_schemas::position::Version;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::hold::Hold;
use crate::sink::{PartitionStand, SinkError, SinkErrorKind};

/// Key of a sink's own entry.
const ONE: &[u8] = b"stand";
/// Rows that are looked at together.
const PAGE: usize = 4_096;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct StandState {
    pub(crate) epoch: u64,
    pub(crate) log: String,
    pub(crate) topic: String,
    /// Fingerprint of the grant, in hexadecimal.
    pub(crate) grant: String,
    /// What the rows are known by at the subscriber's end: names of the key's parts, or what else a sink has to tell of it.
    pub(crate) key: Vec<String>,
    /// How often everything was delivered again.
    pub(crate) generation: u64,
    /// Epoch of the refill under way.
    pub(crate) sweep: Option<u64>,
    /// Epoch of the replay under way.
    #[serde(default)]
    pub(crate) replay: Option<u64>,
    /// Number, next offset, end of the refill.
    pub(crate) partitions: Vec<(u32, u64, u64)>,
    pub(crate) entries: Vec<AuditEntry>,
}

impl StandState {
    pub(crate) fn partitions(&self) -> Vec<PartitionStand> {
        let stand = |&(partition, next, refill_to): &(u32, u64, u64)| PartitionStand { partition, next, refill_to };
        self.partitions.iter().map(stand).collect()
    }

    /// Moves each offset on from where the batch starts; `None` where one is not there.
    pub(crate) fn moved(&self, ranges: &[Range]) -> Option<Self> {
        let mut moved = self.clone();
        for range in ranges {
            let at = moved.partitions.iter_mut().find(|(partition, ..)| *partition == range.partition)?;
            if at.1 != range.from {
                return None;
            }
            at.1 = range.to;
        }
        if moved.partitions.iter().all(|(_, next, refill_to)| next >= refill_to) {
            moved.replay = None;
        }
        Some(moved)
    }

    /// Whether the replay under way sends the change at `version` again, which is the last one that was sent of the row.
    pub(crate) fn is_replayed(&self, held: &Held, version: &[u8]) -> bool {
        self.replay.is_some_and(|replay| held.epoch < replay) && version == held.version
    }

    /// The stand from which everything behind each partition's `next` is sent again.
    pub(crate) fn back_to(&self, partitions: &[PartitionStand]) -> Self {
        let partitions = partitions.iter().map(|at| (at.partition, at.next, at.refill_to)).collect();
        Self { replay: Some(self.epoch), partitions, ..self.clone() }
    }
}

/// What is known of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    /// Of the change that was sent last.
    pub(crate) version: [u8; Version::LEN],
    /// Of the deliverer that sent it.
    pub(crate) epoch: u64,
    pub(crate) there: There,
}

/// Whether the subscriber's end has a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum There {
    /// It may: the row was about to be sent to an end that did not have it. Nobody knows whether that came to pass.
    Perhaps,
    Yes,
    /// Deleted since, microseconds since 1970-01-01T00:00Z.
    Gone(i64),
}

impl Held {
    /// Whether the subscriber's end is to hear that the row goes.
    pub(crate) fn may_be_there(&self) -> bool {
        !matches!(self.there, There::Gone(_))
    }

    fn to_bytes(&self) -> Bytes {
        let (kind, since) = match self.there {
            There::Perhaps => (0, 0),
            There::Yes => (1, 0),
            There::Gone(us) => (2, us),
        };
        Bytes::from([&self.version[..], &self.epoch.to_be_bytes(), &[kind], &since.to_be_bytes()].concat())
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk()?;
        let (epoch, rest) = rest.split_first_chunk()?;
        let (kind, rest) = rest.split_first()?;
        let there = match kind {
            0 => There::Perhaps,
            1 => There::Yes,
            2 => There::Gone(i64::from_be_bytes(*rest.first_chunk()?)),
            _ => return None,
        };
        Some(Self { version: *version, epoch: u64::from_be_bytes(*epoch), there })
    }

    /// Whether the row was deleted before this moment.
    pub(crate) fn was_gone(&self, before_us: i64) -> bool {
        matches!(self.there, There::Gone(since) if since < before_us)
    }

    /// Whether a change at `version` is news to whoever has this; a refill that began with the epoch `sweep` sends again what it has
    /// not met yet.
    pub(crate) fn is_news(&self, version: &[u8], sweep: Option<u64>) -> bool {
        let again = sweep.is_some_and(|sweep| self.epoch < sweep) || self.there == There::Perhaps;
        version > self.version.as_slice() || (again && version == self.version)
    }
}

/// What becomes known of a row; `None` forgets it.
pub(crate) type Known = (Bytes, Option<Held>);

/// A sink's part of the subscription's keyed state: one entry of its own, and what is known of rows.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    hold: Hold,
    /// Names of the two maps.
    own: &'static str,
    rows: &'static str,
}

impl Kept {
    pub(crate) fn new(hold: &Hold, own: &'static str, rows: &'static str) -> Self {
        Self { hold: hold.clone(), own, rows }
    }

    /// The sink's own entry.
    pub(crate) async fn read<T: DeserializeOwned>(&self) -> Result<Option<T>, SinkError> {
        let stored = self.hold.lock().await.get(self.own, &[Bytes::from_static(ONE)]).await.map_err(of_log)?;
        let parse = |bytes: Bytes| serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()));
        stored.into_iter().next().flatten().map(parse).transpose()
    }

    /// What is known of `rows`, in their order.
    pub(crate) async fn held(&self, rows: &[Bytes]) -> Result<Vec<Option<Held>>, SinkError> {
        let stored = self.hold.lock().await.get(self.rows, rows).await.map_err(of_log)?;
        stored.into_iter().map(|bytes| bytes.map(|bytes| known(&bytes)).transpose()).collect()
    }

    /// At most so many rows behind `after`; none where there are no more.
    pub(crate) async fn page(&self, after: Option<&[u8]>, most: usize) -> Result<Vec<(Bytes, Held)>, SinkError> {
        let page = self.hold.lock().await.scan(self.rows, b"", after, most).await.map_err(of_log)?;
        page.into_iter().map(|(row, bytes)| Ok((row, known(&bytes)?))).collect()
    }

    /// Stores the sink's own entry with what becomes known of rows, all or nothing.
    pub(crate) async fn commit(&self, own: &impl Serialize, rows: Vec<Known>) -> Result<(), SinkError> {
        // Texts and numbers always serialise.
        let value = Bytes::from(serde_json::to_vec(own).unwrap_or_default());
        let own = StateChange { map: self.own.into(), key: Bytes::from_static(ONE), value: Some(value) };
        self.append(rows, Some(own)).await
    }

    /// Stores what becomes known of rows.
    pub(crate) async fn note(&self, rows: Vec<Known>) -> Result<(), SinkError> {
        self.append(rows, None).await
    }

    /// Forgets the rows for which `old` holds.
    pub(crate) async fn forget(&self, old: impl Fn(&Held) -> bool + Send) -> Result<(), SinkError> {
        let mut after = None;
        loop {
            let page = self.page(after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.to_vec());
            let old: Vec<_> = page.into_iter().filter(|(_, held)| old(held)).map(|(row, _)| (row, None)).collect();
            if !old.is_empty() {
                self.note(old).await?;
            }
        }
    }

    async fn append(&self, rows: Vec<Known>, own: Option<StateChange>) -> Result<(), SinkError> {
        let map: Arc<str> = self.rows.into();
        let change = |(key, held): Known| StateChange { map: Arc::clone(&map), key, value: held.map(|held| held.to_bytes()) };
        let state = rows.into_iter().map(change).chain(own).collect();
        store(&self.hold, state).await
    }
}

/// Stores entries in the subscription's keyed state, all or nothing.
pub(crate) async fn store(hold: &Hold, state: Vec<StateChange>) -> Result<(), SinkError> {
    let done = hold.append(Batch { state, ..Batch::default() }).await;
    done.map_err(|error| match error {
        AppendError::Refused(error) => of_log(error),
        // Opening the log again tells.
        AppendError::Unknown(error) => SinkError::new(SinkErrorKind::Unreachable, error.to_string()),
    })
}

fn known(bytes: &[u8]) -> Result<Held, SinkError> {
    Held::from_bytes(bytes).ok_or_else(|| damaged(format!("{} bytes that are no row", bytes.len())))
}

pub(crate) fn damaged(why: String) -> SinkError {
    SinkError::new(SinkErrorKind::Shape, format!("what the log keeps of the subscriber's end is damaged: {why}"))
}

pub(crate) fn of_log(error: LogError) -> SinkError {
    let kind = match &error {
        LogError::Fenced { .. } => SinkErrorKind::Fenced,
        error if error.is_transient() => SinkErrorKind::Unreachable,
        _ => SinkErrorKind::Shape,
    };
    SinkError::new(kind, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_read_as_it_is_written() {
        for there in [There::Perhaps, There::Yes, There::Gone(-7)] {
            let held = Held { version: [3; Version::LEN], epoch: 9, there };
            assert_eq!(Held::from_bytes(&held.to_bytes()), Some(held));
        }
        assert_eq!(Held::from_bytes(&[1, 2]), None);
    }

    #[test]
    fn offsets_move_only_from_where_they_are() {
        let stand = StandState { partitions: vec![(0, 5, 0)], ..StandState::default() };
        let range = |from, to| [Range { partition: 0, from, to }];
        assert_eq!(stand.moved(&range(5, 9)).map(|moved| moved.partitions), Some(vec![(0, 9, 0)]));
        assert!(stand.moved(&range(4, 9)).is_none() && stand.moved(&[Range { partition: 1, from: 0, to: 1 }]).is_none());
    }
}
