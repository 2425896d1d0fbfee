//! Statements that compare rows inside a database ([`crate::sink::holdings`]), for databases that have SHA-256.

use guitong_govern::ColumnKind;
use guitong_schemas::contract::sink_table::DELETED_AT;
use sqlx::{ColumnIndex, Decode, Row, Type};

use super::layout::{Layout, join, quote};
use super::{EPOCH, KEY, VERSION, unsigned};
use crate::sink::holdings::{HeldRow, Print, RangeSum, Slice};

/// Expressions in a database's own words.
pub(crate) trait Dialect {
    /// The text of a granted column.
    fn text(&self, kind: ColumnKind, column: &str) -> String;

    /// A column of bytes in hexadecimal, small letters.
    fn hex(&self, column: &str) -> String;

    /// [`crate::sink::holdings::number`] of texts.
    fn number(&self, texts: &[String]) -> String;

    /// A whole number as the client reads it.
    fn signed(&self, number: &str) -> String;
}

/// Statements of one layout. Numbers are written into them: there are many, and nothing but numbers.
#[derive(Debug)]
pub(crate) struct Prints<D> {
    dialect: D,
    pub(crate) count: String,
    /// The rows as `r`: `k` and `c` are their numbers.
    numbers: String,
    /// The same with everything else.
    whole: String,
    keys: usize,
    cells: usize,
}

impl<D: Dialect> Prints<D> {
    /// `holds`: which rows of the table count.
    pub(crate) fn new(dialect: D, layout: &Layout, holds: &str) -> Self {
        let cells = layout.columns.iter().map(|column| dialect.text(column.kind, &quote(&column.name)));
        let cells: Vec<String> = cells.collect();
        let hashed = layout.hashed.then(|| dialect.hex(&quote(KEY)));
        let key: Vec<String> = match &hashed {
            Some(hashed) => vec![hashed.clone()],
            None => layout.key.iter().map(|name| dialect.text(ColumnKind::Text, &quote(name))).collect(),
        };
        let content: Vec<String> = hashed.into_iter().chain(cells.iter().cloned()).collect();
        let numbers = format!("{} AS k, {} AS c", dialect.number(&key), dialect.number(&content));
        let texts = key.iter().chain(&cells).enumerate().map(|(at, text)| format!(", {text} AS t{at}"));
        let whole = format!("{VERSION} AS v, {EPOCH} AS e{}", join(texts, ""));
        let rows = format!("FROM {} WHERE {holds}", layout.table);
        Self {
            count: format!("SELECT count(*) {rows}"),
            numbers: format!("(SELECT {numbers} {rows}) r"),
            whole: format!("(SELECT {numbers}, {whole} {rows}) r"),
            keys: key.len(),
            cells: cells.len(),
            dialect,
        }
    }

    pub(crate) fn ranges(&self, slice: Slice, shift: u32) -> String {
        let (range, content) = (self.dialect.signed(&format!("r.k >> {shift}")), self.dialect.signed("bit_xor(r.c)"));
        let (from, end, rows) = (slice.from, slice.end(), &self.numbers);
        format!("SELECT {range}, count(*), {content} FROM {rows} WHERE r.k >= {from} AND r.k < {end} GROUP BY 1")
    }

    pub(crate) fn prints(&self, ranges: &[u64], shift: u32) -> String {
        format!("SELECT r.k, r.c FROM {} WHERE (r.k >> {shift}) IN ({})", self.numbers, list(ranges))
    }

    pub(crate) fn rows(&self, keys: &[u64]) -> String {
        let texts = join((0..self.keys + self.cells).map(|at| format!(", r.t{at}")), "");
        format!("SELECT r.k, r.c, r.v, r.e{texts} FROM {} WHERE r.k IN ({})", self.whole, list(keys))
    }

    /// A row that [`Prints::rows`] gives.
    pub(crate) fn row<R>(&self, row: &R) -> Result<HeldRow, sqlx::Error>
    where
        R: Row,
        usize: ColumnIndex<R>,
        String: for<'r> Decode<'r, R::Database> + Type<R::Database>,
        Vec<u8>: for<'r> Decode<'r, R::Database> + Type<R::Database>,
        i64: for<'r> Decode<'r, R::Database> + Type<R::Database>,
    {
        const FIRST: usize = 4;
        let texts = FIRST + self.keys;
        let (key, content): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        Ok(HeldRow {
            print: Print { key: unsigned(key), content: unsigned(content) },
            version: row.try_get(2)?,
            epoch: row.try_get(3)?,
            key: (FIRST..texts).map(|at| row.try_get(at)).collect::<Result<_, _>>()?,
            cells: (texts..texts + self.cells).map(|at| row.try_get(at)).collect::<Result<_, _>>()?,
        })
    }
}

/// A row that [`Prints::ranges`] gives.
pub(crate) fn range((range, rows, content): (i64, i64, i64)) -> RangeSum {
    RangeSum { range: unsigned(range), rows: unsigned(rows), content: unsigned(content) }
}

/// A row that [`Prints::prints`] gives.
pub(crate) fn print((key, content): (i64, i64)) -> Print {
    Print { key: unsigned(key), content: unsigned(content) }
}

fn list(numbers: &[u64]) -> String {
    join(numbers.iter().map(u64::to_string), ", ")
}

/// Which rows of a subscriber's table are of the subscription: in one that the exchange made, all of them; else those that were
/// delivered. Rows that are soft-deleted are gone.
pub(crate) fn holds(layout: &Layout, made: bool) -> String {
    let ours = if made { "TRUE".to_owned() } else { format!("{VERSION} IS NOT NULL") };
    if layout.soft { format!("{ours} AND {} IS NULL", quote(DELETED_AT)) } else { ours }
}
