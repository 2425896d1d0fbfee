//! A table made anew from the records of its raw topic, in their order, as whoever reads the topic would make it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::raw::{Raw, assert_once};

/// Values by the names that their columns had first.
pub(crate) type Row = BTreeMap<String, Option<String>>;

/// What a row has of a column that was never sent.
const UNKNOWN: &str = "<never sent>";

/// The rows that the records leave; `first_name` is of a column's present or former name.
pub(crate) fn replay(records: &[Raw], first_name: impl Fn(&str) -> String) -> Vec<Row> {
    assert_once(records);
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    // The row whose key is changing: between its delete and its create.
    let mut moving = None;
    for record in records {
        let key = record.key.to_string();
        let Some(value) = &record.value else {
            rows.remove(&key);
            continue;
        };
        match value["op"].as_str().unwrap() {
            "d" => {
                let gone = rows.remove(&key);
                moving = gone.filter(|_| record.moves);
            }
            "c" | "u" | "r" => {
                let before = moving.take().filter(|_| record.moves).or_else(|| rows.get(&key).cloned()).unwrap_or_default();
                let cells = value["after"].as_object().unwrap().iter().map(|(name, cell)| {
                    let column = first_name(name);
                    let known = if record.absent.contains(name) {
                        before.get(&column).cloned().unwrap_or_else(|| Some(UNKNOWN.to_owned()))
                    } else {
                        text(cell)
                    };
                    (column, known)
                });
                let row = cells.collect();
                rows.insert(key, row);
            }
            "t" => rows.clear(),
            other => panic!("{other}: {value}"),
        }
    }
    rows.into_values().collect()
}

fn text(cell: &Value) -> Option<String> {
    match cell {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}
