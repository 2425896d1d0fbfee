//! Rows of a file: each of the resource's own table, or of one beside it that the line names.

use std::sync::Arc;

use guitong_normalise::SourceTable;
use guitong_schemas::table::Table;

use super::rows::{self, Line, WrittenRow};
use super::{Example, Outcome, Row, Trial};
use crate::exit::Failure;

impl Trial<'_> {
    /// Tries the lines of a file, and gives an outcome for each; a line that is no row is an outcome of its own, and one of a table
    /// beside the resource's has none unless it cannot be read.
    ///
    /// # Errors
    /// When the rows lack a column that the mapping reads, or are of a table that it does not read.
    pub(crate) async fn lines(&self, lines: &[Line<Example>]) -> Result<Vec<Option<Outcome>>, Failure> {
        let places = lines.iter().map(|line| self.place(line)).collect::<Result<Vec<_>, _>>()?;
        let mut tables = Vec::with_capacity(self.source.tables.len());
        for (at, table) in self.source.tables.iter().enumerate() {
            let of_table = lines.iter().zip(&places).filter(|(_, place)| **place == Some(at));
            let written: Vec<&WrittenRow> = of_table.filter_map(|(line, _)| Some(&line.content.as_ref().ok()?.row)).collect();
            self.demand_columns(table, &written)?;
            tables.push(Arc::new(self.table_of(table, &written)));
        }
        let now = jiff::Timestamp::now();
        let mut rows = Vec::with_capacity(lines.len());
        for (line, place) in lines.iter().zip(&places) {
            let (Ok(example), Some(table)) = (&line.content, place.and_then(|at| tables.get(at))) else { continue };
            let at_us = example.at.unwrap_or(now).as_microsecond();
            let change = rows::change(&example.row, line.number, table, self.settings.kind, at_us);
            let change = change.map_err(|error| Failure::usage(format!("line {}: {error}", line.number)))?;
            rows.push(Row { line: Some(line.number), change });
        }
        let mut ran = self.run(&rows).await?.into_iter();
        // Lines that are no rows stand where they are in the file.
        let outcome = |line: &Line<Example>| match line.content {
            Ok(_) => ran.next().flatten(),
            Err(bad) => Some(Outcome::unread(line.number, bad)),
        };
        Ok(lines.iter().map(outcome).collect())
    }

    /// Which of the tables that the mapping reads a line is of; `None` for a line that is no row.
    fn place(&self, line: &Line<Example>) -> Result<Option<usize>, Failure> {
        let Ok(example) = &line.content else { return Ok(None) };
        let Some(named) = &example.table else { return Ok(Some(0)) };
        let tables = &self.source.tables;
        let whole = tables.iter().position(|table| table.name.to_string() == *named);
        let Some(at) = whole.or_else(|| tables.iter().position(|table| table.name.name == *named)) else {
            let known: Vec<String> = tables.iter().map(|table| table.name.to_string()).collect();
            let message = format!("line {}: the mapping of {} reads no table `{named}`", line.number, self.resource.name);
            return Err(Failure::usage(message).help(format!("it reads {}", known.join(", "))));
        };
        if at > 0 && example.expect.is_some() {
            let message =
                format!("line {}: a row of {named} makes no record by itself, so nothing is expected of it", line.number);
            return Err(Failure::usage(message).help("expect it of the resource's own rows"));
        }
        Ok(Some(at))
    }

    /// Every column that the mapping reads is in one row at least: a column that is in none is mostly misspelt.
    fn demand_columns(&self, table: &SourceTable, written: &[&WrittenRow]) -> Result<(), Failure> {
        if written.is_empty() {
            return Ok(());
        }
        let read = || table.columns.iter().map(|column| column.name.as_str());
        let missing: Vec<String> =
            read().filter(|name| written.iter().all(|row| row.get(name).is_none())).map(|name| format!("`{name}`")).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let of = if table.name == self.resource.table { String::new() } else { format!(" of {}", table.name) };
        let message = format!("the mapping of {} reads {}, which no row{of} has", self.resource.name, missing.join(", "));
        let mut unread: Vec<&str> = Vec::new();
        for (name, _) in written.iter().flat_map(|row| &row.0) {
            if !read().any(|known| known == name) && !unread.contains(&name.as_str()) {
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
    fn table_of(&self, table: &SourceTable, written: &[&WrittenRow]) -> Table {
        let read: Vec<String> = table.columns.iter().map(|column| column.name.clone()).collect();
        let declared = self.system.keys.iter().find(|(name, _)| *name == table.name).map(|(_, columns)| columns.clone());
        let declared = declared.filter(|columns| rows::tell_apart(written, columns));
        let key = declared.or_else(|| {
            let first = vec![written.first()?.0.first()?.0.clone()];
            rows::tell_apart(written, &first).then_some(first)
        });
        rows::table(&table.name, key.as_deref(), &read, written.iter().copied())
    }
}
