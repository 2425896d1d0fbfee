//! From records to what a sink is handed: decisions, the last change of each key, digest.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use foldhash::fast::RandomState;
use guitong_govern::audit::Digest;
use guitong_govern::{Decision, Entitlement, EvaluationError, Gone, Record as Whole, RowKey, Stop};
use guitong_log::Record;
use guitong_schemas::position::Version;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::decode::{Schemas, Unreadable};
use crate::sink::{Change, Wants, What};

/// One record and what comes of it.
#[derive(Debug)]
pub(crate) struct Item<'r> {
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    pub(crate) source_us: i64,
    pub(crate) outcome: Outcome<'r>,
    pub(crate) unjudged: Option<EvaluationError>,
}

#[derive(Debug)]
pub(crate) enum Outcome<'r> {
    Change(Change<'r>),
    /// With the row that it is of, where at least that can be read.
    Unreadable(Unreadable, Option<RowKey<'r>>),
    /// Repeats what was delivered, and the subscription does not ask for that.
    Unchanged,
}

/// Decides on every record, or says why nothing may be delivered now. `repeats`: records that are as they were are delivered too.
pub(crate) fn decide<'r>(
    entitlement: &Entitlement,
    schemas: &'r Schemas,
    records: &'r [Record],
    repeats: bool,
    now: Timestamp,
) -> Result<Vec<Item<'r>>, Stop> {
    let (mut items, mut spare) = (Vec::with_capacity(records.len()), Vec::new());
    for record in records {
        let (partition, offset) = (record.at.partition, record.offset);
        let mut item = Item {
            partition,
            offset,
            source_us: record.timestamp_ms.saturating_mul(1000),
            outcome: Outcome::Unchanged,
            unjudged: None,
        };
        match schemas.read_into(std::mem::take(&mut spare), record) {
            Err(unreadable) => {
                let row = schemas.read_key(record).ok().and_then(|key| {
                    let whole = Whole { key: &key, fields: None, source_us: item.source_us };
                    match entitlement.decide(now, whole) {
                        Decision::Delete(row, _) => Some(row),
                        Decision::Deliver(_) | Decision::Stopped(_) => None,
                    }
                });
                item.outcome = Outcome::Unreadable(unreadable, row);
            }
            Ok(decoded) if decoded.unchanged && !repeats => item.source_us = decoded.source_us,
            Ok(decoded) => {
                item.source_us = decoded.source_us;
                let whole = Whole { key: &decoded.key, fields: decoded.fields.as_deref(), source_us: decoded.source_us };
                let what = match entitlement.decide(now, whole) {
                    Decision::Deliver(row) => What::Upsert(row),
                    Decision::Delete(key, gone) => {
                        if let Gone::Unjudged(error) = gone {
                            item.unjudged = Some(error);
                        }
                        What::Delete(key, gone)
                    }
                    Decision::Stopped(stop) => return Err(stop),
                };
                item.outcome = Outcome::Change(Change::new(decoded.version, decoded.source_us, what));
                spare = decoded.fields.unwrap_or_default();
            }
        }
        items.push(item);
    }
    Ok(items)
}

/// The newest change of each key; of equal versions the later record's.
pub(crate) fn newest<'i, 'r>(items: &'i [Item<'r>]) -> Vec<&'i Change<'r>> {
    at(items, &places_of_newest(items))
}

/// Where among the items the newest change of each key is.
pub(crate) fn places_of_newest(items: &[Item<'_>]) -> Vec<usize> {
    let mut of_key: HashMap<&[u8], (usize, Version), RandomState> =
        HashMap::with_capacity_and_hasher(items.len(), RandomState::default());
    let mut newest = Vec::with_capacity(items.len());
    for (place, item) in items.iter().enumerate() {
        let Outcome::Change(change) = &item.outcome else { continue };
        match of_key.entry(change.key().id.as_slice()) {
            Entry::Vacant(key) => {
                key.insert((newest.len(), change.version));
                newest.push(place);
            }
            Entry::Occupied(mut key) => {
                let (at, version) = *key.get();
                if let Some(held) = newest.get_mut(at).filter(|_| version <= change.version) {
                    *held = place;
                    key.insert((at, change.version));
                }
            }
        }
    }
    newest
}

/// The changes at these places.
pub(crate) fn at<'i, 'r>(items: &'i [Item<'r>], places: &[usize]) -> Vec<&'i Change<'r>> {
    let change = |place: &usize| match &items.get(*place)?.outcome {
        Outcome::Change(change) => Some(change),
        Outcome::Unreadable(..) | Outcome::Unchanged => None,
    };
    places.iter().filter_map(change).collect()
}

/// What comes before the `newest` changes for a sink that wants it: parts that follow each other, each with one change of a key at most.
pub(crate) fn earlier<'i, 'r>(items: &'i [Item<'r>], newest: &[&'i Change<'r>], wants: Wants) -> Vec<Vec<&'i Change<'r>>> {
    let mut parts: Vec<Vec<&'i Change<'r>>> = Vec::new();
    if wants == Wants::Newest {
        return parts;
    }
    let mut of_key: HashMap<&[u8], Vec<&'i Change<'r>>> = HashMap::with_capacity(newest.len());
    for item in items {
        if let Outcome::Change(change) = &item.outcome {
            of_key.entry(change.key().id.as_slice()).or_default().push(change);
        }
    }
    for last in newest {
        let mut changes = of_key.remove(last.key().id.as_slice()).unwrap_or_default();
        // Of equal versions the later record's is the newer one: the newest comes last.
        changes.sort_by_key(|change| change.version);
        changes.pop();
        let is_whole = |change: &&Change<'_>| matches!(change.what, What::Upsert(_));
        if wants == Wants::Ends {
            let from = if is_whole(last) { changes.len() } else { changes.iter().rposition(is_whole).unwrap_or(0) };
            changes.drain(..from);
        }
        parts.resize_with(parts.len().max(changes.len()), Vec::new);
        parts.iter_mut().zip(changes).for_each(|(part, change)| part.push(change));
    }
    parts
}

/// SHA-256 over the contents of what is handed to a sink, in their order; in hexadecimal.
pub(crate) fn digest<'b, 'i: 'b, 'r: 'i>(changes: impl IntoIterator<Item = &'b &'i Change<'r>>) -> Digest {
    let mut hash = Sha256::new();
    changes.into_iter().for_each(|change| hash.update(change.content));
    Digest(hex::encode(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use guitong_govern::{Row, RowKey};

    use super::*;

    fn delete(key: u8, commit: u64) -> Item<'static> {
        let version = Version { commit, ..Version::default() };
        let change = Change::new(version, 0, What::Delete(RowKey { id: vec![key], clear: vec![] }, Gone::Deleted));
        Item { partition: 0, offset: commit, source_us: 0, outcome: Outcome::Change(change), unjudged: None }
    }

    #[test]
    fn the_newest_change_of_each_key_is_handed_over() {
        let items = [delete(1, 1), delete(2, 2), delete(1, 4), delete(1, 3)];
        let newest: Vec<_> = newest(&items).iter().map(|change| (change.key().id[0], change.version.commit)).collect();
        assert_eq!(newest, [(1, 4), (2, 2)]);
    }

    fn upsert(key: u8, commit: u64) -> Item<'static> {
        let version = Version { commit, ..Version::default() };
        let row = Row { key: RowKey { id: vec![key], clear: vec![] }, cells: vec![] };
        let change = Change::new(version, 0, What::Upsert(row));
        Item { partition: 0, offset: commit, source_us: 0, outcome: Outcome::Change(change), unjudged: None }
    }

    #[test]
    fn what_comes_before_is_handed_over_as_it_is_wanted() {
        let items = [upsert(1, 1), upsert(2, 2), upsert(1, 3), delete(1, 5), delete(1, 4), upsert(2, 6)];
        let newest = newest(&items);
        let parts = |wants| {
            let of = |part: &Vec<&Change<'_>>| part.iter().map(|change| change.version.commit).collect::<Vec<_>>();
            earlier(&items, &newest, wants).iter().map(of).collect::<Vec<_>>()
        };
        assert_eq!(parts(Wants::Newest), [[0; 0]; 0]);
        assert_eq!(parts(Wants::Ends), [[3], [4]], "the row as it was last, and what became of it");
        assert_eq!(parts(Wants::Every), [vec![1, 2], vec![3], vec![4]]);
    }

    #[test]
    fn the_digest_tells_contents_apart() {
        let (one, other) = ([delete(1, 1)], [delete(1, 2)]);
        assert_eq!(digest(&newest(&one)), digest(&newest(&one)));
        assert_ne!(digest(&newest(&one)), digest(&newest(&other)));
    }
}
