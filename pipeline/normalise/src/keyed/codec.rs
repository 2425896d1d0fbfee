//! Bytes of keyed-state values: a format byte first, then fixed-width numbers, LEB128 lengths and slices of the stored value
//! itself (reading copies nothing).

use bytes::Bytes;
use guitong_schemas::position::Version;
use thiserror::Error;

/// A stored value that does not read back.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CodecError {
    #[error("keyed state has format {found}, this version reads {known}; use the version that wrote it")]
    Format { found: u8, known: u8 },
    #[error("keyed state is damaged")]
    Damaged,
}

#[derive(Debug)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new(format: u8, capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity + 1);
        bytes.push(format);
        Self(bytes)
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn version(&mut self, value: Version) {
        self.0.extend_from_slice(&value.to_bytes());
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.number(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    pub(crate) fn optional(&mut self, value: Option<&[u8]>) {
        match value {
            None => self.u8(0),
            Some(value) => {
                self.u8(1);
                self.bytes(value);
            }
        }
    }

    pub(crate) fn finish(self) -> Bytes {
        Bytes::from(self.0)
    }
}

#[derive(Debug)]
pub(crate) struct Reader {
    bytes: Bytes,
}

impl Reader {
    pub(crate) fn new(bytes: &Bytes, known: u8) -> Result<Self, CodecError> {
        match bytes.first() {
            Some(&found) if found == known => Ok(Self { bytes: bytes.slice(1..) }),
            Some(&found) => Err(CodecError::Format { found, known }),
            None => Err(CodecError::Damaged),
        }
    }

    /// Reads a value of any format up to `known`, and tells which.
    pub(crate) fn upto(bytes: &Bytes, known: u8) -> Result<(u8, Self), CodecError> {
        let found = bytes.first().copied().filter(|found| (1..=known).contains(found));
        let format = found.unwrap_or(known);
        Ok((format, Self::new(bytes, format)?))
    }

    fn take(&mut self, length: usize) -> Result<Bytes, CodecError> {
        if length > self.bytes.len() {
            return Err(CodecError::Damaged);
        }
        Ok(self.bytes.split_to(length))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, CodecError> {
        self.take(1)?.first().copied().ok_or(CodecError::Damaged)
    }

    pub(crate) fn number(&mut self) -> Result<u64, CodecError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(CodecError::Damaged)
    }

    /// A count of items of at least one byte each, so that a damaged one allocates nothing.
    pub(crate) fn count(&mut self) -> Result<usize, CodecError> {
        let count = usize::try_from(self.number()?).map_err(|_| CodecError::Damaged)?;
        if count > self.bytes.len() { Err(CodecError::Damaged) } else { Ok(count) }
    }

    pub(crate) fn i64(&mut self) -> Result<i64, CodecError> {
        let bytes = self.take(8)?;
        bytes.as_ref().try_into().map(i64::from_be_bytes).map_err(|_| CodecError::Damaged)
    }

    pub(crate) fn version(&mut self) -> Result<Version, CodecError> {
        Version::from_bytes(&self.take(Version::LEN)?).map_err(|_| CodecError::Damaged)
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes, CodecError> {
        let length = usize::try_from(self.number()?).map_err(|_| CodecError::Damaged)?;
        self.take(length)
    }

    pub(crate) fn text(&mut self) -> Result<String, CodecError> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| CodecError::Damaged)
    }

    pub(crate) fn optional(&mut self) -> Result<Option<Bytes>, CodecError> {
        match self.u8()? {
            0 => Ok(None),
            1 => self.bytes().map(Some),
            _ => Err(CodecError::Damaged),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn end(self) -> Result<(), CodecError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(CodecError::Damaged) }
    }
}
