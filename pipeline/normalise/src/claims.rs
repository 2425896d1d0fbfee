//! What one row change does to the entity records: the rules of CONTRACTS 4, on the overlay alone.
//!
//! Invariants, for every entity key: the published record is that of the live row with the newest good version among the rows
//! that claim the key; a row that is not the holder changes nothing when it leaves; when the holder leaves, the newest
//! claimant is published. While a row's newest version is in quarantine its last good one keeps its claims; a newer good
//! version and a delete release the entries. One event emits at most one record for one key.

use bytes::Bytes;
use guitong_schemas::position::Version;
use smallvec::SmallVec;

use crate::keyed::entity::{Claim, EntityState};
use crate::keyed::overlay::Overlay;
use crate::keyed::row::{Open, RowState};
use crate::mapping::Columns;
use crate::quarantine::Entry;

/// Open entries kept for one row; the oldest is let go beyond it, since a newer version stands behind it.
const MAX_OPEN: usize = 16;

/// One record that a good row version makes.
#[derive(Debug, Clone)]
pub(crate) struct EntityRecord {
    /// Avro of the entity's key, without frame.
    pub(crate) key: Bytes,
    /// Frame and Avro of the record.
    pub(crate) record: Bytes,
    /// Value of `guitong-quality`; empty where there are no warnings.
    pub(crate) quality: Bytes,
}

/// What is to be written to `std.`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Emission {
    /// Avro of the entity's key, without frame.
    pub(crate) key: Bytes,
    pub(crate) change: Published,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Published {
    Upsert { record: Bytes, quality: Bytes, shared: bool, source_ts_us: i64 },
    Delete,
}

/// What an event came to, for counters and for the topics.
#[derive(Debug, Default)]
pub(crate) struct Effect {
    pub(crate) emissions: SmallVec<[Emission; 2]>,
    /// Numbers of entries that are open no longer.
    pub(crate) released: SmallVec<[u64; 1]>,
}

/// A good version: the row claims the keys of `records`, and leaves those that it claimed before.
pub(crate) fn settle(
    overlay: &mut Overlay,
    source: &Bytes,
    version: Version,
    records: impl IntoIterator<Item = EntityRecord>,
    source_ts_us: i64,
) -> Effect {
    let mut effect = Effect::default();
    let mut row = overlay.rows.take(source).unwrap_or_default();
    let was_held = row.held_back();
    let left = std::mem::take(&mut row.keys);
    let mut claims: SmallVec<[(Bytes, Claim); 1]> = SmallVec::new();
    for EntityRecord { key, record, quality } in records {
        let claim = Claim { source: source.clone(), version, record, quality, source_ts_us };
        match claims.iter_mut().find(|(other, _)| *other == key) {
            Some((_, other)) => *other = claim,
            None => claims.push((key, claim)),
        }
    }
    for key in left.into_iter().filter(|key| claims.iter().all(|(other, _)| other != key)) {
        leave(overlay, key, source, &mut effect);
    }
    for (key, claim) in claims {
        row.keys.push(key.clone());
        take_claim(overlay, key, claim, &mut effect);
    }
    row.good = Some(version);
    row.seen = row.seen.max(version);
    release(overlay, &mut row, |open| open.version <= version, &mut effect);
    count_held(overlay, was_held, row.held_back());
    overlay.rows.put(source.clone(), row);
    effect
}

/// A delete: the row leaves every key, and its entries are released.
pub(crate) fn remove(overlay: &mut Overlay, source: &Bytes) -> Effect {
    let mut effect = Effect::default();
    let Some(mut row) = overlay.rows.take(source) else { return effect };
    let was_held = row.held_back();
    for key in std::mem::take(&mut row.keys) {
        leave(overlay, key, source, &mut effect);
    }
    release(overlay, &mut row, |_| true, &mut effect);
    count_held(overlay, was_held, false);
    overlay.rows.remove(source.clone());
    effect
}

/// A version that broke a rule: kept as an entry, while the last good one stands. Gives the entry's number.
pub(crate) fn quarantine(overlay: &mut Overlay, source: Option<&Bytes>, version: Version, entry: Entry) -> (u64, Effect) {
    let mut effect = Effect::default();
    let Some(source) = source else {
        let seq = next_entry(overlay, entry);
        return (seq, effect);
    };
    let mut row = overlay.rows.take(source).unwrap_or_default();
    let was_held = row.held_back();
    let same_change = |open: &&mut Open| open.version.with_revision(0) == version.with_revision(0);
    let seq = match row.open.iter_mut().find(same_change) {
        // The same change again, after a change of the mapping: its entry tells the newer reason.
        Some(open) => {
            open.version = version;
            overlay.entries.put(entry_key(open.seq), entry);
            open.seq
        }
        None => {
            let seq = next_entry(overlay, entry);
            row.open.push(Open { seq, version });
            row.open.sort_by_key(|open| open.version);
            seq
        }
    };
    if row.open.len() > MAX_OPEN {
        let oldest = row.open.first().map(|open| open.version);
        release(overlay, &mut row, |open| Some(open.version) == oldest, &mut effect);
    }
    row.seen = row.seen.max(version);
    count_held(overlay, was_held, row.held_back());
    overlay.rows.put(source.clone(), row);
    (seq, effect)
}

impl Effect {
    pub(crate) fn is_empty(&self) -> bool {
        self.emissions.is_empty() && self.released.is_empty()
    }
}

/// An entry that is open no longer, though its event changes nothing.
pub(crate) fn let_go(overlay: &mut Overlay, source: Option<&Bytes>, seq: u64) -> Effect {
    let mut effect = Effect::default();
    let Some(mut row) = source.and_then(|source| overlay.rows.take(source)) else {
        close_entry(overlay, seq);
        effect.released.push(seq);
        return effect;
    };
    let was_held = row.held_back();
    release(overlay, &mut row, |open| open.seq == seq, &mut effect);
    count_held(overlay, was_held, row.held_back());
    if let Some(source) = source {
        overlay.rows.put(source.clone(), row);
    }
    effect
}

/// An entry that was run again and still breaks rules: its reasons are the new ones, its place and time the old.
pub(crate) fn retell(overlay: &mut Overlay, seq: u64, entry: Entry) -> Effect {
    if let Some(old) = overlay.entries.take(&entry_key(seq)) {
        let Entry { rejections, key, .. } = entry;
        overlay.entries.put(entry_key(seq), Entry { rejections, key, ..old });
    }
    Effect::default()
}

/// Notes that a version was read, good or not, with the columns that later events may leave out.
pub(crate) fn note_seen(overlay: &mut Overlay, source: &Bytes, version: Version, columns: Option<Columns>) {
    let mut row: RowState = overlay.rows.take(source).unwrap_or_default();
    row.seen = version;
    row.columns = columns;
    overlay.rows.put(source.clone(), row);
}

/// Key of an entry in the quarantine map.
pub(crate) fn entry_key(seq: u64) -> Bytes {
    Bytes::copy_from_slice(&seq.to_be_bytes())
}

fn next_entry(overlay: &mut Overlay, entry: Entry) -> u64 {
    let seq = overlay.totals.next_seq;
    overlay.totals.next_seq += 1;
    overlay.totals.open += 1;
    overlay.entries.put(entry_key(seq), entry);
    seq
}

fn close_entry(overlay: &mut Overlay, seq: u64) {
    overlay.entries.remove(entry_key(seq));
    overlay.totals.open = overlay.totals.open.saturating_sub(1);
}

fn release(overlay: &mut Overlay, row: &mut RowState, which: impl Fn(&Open) -> bool, effect: &mut Effect) {
    row.open.retain(|open| {
        let goes = which(open);
        if goes {
            close_entry(overlay, open.seq);
            effect.released.push(open.seq);
        }
        !goes
    });
}

fn count_held(overlay: &mut Overlay, was: bool, is: bool) {
    let held = &mut overlay.totals.held_back;
    match (was, is) {
        (false, true) => *held += 1,
        (true, false) => *held = held.saturating_sub(1),
        _ => {}
    }
}

fn upsert(key: Bytes, claim: &Claim, shared: bool) -> Emission {
    let Claim { record, quality, source_ts_us, .. } = claim;
    let change =
        Published::Upsert { record: record.clone(), quality: quality.clone(), shared, source_ts_us: *source_ts_us };
    Emission { key, change }
}

fn take_claim(overlay: &mut Overlay, key: Bytes, claim: Claim, effect: &mut Effect) {
    let Some(mut state) = overlay.entities.take(&key) else {
        overlay.totals.entities += 1;
        effect.emissions.push(upsert(key.clone(), &claim, false));
        overlay.entities.put(key, EntityState { holder: claim, claimants: Vec::new() });
        return;
    };
    if state.holder.source == claim.source {
        let unchanged = state.holder.record == claim.record && state.holder.quality == claim.quality;
        state.holder = claim;
        if !unchanged {
            effect.emissions.push(upsert(key.clone(), &state.holder, !state.claimants.is_empty()));
        }
    } else {
        state.claimants.retain(|other| other.source != claim.source);
        if claim.version > state.holder.version {
            state.claimants.push(std::mem::replace(&mut state.holder, claim));
            effect.emissions.push(upsert(key.clone(), &state.holder, true));
        } else {
            state.claimants.push(claim);
        }
    }
    overlay.entities.put(key, state);
}

fn leave(overlay: &mut Overlay, key: Bytes, source: &Bytes, effect: &mut Effect) {
    let Some(mut state) = overlay.entities.take(&key) else { return };
    if state.holder.source != *source {
        state.claimants.retain(|claim| claim.source != *source);
        overlay.entities.put(key, state);
        return;
    }
    let newest = (0..state.claimants.len()).max_by_key(|&index| state.claimants.get(index).map(|claim| claim.version));
    match newest {
        Some(index) => {
            state.holder = state.claimants.swap_remove(index);
            effect.emissions.push(upsert(key.clone(), &state.holder, !state.claimants.is_empty()));
            overlay.entities.put(key, state);
        }
        None => {
            overlay.totals.entities = overlay.totals.entities.saturating_sub(1);
            effect.emissions.push(Emission { key: key.clone(), change: Published::Delete });
            overlay.entities.remove(key);
        }
    }
}
