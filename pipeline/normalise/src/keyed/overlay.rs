//! What a batch under way has read from keyed state and changed in it. Each map is read once per batch, for all keys together.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use guitong_log::{LogError, OwnedLog, StateChange};

use super::codec::CodecError;
use super::entity::EntityState;
use super::row::RowState;
use super::totals::Totals;
use super::{ENTITIES, QUARANTINE, ROWS, TOTALS};
use crate::join::overlay::JoinOverlay;
use crate::quarantine::Entry;

/// A value of a map that can be stored.
pub(crate) trait Stored: Sized {
    const MAP: &'static str;
    fn encode(&self) -> Bytes;
    fn decode(bytes: &Bytes) -> Result<Self, CodecError>;
}

macro_rules! stored {
    ($type:ty, $map:expr) => {
        impl Stored for $type {
            const MAP: &'static str = $map;

            fn encode(&self) -> Bytes {
                <$type>::encode(self)
            }

            fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
                <$type>::decode(bytes)
            }
        }
    };
}

stored!(RowState, ROWS);
stored!(EntityState, ENTITIES);
stored!(Entry, QUARANTINE);

/// Why state could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("map {map}: {error}")]
    Codec { map: &'static str, error: CodecError },
}

#[derive(Debug)]
struct Slot<T> {
    value: Option<T>,
    changed: bool,
}

/// One map as the batch sees it.
#[derive(Debug)]
pub(crate) struct Cached<T> {
    slots: HashMap<Bytes, Slot<T>>,
}

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Self { slots: HashMap::new() }
    }
}

impl<T: Stored> Cached<T> {
    /// Reads those of `keys` that the batch has not seen yet.
    pub(crate) async fn load(&mut self, owner: &dyn OwnedLog, keys: impl IntoIterator<Item = Bytes>) -> Result<(), StateError> {
        let mut wanted = Vec::new();
        for key in keys {
            if !self.slots.contains_key(&key) {
                self.slots.insert(key.clone(), Slot { value: None, changed: false });
                wanted.push(key);
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let values = owner.get(T::MAP, &wanted).await?;
        for (key, value) in wanted.into_iter().zip(values) {
            if let Some(bytes) = value {
                let value = T::decode(&bytes).map_err(|error| StateError::Codec { map: T::MAP, error })?;
                self.slots.insert(key, Slot { value: Some(value), changed: false });
            }
        }
        Ok(())
    }

    /// Whether the batch knows what the log holds under this key.
    pub(crate) fn is_loaded(&self, key: &[u8]) -> bool {
        self.slots.contains_key(key)
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&T> {
        self.slots.get(key).and_then(|slot| slot.value.as_ref())
    }

    pub(crate) fn take(&mut self, key: &[u8]) -> Option<T> {
        self.slots.get_mut(key).and_then(|slot| {
            slot.changed |= slot.value.is_some();
            slot.value.take()
        })
    }

    pub(crate) fn put(&mut self, key: Bytes, value: T) {
        self.slots.insert(key, Slot { value: Some(value), changed: true });
    }

    pub(crate) fn remove(&mut self, key: Bytes) {
        self.slots.insert(key, Slot { value: None, changed: true });
    }

    pub(crate) fn changes(self, out: &mut Vec<StateChange>) {
        let map: Arc<str> = T::MAP.into();
        out.extend(self.slots.into_iter().filter(|(_, slot)| slot.changed).map(|(key, slot)| StateChange {
            map: Arc::clone(&map),
            key,
            value: slot.value.as_ref().map(T::encode),
        }));
    }
}

/// Everything a batch reads and changes.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    pub(crate) rows: Cached<RowState>,
    pub(crate) entities: Cached<EntityState>,
    pub(crate) entries: Cached<Entry>,
    pub(crate) joins: JoinOverlay,
    pub(crate) totals: Totals,
}

impl Overlay {
    pub(crate) fn new(totals: Totals) -> Self {
        Self { totals, ..Self::default() }
    }

    /// The changes to commit, and the totals that hold once they are.
    pub(crate) fn into_changes(self) -> (Vec<StateChange>, Totals) {
        let mut out = Vec::new();
        self.rows.changes(&mut out);
        self.entities.changes(&mut out);
        self.entries.changes(&mut out);
        self.joins.changes(&mut out);
        out.push(StateChange { map: TOTALS.into(), key: Bytes::new(), value: Some(self.totals.encode()) });
        (out, self.totals)
    }
}
