//! Changes as CloudEvents 1.0.2: binary, structured and batched content modes of its HTTP binding, data in JSON.

use guitong_govern::{Column, RowKey};
use guitong_schemas::contract::webhook::Mode;
use guitong_schemas::standard::StandardValue;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::json::value;

/// What the HTTP binding wants percent-encoded in a header; everything outside ASCII is by itself.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// What all events of one subscription share.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) subscription: String,
    /// Name of the resource.
    pub(crate) resource: String,
    /// The log that counts the generations.
    pub(crate) log: String,
}

/// One change of a subscriber's row, ready to be sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    /// The same whenever the same change is sent again: what a receiver knows it by.
    pub(crate) id: String,
    pub(crate) deleted: bool,
    /// It was sent before, and is sent again since a person asked for it.
    pub(crate) replayed: bool,
    /// The row's key as the subscriber knows it.
    subject: String,
    /// When it happened at the source.
    time: Option<String>,
    /// Sorts as versions do: of two events of one subject the greater one is the newer.
    sequence: String,
    /// JSON: of a batch of events the text is a fraction of what a tree of it would be.
    data: String,
}

/// What makes an event the same as another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity<'i> {
    pub(crate) origin: &'i Origin,
    /// How often everything was delivered again: what is sent again by intention is another event.
    pub(crate) generation: u64,
    pub(crate) row: &'i [u8],
    pub(crate) version: &'i [u8],
    pub(crate) deleted: bool,
}

impl Identity<'_> {
    fn id(&self) -> String {
        let (generation, deleted) = (self.generation.to_be_bytes(), [u8::from(self.deleted)]);
        let Origin { subscription, log, .. } = self.origin;
        let parts: [&[u8]; 6] = [subscription.as_bytes(), log.as_bytes(), &generation, self.row, self.version, &deleted];
        format!("evt_{}", short(parts.into_iter()))
    }
}

/// Half of SHA-256 over parts, each behind its length, in hexadecimal.
fn short<'p>(parts: impl Iterator<Item = &'p [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hex::encode(hash.finalize().get(..16).unwrap_or_default())
}

impl Event {
    /// `key`: names and values of the row's key.
    pub(crate) fn deletion(identity: Identity<'_>, key: Vec<(String, Value)>, time_us: Option<i64>) -> Self {
        Self::new(identity, &key, std::iter::empty(), time_us)
    }

    /// `cells`: the other fields.
    pub(crate) fn upsert(
        identity: Identity<'_>,
        key: Vec<(String, Value)>,
        cells: impl Iterator<Item = (String, Value)>,
        time_us: Option<i64>,
    ) -> Self {
        Self::new(identity, &key, cells, time_us)
    }

    fn new(
        identity: Identity<'_>,
        key: &[(String, Value)],
        cells: impl Iterator<Item = (String, Value)>,
        time_us: Option<i64>,
    ) -> Self {
        let parts: Vec<&str> = key.iter().filter_map(|(_, value)| value.as_str()).collect();
        let data: Map<String, Value> = key.iter().cloned().chain(cells).collect();
        Self {
            id: identity.id(),
            deleted: identity.deleted,
            replayed: false,
            subject: parts.join("/"),
            time: time_us.map(|us| StandardValue::Time(us).to_string()),
            sequence: hex::encode(identity.version),
            data: Value::Object(data).to_string(),
        }
    }

    /// The context attributes but `datacontenttype`.
    fn attributes(&self, origin: &Origin) -> Vec<(&'static str, String)> {
        let what = if self.deleted { "delete" } else { "upsert" };
        let mut attributes = vec![
            ("specversion", "1.0".to_owned()),
            ("id", self.id.clone()),
            ("source", format!("/subscriptions/{}", origin.subscription)),
            ("type", format!("cn.guitong.{}.{what}", origin.resource)),
            ("sequence", self.sequence.clone()),
        ];
        if !self.subject.is_empty() {
            attributes.push(("subject", self.subject.clone()));
        }
        attributes.extend(self.time.clone().map(|time| ("time", time)));
        attributes.extend(self.replayed.then(|| ("replayed", "true".to_owned())));
        attributes
    }

    /// The whole event in JSON.
    fn document(&self, origin: &Origin) -> String {
        let attributes = self.attributes(origin).into_iter().chain([("datacontenttype", "application/json".to_owned())]);
        let attributes: Vec<String> = attributes.map(|(name, value)| format!("\"{name}\":{}", Value::String(value))).collect();
        format!("{{{},\"data\":{}}}", attributes.join(","), self.data)
    }
}

/// A request's own part.
#[derive(Debug)]
pub(crate) struct Message {
    /// `webhook-id`: the event's; of a batch, one of just these events in this order.
    pub(crate) id: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// `events` has one event but in batches.
    pub(crate) fn new(origin: &Origin, mode: Mode, events: &[&Event]) -> Self {
        let mut headers = HeaderMap::new();
        let (kind, id, body) = match (mode, events) {
            (Mode::Binary, [event]) => {
                headers.extend(event.attributes(origin).into_iter().filter_map(header));
                ("application/json", event.id.clone(), event.data.clone())
            }
            (Mode::Structured, [event]) => {
                ("application/cloudevents+json; charset=UTF-8", event.id.clone(), event.document(origin))
            }
            (_, events) => {
                let id = format!("msg_{}", short(events.iter().map(|event| event.id.as_bytes())));
                let all: Vec<String> = events.iter().map(|event| event.document(origin)).collect();
                ("application/cloudevents-batch+json; charset=UTF-8", id, format!("[{}]", all.join(",")))
            }
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        Self { id, headers, body: body.into_bytes() }
    }
}

/// An attribute as a header. Its value is printable ASCII once it is encoded, so there always is one.
fn header((name, value): (&'static str, String)) -> Option<(HeaderName, HeaderValue)> {
    let value = utf8_percent_encode(&value, ENCODED).to_string();
    Some((HeaderName::try_from(format!("ce-{name}")).ok()?, HeaderValue::try_from(value).ok()?))
}

/// Names and values of a row's key.
pub(crate) fn key_of(row: &RowKey<'_>, names: &[String]) -> Vec<(String, Value)> {
    match row.clear.as_slice() {
        [] => names.iter().map(|name| (name.clone(), json!(hex::encode(&row.id)))).take(1).collect(),
        parts => names.iter().cloned().zip(parts.iter().map(value)).collect(),
    }
}

/// The granted fields that are not of the key.
pub(crate) fn cells_of<'c>(
    columns: &'c [Column],
    cells: &'c [StandardValue<'_>],
    key: &'c [String],
) -> impl Iterator<Item = (String, Value)> + 'c {
    let all = columns.iter().zip(cells).filter(|(column, _)| !key.contains(&column.name));
    all.map(|(column, cell)| (column.name.clone(), value(cell)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin { subscription: "hall".into(), resource: "enterprise".into(), log: "log".into() }
    }

    fn event(deleted: bool) -> Event {
        let origin = origin();
        let identity = Identity { origin: &origin, generation: 1, row: b"r", version: &[0, 255], deleted };
        let key = vec![("name".to_owned(), json!("南宁 甲"))];
        let cells = vec![("employees".to_owned(), value(&StandardValue::Int(3)))];
        match deleted {
            true => Event::deletion(identity, key, None),
            false => Event::upsert(identity, key, cells.into_iter(), Some(1_000_000)),
        }
    }

    #[test]
    fn the_three_modes_are_those_of_the_http_binding() {
        let (event, deletion) = (event(false), event(true));
        assert_ne!(event.id, deletion.id);
        let binary = Message::new(&origin(), Mode::Binary, &[&event]);
        let time = HeaderValue::from_str(&StandardValue::Time(1_000_000).to_string()).unwrap();
        assert_eq!(binary.headers["ce-subject"], "%E5%8D%97%E5%AE%81%20%E7%94%B2");
        assert_eq!(
            (&binary.headers["ce-time"], &binary.headers[CONTENT_TYPE]),
            (&time, &HeaderValue::from_static("application/json"))
        );
        assert_eq!((&binary.headers["ce-id"], &binary.id), (&HeaderValue::from_str(&event.id).unwrap(), &event.id));
        assert!(!binary.headers.contains_key("ce-datacontenttype"));
        assert_eq!(binary.body, "{\"name\":\"南宁 甲\",\"employees\":3}".as_bytes());
        let structured = Message::new(&origin(), Mode::Structured, &[&deletion]);
        let document: Value = serde_json::from_slice(&structured.body).unwrap();
        assert_eq!((&document["type"], &document["sequence"]), (&json!("cn.guitong.enterprise.delete"), &json!("00ff")));
        assert_eq!((&document["data"], &document["id"]), (&json!({"name": "南宁 甲"}), &json!(structured.id)));
        let batch = Message::new(&origin(), Mode::Batch, &[&event, &deletion]);
        let all: Value = serde_json::from_slice(&batch.body).unwrap();
        assert_eq!(all.as_array().map(Vec::len), Some(2));
        assert!(batch.id.starts_with("msg_") && batch.headers[CONTENT_TYPE].to_str().unwrap().contains("cloudevents-batch+json"));
    }
}
