//! Where the reading of joined tables begins: nothing of the resource is made before they are loaded.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use guitong_log::{Batch, Bounds, ExchangeLog, LogError, OwnedLog, StateChange, TopicPartition, loaded};

use super::plan::{ID, JoinPlan, JoinedTable, is_record};
use super::state::{BesideRow, Refresh};
use super::{APART, BESIDE, GROUPED, GROUPS, INPUTS, JOINED, LINKS, REFRESH, USERS};
use crate::error::SessionError;
use crate::keyed::ROWS;
use crate::keyed::overlay::{StateError, Stored};
use crate::stage::arrival::UNREAD;
use crate::stage::away::Away;
use crate::stage::worker::Ends;

/// Entries of a map that one commit removes.
const PAGE: usize = 1_000;

/// Values of the map of joined tables.
const LOADED: Bytes = Bytes::new();
const LOADING: Bytes = Bytes::from_static(&[1]);

/// How the joined tables stand.
#[derive(Debug)]
pub(crate) enum Standing {
    /// Their first load is not done; these are left.
    Waiting(String),
    /// Their topics are to be read up to an end before anything else.
    Unread(Load),
    Ready(Vec<(TopicPartition, u64)>),
}

/// Topics to be read from their beginning, each up to its end of now.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) from: Vec<(TopicPartition, u64)>,
    pub(crate) upto: Vec<(TopicPartition, u64)>,
    /// The tables that are read; others may have the same topics.
    pub(crate) ids: Vec<Bytes>,
    /// The table whose rows make records, where it is among them.
    group: Option<Grouped>,
}

/// The table whose rows make records, about to be read.
#[derive(Debug, Clone, Copy)]
struct Grouped {
    id: [u8; ID],
    /// Its topic holds everything since its first event.
    is_whole: bool,
}

impl Load {
    /// Whether everything is read.
    pub(crate) fn is_done(&self, next: &[(TopicPartition, u64)]) -> bool {
        self.upto.iter().all(|(at, end)| next.iter().any(|(of, next)| of == at && next >= end))
    }

    /// Says so, once all of it is committed; `next` is where the topics stand, also where they hold nothing any more.
    pub(crate) async fn finish(&self, owner: &mut dyn OwnedLog, next: Ends) -> Result<(), SessionError> {
        let offsets = next.into_iter().filter(|(at, _)| self.upto.iter().any(|(of, _)| of == at)).collect();
        owner.append(Batch { offsets, ..Batch::default() }).await?;
        if let Some(group) = &self.group {
            let kept = sweep(owner, group).await?;
            let value = Some(Bytes::copy_from_slice(&kept.to_be_bytes()));
            let is_grouped = StateChange { map: GROUPED.into(), key: Bytes::new(), value };
            owner.append(Batch { state: vec![is_grouped], ..Batch::default() }).await?;
        }
        note(owner, &self.ids, LOADED).await
    }
}

/// Finds how the tables stand, and lets go of what is kept of tables that are joined no longer, or of which deletes were missed.
/// `settled` takes the entries of their events: one that cannot be read this time either makes another.
pub(crate) async fn standing(
    log: &dyn ExchangeLog,
    owner: &mut dyn OwnedLog,
    plan: &JoinPlan,
    (system, away): (&str, Away),
    settled: &mut Vec<u64>,
) -> Result<Standing, SessionError> {
    let id = |table: &JoinedTable| Bytes::copy_from_slice(&table.id);
    let missed = missed(log, owner, plan, away).await?;
    let wanted: BTreeSet<Bytes> = plan.tables.iter().filter(|table| !missed.contains(&table.topic)).map(id).collect();
    let (known, rest): (Vec<_>, Vec<_>) =
        owner.scan(JOINED, &[], None, PAGE).await?.into_iter().partition(|(id, value)| *value == LOADED && wanted.contains(id));
    // What was read of a table in part is read from the beginning.
    for (gone, _) in rest {
        unread(owner, &gone, settled).await?;
        forget(owner, &gone).await?;
    }
    let known: BTreeSet<Bytes> = known.into_iter().map(|(id, _)| id).collect();
    let unread: Vec<&JoinedTable> = plan.tables.iter().filter(|table| !known.contains(&table.id[..])).collect();
    if unread.is_empty() {
        return Ok(Standing::Ready(topics(log, owner, plan).await?));
    }
    let loaded = loaded::tables(log, system).await?;
    // A record that several rows make is made again with each of them: it waits for none.
    let joined = unread.iter().filter(|table| !table.is_group()).map(|table| table.table.as_str());
    let missing: BTreeSet<&str> = joined.filter(|table| !loaded.contains(*table)).collect();
    if !missing.is_empty() {
        return Ok(Standing::Waiting(missing.into_iter().collect::<Vec<_>>().join(", ")));
    }
    let group = unread.iter().find(|table| table.is_group()).map(|table| Grouped { id: table.id, is_whole: true });
    let mut load = Load { from: Vec::new(), upto: Vec::new(), ids: unread.iter().map(|table| id(table)).collect(), group };
    for topic in unread.iter().map(|table| &table.topic).collect::<BTreeSet<_>>() {
        // A table without rows has no topic yet.
        if log.partitions(topic).await?.is_some() {
            let at = TopicPartition::new(Arc::clone(topic), 0);
            let Bounds { earliest, end } = log.bounds(&at).await?;
            let mut grouped = unread.iter().filter(|table| earliest > 0 && table.is_group() && table.topic == *topic);
            if let (Some(table), Some(group)) = (grouped.next(), &mut load.group) {
                group.is_whole = false;
                tracing::warn!(
                    system, table = %table.table, earliest,
                    "the log lets go of older rows of this table: records that they made stay as they were, and others are made of the \
                     rows that it holds; `guitong system snapshot` reads the table again"
                );
            }
            load.from.push((at.clone(), earliest));
            load.upto.push((at, end));
        }
    }
    note(owner, &load.ids, LOADING).await?;
    Ok(Standing::Unread(load))
}

/// Whether the records that stand were made of several rows each: what such a row would make alone is none of them.
pub(crate) async fn was_grouped(owner: &dyn OwnedLog) -> Result<bool, SessionError> {
    Ok(owner.get(GROUPED, &[Bytes::new()]).await?.iter().any(Option::is_some))
}

/// Records of several rows each that stayed as they were when those rows were read last, since the log held none of them any more.
pub(crate) async fn kept_records(owner: &dyn OwnedLog) -> Result<u64, SessionError> {
    let stored = owner.get(GROUPED, &[Bytes::new()]).await?.pop().flatten();
    // An earlier version did not count them.
    Ok(stored.and_then(|bytes| bytes.as_ref().try_into().ok()).map_or(0, u64::from_be_bytes))
}

/// Lets go of everything that is kept for joins, where the resource has none any more.
pub(crate) async fn forget_all(owner: &mut dyn OwnedLog) -> Result<(), SessionError> {
    if owner.scan(JOINED, &[], None, 1).await?.is_empty() {
        return Ok(());
    }
    // The tables' names go last, so a stop in between begins again.
    for map in [REFRESH, USERS, LINKS, INPUTS, GROUPS, APART, BESIDE, JOINED] {
        clear(owner, map, &[]).await?;
    }
    Ok(())
}

/// Joined topics of which deletes may be gone that were not read.
async fn missed(
    log: &dyn ExchangeLog,
    owner: &dyn OwnedLog,
    plan: &JoinPlan,
    away: Away,
) -> Result<BTreeSet<Arc<str>>, SessionError> {
    let mut missed = BTreeSet::new();
    for topic in plan.tables.iter().map(|table| &table.topic).collect::<BTreeSet<_>>() {
        let at = TopicPartition::new(Arc::clone(topic), 0);
        if let Some(offset) = owner.offset(&at)
            && log.partitions(topic).await?.is_some()
            && away.has_missed(log, &at, offset.next).await?
        {
            missed.insert(at.topic);
        }
    }
    Ok(missed)
}

/// Says how far tables are read.
async fn note(owner: &mut dyn OwnedLog, ids: &[Bytes], value: Bytes) -> Result<(), SessionError> {
    let change = |id: &Bytes| StateChange { map: JOINED.into(), key: id.clone(), value: Some(value.clone()) };
    owner.append(Batch { state: ids.iter().map(change).collect(), ..Batch::default() }).await?;
    Ok(())
}

/// Removes the entries of a map whose keys begin so.
async fn clear(owner: &mut dyn OwnedLog, map: &'static str, prefix: &[u8]) -> Result<(), SessionError> {
    loop {
        let page = owner.scan(map, prefix, None, PAGE).await?;
        if page.is_empty() {
            return Ok(());
        }
        let state = page.into_iter().map(|(key, _)| StateChange { map: map.into(), key, value: None }).collect();
        owner.append(Batch { state, ..Batch::default() }).await?;
    }
}

/// Where each joined topic that is there is to be read on from.
async fn topics(
    log: &dyn ExchangeLog,
    owner: &dyn OwnedLog,
    plan: &JoinPlan,
) -> Result<Vec<(TopicPartition, u64)>, SessionError> {
    let mut from = Vec::new();
    let joined = plan.tables.iter().filter(|table| !table.is_group());
    for topic in joined.map(|table| &table.topic).collect::<BTreeSet<_>>() {
        if log.partitions(topic).await?.is_some() {
            let at = TopicPartition::new(Arc::clone(topic), 0);
            let next = next(log, owner, &at).await?;
            from.push((at, next));
        }
    }
    Ok(from)
}

/// The offset to go on from; the topic's beginning where nothing of it was read.
pub(crate) async fn next(log: &dyn ExchangeLog, owner: &dyn OwnedLog, at: &TopicPartition) -> Result<u64, SessionError> {
    let bounds = log.bounds(at).await?;
    match owner.offset(at) {
        None => Ok(bounds.earliest),
        Some(offset) if offset.log != *log.id() => Err(SessionError::Log(LogError::Gap {
            at: at.clone(),
            wanted: offset.next,
            earliest: bounds.earliest,
            end: bounds.end,
            of: Some(offset.log),
        })),
        Some(offset) => Ok(offset.next),
    }
}

/// Has every row looked at again that stands in state and is no record of the group: it goes. Where the log let go of rows, their records
/// stay; how many those are.
async fn sweep(owner: &mut dyn OwnedLog, Grouped { id, is_whole }: &Grouped) -> Result<u64, SessionError> {
    let (mut after, mut kept): (Option<Bytes>, u64) = (None, 0);
    loop {
        let page = owner.scan(ROWS, &[], after.as_deref(), PAGE).await?;
        let is_last = page.len() < PAGE;
        after = page.last().map(|(key, _)| key.clone());
        let records = page.iter().filter(|(key, _)| key.first() != Some(&UNREAD));
        let groups: Vec<Bytes> = records.map(|(key, _)| Bytes::from([&id[..], key].concat())).collect();
        let known = owner.get(GROUPS, &groups).await?;
        let gone = groups.into_iter().zip(known).filter(|(_, known)| known.is_none()).map(|(key, _)| key);
        let is_kept = |group: &Bytes| !is_whole && group.len() > ID && is_record(&group.slice(ID..));
        let (left, gone): (Vec<Bytes>, Vec<Bytes>) = gone.partition(is_kept);
        kept += left.len() as u64;
        let refresh = |key| StateChange { map: REFRESH.into(), key, value: Some(Refresh::default().encode()) };
        owner.append(Batch { state: gone.into_iter().map(refresh).collect(), ..Batch::default() }).await?;
        if is_last {
            return Ok(kept);
        }
    }
}

/// Finds the entries of a table's events that could not be read.
async fn unread(owner: &dyn OwnedLog, id: &[u8], entries: &mut Vec<u64>) -> Result<(), SessionError> {
    let mut after: Option<Bytes> = None;
    loop {
        let page = owner.scan(BESIDE, id, after.as_deref(), PAGE).await?;
        for (_, bytes) in &page {
            let row = BesideRow::decode(bytes).map_err(|error| StateError::Codec { map: BESIDE, error })?;
            entries.extend(row.open.iter().map(|open| open.seq));
        }
        after = page.last().map(|(key, _)| key.clone());
        if page.len() < PAGE {
            return Ok(());
        }
    }
}

/// Removes a table's rows. What used them is made again, with the joins of now.
async fn forget(owner: &mut dyn OwnedLog, id: &Bytes) -> Result<(), SessionError> {
    debug_assert_eq!(id.len(), ID);
    for map in [BESIDE, GROUPS, APART, REFRESH] {
        clear(owner, map, id).await?;
    }
    let state = vec![
        StateChange { map: REFRESH.into(), key: id.clone(), value: Some(Refresh::default().encode()) },
        StateChange { map: JOINED.into(), key: id.clone(), value: None },
    ];
    owner.append(Batch { state, ..Batch::default() }).await?;
    Ok(())
}
