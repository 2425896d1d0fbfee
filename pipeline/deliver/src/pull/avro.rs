//! Pages of changes as Avro object container files, for who has the types rather than texts of them.
//!
//! A record has `guitong_op`, `guitong_cursor`, `guitong_time`, `guitong_key` where the key is hashed, then the granted fields as a
//! topic's records have them; of a deleted row the key's alone.

use guitong_govern::{Column, ColumnKind, KeyForm};
use guitong_schemas::avro::Value as Field;
use guitong_schemas::standard::{StandardValue, avro_values};
use serde_json::{Map, Value, json};

use super::{Event, Page, PullError};
use crate::avro::{Container, field, kind, record};
use crate::shown;
use crate::sink::{KEY, SinkPlan};

/// The schema of a subscription's changes.
#[derive(Debug)]
pub(crate) struct AvroForm {
    schema: String,
    columns: Vec<Column>,
    is_hashed: bool,
}

impl AvroForm {
    pub(crate) fn new(plan: &SinkPlan) -> Self {
        let is_hashed = plan.key == KeyForm::Hashed;
        let mut own = vec![
            json!({ "name": "guitong_op", "type": "string" }),
            json!({ "name": "guitong_cursor", "type": "string" }),
            json!({ "name": "guitong_time", "type": kind(ColumnKind::Time) }),
        ];
        if is_hashed {
            own.push(field(KEY, json!("string"), ""));
        }
        Self { schema: record(plan, own).to_string(), columns: plan.columns.clone(), is_hashed }
    }

    pub(super) fn file(&self, page: &Page) -> Result<Vec<u8>, PullError> {
        let mut out = Vec::new();
        let mut container = Container::begin(&self.schema, &page.next.to_string(), &mut out)?;
        for event in &page.events {
            self.write(event, &mut container, &mut out)?;
        }
        container.end(&mut out);
        Ok(out)
    }

    fn write(&self, event: &Event, container: &mut Container, out: &mut Vec<u8>) -> Result<(), PullError> {
        let key = object(&event.key)?;
        let row = event.record.as_deref().map(object).transpose()?;
        let of = row.as_ref().unwrap_or(&key);
        let cells = self.columns.iter().map(|column| cell(of.get(&column.name), column.kind));
        let cells = cells.collect::<Option<Vec<_>>>().ok_or_else(damaged)?;
        let (cursor, mut numbers) = (event.cursor.to_string(), Vec::new());
        let op = if row.is_some() { "upsert" } else { "delete" };
        let mut fields = vec![Field::Text(op), Field::Text(&cursor), Field::Int(event.at_us)];
        if self.is_hashed {
            fields.push(key.get(KEY).and_then(Value::as_str).map_or(Field::Null, Field::Text));
        }
        fields.extend(avro_values(&cells, &mut numbers));
        Ok(container.write(&fields, out)?)
    }
}

fn object(text: &str) -> Result<Map<String, Value>, PullError> {
    serde_json::from_str(text).map_err(|_| damaged())
}

/// What a member of the outbox's JSON is; `None` where it is not of its column's kind.
fn cell(member: Option<&Value>, kind: ColumnKind) -> Option<StandardValue<'static>> {
    match member {
        None | Some(Value::Null) => Some(StandardValue::Null),
        Some(Value::String(text)) => shown::value(text, kind),
        Some(other) => shown::value(&other.to_string(), kind),
    }
}

fn damaged() -> PullError {
    PullError::Unavailable("a value is not of its column's kind".to_owned())
}
