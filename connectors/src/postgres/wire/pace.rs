//! When to read. The server sends a message at a time, so that a reader which is faster wakes up for each row, and that costs more than
//! all else together. Where much is coming, it reads what gathers in a millisecond instead.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::transport::Transport;

#[derive(Debug)]
pub(crate) struct Pace {
    began: Instant,
    bytes: usize,
    until: Option<Instant>,
    doorbell: Doorbell,
}

impl Pace {
    /// The timer's own grain.
    const PAUSE: Duration = Duration::from_millis(1);
    /// As much as comes in one pause from a server that sends 5 MB/s or more.
    const MUCH: usize = 8 << 10;

    pub(crate) fn of(transport: &Transport) -> Self {
        // Without the handle the pauses stay, and cost a wake for each message.
        let doorbell = Doorbell { socket: transport.socket().ok().flatten(), is_muted: false };
        Self { began: Instant::now(), bytes: 0, until: None, doorbell }
    }

    /// Notes what was read, and whether that was all there was.
    pub(crate) fn note(&mut self, count: usize, is_all: bool) {
        self.bytes += count;
        let now = Instant::now();
        if now.saturating_duration_since(self.began) >= 2 * Self::PAUSE {
            (self.began, self.bytes) = (now, 0);
        } else if self.bytes >= Self::MUCH {
            self.doorbell.mute();
            self.until = is_all.then(|| now + Self::PAUSE);
        }
    }

    /// Until when nothing is to be read.
    pub(crate) fn pause(&mut self) -> Option<Instant> {
        let until = self.until?;
        if until > Instant::now() {
            return Some(until);
        }
        self.resume();
        None
    }

    /// There was nothing to read: whatever comes is to wake the reader.
    pub(crate) fn listen(&mut self) {
        self.doorbell.unmute();
    }

    pub(crate) fn resume(&mut self) {
        (self.began, self.bytes, self.until) = (Instant::now(), 0, None);
    }
}

/// The socket's readiness, which wakes the process for each segment that comes, whether or not anybody reads.
#[derive(Debug)]
struct Doorbell {
    socket: Option<OwnedFd>,
    is_muted: bool,
}

impl Doorbell {
    /// More than gathers in a pause, so that nothing wakes earlier.
    const FLOOD: libc::c_int = 1 << 20;

    fn mute(&mut self) {
        if !self.is_muted {
            self.set(Self::FLOOD);
            self.is_muted = true;
        }
    }

    /// Linux looks again at what is there when the mark is set (`tcp_set_rcvlowat`), so nothing that came in between is left lying.
    fn unmute(&mut self) {
        if self.is_muted {
            self.set(1);
            self.is_muted = false;
        }
    }

    /// Readable from `bytes` on (socket(7), `SO_RCVLOWAT`). Where it is refused, wakes are more than they need be.
    #[cfg(target_os = "linux")]
    #[allow(unsafe_code, reason = "none of the libraries in use has this option")]
    fn set(&self, bytes: libc::c_int) {
        let Some(socket) = &self.socket else { return };
        let length = libc::socklen_t::try_from(size_of_val(&bytes)).unwrap_or_default();
        // SAFETY: the handle is open as long as `self`, and the value is read before the call returns.
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, (&raw const bytes).cast(), length) };
    }

    #[cfg(not(target_os = "linux"))]
    fn set(&self, _bytes: libc::c_int) {}
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn what_came_in_a_pause_is_read_after_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let transport = Transport::Tcp(client);
        let mut pace = Pace::of(&transport);
        let Transport::Tcp(mut client) = transport else { unreachable!() };
        let mut buffer = vec![0; Pace::MUCH];
        server.write_all(&buffer).await.unwrap();
        client.read_exact(&mut buffer).await.unwrap();
        assert!(client.try_read(&mut buffer).is_err(), "that was all");
        pace.note(Pace::MUCH, true);
        let until = pace.pause().unwrap();
        server.write_all(b"few").await.unwrap();
        let early = tokio::time::timeout_at((until + 20 * Pace::PAUSE).into(), client.readable()).await;
        assert!(early.is_err(), "a few bytes rang while the bell was muted");
        assert_eq!(pace.pause(), None);
        pace.listen();
        // No byte more comes that could wake it.
        let few = tokio::time::timeout(Duration::from_secs(10), client.read(&mut buffer)).await;
        assert_eq!(few.unwrap().unwrap(), 3);
    }
}
