//! Rows of the department's tables: the first of the resource's own, and of those beside it what belongs to them.

use std::collections::BTreeSet;

use guitong_connectors::registration;
use guitong_connectors::source::{SampleBudget, Wanted};
use guitong_schemas::change::Change;
use guitong_schemas::table::TableName;

use super::{MAX_INPUT, Outcome, Row, Trial, outcome};
use crate::exit::Failure;
use crate::prepare;

/// Most rows of one table that are read beside the first ones; a record is made of no more.
const MAX_ROWS: usize = 5_000;

impl Trial<'_> {
    /// Tries the first rows of the department's table.
    ///
    /// # Errors
    /// When they cannot be read, or the mapping does not fit their columns.
    pub(crate) async fn table(&self, limit: usize) -> Result<Vec<Option<Outcome>>, Failure> {
        let own = &self.resource.table;
        let mut rows = self.sample(own, SampleBudget { rows: limit, bytes: MAX_INPUT }, &[]).await?;
        if let Some(group) = self.group() {
            // The other rows of the same records belong to them.
            let wanted: Vec<Wanted> = group.key.iter().filter_map(|column| wanted(&rows, column, own, column)).collect();
            if wanted.len() == group.key.len() {
                rows = self.sample(own, SampleBudget { rows: MAX_ROWS, bytes: MAX_INPUT }, &wanted).await?;
            }
        }
        for find in &self.source.finds {
            let wanted: Vec<Wanted> = find.by.iter().filter_map(|by| wanted(&rows, &by.key, &by.table, &by.column)).collect();
            // Nothing is found by an empty value.
            if wanted.len() == find.by.len() {
                rows.extend(self.sample(&find.table, SampleBudget { rows: MAX_ROWS, bytes: MAX_INPUT }, &wanted).await?);
            }
        }
        let rows: Vec<Row> = rows.into_iter().map(|change| Row { line: None, change }).collect();
        self.run(&rows).await
    }

    async fn sample(&self, table: &TableName, budget: SampleBudget, wanted: &[Wanted]) -> Result<Vec<Change>, Failure> {
        let rows = registration::sample(&self.system, table, budget, wanted).await.map_err(prepare::failure)?;
        if !wanted.is_empty() && rows.len() >= budget.rows {
            tracing::warn!(%table, rows = budget.rows, "more rows belong to those that are tried than are read");
        }
        Ok(rows)
    }
}

/// The values of a column in the rows of its table, as those that are wanted of a key's column; `None` where there are none.
fn wanted(rows: &[Change], key: &str, table: &TableName, column: &str) -> Option<Wanted> {
    let of_table = rows.iter().filter(|change| change.table.name == *table);
    let column = [column.to_owned()];
    let values: BTreeSet<String> = of_table.filter_map(|change| outcome::key_of(change, &column)).flatten().collect();
    (!values.is_empty()).then(|| Wanted { column: key.to_owned(), values: values.into_iter().collect() })
}
