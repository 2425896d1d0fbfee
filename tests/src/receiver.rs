//! A subscriber's endpoint that answers as a script says, over plain or encrypted connections, verifies signatures by itself and
//! remembers what came. It speaks HTTP/1.1 byte by byte, so that it can break off anywhere.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use guitong_schemas::contract::webhook::{Mode, Webhook};
use guitong_schemas::contract::{Secret, SinkConfig};
use hmac::{Hmac, Mac as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufStream};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::servers::tls::{Authority, Identity};

/// The key that the receiver knows, and one that it does not.
pub const KEY: &[u8; 32] = b"a shared key of thirty-two bytes";
pub const OTHER_KEY: &[u8; 32] = b"another key that is on its way i";

/// What the endpoint answers to the next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Status(u16),
    /// 503 with `Retry-After` in seconds.
    Later(u64),
    /// 308 to another path of its own.
    Redirect,
    /// Takes the request, and never answers.
    Silence,
    /// Takes the request, and closes the connection without an answer.
    Lost,
    /// Takes the request, and closes the connection in the middle of the answer's head.
    Cut,
    /// Takes the request, says so, and closes the connection in the middle of the answer's body.
    CutBody,
}

impl Answer {
    fn takes(self) -> bool {
        match self {
            Self::Status(status) => (200..300).contains(&status),
            Self::Silence | Self::Lost | Self::Cut | Self::CutBody => true,
            Self::Later(_) | Self::Redirect => false,
        }
    }
}

/// A request as it came; header names in lower case.
#[derive(Debug, Clone)]
pub struct Request {
    pub at: Instant,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// What is signed.
    #[must_use]
    pub fn signed(&self) -> Vec<u8> {
        let head = format!("{}.{}.", self.header("webhook-id"), self.header("webhook-timestamp"));
        [head.as_bytes(), &self.body].concat()
    }

    /// Whether one of its signatures is the one that `key` makes: what README.md tells a subscriber to do.
    #[must_use]
    pub fn is_signed(&self, key: &[u8]) -> bool {
        let Ok(sent) = self.header("webhook-timestamp").parse::<i64>() else { return false };
        let Ok(mut hmac) = Hmac::<Sha256>::new_from_slice(key) else { return false };
        hmac.update(&self.signed());
        let wanted = format!("v1,{}", STANDARD.encode(hmac.finalize().into_bytes()));
        let fresh = (jiff::Timestamp::now().as_second() - sent).abs() < 300;
        fresh && self.header("webhook-signature").split(' ').any(|signature| signature == wanted)
    }

    /// The events in it.
    fn events(&self) -> Vec<Came> {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let documents = match (self.header("content-type"), body) {
            ("application/json", data) => {
                let decoded = |name: &str| {
                    let value = percent_encoding::percent_decode_str(self.header(&format!("ce-{name}")));
                    value.decode_utf8_lossy().into_owned()
                };
                let attributes = ["id", "subject", "type", "sequence"].map(|name| (name.to_owned(), json!(decoded(name))));
                let mut document: serde_json::Map<_, _> = attributes.into_iter().collect();
                document.insert("data".to_owned(), data);
                vec![Value::Object(document)]
            }
            (kind, Value::Array(all)) if kind.starts_with("application/cloudevents-batch+json") => all,
            (kind, one) if kind.starts_with("application/cloudevents+json") => vec![one],
            _ => Vec::new(),
        };
        documents.into_iter().map(Came::new).collect()
    }
}

/// One event as it came.
#[derive(Debug, Clone)]
pub struct Came {
    pub id: String,
    pub subject: String,
    pub deleted: bool,
    pub sequence: String,
    pub data: Value,
    /// Whether the endpoint took the request that it came with.
    pub taken: bool,
}

impl Came {
    fn new(document: Value) -> Self {
        let text = |name: &str| document[name].as_str().unwrap_or_default().to_owned();
        let (id, subject, sequence) = (text("id"), text("subject"), text("sequence"));
        let deleted = text("type").ends_with(".delete");
        Self { id, subject, deleted, sequence, data: document["data"].clone(), taken: false }
    }
}

#[derive(Debug, Default)]
struct Seen {
    answers: VecDeque<Answer>,
    /// What is answered where the script has ended.
    usual: Option<Answer>,
    /// Names whose records are refused.
    poison: Option<String>,
    key: Vec<u8>,
    came: Vec<Came>,
    requests: Vec<Request>,
    at_once: usize,
    most_at_once: usize,
    redirected: u32,
}

/// The endpoint; it ends with the runtime.
pub struct Receiver {
    seen: Mutex<Seen>,
    silent: Semaphore,
    port: u16,
    tls: Option<TlsAcceptor>,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Receiver({})", self.port)
    }
}

impl Receiver {
    /// Listens on a free port of the loopback.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start() -> Arc<Self> {
        Self::listen(None).await
    }

    /// The same, encrypted; `clients`: who signed the certificates that a caller must show.
    ///
    /// # Panics
    /// As [`Receiver::start`], or when a certificate cannot be used.
    pub async fn start_encrypted(own: &Identity, clients: Option<&Authority>) -> Arc<Self> {
        // Whichever test comes first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = match clients {
            None => ServerConfig::builder().with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(certificates(&authority.certificate()));
                ServerConfig::builder().with_client_cert_verifier(WebPkiClientVerifier::builder(roots.into()).build().unwrap())
            }
        };
        let key = PrivateKeyDer::from_pem_file(&own.key).unwrap();
        let config = config.with_single_cert(certificates(&own.certificate), key).unwrap();
        Self::listen(Some(Arc::new(config).into())).await
    }

    async fn listen(tls: Option<TlsAcceptor>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Mutex::new(Seen { key: KEY.to_vec(), ..Seen::default() });
        let receiver = Arc::new(Self { seen, silent: Semaphore::new(0), port, tls });
        let accepting = Arc::clone(&receiver);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let receiver = Arc::clone(&accepting);
                tokio::spawn(async move {
                    match receiver.tls.clone() {
                        None => receiver.serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                receiver.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        receiver
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A sink that delivers here.
    #[must_use]
    pub fn config(&self, mode: Mode) -> Webhook {
        let (scheme, host) = if self.tls.is_some() { ("https", "localhost") } else { ("http", "127.0.0.1") };
        Webhook {
            url: Secret::new(format!("{scheme}://{host}:{}/events?token=s3cret-token", self.port)),
            mode,
            signing_keys: vec![Secret::new(whsec(KEY))],
            batch: 10,
            concurrency: 4,
            timeout: Duration::from_secs(5),
            allow: ["127.0.0.0/8", "::1"].iter().filter_map(|network| network.parse().ok()).collect(),
            ca: None,
            client_certificate: None,
        }
    }

    #[must_use]
    pub fn sink(&self, mode: Mode) -> SinkConfig {
        SinkConfig::Webhook(Box::new(self.config(mode)))
    }

    /// Adds to the script.
    pub fn then(&self, answer: Answer) {
        self.seen().answers.push_back(answer);
    }

    /// What is answered where the script has ended; 204 where it is `None`.
    pub fn usually(&self, answer: Option<Answer>) {
        self.seen().usual = answer;
    }

    /// Refuses records of this name.
    pub fn refuse(&self, name: Option<&str>) {
        self.seen().poison = name.map(Into::into);
    }

    /// The key that requests have to be signed with from now on.
    pub fn trust(&self, key: &[u8]) {
        self.seen().key = key.to_vec();
    }

    /// Every event of requests that the endpoint took, in order.
    #[must_use]
    pub fn taken(&self) -> Vec<Came> {
        self.came().into_iter().filter(|came| came.taken).collect()
    }

    #[must_use]
    pub fn came(&self) -> Vec<Came> {
        self.seen().came.clone()
    }

    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.seen().requests.clone()
    }

    /// How many requests there were, without a copy of them.
    #[must_use]
    pub fn count(&self) -> usize {
        self.seen().requests.len()
    }

    #[must_use]
    pub fn most_at_once(&self) -> usize {
        self.seen().most_at_once
    }

    /// Requests that followed a redirect.
    #[must_use]
    pub fn redirected(&self) -> u32 {
        self.seen().redirected
    }

    /// Waits until a request is left without an answer.
    ///
    /// # Panics
    /// Never: the semaphore is not closed.
    pub async fn is_silent(&self) {
        self.silent.acquire().await.unwrap().forget();
    }

    /// What a subscriber holds that takes the newest of each subject.
    #[must_use]
    pub fn holds(&self, field: &str) -> HashMap<String, String> {
        let mut rows: HashMap<String, (String, Option<String>)> = HashMap::new();
        for came in self.taken() {
            let value = (!came.deleted).then(|| came.data[field].as_str().unwrap_or_default().to_owned());
            if rows.get(&came.subject).is_none_or(|(sequence, _)| *sequence <= came.sequence) {
                rows.insert(came.subject, (came.sequence, value));
            }
        }
        rows.into_iter().filter_map(|(subject, (_, value))| Some((subject, value?))).collect()
    }

    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut stream = BufStream::new(stream);
        while let Some((path, request)) = read(&mut stream).await {
            let answer = self.take(&path, request);
            // Long enough for requests to meet.
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.seen().at_once -= 1;
            let head = match answer {
                Answer::Status(204) => "HTTP/1.1 204 Taken\r\n\r\n".to_owned(),
                Answer::Status(status) => format!("HTTP/1.1 {status} Scripted\r\ncontent-length: 2\r\n\r\nok"),
                Answer::Later(seconds) => format!("HTTP/1.1 503 Later\r\nretry-after: {seconds}\r\ncontent-length: 0\r\n\r\n"),
                Answer::Redirect => "HTTP/1.1 308 Elsewhere\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n".to_owned(),
                Answer::Silence => {
                    self.silent.add_permits(1);
                    std::future::pending().await
                }
                Answer::Lost => return,
                Answer::Cut => "HTTP/1.1 200 OK\r\ncontent-le".to_owned(),
                Answer::CutBody => "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_owned(),
            };
            if stream.write_all(head.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                return;
            }
            if matches!(answer, Answer::Cut | Answer::CutBody) {
                return;
            }
        }
    }

    /// Notes a request and says what it is answered.
    fn take(&self, path: &str, request: Request) -> Answer {
        let mut seen = self.seen();
        seen.at_once += 1;
        seen.most_at_once = seen.most_at_once.max(seen.at_once);
        if path.starts_with("/elsewhere") {
            seen.redirected += 1;
            return Answer::Status(204);
        }
        let mut came = request.events();
        let poisoned = seen.poison.as_ref().is_some_and(|poison| came.iter().any(|came| came.data["name"] == json!(poison)));
        let usual = seen.usual.unwrap_or(Answer::Status(if poisoned { 422 } else { 204 }));
        let answer = match request.is_signed(&seen.key) {
            true => seen.answers.pop_front().unwrap_or(usual),
            false => Answer::Status(401),
        };
        came.iter_mut().for_each(|came| came.taken = answer.takes());
        seen.came.extend(came);
        seen.requests.push(request);
        answer
    }
}

/// A key as Standard Webhooks writes it.
#[must_use]
pub fn whsec(key: &[u8]) -> String {
    format!("whsec_{}", STANDARD.encode(key))
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap).collect()
}

/// The next request; `None` where the caller went away.
async fn read(stream: &mut BufStream<impl AsyncRead + AsyncWrite + Unpin>) -> Option<(String, Request)> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut lines = lines.into_iter();
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())))
        .collect();
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    stream.read_exact(&mut body).await.ok()?;
    Some((path, Request { at: Instant::now(), headers, body }))
}
