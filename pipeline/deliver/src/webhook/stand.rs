//! Where a subscription stands whose sink holds nothing: offsets, the rows that the endpoint may have, and the last audit entries, in
//! the subscription's own keyed state in the log.

use bytes::Bytes;
use guitong_govern::audit::{AuditEntry, Range};
use guitong_log::{AppendError, Batch, LogError, StateChange};
use guitong_schemas::position::Version;
use serde::{Deserialize, Serialize};

use crate::hold::Hold;
use crate::sink::{PartitionStand, SinkError, SinkErrorKind};

/// Keyed state: the one entry below, and what the endpoint has, by row.
const STAND: &str = "webhook";
const HELD: &str = "webhook-held";
const ONE: &[u8] = b"stand";
/// Rows read at once.
const PAGE: usize = 256;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct StandState {
    pub(super) epoch: u64,
    pub(super) log: String,
    pub(super) topic: String,
    /// Fingerprint of the grant, in hexadecimal.
    pub(super) grant: String,
    /// Names of the key's parts under which rows are known to the endpoint.
    pub(super) key: Vec<String>,
    /// How often everything was delivered again.
    pub(super) generation: u64,
    /// Epoch of the refill under way.
    pub(super) sweep: Option<u64>,
    /// Epoch of the replay under way.
    #[serde(default)]
    pub(super) replay: Option<u64>,
    /// Number, next offset, end of the refill.
    pub(super) partitions: Vec<(u32, u64, u64)>,
    pub(super) entries: Vec<AuditEntry>,
}

impl StandState {
    pub(super) fn partitions(&self) -> Vec<PartitionStand> {
        let stand = |&(partition, next, refill_to): &(u32, u64, u64)| PartitionStand { partition, next, refill_to };
        self.partitions.iter().map(stand).collect()
    }

    /// Moves each offset on from where the batch starts; `None` where one is not there.
    pub(super) fn moved(&self, ranges: &[Range]) -> Option<Self> {
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

    fn change(&self) -> StateChange {
        // Texts and numbers always serialise.
        let value = Bytes::from(serde_json::to_vec(self).unwrap_or_default());
        StateChange { map: STAND.into(), key: Bytes::from_static(ONE), value: Some(value) }
    }
}

/// What is known of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    /// Of the change that was sent last.
    pub(super) version: [u8; Version::LEN],
    /// Of the deliverer that sent it.
    pub(super) epoch: u64,
    pub(super) there: There,
}

/// Whether the endpoint has a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum There {
    /// It may: the row was about to be sent to an endpoint that did not have it. Nobody knows whether that came to pass.
    Perhaps,
    Yes,
    /// Deleted since, microseconds since 1970-01-01T00:00Z.
    Gone(i64),
}

impl Held {
    /// Whether the endpoint is to hear that the row goes.
    pub(super) fn may_be_there(&self) -> bool {
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

    pub(super) fn change(&self, row: &[u8]) -> StateChange {
        StateChange { map: HELD.into(), key: Bytes::copy_from_slice(row), value: Some(self.to_bytes()) }
    }
}

pub(super) fn forgotten(row: Bytes) -> StateChange {
    StateChange { map: HELD.into(), key: row, value: None }
}

pub(super) async fn read(hold: &Hold) -> Result<Option<StandState>, SinkError> {
    let stored = hold.lock().await.get(STAND, &[Bytes::from_static(ONE)]).await.map_err(of_log)?;
    let parse = |bytes: Bytes| serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()));
    stored.into_iter().next().flatten().map(parse).transpose()
}

/// What is known of `rows`, in their order.
pub(super) async fn held(hold: &Hold, rows: Vec<Bytes>) -> Result<Vec<Option<Held>>, SinkError> {
    let stored = hold.lock().await.get(HELD, &rows).await.map_err(of_log)?;
    stored.into_iter().map(|bytes| bytes.map(|bytes| known(&bytes)).transpose()).collect()
}

/// Rows behind `after`; none where there are no more.
pub(super) async fn page(hold: &Hold, after: Option<&[u8]>) -> Result<Vec<(Bytes, Held)>, SinkError> {
    let page = hold.lock().await.scan(HELD, b"", after, PAGE).await.map_err(of_log)?;
    page.into_iter().map(|(row, bytes)| Ok((row, known(&bytes)?))).collect()
}

fn known(bytes: &[u8]) -> Result<Held, SinkError> {
    Held::from_bytes(bytes).ok_or_else(|| damaged(format!("{} bytes that are no row", bytes.len())))
}

fn damaged(why: String) -> SinkError {
    SinkError::new(SinkErrorKind::Shape, format!("what the log keeps of the endpoint is damaged: {why}"))
}

/// Stores the stand with changes of what is held, all or nothing.
pub(super) async fn commit(hold: &Hold, stand: &StandState, mut held: Vec<StateChange>) -> Result<(), SinkError> {
    held.push(stand.change());
    note(hold, held).await
}

/// Stores changes of what is held.
pub(super) async fn note(hold: &Hold, held: Vec<StateChange>) -> Result<(), SinkError> {
    let done = hold.append(Batch { state: held, ..Batch::default() }).await;
    done.map_err(|error| match error {
        AppendError::Refused(error) => of_log(error),
        // Opening the log again tells.
        AppendError::Unknown(error) => SinkError::new(SinkErrorKind::Unreachable, error.to_string()),
    })
}

fn of_log(error: LogError) -> SinkError {
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
