//! Events as requests: binary, structured and batched content modes of CloudEvents' HTTP binding.

use guitong_schemas::contract::webhook::Mode;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use crate::event::{Event, Origin, short};

/// What the HTTP binding wants percent-encoded in a header; everything outside ASCII is by itself.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

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
                ("application/cloudevents+json; charset=UTF-8", event.id.clone(), document(event, origin))
            }
            (_, events) => {
                let id = format!("msg_{}", short(events.iter().map(|event| event.id.as_bytes())));
                let all: Vec<String> = events.iter().map(|event| document(event, origin)).collect();
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

/// The whole event in JSON.
fn document(event: &Event, origin: &Origin) -> String {
    let attributes = event.attributes(origin).into_iter().chain([("datacontenttype", "application/json".to_owned())]);
    let attributes: Vec<String> = attributes.map(|(name, value)| format!("\"{name}\":{}", Value::String(value))).collect();
    format!("{{{},\"data\":{}}}", attributes.join(","), event.data)
}

#[cfg(test)]
mod tests {
    use guitong_schemas::standard::StandardValue;
    use serde_json::json;

    use super::*;
    use crate::event::Identity;
    use crate::json::value;

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
