//! The statements of the write path: many rows in one, since each statement costs a round trip to SQLite's thread.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments, AssertSqlSafe, Row, SqliteConnection};

use super::topics::{Extent, Partition};
use crate::contract::LogError;

/// Rows of one statement. Blocks are large and few; state rows are many.
const ROWS: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Shape {
    Block,
    Extent,
    Consumed,
    State,
    Unstate,
}

impl Shape {
    /// What stands before, the row repeated, and what stands after.
    fn parts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Block => ("INSERT INTO block (id, bytes, max_ms, high_ms, data) VALUES ", "(?,?,?,?,?)", ""),
            Self::Extent => (
                "UPDATE partition SET earliest = v.column2, next = v.column3, bytes = v.column4, high_ms = v.column5, cleaned = v.column6, \
                 clean_bytes = v.column7, tombstone_ms = v.column8 FROM (VALUES ",
                "(?,?,?,?,?,?,?,?)",
                ") AS v WHERE partition.id = v.column1",
            ),
            Self::Consumed => (
                "INSERT INTO consumed (owner, partition, next) VALUES ",
                "(?,?,?)",
                " ON CONFLICT (owner, partition) DO UPDATE SET next = excluded.next",
            ),
            Self::State => (
                "INSERT INTO state (map, key, value) VALUES ",
                "(?,?,?)",
                " ON CONFLICT (map, key) DO UPDATE SET value = excluded.value",
            ),
            Self::Unstate => ("DELETE FROM state WHERE (map, key) IN (VALUES ", "(?,?)", ")"),
        }
    }
}

/// SQL texts by their number of rows.
#[derive(Debug, Default)]
pub(crate) struct Statements(HashMap<(Shape, usize), Arc<str>>);

impl Statements {
    fn sql(&mut self, shape: Shape, rows: usize) -> Arc<str> {
        let text = self.0.entry((shape, rows)).or_insert_with(|| {
            let (before, row, after) = shape.parts();
            format!("{before}{}{after}", vec![row; rows].join(",")).into()
        });
        Arc::clone(text)
    }

    /// Writes `rows`, each bound by `bind`.
    pub(crate) async fn write<T>(
        &mut self,
        conn: &mut SqliteConnection,
        shape: Shape,
        rows: impl IntoIterator<Item = T>,
        bind: impl Fn(&mut Binds, T),
    ) -> Result<(), sqlx::Error> {
        let mut rows = rows.into_iter().peekable();
        while rows.peek().is_some() {
            let mut binds = Binds::default();
            let mut count = 0;
            for row in rows.by_ref().take(ROWS) {
                bind(&mut binds, row);
                count += 1;
            }
            let sql = AssertSqlSafe(self.sql(shape, count));
            sqlx::query_with(sql, binds.finish()?).execute(&mut *conn).await?;
        }
        Ok(())
    }
}

/// Arguments of one statement; the first that SQLite's types cannot hold is told at the end.
#[derive(Default)]
pub(crate) struct Binds {
    arguments: SqliteArguments,
    failed: Option<sqlx::error::BoxDynError>,
}

impl Binds {
    pub(crate) fn add<'a, T: sqlx::Encode<'a, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>>(&mut self, value: T) -> &mut Self {
        if let Err(error) = self.arguments.add(value) {
            self.failed.get_or_insert(error);
        }
        self
    }

    fn finish(self) -> Result<SqliteArguments, sqlx::Error> {
        self.failed.map_or(Ok(self.arguments), |error| Err(sqlx::Error::Encode(error)))
    }
}

/// Offsets, sizes and counts lie in SQLite's signed integers; they stay far below the sign.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

pub(crate) async fn put_extents(
    conn: &mut SqliteConnection,
    statements: &mut Statements,
    extents: impl Iterator<Item = &(Arc<Partition>, Extent)>,
) -> Result<(), sqlx::Error> {
    statements
        .write(conn, Shape::Extent, extents, |binds, (partition, extent)| {
            binds
                .add(i64::from(partition.id))
                .add(signed(extent.earliest))
                .add(signed(extent.next))
                .add(signed(extent.bytes))
                .add(extent.high_ms)
                .add(signed(extent.cleaned))
                .add(signed(extent.clean_bytes))
                .add(extent.tombstone_ms);
        })
        .await
}

/// Extents of all partitions by their ids.
pub(crate) async fn extents(conn: &mut SqliteConnection) -> Result<HashMap<u32, Extent>, sqlx::Error> {
    let rows = sqlx::query("SELECT id, earliest, next, bytes, high_ms, cleaned, clean_bytes, tombstone_ms FROM partition")
        .fetch_all(conn)
        .await?;
    let read = |row: &sqlx::sqlite::SqliteRow| {
        let extent = Extent {
            earliest: unsigned(row.try_get(1)?),
            next: unsigned(row.try_get(2)?),
            bytes: unsigned(row.try_get(3)?),
            high_ms: row.try_get(4)?,
            cleaned: unsigned(row.try_get(5)?),
            clean_bytes: unsigned(row.try_get(6)?),
            tombstone_ms: row.try_get(7)?,
        };
        Ok((row.try_get(0)?, extent))
    };
    rows.iter().map(read).collect()
}

/// Values of positions and state carry the version of their form in front.
const VALUE_VERSION: u8 = 1;

pub(crate) fn stamped(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 1);
    out.push(VALUE_VERSION);
    out.extend_from_slice(value);
    out
}

/// The value without its version.
///
/// # Errors
/// [`LogError::Corrupt`] where there is no version that this program knows.
pub(crate) fn unstamped(stored: Vec<u8>) -> Result<Bytes, LogError> {
    if stored.first() == Some(&VALUE_VERSION) {
        return Ok(Bytes::from(stored).slice(1..));
    }
    Err(LogError::Corrupt { detail: "a stored value has a form that this program does not know".to_owned() })
}
