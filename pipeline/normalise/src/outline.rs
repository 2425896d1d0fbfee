//! What a mapping reads, for people who look at it: columns, the fields that are made of them, and how sensitive they are.

use guitong_schemas::contract::Resource;
use guitong_schemas::standard::{Grade, Standard, Zone};

use crate::mapping::{Mapping, MappingError};

/// A column that a mapping reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceColumn {
    pub name: String,
    /// Fields of the entity that are made of it, in the entity's order.
    pub fields: Vec<String>,
    /// The highest grade of these fields.
    pub grade: Grade,
}

/// The columns that a resource's mapping reads.
///
/// # Errors
/// [`MappingError`] where the mapping does not fit the entity.
pub fn source_columns(resource: &Resource, standard: &Standard, zone: &Zone) -> Result<Vec<SourceColumn>, MappingError> {
    let mapping = Mapping::compile(resource, standard, zone)?;
    let column = |(name, slots): (&str, Vec<usize>)| {
        let readers = mapping.fields.iter().filter(|plan| plan.reads().iter().any(|slot| slots.contains(slot)));
        let fields: Vec<_> = readers.filter_map(|plan| mapping.entity.fields.get(plan.index)).collect();
        SourceColumn {
            name: name.to_owned(),
            grade: fields.iter().map(|field| field.highest_grade()).max().unwrap_or(Grade::G0),
            fields: fields.iter().map(|field| field.name.clone()).collect(),
        }
    };
    Ok(mapping.own_columns().into_iter().map(column).collect())
}
