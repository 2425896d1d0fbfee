//! What a mapping reads, for people who look at it: tables and columns, the fields that are made of them, and how sensitive they are.

use guitong_schemas::contract::{JoinKind, Resource};
use guitong_schemas::standard::{Grade, Standard, Zone};
use guitong_schemas::table::TableName;

use crate::mapping::view::ColumnView;
use crate::mapping::{Mapping, MappingError};

/// What a resource's mapping reads.
#[derive(Debug, Clone)]
pub struct SourceOutline {
    /// The resource's own table first, then those beside it.
    pub tables: Vec<SourceTable>,
    /// How rows of the tables beside it are found, each after those that it needs.
    pub finds: Vec<SourceFind>,
}

/// A table that a mapping reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTable {
    pub name: TableName,
    pub columns: Vec<SourceColumn>,
}

/// A column that a mapping reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceColumn {
    pub name: String,
    /// Fields of the entity that are made of it, in the entity's order.
    pub fields: Vec<String>,
    /// The highest grade of these fields.
    pub grade: Grade,
}

/// Rows of a table are found by the values of columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFind {
    pub table: TableName,
    pub by: Vec<FoundBy>,
}

/// One column of a key: whose value it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundBy {
    pub key: String,
    pub table: TableName,
    pub column: String,
}

/// The tables that a resource's mapping reads, and how.
///
/// # Errors
/// [`MappingError`] where the mapping does not fit the entity.
pub fn source_outline(resource: &Resource, standard: &Standard, zone: &Zone) -> Result<SourceOutline, MappingError> {
    let mapping = Mapping::compile(resource, standard, zone)?;
    let mut tables = vec![SourceTable { name: resource.table.clone(), columns: Vec::new() }];
    for view in &mapping.tables {
        let name = resource.joins.get(&view.join).map_or(&resource.table, |join| &join.table);
        let at = tables.iter().position(|table| table.name == *name).unwrap_or_else(|| {
            tables.push(SourceTable { name: name.clone(), columns: Vec::new() });
            tables.len() - 1
        });
        let Some(table) = tables.get_mut(at) else { continue };
        view.columns.iter().for_each(|column| table.read(source_column(&mapping, column)));
    }
    let finds = mapping.joins.iter().flat_map(|plan| plan.finds_of(&mapping.columns));
    let finds = finds.filter_map(|(name, by)| {
        let join = resource.joins.get(name).filter(|join| join.kind != JoinKind::Group)?;
        let by = by.into_iter().map(|(key, of, column)| {
            let table = of.and_then(|of| resource.joins.get(of)).map_or(&resource.table, |join| &join.table);
            FoundBy { key: key.to_owned(), table: table.clone(), column: column.to_owned() }
        });
        Some(SourceFind { table: join.table.clone(), by: by.collect() })
    });
    Ok(SourceOutline { finds: finds.collect(), tables })
}

fn source_column(mapping: &Mapping, column: &ColumnView) -> SourceColumn {
    let fields: Vec<_> = column.fields.iter().filter_map(|index| mapping.entity.fields.get(*index)).collect();
    SourceColumn {
        name: column.name.clone(),
        grade: fields.iter().map(|field| field.highest_grade()).max().unwrap_or(Grade::G0),
        fields: fields.iter().map(|field| field.name.clone()).collect(),
    }
}

impl SourceTable {
    /// Adds a column, or what else is made of one that is there: a table can be joined more than once.
    fn read(&mut self, column: SourceColumn) {
        let Some(known) = self.columns.iter_mut().find(|known| known.name == column.name) else {
            return self.columns.push(column);
        };
        known.grade = known.grade.max(column.grade);
        for field in column.fields {
            if !known.fields.contains(&field) {
                known.fields.push(field);
            }
        }
    }
}
