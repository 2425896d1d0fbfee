//! A golden dump: what a connector published, topic by topic, with its schemas and messages as JSON.
//!
//! Avro is read with logical types off; bytes are `{"$hex": ..}`, a float that is no number is `{"$float": ..}`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value as Json;

use super::Failure;

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
pub struct Topic {
    pub key_schemas: Vec<Json>,
    pub value_schemas: Vec<Json>,
    pub messages: Vec<Message>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Message {
    /// Index into the topic's key schemas; `None` for a record without key.
    pub key_schema: Option<usize>,
    pub value_schema: Option<usize>,
    pub key: Json,
    pub value: Json,
    pub headers: Vec<(String, String)>,
}

impl Dump {
    /// # Errors
    /// When the file cannot be read or is no dump.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let named = |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", path.display()));
        let text = fs::read_to_string(path).map_err(|error| named(&error))?;
        serde_json::from_str(&text).map_err(|error| named(&error))
    }

    #[must_use]
    pub fn config(&self, name: &str) -> Option<&str> {
        self.meta.config.get(name).map(String::as_str)
    }
}

impl Message {
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
