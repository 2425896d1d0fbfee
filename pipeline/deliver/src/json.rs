//! Values as JSON, for sinks that speak it and for columns that hold it.

use std::borrow::Cow;

use guitong_schemas::standard::{StandardValue, Step};
use serde_json::{Value, json};

/// A field's value. Dates, times and decimals are texts: JSON has none of the first two, and its numbers would round the third.
pub(crate) fn value(cell: &StandardValue<'_>) -> Value {
    match cell {
        StandardValue::Null => Value::Null,
        StandardValue::Int(number) => json!(number),
        StandardValue::TextList(items) => texts(items),
        StandardValue::Steps(all) => steps(all),
        other => json!(other.to_string()),
    }
}

/// A list of texts.
pub(crate) fn texts(items: &[Cow<'_, str>]) -> Value {
    items.iter().map(|item| &**item).collect()
}

/// Steps of a case; instants RFC 3339.
pub(crate) fn steps(steps: &[Step]) -> Value {
    let time = |at: Option<i64>| at.map(|micros| StandardValue::Time(micros).to_string());
    let step = |step: &Step| {
        json!({
            "name": step.name, "handler": step.handler, "started": time(step.started), "ended": time(step.ended),
            "action": step.action, "opinion": step.opinion,
        })
    };
    steps.iter().map(step).collect()
}
