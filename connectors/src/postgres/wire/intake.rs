//! Messages as they come in: read into blocks, at a pace that does not wake for each of them.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::error::WireError;
use super::frames::{Frame, Frames};
use super::pace::Pace;

/// The receiving side of a session. Nothing is read ahead of the caller but one block at most.
#[derive(Debug)]
pub(super) struct Intake<S> {
    socket: S,
    frames: Frames,
    pub(super) pace: Pace,
}

impl<S: AsyncRead + Unpin> Intake<S> {
    pub(super) fn new(socket: S, frames: Frames, pace: Pace) -> Self {
        Self { socket, frames, pace }
    }

    pub(super) fn socket(&mut self) -> &mut S {
        &mut self.socket
    }

    /// A message that was read already.
    pub(super) fn here(&mut self) -> Result<Option<Frame>, WireError> {
        self.frames.next()
    }

    /// The next message. Dropped before it comes, nothing is lost.
    pub(super) async fn next(&mut self) -> Result<Frame, WireError> {
        loop {
            if let Some(frame) = self.frames.next()? {
                return Ok(frame);
            }
            self.wait().await?;
        }
    }

    /// Keeps a pause that is due, and reads what is there after it.
    pub(super) async fn wait(&mut self) -> Result<(), WireError> {
        if let Some(until) = self.pace.pause() {
            tokio::time::sleep_until(until.into()).await;
            self.pace.resume();
        }
        self.fill().await
    }

    pub(super) async fn fill(&mut self) -> Result<(), WireError> {
        let room = self.frames.room()?;
        let free = room.capacity() - room.len();
        let (socket, pace) = (&mut self.socket, &mut self.pace);
        let mut read = pin!(socket.read_buf(room));
        let count = poll_fn(|context| {
            let polled = read.as_mut().poll(context);
            if polled.is_pending() {
                pace.listen();
            }
            polled
        });
        let count = count.await.map_err(WireError::Io)?;
        if count == 0 {
            return Err(WireError::Io(io::Error::new(io::ErrorKind::UnexpectedEof, "the server ended the session")));
        }
        self.pace.note(count, count < free);
        Ok(())
    }
}
