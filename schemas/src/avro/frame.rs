//! The Confluent frame: a zero byte, the schema's id as a big-endian `u32`, then Avro (Confluent documentation, "Wire format").

use thiserror::Error;

/// Bytes in front of the Avro.
pub const LEN: usize = 5;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    #[error("a framed value has at least 5 bytes, this one has {0}")]
    Short(usize),
    #[error("a framed value starts with byte 0, this one with {0}")]
    Magic(u8),
}

pub fn write(schema_id: u32, out: &mut Vec<u8>) {
    out.push(0);
    out.extend_from_slice(&schema_id.to_be_bytes());
}

/// Schema id and Avro bytes.
///
/// # Errors
/// [`FrameError`] where `framed` has no such frame.
pub fn read(framed: &[u8]) -> Result<(u32, &[u8]), FrameError> {
    match framed.split_first_chunk::<LEN>() {
        Some(([0, id @ ..], body)) => Ok((u32::from_be_bytes(*id), body)),
        Some(([magic, ..], _)) => Err(FrameError::Magic(*magic)),
        None => Err(FrameError::Short(framed.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip_and_damage_is_named() {
        let mut out = vec![];
        write(0x0102_0304, &mut out);
        out.extend_from_slice(b"body");
        assert_eq!(out, b"\0\x01\x02\x03\x04body");
        assert_eq!(read(&out), Ok((0x0102_0304, &b"body"[..])));
        assert_eq!(read(&out[..4]), Err(FrameError::Short(4)));
        assert_eq!(read(b"{\"a\":1}"), Err(FrameError::Magic(b'{')));
    }
}
