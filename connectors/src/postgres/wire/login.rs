//! A session before it streams: authentication, which server this is, and the start of replication.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use guitong_schemas::contract::system::{Origins, PostgresConfig};
use guitong_schemas::position::Lsn;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::backend::{DataRowBody, Header, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::config::{Address, SESSION, quote_name};
use super::super::fault::Faults;
use super::super::timeline::History;
use super::error::{ServerError, WireError, unreadable};
use super::frames::Frames;
use super::intake::Intake;
use super::pace::Pace;
use super::shorten::Rows;
use super::status::Status;
use super::transport::Transport;
use super::{Reader, Wire};
use crate::source::SourceError;

/// A server that has not let us in by then hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// Nothing that comes before the stream is longer.
const LONGEST: i32 = 1 << 20;
/// CopyBothResponse: the stream begins.
const COPY_BOTH: u8 = b'W';

/// Has the server send what is in progress once it holds 4 MiB of it, where it would hold more: what it holds at a commit is still to
/// be sent then.
const EARLY: &str = "SELECT set_config(name, least(setting::int8, 4096)::text, false) FROM pg_settings \
                     WHERE name = 'logical_decoding_work_mem'";

/// Which server the session is on.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) system_id: String,
    pub(crate) timeline: u32,
    /// Of that timeline; empty where it is the first, or the server has it no more.
    pub(crate) history: History,
    /// End of the server's flushed log.
    pub(crate) end: Lsn,
}

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Replicate,
    Read,
}

/// A session that does not stream yet.
#[derive(Debug)]
pub(crate) struct Login {
    transport: Transport,
    read: BytesMut,
    faults: Faults,
}

impl Login {
    pub(crate) async fn open(address: &Address, purpose: Purpose, faults: &Faults) -> Result<Self, SourceError> {
        let doing = match purpose {
            Purpose::Replicate => "opening the replication session",
            Purpose::Read => "opening a session to read tables",
        };
        let opened = tokio::time::timeout(PATIENCE, async {
            let transport = Transport::connect(address).await?;
            let mut login = Self { transport, read: BytesMut::new(), faults: faults.clone() };
            login.start_up(address, purpose).await?;
            login.authenticate(address).await?;
            Ok(login)
        });
        match opened.await {
            Ok(opened) => opened.map_err(|error| faults.wire(doing, &error)),
            Err(_) => Err(faults.unavailable(format!("{doing}: no answer in {PATIENCE:?}"))),
        }
    }

    pub(crate) async fn identify(&mut self) -> Result<Identity, SourceError> {
        let identified = async {
            let row = self.row("IDENTIFY_SYSTEM").await?;
            let [Some(system_id), Some(timeline), Some(end), ..] = row.as_slice() else {
                return Err(WireError::Protocol("IDENTIFY_SYSTEM answered without its columns".to_owned()));
            };
            let unread = |what: &str| WireError::Protocol(format!("IDENTIFY_SYSTEM answered with a {what} that does not read"));
            let timeline = timeline.parse().map_err(|_| unread("timeline"))?;
            let history = self.history(timeline).await?;
            let end = end.parse().map_err(|_| unread("position"))?;
            Ok(Identity { system_id: system_id.clone(), timeline, history, end })
        };
        let identified = identified.await;
        identified.map_err(|error| self.faults.wire("opening the replication session", &error))
    }

    /// How the server came to its timeline.
    async fn history(&mut self, timeline: u32) -> Result<History, WireError> {
        // The first one has no parent, so the server has no file of it.
        if timeline <= 1 {
            return Ok(History::default());
        }
        match self.row(&format!("TIMELINE_HISTORY {timeline}")).await {
            Ok(row) => match row.as_slice() {
                [_, Some(content), ..] => History::parse(content).map_err(WireError::Protocol),
                _ => Err(WireError::Protocol("TIMELINE_HISTORY answered without its columns".to_owned())),
            },
            // Without its file nothing can be proved, which matters only where the timeline changed.
            Err(WireError::Server(error)) if !error.fatal => Ok(History::default()),
            Err(error) => Err(error),
        }
    }

    /// Makes standbys keep a copy of the slot (PostgreSQL 17).
    pub(crate) async fn keep_copies(&mut self, slot: &str) -> Result<(), SourceError> {
        let altered = async {
            self.send(|out| frontend::query(&format!("ALTER_REPLICATION_SLOT {} ( FAILOVER true )", quote_name(slot)), out))
                .await?;
            self.until_ready().await.map(drop)
        };
        altered.await.map_err(|error| self.faults.wire("setting `failover` of the replication slot", &error))
    }

    /// Begins to stream after `from`; `durable` is all that the server may forget until more is confirmed. `patience` is the server's
    /// `wal_sender_timeout`.
    pub(crate) async fn start(
        mut self,
        config: &PostgresConfig,
        (from, durable): (Lsn, Lsn),
        patience: Option<Duration>,
    ) -> Result<Wire, SourceError> {
        // Literals of replication commands know no escapes but the doubled quote.
        let publication = quote_name(&config.publication).replace('\'', "''");
        // Servers before 16 do not know the option.
        let origin = if config.origin == Origins::None { ", origin 'none'" } else { "" };
        let protocol = if config.streaming { "proto_version '2', streaming 'on'" } else { "proto_version '1'" };
        let binary = if config.binary { ", binary 'true'" } else { "" };
        let command = format!(
            "START_REPLICATION SLOT {} LOGICAL {from} \
             ({protocol}, publication_names '{publication}', messages 'true'{binary}{origin})",
            quote_name(&config.slot)
        );
        let started = async {
            if config.streaming {
                self.row(EARLY).await?;
            }
            self.send(|out| frontend::query(&command, out)).await?;
            self.copy_both().await
        };
        if let Err(error) = started.await {
            return Err(self.faults.wire("starting to stream", &error));
        }
        let pace = Pace::of(&self.transport);
        let (reader, writer) = tokio::io::split(self.transport);
        let status = Status::report(writer, durable, patience);
        Ok(Wire::new(
            Intake::new(reader, Frames::after(self.read, Rows::Tuples { in_progress: false }), pace),
            status,
            self.faults,
        ))
    }

    /// Goes on as a session that reads tables.
    pub(crate) fn reader(self) -> Reader {
        let pace = Pace::of(&self.transport);
        Reader::new(Intake::new(self.transport, Frames::after(self.read, Rows::Line), pace), self.faults)
    }

    async fn start_up(&mut self, address: &Address, purpose: Purpose) -> Result<(), WireError> {
        let options: Vec<String> = SESSION.iter().map(|(name, value)| format!("-c {name}={value}")).collect();
        let options = options.join(" ");
        let parameters = [
            ("user", address.user.as_str()),
            ("database", &address.database),
            ("client_encoding", "UTF8"),
            ("application_name", &address.application),
            ("options", &options),
        ];
        let replication = (purpose == Purpose::Replicate).then_some(("replication", "database"));
        self.send(|out| frontend::startup_message(parameters.into_iter().chain(replication), out)).await
    }

    async fn authenticate(&mut self, address: &Address) -> Result<(), WireError> {
        let password = address.password.reveal().as_bytes();
        loop {
            match self.message().await? {
                Message::AuthenticationOk => break,
                Message::AuthenticationCleartextPassword if self.transport.is_private() => {
                    self.send(|out| frontend::password_message(password, out)).await?;
                }
                Message::AuthenticationCleartextPassword => {
                    return Err(WireError::Tls(
                        "the server wants the password in clear text, and the connection is not encrypted; use sslmode=verify-full, \
                         or scram-sha-256 in pg_hba.conf"
                            .to_owned(),
                    ));
                }
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(address.user.as_bytes(), password, body.salt());
                    self.send(|out| frontend::password_message(hash.as_bytes(), out)).await?;
                }
                Message::AuthenticationSasl(body) => {
                    let offered: Vec<String> =
                        body.mechanisms().map(|name| Ok(name.to_owned())).collect().map_err(|error| unreadable(&error))?;
                    self.scram(&offered, password).await?;
                }
                Message::ErrorResponse(body) => return Err(WireError::Server(ServerError::read(&body))),
                Message::NoticeResponse(_) => {}
                _ => {
                    return Err(WireError::Login(
                        "the server wants a way of authentication other than SCRAM, MD5, password or certificate".to_owned(),
                    ));
                }
            }
        }
        self.until_ready().await.map(drop)
    }

    /// SCRAM-SHA-256, tied to the TLS session where both sides can, so that nobody in between can pass it on.
    async fn scram(&mut self, offered: &[String], password: &[u8]) -> Result<(), WireError> {
        let offers = |name: &str| offered.iter().any(|offered| offered == name);
        let (mechanism, binding) = match (self.transport.end_point(), offers(SCRAM_SHA_256_PLUS)) {
            (Some(end_point), true) => (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(end_point)),
            // The server notices where its offer was taken out on the way.
            (Some(_), false) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            (None, _) => (SCRAM_SHA_256, ChannelBinding::unsupported()),
        };
        if !offers(mechanism) {
            return Err(WireError::Login(format!("the server offers {} and not SCRAM-SHA-256", offered.join(", "))));
        }
        let failed = |error: io::Error| WireError::Login(format!("SCRAM: {error}"));
        let mut scram = ScramSha256::new(password, binding);
        self.send(|out| frontend::sasl_initial_response(mechanism, scram.message(), out)).await?;
        match self.answer().await? {
            Message::AuthenticationSaslContinue(body) => scram.update(body.data()).map_err(failed)?,
            _ => return Err(WireError::Protocol("SCRAM was not gone on with".to_owned())),
        }
        self.send(|out| frontend::sasl_response(scram.message(), out)).await?;
        match self.answer().await? {
            // Proves that the server knows the password too.
            Message::AuthenticationSaslFinal(body) => scram.finish(body.data()).map_err(failed),
            _ => Err(WireError::Protocol("SCRAM was not brought to its end".to_owned())),
        }
    }

    /// The first row of a command's answer, as text.
    async fn row(&mut self, command: &str) -> Result<Vec<Option<String>>, WireError> {
        self.send(|out| frontend::query(command, out)).await?;
        let row = self.until_ready().await?;
        let row = row.ok_or_else(|| WireError::Protocol(format!("{command} gave no row")))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let ranges = row.ranges().map(|range| Ok(range.map(|range| row.buffer().get(range).map(text).unwrap_or_default())));
        ranges.collect().map_err(|error| unreadable(&error))
    }

    /// Reads on until the server waits for a command, or to the error that it ended the last one with.
    async fn until_ready(&mut self) -> Result<Option<DataRowBody>, WireError> {
        let (mut row, mut error) = (None, None);
        loop {
            match self.message().await? {
                Message::DataRow(body) => row = row.or(Some(body)),
                Message::ErrorResponse(body) => {
                    let found = ServerError::read(&body);
                    if found.fatal {
                        return Err(WireError::Server(found));
                    }
                    error = Some(found);
                }
                Message::ReadyForQuery(_) => return error.map_or(Ok(row), |error| Err(WireError::Server(error))),
                _ => {}
            }
        }
    }

    /// Waits for the stream to begin; what follows stays where it is.
    async fn copy_both(&mut self) -> Result<(), WireError> {
        loop {
            let header = self.whole().await?;
            if header.tag() == COPY_BOTH {
                let length = usize::try_from(header.len()).unwrap_or(0) + 1;
                self.read.advance(length.min(self.read.len()));
                return Ok(());
            }
            match self.parse()? {
                Message::ErrorResponse(body) => return Err(WireError::Server(ServerError::read(&body))),
                Message::NoticeResponse(_) | Message::ParameterStatus(_) => {}
                _ => return Err(WireError::Protocol("START_REPLICATION was not answered with a stream".to_owned())),
            }
        }
    }

    /// The next message, where an error is none.
    async fn answer(&mut self) -> Result<Message, WireError> {
        match self.message().await? {
            Message::ErrorResponse(body) => Err(WireError::Server(ServerError::read(&body))),
            message => Ok(message),
        }
    }

    async fn message(&mut self) -> Result<Message, WireError> {
        self.whole().await?;
        self.parse()
    }

    fn parse(&mut self) -> Result<Message, WireError> {
        let parsed = Message::parse(&mut self.read).map_err(|error| unreadable(&error))?;
        parsed.ok_or_else(|| WireError::Protocol("a message ends early".to_owned()))
    }

    /// Reads until a whole message is here.
    async fn whole(&mut self) -> Result<Header, WireError> {
        loop {
            if let Some(header) = Header::parse(&self.read).map_err(|error| unreadable(&error))? {
                if header.len() > LONGEST {
                    return Err(WireError::Protocol(format!("a message of {} bytes before the stream", header.len())));
                }
                if usize::try_from(header.len()).is_ok_and(|length| length < self.read.len()) {
                    return Ok(header);
                }
            }
            self.read.reserve(4 << 10);
            if self.transport.read_buf(&mut self.read).await.map_err(WireError::Io)? == 0 {
                return Err(WireError::Io(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    async fn send(&mut self, message: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Result<(), WireError> {
        let mut out = BytesMut::new();
        message(&mut out).map_err(|error| WireError::Login(format!("the connection URL cannot be sent: {error}")))?;
        let out: Bytes = out.freeze();
        self.transport.write_all(&out).await.map_err(WireError::Io)?;
        self.transport.flush().await.map_err(WireError::Io)
    }
}
