//! Where a value comes from: exactly one of `from`, `first`, `const` and `cel`.

use super::super::join::LookupUse;
use super::super::reading::document::Found;
use super::super::reading::kinds::Kind;
use super::super::reading::section::Section;
use super::ValueSource;
use super::read::Reader;
use crate::standard::{EntityField, FieldKind};

const KINDS: [&str; 4] = ["from", "first", "const", "cel"];

impl Reader<'_> {
    pub(super) fn value(&self, section: &Section<'_>, field: Option<&EntityField>) -> Option<ValueSource> {
        let given: Vec<&str> = KINDS.into_iter().filter(|key| section.has(key)).collect();
        KINDS.iter().for_each(|key| section.know(key));
        let separator = section.text("join");
        if section.has("lookup") {
            return self.looked_up(section, &given);
        }
        let kind = match given.as_slice() {
            [kind] => *kind,
            [] => {
                let help = "one of `from`, `first`, `const`, `cel` and `cases`".to_owned();
                let message = "the mapping does not say where its value comes from";
                section.problem(section.at(), "missing-key", message, Some(help));
                return None;
            }
            [first, second, ..] => {
                let message = format!("`{first}` and `{second}` cannot stand together");
                section.problem(&section.key_at(second), "conflict", message, None);
                return None;
            }
        };
        if separator.is_some() && kind != "from" {
            let message = format!("`join` joins columns of `from`, not `{kind}`");
            section.problem(&section.key_at("join"), "conflict", message, None);
        }
        match kind {
            "from" => self.all_of(section, separator),
            "first" => self.first_of(section),
            "const" => section.scalar("const").map(|found| ValueSource::Constant(found.value)),
            _ => self.computed(section, field),
        }
    }

    fn computed(&self, section: &Section<'_>, field: Option<&EntityField>) -> Option<ValueSource> {
        let (found, kind) = self.expression(section, "cel")?;
        let takes_no_truth = |field: &EntityField| {
            matches!(
                field.kind,
                FieldKind::Date | FieldKind::Time | FieldKind::PartialDate | FieldKind::Decimal { .. } | FieldKind::Int
            )
        };
        let wrong = match kind {
            Some(kind @ (Kind::List | Kind::Map | Kind::Bytes)) => {
                Some((format!("the expression gives {kind}, and a field is made of one value"), "pick one item, or `join` them"))
            }
            Some(kind @ Kind::Truth) => field
                .filter(|field| takes_no_truth(field))
                .map(|field| (format!("the expression gives {kind}, which `{}` ({}) cannot be", field.name, field.title_zh), "")),
            Some(Kind::Number | Kind::Text) | None => None,
        };
        let Some((message, help)) = wrong else { return Some(ValueSource::Cel(found.value)) };
        section.problem(&found.at, "wrong-type", message, (!help.is_empty()).then(|| help.to_owned()));
        None
    }

    /// The columns of a key; each counts as named, whatever else is wrong with the entry.
    fn columns(&self, section: &Section<'_>, key: &str) -> Option<Found<Vec<String>>> {
        let Found { value, at } = section.texts(key)?;
        if value.is_empty() || value.iter().any(|column| column.value.trim().is_empty()) {
            section.problem(&at, "empty", format_args!("`{key}` names no column"), None);
            return None;
        }
        Some(Found { value: value.into_iter().map(|column| self.column(column)).collect(), at })
    }

    fn all_of(&self, section: &Section<'_>, separator: Option<Found<String>>) -> Option<ValueSource> {
        let Found { value: columns, at } = self.columns(section, "from")?;
        match (columns.as_slice(), separator) {
            ([one], None) => Some(ValueSource::Column(one.clone())),
            ([_], Some(separator)) => {
                section.problem(&separator.at, "conflict", "`join` needs several columns in `from`", None);
                None
            }
            (_, Some(separator)) => Some(ValueSource::Joined { columns, separator: separator.value }),
            (_, None) => {
                let help = "add `join = \"\"` with what stands between them, or say `first` for the first that is not empty";
                section.problem(&at, "missing-key", "several columns need `join`", Some(help.to_owned()));
                None
            }
        }
    }

    /// `from` gives the key of a dictionary, each column a part of it.
    fn looked_up(&self, section: &Section<'_>, given: &[&str]) -> Option<ValueSource> {
        for other in given.iter().copied().filter(|kind| *kind != "from").chain(section.has("join").then_some("join")) {
            let message = format!("`lookup` and `{other}` cannot stand together");
            section.problem(&section.key_at(other), "conflict", message, None);
        }
        let lookup = section.words("lookup");
        let value = section.required("value", Section::words);
        let from = section.required("from", |section, key| self.columns(section, key));
        let (lookup, value, Found { value: from, at }) = (lookup?, value?, from?);
        let source = ValueSource::Lookup { lookup: lookup.value.clone(), from: from.clone(), value: value.value.clone() };
        self.look_up(LookupUse { lookup, value, from: from.len(), at });
        Some(source)
    }

    fn first_of(&self, section: &Section<'_>) -> Option<ValueSource> {
        let Found { value: columns, at } = self.columns(section, "first")?;
        let twice = columns.iter().enumerate().any(|(at, column)| columns.iter().take(at).any(|other| other == column));
        if columns.len() < 2 || twice {
            let help = "for one column say `from`".to_owned();
            section.problem(&at, "bad-value", "`first` names several columns, each once", Some(help));
            return None;
        }
        Some(ValueSource::First(columns))
    }
}
