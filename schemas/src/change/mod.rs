//! One row change, as a source yields it, before it is encoded.

use std::sync::Arc;

use bytes::Bytes;

use crate::position::Version;
use crate::table::Table;

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Inserted (`c`).
    Create,
    /// Updated with its key unchanged (`u`). A source turns a key change into a delete and a create.
    Update,
    /// Deleted (`d`).
    Delete,
    /// Read by a snapshot (`r`).
    Read,
    /// The whole table was emptied (`t`); there is no row image.
    Truncate,
}

impl Operation {
    /// Debezium's letter.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Create => "c",
            Self::Update => "u",
            Self::Delete => "d",
            Self::Read => "r",
            Self::Truncate => "t",
        }
    }
}

/// One row as it came on the wire: for each column, in the table's order, one kind byte and, for `t` and `b`, a
/// big-endian `i32` length and that many bytes.
///
/// This is `TupleData` of PostgreSQL's logical replication protocol without its column count (protocol documentation,
/// "Logical Replication Message Formats"), so a streamed row is a slice of the network buffer. Other sources build the same
/// bytes with [`RowBuilder`]. Kinds: `n` null, `u` not sent (unchanged TOAST, or a value over the limit), `t` text in PostgreSQL's
/// output form (ISO dates, hex bytea), `b` binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowImage(pub Bytes);

/// One cell of a row image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell<'a> {
    Null,
    /// Not sent by the source.
    Absent,
    Text(&'a [u8]),
    Binary(&'a [u8]),
}

/// Bytes that are no row image of their table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the row image {0}")]
pub struct BadImage(pub &'static str);

/// Reads the cells of a row image one after the other.
#[derive(Debug, Clone)]
pub struct Cells<'a>(&'a [u8]);

impl RowImage {
    #[must_use]
    pub fn cells(&self) -> Cells<'_> {
        Cells(&self.0)
    }
}

impl<'a> Cells<'a> {
    /// Whether all cells were read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next cell, where the table has one more column.
    ///
    /// # Errors
    /// [`BadImage`] where the image ends or is damaged.
    #[inline]
    pub fn read(&mut self) -> Result<Cell<'a>, BadImage> {
        let (&kind, rest) = self.0.split_first().ok_or(BadImage("has fewer columns than the table"))?;
        match kind {
            b'n' | b'u' => {
                self.0 = rest;
                Ok(if kind == b'n' { Cell::Null } else { Cell::Absent })
            }
            b't' | b'b' => {
                let (length, rest) = rest.split_first_chunk::<4>().ok_or(BadImage("ends in a length"))?;
                let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| BadImage("has a negative length"))?;
                let (value, rest) = rest.split_at_checked(length).ok_or(BadImage("ends in a value"))?;
                self.0 = rest;
                Ok(if kind == b't' { Cell::Text(value) } else { Cell::Binary(value) })
            }
            _ => Err(BadImage("has a cell of unknown kind")),
        }
    }
}

impl<'a> Iterator for Cells<'a> {
    type Item = Result<Cell<'a>, BadImage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_empty() {
            return None;
        }
        let cell = self.read();
        if cell.is_err() {
            self.0 = &[];
        }
        Some(cell)
    }
}

/// Builds the bytes of one [`RowImage`].
#[derive(Debug, Default)]
pub struct RowBuilder {
    bytes: Vec<u8>,
}

/// A value longer than `i32::MAX` bytes, which the tuple form cannot carry.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a value of {0} bytes does not fit a row image")]
pub struct ValueTooLong(pub usize);

impl RowBuilder {
    pub fn null(&mut self) {
        self.bytes.push(b'n');
    }

    pub fn absent(&mut self) {
        self.bytes.push(b'u');
    }

    /// A cell of another image, as it is.
    ///
    /// # Errors
    /// [`ValueTooLong`] above `i32::MAX` bytes.
    pub fn cell(&mut self, cell: Cell<'_>) -> Result<(), ValueTooLong> {
        match cell {
            Cell::Null => self.null(),
            Cell::Absent => self.absent(),
            Cell::Text(value) => self.text(value)?,
            Cell::Binary(value) => {
                let length = i32::try_from(value.len()).map_err(|_| ValueTooLong(value.len()))?;
                self.bytes.push(b'b');
                self.bytes.extend_from_slice(&length.to_be_bytes());
                self.bytes.extend_from_slice(value);
            }
        }
        Ok(())
    }

    /// # Errors
    /// [`ValueTooLong`] above `i32::MAX` bytes.
    pub fn text(&mut self, value: &[u8]) -> Result<(), ValueTooLong> {
        let length = i32::try_from(value.len()).map_err(|_| ValueTooLong(value.len()))?;
        self.bytes.push(b't');
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(value);
        Ok(())
    }

    /// The row built so far; the builder is empty again.
    pub fn finish(&mut self) -> RowImage {
        RowImage(Bytes::from(std::mem::take(&mut self.bytes)))
    }
}

/// The row before the change, as far as the source sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Before {
    /// Not sent.
    None,
    /// Only the key's columns hold values; the others are null in the image.
    Key(RowImage),
    /// The whole row.
    Full(RowImage),
}

impl Before {
    /// Value of the header `guitong-before`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Key(_) => "key",
            Self::Full(_) => "full",
        }
    }

    #[must_use]
    pub fn row(&self) -> Option<&RowImage> {
        match self {
            Self::None => None,
            Self::Key(row) | Self::Full(row) => Some(row),
        }
    }
}

/// Where in its snapshot a row stands; written to `source.snapshot` in Debezium's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SnapshotMark {
    #[default]
    Streamed,
    First,
    FirstInTable,
    Inside,
    LastInTable,
    Last,
}

/// Where a change comes from: what the `source` block of the envelope says beside system and table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Commit time at the source, microseconds since 1970-01-01T00:00:00Z.
    pub ts_us: i64,
    pub snapshot: SnapshotMark,
    pub place: Place,
}

/// The part of the `source` block that depends on the kind of source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Postgres { xid: Option<u64>, lsn: u64, last_commit_lsn: Option<u64>, order: Option<Order> },
    Changelog { change_id: i64 },
}

/// Where an event stands in its transaction, counted from 1; only where transaction metadata is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    pub total: u64,
    /// Among the events of its table.
    pub in_table: u64,
}

/// What a source tells beside changes of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A message that an application wrote into the database's log.
    Message { prefix: String, content: Bytes, version: Version, origin: Origin },
    /// A transaction begins.
    Begin(TransactionMark),
    /// A transaction has ended, with the number of its events, in all and by table.
    End { mark: TransactionMark, events: u64, tables: Vec<(String, u64)> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionMark {
    pub xid: u64,
    /// LSN of the commit record.
    pub commit: u64,
    /// Commit time, microseconds since 1970-01-01T00:00:00Z.
    pub ts_us: i64,
}

/// One row change with its version.
#[derive(Debug, Clone)]
pub struct Change {
    pub table: Arc<Table>,
    pub operation: Operation,
    pub version: Version,
    pub before: Before,
    /// `None` for deletes and truncates.
    pub after: Option<RowImage>,
    pub origin: Origin,
}

impl Change {
    /// What the change holds in memory, for byte budgets.
    #[must_use]
    pub fn size(&self) -> usize {
        let row = |image: &RowImage| image.0.len();
        size_of::<Self>() + self.before.row().map_or(0, row) + self.after.as_ref().map_or(0, row)
    }
}
