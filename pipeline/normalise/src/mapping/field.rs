//! One field of a mapping: its entry, the cases of which one makes it, or the items that it holds.

use guitong_schemas::contract::mapping::{FieldMapping, ValueSource};
use guitong_schemas::standard::EntityField;

use super::column::Row;
use super::entry::{EntryPlan, Formula, Refusal};
use super::items::ItemsPlan;
use super::{Fault, MappingError, Slots};
use crate::join::columns::ColumnSet;

/// One compiled field.
#[derive(Debug)]
pub(crate) struct FieldPlan {
    /// Index in the entity.
    pub(crate) index: usize,
    way: Way,
    /// See [`EntryPlan::plain`].
    plain: Option<usize>,
    /// Columns of the mapping that the field reads in any case.
    reads: Vec<usize>,
}

#[derive(Debug)]
enum Way {
    Entry(Box<EntryPlan>),
    /// The first whose condition holds; one without a condition holds.
    Cases(Vec<(Option<Formula>, EntryPlan)>),
    Items(Box<ItemsPlan>),
}

/// What makes a field's value of one row.
#[derive(Debug)]
pub(crate) enum Chosen<'p> {
    Entry(&'p EntryPlan),
    Items(&'p ItemsPlan),
    /// No case holds.
    Nothing,
}

impl FieldPlan {
    /// Compiles `mapping`; columns that it reads are added to `columns` where they are not there yet.
    pub(crate) fn compile(field: &EntityField, mapping: &FieldMapping, columns: &mut ColumnSet) -> Result<Self, MappingError> {
        let mut slots = Slots::new(columns);
        let way = Way::compile(field, mapping, &mut slots).map_err(|fault| MappingError::Field {
            field: field.name.clone(),
            line: mapping.at.line,
            fault,
        })?;
        let plain = match &way {
            Way::Entry(entry) => entry.plain(),
            Way::Cases(_) | Way::Items(_) => None,
        };
        Ok(Self { index: field.index(), way, plain, reads: slots.into_read() })
    }

    pub(crate) fn reads(&self) -> &[usize] {
        &self.reads
    }

    /// The column that is read as it stands.
    #[inline]
    pub(crate) fn plain(&self) -> Option<(usize, &EntryPlan)> {
        match (&self.way, self.plain) {
            (Way::Entry(entry), Some(slot)) => Some((slot, entry)),
            _ => None,
        }
    }

    /// What makes this row's value.
    #[inline]
    pub(crate) fn choose(&self, row: &Row<'_, '_>) -> Result<Chosen<'_>, Refusal> {
        match &self.way {
            Way::Entry(entry) => Ok(Chosen::Entry(entry)),
            Way::Items(items) => Ok(Chosen::Items(items)),
            Way::Cases(cases) => {
                for (when, entry) in cases {
                    if when.as_ref().map_or(Ok(true), |when| when.holds(row))? {
                        return Ok(Chosen::Entry(entry));
                    }
                }
                Ok(Chosen::Nothing)
            }
        }
    }
}

impl Way {
    fn compile(field: &EntityField, mapping: &FieldMapping, slots: &mut Slots<'_>) -> Result<Self, Fault> {
        match &mapping.value {
            ValueSource::Items(items) => Ok(Self::Items(Box::new(ItemsPlan::compile(field, items, slots)?))),
            ValueSource::Cases(cases) => {
                let mut compiled = Vec::with_capacity(cases.len());
                for case in cases {
                    let when = case.when.as_ref().map(|when| Formula::compile(when, slots).map_err(Fault::Expression));
                    compiled.push((when.transpose()?, EntryPlan::compile(field, &case.mapping, slots)?));
                }
                Ok(Self::Cases(compiled))
            }
            _ => Ok(Self::Entry(Box::new(EntryPlan::compile(field, mapping, slots)?))),
        }
    }
}
