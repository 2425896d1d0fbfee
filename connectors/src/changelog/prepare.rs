//! What the department's database needs: two tables, and three triggers for each table that is tailed; and how to take them away.

use guitong_schemas::contract::System;
use guitong_schemas::contract::system::SqliteConfig;
use guitong_schemas::delivered::{DELIVERING, MAKE_DELIVERING};
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Row};

use super::catalogue::{self, Captured};
use super::{CHANGES, connect, fault, quote_name, quote_text, sql};
use crate::source::SourceError;

/// Time of the change, milliseconds since 1970-01-01T00:00:00Z, in a form that old versions of SQLite know.
const NOW_MS: &str = "CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER)";

/// The statements that make the database of `system` ready, in order; none where it is.
///
/// # Errors
/// [`SourceError`] where the database cannot be read or the system's tables are not in it.
pub async fn prepare_sql(system: &System, config: &SqliteConfig) -> Result<Vec<String>, SourceError> {
    let mut conn = connect(system.name.as_str(), config).await?;
    let captured = catalogue::tables(system, &mut conn).await?;
    let present = triggers(system.name.as_str(), &mut conn).await?;
    let mut statements = vec![];
    if instance(system.name.as_str(), &mut conn).await?.is_none() {
        statements.push(format!(
            "CREATE TABLE {CHANGES} (id INTEGER PRIMARY KEY, at_ms INTEGER, tbl TEXT, op TEXT NOT NULL, columns TEXT, before_row TEXT, \
             after_row TEXT)"
        ));
        statements.push(format!("INSERT INTO {CHANGES} (id, op, tbl) VALUES (0, 'i', lower(hex(randomblob(16))))"));
    }
    if !has_table(system.name.as_str(), DELIVERING, &mut conn).await? {
        statements.push(MAKE_DELIVERING.to_owned());
    }
    let wanted: Vec<(String, String)> = captured.iter().flat_map(|table| trigger_sql(table, &config.exchange)).collect();
    for (name, present) in &present {
        if !wanted.iter().any(|(wanted, text)| wanted == name && text == present) {
            statements.push(format!("DROP TRIGGER {}", quote_name(name)));
        }
    }
    for (name, text) in wanted {
        if !present.iter().any(|(present, as_is)| *present == name && *as_is == text) {
            statements.push(text);
        }
    }
    Ok(statements)
}

/// The statements that take every trace away; none where there is none. Changes that were not read yet go with them.
///
/// # Errors
/// [`SourceError`] where the database cannot be read.
pub async fn unprepare_sql(system: &System, config: &SqliteConfig) -> Result<Vec<String>, SourceError> {
    let mut conn = connect(system.name.as_str(), config).await?;
    let mut statements: Vec<String> = triggers(system.name.as_str(), &mut conn)
        .await?
        .into_iter()
        .map(|(name, _)| format!("DROP TRIGGER {}", quote_name(&name)))
        .collect();
    if has_table(system.name.as_str(), CHANGES, &mut conn).await? {
        statements.push(format!("DROP TABLE {CHANGES}"));
    }
    // An exchange that delivers into the file writes it still.
    let delivers = has_table(system.name.as_str(), "guitong_subscriptions", &mut conn).await?;
    if !delivers && has_table(system.name.as_str(), DELIVERING, &mut conn).await? {
        statements.push(format!("DROP TABLE {DELIVERING}"));
    }
    Ok(statements)
}

/// Runs what [`prepare_sql`] or [`unprepare_sql`] gave, in one transaction.
///
/// # Errors
/// [`SourceError::Setup`] with the statement that failed; nothing was changed then.
pub async fn apply(system: &System, config: &SqliteConfig, statements: &[String]) -> Result<(), SourceError> {
    let name = system.name.as_str();
    let mut conn = connect(name, config).await?;
    let mut tx = conn.begin_with("BEGIN IMMEDIATE").await.map_err(|error| fault(name, &error))?;
    for statement in statements {
        sqlx::raw_sql(sql(statement.clone())).execute(&mut *tx).await.map_err(|error| SourceError::Setup {
            system: name.to_owned(),
            detail: format!("`{statement}` failed: {error}"),
            help: "nothing was changed; check that the file can be written and that the names are free".to_owned(),
        })?;
    }
    tx.commit().await.map_err(|error| fault(name, &error))
}

/// Name and text of the three triggers of a table.
fn trigger_sql(captured: &Captured, exchange: &str) -> [(String, String); 3] {
    let table = captured.name();
    let (literal, of) = (quote_text(table), quote_text(exchange));
    let news = format!("NOT EXISTS (SELECT 1 FROM {DELIVERING} WHERE tbl = {literal} AND exchange = {of})");
    let trigger = |event: &str, code: &str, before: Option<&str>, after: Option<&str>| {
        let name = format!("guitong_{table}_{event}");
        let image = |row: Option<&str>| row.map_or_else(|| "NULL".to_owned(), |row| captured.image_sql(row));
        let text = format!(
            "CREATE TRIGGER {} AFTER {} ON {} WHEN {news} BEGIN INSERT INTO {CHANGES} (at_ms, tbl, op, columns, before_row, after_row) VALUES \
             ({NOW_MS}, {literal}, '{code}', {}, {}, {}); END",
            quote_name(&name),
            event.to_ascii_uppercase(),
            quote_name(table),
            quote_text(&captured.columns_text()),
            image(before),
            image(after),
        );
        (name, text)
    };
    [
        trigger("insert", "c", None, Some("NEW")),
        trigger("update", "u", Some("OLD"), Some("NEW")),
        trigger("delete", "d", Some("OLD"), None),
    ]
}

/// Our triggers as they are in the database.
async fn triggers(system: &str, conn: &mut SqliteConnection) -> Result<Vec<(String, String)>, SourceError> {
    let rows = sqlx::query(
        "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'guitong\\_%' ESCAPE '\\' \
         AND instr(sql, 'INSERT INTO guitong_changes ') ORDER BY name",
    )
    .fetch_all(conn)
    .await
    .map_err(|error| fault(system, &error))?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect::<Result<_, sqlx::Error>>()
        .map_err(|error| fault(system, &error))
}

async fn has_table(system: &str, table: &str, conn: &mut SqliteConnection) -> Result<bool, SourceError> {
    let found: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = $1")
        .bind(table)
        .fetch_one(conn)
        .await
        .map_err(|error| fault(system, &error))?;
    Ok(found > 0)
}

/// Which preparation the database has.
pub(super) async fn instance(system: &str, conn: &mut SqliteConnection) -> Result<Option<String>, SourceError> {
    if !has_table(system, CHANGES, conn).await? {
        return Ok(None);
    }
    sqlx::query_scalar("SELECT tbl FROM guitong_changes WHERE id = 0 AND op = 'i'")
        .fetch_optional(conn)
        .await
        .map_err(|error| fault(system, &error))
}

/// Checks that each table's triggers write just its columns of now, and nothing that `exchange` delivers.
///
/// # Errors
/// [`SourceError::Setup`] with the first table whose triggers do not.
pub(super) async fn verify(
    system: &str,
    exchange: &str,
    conn: &mut SqliteConnection,
    captured: &[Captured],
) -> Result<(), SourceError> {
    let present = triggers(system, conn).await?;
    for table in captured {
        for (name, text) in trigger_sql(table, exchange) {
            let detail = match present.iter().find(|(present, _)| *present == name) {
                Some((_, as_is)) if *as_is == text => continue,
                Some(_) => format!(
                    "the columns of table {} or the name of the exchange are not those that its triggers were made for",
                    table.name()
                ),
                None => format!("table {} has no trigger {name}", table.name()),
            };
            return Err(SourceError::Setup {
                system: system.to_owned(),
                detail,
                help: format!(
                    "run `guitong system prepare {system} --apply`; the table is then read again, so nothing is missing"
                ),
            });
        }
    }
    Ok(())
}
