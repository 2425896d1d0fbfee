//! What stays of rows that are gone and of versions that are past.
//!
//! **Soft deletes.** A deleted row stays, and `deleted_at` says since when. What it said stays only where it was granted to the last:
//! of a row that left the grant, or of which that cannot be told, the key alone is left. Its version and epoch are those of the
//! delete, so that nothing older brings it back.
//!
//! **History.** Beside the table, another has a row for each version, keyed by the row's key and `guitong_version`, with the time
//! from which it was the newest and, unless it still is, that until which it was. It is written in the batch's transaction from what
//! the batch did to the table itself: what was refused there is no version, and what is written again is the same version. Of a row
//! that leaves the grant no version stays.
//!
//! Statements take changes as rows of a *feed*: of each its key (`k0`, …), version `v`, the epoch `e` of who writes, when it was
//! committed at the source (`at`), and the epoch below which what a row says goes with it (`below`, see [`below`]).

use guitong_govern::Gone;
use guitong_schemas::contract::sink_table::{DELETED_AT, VALID};
use guitong_schemas::standard::StandardValue;

use super::layout::{Layout, join, quote};
use super::{EPOCH, VERSION, foreign};
use crate::sink::{Change, What};

/// How statements on a table and a feed are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Postgres,
    Sqlite,
    Mysql,
}

/// The epoch below which what a deleted row says goes with it. What a refill has not met yet may be of an earlier grant; what is
/// above every epoch lets nothing stay.
pub(crate) fn below(change: &Change<'_>, sweep_epoch: Option<i64>) -> i64 {
    match change.what {
        What::Upsert(_) => 0,
        What::Delete(_, Gone::Deleted) => sweep_epoch.unwrap_or(0),
        What::Delete(_, Gone::NotGranted | Gone::Unjudged(_)) => i64::MAX,
    }
}

/// A statement with a place for the feed.
#[derive(Debug)]
pub(crate) struct Fed {
    pub(crate) before: String,
    pub(crate) after: String,
}

impl Fed {
    pub(crate) fn on(&self, feed: &str) -> String {
        format!("{}{feed}{}", self.before, self.after)
    }
}

/// Statements for deletes of a layout whose deletes are soft, in their order.
pub(crate) fn soft_deletes(dialect: Dialect, layout: &Layout) -> Vec<Fed> {
    let held = format!("{} AND (t.{VERSION}, t.{EPOCH}) < (s.v, s.e)", same_key(layout, "t"));
    let deleted_at = quote(DELETED_AT);
    let lost = format!("{held} AND t.{EPOCH} < s.below AND (t.{deleted_at} IS NULL OR s.e < s.below)");
    let clear: Vec<_> = layout.cleared().map(|name| (name, "NULL".to_owned())).collect();
    let mark = [
        (deleted_at.clone(), format!("COALESCE(t.{deleted_at}, s.at)")),
        (EPOCH.to_owned(), "s.e".to_owned()),
        (VERSION.to_owned(), "s.v".to_owned()),
    ];
    let clear = (!clear.is_empty()).then(|| dialect.update(&layout.table, &clear, &lost));
    clear.into_iter().chain([dialect.update(&layout.table, &mark, &held)]).collect()
}

/// Whether a change takes its row's history with it.
pub(crate) fn takes_history(change: &Change<'_>) -> bool {
    matches!(change.what, What::Delete(_, Gone::NotGranted | Gone::Unjudged(_)))
}

/// Statements that write the history of what was done to the table, in their order.
#[derive(Debug)]
pub(crate) struct History {
    /// Needed only where a change takes its row's history with it.
    pub(crate) leave: Fed,
    pub(crate) follow: [Fed; 2],
}

impl History {
    pub(crate) fn new(dialect: Dialect, layout: &Layout) -> Self {
        let [from, to] = VALID.map(quote);
        let past = layout.past();
        let older = format!("{} AND (t.{VERSION}, t.{EPOCH}) < (s.v, s.e)", same_key(layout, "t"));
        let values = join(past.written().into_iter().map(|name| format!("t.{}", quote(name))), ", ");
        let there = if layout.soft { format!(" AND t.{} IS NULL", quote(DELETED_AT)) } else { String::new() };
        let key: Vec<_> = past.key.iter().map(|name| quote(name)).collect();
        let others: Vec<_> = past.written().into_iter().map(quote).filter(|name| !key.contains(name)).collect();
        let close = dialect.update(&past.table, &[(to.clone(), "s.at".to_owned())], &format!("{older} AND t.{to} IS NULL"));
        let open = Fed {
            before: format!(
                "INSERT INTO {} ({}, {from}) SELECT {values}, s.at FROM {} AS t, (",
                past.table,
                past.quoted_written(),
                layout.table
            ),
            after: format!(
                ") AS s WHERE {} AND t.{VERSION} = s.v AND t.{EPOCH} = s.e{there} {}, {to} = NULL",
                same_key(layout, "t"),
                dialect.or_update(&key, &others)
            ),
        };
        Self { leave: dialect.delete(&past.table, &format!("{older} AND s.e < s.below")), follow: [close, open] }
    }
}

/// Ends of a refill: statements for the rows that it did not meet, the table's own last. `now`: microseconds since 1970-01-01T00:00Z.
pub(crate) fn sweep(dialect: Dialect, layout: &Layout, sweep_epoch: i64, epoch: i64, now: i64) -> Vec<String> {
    let (table, now) = (&layout.table, dialect.instant(now));
    let unmet = format!("{EPOCH} < {sweep_epoch}");
    let mut statements = Vec::new();
    if layout.history {
        let (past, to) = (&layout.past().table, quote(VALID[1]));
        statements.push(format!("UPDATE {past} SET {to} = {now} WHERE {to} IS NULL AND {unmet}"));
    }
    let last = if layout.foreign {
        // The versions, by which the department's rows are found, go after them.
        let versions = layout.versions().table;
        statements.push(foreign::remove(dialect, table, &versions, &layout.key, &format!("v.{unmet}")));
        format!("DELETE FROM {versions} WHERE {unmet}")
    } else if layout.soft {
        let deleted_at = quote(DELETED_AT);
        let clear = layout.cleared().map(|name| format!("{name} = NULL, "));
        let clear = join(clear, "");
        format!("UPDATE {table} SET {clear}{deleted_at} = {now}, {EPOCH} = {epoch} WHERE {unmet} AND {deleted_at} IS NULL")
    } else {
        format!("DELETE FROM {table} WHERE {unmet}")
    };
    statements.push(last);
    statements
}

/// The statement that removes what a history says of rows that are no longer there, though no change took them.
pub(crate) fn orphans(layout: &Layout) -> Option<String> {
    let past = layout.past().table;
    let same_key = layout.same_key("r", &past);
    let to = quote(VALID[1]);
    let sql =
        format!("DELETE FROM {past} WHERE {to} IS NULL AND NOT EXISTS (SELECT 1 FROM {} AS r WHERE {same_key})", layout.table);
    layout.history.then_some(sql)
}

/// The key of `of` is that of the feed.
pub(crate) fn same_key(layout: &Layout, of: &str) -> String {
    join(layout.key.iter().enumerate().map(|(at, name)| format!("{of}.{} = s.k{at}", quote(name))), " AND ")
}

impl Dialect {
    fn update(self, table: &str, set: &[(String, String)], condition: &str) -> Fed {
        let set = |of: &str| join(set.iter().map(|(column, value)| format!("{of}{column} = {value}")), ", ");
        match self {
            Self::Postgres | Self::Sqlite => {
                Fed { before: format!("UPDATE {table} AS t SET {} FROM (", set("")), after: format!(") AS s WHERE {condition}") }
            }
            Self::Mysql => Fed {
                before: format!("UPDATE {table} AS t JOIN ("),
                after: format!(") AS s SET {} WHERE {condition}", set("t.")),
            },
        }
    }

    fn delete(self, table: &str, condition: &str) -> Fed {
        let (before, after) = match self {
            Self::Postgres => (format!("DELETE FROM {table} AS t USING ("), format!(") AS s WHERE {condition}")),
            Self::Sqlite => (
                format!("DELETE FROM {table} WHERE rowid IN (SELECT t.rowid FROM {table} AS t, ("),
                format!(") AS s WHERE {condition})"),
            ),
            Self::Mysql => (format!("DELETE t FROM {table} AS t JOIN ("), format!(") AS s WHERE {condition}")),
        };
        Fed { before, after }
    }

    /// What an insert does where the key is there already. All names are quoted.
    pub(crate) fn or_update(self, key: &[String], others: &[String]) -> String {
        let set = |new: fn(&String) -> String, names: &[String]| join(names.iter().map(new), ", ");
        match self {
            Self::Postgres | Self::Sqlite if others.is_empty() => format!("ON CONFLICT ({}) DO NOTHING", key.join(", ")),
            Self::Postgres | Self::Sqlite => {
                format!(
                    "ON CONFLICT ({}) DO UPDATE SET {}",
                    key.join(", "),
                    set(|name| format!("{name} = excluded.{name}"), others)
                )
            }
            Self::Mysql => {
                let names = if others.is_empty() { key } else { others };
                format!("ON DUPLICATE KEY UPDATE {}", set(|name| format!("{name} = VALUES({name})"), names))
            }
        }
    }

    /// A constant.
    fn instant(self, us: i64) -> String {
        let text = StandardValue::Time(us).to_string();
        match self {
            Self::Postgres | Self::Sqlite => format!("'{text}'"),
            // At +08:00, as the session's clock is.
            Self::Mysql => format!("'{}'", text.replace('T', " ").trim_end_matches("+08:00")),
        }
    }
}
