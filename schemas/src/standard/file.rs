//! The annotated Avro schemas of entities and their keys, as files.

use serde_json::{Value, json};

use super::clock::days_from_civil;
use super::field::{Grade, Obligation};
use super::kind::AvroType;
use crate::contract::reading::document::{At, Found};
use crate::contract::reading::json::Object;

/// Namespace of every entity.
const NAMESPACE: &str = "cn.guitong.standard";

/// `<Entity>.avsc`, where what is missing or wrong was reported and stands empty, so that the rest can be looked at: a record whose fields carry `title`, `kind`, `obligation`, `grade`, …
pub(crate) struct RecordFile {
    pub(crate) name: Found<String>,
    pub(crate) title: String,
    pub(crate) doc: String,
    pub(crate) version: u32,
    /// Condition under which the record is about a natural person.
    pub(crate) person: Option<Found<String>>,
    /// Field with the person's birth date.
    pub(crate) birth: Option<Found<String>>,
    pub(crate) fields: Vec<FieldFile>,
    pub(crate) rules: Vec<RuleFile>,
}

pub(crate) struct FieldFile {
    pub(crate) name: Found<String>,
    pub(crate) aliases: Vec<String>,
    /// `None`, as of `kind`: it is missing or wrong, which was reported.
    avro: Option<Found<Value>>,
    /// `Some(Null)` is a default of null.
    default: Option<Value>,
    pub(crate) title: String,
    pub(crate) doc: String,
    pub(crate) kind: Option<Found<String>>,
    pub(crate) obligation: Found<Obligation>,
    pub(crate) when: Option<Found<String>>,
    pub(crate) grade: Grade,
    pub(crate) grade_person: Option<Grade>,
    pub(crate) range: (Option<i64>, Option<i64>),
    pub(crate) not_before: Option<i32>,
    pub(crate) past_only: bool,
}

/// One cross-field rule.
pub(crate) struct RuleFile {
    pub(crate) rule: Found<String>,
    pub(crate) fields: Vec<Found<String>>,
    pub(crate) value: Option<Found<String>>,
    pub(crate) when: Option<Found<String>>,
}

/// `<Entity>.key.avsc`.
pub(crate) struct KeyFile {
    pub(crate) name: Found<String>,
    pub(crate) fields: Vec<KeyFieldFile>,
}

pub(crate) struct KeyFieldFile {
    pub(crate) name: Found<String>,
    /// Fields whose first value it is, or `$system`; `None` where it is the field of its own name.
    pub(crate) from: Option<Vec<Found<String>>>,
}

impl RecordFile {
    pub(crate) fn read(root: Object<'_>) -> Option<Self> {
        root.finish(&["type", "name", "namespace", "doc", "title", "version", "person", "birth", "fields", "rules", "aliases"]);
        let name = read_head(&root)?;
        let whose = format!("entity {}", name.value);
        let title = root.required("title", &whose, Object::text);
        let doc = root.required("doc", &whose, Object::text);
        let version = root.required("version", &whose, read_version);
        let objects = root.required("fields", &whose, |root, key| Some(root.objects(key)))?;
        let mut fields: Vec<FieldFile> = Vec::new();
        for object in objects {
            let Some(name) = object.required("name", "the field", Object::text) else { continue };
            if fields.iter().any(|held| held.name.value == name.value) {
                object.problem(&name.at, "duplicate", format!("field {} stands twice", name.value), None);
            }
            fields.push(FieldFile::read(&object, name));
        }
        let (person, birth) = (root.text("person"), root.text("birth"));
        let rules = root.objects("rules").iter().filter_map(RuleFile::read).collect();
        let (title, doc, version) = (text(title), text(doc), version.unwrap_or_default());
        Some(Self { name, title, doc, version, person, birth, fields, rules })
    }
}

fn text(found: Option<Found<String>>) -> String {
    found.map(|found| found.value).unwrap_or_default()
}

/// What every schema of the standard begins with; its name.
fn read_head(root: &Object<'_>) -> Option<Found<String>> {
    root.required("type", "the schema", |root, key| root.choice(key, &[("record", ())]));
    let name = root.required("name", "the schema", Object::text);
    root.required("namespace", "the schema", |root, key| root.choice(key, &[(NAMESPACE, ())]));
    name
}

fn read_version(root: &Object<'_>, key: &str) -> Option<u32> {
    let found = root.whole(key)?;
    let version = u32::try_from(found.value).ok().filter(|version| *version > 0);
    if version.is_none() {
        root.problem(&found.at, "bad-value", "a version is a whole number from 1", None);
    }
    version
}

const FIELD_KEYS: [&str; 15] = [
    "name",
    "type",
    "default",
    "doc",
    "title",
    "kind",
    "obligation",
    "when",
    "grade",
    "grade_person",
    "minimum",
    "maximum",
    "not_before",
    "not_after",
    "aliases",
];

impl FieldFile {
    fn read(object: &Object<'_>, name: Found<String>) -> Self {
        const OBLIGATIONS: [(&str, Obligation); 3] =
            [("mandatory", Obligation::Mandatory), ("conditional", Obligation::Conditional), ("optional", Obligation::Optional)];
        let grades = Grade::ALL.map(|grade| (grade.as_str(), grade));
        let whose = format!("field {}", name.value);
        object.finish(&FIELD_KEYS);
        let avro = object.required("type", &whose, |object, key| {
            let found = object.value(key)?;
            Some(Found { value: serde_json::from_str(object.source(found.value)).ok()?, at: found.at })
        });
        let default = object.value("default").and_then(|found| serde_json::from_str(object.source(found.value)).ok());
        let title = object.required("title", &whose, Object::text);
        let doc = object.required("doc", &whose, Object::text);
        let kind = object.required("kind", &whose, Object::text);
        let obligation = object.required("obligation", &whose, |object, key| {
            let at = object.value(key)?.at;
            object.choice(key, &OBLIGATIONS).map(|value| Found { value, at })
        });
        let grade = object.required("grade", &whose, |object, key| object.choice(key, &grades));
        let grade_person = object.text("grade_person").and_then(|_| object.choice("grade_person", &grades));
        let number = |key| object.whole(key).map(|found| found.value);
        let range = (number("minimum"), number("maximum"));
        let not_before = object.text("not_before").and_then(|found| {
            let days = plain_date(&found.value);
            if days.is_none() {
                object.problem(&found.at, "bad-value", "`not_before` is a date as 1949-10-01", None);
            }
            days
        });
        let past_only = object.value("not_after").is_some() && object.choice("not_after", &[("today", ())]).is_some();
        let aliases = object.texts("aliases").unwrap_or_default().into_iter().map(|alias| alias.value).collect();
        Self {
            name,
            aliases,
            avro,
            default,
            title: text(title),
            doc: text(doc),
            kind,
            obligation: obligation.unwrap_or(Found { value: Obligation::Optional, at: At::File }),
            when: object.text("when"),
            grade: grade.unwrap_or(Grade::G3),
            grade_person,
            range,
            not_before,
            past_only,
        }
    }

    /// Reports an Avro type that is not that of the field's kind, nullable with default null outside the key.
    pub(crate) fn check_type(&self, root: &Object<'_>, expected: &AvroType, in_key: bool) {
        let Some(avro) = &self.avro else { return };
        let wrong = |message: &str, help: &str| {
            root.problem(&avro.at, "bad-type", format!("field {}: {message}", self.name.value), Some(help.to_owned()));
        };
        let (held, nullable) = match avro.value.as_array().map(Vec::as_slice) {
            Some([null, held]) if null == "null" => (held, true),
            _ => (&avro.value, false),
        };
        if !expected.is(held) {
            wrong("its Avro type is not that of its kind", &format!("that is {}", expected.example()));
        } else if nullable && in_key {
            wrong("a key's field is not nullable", "write the type alone, without \"null\"");
        } else if !nullable && !in_key {
            wrong("a field outside the key is nullable", "write the type as [\"null\", …], and \"default\": null");
        } else if nullable && self.default != Some(Value::Null) {
            wrong("a nullable field has the default null", "add \"default\": null");
        }
    }
}

/// `YYYY-MM-DD` in days since 1970-01-01.
pub(crate) fn plain_date(text: &str) -> Option<i32> {
    let mut parts = text.split('-').map(str::parse::<u32>);
    let mut part = || parts.next()?.ok();
    let date = (part()?, part()?, part()?);
    if parts.next().is_some() {
        return None;
    }
    days_from_civil(i32::try_from(date.0).ok()?, date.1, date.2)
}

impl RuleFile {
    fn read(object: &Object<'_>) -> Option<Self> {
        object.finish(&["rule", "fields", "value", "when"]);
        let rule = object.required("rule", "the rule", Object::text);
        let fields = object.required("fields", "the rule", Object::texts);
        Some(Self { rule: rule?, fields: fields?, value: object.text("value"), when: object.text("when") })
    }
}

impl KeyFile {
    pub(crate) fn read(root: Object<'_>) -> Option<Self> {
        root.finish(&["type", "name", "namespace", "doc", "title", "fields", "aliases"]);
        let name = read_head(&root)?;
        let objects = root.required("fields", "the key", |root, key| Some(root.objects(key)))?;
        if objects.is_empty() {
            root.problem(&root.at(), "empty", "the key has no fields", None);
        }
        let fields = objects.iter().filter_map(|object| {
            object.finish(&["name", "type", "doc", "title", "from"]);
            let name = object.required("name", "the key's field", Object::text)?;
            let whose = format!("key field {}", name.value);
            object.required("type", &whose, |object, key| {
                let found = object.value(key)?;
                if object.source(found.value) != "\"string\"" {
                    object.problem(&found.at, "bad-type", format!("{whose}: its Avro type is string"), None);
                }
                Some(())
            });
            Some(KeyFieldFile { name, from: object.texts("from") })
        });
        Some(Self { name, fields: fields.collect() })
    }
}

impl AvroType {
    /// Whether an Avro type, without its null, is this one.
    fn is(&self, held: &Value) -> bool {
        match self {
            Self::Steps => step_fields(held) == ["name", "handler", "started", "ended", "action", "opinion"],
            plain => *held == plain.schema(),
        }
    }

    fn schema(&self) -> Value {
        match self {
            Self::String => json!("string"),
            Self::Long => json!("long"),
            Self::Date => json!({"type": "int", "logicalType": "date"}),
            Self::Time => json!({"type": "long", "logicalType": "timestamp-micros"}),
            Self::Decimal { precision, scale } => {
                json!({"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale})
            }
            Self::Strings => json!({"type": "array", "items": "string"}),
            Self::Steps => Value::Null,
        }
    }

    /// The type for a message.
    fn example(&self) -> String {
        match self {
            Self::Steps => "an array of records as in ServiceCase's `steps`".to_owned(),
            plain => plain.schema().to_string(),
        }
    }
}

/// Names of the fields of an array's records.
fn step_fields(array: &Value) -> Vec<&str> {
    let fields = array.get("items").and_then(|items| items.get("fields")).and_then(Value::as_array);
    fields.into_iter().flatten().filter_map(|field| field.get("name").and_then(Value::as_str)).collect()
}
