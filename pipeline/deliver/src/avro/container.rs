//! Avro object container files (Avro 1.12, "Object Container Files"), their blocks deflated. The sync marker is made of a name, so that
//! the same records under the same name are the same bytes.

use guitong_schemas::avro::{RecordEncoder, Value};
use sha2::{Digest as _, Sha256};

use crate::sink::{SinkError, SinkErrorKind};

/// Bytes of records in a block: readers hold one at a time, and deflating gains little from more.
const BLOCK: usize = 256 << 10;
/// Of deflate: quick rather than small.
const LEVEL: u8 = 2;
const MAGIC: &[u8] = b"Obj\x01";

/// A file that is being written.
#[derive(Debug)]
pub(crate) struct Container {
    encoder: RecordEncoder,
    sync: [u8; 16],
    block: Vec<u8>,
    records: i64,
}

impl Container {
    pub(crate) fn begin(schema: &str, name: &str, out: &mut Vec<u8>) -> Result<Self, SinkError> {
        let encoder = RecordEncoder::compile(schema).map_err(|error| SinkError::new(SinkErrorKind::Shape, error.to_string()))?;
        let digest: [u8; 32] = Sha256::digest(name).into();
        let mut sync = [0; 16];
        sync.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        out.extend_from_slice(MAGIC);
        // A map of two entries.
        long(out, 2);
        for (key, value) in [("avro.schema", schema), ("avro.codec", "deflate")] {
            text(out, key);
            text(out, value);
        }
        long(out, 0);
        out.extend_from_slice(&sync);
        Ok(Self { encoder, sync, block: Vec::new(), records: 0 })
    }

    pub(crate) fn write(&mut self, fields: &[Value<'_>], out: &mut Vec<u8>) -> Result<(), SinkError> {
        let written = self.encoder.write(fields, &mut self.block);
        written.map_err(|error| SinkError::new(SinkErrorKind::Shape, error.to_string()))?;
        self.records += 1;
        if self.block.len() >= BLOCK {
            self.end(out);
        }
        Ok(())
    }

    /// Appends the block that is not full, too.
    pub(crate) fn end(&mut self, out: &mut Vec<u8>) {
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
