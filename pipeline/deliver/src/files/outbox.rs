//! The outbox of a subscription's files: changes of the table of rows, in the order in which they were made, until they are in a file.

use std::path::PathBuf;
use std::sync::Arc;

use futures::TryStreamExt as _;
use guitong_govern::ColumnKind;
use guitong_schemas::standard::StandardValue;
use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, FromRow, Row as _, Sqlite, Transaction};

use super::folder::io_error;
use super::form::Noted;
use super::{ROWS, damaged};
use crate::shown;
use crate::sink::{SinkError, SinkPlan};
use crate::sql::layout::{Layout, join, quote};
use crate::sql::sqlite::{SqliteFile, sink_error};
use crate::sql::{fenced, signed, unsigned};

/// `guitong_generation` has one row: under which grant the generation began, and its name. `guitong_files` has a row for each file of
/// the generation: the changes in it, whether everything was there with it, when it was closed, microseconds since
/// 1970-01-01T00:00Z, and whether it and its manifest are in the folder.
const TABLES: &str = "
CREATE TABLE IF NOT EXISTS guitong_generation (
    one INTEGER PRIMARY KEY CHECK (one = 1), grant_fingerprint BLOB NOT NULL, name TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS guitong_files (
    number INTEGER PRIMARY KEY, first INTEGER NOT NULL, last INTEGER NOT NULL, extension TEXT NOT NULL, whole INTEGER NOT NULL,
    closed_us INTEGER NOT NULL, made INTEGER NOT NULL);";

/// The triggers that note changes, and when they fire.
const TRIGGERS: [(&str, &str, &str); 3] =
    [("guitong_on_insert", "INSERT", "NEW"), ("guitong_on_update", "UPDATE", "NEW"), ("guitong_on_delete", "DELETE", "OLD")];

/// What a change takes in a file beside its values.
const OVERHEAD: u32 = 40;

#[derive(Debug)]
pub(super) struct Outbox {
    file: Arc<SqliteFile>,
    state: PathBuf,
    subscription: Arc<str>,
    grant: Vec<u8>,
    layout: Layout,
    /// Name of the generation.
    generation: String,
    pending: Pending,
}

/// What is in no file yet.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pending {
    pub(super) bytes: u64,
    pub(super) oldest: Option<Timestamp>,
    /// The newest change, in a file or not.
    pub(super) last: u64,
    /// The last manifest says that everything is there.
    pub(super) told_whole: bool,
    counted: u64,
}

/// A file that the outbox noted.
#[derive(Debug, Clone)]
pub(super) struct Closing {
    pub(super) number: u64,
    pub(super) generation: String,
    /// Where `last` is smaller there is no file, only a manifest.
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) whole: bool,
    pub(super) name: String,
    extension: String,
    closed_us: i64,
}

impl Closing {
    pub(super) fn manifest(&self) -> String {
        manifest_of(&self.name, &self.extension)
    }

    pub(super) fn extension(&self) -> &str {
        &self.extension
    }

    pub(super) fn closed(&self) -> String {
        StandardValue::Time(self.closed_us).to_string()
    }
}

fn manifest_of(name: &str, extension: &str) -> String {
    let stem = name.strip_suffix(extension).unwrap_or(name);
    format!("{stem}manifest.json")
}

type Tx = Transaction<'static, Sqlite>;

impl Outbox {
    pub(super) fn new(file: Arc<SqliteFile>, state: PathBuf, plan: &SinkPlan) -> Self {
        Self {
            file,
            state,
            subscription: Arc::clone(&plan.subscription),
            grant: plan.grant.to_vec(),
            layout: Layout::new(ROWS, quote, plan),
            generation: String::new(),
            pending: Pending::default(),
        }
    }

    /// Makes the outbox ready for the table of rows to be opened. Under another grant than before nothing is noted until the next
    /// generation begins; says whether that is so.
    pub(super) async fn prepare(&mut self) -> Result<bool, SinkError> {
        // Who takes files away may read the folder that this lies in.
        let made = tokio::fs::DirBuilder::new().mode(0o700).create(&self.state).await;
        if let Err(error) = made
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(io_error(&self.state, &error));
        }
        let mut transaction = self.file.begin().await?;
        run(&mut transaction, TABLES.to_owned()).await?;
        let stored = sqlx::query("SELECT grant_fingerprint, name FROM guitong_generation");
        let stored = stored.fetch_optional(&mut *transaction).await.map_err(sink_error)?;
        let stored = stored.map(|row| Ok((row.try_get::<Vec<u8>, _>(0)?, row.try_get::<String, _>(1)?))).transpose();
        let regranted = match stored.map_err(sink_error)? {
            Some((grant, name)) if grant == self.grant => {
                self.generation = name;
                false
            }
            Some(_) | None => {
                for (trigger, ..) in TRIGGERS {
                    run(&mut transaction, format!("DROP TRIGGER IF EXISTS {trigger}")).await?;
                }
                true
            }
        };
        transaction.commit().await.map_err(sink_error)?;
        Ok(regranted)
    }

    /// Names of everything that the generation may have in the folder.
    pub(super) async fn files(&self) -> Result<Vec<String>, SinkError> {
        let generation = sqlx::query_scalar::<_, String>("SELECT name FROM guitong_generation");
        let Some(generation) = generation.fetch_optional(&self.file.pool).await.map_err(sink_error)? else {
            return Ok(Vec::new());
        };
        let rows = sqlx::query("SELECT number, extension FROM guitong_files ORDER BY number");
        let mut names = Vec::new();
        for row in rows.fetch_all(&self.file.pool).await.map_err(sink_error)? {
            let (number, extension): (i64, String) = FromRow::from_row(&row).map_err(sink_error)?;
            let name = self.name(&generation, unsigned(number), &extension);
            // The manifest first: what it names is not taken without it.
            names.extend([manifest_of(&name, &extension), name]);
        }
        Ok(names)
    }

    /// Forgets what is in no file yet, and notes changes from here on.
    pub(super) async fn begin_generation(&mut self, epoch: u64) -> Result<(), SinkError> {
        let mut transaction = self.file.begin().await?;
        self.held(&mut transaction, epoch).await?;
        let columns = self.values();
        let mut statements = vec![
            // Of rows that are not of this generation no delete is told.
            format!("DELETE FROM {}", self.layout.table),
            "DROP TABLE IF EXISTS guitong_changes".to_owned(),
            "DELETE FROM guitong_files".to_owned(),
            format!(
                "CREATE TABLE guitong_changes (position INTEGER PRIMARY KEY AUTOINCREMENT, deleted INTEGER NOT NULL,
                 at_s INTEGER NOT NULL, bytes INTEGER NOT NULL, {columns})"
            ),
        ];
        statements.extend(TRIGGERS.map(|(name, event, row)| self.trigger(name, event, row, &columns)));
        for statement in statements {
            run(&mut transaction, statement).await?;
        }
        let name = Timestamp::now().strftime("%Y%m%dT%H%M%S%3fZ").to_string();
        let sql = "INSERT INTO guitong_generation (one, grant_fingerprint, name) VALUES (1, $1, $2)
            ON CONFLICT (one) DO UPDATE SET grant_fingerprint = excluded.grant_fingerprint, name = excluded.name";
        let store = sqlx::query(sql).bind(self.grant.clone()).bind(name.clone());
        store.execute(&mut *transaction).await.map_err(sink_error)?;
        transaction.commit().await.map_err(sink_error)?;
        self.generation = name;
        Ok(())
    }

    /// Columns of `guitong_changes` that hold those of rows.
    fn values(&self) -> String {
        join((0..self.columns().len()).map(|at| format!("v{at}")), ", ")
    }

    /// Columns of rows: the key where it is hashed, then what is granted.
    fn columns(&self) -> Vec<&str> {
        let own = |name: &&str| *name != crate::sql::VERSION && *name != crate::sql::EPOCH;
        self.layout.written().into_iter().filter(own).collect()
    }

    fn trigger(&self, name: &str, event: &str, row: &str, columns: &str) -> String {
        let deleted = event == "DELETE";
        let values = self.columns().into_iter().map(|column| match deleted && !self.layout.is_key(column) {
            true => "NULL".to_owned(),
            false => format!("{row}.{}", quote(column)),
        });
        let values: Vec<String> = values.collect();
        let lengths = join(values.iter().map(|value| format!("coalesce(length(CAST({value} AS BLOB)), 0)")), " + ");
        format!(
            "CREATE TRIGGER {name} AFTER {event} ON {} BEGIN
                INSERT INTO guitong_changes (deleted, at_s, bytes, {columns})
                VALUES ({}, CAST(strftime('%s', 'now') AS INTEGER), {OVERHEAD} + {lengths}, {});
             END",
            self.layout.table,
            u8::from(deleted),
            values.join(", ")
        )
    }

    fn name(&self, generation: &str, number: u64, extension: &str) -> String {
        format!("{}_{generation}_{number:06}.{extension}", self.subscription)
    }

    pub(super) fn pending(&self) -> Pending {
        self.pending
    }

    /// What was counted went into a file, or may be another's.
    pub(super) fn count_anew(&mut self) {
        self.pending = Pending::default();
    }

    /// Counts what is in no file yet.
    pub(super) async fn count(&mut self) -> Result<(), SinkError> {
        // The newest position stays known when its change is gone.
        let sql = "SELECT coalesce(sum(bytes), 0), min(at_s),
            coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'guitong_changes'), 0),
            coalesce((SELECT whole FROM guitong_files ORDER BY number DESC LIMIT 1), 0)
            FROM guitong_changes WHERE position > $1";
        let row = sqlx::query(sql).bind(signed(self.pending.counted)).fetch_one(&self.file.pool).await.map_err(sink_error)?;
        let (bytes, oldest, last, told_whole): (i64, Option<i64>, i64, bool) = FromRow::from_row(&row).map_err(sink_error)?;
        let oldest = oldest.map(Timestamp::from_second).transpose().map_err(damaged)?;
        self.pending = Pending {
            bytes: self.pending.bytes + unsigned(bytes),
            oldest: self.pending.oldest.or(oldest),
            last: unsigned(last),
            told_whole,
            counted: unsigned(last),
        };
        Ok(())
    }

    /// The last of the oldest changes that together have so many bytes.
    pub(super) async fn prefix(&self, bytes: u64) -> Result<u64, SinkError> {
        let sql = "SELECT max(position) FROM (SELECT position, bytes, sum(bytes) OVER (ORDER BY position) AS total
            FROM guitong_changes) WHERE total - bytes < $1";
        let last = sqlx::query_scalar::<_, Option<i64>>(sql).bind(signed(bytes));
        let last = last.fetch_one(&self.file.pool).await.map_err(sink_error)?;
        last.map(unsigned).ok_or_else(|| damaged("changes were counted that are not there"))
    }

    /// What the manifest of the next file is going to be called.
    pub(super) async fn next_manifest(&self) -> Result<String, SinkError> {
        let number = sqlx::query_scalar::<_, i64>("SELECT coalesce(max(number), 0) + 1 FROM guitong_files");
        let number = number.fetch_one(&self.file.pool).await.map_err(sink_error)?;
        Ok(manifest_of(&self.name(&self.generation, unsigned(number), ""), ""))
    }

    /// Notes that the changes up to `last` are a file.
    pub(super) async fn close(&mut self, epoch: u64, last: u64, settled: bool, extension: &str) -> Result<Closing, SinkError> {
        let mut transaction = self.file.begin().await?;
        self.held(&mut transaction, epoch).await?;
        let first = sqlx::query_scalar::<_, Option<i64>>("SELECT min(position) FROM guitong_changes");
        let first = first.fetch_one(&mut *transaction).await.map_err(sink_error)?;
        let first = first.map_or(last + 1, unsigned);
        let whole = settled && last == self.pending.last;
        let sql = "INSERT INTO guitong_files (number, first, last, extension, whole, closed_us, made)
            VALUES ((SELECT coalesce(max(number), 0) + 1 FROM guitong_files), $1, $2, $3, $4, $5, 0)";
        let note = sqlx::query(sql).bind(signed(first)).bind(signed(last)).bind(extension.to_owned());
        let note = note.bind(whole).bind(Timestamp::now().as_microsecond());
        note.execute(&mut *transaction).await.map_err(sink_error)?;
        transaction.commit().await.map_err(sink_error)?;
        self.unfinished().await?.ok_or_else(|| damaged("a file that was noted is not there"))
    }

    /// The file that was noted and is not known to be in the folder.
    pub(super) async fn unfinished(&self) -> Result<Option<Closing>, SinkError> {
        let sql =
            "SELECT number, first, last, extension, whole, closed_us FROM guitong_files WHERE made = 0 ORDER BY number LIMIT 1";
        let Some(row) = sqlx::query(sql).fetch_optional(&self.file.pool).await.map_err(sink_error)? else { return Ok(None) };
        let (number, first, last, extension, whole, closed_us): (i64, i64, i64, String, bool, i64) =
            FromRow::from_row(&row).map_err(sink_error)?;
        let name = self.name(&self.generation, unsigned(number), &extension);
        let (number, first, last) = (unsigned(number), unsigned(first), unsigned(last));
        Ok(Some(Closing { number, generation: self.generation.clone(), first, last, whole, name, extension, closed_us }))
    }

    /// Gives a noted file another extension: the sink's format changed meanwhile.
    pub(super) async fn rename(&self, epoch: u64, closing: &Closing, extension: &str) -> Result<(), SinkError> {
        let mut transaction = self.file.begin().await?;
        self.held(&mut transaction, epoch).await?;
        let rename = sqlx::query("UPDATE guitong_files SET extension = $1 WHERE number = $2");
        let rename = rename.bind(extension.to_owned()).bind(signed(closing.number));
        rename.execute(&mut *transaction).await.map_err(sink_error)?;
        transaction.commit().await.map_err(sink_error)
    }

    /// Changes behind `after` and up to `last`: as many as come to `most` bytes, one at least where there is any.
    pub(super) async fn changes(&self, after: u64, last: u64, most: usize) -> Result<Vec<Noted>, SinkError> {
        // By name: the connection keeps prepared statements, and another grant makes the table anew.
        let sql = format!(
            "SELECT position, deleted, at_s, bytes, {} FROM guitong_changes WHERE position > $1 AND position <= $2 ORDER BY position",
            self.values()
        );
        let mut rows = sqlx::query(AssertSqlSafe(sql)).bind(signed(after)).bind(signed(last)).fetch(&self.file.pool);
        let (mut page, mut bytes) = (Vec::new(), 0);
        while bytes < most as u64
            && let Some(row) = rows.try_next().await.map_err(sink_error)?
        {
            bytes += unsigned(row.try_get(BYTES).map_err(sink_error)?);
            page.push(self.noted(&row)?);
        }
        Ok(page)
    }

    fn noted(&self, row: &SqliteRow) -> Result<Noted, SinkError> {
        let position: i64 = row.try_get(0).map_err(sink_error)?;
        let deleted = row.try_get(1).map_err(sink_error)?;
        let own = usize::from(self.layout.hashed);
        let key = self.layout.hashed.then(|| row.try_get::<Vec<u8>, _>(FIXED).map_err(sink_error)).transpose()?;
        let cell = |(at, column): (usize, &guitong_govern::Column)| cell(row, FIXED + own + at, column.kind);
        let cells = self.layout.columns.iter().enumerate().map(cell).collect::<Result<_, _>>()?;
        Ok(Noted { position: unsigned(position), deleted, key, cells })
    }

    /// The file and its manifest are there: what is in it is forgotten.
    pub(super) async fn finish(&self, epoch: u64, closing: &Closing) -> Result<(), SinkError> {
        let mut transaction = self.file.begin().await?;
        self.held(&mut transaction, epoch).await?;
        let forget = sqlx::query("DELETE FROM guitong_changes WHERE position <= $1").bind(signed(closing.last));
        forget.execute(&mut *transaction).await.map_err(sink_error)?;
        let made = sqlx::query("UPDATE guitong_files SET made = 1 WHERE number = $1").bind(signed(closing.number));
        made.execute(&mut *transaction).await.map_err(sink_error)?;
        transaction.commit().await.map_err(sink_error)
    }

    /// Whether this holder still has the subscription.
    pub(super) async fn holds(&self, epoch: u64) -> Result<(), SinkError> {
        let mut transaction = self.file.begin().await?;
        self.held(&mut transaction, epoch).await
    }

    async fn held(&self, transaction: &mut Tx, epoch: u64) -> Result<(), SinkError> {
        let stored = sqlx::query_scalar::<_, i64>("SELECT epoch FROM guitong_subscriptions WHERE subscription = $1");
        let stored = stored.bind(self.subscription.to_string()).fetch_optional(&mut **transaction).await.map_err(sink_error)?;
        if stored.map(unsigned) == Some(epoch) { Ok(()) } else { Err(fenced(&self.subscription)) }
    }
}

/// Columns of `guitong_changes` before the values, and the one of them that says how many bytes these have.
const FIXED: usize = 4;
const BYTES: usize = 3;

fn cell(row: &SqliteRow, at: usize, kind: ColumnKind) -> Result<StandardValue<'static>, SinkError> {
    if let ColumnKind::Int = kind {
        let number: Option<i64> = row.try_get(at).map_err(sink_error)?;
        return Ok(number.map_or(StandardValue::Null, StandardValue::Int));
    }
    let Some(text): Option<&str> = row.try_get(at).map_err(sink_error)? else { return Ok(StandardValue::Null) };
    shown::value(text, kind).ok_or_else(|| damaged("a value is not of its column's kind"))
}

async fn run(transaction: &mut Tx, sql: String) -> Result<(), SinkError> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut **transaction).await.map_err(sink_error)?;
    Ok(())
}
