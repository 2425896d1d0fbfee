//! The departments' own databases: made, filled and opened as their applications would.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode};
use sqlx::{ConnectOptions, Connection, Row};

use super::DemoError;
use super::files::DATABASES;
use super::generate::{TABLES, Table};

/// Rows that one statement inserts.
const ROWS_A_STATEMENT: u32 = 1000;

fn path(root: &Path, system: &str) -> PathBuf {
    root.join("databases").join(format!("{system}.db"))
}

pub(super) async fn open(root: &Path, system: &str) -> Result<SqliteConnection, DemoError> {
    let options = SqliteConnectOptions::new()
        .filename(path(root, system))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .busy_timeout(Duration::from_secs(10))
        .disable_statement_logging();
    Ok(options.connect().await?)
}

/// Makes the tables that are not there and fills those that are empty; the rows that were written.
pub(super) async fn fill(root: &Path, mut written: impl FnMut(u64)) -> Result<u64, DemoError> {
    let mut total = 0;
    for (system, tables) in DATABASES {
        let mut connection = open(root, system).await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(*tables)).execute(&mut connection).await?;
        for table in TABLES.iter().filter(|table| table.system == *system) {
            if count(&mut connection, table).await? > 0 {
                continue;
            }
            let mut transaction = connection.begin().await?;
            let mut first = 1;
            while first <= table.rows {
                let last = (first + ROWS_A_STATEMENT - 1).min(table.rows);
                let rows: Vec<Value> = (first..=last).map(|number| Value::from((table.row)(number))).collect();
                execute(&mut transaction, &table.insert(), &[Value::from(rows)]).await?;
                written(u64::from(last - first + 1));
                total += u64::from(last - first + 1);
                first = last + 1;
            }
            transaction.commit().await?;
        }
    }
    Ok(total)
}

async fn count(connection: &mut SqliteConnection, table: &Table) -> Result<i64, DemoError> {
    let sql = format!("SELECT count(*) FROM \"{}\"", table.name);
    Ok(sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_one(connection).await?.try_get(0)?)
}

/// How many numbers beyond the first fill were given to rows of this table.
pub(super) async fn given(root: &Path, table: Table) -> Result<u32, DemoError> {
    let mut connection = open(root, table.system).await?;
    let sql = format!("SELECT max(\"{}\") FROM \"{}\"", table.key(), table.name);
    let row = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT CAST(({sql}) AS TEXT)"))).fetch_one(&mut connection).await?;
    let highest: Option<String> = row.try_get(0)?;
    // Text keys are a prefix and a number with leading zeros, so the highest text is the highest number.
    let digits = highest.unwrap_or_default();
    let digits = digits.trim_start_matches(|c: char| !c.is_ascii_digit());
    let digits = if table.key() == "流水号" { digits.get(2..).unwrap_or(digits) } else { digits };
    let number: u32 = digits.parse().unwrap_or(table.rows);
    Ok(number.saturating_sub(table.rows))
}

/// Runs one statement in a transaction of its own.
pub(super) async fn execute(connection: &mut SqliteConnection, sql: &str, values: &[Value]) -> Result<(), DemoError> {
    let mut query = sqlx::query(sqlx::AssertSqlSafe(sql.to_owned()));
    for value in values {
        query = match value {
            Value::String(text) => query.bind(text.clone()),
            Value::Number(number) => query.bind(number.as_i64()),
            other => query.bind(other.to_string()),
        };
    }
    query.execute(connection).await?;
    Ok(())
}
