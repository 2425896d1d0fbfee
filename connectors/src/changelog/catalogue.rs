//! Tables of the department's database, as its catalogue describes them.

use guitong_schemas::contract::System;
use guitong_schemas::table::{Column, ColumnType, Table, TableName};
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Row};

use super::literal::{self, Literal};
use super::{CHANGES, fault, quote_name, sql, types};
use crate::source::SourceError;

/// SQLite's own schema name for the file itself.
pub(super) const SCHEMA: &str = "main";

/// Bytes of a blob, characters of a text, that a row image holds at most: 16 MiB in whatever script.
pub(super) const LARGEST: usize = 4 << 20;

/// A table that is tailed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Captured {
    pub(super) table: Table,
    pub(super) order: Order,
}

/// What orders a table's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    /// Indexes of the primary key's columns.
    pub(super) columns: Vec<usize>,
    /// The row id, where those do not tell all rows apart.
    pub(super) by_row_id: bool,
}

impl Captured {
    pub(super) fn name(&self) -> &str {
        &self.table.name.name
    }

    /// SQL expression that writes the row named `row` (`NEW`, `OLD`, the table) as literals, in the order of the columns.
    ///
    /// A value beyond [`LARGEST`] is written as `U`, so that neither the change log nor the connector ever holds it.
    /// `quote` ends a text at its first NUL, so such a text is written as `T'hex'`.
    pub(super) fn image_sql(&self, row: &str) -> String {
        let cells = self.table.columns.iter().map(|column| {
            let cell = format!("{}.{}", quote_name(row), quote_name(&column.name));
            format!(
                "CASE WHEN length({cell}) > {LARGEST} THEN 'U' WHEN typeof({cell}) = 'text' AND instr({cell}, char(0)) THEN 'T''' || hex({cell}) || '''' ELSE quote({cell}) END"
            )
        });
        cells.collect::<Vec<_>>().join(" || ',' || ")
    }

    /// Names of the columns that [`Captured::image_sql`] writes, as literals.
    pub(super) fn columns_text(&self) -> String {
        self.table.columns.iter().map(|column| super::quote_text(&column.name)).collect::<Vec<_>>().join(",")
    }
}

/// Every table that the system's patterns name, in the order of their names.
///
/// # Errors
/// [`SourceError::Setup`] where the patterns name none, or a declared key names a column that is not there.
pub(super) async fn tables(system: &System, conn: &mut SqliteConnection) -> Result<Vec<Captured>, SourceError> {
    let failed = |error: sqlx::Error| fault(system.name.as_str(), &error);
    let setup =
        |detail: String, help: &str| SourceError::Setup { system: system.name.to_string(), detail, help: help.to_owned() };
    let mut tx = conn.begin().await.map_err(failed)?;
    let names: Vec<String> = sqlx::query_scalar("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        .fetch_all(&mut *tx)
        .await
        .map_err(failed)?;
    let mut captured = vec![];
    for name in names {
        let name = TableName::new(SCHEMA, name);
        let own = name.name == CHANGES || name.name.starts_with("sqlite_");
        if own || !system.tails(&name) {
            continue;
        }
        captured.push(describe(system, name, &mut tx).await?);
    }
    tx.rollback().await.map_err(failed)?;
    if captured.is_empty() {
        return Err(setup(
            "none of its tables match `tables`".to_owned(),
            "name them as main.<table>; `*` stands for any characters",
        ));
    }
    Ok(captured)
}

pub(super) async fn describe(system: &System, name: TableName, conn: &mut SqliteConnection) -> Result<Captured, SourceError> {
    let failed = |error: sqlx::Error| fault(system.name.as_str(), &error);
    let query = format!("PRAGMA table_info({})", quote_name(&name.name));
    let mut columns = vec![];
    let mut keyed: Vec<(i64, usize)> = vec![];
    let (mut excluded_key, mut takes_null, mut is_row_id) = (false, false, false);
    for row in sqlx::query(sql(query)).fetch_all(&mut *conn).await.map_err(failed)? {
        let column: String = row.try_get("name").map_err(failed)?;
        if system.exclude_columns.iter().any(|(table, excluded)| *table == name && *excluded == column) {
            let place: i64 = row.try_get("pk").map_err(failed)?;
            excluded_key |= place > 0;
            continue;
        }
        let declared: String = row.try_get("type").map_err(failed)?;
        let not_null: i64 = row.try_get("notnull").map_err(failed)?;
        let place: i64 = row.try_get("pk").map_err(failed)?;
        let default: Option<String> = row.try_get("dflt_value").map_err(failed)?;
        if place > 0 {
            keyed.push((place, columns.len()));
            // SQLite takes nulls into a primary key, but for the one that is the row id.
            takes_null |= not_null == 0;
            is_row_id = declared.eq_ignore_ascii_case("INTEGER");
        }
        let kind = types::of_declared(&declared);
        let default = default.and_then(|default| constant(&default, &kind));
        columns.push(Column { name: column, kind, nullable: not_null == 0, default });
    }
    keyed.sort_unstable();
    let primary: Vec<usize> = keyed.iter().map(|&(_, index)| index).collect();
    let declared = system.keys.iter().find(|(table, _)| *table == name).map(|(_, columns)| columns);
    let key = match declared {
        None => primary.clone(),
        Some(names) => names
            .iter()
            .map(|wanted| {
                columns.iter().position(|column| column.name == *wanted).ok_or_else(|| SourceError::Setup {
                    system: system.name.to_string(),
                    detail: format!("the key declared for {name} names column {wanted}, which it does not have"),
                    help: "correct the table's entry under `keys`".to_owned(),
                })
            })
            .collect::<Result<_, _>>()?,
    };
    for &index in &key {
        if let Some(column) = columns.get_mut(index) {
            column.nullable = false;
            column.default = None;
        }
    }
    // Row ids may be renumbered by VACUUM, so a declared key goes first; it orders the rows only where all of it is read.
    let by_key = !primary.is_empty() && !excluded_key;
    let is_apart = !takes_null || primary.len() == 1 && is_row_id;
    let order = Order { by_row_id: !by_key || !is_apart, columns: if by_key { primary } else { Vec::new() } };
    Ok(Captured { table: Table { name, columns, key }, order })
}

/// The text form of a default that is a plain literal.
fn constant(default: &str, kind: &ColumnType) -> Option<String> {
    let inner = default.trim();
    let values = literal::parse(inner.as_bytes()).ok()?;
    match values.as_slice() {
        [Literal::Null] | [] => None,
        [value] => types::text_of(value, kind).map(|text| String::from_utf8_lossy(&text).into_owned()),
        _ => None,
    }
}
