//! What looking at a department's tables takes, whatever kind of database it is: which tables, how many rows, how much of each value.

use std::time::Duration;

use guitong_schemas::profile::Cell;
use guitong_schemas::table::TableName;

/// Rows of a table that are looked at.
pub(crate) const ROWS: usize = 2000;
/// Characters of a value that are looked at.
pub(crate) const CHARACTERS: usize = 512;
/// Bytes of a table's rows after which no further one is read.
pub(crate) const BYTES: usize = 8 << 20;
/// A value that takes more bytes in the database is not read, only measured.
pub(crate) const LARGE: usize = 64 << 10;
/// What stands for a value that is not read.
pub(crate) const UNREAD: &str = "…";
/// How long the database may work on one statement.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Which tables are looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Those that the system's `tables` name.
    Tailed,
    /// Every table of users.
    All,
    /// These, whether they are tailed or not.
    Named(Vec<TableName>),
}

/// A value as the statements give it: its length, a colon, its first characters. Bytes that are no text show as damaged.
pub(crate) fn cell(bytes: &[u8]) -> Option<Cell> {
    let text = String::from_utf8_lossy(bytes);
    let (length, text) = text.split_once(':')?;
    Some(Cell { text: text.to_owned(), length: length.parse().ok()? })
}
