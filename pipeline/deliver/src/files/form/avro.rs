//! Avro object container files (Avro 1.12, "Object Container Files"), their blocks deflated.
//!
//! A record has `guitong_op`, `guitong_position`, `guitong_key` where the key is hashed, then the granted fields as a topic's records
//! have them; of a deleted row the key's alone. The sync marker is made of the file's name, so that the same changes under the same
//! name are the same bytes.

use guitong_govern::KeyForm;
use guitong_schemas::avro::{RecordEncoder, Value};
use guitong_schemas::standard::avro_values;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{Noted, OPERATION, POSITION, operation};
use crate::avro::{field, record};
use crate::sink::{KEY, SinkError, SinkErrorKind, SinkPlan};

/// Bytes of records in a block: readers hold one at a time, and deflating gains little from more.
const BLOCK: usize = 256 << 10;
/// Of deflate: quick rather than small.
const LEVEL: u8 = 2;
const MAGIC: &[u8] = b"Obj\x01";

#[derive(Debug)]
pub(super) struct AvroForm {
    schema: String,
    is_hashed: bool,
}

/// A file that is being written.
#[derive(Debug)]
pub(super) struct AvroFile {
    encoder: RecordEncoder,
    is_hashed: bool,
    sync: [u8; 16],
    block: Vec<u8>,
    records: i64,
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
        let encoder =
            RecordEncoder::compile(&self.schema).map_err(|error| SinkError::new(SinkErrorKind::Shape, error.to_string()))?;
        let digest: [u8; 32] = Sha256::digest(name).into();
        let mut sync = [0; 16];
        sync.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        out.extend_from_slice(MAGIC);
        // A map of two entries.
        long(out, 2);
        for (key, value) in [("avro.schema", self.schema.as_str()), ("avro.codec", "deflate")] {
            text(out, key);
            text(out, value);
        }
        long(out, 0);
        out.extend_from_slice(&sync);
        Ok(AvroFile { encoder, is_hashed: self.is_hashed, sync, block: Vec::new(), records: 0 })
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
        let written = self.encoder.write(&fields, &mut self.block);
        written.map_err(|error| SinkError::new(SinkErrorKind::Shape, error.to_string()))?;
        self.records += 1;
        if self.block.len() >= BLOCK {
            self.end(out);
        }
        Ok(())
    }

    /// Appends the block that is not full, too.
    pub(super) fn end(&mut self, out: &mut Vec<u8>) {
        if self.records == 0 {
            return;
        }
        let block = miniz_oxide::deflate::compress_to_vec(&self.block, LEVEL);
        long(out, self.records);
        long(out, i64::try_from(block.len()).unwrap_or(i64::MAX));
        out.extend_from_slice(&block);
        out.extend_from_slice(&self.sync);
        self.block.clear();
        self.records = 0;
    }
}

fn long(out: &mut Vec<u8>, number: i64) {
    let mut rest = (number << 1 ^ number >> 63).cast_unsigned();
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn text(out: &mut Vec<u8>, text: &str) {
    long(out, i64::try_from(text.len()).unwrap_or(i64::MAX));
    out.extend_from_slice(text.as_bytes());
}
