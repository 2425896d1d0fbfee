//! The first rows of a table, as a first load would read them. The database need not be prepared for that, and nothing is written.

use guitong_schemas::change::Change;
use guitong_schemas::contract::System;
use guitong_schemas::contract::system::SqliteConfig;
use guitong_schemas::table::TableName;
use sqlx::Connection;

use super::read::{ChunkBudget, Codec, Part};
use super::{catalogue, connect, fault, sql};
use crate::source::{SampleBudget, SourceError, Wanted, missing};

/// At most `budget` of the table's rows, in the order of its key.
///
/// # Errors
/// [`SourceError::Setup`] where the system has no such table or column, [`SourceError::Unavailable`] where it cannot be read now.
pub async fn sample(
    system: &System,
    config: &SqliteConfig,
    table: &TableName,
    budget: SampleBudget,
    wanted: &[Wanted],
) -> Result<Vec<Change>, SourceError> {
    let name = system.name.as_str();
    let failed = |error: sqlx::Error| fault(name, &error);
    let mut conn = connect(name, config).await?;
    sqlx::raw_sql(sql("PRAGMA query_only = ON".to_owned())).execute(&mut conn).await.map_err(failed)?;
    let tables = catalogue::tables(system, &mut conn).await?;
    let found = tables.iter().find(|captured| captured.table.name == *table);
    let fault = match found.map(|captured| missing(&captured.table, wanted)) {
        None => Some(format!("there is no table {table}")),
        Some(column) => column.map(|column| format!("table {table} has no column `{column}`")),
    };
    if let Some(detail) = fault {
        let help = "names are compared as the database stores them".to_owned();
        return Err(SourceError::Setup { system: name.to_owned(), detail, help });
    }
    let mut codec = Codec::new(name, 1, tables);
    let mut tx = conn.begin().await.map_err(failed)?;
    let budget = ChunkBudget { bytes: budget.bytes, rows: budget.rows };
    let chunk = codec.chunk(&mut tx, &table.name, Part { after: None, wanted }, 0, 0, budget).await?;
    tx.rollback().await.map_err(failed)?;
    Ok(chunk.changes)
}
