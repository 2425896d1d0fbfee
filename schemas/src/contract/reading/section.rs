//! Tables of TOML read key by key: every wrong type, missing key and unknown key is reported, none stops the reading.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::super::problem::{Problem, Severity};
use super::super::resource::Place;
use super::document::{At, Document, Found, Report};
use super::expression::Fault;
use super::scalar;

/// Reads the environment: the value of a variable.
pub(in crate::contract) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// One table of a file. Keys are asked for by name; [`Section::finish`] reports those that nobody asked for.
pub(in crate::contract) struct Section<'a> {
    pub(in crate::contract) document: &'a Document,
    pub(in crate::contract) report: &'a Report,
    /// Keys from the root to here, joined by dots, empty at the root.
    path: String,
    /// `None`: the file does not have it, but the environment may.
    table: Option<&'a DeTable<'a>>,
    at: At,
    overrides: Option<Environment<'a>>,
    known: RefCell<BTreeSet<String>>,
}

/// A value as it was given.
enum Given<'a> {
    Toml(&'a Spanned<DeValue<'a>>),
    Variable { name: String, text: String },
}

impl<'a> Section<'a> {
    pub(in crate::contract) fn root(
        document: &'a Document,
        report: &'a Report,
        table: &'a DeTable<'a>,
        overrides: Option<Environment<'a>>,
    ) -> Self {
        let (path, known) = (String::new(), RefCell::default());
        Self { document, report, path, table: Some(table), at: At::File, overrides, known }
    }

    /// Reports a problem of this file.
    pub(in crate::contract) fn problem(&self, at: &At, code: &'static str, message: impl Display, help: Option<String>) {
        self.remark(Severity::Error, at, code, message, help);
    }

    /// Reports something of this file that weighs as said.
    pub(in crate::contract) fn remark(
        &self,
        severity: Severity,
        at: &At,
        code: &'static str,
        message: impl Display,
        help: Option<String>,
    ) {
        self.report.push(Problem { severity, ..self.document.problem(at, code, message.to_string(), help) });
    }

    /// Reports what is wrong with an expression, each at its place within it where the file shows the text as it is.
    pub(in crate::contract) fn expression_faults(&self, found: &Found<String>, faults: Vec<Fault>) {
        for Fault { code, message, help, range } in faults {
            let at = match &found.at {
                At::Span(span) => {
                    let inner = span.start + 1..span.end.saturating_sub(1);
                    let verbatim = self.document.text.get(inner) == Some(found.value.as_str());
                    At::Span(if verbatim { span.start + 1 + range.start..span.start + 1 + range.end } else { span.clone() })
                }
                other => other.clone(),
            };
            self.problem(&at, code, message, help);
        }
    }

    pub(in crate::contract) fn place(&self, at: &At) -> Place {
        match at {
            At::Span(span) => self.document.place(span.start),
            At::Variable(_) | At::File => Place::default(),
        }
    }

    pub(in crate::contract) fn at(&self) -> &At {
        &self.at
    }

    fn entry(&self, key: &str) -> Option<(&'a Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>)> {
        self.table?.iter().find(|(name, _)| name.get_ref() == key)
    }

    fn given(&self, key: &str) -> Option<Given<'a>> {
        self.know(key);
        if let Some(environment) = self.overrides {
            let name = self.variable(key);
            if let Some(text) = environment(&name) {
                return Some(Given::Variable { name, text });
            }
        }
        self.entry(key).map(|(_, value)| Given::Toml(value))
    }

    /// `log.path` is `GUITONG_LOG__PATH`.
    fn variable(&self, key: &str) -> String {
        format!("GUITONG_{}", self.full(key).replace('.', "__").to_ascii_uppercase())
    }

    fn full(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The place of a key itself.
    pub(in crate::contract) fn key_at(&self, key: &str) -> At {
        self.entry(key).map_or_else(|| self.at.clone(), |(name, _)| At::Span(name.span()))
    }

    /// The place of a key's value.
    pub(in crate::contract) fn value_at(&self, key: &str) -> At {
        self.entry(key).map_or_else(|| self.at.clone(), |(_, value)| At::Span(value.span()))
    }

    pub(in crate::contract) fn has(&self, key: &str) -> bool {
        self.overrides.is_some_and(|environment| environment(&self.variable(key)).is_some()) || self.entry(key).is_some()
    }

    /// Lets a key pass unread.
    pub(in crate::contract) fn know(&self, key: &str) {
        self.known.borrow_mut().insert(key.to_owned());
    }

    /// Reads a key that must be there.
    pub(in crate::contract) fn required<T>(&self, key: &str, read: impl FnOnce(&Self, &str) -> Option<T>) -> Option<T> {
        if !self.has(key) {
            self.know(key);
            self.problem(&self.at, "missing-key", format_args!("`{}` is missing", self.full(key)), None);
            return None;
        }
        read(self, key)
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        let message = format!("`{}` must be {wanted}, not {}", self.full(key), kind(value.get_ref()));
        self.problem(&At::Span(value.span()), "wrong-type", message, None);
    }

    pub(in crate::contract) fn text(&self, key: &str) -> Option<Found<String>> {
        self.text_as(key, "text in quotes")
    }

    fn text_as(&self, key: &str, wanted: &str) -> Option<Found<String>> {
        match self.given(key)? {
            Given::Variable { name, text } => Some(Found { value: text, at: At::Variable(name) }),
            Given::Toml(value) => match value.get_ref() {
                DeValue::String(text) => Some(Found { value: text.to_string(), at: At::Span(value.span()) }),
                _ => {
                    self.wrong_type(key, value, wanted);
                    None
                }
            },
        }
    }

    /// Text that is not blank.
    pub(in crate::contract) fn words(&self, key: &str) -> Option<Found<String>> {
        let found = self.text(key)?;
        if found.value.trim().is_empty() {
            self.problem(&found.at, "empty", format_args!("`{}` is empty", self.full(key)), None);
            return None;
        }
        Some(found)
    }

    /// Text that `parse` understands; its error completes "`key` …".
    pub(in crate::contract) fn parsed<T>(&self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<Found<T>> {
        self.checked(key, self.text(key)?, parse)
    }

    fn checked<T>(&self, key: &str, found: Found<String>, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<Found<T>> {
        match parse(&found.value) {
            Ok(value) => Some(Found { value, at: found.at }),
            Err(why) => {
                self.problem(&found.at, "bad-value", format_args!("`{}` {why}", self.full(key)), None);
                None
            }
        }
    }

    /// One of a list of words; a wrong one is answered with the nearest.
    pub(in crate::contract) fn choice<T: Clone>(&self, key: &str, choices: &[(&str, T)]) -> Option<Found<T>> {
        let found = self.text(key)?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == found.value) {
            return Some(Found { value: value.clone(), at: found.at });
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let message = format!("`{}` cannot be {}", self.full(key), self.quoted(&found));
        self.problem(&found.at, "bad-value", message, Some(format!("one of {}", scalar::listed(&words))));
        None
    }

    /// `value`, or nothing of it where it came from the environment, which may hold anything.
    fn quoted(&self, found: &Found<String>) -> String {
        match found.at {
            At::Variable(_) => "that".to_owned(),
            _ => format!("`{}`", scalar::short(&found.value)),
        }
    }

    pub(in crate::contract) fn flag(&self, key: &str) -> Option<Found<bool>> {
        match self.given(key)? {
            Given::Variable { name, text } => {
                let parse = |text: &str| text.parse().map_err(|_| "must be true or false".to_owned());
                self.checked(key, Found { value: text, at: At::Variable(name) }, parse)
            }
            Given::Toml(value) => match value.get_ref() {
                DeValue::Boolean(flag) => Some(Found { value: *flag, at: At::Span(value.span()) }),
                _ => {
                    self.wrong_type(key, value, "true or false");
                    None
                }
            },
        }
    }

    /// A whole number within bounds.
    pub(in crate::contract) fn number(&self, key: &str, bounds: Range<u32>) -> Option<Found<u32>> {
        let (found, text) = match self.given(key)? {
            Given::Variable { name, text } => (At::Variable(name), text.trim().parse::<i64>().ok()),
            Given::Toml(value) => match value.get_ref() {
                DeValue::Integer(integer) => {
                    (At::Span(value.span()), i64::from_str_radix(integer.as_str(), integer.radix()).ok())
                }
                _ => {
                    self.wrong_type(key, value, "a whole number");
                    return None;
                }
            },
        };
        if let Some(number) = text.and_then(|number| u32::try_from(number).ok()).filter(|number| bounds.contains(number)) {
            return Some(Found { value: number, at: found });
        }
        let message = format!("`{}` must be a whole number from {} to {}", self.full(key), bounds.start, bounds.end - 1);
        self.problem(&found, "bad-value", message, None);
        None
    }

    /// A TOML date.
    pub(in crate::contract) fn date(&self, key: &str) -> Option<Found<jiff::civil::Date>> {
        let Given::Toml(value) = self.given(key)? else { return None };
        let date = match value.get_ref() {
            DeValue::Datetime(toml::value::Datetime { date: Some(date), time: None, offset: None }) => {
                let narrow = |n: u8| i8::try_from(n).ok();
                let year = i16::try_from(date.year).ok();
                let civil = |year, month, day| jiff::civil::Date::new(year, month, day).ok();
                year.zip(narrow(date.month)).zip(narrow(date.day)).and_then(|((year, month), day)| civil(year, month, day))
            }
            _ => None,
        };
        if date.is_none() {
            let message = format!("`{}` must be a date, not {}", self.full(key), kind(value.get_ref()));
            let help = "a day without quotes, as 2027-12-31".to_owned();
            self.problem(&At::Span(value.span()), "wrong-type", message, Some(help));
        }
        date.map(|date| Found { value: date, at: At::Span(value.span()) })
    }

    /// A list of texts, or one text alone.
    pub(in crate::contract) fn texts(&self, key: &str) -> Option<Found<Vec<Found<String>>>> {
        match self.given(key)? {
            Given::Variable { name, text } => {
                let at = At::Variable(name);
                let items = text.split(',').map(|item| Found { value: item.trim().to_owned(), at: at.clone() }).collect();
                Some(Found { value: items, at })
            }
            Given::Toml(value) => match value.get_ref() {
                DeValue::Array(items) => {
                    let mut texts = Vec::with_capacity(items.len());
                    for item in items.iter() {
                        match item.get_ref() {
                            DeValue::String(text) => texts.push(Found { value: text.to_string(), at: At::Span(item.span()) }),
                            _ => self.wrong_type(key, item, "a list of texts"),
                        }
                    }
                    Some(Found { value: texts, at: At::Span(value.span()) })
                }
                DeValue::String(text) => {
                    let at = At::Span(value.span());
                    Some(Found { value: vec![Found { value: text.to_string(), at: at.clone() }], at })
                }
                _ => {
                    self.wrong_type(key, value, "a list of texts");
                    None
                }
            },
        }
    }

    /// Whether the file has a list of nothing there.
    pub(in crate::contract) fn is_empty_list(&self, key: &str) -> bool {
        self.entry(key).is_some_and(|(_, value)| matches!(value.get_ref(), DeValue::Array(items) if items.is_empty()))
    }

    /// The section of a key; where the file has none, one that only the environment fills.
    pub(in crate::contract) fn section(&self, key: &str) -> Option<Section<'a>> {
        self.know(key);
        let (table, at) = match self.entry(key) {
            None => (None, self.at.clone()),
            Some((name, value)) => match value.get_ref() {
                DeValue::Table(table) => (Some(table), At::Span(name.span())),
                _ => {
                    self.wrong_type(key, value, "a table");
                    return None;
                }
            },
        };
        let (document, report, overrides, known) = (self.document, self.report, self.overrides, RefCell::default());
        Some(Section { document, report, path: self.full(key), table, at, overrides, known })
    }

    /// Whether the file has the section, or the environment one of its texts that make one.
    pub(in crate::contract) fn is_declared(&self) -> bool {
        self.table.is_some() || self.has("url")
    }

    /// A section that the file itself has.
    pub(in crate::contract) fn own_section(&self, key: &str) -> Option<Section<'a>> {
        if self.entry(key).is_none() {
            self.know(key);
            return None;
        }
        self.section(key)
    }

    /// The tables of a list, in its order.
    pub(in crate::contract) fn sections(&self, key: &str) -> Option<Vec<Section<'a>>> {
        self.know(key);
        let (_, value) = self.entry(key)?;
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(key, value, "a list of tables");
            return None;
        };
        let mut sections = Vec::with_capacity(items.len());
        for (number, item) in items.iter().enumerate() {
            let DeValue::Table(table) = item.get_ref() else {
                self.wrong_type(key, item, "a list of tables");
                continue;
            };
            let (document, report, known) = (self.document, self.report, RefCell::default());
            let path = format!("{}[{}]", self.full(key), number + 1);
            sections.push(Section {
                document,
                report,
                path,
                table: Some(table),
                at: At::Span(item.span()),
                overrides: None,
                known,
            });
        }
        Some(sections)
    }

    /// Every key of the table with its place, in the order of the file; all of them count as known.
    pub(in crate::contract) fn keys(&self) -> Vec<Found<String>> {
        let mut keys: Vec<_> = self.table.iter().flat_map(|table| table.keys()).collect();
        keys.sort_by_key(|key| key.span().start);
        let keys: Vec<_> = keys.iter().map(|key| Found { value: key.get_ref().to_string(), at: At::Span(key.span()) }).collect();
        self.known.borrow_mut().extend(keys.iter().map(|key| key.value.clone()));
        keys
    }

    /// Whether a key holds a table.
    pub(in crate::contract) fn is_table(&self, key: &str) -> bool {
        self.entry(key).is_some_and(|(_, value)| value.get_ref().is_table())
    }

    /// Text, number or truth value in its text form.
    pub(in crate::contract) fn scalar(&self, key: &str) -> Option<Found<String>> {
        self.know(key);
        let (_, value) = self.entry(key)?;
        let text = match value.get_ref() {
            DeValue::String(_) => return self.text(key),
            DeValue::Integer(integer) => integer.to_string(),
            DeValue::Boolean(flag) => flag.to_string(),
            _ => {
                self.wrong_type(key, value, "text, a number, true or false");
                return None;
            }
        };
        Some(Found { value: text, at: At::Span(value.span()) })
    }

    /// Reports every key that was not asked for.
    pub(in crate::contract) fn finish(self) {
        let known = self.known.borrow();
        let Some(table) = self.table else { return };
        for (key, _) in table.iter().filter(|(key, _)| !known.contains(key.get_ref().as_ref())) {
            let place = if self.path.is_empty() { String::new() } else { format!(" in `{}`", self.path) };
            let message = format!("unknown key `{}`{place}", scalar::short(key.get_ref()));
            let nearest = scalar::nearest(key.get_ref(), known.iter().map(String::as_str));
            let words: Vec<&str> = known.iter().map(String::as_str).collect();
            let help = match nearest {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("known here: {}", scalar::listed(&words)),
            };
            self.problem(&At::Span(key.span()), "unknown-key", message, Some(help));
        }
    }
}

/// The name of a value's type in a message.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
