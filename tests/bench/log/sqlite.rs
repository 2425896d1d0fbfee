//! The same bytes in plain SQLite: as durable, and nothing else.

use std::path::Path;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row};

use super::{Content, RECORDS, TRANSACTION};
use crate::Failure;

const STATEMENT: usize = 100;

/// Writes and reads everything; how long each took.
pub(super) async fn run(content: &Content, home: &Path) -> Result<(Duration, Duration), Failure> {
    let options = SqliteConnectOptions::new()
        .filename(home.join("plain.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let mut conn = options.connect().await?;
    sqlx::query("CREATE TABLE record (at INTEGER PRIMARY KEY, key BLOB, value BLOB)").execute(&mut conn).await?;
    let sql = format!("INSERT INTO record VALUES {}", vec!["(?, ?, ?)"; STATEMENT].join(", "));

    let begun = Instant::now();
    let mut next = 0_i64;
    for transaction in content.records.chunks(TRANSACTION) {
        sqlx::query("BEGIN").execute(&mut conn).await?;
        for statement in transaction.chunks(STATEMENT) {
            let mut query = sqlx::query(AssertSqlSafe(sql.as_str()));
            for (key, value) in statement {
                query = query.bind(next).bind(&key[..]).bind(&value[..]);
                next += 1;
            }
            query.execute(&mut conn).await?;
        }
        sqlx::query("COMMIT").execute(&mut conn).await?;
    }
    let wrote = begun.elapsed();

    let begun = Instant::now();
    let mut seen = 0;
    let mut rows = sqlx::query("SELECT at, key, value FROM record ORDER BY at").fetch(&mut conn);
    while let Some(row) = rows.try_next().await? {
        let (at, key, value): (i64, Vec<u8>, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        std::hint::black_box((at, key, value));
        seen += 1;
    }
    drop(rows);
    let read = begun.elapsed();
    conn.close().await?;
    if seen != RECORDS {
        return Err(format!("{seen} rows came of {RECORDS}").into());
    }
    Ok((wrote, read))
}
