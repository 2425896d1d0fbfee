//! One table from what a server answers to what has to be done: try again, change something, or repair a gap.

use guitong_log::tls::Refusal;
use guitong_schemas::contract::system::System;
use pgwire_replication::PgWireError;

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
        let repair = format!(
            "set on_gap = \"resnapshot\" in systems/{}.toml and start again: every table is read again under a new epoch",
            self.system
        );
        SourceError::Gap { system: self.system.clone(), detail: detail.into(), repair }
    }

    /// What a query's error means.
    pub(crate) fn query(&self, doing: &str, error: &sqlx::Error) -> SourceError {
        match error {
            sqlx::Error::Database(database) => {
                let code = database.code().unwrap_or_default();
                self.answer(doing, &code, database.message())
            }
            _ => match Refusal::of(error) {
                // The server's to mend: it is tried again until then.
                Some(refusal @ Refusal::Date) => self.unavailable(format!("{doing}: {error}; {}", refusal.advice())),
                Some(refusal) => self.setup(format!("{doing}: {error}"), refusal.advice()),
                None if matches!(error, sqlx::Error::Tls(_) | sqlx::Error::Configuration(_)) => {
                    self.setup(format!("{doing}: {error}"), CHECK_TLS)
                }
                None => self.unavailable(format!("{doing}: {error}")),
            },
        }
    }

    /// What the end of the replication session means.
    pub(crate) fn wire(&self, doing: &str, error: &PgWireError) -> SourceError {
        match error {
            PgWireError::Server(text) => {
                let code = text.rsplit_once("(SQLSTATE ").and_then(|(_, code)| code.strip_suffix(')')).unwrap_or_default();
                self.answer(doing, code, text)
            }
            PgWireError::Auth(text) => self.answer(doing, "28P01", text),
            PgWireError::Tls(text) => self.setup(format!("{doing}: {text}"), CHECK_TLS),
            PgWireError::Protocol(text) => self.protocol(format!("{doing}: {text}")),
            PgWireError::MessageTooLarge { .. } => self.protocol(format!("{doing}: {error}")),
            _ => self.unavailable(format!("{doing}: {error}")),
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
    use super::*;

    #[test]
    fn the_code_decides_what_is_to_be_done() {
        let faults = Faults::new("register");
        let of = |text: &str| faults.wire("streaming", &PgWireError::Server(text.into()));
        assert!(matches!(of("password authentication failed (SQLSTATE 28P01)"), SourceError::Setup { .. }));
        assert!(matches!(of("terminating connection (SQLSTATE 57P01)"), SourceError::Unavailable { .. }));
        assert!(matches!(of("publication \"p\" does not exist (SQLSTATE 42704)"), SourceError::Gap { .. }));
        assert!(matches!(of("slot is active for PID 7 (SQLSTATE 55006)"), SourceError::Unavailable { .. }));
        let gone = of("can no longer get changes from replication slot \"s\" (SQLSTATE 55000)");
        assert!(gone.to_string().contains("repair: set on_gap"), "{gone}");
    }
}
