//! Code tables as files: CSV, built in or from a directory, each read when it is asked for.
//!
//! The form of a code table: a header; a column `code`; its Chinese name in `name` or `name_zh`, the English one in `name_en`; several lists
//! in one file where a column `list` (or `scheme`) names each row's; aliases, separated by `;`, in `aliases` or `short_name`. A code's
//! history: `valid_from` and `valid_to` are its first and last day, `successor` is the code that is written in its place from then on.
//! Further columns are kept for readers.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::codes::ListError;
use crate::contract::reading::scalar;

macro_rules! builtin {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../codes/", $name, ".csv"))),)+]
    };
}

/// The built-in tables by file stem.
const BUILTIN: &[(&str, &str)] = builtin![
    "field_lists",
    "gb32100_dept_org",
    "gbt12402_economic_type",
    "gbt2260_guangxi",
    "gbt2260_guangxi_history",
    "gbt2260_national",
    "gbt2260_provinces",
    "gbt2261_1_sex",
    "gbt2261_2_marital",
    "gbt2659_countries",
    "gbt3304_ethnic",
    "gbt4658_1984_education_major",
    "gbt4658_1984_to_2006",
    "gbt4658_education",
    "gbt4754_2011_divisions",
    "gbt4754_industry_sections",
    "gbt4761_family_relation",
    "id_document_types",
    "iso4217_currency",
    "regional_lists",
];

/// The rows of one file.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    header: csv::StringRecord,
    rows: Vec<csv::StringRecord>,
}

impl Table {
    pub(crate) fn parse(text: &str) -> Result<Self, csv::Error> {
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let header = reader.headers()?.clone();
        let rows = reader.records().collect::<Result<_, _>>()?;
        Ok(Self { header, rows })
    }

    pub(crate) fn header(&self) -> &csv::StringRecord {
        &self.header
    }

    pub(crate) fn rows(&self) -> &[csv::StringRecord] {
        &self.rows
    }

    pub(crate) fn column(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|column| column == name)
    }

    /// The column of Chinese names.
    pub(crate) fn name_column(&self) -> Option<usize> {
        self.column("name").or_else(|| self.column("name_zh"))
    }

    /// The column that tells the lists of one file apart.
    pub(crate) fn list_column(&self) -> Option<usize> {
        self.column("scheme").or_else(|| self.column("list"))
    }

    /// Each row's cells of these columns; a column that is not there reads as empty.
    pub(crate) fn cells<'t, const N: usize>(&'t self, columns: [&str; N]) -> impl Iterator<Item = [&'t str; N]> + 't {
        let columns = columns.map(|name| self.column(name));
        self.rows.iter().map(move |row| columns.map(|column| column.and_then(|at| row.get(at)).unwrap_or_default()))
    }
}

/// The texts of a standard's tables. They are parsed when they are asked for: a node needs few of them, and those once.
#[derive(Debug, Clone)]
pub(crate) struct Tables(BTreeMap<String, Cow<'static, str>>);

impl Tables {
    pub(crate) fn builtin() -> Self {
        Self(BUILTIN.iter().map(|(name, text)| ((*name).to_owned(), Cow::Borrowed(*text))).collect())
    }

    /// Adds a table, or replaces the one of that name.
    pub(crate) fn insert(&mut self, name: String, text: String) {
        self.0.insert(name, Cow::Owned(text));
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.keys().map(String::as_str)
    }

    pub(crate) fn get(&self, name: &str) -> Result<Table, ListError> {
        let text = self.0.get(name).ok_or_else(|| ListError {
            table: name.to_owned(),
            message: format!("there is no code table `{}`", scalar::short(name)),
            help: scalar::suggestion(name, self.names()),
        })?;
        Table::parse(text).map_err(|error| ListError::new(name, error.to_string()))
    }
}
