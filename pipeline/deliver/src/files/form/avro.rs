//! Avro object container files.
//!
//! A record has `guitong_op`, `guitong_position`, `guitong_key` where the key is hashed, then the granted fields as a topic's records
//! have them; of a deleted row the key's alone.

use guitong_govern::KeyForm;
use guitong_schemas::avro::Value;
use guitong_schemas::standard::avro_values;
use serde_json::json;

use super::{Noted, OPERATION, POSITION, operation};
use crate::avro::{Container, field, record};
use crate::sink::{KEY, SinkError, SinkPlan};

#[derive(Debug)]
pub(super) struct AvroForm {
    schema: String,
    is_hashed: bool,
}

/// A file that is being written.
#[derive(Debug)]
pub(super) struct AvroFile {
    container: Container,
    is_hashed: bool,
}

impl AvroForm {
    pub(super) fn new(plan: &SinkPlan) -> Self {
        let is_hashed = plan.key == KeyForm::Hashed;
        let mut own = vec![json!({ "name": OPERATION, "type": "string" }), json!({ "name": POSITION, "type": "long" })];
        if is_hashed {
            own.push(field(KEY, json!("string"), ""));
        }
        Self { schema: record(plan, own).to_string(), is_hashed }
    }

    pub(super) fn begin(&self, name: &str, out: &mut Vec<u8>) -> Result<AvroFile, SinkError> {
        Ok(AvroFile { container: Container::begin(&self.schema, name, out)?, is_hashed: self.is_hashed })
    }
}

impl AvroFile {
    pub(super) fn write(&mut self, noted: &Noted, out: &mut Vec<u8>) -> Result<(), SinkError> {
        let (mut numbers, key) = (Vec::new(), noted.key.as_deref().map(hex::encode));
        let position = i64::try_from(noted.position).unwrap_or(i64::MAX);
        let mut fields = vec![Value::Text(operation(noted.deleted)), Value::Int(position)];
        if self.is_hashed {
            fields.push(key.as_deref().map_or(Value::Null, Value::Text));
        }
        fields.extend(avro_values(&noted.cells, &mut numbers));
        self.container.write(&fields, out)
    }

    /// Appends the block that is not full, too.
    pub(super) fn end(&mut self, out: &mut Vec<u8>) {
        self.container.end(out);
    }
}
