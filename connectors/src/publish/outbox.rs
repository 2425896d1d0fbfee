//! Outbox events: messages that say themselves which key and value their record has and what it is an event of, in the fields that a
//! row of Debezium's outbox table has. The content comes from an application: nothing that it holds stops the connector.

use bytes::Bytes;
use guitong_log::Headers;
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;
use serde_json::value::RawValue;
use thiserror::Error;

/// Longest field beside the payload, in characters, as in Debezium's outbox table.
const LONGEST: usize = 255;

/// Topics that are made for one connection of a connector: an application that takes its ids for types fills no broker with topics.
pub(super) const MOST_TOPICS: usize = 1000;

/// Why a message that is declared an outbox event does not read as one. It says nothing of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum NoEvent {
    #[error("the content is not in UTF-8")]
    NotText,
    #[error("the content is not a JSON object")]
    NotAnObject,
    #[error("the content is not JSON (line {line}, column {column})")]
    NotJson { line: usize, column: usize },
    #[error("a field stands twice in the content")]
    Twice,
    #[error("`{0}` is missing")]
    Missing(&'static str),
    #[error("`{0}` is neither text nor a number")]
    NotScalar(&'static str),
    #[error("`{0}` holds half a character")]
    HalfCharacter(&'static str),
    #[error("`{0}` is empty")]
    Empty(&'static str),
    #[error("`{0}` is longer than {LONGEST} characters")]
    TooLong(&'static str),
    #[error("`aggregatetype` would make a longer name of a topic than Kafka takes")]
    LongTopic,
    #[error("there are more than {MOST_TOPICS} different `aggregatetype`s, each a topic")]
    ManyTopics,
    #[error("the record would be {size} bytes long, over the limit of {limit}")]
    TooLarge { size: usize, limit: usize },
}

/// What a message's content makes of it.
#[derive(Debug)]
pub(super) struct Event {
    /// `aggregatetype`.
    pub(super) kind: String,
    pub(super) key: Bytes,
    /// `None` for a payload of null: a tombstone.
    pub(super) value: Option<Bytes>,
    pub(super) headers: Headers,
}

/// Fields as they stand in the content; others beside them are passed over.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default, deserialize_with = "given")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "given")]
    aggregatetype: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "given")]
    aggregateid: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "type", deserialize_with = "given")]
    event_type: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "given")]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "given")]
    payload: Option<&'a RawValue>,
}

/// Tells a field of null from one that is not there.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

impl Event {
    /// Reads a message's content.
    pub(super) fn read(content: &[u8]) -> Result<Self, NoEvent> {
        let content = std::str::from_utf8(content).map_err(|_| NoEvent::NotText)?;
        let fields = fields(content)?;
        let id = required("id", fields.id)?;
        let kind = required("aggregatetype", fields.aggregatetype)?;
        let key = required("aggregateid", fields.aggregateid)?;
        let event_type = required("type", fields.event_type)?;
        // A payload that is not there may be a misspelt one, and no application means to delete by that.
        let value = payload(fields.payload.ok_or(NoEvent::Missing("payload"))?)?;
        let mut headers: Headers = vec![("id".into(), id.into()), ("eventType".into(), event_type.into())];
        // Not the record's own time, on which retention and reading by time rest.
        if let Some(timestamp) = fields.timestamp.filter(|raw| raw.get() != "null") {
            headers.push(("timestamp".into(), text("timestamp", timestamp)?.into()));
        }
        Ok(Self { kind, key: key.into(), value, headers })
    }
}

fn fields(content: &str) -> Result<Fields<'_>, NoEvent> {
    let is_object = content.trim_start().starts_with('{');
    let fields = serde_json::from_str(content).map_err(|error| match error.classify() {
        Category::Data if is_object => NoEvent::Twice,
        Category::Data => NoEvent::NotAnObject,
        _ => NoEvent::NotJson { line: error.line(), column: error.column() },
    })?;
    // A list is read as the fields in their order.
    if is_object { Ok(fields) } else { Err(NoEvent::NotAnObject) }
}

fn required(name: &'static str, raw: Option<&RawValue>) -> Result<String, NoEvent> {
    let text = text(name, raw.ok_or(NoEvent::Missing(name))?)?;
    if text.is_empty() {
        return Err(NoEvent::Empty(name));
    }
    Ok(text)
}

/// A text, or a number as it stands there.
fn text(name: &'static str, raw: &RawValue) -> Result<String, NoEvent> {
    let text = match raw.get().as_bytes().first() {
        Some(b'"') => serde_json::from_str(raw.get()).map_err(|_| NoEvent::HalfCharacter(name))?,
        Some(b'-' | b'0'..=b'9') => raw.get().to_owned(),
        _ => return Err(NoEvent::NotScalar(name)),
    };
    if text.chars().nth(LONGEST).is_some() {
        return Err(NoEvent::TooLong(name));
    }
    Ok(text)
}

/// A text's own bytes, any other JSON as it was written.
fn payload(raw: &RawValue) -> Result<Option<Bytes>, NoEvent> {
    match raw.get() {
        "null" => Ok(None),
        text if text.starts_with('"') => {
            let text: String = serde_json::from_str(text).map_err(|_| NoEvent::HalfCharacter("payload"))?;
            Ok(Some(text.into()))
        }
        json => Ok(Some(Bytes::copy_from_slice(json.as_bytes()))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A text arrives as its own bytes, and what is damaged on the way is an event or an error.
        #[test]
        fn texts_come_through_and_no_content_brings_the_reader_down(
            (key, text) in ("[^\\x00]{1,9}", any::<String>()),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let (json_key, json_text) = (serde_json::json!(key), serde_json::json!(text));
            let content = format!(
                r#"{{"payload":{json_text},"id":"1","aggregatetype":"order","aggregateid":{json_key},"type":"Made","timestamp":2}}"#
            );
            let event = Event::read(content.as_bytes());
            prop_assert_eq!(event.map(|event| (event.key, event.value)), Ok((key.into(), Some(text.into()))));
            let mut content = content.into_bytes();
            for (at, byte) in damage {
                let at = at.index(content.len());
                content[at] = byte;
                let _ = Event::read(&content);
                content.truncate(content.len() - at % 2);
            }
        }
    }
}
