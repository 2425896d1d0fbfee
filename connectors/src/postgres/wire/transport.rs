//! The connection under the session: TCP with or without TLS, or a Unix socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::config::Address;
use super::error::WireError;
use super::tls::{self, SslMode};

#[derive(Debug)]
pub(crate) enum Transport {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl Transport {
    pub(crate) async fn connect(address: &Address) -> Result<Self, WireError> {
        if address.host.starts_with('/') {
            if address.tls.mode > SslMode::Prefer {
                return Err(WireError::Tls("there is no TLS on a Unix socket".to_owned()));
            }
            let path = Path::new(&address.host).join(format!(".s.PGSQL.{}", address.port));
            return Ok(Self::Unix(UnixStream::connect(path).await.map_err(WireError::Io)?));
        }
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(WireError::Io)?;
        stream.set_nodelay(true).map_err(WireError::Io)?;
        if address.tls.mode == SslMode::Disable { Ok(Self::Tcp(stream)) } else { secure(stream, address).await }
    }

    /// Whether nobody between here and the server can read what is sent.
    pub(crate) fn is_private(&self) -> bool {
        !matches!(self, Self::Tcp(_))
    }

    /// Another handle of the TCP socket; none of a Unix one.
    pub(crate) fn socket(&self) -> io::Result<Option<OwnedFd>> {
        let stream = match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
            Self::Unix(_) => return Ok(None),
        };
        stream.as_fd().try_clone_to_owned().map(Some)
    }

    /// What ties a password exchange to this TLS session (RFC 5929, `tls-server-end-point`).
    pub(crate) fn end_point(&self) -> Option<Vec<u8>> {
        let Self::Tls(stream) = self else { return None };
        let (_, session) = stream.get_ref();
        tls::end_point(session.peer_certificates()?.first()?)
    }
}

/// Asks the server for TLS.
async fn secure(mut stream: TcpStream, address: &Address) -> Result<Transport, WireError> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(WireError::Io)?;
    // One byte and no more: what follows it in clear text is not the server's.
    match stream.read_u8().await.map_err(WireError::Io)? {
        b'S' => {}
        b'N' if address.tls.mode == SslMode::Prefer => return Ok(Transport::Tcp(stream)),
        b'N' => return Err(WireError::Tls("the server does not support TLS".to_owned())),
        // An error of a server that is too busy for more.
        _ => return Err(WireError::Io(io::Error::other("the server does not say whether it supports TLS"))),
    }
    let name = ServerName::try_from(address.host.clone())
        .map_err(|_| WireError::Tls(format!("`{}` is no name that a certificate can have", address.host)))?;
    let connector = TlsConnector::from(Arc::new(tls::client(&address.tls)?));
    let secured = connector.connect(name, stream).await.map_err(WireError::Io)?;
    Ok(Transport::Tls(Box::new(secured)))
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
