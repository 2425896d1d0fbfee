//! The owner as a rebuild sees it: keyed state of its own beside the resource's, the joined tables' rows shared, nothing in `std.`.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use guitong_log::{
    AppendError, Batch, Committed, KeyedState, LogError, OwnedLog, OwnerId, StateChange, StoredOffset, TopicPartition,
};

use super::state::{Step, Stored};
use crate::drift::COLUMNS;
use crate::error::SessionError;
use crate::join::state::Refresh;
use crate::join::{INPUTS, LINKS, REFRESH, USERS};
use crate::keyed::{ENTITIES, QUARANTINE, ROWS, TOTALS};
use crate::quality::QUALITY;
use crate::quarantine::record;

/// Maps that are made aside, with the names that they have there.
const MAPS: [(&str, &str); 10] = [
    (ROWS, "rebuild.rows"),
    (ENTITIES, "rebuild.entities"),
    (QUARANTINE, "rebuild.quarantine"),
    (TOTALS, "rebuild.totals"),
    (QUALITY, "rebuild.quality"),
    (LINKS, "rebuild.links"),
    (USERS, "rebuild.users"),
    (INPUTS, "rebuild.inputs"),
    (REFRESH, "rebuild.refresh"),
    (COLUMNS, "rebuild.columns"),
];

/// Entries that one commit removes.
const PAGE: usize = 1_000;

/// The name that a map has aside; its own where it is shared.
pub(super) fn name(map: &str) -> &str {
    MAPS.iter().find(|(known, _)| *known == map).map_or(map, |(_, aside)| aside)
}

#[derive(Debug)]
pub(crate) struct Aside<'o> {
    pub(super) owner: &'o mut dyn OwnedLog,
    pub(super) stored: &'o mut Stored,
    /// The one topic that is written: an entry's event has to be there once the entry counts.
    pub(super) quarantine: &'o str,
}

#[async_trait]
impl OwnedLog for Aside<'_> {
    fn owner(&self) -> &OwnerId {
        self.owner.owner()
    }

    fn position(&self) -> Option<Bytes> {
        None
    }

    fn offset(&self, _at: &TopicPartition) -> Option<StoredOffset> {
        None
    }

    async fn append(&mut self, batch: Batch) -> Result<Committed, AppendError> {
        let Batch { records, offsets, state, .. } = batch;
        let mut stored = self.stored.clone();
        if let (Some(run), Some((_, next))) = (&mut stored.run, offsets.first()) {
            run.step = Step::Reading { next: Some(*next) };
        }
        let records = records.into_iter().filter(|record| *record.topic == *self.quarantine).collect();
        let mut changes = Vec::with_capacity(state.len() + 1);
        let mut last: Option<(Arc<str>, Arc<str>)> = None;
        for StateChange { map, key, value } in state {
            // Changes of one map follow each other.
            let known = last.take().filter(|(of, _)| *of == map);
            let (_, aside) = last.insert(known.unwrap_or_else(|| (Arc::clone(&map), name(&map).into())));
            changes.push(StateChange { map: Arc::clone(aside), key, value });
        }
        changes.push(stored.change());
        let committed = self.owner.append(Batch { records, state: changes, ..Batch::default() }).await?;
        *self.stored = stored;
        Ok(committed)
    }

    fn state(&self) -> Arc<dyn KeyedState> {
        Arc::new(AsideMaps(self.owner.state()))
    }

    async fn get(&self, map: &str, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LogError> {
        self.owner.get(name(map), keys).await
    }

    async fn scan(&self, map: &str, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>, LogError> {
        self.owner.scan(name(map), prefix, after, limit).await
    }
}

#[derive(Debug)]
struct AsideMaps(Arc<dyn KeyedState>);

#[async_trait]
impl KeyedState for AsideMaps {
    async fn get(&self, map: &str, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LogError> {
        self.0.get(name(map), keys).await
    }
}

/// Removes a page of what lies aside; whether there was any. Events of entries go with them.
pub(super) async fn clear(owner: &mut dyn OwnedLog, quarantine: &Arc<str>) -> Result<bool, SessionError> {
    let now_ms = jiff::Timestamp::now().as_millisecond();
    for (map, aside) in MAPS {
        let page = owner.scan(aside, &[], None, PAGE).await?;
        if page.is_empty() {
            continue;
        }
        let seqs = page.iter().filter(|_| map == QUARANTINE).filter_map(|(key, _)| key.as_ref().try_into().ok());
        let records = seqs.map(|seq| record::released(quarantine, u64::from_be_bytes(seq), now_ms)).collect();
        let state = page.into_iter().map(|(key, _)| StateChange { map: aside.into(), key, value: None }).collect();
        owner.append(Batch { records, state, ..Batch::default() }).await?;
        return Ok(true);
    }
    Ok(false)
}

/// What the resource is to make again since a joined row changed, the rebuild has to make again as well.
pub(crate) fn follow(state: &mut Vec<StateChange>) {
    let is_asked = |change: &&StateChange| {
        let refresh = change.value.as_ref().filter(|_| *change.map == *REFRESH).map(Refresh::decode);
        // With a cursor it is how far the resource's own rows are.
        matches!(refresh, Some(Ok(refresh)) if refresh.after.is_empty())
    };
    let aside = |change: &StateChange| StateChange { map: name(REFRESH).into(), ..change.clone() };
    let asked: Vec<_> = state.iter().filter(is_asked).map(aside).collect();
    state.extend(asked);
}
