//! What the publisher keeps as keyed state: of rows that have them the columns that a later change may leave out, and how far a batch
//! went that a truncate made several commits.

use bytes::{BufMut, Bytes, BytesMut};
use guitong_log::{OwnedLog, StateChange};
use guitong_schemas::position::Version;

use super::PublishError;

/// Form of both values below.
const FORMAT: u8 = 1;

const PROGRESS_MAP: &str = "publish";
const PROGRESS_KEY: &[u8] = b"progress";

/// Versions of a truncate's deletes are this far apart, so that tables truncated together do not share one.
const TRUNCATE_STEP: u32 = 64;

/// Columns of a row, by name, since a table's columns may change between two changes of a row.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct KeptRow {
    pub(super) cells: Vec<(String, Bytes)>,
}

impl KeptRow {
    pub(super) fn encode(&self) -> Bytes {
        let mut out =
            BytesMut::with_capacity(1 + self.cells.iter().map(|(name, value)| 8 + name.len() + value.len()).sum::<usize>());
        out.put_u8(FORMAT);
        for (name, value) in &self.cells {
            for part in [name.as_bytes(), value] {
                // Both come from row images, whose values are below 2 GiB.
                out.put_u32(part.len() as u32);
                out.put_slice(part);
            }
        }
        out.freeze()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, PublishError> {
        const DAMAGED: PublishError = PublishError::State("a kept row does not end");
        let Some((&FORMAT, mut rest)) = bytes.split_first() else {
            return Err(PublishError::State("a kept row of unknown form"));
        };
        let mut cells = vec![];
        while !rest.is_empty() {
            let mut part = || {
                let (length, after) = rest.split_first_chunk::<4>().ok_or(DAMAGED)?;
                let (part, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or(DAMAGED)?;
                rest = after;
                Ok::<_, PublishError>(part)
            };
            let name = String::from_utf8(part()?.to_vec()).map_err(|_| PublishError::State("a column name that is not UTF-8"))?;
            cells.push((name, Bytes::copy_from_slice(part()?)));
        }
        Ok(Self { cells })
    }
}

/// How far a batch went whose position is not stored yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Every change up to this one is published.
    pub(super) done: Version,
    /// Keys that the truncate after it has deleted.
    pub(super) truncated: u32,
}

impl Progress {
    pub(super) async fn load(owned: &dyn OwnedLog) -> Result<Option<Self>, PublishError> {
        let stored = owned.get(PROGRESS_MAP, &[Bytes::from_static(PROGRESS_KEY)]).await?;
        stored.into_iter().flatten().next().map(|bytes| Self::decode(&bytes)).transpose()
    }

    fn decode(bytes: &[u8]) -> Result<Self, PublishError> {
        const DAMAGED: PublishError = PublishError::State("the progress of a batch does not read");
        let Some((&FORMAT, rest)) = bytes.split_first() else { return Err(DAMAGED) };
        let (version, truncated) = rest.split_at_checked(Version::LEN).ok_or(DAMAGED)?;
        let truncated = u32::from_be_bytes(truncated.try_into().map_err(|_| DAMAGED)?);
        Ok(Self { done: Version::from_bytes(version).map_err(|_| DAMAGED)?, truncated })
    }

    pub(super) fn change(&self) -> StateChange {
        let mut out = BytesMut::with_capacity(1 + Version::LEN + 4);
        out.put_u8(FORMAT);
        out.put_slice(&self.done.to_bytes());
        out.put_u32(self.truncated);
        StateChange { map: PROGRESS_MAP.into(), key: Bytes::from_static(PROGRESS_KEY), value: Some(out.freeze()) }
    }

    pub(super) fn removal() -> StateChange {
        StateChange { map: PROGRESS_MAP.into(), key: Bytes::from_static(PROGRESS_KEY), value: None }
    }
}

/// Version of the `count`-th delete of a truncate: later than the truncate, earlier than what follows it.
pub(super) fn truncate_version(truncate: Version, count: u32) -> Version {
    Version { index: truncate.index.saturating_add(count.saturating_mul(TRUNCATE_STEP)), ..truncate }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_rows_and_progress_round_trip() {
        let row = KeptRow { cells: vec![("备注".to_owned(), Bytes::from_static(b"x\0y")), ("b".to_owned(), Bytes::new())] };
        assert_eq!(KeptRow::decode(&row.encode()).unwrap(), row);
        assert!(KeptRow::decode(&row.encode()[..5]).is_err());
        assert!(KeptRow::decode(b"").is_err());
        let progress = Progress { done: Version { commit: 7, ..Version::default() }, truncated: 9 };
        assert_eq!(Progress::decode(&progress.change().value.unwrap()).unwrap(), progress);
    }
}
