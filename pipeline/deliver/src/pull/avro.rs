//! Pages of changes and of rows as Avro object container files, for who has the types rather than texts of them.
//!
//! A change has `guitong_op`, `guitong_cursor`, `guitong_time`, `guitong_key` where the key is hashed, then the granted fields as a
//! topic's records have them; of a deleted row the key's alone. A row has the same without the first three.

use guitong_govern::{Column, ColumnKind, KeyForm};
use guitong_schemas::avro::Value as Field;
use guitong_schemas::standard::{StandardValue, avro_values};
use serde_json::{Map, Value, json};

use super::{Page, PullError, Rows};
use crate::avro::{Container, field, kind, record};
use crate::shown;
use crate::sink::{KEY, SinkPlan};

/// The schemas of a subscription's changes and rows.
#[derive(Debug)]
pub(crate) struct AvroForm {
    changes: String,
    rows: String,
    columns: Vec<Column>,
    is_hashed: bool,
}

impl AvroForm {
    pub(crate) fn new(plan: &SinkPlan) -> Self {
        let is_hashed = plan.key == KeyForm::Hashed;
        let key: Vec<_> = is_hashed.then(|| field(KEY, json!("string"), "")).into_iter().collect();
        let mut own = vec![
            json!({ "name": "guitong_op", "type": "string" }),
            json!({ "name": "guitong_cursor", "type": "string" }),
            json!({ "name": "guitong_time", "type": kind(ColumnKind::Time) }),
        ];
        own.extend(key.iter().cloned());
        let (changes, rows) = (record(plan, own).to_string(), record(plan, key).to_string());
        Self { changes, rows, columns: plan.columns.clone(), is_hashed }
    }

    pub(super) fn changes(&self, page: &Page) -> Result<Vec<u8>, PullError> {
        let mut out = Vec::new();
        let mut container = Container::begin(&self.changes, &page.next.to_string(), &mut out)?;
        for event in &page.events {
            let (cursor, op) = (event.cursor.to_string(), if event.record.is_some() { "upsert" } else { "delete" });
            let own = vec![Field::Text(op), Field::Text(&cursor), Field::Int(event.at_us)];
            self.write(own, &event.key, event.record.as_deref(), &mut container, &mut out)?;
        }
        container.end(&mut out);
        Ok(out)
    }

    pub(super) fn rows(&self, page: &Rows) -> Result<Vec<u8>, PullError> {
        let mut out = Vec::new();
        let name = page.next.map_or_else(|| page.live.to_string(), |next| format!("{}-{next}", page.live));
        let mut container = Container::begin(&self.rows, &name, &mut out)?;
        for (key, record) in &page.rows {
            self.write(Vec::new(), key, Some(record), &mut container, &mut out)?;
        }
        container.end(&mut out);
        Ok(out)
    }

    /// One record: what goes `before`, the key where it is hashed, and the fields.
    fn write(
        &self,
        before: Vec<Field<'_>>,
        key: &str,
        row: Option<&str>,
        container: &mut Container,
        out: &mut Vec<u8>,
    ) -> Result<(), PullError> {
        let key = object(key)?;
        let row = row.map(object).transpose()?;
        let of = row.as_ref().unwrap_or(&key);
        let cells = self.columns.iter().map(|column| cell(of.get(&column.name), column.kind));
        let cells = cells.collect::<Option<Vec<_>>>().ok_or_else(damaged)?;
        let (mut numbers, mut fields) = (Vec::new(), before);
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
