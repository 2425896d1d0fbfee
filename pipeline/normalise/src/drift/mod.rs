//! What became of the columns that a mapping reads, since departments add, drop, rename and retype them as they need.
//!
//! Of each column it is known as which kind the mapping, as it is written now, reads it: the kind that the newest event of the raw topic
//! has when the mapping first meets it. An event that has the column otherwise *deviates*:
//! - before the first event that has it so, the row is of an earlier form of the table: it is read as it is, and marked;
//! - after it, the resource's policy decides ([`OnChange`]). A resource that would pause does not where the newest event is as
//!   the mapping wants it again: what came in between goes to quarantine.
//!
//! A changed mapping begins anew with the columns that it reads in another way, and so does a rebuild with all of them.

mod notice;
mod stored;

use std::collections::BTreeMap;

use guitong_schemas::avro::decode::{DecodePlan, Kind};
use guitong_schemas::contract::resource::OnChange;
use guitong_schemas::position::Version;

pub(crate) use self::notice::Surroundings;
pub use self::notice::{ColumnChange, Subscriptions, What};
use crate::mapping::{Bound, Mapping};

/// What is known of the columns that the mapping reads.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Drift {
    columns: BTreeMap<String, Known>,
    /// Schema of the newest event from which nothing was missing.
    fitted: Option<u32>,
    /// What is here is not yet in the log.
    changed: bool,
}

/// One column.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    /// How the mapping reads it.
    mark: u64,
    /// `None` where no event had it.
    kind: Option<Kind>,
    /// An event that has it so was read.
    met: bool,
    /// The newest event does not have it so.
    away: Option<Away>,
}

/// Since when a column is not as the mapping reads it, and what is in its place.
#[derive(Debug, Clone, PartialEq)]
struct Away {
    version: Version,
    /// Commit time at the source, microseconds since 1970-01-01T00:00:00Z.
    at_us: i64,
    /// `None` where there is no such column.
    kind: Option<Kind>,
    /// A column that came when this one went.
    perhaps: Option<String>,
}

/// What is done about an event that deviates; the gravest of its columns decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Handling {
    Read,
    Refuse,
    Pause,
}

/// One column of an event that is not as the mapping reads it.
#[derive(Debug, Clone)]
pub(crate) struct Deviation {
    /// Index among the mapping's columns.
    pub(crate) column: usize,
    pub(crate) handling: Handling,
    /// Nobody was told yet. What is over when it is met is told of with its rows alone.
    pub(crate) is_news: bool,
    away: Away,
}

/// One event's schema and what it is held against.
#[derive(Debug)]
pub(crate) struct Look<'a> {
    pub(crate) mapping: &'a Mapping,
    pub(crate) bound: &'a Bound,
    /// Of the newest event in the raw topic.
    pub(crate) present: Option<&'a Bound>,
    /// Of the newest event from which nothing was missing.
    pub(crate) fitted: Option<&'a DecodePlan>,
    pub(crate) policy: OnChange,
    pub(crate) version: Version,
    pub(crate) at_us: i64,
}

impl Drift {
    /// Forgets columns that the mapping reads otherwise now, or no longer.
    pub(crate) fn follow(&mut self, mapping: &Mapping) {
        let stays = |column: &String, known: &Known| {
            let at = mapping.columns.iter().position(|read| read == column);
            at.and_then(|at| mapping.marks.get(at)) == Some(&known.mark)
        };
        let before = self.columns.len();
        self.columns.retain(|column, known| stays(column, known));
        self.changed |= self.columns.len() != before;
    }

    /// Whether the event has every column as it was read before.
    pub(crate) fn is_usual(&self, mapping: &Mapping, bound: &Bound) -> bool {
        mapping.columns.iter().enumerate().all(|(at, column)| {
            let known = self.columns.get(column);
            known.is_some_and(|known| known.met && known.away.is_none() && known.fits(kind(bound, at)))
        })
    }

    /// Notes that nothing was missing from an event by this schema.
    pub(crate) fn note_fitted(&mut self, schema: u32) {
        self.changed |= self.fitted != Some(schema);
        self.fitted = Some(schema);
    }

    pub(crate) fn fitted(&self) -> Option<u32> {
        self.fitted
    }

    /// Number of columns that are not as the mapping reads them.
    pub(crate) fn away(&self) -> usize {
        self.columns.values().filter(|known| known.away.is_some()).count()
    }

    /// Columns that are away, as people are told of them.
    pub(crate) fn changes(&self, mapping: &Mapping, around: &Surroundings) -> Vec<ColumnChange> {
        let away = self.columns.iter().filter_map(|(column, known)| Some((column, known.kind, known.away.as_ref()?)));
        let at = |column: &String| mapping.columns.iter().position(|read| read == column);
        away.filter_map(|(column, kind, away)| Some(around.change(mapping, at(column)?, kind, away))).collect()
    }

    /// How one deviation is told of.
    pub(crate) fn change(&self, deviation: &Deviation, mapping: &Mapping, around: &Surroundings) -> ColumnChange {
        let column = mapping.columns.get(deviation.column);
        let was = column.and_then(|column| self.columns.get(column)).and_then(|known| known.kind);
        around.change(mapping, deviation.column, was, &deviation.away)
    }

    /// What of an event is not as the mapping reads it. Gives the columns that are back beside it.
    pub(crate) fn judge(&mut self, look: &Look<'_>) -> (Vec<Deviation>, Vec<String>) {
        let before = self.columns.clone();
        let (mut deviations, mut back) = (Vec::new(), Vec::new());
        for (at, (column, mark)) in look.mapping.columns.iter().zip(&look.mapping.marks).enumerate() {
            let (found, present) = (kind(look.bound, at), look.present.and_then(|present| kind(present, at)));
            let new = || Known { mark: *mark, kind: None, met: false, away: None };
            let known = self.columns.entry(column.clone()).or_insert_with(new);
            known.kind = known.kind.or(present).or(found);
            if !known.met && found.zip(known.kind).is_some_and(|(found, known)| found.goes_on_as(known)) {
                // The narrower kind goes on as the wider one, and not the other way.
                known.kind = found;
            }
            if known.fits(found) {
                known.met = true;
                if known.away.take().is_some() {
                    back.push(column.clone());
                }
                continue;
            }
            let is_over = known.fits(present);
            let is_earlier = is_over && !known.met;
            let handling = match look.policy {
                _ if is_earlier => Handling::Read,
                OnChange::Continue => Handling::Read,
                OnChange::Quarantine => Handling::Refuse,
                OnChange::Pause if is_over => Handling::Refuse,
                OnChange::Pause => Handling::Pause,
            };
            let told = known.away.as_ref().filter(|away| away.kind == found);
            let is_news = told.is_none() && !is_over;
            let away = told.cloned().unwrap_or_else(|| Away {
                version: look.version,
                at_us: look.at_us,
                kind: found,
                perhaps: if found.is_none() { successor(look, at, known.kind) } else { None },
            });
            if !is_over {
                known.away = Some(away.clone());
            }
            deviations.push(Deviation { column: at, handling, is_news, away });
        }
        self.changed |= before != self.columns;
        (deviations, back)
    }
}

impl Known {
    /// Whether the mapping reads a column of this kind to the same values.
    fn fits(&self, kind: Option<Kind>) -> bool {
        self.kind.zip(kind).is_some_and(|(known, kind)| known.goes_on_as(kind))
    }
}

fn kind(bound: &Bound, column: usize) -> Option<Kind> {
    bound.field(column).map(guitong_schemas::avro::decode::Field::kind)
}

/// A column that came when another of its kind went: the one in its place, or the only one.
fn successor(look: &Look<'_>, column: usize, kind: Option<Kind>) -> Option<String> {
    let fitted = look.fitted?;
    let name = look.mapping.field_name(column)?;
    let came = |at: usize| {
        let field = look.bound.plan.fields().get(at)?;
        (fitted.field(&field.name).is_none() && Some(field.kind()) == kind).then(|| field.name.to_string())
    };
    if let Some(beside) = fitted.field(&name).and_then(came) {
        return Some(beside);
    }
    let mut all = (0..look.bound.plan.fields().len()).filter_map(came);
    all.next().filter(|_| all.next().is_none())
}

#[cfg(test)]
mod tests;
