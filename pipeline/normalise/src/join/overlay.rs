//! What a batch under way has read and changed of joins.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use guitong_log::{OwnedLog, StateChange};
use guitong_schemas::position::Version;

use super::beside::Uses;
use super::plan::JoinPlan;
use super::state::{BesideRow, Group, GroupRow, Input, Link, Links, Refresh, input_key};
use super::{APART, GroupKey, INPUTS, REFRESH, USERS};
use crate::claims::MAX_OPEN;
use crate::keyed::overlay::{Cached, Overlay, StateError, Stored};
use crate::keyed::row::{Open, RowState};
use crate::mapping::Columns;
use crate::stage::arrival::Arrival;

/// Rows of a large group that are read at a time.
const PAGE: usize = 1_000;

#[derive(Debug, Default)]
pub(crate) struct JoinOverlay {
    pub(crate) rows: Cached<BesideRow>,
    pub(crate) groups: Cached<Group>,
    /// Rows of groups that are too large for one value, by [`apart_key`].
    pub(crate) apart: Cached<GroupRow>,
    pub(crate) links: Cached<Links>,
    /// Entries of joined tables' events that a later event of their row settles.
    settled: Vec<u64>,
    /// Newest events of joined rows that the batch has taken over.
    taken: HashMap<Bytes, Version>,
    /// Values of maps of which a batch reads nothing.
    writes: BTreeMap<(&'static str, Bytes), Option<Bytes>>,
}

impl JoinOverlay {
    pub(crate) fn write(&mut self, map: &'static str, key: Bytes, value: Option<Bytes>) {
        self.writes.insert((map, key), value);
    }

    /// Notes that an event of a joined table stands in quarantine, so that a later one of its row lets it go.
    pub(crate) fn note_unread(&mut self, plan: &JoinPlan, arrival: &Arrival, seq: u64) {
        let Some(source) = &arrival.key else { return };
        for (_, table) in plan.of_topic(&arrival.record.at.topic) {
            let key = table.row_key(source);
            // The tombstone behind a delete has its version.
            if self.taken.get(&key).is_some_and(|taken| *taken >= arrival.version) {
                self.settled.push(seq);
                continue;
            }
            let mut row = self.rows.take(&key).unwrap_or_default();
            row.open.push(Open { seq, version: arrival.version });
            if row.open.len() > MAX_OPEN {
                self.settled.push(row.open.remove(0).seq);
            }
            self.rows.put(key, row);
        }
    }

    /// Notes that an event of a joined row is taken over.
    pub(crate) fn note_taken(&mut self, key: &Bytes, version: Version) {
        self.taken.insert(key.clone(), version);
    }

    /// Has entries let go.
    pub(crate) fn settle(&mut self, entries: impl IntoIterator<Item = u64>) {
        self.settled.extend(entries);
    }

    /// The entries that are to be let go, each once.
    pub(crate) fn take_settled(&mut self) -> Vec<u64> {
        let mut settled = std::mem::take(&mut self.settled);
        settled.sort_unstable();
        settled.dedup();
        settled
    }

    /// Reads groups with the rows that stand by themselves, those that must be in any case and the others while there is room for their
    /// bytes; gives the room that is left.
    pub(crate) async fn load_rows(
        &mut self,
        owner: &dyn OwnedLog,
        plan: &JoinPlan,
        wanted: &[(GroupKey, bool)],
        room: usize,
    ) -> Result<usize, StateError> {
        self.groups.load(owner, wanted.iter().map(|(key, _)| key.clone())).await?;
        let mut left = room;
        for (key, must) in wanted {
            let Some(group) = self.groups.get(key) else { continue };
            let is_read = group.rows().is_some() || group.is_too_large();
            if !is_read && (*must || group.size() <= left) {
                let rows = read_apart(owner, plan, key).await?;
                if let Some(group) = self.groups.fill(key) {
                    group.fill(rows);
                }
            }
            left = left.saturating_sub(self.groups.get(key).map_or(0, Group::size));
        }
        Ok(left)
    }

    /// Puts a row into a group.
    pub(crate) fn enter(&mut self, plan: &JoinPlan, table: usize, group: &GroupKey, row: GroupRow) {
        let mut rows = self.groups.take(group).unwrap_or_default();
        let table = plan.tables.get(table);
        let is_before = |one: &GroupRow, other: &GroupRow| table.is_some_and(|table| table.order(one, other).is_lt());
        for row in rows.insert(row, is_before) {
            self.apart.put(apart_key(group, &row.source), row);
        }
        self.groups.put(group.clone(), rows);
    }

    /// Takes a row out of a group.
    pub(crate) fn leave(&mut self, group: &GroupKey, source: &[u8]) {
        let Some(mut rows) = self.groups.take(group) else { return };
        let key = apart_key(group, source);
        rows.remove(source, self.apart.get(&key));
        if rows.is_apart() {
            self.apart.remove(key);
        }
        if rows.is_empty() {
            self.groups.remove(group.clone());
        } else {
            self.groups.put(group.clone(), rows);
        }
    }

    /// Reads what is kept of rows of joined tables, by their keys: where they stand, and their values.
    pub(crate) async fn load_known(&mut self, owner: &dyn OwnedLog, plan: &JoinPlan, keys: &[Bytes]) -> Result<(), StateError> {
        self.rows.load(owner, keys.iter().cloned()).await?;
        let groups: Vec<_> = keys.iter().filter_map(|key| self.rows.get(key)?.group.clone()).collect();
        self.groups.load(owner, groups).await?;
        let apart: Vec<_> = keys
            .iter()
            .filter_map(|key| {
                let group = self.rows.get(key)?.group.as_ref()?;
                let is_apart = self.groups.get(group).is_some_and(Group::is_apart);
                is_apart.then(|| apart_key(group, plan.source_of(key)))
            })
            .collect();
        self.apart.load(owner, apart).await
    }

    /// The values of a row, as [`JoinOverlay::load_known`] read them.
    pub(crate) fn known(&self, group: &GroupKey, source: &[u8]) -> Option<&GroupRow> {
        self.apart.get(&apart_key(group, source)).or_else(|| self.groups.get(group)?.row(source))
    }

    /// Has the users of a group made again from the first on.
    pub(crate) fn follow(&mut self, group: GroupKey, version: Version, source_ts_us: i64) {
        let refresh = Refresh { version, source_ts_us, after: Bytes::new() };
        self.write(REFRESH, group, Some(refresh.encode()));
    }

    pub(crate) fn changes(self, out: &mut Vec<StateChange>) {
        self.rows.changes(out);
        self.groups.changes(out);
        self.apart.changes(out);
        self.links.changes(out);
        let change = |((map, key), value): ((&'static str, Bytes), Option<Bytes>)| {
            let map: Arc<str> = map.into();
            StateChange { map, key, value }
        };
        out.extend(self.writes.into_iter().map(change));
    }
}

/// Key of a row of a large group.
pub(crate) fn apart_key(group: &GroupKey, source: &[u8]) -> Bytes {
    Bytes::from([&group[..], source].concat())
}

/// A version of a row as it was made just now.
pub(crate) struct Made {
    pub(crate) version: Version,
    pub(crate) uses: Uses,
    /// The event, where it is not kept yet.
    pub(crate) input: Option<Bytes>,
}

/// Keeps what is needed to make the row again, as far as its state can still ask for it: the good version and the open ones.
pub(crate) fn note(overlay: &mut Overlay, source: &Bytes, made: impl IntoIterator<Item = Made>) {
    let joins = &mut overlay.joins;
    let mut links = joins.links.take(source).unwrap_or_default();
    let users = |links: &Links| -> BTreeSet<GroupKey> { links.versions.iter().flat_map(|link| link.groups.clone()).collect() };
    let before = users(&links);
    for Made { version, uses, input } in made {
        let kept = links.versions.iter().position(|link| link.version == version);
        let size = input.as_ref().map(|input| input.len() as u64);
        match (kept.and_then(|at| links.versions.get_mut(at)), size) {
            (Some(link), _) => link.groups = uses.groups,
            (None, Some(size)) if !uses.groups.is_empty() => {
                links.versions.push(Link { version, size, groups: uses.groups });
            }
            (None, _) => continue,
        }
        if let Some(input) = input {
            joins.write(INPUTS, input_key(source, version), Some(input));
        }
    }
    let row = overlay.rows.get(source);
    links.versions.retain(|link| {
        let needed = row.is_some_and(|row| is_needed(row, link.version));
        if !needed {
            joins.write(INPUTS, input_key(source, link.version), None);
        }
        needed
    });
    let after = users(&links);
    let user = |group: &GroupKey| user_key(group, source);
    before.difference(&after).for_each(|group| joins.write(USERS, user(group), None));
    after.difference(&before).for_each(|group| joins.write(USERS, user(group), Some(Bytes::new())));
    match links.versions.is_empty() {
        true if before.is_empty() => {}
        true => joins.links.remove(source.clone()),
        false => joins.links.put(source.clone(), links),
    }
}

/// The rows of a large group, in their order.
async fn read_apart(owner: &dyn OwnedLog, plan: &JoinPlan, group: &GroupKey) -> Result<Vec<GroupRow>, StateError> {
    let (mut rows, mut after): (Vec<GroupRow>, Option<Bytes>) = (Vec::new(), None);
    loop {
        let page = owner.scan(APART, group, after.as_deref(), PAGE).await?;
        let is_last = page.len() < PAGE;
        after = page.last().map(|(key, _)| key.clone());
        for (_, bytes) in page {
            rows.push(GroupRow::decode(&bytes).map_err(|error| StateError::Codec { map: APART, error })?);
        }
        if is_last {
            break;
        }
    }
    if let Some(table) = plan.table_of(group) {
        rows.sort_by(|one, other| table.order(one, other));
    }
    Ok(rows)
}

/// Keeps the event by which a record's rows changed: of a record that several rows make the newest is enough, since it is made of the
/// rows that are there.
pub(crate) fn note_event(overlay: &mut Overlay, record: &Bytes, arrival: &Arrival) {
    let joins = &mut overlay.joins;
    let mut links = joins.links.take(record).unwrap_or_default();
    let input = Input::encode(&arrival.record, &Columns::default());
    let groups = links.versions.iter().flat_map(|link| link.groups.iter().cloned()).collect();
    for Link { version, .. } in std::mem::take(&mut links.versions) {
        joins.write(INPUTS, input_key(record, version), None);
    }
    links.versions.push(Link { version: arrival.version, size: input.len() as u64, groups });
    joins.write(INPUTS, input_key(record, arrival.version), Some(input));
    joins.links.put(record.clone(), links);
}

/// Key of a row among the users of a group.
pub(crate) fn user_key(group: &GroupKey, source: &[u8]) -> Bytes {
    Bytes::from([&group[..], source].concat())
}

fn is_needed(row: &RowState, version: Version) -> bool {
    row.good == Some(version) || row.open.iter().any(|open| open.version == version)
}
