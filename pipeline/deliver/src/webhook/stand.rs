//! Where a subscription stands whose sink holds nothing: offsets, the rows that the endpoint holds, and the last audit entries, in
//! the subscription's own keyed state in the log.

use bytes::Bytes;
use guitong_govern::audit::{AuditEntry, Range};
use guitong_log::{AppendError, Batch, LogError, OwnedLog, StateChange};
use guitong_schemas::position::Version;
use serde::{Deserialize, Serialize};

use crate::hold::Hold;
use crate::sink::{PartitionStand, SinkError, SinkErrorKind};

/// Keyed state: the one entry below, and what the endpoint holds, by row.
const STAND: &str = "webhook";
const HELD: &str = "webhook-held";
const ONE: &[u8] = b"stand";
/// Rows read at once.
pub(super) const PAGE: usize = 256;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct StandState {
    pub(super) epoch: u64,
    pub(super) log: String,
    pub(super) topic: String,
    /// Fingerprint of the grant, in hexadecimal.
    pub(super) grant: String,
    /// Names of the key's parts under which `held` is kept.
    pub(super) key: Vec<String>,
    /// How often everything was delivered again.
    pub(super) generation: u64,
    /// Epoch of the refill under way.
    pub(super) sweep: Option<u64>,
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
        Some(moved)
    }

    fn change(&self) -> StateChange {
        // Texts and numbers always serialise.
        let value = Bytes::from(serde_json::to_vec(self).unwrap_or_default());
        StateChange { map: STAND.into(), key: Bytes::from_static(ONE), value: Some(value) }
    }
}

/// What is known of one row: the version and epoch it was last sent under, and since when it is deleted, where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) version: [u8; Version::LEN],
    pub(super) epoch: u64,
    /// Microseconds since 1970-01-01T00:00Z.
    pub(super) deleted_us: Option<i64>,
}

impl Held {
    fn to_bytes(&self) -> Bytes {
        let deleted_us = self.deleted_us.map(i64::to_be_bytes);
        let deleted: &[u8] = deleted_us.as_ref().map_or(&[], |us| us);
        Bytes::from([self.version.as_slice(), &self.epoch.to_be_bytes(), deleted].concat())
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk::<{ Version::LEN }>()?;
        let (epoch, rest) = rest.split_first_chunk::<8>()?;
        let deleted_us = rest.first_chunk::<8>().map(|us| i64::from_be_bytes(*us));
        Some(Self { version: *version, epoch: u64::from_be_bytes(*epoch), deleted_us })
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
    let parse = |bytes: Bytes| serde_json::from_slice(&bytes);
    let damaged = |error: serde_json::Error| SinkError::new(SinkErrorKind::Shape, format!("the stored stand is damaged: {error}"));
    stored.into_iter().next().flatten().map(parse).transpose().map_err(damaged)
}

/// What is known of `rows`, in their order.
pub(super) async fn held<'r>(hold: &Hold, rows: impl Iterator<Item = &'r [u8]>) -> Result<Vec<Option<Held>>, SinkError> {
    let keys: Vec<_> = rows.map(Bytes::copy_from_slice).collect();
    let stored = hold.lock().await.get(HELD, &keys).await.map_err(of_log)?;
    Ok(stored.into_iter().map(|bytes| Held::from_bytes(&bytes?)).collect())
}

/// Rows behind `after`, at most [`PAGE`].
pub(super) async fn page(hold: &Hold, after: Option<&[u8]>) -> Result<Vec<(Bytes, Held)>, SinkError> {
    let page = hold.lock().await.scan(HELD, b"", after, PAGE).await.map_err(of_log)?;
    Ok(page.into_iter().filter_map(|(row, bytes)| Some((row, Held::from_bytes(&bytes)?))).collect())
}

/// Stores the stand with changes of what is held, all or nothing.
pub(super) async fn commit(hold: &Hold, stand: &StandState, mut held: Vec<StateChange>) -> Result<(), SinkError> {
    held.push(stand.change());
    let done = hold.lock().await.append(Batch { state: held, ..Batch::default() }).await;
    done.map(drop).map_err(|(AppendError::Refused(error) | AppendError::Unknown(error))| of_log(error))
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
        for deleted_us in [None, Some(-7)] {
            let held = Held { version: [3; Version::LEN], epoch: 9, deleted_us };
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
