//! What SQLite's result codes mean for delivery.

use crate::sink::{SinkError, SinkErrorKind};

/// Kind of an error, by SQLite's primary result code ("Result and Error Codes").
pub(crate) fn sink_error(error: sqlx::Error) -> SinkError {
    let kind = match &error {
        sqlx::Error::Database(database) => {
            let code = database.code().and_then(|code| code.parse::<u32>().ok()).unwrap_or(1);
            match code & 0xFF {
                5 | 6 | 17 => SinkErrorKind::Busy,
                3 | 14 | 23 => SinkErrorKind::Denied,
                8 | 13 => SinkErrorKind::Full,
                18..=20 => SinkErrorKind::Data,
                10 => SinkErrorKind::Unreachable,
                _ => SinkErrorKind::Shape,
            }
        }
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => SinkErrorKind::Shape,
        sqlx::Error::Encode(_) => SinkErrorKind::Data,
        _ => SinkErrorKind::Unreachable,
    };
    SinkError::new(kind, error.to_string())
}
