//! Code tables as files: CSV, built in or from a directory, each read when it is asked for.
//!
//! The form of a code table: a header; a column `code`; its Chinese name in `name` or `name_zh`, the English one in `name_en`; several lists
//! in one file where a column `list` (or `scheme`) names each row's; aliases, separated by `;`, in `aliases` or `short_name`. A code's
//! history: `valid_from` and `valid_to` are its first and last day, `successor` is the code that is written in its place from then on.
//! Further columns are kept for readers. `tables.csv` gives the tables their titles and editions.

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

/// What each table is called, in Chinese and English, and which edition it holds. A directory's file of this name adds to it.
const TITLES: &str = include_str!("../../codes/tables.csv");

/// The name under which a directory gives its tables their titles.
pub(crate) const TITLES_NAME: &str = "tables";

/// The rows of one code table.
#[derive(Debug, Clone)]
pub struct Table {
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

    /// The columns' names.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.header.iter()
    }

    /// Each row's cells, in the order of the columns.
    pub fn records(&self) -> impl Iterator<Item = Vec<&str>> {
        self.rows.iter().map(|row| row.iter().collect())
    }

    /// Where a column stands.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|column| column == name)
    }

    /// The column of Chinese names.
    #[must_use]
    pub fn name_column(&self) -> Option<usize> {
        self.column("name").or_else(|| self.column("name_zh"))
    }

    /// The column that tells the lists of one file apart.
    #[must_use]
    pub fn list_column(&self) -> Option<usize> {
        self.column("scheme").or_else(|| self.column("list"))
    }

    /// Each row's cells of these columns; a column that is not there reads as empty.
    pub(crate) fn cells<'t, const N: usize>(&'t self, columns: [&str; N]) -> impl Iterator<Item = [&'t str; N]> + 't {
        let columns = columns.map(|name| self.column(name));
        self.rows.iter().map(move |row| columns.map(|column| column.and_then(|at| row.get(at)).unwrap_or_default()))
    }
}

/// What a table is called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Title {
    pub zh: String,
    pub en: String,
    /// The edition, as the standard that it is taken from names it.
    pub version: String,
}

/// The texts of a standard's tables. They are parsed when they are asked for: a node needs few of them, and those once.
#[derive(Debug, Clone)]
pub(crate) struct Tables {
    texts: BTreeMap<String, Cow<'static, str>>,
    titles: BTreeMap<String, Title>,
}

impl Tables {
    pub(crate) fn builtin() -> Self {
        let texts = BUILTIN.iter().map(|(name, text)| ((*name).to_owned(), Cow::Borrowed(*text))).collect();
        let mut tables = Self { texts, titles: BTreeMap::new() };
        if let Ok(titles) = Table::parse(TITLES) {
            tables.add_titles(&titles);
        }
        tables
    }

    /// Adds a table, or replaces the one of that name.
    pub(crate) fn insert(&mut self, name: String, text: String) {
        self.texts.insert(name, Cow::Owned(text));
    }

    pub(crate) fn add_titles(&mut self, titles: &Table) {
        for [name, zh, en, version] in titles.cells(["table", "title_zh", "title_en", "version"]) {
            self.titles.insert(name.to_owned(), Title { zh: zh.to_owned(), en: en.to_owned(), version: version.to_owned() });
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.texts.keys().map(String::as_str)
    }

    pub(crate) fn title(&self, name: &str) -> Title {
        self.titles.get(name).cloned().unwrap_or_default()
    }

    pub(crate) fn holds(&self, name: &str) -> bool {
        self.texts.contains_key(name)
    }

    /// Tables that are not built in, with their texts.
    pub(crate) fn replaced(&self) -> impl Iterator<Item = (&str, &str)> {
        let own = self.texts.iter().filter(|(_, text)| matches!(text, Cow::Owned(_)));
        own.map(|(name, text)| (name.as_str(), text.as_ref()))
    }

    /// Whether the table is the built-in one.
    pub(crate) fn is_builtin(&self, name: &str) -> bool {
        matches!(self.texts.get(name), Some(Cow::Borrowed(_)))
    }

    pub(crate) fn get(&self, name: &str) -> Result<Table, ListError> {
        let text = self.texts.get(name).ok_or_else(|| ListError {
            table: name.to_owned(),
            message: format!("there is no code table `{}`", scalar::short(name)),
            help: scalar::suggestion(name, self.names()),
        })?;
        Table::parse(text).map_err(|error| ListError::new(name, error.to_string()))
    }
}
