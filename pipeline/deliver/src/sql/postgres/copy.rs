//! Rows in the binary format of COPY (PostgreSQL, "COPY", "Binary Format"), straight from cells.

use guitong_schemas::standard::StandardValue;

use super::table::Kind;
use crate::json;
use crate::sink::{SinkError, SinkErrorKind};
use guitong_govern::ColumnKind;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Days and microseconds from 1970-01-01 to 2000-01-01, from which PostgreSQL counts.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH_MICROS: i64 = 946_684_800_000_000;
/// Object id of `text`.
const TEXT_OID: u32 = 25;

/// One COPY's bytes.
#[derive(Debug, Default)]
pub(crate) struct Copy {
    pub(crate) bytes: Vec<u8>,
}

impl Copy {
    /// Starts over, with the header of a COPY.
    pub(crate) fn start(&mut self) {
        self.bytes.clear();
        self.bytes.extend_from_slice(SIGNATURE);
        self.bytes.extend_from_slice(&[0; 8]);
    }

    pub(crate) fn row(&mut self, fields: u16) {
        self.bytes.extend_from_slice(&fields.to_be_bytes());
    }

    pub(crate) fn end(&mut self) {
        self.bytes.extend_from_slice(&(-1_i16).to_be_bytes());
    }

    pub(crate) fn null(&mut self) {
        self.bytes.extend_from_slice(&(-1_i32).to_be_bytes());
    }

    pub(crate) fn boolean(&mut self, value: bool) {
        self.field(&[u8::from(value)]);
    }

    pub(crate) fn long(&mut self, value: i64) {
        self.field(&value.to_be_bytes());
    }

    /// A field of bytes or text. Cells come from records of at most 16 MiB.
    pub(crate) fn field(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(&(value.len() as i32).to_be_bytes());
        self.bytes.extend_from_slice(value);
    }

    /// # Errors
    /// [`SinkErrorKind::Data`] for a value that is not of the column's kind or beyond its type's range.
    pub(crate) fn cell(&mut self, kind: Kind, cell: &StandardValue<'_>) -> Result<(), SinkError> {
        match (kind, cell) {
            (_, StandardValue::Null) => self.null(),
            (Kind::Granted(ColumnKind::Text), StandardValue::Text(text)) => self.field(text.as_bytes()),
            (Kind::Granted(ColumnKind::Text), value) => self.field(value.to_string().as_bytes()),
            (Kind::Granted(ColumnKind::Int), StandardValue::Int(value)) => self.long(*value),
            (Kind::Granted(ColumnKind::Date), StandardValue::Date(days)) => {
                let days = days.checked_sub(EPOCH_DAYS).ok_or_else(|| out_of_range("date"))?;
                self.field(&days.to_be_bytes());
            }
            (Kind::Granted(ColumnKind::Time), StandardValue::Time(micros)) => {
                self.long(micros.checked_sub(EPOCH_MICROS).ok_or_else(|| out_of_range("time"))?);
            }
            (Kind::Granted(ColumnKind::Decimal { .. }), StandardValue::Decimal { unscaled, scale }) => {
                self.numeric(*unscaled, *scale)?;
            }
            (Kind::Granted(ColumnKind::TextList), StandardValue::TextList(items)) => self.texts(items.iter().map(|item| &**item)),
            (Kind::Granted(ColumnKind::Steps), StandardValue::Steps(steps)) => {
                // jsonb: a version, then text.
                let json = json::steps(steps).to_string();
                self.bytes.extend_from_slice(&(json.len() as i32 + 1).to_be_bytes());
                self.bytes.push(1);
                self.bytes.extend_from_slice(json.as_bytes());
            }
            _ => return Err(SinkError::new(SinkErrorKind::Data, "a value is not of its column's kind")),
        }
        Ok(())
    }

    /// `numeric`: groups of four decimal digits, the weight of the first, sign, digits after the point (`numeric_send`).
    fn numeric(&mut self, unscaled: i128, scale: u32) -> Result<(), SinkError> {
        const GROUP: u128 = 10_000;
        // Digits after the point are filled to whole groups; then the number is one integer in groups.
        let fraction_groups = scale.div_ceil(4);
        let filled = unscaled.unsigned_abs().checked_mul(10_u128.pow(fraction_groups * 4 - scale));
        let mut rest = filled.ok_or_else(|| out_of_range("numeric"))?;
        let mut groups = [0_u16; 10];
        let mut count = 0;
        for group in groups.iter_mut().rev() {
            if rest == 0 {
                break;
            }
            *group = (rest % GROUP) as u16;
            rest /= GROUP;
            count += 1;
        }
        let digits = groups.get(groups.len() - count..).unwrap_or_default();
        let weight = count as i16 - 1 - fraction_groups as i16;
        let significant = digits.iter().rposition(|&group| group != 0).map_or(0, |last| last + 1);
        let digits = digits.get(..significant).unwrap_or_default();
        let sign: u16 = if unscaled < 0 { 0x4000 } else { 0 };
        self.bytes.extend_from_slice(&(8 + 2 * digits.len() as i32).to_be_bytes());
        self.bytes.extend_from_slice(&(digits.len() as u16).to_be_bytes());
        self.bytes.extend_from_slice(&(if digits.is_empty() { 0 } else { weight }).to_be_bytes());
        self.bytes.extend_from_slice(&sign.to_be_bytes());
        self.bytes.extend_from_slice(&(scale as u16).to_be_bytes());
        digits.iter().for_each(|group| self.bytes.extend_from_slice(&group.to_be_bytes()));
        Ok(())
    }

    /// `text[]` of one dimension (`array_send`).
    fn texts<'t>(&mut self, items: impl ExactSizeIterator<Item = &'t str>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        let count = items.len() as i32;
        self.bytes.extend_from_slice(&i32::from(count > 0).to_be_bytes());
        self.bytes.extend_from_slice(&0_i32.to_be_bytes());
        self.bytes.extend_from_slice(&TEXT_OID.to_be_bytes());
        if count > 0 {
            self.bytes.extend_from_slice(&count.to_be_bytes());
            self.bytes.extend_from_slice(&1_i32.to_be_bytes());
        }
        for item in items {
            self.field(item.as_bytes());
        }
        let length = (self.bytes.len() - start - 4) as i32;
        if let Some(place) = self.bytes.get_mut(start..start + 4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }
}

fn out_of_range(what: &str) -> SinkError {
    SinkError::new(SinkErrorKind::Data, format!("a {what} is beyond PostgreSQL's range"))
}
