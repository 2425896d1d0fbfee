//! The annotated Avro schemas of entities and their keys, as files.

use serde::Deserialize;
use serde_json::{Value, json};

use super::StandardError;
use super::entity::AvroType;
use super::value::Step;

/// `<Entity>.avsc`: a record whose fields carry `title`, `kind`, `obligation`, `grade`, …
#[derive(Debug, Deserialize)]
pub(crate) struct RecordFile {
    pub(crate) name: String,
    pub(crate) namespace: String,
    #[serde(default)]
    pub(crate) doc: String,
    pub(crate) title: String,
    /// Condition under which the record is about a natural person.
    pub(crate) person: Option<String>,
    /// Field with the person's birth date.
    pub(crate) birth: Option<String>,
    pub(crate) fields: Vec<FieldFile>,
    #[serde(default)]
    pub(crate) rules: Vec<RuleFile>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct FieldFile {
    pub(crate) name: String,
    #[serde(rename = "type")]
    avro: Value,
    #[serde(default, deserialize_with = "present")]
    default: Option<Value>,
    #[serde(default)]
    pub(crate) doc: String,
    pub(crate) title: String,
    pub(crate) kind: String,
    pub(crate) obligation: String,
    pub(crate) when: Option<String>,
    pub(crate) grade: String,
    pub(crate) grade_person: Option<String>,
    pub(crate) minimum: Option<i64>,
    pub(crate) maximum: Option<i64>,
    pub(crate) not_before: Option<String>,
    pub(crate) not_after: Option<String>,
}

/// Keeps `null` apart from an attribute that is not there.
fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(value).map(Some)
}

/// One cross-field rule.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleFile {
    pub(crate) rule: String,
    pub(crate) fields: Vec<String>,
    pub(crate) value: Option<String>,
    pub(crate) when: Option<String>,
}

/// `<Entity>.key.avsc`.
#[derive(Debug, Deserialize)]
pub(crate) struct KeyFile {
    pub(crate) name: String,
    namespace: String,
    pub(crate) fields: Vec<KeyFieldFile>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct KeyFieldFile {
    pub(crate) name: String,
    #[serde(rename = "type")]
    avro: Value,
    /// Fields whose first value it is, or `$system`; left out where it is the field of its own name.
    #[serde(default, deserialize_with = "one_or_many")]
    pub(crate) from: Vec<String>,
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Names {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Names::deserialize(value)? {
        Names::One(name) => vec![name],
        Names::Many(names) => names,
    })
}

/// Namespace of every entity.
const NAMESPACE: &str = "cn.guitong.standard";

impl RecordFile {
    pub(crate) fn parse(text: &str) -> Result<Self, StandardError> {
        let file: Self = serde_json::from_str(text).map_err(|error| StandardError::Schema(error.to_string()))?;
        check_namespace(&file.name, &file.namespace)?;
        Ok(file)
    }
}

impl KeyFile {
    pub(crate) fn parse(text: &str) -> Result<Self, StandardError> {
        let file: Self = serde_json::from_str(text).map_err(|error| StandardError::Schema(error.to_string()))?;
        check_namespace(&file.name, &file.namespace)?;
        match file.fields.iter().find(|field| field.avro != "string") {
            Some(field) => Err(StandardError::Entity {
                entity: file.name.clone(),
                reason: format!("field {}: a key's field has the Avro type string", field.name),
            }),
            None => Ok(file),
        }
    }
}

fn check_namespace(name: &str, namespace: &str) -> Result<(), StandardError> {
    if namespace == NAMESPACE {
        return Ok(());
    }
    Err(StandardError::Entity { entity: name.to_owned(), reason: format!("the namespace is {NAMESPACE}") })
}

impl FieldFile {
    /// Whether the field's Avro type is that of its kind, nullable with default null outside the key.
    pub(crate) fn check_type(&self, expected: &AvroType, in_key: bool) -> Result<(), String> {
        let (held, nullable) = match self.avro.as_array().map(Vec::as_slice) {
            Some([null, held]) if null == "null" => (held, true),
            _ => (&self.avro, false),
        };
        if nullable == in_key {
            return Err(if in_key { "a key's field is not nullable".into() } else { "it is nullable: [\"null\", …]".into() });
        }
        if nullable && self.default != Some(Value::Null) {
            return Err("its default is null".into());
        }
        let fits = match expected {
            AvroType::String => *held == "string",
            AvroType::Long => *held == "long",
            AvroType::Date => *held == json!({"type": "int", "logicalType": "date"}),
            AvroType::Time => *held == json!({"type": "long", "logicalType": "timestamp-micros"}),
            AvroType::Decimal { precision, scale } => {
                *held == json!({"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale})
            }
            AvroType::Strings => *held == json!({"type": "array", "items": "string"}),
            AvroType::Steps => step_fields(held) == Step::MEMBERS,
        };
        if fits { Ok(()) } else { Err(format!("its Avro type is not that of the kind {}", self.kind)) }
    }
}

/// Names of the fields of an array's records.
fn step_fields(array: &Value) -> Vec<&str> {
    let fields = array.get("items").and_then(|items| items.get("fields")).and_then(Value::as_array);
    fields.into_iter().flatten().filter_map(|field| field.get("name").and_then(Value::as_str)).collect()
}
