//! Where two dumps differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value as Json;

use super::dump::{Message, Topic};

/// One place where ours is not as expected.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    pub topic: String,
    /// `None` for what is not of one message: schemas, the topic itself.
    pub message: Option<usize>,
    pub path: String,
    pub theirs: Json,
    pub ours: Json,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = self.message.map(|number| format!(" message {number}")).unwrap_or_default();
        write!(f, "{}{message} {}: theirs {} ours {}", self.topic, self.path, short(&self.theirs), short(&self.ours))
    }
}

fn short(value: &Json) -> String {
    const LONGEST: usize = 400;
    let text = value.to_string();
    if text.chars().count() <= LONGEST {
        return text;
    }
    text.chars().take(LONGEST).chain(['…']).collect()
}

/// Every difference, topic by topic.
pub(super) fn topics(theirs: &BTreeMap<String, Topic>, ours: &BTreeMap<String, Topic>) -> Vec<Difference> {
    let mut out = Vec::new();
    let empty = Topic::default();
    let names: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
    for name in names {
        topic(name, theirs.get(name).unwrap_or(&empty), ours.get(name).unwrap_or(&empty), &mut out);
    }
    out
}

fn topic(name: &str, theirs: &Topic, ours: &Topic, out: &mut Vec<Difference>) {
    let mut found = Vec::new();
    schemas("key schemas", &theirs.key_schemas, &ours.key_schemas, &mut found);
    schemas("value schemas", &theirs.value_schemas, &ours.value_schemas, &mut found);
    if theirs.messages.len() != ours.messages.len() {
        found.push(("messages".to_owned(), theirs.messages.len().into(), ours.messages.len().into()));
    }
    let of_topic = |(path, theirs, ours)| Difference { topic: name.to_owned(), message: None, path, theirs, ours };
    out.extend(found.into_iter().map(of_topic));
    for number in 0..theirs.messages.len().max(ours.messages.len()) {
        let mut found = Vec::new();
        match (theirs.messages.get(number), ours.messages.get(number)) {
            (Some(theirs), Some(ours)) => message(theirs, ours, &mut found),
            (theirs, ours) => found.push(("message".to_owned(), summary(theirs), summary(ours))),
        }
        let of_message = |(path, theirs, ours)| Difference { topic: name.to_owned(), message: Some(number), path, theirs, ours };
        out.extend(found.into_iter().map(of_message));
    }
}

fn summary(message: Option<&Message>) -> Json {
    message.map_or(
        Json::Null,
        |message| serde_json::json!({"op": message.operation(), "key": message.key, "after": message.value.get("after")}),
    )
}

type Found = Vec<(String, Json, Json)>;

fn schemas(path: &str, theirs: &[Json], ours: &[Json], found: &mut Found) {
    if theirs.len() != ours.len() {
        found.push((path.to_owned(), theirs.len().into(), ours.len().into()));
    }
    for (number, (theirs, ours)) in theirs.iter().zip(ours).enumerate() {
        let (path, before) = (format!("{path}[{number}]"), found.len());
        values(&path, theirs, ours, found);
        // Registries compare schemas as text, so the order of attributes counts too.
        let [their_text, our_text] = [theirs, ours].map(Json::to_string);
        if found.len() == before && their_text != our_text {
            found.push((format!("{path} (order of attributes)"), theirs.clone(), ours.clone()));
        }
    }
}

fn message(theirs: &Message, ours: &Message, found: &mut Found) {
    let index = |schema: Option<usize>| schema.map_or(Json::Null, Json::from);
    values("key schema", &index(theirs.key_schema), &index(ours.key_schema), found);
    values("value schema", &index(theirs.value_schema), &index(ours.value_schema), found);
    values("key", &theirs.key, &ours.key, found);
    let before = found.len();
    values("value", &theirs.value, &ours.value, found);
    // Without a schema nothing else says in which order fields stand.
    let [their_text, our_text] = [theirs, ours].map(|message| message.value.to_string());
    if found.len() == before && theirs.value_schema.is_none() && their_text != our_text {
        found.push(("value (order of fields)".to_owned(), theirs.value.clone(), ours.value.clone()));
    }
    let headers = |message: &Message| serde_json::json!(message.headers);
    values("headers", &headers(theirs), &headers(ours), found);
}

fn values(path: &str, theirs: &Json, ours: &Json, found: &mut Found) {
    match (theirs, ours) {
        (Json::Object(a), Json::Object(b)) => {
            let names: Vec<&String> = a.keys().chain(b.keys().filter(|name| !a.contains_key(*name))).collect();
            for name in names {
                let absent = Json::from("(absent)");
                values(&format!("{path}.{name}"), a.get(name).unwrap_or(&absent), b.get(name).unwrap_or(&absent), found);
            }
        }
        (Json::Array(a), Json::Array(b)) if a.len() == b.len() => {
            for (at, (a, b)) in a.iter().zip(b).enumerate() {
                values(&format!("{path}[{at}]"), a, b, found);
            }
        }
        // Minus zero is not zero here.
        (Json::Number(a), Json::Number(b)) if a.to_string() == b.to_string() => {}
        (a, b) if a == b && !a.is_number() => {}
        _ => found.push((path.to_owned(), theirs.clone(), ours.clone())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn dump(value: Json) -> BTreeMap<String, Topic> {
        let message = Message { value_schema: Some(0), value, ..Message::default() };
        let schema = json!({"type": "record", "name": "V"});
        BTreeMap::from([("t".to_owned(), Topic { value_schemas: vec![schema], messages: vec![message], ..Topic::default() })])
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        let theirs = dump(json!({"after": {"a": 1, "f": 0.0, "l": [1, null]}}));
        assert_eq!(topics(&theirs, &theirs), []);
        for (value, path) in [
            (json!({"after": {"a": 2, "f": 0.0, "l": [1, null]}}), "value.after.a"),
            (json!({"after": {"a": 1, "f": -0.0, "l": [1, null]}}), "value.after.f"),
            (json!({"after": {"a": 1, "f": 0.0, "l": [1, 2]}}), "value.after.l[1]"),
            (json!({"after": {"a": 1, "f": 0.0, "l": [1, null], "b": null}}), "value.after.b"),
        ] {
            let found = topics(&theirs, &dump(value));
            assert_eq!(found.iter().map(|difference| difference.path.as_str()).collect::<Vec<_>>(), [path]);
        }
        let mut ours = theirs.clone();
        let topic = ours.get_mut("t").unwrap();
        topic.value_schemas = vec![json!({"name": "V", "type": "record"})];
        topic.messages[0].headers.push(("h".to_owned(), "1".to_owned()));
        topic.messages.push(Message::default());
        let found: Vec<String> = topics(&theirs, &ours).into_iter().map(|difference| difference.path).collect();
        assert_eq!(found, ["value schemas[0] (order of attributes)", "messages", "headers", "message"]);
        assert_eq!(topics(&theirs, &BTreeMap::new()).len(), 3, "a missing topic");
        let text = |value: Json| {
            let mut topics = dump(value);
            topics.get_mut("t").unwrap().messages[0].value_schema = None;
            topics
        };
        let found = topics(&text(json!({"a": 1, "b": 2})), &text(json!({"b": 2, "a": 1})));
        assert_eq!(found[0].path, "value (order of fields)");
    }
}
