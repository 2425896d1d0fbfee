//! Last values of columns that a source may leave out of a later change of the row.

use crate::keyed::codec::{CodecError, Reader, Writer};

/// Text forms by column name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Columns(Vec<(Box<str>, Box<str>)>);

impl Columns {
    pub(crate) fn get(&self, column: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| &**name == column).map(|(_, value)| &**value)
    }

    pub(crate) fn push(&mut self, column: &str, value: &str) {
        self.0.push((column.into(), value.into()));
    }

    /// Bytes that the values hold.
    pub(crate) fn size(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len() + 8).sum()
    }

    pub(crate) fn encode(&self, out: &mut Writer) {
        out.number(self.0.len() as u64);
        for (name, value) in &self.0 {
            out.bytes(name.as_bytes());
            out.bytes(value.as_bytes());
        }
    }

    pub(crate) fn decode(from: &mut Reader) -> Result<Self, CodecError> {
        let count = from.count()?;
        let read = |_| Ok((from.text()?.into_boxed_str(), from.text()?.into_boxed_str()));
        Ok(Self((0..count).map(read).collect::<Result<_, CodecError>>()?))
    }
}
