//! Code tables: CSV files, read once, looked up by code, by name and by alias.
//!
//! A table is any CSV with a column `code`; what else is used, where it is there: `name` or `name_zh`, `name_en`, aliases
//! (`short_name`, `aliases`, …), `scheme` or `list` (several lists in one file).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::StandardError;
use super::finding::Rule;

/// The built-in tables by file stem.
const BUILTIN: &[(&str, &str)] = &[
    ("field_lists", include_str!("../../codes/field_lists.csv")),
    ("gb32100_dept_org", include_str!("../../codes/gb32100_dept_org.csv")),
    ("gbt12402_economic_type", include_str!("../../codes/gbt12402_economic_type.csv")),
    ("gbt2260_guangxi", include_str!("../../codes/gbt2260_guangxi.csv")),
    ("gbt2260_guangxi_history", include_str!("../../codes/gbt2260_guangxi_history.csv")),
    ("gbt2260_national", include_str!("../../codes/gbt2260_national.csv")),
    ("gbt2260_provinces", include_str!("../../codes/gbt2260_provinces.csv")),
    ("gbt2261_1_sex", include_str!("../../codes/gbt2261_1_sex.csv")),
    ("gbt2261_2_marital", include_str!("../../codes/gbt2261_2_marital.csv")),
    ("gbt2659_countries", include_str!("../../codes/gbt2659_countries.csv")),
    ("gbt3304_ethnic", include_str!("../../codes/gbt3304_ethnic.csv")),
    ("gbt4658_1984_education_major", include_str!("../../codes/gbt4658_1984_education_major.csv")),
    ("gbt4658_1984_to_2006", include_str!("../../codes/gbt4658_1984_to_2006.csv")),
    ("gbt4658_education", include_str!("../../codes/gbt4658_education.csv")),
    ("gbt4754_2011_divisions", include_str!("../../codes/gbt4754_2011_divisions.csv")),
    ("gbt4754_industry_sections", include_str!("../../codes/gbt4754_industry_sections.csv")),
    ("gbt4761_family_relation", include_str!("../../codes/gbt4761_family_relation.csv")),
    ("id_document_types", include_str!("../../codes/id_document_types.csv")),
    ("iso4217_currency", include_str!("../../codes/iso4217_currency.csv")),
    ("regional_lists", include_str!("../../codes/regional_lists.csv")),
];

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

/// The rows of one file.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    header: csv::StringRecord,
    rows: Vec<csv::StringRecord>,
}

impl Table {
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, StandardError> {
        let failed = |error: csv::Error| StandardError::Table { table: name.to_owned(), reason: error.to_string() };
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let header = reader.headers().map_err(failed)?.clone();
        let rows = reader.records().collect::<Result<_, _>>().map_err(failed)?;
        Ok(Self { header, rows })
    }

    pub(crate) fn column(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|column| column == name)
    }

    /// Each row's cells of these columns; a column that is not there reads as empty.
    pub(crate) fn cells<'t, const N: usize>(&'t self, columns: [&str; N]) -> impl Iterator<Item = [&'t str; N]> + 't {
        let columns = columns.map(|name| self.column(name));
        self.rows.iter().map(move |row| columns.map(|column| column.and_then(|at| row.get(at)).unwrap_or_default()))
    }
}

/// Every table of a standard.
#[derive(Debug, Clone)]
pub(crate) struct Tables(HashMap<String, Table>);

impl Tables {
    pub(crate) fn builtin() -> Result<Self, StandardError> {
        let tables = BUILTIN.iter().map(|(name, text)| Ok(((*name).to_owned(), Table::parse(name, text)?)));
        Ok(Self(tables.collect::<Result<_, StandardError>>()?))
    }

    /// Adds a table, or replaces the one of that name.
    pub(crate) fn insert(&mut self, name: String, table: Table) {
        self.0.insert(name, table);
    }

    pub(crate) fn get(&self, name: &str) -> Result<&Table, StandardError> {
        self.0.get(name).ok_or_else(|| StandardError::NoTable {
            table: name.to_owned(),
            nearest: super::nearest(name, self.0.keys().map(String::as_str)).map(str::to_owned),
        })
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
}

/// The legal values of a code field, made of one or several tables.
#[derive(Debug, Clone)]
pub struct CodeList {
    /// How the field's schema names it: `gbt2261_1_sex`, `regional_lists:penalty_kind`, `gbt2659_countries#alpha3`.
    pub name: String,
    codes: Vec<Code>,
    by_code: PackedMap<u64, u32>,
    by_name: PackedMap<Box<str>, u32>,
    /// All codes have this many characters, so that shorter digits may lack leading zeros.
    width: Option<usize>,
}

impl CodeList {
    /// Builds the list that `spec` names: `table`, `table:part`, `table#column`, or several joined by `|`.
    pub(crate) fn build(spec: &str, tables: &Tables) -> Result<Self, StandardError> {
        let mut list = Self {
            name: spec.to_owned(),
            codes: Vec::new(),
            by_code: HashMap::default(),
            by_name: HashMap::default(),
            width: None,
        };
        let mut names: HashMap<Box<str>, Option<u32>> = HashMap::new();
        for part in spec.split('|') {
            list.add(part, tables, &mut names)?;
        }
        if list.codes.is_empty() {
            return Err(StandardError::EmptyList { list: spec.to_owned() });
        }
        list.by_name = names.into_iter().filter_map(|(name, at)| Some((name, at?))).collect();
        let mut widths = list.codes.iter().map(|code| code.code.len());
        let first = widths.next();
        list.width = first.filter(|first| widths.all(|width| width == *first));
        Ok(list)
    }

    /// `names` holds `None` for a name that two codes share: it finds neither.
    fn add(&mut self, spec: &str, tables: &Tables, names: &mut HashMap<Box<str>, Option<u32>>) -> Result<(), StandardError> {
        let (spec, code_column) = spec.split_once('#').unwrap_or((spec, "code"));
        let (name, part) = spec.split_once(':').map_or((spec, None), |(name, part)| (name, Some(part)));
        let table = tables.get(name)?;
        let failed = |reason: String| StandardError::Table { table: name.to_owned(), reason };
        let code_at = table.column(code_column).ok_or_else(|| failed(format!("no column {code_column}")))?;
        let name_at = table.column("name").or_else(|| table.column("name_zh"));
        let part_at = part.map(|_| table.column("scheme").or_else(|| table.column("list")));
        if part_at == Some(None) {
            return Err(failed("no column scheme or list".to_owned()));
        }
        let alias_at: Vec<usize> = ALIASES.iter().chain(&["code"]).filter_map(|column| table.column(column)).collect();
        for row in &table.rows {
            let in_part = part.zip(part_at.flatten()).is_none_or(|(part, at)| row.get(at).unwrap_or_default().starts_with(part));
            let code = row.get(code_at).unwrap_or_default();
            if !in_part || code.is_empty() {
                continue;
            }
            let packed = pack(code).ok_or_else(|| failed(format!("code {code} has more than 8 bytes")))?;
            let at = u32::try_from(self.codes.len()).unwrap_or(u32::MAX);
            if self.by_code.insert(packed, at).is_some() {
                return Err(failed(format!("code {code} stands twice")));
            }
            let title = name_at.and_then(|at| row.get(at)).unwrap_or_default();
            let name_en = table.column("name_en").and_then(|at| row.get(at)).unwrap_or_default();
            let aliases = alias_at.iter().filter_map(|at| row.get(*at)).flat_map(|cell| cell.split(';'));
            for alias in aliases.chain([title]).filter(|alias| !alias.is_empty() && *alias != code) {
                names.entry(alias.into()).and_modify(|held| *held = held.filter(|held| *held == at)).or_insert(Some(at));
            }
            self.codes.push(Code { code: code.into(), name: title.into(), name_en: name_en.into() });
        }
        Ok(())
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
        self.codes.get(*self.by_code.get(&pack(code)?)? as usize)
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

    /// The code nearest to a mistyped one, for messages: by code, else by name.
    #[must_use]
    pub fn nearest(&self, text: &str) -> Option<&Code> {
        if let Some((code, _)) = self.find_otherwise(text) {
            return Some(code);
        }
        let name = super::nearest(text, self.codes.iter().map(|code| &*code.name))?;
        self.codes.iter().find(|code| &*code.name == name)
    }
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
        CodeList::build(spec, &Tables::builtin().expect("tables")).expect("list")
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
        let mut tables = Tables::builtin().expect("tables");
        let table = Table::parse("two", "code,name,aliases\n1,甲,共\n2,乙,共;己\n").expect("table");
        tables.insert("two".to_owned(), table);
        let two = CodeList::build("two", &tables).expect("list");
        assert!(two.find_otherwise("共").is_none());
        assert_eq!(two.find_otherwise("己").map(|(code, _)| &*code.code), Some("2"));
    }

    #[test]
    fn a_list_that_is_not_there_is_an_error_with_the_nearest_name() {
        let error = CodeList::build("gbt2261_1_sexx", &Tables::builtin().expect("tables")).expect_err("no such table");
        assert!(error.to_string().contains("gbt2261_1_sex"), "{error}");
    }
}
