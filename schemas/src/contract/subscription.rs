//! `subscriptions/<name>.toml`: one department's approved use of one resource.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::load::{Purpose, World};
use super::reading::document::Found;
use super::reading::section::Section;
use super::reading::{expression, scalar};
use super::resource::{Outline, Sharing, unknown_field};
use super::{Files, KafkaTopic, Name, Secret, SinkTable, Webhook, files, kafka, sink_table, system, webhook};
use crate::standard::{Entity, EntityField, FieldKind, Grade, KeySource};
use crate::table::TableName;

#[derive(Debug, Clone, PartialEq)]
pub struct Subscription {
    pub name: Name,
    pub subscriber: Name,
    pub resource: Name,
    pub purpose: String,
    pub approval: Option<Approval>,
    /// Granted fields of the entity, in the order of the entity.
    pub fields: Vec<String>,
    /// CEL over the entity's fields by their names; only rows for which it is true are delivered.
    pub condition: Option<String>,
    /// Masks by field; a granted field of grade G2 or G3 without one gets the default mask of its grade.
    pub masks: BTreeMap<String, Mask>,
    /// Updates that change no field of the entity are delivered too.
    pub unchanged: bool,
    pub sink: SinkConfig,
    /// Of a SQL sink.
    pub table: SinkTable,
    /// Keys the HMAC of `guitong_key`.
    pub secret: Option<Secret>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    pub number: String,
    /// First day, in the exchange's time zone.
    pub from: Option<jiff::civil::Date>,
    /// Last day, inclusive, in the exchange's time zone.
    pub until: jiff::civil::Date,
}

/// How a value is made less telling. Chinese samples: name 张*, identifier `450102********9997`, phone `160****0001`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// Shown as it is: an explicit grant of the clear value.
    None,
    Name,
    Identifier,
    Phone,
    Card,
    /// To the county.
    Address,
    /// A date to its year.
    Year,
    /// Keyed hash, the same for the same value within one subscription.
    Hash,
    /// Always null.
    Drop,
}

#[derive(Debug, Clone, PartialEq)]
pub enum SinkConfig {
    Postgres {
        url: Secret,
        schema: String,
        table: String,
    },
    /// MariaDB or MySQL; the table is of the database that `url` names.
    Mysql {
        url: Secret,
        table: String,
    },
    Sqlite {
        path: PathBuf,
        table: String,
    },
    Files(Box<Files>),
    Webhook(Box<Webhook>),
    Kafka(Box<KafkaTopic>),
    /// The subscriber asks the node for its changes, which are kept for this long.
    Pull {
        keep: Duration,
    },
}

const MASKS: [(&str, Mask); 9] = [
    ("none", Mask::None),
    ("name", Mask::Name),
    ("identifier", Mask::Identifier),
    ("phone", Mask::Phone),
    ("card", Mask::Card),
    ("address", Mask::Address),
    ("year", Mask::Year),
    ("hash", Mask::Hash),
    ("drop", Mask::Drop),
];

/// Tables and topics that subscriptions write, to tell that two write one.
pub(super) type Sinks = std::cell::RefCell<BTreeMap<(String, String), String>>;

pub(super) fn read(name: Option<Name>, root: Section<'_>, world: &World<'_>) -> Option<Subscription> {
    let subscriber = root.required("subscriber", |root, key| world.department(root, key));
    let resource = root.required("resource", |root, key| read_resource(root, key, world));
    let purpose = root.required("purpose", Section::words);
    let outline = resource.as_ref().and_then(|resource| world.resources.get(resource.value.as_str()));
    let entity = outline.and_then(|outline| world.surroundings.standard.entity(outline.entity.as_deref()?)).map(Arc::as_ref);
    let approval = read_approval(&root, world);
    if let (Some(resource), Some(outline)) = (&resource, outline) {
        check_sharing(&root, resource, outline);
    }
    let fields = root.required("fields", |root, key| read_fields(root, key, entity));
    let condition = root.words("where").and_then(|found| read_condition(&root, found, entity));
    let masks =
        root.own_section("masks").map_or_else(BTreeMap::new, |section| read_masks(section, entity, fields.as_deref(), &root));
    let unchanged = root.flag("unchanged").is_some_and(|found| found.value);
    let sink = root.required("sink", |root, key| {
        let sink = read_sink(root.own_section(key)?, fields.as_deref(), world);
        root.know(key);
        sink
    });
    let given = root.text("secret");
    let secret = given.as_ref().and_then(|found| world.surroundings.secret(&root, "secret", found));
    if let (Some(entity), Some(fields), None) = (entity, &fields, &given)
        && let Some(why) = needs_secret(entity, fields, &masks)
    {
        let help = format!("{why}; add secret = \"${{env:…}}\" or \"${{file:…}}\"");
        root.problem(&root.key_at("fields"), "missing-key", "`secret` is missing: rows are keyed by a keyed hash", Some(help));
    }
    if let (Some(name), Some((sink, table))) = (&name, &sink) {
        claim_sink(&root, name, sink, table, world);
    }
    root.finish();
    let (subscriber, resource, purpose, fields) = (subscriber?.value, resource?.value, purpose?.value, fields?);
    let (name, (sink, table)) = (name?, sink?);
    Some(Subscription { name, subscriber, resource, purpose, approval, fields, condition, masks, unchanged, sink, table, secret })
}

/// A resource by its name or its catalogue code.
fn read_resource(root: &Section<'_>, key: &str, world: &World<'_>) -> Option<Found<Name>> {
    let found = root.words(key)?;
    let by_code =
        || world.resources.iter().find(|(_, outline)| outline.code.as_deref() == Some(&found.value)).map(|(name, _)| name);
    let known = world.resources.get_key_value(&found.value).map(|(name, _)| name).or_else(by_code);
    if let Some(known) = known {
        return Name::parse(known).map(|value| Found { value, at: found.at });
    }
    // The code may be that of a resource whose file has problems.
    if found.value.contains('/') && world.resources.values().any(|outline| outline.code.is_none()) {
        return None;
    }
    let codes = world.resources.values().filter_map(|outline| outline.code.as_deref());
    let help = scalar::suggestion(&found.value, codes.chain(world.resources.keys().map(String::as_str)).collect::<Vec<_>>());
    let message = format!("no resource `{}`", scalar::short(&found.value));
    root.problem(&found.at, "unknown-resource", message, help.or_else(|| Some("declare it as resources/<name>.toml".to_owned())));
    None
}

fn read_approval(root: &Section<'_>, world: &World<'_>) -> Option<Approval> {
    let section = root.own_section("approval")?;
    let number = section.required("number", Section::words);
    let from = section.date("from");
    let until = section.required("until", Section::date);
    if let (Some(from), Some(until)) = (&from, &until)
        && from.value > until.value
    {
        let message = format!("the approval begins on {} and ends before it, on {}", from.value, until.value);
        section.problem(&until.at, "approval-dates", message, None);
    } else if let (Some(until), Some(number)) = (&until, &number)
        && until.value < world.today
    {
        let message = format!("approval {} ended on {}", scalar::short(&number.value), until.value);
        let help = "nothing flows any more: renew it, or remove the subscription".to_owned();
        let problem = section.document.problem(&until.at, "approval-expired", message, Some(help));
        match world.surroundings.purpose {
            Purpose::Run | Purpose::Look | Purpose::Draft => world.lapsed.push(problem),
            Purpose::Check { .. } => section.report.push(problem),
        }
    }
    section.finish();
    Some(Approval { number: number?.value, from: from.map(|from| from.value), until: until?.value })
}

fn check_sharing(root: &Section<'_>, resource: &Found<Name>, outline: &Outline) {
    match &outline.sharing {
        Some(Sharing::Refused { basis }) => {
            let message = format!("resource {} is not shared (type 3): {}", resource.value, scalar::short(basis));
            root.problem(&resource.at, "not-shared", message, Some("no subscription may have it".to_owned()));
        }
        Some(Sharing::Conditional { condition }) if !root.has("approval") => {
            let message = format!("resource {} is shared by type 2: {}", resource.value, scalar::short(condition));
            let help = "add approval = { number = \"…\", until = 2027-12-31 }".to_owned();
            root.problem(&resource.at, "missing-approval", message, Some(help));
        }
        _ => {}
    }
}

/// The granted fields in the order of the entity.
fn read_fields(root: &Section<'_>, key: &str, entity: Option<&Entity>) -> Option<Vec<String>> {
    let found = root.texts(key)?;
    if found.value.is_empty() {
        root.problem(&found.at, "empty", "`fields` grants nothing", Some("name the fields one by one".to_owned()));
        return None;
    }
    let mut fields: Vec<String> = Vec::with_capacity(found.value.len());
    for field in found.value {
        if entity.is_some_and(|entity| entity.field(&field.value).is_none()) {
            entity.into_iter().for_each(|entity| unknown_field(root, &field, entity));
        } else if fields.contains(&field.value) {
            root.problem(&field.at, "duplicate", format_args!("`{}` is granted twice", scalar::short(&field.value)), None);
        } else {
            fields.push(field.value);
        }
    }
    fields.sort_by_key(|name| entity.and_then(|entity| entity.field(name)).map(EntityField::index));
    Some(fields)
}

fn read_condition(root: &Section<'_>, found: Found<String>, entity: Option<&Entity>) -> Option<String> {
    let entity = entity?;
    let fields: Vec<(&str, &str)> = entity.fields.iter().map(|field| (field.name.as_str(), field.title_zh.as_str())).collect();
    match expression::check(&found.value, &fields, &[]) {
        Ok(_) => Some(found.value),
        Err(faults) => {
            root.expression_faults(&found, faults);
            None
        }
    }
}

fn read_masks(
    section: Section<'_>,
    entity: Option<&Entity>,
    granted: Option<&[String]>,
    root: &Section<'_>,
) -> BTreeMap<String, Mask> {
    let mut masks = BTreeMap::new();
    for key in section.keys() {
        let mask = section.choice(&key.value, &MASKS);
        let Some(entity) = entity else { continue };
        let Some(field) = entity.field(&key.value) else {
            unknown_field(&section, &key, entity);
            continue;
        };
        if granted.is_some_and(|granted| !granted.contains(&key.value)) {
            let message = format!("`{}` is masked but not among `fields`", key.value);
            section.problem(&key.at, "mask-not-granted", message, Some("grant it, or remove the mask".to_owned()));
        }
        let Some(mask) = mask else { continue };
        if !fits(mask.value, field) {
            let message = format!("mask `{}` does not fit `{}` ({})", word(mask.value), field.name, field.title_zh);
            let help = format!("`{}`, `drop` or `none`", word(field.default_mask(Grade::G3)));
            section.problem(&mask.at, "mask-kind", message, Some(help));
        }
        if mask.value == Mask::None && field.grade >= Grade::G2 && !root.has("approval") {
            let message =
                format!("`{}` ({}, {}) is shown in clear without an approval", field.name, field.title_zh, field.grade.as_str());
            section.problem(
                &mask.at,
                "clear-without-approval",
                message,
                Some("add an approval, or leave the mask out".to_owned()),
            );
        }
        masks.insert(key.value, mask.value);
    }
    masks
}

fn word(mask: Mask) -> &'static str {
    MASKS.iter().find(|(_, known)| *known == mask).map_or("none", |(word, _)| word)
}

/// A mask that shows a part of a text has no meaning for other kinds.
fn fits(mask: Mask, field: &EntityField) -> bool {
    let date = matches!(field.kind, FieldKind::Date | FieldKind::PartialDate | FieldKind::Time);
    let number = matches!(field.kind, FieldKind::Decimal { .. } | FieldKind::Int | FieldKind::Steps);
    match mask {
        Mask::None | Mask::Drop | Mask::Hash => true,
        Mask::Year => date,
        Mask::Name | Mask::Identifier | Mask::Phone | Mask::Card | Mask::Address => !date && !number,
    }
}

/// Why the subscription cannot do without a secret: the entity's key is not wholly granted in clear, or a mask hashes.
fn needs_secret(entity: &Entity, fields: &[String], masks: &BTreeMap<String, Mask>) -> Option<String> {
    if let Some((field, _)) = masks.iter().find(|(_, mask)| **mask == Mask::Hash) {
        return Some(format!("`{field}` is hashed"));
    }
    let sources = entity.key.iter().flat_map(|part| match &part.source {
        KeySource::Fields(fields) => fields.as_slice(),
        KeySource::System => &[],
    });
    for field in sources.filter_map(|&at| entity.fields.get(at)) {
        if !fields.contains(&field.name) {
            return Some(format!("the entity's key needs `{}` ({}), which is not granted", field.name, field.title_zh));
        }
        let highest = if entity.birth.is_some() { Grade::G3 } else { field.highest_grade() };
        if masks.get(&field.name).copied().unwrap_or_else(|| field.default_mask(highest)) != Mask::None {
            return Some(format!("the entity's key needs `{}` ({}), which may be masked", field.name, field.title_zh));
        }
    }
    None
}

#[derive(Clone, Copy)]
enum Kind {
    Postgres,
    Mysql,
    Sqlite,
    Files,
    Webhook,
    Kafka,
    Pull,
}

const KINDS: [(&str, Kind); 8] = [
    ("postgres", Kind::Postgres),
    ("mysql", Kind::Mysql),
    ("mariadb", Kind::Mysql),
    ("sqlite", Kind::Sqlite),
    ("files", Kind::Files),
    ("webhook", Kind::Webhook),
    ("kafka", Kind::Kafka),
    ("pull", Kind::Pull),
];

/// Days for which changes that a subscriber pulls are kept, unless it says otherwise.
const KEEP_DAYS: u32 = 7;

fn read_sink(section: Section<'_>, fields: Option<&[String]>, world: &World<'_>) -> Option<(SinkConfig, SinkTable)> {
    let kind = section.required("kind", |section, key| section.choice(key, &KINDS));
    let url = |check: fn(&str) -> Result<(), String>| {
        section.required("url", |section, key| {
            let found = section.text(key)?;
            let url = world.surroundings.secret(section, key, &found)?;
            world.surroundings.check_url(section, key, &found, url, check)
        })
    };
    let beside = |sink| (sink, SinkTable::default());
    let sink = match kind.map(|kind| kind.value) {
        Some(Kind::Postgres) => {
            let url = url(scalar::postgres_url);
            let table = section.required("table", |section, key| section.parsed(key, |text| scalar::table_name(text, "public")));
            let name = table.as_ref().map(|found| found.value.name.as_str());
            // A longer one is cut off there.
            let kept = sink_table::read(&section, name, |name| name.len() < 64, fields);
            (|| {
                let TableName { schema, name: table } = table?.value;
                Some((SinkConfig::Postgres { url: url?, schema, table }, kept))
            })()
        }
        Some(Kind::Mysql) => {
            let url = url(scalar::mysql_url);
            let table = section.required("table", |section, key| section.parsed(key, scalar::mysql_table));
            let name = table.as_ref().map(|found| found.value.as_str());
            let kept = sink_table::read(&section, name, |name| name.chars().count() <= 64, fields);
            (|| Some((SinkConfig::Mysql { url: url?, table: table?.value }, kept)))()
        }
        Some(Kind::Sqlite) => {
            let path = section.required("path", Section::words);
            let named = |text: &str| match text.starts_with("sqlite_") {
                true => Err("begins with sqlite_, which SQLite keeps for itself".to_owned()),
                false => Ok(text.to_owned()),
            };
            let table = section.required("table", |section, key| section.parsed(key, named));
            let kept = sink_table::read(&section, table.as_ref().map(|found| found.value.as_str()), |_| true, fields);
            (|| Some((SinkConfig::Sqlite { path: world.surroundings.root.join(path?.value), table: table?.value }, kept)))()
        }
        Some(Kind::Pull) => read_pull(&section, world).map(beside),
        Some(Kind::Files) => files::read(&section, world).map(|files| beside(SinkConfig::Files(Box::new(files)))),
        Some(Kind::Webhook) => webhook::read(&section, world).map(|webhook| beside(SinkConfig::Webhook(Box::new(webhook)))),
        Some(Kind::Kafka) => kafka::read(&section, world).map(|topic| beside(SinkConfig::Kafka(Box::new(topic)))),
        None => {
            // Without a kind every key of every kind may be right.
            ["url", "path", "table", "keep_days"]
                .iter()
                .chain(&webhook::KEYS)
                .chain(&files::KEYS)
                .chain(&kafka::KEYS)
                .chain(&sink_table::KEYS)
                .for_each(|key| section.know(key));
            None
        }
    };
    section.finish();
    sink
}

/// What is pulled lies in a file of the node that runs the exchange. With Kafka the subscription may move to another node, which has
/// another file and knows neither its cursors nor its token.
fn read_pull(section: &Section<'_>, world: &World<'_>) -> Option<SinkConfig> {
    let days = section.number("keep_days", 1..367).map_or(KEEP_DAYS, |found| found.value);
    if world.kafka.is_some() {
        let help = "let the subscriber have a table, or use the embedded log".to_owned();
        section.problem(
            &section.key_at("kind"),
            "pull-log",
            "a subscription can be pulled only with the embedded log",
            Some(help),
        );
        return None;
    }
    Some(SinkConfig::Pull { keep: Duration::from_secs(u64::from(days) * 86_400) })
}

/// Two subscriptions in one table would delete each other's rows, and one in the table of a resource would be read again.
fn claim_sink(root: &Section<'_>, name: &Name, sink: &SinkConfig, kept: &SinkTable, world: &World<'_>) {
    let (database, table) = match sink {
        SinkConfig::Postgres { url, schema, table } => (system::database(url, 5432), TableName::new(schema, table)),
        SinkConfig::Mysql { url, table } => {
            let database = system::database(url, 3306);
            let name = database.as_deref().and_then(|database| database.rsplit('/').next()).unwrap_or_default().to_owned();
            (database, TableName::new(&name, table.to_lowercase()))
        }
        SinkConfig::Sqlite { path, table } => {
            (Some(path.to_string_lossy().into_owned()), TableName::new("main", table.to_lowercase()))
        }
        SinkConfig::Kafka(topic) => return claim_topic(root, name, topic, world),
        // Files are named after their subscription.
        SinkConfig::Files(_) => return,
        // Events tell of which subscription they are.
        SinkConfig::Webhook(_) | SinkConfig::Pull { .. } => return,
    };
    // Without an address, which only an unset secret leaves open, nothing can be told.
    let (Some(database), Some(section)) = (database, root.own_section("sink")) else { return };
    let at = section.key_at("table");
    let source = world.resources.iter().find(|(_, resource)| {
        resource.source.as_ref().is_some_and(|(system, source)| {
            let system = world.systems.get(system.as_str());
            system.is_some_and(|system| system.database.as_ref() == Some(&database)) && *source == table
        })
    });
    if let Some((resource, _)) = source {
        let message = format!("table {table} is the source of resource {resource}");
        root.problem(
            &at,
            "sink-is-source",
            message,
            Some("what is delivered would be read again: give it a table of its own".to_owned()),
        );
    }
    let beside = kept.beside(&table.name).into_iter().map(|name| TableName::new(&table.schema, name));
    for table in beside.chain([table.clone()]) {
        if let Some(other) = world.sinks.borrow_mut().insert((database.clone(), table.to_string()), name.to_string()) {
            let message = format!("table {table} is already written by subscription {other}");
            root.problem(&at, "sink-taken", message, Some("give each subscription a table of its own".to_owned()));
        }
    }
}

/// Two clusters that have a broker in common are one. The topic of stands is taken too.
fn claim_topic(root: &Section<'_>, name: &Name, topic: &KafkaTopic, world: &World<'_>) {
    let mut sinks = world.sinks.borrow_mut();
    let names = [topic.topic.clone(), format!("{}{}", topic.topic, KafkaTopic::STAND)];
    let of_broker = |broker: &String| names.clone().map(|name| (broker.to_lowercase(), name));
    let claims = topic.cluster.brokers.iter().flat_map(of_broker);
    let taken: Vec<String> = claims.filter_map(|claim| sinks.insert(claim, name.to_string())).collect();
    if let (Some(other), Some(section)) = (taken.iter().find(|other| *other != name.as_str()), root.own_section("sink")) {
        let message = format!("topic {} is already written by subscription {other}", topic.topic);
        let help = "give each subscription a topic of its own".to_owned();
        root.problem(&section.value_at("topic"), "sink-taken", message, Some(help));
    }
}
