//! What a batch under way has read and changed of joins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use guitong_log::StateChange;
use guitong_schemas::position::Version;

use super::beside::Uses;
use super::state::{BesideRow, Group, Link, Links, Refresh, input_key};
use super::{GroupKey, INPUTS, REFRESH, USERS};
use crate::keyed::overlay::{Cached, Overlay};
use crate::keyed::row::RowState;

#[derive(Debug, Default)]
pub(crate) struct JoinOverlay {
    pub(crate) rows: Cached<BesideRow>,
    pub(crate) groups: Cached<Group>,
    pub(crate) links: Cached<Links>,
    /// Values of maps of which a batch reads nothing.
    writes: BTreeMap<(&'static str, Bytes), Option<Bytes>>,
}

impl JoinOverlay {
    pub(crate) fn write(&mut self, map: &'static str, key: Bytes, value: Option<Bytes>) {
        self.writes.insert((map, key), value);
    }

    /// Has the users of a group made again from the first on.
    pub(crate) fn follow(&mut self, group: GroupKey, version: Version, source_ts_us: i64) {
        let refresh = Refresh { version, source_ts_us, after: Bytes::new() };
        self.write(REFRESH, group, Some(refresh.encode()));
    }

    pub(crate) fn changes(self, out: &mut Vec<StateChange>) {
        self.rows.changes(out);
        self.groups.changes(out);
        self.links.changes(out);
        let change = |((map, key), value): ((&'static str, Bytes), Option<Bytes>)| {
            let map: Arc<str> = map.into();
            StateChange { map, key, value }
        };
        out.extend(self.writes.into_iter().map(change));
    }
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

/// Key of a row among the users of a group.
pub(crate) fn user_key(group: &GroupKey, source: &[u8]) -> Bytes {
    Bytes::from([&group[..], source].concat())
}

fn is_needed(row: &RowState, version: Version) -> bool {
    row.good == Some(version) || row.open.iter().any(|open| open.version == version)
}
