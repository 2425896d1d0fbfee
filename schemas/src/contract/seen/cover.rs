//! Whether the values that a column was seen to hold are all in the code list that reads them.

use super::super::mapping::FieldMapping;
use super::super::problem::Severity;
use super::super::reading::scalar;
use super::{Entry, Extent, Remark, Source};
use crate::profile::Counted;
use crate::standard::{Clock, EntityField, FieldKind, FieldOptions, Finding, Grade, Level};

/// Values that a message names.
const NAMED: usize = 3;

pub(super) fn check(entry: &Entry<'_>, source: Source<'_>, clock: &Clock<'_>) -> Option<Remark> {
    let (field, mapping) = (entry.field, entry.mapping);
    let narrowed = !mapping.clean.is_empty() || mapping.extract.is_some() || mapping.part.is_some() || mapping.pad.is_some();
    if entry.extent == Extent::Parts || narrowed {
        return None;
    }
    let own = !mapping.codes.is_empty();
    let covered = |value: &Counted| if own { lists(mapping, &value.value) } else { reads(field, mapping, &value.value, clock) };
    let left_out: Vec<&Counted> = source.column.values.iter().filter(|value| !covered(value)).collect();
    if left_out.is_empty() {
        return None;
    }
    let rows: u64 = left_out.iter().map(|value| value.rows).sum();
    let message = format!(
        "the code list of `{}` ({}) leaves out {} that `{}` holds",
        field.name,
        field.title_zh,
        if left_out.len() == 1 { "a value" } else { "values" },
        source.column.name
    );
    let seen = format!("{} in {rows} of {} sampled rows", named(field, &left_out), source.table.sampled);
    let help = if own { "give it a code, or say what becomes of others with `other`" } else { "translate it with `codes`" };
    // A list of the mapping's own settles it in one line; that of the standard may rightly refuse what a column holds.
    let severity = if own && source.every { Severity::Error } else { Severity::Warning };
    Some(Remark { severity, code: "not-covered", message, help: format!("{seen}; {help}") })
}

/// `"吊销未注销", "迁出" and 2 more`; only how many, where the field is about persons.
fn named(field: &EntityField, values: &[&Counted]) -> String {
    if field.highest_grade() >= Grade::G2 {
        return format!("{} value{}", values.len(), if values.len() == 1 { "" } else { "s" });
    }
    let shown: Vec<String> = values.iter().take(NAMED).map(|value| format!("\"{}\"", scalar::short(&value.value))).collect();
    let more = if values.len() > NAMED { format!(" and {} more", values.len() - NAMED) } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

/// Whether the mapping's own list has a value, or says what becomes of it.
fn lists(mapping: &FieldMapping, value: &str) -> bool {
    let has = |item: &str| mapping.other.is_some() || mapping.codes.keys().any(|key| key.trim() == item.trim());
    match mapping.split.as_deref().filter(|split| !split.is_empty()) {
        Some(split) => value.trim().split(split).all(has),
        None => has(value),
    }
}

/// Whether the field finds a value in the list of the standard that it has; true for a field without one.
fn reads(field: &EntityField, mapping: &FieldMapping, value: &str, clock: &Clock<'_>) -> bool {
    let listed = matches!(
        field.kind,
        FieldKind::Code(_) | FieldKind::Codes(_) | FieldKind::Education | FieldKind::Division | FieldKind::Industry
    );
    let Ok(options) = FieldOptions::compile(field, mapping) else { return true };
    let mut findings: Vec<Finding> = Vec::new();
    !listed || !field.read(value, &options, clock, &mut findings).is_null() || findings.iter().all(|it| it.level < Level::Warning)
}
