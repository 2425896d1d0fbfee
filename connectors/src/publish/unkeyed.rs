//! Rows whose key is none that their table's keys can be: null, over the limit, or of another type, as SQLite takes them.
//!
//! Such a row is published all the same, since nobody else keeps it and it may be mended: under a key in words, of a schema of its own
//! beside the table's, and marked. Rows without a value in the same column so share a key, which ends with the mending of one of them.

use std::borrow::Cow;
use std::sync::Arc;

use guitong_schemas::avro::EncodeError;
use guitong_schemas::change::{BadImage, Cell, Change, RowBuilder, RowImage};
use guitong_schemas::table::{ColumnType, Table};

use super::draft::map_rows;
use super::{PublishError, image};

/// What a key says of a column that is null, and of one that is over the limit.
const NULL: &[u8] = b"null";
const TOO_LARGE: &[u8] = b"too large";
/// Bytes of a value that a key in words holds; one that is longer is too large.
const MAX_WORD: usize = 8 << 10;

/// A change with its row's key in words.
pub(super) struct Worded {
    pub(super) change: Change,
    /// Columns whose values no key can have, and those of them that are over the limit.
    pub(super) unkeyed: Vec<usize>,
    pub(super) too_large: Vec<usize>,
}

impl Worded {
    /// A change that was not published for `error`.
    ///
    /// # Errors
    /// That one, where it is not its key's.
    pub(super) fn of(change: &Change, error: PublishError) -> Result<Self, PublishError> {
        let key = &change.table.key;
        let row = change.after.as_ref().or(change.before.row());
        let cells: Vec<Cell<'_>> =
            row.map_or_else(|| Ok(Vec::new()), |row| row.cells().collect()).map_err(|error| image(change, error))?;
        let length = |at: &usize| match cells.get(*at) {
            Some(Cell::Text(value) | Cell::Binary(value)) => value.len(),
            _ => 0,
        };
        let found = match &error {
            PublishError::Encode(EncodeError::Cell { index, .. }) => Some(*index).filter(|index| key.contains(index)),
            PublishError::TooLarge { .. } => key.iter().copied().max_by_key(length),
            _ => None,
        };
        let found = found.ok_or(error)?;
        let is = |at: usize, wanted: Cell<'_>| cells.get(at) == Some(&wanted);
        let is_large = |at: &usize| is(*at, Cell::Absent) || *at == found && length(at) > MAX_WORD;
        let too_large: Vec<usize> = key.iter().copied().filter(is_large).collect();
        let is_none = |at: &usize| *at == found || is(*at, Cell::Null) || too_large.contains(at);
        let unkeyed = key.iter().copied().filter(is_none).collect();
        let mut worded = Cow::Borrowed(change);
        map_rows(&mut worded, |row| in_words(row, key, &too_large))?;
        let table = Arc::new(in_text(&change.table));
        Ok(Self { change: Change { table, ..worded.into_owned() }, unkeyed, too_large })
    }
}

/// The table as if its key were texts.
fn in_text(table: &Table) -> Table {
    let mut table = table.clone();
    for (index, column) in table.columns.iter_mut().enumerate() {
        if table.key.contains(&index) {
            column.kind = ColumnType::Text;
        }
    }
    table
}

fn in_words(row: &RowImage, key: &[usize], too_large: &[usize]) -> Result<RowImage, BadImage> {
    let mut builder = RowBuilder::default();
    for (index, cell) in row.cells().enumerate() {
        let cell = match cell? {
            _ if too_large.contains(&index) => Cell::Text(TOO_LARGE),
            Cell::Null if key.contains(&index) => Cell::Text(NULL),
            // Of the other half of a key change.
            Cell::Absent if key.contains(&index) => Cell::Text(TOO_LARGE),
            cell => cell,
        };
        builder.cell(cell).map_err(|_| BadImage("has a value beyond 2 GiB"))?;
    }
    Ok(builder.finish())
}
