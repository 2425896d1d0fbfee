//! Entries that a person gives up: closed, told of in the audit topic, in one commit for each page of them.

use guitong_log::OwnedLog;

use super::worker::Worker;
use crate::error::SessionError;
use crate::keyed::overlay::Overlay;
use crate::quarantine::{DropReport, Filter, QuarantineStore, Surrender, dropped, record};
use crate::{claims, join};

/// Entries that one commit gives up.
const PAGE: usize = 1_000;

impl Worker {
    /// Gives up the entries that `filter` means. The row of each keeps its last good version, which from now on counts as what stands: the
    /// versions that were given up are not read again, but by a rebuild.
    pub(super) async fn surrender(
        &mut self,
        owner: &mut dyn OwnedLog,
        resource: &str,
        filter: &Filter,
        surrender: &Surrender,
    ) -> Result<DropReport, SessionError> {
        let (mut report, mut after) = (DropReport::default(), None);
        loop {
            let page = QuarantineStore::new(owner).entries(after, PAGE).await?;
            after = page.last().map(|(seq, _)| *seq);
            let is_last = page.len() < PAGE;
            let meant: Vec<_> = page.into_iter().filter(|(seq, entry)| filter.matches(*seq, entry)).collect();
            if !meant.is_empty() {
                let mut overlay = Overlay::new(self.counters.clone());
                overlay.rows.load(owner, meant.iter().filter_map(|(_, entry)| entry.source.clone())).await?;
                if self.mapping.joins.is_some() {
                    overlay.joins.links.load(owner, meant.iter().filter_map(|(_, entry)| entry.source.clone())).await?;
                }
                overlay.entries.load(owner, meant.iter().map(|(seq, _)| claims::entry_key(*seq))).await?;
                let at_us = jiff::Timestamp::now().as_microsecond();
                let held = overlay.totals.held_back;
                let mut records = Vec::with_capacity(meant.len() * 2);
                for (seq, entry) in &meant {
                    let row = entry.source.as_ref().and_then(|source| overlay.rows.get(source));
                    let stays = row.is_some_and(|row| row.good.is_some());
                    let effect = claims::let_go(&mut overlay, entry.source.as_ref(), *seq);
                    if let Some(source) = entry.source.as_ref().filter(|_| self.mapping.joins.is_some()) {
                        // Nor is it made again when a joined row changes.
                        join::overlay::note(&mut overlay, source, None);
                    }
                    let released = effect.released.iter();
                    records.extend(released.map(|seq| record::released(&self.quarantine_topic, *seq, at_us / 1_000)));
                    records.push(dropped::record(resource, *seq, entry, surrender, at_us, stays));
                }
                report.dropped += meant.len() as u64;
                report.settled += held.saturating_sub(overlay.totals.held_back);
                self.metrics.dropped.inc_by(meant.len() as u64);
                self.commit(owner, overlay, records, Vec::new()).await?;
            }
            if is_last {
                return Ok(report);
            }
        }
    }
}
