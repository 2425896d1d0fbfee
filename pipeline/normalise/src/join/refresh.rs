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
use super::{INPUTS, REFRESH, USERS};
use crate::claims::{self, entry_key};
use crate::error::SessionError;
use crate::keyed::overlay::{Overlay, StateError};
use crate::mapping::Columns;
use crate::quarantine::record;
use crate::stage::arrival::Arrival;
use crate::stage::output::{Cause, Output};
use crate::stage::worker::{Ends, Verdict, Worker};
use crate::transform::{Change, Event, Runner};

/// Most rows that one commit makes again.
const PAGE: usize = 500;

/// A version of a row to be made again.
struct Version {
    source: Bytes,
    arrival: Arrival,
    columns: Columns,
}

/// A version made again.
struct Again<'v> {
    version: &'v Version,
    verdict: Verdict,
    uses: Uses,
    source_ts_us: i64,
}

impl Worker {
    /// Makes a page of rows again; whether there was one to be made.
    pub(crate) async fn refresh(&mut self, owner: &mut dyn OwnedLog, bytes: usize) -> Result<bool, SessionError> {
        let Some((group, stored)) = owner.scan(REFRESH, &[], None, 1).await?.pop() else { return Ok(false) };
        let mut refresh = Refresh::decode(&stored).map_err(|error| StateError::Codec { map: REFRESH, error })?;
        let after = (!refresh.after.is_empty()).then(|| Bytes::clone(&refresh.after));
        let page = owner.scan(USERS, &group, after.as_deref(), PAGE).await?;
        let mut overlay = Overlay::new(self.counters.clone());
        let sources: Vec<Bytes> = page.iter().filter_map(|(key, _)| user_of(key)).collect();
        overlay.joins.links.load(owner, sources.iter().cloned()).await?;
        let taken = within(&overlay, &sources, bytes);
        let sources = sources.get(..taken).unwrap_or_default();
        let is_last = page.len() < PAGE && taken == page.len();
        let records = self.make_again(owner, &mut overlay, sources, &refresh).await?;
        let rest = page.get(taken.wrapping_sub(1)).filter(|_| !is_last).map(|(key, _)| {
            refresh.after = key.clone();
            refresh.encode()
        });
        overlay.joins.write(REFRESH, group, rest);
        self.commit(owner, overlay, records, Ends::new()).await?;
        Ok(true)
    }

    async fn make_again(
        &mut self,
        owner: &dyn OwnedLog,
        overlay: &mut Overlay,
        sources: &[Bytes],
        refresh: &Refresh,
    ) -> Result<Vec<NewRecord>, SessionError> {
        overlay.rows.load(owner, sources.iter().cloned()).await?;
        let open: Vec<Bytes> = sources
            .iter()
            .filter_map(|source| overlay.rows.get(source))
            .flat_map(|row| row.open.iter().map(|open| entry_key(open.seq)))
            .collect();
        overlay.entries.load(owner, open).await?;
        let versions = read_versions(owner, overlay, sources).await?;
        self.bindings.clear();
        for version in &versions {
            self.bind_again(&version.arrival).await?;
        }
        let own: Vec<_> = versions.iter().map(|version| (&version.arrival, Some(&version.columns))).collect();
        self.load_groups(owner, overlay, &own).await?;
        let again = self.run_again(overlay, &versions);
        self.bindings.clear();
        let mut keys = Vec::new();
        for Again { version, verdict, .. } in &again {
            let row = overlay.rows.get(&version.source);
            keys.extend(row.into_iter().flat_map(|row| row.keys.iter().cloned()));
            if let Verdict::Good(made) = verdict {
                keys.extend(made.iter().map(|record| record.key.clone()));
            }
        }
        self.load_entities(owner, overlay, keys).await?;
        let (mut output, mut records) = (Output::new(Arc::clone(&self.names)), Vec::new());
        for again in again {
            let key = match &again.verdict {
                Verdict::Bad(_) => self.describe_key(&again.version.arrival).await,
                _ => String::new(),
            };
            self.settle_again(overlay, again, key, refresh, &mut output, &mut records);
        }
        Ok(records)
    }

    /// Runs the versions, the newest of each row first; those older than a good one are left as they are.
    fn run_again<'v>(&self, overlay: &Overlay, versions: &'v [Version]) -> Vec<Again<'v>> {
        let mapping = Arc::clone(&self.mapping);
        let mut runner = Runner::new(&mapping, self.names.value_schema);
        // The rows were counted when they came.
        runner.flows.is_again = true;
        let mut again: Vec<Again<'v>> = Vec::with_capacity(versions.len());
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
                // Only rows are kept, and what they need is loaded.
                Change::Delete | Change::Truncate | Change::Unloaded => continue,
            };
            again.push(Again { version, verdict, uses, source_ts_us });
        }
        for (level, rule, count) in runner.flows.iter().flat_map(|flow| flow.tally.counts()) {
            self.metrics.finding(level, rule, count);
        }
        again
    }

    fn settle_again(
        &self,
        overlay: &mut Overlay,
        again: Again<'_>,
        key: String,
        refresh: &Refresh,
        output: &mut Output,
        records: &mut Vec<NewRecord>,
    ) {
        let Again { version: Version { source, arrival, columns }, verdict, uses, source_ts_us } = again;
        let source_ts_us = source_ts_us.max(refresh.source_ts_us);
        let newest = arrival.version.max(refresh.version).max(uses.newest);
        let effect = match verdict {
            Verdict::Good(made) => claims::settle(overlay, source, arrival.version, made, source_ts_us, false),
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
            Verdict::Stale | Verdict::Removed => return,
        };
        note(overlay, source, Some(Made { version: arrival.version, uses, input: None }));
        let cause = Cause { version: newest, source_ts_us, timestamp_ms: source_ts_us.div_euclid(1_000) };
        self.emit(overlay, cause, effect, output, records);
    }
}

/// How many of the rows fit the bytes; one at least.
fn within(overlay: &Overlay, sources: &[Bytes], bytes: usize) -> usize {
    let mut size = 0;
    let fits = |source: &&Bytes| {
        let links = overlay.joins.links.get(source);
        size += links.into_iter().flat_map(|links| &links.versions).map(|link| link.size).sum::<u64>();
        size <= bytes as u64
    };
    sources.iter().take_while(fits).count().max(1).min(sources.len())
}

/// The kept versions of the rows, the newest of each row first.
async fn read_versions(owner: &dyn OwnedLog, overlay: &Overlay, sources: &[Bytes]) -> Result<Vec<Version>, SessionError> {
    let mut wanted = Vec::new();
    for source in sources {
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
