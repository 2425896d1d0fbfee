//! How good a resource's data is: figures in keyed state, changed in the same commit as the rows that they count, so they
//! neither miss nor double anything when the stage stops.
//!
//! | key of the map `quality` | value |
//! |---|---|
//! | `d` and a day, big-endian | [`day::Day`]: what arrived that day, by the source's commit |
//! | `now` | [`standing::Standing`]: how many rows and entity keys there are now |
//! | `window` | [`window::Window`]: which of the last row changes were rejected |
//! | `paused` | [`window::Pause`]: why the resource reads nothing |
//!
//! Days older than [`HORIZON_DAYS`] are forgotten.

pub(crate) mod day;
pub(crate) mod flow;
mod report;
pub(crate) mod standing;
pub(crate) mod window;

use bytes::Bytes;

pub(crate) use report::read;
pub use report::{DayReport, QualityReport};

pub(crate) const QUALITY: &str = "quality";
/// Days that figures are kept for: a year and the month that compares with it.
pub(crate) const HORIZON_DAYS: i32 = 400;

/// Key of a day, days since 1970-01-01 on the exchange's clock.
pub(crate) fn day_key(day: i32) -> Bytes {
    let mut key = [b'd'; 5];
    // Days before 1970 sort first.
    key[1..].copy_from_slice(&(day.cast_unsigned() ^ 1 << 31).to_be_bytes());
    Bytes::copy_from_slice(&key)
}

/// The day that a key stands for.
pub(crate) fn day_of(key: &[u8]) -> Option<i32> {
    let bytes = key.strip_prefix(b"d")?.try_into().ok()?;
    Some((u32::from_be_bytes(bytes) ^ 1 << 31).cast_signed())
}

pub(crate) const NOW: Bytes = Bytes::from_static(b"now");
pub(crate) const WINDOW: Bytes = Bytes::from_static(b"window");
pub(crate) const PAUSED: Bytes = Bytes::from_static(b"paused");
