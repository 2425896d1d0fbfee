//! A batch's changes, in the transaction that is open.

use guitong_govern::{Row, RowKey};
use guitong_schemas::position::Version;
use guitong_schemas::standard::StandardValue;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments as _, AssertSqlSafe, SqliteConnection};

use super::errors::sink_error;
use crate::sink::{Change, SinkError, SinkErrorKind, What};
use crate::sql::layout::{Layout, join, older, quote};
use crate::sql::stored::{Deleted, comes_back};
use crate::sql::{EPOCH, VERSION};

/// Rows of one statement; the rest of a batch goes in smaller ones. More rows than the first gain nothing.
const STATEMENT_ROWS: [usize; 3] = [64, 8, 1];

/// Statements of one layout.
#[derive(Debug)]
pub(crate) struct Statements {
    /// One for each of [`STATEMENT_ROWS`].
    upserts: [String; STATEMENT_ROWS.len()],
    remember: String,
    delete: String,
}

impl Statements {
    pub(crate) fn new(layout: &Layout) -> Self {
        let width = layout.written().len();
        let one = format!("({})", vec!["?"; width].join(", "));
        let upserts = STATEMENT_ROWS.map(|rows| {
            format!(
                "INSERT INTO {} AS t ({}) VALUES {} ON CONFLICT ({}) DO UPDATE SET {} WHERE {}",
                layout.table,
                layout.quoted_written(),
                vec![one.as_str(); rows].join(", "),
                layout.quoted_key(),
                layout.assignments("excluded"),
                older("t", "excluded"),
            )
        });
        // $1 version, $2 epoch, then the key.
        let held = format!("({VERSION}, {EPOCH}) < ($1, $2)");
        let key = join(layout.key.iter().enumerate().map(|(at, name)| format!("{} = ${}", quote(name), at + 3)), " AND ");
        let after = layout.key.len() + 3;
        let remember = format!(
            "INSERT INTO guitong_deleted (subscription, row_key, version, epoch, deleted_us)
             SELECT ${after}, ${}, $1, $2, ${} FROM {} WHERE {key} AND {held}
             ON CONFLICT (subscription, row_key) DO UPDATE
             SET version = excluded.version, epoch = excluded.epoch, deleted_us = excluded.deleted_us",
            after + 1,
            after + 2,
            layout.table
        );
        Self { upserts, remember, delete: format!("DELETE FROM {} WHERE {key} AND {held}", layout.table) }
    }
}

/// Who writes, and whether any deleted key is remembered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Writer<'w> {
    pub(crate) statements: &'w Statements,
    pub(crate) subscription: &'w str,
    pub(crate) epoch: i64,
    pub(crate) remembers: bool,
    pub(crate) now_us: i64,
}

type Upsert<'b, 'a> = (&'b Row<'a>, Version);

impl Writer<'_> {
    /// Applies the changes; says whether it deleted, and so remembers, a key.
    pub(crate) async fn apply(&self, connection: &mut SqliteConnection, changes: &[&Change<'_>]) -> Result<bool, SinkError> {
        let mut upserts = Vec::with_capacity(changes.len());
        let mut remembered = false;
        for change in changes {
            match &change.what {
                What::Upsert(row) => upserts.push((row, change.version)),
                What::Delete(key) => remembered |= self.delete(connection, key, change.version).await?,
            }
        }
        if self.remembers {
            upserts = self.without_deleted(connection, &upserts).await?;
        }
        let mut rest = upserts.as_slice();
        for (rows, sql) in STATEMENT_ROWS.into_iter().zip(&self.statements.upserts) {
            while let Some((chunk, more)) = rest.split_at_checked(rows) {
                self.upsert(connection, sql, chunk).await?;
                rest = more;
            }
        }
        Ok(remembered)
    }

    async fn upsert(&self, connection: &mut SqliteConnection, sql: &str, rows: &[Upsert<'_, '_>]) -> Result<(), SinkError> {
        let mut arguments = SqliteArguments::default();
        for (row, version) in rows {
            if row.key.clear.is_empty() {
                add(&mut arguments, row.key.id.clone())?;
            }
            row.cells.iter().try_for_each(|cell| add_cell(&mut arguments, cell))?;
            add(&mut arguments, version.to_bytes().to_vec())?;
            add(&mut arguments, self.epoch)?;
        }
        sqlx::query_with(AssertSqlSafe(sql), arguments).execute(connection).await.map_err(sink_error)?;
        Ok(())
    }

    /// Deletes the row if it is held and older, and keeps the version of its key.
    async fn delete(&self, connection: &mut SqliteConnection, key: &RowKey<'_>, version: Version) -> Result<bool, SinkError> {
        let mut arguments = self.deletion(key, version)?;
        add(&mut arguments, self.subscription.to_owned())?;
        add(&mut arguments, key.id.clone())?;
        add(&mut arguments, self.now_us)?;
        let remember = sqlx::query_with(AssertSqlSafe(self.statements.remember.as_str()), arguments);
        if remember.execute(&mut *connection).await.map_err(sink_error)?.rows_affected() == 0 {
            return Ok(false);
        }
        let delete = sqlx::query_with(AssertSqlSafe(self.statements.delete.as_str()), self.deletion(key, version)?);
        delete.execute(connection).await.map_err(sink_error)?;
        Ok(true)
    }

    fn deletion(&self, key: &RowKey<'_>, version: Version) -> Result<SqliteArguments, SinkError> {
        let mut arguments = SqliteArguments::default();
        add(&mut arguments, version.to_bytes().to_vec())?;
        add(&mut arguments, self.epoch)?;
        if key.clear.is_empty() {
            add(&mut arguments, key.id.clone())?;
        }
        key.clear.iter().try_for_each(|cell| add_cell(&mut arguments, cell))?;
        Ok(arguments)
    }

    /// Leaves out upserts that are no newer than their key's deletion, and forgets the deletions that are older.
    async fn without_deleted<'b, 'a>(
        &self,
        connection: &mut SqliteConnection,
        upserts: &[Upsert<'b, 'a>],
    ) -> Result<Vec<Upsert<'b, 'a>>, SinkError> {
        let mut kept = Vec::with_capacity(upserts.len());
        for chunk in upserts.chunks(STATEMENT_ROWS[0]) {
            let marks = join((0..chunk.len()).map(|at| format!("${}", at + 2)), ", ");
            let sql =
                format!("SELECT row_key, version, epoch FROM guitong_deleted WHERE subscription = $1 AND row_key IN ({marks})");
            let query = sqlx::query_as::<_, Deleted>(AssertSqlSafe(sql)).bind(self.subscription.to_owned());
            let query = chunk.iter().fold(query, |query, (row, _)| query.bind(row.key.id.clone()));
            let deleted = query.fetch_all(&mut *connection).await.map_err(sink_error)?;
            for &(row, version) in chunk {
                match deleted.iter().find(|(key, ..)| *key == row.key.id) {
                    Some(deleted) if !comes_back(deleted, version, self.epoch) => {}
                    Some(_) => {
                        self.forget(connection, &row.key).await?;
                        kept.push((row, version));
                    }
                    None => kept.push((row, version)),
                }
            }
        }
        Ok(kept)
    }

    async fn forget(&self, connection: &mut SqliteConnection, key: &RowKey<'_>) -> Result<(), SinkError> {
        let forget = sqlx::query("DELETE FROM guitong_deleted WHERE subscription = $1 AND row_key = $2");
        let forget = forget.bind(self.subscription.to_owned()).bind(key.id.clone());
        forget.execute(connection).await.map_err(sink_error)?;
        Ok(())
    }
}

fn add<T>(arguments: &mut SqliteArguments, value: T) -> Result<(), SinkError>
where
    T: for<'q> sqlx::Encode<'q, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    arguments.add(value).map_err(|error| SinkError::new(SinkErrorKind::Data, error.to_string()))
}

fn add_cell(arguments: &mut SqliteArguments, cell: &StandardValue<'_>) -> Result<(), SinkError> {
    match cell {
        StandardValue::Null => add(arguments, None::<i64>),
        StandardValue::Int(number) => add(arguments, *number),
        StandardValue::Text(text) => add(arguments, text.to_string()),
        StandardValue::TextList(items) => add(arguments, crate::json::texts(items).to_string()),
        StandardValue::Steps(steps) => add(arguments, crate::json::steps(steps).to_string()),
        value @ (StandardValue::Date(_) | StandardValue::Time(_) | StandardValue::Decimal { .. }) => {
            add(arguments, value.to_string())
        }
    }
}
