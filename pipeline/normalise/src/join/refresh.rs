//! Rows made again since what is joined to them changed: a page of a changed key's users is one commit, which notes how far it
//! went, so memory is bounded and a stop loses and doubles nothing.
//!
//! Of each row the good version and those in quarantine are run through the mapping again, the newest first, until one is good.

use std::sync::Arc;

use bytes::Bytes;
use guitong_log::{NewRecord, OwnedLog};

use super::beside::Uses;
use super::overlay::{Made, note};
use super::plan::user_of;
use super::state::{Input, Refresh, input_key};
use super::{GroupKey, INPUTS, REFRESH, USERS};
use crate::claims::{self, entry_key};
use crate::error::SessionError;
use crate::keyed::overlay::{Overlay, StateError};
use crate::mapping::Columns;
use crate::quarantine::record;
use crate::stage::arrival::Arrival;
use crate::stage::figures::Came;
use crate::stage::output::{Cause, Output};
use crate::stage::worker::{Ends, Verdict, Worker};
use crate::transform::{Change, Event, Runner};

/// Most rows that one commit makes again.
const PAGE: usize = 500;

/// A version of a row to be made again.
pub(super) struct Version {
    pub(super) source: Bytes,
    pub(super) arrival: Arrival,
    pub(super) columns: Columns,
}

/// A row to be made again, and what asked for it.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) source: Bytes,
    pub(super) refresh: Refresh,
}

/// A version made again.
pub(super) struct Again<'v> {
    pub(super) version: &'v Version,
    pub(super) verdict: Verdict,
    pub(super) uses: Uses,
    pub(super) source_ts_us: i64,
}

impl Worker {
    /// Makes a page of rows again; whether there was one to be made.
    pub(crate) async fn refresh(&mut self, owner: &mut dyn OwnedLog, bytes: usize) -> Result<bool, SessionError> {
        let Some((group, stored)) = owner.scan(REFRESH, &[], None, 1).await?.pop() else { return Ok(false) };
        if self.mapping.group().is_some_and(|table| group.starts_with(&table.id)) {
            self.refresh_records(owner, bytes).await?;
        } else {
            self.refresh_users(owner, group, decode(&stored)?, bytes).await?;
        }
        Ok(true)
    }

    /// Makes a page of the rows again that used a changed group.
    async fn refresh_users(
        &mut self,
        owner: &mut dyn OwnedLog,
        group: GroupKey,
        mut refresh: Refresh,
        bytes: usize,
    ) -> Result<(), SessionError> {
        let after = (!refresh.after.is_empty()).then(|| Bytes::clone(&refresh.after));
        let page = owner.scan(USERS, &group, after.as_deref(), PAGE).await?;
        let mut overlay = Overlay::new(self.counters.clone());
        let users = page.iter().filter_map(|(key, _)| Some(Wanted { source: user_of(key)?, refresh: refresh.clone() }));
        let users: Vec<Wanted> = users.collect();
        let (done, records) = self.make_again(owner, &mut overlay, &users, bytes).await?;
        let is_last = page.len() < PAGE && done == page.len();
        let rest = page.get(done.wrapping_sub(1)).filter(|_| !is_last).map(|(key, _)| {
            refresh.after = key.clone();
            refresh.encode()
        });
        overlay.joins.write(REFRESH, group, rest);
        self.commit(owner, overlay, records, Ends::new()).await
    }

    /// Makes the first of the rows again, as many as the bytes allow; gives how many, and what is to be published.
    pub(super) async fn make_again(
        &mut self,
        owner: &dyn OwnedLog,
        overlay: &mut Overlay,
        wanted: &[Wanted],
        bytes: usize,
    ) -> Result<(usize, Vec<NewRecord>), SessionError> {
        let sources = || wanted.iter().map(|wanted| wanted.source.clone());
        overlay.joins.links.load(owner, sources()).await?;
        let wanted = wanted.get(..within(overlay, wanted, bytes)).unwrap_or_default();
        overlay.rows.load(owner, sources()).await?;
        let open: Vec<Bytes> = sources()
            .filter_map(|source| overlay.rows.get(&source))
            .flat_map(|row| row.open.iter().map(|open| entry_key(open.seq)))
            .collect();
        overlay.entries.load(owner, open).await?;
        match self.mapping.is_grouped() {
            true => self.make_records(owner, overlay, wanted).await,
            false => self.make_rows(owner, overlay, wanted).await,
        }
    }

    async fn make_rows(
        &mut self,
        owner: &dyn OwnedLog,
        overlay: &mut Overlay,
        wanted: &[Wanted],
    ) -> Result<(usize, Vec<NewRecord>), SessionError> {
        let versions = read_versions(owner, overlay, wanted).await?;
        self.bindings.clear();
        for version in &versions {
            self.bind_again(&version.arrival).await?;
        }
        let own: Vec<_> = versions.iter().map(|version| (&version.arrival, Some(&version.columns))).collect();
        let first = versions.iter().take_while(|version| Some(&version.source) == wanted.first().map(|it| &it.source)).count();
        self.load_groups(owner, overlay, &own, first).await?;
        let (again, unloaded) = self.run_again(overlay, &versions);
        self.bindings.clear();
        let place = |source: &Bytes| wanted.iter().position(|wanted| wanted.source == *source);
        let done = unloaded.as_ref().and_then(place).unwrap_or(wanted.len());
        self.load_entities(owner, overlay, keys_of(overlay, again.iter())).await?;
        let (mut output, mut records) = (Output::new(Arc::clone(&self.names)), Vec::new());
        for again in again {
            let key = match &again.verdict {
                Verdict::Bad(_) => self.describe_key(&again.version.arrival).await,
                _ => String::new(),
            };
            let Some(Wanted { refresh, .. }) = place(&again.version.source).and_then(|at| wanted.get(at)) else { continue };
            self.settle_again(overlay, again, key, refresh, &mut output, &mut records);
        }
        Ok((done, records))
    }

    /// Runs the versions, the newest of each row first; those older than a good one are left as they are. Gives the first row whose
    /// joined ones are not loaded: it and those after it are not run.
    fn run_again<'v>(&self, overlay: &Overlay, versions: &'v [Version]) -> (Vec<Again<'v>>, Option<Bytes>) {
        let mapping = Arc::clone(&self.mapping);
        let mut runner = Runner::new(&mapping, self.names.value_schema);
        // The rows were counted when they came.
        runner.flows.is_again = true;
        let (mut again, mut unloaded): (Vec<Again<'v>>, Option<Bytes>) = (Vec::with_capacity(versions.len()), None);
        for version in versions {
            let is_done = again
                .last()
                .is_some_and(|last| last.version.source == version.source && matches!(last.verdict, Verdict::Good(_)));
            if is_done {
                continue;
            }
            let fallback = version.arrival.record.timestamp_ms.saturating_mul(1_000);
            let groups = &overlay.joins.groups;
            let event = self.read_one(&mut runner, &version.arrival, Some(&version.columns), fallback, groups);
            // What was read once and cannot be read now stays as it is.
            let Ok(Event { source_ts_us, change, uses, .. }) = event else { continue };
            let verdict = match change {
                Change::Good(records) => Verdict::Good(records),
                Change::Bad { rejections } => Verdict::Bad(rejections),
                Change::Unloaded => {
                    again.retain(|before| before.version.source != version.source);
                    unloaded = Some(version.source.clone());
                    break;
                }
                // Only rows are kept.
                Change::Delete | Change::Truncate => continue,
            };
            again.push(Again { version, verdict, uses, source_ts_us });
        }
        for (level, rule, count) in runner.flows.iter().flat_map(|flow| flow.tally.counts()) {
            self.metrics.finding(level, rule, count);
        }
        (again, unloaded)
    }

    /// Publishes what a version came to.
    pub(super) fn settle_again(
        &self,
        overlay: &mut Overlay,
        again: Again<'_>,
        key: String,
        refresh: &Refresh,
        output: &mut Output,
        records: &mut Vec<NewRecord>,
    ) -> Option<Came> {
        let Again { version: Version { source, arrival, columns }, verdict, uses, source_ts_us } = again;
        let source_ts_us = source_ts_us.max(refresh.source_ts_us);
        let newest = arrival.version.max(refresh.version).max(uses.newest);
        let mut came = Came::Rejected;
        let effect = match verdict {
            Verdict::Good(made) => {
                let effect = claims::settle(overlay, source, arrival.version, made, source_ts_us, false);
                came = if effect.changes_nothing() { Came::Unchanged } else { Came::Published };
                effect
            }
            Verdict::Bad(rejections) => {
                let mut entry = self.entry(arrival, columns.clone(), key);
                entry.rejections.clone_from(&rejections);
                let open = overlay.rows.get(source).and_then(|row| row.open.iter().find(|open| open.version == arrival.version));
                match open.map(|open| open.seq) {
                    Some(seq) => claims::retell(overlay, seq, entry),
                    None => {
                        self.metrics.quarantined.inc();
                        let (seq, effect) = claims::quarantine(overlay, Some(source), arrival.version, entry);
                        records.push(record::of(&self.quarantine_topic, seq, &arrival.record, &rejections));
                        effect
                    }
                }
            }
            Verdict::Stale | Verdict::Removed => return None,
        };
        note(overlay, source, Some(Made { version: arrival.version, uses, input: None }));
        let cause = Cause { version: newest, source_ts_us, timestamp_ms: source_ts_us.div_euclid(1_000) };
        self.emit(overlay, cause, effect, output, records);
        Some(came)
    }
}

/// The entity keys that rows hold, and those that their versions give.
pub(super) fn keys_of<'a>(overlay: &Overlay, again: impl Iterator<Item = &'a Again<'a>>) -> Vec<Bytes> {
    let mut keys = Vec::new();
    for Again { version, verdict, .. } in again {
        let row = overlay.rows.get(&version.source);
        keys.extend(row.into_iter().flat_map(|row| row.keys.iter().cloned()));
        if let Verdict::Good(made) = verdict {
            keys.extend(made.iter().map(|record| record.key.clone()));
        }
    }
    keys
}

pub(super) fn decode(stored: &Bytes) -> Result<Refresh, StateError> {
    Refresh::decode(stored).map_err(|error| StateError::Codec { map: REFRESH, error })
}

/// How many of the rows fit the bytes; one at least.
fn within(overlay: &Overlay, wanted: &[Wanted], bytes: usize) -> usize {
    let mut size = 0;
    let fits = |wanted: &&Wanted| {
        let links = overlay.joins.links.get(&wanted.source);
        size += links.into_iter().flat_map(|links| &links.versions).map(|link| link.size).sum::<u64>();
        size <= bytes as u64
    };
    wanted.iter().take_while(fits).count().max(1).min(wanted.len())
}

/// The kept versions of the rows, the newest of each row first.
pub(super) async fn read_versions(
    owner: &dyn OwnedLog,
    overlay: &Overlay,
    rows: &[Wanted],
) -> Result<Vec<Version>, SessionError> {
    let mut wanted = Vec::new();
    for Wanted { source, .. } in rows {
        let links = overlay.joins.links.get(source);
        let mut versions: Vec<_> = links.into_iter().flat_map(|links| links.versions.iter().map(|link| link.version)).collect();
        versions.sort_by_key(|version| std::cmp::Reverse(*version));
        wanted.extend(versions.into_iter().map(|version| (source, version)));
    }
    let keys: Vec<Bytes> = wanted.iter().map(|(source, version)| input_key(source, *version)).collect();
    let stored = owner.get(INPUTS, &keys).await?;
    let mut versions = Vec::with_capacity(stored.len());
    for ((source, version), bytes) in wanted.into_iter().zip(stored) {
        let Some(bytes) = bytes else { continue };
        let Input { record, columns } = Input::decode(&bytes).map_err(|error| StateError::Codec { map: INPUTS, error })?;
        let arrival = Arrival::new(record, version.revision, None);
        versions.push(Version { source: source.clone(), arrival, columns });
    }
    Ok(versions)
}
