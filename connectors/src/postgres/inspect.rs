//! Looks at tables: catalogue, comments, a sample of their rows. Nothing is written, and no lock is waited for: one transaction that only
//! reads, with a limit of time for each statement, reads no more blocks of a large table than the sample takes.

use futures::TryStreamExt;
use guitong_schemas::contract::System;
use guitong_schemas::profile::{Cell, SampledColumn, TableSample};
use guitong_schemas::table::{Column, Table};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, Row, ValueRef};

use super::catalogue::{self, ColumnFacts, TableFacts};
use super::config::quote_name;
use super::fault::Faults;
use super::prepare;
use super::start::{address, config_of};
use super::types::Types;
use crate::inspect::{self, BYTES, CHARACTERS, LARGE, PATIENCE, ROWS, Selection, UNREAD};
use crate::source::SourceError;

/// A table with more rows than so many samples is sampled by its blocks.
const LARGE_TABLE: u64 = 20;

/// Hands every selected table to `each`, in the order of their names; tables of `Selection::All` that the role may not read are left out and
/// told in the answer, with the grants that they lack.
///
/// # Errors
/// [`SourceError::Setup`] with the exact grants where the role may not read a table, or where there is none.
pub async fn inspect_tables(
    system: &System,
    selection: &Selection,
    each: &mut (dyn FnMut(TableSample) + Send),
) -> Result<Vec<String>, SourceError> {
    let faults = Faults::of(system);
    let address = address(system, &config_of(system, &faults)?, &faults)?;
    let mut connection = address.connect(&faults).await?;
    let asked = |error: sqlx::Error| faults.query("reading the catalogue", &error);
    let mut transaction = connection.begin().await.map_err(asked)?;
    let limits = format!("SET TRANSACTION READ ONLY; SET LOCAL statement_timeout = {}", PATIENCE.as_millis());
    sqlx::raw_sql(AssertSqlSafe(limits)).execute(&mut *transaction).await.map_err(asked)?;
    let (tables, lacking) = selected(&mut transaction, system, selection, &address.user, &faults).await?;
    let oids: Vec<u32> = tables.iter().flat_map(|table| &table.columns).map(|column| column.type_oid).collect();
    let mut types = Types::default();
    catalogue::learn_types(&mut transaction, &mut types, &oids).await.map_err(asked)?;
    for table in tables {
        let name = table.name.clone();
        let sample = sample(&mut transaction, table, &types, system).await;
        each(sample.map_err(|error| faults.query(&format!("looking at {name}"), &error))?);
    }
    Ok(lacking)
}

/// The tables that can be looked at, and the grants that others lack.
async fn selected(
    connection: &mut PgConnection,
    system: &System,
    selection: &Selection,
    role: &str,
    faults: &Faults,
) -> Result<(Vec<TableFacts>, Vec<String>), SourceError> {
    let wanted = |table: &TableFacts| match selection {
        Selection::All => true,
        Selection::Tailed => system.tails(&table.name),
        Selection::Named(names) => names.contains(&table.name),
    };
    let tables = catalogue::roots(connection, wanted).await;
    let tables = tables.map_err(|error| faults.query("reading the catalogue", &error))?;
    if let Selection::Named(names) = selection
        && let Some(missing) = names.iter().find(|name| !tables.iter().any(|table| table.name == **name))
    {
        let help = "name it as the database does, with its schema; `guitong system inspect --all` shows every table";
        return Err(faults.setup(format!("there is no table {missing}"), help));
    }
    if tables.is_empty() {
        return Err(faults.setup("none of its tables match `tables`", "name them as schema.table; `*` stands for any characters"));
    }
    let lacking = prepare::missing_grants(system, role, &tables);
    if *selection != Selection::All && !lacking.is_empty() {
        let unreadable: Vec<String> =
            tables.iter().filter(|table| !prepare::readable(system, table)).map(|table| table.name.to_string()).collect();
        let detail = format!("role {} may not read {}", quote_name(role), unreadable.join(", "));
        return Err(faults.setup(detail, format!("run `{}` as the tables' owner", lacking.join("; "))));
    }
    Ok((tables.into_iter().filter(|table| prepare::readable(system, table)).collect(), lacking))
}

async fn sample(
    connection: &mut PgConnection,
    table: TableFacts,
    types: &Types,
    system: &System,
) -> Result<TableSample, sqlx::Error> {
    let comments = comments(connection, &table).await?;
    let columns: Vec<&ColumnFacts> = prepare::kept(system, &table).collect();
    let estimated = estimate(connection, &table).await?;
    let sample = rows_of(connection, &table, &columns, estimated).await?;
    // The planner takes small tables for larger ones.
    let whole = !columns.is_empty() && sample.cells.len() < ROWS && !sample.ended;
    let rows = if whole { sample.cells.len() as u64 } else { estimated };
    let name = table.name.clone();
    let key = system.keys.iter().find(|(of, _)| *of == name).map_or(&table.key, |(_, key)| key);
    let place = |wanted: &String| columns.iter().position(|column| column.name == *wanted);
    let described = |name: &str| comments.columns.iter().find(|(of, ..)| of == name);
    Ok(TableSample {
        comment: comments.table,
        columns: columns
            .iter()
            .map(|column| described(&column.name))
            .map(|found| SampledColumn {
                declared: found.map(|(_, declared, _)| declared.clone()).unwrap_or_default(),
                comment: found.and_then(|(.., comment)| comment.clone()),
            })
            .collect(),
        rows,
        bytes: comments.bytes,
        sample: sample.cells,
        table: Table {
            key: key.iter().filter_map(place).collect(),
            columns: columns
                .iter()
                .map(|column| Column {
                    name: column.name.clone(),
                    kind: types.resolve(column.type_oid, column.type_modifier),
                    nullable: !column.not_null,
                    default: None,
                })
                .collect(),
            name,
        },
    })
}

/// What the catalogue says in words.
struct Comments {
    table: Option<String>,
    bytes: u64,
    /// Name, declared type and comment.
    columns: Vec<(String, String, Option<String>)>,
}

async fn comments(connection: &mut PgConnection, table: &TableFacts) -> Result<Comments, sqlx::Error> {
    let oid = i64::from(table.oid);
    // The root of a partitioned table has no pages of its own.
    let (comment, bytes): (Option<String>, i64) = sqlx::query_as(
        "SELECT obj_description($1::oid, 'pg_class'), coalesce((SELECT sum(pg_table_size(relid))::int8 FROM \
         pg_partition_tree($1::oid)), pg_table_size($1::oid), 0)",
    )
    .bind(oid)
    .fetch_one(&mut *connection)
    .await?;
    let columns = sqlx::query_as(
        "SELECT attname::text, format_type(atttypid, atttypmod), col_description(attrelid, attnum) FROM pg_attribute \
         WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped",
    )
    .bind(oid)
    .fetch_all(connection)
    .await?;
    Ok(Comments { table: comment, bytes: bytes.unsigned_abs(), columns })
}

/// Rows as the planner reckons: from the pages that the table has now, also where it was never analysed.
async fn estimate(connection: &mut PgConnection, table: &TableFacts) -> Result<u64, sqlx::Error> {
    let sql = format!("EXPLAIN SELECT 1 FROM {}", prepare::quoted(&table.name));
    let plan: String = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await?;
    let rows = plan.split_once(" rows=").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    Ok(rows.unwrap_or(table.rows))
}

/// Some rows: of a large table those of blocks from all over it, always the same ones, else its first.
async fn rows_of(
    connection: &mut PgConnection,
    table: &TableFacts,
    columns: &[&ColumnFacts],
    rows: u64,
) -> Result<Sampled, sqlx::Error> {
    if columns.is_empty() {
        return Ok(Sampled::default());
    }
    let values: Vec<String> = columns.iter().map(|column| value_sql(&column.name)).collect();
    let select = format!("SELECT {} FROM {}", values.join(", "), prepare::quoted(&table.name));
    let wanted = ROWS as u64;
    if rows > LARGE_TABLE * wanted {
        let percent = (100.0 * 2.0 * wanted as f64 / rows as f64).min(100.0);
        let sampled =
            fetch(connection, format!("{select} TABLESAMPLE SYSTEM ({percent}) REPEATABLE (1) LIMIT {ROWS}"), columns.len())
                .await?;
        // An estimate may be far off, and blocks of a table that shrank are empty.
        if sampled.cells.len() * 2 >= ROWS {
            return Ok(sampled);
        }
    }
    fetch(connection, format!("{select} LIMIT {ROWS}"), columns.len()).await
}

/// The value's length and its first characters; of one that takes many bytes only these.
fn value_sql(column: &str) -> String {
    let column = quote_name(column);
    format!(
        "CASE WHEN pg_column_size({column}) > {LARGE} THEN pg_column_size({column}) || ':{UNREAD}' \
         ELSE length({column}::text) || ':' || left({column}::text, {CHARACTERS}) END"
    )
}

/// Rows that were read.
#[derive(Default)]
struct Sampled {
    cells: Vec<Vec<Option<Cell>>>,
    /// There were more bytes than are looked at.
    ended: bool,
}

async fn fetch(connection: &mut PgConnection, sql: String, columns: usize) -> Result<Sampled, sqlx::Error> {
    let mut found = Sampled::default();
    let mut bytes = 0;
    let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let row = cells(&row, columns)?;
        bytes += row.iter().flatten().map(|cell| cell.text.len()).sum::<usize>();
        found.cells.push(row);
        if bytes > BYTES {
            found.ended = true;
            break;
        }
    }
    Ok(found)
}

fn cells(row: &PgRow, columns: usize) -> Result<Vec<Option<Cell>>, sqlx::Error> {
    let cell = |at: usize| {
        let value = row.try_get_raw(at)?;
        if value.is_null() {
            return Ok(None);
        }
        // A database without an encoding may hold bytes that are no text.
        Ok(value.as_bytes().ok().and_then(inspect::cell))
    };
    (0..columns).map(cell).collect()
}
