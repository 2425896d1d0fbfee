//! What was made aside takes the place of what stands, a page of keys in one commit. Nothing else changes the resource meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use guitong_log::{Batch, LogError, NewRecord, OwnedLog, StateChange};
use smallvec::smallvec;

use super::aside::name;
use super::state::{Step, Tally};
use super::{Rebuild, RebuildReport};
use crate::claims::{Effect, Emission, Published, entry_key, upsert};
use crate::error::SessionError;
use crate::join::overlay::user_key;
use crate::join::state::{Link, Links, input_key};
use crate::join::{INPUTS, LINKS, USERS};
use crate::keyed::entity::{Claim, EntityState};
use crate::keyed::overlay::{Overlay, StateError, Stored};
use crate::keyed::row::{Open, RowState};
use crate::keyed::{ENTITIES, QUARANTINE, ROWS};
use crate::quality::standing::Tallied;
use crate::quarantine::{Entry, record};
use crate::stage::output::{Cause, Output};
use crate::stage::worker::Worker;

/// Most keys that one commit puts in place, and the bytes that a key is taken to have where only the number of keys is known before.
const PAGE: usize = 500;
const KEY: usize = 2 << 10;

/// The keys that come next in a map and in what was made of it aside, each with both values.
struct Page {
    keys: BTreeMap<Bytes, Pair>,
    is_last: bool,
}

#[derive(Default)]
struct Pair {
    stood: Option<Bytes>,
    made: Option<Bytes>,
}

/// Changes of maps; the last of a key counts.
#[derive(Default)]
struct Changes(BTreeMap<(&'static str, Bytes), Option<Bytes>>);

impl Changes {
    fn put(&mut self, map: &'static str, key: Bytes, value: Option<Bytes>) {
        self.0.insert((map, key), value);
    }

    /// Puts what lies aside under `key` in place; `None` takes away what stands there.
    fn place(&mut self, map: &'static str, key: &Bytes, value: Option<Bytes>) {
        self.put(map, key.clone(), value);
        self.forget_aside(map, key);
    }

    fn forget_aside(&mut self, map: &'static str, key: &Bytes) {
        self.put(name(map), key.clone(), None);
    }
}

async fn page(owner: &dyn OwnedLog, map: &'static str, after: Option<&Bytes>, bytes: usize) -> Result<Page, LogError> {
    let (after, most) = (after.map(|key| &key[..]), (bytes / KEY).clamp(1, PAGE));
    let stood = owner.scan(map, &[], after, most).await?;
    let made = owner.scan(name(map), &[], after, most).await?;
    let ends = [&stood, &made].into_iter().filter(|page| page.len() == most).filter_map(|page| page.last());
    let bound = ends.map(|(key, _)| key.clone()).min();
    let is_within = |key: &Bytes| bound.as_ref().is_none_or(|bound| key <= bound);
    let mut keys: BTreeMap<Bytes, Pair> = BTreeMap::new();
    for (key, value) in stood.into_iter().filter(|(key, _)| is_within(key)) {
        keys.entry(key).or_default().stood = Some(value);
    }
    for (key, value) in made.into_iter().filter(|(key, _)| is_within(key)) {
        keys.entry(key).or_default().made = Some(value);
    }
    Ok(Page { keys, is_last: bound.is_none() })
}

fn decode<T: Stored>(bytes: Option<&Bytes>) -> Result<Option<T>, StateError> {
    bytes.map(|bytes| T::decode(bytes).map_err(|error| StateError::Codec { map: T::MAP, error })).transpose()
}

/// Values of a map by key, as they stand and as they were made aside.
type BothOf<T> = BTreeMap<Bytes, (Option<T>, Option<T>)>;

async fn both<T: Stored>(owner: &dyn OwnedLog, keys: BTreeSet<Bytes>) -> Result<BothOf<T>, StateError> {
    let keys: Vec<Bytes> = keys.into_iter().collect();
    let stood = owner.get(T::MAP, &keys).await?;
    let made = owner.get(name(T::MAP), &keys).await?;
    let mut found = BTreeMap::new();
    for ((key, stood), made) in keys.into_iter().zip(stood).zip(made) {
        found.insert(key, (decode(stood.as_ref())?, decode(made.as_ref())?));
    }
    Ok(found)
}

/// A row as it stands and as it was made aside.
type RowPair = (Bytes, Option<RowState>, Option<RowState>);

/// Whether a row stays as it is: the raw log does not hold its newest version, or not so that the mapping can read it. Rows that the
/// mapping leaves out, and those that were deleted, are there aside with their versions; one that a whole topic does not hold was
/// deleted as well.
fn is_left((stood, made): (Option<&RowState>, Option<&RowState>), is_whole: bool) -> bool {
    stood.is_some_and(|stood| match made {
        Some(made) => made.seen.with_revision(0) < stood.seen.with_revision(0),
        None => !is_whole,
    })
}

impl Rebuild {
    /// Puts a page of entity keys in place, and publishes what is otherwise.
    pub(super) async fn replace_entities(
        &mut self,
        owner: &mut dyn OwnedLog,
        live: &mut Worker,
        after: Option<Bytes>,
        bytes: usize,
    ) -> Result<(), SessionError> {
        let Page { keys, is_last } = page(owner, ENTITIES, after.as_ref(), bytes).await?;
        let next = if is_last { Step::Rows { after: None } } else { Step::Entities { after: keys.keys().next_back().cloned() } };
        let mut states = Vec::with_capacity(keys.len());
        for (key, Pair { stood, made }) in keys {
            states.push((key, decode::<EntityState>(stood.as_ref())?, decode::<EntityState>(made.as_ref())?));
        }
        live.see_in_force(states.iter_mut().filter_map(|(_, stood, _)| stood.as_mut()).collect()).await?;
        let claims = states.iter().flat_map(|(_, stood, made)| [stood, made]).flatten();
        let sources = claims.flat_map(|state| state.claims().map(|claim| claim.source.clone())).collect();
        let rows = both::<RowState>(owner, sources).await?;
        let is_whole = self.is_whole();
        let is_left = |claim: &Claim| {
            let row = rows.get(&claim.source);
            row.is_some_and(|(stood, made)| is_left((stood.as_ref(), made.as_ref()), is_whole))
        };
        let mut overlay = Overlay::new(live.counters.clone());
        let (mut output, mut records) = (Output::new(Arc::clone(&live.names)), Vec::new());
        let (mut changes, mut tally) = (Changes::default(), self.tally());
        for (key, stood, made) in states {
            let left = stood.iter().flat_map(EntityState::claims).filter(|claim| is_left(claim));
            let again = made.iter().flat_map(EntityState::claims).filter(|claim| !is_left(claim));
            let now = EntityState::of(left.chain(again).cloned());
            tally.keys += u64::from(now.is_some());
            tally.shared_keys += u64::from(now.as_ref().is_some_and(|now| !now.claimants.is_empty()));
            changes.place(ENTITIES, &key, now.as_ref().map(EntityState::encode));
            let Some((claim, change)) = difference(&key, stood.as_ref(), now.as_ref(), &mut tally) else { continue };
            let cause = Cause {
                version: claim.version.with_revision(live.counters.totals.revision),
                source_ts_us: claim.source_ts_us,
                timestamp_ms: jiff::Timestamp::now().as_millisecond(),
            };
            let effect = Effect { emissions: smallvec![change], ..Effect::default() };
            live.emit(&mut overlay, cause, effect, &mut output, &mut records);
        }
        self.commit(owner, live, overlay, (records, changes), (next, tally)).await
    }

    /// Puts a page of rows in place, with their entries and with what is kept to make them again.
    pub(super) async fn replace_rows(
        &mut self,
        owner: &mut dyn OwnedLog,
        live: &mut Worker,
        after: Option<Bytes>,
        bytes: usize,
    ) -> Result<(), SessionError> {
        let Page { mut keys, mut is_last } = page(owner, ROWS, after.as_ref(), bytes).await?;
        let links = both::<Links>(owner, keys.keys().cloned().collect()).await?;
        if let Some(bound) = bound(&links, bytes) {
            is_last &= keys.split_off(&bound).is_empty();
        }
        let next = if is_last { Step::Sweeping } else { Step::Rows { after: keys.keys().next_back().cloned() } };
        let mut rows: Vec<RowPair> = Vec::with_capacity(keys.len());
        for (source, Pair { stood, made }) in keys {
            rows.push((source, decode::<RowState>(stood.as_ref())?, decode::<RowState>(made.as_ref())?));
        }
        let open = rows.iter().flat_map(|(_, stood, made)| [stood, made]).flatten().flat_map(|row| &row.open);
        let mut entries = both::<Entry>(owner, open.map(|open| entry_key(open.seq)).collect()).await?;
        let inputs = inputs(owner, &rows, &links).await?;
        let (mut changes, mut tally, mut released) = (Changes::default(), self.tally(), Vec::new());
        for (source, stood, made) in rows {
            let left = is_left((stood.as_ref(), made.as_ref()), self.is_whole());
            let stood_open = stood.as_ref().map(|row| row.open.clone()).unwrap_or_default();
            let (stood_links, made_links) =
                links.get(&source).map_or((None, None), |(stood, made)| (stood.as_ref(), made.as_ref()));
            for key in made_links.into_iter().flat_map(|links| keys_of(&source, links)) {
                changes.forget_aside(key.0, &key.1);
            }
            if left {
                tally.left += 1;
                stood.iter().for_each(|row| tally.row(row));
                for open in made.iter().flat_map(|row| &row.open) {
                    changes.forget_aside(QUARANTINE, &entry_key(open.seq));
                    released.push(open.seq);
                }
                changes.forget_aside(ROWS, &source);
                continue;
            }
            for (map, key) in stood_links.into_iter().flat_map(|links| keys_of(&source, links)) {
                changes.put(map, key, None);
            }
            for (map, key) in made_links.into_iter().flat_map(|links| keys_of(&source, links)) {
                let value = match map {
                    LINKS => made_links.map(Links::encode),
                    INPUTS => inputs.get(&key).cloned(),
                    _ => Some(Bytes::new()),
                };
                changes.put(map, key, value);
            }
            let mut now = made.filter(|row| !row.is_gone());
            for open in now.iter_mut().flat_map(|row| &mut row.open) {
                released.extend(place_entry(&mut changes, &mut entries, open, &stood_open));
            }
            let is_kept = |seq: u64| now.iter().flat_map(|row| &row.open).any(|open| open.seq == seq);
            for open in stood_open.iter().filter(|open| !is_kept(open.seq)) {
                changes.put(QUARANTINE, entry_key(open.seq), None);
                released.push(open.seq);
            }
            now.iter().for_each(|row| tally.row(row));
            changes.place(ROWS, &source, now.as_ref().map(RowState::encode));
        }
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let records = released.into_iter().map(|seq| record::released(&live.quarantine_topic, seq, now_ms)).collect();
        let overlay = Overlay::new(live.counters.clone());
        self.commit(owner, live, overlay, (records, changes), (next, tally)).await
    }

    /// Ends the rebuild: from here on the resource's own counters are those of what was put in place.
    pub(super) async fn finish(&mut self, owner: &mut dyn OwnedLog, live: &mut Worker) -> Result<(), SessionError> {
        let Some(run) = self.stored.run.take() else { return Ok(()) };
        let tally = run.tally;
        let mut overlay = Overlay::new(live.counters.clone());
        // What was deleted before it began stands no longer, however old the events are that come next.
        overlay.totals.read_us = overlay.totals.read_us.max(run.began_us);
        overlay.totals.entities = tally.keys;
        overlay.totals.held_back = tally.held_back;
        overlay.totals.open = count(owner, QUARANTINE).await?;
        overlay.standing.rows = Tallied { all: tally.rows, marked: tally.good_rows };
        overlay.standing.keys = Tallied { all: tally.keys, marked: tally.shared_keys };
        let ended_us = jiff::Timestamp::now().as_microsecond();
        let Tally { published, deleted, unchanged, left, .. } = tally;
        let report =
            RebuildReport { revision: run.revision, began_us: run.began_us, ended_us, published, deleted, unchanged, left };
        self.stored.last = Some(report);
        let (mut state, counters) = overlay.into_changes();
        state.push(self.stored.change());
        owner.append(Batch { state, ..Batch::default() }).await?;
        live.counters = counters;
        live.metrics.show(&live.counters);
        let RebuildReport { revision, published, deleted, unchanged, left, .. } = report;
        tracing::info!(revision, published, deleted, unchanged, left, "the resource was made again");
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.stored.run.as_ref().is_some_and(|run| run.is_whole)
    }

    fn tally(&self) -> Tally {
        self.stored.run.as_ref().map(|run| run.tally).unwrap_or_default()
    }

    async fn commit(
        &mut self,
        owner: &mut dyn OwnedLog,
        live: &mut Worker,
        overlay: Overlay,
        (records, changes): (Vec<NewRecord>, Changes),
        (step, tally): (Step, Tally),
    ) -> Result<(), SessionError> {
        let (mut state, counters) = overlay.into_changes();
        state.extend(changes.0.into_iter().map(|((map, key), value)| StateChange { map: map.into(), key, value }));
        if let Some(run) = &mut self.stored.run {
            (run.step, run.tally) = (step, tally);
        }
        state.push(self.stored.change());
        owner.append(Batch { records, state, ..Batch::default() }).await?;
        live.counters = counters;
        Ok(())
    }
}

async fn count(owner: &dyn OwnedLog, map: &str) -> Result<u64, LogError> {
    let (mut count, mut after) = (0, None::<Bytes>);
    loop {
        let page = owner.scan(map, &[], after.as_deref(), PAGE).await?;
        count += page.len() as u64;
        after = page.last().map(|(key, _)| key.clone());
        if page.len() < PAGE {
            return Ok(count);
        }
    }
}

/// What is to be published of a key, and the claim that says when it happened.
fn difference(
    key: &Bytes,
    stood: Option<&EntityState>,
    now: Option<&EntityState>,
    tally: &mut Tally,
) -> Option<(Claim, Emission)> {
    match (stood, now) {
        (Some(stood), Some(now)) if stood.holder.record == now.holder.record && stood.holder.quality == now.holder.quality => {
            tally.unchanged += 1;
            None
        }
        (_, Some(now)) => {
            tally.published += 1;
            Some((now.holder.clone(), upsert(key.clone(), &now.holder, !now.claimants.is_empty())))
        }
        (Some(stood), None) => {
            tally.deleted += 1;
            Some((stood.holder.clone(), Emission { key: key.clone(), change: Published::Delete }))
        }
        (None, None) => None,
    }
}

/// Puts an entry in place. One that is open for the same change already keeps its number and its age; the number that is free then.
fn place_entry(changes: &mut Changes, entries: &mut BothOf<Entry>, open: &mut Open, stood: &[Open]) -> Option<u64> {
    let key = entry_key(open.seq);
    let made = entries.get_mut(&key).and_then(|(_, made)| made.take())?;
    changes.forget_aside(QUARANTINE, &key);
    let same = stood.iter().find(|other| other.version.with_revision(0) == open.version.with_revision(0));
    let old = same.and_then(|same| Some((same.seq, entries.get(&entry_key(same.seq))?.0.as_ref()?)));
    let Some((seq, Entry { at_us, stored_from, .. })) = old else {
        changes.put(QUARANTINE, key, Some(made.encode()));
        return None;
    };
    let entry = Entry { at_us: *at_us, stored_from: *stored_from, ..made };
    changes.put(QUARANTINE, entry_key(seq), Some(entry.encode()));
    Some(std::mem::replace(&mut open.seq, seq))
}

/// The first row that does not fit the bytes of what is kept of the rows before it, behind the first.
fn bound(links: &BothOf<Links>, bytes: usize) -> Option<Bytes> {
    let mut size = 0;
    let is_over = |made: &Option<Links>| {
        size += made.iter().flat_map(|links| &links.versions).map(|link| link.size).sum::<u64>();
        size > bytes as u64
    };
    let mut over = links.iter().map(|(_, (_, made))| made).map(is_over);
    let first = over.next().map(|_| 1)?;
    let at = over.position(|is_over| is_over)? + first;
    links.keys().nth(at).cloned()
}

/// Everything that is kept so that a row can be made again.
fn keys_of<'l>(source: &'l Bytes, links: &'l Links) -> impl Iterator<Item = (&'static str, Bytes)> + 'l {
    let of_version = |link: &'l Link| {
        let users = link.groups.iter().map(|group| (USERS, user_key(group, source)));
        users.chain([(INPUTS, input_key(source, link.version))])
    };
    links.versions.iter().flat_map(of_version).chain([(LINKS, source.clone())])
}

/// The events that are kept aside of these rows.
async fn inputs(owner: &dyn OwnedLog, rows: &[RowPair], links: &BothOf<Links>) -> Result<BTreeMap<Bytes, Bytes>, LogError> {
    let mut keys = Vec::new();
    for (source, _, _) in rows {
        let made = links.get(source).and_then(|(_, made)| made.as_ref());
        keys.extend(made.into_iter().flat_map(|links| &links.versions).map(|link| input_key(source, link.version)));
    }
    let values = owner.get(name(INPUTS), &keys).await?;
    Ok(keys.into_iter().zip(values).filter_map(|(key, value)| Some((key, value?))).collect())
}
