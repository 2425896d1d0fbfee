//! A session that reads tables: statements of the simple protocol, and the rows of `COPY` as slices of what was read.

use std::fmt;

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::{backend, frontend};
use tokio::io::AsyncWriteExt;

use super::super::fault::Faults;
use super::error::WireError;
use super::frames::COPY_OUT;
use super::intake::Intake;
use super::server_error;
use super::transport::Transport;
use crate::source::SourceError;

pub(crate) struct Reader {
    intake: Intake<Transport>,
    /// The last row that came after those of `COPY`.
    after: Vec<String>,
    faults: Faults,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    pub(super) fn new(intake: Intake<Transport>, faults: Faults) -> Self {
        Self { intake, after: Vec::new(), faults }
    }

    /// Runs `statements` up to their `COPY`, whose rows [`Reader::row`] then gives; the values of the last row before that.
    pub(crate) async fn copy(&mut self, statements: &str) -> Result<Vec<String>, SourceError> {
        self.after.clear();
        let begun = async {
            self.send(statements).await?;
            self.values(COPY_OUT).await
        };
        begun.await.map_err(|error| self.faults.wire("reading a table", &error))
    }

    /// Runs `statements`; the values of the last row that they give.
    pub(crate) async fn run(&mut self, statements: &str) -> Result<Vec<String>, SourceError> {
        let ran = async {
            self.send(statements).await?;
            self.values(backend::READY_FOR_QUERY_TAG).await
        };
        ran.await.map_err(|error| self.faults.wire("opening a snapshot", &error))
    }

    /// The next message of `COPY`, which is a row or, in binary, the end of them; `None` once all statements have ended well.
    pub(crate) async fn row(&mut self) -> Result<Option<Bytes>, SourceError> {
        loop {
            let frame = self.intake.next().await.map_err(|error| self.faults.wire("reading a table", &error))?;
            match frame.kind {
                backend::COPY_DATA_TAG => return Ok(Some(frame.body)),
                backend::READY_FOR_QUERY_TAG => return Ok(None),
                backend::DATA_ROW_TAG => {
                    let read = values(&frame.body).map_err(|error| self.faults.wire("reading a table", &error));
                    self.after = read?;
                }
                backend::ERROR_RESPONSE_TAG => {
                    return Err(self.faults.wire("reading a table", &server_error(frame.kind, &frame.body)));
                }
                _ => {}
            }
        }
    }

    /// The values of the last row that the statements after `COPY` gave.
    pub(crate) fn after(&self) -> &[String] {
        &self.after
    }

    async fn send(&mut self, statements: &str) -> Result<(), WireError> {
        let mut out = BytesMut::new();
        frontend::query(statements, &mut out)
            .map_err(|error| WireError::Protocol(format!("a statement cannot be sent: {error}")))?;
        self.intake.socket().write_all(&out).await.map_err(WireError::Io)?;
        self.intake.socket().flush().await.map_err(WireError::Io)
    }

    /// The values of the last row before a message of kind `end`.
    async fn values(&mut self, end: u8) -> Result<Vec<String>, WireError> {
        let mut last = Vec::new();
        loop {
            let frame = self.intake.next().await?;
            match frame.kind {
                kind if kind == end => return Ok(last),
                backend::DATA_ROW_TAG => {
                    last = values(&frame.body)?;
                }
                backend::ERROR_RESPONSE_TAG => return Err(server_error(frame.kind, &frame.body)),
                backend::READY_FOR_QUERY_TAG => return Err(WireError::Protocol("COPY was not answered with rows".to_owned())),
                _ => {}
            }
        }
    }
}

fn values(body: &[u8]) -> Result<Vec<String>, WireError> {
    row(body).ok_or_else(|| WireError::Protocol("a row of an answer does not read".to_owned()))
}

/// Values of a DataRow (PostgreSQL documentation, "Message Formats"), NULL as nothing: how many, then the length and the text of each.
fn row(body: &[u8]) -> Option<Vec<String>> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut values = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, value) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        let (value, after) = value.split_at_checked(length)?;
        values.push(std::str::from_utf8(value).ok()?.to_owned());
        rest = after;
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_row_gives_its_values() {
        assert_eq!(
            row(b"\0\x03\0\0\0\x037:7\xff\xff\xff\xff\0\0\0\0"),
            Some(vec!["7:7".to_owned(), String::new(), String::new()])
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_row_or_none(body in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = row(&body);
        }
    }
}
