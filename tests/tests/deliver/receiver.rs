//! A subscriber's endpoint that answers as a script says, verifies every signature, and remembers what it took.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use guitong_schemas::contract::webhook::{Mode, Webhook};
use guitong_schemas::contract::{Secret, SinkConfig};
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::sync::Semaphore;

const KEY: &[u8; 32] = b"a shared key of thirty-two bytes";

/// What the endpoint answers to the next request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer {
    Status(u16),
    /// 503 with `Retry-After` in seconds.
    Later(u64),
    Redirect,
    /// Takes the request, and never answers.
    Silence,
}

/// One event as it came.
#[derive(Debug, Clone)]
pub(crate) struct Came {
    pub(crate) id: String,
    pub(crate) subject: String,
    pub(crate) deleted: bool,
    pub(crate) sequence: String,
    pub(crate) data: Value,
    /// Whether the request that it came with was answered 2xx.
    pub(crate) taken: bool,
}

#[derive(Debug, Default)]
struct Seen {
    answers: VecDeque<Answer>,
    /// Names whose records are refused.
    poison: Option<String>,
    came: Vec<Came>,
    requests: Vec<(Instant, String)>,
    at_once: usize,
    most_at_once: usize,
}

#[derive(Debug)]
pub(crate) struct Receiver {
    seen: Mutex<Seen>,
    silent: Semaphore,
    port: u16,
    redirected: Mutex<u32>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap()
}

impl Receiver {
    pub(crate) async fn start() -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let receiver = Arc::new(Self { seen: Mutex::default(), silent: Semaphore::new(0), port, redirected: Mutex::default() });
        let router = Router::new()
            .route("/events", post(events))
            .route("/elsewhere", post(async |State(receiver): State<Arc<Self>>| *lock(&receiver.redirected) += 1))
            .with_state(Arc::clone(&receiver));
        tokio::spawn(async move { axum::serve(listener, router).await });
        receiver
    }

    pub(crate) fn config(&self, mode: Mode) -> Webhook {
        Webhook {
            url: Secret::new(format!("http://127.0.0.1:{}/events", self.port)),
            mode,
            signing_keys: vec![Secret::new(whsec(b"another key that is on its way out")), Secret::new(whsec(KEY))],
            batch: 10,
            concurrency: 4,
            timeout: Duration::from_secs(5),
            allow: vec!["127.0.0.0/8".parse().unwrap()],
            ca: None,
            client_certificate: None,
        }
    }

    pub(crate) fn sink(&self, mode: Mode) -> SinkConfig {
        SinkConfig::Webhook(Box::new(self.config(mode)))
    }

    pub(crate) fn then(&self, answer: Answer) {
        lock(&self.seen).answers.push_back(answer);
    }

    pub(crate) fn refuse(&self, name: Option<&str>) {
        lock(&self.seen).poison = name.map(Into::into);
    }

    /// Every event of requests that were answered 2xx, in order.
    pub(crate) fn taken(&self) -> Vec<Came> {
        self.came().into_iter().filter(|came| came.taken).collect()
    }

    pub(crate) fn came(&self) -> Vec<Came> {
        lock(&self.seen).came.clone()
    }

    pub(crate) fn requests(&self) -> Vec<(Instant, String)> {
        lock(&self.seen).requests.clone()
    }

    pub(crate) fn most_at_once(&self) -> usize {
        lock(&self.seen).most_at_once
    }

    pub(crate) fn redirected(&self) -> u32 {
        *lock(&self.redirected)
    }

    /// Waits until a request is left without an answer.
    pub(crate) async fn is_silent(&self) {
        self.silent.acquire().await.unwrap().forget();
    }

    /// What a subscriber holds that takes each event once and the newest of each subject.
    pub(crate) fn holds(&self, field: &str) -> HashMap<String, String> {
        let mut rows: HashMap<String, (String, Option<String>)> = HashMap::new();
        for came in self.taken() {
            let value = (!came.deleted).then(|| came.data[field].as_str().unwrap_or_default().to_owned());
            let newest = rows.get(&came.subject).is_none_or(|(sequence, _)| *sequence <= came.sequence);
            if newest {
                rows.insert(came.subject, (came.sequence, value));
            }
        }
        rows.into_iter().filter_map(|(subject, (_, value))| Some((subject, value?))).collect()
    }
}

fn whsec(key: &[u8]) -> String {
    use base64::Engine as _;
    format!("whsec_{}", base64::engine::general_purpose::STANDARD.encode(key))
}

/// What README.md tells a subscriber to do.
fn is_signed(headers: &HeaderMap, body: &[u8]) -> bool {
    use base64::Engine as _;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let sent: i64 = text("webhook-timestamp").parse().unwrap_or(0);
    let fresh = (jiff::Timestamp::now().as_second() - sent).abs() < 300;
    let mut hmac = Hmac::<Sha256>::new_from_slice(KEY).unwrap();
    hmac.update(format!("{}.{sent}.", text("webhook-id")).as_bytes());
    hmac.update(body);
    let wanted = base64::engine::general_purpose::STANDARD.encode(hmac.finalize().into_bytes());
    fresh && text("webhook-signature").split(' ').any(|signature| signature.strip_prefix("v1,") == Some(wanted.as_str()))
}

fn read(headers: &HeaderMap, body: &[u8]) -> Vec<Came> {
    let text = |name: &str| headers.get(name).unwrap().to_str().unwrap().to_owned();
    let body: Value = serde_json::from_slice(body).unwrap();
    let documents = match (text("content-type").as_str(), body) {
        ("application/json", data) => {
            let subject = text("ce-subject");
            let subject = percent_encoding::percent_decode_str(&subject).decode_utf8().unwrap().into_owned();
            let attribute = |name: &str| text(&format!("ce-{name}"));
            vec![json!({"id": attribute("id"), "subject": subject, "type": attribute("type"), "sequence": attribute("sequence"), "data": data})]
        }
        (kind, Value::Array(all)) if kind.starts_with("application/cloudevents-batch+json") => all,
        (kind, one) if kind.starts_with("application/cloudevents+json") => vec![one],
        (kind, _) => panic!("content type {kind}"),
    };
    let came = |document: Value| {
        let text = |name: &str| document[name].as_str().unwrap_or_default().to_owned();
        let deleted = text("type").ends_with(".deleted");
        Came { id: text("id"), subject: text("subject"), deleted, sequence: text("sequence"), data: document["data"].clone(), taken: false }
    };
    documents.into_iter().map(came).collect()
}

async fn events(State(receiver): State<Arc<Receiver>>, headers: HeaderMap, body: Bytes) -> Response {
    if !is_signed(&headers, &body) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let mut came = read(&headers, &body);
    let answer = {
        let mut seen = lock(&receiver.seen);
        seen.at_once += 1;
        seen.most_at_once = seen.most_at_once.max(seen.at_once);
        seen.requests.push((Instant::now(), headers["webhook-id"].to_str().unwrap().to_owned()));
        let poisoned = seen.poison.as_ref().is_some_and(|poison| came.iter().any(|came| came.data["name"] == json!(poison)));
        let answer = seen.answers.pop_front().unwrap_or(Answer::Status(if poisoned { 422 } else { 204 }));
        let taken = matches!(answer, Answer::Status(200..=299) | Answer::Silence);
        came.iter_mut().for_each(|came| came.taken = taken);
        seen.came.extend(came);
        answer
    };
    // Long enough for requests to meet.
    tokio::time::sleep(Duration::from_millis(1)).await;
    lock(&receiver.seen).at_once -= 1;
    match answer {
        Answer::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Answer::Later(seconds) => (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", seconds.to_string())]).into_response(),
        Answer::Redirect => (StatusCode::PERMANENT_REDIRECT, [("location", "/elsewhere")]).into_response(),
        Answer::Silence => {
            receiver.silent.add_permits(1);
            std::future::pending().await
        }
    }
}
