//! What can go wrong on the replication session, before it is known what it means for the connector.

use std::fmt;
use std::io;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorResponseBody;
use thiserror::Error;

#[derive(Debug, Error)]
pub(crate) enum WireError {
    /// The connection broke, or was never made.
    #[error("{0}")]
    Io(io::Error),
    #[error("{0}")]
    Server(ServerError),
    #[error("{0}")]
    Login(String),
    #[error("{0}")]
    Tls(String),
    #[error("{0}")]
    Protocol(String),
}

/// An ErrorResponse.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerError {
    /// SQLSTATE.
    pub(crate) code: String,
    /// The session ends with it.
    pub(crate) fatal: bool,
    pub(crate) message: String,
    pub(crate) detail: Option<String>,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        write!(f, " (SQLSTATE {})", self.code)
    }
}

impl ServerError {
    /// Fields that do not read are left out: an error must reach the operator in whatever form it comes.
    pub(crate) fn read(body: &ErrorResponseBody) -> Self {
        let mut error = Self::default();
        let mut fields = body.fields();
        while let Ok(Some(field)) = fields.next() {
            let text = || String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'C' => error.code = text(),
                // The severity in English, whatever the server's language.
                b'V' => error.fatal = matches!(field.value_bytes(), b"FATAL" | b"PANIC"),
                b'M' => error.message = text(),
                b'D' => error.detail = Some(text()),
                _ => {}
            }
        }
        error
    }
}

/// The server sent what is no message of its protocol.
pub(crate) fn unreadable(error: &io::Error) -> WireError {
    WireError::Protocol(format!("a message does not read: {error}"))
}
