//! What joins add to the work on a batch: events of joined tables, and the rows that the resource's own events need loaded.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use guitong_log::{MAX_RECORD, OwnedLog};

use super::beside::{self, BesideChange, BesideEvent, Uses};
use super::overlay::{Made, note_event};
use super::plan::JoinedTable;
use super::refresh::Version;
use super::state::Input;
use super::{BESIDE, GroupKey};
use crate::error::SessionError;
use crate::keyed::overlay::Overlay;
use crate::mapping::column::Row;
use crate::mapping::{Bound, Columns};
use crate::stage::arrival::{Arrival, Body, Fault, UNREAD};
use crate::stage::binding::{Binding, OWN, Unfit};
use crate::stage::worker::{Ends, Verdict, Worker};
use crate::transform::{columns_of, unreadable_of};

/// Rows that one commit of a joined table's truncate removes.
const TRUNCATE_PAGE: usize = 1_000;
/// Room that the log needs around an event that is kept.
const MARGIN: usize = 64 << 10;

/// Bytes of joined rows that a batch holds at once; rows that need more are worked on behind a commit.
const ROOM: usize = 16 << 20;
/// Rows whose joined ones are looked for at a time.
const CHUNK: usize = 256;

/// Events of joined tables by their places among the arrivals.
pub(crate) type BesideEvents = HashMap<usize, BesideEvent>;

/// What the stage keeps of joins between batches.
#[derive(Debug, Default)]
pub(crate) struct Joining {
    /// For each joined table, a writer's schema and what it came to.
    bindings: HashMap<usize, (u32, Result<Arc<Bound>, Fault>)>,
    /// Ids of tables that are read for the first time: nothing of the resource is made of their rows yet.
    pub(crate) loading: Vec<Bytes>,
}

impl Joining {
    /// Whether what used a table's rows is made again when they change; records that they make are made of the first as well.
    fn follows(&self, table: &JoinedTable) -> bool {
        table.is_group() || !self.loading.iter().any(|id| **id == table.id)
    }

    /// Has every schema be judged anew.
    pub(crate) fn forget_bindings(&mut self) {
        self.bindings.clear();
    }
}

impl Worker {
    /// Whether events of a joined table's topic are read by this schema now.
    pub(crate) fn is_bound_beside(&self, topic: &str, schema: u32) -> bool {
        let is_bound = |at: usize| self.joining.bindings.get(&at).is_some_and(|(bound, _)| *bound == schema);
        self.mapping.joins.as_ref().is_none_or(|plan| plan.of_topic(topic).all(|(at, _)| is_bound(at)))
    }

    /// Whether events of a joined table's topic are kept out for what became of a column.
    pub(crate) fn is_set_aside_beside(&self, topic: &str, schema: u32) -> bool {
        let is_kept_out =
            |at: usize| matches!(self.joining.bindings.get(&at), Some((of, Ok(bound))) if *of == schema && bound.refuses);
        self.mapping.joins.as_ref().is_some_and(|plan| plan.of_topic(topic).any(|(at, _)| is_kept_out(at)))
    }

    /// Binds an event's schema for the joined tables of its topic; gives the reason where nothing more may be read.
    pub(crate) async fn bind_beside(
        &mut self,
        arrival: &Arrival,
        schema: u32,
        live: bool,
    ) -> Result<Option<Unfit>, SessionError> {
        let mapping = Arc::clone(&self.mapping);
        let Some(plan) = &mapping.joins else { return Ok(None) };
        for (at, _) in plan.of_topic(&arrival.record.at.topic) {
            let table = OWN + 1 + at;
            let binding = match self.read_schema(table, schema).await? {
                None => Err(Fault::Schema),
                Some(bound) => match self.judge(table, bound, arrival, schema, live).await? {
                    Ok(bound) => Ok(Arc::new(bound)),
                    Err(unfit) => return Ok(Some(unfit)),
                },
            };
            self.joining.bindings.insert(at, (schema, binding));
        }
        Ok(None)
    }

    /// Reads the joined tables' events among the arrivals, and loads what the resource's own rows are joined to.
    pub(crate) async fn load_beside(
        &mut self,
        owner: &dyn OwnedLog,
        overlay: &mut Overlay,
        arrivals: &[Arrival],
    ) -> Result<BesideEvents, SessionError> {
        let mapping = Arc::clone(&self.mapping);
        let Some(plan) = &mapping.joins else { return Ok(BesideEvents::new()) };
        let bindings = &self.joining.bindings;
        let bound = |table: usize, schema: u32| match bindings.get(&table) {
            Some((of, Ok(bound))) if *of == schema => Ok(&**bound),
            Some((of, Err(fault))) if *of == schema => Err(*fault),
            _ => Err(Fault::Schema),
        };
        let events = beside::read(plan, owner, overlay, arrivals, &bound).await?;
        let own: Vec<(&Arrival, Option<&Columns>)> =
            arrivals.iter().filter(|arrival| !arrival.is_beside).map(|arrival| (arrival, None)).collect();
        overlay.joins.links.load(owner, own.iter().filter_map(|(arrival, _)| arrival.source.clone())).await?;
        self.load_groups(owner, overlay, &own, 1).await?;
        // The newest event of each record that rows of a group make is kept.
        let records = |change: &BesideChange| -> Vec<Bytes> {
            let table = plan.tables.get(change.table());
            let groups = change.groups(&overlay.joins).into_iter();
            groups.filter_map(|group| table?.record_of(&group)).collect()
        };
        let records: Vec<Bytes> = events.values().flat_map(BesideEvent::changes).flat_map(records).collect();
        overlay.joins.links.load(owner, records).await?;
        Ok(events)
    }

    /// Loads the rows that events are joined to, of the first `must` in any case and of the others as many as there is room for; with
    /// what is known of columns that they leave out, else by the rows' state.
    pub(super) async fn load_groups(
        &self,
        owner: &dyn OwnedLog,
        overlay: &mut Overlay,
        own: &[(&Arrival, Option<&Columns>)],
        must: usize,
    ) -> Result<(), SessionError> {
        let missing = |overlay: &Overlay, at: usize| {
            let (arrival, columns) = own.get(at)?;
            self.wants(overlay, arrival, *columns)
        };
        self.load_found(owner, overlay, own.len(), missing, must).await
    }

    /// As [`Worker::load_groups`], for `count` rows of which `missing` tells the next key whose rows are not loaded.
    pub(super) async fn load_found(
        &self,
        owner: &dyn OwnedLog,
        overlay: &mut Overlay,
        count: usize,
        missing: impl Fn(&Overlay, usize) -> Option<GroupKey>,
        must: usize,
    ) -> Result<(), SessionError> {
        let Some(plan) = &self.mapping.joins else { return Ok(()) };
        let mut room = ROOM;
        for first in (0..count).step_by(CHUNK) {
            // One that is found by what another found is known only once that one is loaded.
            for _ in 0..plan.finds.len() {
                let rows = first..count.min(first + CHUNK);
                let wanted: Vec<(GroupKey, bool)> = rows.filter_map(|at| Some((missing(overlay, at)?, at < must))).collect();
                if wanted.is_empty() {
                    break;
                }
                room = overlay.joins.load_rows(owner, plan, &wanted, room).await?;
            }
            if room == 0 {
                break;
            }
        }
        Ok(())
    }

    /// How events of a group's rows are read, by the schemas of their writers.
    pub(super) async fn bind_group(&self, versions: &[Version]) -> Result<HashMap<u32, Arc<Bound>>, SessionError> {
        let mut bounds = HashMap::new();
        let table = self.mapping.joins.iter().find_map(|plan| plan.tables.iter().position(JoinedTable::is_group));
        let Some(table) = table else { return Ok(bounds) };
        for version in versions {
            let Body::Framed { schema } = version.arrival.body else { continue };
            if bounds.contains_key(&schema) {
                continue;
            }
            let bound = match self.joining.bindings.get(&table) {
                Some((of, Ok(bound))) if *of == schema => Some(Arc::clone(bound)),
                _ => self.read_schema(OWN + 1 + table, schema).await?.map(Arc::new),
            };
            bounds.extend(bound.map(|bound| (schema, bound)));
        }
        Ok(bounds)
    }

    /// The first key that an event's row is joined by and whose rows are not loaded.
    fn wants(&self, overlay: &Overlay, arrival: &Arrival, columns: Option<&Columns>) -> Option<GroupKey> {
        let Body::Framed { schema } = arrival.body else { return None };
        let (Some(Binding::Ready(bound)), Some(plan)) = (self.bindings.get(&schema), &self.mapping.joins) else { return None };
        let raw = arrival.raw();
        // What does not decode is quarantined when its turn comes.
        let after = bound.plan.envelope(raw.avro).ok()?.after?;
        let (absent, lossy) = (columns_of(&bound.plan, raw.absent), columns_of(&bound.plan, raw.lossy));
        let state = || arrival.source.as_ref().and_then(|source| overlay.rows.get(source)?.columns.as_ref());
        let kept = columns.or_else(state);
        let unreadable = unreadable_of(&bound.plan, raw.unreadable);
        let row = Row {
            columns: &self.mapping.columns,
            kept,
            unreadable: &unreadable,
            ..Row::plain(&bound.slots, &after, &absent, &lossy)
        };
        plan.join(&row, Some(&overlay.joins.groups)).err()
    }

    /// Takes over one event of a joined table; `true` for a truncate, which is left to the caller.
    pub(crate) fn take_beside(
        &mut self,
        overlay: &mut Overlay,
        arrival: &Arrival,
        event: Option<BesideEvent>,
    ) -> Result<bool, Fault> {
        let mapping = Arc::clone(&self.mapping);
        let Some(plan) = &mapping.joins else { return Ok(false) };
        if arrival.is_of_group() && arrival.entry.is_none() {
            self.metrics.bytes.inc_by(arrival.record.value.as_ref().map_or(0, |value| value.len() as u64));
            overlay.totals.received += u64::from(arrival.record.value.is_some());
        }
        let (changes, source_ts_us) = match event {
            None => return Ok(false),
            Some(BesideEvent::Truncate) => return Ok(true),
            Some(BesideEvent::Faulty(fault)) => return Err(fault),
            Some(BesideEvent::Changes { changes, source_ts_us }) => (changes, source_ts_us),
        };
        if arrival.is_of_group() {
            self.newest_source_us = self.newest_source_us.max(Some(source_ts_us));
            if !fits(arrival) {
                return Err(Fault::TooLarge);
            }
        }
        let mut taken = Ok(false);
        for change in changes {
            let table = plan.tables.get(change.table()).filter(|table| table.is_group());
            if table.is_some() && change.has_no_key() {
                taken = Err(Fault::Group);
            }
            let follows = |table: &JoinedTable| self.joining.follows(table);
            let changed = beside::apply(&mut overlay.joins, plan, change, source_ts_us, follows);
            for record in changed.iter().filter_map(|group| table?.record_of(group)) {
                note_event(overlay, &record, arrival);
            }
        }
        if arrival.source.is_none() {
            // Run again, it is read, or a newer event of its row was.
            overlay.joins.settle(arrival.entry);
        }
        taken
    }

    /// Removes every row of a joined table that was read before the truncate, a page at a time; the offset moves with the last.
    pub(crate) async fn truncate_beside(
        &mut self,
        owner: &mut dyn OwnedLog,
        arrival: &Arrival,
        offsets: Ends,
    ) -> Result<(), SessionError> {
        let mapping = Arc::clone(&self.mapping);
        let source_ts_us = arrival.record.timestamp_ms.saturating_mul(1_000);
        for (_, table) in mapping.joins.iter().flat_map(|plan| plan.of_topic(&arrival.record.at.topic)) {
            let follows = self.joining.follows(table);
            let mut after: Option<Bytes> = None;
            loop {
                let page = owner.scan(BESIDE, &table.id, after.as_deref(), TRUNCATE_PAGE).await?;
                let last = page.len() < TRUNCATE_PAGE;
                let mut overlay = Overlay::new(self.counters.clone());
                let keys: Vec<Bytes> = page.into_iter().map(|(key, _)| key).collect();
                if let Some(plan) = &mapping.joins {
                    overlay.joins.load_known(owner, plan, &keys).await?;
                }
                after = keys.last().cloned();
                for key in keys {
                    let source = key.slice(table.id.len()..);
                    beside::empty(&mut overlay.joins, key, &source, (arrival.version, source_ts_us), follows);
                }
                self.commit(owner, overlay, Vec::new(), Ends::new()).await?;
                if last {
                    break;
                }
            }
        }
        if mapping.group().is_some_and(|table| *table.topic == *arrival.record.at.topic) {
            // Rows of which nothing could be read stand beside the records.
            return self.truncate(owner, arrival, &[UNREAD], offsets).await;
        }
        self.commit(owner, Overlay::new(self.counters.clone()), Vec::new(), offsets).await
    }

    /// Lets go of entries of joined tables' events that are read again.
    pub(crate) async fn let_go(&mut self, owner: &mut dyn OwnedLog, entries: Vec<u64>) -> Result<(), SessionError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut overlay = Overlay::new(self.counters.clone());
        overlay.joins.settle(entries);
        self.commit(owner, overlay, Vec::new(), Ends::new()).await
    }

    /// What is kept of a version that was made just now, so that it can be made again.
    pub(crate) fn made(&self, arrival: &Arrival, verdict: &Verdict, uses: Uses, columns: Option<&Columns>) -> Option<Made> {
        let is_row = matches!(verdict, Verdict::Good(_) | Verdict::Bad(_));
        if self.mapping.joins.is_none() || uses.groups.is_empty() || !is_row {
            return None;
        }
        let input = Input::encode(&arrival.record, columns.unwrap_or(&Columns::default()));
        Some(Made { version: arrival.version, uses, input: Some(input) })
    }
}

/// Whether an event can be kept to be made again.
pub(crate) fn fits(arrival: &Arrival) -> bool {
    let record = &arrival.record;
    let size = record.key.as_ref().map_or(0, Bytes::len) * 2 + record.value.as_ref().map_or(0, Bytes::len);
    size + record.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() + MARGIN <= MAX_RECORD
}
