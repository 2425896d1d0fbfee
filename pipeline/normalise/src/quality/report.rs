//! The figures of one resource as they are told.

use bytes::Bytes;
use guitong_log::OwnedLog;
use serde::{Deserialize, Serialize};

use super::day::Day;
use super::flow::Counted;
use super::standing::Standing;
use super::{QUALITY, day_key, day_of};
use crate::keyed::overlay::StateError;

/// Days of one scan.
const PAGE: usize = 500;

/// What stands now, and what arrived day by day.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QualityReport {
    /// Rows of the source that are known.
    pub rows: u64,
    /// Rows whose newest version is good. 合格率 is `good_rows / rows`.
    pub good_rows: u64,
    /// Rows whose newest version is in quarantine while an older one stands.
    pub held_back: u64,
    /// Open quarantine entries.
    pub open: u64,
    /// Entity keys that stand in `std.`.
    pub keys: u64,
    /// Keys that several rows claim. Uniqueness is `(keys - shared_keys) / keys`.
    pub shared_keys: u64,
    /// Seconds after the source's commit within which a change is in time.
    pub timely_seconds: u64,
    /// Fields of the entity by obligation: mandatory, conditional, optional.
    pub fields: [u64; 3],
    pub days: Vec<DayReport>,
}

/// What arrived that the source had committed on one day of the exchange's clock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DayReport {
    /// Days since 1970-01-01.
    pub day: i32,
    pub good: u64,
    pub rejected: u64,
    pub unchanged: u64,
    pub deleted: u64,
    /// Changes other than rows of a first load; 及时率 is `in_time / timed`.
    pub timed: u64,
    pub in_time: u64,
    /// Good records. Completeness of an obligation is `filled / (records * fields)` of it.
    pub records: u64,
    pub filled: [u64; 3],
    /// Records with the date that reporting is measured from, and those of them that were reported in time.
    pub reported: u64,
    pub reported_in_time: u64,
    /// Level, rule and how often it was broken.
    pub rules: Vec<(String, String, u64)>,
}

impl DayReport {
    fn of(day: i32, figures: Day) -> Self {
        let Day { good, rejected, unchanged, deleted, timed, counted: Counted { records, filled, reported }, rules } = figures;
        Self {
            day,
            good,
            rejected,
            unchanged,
            deleted,
            timed: timed[0],
            in_time: timed[1],
            records,
            filled,
            reported: reported[0],
            reported_in_time: reported[1],
            rules: rules.into_iter().map(|((level, rule), count)| (level, rule, count)).collect(),
        }
    }
}

/// The figures as of the owner's last commit, of the days `from` to `to`.
pub(crate) async fn read(owner: &dyn OwnedLog, (from, to): (i32, i32)) -> Result<QualityReport, StateError> {
    let standing = Standing::load(owner).await?;
    let mut report = QualityReport {
        rows: standing.rows.all,
        good_rows: standing.rows.marked,
        keys: standing.keys.all,
        shared_keys: standing.keys.marked,
        ..QualityReport::default()
    };
    let mut after: Option<Bytes> = Some(day_key(from.saturating_sub(1)));
    loop {
        let page = owner.scan(QUALITY, b"d", after.as_deref(), PAGE).await?;
        let last = page.len() < PAGE;
        after = page.last().map(|(key, _)| key.clone());
        for (key, value) in page {
            let Some(day) = day_of(&key).filter(|day| *day >= from) else { continue };
            if day > to {
                return Ok(report);
            }
            let figures = Day::decode(&value).map_err(|error| StateError::Codec { map: QUALITY, error })?;
            report.days.push(DayReport::of(day, figures));
        }
        if last {
            return Ok(report);
        }
    }
}
