//! The sessions whose bytes we read ourselves: the replication session, with a task that reports what is durable, and those that read
//! tables ([`reader`]).
//!
//! Nothing is read ahead of the caller: what waits is in the kernel's buffers, and here one block at most ([`frames`]). Values over the
//! limit are read past ([`shorten`]). The server ends sessions that are silent, so reports do not depend on the caller ([`status`]).

mod error;
mod frames;
mod intake;
mod login;
mod pace;
mod reader;
mod shorten;
mod status;
mod tls;
mod transport;

use std::fmt;
use std::io;

use bytes::{Buf, Bytes, BytesMut};
use futures::FutureExt;
use guitong_schemas::position::Lsn;
use postgres_protocol::message::backend::{self, Message};
use tokio::io::ReadHalf;
use tokio::task::unconstrained;

pub(crate) use self::error::{ServerError, WireError};
use self::frames::Frame;
pub(crate) use self::frames::{Block, Frames};
use self::intake::Intake;
pub(crate) use self::login::{Identity, Login, Purpose};
pub(crate) use self::reader::Reader;
pub use self::shorten::{Rows, Shortener};
use self::status::Status;
pub(crate) use self::tls::{SslMode, Tls};
use self::transport::Transport;
use super::fault::Faults;
use crate::source::SourceError;

/// A session that streams.
pub(crate) struct Wire {
    intake: Intake<ReadHalf<Transport>>,
    status: Status,
    faults: Faults,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

/// What the server says while it streams.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message of the plugin, at this place of the log.
    Data { lsn: Lsn, data: Bytes, block: Block },
    /// There is nothing for us before this place.
    KeepAlive { end: Lsn },
}

impl Wire {
    fn new(intake: Intake<ReadHalf<Transport>>, status: Status, faults: Faults) -> Self {
        Self { intake, status, faults }
    }

    /// An event that is here already.
    pub(crate) fn ready(&mut self) -> Option<Result<Event, SourceError>> {
        loop {
            match self.event() {
                Ok(None) => {}
                Ok(Some(event)) => return Some(Ok(event)),
                Err(error) => return Some(Err(self.fault(&error))),
            }
            if self.intake.pace.pause().is_some() {
                return None;
            }
            // The runtime's cooperative budget would answer "nothing here" after 128 reads in a row.
            if let Err(error) = unconstrained(self.intake.fill()).now_or_never()? {
                return Some(Err(self.fault(&error)));
            }
        }
    }

    /// The next event. Dropped before it comes, nothing is lost.
    pub(crate) async fn next(&mut self) -> Result<Event, SourceError> {
        loop {
            match self.event() {
                Ok(None) => {}
                Ok(Some(event)) => return Ok(event),
                Err(error) => return Err(self.fault(&error)),
            }
            if let Err(error) = self.intake.wait().await {
                return Err(self.fault(&error));
            }
        }
    }

    /// Everything before `lsn` is durable here: the server may forget it.
    pub(crate) fn confirm(&self, lsn: Lsn) {
        self.status.confirm(lsn);
    }

    /// All that the server may forget.
    pub(crate) fn durable(&self) -> Lsn {
        self.status.durable()
    }

    /// Ends the session, of which nothing more is read.
    pub(crate) fn end(&self) {
        self.status.end();
    }

    fn fault(&self, error: &WireError) -> SourceError {
        self.faults.wire("streaming", error)
    }

    /// The next event of what was read.
    fn event(&mut self) -> Result<Option<Event>, WireError> {
        while let Some(frame) = self.intake.here()? {
            if let Some(event) = event(frame, &self.status)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }
}

fn event(frame: Frame, status: &Status) -> Result<Option<Event>, WireError> {
    let Frame { kind, mut body, block } = frame;
    match kind {
        backend::COPY_DATA_TAG => {}
        backend::ERROR_RESPONSE_TAG => return Err(server_error(kind, &body)),
        backend::COPY_DONE_TAG => {
            return Err(WireError::Io(io::Error::new(io::ErrorKind::UnexpectedEof, "the server ended the stream")));
        }
        // Notices and changed parameters.
        _ => return Ok(None),
    }
    match body.first() {
        // Start and end of the data in the log, the server's clock, the data. The end tells nothing: it is the start again.
        Some(b'w') if body.len() > 25 => {
            let lsn = place(&body);
            body.advance(25);
            Ok(Some(Event::Data { lsn, data: body, block }))
        }
        // End of the log, the server's clock, whether it waits for an answer.
        Some(b'k') if body.len() == 18 => {
            if body.last() == Some(&1) {
                status.answer();
            }
            Ok(Some(Event::KeepAlive { end: place(&body) }))
        }
        _ => Err(WireError::Protocol("a message of the stream is neither data nor a keepalive".to_owned())),
    }
}

/// The log position after the kind byte.
fn place(body: &[u8]) -> Lsn {
    let bytes = body.get(1..9).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
    Lsn(u64::from_be_bytes(bytes))
}

fn server_error(kind: u8, body: &Bytes) -> WireError {
    let mut whole = BytesMut::with_capacity(body.len() + 5);
    whole.extend_from_slice(&[kind]);
    whole.extend_from_slice(&u32::try_from(body.len() + 4).unwrap_or(0).to_be_bytes());
    whole.extend_from_slice(body);
    match Message::parse(&mut whole) {
        Ok(Some(Message::ErrorResponse(body))) => WireError::Server(ServerError::read(&body)),
        _ => WireError::Protocol("an error of the server does not read".to_owned()),
    }
}
