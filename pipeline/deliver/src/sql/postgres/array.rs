//! Columns of a few rows as arrays in binary form (`array_send`). Their elements lie as the fields of a binary COPY do: a length, then
//! the value as its type sends it.

use guitong_govern::ColumnKind;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo};
use sqlx::{Encode, Postgres, Type};

use super::table::Kind;

/// An array's element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    Boolean,
    Bytes,
    Long,
    Text,
    Date,
    Time,
    Numeric,
    Json,
}

impl Element {
    /// A list of texts has none: there are no arrays of arrays of different lengths. Such columns are never written as arrays.
    pub(crate) fn of(kind: Kind) -> Self {
        match kind {
            Kind::Bytes => Self::Bytes,
            Kind::Boolean => Self::Boolean,
            Kind::Epoch | Kind::Granted(ColumnKind::Int) => Self::Long,
            Kind::Granted(ColumnKind::Text | ColumnKind::TextList) => Self::Text,
            Kind::Granted(ColumnKind::Date) => Self::Date,
            Kind::Granted(ColumnKind::Time) => Self::Time,
            Kind::Granted(ColumnKind::Decimal { .. }) => Self::Numeric,
            Kind::Granted(ColumnKind::Steps) => Self::Json,
        }
    }

    /// Object ids of the element's type and of its array's (PostgreSQL, `pg_type.dat`; the same in every version).
    fn oids(self) -> (u32, u32) {
        match self {
            Self::Boolean => (16, 1000),
            Self::Bytes => (17, 1001),
            Self::Long => (20, 1016),
            Self::Text => (25, 1009),
            Self::Date => (1082, 1182),
            Self::Time => (1184, 1185),
            Self::Numeric => (1700, 1231),
            Self::Json => (3802, 3807),
        }
    }
}

/// One column of the rows.
#[derive(Debug)]
pub(crate) struct Column {
    element: Element,
    count: i32,
    fields: Vec<u8>,
}

impl Column {
    pub(crate) fn new(element: Element) -> Self {
        Self { element, count: 0, fields: Vec::new() }
    }
}

/// Hands the fields of a row of a binary COPY to their columns.
pub(crate) fn take_row(columns: &mut [Column], row: &[u8]) {
    // The row begins with its number of fields.
    let mut rest = row.get(2..).unwrap_or_default();
    for column in columns {
        let Some(length) = rest.first_chunk::<4>() else { return };
        // -1 is null, which has no bytes.
        let end = 4 + usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        let Some((field, after)) = rest.split_at_checked(end) else { return };
        column.fields.extend_from_slice(field);
        column.count += 1;
        rest = after;
    }
}

impl Type<Postgres> for Column {
    fn type_info() -> PgTypeInfo {
        // What `produces` says of each value stands over this.
        PgTypeInfo::with_oid(Oid(Element::Text.oids().1))
    }
}

impl Encode<'_, Postgres> for Column {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let dimensions = i32::from(self.count > 0);
        buffer.extend_from_slice(&dimensions.to_be_bytes());
        // Elements may be null.
        buffer.extend_from_slice(&1_i32.to_be_bytes());
        buffer.extend_from_slice(&self.element.oids().0.to_be_bytes());
        if self.count > 0 {
            buffer.extend_from_slice(&self.count.to_be_bytes());
            buffer.extend_from_slice(&1_i32.to_be_bytes());
        }
        buffer.extend_from_slice(&self.fields);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(Oid(self.element.oids().1)))
    }

    fn size_hint(&self) -> usize {
        20 + self.fields.len()
    }
}
