//! What a batch under way has read from keyed state and changed in it. Each map is read once per batch, for all keys together.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use guitong_log::{LogError, OwnedLog, StateChange};

use super::codec::CodecError;
use super::entity::EntityState;
use super::row::RowState;
use super::totals::Totals;
use super::{ENTITIES, QUARANTINE, ROWS, TOTALS};
use crate::join::overlay::JoinOverlay;
use crate::quality::day::Day;
use crate::quality::standing::{Standing, Tallied};
use crate::quality::window::{Pause, Window};
use crate::quality::{NOW, PAUSED, QUALITY, WINDOW};
use crate::quarantine::Entry;

/// A value of a map that can be stored.
pub(crate) trait Stored: Sized {
    const MAP: &'static str;
    fn encode(&self) -> Bytes;
    fn decode(bytes: &Bytes) -> Result<Self, CodecError>;
    /// What is counted of the map beside its size.
    fn is_marked(&self) -> bool;
}

macro_rules! stored {
    ($type:ty, $map:expr, $marked:expr) => {
        impl Stored for $type {
            const MAP: &'static str = $map;

            fn encode(&self) -> Bytes {
                <$type>::encode(self)
            }

            fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
                <$type>::decode(bytes)
            }

            fn is_marked(&self) -> bool {
                let marked: fn(&$type) -> bool = $marked;
                marked(self)
            }
        }
    };
}

stored!(RowState, ROWS, RowState::is_good);
stored!(EntityState, ENTITIES, |state| !state.claimants.is_empty());
stored!(Entry, QUARANTINE, |_| false);
stored!(Day, QUALITY, |_| false);

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
    /// Whether the stored value is marked; `None` where there is none.
    was: Option<bool>,
    changed: bool,
}

/// One map as the batch sees it.
#[derive(Debug)]
pub(crate) struct Cached<T> {
    slots: HashMap<Bytes, Slot<T>, RandomState>,
}

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Self { slots: HashMap::default() }
    }
}

impl<T: Stored> Cached<T> {
    /// Reads those of `keys` that the batch has not seen yet.
    pub(crate) async fn load(&mut self, owner: &dyn OwnedLog, keys: impl IntoIterator<Item = Bytes>) -> Result<(), StateError> {
        let wanted = self.unseen(keys.into_iter());
        if wanted.is_empty() {
            return Ok(());
        }
        let values = owner.get(T::MAP, &wanted).await?;
        for (key, value) in wanted.into_iter().zip(values) {
            if let Some(bytes) = value {
                let value = T::decode(&bytes).map_err(|error| StateError::Codec { map: T::MAP, error })?;
                let was = Some(value.is_marked());
                self.slots.insert(key, Slot { value: Some(value), was, changed: false });
            }
        }
        Ok(())
    }

    /// Those of `keys` that the batch has not seen yet, each with a place.
    fn unseen(&mut self, keys: impl Iterator<Item = Bytes>) -> Vec<Bytes> {
        let most = keys.size_hint().1.unwrap_or(0);
        self.slots.reserve(most);
        let mut unseen = Vec::with_capacity(most);
        for key in keys {
            if let Place::Vacant(place) = self.slots.entry(key) {
                unseen.push(place.key().clone());
                place.insert(Slot { value: None, was: None, changed: false });
            }
        }
        unseen
    }

    /// Everything that is loaded, to be seen otherwise; what is stored of it stays as it is.
    pub(crate) fn seen(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.values_mut().filter_map(|slot| slot.value.as_mut())
    }

    /// Whether the batch knows what the log holds under this key.
    pub(crate) fn is_loaded(&self, key: &[u8]) -> bool {
        self.slots.contains_key(key)
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&T> {
        self.slots.get(key).and_then(|slot| slot.value.as_ref())
    }

    /// A value of which more is to be held than the log has; what it stores does not change.
    pub(crate) fn fill(&mut self, key: &[u8]) -> Option<&mut T> {
        self.slots.get_mut(key).and_then(|slot| slot.value.as_mut())
    }

    pub(crate) fn take(&mut self, key: &[u8]) -> Option<T> {
        self.slots.get_mut(key).and_then(|slot| {
            slot.changed |= slot.value.is_some();
            slot.value.take()
        })
    }

    pub(crate) fn put(&mut self, key: Bytes, value: T) {
        self.set(key, Some(value));
    }

    pub(crate) fn remove(&mut self, key: Bytes) {
        self.set(key, None);
    }

    fn set(&mut self, key: Bytes, value: Option<T>) {
        let slot = self.slots.entry(key).or_insert(Slot { value: None, was: None, changed: true });
        slot.value = value;
        slot.changed = true;
    }

    /// A value to change; the default where there is none.
    pub(crate) fn edit(&mut self, key: Bytes) -> &mut T
    where
        T: Default,
    {
        let slot = self.slots.entry(key).or_insert(Slot { value: None, was: None, changed: true });
        slot.changed = true;
        slot.value.get_or_insert_default()
    }

    /// Takes what changed in and out of a count.
    fn tally(&self, tallied: &mut Tallied) {
        for slot in self.slots.values().filter(|slot| slot.changed) {
            tallied.change(slot.was, slot.value.as_ref().map(T::is_marked));
        }
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

/// What every commit brings up to date.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    pub(crate) totals: Totals,
    pub(crate) standing: Standing,
    pub(crate) window: Window,
}

/// Everything a batch reads and changes.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    pub(crate) rows: Cached<RowState>,
    pub(crate) entities: Cached<EntityState>,
    pub(crate) entries: Cached<Entry>,
    pub(crate) joins: JoinOverlay,
    pub(crate) days: Cached<Day>,
    pub(crate) totals: Totals,
    pub(crate) standing: Standing,
    pub(crate) window: Window,
    /// The resource pauses behind this batch.
    pub(crate) pause: Option<Pause>,
}

impl Overlay {
    pub(crate) fn new(counters: Counters) -> Self {
        let Counters { totals, standing, window } = counters;
        Self { totals, standing, window, ..Self::default() }
    }

    /// The changes to commit, and the counters that hold once they are.
    pub(crate) fn into_changes(mut self) -> (Vec<StateChange>, Counters) {
        let mut out = Vec::new();
        self.rows.tally(&mut self.standing.rows);
        self.entities.tally(&mut self.standing.keys);
        self.days.changes(&mut out);
        self.rows.changes(&mut out);
        self.entities.changes(&mut out);
        self.entries.changes(&mut out);
        self.joins.changes(&mut out);
        out.push(StateChange { map: TOTALS.into(), key: Bytes::new(), value: Some(self.totals.encode()) });
        let quality: Arc<str> = QUALITY.into();
        out.push(StateChange { map: Arc::clone(&quality), key: NOW, value: Some(self.standing.encode()) });
        if let Some(pause) = &self.pause {
            out.push(StateChange { map: Arc::clone(&quality), key: PAUSED, value: Some(pause.encode()) });
        }
        out.push(StateChange { map: quality, key: WINDOW, value: Some(self.window.encode()) });
        (out, Counters { totals: self.totals, standing: self.standing, window: self.window })
    }
}
