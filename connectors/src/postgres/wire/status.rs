//! What the server hears from us: how far everything is durable here.
//!
//! A task of its own writes it, so that it is on time however long the reader stands still; the server ends a session that is silent
//! for `wal_sender_timeout`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, BytesMut};
use guitong_schemas::position::Lsn;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::stream::POSTGRES_EPOCH_US;

/// How soon a confirmed position reaches the server.
const INTERVAL: Duration = Duration::from_secs(1);

/// The reader's side. Dropped, it ends the session.
#[derive(Debug)]
pub(crate) struct Status {
    shared: Arc<Shared>,
    ended: CancellationToken,
    _end: DropGuard,
}

#[derive(Debug)]
struct Shared {
    /// Everything before this is durable here.
    durable: AtomicU64,
    /// The server wants to hear now.
    asked: Notify,
}

impl Status {
    /// Begins to report to `server`, which is silent for `patience` at most.
    pub(crate) fn report(server: impl AsyncWrite + Unpin + Send + 'static, durable: Lsn, patience: Option<Duration>) -> Self {
        // A quarter of the server's patience, so that one late report does not end the session.
        let interval = patience.map_or(INTERVAL, |patience| (patience / 4).min(INTERVAL));
        let shared = Arc::new(Shared { durable: AtomicU64::new(durable.0), asked: Notify::new() });
        let ended = CancellationToken::new();
        let (of_task, of_task_ended) = (Arc::clone(&shared), ended.clone());
        tokio::spawn(async move {
            // The reader sees the same end of the connection and says what it means.
            if let Err(error) = write(server, &of_task, interval, of_task_ended).await {
                tracing::debug!(%error, "the server takes no more reports");
            }
        });
        Self { shared, _end: ended.clone().drop_guard(), ended }
    }

    pub(crate) fn confirm(&self, durable: Lsn) {
        self.shared.durable.fetch_max(durable.0, Ordering::Relaxed);
    }

    pub(crate) fn durable(&self) -> Lsn {
        Lsn(self.shared.durable.load(Ordering::Relaxed))
    }

    /// Tells the server to end the session.
    pub(crate) fn end(&self) {
        self.ended.cancel();
    }

    pub(crate) fn answer(&self) {
        self.shared.asked.notify_one();
    }
}

async fn write(
    mut server: impl AsyncWrite + Unpin,
    shared: &Shared,
    interval: Duration,
    ended: CancellationToken,
) -> io::Result<()> {
    let mut message = BytesMut::new();
    loop {
        message.clear();
        standby_status(shared.durable.load(Ordering::Relaxed), now_us(), &mut message)?;
        tokio::select! {
            written = server.write_all(&message) => written?,
            // The server reads nothing any more; closing the connection tells it enough.
            () = ended.cancelled() => return Ok(()),
        }
        server.flush().await?;
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = shared.asked.notified() => {}
            () = ended.cancelled() => {
                message.clear();
                frontend::terminate(&mut message);
                // Where the server takes nothing, the end of the connection has to do.
                let said = async {
                    server.write_all(&message).await?;
                    server.shutdown().await
                };
                return tokio::time::timeout(INTERVAL, said).await?;
            }
        }
    }
}

/// Standby status update inside CopyData: written, flushed and applied are one to us.
fn standby_status(durable: u64, now_us: i64, out: &mut BytesMut) -> io::Result<()> {
    let mut body = [0_u8; 34];
    let mut fields = &mut body[..];
    fields.put_u8(b'r');
    fields.put_u64(durable);
    fields.put_u64(durable);
    fields.put_u64(durable);
    fields.put_i64(now_us);
    frontend::CopyData::new(&body[..])?.write(out);
    Ok(())
}

/// Microseconds since 2000-01-01.
fn now_us() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX).saturating_sub(POSTGRES_EPOCH_US)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::AsyncReadExt;

    use super::*;

    async fn report(server: &mut tokio::io::DuplexStream) -> u64 {
        let mut message = [0; 39];
        server.read_exact(&mut message).await.unwrap();
        assert_eq!((message[0], message[5]), (b'd', b'r'));
        u64::from_be_bytes(message[14..22].try_into().unwrap())
    }

    #[tokio::test]
    async fn reports_come_by_the_clock_and_when_asked_and_never_go_back() {
        let (mut server, ours) = tokio::io::duplex(1 << 10);
        let begun = Instant::now();
        let status = Status::report(ours, Lsn(7), Some(Duration::from_millis(400)));
        assert_eq!(report(&mut server).await, 7);
        status.confirm(Lsn(9));
        status.confirm(Lsn(8));
        assert_eq!(report(&mut server).await, 9);
        assert!(begun.elapsed() >= Duration::from_millis(100), "before a quarter of the server's patience");
        drop(status);
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest[rest.len() - 5..], [b'X', 0, 0, 0, 4]);

        let (mut server, ours) = tokio::io::duplex(1 << 10);
        let status = Status::report(ours, Lsn(7), Some(Duration::from_secs(3600)));
        assert_eq!(report(&mut server).await, 7);
        let asked = Instant::now();
        status.answer();
        assert_eq!(report(&mut server).await, 7);
        assert!(asked.elapsed() < INTERVAL, "by the clock and not because it was asked");
    }
}
