//! Reading one entry of `[map]`: how one field of the entity is made.

use std::collections::BTreeMap;

use super::join::LookupUse;
use super::reading::document::{At, Found};
use super::reading::section::Section;
use super::reading::{expression, scalar};
use super::resource::{FieldMapping, Place, Unit, ValueSource};
use crate::standard::{EntityField, FieldOptions};

/// A mapping and the columns it names, with their places.
pub(super) struct Mapped {
    pub(super) mapping: FieldMapping,
    pub(super) columns: Vec<(String, At)>,
    pub(super) lookup: Option<LookupUse>,
}

const UNITS: [(&str, Unit); 3] = [("元", Unit::Yuan), ("万元", Unit::TenThousandYuan), ("亿元", Unit::HundredMillionYuan)];

/// Reads `field = "column"` or `field = { … }`. `field` is `None` where the entity is not known.
pub(super) fn read(map: &Section<'_>, key: &Found<String>, field: Option<&EntityField>) -> Option<Mapped> {
    let at = map.place(&key.at);
    if !map.is_table(&key.value) {
        let column = map.words(&key.value)?;
        let columns = vec![(column.value.clone(), column.at)];
        return Some(Mapped { mapping: plain(ValueSource::Column(column.value), at), columns, lookup: None });
    }
    let section = map.own_section(&key.value)?;
    let lookup = read_lookup(&section);
    let (value, columns) = match &lookup {
        Some(uses) => looked_up(&section, uses),
        None => read_value(&section),
    };
    let mut mapping = plain(ValueSource::Constant(String::new()), at);
    mapping.codes = section.own_section("codes").map_or_else(BTreeMap::new, |codes| read_codes(codes, field));
    mapping.other = section.scalar("other").map(|other| legal(&section, other, field));
    mapping.default = section.scalar("default").map(|found| found.value);
    let formats = section.texts("format");
    let open_end = section.flag("open_end");
    let unit = section.choice("unit", &UNITS);
    let edition = section.scalar("edition");
    let split = section.text("split");
    if split.as_ref().is_some_and(|split| split.value.is_empty()) {
        section.problem(&section.key_at("split"), "empty", "`split` is empty", Some("as \";\"".to_owned()));
    }
    if let Some(field) = field {
        let options = [
            formats.as_ref().map(|found| (&found.at, FieldMapping { formats: values(found), ..plain(empty(), at) })),
            open_end.as_ref().map(|found| (&found.at, FieldMapping { open_end: found.value, ..plain(empty(), at) })),
            unit.as_ref().map(|found| (&found.at, FieldMapping { unit: Some(found.value), ..plain(empty(), at) })),
            edition.as_ref().map(|found| (&found.at, FieldMapping { edition: Some(found.value.clone()), ..plain(empty(), at) })),
            split.as_ref().map(|found| (&found.at, FieldMapping { split: Some(found.value.clone()), ..plain(empty(), at) })),
        ];
        for (at, alone) in options.into_iter().flatten() {
            if let Err(error) = FieldOptions::compile(field, &alone) {
                section.problem(at, "bad-option", error, None);
            }
        }
    }
    mapping.formats = formats.as_ref().map_or_else(Vec::new, values);
    mapping.open_end = open_end.is_some_and(|found| found.value);
    mapping.unit = unit.map(|found| found.value);
    mapping.edition = edition.map(|found| found.value);
    mapping.split = split.map(|found| found.value);
    section.finish();
    mapping.value = value?;
    Some(Mapped { mapping, columns, lookup })
}

fn empty() -> ValueSource {
    ValueSource::Constant(String::new())
}

fn values(found: &Found<Vec<Found<String>>>) -> Vec<String> {
    found.value.iter().map(|item| item.value.clone()).collect()
}

fn plain(value: ValueSource, at: Place) -> FieldMapping {
    let (default, codes, other, formats) = (None, BTreeMap::new(), None, Vec::new());
    FieldMapping { value, default, codes, other, formats, open_end: false, unit: None, edition: None, split: None, at }
}

/// Exactly one of `from`, `const` and `cel`.
fn read_value(section: &Section<'_>) -> (Option<ValueSource>, Vec<(String, At)>) {
    const KINDS: [&str; 3] = ["from", "const", "cel"];
    let given: Vec<&str> = KINDS.into_iter().filter(|key| section.has(key)).collect();
    KINDS.iter().for_each(|key| section.know(key));
    let separator = section.text("join");
    let none = (None, Vec::new());
    let kind = match given.as_slice() {
        [kind] => *kind,
        [] => {
            let help = "one of `from`, `const` and `cel`".to_owned();
            section.problem(section.at(), "missing-key", "the mapping does not say where its value comes from", Some(help));
            return none;
        }
        [_, second, ..] => {
            let message = format!("`{}` and `{}` cannot stand together", given.first().unwrap_or(&""), second);
            section.problem(&section.key_at(second), "conflict", message, None);
            return none;
        }
    };
    if separator.is_some() && kind != "from" {
        section.problem(&section.key_at("join"), "conflict", format_args!("`join` joins columns of `from`, not `{kind}`"), None);
    }
    match kind {
        "from" => read_columns(section, separator),
        "const" => (section.scalar("const").map(|found| ValueSource::Constant(found.value)), Vec::new()),
        _ => read_expression(section),
    }
}

/// `lookup` with the column of the dictionary that is wanted.
fn read_lookup(section: &Section<'_>) -> Option<LookupUse> {
    if !section.has("lookup") {
        return None;
    }
    let lookup = section.words("lookup")?;
    let value = section.required("value", Section::words)?;
    let from = section.texts("from");
    let at = from.as_ref().map_or_else(|| section.at().clone(), |found| found.at.clone());
    Some(LookupUse { lookup, value, from: from.map_or(0, |found| found.value.len()), at })
}

/// `from` gives the key of a dictionary, each column a part of it.
fn looked_up(section: &Section<'_>, uses: &LookupUse) -> (Option<ValueSource>, Vec<(String, At)>) {
    for other in ["const", "cel", "join"].into_iter().filter(|key| section.has(key)) {
        section.know(other);
        let message = format!("`lookup` and `{other}` cannot stand together");
        section.problem(&section.key_at(other), "conflict", message, None);
    }
    let Some(found) = section.required("from", Section::texts) else { return (None, Vec::new()) };
    let columns: Vec<(String, At)> = found.value.into_iter().map(|column| (column.value, column.at)).collect();
    let from = columns.iter().map(|(column, _)| column.clone()).collect();
    let (lookup, value) = (uses.lookup.value.clone(), uses.value.value.clone());
    (Some(ValueSource::Lookup { lookup, from, value }), columns)
}

fn read_columns(section: &Section<'_>, separator: Option<Found<String>>) -> (Option<ValueSource>, Vec<(String, At)>) {
    let Some(found) = section.texts("from") else { return (None, Vec::new()) };
    if found.value.is_empty() || found.value.iter().any(|column| column.value.trim().is_empty()) {
        section.problem(&found.at, "empty", "`from` names no column", None);
        return (None, Vec::new());
    }
    let columns: Vec<(String, At)> = found.value.iter().map(|column| (column.value.clone(), column.at.clone())).collect();
    let names: Vec<String> = columns.iter().map(|(column, _)| column.clone()).collect();
    let source = match (names.as_slice(), separator) {
        ([one], None) => ValueSource::Column(one.clone()),
        ([_], Some(separator)) => {
            section.problem(&separator.at, "conflict", "`join` needs several columns in `from`", None);
            return (None, columns);
        }
        (_, Some(separator)) => ValueSource::Joined { columns: names, separator: separator.value },
        (_, None) => {
            let help = "add `join = \"\"` with what stands between them".to_owned();
            section.problem(&found.at, "missing-key", "several columns need `join`", Some(help));
            return (None, columns);
        }
    };
    (Some(source), columns)
}

fn read_expression(section: &Section<'_>) -> (Option<ValueSource>, Vec<(String, At)>) {
    let Some(found) = section.words("cel") else { return (None, Vec::new()) };
    match expression::check(&found.value, &[("row", "")], &expression::STRINGS) {
        Ok(uses) => {
            let columns = uses.columns.into_iter().map(|column| (column, found.at.clone())).collect();
            (Some(ValueSource::Cel(found.value)), columns)
        }
        Err(faults) => {
            section.expression_faults(&found, faults);
            (None, Vec::new())
        }
    }
}

fn read_codes(section: Section<'_>, field: Option<&EntityField>) -> BTreeMap<String, String> {
    let mut codes = BTreeMap::new();
    for key in section.keys() {
        let Some(target) = section.scalar(&key.value) else { continue };
        codes.insert(key.value, legal(&section, target, field));
    }
    if codes.is_empty() {
        section.problem(section.at(), "empty", "`codes` lists no value", None);
    }
    codes
}

/// A value of the field's list; one that is not is reported.
fn legal(section: &Section<'_>, target: Found<String>, field: Option<&EntityField>) -> String {
    if let Some(field) = field
        && !field.is_legal_code(&target.value)
    {
        let nearest = field.code_list().and_then(|list| list.nearest(&target.value));
        let help = nearest.map(|code| format!("did you mean \"{}\" ({})?", code.code, code.name)).or_else(|| {
            let codes: Vec<&str> = field.code_list()?.codes().iter().map(|code| &*code.code).collect();
            Some(format!("one of {}", scalar::listed(&codes)))
        });
        let message = format!("`{}` ({}) has no code `{}`", field.name, field.title_zh, scalar::short(&target.value));
        section.problem(&target.at, "unknown-code", message, help);
    }
    target.value
}
