//! Code lists of a mapping: in the entry itself, in a CSV file of the directory, or in a code table of the standard.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::path::{Component, Path};
use std::rc::Rc;

use super::super::load::tree_problem;
use super::super::reading::document::{At, Document, Found, Report};
use super::super::reading::scalar;
use super::super::reading::section::Section;
use super::Other;
use super::read::Reader;
use crate::standard::EntityField;

/// Largest code list file.
const MAX_FILE: u64 = 4 << 20;
/// The first columns of a code list file; more may follow, for people.
const HEADER: [&str; 2] = ["value", "code"];

/// The directory's code list files that entries name; each is read and reported once.
#[derive(Debug, Default)]
pub(in crate::contract) struct CodeFiles(RefCell<BTreeMap<String, Option<Rc<CodeFile>>>>);

#[derive(Debug)]
struct CodeFile {
    document: Document,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    value: String,
    code: String,
    /// Where the row stands in the file.
    span: Range<usize>,
}

impl CodeFiles {
    fn get(&self, root: &Path, name: &str, report: &Report, unreadable: impl FnOnce(std::io::Error)) -> Option<Rc<CodeFile>> {
        if let Some(known) = self.0.borrow().get(name) {
            return known.clone();
        }
        let file = read_text(root, name, report, unreadable).and_then(|text| CodeFile::parse(name, text, report)).map(Rc::new);
        self.0.borrow_mut().insert(name.to_owned(), file.clone());
        file
    }

    /// Whether an entry names this file.
    pub(in crate::contract) fn has(&self, name: &str) -> bool {
        self.0.borrow().contains_key(name)
    }

    /// Name and text of every file that was read.
    pub(in crate::contract) fn each(&self, mut see: impl FnMut(&str, &str)) {
        for (name, file) in self.0.borrow().iter() {
            if let Some(file) = file {
                see(name, &file.document.text);
            }
        }
    }
}

fn file_problem(report: &Report, file: &str, code: &'static str, message: String, help: Option<&str>) {
    tree_problem(report, file, code, message, help.map(str::to_owned));
}

fn read_text(root: &Path, name: &str, report: &Report, unreadable: impl FnOnce(std::io::Error)) -> Option<String> {
    let mut bytes = Vec::new();
    if let Err(error) = File::open(root.join(name)).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes)) {
        unreadable(error);
        return None;
    }
    if bytes.len() as u64 > MAX_FILE {
        file_problem(report, name, "too-large", format!("the code list is larger than {} MiB", MAX_FILE >> 20), None);
        return None;
    }
    match String::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) => {
            let before = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
            let line = before.filter(|&&byte| byte == b'\n').count() + 1;
            file_problem(report, name, "not-utf8", format!("line {line} is not UTF-8"), Some("save the file as UTF-8"));
            None
        }
    }
}

impl CodeFile {
    /// Reads `value,code` and what follows; every row that is wrong is reported.
    fn parse(name: &str, text: String, report: &Report) -> Option<Self> {
        let document = Document::new(name.to_owned(), text);
        let wrong = |span: Range<usize>, code, message: String, help: &str| {
            report.push(document.problem(&At::Span(span), code, message, Some(help.to_owned())));
        };
        // Spreadsheets mark UTF-8 with a byte order mark, which `csv` takes off the first cell.
        let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(document.text.as_bytes());
        let (mut rows, mut sound, mut first) = (Vec::<Row>::new(), true, true);
        for record in reader.records() {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    let at = error.position().map_or(0, |position| position.byte() as usize);
                    wrong(line_at(&document.text, at), "bad-csv", format!("the row cannot be read: {error}"), "as `value,code`");
                    return None;
                }
            };
            let span = line_at(&document.text, record.position().map_or(0, |position| position.byte() as usize));
            let cells: Vec<&str> = record.iter().map(str::trim).collect();
            if std::mem::take(&mut first) {
                if !cells.starts_with(&HEADER) {
                    let message =
                        format!("the code list's first columns are `{}`, not `value,code`", scalar::short(&cells.join(",")));
                    wrong(
                        span,
                        "wrong-header",
                        message,
                        "begin the file with the line `value,code`; further columns are for people",
                    );
                    return None;
                }
                continue;
            }
            let (Some(value), Some(code)) = (cells.first(), cells.get(1).filter(|code| !code.is_empty())) else {
                wrong(span, "missing-code", "the row has no code".to_owned(), "as `value,code`");
                sound = false;
                continue;
            };
            if let Some(other) = rows.iter().find(|row| row.value == *value) {
                let line = document.place(other.span.start).line;
                wrong(
                    span,
                    "duplicate",
                    format!("`{}` stands in line {line} already", scalar::short(value)),
                    "list each value once",
                );
                sound = false;
                continue;
            }
            rows.push(Row { value: (*value).to_owned(), code: (*code).to_owned(), span });
        }
        if first {
            wrong(0..0, "wrong-header", "the code list is empty".to_owned(), "begin the file with the line `value,code`");
            return None;
        }
        sound.then_some(Self { document, rows })
    }
}

/// The line that begins at or after line breaks behind a byte.
fn line_at(text: &str, at: usize) -> Range<usize> {
    let rest = text.get(at..).unwrap_or_default();
    let start = at + (rest.len() - rest.trim_start_matches(['\r', '\n', '\u{FEFF}']).len());
    let line = text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
    start..start + line.len()
}

impl Reader<'_> {
    /// `codes` and `other` of an entry.
    pub(super) fn codes(&self, section: &Section<'_>, field: Option<&EntityField>) -> (BTreeMap<String, String>, Option<Other>) {
        let other = section.scalar("other").map(|found| match found.value.as_str() {
            "keep" => Other::Keep,
            _ => {
                check_code(section, &found, field);
                Other::Value(found.value)
            }
        });
        if other.is_some() && !section.has("codes") {
            let message = "`other` is for values that `codes` does not list, and there is no `codes`";
            section.problem(&section.key_at("other"), "conflict", message, None);
        }
        let codes = match (section.has("codes"), section.is_table("codes")) {
            (false, _) => BTreeMap::new(),
            (true, true) => match section.own_section("codes") {
                Some(codes) if codes.has("table") => self.table_codes(codes, field),
                Some(codes) => inline(&codes, field),
                None => BTreeMap::new(),
            },
            (true, false) => self.file_codes(section, field),
        };
        (codes, other)
    }

    /// `codes = { table = "gbt2659_countries", by = "numeric", to = "alpha3" }`: columns of a code table.
    fn table_codes(&self, section: Section<'_>, field: Option<&EntityField>) -> BTreeMap<String, String> {
        let table = section.words("table");
        let column = |key: &str, usual: &str| section.words(key).map_or_else(|| usual.to_owned(), |found| found.value);
        let (by, to) = (column("by", "name"), column("to", "code"));
        let mut codes = BTreeMap::new();
        if let Some(table) = table {
            match self.world.surroundings.standard.code_pairs(&table.value, &by, &to) {
                Ok(pairs) => codes = pairs,
                Err(error) => section.problem(&table.at, "unknown-table", error.message, error.help),
            }
            let wrong = codes.iter().find_map(|(value, code)| Some((value, illegal(code, field)?)));
            if let Some((value, (message, help))) = wrong {
                let message = format!("{message}, which the table gives for `{}`", scalar::short(value));
                section.problem(&table.at, "unknown-code", message, help);
            }
        }
        section.finish();
        codes
    }

    fn file_codes(&self, section: &Section<'_>, field: Option<&EntityField>) -> BTreeMap<String, String> {
        let inside = |text: &str| {
            let plain = text.ends_with(".csv") && Path::new(text).components().all(|part| matches!(part, Component::Normal(_)));
            plain.then(|| text.to_owned()).ok_or_else(|| "must name a CSV file of this directory, as codes/status.csv".to_owned())
        };
        let file = section.parsed("codes", inside).and_then(|found| {
            let unreadable = |error: std::io::Error| {
                let message = format!("the code list `{}` cannot be read: {error}", found.value);
                section.problem(&found.at, "unreadable", message, Some("its path begins at the directory's root".to_owned()));
            };
            self.world.code_files.get(self.world.surroundings.root, &found.value, section.report, unreadable)
        });
        let Some(file) = file else { return BTreeMap::new() };
        for row in &file.rows {
            if let Some((message, help)) = illegal(&row.code, field) {
                let at = At::Span(row.span.clone());
                section.report.push(file.document.problem(&at, "unknown-code", message, help));
            }
        }
        file.rows.iter().map(|row| (row.value.clone(), row.code.clone())).collect()
    }
}

fn inline(section: &Section<'_>, field: Option<&EntityField>) -> BTreeMap<String, String> {
    let mut codes = BTreeMap::new();
    for key in section.keys() {
        let Some(target) = section.scalar(&key.value) else { continue };
        check_code(section, &target, field);
        codes.insert(key.value, target.value);
    }
    if codes.is_empty() {
        section.problem(section.at(), "empty", "`codes` lists no value", None);
    }
    codes
}

fn check_code(section: &Section<'_>, target: &Found<String>, field: Option<&EntityField>) {
    if let Some((message, help)) = illegal(&target.value, field) {
        section.problem(&target.at, "unknown-code", message, help);
    }
}

/// What is wrong with a value that the field's list does not have.
fn illegal(code: &str, field: Option<&EntityField>) -> Option<(String, Option<String>)> {
    let field = field.filter(|field| !field.is_legal_code(code))?;
    let nearest = field.code_list().and_then(|list| list.nearest(code));
    let help = nearest.map(|code| format!("did you mean \"{}\" ({})?", code.code, code.name)).or_else(|| {
        let codes: Vec<&str> = field.code_list()?.codes().iter().map(|code| &*code.code).collect();
        Some(format!("one of {}", scalar::listed(&codes)))
    });
    Some((format!("`{}` ({}) has no code `{}`", field.name, field.title_zh, scalar::short(code)), help))
}
