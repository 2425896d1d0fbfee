//! The worker's part in the figures of quality: counting each event's day, and the pause of a resource that rejects too much.

use guitong_log::OwnedLog;
use guitong_schemas::change::Operation;

use super::arrival::Arrival;
use super::worker::{Verdict, Worker};
use crate::error::SessionError;
use crate::keyed::overlay::Overlay;
use crate::quality::flow::Flows;
use crate::quality::window::Pause;
use crate::quality::{HORIZON_DAYS, QUALITY, day_key, day_of};
use crate::quarantine::{QuarantineStore, Rejection};

/// Days that one commit forgets at most.
const FORGET: usize = 32;
/// Entries whose reasons a pause looks at.
const REASONS: usize = 10_000;

/// What a row version came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    Published,
    Unchanged,
    Rejected,
    Deleted,
}

impl Worker {
    /// Reads the days of events at these times, forgets those that are too old, and adds what the mapping found.
    pub(crate) async fn open_days(
        &self,
        owner: &dyn OwnedLog,
        overlay: &mut Overlay,
        times_us: impl IntoIterator<Item = i64>,
        flows: &Flows,
    ) -> Result<(), SessionError> {
        let zone = &self.mapping.zone;
        let mut days: Vec<i32> = times_us.into_iter().map(|time| zone.local_days(time)).collect();
        days.dedup();
        days.sort_unstable();
        days.dedup();
        overlay.days.load(owner, days.iter().map(|day| day_key(*day))).await?;
        if let Some(newest) = days.last().filter(|day| overlay.days.get(&day_key(**day)).is_none()) {
            let horizon = newest.saturating_sub(HORIZON_DAYS);
            let old = owner.scan(QUALITY, b"d", None, FORGET).await?;
            for (key, _) in old.into_iter().filter(|(key, _)| day_of(key).is_some_and(|day| day < horizon)) {
                overlay.days.remove(key);
            }
        }
        for flow in flows.iter().filter(|flow| !flow.is_again) {
            overlay.days.edit(day_key(flow.day)).add(flow);
        }
        Ok(())
    }

    /// Counts one event that came in; what is run again was counted when it came.
    pub(crate) fn count(&self, overlay: &mut Overlay, event: (i64, Operation), came: Came, now_us: i64) {
        let (source_ts_us, operation) = event;
        let day = overlay.days.edit(day_key(self.mapping.zone.local_days(source_ts_us)));
        match came {
            Came::Published => day.good += 1,
            Came::Unchanged => {
                day.good += 1;
                day.unchanged += 1;
            }
            Came::Rejected => day.rejected += 1,
            Came::Deleted => day.deleted += 1,
        }
        if operation != Operation::Read {
            let is_timely = now_us.saturating_sub(source_ts_us) <= self.timely_us;
            day.timed[0] += 1;
            day.timed[1] += u64::from(is_timely);
            self.metrics.timed[usize::from(!is_timely)].inc();
        }
    }

    /// Notes a row version in the window; whether the resource has to pause behind it. What a changed column keeps out is not
    /// noted: the resource's policy has decided to read on.
    pub(crate) fn note(&self, overlay: &mut Overlay, arrival: &Arrival, verdict: &Verdict) -> bool {
        match verdict {
            Verdict::Bad(_) if self.is_set_aside(arrival) => false,
            Verdict::Good(_) => overlay.window.note(false, self.pause_above),
            Verdict::Bad(_) => overlay.window.note(true, self.pause_above),
            Verdict::Stale | Verdict::Removed => false,
        }
    }

    /// Why the resource pauses, with the reasons of its newest entries and of those that come to them.
    pub(crate) async fn pause<'r>(
        &self,
        owner: &dyn OwnedLog,
        overlay: &Overlay,
        new: impl IntoIterator<Item = &'r Rejection>,
    ) -> Result<Pause, SessionError> {
        let rejected = overlay.window.rejected();
        let after = overlay.totals.next_seq.checked_sub(u64::from(rejected) + 1);
        let stored = QuarantineStore::new(owner).entries(after, REASONS).await?;
        let of_field = |field: &str| if field.is_empty() { String::new() } else { format!("{field}:") };
        let reason = |rejection: &Rejection| format!("{}{}", of_field(&rejection.field), rejection.rule);
        let stored = stored.iter().flat_map(|(_, entry)| &entry.rejections).map(reason);
        let reasons = stored.chain(new.into_iter().map(reason));
        Ok(Pause {
            mapping: self.mapping.fingerprint,
            at_us: jiff::Timestamp::now().as_microsecond(),
            rejected,
            of: overlay.window.len() as u64,
            reasons: Pause::top(reasons),
        })
    }
}
