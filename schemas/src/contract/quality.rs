//! `[quality]` of a resource: when it pauses, and what counts as in time.

use std::time::Duration;

use super::reading::scalar;
use super::reading::section::Section;
use super::resource::unknown_field;
use crate::standard::{Entity, FieldKind};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quality {
    pub pause_above: PauseAbove,
    /// A change that is normalised within this time after its commit at the source is in time.
    pub timely: Duration,
    pub reporting: Option<Reporting>,
}

/// A resource pauses when more than `percent` of `of` row changes in a row are rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PauseAbove {
    /// 100: never.
    pub percent: u32,
    pub of: u32,
}

/// How soon a record is to be reported after the day in one of its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reporting {
    /// A date of the entity.
    pub field: String,
    pub working_days: u32,
}

/// More than half of a thousand: no poor data, but a mapping that does not fit.
const PAUSE_ABOVE: PauseAbove = PauseAbove { percent: 50, of: 1_000 };
const TIMELY: Duration = Duration::from_secs(24 * 3_600);

impl Quality {
    /// What holds where the resource says nothing. Decisions are to be reported within seven working days (双公示).
    #[must_use]
    pub fn usual(entity: Option<&Entity>) -> Self {
        let decided = entity.filter(|entity| entity.name == "CreditRecord").and_then(|entity| entity.field("decided"));
        let reporting = decided.map(|field| Reporting { field: field.name.clone(), working_days: 7 });
        Self { pause_above: PAUSE_ABOVE, timely: TIMELY, reporting }
    }
}

pub(super) fn read(section: Section<'_>, entity: Option<&Entity>) -> Quality {
    let usual = Quality::usual(entity);
    let pause_above = section.own_section("pause_above").map(|section| {
        let percent = section.required("percent", |section, key| section.number(key, 1..101));
        let of = section.number("of", 10..10_001).map_or(PAUSE_ABOVE.of, |found| found.value);
        section.finish();
        PauseAbove { percent: percent.map_or(PAUSE_ABOVE.percent, |found| found.value), of }
    });
    let timely = section.parsed("timely", scalar::duration).map(|found| found.value);
    let reporting = section.own_section("reporting").and_then(|section| read_reporting(section, entity));
    section.finish();
    Quality {
        pause_above: pause_above.unwrap_or(usual.pause_above),
        timely: timely.unwrap_or(usual.timely),
        reporting: reporting.or(usual.reporting),
    }
}

fn read_reporting(section: Section<'_>, entity: Option<&Entity>) -> Option<Reporting> {
    let field = section.required("field", Section::words);
    let working_days = section.required("working_days", |section, key| section.number(key, 0..1_000));
    if let (Some(entity), Some(found)) = (entity, &field) {
        match entity.field(&found.value) {
            None => unknown_field(&section, found, entity),
            Some(field) if !matches!(field.kind, FieldKind::Date) => {
                section.problem(&found.at, "bad-value", format_args!("`{}` ({}) is no date", found.value, field.title_zh), None);
            }
            Some(_) => {}
        }
    }
    section.finish();
    Some(Reporting { field: field?.value, working_days: working_days?.value })
}
