//! One signed request, and what its answer means.

use std::error::Error as _;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guitong_log::tls::Refusal;
use guitong_schemas::contract::Webhook;
use jiff::Timestamp;
use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Identity, Response, StatusCode, Url};
use sha2::{Digest as _, Sha256};

use super::address::{Allowed, NotAllowed};
use super::breaker::Breaker;
use super::endpoints::{Endpoints, Rules};
use super::message::Message;
use super::sign::Signer;
use crate::http::{self, pem, unusable};
use crate::sink::{SinkError, SinkErrorKind};

/// What is read of an answer's body, so that its connection can be used again.
const BODY: usize = 64 << 10;
const BODY_WAIT: Duration = Duration::from_secs(1);

/// A subscriber's endpoint.
#[derive(Debug)]
pub(crate) struct Endpoint {
    http: Client,
    url: Url,
    /// Host and port: all of the URL that is told.
    address: String,
    timeout: Duration,
    signer: Signer,
    allowed: Allowed,
    breaker: Arc<Breaker>,
}

impl Endpoint {
    pub(crate) fn new(config: &Webhook, endpoints: &Endpoints) -> Result<Self, SinkError> {
        let url = Url::parse(config.url.reveal()).map_err(|_| unusable("`url` is no address"))?;
        let address = address(&url);
        // In the clear only to networks that are named.
        let public = url.scheme() == "https";
        let allowed = Allowed::new(&config.allow, public);
        let ca = config.ca.as_deref().map(|path| pem(path, "`ca`")).transpose()?;
        let identity = config.client_certificate.as_deref().map(|path| pem(path, "`client_certificate`")).transpose()?;
        let digest = |pem: &Option<Vec<u8>>| pem.as_ref().map(|pem| Sha256::digest(pem).into());
        let rules = Rules { networks: config.allow.clone(), public, ca: digest(&ca), identity: digest(&identity) };
        let http = endpoints.client(rules, || {
            let authorities = ca.zip(config.ca.as_ref());
            client(allowed.clone(), authorities, identity.zip(config.client_certificate.as_ref()))
        })?;
        let breaker = endpoints.breaker(url.as_str());
        Ok(Self { http, url, address, timeout: config.timeout, signer: Signer::new(&config.signing_keys)?, allowed, breaker })
    }

    /// Whether one request alone is to show that the endpoint answers.
    pub(crate) fn is_suspect(&self) -> bool {
        self.breaker.is_suspect()
    }

    /// Sends one message; `Ok` once the endpoint said that it has it.
    pub(crate) async fn post(&self, message: Message) -> Result<(), SinkError> {
        self.breaker.admit(Instant::now()).map_err(|left| {
            let detail = format!("{} failed again and again and is left alone for {} s", self.address, left.as_secs() + 1);
            SinkError { retry_after: Some(left), ..SinkError::new(SinkErrorKind::Unreachable, detail) }
        })?;
        let answered = self.send(message).await;
        match &answered {
            Err(error) if matches!(error.kind, SinkErrorKind::Unreachable | SinkErrorKind::Busy) => {
                self.breaker.failed(Instant::now());
            }
            _ => self.breaker.succeeded(),
        }
        answered
    }

    async fn send(&self, message: Message) -> Result<(), SinkError> {
        self.allowed.check(&self.url).map_err(|error| SinkError::new(SinkErrorKind::Denied, error.to_string()))?;
        let now = Timestamp::now().as_second();
        let signature = self.signer.sign(&message.id, now, &message.body);
        let mut headers = message.headers;
        for (name, value) in
            [("webhook-id", message.id), ("webhook-timestamp", now.to_string()), ("webhook-signature", signature)]
        {
            // All three are printable ASCII.
            headers.insert(name, HeaderValue::try_from(value).map_err(|error| unusable(format!("headers: {error}")))?);
        }
        let request = self.http.post(self.url.clone()).timeout(self.timeout).headers(headers).body(message.body);
        let response = request.send().await.map_err(|error| self.failed(error))?;
        let answered = answered(&self.address, response.status(), response.headers());
        finish(response).await;
        answered
    }

    fn failed(&self, error: reqwest::Error) -> SinkError {
        let error = error.without_url();
        let mut kind = SinkErrorKind::Unreachable;
        let mut detail = match error.is_timeout() {
            true => format!("{} did not answer within {:?}", self.address, self.timeout),
            false => format!("{}: {error}", self.address),
        };
        let mut source = error.source();
        while let Some(inner) = source {
            // A text in memory takes all that is written.
            let _ = write!(detail, ": {inner}");
            if inner.is::<NotAllowed>() {
                kind = SinkErrorKind::Denied;
            }
            source = inner.source();
        }
        if let Some(refusal) = Refusal::of(&error) {
            kind = SinkErrorKind::Denied;
            let _ = write!(detail, "; {}", refusal.advice());
        }
        SinkError::new(kind, detail)
    }
}

fn client(allowed: Allowed, ca: Option<(Vec<u8>, &PathBuf)>, identity: Option<(Vec<u8>, &PathBuf)>) -> Result<Client, SinkError> {
    let mut http = http::builder().dns_resolver(allowed);
    if let Some((pem, path)) = ca {
        http = http::trusting(http, &pem, path)?;
    }
    if let Some((pem, path)) = identity {
        let none = |_| unusable(format!("`client_certificate` {} holds no certificate with its key as PEM", path.display()));
        http = http.identity(Identity::from_pem(&pem).map_err(none)?);
    }
    http.build().map_err(|error| unusable(format!("HTTP client cannot be made: {}", error.without_url())))
}

fn address(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Reads what follows the head of an answer. It may hold anything, so nothing of it is told; the answer was given before it.
async fn finish(mut response: Response) {
    let mut left = BODY;
    let reading = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            let Some(less) = left.checked_sub(chunk.len()) else { break };
            left = less;
        }
    };
    let _ = tokio::time::timeout(BODY_WAIT, reading).await;
}

/// What a status means: the one table of the webhook sink. Only what the endpoint says of the events themselves sets them aside: an
/// endpoint that is not where it was would have all of them set aside.
fn answered(address: &str, status: StatusCode, headers: &HeaderMap) -> Result<(), SinkError> {
    let (kind, advice) = match status.as_u16() {
        200..=299 => return Ok(()),
        300..=399 => (SinkErrorKind::Denied, "; redirects are not followed: name in `url` where it leads"),
        400 | 409 | 413 | 422 => (SinkErrorKind::Data, ""),
        401 | 403 => (SinkErrorKind::Denied, "; compare the keys of both sides"),
        404 | 405 => (SinkErrorKind::Denied, "; compare the path of `url`"),
        408 | 425 | 429 | 500.. => (SinkErrorKind::Busy, ""),
        410 => (SinkErrorKind::Gone, ": the subscriber wants nothing more"),
        _ => (SinkErrorKind::Denied, ""),
    };
    let after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = after.and_then(|text| wait(text, Timestamp::now()));
    Err(SinkError { retry_after, ..SinkError::new(kind, format!("{address} answered {status}{advice}")) })
}

/// `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date.
fn wait(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
    Duration::try_from(at.duration_since(now)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_told_in_seconds_or_as_a_date() {
        let now: Timestamp = "2026-11-26T10:00:00Z".parse().unwrap();
        assert_eq!(wait("120", now), Some(Duration::from_secs(120)));
        assert_eq!(wait("Thu, 26 Nov 2026 10:01:00 GMT", now), Some(Duration::from_secs(60)));
        assert_eq!(wait("Thu, 26 Nov 2026 09:00:00 GMT", now), None);
        assert_eq!(wait("soon", now), None);
    }

    #[test]
    fn each_status_has_one_meaning() {
        let kind = |status: u16| {
            let status = StatusCode::from_u16(status).unwrap();
            answered("hall:443", status, &HeaderMap::new()).err().map(|error| error.kind)
        };
        assert_eq!([200, 202, 204].map(kind), [None; 3]);
        assert_eq!([301, 308, 401, 403, 404, 405, 415].map(kind), [Some(SinkErrorKind::Denied); 7]);
        assert_eq!([408, 425, 429, 500, 502, 503].map(kind), [Some(SinkErrorKind::Busy); 6]);
        assert_eq!([400, 409, 413, 422].map(kind), [Some(SinkErrorKind::Data); 4]);
        assert_eq!(kind(410), Some(SinkErrorKind::Gone));
    }
}
