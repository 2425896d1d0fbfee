//! Dates and times.

pub(crate) mod forms;
pub(crate) mod pattern;
