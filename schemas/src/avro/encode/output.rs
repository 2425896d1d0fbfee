//! What differs between the forms that a plan writes in. A plan is compiled for one of them; each of its functions exists once for
//! each form, so that nothing is decided for a column that was known before.

use super::super::varint::{write_bytes, write_long};
use super::cell::Wire;
use super::source::{self, Scalar, SourceBlock};
use super::{Bad, Fit, Slot};
use crate::change::Change;

/// What a row's columns stand in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// A key, or an event that is a row.
    Whole,
    /// A part of the envelope.
    Before,
    After,
}

pub(super) trait Output {
    /// What stands before the first column.
    fn begin(&mut self, part: Part, out: &mut Vec<u8>);

    /// In place of a row that there is none of.
    fn none(&mut self, part: Part, out: &mut Vec<u8>);

    /// What stands behind the last column.
    fn end(&mut self, out: &mut Vec<u8>);

    /// What stands before a column's value.
    fn open(&mut self, slot: &Slot, out: &mut Vec<u8>);

    /// A column that is null, whole.
    fn null(&mut self, slot: &Slot, out: &mut Vec<u8>);

    /// A value in PostgreSQL's text form. What `out` holds after [`Fit::Unfit`] or an error is to be cut off.
    fn text(&mut self, wire: &Wire, value: &[u8], out: &mut Vec<u8>) -> Result<Fit, Bad>;

    /// A value in PostgreSQL's binary form.
    fn binary(&mut self, wire: &Wire, value: &[u8], out: &mut Vec<u8>) -> Result<Fit, Bad>;

    /// A nullable field that is no column.
    fn optional(&mut self, label: &[u8], value: &Scalar<'_>, out: &mut Vec<u8>);

    /// The envelope from `source` on.
    fn rest(&mut self, source: &SourceBlock, change: &Change, processed_us: i64, out: &mut Vec<u8>);
}

pub(super) struct AvroOutput;

impl Output for AvroOutput {
    #[inline]
    fn begin(&mut self, part: Part, out: &mut Vec<u8>) {
        // The envelope's rows are unions with null.
        if part != Part::Whole {
            write_long(out, 1);
        }
    }

    #[inline]
    fn none(&mut self, _part: Part, out: &mut Vec<u8>) {
        write_long(out, 0);
    }

    #[inline]
    fn end(&mut self, _out: &mut Vec<u8>) {}

    #[inline]
    fn open(&mut self, slot: &Slot, out: &mut Vec<u8>) {
        if slot.nullable {
            // A zigzag 0 or 1.
            out.push(slot.branch << 1);
        }
    }

    #[inline]
    fn null(&mut self, slot: &Slot, out: &mut Vec<u8>) {
        out.push((1 - slot.branch) << 1);
    }

    #[inline]
    fn text(&mut self, wire: &Wire, value: &[u8], out: &mut Vec<u8>) -> Result<Fit, Bad> {
        wire.text(value, out)
    }

    #[inline]
    fn binary(&mut self, wire: &Wire, value: &[u8], out: &mut Vec<u8>) -> Result<Fit, Bad> {
        wire.binary(value, out)
    }

    fn optional(&mut self, _label: &[u8], value: &Scalar<'_>, out: &mut Vec<u8>) {
        match value {
            Scalar::Null => write_long(out, 0),
            Scalar::Number(number) => {
                write_long(out, 1);
                write_long(out, *number);
            }
            Scalar::Text(text) => {
                write_long(out, 1);
                write_bytes(out, text.as_bytes());
            }
        }
    }

    fn rest(&mut self, source: &SourceBlock, change: &Change, processed_us: i64, out: &mut Vec<u8>) {
        source.write(&change.origin, out);
        source::write_transaction(&change.origin.place, change.version.commit, out);
        write_bytes(out, change.operation.code().as_bytes());
        for time in [processed_us.div_euclid(1000), processed_us, processed_us.saturating_mul(1000)] {
            write_long(out, 1);
            write_long(out, time);
        }
    }
}
