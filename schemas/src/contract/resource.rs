//! `resources/<name>.toml`: a catalogue entry, the entity it feeds, and the mapping.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::Name;
use super::join::{self, Join, Setting};
use super::load::World;
use super::mapping::{self, FieldMapping};
use super::quality::{self, Quality};
use super::reading::document::Found;
use super::reading::scalar;
use super::reading::section::Section;
use super::rules::{self, RuleSwitch};
use super::seen::Seen;
use crate::avro::EventForm;
use crate::avro::form::{Converter, Names};
use crate::avro::topic_name;
use crate::standard::{Entity, EntityField, Grade, Obligation};
use crate::table::TableName;

#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    pub name: Name,
    /// Catalogue code, `3450010102/000017`.
    pub code: String,
    pub title: String,
    pub system: Name,
    pub table: TableName,
    /// The topic of the table's events.
    pub raw_topic: String,
    /// How the table's columns are named in them.
    pub names: Names,
    /// Name of an entity of the standard.
    pub entity: String,
    pub sharing: Sharing,
    /// Rows for which this does not hold are not the resource's: a CEL expression over `row.<column>`.
    pub condition: Option<String>,
    /// Keyed by the entity's field.
    pub map: BTreeMap<String, FieldMapping>,
    /// Other tables of the system that are read beside the resource's own, by the names that `map` knows them by.
    pub joins: BTreeMap<String, Join>,
    /// Mandatory fields that the source does not have, with the reason.
    pub not_provided: BTreeMap<String, String>,
    /// Rules of the standard that weigh otherwise here, in the order of the file.
    pub rules: Vec<RuleSwitch>,
    pub quality: Quality,
    /// Rises when the resource is rebuilt.
    pub revision: u32,
    pub on_change: OnChange,
    /// Some subscription asks for updates that change nothing, so they are published, marked.
    pub publish_unchanged: bool,
}

/// What happens where the table loses a column that the mapping reads, or the column gets a type that is read differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnChange {
    /// Nothing more is read until the mapping or the table is put right.
    #[default]
    Pause,
    /// The fields are empty and marked where they may be; a row that needs them goes to quarantine.
    Continue,
    /// Such rows go to quarantine, and their last good versions stay.
    Quarantine,
}

/// 共享类型 (政务信息资源共享管理暂行办法).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sharing {
    /// 1 无条件共享.
    Unconditional,
    /// 2 有条件共享: needs an approval.
    Conditional { condition: String },
    /// 3 不予共享: never flows.
    Refused { basis: String },
}

/// 1-based.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

/// Tells what is declared from anything else, wherever in its file it stands.
#[must_use]
pub fn fingerprint(declared: &impl fmt::Debug) -> u64 {
    let text = format!("{declared:?}");
    let mut digest = Sha256::new();
    for (at, part) in text.split("Place {").enumerate() {
        let rest = if at == 0 { part } else { part.split_once('}').map_or(part, |(_, rest)| rest) };
        digest.update(rest);
    }
    digest.finalize().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

const CHANGES: [(&str, OnChange); 3] =
    [("pause", OnChange::Pause), ("continue", OnChange::Continue), ("quarantine", OnChange::Quarantine)];

/// What other files need to know of a resource, as far as its own file could be read.
#[derive(Debug, Default)]
pub(super) struct Outline {
    pub(super) code: Option<String>,
    /// Name of an entity that exists.
    pub(super) entity: Option<String>,
    pub(super) sharing: Option<Sharing>,
    pub(super) source: Option<(Name, TableName)>,
}

pub(super) fn read(name: Option<Name>, root: Section<'_>, world: &World<'_>) -> (Outline, Option<Resource>) {
    let code = root.required("code", |root, key| read_code(root, key, world));
    let title = root.required("title", Section::words);
    let system = root.required("system", |root, key| read_system(root, key, world));
    let table = root.required("table", |root, key| read_table(root, key, system.as_ref(), world));
    let entity = root.required("entity", |root, key| read_entity(root, key, world));
    let sharing = root.required("sharing", |root, key| read_sharing(&root.own_section(key)?));
    let revision = root.number("revision", 1..u32::MAX).map_or(1, |found| found.value);
    let on_change = root.choice("on_change", &CHANGES).map_or_else(OnChange::default, |found| found.value);
    let seen = Seen::of(system.as_ref(), table.as_ref(), &root, world);
    let setting = Setting { system: system.as_ref(), table: table.as_ref(), world, seen: &seen };
    let joins = join::read(&root, &setting);
    let seen = seen.with(joins.read());
    let reader = mapping::Reader::new(world, Some(&seen));
    let condition = reader.condition(&root, "where");
    let map = root.required("map", |root, key| Some(read_map(root.own_section(key)?, entity, sharing.as_ref(), &reader)));
    joins.check(&root, reader, &setting);
    let not_provided =
        root.own_section("not_provided").map_or_else(BTreeMap::new, |section| read_not_provided(section, entity, &root));
    if let (Some(entity), true) = (entity, root.is_table("map")) {
        demand_mandatory(&root, entity, &not_provided);
    }
    let rules = root.own_section("rules").map_or_else(Vec::new, |section| rules::read(section, entity));
    let quality = root.own_section("quality").map_or_else(|| Quality::usual(entity), |section| quality::read(section, entity));
    root.finish();
    let outline = Outline {
        code: code.clone(),
        entity: entity.map(|entity| entity.name.clone()),
        sharing: sharing.clone(),
        source: system.clone().zip(table.clone()),
    };
    let resource = (|| {
        let (code, title, system, table) = (code?, title?.value, system?, table?);
        let (entity, sharing, map) = (entity?.name.clone(), sharing?, map?);
        let (raw_topic, names) = raw_topic(&system, &table, world);
        let publish_unchanged = false;
        Some(Resource {
            name: name?,
            code,
            title,
            system,
            table,
            raw_topic,
            names,
            entity,
            sharing,
            condition,
            map,
            joins: joins.into_map(),
            not_provided,
            rules,
            quality,
            revision,
            on_change,
            publish_unchanged,
        })
    })();
    (outline, resource)
}

/// Class, item and sub-item of the catalogue, then the serial number (政务信息资源目录编制指南).
fn read_code(root: &Section<'_>, key: &str, world: &World<'_>) -> Option<String> {
    let well_formed = |text: &str| {
        let (class, serial) = text.split_once('/')?;
        let (head, detail) = (class.get(..6)?, class.get(6..)?);
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let detail_fits = detail.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
        let fits = head.starts_with(['1', '2', '3'])
            && digits(head)
            && detail_fits
            && digits(serial)
            && (1..=10).contains(&serial.len());
        fits.then(|| text.to_owned())
    };
    let wrong = || "is no catalogue code: six digits that begin with 1, 2 or 3, a detail, `/`, a serial number".to_owned();
    let code = root.parsed(key, |text| well_formed(text).ok_or_else(wrong))?;
    let other = world.resources.iter().find(|(_, outline)| outline.code.as_ref() == Some(&code.value));
    if let Some((other, _)) = other {
        let message = format!("code {} is already that of resources/{other}.toml", code.value);
        root.problem(&code.at, "duplicate-code", message, Some("a code is never used twice".to_owned()));
        return None;
    }
    Some(code.value)
}

fn read_system(root: &Section<'_>, key: &str, world: &World<'_>) -> Option<Name> {
    let found = root.words(key)?;
    if let Some(outline) = world.systems.get(&found.value) {
        refuse_foreign_form(root, &found, &outline.form);
        return Name::parse(&found.value);
    }
    let message = format!("no system `{}`", scalar::short(&found.value));
    let help = scalar::suggestion(&found.value, world.systems.keys().map(String::as_str));
    root.problem(&found.at, "unknown-system", message, help.or_else(|| Some("declare it as systems/<name>.toml".to_owned())));
    None
}

/// Envelopes in Avro are what a resource is read from: they alone say what a row was before, and which of its values were sent.
fn refuse_foreign_form(root: &Section<'_>, found: &Found<String>, form: &EventForm) {
    let what = match (&form.unwrap, form.converter) {
        (Some(_), _) => "rows without their envelopes (`transforms.unwrap`)",
        (None, Converter::Json) => "JSON (`value.converter`)",
        (None, Converter::Avro) => return,
    };
    let message = format!("the events of system {} are {what}, from which no resource can be read", found.value);
    let help = format!(
        "take that option out of systems/{}.toml, or tail the table once more in a system of its own, which has its own slot",
        found.value
    );
    root.problem(&found.at, "unreadable-events", message, Some(help));
}

pub(super) fn read_table(root: &Section<'_>, key: &str, system: Option<&Name>, world: &World<'_>) -> Option<TableName> {
    let outline = system.and_then(|system| world.systems.get(system.as_str()));
    let usual = outline.and_then(|outline| outline.usual_schema).unwrap_or("public");
    let table = root.parsed(key, |text| scalar::table_name(text, usual))?;
    if table.value.schema.contains('*') || table.value.name.contains('*') {
        let help = "one resource is one table; write one file for each".to_owned();
        root.problem(&table.at, "bad-value", "`table` names one table, not a pattern", Some(help));
        return None;
    }
    let patterns = outline.and_then(|outline| outline.tables.as_ref());
    if let (Some(patterns), Some(system)) = (patterns, system)
        && !patterns.iter().any(|pattern| pattern.matches(&table.value))
    {
        let shown: Vec<String> = patterns.iter().map(|pattern| format!("{}.{}", pattern.schema, pattern.name)).collect();
        let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
        let message = format!("system {system} does not tail {}", table.value);
        root.problem(&table.at, "not-tailed", message, Some(format!("its `tables` are {}", scalar::listed(&shown))));
    }
    // Kafka's longest name of a topic.
    const LONGEST: usize = 249;
    if let Some(system) = system
        && raw_topic(system, &table.value, world).0.len() > LONGEST
    {
        let help =
            "characters outside ASCII take six; let the database show it under a shorter name (a view is no table)".to_owned();
        root.problem(
            &table.at,
            "topic-too-long",
            format_args!("the topic of {} would be longer than {LONGEST}", table.value),
            Some(help),
        );
    }
    Some(table.value)
}

/// Where a system's connector publishes a table, and how it names its columns.
pub(super) fn raw_topic(system: &Name, table: &TableName, world: &World<'_>) -> (String, Names) {
    let form = world.systems.get(system.as_str()).map(|outline| outline.form.clone()).unwrap_or_default();
    (topic_name(&form.prefix(system.as_str()), table, form.names), form.names)
}

fn read_entity<'w>(root: &Section<'_>, key: &str, world: &World<'w>) -> Option<&'w Entity> {
    let found = root.words(key)?;
    let standard = world.surroundings.standard;
    if world.surroundings.broken_entities.contains(&found.value) {
        return None;
    }
    let entity = standard.entity(&found.value);
    if entity.is_none() {
        let message = format!("the standard has no entity `{}`", scalar::short(&found.value));
        let help = scalar::suggestion(&found.value, standard.entities().map(|entity| entity.name.as_str()).collect::<Vec<_>>());
        root.problem(&found.at, "unknown-entity", message, help);
    }
    entity.map(Arc::as_ref)
}

fn read_sharing(section: &Section<'_>) -> Option<Sharing> {
    let kind = section.required("type", |section, key| section.number(key, 1..4));
    let condition = section.words("condition");
    let basis = section.words("basis");
    let demand = |found: Option<Found<String>>, key: &str, why: &str| {
        if !section.has(key) {
            section.problem(section.at(), "missing-key", format_args!("`sharing.{key}` is missing"), Some(why.to_owned()));
        }
        found.map(|found| found.value)
    };
    let idle = |key: &str, kind: &str| {
        if section.has(key) {
            section.problem(&section.key_at(key), "unknown-key", format_args!("sharing type {kind} has no `{key}`"), None);
        }
    };
    match kind?.value {
        1 => {
            idle("condition", "1");
            idle("basis", "1");
            Some(Sharing::Unconditional)
        }
        2 => {
            idle("basis", "2");
            demand(condition, "condition", "under which condition departments may have it")
                .map(|condition| Sharing::Conditional { condition })
        }
        _ => {
            idle("condition", "3");
            demand(basis, "basis", "the law or regulation that forbids sharing").map(|basis| Sharing::Refused { basis })
        }
    }
}

fn read_map(
    section: Section<'_>,
    entity: Option<&Entity>,
    sharing: Option<&Sharing>,
    reader: &mapping::Reader<'_>,
) -> BTreeMap<String, FieldMapping> {
    let mut map = BTreeMap::new();
    for key in section.keys() {
        let field = match entity {
            None => None,
            Some(entity) => match entity.field(&key.value) {
                Some(field) => Some(field),
                None => {
                    unknown_field(&section, &key, entity);
                    continue;
                }
            },
        };
        if let (Some(field), Some(Sharing::Unconditional)) = (field, sharing)
            && field.grade == Grade::G3
        {
            let message = format!("`{}` ({}) is sensitive (G3) in a resource of sharing type 1", key.value, field.title_zh);
            let help = "share it by type 2, or leave the field out".to_owned();
            section.problem(&key.at, "grade", message, Some(help));
        }
        if let Some(mapping) = reader.field(&section, &key, field) {
            map.insert(key.value, mapping);
        }
    }
    map
}

/// Reports a field that the entity does not have.
pub(super) fn unknown_field(section: &Section<'_>, found: &Found<String>, entity: &Entity) {
    let by_title = entity.fields.iter().find(|field| field.title_zh == found.value);
    let by_name = || {
        scalar::nearest(&found.value, entity.fields.iter().map(|field| field.name.as_str())).and_then(|name| entity.field(name))
    };
    let help = by_title.or_else(by_name).map(|field| format!("did you mean `{}` ({})?", field.name, field.title_zh));
    let message = format!("entity {} has no field `{}`", entity.name, scalar::short(&found.value));
    section.problem(&found.at, "unknown-field", message, help);
}

fn read_not_provided(section: Section<'_>, entity: Option<&Entity>, root: &Section<'_>) -> BTreeMap<String, String> {
    let mapped = root.own_section("map");
    let mut fields = BTreeMap::new();
    for key in section.keys() {
        let reason = section.words(&key.value);
        let Some(entity) = entity else { continue };
        let Some(field) = entity.field(&key.value) else {
            unknown_field(&section, &key, entity);
            continue;
        };
        let refused = if mapped.as_ref().is_some_and(|map| map.has(&key.value)) {
            Some("is mapped, so it is provided")
        } else if field.in_key && field.obligation == Obligation::Mandatory {
            Some("is part of the entity's key, which every record must have")
        } else if field.obligation == Obligation::Optional {
            Some("is optional: leave it out")
        } else {
            None
        };
        if let Some(why) = refused {
            section.problem(&key.at, "not-provided", format_args!("`{}` ({}) {why}", key.value, field.title_zh), None);
        }
        fields.extend(reason.map(|reason| (key.value, reason.value)));
    }
    fields
}

/// Every mandatory field is mapped, derived by the entity's rules, or declared as not provided.
fn demand_mandatory(root: &Section<'_>, entity: &Entity, not_provided: &BTreeMap<String, String>) {
    let Some(map) = root.own_section("map") else { return };
    let missing: Vec<&EntityField> = entity
        .fields
        .iter()
        .filter(|field| field.obligation == Obligation::Mandatory && !field.derived)
        .filter(|field| !map.has(&field.name) && !not_provided.contains_key(&field.name))
        .collect();
    let Some(first) = missing.first() else { return };
    let names: Vec<String> = missing.iter().map(|field| format!("`{}` ({})", field.name, field.title_zh)).collect();
    let (fields, are) = if missing.len() == 1 { ("field", "is") } else { ("fields", "are") };
    let message = format!("mandatory {fields} {are} neither mapped nor declared as not provided: {}", names.join(", "));
    let help = match missing.iter().find(|field| field.in_key) {
        Some(key) => {
            format!("map `{}`, which is part of the entity's key; the others may be declared in [not_provided]", key.name)
        }
        None => format!("map it, or say why it is missing: [not_provided] {} = \"…\"", first.name),
    };
    root.problem(map.at(), "missing-field", message, Some(help));
}
