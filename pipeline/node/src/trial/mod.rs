//! What a resource's mapping makes of rows, before anything is published: rows of a file or of the department's table go through the
//! stages that run ([`stages`]), and what became of each is told.

mod example;
mod outcome;
mod record;
mod rows;
mod show;
mod stages;

use std::sync::Arc;

use guitong_connectors::publish::PublishSettings;
use guitong_connectors::registration;
use guitong_connectors::source::SampleBudget;
use guitong_normalise::{SourceColumn, source_columns};
use guitong_schemas::avro::DecodePlan;
use guitong_schemas::change::Change;
use guitong_schemas::contract::{Directory, Name, Resource, System};
use guitong_schemas::standard::{Entity, Zone};

use crate::exit::Failure;
use crate::prepare;

pub(crate) use example::{Example, check, save};
pub(crate) use outcome::Outcome;
pub(crate) use rows::MAX_INPUT;
pub(crate) use rows::lines;
pub(crate) use show::{Summary, View};

/// One resource, ready to be tried.
#[derive(Debug)]
pub(crate) struct Trial<'d> {
    directory: &'d Directory,
    pub(crate) resource: Arc<Resource>,
    system: Arc<System>,
    pub(crate) entity: Arc<Entity>,
    /// What the mapping reads.
    pub(crate) columns: Vec<SourceColumn>,
    plan: DecodePlan,
    settings: PublishSettings,
}

/// A line of a file on its way: a row that runs, or what is wrong with it.
struct Entry<'e> {
    line: usize,
    row: Result<&'e Example, rows::BadLine>,
}

impl<'d> Trial<'d> {
    /// # Errors
    /// When there is no such resource, or its mapping does not compile.
    pub(crate) fn new(directory: &'d Directory, name: &str) -> Result<Self, Failure> {
        let resource = directory.resources.get(name).ok_or_else(|| {
            let known: Vec<&str> = directory.resources.keys().map(Name::as_str).collect();
            Failure::usage(format!("there is no resource `{name}`")).help(format!("resources are: {}", known.join(", ")))
        })?;
        let missing = |what: &str| Failure::usage(format!("resource {name} names {what}, which is not there"));
        let system = directory.systems.get(&resource.system).ok_or_else(|| missing("a system"))?;
        let entity = directory.standard.entity(&resource.entity).ok_or_else(|| missing("an entity"))?;
        let zone = Zone::new(directory.exchange.time_zone.clone());
        let refused = |error: String| Failure::usage(format!("resources/{name}.toml: {error}"));
        Ok(Self {
            columns: source_columns(resource, &directory.standard, &zone).map_err(|error| refused(error.to_string()))?,
            plan: outcome::plan(entity).map_err(refused)?,
            settings: stages::settings(directory, system)?,
            resource: Arc::clone(resource),
            system: Arc::clone(system),
            entity: Arc::clone(entity),
            directory,
        })
    }

    /// Tries the first rows of the department's table.
    ///
    /// # Errors
    /// When they cannot be read, or the mapping does not fit their columns.
    pub(crate) async fn table(&self, limit: usize) -> Result<Vec<Outcome>, Failure> {
        let budget = SampleBudget { rows: limit, bytes: MAX_INPUT };
        let sample = registration::sample(&self.system, &self.resource.table, budget).await;
        let changes = sample.map_err(prepare::failure)?;
        self.run(changes.into_iter().map(|change| (None, change)).collect()).await
    }

    /// Tries the lines of a file; a line that is no row is an outcome of its own.
    ///
    /// # Errors
    /// When the rows lack a column that the mapping reads.
    pub(crate) async fn lines(&self, lines: &[rows::Line<Example>]) -> Result<Vec<Outcome>, Failure> {
        let entries: Vec<Entry<'_>> =
            lines.iter().map(|line| Entry { line: line.number, row: line.content.as_ref().map_err(|bad| *bad) }).collect();
        let written: Vec<&rows::WrittenRow> = entries.iter().filter_map(|entry| Some(&entry.row.ok()?.row)).collect();
        self.demand_columns(&written)?;
        let table = Arc::new(self.table_of(&written));
        let now = jiff::Timestamp::now();
        let mut changes = Vec::with_capacity(written.len());
        for entry in &entries {
            let Ok(example) = entry.row else { continue };
            let at_us = example.at.unwrap_or(now).as_microsecond();
            let change = rows::change(&example.row, entry.line, &table, self.settings.kind, at_us);
            changes.push((Some(entry.line), change.map_err(|error| Failure::usage(format!("line {}: {error}", entry.line)))?));
        }
        let mut ran = self.run(changes).await?.into_iter();
        // Lines that are no rows stand where they are in the file.
        Ok(entries
            .iter()
            .filter_map(|entry| match entry.row {
                Ok(_) => ran.next(),
                Err(bad) => Some(Outcome::unread(entry.line, bad)),
            })
            .collect())
    }

    /// Every column that the mapping reads is in one row at least: a column that is in none is mostly misspelt.
    fn demand_columns(&self, written: &[&rows::WrittenRow]) -> Result<(), Failure> {
        if written.is_empty() {
            return Ok(());
        }
        let missing: Vec<&str> = self
            .columns
            .iter()
            .map(|column| column.name.as_str())
            .filter(|name| written.iter().all(|row| row.get(name).is_none()))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = missing.iter().map(|name| format!("`{name}`")).collect();
        let message = format!("the mapping of {} reads {}, which no row has", self.resource.name, names.join(", "));
        let mut unread: Vec<&str> = Vec::new();
        for (name, _) in written.iter().flat_map(|row| &row.0) {
            if !self.columns.iter().any(|column| column.name == *name) && !unread.contains(&name.as_str()) {
                unread.push(name);
            }
        }
        let help = match unread.as_slice() {
            [] => "write it as null where it is empty".to_owned(),
            unread => format!("write it as null where it is empty; the rows also have {}, which is not read", unread.join(", ")),
        };
        Err(Failure::usage(message).help(help))
    }

    /// The table that written rows are of. Its key is the declared one, or the first column where that tells the rows apart, or the line.
    fn table_of(&self, written: &[&rows::WrittenRow]) -> guitong_schemas::table::Table {
        let name = &self.resource.table;
        let read: Vec<String> = self.columns.iter().map(|column| column.name.clone()).collect();
        let declared = self.system.keys.iter().find(|(table, _)| table == name).map(|(_, columns)| columns.clone());
        let declared = declared.filter(|columns| rows::tell_apart(written, columns));
        let key = declared.or_else(|| {
            let first = vec![written.first()?.0.first()?.0.clone()];
            rows::tell_apart(written, &first).then_some(first)
        });
        rows::table(name, key.as_deref(), &read, written.iter().copied())
    }

    async fn run(&self, changes: Vec<(Option<usize>, Change)>) -> Result<Vec<Outcome>, Failure> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let rows = changes.iter().map(|(_, change)| change.clone()).collect();
        let fates = stages::run(self.directory, &self.resource, self.settings.clone(), rows).await?;
        let outcome = |((line, change), fate): (&(Option<usize>, Change), &stages::Fate)| {
            Outcome::new(change, *line, fate, &self.entity, &self.plan)
        };
        let outcomes = changes.iter().zip(&fates).map(outcome).collect::<Result<_, _>>();
        outcomes.map_err(|error| Failure::unreachable(format!("a record does not read: {error}")))
    }
}
