//! A golden dump: what a connector published, topic by topic, with its schemas and messages as JSON.
//!
//! Avro is read with logical types off; bytes are `{"$hex": ..}`, a float that is no number is `{"$float": ..}`. A dump of JSON holds
//! its messages as the text that they are, read by [`super::text`].

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::{Failure, text};

/// The transform that takes the envelope away.
const UNWRAP: &str = "io.debezium.transforms.ExtractNewRecordState";

#[derive(Debug, Clone, Deserialize)]
pub struct Dump {
    pub meta: Meta,
    /// Fields that differ from run to run, such as `source.lsn` or `header NAME`.
    pub volatile_fields: Vec<String>,
    pub topics: BTreeMap<String, Topic>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Meta {
    /// How the peer wrote keys and values.
    pub converter: String,
    /// The connector's configuration, by Debezium's names.
    pub config: BTreeMap<String, String>,
}

/// Schemas in the order of their first use, and messages in the topic's order.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Topic {
    pub key_schemas: Vec<Json>,
    pub value_schemas: Vec<Json>,
    pub messages: Vec<Message>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Message {
    /// Index into the topic's key schemas; `None` for a record without key.
    pub key_schema: Option<usize>,
    pub value_schema: Option<usize>,
    pub key: Json,
    pub value: Json,
    /// Key and value of a dump of JSON, until they are read.
    pub(super) key_text: Option<String>,
    pub(super) value_text: Option<String>,
    pub headers: Vec<(String, String)>,
}

impl Dump {
    /// # Errors
    /// When the file cannot be read or is no dump.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let named = |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", path.display()));
        let text = fs::read_to_string(path).map_err(|error| named(&error))?;
        let mut dump: Self = serde_json::from_str(&text).map_err(|error| named(&error))?;
        for message in dump.topics.values_mut().flat_map(|topic| &mut topic.messages) {
            message.read_texts()?;
            message.wrap();
        }
        Ok(dump)
    }

    /// Whether keys and values are JSON text.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.meta.converter.starts_with("json")
    }

    /// The name that an option has within the transform that takes the envelope away; `None` where it is none of that.
    pub(super) fn of_unwrap<'a>(&self, option: &'a str) -> Option<&'a str> {
        let (kind, _) = self.meta.config.iter().find(|(_, value)| *value == UNWRAP)?;
        option.strip_prefix(kind.strip_suffix("type")?)
    }

    #[must_use]
    pub fn config(&self, name: &str) -> Option<&str> {
        self.meta.config.get(name).map(String::as_str)
    }
}

impl Message {
    /// Reads key and value where they were given as text.
    pub(super) fn read_texts(&mut self) -> Result<(), Failure> {
        for (text, value) in [(self.key_text.take(), &mut self.key), (self.value_text.take(), &mut self.value)] {
            if let Some(text) = text {
                *value = text::read(&text)?;
            }
        }
        Ok(())
    }

    /// Puts a row without envelope into one, so that rules read one form.
    pub(super) fn wrap(&mut self) {
        let Some(row) = self.value.as_object_mut() else { return };
        let Some(deleted) = row.shift_remove("__deleted") else { return };
        let (mut envelope, mut source) = (Map::new(), Map::new());
        let added: Vec<String> = row.keys().filter(|name| name.starts_with("__")).cloned().collect();
        for name in added {
            let value = row.shift_remove(&name).unwrap_or_default();
            match name.strip_prefix("__source_") {
                Some(field) => source.insert(field.to_owned(), value),
                None => envelope.insert(name.trim_start_matches('_').to_owned(), value),
            };
        }
        let image = if deleted == "true" { "before" } else { "after" };
        envelope.insert(image.to_owned(), Json::Object(std::mem::take(row)));
        envelope.insert("source".to_owned(), Json::Object(source));
        envelope.insert("__deleted".to_owned(), deleted);
        self.value = Json::Object(envelope);
    }

    /// The operation's letter; `None` for a tombstone and for what is no change of a row.
    #[must_use]
    pub fn operation(&self) -> Option<&str> {
        self.value.get("op").and_then(Json::as_str)
    }

    #[must_use]
    pub fn is_snapshot(&self) -> bool {
        self.operation() == Some("r")
    }

    /// A field of the `source` block.
    #[must_use]
    pub fn source(&self, name: &str) -> Option<&Json> {
        self.value.get("source").and_then(|source| source.get(name))
    }

    pub fn source_mut(&mut self, name: &str) -> Option<&mut Json> {
        self.value.get_mut("source").and_then(|source| source.get_mut(name))
    }
}
