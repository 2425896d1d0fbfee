//! What joins add to the work on a batch: events of joined tables, and the rows that the resource's own events need loaded.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use guitong_log::{MAX_RECORD, OwnedLog};

use super::beside::{self, BesideEvent, Uses};
use super::overlay::Made;
use super::plan::JoinedTable;
use super::state::Input;
use super::{BESIDE, GroupKey};
use crate::error::SessionError;
use crate::keyed::overlay::Overlay;
use crate::mapping::Columns;
use crate::mapping::column::Row;
use crate::stage::arrival::{Arrival, Body, Fault};
use crate::stage::worker::{Binding, Ends, Verdict, Worker};
use crate::transform::{columns_of, unreadable_of};

/// Rows that one commit of a joined table's truncate removes.
const TRUNCATE_PAGE: usize = 1_000;
/// Room that the log needs around an event that is kept.
const MARGIN: usize = 64 << 10;

/// Events of joined tables by their places among the arrivals.
pub(crate) type BesideEvents = HashMap<usize, BesideEvent>;

/// What the stage keeps of joins between batches.
#[derive(Debug, Default)]
pub(crate) struct Joining {
    /// By joined table and writer's schema.
    bindings: HashMap<(usize, u32), Binding>,
    /// Ids of tables that are read for the first time: nothing of the resource is made of their rows yet.
    pub(crate) loading: Vec<Bytes>,
}

impl Joining {
    /// Whether what used a table's rows is made again when they change.
    fn follows(&self, table: &JoinedTable) -> bool {
        !self.loading.iter().any(|id| **id == table.id)
    }

    /// The binding of a schema that lacks columns.
    pub(crate) fn misfit(&self, schema: u32) -> Option<&Binding> {
        let of_schema = self.bindings.iter().filter(|((_, id), _)| *id == schema).map(|(_, binding)| binding);
        of_schema.into_iter().find(|binding| matches!(binding, Binding::Misfit(_)))
    }
}

impl Worker {
    /// Binds a writer's schema of a joined table; whether it has all columns.
    pub(crate) async fn bind_beside(&mut self, topic: &str, schema: u32) -> Result<bool, SessionError> {
        let mapping = Arc::clone(&self.mapping);
        let Some(plan) = &mapping.joins else { return Ok(true) };
        let mut fits = true;
        for (at, table) in plan.of_topic(topic) {
            if !self.joining.bindings.contains_key(&(at, schema)) {
                let binding = self.binding(schema, |json| plan.bind(table, json, &mapping.resource)).await?;
                self.joining.bindings.insert((at, schema), binding);
            }
            fits &= !matches!(self.joining.bindings.get(&(at, schema)), Some(Binding::Misfit(_)));
        }
        Ok(fits)
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
        let bound = |table: usize, schema: u32| match bindings.get(&(table, schema)) {
            Some(Binding::Ready(bound)) => Ok(&**bound),
            Some(Binding::Misfit(_)) => Err(Fault::Columns),
            Some(Binding::Unusable) | None => Err(Fault::Schema),
        };
        let events = beside::read(plan, owner, overlay, arrivals, &bound).await?;
        let own: Vec<(&Arrival, Option<&Columns>)> =
            arrivals.iter().filter(|arrival| !arrival.is_beside).map(|arrival| (arrival, None)).collect();
        overlay.joins.links.load(owner, own.iter().filter_map(|(arrival, _)| arrival.source.clone())).await?;
        self.load_groups(owner, overlay, &own).await?;
        Ok(events)
    }

    /// Loads the rows that events are joined to; with what is known of columns that they leave out, else by the rows' state.
    pub(super) async fn load_groups(
        &self,
        owner: &dyn OwnedLog,
        overlay: &mut Overlay,
        own: &[(&Arrival, Option<&Columns>)],
    ) -> Result<(), SessionError> {
        let Some(plan) = &self.mapping.joins else { return Ok(()) };
        // One that is found by what another found is known only once that one is loaded.
        for _ in 0..plan.finds.len() {
            let wanted: Vec<GroupKey> =
                own.iter().filter_map(|(arrival, columns)| self.wants(overlay, arrival, *columns)).collect();
            if wanted.is_empty() {
                break;
            }
            overlay.joins.groups.load(owner, wanted).await?;
        }
        Ok(())
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
    pub(crate) fn take_beside(&self, overlay: &mut Overlay, event: Option<BesideEvent>) -> Result<bool, Fault> {
        let Some(plan) = &self.mapping.joins else { return Ok(false) };
        match event {
            None => Ok(false),
            Some(BesideEvent::Truncate) => Ok(true),
            Some(BesideEvent::Faulty(fault)) => Err(fault),
            Some(BesideEvent::Changes { changes, source_ts_us }) => {
                let mut taken = Ok(false);
                for change in changes {
                    let follows = |table: &JoinedTable| self.joining.follows(table);
                    let result = beside::apply(&mut overlay.joins, plan, change, source_ts_us, follows);
                    taken = taken.and(result.map(|()| false));
                }
                taken
            }
        }
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
                overlay.joins.rows.load(owner, keys.iter().cloned()).await?;
                let groups: Vec<_> = keys.iter().filter_map(|key| overlay.joins.rows.get(key)?.group.clone()).collect();
                overlay.joins.groups.load(owner, groups).await?;
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
        self.commit(owner, Overlay::new(self.counters.clone()), Vec::new(), offsets).await
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
