//! Where the database is, and the settings of every session that reads from it.
//!
//! The snapshot's session and the stream's print values alike because both are opened with [`SESSION`]: same row, same bytes.

use std::path::PathBuf;

use guitong_schemas::contract::Secret;
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};

use super::fault::Faults;
use super::wire::{SslMode, Tls};
use crate::source::SourceError;

/// Output forms, and no time limit that could end a long read. `row_security = off` makes a hidden row an error instead of a loss;
/// `lc_monetary` C writes money with a point and two digits.
pub(crate) const SESSION: [(&str, &str); 12] = [
    ("datestyle", "ISO"),
    ("intervalstyle", "postgres"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    ("timezone", "UTC"),
    ("lc_monetary", "C"),
    ("xmloption", "content"),
    ("standard_conforming_strings", "on"),
    ("row_security", "off"),
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("lock_timeout", "10000"),
];

/// A connection URL, taken apart: the two clients are configured from the same parts.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    /// A name, an IP address, or the folder of a Unix socket.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) password: Secret,
    pub(crate) database: String,
    pub(crate) tls: Tls,
    pub(crate) application: String,
}

impl Address {
    /// Reads `postgres://user:password@host:port/database?sslmode=...&sslrootcert=...&sslcert=...&sslkey=...`.
    pub(crate) fn parse(url: &Secret, application: String, faults: &Faults) -> Result<Self, SourceError> {
        let bad = |what: &str| {
            faults.setup(
                format!("the connection URL has {what}"),
                "url = \"postgres://user:password@host:5432/database?sslmode=verify-full&sslrootcert=/etc/ssl/ca.pem\", \
                 with special characters percent-encoded",
            )
        };
        let text = url.reveal();
        let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
        let rest = rest.ok_or_else(|| bad("no postgres:// at its start"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, place) = authority.rsplit_once('@').ok_or_else(|| bad("no user"))?;
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| bad("a port that is no number"))?),
            _ => (place, 5432),
        };
        let decode = |text: &str| decode_percent(text).ok_or_else(|| bad("a wrong percent escape"));
        let (user, mut database, host) = (decode(user)?, decode(database)?, decode(host)?);
        if user.is_empty() || host.is_empty() {
            return Err(bad("no user or no host"));
        }
        if database.is_empty() {
            database.clone_from(&user);
        }
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let mut tls = Tls { mode: SslMode::Prefer, authorities: None, certificate: None, key: None };
        for (name, value) in query.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| pair.split_once('=')) {
            let value = decode(value)?;
            match name {
                "sslmode" => tls.mode = ssl_mode(&value).ok_or_else(|| bad("an unknown sslmode"))?,
                "sslrootcert" => tls.authorities = Some(PathBuf::from(value)),
                "sslcert" => tls.certificate = Some(PathBuf::from(value)),
                "sslkey" => tls.key = Some(PathBuf::from(value)),
                _ => return Err(bad(&format!("the unknown parameter `{name}`"))),
            }
        }
        if tls.certificate.is_some() != tls.key.is_some() {
            return Err(bad("only one of sslcert and sslkey: they are given together"));
        }
        Ok(Self { host, port, user, password: Secret::new(decode(password)?), database, tls, application })
    }

    /// Every file that the URL names can be read.
    fn check_files(&self, faults: &Faults) -> Result<(), SourceError> {
        let Tls { authorities, certificate, key, .. } = &self.tls;
        let named = [("sslrootcert", authorities), ("sslcert", certificate), ("sslkey", key)];
        for (parameter, path) in named {
            if let Some(path) = path
                && let Err(error) = std::fs::File::open(path)
            {
                return Err(faults.setup(
                    format!("{parameter} of the connection URL, {}: {error}", path.display()),
                    "name a PEM file that this process may read",
                ));
            }
        }
        Ok(())
    }

    /// A session for queries and reads.
    pub(crate) async fn connect(&self, faults: &Faults) -> Result<PgConnection, SourceError> {
        self.check_files(faults)?;
        self.session().await.map_err(|error| match error.as_database_error().and_then(|error| error.code()).as_deref() {
            Some("42501") => faults.setup(
                format!("connecting: {error}"),
                format!("run `GRANT CONNECT ON DATABASE {} TO {}`", quote_name(&self.database), quote_name(&self.user)),
            ),
            _ => faults.query("connecting", &error),
        })
    }

    async fn session(&self) -> Result<PgConnection, sqlx::Error> {
        let mut options = PgConnectOptions::new_without_pgpass()
            .port(self.port)
            .username(&self.user)
            .password(self.password.reveal())
            .database(&self.database)
            .application_name(&self.application)
            .statement_cache_capacity(32)
            .ssl_mode(match self.tls.mode {
                SslMode::Disable => PgSslMode::Disable,
                SslMode::Prefer => PgSslMode::Prefer,
                SslMode::Require => PgSslMode::Require,
                SslMode::VerifyCa => PgSslMode::VerifyCa,
                SslMode::VerifyFull => PgSslMode::VerifyFull,
            })
            .options(SESSION);
        options = if self.host.starts_with('/') { options.socket(&self.host) } else { options.host(&self.host) };
        if let Some(path) = &self.tls.authorities {
            options = options.ssl_root_cert(path);
        }
        if let (Some(cert), Some(key)) = (&self.tls.certificate, &self.tls.key) {
            options = options.ssl_client_cert(cert).ssl_client_key(key);
        }
        options.disable_statement_logging().connect().await
    }

    /// `host:port`, for messages.
    pub(crate) fn place(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

fn ssl_mode(text: &str) -> Option<SslMode> {
    Some(match text {
        "disable" => SslMode::Disable,
        "allow" | "prefer" => SslMode::Prefer,
        "require" => SslMode::Require,
        "verify-ca" => SslMode::VerifyCa,
        "verify-full" => SslMode::VerifyFull,
        _ => return None,
    })
}

fn decode_percent(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

/// A name as SQL writes it.
pub(crate) fn quote_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Text as a SQL literal, whatever it holds: the only way by which values enter a statement that takes no parameters.
pub(crate) fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address, SourceError> {
        Address::parse(&Secret::new(url.into()), "guitong".into(), &Faults::new("register"))
    }

    #[test]
    fn urls_are_taken_apart() {
        let address = parse("postgres://r%40d:p%3A%2F%E6%A1%82@[::1]:6432/%E7%99%BB%E8%AE%B0?sslmode=require").unwrap();
        assert_eq!((address.user.as_str(), address.host.as_str(), address.port), ("r@d", "::1", 6432));
        assert_eq!((address.password.reveal(), address.database.as_str()), ("p:/桂", "登记"));
        assert_eq!(address.tls.mode, SslMode::Require);
        assert_eq!(parse("postgres://reader@db").unwrap().database, "reader");
    }

    #[test]
    fn bad_urls_say_what_is_bad_and_never_the_password() {
        for url in ["mysql://a:secret@b/c", "postgres://b/c", "postgres://a:secret@b:x/c", "postgres://a:secret@b/c?tls=1"] {
            let error = parse(url).unwrap_err().to_string();
            assert!(error.contains("connection URL has") && !error.contains("secret"), "{error}");
        }
        assert!(!format!("{:?}", parse("postgres://a:secret@b/c").unwrap()).contains("secret"));
    }

    #[test]
    fn quoting_holds_whatever_the_text() {
        assert_eq!(quote_name("企业\"登记"), "\"企业\"\"登记\"");
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal(r"a\'; DROP"), r"E'a\\''; DROP'");
    }
}
