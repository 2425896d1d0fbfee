//! What is known of an event's row before it: whether the event is new, and which columns it may leave out.

use bytes::Bytes;
use guitong_schemas::position::Version;

use super::arrival::{Arrival, Body};
use super::worker::{Read, Verdict};
use crate::claims;
use crate::keyed::overlay::Overlay;
use crate::mapping::Columns;

/// What is known of an event's row before it, from state and from the events of the batch before it.
pub(super) struct Known<'k> {
    /// Newest version read; `None` where there is no such row.
    seen: Option<Version>,
    pub(super) columns: Option<&'k Columns>,
    /// The row still lists the entry that is being run again.
    is_listed: bool,
}

impl<'k> Known<'k> {
    pub(super) fn of(overlay: &'k Overlay, arrival: &Arrival, before: Option<&'k Read<'_>>) -> Self {
        let row = arrival.source.as_ref().and_then(|source| overlay.rows.get(source));
        if let Some(seq) = arrival.entry {
            let is_listed = arrival.source.is_none() || row.is_some_and(|row| row.open.iter().any(|open| open.seq == seq));
            let entry = overlay.entries.get(&claims::entry_key(seq));
            return Self { seen: None, columns: entry.map(|entry| &entry.columns), is_listed: is_listed && entry.is_some() };
        }
        match before {
            Some(Read { verdict: Verdict::Removed, .. }) => Self { seen: None, columns: None, is_listed: false },
            Some(read) => Self { seen: Some(read.arrival.version), columns: read.columns.as_ref(), is_listed: false },
            None => Self { seen: row.map(|row| row.seen), columns: row.and_then(|row| row.columns.as_ref()), is_listed: false },
        }
    }

    /// Whether this very change was read before, under whatever mapping.
    pub(super) fn has_seen(&self, arrival: &Arrival) -> bool {
        self.seen.is_some_and(|seen| arrival.version.with_revision(0) <= seen.with_revision(0))
    }

    /// Whether nothing is to be read of the event, since as new a version of its row was read before. A delete and the
    /// tombstone after it have one version.
    pub(super) fn is_stale(&self, arrival: &Arrival) -> bool {
        match (arrival.entry, self.seen) {
            (Some(_), _) => !self.is_listed,
            (None, Some(seen)) if arrival.body == Body::Tombstone => arrival.version < seen,
            (None, Some(seen)) => arrival.version <= seen,
            (None, None) => false,
        }
    }
}

/// Remembers the newest version read and the columns as of it.
pub(super) fn note_seen(overlay: &mut Overlay, source: &Bytes, arrival: &Arrival, columns: Option<Columns>) {
    let is_newest = match arrival.entry {
        None => true,
        // A replay tells the columns of the newest version where that could not be read before.
        Some(_) => {
            let seen = overlay.rows.get(source).map(|row| row.seen.with_revision(0));
            columns.is_some() && seen == Some(arrival.version.with_revision(0))
        }
    };
    if is_newest {
        claims::note_seen(overlay, source, arrival.version, columns);
    }
}
