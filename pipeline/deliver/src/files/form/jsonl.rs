//! JSON lines: one object for each change, UTF-8 (RFC 8259), `\n` after each.

use serde_json::{Map, json};

use super::{Noted, OPERATION, POSITION, key_columns, names, operation};
use crate::sink::{SinkError, SinkErrorKind, SinkPlan};
use crate::sql::KEY;

/// `guitong_op`, `guitong_position`, `guitong_key` where the key is hashed, then the granted fields by their names; of a deleted row
/// the key's alone. Dates, instants and decimals are texts: JSON has none of the first two, and its numbers would round the third.
#[derive(Debug)]
pub(crate) struct JsonLines {
    names: Vec<String>,
    keys: Vec<bool>,
}

impl JsonLines {
    pub(super) fn new(plan: &SinkPlan) -> Self {
        Self { names: names(&plan.columns), keys: key_columns(plan) }
    }

    pub(super) fn write(&self, noted: &Noted, out: &mut Vec<u8>) -> Result<(), SinkError> {
        let mut line = Map::new();
        line.insert(OPERATION.to_owned(), json!(operation(noted.deleted)));
        line.insert(POSITION.to_owned(), json!(noted.position));
        if let Some(key) = &noted.key {
            line.insert(KEY.to_owned(), json!(hex::encode(key)));
        }
        for ((name, is_key), cell) in self.names.iter().zip(&self.keys).zip(&noted.cells) {
            if !noted.deleted || *is_key {
                line.insert(name.clone(), crate::json::value(cell));
            }
        }
        serde_json::to_writer(&mut *out, &line).map_err(|error| SinkError::new(SinkErrorKind::Shape, error.to_string()))?;
        out.push(b'\n');
        Ok(())
    }
}
