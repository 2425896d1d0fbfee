//! The words by which departments name what the standard has, as data: `synonyms.csv` (terms in Chinese and English; pinyin follows from
//! the Chinese ones), `identifiers.csv` (column names of national systems), `codes.csv` (what these systems' own codes are in the standard) and
//! `meanings.csv` (words that stand for a code).
//!
//! A synonym of no field (entity `*`) is the name of something that is never mapped: passwords, stamps of the system, row numbers.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::LazyLock;

use guitong_schemas::standard::{CodeList, Entity};

use super::words::{ColumnWords, Term};

const SYNONYMS: &str = include_str!("synonyms.csv");
const IDENTIFIERS: &str = include_str!("identifiers.csv");
const MEANINGS: &str = include_str!("meanings.csv");
const CODES: &str = include_str!("codes.csv");

/// Columns of one system that have to be there before a bare name of it counts in full.
const FAMILIAR: usize = 3;

/// Terms of one field, or of something that no field takes.
struct Entry {
    entity: String,
    field: String,
    terms: Vec<Term>,
}

struct Identifier {
    name: String,
    entity: String,
    field: String,
    source: String,
}

struct Vocabulary {
    entries: Vec<Entry>,
    identifiers: Vec<Identifier>,
    /// Column name in capitals and its value, and the code.
    codes: HashMap<(String, String), String>,
    /// By code list: words and the code they stand for.
    meanings: HashMap<String, Vec<(String, String)>>,
}

/// Rows of a file of this folder, whose cells are there: the crate's tests read them all.
fn rows<const N: usize>(text: &'static str) -> impl Iterator<Item = [String; N]> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let records: Vec<csv::StringRecord> = reader.records().filter_map(Result::ok).collect();
    records.into_iter().map(|row| std::array::from_fn(|at| row.get(at).unwrap_or_default().to_owned()))
}

static VOCABULARY: LazyLock<Vocabulary> = LazyLock::new(|| {
    let entries = rows::<4>(SYNONYMS).map(|[entity, field, chinese, english]| Entry {
        entity,
        field,
        terms: chinese.split(';').map(Term::chinese).chain(english.split(';').map(Term::english)).collect(),
    });
    let identifiers = rows::<4>(IDENTIFIERS).map(|[name, entity, field, source]| Identifier { name, entity, field, source });
    let mut meanings: HashMap<String, Vec<(String, String)>> = HashMap::new();
    for [list, code, words] in rows::<3>(MEANINGS) {
        meanings.entry(list).or_default().extend(words.split(';').map(|word| (word.to_owned(), code.clone())));
    }
    let codes = rows::<3>(CODES).map(|[column, value, code]| ((column, value), code)).collect();
    Vocabulary { entries: entries.collect(), identifiers: identifiers.collect(), codes, meanings }
});

/// How near a name is to a field, and by which words.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Nearness {
    pub(super) score: f64,
    pub(super) reason: String,
}

impl Nearness {
    const NONE: Self = Self { score: 0.0, reason: String::new() };

    fn or(self, other: Self) -> Self {
        if other.score > self.score { other } else { self }
    }
}

/// A table's columns against the fields of one entity.
pub(super) struct Names<'e> {
    entity: &'e Entity,
    /// Titles of fields that the vocabulary does not know: those of an entity that the region added.
    own: Vec<Vec<Term>>,
    /// Columns of each national system that the table has.
    familiar: HashMap<&'static str, usize>,
}

impl<'e> Names<'e> {
    pub(super) fn of<'c>(entity: &'e Entity, columns: impl Iterator<Item = &'c str>) -> Self {
        let mut familiar: HashMap<&str, usize> = HashMap::new();
        for column in columns {
            for identifier in VOCABULARY.identifiers.iter().filter(|known| known.name.eq_ignore_ascii_case(column)) {
                *familiar.entry(&identifier.source).or_default() += 1;
            }
        }
        let own =
            entity.fields.iter().map(|field| vec![Term::chinese(&field.title_zh), Term::english(&field.name.replace('_', " "))]);
        Self { entity, own: own.collect(), familiar }
    }

    /// How near a column is to each field, in the fields' order.
    pub(super) fn fields(&self, name: &str, words: &ColumnWords) -> Vec<Nearness> {
        let fields = self.entity.fields.iter().zip(&self.own).map(|(field, own)| {
            let known = VOCABULARY.entries.iter().find(|entry| entry.entity == self.entity.name && entry.field == field.name);
            let terms = own.iter().chain(known.iter().flat_map(|entry| &entry.terms));
            nearest(words, terms).or(self.identified(name, &self.entity.name, &field.name))
        });
        fields.collect()
    }

    /// How near a column is to what is never mapped, and what that is.
    pub(super) fn nothing(&self, name: &str, words: &ColumnWords) -> (Nearness, &'static str) {
        let others = VOCABULARY.entries.iter().filter(|entry| entry.entity == "*");
        let mut best = (self.identified(name, "", ""), "what its national system keeps for itself");
        for entry in others {
            let found = nearest(words, entry.terms.iter());
            if found.score > best.0.score {
                best = (found, entry.field.as_str());
            }
        }
        best
    }

    fn identified(&self, name: &str, entity: &str, field: &str) -> Nearness {
        let mut best = Nearness::NONE;
        let known = VOCABULARY.identifiers.iter().filter(|known| known.name.eq_ignore_ascii_case(name));
        for known in known.filter(|known| known.entity == entity && known.field == field) {
            let familiar = self.familiar.get(known.source.as_str()).copied().unwrap_or_default();
            let score = if familiar >= FAMILIAR { 0.99 } else { 0.6 };
            best = best.or(Nearness { score, reason: format!("{} of {}", known.name, known.source) });
        }
        best
    }
}

fn nearest<'t>(words: &ColumnWords, terms: impl Iterator<Item = &'t Term>) -> Nearness {
    let mut best = (0.0, None);
    for term in terms {
        let score = words.nearness(term);
        if score > best.0 {
            best = (score, Some(term));
        }
    }
    best.1.map_or(Nearness::NONE, |term| Nearness { score: best.0, reason: format!("name near \"{}\"", term.shown()) })
}

/// The standard's code for a code of a national system.
pub(super) fn national_code(column: &str, value: &str) -> Option<&'static str> {
    VOCABULARY.codes.get(&(column.to_ascii_uppercase(), value.to_owned())).map(String::as_str)
}

/// The code of a list that words stand for.
pub(super) fn meaning(list: &CodeList, words: &str) -> Option<String> {
    let words = words.trim();
    let exact = list.codes().iter().find(|code| &*code.name == words);
    if let Some(code) = exact {
        return Some(code.code.to_string());
    }
    let known = meanings(list);
    let held =
        |wanted: &str| known.iter().find(|(word, code)| word == wanted && list.contains(code)).map(|(_, code)| code.clone());
    held(words).or_else(|| {
        let within = |word: &str| word.chars().count() >= 2 && words.contains(word);
        // What stands first is what is said: 吊销，未注销. Of two that begin there the longer one.
        let place = |word: &str| (Reverse(words.find(word)), word.len());
        let longest = known.iter().filter(|(word, code)| within(word) && list.contains(code)).max_by_key(|(word, _)| place(word));
        let named = list.codes().iter().filter(|code| within(&code.name)).max_by_key(|code| place(&code.name));
        longest.map(|(_, code)| code.clone()).or_else(|| named.map(|code| code.code.to_string()))
    })
}

/// The one code of a list whose words stand in a text: a table's name says that it holds penalties.
pub(super) fn told(list: &CodeList, text: &str) -> Option<(String, String)> {
    let upper = text.to_ascii_uppercase();
    let known = meanings(list);
    let mut found = known.iter().filter(|(word, code)| {
        let long = if word.is_ascii() { word.len() >= 2 } else { word.chars().count() >= 2 };
        long && upper.contains(word.as_str()) && list.contains(code)
    });
    let first = found.next()?;
    found.all(|(_, code)| *code == first.1).then(|| (first.1.clone(), first.0.clone()))
}

/// The words known for the codes of a list, which may be made of several.
fn meanings(list: &CodeList) -> Vec<&'static (String, String)> {
    let parts = list.name.split('|').map(|part| part.split(['#']).next().unwrap_or(part));
    let names = parts.flat_map(|part| {
        let (table, list) = part.split_once(':').unwrap_or((part, part));
        [table, list]
    });
    let mut known: Vec<&(String, String)> = names.filter_map(|name| VOCABULARY.meanings.get(name)).flatten().collect();
    known.dedup();
    known
}

#[cfg(test)]
mod tests {
    use guitong_schemas::standard::Standard;

    use super::*;

    #[test]
    fn every_term_is_of_a_field_that_is_there() {
        let standard = Standard::builtin();
        let field = |entity: &str, field: &str| standard.entity(entity).and_then(|entity| entity.field(field)).is_some();
        assert!(VOCABULARY.entries.len() > 160 && VOCABULARY.identifiers.len() > 150);
        for entry in VOCABULARY.entries.iter().filter(|entry| entry.entity != "*") {
            assert!(field(&entry.entity, &entry.field), "{}.{}", entry.entity, entry.field);
        }
        for known in VOCABULARY.identifiers.iter().filter(|known| !known.entity.is_empty()) {
            assert!(field(&known.entity, &known.field), "{}: {}.{}", known.name, known.entity, known.field);
        }
        for entity in standard.entities() {
            for field in &entity.fields {
                let known = |entry: &&Entry| entry.entity == entity.name && entry.field == field.name;
                assert!(VOCABULARY.entries.iter().any(|entry| known(&entry)), "{}.{}", entity.name, field.name);
            }
        }
    }

    #[test]
    fn words_stand_for_codes() {
        let status = Standard::builtin().code_list("field_lists:registration_status").unwrap();
        for (words, code) in [("存续", "1"), ("吊销，未注销", "3"), ("已注销", "4"), ("注销", "4")] {
            assert_eq!(meaning(&status, words).as_deref(), Some(code), "{words}");
        }
        assert_eq!(meaning(&status, "甲"), None);
        let kinds = Standard::builtin().code_list("field_lists:credit_record_kind").unwrap();
        assert_eq!(told(&kinds, "行政处罚信息公示").map(|(code, _)| code).as_deref(), Some("2"));
        assert_eq!(told(&kinds, "T_1"), None);
    }
}
