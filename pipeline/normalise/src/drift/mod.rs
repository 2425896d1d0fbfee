//! What became of the columns that a mapping reads, since departments add, drop, rename and retype them as they need.
//!
//! Of each column it is known as which kind the mapping, as it is written now, reads it: the kind that the newest event of the raw topic
//! has when the mapping first meets it. An event that has the column otherwise *deviates*:
//! - by a schema older than the first that has it so, while the newest event has it: the row is of an earlier form of the table. It
//!   is read as it is, and marked, whenever it comes: rows of a first load come late;
//! - else the resource's policy decides ([`OnChange`]). A resource that would pause does not where the newest event is as the
//!   mapping wants it again: what came in between goes to quarantine.
//!
//! A changed mapping begins anew with the columns that it reads in another way, and so does a rebuild with all of them; of a column
//! that is gone by then it stays known since when, and what may be in its place.

mod notice;
mod stored;

use std::collections::BTreeMap;

use guitong_schemas::avro::decode::{DecodePlan, Kind};
use guitong_schemas::contract::resource::OnChange;
use guitong_schemas::position::Version;
use guitong_schemas::standard::Entity;

pub(crate) use self::notice::Surroundings;
pub use self::notice::{ColumnChange, Subscriptions, What};
pub(crate) use self::stored::COLUMNS;
use crate::mapping::{Bound, Mapping, TableView};

/// What is known of the columns that the mapping reads.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Drift {
    /// By the name of the join, empty for the resource's own table, and of the column.
    columns: BTreeMap<(String, String), Known>,
    /// For each table: schema of the newest event from which nothing was missing.
    fitted: BTreeMap<String, u32>,
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
    /// The first schema of events that have it so and were read.
    met: Option<u32>,
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
    /// Index among the table's columns.
    pub(crate) column: usize,
    pub(crate) handling: Handling,
    /// Nobody was told yet. What is over when it is met is told of with its rows alone.
    pub(crate) is_news: bool,
    away: Away,
}

/// One event's schema and what it is held against.
#[derive(Debug)]
pub(crate) struct Look<'a> {
    pub(crate) view: &'a TableView,
    pub(crate) schema: u32,
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
        let before = (self.columns.len(), self.fitted.len());
        let view = |join: &String| mapping.tables.iter().find(|view| view.join == *join);
        self.columns.retain(|(join, column), known| {
            let read = view(join).and_then(|view| view.columns.iter().find(|read| read.name == *column));
            read.is_some_and(|read| read.mark == known.mark)
        });
        self.fitted.retain(|join, _| view(join).is_some());
        self.changed |= before != (self.columns.len(), self.fitted.len());
    }

    /// Whether the event has every column as it was read before.
    pub(crate) fn is_usual(&self, view: &TableView, bound: &Bound) -> bool {
        view.columns.iter().enumerate().all(|(at, column)| {
            let known = self.known(view, &column.name);
            known.is_some_and(|known| known.met.is_some() && known.away.is_none() && known.fits(kind(bound, at)))
        })
    }

    /// Begins anew with all columns. Those that are gone are so whatever is made again.
    pub(crate) fn begun_anew(self) -> Self {
        let gone = self.columns.into_iter().filter(|(_, known)| known.is_gone());
        let columns = gone.map(|(at, known)| (at, Known { met: None, ..known })).collect();
        Self { columns, fitted: self.fitted, changed: true }
    }

    fn known(&self, view: &TableView, column: &str) -> Option<&Known> {
        // Borrowed pairs are no keys of a map; there are few columns.
        self.columns.iter().find(|((join, name), _)| *join == view.join && name == column).map(|(_, known)| known)
    }

    /// Notes that nothing was missing from an event by this schema.
    pub(crate) fn note_fitted(&mut self, view: &TableView, schema: u32) {
        if self.fitted(view) != Some(schema) {
            self.fitted.insert(view.join.clone(), schema);
            self.changed = true;
        }
    }

    pub(crate) fn fitted(&self, view: &TableView) -> Option<u32> {
        self.fitted.get(&view.join).copied()
    }

    /// Number of columns that are not as the mapping reads them.
    pub(crate) fn away(&self) -> usize {
        self.columns.values().filter(|known| known.away.is_some()).count()
    }

    /// Columns that are away, as people are told of them.
    pub(crate) fn changes(&self, mapping: &Mapping, around: &Surroundings) -> Vec<ColumnChange> {
        let mut changes = Vec::new();
        for view in &mapping.tables {
            for column in &view.columns {
                let Some(known) = self.known(view, &column.name) else { continue };
                let Some(away) = &known.away else { continue };
                changes.push(around.change(view, column, known.kind, away, &mapping.entity));
            }
        }
        changes
    }

    /// How one deviation is told of.
    pub(crate) fn change(
        &self,
        deviation: &Deviation,
        view: &TableView,
        around: &Surroundings,
        entity: &Entity,
    ) -> Option<ColumnChange> {
        let column = view.columns.get(deviation.column)?;
        let was = self.known(view, &column.name).and_then(|known| known.kind);
        Some(around.change(view, column, was, &deviation.away, entity))
    }

    /// What of an event is not as the mapping reads it. Gives the columns that are back beside it.
    pub(crate) fn judge(&mut self, look: &Look<'_>) -> (Vec<Deviation>, Vec<String>) {
        let before = self.columns.clone();
        let (mut deviations, mut back) = (Vec::new(), Vec::new());
        for (at, column) in look.view.columns.iter().enumerate() {
            let (found, present) = (kind(look.bound, at), look.present.and_then(|present| kind(present, at)));
            let new = || Known { mark: column.mark, kind: None, met: None, away: None };
            let known = self.columns.entry((look.view.join.clone(), column.name.clone())).or_insert_with(new);
            if known.met.is_none() && known.is_gone() {
                // Begun anew while it was gone: how it is once it is back is how it is read.
                known.kind = present.or(found).or(known.kind);
            }
            known.kind = known.kind.or(present).or(found);
            if known.met.is_none() && found.zip(known.kind).is_some_and(|(found, known)| found.goes_on_as(known)) {
                // The narrower kind goes on as the wider one, and not the other way.
                known.kind = found;
            }
            if known.fits(found) {
                known.met = Some(known.met.map_or(look.schema, |met| met.min(look.schema)));
                if known.away.take().is_some() {
                    back.push(column.name.clone());
                }
                continue;
            }
            let is_over = known.fits(present);
            // A registry numbers schemas as they come, so one of a lower number is of an earlier form of the table.
            let is_earlier = is_over && known.met.is_none_or(|met| look.schema < met);
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
    /// The table no longer has it, or never had.
    fn is_gone(&self) -> bool {
        self.away.as_ref().is_some_and(|away| away.kind.is_none())
    }

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
    let came = |at: usize| {
        let field = look.bound.plan.fields().get(at)?;
        (fitted.field(&field.name).is_none() && Some(field.kind()) == kind).then(|| field.name.to_string())
    };
    if let Some(beside) = look.view.place(column, fitted).and_then(came) {
        return Some(beside);
    }
    let mut all = (0..look.bound.plan.fields().len()).filter_map(came);
    all.next().filter(|_| all.next().is_none())
}

#[cfg(test)]
mod tests;
