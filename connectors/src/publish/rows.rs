//! Work on row images: keys, absent columns and their completion, columns that are too large.

use bytes::{BufMut, Bytes};
use guitong_schemas::change::{BadImage, Cell, Change, Operation, RowBuilder, RowImage};
use guitong_schemas::table::{ColumnType, Table};

use super::state::KeptRow;
use super::tables::may_be_absent;

/// A row shorter than this has no value that the server stores out of line, so none of its columns need be kept.
const KEPT_ROW: usize = 512;

/// Nor has a plain value shorter than this.
const KEPT_CELL: usize = 32;

pub(super) fn has_absent(row: &RowImage) -> bool {
    row.cells().any(|cell| matches!(cell, Ok(Cell::Absent)))
}

/// Where a key change was split into a delete and a create, the create's absent columns are those of the deleted row.
pub(super) fn row_before_key_change(changes: &[Change], index: usize) -> Option<&RowImage> {
    let (old, new) = (changes.get(index.checked_sub(1)?)?, changes.get(index)?);
    let place = |change: &Change| (change.version.epoch, change.version.commit, change.version.change);
    let split = old.operation == Operation::Delete
        && new.operation == Operation::Create
        && place(old) == place(new)
        && old.table.name == new.table.name;
    if split { old.before.row() } else { None }
}

/// The row on the other side of a key change: the new one for its delete, the old one for its create.
pub(super) fn other_half(changes: &[Change], index: usize) -> Option<&RowImage> {
    let next = changes.get(index + 1).filter(|_| row_before_key_change(changes, index + 1).is_some());
    next.and_then(|next| next.after.as_ref()).or_else(|| row_before_key_change(changes, index))
}

/// The key's cells one after the other, in the key's order: the row's key in keyed state.
pub(super) fn state_key(row: &RowImage, table: &Table) -> Result<Bytes, BadImage> {
    let mut out = Vec::with_capacity(24);
    for &wanted in &table.key {
        match row.cells().nth(wanted).ok_or(BadImage("has fewer columns than the table"))?? {
            Cell::Text(value) => {
                out.put_u32(u32::try_from(value.len()).map_err(|_| BadImage("has a key beyond 4 GiB"))?);
                out.put_slice(value);
            }
            Cell::Binary(_) => return Err(BadImage("has a key in binary form")),
            Cell::Null => return Err(BadImage("has a key without value")),
            Cell::Absent => return Err(BadImage("has a key that was not sent")),
        }
    }
    Ok(Bytes::from(out))
}

fn build<'a>(cells: impl Iterator<Item = Cell<'a>>) -> Result<RowImage, BadImage> {
    let mut builder = RowBuilder::default();
    for cell in cells {
        builder.cell(cell).map_err(|_| BadImage("has a value beyond 2 GiB"))?;
    }
    Ok(builder.finish())
}

/// What is to be kept of a row in case that a later change leaves it out; `None` where that is nothing.
pub(super) fn to_keep(row: &RowImage, table: &Table) -> Result<Option<KeptRow>, BadImage> {
    if row.0.len() < KEPT_ROW {
        return Ok(None);
    }
    let mut kept = KeptRow::default();
    for (cell, column) in row.cells().zip(&table.columns) {
        if let Cell::Text(value) = cell?
            && may_be_absent(&column.kind)
            && (value.len() >= KEPT_CELL || value.first() == Some(&b'{'))
        {
            kept.cells.push((column.name.clone(), row.0.slice_ref(value)));
        }
    }
    Ok(Some(kept).filter(|kept| !kept.cells.is_empty()))
}

/// The row with its absent columns as they were kept, as far as they were.
pub(super) fn complete(row: &RowImage, table: &Table, kept: &KeptRow) -> Result<RowImage, BadImage> {
    let mut builder = RowBuilder::default();
    for (cell, column) in row.cells().zip(&table.columns) {
        let cell = match cell? {
            Cell::Absent => {
                kept.cells.iter().find(|(name, _)| *name == column.name).map_or(Cell::Absent, |(_, value)| Cell::Text(value))
            }
            cell => cell,
        };
        builder.cell(cell).map_err(|_| BadImage("has a value beyond 2 GiB"))?;
    }
    Ok(builder.finish())
}

/// The row without the value of one column.
pub(super) fn without(row: &RowImage, column: usize) -> Result<RowImage, BadImage> {
    let cells: Result<Vec<Cell<'_>>, BadImage> = row.cells().collect();
    build(cells?.into_iter().enumerate().map(|(index, cell)| if index == column { Cell::Absent } else { cell }))
}

pub(super) fn is_text(table: &Table, column: usize) -> bool {
    table.columns.get(column).is_some_and(|column| column.kind == ColumnType::Text)
}

/// The row with the bytes of one column that are no UTF-8 as `\x` and hexadecimal digits.
pub(super) fn spelled(row: &RowImage, column: usize) -> Result<RowImage, BadImage> {
    let cells: Result<Vec<Cell<'_>>, BadImage> = row.cells().collect();
    let mut cells = cells?;
    let digits;
    if let Some(cell) = cells.get_mut(column)
        && let Cell::Text(value) = *cell
        && std::str::from_utf8(value).is_err()
    {
        digits = format!("\\x{}", hex::encode_upper(value));
        *cell = Cell::Text(digits.as_bytes());
    }
    build(cells.into_iter())
}

/// The largest value outside the key: its column and length.
pub(super) fn largest(row: &RowImage, table: &Table) -> Option<(usize, usize)> {
    let length = |cell: Result<Cell<'_>, BadImage>| match cell {
        Ok(Cell::Text(value) | Cell::Binary(value)) => value.len(),
        _ => 0,
    };
    row.cells()
        .enumerate()
        .filter(|(index, _)| !table.key.contains(index))
        .map(|(index, cell)| (index, length(cell)))
        .max_by_key(|&(_, length)| length)
        .filter(|&(_, length)| length > 0)
}
