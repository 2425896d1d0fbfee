//! The tables that a mapping reads, its resource's own and joined ones, as `drift` looks at them: which of their columns, in which
//! way, and for which fields.

use guitong_schemas::avro::decode::DecodePlan;
use guitong_schemas::avro::field_name;
use guitong_schemas::avro::form::Names;
use guitong_schemas::contract::Resource;
use guitong_schemas::contract::resource::fingerprint;
use guitong_schemas::standard::Entity;

use super::FieldPlan;
use crate::join::plan::JoinPlan;

/// One table as the mapping reads it.
#[derive(Debug)]
pub(crate) struct TableView {
    /// How the resource's file names the join; empty for the resource's own table.
    pub(crate) join: String,
    pub(crate) table: String,
    pub(crate) columns: Vec<ColumnView>,
    /// How the writer names fields.
    names: Names,
}

#[derive(Debug)]
pub(crate) struct ColumnView {
    pub(crate) name: String,
    /// Tells the way in which the column is read from any other.
    pub(crate) mark: u64,
    /// Indexes of the entity's fields that need it.
    pub(crate) fields: Vec<usize>,
    /// It depends on the column which rows give records.
    pub(crate) judges: bool,
}

impl TableView {
    /// The tables of a mapping, the resource's own first. `judged`: what its condition reads.
    pub(super) fn all(
        resource: &Resource,
        entity: &Entity,
        (columns, joins): (&[String], Option<&JoinPlan>),
        fields: &[FieldPlan],
        judged: &[usize],
    ) -> Vec<Self> {
        let view = |name: &str, needs: &dyn Fn(usize) -> bool| {
            let readers: Vec<usize> =
                fields.iter().filter(|plan| plan.reads().iter().any(|slot| needs(*slot))).map(|plan| plan.index).collect();
            let judges = judged.iter().any(|slot| needs(*slot));
            let ways = readers.iter().filter_map(|index| entity.fields.get(*index)).filter_map(|field| {
                let way = resource.map.get(&field.name)?;
                Some(fingerprint(&(&field.name, way)))
            });
            let condition = resource.condition.as_ref().filter(|_| judges).map(fingerprint);
            let mark = ways.chain(condition).fold(0, |all: u64, mark| all.rotate_left(1) ^ mark);
            ColumnView { name: name.to_owned(), mark, fields: readers, judges }
        };
        let found_by = |slot: usize, column: usize| slot == column || joins.is_some_and(|plan| plan.is_found_by(slot, column));
        let own = columns.iter().enumerate().map(|(at, name)| view(name, &|slot| found_by(slot, at))).collect();
        let own = Self { join: String::new(), table: resource.table.to_string(), columns: own, names: resource.names };
        let joined =
            joins.into_iter().flat_map(|plan| plan.tables.iter().enumerate().map(move |(table, joined)| (plan, table, joined)));
        let joined = joined.map(|(plan, table, joined)| Self {
            join: joined.name.clone(),
            table: joined.table.clone(),
            columns: joined
                .columns
                .iter()
                .enumerate()
                .map(|(at, name)| view(name, &|slot| plan.needs(slot, table, at)))
                .collect(),
            names: resource.names,
        });
        std::iter::once(own).chain(joined).collect()
    }

    /// Where one of the columns stands in a writer's schema.
    pub(crate) fn place(&self, column: usize, plan: &DecodePlan) -> Option<usize> {
        plan.field(&field_name(&self.columns.get(column)?.name, self.names))
    }
}
