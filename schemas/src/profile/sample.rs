//! From sampled rows to a table's profile.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::checks::Checks;
use super::{ColumnProfile, Counted, Length, ListCount, TableProfile};
use crate::standard::{Clock, Standard, is_empty_word, is_han};
use crate::table::Table;

/// Most distinct values of a column that are listed.
const FEW: usize = 40;
/// A column is one of few values where each stands for at least this many rows on average.
const ROWS_PER_VALUE: u64 = 3;
/// Longest value that may be a code or its name, in characters.
const CODE: u32 = 20;
/// Shapes that are listed.
const SHAPES: usize = 5;
/// Longest shape, in characters.
const SHAPE_LENGTH: usize = 40;

/// Rows of a table with what the catalogue says of it. Values are never printed.
#[derive(Clone, PartialEq)]
pub struct TableSample {
    pub table: Table,
    pub comment: Option<String>,
    /// Beside the table's columns, in their order.
    pub columns: Vec<SampledColumn>,
    /// Estimates of the database.
    pub rows: u64,
    pub bytes: u64,
    /// The sampled rows, each with a cell for every column; `None` is null.
    pub sample: Vec<Vec<Option<Cell>>>,
}

/// What a profile needs of a column beside what the exchange publishes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampledColumn {
    pub comment: Option<String>,
    pub declared: String,
}

/// A value, which may be cut.
#[derive(Clone, PartialEq, Eq)]
pub struct Cell {
    pub text: String,
    /// Characters of the whole value.
    pub length: u32,
}

impl fmt::Debug for TableSample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TableSample({}, {} rows)", self.table.name, self.sample.len())
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cell({} characters)", self.length)
    }
}

/// Which values a profile lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// Those of columns with few, none of them personal: no citizen number, telephone or bank card, no column full of names or addresses.
    Plain,
    /// As [`Values::Plain`], and those of any short column with few. A code need not be repeated in a small table. Such a profile is never saved.
    Codes,
    /// The commonest of every column. Such a profile is never saved.
    All,
}

impl TableSample {
    /// What the sample says, against the checks and lists of the standard at the clock's time.
    #[must_use]
    pub fn profile(&self, standard: &Standard, clock: &Clock<'_>, values: Values) -> TableProfile {
        let checks = Checks::of(standard);
        let columns = (0..self.table.columns.len()).filter_map(|at| self.column(at, &checks, clock, values)).collect();
        TableProfile {
            table: self.table.name.to_string(),
            comment: self.comment.clone(),
            key: self.table.key_columns().map(|column| column.name.clone()).collect(),
            rows: self.rows,
            bytes: self.bytes,
            sampled: self.sample.len() as u64,
            columns,
        }
    }

    fn column(&self, at: usize, checks: &Checks, clock: &Clock<'_>, wanted: Values) -> Option<ColumnProfile> {
        let (column, more) = (self.table.columns.get(at)?, self.columns.get(at)?);
        let cells = || self.sample.iter().filter_map(|row| row.get(at)?.as_ref());
        let present = || cells().filter(|cell| !is_nothing(&cell.text));
        let mut distinct: HashMap<&str, u64> = HashMap::new();
        for cell in present() {
            *distinct.entry(&cell.text).or_default() += 1;
        }
        let (mut characters, mut shapes) = (BTreeMap::new(), HashMap::<String, u64>::new());
        let (mut passed, mut lists) = (BTreeMap::new(), BTreeMap::<String, ListCount>::new());
        for (text, rows) in &distinct {
            *characters.entry(class(text).to_owned()).or_default() += rows;
            *shapes.entry(shape(text)).or_default() += rows;
            for check in checks.passed(text, clock) {
                *passed.entry(check).or_default() += rows;
            }
            for (list, found) in checks.lists(text) {
                let count = lists.entry(list).or_default();
                *(if found.by_name { &mut count.by_name } else { &mut count.by_code }) += rows;
            }
        }
        let lengths = present().map(|cell| cell.length);
        let length = lengths.clone().min().zip(lengths.max()).map(|(min, max)| Length { min, max });
        let filled: u64 = distinct.values().sum();
        let few = distinct.len() <= FEW && filled >= ROWS_PER_VALUE * distinct.len() as u64;
        let cut = present().any(|cell| cell.length as usize > cell.text.chars().count());
        let short = distinct.len() <= FEW && length.is_some_and(|length| length.max <= CODE);
        let listed = match wanted {
            Values::Plain => few && !cut,
            Values::Codes => few && !cut || short,
            Values::All => true,
        };
        let values = if listed { by_count(distinct.iter(), FEW) } else { Vec::new() };
        let mut profile = ColumnProfile {
            name: column.name.clone(),
            comment: more.comment.clone(),
            declared: more.declared.clone(),
            kind: column.kind.clone(),
            nullable: column.nullable,
            nulls: self.sample.len() as u64 - cells().count() as u64,
            empty: cells().count() as u64 - filled,
            distinct: distinct.len() as u64,
            length,
            characters,
            shapes: by_count(shapes.iter(), SHAPES),
            checks: passed,
            lists,
            values,
            withheld: None,
        };
        if wanted != Values::All
            && let Some(reason) = personal(&profile, filled)
        {
            profile.withhold(reason);
        }
        Some(profile)
    }
}

/// Words that stand for no value, and dates of zeros.
fn is_nothing(text: &str) -> bool {
    const DATE: usize = 8;
    is_empty_word(text) || text.len() >= DATE && text.starts_with('0') && text.bytes().all(|byte| b"0-/.: ".contains(&byte))
}

/// Why a column's values are about persons, as far as they show it themselves.
fn personal(column: &ColumnProfile, filled: u64) -> Option<&'static str> {
    const NEVER: [(&str, &str); 3] = [
        ("citizen_id", "a value is a citizen number"),
        ("mobile", "a value is a mobile number"),
        ("bank_card", "a value is a bank card's number"),
    ];
    if let Some((_, reason)) = NEVER.iter().find(|(check, _)| column.passes(check) > 0) {
        return Some(reason);
    }
    let listed = column.lists.values().any(|count| (count.by_code + count.by_name) * 2 > filled);
    let most = |check: &str| column.passes(check) * 2 > filled;
    let number_within = column.values.iter().any(|counted| holds_number(&counted.value));
    match () {
        () if number_within => Some("a value holds a long number within other text"),
        () if most("person_name") && !listed => Some("the values look like names of persons"),
        () if most("address") => Some("the values look like addresses"),
        () => None,
    }
}

/// Whether digits that could be a telephone or citizen number stand within a longer text.
fn holds_number(text: &str) -> bool {
    const LONG: usize = 11;
    let longest = text.split(|letter: char| !letter.is_ascii_digit()).map(str::len).max().unwrap_or_default();
    longest >= LONG && longest + 1 < text.len()
}

fn by_count<'v, T: AsRef<str> + 'v>(counts: impl Iterator<Item = (T, &'v u64)>, most: usize) -> Vec<Counted> {
    let mut counted: Vec<Counted> =
        counts.map(|(value, rows)| Counted { value: value.as_ref().to_owned(), rows: *rows }).collect();
    counted.sort_by(|left, right| right.rows.cmp(&left.rows).then_with(|| left.value.cmp(&right.value)));
    counted.truncate(most);
    counted
}

fn class(text: &str) -> &'static str {
    let all = |is: fn(char) -> bool| text.chars().all(is);
    match () {
        () if all(|letter| letter.is_ascii_digit()) => "digits",
        () if all(|letter| letter.is_ascii_alphabetic()) => "letters",
        () if all(|letter| letter.is_ascii_alphanumeric()) => "alphanumeric",
        () if all(is_han) => "han",
        () => "mixed",
    }
}

/// Runs of digits with their length, runs of letters and of Chinese characters without; anything else as it stands, spaces as one.
fn shape(text: &str) -> String {
    let mut shape = String::new();
    let mut letters = text.chars().peekable();
    let mut written = 0;
    while let Some(letter) = letters.next() {
        if written == SHAPE_LENGTH {
            shape.push('…');
            break;
        }
        written += 1;
        let kind: fn(char) -> bool = match letter {
            '0'..='9' => |letter| letter.is_ascii_digit(),
            _ if letter.is_ascii_alphabetic() => |letter| letter.is_ascii_alphabetic(),
            _ if letter.is_alphabetic() => |letter| letter.is_alphabetic() && !letter.is_ascii(),
            _ => {
                shape.push(if letter.is_control() { '?' } else { letter });
                continue;
            }
        };
        let mut run = 1;
        while letters.next_if(|letter| kind(*letter)).is_some() {
            run += 1;
        }
        match letter {
            '0'..='9' => shape.push_str(&format!("d{run}")),
            _ if letter.is_ascii() => shape.push('a'),
            _ => shape.push('h'),
        }
    }
    shape
}
