//! A mapping over one writer's schema: where its columns stand in the row, and what is not as the mapping knows it.

use guitong_schemas::avro::decode::{DecodePlan, Field, Semantic};
use guitong_schemas::standard::Rule;

use super::{BindError, Mapping};
use crate::quarantine::Rejection;

/// Place of a column that the row does not have: beyond every row's end.
const NOWHERE: usize = usize::MAX;

#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) plan: DecodePlan,
    /// For each of the columns that are read: where it stands in the row, if anywhere.
    pub(crate) slots: Vec<Slot>,
    /// Fields that read a column which is not as the mapping knows it.
    pub(crate) affected: Vec<Affected>,
    /// A row that would be read goes to quarantine for what is in `affected`.
    pub(crate) refuses: bool,
}

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) index: usize,
    pub(crate) semantic: Semantic,
}

/// One field, or the condition, and what became of a column that it reads.
#[derive(Debug, Clone)]
pub(crate) struct Affected {
    /// Index in the entity; `None` for the condition.
    pub(crate) field: Option<usize>,
    /// [`Rule::ColumnGone`] or [`Rule::ColumnRetyped`].
    pub(crate) rule: Rule,
    /// With the field's name and title.
    pub(crate) rejection: Rejection,
}

impl Mapping {
    /// Finds what the mapping reads of one of its tables in a writer's schema.
    pub(crate) fn bind(&self, table: usize, schema: &str) -> Result<Bound, BindError> {
        let plan = DecodePlan::compile(schema).map_err(|error| BindError(error.to_string()))?;
        if !plan.is_envelope() {
            return Err(BindError(format!("{} is no change event", plan.name())));
        }
        let view = self.tables.get(table);
        let slot = |column: usize| {
            let place =
                view.and_then(|view| view.place(column, &plan)).and_then(|index| Some((index, plan.fields().get(index)?)));
            let (index, semantic) = place.map_or((NOWHERE, Semantic::Plain), |(index, field)| (index, field.semantic.clone()));
            Slot { index, semantic }
        };
        let slots = (0..view.map_or(0, |view| view.columns.len())).map(slot).collect();
        Ok(Bound { slots, plan, affected: Vec::new(), refuses: false })
    }
}

impl Bound {
    /// The writer's field of one of the mapping's columns.
    pub(crate) fn field(&self, column: usize) -> Option<&Field> {
        self.plan.fields().get(self.slots.get(column)?.index)
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.slots.iter().all(|slot| slot.index != NOWHERE)
    }

    /// What refuses a row, where something does: whether it is judged by what is not as it was, or only made of it.
    pub(crate) fn refuses(&self, judged: bool) -> bool {
        self.refuses && self.affected.iter().any(|affected| affected.field.is_none()) == judged
    }

    /// Why it does.
    pub(crate) fn rejections(&self) -> Vec<Rejection> {
        self.affected.iter().map(|affected| affected.rejection.clone()).collect()
    }

    /// Tells in rejections for a column what became of it.
    pub(crate) fn explain(&self, rejections: &mut [Rejection]) {
        for rejection in rejections {
            let same = |known: &&Affected| known.rejection.rule == rejection.rule && known.rejection.field == rejection.field;
            if let Some(known) = self.affected.iter().find(same) {
                rejection.clone_from(&known.rejection);
            }
        }
    }
}
