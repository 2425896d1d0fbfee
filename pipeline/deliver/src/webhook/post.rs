//! One signed request, and what its answer means.

use std::error::Error as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guitong_log::tls::Refusal;
use guitong_schemas::contract::webhook::Webhook;
use jiff::Timestamp;
use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, Identity, StatusCode, Url, redirect};

use super::address::{Allowed, NotAllowed};
use super::breaker::Breaker;
use super::event::Message;
use super::sign::Signer;
use crate::sink::{SinkError, SinkErrorKind};

const CONNECT: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(60);

/// A subscriber's endpoint.
#[derive(Debug)]
pub(crate) struct Endpoint {
    http: Client,
    url: Url,
    signer: Signer,
    allowed: Allowed,
    breaker: Arc<Breaker>,
}

fn unusable(why: impl std::fmt::Display) -> SinkError {
    SinkError::new(SinkErrorKind::Shape, format!("the sink's {why}"))
}

impl Endpoint {
    pub(crate) fn new(config: &Webhook, breaker: impl FnOnce(&str) -> Arc<Breaker>) -> Result<Self, SinkError> {
        let url = Url::parse(config.url.reveal()).map_err(|_| unusable("`url` is no address"))?;
        let address = address(&url);
        // In the clear only to networks that are named.
        let allowed = Allowed::new(&config.allow, url.scheme() == "https");
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Two threads may come here at once; either one's provider will do.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let mut http = Client::builder()
            .connect_timeout(CONNECT)
            .timeout(config.timeout)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(config.concurrency)
            // A redirect would lead past what was checked.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .dns_resolver(allowed.clone())
            .user_agent(concat!("guitong/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &config.ca {
            let authorities = Certificate::from_pem_bundle(&pem(path, "`ca`")?);
            http = http.tls_certs_only(authorities.map_err(|_| unusable(format!("`ca` {} is no PEM file", path.display())))?);
        }
        if let Some(path) = &config.client_certificate {
            let why = |_| unusable(format!("`client_certificate` {} holds no certificate and key as PEM", path.display()));
            http = http.identity(Identity::from_pem(&pem(path, "`client_certificate`")?).map_err(why)?);
        }
        Ok(Self {
            http: http.build().map_err(|error| unusable(format!("HTTP client cannot be made: {}", error.without_url())))?,
            signer: Signer::new(&config.signing_keys)?,
            breaker: breaker(&address),
            url,
            allowed,
        })
    }

    /// Sends one message; `Ok` once the endpoint said that it has it.
    pub(crate) async fn post(&self, message: Message) -> Result<(), SinkError> {
        self.breaker.admit(Instant::now()).map_err(|left| SinkError {
            retry_after: Some(left),
            ..SinkError::new(SinkErrorKind::Unreachable, format!("{} failed again and again and is left alone", address(&self.url)))
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
        // Names are checked where they are resolved; an address that stands in the URL is not resolved.
        let literal = self.url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse().ok());
        if let Some(literal) = literal {
            let checked = self.allowed.among(&address(&self.url), vec![literal]);
            checked.map_err(|error| SinkError::new(SinkErrorKind::Denied, error.to_string()))?;
        }
        let now = Timestamp::now().as_second();
        let signature = self.signer.sign(&message.id, now, &message.body);
        let mut headers = message.headers;
        for (name, value) in [("webhook-id", message.id), ("webhook-timestamp", now.to_string()), ("webhook-signature", signature)] {
            // All three are printable ASCII.
            headers.insert(name, HeaderValue::try_from(value).map_err(|error| unusable(format!("headers: {error}")))?);
        }
        let request = self.http.post(self.url.clone()).headers(headers).body(message.body);
        let response = request.send().await.map_err(|error| self.failed(error))?;
        // The body may hold anything, so it is neither read nor told of.
        answered(&address(&self.url), response.status(), response.headers())
    }

    fn failed(&self, error: reqwest::Error) -> SinkError {
        let error = error.without_url();
        let (mut detail, mut kind) = (format!("{}: {error}", address(&self.url)), SinkErrorKind::Unreachable);
        let mut source = error.source();
        while let Some(inner) = source {
            detail.push_str(&format!(": {inner}"));
            if inner.is::<NotAllowed>() {
                kind = SinkErrorKind::Denied;
            }
            source = inner.source();
        }
        if let Some(refusal) = Refusal::of(&error) {
            kind = SinkErrorKind::Denied;
            detail.push_str(&format!("; {}", refusal.advice()));
        }
        SinkError::new(kind, detail)
    }
}

fn pem(path: &Path, key: &str) -> Result<Vec<u8>, SinkError> {
    std::fs::read(path).map_err(|error| unusable(format!("{key} {}: {error}", path.display())))
}

/// Host and port: all of a URL that is told.
fn address(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// What a status means: the one table of the webhook sink.
fn answered(address: &str, status: StatusCode, headers: &HeaderMap) -> Result<(), SinkError> {
    let kind = match status.as_u16() {
        200..=299 => return Ok(()),
        300..=399 | 401 | 403 | 407 => SinkErrorKind::Denied,
        408 | 425 | 429 => SinkErrorKind::Busy,
        410 => SinkErrorKind::Gone,
        400..=499 => SinkErrorKind::Data,
        _ => SinkErrorKind::Busy,
    };
    let more = match kind {
        SinkErrorKind::Denied if status.is_redirection() => "; redirects are not followed: name the endpoint itself",
        SinkErrorKind::Gone => ", so nothing more is delivered",
        _ => "",
    };
    let retry_after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| wait(text, Timestamp::now()));
    Err(SinkError { retry_after, ..SinkError::new(kind, format!("{address} answered {status}{more}")) })
}

/// `Retry-After`: seconds, or a date.
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
        assert_eq!([301, 308, 401, 403].map(kind), [Some(SinkErrorKind::Denied); 4]);
        assert_eq!([408, 429, 500, 502, 503].map(kind), [Some(SinkErrorKind::Busy); 5]);
        assert_eq!([400, 404, 413, 422].map(kind), [Some(SinkErrorKind::Data); 4]);
        assert_eq!(kind(410), Some(SinkErrorKind::Gone));
    }
}
