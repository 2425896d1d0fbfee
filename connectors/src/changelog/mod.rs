//! Change log of a SQLite database: triggers write full before and after images into one table, in the department's own
//! transaction, and the connector reads them in order.
//!
//! Invariants: a change is removed only after it is durable in the log, by its exact id; ids never start again, since the row with
//! the largest id always stays (emptied); the position names every id that was published and is not removed yet, so a crash
//! between the two doubles nothing. Snapshot rows and changes are written by one SQL expression and read by one codec.
//!
//! A chunk of the snapshot is read in the same read transaction as the changes before it and comes after them, so it never goes
//! behind them; a change that commits later has a larger id than the chunk's version.
//!
//! A value over the limit is not written by the triggers; its row is published without it, and marked.
//!
//! What SQLite itself does not tell to triggers: rows that `INSERT OR REPLACE` removes because of a UNIQUE constraint beside the
//! key, unless the application sets `PRAGMA recursive_triggers = ON`.

mod catalogue;
mod inspect;
mod literal;
mod position;
mod prepare;
mod read;
mod sample;
mod source;
mod types;
mod wake;

use std::time::Duration;

use bytes::Bytes;
use guitong_schemas::contract::System;
use guitong_schemas::contract::system::SqliteConfig;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, SqlSafeStr};

pub use self::inspect::inspect_tables;
pub use self::prepare::{apply, prepare_sql, unprepare_sql};
pub use self::sample::sample;
use self::source::ChangelogSource;
use crate::source::{Source, SourceError};

/// The one table that the connector needs in the department's database.
const CHANGES: &str = "guitong_changes";

/// How long a statement waits for the department's own writers.
const BUSY: Duration = Duration::from_millis(500);

/// Opens the source where `position` says, or at the start.
///
/// # Errors
/// [`SourceError::Setup`] where the database is not prepared for this system, [`SourceError::Gap`] where changes may be missing,
/// [`SourceError::Unavailable`] where it cannot be read now.
pub async fn open(system: &System, config: &SqliteConfig, position: Option<Bytes>) -> Result<Box<dyn Source>, SourceError> {
    Ok(Box::new(ChangelogSource::open(system, config, position).await?))
}

async fn connect(system: &str, config: &SqliteConfig) -> Result<SqliteConnection, SourceError> {
    if !config.path.exists() {
        return Err(SourceError::Setup {
            system: system.to_owned(),
            detail: format!("there is no database file {}", config.path.display()),
            help: "set `path` in the system's file to the department's SQLite database".to_owned(),
        });
    }
    SqliteConnectOptions::new()
        .filename(&config.path)
        .create_if_missing(false)
        .busy_timeout(BUSY)
        // The department's constraints are its own matter; nothing here touches its tables.
        .foreign_keys(false)
        // A page cache of half a MiB and a few rows ahead: a node reads a hundred of these.
        .pragma("cache_size", "-512")
        .row_buffer_size(4)
        .disable_statement_logging()
        .connect()
        .await
        .map_err(|error| fault(system, &error))
}

/// What a failure of SQLite means for the connector.
fn fault(system: &str, error: &sqlx::Error) -> SourceError {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    // SQLite, "Result and Error Codes": 11 corrupt, 26 not a database; the low byte is the primary code.
    let primary = code.and_then(|code| code.parse::<i32>().ok()).map(|code| code & 0xff);
    match primary {
        Some(11 | 26) => SourceError::Protocol { system: system.to_owned(), detail: error.to_string() },
        _ => SourceError::Unavailable { system: system.to_owned(), detail: error.to_string() },
    }
}

fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.and_then(|code| code.parse::<i32>().ok()).is_some_and(|code| matches!(code & 0xff, 5 | 6))
}

/// SQL that this module wrote itself: names in it went through [`quote_name`], values through [`quote_text`] or a parameter.
fn sql(text: String) -> impl SqlSafeStr {
    sqlx::AssertSqlSafe(text)
}

fn quote_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn quote_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
