//! A row's key as JSON text, as Kafka Connect's JSON converter writes it without a schema: what the headers of a key change hold.

use serde_json::{Map, Value as Json};

use super::super::varint::read_long;
use super::cell::Wire;
use super::{EncodePlan, Fit};
use crate::change::{Cell, RowImage};

impl EncodePlan {
    /// Appends the key of `row` as JSON text; `false`, and nothing written, where the row has none.
    pub fn key_json(&self, row: &RowImage, out: &mut Vec<u8>) -> bool {
        let Some(key) = self.key_object(row) else { return false };
        out.extend_from_slice(key.to_string().as_bytes());
        true
    }

    fn key_object(&self, row: &RowImage) -> Option<Json> {
        let mut key = Map::new();
        let mut encoded = vec![];
        for &column in &self.key {
            let slot = self.slots.get(column)?;
            encoded.clear();
            let fit = match row.cells().nth(column)?.ok()? {
                Cell::Text(value) => slot.wire.text(value, &mut encoded),
                Cell::Binary(value) => slot.wire.binary(value, &mut encoded),
                Cell::Null | Cell::Absent => return None,
            };
            if !matches!(fit, Ok(Fit::Exact)) {
                return None;
            }
            key.insert(slot.name.to_string(), slot.wire.json(&encoded)?);
        }
        (!key.is_empty()).then_some(Json::Object(key))
    }
}

impl Wire {
    /// An encoded value in JSON; bytes are base64. `None` for what is no key's type.
    fn json(&self, encoded: &[u8]) -> Option<Json> {
        let body = |encoded: &[u8]| read_long(encoded).map(|(_, rest)| rest.to_vec());
        Some(match self {
            Self::Bool | Self::Bit => Json::from(encoded == [1]),
            Self::Int { .. }
            | Self::Long { .. }
            | Self::Date
            | Self::TimeMillis
            | Self::TimeMicros
            | Self::TimestampMillis
            | Self::TimestampMicros
            | Self::Interval => Json::from(read_long(encoded)?.0),
            Self::Float => Json::from(f32::from_le_bytes(encoded.try_into().ok()?).to_string().parse::<f64>().ok()?),
            Self::Double | Self::DecimalDouble | Self::MoneyDouble => Json::from(f64::from_le_bytes(encoded.try_into().ok()?)),
            Self::Decimal { .. } | Self::Money | Self::Bytes | Self::TextBytes | Self::Bits => base64(&body(encoded)?),
            Self::VariableDecimal => {
                let (scale, rest) = read_long(encoded)?;
                let value = base64(&body(rest)?);
                Json::Object(Map::from_iter([("scale".to_owned(), Json::from(scale)), ("value".to_owned(), value)]))
            }
            Self::DecimalText { .. }
            | Self::MoneyText
            | Self::Text
            | Self::Uuid
            | Self::Base64
            | Self::TextBase64
            | Self::IsoDate
            | Self::IsoTime
            | Self::IsoTimestamp
            | Self::IsoInterval
            | Self::ZonedTime
            | Self::ZonedTimestamp { .. }
            | Self::Hstore => Json::from(String::from_utf8(body(encoded)?).ok()?),
            Self::Point | Self::Array(_) => return None,
        })
    }
}

fn base64(bytes: &[u8]) -> Json {
    let mut text = vec![];
    super::binary::base64(bytes.iter().copied(), bytes.len(), &mut text);
    let text = read_long(&text).map(|(_, rest)| String::from_utf8_lossy(rest)).unwrap_or_default();
    Json::from(text)
}
