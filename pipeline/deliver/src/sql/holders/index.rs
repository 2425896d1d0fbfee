//! The keys of rows that a subscriber was sent, in the subscription's own keyed state in the log.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use guitong_log::StateChange;

use super::unnoted::Envelope;
use crate::hold::Hold;
use crate::sink::SinkError;
use crate::stand::{damaged, of_log, store};

/// Rows that the subscriber has, or may have; of each its key alone, under the version of this format.
const HELD: &str = "sql-held";
const FORMAT: &[u8] = &[1];
/// Rows that it had: since when not, microseconds since 1970-01-01T00:00Z, big endian.
const GONE: &str = "sql-gone";
/// Of what [`HELD`] and [`GONE`] are, and what seals lists of them.
const OWN: &str = "sql";
const MARK: &[u8] = b"mark";
const KEY: &[u8] = b"key";
/// Entries that are looked at together.
const PAGE: usize = 4_096;

#[derive(Debug, Clone)]
pub(super) struct Index(Hold);

impl Index {
    pub(super) fn new(hold: &Hold) -> Self {
        Self(hold.clone())
    }

    /// The mark of what is noted, and the key that seals lists of it; begun anew where there is none.
    pub(super) async fn mark(&self) -> Result<(Arc<str>, Bytes), SinkError> {
        let keys = [Bytes::from_static(MARK), Bytes::from_static(KEY)];
        let stored = self.0.lock().await.get(OWN, &keys).await.map_err(of_log)?;
        if let [Some(mark), Some(key)] = stored.as_slice() {
            let mark = std::str::from_utf8(mark).map_err(|error| damaged(error.to_string()))?;
            return Ok((mark.into(), key.clone()));
        }
        // Before there is a mark: what a mark is of is never emptied.
        self.forget(HELD, |_| Ok(true)).await?;
        self.forget(GONE, |_| Ok(true)).await?;
        let mark = hex::encode(rand::random::<[u8; 16]>());
        let key = Bytes::copy_from_slice(&rand::random::<[u8; Envelope::KEY]>());
        let own = [(MARK, Bytes::from(mark.clone())), (KEY, key.clone())];
        let own = own.map(|(name, value)| change(OWN, Bytes::from_static(name), Some(value)));
        store(&self.0, own.into()).await?;
        Ok((mark.into(), key))
    }

    /// Which of these rows the subscriber may have.
    pub(super) async fn held<'k>(&self, rows: impl Iterator<Item = &'k [u8]>) -> Result<HashSet<&'k [u8]>, SinkError> {
        self.found(HELD, rows.collect()).await
    }

    /// A page of the rows that the subscriber may have, behind `after`; empty where there are no more.
    pub(super) async fn page(&self, after: Option<&[u8]>) -> Result<Vec<Bytes>, SinkError> {
        let page = self.0.lock().await.scan(HELD, b"", after, PAGE).await.map_err(of_log)?;
        Ok(page.into_iter().map(|(row, _)| row).collect())
    }

    /// Which of these rows it had and has no more.
    pub(super) async fn gone<'k>(&self, rows: Vec<&'k [u8]>) -> Result<HashSet<&'k [u8]>, SinkError> {
        self.found(GONE, rows).await
    }

    async fn found<'k>(&self, map: &'static str, rows: Vec<&'k [u8]>) -> Result<HashSet<&'k [u8]>, SinkError> {
        if rows.is_empty() {
            return Ok(HashSet::new());
        }
        let keys: Vec<_> = rows.iter().map(|row| Bytes::copy_from_slice(row)).collect();
        let stored = self.0.lock().await.get(map, &keys).await.map_err(of_log)?;
        Ok(rows.into_iter().zip(stored).filter_map(|(row, stored)| stored.map(|_| row)).collect())
    }

    /// Notes rows that are about to be sent, and rows that are gone since a moment; none is among both.
    pub(super) async fn note(&self, sent: &[Bytes], gone: impl Iterator<Item = (Bytes, i64)>) -> Result<(), SinkError> {
        let mut state = notes(sent);
        for (row, since) in gone {
            state.push(change(HELD, row.clone(), None));
            state.push(change(GONE, row, Some(Bytes::copy_from_slice(&since.to_be_bytes()))));
        }
        store(&self.0, state).await
    }

    /// Forgets rows that are gone since before this moment, microseconds since 1970-01-01T00:00Z.
    pub(super) async fn forget_gone(&self, before_us: i64) -> Result<(), SinkError> {
        let is_old = |value: &[u8]| match value.first_chunk() {
            Some(since) => Ok(i64::from_be_bytes(*since) < before_us),
            None => Err(damaged(format!("{} bytes that are no moment", value.len()))),
        };
        self.forget(GONE, is_old).await
    }

    /// Forgets the entries whose value is `old`.
    async fn forget(&self, map: &'static str, old: impl Fn(&[u8]) -> Result<bool, SinkError> + Send) -> Result<(), SinkError> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.0.lock().await.scan(map, b"", after.as_deref(), PAGE).await.map_err(of_log)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.to_vec());
            let mut state = Vec::new();
            for (row, value) in page {
                if old(&value)? {
                    state.push(change(map, row, None));
                }
            }
            if !state.is_empty() {
                store(&self.0, state).await?;
            }
        }
    }
}

/// What tells the log of rows that are sent.
pub(super) fn notes(sent: &[Bytes]) -> Vec<StateChange> {
    sent.iter().map(|row| change(HELD, row.clone(), Some(Bytes::from_static(FORMAT)))).collect()
}

fn change(map: &'static str, key: Bytes, value: Option<Bytes>) -> StateChange {
    StateChange { map: map.into(), key, value }
}
