//! A code table of a directory, checked cell by cell.

use std::collections::HashMap;
use std::ops::Range;

use super::file::plain_date;
use super::table::{TITLES_NAME, Table};
use crate::contract::reading::document::{At, Document, Report};
use crate::contract::reading::scalar;

/// Columns beyond code and name that the standard itself reads, by table.
const READ: [(&str, &[&str]); 6] = [
    ("gbt2260_national", &["status", "from_year", "to_year"]),
    ("gbt2260_guangxi_history", &["from_year", "successor_code"]),
    ("gbt4754_industry_sections", &["level"]),
    ("gbt4754_2011_divisions", &["level", "code_2017"]),
    ("gbt4658_1984_to_2006", &["code_1984", "code_2006", "verdict"]),
    ("gb32100_dept_org", &["confidence"]),
];

/// Columns of a code's history.
const HISTORY: [&str; 3] = ["valid_from", "valid_to", "successor"];

const FORM: &str = "a code table has at least the columns `code` and `name`";

/// Longest code, in bytes.
const MAX_CODE: usize = 64;

/// A table with its document.
struct TableFile<'a> {
    name: &'a str,
    table: Table,
    document: &'a Document,
    report: &'a Report,
}

/// Reports what is wrong with a file of titles; `known` tells the tables that there are.
pub(crate) fn check_titles(document: &Document, report: &Report, known: impl Fn(&str) -> bool) {
    let Some(table) = parsed(document, report) else { return };
    let file = TableFile { name: TITLES_NAME, table, document, report };
    let columns = ["table", "title_zh", "title_en", "version"];
    for column in columns.iter().filter(|column| file.table.column(column).is_none()) {
        file.missing(column, column, "the file has the columns `table`, `title_zh`, `title_en` and `version`");
    }
    if report.refuses(&document.name) {
        return;
    }
    let at = file.table.column("table");
    for row in file.table.rows() {
        let (name, at) = (cell(row, at), cell_at(&document.text, row, at.unwrap_or_default()));
        if !known(name) {
            file.problem(at, "unknown-table", format!("there is no code table `{}`", scalar::short(name)), None);
        }
    }
}

/// Reports what is wrong with a file that adds or replaces the table of this name.
pub(crate) fn check(name: &str, document: &Document, report: &Report) {
    let Some(table) = parsed(document, report) else { return };
    let file = TableFile { name, table, document, report };
    if file.check_header() {
        file.check_rows();
    }
}

/// The rows of a file, if it is CSV and all of them are as long as its header.
fn parsed(document: &Document, report: &Report) -> Option<Table> {
    let error = match Table::parse(&document.text) {
        Ok(table) => return Some(table),
        Err(error) => error,
    };
    let at = error.position().and_then(|position| record_at(&document.text, position));
    let message = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("the row has {len} cells, and the header {expected_len}")
        }
        _ => format!("the file is no CSV: {error}"),
    };
    report.push(document.problem(&at.map_or(At::File, At::Span), "syntax", message, None));
    None
}

impl TableFile<'_> {
    fn problem(&self, at: Range<usize>, code: &'static str, message: String, help: Option<String>) {
        self.report.push(self.document.problem(&At::Span(at), code, message, help));
    }

    /// Whether the header has what the rows are read by.
    fn check_header(&self) -> bool {
        let header = self.table.header();
        let before = self.report.refuses(&self.document.name);
        for (index, column) in header.iter().enumerate() {
            let at = cell_at(&self.document.text, header, index);
            if column.trim().is_empty() {
                self.problem(at, "empty", "the column has no name".to_owned(), None);
            } else if header.iter().take(index).any(|earlier| earlier == column) {
                self.problem(at, "duplicate", format!("the column `{}` stands twice", scalar::short(column)), None);
            } else if let Some(meant) = meant_history(column) {
                let message = format!("the column `{}` is not known", scalar::short(column));
                self.problem(at, "unknown-column", message, Some(format!("did you mean `{meant}`?")));
            }
        }
        let read = READ.iter().find(|(table, _)| *table == self.name).map_or(&[][..], |(_, columns)| columns);
        let mut wanted: Vec<&str> = if read.contains(&"code_1984") { Vec::new() } else { vec!["code"] };
        wanted.extend(read);
        for column in wanted.iter().filter(|column| self.table.column(column).is_none()) {
            let form = if read.contains(column) { "the checks of this kind of value read it" } else { FORM };
            self.missing(column, column, form);
        }
        if !read.contains(&"code_1984") && self.table.name_column().is_none() {
            self.missing("name", "name` or `name_zh", FORM);
        }
        before == self.report.refuses(&self.document.name)
    }

    fn missing(&self, column: &str, shown: &str, form: &str) {
        let header = self.table.header();
        let line = cell_at(&self.document.text, header, 0).start
            ..cell_at(&self.document.text, header, header.len().saturating_sub(1)).end;
        let meant = scalar::nearest(column, header).map(|near| format!("did you mean it by `{}`?", scalar::short(near)));
        let help = meant.unwrap_or_else(|| form.to_owned());
        self.problem(line, "missing-column", format!("the header has no column `{shown}`"), Some(help));
    }

    fn check_rows(&self) {
        let Some(code_at) = self.table.column("code") else { return };
        let (name_at, list_at) = (self.table.name_column(), self.table.list_column());
        // One code can have had several names.
        let by_name = self.name == "gbt2260_guangxi_history";
        let mut codes: HashMap<(&str, &str), &csv::StringRecord> = HashMap::new();
        for row in self.table.rows() {
            let (list, code, name) = (cell(row, list_at), cell(row, Some(code_at)), cell(row, name_at));
            let at = cell_at(&self.document.text, row, code_at);
            if code.is_empty() {
                self.problem(at, "empty", "the row has no code".to_owned(), None);
                continue;
            }
            if code.trim() != code || code.len() > MAX_CODE {
                let message = format!("a code is at most {MAX_CODE} bytes, without spaces around it");
                self.problem(at.clone(), "bad-value", message, None);
            }
            if name.trim().is_empty() {
                self.problem(at.clone(), "empty", format!("code {} has no name", scalar::short(code)), None);
            }
            match codes.insert((list, code), row) {
                Some(earlier) if !by_name => {
                    let line = earlier.position().map_or(0, csv::Position::line);
                    let message = format!("code {} stands twice, first in line {line}", scalar::short(code));
                    self.problem(at, "duplicate-code", message, None);
                }
                _ => {}
            }
        }
        let [from, to, successor_at] = HISTORY.map(|name| self.table.column(name));
        for row in self.table.rows() {
            self.check_days(row, from, to);
            if let Some(successor_at) = successor_at {
                self.check_successor(row, code_at, successor_at, &codes);
            }
        }
    }

    fn check_days(&self, row: &csv::StringRecord, from: Option<usize>, to: Option<usize>) {
        let day = |column: Option<usize>| {
            let column = column?;
            let text = row.get(column).filter(|text| !text.is_empty())?;
            let day = plain_date(text);
            if day.is_none() {
                let message = format!("`{}` is no date as 2017-09-22", scalar::short(text));
                self.problem(cell_at(&self.document.text, row, column), "bad-value", message, None);
            }
            day
        };
        let (first, last) = (day(from), day(to));
        if let (Some(first), Some(last), Some(column)) = (first, last, to)
            && first > last
        {
            let message = "the code ends before it begins".to_owned();
            self.problem(cell_at(&self.document.text, row, column), "bad-value", message, None);
        }
    }

    /// The successor is a code of the same list, and the way from successor to successor ends.
    fn check_successor(
        &self,
        row: &csv::StringRecord,
        code_at: usize,
        successor_at: usize,
        codes: &HashMap<(&str, &str), &csv::StringRecord>,
    ) {
        let list = cell(row, self.table.list_column());
        let (code, successor) = (cell(row, Some(code_at)), cell(row, Some(successor_at)));
        if successor.is_empty() || code.is_empty() {
            return;
        }
        let at = cell_at(&self.document.text, row, successor_at);
        if !codes.contains_key(&(list, successor)) {
            let known: Vec<&str> =
                codes.keys().filter(|(of, other)| *of == list && *other != code).map(|(_, code)| *code).collect();
            let message =
                format!("the successor of {}, {}, is no code of the list", scalar::short(code), scalar::short(successor));
            let help = scalar::nearest(successor, known).map(|code| format!("did you mean {code}?"));
            self.problem(at, "unknown-successor", message, help);
            return;
        }
        let mut next = successor;
        for _ in 0..codes.len() {
            if next == code {
                let help = "the last of a code's successors has none".to_owned();
                self.problem(at, "successor-ring", format!("code {} succeeds itself", scalar::short(code)), Some(help));
                return;
            }
            match codes.get(&(list, next)).map(|row| cell(row, Some(successor_at))) {
                Some(further) if !further.is_empty() => next = further,
                _ => return,
            }
        }
    }
}

/// The column of a code's history that a mistyped one probably means: without it, codes would never end.
fn meant_history(column: &str) -> Option<&'static str> {
    if HISTORY.contains(&column) {
        return None;
    }
    HISTORY.into_iter().find(|known| strsim::jaro_winkler(known, column) > 0.9)
}

/// A cell, empty where the column is not there.
fn cell(row: &csv::StringRecord, column: Option<usize>) -> &str {
    column.and_then(|at| row.get(at)).unwrap_or_default()
}

/// Bytes of the record that begins at a position.
fn record_at(text: &str, position: &csv::Position) -> Option<Range<usize>> {
    let start = usize::try_from(position.byte()).ok()?;
    // Blank lines before a record count as its own.
    let blank = text.get(start..)?.bytes().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
    let start = start + blank;
    let length = text.get(start..)?.find(['\n', '\r']).unwrap_or(text.len() - start);
    Some(start..start + length)
}

/// Bytes of a record's cell, quotes included; the whole text where the record has no place in it.
fn cell_at(text: &str, record: &csv::StringRecord, column: usize) -> Range<usize> {
    let Some(start) = record.position().and_then(|position| record_at(text, position)).map(|line| line.start) else {
        return 0..text.len();
    };
    let (mut from, mut index, mut quoted) = (start, 0, false);
    let mut end = text.len();
    for (at, byte) in text.bytes().enumerate().skip(start) {
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted && index == column => {
                end = at;
                break;
            }
            b',' if !quoted => {
                index += 1;
                from = at + 1;
            }
            b'\n' | b'\r' if !quoted => {
                end = at;
                break;
            }
            _ => {}
        }
    }
    from..end
}
