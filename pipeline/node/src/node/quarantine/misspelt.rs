//! A rule or a field that a command names and that exists nowhere: nothing can match it, which is another answer than that nothing
//! does. It is asked for where nothing was found, since entries of before may name what the standard no longer has.

use std::collections::BTreeMap;
use std::sync::Arc;

use guitong_normalise::Filter;
use guitong_schemas::contract::Resource;
use guitong_schemas::contract::mapping::{FieldMapping, ValueSource};
use guitong_schemas::standard::{Entity, EntityField, Rule, alike};

use crate::exit::Failure;
use crate::text;

/// Columns that a name takes in a message.
const SHOWN: usize = 60;

/// Resources that a command means, with their entities.
pub(super) type Meant<'r> = [(&'r Resource, Arc<Entity>)];

/// Says so where a rule or a field of the filter exists nowhere.
pub(super) fn check(filter: &Filter, meant: &Meant<'_>) -> Result<(), Failure> {
    filter.rule.as_deref().map_or(Ok(()), check_rule)?;
    filter.field.as_deref().map_or(Ok(()), |field| check_field(field, meant))
}

fn check_rule(code: &str) -> Result<(), Failure> {
    let known = Rule::ALL.iter().map(|rule| rule.code()).chain(guitong_normalise::event_rules());
    if known.clone().any(|known| known == code) {
        return Ok(());
    }
    let titled = |code: &str| match Rule::from_code(code) {
        Some(rule) => format!("`{code}` ({})", rule.zh()),
        None => format!("`{code}`"),
    };
    let near = alike(code, known).into_iter().map(titled).collect();
    Err(unknown(&format!("there is no rule `{}`", shown(code)), near, "guitong standard list --rules names them".to_owned()))
}

fn check_field(name: &str, meant: &Meant<'_>) -> Result<(), Failure> {
    let Some(((_, entity), others)) = meant.split_first() else { return Ok(()) };
    // What is wrong with a whole row is of no field.
    if name.is_empty() || meant.iter().any(|(_, entity)| entity.field(name).is_some()) {
        return Ok(());
    }
    let (message, entity) = if others.iter().all(|(_, other)| other.name == entity.name) {
        (format!("entity {} has no field `{}`", entity.name, shown(name)), entity.name.as_str())
    } else {
        (format!("no resource is of an entity that has a field `{}`", shown(name)), "ENTITY")
    };
    let called = called(meant);
    let near = match called.get(name) {
        Some(field) => vec![field.clone()],
        None => alike(name, called.keys().copied()).into_iter().filter_map(|name| called.get(name).cloned()).collect(),
    };
    Err(unknown(&message, near, format!("guitong standard show {entity} names its fields")))
}

/// What fields are known by: their names, their titles, and the columns they are made of.
fn called<'m>(meant: &'m Meant<'_>) -> BTreeMap<&'m str, String> {
    let titled = |field: &EntityField| format!("`{}` ({})", field.name, field.title_zh);
    let fields = || meant.iter().flat_map(|(_, entity)| &entity.fields);
    let mut called = BTreeMap::new();
    for (resource, entity) in meant {
        for (field, mapping) in resource.map.iter().filter_map(|(field, mapping)| Some((entity.field(field)?, mapping))) {
            for column in columns(mapping) {
                called.entry(column).or_insert_with(|| format!("{}, made of the column `{}`", titled(field), shown(column)));
            }
        }
    }
    called.extend(fields().map(|field| (field.title_zh.as_str(), titled(field))));
    called.extend(fields().map(|field| (field.name.as_str(), titled(field))));
    called
}

/// Columns that a mapping names outright.
fn columns(mapping: &FieldMapping) -> Vec<&str> {
    match &mapping.value {
        ValueSource::Column(column) => vec![column],
        ValueSource::First(columns) | ValueSource::Joined { columns, .. } | ValueSource::Lookup { from: columns, .. } => {
            columns.iter().map(String::as_str).collect()
        }
        ValueSource::Cases(cases) => cases.iter().flat_map(|case| columns(&case.mapping)).collect(),
        ValueSource::Constant(_) | ValueSource::Cel(_) | ValueSource::Items(_) => Vec::new(),
    }
}

fn unknown(message: &str, mut near: Vec<String>, otherwise: String) -> Failure {
    // A field may be near by several of its names, which follow each other.
    near.dedup();
    let help = match near.split_last() {
        None => otherwise,
        Some((only, [])) => format!("did you mean {only}?"),
        Some((last, others)) => format!("did you mean {} or {last}?", others.join(", ")),
    };
    Failure::no(message).help(help)
}

fn shown(name: &str) -> String {
    text::visible(&text::clip(name, SHOWN))
}
