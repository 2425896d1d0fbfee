//! What every HTTP client of the deliverers has in common.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use reqwest::{Certificate, ClientBuilder, redirect};

use crate::sink::{SinkError, SinkErrorKind};

/// A subscriber's end that is not reached within it is down, or behind something that says nothing.
const CONNECT: Duration = Duration::from_secs(5);
/// Connections that nobody used for so long are closed.
const IDLE: Duration = Duration::from_secs(60);

pub(crate) fn builder() -> ClientBuilder {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Two threads may come here at once; either one's provider will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    reqwest::Client::builder()
        .connect_timeout(CONNECT)
        .pool_idle_timeout(IDLE)
        // A redirect would lead past what was checked.
        .redirect(redirect::Policy::none())
        .no_proxy()
        // One request on a connection at a time: a limit of requests is one of connections.
        .http1_only()
        .user_agent(concat!("guitong/", env!("CARGO_PKG_VERSION")))
}

/// Trusts the authorities of a PEM file instead of the public ones.
pub(crate) fn trusting(http: ClientBuilder, pem: &[u8], path: &Path) -> Result<ClientBuilder, SinkError> {
    let authorities = Certificate::from_pem_bundle(pem).ok().filter(|all| !all.is_empty());
    let none = || unusable(format!("`ca` {} holds no certificate as PEM", path.display()));
    Ok(http.tls_certs_only(authorities.ok_or_else(none)?))
}

/// A file that the directory names.
pub(crate) fn pem(path: &Path, key: &str) -> Result<Vec<u8>, SinkError> {
    std::fs::read(path).map_err(|error| unusable(format!("{key} {}: {error}", path.display())))
}

pub(crate) fn unusable(why: impl Display) -> SinkError {
    SinkError::new(SinkErrorKind::Shape, format!("the sink's {why}"))
}
