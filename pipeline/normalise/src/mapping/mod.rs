//! A resource's mapping, compiled: once against the entity ([`Mapping`]), once for each writer's schema ([`Bound`]).
//!
//! What becomes of a column that a writer's schema does not have, or has as another type, is for `drift` to say.

pub(crate) mod bound;
mod cel;
mod clean;
pub(crate) mod column;
mod columns;
mod entry;
mod field;
mod items;
mod switches;
pub(crate) mod view;

use std::sync::Arc;

use guitong_schemas::avro::decode::PlanError;
use guitong_schemas::avro::form::Names;
use guitong_schemas::avro::{RecordEncoder, field_name};
use guitong_schemas::contract::Resource;
use guitong_schemas::contract::mapping::RowOf;
use guitong_schemas::contract::resource::fingerprint;
use guitong_schemas::standard::{Entity, Grade, Obligation, OptionError, Standard, Zone};
use thiserror::Error;

pub(crate) use bound::{Affected, Bound, Slot};
pub(crate) use columns::Columns;
pub(crate) use entry::{EntryPlan, Formula, Reading, Refusal, is_empty};
pub(crate) use field::{Chosen, FieldPlan};
pub(crate) use items::{ItemsFault, ItemsPlan};
use switches::Switches;
pub(crate) use view::TableView;

use crate::join::columns::ColumnSet;
use crate::join::plan::{FIRST_LIST, JoinPlan, JoinedTable, number_of_each};
use crate::quality::flow::Reporting;
use crate::transform::conceal;

/// What is wrong with a mapping, whatever the source sends.
#[derive(Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MappingError {
    #[error("entity {entity} is not in the standard")]
    NoEntity { entity: String },
    #[error("line {line}: entity {entity} has no field `{field}`")]
    NoField { entity: String, field: String, line: usize },
    #[error("line {line}: field `{field}`: {fault}")]
    Field { field: String, line: usize, fault: Fault },
    #[error("`where`: {0}")]
    Condition(Fault),
    #[error("`{name}` cannot be joined: its key needs itself, or has another number of columns")]
    Join { name: String },
    #[error("the rows of `{name}`: {fault}")]
    Rows { name: String, fault: Fault },
    #[error("the entity's schema does not compile: {0}")]
    Schema(PlanError),
}

/// What is wrong with one entry.
#[derive(Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Fault {
    #[error(transparent)]
    Options(OptionError),
    #[error("the expression does not compile: {0}")]
    Expression(String),
    #[error("cases and items do not stand within another entry")]
    Nested,
    #[error("the items have no member `{0}`")]
    NoMember(String),
}

/// No schema of a change event: events by it are quarantined.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub(crate) struct BindError(String);

/// A resource's mapping onto its entity.
#[derive(Debug)]
pub(crate) struct Mapping {
    pub(crate) entity: Arc<Entity>,
    pub(crate) encoder: RecordEncoder,
    pub(crate) system: String,
    pub(crate) zone: Zone,
    /// Columns that the mapping reads, each once; what a field reads are indexes into it.
    pub(crate) columns: Vec<String>,
    /// Tables that are read beside the resource's own; `None` for most resources.
    pub(crate) joins: Option<JoinPlan>,
    pub(crate) fields: Vec<FieldPlan>,
    /// Holds for the rows that give records.
    pub(crate) condition: Option<Formula>,
    /// Indexes of mandatory fields that the resource declares not provided.
    pub(crate) not_provided: Vec<usize>,
    /// The tables that are read, the resource's own first.
    pub(crate) tables: Vec<TableView>,
    /// Rules that weigh otherwise here.
    pub(crate) switches: Switches,
    pub(crate) reporting: Option<Reporting>,
    /// Tells one mapping from another, whatever the layout of its file.
    pub(crate) fingerprint: u64,
    /// How the writer names fields.
    names: Names,
}

/// Places of columns among those of a mapping, and which of them were asked for.
#[derive(Debug)]
pub(crate) struct Slots<'c> {
    columns: &'c mut ColumnSet,
    read: Vec<usize>,
}

impl<'c> Slots<'c> {
    pub(crate) fn new(columns: &'c mut ColumnSet) -> Self {
        Self { columns, read: Vec::new() }
    }

    /// Compiles what reads one of several rows.
    fn of_row<T>(&mut self, row: &RowOf, compile: impl FnOnce(&mut Slots<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        let read = &mut self.read;
        let compiled = self.columns.of_row(row, |columns| {
            let mut slots = Slots::new(columns);
            let compiled = compile(&mut slots);
            slots.into_read().into_iter().for_each(|slot| note(read, slot));
            compiled
        });
        compiled.map_err(Fault::Expression)?
    }

    /// Compiles what reads each row of details; gives the number of their list.
    fn of_each<T>(
        &mut self,
        details: &str,
        compile: impl FnOnce(&mut Slots<'_>) -> Result<T, Fault>,
    ) -> Result<(usize, T), Fault> {
        let compiled = self.columns.of_each(details, |columns| {
            let mut slots = Slots::new(columns);
            compile(&mut slots).map(|compiled| (compiled, slots.into_read()))
        });
        let (list, compiled) = compiled.map_err(Fault::Expression)?;
        let (compiled, slots) = compiled?;
        note(&mut self.read, FIRST_LIST + list);
        slots.into_iter().for_each(|slot| note(&mut self.read, number_of_each(list, slot)));
        Ok((list, compiled))
    }

    /// The column's place; one that is not there yet is added.
    fn of(&mut self, column: &str) -> usize {
        let slot = self.columns.number(column);
        note(&mut self.read, slot);
        slot
    }

    /// The place of a column of the dictionary row that is found by `from`.
    fn of_lookup(&mut self, lookup: &str, from: &[String], column: &str) -> usize {
        let slot = self.columns.lookup(lookup, from, column);
        note(&mut self.read, slot);
        slot
    }

    fn into_read(self) -> Vec<usize> {
        self.read
    }
}

fn note(read: &mut Vec<usize>, slot: usize) {
    if !read.contains(&slot) {
        read.push(slot);
    }
}

impl Mapping {
    pub(crate) fn compile(resource: &Resource, standard: &Standard, zone: &Zone) -> Result<Self, MappingError> {
        let entity = standard.entity(&resource.entity);
        let mut entity = Arc::clone(entity.ok_or_else(|| MappingError::NoEntity { entity: resource.entity.clone() })?);
        let form = standard.fingerprint(&entity);
        let switches = Switches::compile(&resource.rules, &mut entity);
        let mut columns = ColumnSet::new(resource.joins.clone());
        let mut fields = Vec::with_capacity(resource.map.len());
        for (name, mapping) in &resource.map {
            let field = entity.field(name).ok_or_else(|| MappingError::NoField {
                entity: entity.name.clone(),
                field: name.clone(),
                line: mapping.at.line,
            })?;
            fields.push(FieldPlan::compile(field, mapping, &mut columns)?);
        }
        fields.sort_by_key(|field| field.index);
        let mut slots = Slots::new(&mut columns);
        let condition = resource.condition.as_ref().map(|condition| Formula::compile(condition, &mut slots));
        let condition = condition.transpose().map_err(|reason| MappingError::Condition(Fault::Expression(reason)))?;
        let judged = slots.into_read();
        let (columns, joins) = columns.finish(resource.revision)?;
        let index = |name: &String| entity.field(name).map(guitong_schemas::standard::EntityField::index);
        Ok(Self {
            encoder: RecordEncoder::compile(&entity.schema_json).map_err(MappingError::Schema)?,
            not_provided: resource.not_provided.keys().filter_map(index).collect(),
            switches,
            fingerprint: fingerprint(&(
                (&resource.entity, &resource.condition, &resource.map, &resource.joins, &resource.not_provided),
                (&resource.rules, &resource.quality.pause_above, resource.revision, form),
            )),
            reporting: resource.quality.reporting.as_ref().and_then(|reporting| {
                let field = entity.field(&reporting.field)?.index();
                Some(Reporting { field, working_days: reporting.working_days })
            }),
            system: resource.system.to_string(),
            zone: zone.clone(),
            tables: TableView::all(resource, &entity, (&columns, joins.as_ref()), &fields, &judged),
            names: resource.names,
            columns,
            joins,
            fields,
            condition,
            entity,
        })
    }

    /// The resource's own table, where several of its rows make a record.
    pub(crate) fn group(&self) -> Option<&JoinedTable> {
        self.joins.as_ref().and_then(JoinPlan::group)
    }

    pub(crate) fn is_grouped(&self) -> bool {
        self.group().is_some()
    }

    /// How many fields of the entity are mandatory, conditional and optional.
    pub(crate) fn fields_by_obligation(&self) -> [u64; 3] {
        let count = |obligation| self.entity.fields.iter().filter(|field| field.obligation == obligation).count() as u64;
        [Obligation::Mandatory, Obligation::Conditional, Obligation::Optional].map(count)
    }

    /// The columns of the resource's table that fields read, each with its places.
    pub(crate) fn own_columns(&self) -> Vec<(&str, Vec<usize>)> {
        match self.joins.as_ref().filter(|plan| plan.group().is_some()) {
            Some(plan) => plan.columns_of_group(),
            None => self.columns.iter().enumerate().map(|(slot, name)| (name.as_str(), vec![slot])).collect(),
        }
    }

    /// Highest grade of the fields that read this column; of a column that none reads nothing is known.
    pub(crate) fn grade_of_column(&self, column: &str) -> Option<Grade> {
        let columns = self.own_columns();
        let (_, slots) = columns.iter().find(|(name, _)| *field_name(name, self.names) == *column)?;
        let readers = self.fields.iter().filter(|field| field.reads().iter().any(|slot| slots.contains(slot)));
        readers.filter_map(|field| self.entity.fields.get(field.index)).map(|field| field.highest_grade()).max()
    }

    /// The key of a record that several rows make, for people: `column=value`, masked as the fields that read its columns are.
    pub(crate) fn describe_record(&self, record: &[u8]) -> String {
        let Some(table) = self.group() else { return String::new() };
        let part = |(column, text): (&str, &str)| {
            let grade = self.grade_of_column(&field_name(column, self.names)).unwrap_or(Grade::G1);
            format!("{column}={}", conceal(text, grade))
        };
        table.parts_of(record).into_iter().map(part).collect::<Vec<_>>().join(", ")
    }
}
