//! The columns that a mapping reads, numbered while it is compiled: those of its own table, and those of rows that are found for it.

use std::collections::BTreeMap;

use guitong_schemas::contract::mapping::{RowOf, Which};
use guitong_schemas::contract::{GROUP, Join, JoinKind};

use super::plan::{FIRST_JOINED, Find, JoinPlan, JoinedTable, Pick, position_or_push};
use crate::mapping::{Fault, Formula, MappingError, Slots};

/// Numbers the columns that a mapping reads: those of its table, and behind [`FIRST_JOINED`] those of joined rows.
#[derive(Debug, Default)]
pub(crate) struct ColumnSet {
    own: Vec<String>,
    declared: BTreeMap<String, Join>,
    plan: JoinPlan,
    /// Whose columns those are that are named alone.
    scope: Scope,
    /// Joins whose sources are being numbered.
    depth: usize,
    /// What cannot be followed.
    fault: Option<MappingError>,
}

/// Whose columns a name alone stands for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Scope {
    /// The resource's own row; of a group, its last.
    #[default]
    Own,
    /// The row of a find.
    Found(usize),
    /// Each row of a joined table, read by itself.
    Each(usize),
}

impl ColumnSet {
    pub(crate) fn new(declared: BTreeMap<String, Join>) -> Self {
        Self { declared, ..Self::default() }
    }

    /// The number of a column, or of a join's: `name.column`.
    pub(crate) fn number(&mut self, column: &str) -> usize {
        if let Scope::Each(table) = self.scope {
            return FIRST_JOINED + self.plan.tables.get_mut(table).map_or(0, |table| table.column(column));
        }
        let joined = column.split_once('.').and_then(|(name, part)| Some((name, self.declared.get(name)?.from.clone(), part)));
        if let Some((name, from, part)) = joined {
            let (name, part) = (name.to_owned(), part.to_owned());
            return self.within(Scope::Own, |columns| columns.lookup(&name, &from, &part));
        }
        match self.scope {
            Scope::Found(find) => self.cell(find, column),
            _ if self.declared.contains_key(GROUP) => {
                let last = RowOf { details: GROUP.to_owned(), which: Which::Last };
                let find = self.row(&last).unwrap_or_default();
                self.cell(find, column)
            }
            _ => position_or_push(&mut self.own, |known| known == column, || column.to_owned()),
        }
    }

    /// The number of a column of the joined row that is found by `from`.
    pub(crate) fn lookup(&mut self, name: &str, from: &[String], part: &str) -> usize {
        match self.find(name, from, Pick::Last) {
            Some(find) => self.cell(find, part),
            None => FIRST_JOINED,
        }
    }

    /// The number of a column of what a find gives.
    fn cell(&mut self, find: usize, column: &str) -> usize {
        let table = self.plan.finds.get(find).map_or(0, |find| find.table);
        let column = self.plan.tables.get_mut(table).map_or(0, |table| table.column(column));
        let cell = (find, column);
        FIRST_JOINED + position_or_push(&mut self.plan.cells, |known| *known == cell, || cell)
    }

    /// `None`, and a fault, where its key needs itself or has another number of columns, which the directory's check refuses.
    fn find(&mut self, name: &str, from: &[String], pick: Pick) -> Option<usize> {
        let join = self.declared.get(name).filter(|join| join.key.len() == from.len()).cloned();
        let Some(join) = join.filter(|_| self.depth <= self.declared.len()) else {
            self.fault.get_or_insert_with(|| MappingError::Join { name: name.to_owned() });
            return None;
        };
        self.depth += 1;
        let from = match join.kind {
            // A group's key is that of the record itself.
            JoinKind::Group => Vec::new(),
            _ => from.iter().map(|column| self.number(column)).collect(),
        };
        self.depth -= 1;
        let table = position_or_push(&mut self.plan.tables, |known| known.is_named(name), || JoinedTable::new(name, &join));
        let same = |known: &Find| known.table == table && known.from == from && known.pick.is(&pick);
        if let Some(at) = self.plan.finds.iter().position(same) {
            return Some(at);
        }
        self.plan.finds.push(Find { table, from, pick });
        Some(self.plan.finds.len() - 1)
    }

    /// The find of one of several rows.
    fn row(&mut self, row: &RowOf) -> Result<usize, String> {
        let pick = match &row.which {
            Which::First => Pick::First,
            Which::Last => Pick::Last,
            Which::When(condition) => Pick::When(condition.clone(), self.condition_of(&row.details, condition)?),
            Which::Every => Pick::All,
        };
        self.rows(&row.details, pick)
    }

    fn rows(&mut self, details: &str, pick: Pick) -> Result<usize, String> {
        let from = self.declared.get(details).map(|join| join.from.clone()).unwrap_or_default();
        let find = self.within(Scope::Own, |columns| columns.find(details, &from, pick));
        let find = find.ok_or_else(|| format!("`{details}` is not declared"))?;
        if let Err(reason) = self.set_condition(details) {
            self.fault.get_or_insert_with(|| MappingError::Rows { name: details.to_owned(), fault: Fault::Expression(reason) });
        }
        Ok(find)
    }

    /// Compiles a condition on each row of details.
    fn condition_of(&mut self, details: &str, condition: &str) -> Result<Formula, String> {
        let table = self.table(details)?;
        self.within(Scope::Each(table), |columns| Formula::compile(condition, &mut Slots::new(columns)))
    }

    fn table(&mut self, details: &str) -> Result<usize, String> {
        let join = self.declared.get(details).ok_or_else(|| format!("`{details}` is not declared"))?;
        Ok(position_or_push(&mut self.plan.tables, |known| known.is_named(details), || JoinedTable::new(details, join)))
    }

    /// Compiles which rows of the details' table are meant, once.
    fn set_condition(&mut self, details: &str) -> Result<(), String> {
        let table = self.table(details)?;
        let is_set = self.plan.tables.get(table).is_none_or(|table| table.condition.is_some());
        let condition = self.declared.get(details).and_then(|join| join.condition.clone()).filter(|_| !is_set);
        let Some(condition) = condition else { return Ok(()) };
        let formula = self.condition_of(details, &condition)?;
        if let Some(table) = self.plan.tables.get_mut(table) {
            table.condition = Some(formula);
        }
        Ok(())
    }

    /// Has `compile` read the columns of one of several rows.
    pub(crate) fn of_row<T>(&mut self, row: &RowOf, compile: impl FnOnce(&mut Self) -> T) -> Result<T, String> {
        let find = self.row(row)?;
        Ok(self.within(Scope::Found(find), compile))
    }

    /// Has `compile` read the columns of each row of details; gives the number of the list of them.
    pub(crate) fn of_each<T>(&mut self, details: &str, compile: impl FnOnce(&mut Self) -> T) -> Result<(usize, T), String> {
        let find = self.rows(details, Pick::All)?;
        let list = position_or_push(&mut self.plan.lists, |known| *known == find, || find);
        let table = self.table(details)?;
        Ok((list, self.within(Scope::Each(table), compile)))
    }

    fn within<T>(&mut self, scope: Scope, compile: impl FnOnce(&mut Self) -> T) -> T {
        let outer = std::mem::replace(&mut self.scope, scope);
        let result = compile(self);
        self.scope = outer;
        result
    }

    /// The columns of the resource's table, and the joins that any field reads.
    pub(crate) fn finish(mut self, revision: u32) -> Result<(Vec<String>, Option<JoinPlan>), MappingError> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        self.plan.tables.iter_mut().for_each(|table| table.identify(revision));
        Ok((self.own, (!self.plan.tables.is_empty()).then_some(self.plan)))
    }

    /// The columns, where none is of a join.
    pub(crate) fn into_own(self) -> Vec<String> {
        self.own
    }
}
