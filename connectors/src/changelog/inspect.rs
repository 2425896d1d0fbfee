//! Looks at tables: the schema with the comments in its text, and a sample of the rows. Nothing is written.

use futures::TryStreamExt;
use guitong_schemas::contract::System;
use guitong_schemas::contract::system::SqliteConfig;
use guitong_schemas::profile::{Cell, SampledColumn, TableSample};
use guitong_schemas::table::TableName;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Row, ValueRef};

use super::catalogue::{self, Captured, SCHEMA};
use super::{CHANGES, connect, fault, quote_name, sql};
use crate::inspect::{self, BYTES, CHARACTERS, LARGE, PATIENCE, ROWS, Selection, UNREAD};
use crate::source::SourceError;

/// Rows up to which a table is counted.
const COUNTED: u64 = 10_000_000;

/// Hands every selected table to `each`, in the order of their names.
///
/// # Errors
/// [`SourceError::Setup`] where a table is not there, or none is selected.
pub async fn inspect_tables(
    system: &System,
    config: &SqliteConfig,
    selection: &Selection,
    each: &mut (dyn FnMut(TableSample) + Send),
) -> Result<(), SourceError> {
    let name = system.name.as_str();
    let mut connection = connect(name, config).await?;
    let failed = |error: sqlx::Error| fault(name, &error);
    sqlx::raw_sql("PRAGMA query_only = ON").execute(&mut connection).await.map_err(failed)?;
    let all: Vec<(String, String)> =
        sqlx::query_as("SELECT name, coalesce(sql, '') FROM sqlite_master WHERE type = 'table' ORDER BY name")
            .fetch_all(&mut connection)
            .await
            .map_err(failed)?;
    let own = |table: &str| table == CHANGES || table.starts_with("sqlite_");
    let tables: Vec<(TableName, String)> =
        all.into_iter().filter(|(table, _)| !own(table)).map(|(table, sql)| (TableName::new(SCHEMA, table), sql)).collect();
    let setup = |detail: String, help: &str| SourceError::Setup { system: name.to_owned(), detail, help: help.to_owned() };
    if let Selection::Named(names) = selection
        && let Some(missing) = names.iter().find(|wanted| !tables.iter().any(|(table, _)| table == *wanted))
    {
        let help = "name it as main.<table>; `guitong system inspect --all` shows every table";
        return Err(setup(format!("there is no table {missing}"), help));
    }
    let wanted = |table: &TableName| match selection {
        Selection::All => true,
        Selection::Tailed => system.tails(table),
        Selection::Named(names) => names.contains(table),
    };
    let mut found = false;
    for (table, text) in tables.into_iter().filter(|(table, _)| wanted(table)) {
        found = true;
        let place = table.to_string();
        let captured = catalogue::describe(system, table, &mut connection).await?;
        let looked = tokio::time::timeout(PATIENCE, sample(&mut connection, captured, &text)).await;
        each(looked.map_err(|_| late(name, &place))?.map_err(failed)?);
    }
    if found { Ok(()) } else { Err(setup("none of its tables match `tables`".to_owned(), "name them as main.<table>")) }
}

fn late(system: &str, table: &str) -> SourceError {
    let detail = format!("looking at {table} took more than {} s", PATIENCE.as_secs());
    SourceError::Unavailable { system: system.to_owned(), detail }
}

async fn sample(connection: &mut SqliteConnection, captured: Captured, text: &str) -> Result<TableSample, sqlx::Error> {
    let table = captured.table;
    let quoted = quote_name(&table.name.name);
    let counted = format!("SELECT count(*) FROM (SELECT 1 FROM {quoted} LIMIT {COUNTED})");
    let rows: i64 = sqlx::query_scalar(sql(counted)).fetch_one(&mut *connection).await?;
    let declared = sqlx::query(sql(format!("PRAGMA table_info({quoted})"))).fetch_all(&mut *connection).await?;
    let declared = |column: &str| {
        let row = declared.iter().find(|row| row.try_get::<String, _>("name").is_ok_and(|name| name == column))?;
        row.try_get::<String, _>("type").ok()
    };
    let comments = comments(text);
    let columns = table.columns.iter().map(|column| SampledColumn {
        declared: declared(&column.name).unwrap_or_default(),
        comment: comments.iter().find(|(name, _)| *name == column.name).map(|(_, comment)| comment.clone()),
    });
    let columns = columns.collect();
    let names: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    let sample = rows_of(connection, &quoted, &names, rows).await?;
    Ok(TableSample { comment: table_comment(text), columns, rows: rows.unsigned_abs(), bytes: 0, sample, table })
}

/// Some rows: of a large table those with row ids at even distances, else its first.
async fn rows_of(
    connection: &mut SqliteConnection,
    quoted: &str,
    columns: &[&str],
    rows: i64,
) -> Result<Vec<Vec<Option<Cell>>>, sqlx::Error> {
    let values: Vec<String> = columns.iter().map(|column| value_sql(column)).collect();
    let select = format!("SELECT {} FROM {quoted}", values.join(", "));
    let wanted = i64::try_from(ROWS).unwrap_or(i64::MAX);
    if rows > wanted * 2 {
        // A table without row ids has none to ask for.
        let ends = sqlx::query_as(sql(format!("SELECT min(rowid), max(rowid) FROM {quoted}"))).fetch_one(&mut *connection).await;
        if let Ok::<(i64, i64), _>((first, last)) = ends {
            let step = (last.saturating_sub(first) / wanted).max(1);
            let ids: Vec<String> = (0..wanted).map(|at| (first.saturating_add(at.saturating_mul(step))).to_string()).collect();
            let sampled = fetch(connection, format!("{select} WHERE rowid IN ({})", ids.join(",")), columns.len()).await?;
            // Ids with gaps meet few rows.
            if sampled.len() * 2 >= ROWS {
                return Ok(sampled);
            }
        }
    }
    fetch(connection, format!("{select} LIMIT {ROWS}"), columns.len()).await
}

fn value_sql(column: &str) -> String {
    let column = quote_name(column);
    format!(
        "CASE WHEN {column} IS NULL THEN NULL WHEN typeof({column}) = 'blob' OR length({column}) > {LARGE} \
         THEN length({column}) || ':{UNREAD}' ELSE length({column}) || ':' || substr({column}, 1, {CHARACTERS}) END"
    )
}

async fn fetch(connection: &mut SqliteConnection, query: String, columns: usize) -> Result<Vec<Vec<Option<Cell>>>, sqlx::Error> {
    let mut found = Vec::new();
    let mut bytes = 0;
    let mut rows = sqlx::query(sql(query)).fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let row = cells(&row, columns)?;
        bytes += row.iter().flatten().map(|cell| cell.text.len()).sum::<usize>();
        found.push(row);
        if bytes > BYTES {
            break;
        }
    }
    Ok(found)
}

fn cells(row: &SqliteRow, columns: usize) -> Result<Vec<Option<Cell>>, sqlx::Error> {
    let cell = |at: usize| {
        if row.try_get_raw(at)?.is_null() {
            return Ok(None);
        }
        // A text may hold any bytes.
        Ok(inspect::cell(row.try_get_unchecked::<&[u8], _>(at)?))
    };
    (0..columns).map(cell).collect()
}

/// Columns with the comment that ends their line in the table's text: SQLite keeps it as it was typed.
fn comments(text: &str) -> Vec<(String, String)> {
    let line = |line: &str| {
        let (definition, comment) = comment_of(line)?;
        let definition = definition.trim_start_matches(|letter: char| letter.is_whitespace() || letter == ',');
        let name = match definition.chars().next()? {
            '"' => definition.get(1..)?.split('"').next()?,
            '`' => definition.get(1..)?.split('`').next()?,
            '[' => definition.get(1..)?.split(']').next()?,
            _ => definition.split(|letter: char| letter.is_whitespace() || letter == ',').next()?,
        };
        (!name.is_empty()).then(|| (name.to_owned(), comment.to_owned()))
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// The comment at the end of the line that opens the table.
fn table_comment(text: &str) -> Option<String> {
    comment_of(text.lines().next()?).map(|(_, comment)| comment.to_owned())
}

fn comment_of(line: &str) -> Option<(&str, &str)> {
    let (definition, comment) = match line.split_once("--") {
        Some(found) => found,
        None => {
            let (definition, rest) = line.split_once("/*")?;
            (definition, rest.split_once("*/")?.0)
        }
    };
    let comment = comment.trim();
    (!comment.is_empty()).then_some((definition, comment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_stand_at_the_end_of_their_columns_lines() {
        let text = "CREATE TABLE qy ( -- 企业\n  \"XM\" TEXT NOT NULL, -- 姓名\n  zs text /* 住所 */,\n  bz text,\n  [KBSJ] text --开标时间\n)";
        let wanted = [("XM", "姓名"), ("zs", "住所"), ("KBSJ", "开标时间")];
        assert_eq!(comments(text), wanted.map(|(column, comment)| (column.to_owned(), comment.to_owned())));
        assert_eq!(table_comment(text).as_deref(), Some("企业"));
    }
}
