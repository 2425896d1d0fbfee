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
pub(crate) const MAX_OPEN: usize = 16;

/// One record that a good row version makes.
#[derive(Debug, Clone)]
pub struct EntityRecord {
    /// Avro of the entity's key, without frame.
    pub key: Bytes,
    /// Frame and Avro of the record.
    pub record: Bytes,
    /// Value of `guitong-quality`; empty where there are no warnings.
    pub quality: Bytes,
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
    Upsert {
        record: Bytes,
        quality: Bytes,
        shared: bool,
        source_ts_us: i64,
        /// An update that left the published record as it was.
        unchanged: bool,
    },
    Delete,
}

/// What an event came to, for counters and for the topics.
#[derive(Debug, Default)]
pub(crate) struct Effect {
    pub(crate) emissions: SmallVec<[Emission; 2]>,
    /// Numbers of entries that are open no longer.
    pub(crate) released: SmallVec<[u64; 1]>,
}

/// A good version: the row claims the keys of `records`, and leaves those that it claimed before. `repeat`: a record that is as
/// it was is emitted once more, marked.
pub(crate) fn settle(
    overlay: &mut Overlay,
    source: &Bytes,
    version: Version,
    records: impl IntoIterator<Item = EntityRecord>,
    source_ts_us: i64,
    repeat: bool,
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
        take_claim(overlay, key, claim, repeat, &mut effect);
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
    /// Nothing that was published is otherwise now.
    pub(crate) fn changes_nothing(&self) -> bool {
        self.emissions.iter().all(|emission| matches!(emission.change, Published::Upsert { unchanged: true, .. }))
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

pub(crate) fn upsert(key: Bytes, claim: &Claim, shared: bool) -> Emission {
    let Claim { record, quality, source_ts_us, .. } = claim;
    let (record, quality, source_ts_us) = (record.clone(), quality.clone(), *source_ts_us);
    Emission { key, change: Published::Upsert { record, quality, shared, source_ts_us, unchanged: false } }
}

fn take_claim(overlay: &mut Overlay, key: Bytes, claim: Claim, repeat: bool, effect: &mut Effect) {
    let Some(mut state) = overlay.entities.take(&key) else {
        overlay.totals.entities += 1;
        effect.emissions.push(upsert(key.clone(), &claim, false));
        overlay.entities.put(key, EntityState { holder: claim, claimants: Vec::new() });
        return;
    };
    if state.holder.source == claim.source {
        let same = state.holder.record == claim.record && state.holder.quality == claim.quality;
        state.holder = claim;
        if !same || repeat {
            let mut emission = upsert(key.clone(), &state.holder, !state.claimants.is_empty());
            if let Published::Upsert { unchanged, .. } = &mut emission.change {
                *unchanged = same;
            }
            effect.emissions.push(emission);
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::keyed::totals::Totals;

    /// What happens to one of a few rows; versions rise by one with each step.
    #[derive(Debug, Clone)]
    enum Step {
        Good {
            row: u8,
            keys: Vec<u8>,
            text: u8,
        },
        Bad {
            row: u8,
        },
        Delete {
            row: u8,
        },
        /// The entry at this place among the open ones is good under a new mapping.
        Replay {
            place: usize,
            keys: Vec<u8>,
            text: u8,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        let keys = || proptest::collection::vec(0_u8..4, 1..3);
        prop_oneof![
            4 => (0_u8..4, keys(), 0_u8..3).prop_map(|(row, keys, text)| Step::Good { row, keys, text }),
            2 => (0_u8..4).prop_map(|row| Step::Bad { row }),
            2 => (0_u8..4).prop_map(|row| Step::Delete { row }),
            1 => (0_usize..8, keys(), 0_u8..3).prop_map(|(place, keys, text)| Step::Replay { place, keys, text }),
        ]
    }

    fn version(at: u64) -> Version {
        Version { epoch: 1, commit: at, ..Version::default() }
    }

    fn bytes(byte: u8) -> Bytes {
        Bytes::copy_from_slice(&[byte])
    }

    fn entry(source: &Bytes, version: Version) -> Entry {
        Entry {
            source: Some(source.clone()),
            key: String::new(),
            version,
            topic: "raw".into(),
            offset: 0,
            stored_from: 0,
            at_us: 0,
            rejections: Vec::new(),
            columns: Columns::default(),
        }
    }

    /// Rows by their good versions and what they claim; open entries by row.
    #[derive(Default)]
    struct Model {
        rows: BTreeMap<u8, (u64, Vec<u8>, u8)>,
        open: Vec<(u64, u8, u64)>,
    }

    impl Model {
        fn good(&mut self, row: u8, at: u64, keys: &[u8], text: u8) {
            self.rows.insert(row, (at, keys.to_vec(), text));
            self.open.retain(|(_, other, bad_at)| *other != row || *bad_at > at);
        }

        /// Each key's text: of the newest good version that claims it.
        fn published(&self) -> BTreeMap<Bytes, Bytes> {
            let mut newest: BTreeMap<u8, (u64, u8)> = BTreeMap::new();
            for (at, keys, text) in self.rows.values() {
                for key in keys {
                    let holder = newest.entry(*key).or_insert((*at, *text));
                    *holder = (*holder).max((*at, *text));
                }
            }
            newest.into_iter().map(|(key, (_, text))| (bytes(key), bytes(text))).collect()
        }

        fn held_back(&self) -> u64 {
            self.rows.keys().filter(|row| self.open.iter().any(|(_, other, _)| other == *row)).count() as u64
        }
    }

    fn records(keys: &[u8], text: u8) -> Vec<EntityRecord> {
        keys.iter().map(|key| EntityRecord { key: bytes(*key), record: bytes(text), quality: Bytes::new() }).collect()
    }

    proptest! {
        #[test]
        fn the_newest_good_row_holds_each_key(steps in proptest::collection::vec(step(), 1..60)) {
            let mut overlay = Overlay::default();
            let mut model = Model::default();
            let mut published: BTreeMap<Bytes, Bytes> = BTreeMap::new();
            let mut stamps = vec![Version::default()];
            for (at, step) in (1_u64..).zip(steps) {
                let (cause, effect) = match step {
                    Step::Good { row, keys, text } => {
                        model.good(row, at, &keys, text);
                        (at, settle(&mut overlay, &bytes(row), version(at), records(&keys, text), 0, at % 2 == 0))
                    }
                    Step::Delete { row } => {
                        model.rows.remove(&row);
                        model.open.retain(|(_, other, _)| *other != row);
                        (at, remove(&mut overlay, &bytes(row)))
                    }
                    Step::Bad { row } => {
                        let source = bytes(row);
                        let (seq, effect) = quarantine(&mut overlay, Some(&source), version(at), entry(&source, version(at)));
                        model.open.push((seq, row, at));
                        let own: Vec<u64> = model.open.iter().filter(|(_, other, _)| *other == row).map(|open| open.0).collect();
                        if own.len() > MAX_OPEN {
                            model.open.retain(|(seq, _, _)| *seq != own[0]);
                        }
                        (at, effect)
                    }
                    Step::Replay { place, keys, text } => {
                        let Some(&(_, row, bad_at)) = model.open.get(place) else { continue };
                        model.good(row, bad_at, &keys, text);
                        (bad_at, settle(&mut overlay, &bytes(row), version(bad_at), records(&keys, text), 0, at % 2 == 0))
                    }
                };
                if !effect.emissions.is_empty() {
                    let stamp = overlay.totals.stamp(version(cause));
                    prop_assert!(Some(&stamp) > stamps.last(), "{stamp} after {:?}", stamps.last());
                    stamps.push(stamp);
                }
                let mut touched = Vec::new();
                for Emission { key, change } in effect.emissions {
                    prop_assert!(!touched.contains(&key), "one event emits a key once");
                    touched.push(key.clone());
                    match change {
                        Published::Upsert { record, .. } => published.insert(key, record),
                        Published::Delete => published.remove(&key),
                    };
                }
                prop_assert_eq!(&published, &model.published());
                prop_assert_eq!(overlay.totals.entities, published.len() as u64);
                prop_assert_eq!(overlay.totals.open, model.open.len() as u64);
                prop_assert_eq!(overlay.totals.held_back, model.held_back());
            }
        }

        #[test]
        fn stored_values_read_back(keys in proptest::collection::vec(any::<u8>(), 0..5), at in any::<u64>(), held in any::<bool>()) {
            let mut columns = Columns::default();
            columns.push("备注", "长文本");
            let row = RowState {
                seen: version(at),
                good: held.then(|| version(at / 2)),
                keys: keys.iter().map(|key| bytes(*key)).collect(),
                open: keys.iter().map(|key| Open { seq: u64::from(*key), version: version(at) }).collect(),
                columns: held.then_some(columns),
            };
            prop_assert_eq!(RowState::decode(&row.encode()).expect("reads"), row.clone());
            prop_assert!(RowState::decode(&row.encode().slice(..row.encode().len() - 1)).is_err());
            let claim = Claim { source: bytes(1), version: version(at), record: bytes(2), quality: Bytes::new(), source_ts_us: -5 };
            let entity = EntityState { holder: claim.clone(), claimants: vec![claim; keys.len()] };
            prop_assert_eq!(EntityState::decode(&entity.encode()).expect("reads"), entity);
            let totals = Totals { revision: 3, stamp: version(at), next_seq: at, ..Totals::default() };
            prop_assert_eq!(Totals::decode(&totals.encode()).expect("reads"), totals);
            let kept = entry(&bytes(1), version(at));
            prop_assert_eq!(Entry::decode(&kept.encode()).expect("reads"), kept);
        }
    }

    #[test]
    fn an_equal_record_is_not_published_again() {
        let mut overlay = Overlay::default();
        let (row, other) = (bytes(1), bytes(2));
        assert_eq!(settle(&mut overlay, &row, version(1), records(&[7], 0), 0, false).emissions.len(), 1);
        assert!(settle(&mut overlay, &row, version(2), records(&[7], 0), 0, false).emissions.is_empty());
        let taken = settle(&mut overlay, &other, version(3), records(&[7], 0), 0, false);
        assert!(matches!(taken.emissions.as_slice(), [Emission { change: Published::Upsert { shared: true, .. }, .. }]));
        assert!(remove(&mut overlay, &row).emissions.is_empty(), "a row that is not the holder changes nothing");
        assert!(matches!(remove(&mut overlay, &other).emissions.as_slice(), [Emission { change: Published::Delete, .. }]));
    }
}
