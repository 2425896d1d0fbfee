//! A truncate of the resource's own table: every row that was read before it goes.

use std::sync::Arc;

use bytes::Bytes;
use guitong_log::OwnedLog;

use super::arrival::Arrival;
use super::output::{Cause, Output};
use super::worker::{Ends, Worker};
use crate::error::SessionError;
use crate::keyed::ROWS;
use crate::keyed::overlay::Overlay;
use crate::{claims, join};

/// Rows that one commit of a truncate deletes.
const TRUNCATE_PAGE: usize = 1_000;

impl Worker {
    /// Deletes every row that was read before the truncate, a page at a time, of those whose source keys begin so. The offset moves
    /// with the last page only, so a stop in between begins the truncate again, with the rows that are left.
    pub(crate) async fn truncate(
        &mut self,
        owner: &mut dyn OwnedLog,
        arrival: &Arrival,
        prefix: &[u8],
        offsets: Ends,
    ) -> Result<(), SessionError> {
        let source_ts_us = arrival.record.timestamp_ms.saturating_mul(1_000);
        let mut after: Option<Bytes> = None;
        loop {
            let page = owner.scan(ROWS, prefix, after.as_deref(), TRUNCATE_PAGE).await?;
            let last = page.len() < TRUNCATE_PAGE;
            let sources: Vec<_> = page.into_iter().map(|(key, _)| key).collect();
            let mut overlay = Overlay::new(self.counters.clone());
            overlay.rows.load(owner, sources.iter().cloned()).await?;
            if self.mapping.joins.is_some() {
                overlay.joins.links.load(owner, sources.iter().cloned()).await?;
            }
            let keys: Vec<_> =
                sources.iter().filter_map(|source| overlay.rows.get(source)).flat_map(|row| row.keys.clone()).collect();
            self.load_entities(owner, &mut overlay, keys).await?;
            let mut output = Output::new(Arc::clone(&self.names));
            let mut records = Vec::new();
            for source in &sources {
                if overlay.rows.get(source).is_some_and(|row| row.seen < arrival.version) {
                    let effect = claims::remove(&mut overlay, source);
                    if self.mapping.joins.is_some() {
                        join::overlay::note(&mut overlay, source, None);
                    }
                    let cause = Cause { version: arrival.version, source_ts_us, timestamp_ms: arrival.record.timestamp_ms };
                    self.emit(&mut overlay, cause, effect, &mut output, &mut records);
                }
            }
            if last {
                overlay.totals.received += 1;
            }
            self.commit(owner, overlay, records, if last { offsets.clone() } else { Ends::new() }).await?;
            after = sources.last().cloned();
            if last {
                return Ok(());
            }
        }
    }
}
