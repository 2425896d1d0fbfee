//! One row with what is joined to it, and one change of a joined row.

use std::collections::HashMap;

use bytes::Bytes;
use guitong_log::OwnedLog;
use guitong_schemas::avro::decode::Envelope;
use guitong_schemas::change::Operation;
use guitong_schemas::position::Version;
use smallvec::SmallVec;

use super::GroupKey;
use super::cell::Kept;
use super::overlay::JoinOverlay;
use super::plan::{FIRST_JOINED, Find, JoinPlan, JoinedTable, Pick, key_text};
use super::state::{BesideRow, Group, GroupRow};
use crate::keyed::overlay::{Cached, Overlay, StateError};
use crate::keyed::row::Open;
use crate::mapping::column::{Cell, Row};
use crate::mapping::{Bound, Formula, Refusal};
use crate::stage::arrival::{Arrival, Body, Fault};
use crate::transform::{Raw, columns_of, unreadable_of};

/// What a version of a row was made of, beside itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Uses {
    /// Also of keys that have no row: one may come.
    pub(crate) groups: Vec<GroupKey>,
    /// Newest version among the rows found.
    pub(crate) newest: Version,
}

/// What is joined to one row.
#[derive(Debug, Default)]
pub(crate) struct Beside<'g> {
    pub(crate) cells: Vec<Cell<'g>>,
    /// Rows that are items of nested fields.
    pub(crate) lists: Vec<List<'g>>,
    pub(crate) uses: Uses,
}

/// Rows of details in their order, or why they are not known.
pub(crate) type List<'g> = Result<Vec<&'g GroupRow>, Refusal>;

/// What a find comes to for one row.
enum Found<'g> {
    /// A column that gives the key is empty.
    NoKey,
    /// A column that gives the key was not sent and is not known.
    Unknown,
    Missing,
    Row(&'g GroupRow),
    Rows(Vec<&'g GroupRow>),
    /// Which rows are meant cannot be told.
    Refused(Refusal),
}

impl JoinPlan {
    /// What is joined to a row; without `groups` nothing is found. `Err`: the rows of this key are not loaded.
    pub(crate) fn join<'g>(&self, row: &Row<'_, '_>, groups: Option<&'g Cached<Group>>) -> Result<Beside<'g>, GroupKey> {
        self.join_of(row, None, groups)
    }

    /// As [`JoinPlan::join`], for a record that is made of the rows of `own`.
    pub(crate) fn join_of<'g>(
        &self,
        row: &Row<'_, '_>,
        own: Option<&GroupKey>,
        groups: Option<&'g Cached<Group>>,
    ) -> Result<Beside<'g>, GroupKey> {
        let mut uses = Uses::default();
        let mut found: Vec<Found<'g>> = Vec::with_capacity(self.finds.len());
        for find in &self.finds {
            found.push(self.look(find, (row, own), &found, groups, &mut uses)?);
        }
        let cells = self.cells.iter().map(|cell| self.cell(*cell, &found)).collect();
        let lists = self.lists.iter().map(|find| found.get_mut(*find).map_or_else(|| Ok(Vec::new()), Found::take)).collect();
        Ok(Beside { cells, lists, uses })
    }

    fn look<'g>(
        &self,
        find: &Find,
        (row, own): (&Row<'_, '_>, Option<&GroupKey>),
        before: &[Found<'g>],
        groups: Option<&'g Cached<Group>>,
        uses: &mut Uses,
    ) -> Result<Found<'g>, GroupKey> {
        let Some(table) = self.tables.get(find.table) else { return Ok(Found::NoKey) };
        let mut parts = Vec::with_capacity(find.from.len());
        for column in &find.from {
            let joined = column.checked_sub(FIRST_JOINED).and_then(|at| self.cells.get(at));
            let cell = joined.map_or_else(|| row.cell(*column), |cell| self.cell(*cell, before));
            match cell {
                Cell::Absent | Cell::Lossy | Cell::Unreadable => return Ok(Found::Unknown),
                Cell::Missing => return Ok(Found::Missing),
                Cell::Refused(refusal) => return Ok(Found::Refused(refusal)),
                cell => match key_text(cell.input()) {
                    Some(text) => parts.push(text),
                    None => return Ok(Found::NoKey),
                },
            }
        }
        let key = if table.is_group() { own.cloned() } else { table.group(parts.iter().map(String::as_str)) };
        let Some(key) = key else { return Ok(Found::Missing) };
        let Some(groups) = groups else { return Ok(Found::Missing) };
        if !groups.is_loaded(&key) {
            return Err(key);
        }
        let rows = match groups.get(&key) {
            None => Some(&[][..]),
            Some(group) if group.is_too_large() => None,
            Some(group) => match group.rows() {
                None => return Err(key),
                rows => rows,
            },
        };
        if !table.is_group() && !uses.groups.contains(&key) {
            uses.groups.push(key);
        }
        let Some(rows) = rows else { return Ok(Found::Refused(Refusal::TooManyRows)) };
        let found = table.pick(&find.pick, rows).unwrap_or_else(Found::Refused);
        uses.newest = found.newest().max(uses.newest);
        Ok(found)
    }

    fn cell<'g>(&self, (find, column): (usize, usize), found: &[Found<'g>]) -> Cell<'g> {
        let is_lookup = || {
            let table = self.finds.get(find).and_then(|find| self.tables.get(find.table));
            table.is_some_and(JoinedTable::is_lookup)
        };
        match found.get(find) {
            None | Some(Found::NoKey | Found::Rows(_)) => Cell::Null,
            Some(Found::Unknown) => Cell::Absent,
            Some(Found::Missing) if is_lookup() => Cell::Missing,
            Some(Found::Missing) => Cell::Null,
            Some(Found::Refused(refusal)) => Cell::Refused(*refusal),
            Some(Found::Row(row)) => row.cells.get(column).map_or(Cell::Null, Kept::cell),
        }
    }
}

impl JoinedTable {
    /// Whether the table's condition holds for any of the rows.
    pub(super) fn means_any(&self, rows: &[GroupRow]) -> Result<bool, Refusal> {
        Ok(matches!(self.pick(&Pick::Last, rows)?, Found::Row(_)))
    }

    /// The row that is meant, or all of them, of those of one key.
    fn pick<'g>(&self, pick: &Pick, rows: &'g [GroupRow]) -> Result<Found<'g>, Refusal> {
        let last = |rows: &mut dyn Iterator<Item = &'g GroupRow>, when: Option<&Formula>| {
            for row in rows {
                if holds(self.condition.as_ref(), row)? && holds(when, row)? {
                    return Ok(Found::Row(row));
                }
            }
            Ok(Found::Missing)
        };
        match pick {
            Pick::First => last(&mut rows.iter(), None),
            Pick::Last => last(&mut rows.iter().rev(), None),
            Pick::When(_, when) => last(&mut rows.iter().rev(), Some(when)),
            Pick::All => {
                let mut all = Vec::with_capacity(rows.len());
                for row in rows {
                    if holds(self.condition.as_ref(), row)? {
                        all.push(row);
                    }
                }
                Ok(Found::Rows(all))
            }
        }
    }
}

/// Whether a condition holds for a row of a joined table.
fn holds(condition: Option<&Formula>, row: &GroupRow) -> Result<bool, Refusal> {
    let Some(condition) = condition else { return Ok(true) };
    let cells: Vec<Cell<'_>> = row.cells.iter().map(Kept::cell).collect();
    condition.holds(&Row::joined(&cells))
}

impl<'g> Found<'g> {
    /// Newest version among the rows found.
    fn newest(&self) -> Version {
        match self {
            Self::Row(row) => row.version,
            Self::Rows(rows) => rows.iter().map(|row| row.version).max().unwrap_or_default(),
            Self::NoKey | Self::Unknown | Self::Missing | Self::Refused(_) => Version::default(),
        }
    }

    fn take(&mut self) -> List<'g> {
        match self {
            Self::Rows(rows) => Ok(std::mem::take(rows)),
            Self::Unknown => Err(Refusal::ColumnAbsent),
            Self::Refused(refusal) => Err(*refusal),
            Self::NoKey | Self::Missing | Self::Row(_) => Ok(Vec::new()),
        }
    }
}

/// One event of a joined table's topic, for one of the tables that are made of it.
#[derive(Debug)]
pub(crate) struct BesideChange {
    table: usize,
    /// Id and source key.
    key: Bytes,
    source: Bytes,
    version: Version,
    /// `None`: the row is gone.
    now: Option<(Option<GroupKey>, Vec<Kept>)>,
}

impl BesideChange {
    pub(crate) fn table(&self) -> usize {
        self.table
    }

    /// The row is there, and nothing finds it.
    pub(crate) fn has_no_key(&self) -> bool {
        matches!(self.now, Some((None, _)))
    }

    /// The groups that the row is in by what is stored, and comes into.
    pub(crate) fn groups(&self, joins: &JoinOverlay) -> SmallVec<[GroupKey; 2]> {
        let old = joins.rows.get(&self.key).and_then(|row| row.group.clone());
        let new = self.now.as_ref().and_then(|(group, _)| group.clone());
        old.into_iter().chain(new).collect()
    }
}

/// What the event of a joined table came to.
#[derive(Debug)]
pub(crate) enum BesideEvent {
    Changes { changes: Vec<BesideChange>, source_ts_us: i64 },
    Truncate,
    Faulty(Fault),
}

impl BesideEvent {
    pub(crate) fn changes(&self) -> &[BesideChange] {
        match self {
            Self::Changes { changes, .. } => changes,
            Self::Truncate | Self::Faulty(_) => &[],
        }
    }
}

/// What is known of a writer's schema, for a table and an id.
pub(crate) type Bindings<'b> = &'b (dyn Fn(usize, u32) -> Result<&'b Bound, Fault> + Sync);

/// Reads the events of joined tables among the arrivals, by their places, and loads the groups that they come from and go to.
pub(crate) async fn read(
    plan: &JoinPlan,
    owner: &dyn OwnedLog,
    overlay: &mut Overlay,
    arrivals: &[Arrival],
    bindings: Bindings<'_>,
) -> Result<HashMap<usize, BesideEvent>, StateError> {
    let joins = &mut overlay.joins;
    let beside = || arrivals.iter().enumerate().filter(|(_, arrival)| arrival.is_beside);
    let mut keys: Vec<Bytes> = Vec::new();
    for (_, arrival) in beside() {
        let source = arrival.key.clone().unwrap_or_default();
        keys.extend(plan.of_topic(&arrival.record.at.topic).map(|(_, table)| table.row_key(&source)));
    }
    joins.load_known(owner, plan, &keys).await?;
    let mut latest = Latest::default();
    let mut events = HashMap::new();
    for (place, arrival) in beside() {
        let event = read_one(plan, arrival, bindings, joins, &mut latest);
        events.insert(place, event.unwrap_or_else(BesideEvent::Faulty));
    }
    let new = events.values().flat_map(BesideEvent::changes);
    let new: Vec<GroupKey> = new.filter_map(|change| change.now.as_ref()?.0.clone()).collect();
    joins.groups.load(owner, new).await?;
    Ok(events)
}

/// Cells of the rows as of the events read so far: what an event leaves out is taken from here.
type Latest = HashMap<Bytes, Option<Vec<Kept>>>;

fn read_one(
    plan: &JoinPlan,
    arrival: &Arrival,
    bindings: Bindings<'_>,
    joins: &JoinOverlay,
    latest: &mut Latest,
) -> Result<BesideEvent, Fault> {
    let mut source_ts_us = arrival.record.timestamp_ms.saturating_mul(1_000);
    let source = || arrival.key.clone().ok_or(Fault::Key);
    let mut changes = Vec::new();
    for (at, table) in plan.of_topic(&arrival.record.at.topic) {
        let now = match arrival.body {
            Body::Tombstone => None,
            Body::Faulty(fault) => return Err(fault),
            Body::Framed { schema } => {
                let bound = bindings(at, schema)?;
                let raw = arrival.raw();
                let envelope = bound.plan.envelope(raw.avro).map_err(|_| Fault::Decode)?;
                match envelope.operation {
                    Operation::Truncate => return Ok(BesideEvent::Truncate),
                    // A row that goes needs no column.
                    Operation::Delete => {}
                    _ if bound.refuses => return Err(Fault::Columns),
                    _ => {}
                }
                source_ts_us = envelope.source_ts_us.unwrap_or(source_ts_us);
                let key = table.row_key(&source()?);
                let before = || match latest.get(&key) {
                    Some(known) => known.as_deref(),
                    None => kept_of(joins, &key, &source().ok()?),
                };
                cells_of(bound, &envelope, &raw, before)
            }
        };
        let source = source()?;
        let key = table.row_key(&source);
        latest.insert(key.clone(), now.clone());
        let now = now.map(|cells| (table.group_of(&cells), cells));
        changes.push(BesideChange { table: at, key, source, version: arrival.version, now });
    }
    Ok(BesideEvent::Changes { changes, source_ts_us })
}

/// The values of the row after the change, what it leaves out as it was before; `None` where the row is gone.
fn cells_of<'k>(
    bound: &Bound,
    envelope: &Envelope<'_>,
    raw: &Raw<'_>,
    before: impl FnOnce() -> Option<&'k [Kept]>,
) -> Option<Vec<Kept>> {
    let after = envelope.after.as_ref().filter(|_| envelope.operation != Operation::Delete)?;
    let (absent, lossy) = (columns_of(&bound.plan, raw.absent), columns_of(&bound.plan, raw.lossy));
    let unreadable = unreadable_of(&bound.plan, raw.unreadable);
    let row = Row { unreadable: &unreadable, ..Row::plain(&bound.slots, after, &absent, &lossy) };
    let mut cells: Vec<Kept> = (0..bound.slots.len()).map(|column| Kept::of(&row.cell(column))).collect();
    if cells.contains(&Kept::Absent) {
        let before = before().unwrap_or_default();
        for (cell, known) in cells.iter_mut().zip(before).filter(|(cell, _)| **cell == Kept::Absent) {
            cell.clone_from(known);
        }
    }
    Some(cells)
}

fn kept_of<'j>(joins: &'j JoinOverlay, key: &[u8], source: &[u8]) -> Option<&'j [Kept]> {
    let group = joins.rows.get(key)?.group.as_ref()?;
    joins.known(group, source).map(|row| row.cells.as_slice())
}

/// Takes a change over; gives the groups whose rows are others now. What used them is made again where `follows` says so.
pub(crate) fn apply(
    joins: &mut JoinOverlay,
    plan: &JoinPlan,
    change: BesideChange,
    source_ts_us: i64,
    follows: impl Fn(&JoinedTable) -> bool,
) -> SmallVec<[GroupKey; 2]> {
    let BesideChange { table, key, source, version, now } = change;
    let old = joins.rows.get(&key).cloned();
    // A delete and the tombstone after it have one version.
    if old.as_ref().is_some_and(|old| if now.is_some() { version <= old.version } else { version < old.version }) {
        return SmallVec::new();
    }
    let (group, cells) = now.map_or((None, None), |(group, cells)| (group, Some(cells)));
    let BesideRow { group: old_group, open, .. } = old.unwrap_or_default();
    // A row that is gone has no event that is still to come.
    let (settled, open): (SmallVec<[Open; 1]>, _) = open.into_iter().partition(|open| open.version <= version || cells.is_none());
    joins.settle(settled.into_iter().map(|open| open.seq));
    joins.note_taken(&key, version);
    let is_same = old_group == group
        && group.as_ref().and_then(|group| joins.known(group, &source)).map(|row| &row.cells)
            == cells.as_ref().filter(|_| group.is_some());
    let mut changed: SmallVec<[GroupKey; 2]> = old_group.iter().cloned().collect();
    if let Some(group) = &old_group {
        joins.leave(group, &source);
    }
    match (group, cells) {
        (_, None) => joins.rows.remove(key),
        (None, Some(_)) => joins.rows.put(key, BesideRow { version, group: None, open }),
        (Some(group), Some(cells)) => {
            joins.enter(plan, table, &group, GroupRow { source, version, cells });
            if !changed.contains(&group) {
                changed.push(group.clone());
            }
            joins.rows.put(key, BesideRow { version, group: Some(group), open });
        }
    }
    if is_same {
        return SmallVec::new();
    }
    if plan.tables.get(table).is_some_and(follows) {
        changed.iter().for_each(|group| joins.follow(group.clone(), version, source_ts_us));
    }
    changed
}

/// Takes rows of a truncated table out that are older than the truncate.
pub(crate) fn empty(joins: &mut JoinOverlay, key: Bytes, source: &[u8], truncate: (Version, i64), follows: bool) {
    let (version, source_ts_us) = truncate;
    let Some(row) = joins.rows.get(&key).cloned().filter(|row| row.version < version) else { return };
    joins.settle(row.open.into_iter().map(|open| open.seq));
    if let Some(group) = row.group {
        joins.leave(&group, source);
        if follows {
            joins.follow(group, version, source_ts_us);
        }
    }
    joins.rows.remove(key);
}
