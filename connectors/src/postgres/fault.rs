//! One table from what a server answers to what has to be done: try again, change something, or repair a gap.

use std::error::Error;

use guitong_log::tls::Refusal;
use guitong_schemas::contract::system::System;

use super::wire::WireError;
use crate::source::SourceError;

const CHECK_TLS: &str = "check sslmode, sslrootcert, sslcert and sslkey of the connection URL, and `ssl` of the server";

/// Makes errors that carry the system's name.
#[derive(Debug, Clone)]
pub(crate) struct Faults {
    system: String,
}

impl Faults {
    pub(crate) fn new(system: &str) -> Self {
        Self { system: system.to_owned() }
    }

    pub(crate) fn of(system: &System) -> Self {
        Self::new(system.name.as_str())
    }

    pub(crate) fn setup(&self, detail: impl Into<String>, help: impl Into<String>) -> SourceError {
        SourceError::Setup { system: self.system.clone(), detail: detail.into(), help: help.into() }
    }

    pub(crate) fn unavailable(&self, detail: impl Into<String>) -> SourceError {
        SourceError::Unavailable { system: self.system.clone(), detail: detail.into() }
    }

    pub(crate) fn protocol(&self, detail: impl Into<String>) -> SourceError {
        SourceError::Protocol { system: self.system.clone(), detail: detail.into() }
    }

    pub(crate) fn gap(&self, detail: impl Into<String>) -> SourceError {
        SourceError::gap(&self.system, detail)
    }

    /// What a query's error means.
    pub(crate) fn query(&self, doing: &str, error: &sqlx::Error) -> SourceError {
        match error {
            sqlx::Error::Database(database) => {
                let code = database.code().unwrap_or_default();
                self.answer(doing, &code, database.message())
            }
            _ => self.refused(doing, error, matches!(error, sqlx::Error::Tls(_) | sqlx::Error::Configuration(_))),
        }
    }

    /// A connection that was not made or that broke; `is_setup` where the error says itself that the settings are at fault.
    fn refused(&self, doing: &str, error: &(dyn Error + 'static), is_setup: bool) -> SourceError {
        match Refusal::of(error) {
            // The server's to mend: it is tried again until then.
            Some(refusal @ Refusal::Date) => self.unavailable(format!("{doing}: {error}; {}", refusal.advice())),
            Some(refusal) => self.setup(format!("{doing}: {error}"), refusal.advice()),
            None if is_setup => self.setup(format!("{doing}: {error}"), CHECK_TLS),
            None => self.unavailable(format!("{doing}: {error}")),
        }
    }

    /// What the end of the replication session means.
    pub(crate) fn wire(&self, doing: &str, error: &WireError) -> SourceError {
        match error {
            WireError::Server(error) => self.answer(doing, &error.code, &error.to_string()),
            WireError::Login(text) => self.answer(doing, "28P01", text),
            WireError::Tls(_) => self.setup(format!("{doing}: {error}"), CHECK_TLS),
            WireError::Protocol(text) => self.protocol(format!("{doing}: {text}")),
            WireError::Io(error) => self.refused(doing, error, false),
        }
    }

    /// By SQLSTATE (PostgreSQL documentation, appendix A).
    fn answer(&self, doing: &str, code: &str, message: &str) -> SourceError {
        let detail = format!("{doing}: {message}");
        match code {
            "28P01" | "28000" => self.setup(
                detail,
                "check user and password of the connection URL, and that pg_hba.conf lets this host connect to the database \
                 (`host replication ...` is not needed: the slot is logical); where it says `hostssl` or `clientcert`, the URL \
                 needs sslmode=verify-full or sslcert and sslkey",
            ),
            "3D000" => self.setup(detail, "check the database's name at the end of the connection URL"),
            "42501" => self.setup(detail, format!("run what `guitong system prepare {}` prints, as the database's owner", self.system)),
            "58P01" => self.gap(detail),
            "42704" if message.contains("publication") => self.gap(format!(
                "{detail}; the publication did not exist at that place of the log, so changes from before it was made cannot be decoded"
            )),
            "55000" if message.contains("replication slot") => self.gap(detail),
            "55006" => self.unavailable(format!(
                "{detail}; an earlier connection of this connector is let go when the server notices its end; \
                 if it stays so, another consumer uses the slot: give this system a slot of its own"
            )),
            "22P04" | "42P01" | "42703" => self.unavailable(format!("{detail} (the table changed meanwhile)")),
            _ if ["08", "40", "53", "55", "57", "58", "XX"].iter().any(|class| code.starts_with(class)) => self.unavailable(detail),
            _ => self.setup(format!("{detail} (SQLSTATE {code})"), "see the message; the server's own log may say more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::ServerError;
    use super::*;

    #[test]
    fn the_code_decides_what_is_to_be_done() {
        let faults = Faults::new("register");
        let of = |code: &str, message: &str| {
            let error = ServerError { code: code.into(), message: message.into(), ..ServerError::default() };
            faults.wire("streaming", &WireError::Server(error))
        };
        assert!(matches!(of("28P01", "password authentication failed"), SourceError::Setup { .. }));
        assert!(matches!(of("57P01", "terminating connection"), SourceError::Unavailable { .. }));
        assert!(matches!(of("42704", "publication \"p\" does not exist"), SourceError::Gap { .. }));
        assert!(matches!(of("55006", "slot is active for PID 7"), SourceError::Unavailable { .. }));
        let gone = of("55000", "can no longer get changes from replication slot \"s\"");
        assert!(gone.to_string().contains("repair: run `guitong system repair register`"), "{gone}");
    }
}
