//! What PostgreSQL's SQLSTATEs mean for delivery.

use std::io::ErrorKind::{NotFound, PermissionDenied};

use guitong_log::tls::Refusal;

use crate::sink::{SinkError, SinkErrorKind};

/// Kind of an error, by its SQLSTATE (PostgreSQL, "Error Codes").
pub(crate) fn sink_error(error: sqlx::Error) -> SinkError {
    let refusal = Refusal::of(&error);
    let kind = match &error {
        sqlx::Error::Database(database) => kind_of(database.code().as_deref().unwrap_or_default()),
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => SinkErrorKind::Shape,
        sqlx::Error::Encode(_) => SinkErrorKind::Data,
        _ if refusal.is_some() => SinkErrorKind::Denied,
        _ => SinkErrorKind::Unreachable,
    };
    let detail = match (&error, refusal) {
        (sqlx::Error::Database(database), _) => database.message().to_owned(),
        (error, Some(refusal)) => format!("{error}; {}", refusal.advice()),
        (sqlx::Error::Io(io), None) if matches!(io.kind(), NotFound | PermissionDenied) => {
            format!(
                "{error}; this process must reach the files that sslrootcert, sslcert and sslkey name, or the server's socket"
            )
        }
        (error, None) => error.to_string(),
    };
    SinkError::new(kind, detail)
}

fn kind_of(state: &str) -> SinkErrorKind {
    match (state.get(..2).unwrap_or_default(), state) {
        (_, "57014" | "55P03" | "55006") => SinkErrorKind::Busy,
        (_, "53300") | ("08" | "57", _) => SinkErrorKind::Unreachable,
        (_, "25006") | ("53", _) => SinkErrorKind::Full,
        // A privilege, a login, a database or a schema that is not there.
        (_, "42501" | "3D000" | "3F000") | ("28", _) => SinkErrorKind::Denied,
        // Values, constraints, a view's check option, limits of a row, an exception of the subscriber's trigger.
        ("22" | "23" | "44" | "54" | "P0", _) => SinkErrorKind::Data,
        // What a statement names is not there or not of the type; or something of the subscriber's depends on it.
        ("42" | "0A" | "2B", _) => SinkErrorKind::Shape,
        _ => SinkErrorKind::Busy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_their_kinds() {
        for (state, kind) in [
            ("57P01", SinkErrorKind::Unreachable),
            ("40P01", SinkErrorKind::Busy),
            ("55P03", SinkErrorKind::Busy),
            ("28P01", SinkErrorKind::Denied),
            ("42501", SinkErrorKind::Denied),
            ("53100", SinkErrorKind::Full),
            ("23514", SinkErrorKind::Data),
            ("22021", SinkErrorKind::Data),
            ("42703", SinkErrorKind::Shape),
        ] {
            assert_eq!(kind_of(state), kind, "{state}");
        }
    }
}
