//! What a resource's mapping makes of rows, before anything is published: rows of a file or of the department's tables go through the
//! stages that run ([`stages`]), and what became of each is told.
//!
//! Rows of tables beside the resource's own are there before any of its own, wherever they stand in a file. Where several rows make one
//! record, it is told with the last of them.

mod beside;
mod example;
mod outcome;
mod record;
mod rows;
mod show;
mod stages;
mod written;

use std::collections::HashMap;
use std::sync::Arc;

use guitong_connectors::publish::PublishSettings;
use guitong_normalise::{SourceColumn, SourceOutline, source_outline};
use guitong_schemas::avro::DecodePlan;
use guitong_schemas::change::Change;
use guitong_schemas::contract::{Directory, Join, JoinKind, Name, Resource, System};
use guitong_schemas::standard::{Entity, Zone};

use crate::exit::Failure;

pub(crate) use example::{Example, check, free, save};
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
    source: SourceOutline,
    plan: DecodePlan,
    settings: PublishSettings,
}

/// A row on its way through the stages.
#[derive(Debug)]
struct Row {
    /// Line of the file that it was read from.
    line: Option<usize>,
    change: Change,
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
            source: source_outline(resource, &directory.standard, &zone).map_err(|error| refused(error.to_string()))?,
            plan: outcome::plan(entity).map_err(refused)?,
            settings: stages::settings(directory, system)?,
            resource: Arc::clone(resource),
            system: Arc::clone(system),
            entity: Arc::clone(entity),
            directory,
        })
    }

    /// The columns of the resource's own table that the mapping reads.
    pub(crate) fn columns(&self) -> &[SourceColumn] {
        self.source.tables.first().map_or(&[], |own| &own.columns)
    }

    /// What tells the rows that make one record, where several do.
    fn group(&self) -> Option<&Join> {
        self.resource.joins.values().find(|join| join.kind == JoinKind::Group)
    }

    /// Runs rows; gives what each came to, in their order. Of one of another table than the resource's there is something to tell only
    /// where it could not be read.
    async fn run(&self, rows: &[Row]) -> Result<Vec<Option<Outcome>>, Failure> {
        let is_own = |at: &usize| rows.get(*at).is_some_and(|row| row.change.table.name == self.resource.table);
        let (own, beside): (Vec<usize>, Vec<usize>) = (0..rows.len()).partition(is_own);
        if own.is_empty() {
            return Ok(rows.iter().map(|_| None).collect());
        }
        let steps = self.steps(rows, &own);
        let changes = |places: &[usize]| places.iter().filter_map(|at| Some(rows.get(*at)?.change.clone())).collect();
        let published = (changes(&beside), changes(&own));
        let fates = stages::run(self.directory, &self.resource, self.settings.clone(), published, &steps).await?;
        let mut outcomes: Vec<Option<Outcome>> = rows.iter().map(|_| None).collect();
        for (at, fate) in beside.iter().chain(&own).zip(&fates) {
            let (Some(Row { line, change }), Some(place)) = (rows.get(*at), outcomes.get_mut(*at)) else { continue };
            if is_own(at) || !fate.rejections.is_empty() {
                let outcome = Outcome::new(change, *line, fate, &self.resource.table, (&self.entity, &self.plan));
                *place = Some(outcome.map_err(|error| Failure::unreachable(format!("a record does not read: {error}")))?);
            }
        }
        let outcome_of = |place: &usize| own.get(*place).copied();
        for (last, others) in steps.iter().filter_map(|step| step.split_last()) {
            let told = outcome_of(last).and_then(|at| outcomes.get(at)?.as_ref()).map(Outcome::key_text);
            for at in others.iter().filter_map(outcome_of).filter(|_| self.group().is_some()) {
                if let Some(Some(outcome)) = outcomes.get_mut(at) {
                    outcome.told_with.clone_from(&told);
                }
            }
        }
        Ok(outcomes)
    }

    /// The places of the resource's own rows by what is published together: the rows of one record, or all of them.
    fn steps(&self, rows: &[Row], own: &[usize]) -> Vec<Vec<usize>> {
        let Some(group) = self.group() else { return vec![(0..own.len()).collect()] };
        let mut steps: Vec<Vec<usize>> = Vec::new();
        let mut known: HashMap<Vec<String>, usize> = HashMap::new();
        for (place, row) in own.iter().enumerate().filter_map(|(place, at)| Some((place, rows.get(*at)?))) {
            // What tells no record is by itself.
            let step =
                outcome::key_of(&row.change, &group.key).map_or(steps.len(), |key| *known.entry(key).or_insert(steps.len()));
            match steps.get_mut(step) {
                Some(step) => step.push(place),
                None => steps.push(vec![place]),
            }
        }
        steps
    }
}
