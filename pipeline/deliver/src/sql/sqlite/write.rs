//! A batch's changes, in the transaction that is open.

use guitong_govern::{Row, RowKey};
use guitong_schemas::position::Version;
use guitong_schemas::standard::StandardValue;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments as _, AssertSqlSafe, SqliteConnection};

use super::errors::sink_error;
use crate::sink::{Change, SinkError, SinkErrorKind, What};
use crate::sql::foreign::Foreign;
use crate::sql::kept::{self, Dialect, Fed, History};
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
    deletes: Deletes,
    history: Option<History>,
    /// One row of a feed.
    fed: String,
    /// Of a table that is the department's own; and one row of the feed of what is written there.
    foreign: Option<(Foreign, String)>,
}

#[derive(Debug)]
enum Deletes {
    Hard { remember: String, delete: String },
    Soft(Vec<Fed>),
}

impl Statements {
    pub(crate) fn new(layout: &Layout) -> Self {
        let versioned = layout.versioned();
        let one = format!("({})", vec!["?"; versioned.written().len()].join(", "));
        let upserts = STATEMENT_ROWS.map(|rows| {
            format!(
                "INSERT INTO {} AS t ({}) VALUES {} ON CONFLICT ({}) DO UPDATE SET {} WHERE {}",
                versioned.table,
                versioned.quoted_written(),
                vec![one.as_str(); rows].join(", "),
                versioned.quoted_key(),
                versioned.assignments("excluded"),
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
            versioned.table
        );
        let hard = || Deletes::Hard { remember, delete: format!("DELETE FROM {} WHERE {key} AND {held}", versioned.table) };
        let row = join(layout.written().into_iter().map(|name| format!("? AS {}", quote(name))), ", ");
        let fed_key = join((0..layout.key.len()).map(|at| format!("? AS k{at}, ")), "");
        Self {
            upserts,
            deletes: if layout.soft { Deletes::Soft(kept::soft_deletes(Dialect::Sqlite, layout)) } else { hard() },
            history: layout.history.then(|| History::new(Dialect::Sqlite, layout)),
            fed: format!("SELECT {fed_key}? AS v, ? AS e, ? AS at, ? AS below"),
            foreign: layout.foreign.then(|| (Foreign::new(Dialect::Sqlite, layout), format!("SELECT {row}"))),
        }
    }
}

/// Who writes, and whether any deleted key is remembered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Writer<'w> {
    pub(crate) statements: &'w Statements,
    pub(crate) subscription: &'w str,
    pub(crate) epoch: i64,
    /// Of the refill under way.
    pub(crate) sweep_epoch: Option<i64>,
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
            match (&change.what, &self.statements.deletes) {
                (What::Upsert(row), _) => upserts.push((row, change.version)),
                (What::Delete(key, _), Deletes::Hard { remember, delete }) => {
                    if let Some((foreign, _)) = &self.statements.foreign {
                        self.feed(connection, &foreign.take, &[change]).await?;
                    }
                    remembered |= self.delete(connection, remember, delete, key, change.version).await?;
                }
                (What::Delete(..), Deletes::Soft(statements)) => {
                    for statement in statements {
                        self.feed(connection, statement, &[change]).await?;
                    }
                }
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
        if let Some((foreign, row)) = &self.statements.foreign {
            for chunk in upserts.chunks(STATEMENT_ROWS[0]) {
                let sql = foreign.put.on(&vec![row.as_str(); chunk.len()].join(" UNION ALL "));
                self.execute(connection, &sql, self.rows(chunk)?).await?;
            }
        }
        if let Some(history) = &self.statements.history {
            for chunk in changes.chunks(STATEMENT_ROWS[0]) {
                if chunk.iter().any(|change| kept::takes_history(change)) {
                    self.feed(connection, &history.leave, chunk).await?;
                }
                for statement in &history.follow {
                    self.feed(connection, statement, chunk).await?;
                }
            }
        }
        Ok(remembered)
    }

    /// Executes a statement on changes.
    async fn feed(&self, connection: &mut SqliteConnection, statement: &Fed, changes: &[&Change<'_>]) -> Result<(), SinkError> {
        let mut arguments = SqliteArguments::default();
        for change in changes {
            add_key(&mut arguments, change.key())?;
            add(&mut arguments, change.version.to_bytes().to_vec())?;
            add(&mut arguments, self.epoch)?;
            add_cell(&mut arguments, &StandardValue::Time(change.source_us))?;
            add(&mut arguments, kept::below(change, self.sweep_epoch))?;
        }
        let sql = statement.on(&vec![self.statements.fed.as_str(); changes.len()].join(" UNION ALL "));
        self.execute(connection, &sql, arguments).await
    }

    async fn upsert(&self, connection: &mut SqliteConnection, sql: &str, rows: &[Upsert<'_, '_>]) -> Result<(), SinkError> {
        let arguments = if self.statements.foreign.is_some() { self.versions(rows)? } else { self.rows(rows)? };
        self.execute(connection, sql, arguments).await
    }

    async fn execute(&self, connection: &mut SqliteConnection, sql: &str, arguments: SqliteArguments) -> Result<(), SinkError> {
        sqlx::query_with(AssertSqlSafe(sql), arguments).execute(connection).await.map(drop).map_err(sink_error)
    }

    /// In the order of [`Layout::written`].
    fn rows(&self, rows: &[Upsert<'_, '_>]) -> Result<SqliteArguments, SinkError> {
        let mut arguments = SqliteArguments::default();
        for (row, version) in rows {
            if row.key.clear.is_empty() {
                add(&mut arguments, row.key.id.clone())?;
            }
            row.cells.iter().try_for_each(|cell| add_cell(&mut arguments, cell))?;
            add(&mut arguments, version.to_bytes().to_vec())?;
            add(&mut arguments, self.epoch)?;
        }
        Ok(arguments)
    }

    /// In that of [`Layout::versions`].
    fn versions(&self, rows: &[Upsert<'_, '_>]) -> Result<SqliteArguments, SinkError> {
        let mut arguments = SqliteArguments::default();
        for (row, version) in rows {
            add_key(&mut arguments, &row.key)?;
            add(&mut arguments, version.to_bytes().to_vec())?;
            add(&mut arguments, self.epoch)?;
        }
        Ok(arguments)
    }

    /// Deletes the row if it is held and older, and keeps the version of its key.
    async fn delete(
        &self,
        connection: &mut SqliteConnection,
        remember: &str,
        delete: &str,
        key: &RowKey<'_>,
        version: Version,
    ) -> Result<bool, SinkError> {
        let mut arguments = self.deletion(key, version)?;
        add(&mut arguments, self.subscription.to_owned())?;
        add(&mut arguments, key.id.clone())?;
        add(&mut arguments, self.now_us)?;
        let remember = sqlx::query_with(AssertSqlSafe(remember), arguments);
        if remember.execute(&mut *connection).await.map_err(sink_error)?.rows_affected() == 0 {
            return Ok(false);
        }
        let delete = sqlx::query_with(AssertSqlSafe(delete), self.deletion(key, version)?);
        delete.execute(connection).await.map_err(sink_error)?;
        Ok(true)
    }

    fn deletion(&self, key: &RowKey<'_>, version: Version) -> Result<SqliteArguments, SinkError> {
        let mut arguments = SqliteArguments::default();
        add(&mut arguments, version.to_bytes().to_vec())?;
        add(&mut arguments, self.epoch)?;
        add_key(&mut arguments, key)?;
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

fn add_key(arguments: &mut SqliteArguments, key: &RowKey<'_>) -> Result<(), SinkError> {
    if key.clear.is_empty() {
        add(arguments, key.id.clone())?;
    }
    key.clear.iter().try_for_each(|cell| add_cell(arguments, cell))
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
