//! A batch's changes, in the transaction that is open.

use guitong_govern::{Row, RowKey};
use guitong_schemas::contract::sink_table::DELETED_AT;
use guitong_schemas::position::Version;
use guitong_schemas::standard::StandardValue;
use sqlx::mysql::MySqlArguments;
use sqlx::{Arguments as _, AssertSqlSafe, MySqlConnection};

use super::errors::sink_error;
use crate::sink::{Change, SinkError, SinkErrorKind, What};
use crate::sql::foreign::Foreign;
use crate::sql::kept::{self, Dialect, Fed, History};
use crate::sql::layout::{Layout, join, quote};
use crate::sql::stored::{Deleted, comes_back};
use crate::sql::{EPOCH, KEY, VERSION};

/// Rows of one statement; the rest of a batch goes in smaller ones, so that few statements are prepared.
const STATEMENT_ROWS: [usize; 4] = [512, 64, 8, 1];
/// Parameters that one statement may have (protocol: a count of two bytes).
const PARAMETERS: usize = u16::MAX as usize;
/// Keys of one statement that deletes.
const KEYS: usize = 64;

/// Statements of one layout.
#[derive(Debug)]
pub(crate) struct Statements {
    /// Rows and the statement that upserts so many, the largest first.
    upserts: Vec<(usize, String)>,
    deletes: Deletes,
    history: Option<History>,
    /// One row of a feed.
    fed: String,
    /// Of a table that is the department's own; and one row of the feed of what is written there.
    foreign: Option<(Foreign, String)>,
}

#[derive(Debug)]
enum Deletes {
    Hard { remember: Repeated, delete: Repeated },
    Soft(Vec<Fed>),
}

/// A statement for any number of keys.
#[derive(Debug)]
struct Repeated {
    before: String,
    one: String,
    between: &'static str,
    after: &'static str,
}

impl Repeated {
    fn times(&self, count: usize) -> String {
        let all = vec![self.one.as_str(); count].join(self.between);
        format!("{}{all}{}", self.before, self.after)
    }
}

impl Statements {
    pub(crate) fn new(layout: &Layout) -> Self {
        let versioned = layout.versioned();
        let width = versioned.written().len();
        let row = format!("({})", vec!["?"; width].join(", "));
        let fits = STATEMENT_ROWS.into_iter().filter(|rows| rows * width <= PARAMETERS);
        let upsert = |rows: usize| {
            let values = vec![row.as_str(); rows].join(", ");
            format!(
                "INSERT INTO {} ({}) VALUES {values} ON DUPLICATE KEY UPDATE {}",
                versioned.table,
                versioned.quoted_written(),
                assignments(&versioned)
            )
        };
        let key = join(layout.key.iter().map(|name| format!("{} = ?", quote(name))), " AND ");
        let held = format!("({key} AND ({VERSION}, {EPOCH}) < (?, ?))");
        let hard = || Deletes::Hard {
            remember: Repeated {
                before: "INSERT INTO guitong_deleted (subscription, row_key, version, epoch, deleted_us) ".to_owned(),
                one: format!("SELECT ?, ?, ?, ?, ? FROM {} WHERE {held}", versioned.table),
                between: " UNION ALL ",
                after: " ON DUPLICATE KEY UPDATE version = VALUES(version), epoch = VALUES(epoch), deleted_us = VALUES(deleted_us)",
            },
            delete: Repeated {
                before: format!("DELETE FROM {} WHERE ", versioned.table),
                one: held.clone(),
                between: " OR ",
                after: "",
            },
        };
        Self {
            upserts: fits.map(|rows| (rows, upsert(rows))).collect(),
            deletes: if layout.soft { Deletes::Soft(kept::soft_deletes(Dialect::Mysql, layout)) } else { hard() },
            history: layout.history.then(|| History::new(Dialect::Mysql, layout)),
            fed: fed(layout),
            foreign: layout.foreign.then(|| (Foreign::new(Dialect::Mysql, layout), fed_row(layout))),
        }
    }
}

/// A parameter in a list of columns has no type of its own there.
fn fed(layout: &Layout) -> String {
    let key = if layout.hashed { "BINARY" } else { "CHAR" };
    let key = join((0..layout.key.len()).map(|at| format!("CAST(? AS {key}) AS k{at}, ")), "");
    format!(
        "SELECT {key}CAST(? AS BINARY) AS v, CAST(? AS SIGNED) AS e, CAST(? AS DATETIME(6)) AS at, CAST(? AS SIGNED) AS below"
    )
}

/// Dates, numbers and JSON are texts until they are in their columns.
fn fed_row(layout: &Layout) -> String {
    let cast = |name: &str| match name {
        KEY | VERSION => "BINARY",
        EPOCH => "SIGNED",
        _ => "CHAR",
    };
    let columns = layout.written().into_iter().map(|name| format!("CAST(? AS {}) AS {}", cast(name), quote(name)));
    format!("SELECT {}", join(columns, ", "))
}

/// Every column that is not the key's takes the new value if what is held is older; a row that somebody else put there has no
/// version and is taken over. The server assigns from left to right and later conditions see what was assigned, so the epoch and then
/// the version come last: with the epoch alone changed, the version's condition still answers the same or changes nothing.
fn assignments(layout: &Layout) -> String {
    let older = format!("{VERSION} IS NULL OR ({VERSION}, {EPOCH}) < (VALUES({VERSION}), VALUES({EPOCH}))");
    let others = layout.columns.iter().map(|column| column.name.as_str()).filter(|name| !layout.is_key(name));
    let there = layout.soft.then(|| format!("{0} = IF({older}, NULL, {0})", quote(DELETED_AT)));
    let written = others.chain([EPOCH, VERSION]).map(|name| format!("{0} = IF({older}, VALUES({0}), {0})", quote(name)));
    join(there.into_iter().chain(written), ", ")
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
    /// Bytes that the server takes in one packet.
    pub(crate) packet: usize,
}

type Upsert<'b, 'a> = (&'b Row<'a>, Version);

impl Writer<'_> {
    /// Applies the changes; says whether it deleted, and so remembers, a key.
    pub(crate) async fn apply(&self, connection: &mut MySqlConnection, changes: &[&Change<'_>]) -> Result<bool, SinkError> {
        let (mut upserts, mut deletions) = (Vec::with_capacity(changes.len()), Vec::new());
        for change in changes {
            match &change.what {
                What::Upsert(row) => upserts.push((row, change.version)),
                What::Delete(..) => deletions.push(*change),
            }
        }
        let mut remembered = false;
        for chunk in deletions.chunks(KEYS) {
            match &self.statements.deletes {
                Deletes::Hard { remember, delete } => {
                    if let Some((foreign, _)) = &self.statements.foreign {
                        self.feed(connection, &foreign.take, chunk).await?;
                    }
                    remembered |= self.delete(connection, remember, delete, chunk).await?;
                }
                Deletes::Soft(statements) => {
                    for statement in statements {
                        self.feed(connection, statement, chunk).await?;
                    }
                }
            }
        }
        if self.remembers {
            upserts = self.without_deleted(connection, &upserts).await?;
        }
        let mut rest = upserts.as_slice();
        for (rows, sql) in &self.statements.upserts {
            while let Some((chunk, more)) = rest.split_at_checked(*rows) {
                self.upsert(connection, sql, chunk).await?;
                rest = more;
            }
        }
        if let Some((foreign, row)) = &self.statements.foreign {
            for chunk in upserts.chunks(KEYS) {
                let sql = foreign.put.on(&vec![row.as_str(); chunk.len()].join(" UNION ALL "));
                self.execute(connection, sql, self.rows(chunk)?).await?;
            }
        }
        if let Some(history) = &self.statements.history {
            for chunk in changes.chunks(KEYS) {
                let leave = chunk.iter().any(|change| kept::takes_history(change)).then_some(&history.leave);
                for statement in leave.into_iter().chain(&history.follow) {
                    self.feed(connection, statement, chunk).await?;
                }
            }
        }
        Ok(remembered)
    }

    /// Executes a statement on changes.
    async fn feed(&self, connection: &mut MySqlConnection, statement: &Fed, changes: &[&Change<'_>]) -> Result<(), SinkError> {
        let mut bound = Bound::default();
        for change in changes {
            bound.key(change.key())?;
            bound.bytes(&change.version.to_bytes())?;
            bound.long(self.epoch)?;
            bound.cell(&StandardValue::Time(change.source_us))?;
            bound.long(kept::below(change, self.sweep_epoch))?;
        }
        let feed = vec![self.statements.fed.as_str(); changes.len()].join(" UNION ALL ");
        self.execute(connection, statement.on(&feed), bound).await?;
        Ok(())
    }

    async fn upsert(&self, connection: &mut MySqlConnection, sql: &str, rows: &[Upsert<'_, '_>]) -> Result<(), SinkError> {
        let bound = if self.statements.foreign.is_some() { self.versions(rows)? } else { self.rows(rows)? };
        self.execute(connection, sql.to_owned(), bound).await?;
        Ok(())
    }

    /// In the order of [`Layout::written`].
    fn rows(&self, rows: &[Upsert<'_, '_>]) -> Result<Bound, SinkError> {
        let mut bound = Bound::default();
        for (row, version) in rows {
            if row.key.clear.is_empty() {
                bound.bytes(&row.key.id)?;
            }
            row.cells.iter().try_for_each(|cell| bound.cell(cell))?;
            bound.bytes(&version.to_bytes())?;
            bound.long(self.epoch)?;
        }
        Ok(bound)
    }

    /// In that of [`Layout::versions`].
    fn versions(&self, rows: &[Upsert<'_, '_>]) -> Result<Bound, SinkError> {
        let mut bound = Bound::default();
        for (row, version) in rows {
            bound.key(&row.key)?;
            bound.bytes(&version.to_bytes())?;
            bound.long(self.epoch)?;
        }
        Ok(bound)
    }

    /// Deletes the rows that are held and older, and keeps the versions of their keys.
    async fn delete(
        &self,
        connection: &mut MySqlConnection,
        remember: &Repeated,
        delete: &Repeated,
        deletions: &[&Change<'_>],
    ) -> Result<bool, SinkError> {
        let (mut remembered, mut deleted) = (Bound::default(), Bound::default());
        for change in deletions {
            let (key, version) = (change.key(), change.version.to_bytes());
            remembered.text(self.subscription)?;
            remembered.bytes(&key.id)?;
            remembered.bytes(&version)?;
            remembered.long(self.epoch)?;
            remembered.long(self.now_us)?;
            for bound in [&mut remembered, &mut deleted] {
                bound.key(key)?;
                bound.bytes(&version)?;
                bound.long(self.epoch)?;
            }
        }
        if self.execute(connection, remember.times(deletions.len()), remembered).await? == 0 {
            return Ok(false);
        }
        self.execute(connection, delete.times(deletions.len()), deleted).await?;
        Ok(true)
    }

    /// Leaves out upserts that are no newer than their key's deletion, and forgets the deletions that are older.
    async fn without_deleted<'b, 'a>(
        &self,
        connection: &mut MySqlConnection,
        upserts: &[Upsert<'b, 'a>],
    ) -> Result<Vec<Upsert<'b, 'a>>, SinkError> {
        let mut kept = Vec::with_capacity(upserts.len());
        for chunk in upserts.chunks(KEYS) {
            let marks = vec!["?"; chunk.len()].join(", ");
            let sql =
                format!("SELECT row_key, version, epoch FROM guitong_deleted WHERE subscription = ? AND row_key IN ({marks})");
            let query = sqlx::query_as::<_, Deleted>(AssertSqlSafe(sql)).bind(self.subscription);
            let query = chunk.iter().fold(query, |query, (row, _)| query.bind(row.key.id.as_slice()));
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

    async fn forget(&self, connection: &mut MySqlConnection, key: &RowKey<'_>) -> Result<(), SinkError> {
        let forget = sqlx::query("DELETE FROM guitong_deleted WHERE subscription = ? AND row_key = ?");
        forget.bind(self.subscription).bind(key.id.as_slice()).execute(connection).await.map_err(sink_error)?;
        Ok(())
    }

    async fn execute(&self, connection: &mut MySqlConnection, sql: String, bound: Bound) -> Result<u64, SinkError> {
        // A server ends a connection that sends more than it takes: it would look like one that is not reachable.
        if bound.size > self.packet {
            let detail = format!("{} bytes at once are more than the server's max_allowed_packet, {}", bound.size, self.packet);
            return Err(SinkError::new(SinkErrorKind::Data, detail));
        }
        let done = sqlx::query_with(AssertSqlSafe(sql), bound.arguments).execute(connection).await.map_err(sink_error)?;
        Ok(done.rows_affected())
    }
}

/// A statement's parameters.
#[derive(Default)]
struct Bound {
    arguments: MySqlArguments,
    /// Bytes that they take in the packet, at most.
    size: usize,
}

/// What a parameter takes besides its bytes: its type, its length, its bit of the nulls.
const PARAMETER: usize = 12;

impl Bound {
    fn add<'q, T>(&mut self, value: T, size: usize) -> Result<(), SinkError>
    where
        T: sqlx::Encode<'q, sqlx::MySql> + sqlx::Type<sqlx::MySql>,
    {
        self.size += size + PARAMETER;
        self.arguments.add(value).map_err(|error| SinkError::new(SinkErrorKind::Data, error.to_string()))
    }

    fn long(&mut self, value: i64) -> Result<(), SinkError> {
        self.add(value, size_of::<i64>())
    }

    fn bytes(&mut self, value: &[u8]) -> Result<(), SinkError> {
        self.add(value, value.len())
    }

    fn text(&mut self, value: &str) -> Result<(), SinkError> {
        self.add(value, value.len())
    }

    fn key(&mut self, key: &RowKey<'_>) -> Result<(), SinkError> {
        if key.clear.is_empty() {
            self.bytes(&key.id)?;
        }
        key.clear.iter().try_for_each(|cell| self.cell(cell))
    }

    fn cell(&mut self, cell: &StandardValue<'_>) -> Result<(), SinkError> {
        match cell {
            StandardValue::Null => self.add(None::<i64>, 0),
            StandardValue::Int(number) => self.long(*number),
            StandardValue::Text(text) => self.text(text),
            StandardValue::TextList(items) => self.text(&crate::json::texts(items).to_string()),
            StandardValue::Steps(steps) => self.text(&crate::json::steps(steps).to_string()),
            value @ (StandardValue::Date(_) | StandardValue::Decimal { .. }) => self.text(&value.to_string()),
            value @ StandardValue::Time(_) => self.text(&text_of_time(value)),
        }
    }
}

/// An instant at +08:00 as it is shown everywhere; the session's clock is that one too.
pub(super) fn text_of_time(value: &StandardValue<'_>) -> String {
    value.to_string().replace('T', " ").trim_end_matches("+08:00").to_owned()
}
