//! What MariaDB's and MySQL's error numbers mean for delivery.

use guitong_log::tls::Refusal;
use sqlx::mysql::MySqlDatabaseError;

use crate::sink::{SinkError, SinkErrorKind};

/// Kind of an error, by its number, or else by its SQLSTATE (MariaDB, "MariaDB Error Codes"; MySQL, "Server Error Message Reference").
pub(crate) fn sink_error(error: sqlx::Error) -> SinkError {
    let refusal = Refusal::of(&error);
    let kind = match &error {
        sqlx::Error::Database(database) => {
            let number = database.try_downcast_ref::<MySqlDatabaseError>().map_or(0, MySqlDatabaseError::number);
            kind_of(number, database.code().as_deref().unwrap_or_default())
        }
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => SinkErrorKind::Shape,
        sqlx::Error::Encode(_) => SinkErrorKind::Data,
        _ if refusal.is_some() => SinkErrorKind::Denied,
        _ => SinkErrorKind::Unreachable,
    };
    let detail = match (&error, refusal) {
        (sqlx::Error::Database(database), _) => database.message().to_owned(),
        (error, Some(refusal)) => format!("{error}; {}", refusal.advice()),
        (error, None) => error.to_string(),
    };
    SinkError::new(kind, detail)
}

fn kind_of(number: u16, state: &str) -> SinkErrorKind {
    match (number, state.get(..2).unwrap_or_default()) {
        // Waited too long for a lock, a deadlock, a statement that somebody ended.
        (1205 | 1213 | 1317 | 1969 | 3024, _) => SinkErrorKind::Busy,
        // Too many connections, a server that stops, a connection that somebody ended.
        (1040 | 1053 | 1203 | 1226 | 1927, _) | (_, "08") => SinkErrorKind::Unreachable,
        // The disk or the table is full, or the server takes no writes.
        (1021 | 1114 | 1290 | 1836, _) => SinkErrorKind::Full,
        // A login, a privilege, a database that is not there.
        (1044 | 1045 | 1049 | 1130 | 1142 | 1143 | 1227 | 1251 | 1370 | 1698 | 1820 | 1862, _) | (_, "28") => {
            SinkErrorKind::Denied
        }
        // A value, a constraint, a row that is too large, a trigger of the subscriber's that refuses.
        (1048 | 1118 | 1153 | 1264..=1265 | 1292 | 1366 | 1406 | 1526 | 1644 | 1690 | 3819 | 4025, _)
        | (_, "22" | "23" | "45") => SinkErrorKind::Data,
        // What a statement names is not there or not of the type.
        (_, "42" | "0A") => SinkErrorKind::Shape,
        _ => SinkErrorKind::Busy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_kinds() {
        for (number, state, kind) in [
            (1213, "40001", SinkErrorKind::Busy),
            (1205, "HY000", SinkErrorKind::Busy),
            (1053, "08S01", SinkErrorKind::Unreachable),
            (1114, "HY000", SinkErrorKind::Full),
            (1142, "42000", SinkErrorKind::Denied),
            (1045, "28000", SinkErrorKind::Denied),
            (4025, "23000", SinkErrorKind::Data),
            (1406, "22001", SinkErrorKind::Data),
            (1054, "42S22", SinkErrorKind::Shape),
        ] {
            assert_eq!(kind_of(number, state), kind, "{number}");
        }
    }
}
