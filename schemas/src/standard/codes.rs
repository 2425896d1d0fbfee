//! Code lists: what a code field may hold, looked up by code, by name and by alias.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use super::file::plain_date;
use super::finding::Rule;
use super::table::{Table, Tables};
use crate::contract::reading::scalar;

/// Columns whose values, separated by `;`, find a code as its name does.
const ALIASES: &[&str] = &[
    "short_name",
    "aliases",
    "aliases_seen",
    "name_en",
    "alpha",
    "alpha3",
    "numeric",
    "name_gbt2659_2000",
    "name_pycountry_zh",
    "code_with_section",
];

/// Why a code list cannot be had, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("code table {table}: {message}{}", .help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default())]
pub struct ListError {
    /// The table that it is about.
    pub table: String,
    pub message: String,
    pub help: Option<String>,
}

impl ListError {
    pub(crate) fn new(table: &str, message: String) -> Self {
        Self { table: table.to_owned(), message, help: None }
    }
}

/// One code of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    pub code: Box<str>,
    /// Chinese name.
    pub name: Box<str>,
    /// Empty where the table has none.
    pub name_en: Box<str>,
    /// `None` for a code that is in force without end, as nearly all are.
    pub history: Option<Box<History>>,
}

/// When a code is in force, in days since 1970-01-01, and what it became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    pub valid_from: Option<i32>,
    /// The last day.
    pub valid_to: Option<i32>,
    pub successor: Option<Box<str>>,
}

impl History {
    fn read(table: &Table, row: &csv::StringRecord) -> Option<Box<Self>> {
        let cell = |name: &str| table.column(name).and_then(|at| row.get(at)).filter(|cell| !cell.is_empty());
        let history = Self {
            valid_from: cell("valid_from").and_then(plain_date),
            valid_to: cell("valid_to").and_then(plain_date),
            successor: cell("successor").map(Box::from),
        };
        let is_told = history.valid_from.is_some() || history.valid_to.is_some() || history.successor.is_some();
        is_told.then(|| Box::new(history))
    }

    /// Whether the code is out of force on a day: after its last one, or at any time where it has a successor and no last day.
    fn is_over(&self, today: i32) -> bool {
        self.valid_to.map_or(self.successor.is_some(), |last| today > last)
    }
}

/// The legal values of a code field, made of one or several tables.
#[derive(Debug, Clone)]
pub struct CodeList {
    /// How the field's schema names it: `gbt2261_1_sex`, `regional_lists:penalty_kind`, `gbt2659_countries#alpha3`.
    pub name: String,
    codes: Vec<Code>,
    by_code: PackedMap<u64, u32>,
    /// Codes of more than eight bytes.
    by_long_code: PackedMap<Box<str>, u32>,
    by_name: PackedMap<Box<str>, u32>,
    /// All codes have this many characters, so that shorter digits may lack leading zeros.
    width: Option<usize>,
}

impl CodeList {
    /// Builds the list that `spec` names: `table`, `table:part`, `table#column`, or several joined by `|`.
    pub(crate) fn build(spec: &str, tables: &Tables) -> Result<Self, ListError> {
        let mut list = Self {
            name: spec.to_owned(),
            codes: Vec::new(),
            by_code: HashMap::default(),
            by_long_code: HashMap::default(),
            by_name: HashMap::default(),
            width: None,
        };
        let mut names: HashMap<Box<str>, Option<u32>> = HashMap::new();
        for part in spec.split('|') {
            list.add(part, tables, &mut names)?;
        }
        list.by_name = names.into_iter().filter_map(|(name, at)| Some((name, at?))).collect();
        let mut widths = list.codes.iter().map(|code| code.code.len());
        let first = widths.next();
        list.width = first.filter(|first| widths.all(|width| width == *first));
        Ok(list)
    }

    /// `names` holds `None` for a name that two codes share: it finds neither.
    fn add(&mut self, spec: &str, tables: &Tables, names: &mut HashMap<Box<str>, Option<u32>>) -> Result<(), ListError> {
        let (spec, code_column) = spec.split_once('#').unwrap_or((spec, "code"));
        let (name, part) = spec.split_once(':').map_or((spec, None), |(name, part)| (name, Some(part)));
        let table = tables.get(name)?;
        let code_at = column(&table, name, code_column)?;
        let part_at = match part {
            None => None,
            Some(_) => Some(table.list_column().ok_or_else(|| ListError::new(name, "it has no column `list`".to_owned()))?),
        };
        let alias_at: Vec<usize> = ALIASES.iter().chain(&["code"]).filter_map(|column| table.column(column)).collect();
        let before = self.codes.len();
        for row in table.rows() {
            let cell = |at: Option<usize>| at.and_then(|at| row.get(at)).unwrap_or_default();
            let in_part = part.is_none_or(|part| cell(part_at).starts_with(part));
            let code = cell(Some(code_at));
            if !in_part || code.is_empty() {
                continue;
            }
            let at = u32::try_from(self.codes.len()).unwrap_or(u32::MAX);
            let held = match pack(code) {
                Some(packed) => self.by_code.insert(packed, at),
                None => self.by_long_code.insert(code.into(), at),
            };
            if held.is_some() {
                let help =
                    part.is_none().then(|| table.list_column()).flatten().map(|_| format!("name one of its lists: {name}:…"));
                return Err(ListError { table: name.to_owned(), message: format!("code {code} stands twice"), help });
            }
            let title = cell(table.name_column());
            let aliases = alias_at.iter().filter_map(|at| row.get(*at)).flat_map(|cell| cell.split(';'));
            for alias in aliases.chain([title]).filter(|alias| !alias.is_empty() && *alias != code) {
                names.entry(alias.into()).and_modify(|held| *held = held.filter(|held| *held == at)).or_insert(Some(at));
            }
            self.codes.push(Code {
                code: code.into(),
                name: title.into(),
                name_en: cell(table.column("name_en")).into(),
                history: History::read(&table, row),
            });
        }
        if self.codes.len() > before {
            return Ok(());
        }
        let lists: BTreeSet<&str> =
            part_at.into_iter().flat_map(|at| table.rows().iter().filter_map(move |row| row.get(at))).collect();
        let message = match part {
            Some(part) => format!("it has no list `{}`", scalar::short(part)),
            None => "it has no codes".to_owned(),
        };
        Err(ListError { table: name.to_owned(), message, help: part.and_then(|part| scalar::suggestion(part, lists)) })
    }

    /// All codes in the table's order.
    #[must_use]
    pub fn codes(&self) -> &[Code] {
        &self.codes
    }

    /// Whether the list has exactly this code.
    #[must_use]
    pub fn contains(&self, code: &str) -> bool {
        self.get(code).is_some()
    }

    #[must_use]
    pub fn get(&self, code: &str) -> Option<&Code> {
        let at = match pack(code) {
            Some(packed) => self.by_code.get(&packed)?,
            None => self.by_long_code.get(code)?,
        };
        self.codes.get(*at as usize)
    }

    /// The code that is in force on a day in this one's place, with the rule of the change. A code that ended without a successor stands
    /// for itself.
    pub(crate) fn in_force<'l>(&'l self, code: &'l Code, today: i32) -> (&'l Code, Option<Rule>) {
        let (mut current, mut rule) = (code, None);
        // A chain of successors is no longer than the list; a file whose chain is a ring was refused.
        for _ in &self.codes {
            let Some(history) = &current.history else { break };
            if history.valid_from.is_some_and(|first| today < first) {
                return (current, Some(Rule::CodeTooEarly));
            }
            if !history.is_over(today) {
                break;
            }
            match history.successor.as_ref().and_then(|successor| self.get(successor)) {
                Some(successor) => (current, rule) = (successor, Some(Rule::CodeRetired)),
                None => return (current, Some(Rule::CodeNoSuccessor)),
            }
        }
        (current, rule)
    }

    /// The code with exactly this name or alias.
    pub(crate) fn named(&self, name: &str) -> Option<&Code> {
        self.codes.get(*self.by_name.get(name)? as usize)
    }

    /// The code that a name, an alias or a code without its leading zeros stands for, with the rule of the repair.
    pub(crate) fn find_otherwise(&self, text: &str) -> Option<(&Code, Rule)> {
        if let Some(code) = self.named(text) {
            return Some((code, Rule::CodeByName));
        }
        let width = self.width.filter(|width| text.len() < *width && text.bytes().all(|b| b.is_ascii_digit()))?;
        Some((self.get(&format!("{text:0>width$}"))?, Rule::CodePadded))
    }

    /// Whether a text stands in the list as a name or an alias, and not as a code; `None` where it does not stand in it.
    pub(crate) fn is_name(&self, text: &str) -> Option<bool> {
        if self.contains(text) {
            return Some(false);
        }
        self.find_otherwise(text).map(|(_, rule)| rule == Rule::CodeByName)
    }

    /// The code that a text stands for: as a code, with or without leading zeros, as a name or as an alias.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<&Code> {
        self.get(text).or_else(|| self.find_otherwise(text).map(|(code, _)| code))
    }

    /// The code nearest to a mistyped one, for messages: by code, else by name.
    #[must_use]
    pub fn nearest(&self, text: &str) -> Option<&Code> {
        if let Some((code, _)) = self.find_otherwise(text) {
            return Some(code);
        }
        let name = scalar::nearest(text, self.codes.iter().map(|code| &*code.name))?;
        self.codes.iter().find(|code| &*code.name == name)
    }
}

/// What each cell of column `by` stands for: the cell of column `to` in its row. One that stands for several is left out.
pub(crate) fn pairs(spec: &str, by: &str, to: &str, tables: &Tables) -> Result<BTreeMap<String, String>, ListError> {
    let (name, part) = spec.split_once(':').map_or((spec, None), |(name, part)| (name, Some(part)));
    let table = tables.get(name)?;
    let at = |wanted: &str| match (wanted, table.name_column()) {
        ("name", Some(at)) => Ok(at),
        _ => column(&table, name, wanted),
    };
    let (by, to) = (at(by)?, at(to)?);
    let list_at = table.list_column();
    let mut found: BTreeMap<String, Option<String>> = BTreeMap::new();
    for row in table.rows() {
        let cell = |at: usize| row.get(at).unwrap_or_default();
        let in_part = part.is_none_or(|part| list_at.is_some_and(|at| cell(at).starts_with(part)));
        let (value, code) = (cell(by), cell(to));
        if in_part && !value.is_empty() && !code.is_empty() {
            let held = found.entry(value.to_owned()).or_insert_with(|| Some(code.to_owned()));
            if held.as_deref() != Some(code) {
                *held = None;
            }
        }
    }
    let pairs: BTreeMap<_, _> = found.into_iter().filter_map(|(value, code)| Some((value, code?))).collect();
    if pairs.is_empty() { Err(ListError::new(name, format!("`{}` has no rows", scalar::short(spec)))) } else { Ok(pairs) }
}

fn column(table: &Table, name: &str, column: &str) -> Result<usize, ListError> {
    table.column(column).ok_or_else(|| ListError {
        table: name.to_owned(),
        message: format!("it has no column `{}`", scalar::short(column)),
        help: scalar::suggestion(column, table.header()),
    })
}

/// Up to eight bytes as a number, distinct for distinct codes: no code holds NUL.
pub(crate) fn pack(code: &str) -> Option<u64> {
    (code.len() <= 8).then(|| code.bytes().fold(0, |packed, byte| packed << 8 | u64::from(byte)))
}

/// Hashes what tables are asked by: keys come from the tables alone, so nobody can aim at collisions.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PackedHasher(u64);

impl Hasher for PackedHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for word in bytes.chunks(8) {
            self.write_u64(word.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        // Multiplication spreads upwards only; the fold brings the upper half to the bits that pick the bucket.
        let product = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = product ^ (product >> 32);
    }
}

pub(crate) type PackedMap<K, V> = HashMap<K, V, BuildHasherDefault<PackedHasher>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn list(spec: &str) -> CodeList {
        CodeList::build(spec, &Tables::builtin()).expect("list")
    }

    #[test]
    fn a_code_is_found_by_code_name_alias_and_without_its_zero() {
        let ethnic = list("gbt3304_ethnic");
        assert_eq!(ethnic.get("08").map(|code| &*code.name), Some("壮族"));
        for text in ["壮族", "壮", "ZH"] {
            assert_eq!(ethnic.find_otherwise(text).map(|(code, _)| &*code.code), Some("08"), "{text}");
        }
        assert_eq!(ethnic.find_otherwise("8").map(|(code, rule)| (&*code.code, rule)), Some(("08", Rule::CodePadded)));
        assert_eq!(ethnic.find_otherwise("乌兹别克族").map(|(code, _)| &*code.code), Some("43"));
        assert!(ethnic.get("57").is_none() && ethnic.find_otherwise("汉人").is_none());
    }

    #[test]
    fn another_column_can_be_the_code() {
        let countries = list("gbt2659_countries#alpha3");
        assert!(countries.contains("CHN") && !countries.contains("CN"));
        for text in ["CN", "156", "中国"] {
            assert_eq!(countries.find_otherwise(text).map(|(code, _)| &*code.code), Some("CHN"), "{text}");
        }
    }

    #[test]
    fn parts_of_tables_join_and_an_ambiguous_name_finds_nothing() {
        let types = list("id_document_types:GA/T 517-2004|regional_lists:doc_type_regional");
        assert!(types.contains("111") && types.contains("R01") && !types.contains("201"));
        let mut tables = Tables::builtin();
        tables.insert("two".to_owned(), "code,name,aliases\n1,甲,共\n2,乙,共;己\n".to_owned());
        let two = CodeList::build("two", &tables).expect("list");
        assert!(two.find_otherwise("共").is_none());
        assert_eq!(two.find_otherwise("己").map(|(code, _)| &*code.code), Some("2"));
    }

    #[test]
    fn a_list_that_is_not_there_is_an_error_with_the_nearest_name() {
        let error = CodeList::build("gbt2261_1_sexx", &Tables::builtin()).expect_err("no such table");
        assert!(error.to_string().contains("gbt2261_1_sex"), "{error}");
    }
}
