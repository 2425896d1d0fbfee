//! The write side: the table of an outbox, its triggers, its terms, and what is let go.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use guitong_govern::ColumnKind;
use sqlx::{AssertSqlSafe, SqliteConnection};
use tokio::sync::watch;

use super::{OutboxFile, micros_now};
use crate::sink::SinkError;
use crate::sql::layout::{Layout, join, quote};
use crate::sql::sqlite::sink_error;
use crate::sql::{KEY, VERSION};

/// Changes that are kept at most, however young.
const MOST_CHANGES: i64 = 10_000_000;
/// Between two times that old changes are let go.
const TRIM_EVERY: Duration = Duration::from_secs(60);
/// Terms that a cursor may be of.
const MOST_TERMS: i64 = 1_000;

/// Columns of a table of changes. A position is never given again.
const CHANGES: &str = "(position INTEGER PRIMARY KEY AUTOINCREMENT, at_us INTEGER NOT NULL, key TEXT NOT NULL, record TEXT)";

/// Position of the newest change, kept also when it is let go; `$2` is the table's name.
pub(super) const LAST: &str = "COALESCE((SELECT seq FROM sqlite_sequence WHERE name = $2), 0)";

/// One subscription's outbox, as its sink writes it.
#[derive(Debug)]
pub(crate) struct Outbox {
    pub(super) file: Arc<OutboxFile>,
    subscription: Arc<str>,
    keep: Duration,
    bell: watch::Sender<()>,
    trimmed: Mutex<Option<Instant>>,
}

impl Outbox {
    pub(crate) fn new(file: Arc<OutboxFile>, subscription: Arc<str>, keep: Duration) -> Self {
        let bell = file.bell(&subscription);
        Self { file, subscription, keep, bell, trimmed: Mutex::default() }
    }

    /// Name of the table of the subscription's rows.
    pub(crate) fn rows(&self) -> String {
        rows_of(&self.subscription)
    }

    /// Tells whoever waits for changes.
    pub(crate) fn ring(&self) {
        self.bell.send_replace(());
    }

    pub(crate) async fn make(&self) -> Result<(), SinkError> {
        self.file.make().await
    }

    /// Takes the triggers away: the table is about to be altered, and its columns are named in them.
    pub(crate) async fn detach(&self, connection: &mut SqliteConnection) -> Result<(), SinkError> {
        let drops = ["insert", "update", "delete"].map(|on| format!("DROP TRIGGER IF EXISTS {};", self.trigger(on)));
        execute(connection, drops.concat()).await
    }

    /// Has every change of the table noted from here on, and begins a term. `anew`: what was written before is of another grant and
    /// goes, so that every row that the new one grants is a change.
    pub(crate) async fn attach(&self, connection: &mut SqliteConnection, layout: &Layout, anew: bool) -> Result<(), SinkError> {
        let (rows, changes) = (&layout.table, quote(&changes_of(&self.subscription)));
        execute(connection, format!("CREATE TABLE IF NOT EXISTS {changes} {CHANGES}")).await?;
        if anew {
            execute(connection, format!("DELETE FROM {rows}; DELETE FROM {changes}")).await?;
            let sql = format!(
                "DELETE FROM guitong_terms WHERE subscription = $1;
                 INSERT INTO guitong_outboxes (subscription, whole, first) VALUES ($1, 0, {LAST} + 1)
                 ON CONFLICT (subscription) DO UPDATE SET whole = 0, first = excluded.first, acknowledged = NULL"
            );
            self.run(connection, sql, "").await?;
        }
        execute(connection, self.triggers(layout)).await?;
        let sql = format!(
            "INSERT INTO guitong_terms (subscription, term, first) VALUES ($1, $3, {LAST} + 1);
             DELETE FROM guitong_terms WHERE subscription = $1 AND id <= (SELECT id FROM guitong_terms
                 WHERE subscription = $1 ORDER BY id DESC LIMIT 1 OFFSET {MOST_TERMS})"
        );
        self.run(connection, sql, &hex::encode(rand::random::<[u8; 8]>())).await
    }

    /// Everything that is granted was met.
    pub(crate) async fn swept(&self, connection: &mut SqliteConnection) -> Result<(), SinkError> {
        self.run(connection, "UPDATE guitong_outboxes SET whole = 1 WHERE subscription = $1".to_owned(), "").await
    }

    /// Lets go, now and then, of changes that are too old or too many.
    pub(crate) async fn trim(&self, connection: &mut SqliteConnection) -> Result<(), SinkError> {
        let due = |at: &Option<Instant>| at.is_none_or(|at| at.elapsed() >= TRIM_EVERY);
        if !due(&self.trimmed.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(());
        }
        let keep_us = i64::try_from(self.keep.as_micros()).unwrap_or(i64::MAX);
        let oldest_us = micros_now().saturating_sub(keep_us);
        let changes = quote(&changes_of(&self.subscription));
        // Positions rise with time, so the first young one ends the search.
        let sql = format!(
            "DELETE FROM {changes} WHERE position < MAX({LAST} + 1 - {MOST_CHANGES}, COALESCE(
                 (SELECT position FROM {changes} WHERE at_us >= $1 ORDER BY position LIMIT 1), {LAST} + 1))"
        );
        let trim = sqlx::query(AssertSqlSafe(sql)).bind(oldest_us).bind(changes_of(&self.subscription));
        trim.execute(connection).await.map_err(sink_error)?;
        *self.trimmed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Ok(())
    }

    fn trigger(&self, on: &str) -> String {
        quote(&format!("{on}.{}", self.subscription))
    }

    /// What fills the table of changes. Of a row that is written as it was, which a refill does, nothing is noted.
    fn triggers(&self, layout: &Layout) -> String {
        let (rows, changes) = (&layout.table, quote(&changes_of(&self.subscription)));
        let now = "CAST(unixepoch('subsec') * 1000000 AS INTEGER)";
        let note = |of: &str, record: &str| {
            format!(
                "BEGIN INSERT INTO {changes} (at_us, key, record) VALUES ({now}, {}, {record}); END;",
                key_json(layout, &format!("{of}."))
            )
        };
        let upsert = note("NEW", &record_json(layout, "NEW."));
        let names = layout.columns.iter().map(|column| column.name.as_str()).chain([VERSION]);
        let differs = join(names.map(|name| format!("NEW.{0} IS NOT OLD.{0}", quote(name))), " OR ");
        format!(
            "CREATE TRIGGER {} AFTER INSERT ON {rows} {upsert}
             CREATE TRIGGER {} AFTER UPDATE ON {rows} WHEN {differs} {upsert}
             CREATE TRIGGER {} AFTER DELETE ON {rows} {}",
            self.trigger("insert"),
            self.trigger("update"),
            self.trigger("delete"),
            note("OLD", "NULL"),
        )
    }

    /// `$1` the subscription, `$2` its table of changes, `$3` the term.
    async fn run(&self, connection: &mut SqliteConnection, sql: String, term: &str) -> Result<(), SinkError> {
        let run = sqlx::query(AssertSqlSafe(sql)).bind(self.subscription.to_string());
        let run = run.bind(changes_of(&self.subscription)).bind(term.to_owned());
        run.execute(connection).await.map(drop).map_err(sink_error)
    }
}

async fn execute(connection: &mut SqliteConnection, sql: String) -> Result<(), SinkError> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop).map_err(sink_error)
}

pub(super) fn rows_of(subscription: &str) -> String {
    format!("rows.{subscription}")
}

pub(super) fn changes_of(subscription: &str) -> String {
    format!("changes.{subscription}")
}

/// An expression for a row's key as a JSON object; `of` goes before each column.
pub(super) fn key_json(layout: &Layout, of: &str) -> String {
    if layout.hashed {
        return format!("json_object('{KEY}', lower(hex({of}{})))", quote(KEY));
    }
    json_object(layout.key.iter().map(|name| (name.as_str(), format!("{of}{}", quote(name)))))
}

/// An expression for what is granted of a row as a JSON object.
pub(super) fn record_json(layout: &Layout, of: &str) -> String {
    json_object(layout.columns.iter().map(|column| {
        let value = format!("{of}{}", quote(&column.name));
        let value = match column.kind {
            ColumnKind::TextList | ColumnKind::Steps => format!("json({value})"),
            _ => value,
        };
        (column.name.as_str(), value)
    }))
}

fn json_object<'n>(members: impl Iterator<Item = (&'n str, String)>) -> String {
    let members = members.map(|(name, value)| format!("'{}', {value}", name.replace('\'', "''")));
    format!("json_object({})", join(members, ", "))
}
