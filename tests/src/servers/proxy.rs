//! A TCP proxy that fails on request: it stands between a client and a server and cuts, holds or loses what passes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the proxy does with the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They pass.
    Pass,
    /// Connections stay open and nothing moves.
    Hold,
    /// What a PostgreSQL replication client sends while it streams, its confirmations, is kept back; all else passes.
    HoldFeedback,
    /// Connections are closed, new ones too.
    Cut,
    /// They pass until [`Proxy::received`] is this, whatever message that ends in, and from then on it is [`Mode::Cut`].
    CutAt { received: u64 },
    /// The next Kafka request with this API key reaches the server, its answer never comes back, and from then on it is [`Mode::Cut`].
    LoseReply { api_key: i16 },
    /// The next Kafka request with this API key is kept back, and from then on it is [`Mode::Hold`].
    HoldRequest { api_key: i16 },
}

/// How the startup message of a PostgreSQL replication client names what it wants.
const REPLICATION: &[u8] = b"\0replication\0";
/// Bytes that a client's startup message, and what it may ask before, are within.
const STARTUP: usize = 1 << 10;

/// Kafka's Produce.
pub const PRODUCE: i16 = 0;

/// Kafka's Fetch.
pub const FETCH: i16 = 1;

/// Kafka's EndTxn, which commits or aborts a transaction.
pub const END_TXN: i16 = 26;

/// Kafka's AddOffsetsToTxn, which comes before a transaction's commit.
pub const ADD_OFFSETS_TO_TXN: i16 = 25;

/// A running proxy; dropped, it stops.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    accept: JoinHandle<()>,
    counted: Arc<AtomicU64>,
    upstream: Arc<AtomicU16>,
}

impl Proxy {
    /// A listener whose port is known before the server behind it is.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn bind() -> io::Result<(TcpListener, u16)> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        Ok((listener, port))
    }

    /// Forwards what comes in at `listener` to `upstream` on loopback.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn start(listener: TcpListener, upstream: u16) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (mode, _) = watch::channel(Mode::Pass);
        let counted = Arc::new(AtomicU64::new(0));
        let upstream = Arc::new(AtomicU16::new(upstream));
        let accept = tokio::spawn(accept(listener, Arc::clone(&upstream), mode.clone(), Arc::clone(&counted)));
        Ok(Self { address, mode, accept, counted, upstream })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// New connections go to this port from now on, as those do whose address an administrator moves to another server.
    pub fn redirect(&self, upstream: u16) {
        self.upstream.store(upstream, Ordering::Relaxed);
    }

    #[must_use]
    pub fn mode(&self) -> Mode {
        *self.mode.borrow()
    }

    /// Resolves once the proxy is in `mode`: after [`Mode::LoseReply`], once the answer is lost and it is [`Mode::Cut`].
    pub async fn reached(&self, mode: Mode) {
        let mut watching = self.mode.subscribe();
        // The sender is ours, so waiting ends only with the mode.
        let _ = watching.wait_for(|now| *now == mode).await;
    }

    /// Bytes that passed from server to clients.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.counted.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accept.abort();
        self.mode.send_replace(Mode::Cut);
    }
}

async fn accept(listener: TcpListener, upstream: Arc<AtomicU16>, mode: watch::Sender<Mode>, counted: Arc<AtomicU64>) {
    while let Ok((client, _)) = listener.accept().await {
        if *mode.borrow() == Mode::Cut {
            continue;
        }
        let (mode, counted, upstream) = (mode.clone(), Arc::clone(&counted), upstream.load(Ordering::Relaxed));
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
            let _ = client.set_nodelay(true);
            let _ = server.set_nodelay(true);
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let mut cut = mode.subscribe();
            let (lose, lost) = watch::channel(false);
            tokio::select! {
                _ = requests(from_client, to_server, &mode, &lose) => {}
                _ = replies(from_server, to_client, &mode, lost, &counted) => {}
                _ = cut.wait_for(|now| *now == Mode::Cut) => {}
            }
        });
    }
}

/// Client to server. `lose` is set before the last bytes of a request whose answer is to be lost are passed on.
async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mode: &watch::Sender<Mode>,
    lose: &watch::Sender<bool>,
) -> io::Result<()> {
    let mut watching = mode.subscribe();
    let mut frames = Frames::default();
    let (mut replicates, mut passed) = (false, 0);
    let mut buffer = vec![0_u8; 64 << 10];
    loop {
        let count = from.read(&mut buffer).await?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        frames.scan(bytes, |api_key| {
            let now = *mode.borrow();
            if now == (Mode::LoseReply { api_key }) {
                lose.send_replace(true);
            } else if now == (Mode::HoldRequest { api_key }) {
                mode.send_replace(Mode::Hold);
            }
        });
        if passed < STARTUP {
            replicates |= bytes.windows(REPLICATION.len()).any(|part| part == REPLICATION);
            passed += count;
        }
        let is_held = |now: &Mode| *now == Mode::Hold || (replicates && *now == Mode::HoldFeedback);
        let _ = watching.wait_for(|now| !is_held(now)).await;
        // What was kept back goes with its connection.
        if *mode.borrow() == Mode::Cut {
            return Ok(());
        }
        to.write_all(bytes).await?;
    }
}

/// Server to client.
async fn replies(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mode: &watch::Sender<Mode>,
    lost: watch::Receiver<bool>,
    counted: &AtomicU64,
) -> io::Result<()> {
    let mut watching = mode.subscribe();
    let mut buffer = vec![0_u8; 64 << 10];
    loop {
        let count = from.read(&mut buffer).await?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        if *lost.borrow() {
            mode.send_replace(Mode::Cut);
            return Ok(());
        }
        let _ = watching.wait_for(|now| *now != Mode::Hold).await;
        let before = counted.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let last = match *mode.borrow() {
            Mode::CutAt { received } => usize::try_from(received.saturating_sub(before)).ok(),
            _ => None,
        };
        match last.and_then(|last| bytes.get(..last)) {
            None => to.write_all(bytes).await?,
            Some(last) => {
                to.write_all(last).await?;
                mode.send_replace(Mode::Cut);
                return Ok(());
            }
        }
    }
}

/// Finds the API key of each request in a Kafka client's stream: frames of a 4-byte length, then the key in 2 bytes.
#[derive(Debug, Default)]
struct Frames {
    head: Vec<u8>,
    /// Bytes of the current frame that are still to come.
    rest: usize,
}

impl Frames {
    fn scan(&mut self, mut bytes: &[u8], mut found: impl FnMut(i16)) {
        while !bytes.is_empty() {
            if self.rest > 0 {
                let skipped = self.rest.min(bytes.len());
                self.rest -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            let (taken, after) = bytes.split_at(bytes.len().min(6 - self.head.len()));
            self.head.extend_from_slice(taken);
            bytes = after;
            if let [a, b, c, d, high, low] = self.head[..] {
                self.rest = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(2);
                self.head.clear();
                found(i16::from_be_bytes([high, low]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_keys_are_found_however_the_stream_is_cut() {
        let mut stream = Vec::new();
        for (key, body) in [(3_i16, 5_usize), (26, 0), (0, 100), (26, 1)] {
            stream.extend_from_slice(&((body + 2) as u32).to_be_bytes());
            stream.extend_from_slice(&key.to_be_bytes());
            stream.resize(stream.len() + body, 0xff);
        }
        for size in [1, 3, 7, 1000] {
            let (mut frames, mut keys) = (Frames::default(), Vec::new());
            stream.chunks(size).for_each(|chunk| frames.scan(chunk, |key| keys.push(key)));
            assert_eq!(keys, [3, 26, 0, 26], "in pieces of {size}");
        }
    }
}
