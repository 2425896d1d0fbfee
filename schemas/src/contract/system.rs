//! `systems/<name>.toml`: a department's database and how it is tailed.

use std::path::PathBuf;
use std::time::Duration;

use super::{Name, Secret};
use crate::table::TableName;

#[derive(Debug, Clone)]
pub struct System {
    pub name: Name,
    pub title: String,
    pub department: Name,
    pub source: SourceConfig,
    /// Patterns `schema.table` in which `*` stands for any run of characters.
    pub tables: Vec<TablePattern>,
    /// `schema.table.column`: cut before anything leaves the department.
    pub exclude_columns: Vec<(TableName, String)>,
    /// Key of tables that declare none in the database.
    pub keys: Vec<(TableName, Vec<String>)>,
    pub snapshot: SnapshotConfig,
    /// Complete columns that the source did not send from keyed state; `false` gives Debezium's markers.
    pub complete: bool,
}

/// Which database, and how to reach it.
#[derive(Debug, Clone)]
pub enum SourceConfig {
    Postgres(PostgresConfig),
    Sqlite(SqliteConfig),
}

#[derive(Debug, Clone)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database?sslmode=…&sslrootcert=…`
    pub url: Secret,
    /// Default `<exchange>_<system>`, dashes as underscores.
    pub slot: String,
    /// Default as `slot`.
    pub publication: String,
    /// How often an idle database is written to (a logical message), so that its slot can advance.
    pub heartbeat: Duration,
    pub on_gap: GapPolicy,
}

#[derive(Debug, Clone)]
pub struct SqliteConfig {
    pub path: PathBuf,
    /// Longest time between two looks when the file gives no sign of change.
    pub poll: Duration,
}

/// What a connector does when changes may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GapPolicy {
    #[default]
    Stop,
    /// Read everything again under a new epoch.
    Resnapshot,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablePattern {
    pub schema: String,
    pub name: String,
}

impl TablePattern {
    #[must_use]
    pub fn matches(&self, table: &TableName) -> bool {
        glob(&self.schema, &table.schema) && glob(&self.name, &table.name)
    }
}

/// Matches `text` against `pattern`, in which `*` stands for any run of characters.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| rest.get(at..).is_some_and(|end| glob(tail, end)))
        }),
    }
}

#[derive(Debug, Clone, Copy)]
pub struct SnapshotConfig {
    /// `false`: only changes from now on.
    pub enabled: bool,
    /// Bytes a chunk aims at.
    pub chunk: usize,
    pub rows_per_second: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_run() {
        for (pattern, text, holds) in [
            ("qy_*", "qy_jbxx", true),
            ("qy_*", "qx_jbxx", false),
            ("*", "企业登记", true),
            ("*登记*", "企业登记表", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("qy", "qy_jbxx", false),
        ] {
            assert_eq!(glob(pattern, text), holds, "{pattern} {text}");
        }
    }
}
