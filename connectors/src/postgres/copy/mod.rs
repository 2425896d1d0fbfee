//! Rows of `COPY ... TO STDOUT` as row images: the bytes that the stream would have sent for the same row.
//!
//! Where all columns of a table are of types whose binary form is plain, its rows are read in that form: the server then prints no numbers,
//! dates and places, which is a good part of its work, and the text that it would have printed is written here ([`super::printed`]). All other
//! tables are read as lines of text ([`text`]).

mod binary;
mod text;

use std::fmt;
use std::sync::Arc;

use bytes::BytesMut;
use guitong_schemas::change::RowImage;

use super::decode::DecodeError;
use super::printed::Printed;

/// The form in which rows of a table are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// Lines of so many columns.
    Text(usize),
    Binary(Arc<[Printed]>),
}

impl Form {
    /// What stands behind `TO STDOUT`.
    pub(crate) fn clause(&self) -> &'static str {
        match self {
            Self::Text(_) => "",
            Self::Binary(_) => " (FORMAT binary)",
        }
    }

    /// Whether the message is a row, and not the end of them.
    pub(crate) fn has_row(&self, message: &[u8]) -> bool {
        matches!(self, Self::Text(_)) || binary::row(message).is_ok_and(|row| row.is_some())
    }
}

/// Where a row lies in its table's files: its `ctid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowPlace {
    page: u32,
    row: u16,
}

impl fmt::Display for RowPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({},{})", self.page, self.row)
    }
}

/// Turns what the server sends in one message each into images; keeps one buffer for many rows.
#[derive(Debug)]
pub struct CopyRows {
    form: Form,
    out: BytesMut,
}

impl CopyRows {
    #[must_use]
    pub fn new(form: Form) -> Self {
        Self { form, out: BytesMut::new() }
    }

    /// The row in a message; `None` where it holds none.
    ///
    /// # Errors
    /// When the message is no row of this form.
    pub fn row(&mut self, message: &[u8]) -> Result<Option<RowImage>, DecodeError> {
        match &self.form {
            Form::Text(columns) => {
                text::row(text::line(message), *columns, &mut self.out)?;
            }
            Form::Binary(columns) => {
                let Some(row) = binary::row(message)? else { return Ok(None) };
                binary::values(row, columns, &mut self.out)?;
            }
        }
        Ok(Some(RowImage(self.out.split().freeze())))
    }

    /// The row in a message whose last column is the row's place, which is no column of the table.
    ///
    /// # Errors
    /// When the message is no such row.
    pub fn row_and_place(&mut self, message: &[u8]) -> Result<Option<(RowImage, RowPlace)>, DecodeError> {
        let place = match &self.form {
            Form::Text(columns) => {
                let (row, place) = text::cut_place(text::line(message))?;
                text::row(row, *columns, &mut self.out)?;
                place
            }
            Form::Binary(columns) => {
                let Some(row) = binary::row(message)? else { return Ok(None) };
                let (row, place) = binary::cut_place(row)?;
                binary::values(row, columns, &mut self.out)?;
                place
            }
        };
        Ok(Some((RowImage(self.out.split().freeze()), place)))
    }
}
