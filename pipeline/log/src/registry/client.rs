//! Client for any registry with Confluent's REST API (Confluent Schema Registry, "Schema Registry API Reference").
//!
//! Ids and schemas never change once given, so both are kept: a schema is registered over the network once per subject and read
//! once per id. Nothing is retried here; [`RegistryError::is_transient`] tells a caller that may.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use guitong_schemas::contract::{RegistryConfig, Secret};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Client, Method, Response, StatusCode, Url, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Compatibility, RegistryError, SchemaRegistry};
use crate::tls;

const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Bytes of an answer: a schema of a table with thousands of columns is far below.
const ANSWER_SIZE: usize = 8 << 20;

const INCOMPATIBLE: u32 = 409;
const SCHEMA_NOT_FOUND: u32 = 40_403;
const INVALID_SCHEMA: u32 = 42_201;
/// The registry's own store failed, timed out, or its leader was not reachable: it may work again in a moment.
const STORE_FAULTS: [u32; 3] = [50_001, 50_002, 50_003];

/// A registry over HTTP.
#[derive(Debug)]
pub struct RegistryClient {
    http: Client,
    base: Url,
    user: Option<(String, Option<Secret>)>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// By subject and SHA-256 of the schema's text.
    ids: HashMap<(Arc<str>, [u8; 32]), u32>,
    schemas: HashMap<u32, Arc<str>>,
}

#[derive(Deserialize)]
struct Registered {
    id: u32,
}

#[derive(Deserialize)]
struct Stored {
    schema: String,
}

#[derive(Deserialize)]
struct Refusal {
    error_code: u32,
    #[serde(default)]
    message: String,
}

impl RegistryClient {
    /// Nothing is sent before the first call.
    ///
    /// Where the process has no TLS provider yet, `ring` becomes it: the HTTP client cannot be made without one.
    ///
    /// # Errors
    /// [`RegistryError::Answer`] with code 0 when the address is no HTTP address.
    pub fn new(config: &RegistryConfig) -> Result<Self, RegistryError> {
        let unusable = |detail: String| RegistryError::Answer { code: 0, detail: format!("{}: {detail}", config.url) };
        let mut base = Url::parse(&config.url).map_err(|error| unusable(error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(unusable("not an http:// or https:// address".to_owned()));
        }
        base.set_query(None);
        base.set_fragment(None);
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Two threads may come here at once; either one's provider will do.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let http = Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            .timeout(ANSWER_LIMIT)
            .redirect(redirect::Policy::limited(3))
            .no_proxy()
            .http1_only()
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        let user = config.user.clone().map(|user| (user, config.password.clone()));
        Ok(Self { http, base, user, known: Mutex::default() })
    }

    /// Sends a request to `path` below the registry's address; `about` is what errors name.
    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        body: Option<Value>,
        about: About<'_>,
    ) -> Result<T, RegistryError> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let mut request = self.http.request(method, url).header(ACCEPT, MEDIA_TYPE);
        if let Some((user, password)) = &self.user {
            request = request.basic_auth(user, password.as_ref().map(Secret::reveal));
        }
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, MEDIA_TYPE).body(body.to_string());
        }
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        let bytes = self.body(response).await?;
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|error| RegistryError::Answer {
                code: status.as_u16().into(),
                detail: format!("not the answer of a schema registry at {}: {error}", self.address()),
            });
        }
        Err(self.refused(status, &bytes, about))
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(error))? {
            if bytes.len() + chunk.len() > ANSWER_SIZE {
                let detail = format!("{}: the answer is over {ANSWER_SIZE} bytes", self.address());
                return Err(RegistryError::Answer { code: response.status().as_u16().into(), detail });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn refused(&self, status: StatusCode, body: &[u8], about: About<'_>) -> RegistryError {
        let (code, detail) = match serde_json::from_slice::<Refusal>(body) {
            Ok(refusal) => (refusal.error_code, refusal.message),
            Err(_) => (status.as_u16().into(), status.canonical_reason().unwrap_or("no reason given").to_owned()),
        };
        match (code, about) {
            (INCOMPATIBLE, About::Subject(subject)) => RegistryError::Incompatible { subject: subject.to_owned(), detail },
            (INVALID_SCHEMA, About::Subject(subject)) => RegistryError::Invalid { subject: subject.to_owned(), detail },
            (SCHEMA_NOT_FOUND, About::Id(id)) => RegistryError::NoSchema { id },
            _ if STORE_FAULTS.contains(&code) || passes(status) => {
                RegistryError::Unavailable { detail: format!("{} answered {code}: {detail}", self.address()) }
            }
            _ => RegistryError::Answer { code, detail },
        }
    }

    fn unreachable(&self, error: reqwest::Error) -> RegistryError {
        let error = error.without_url();
        let refusal = tls::Refusal::of(&error);
        let mut detail = format!("{}: {error}", self.address());
        // The sources say what the outermost text leaves out, such as "connection refused".
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            detail.push_str(&format!(": {inner}"));
            source = inner.source();
        }
        if let Some(refusal) = refusal {
            detail.push_str(&format!("; {}", refusal.advice()));
        }
        RegistryError::Unavailable { detail }
    }

    /// Where the registry is, without a password that the address may hold.
    fn address(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        self.base.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }
}

/// What a call is about.
#[derive(Clone, Copy)]
enum About<'a> {
    Subject(&'a str),
    Id(u32),
}

/// Whether an answer with this status may be another one in a moment.
fn passes(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

#[async_trait]
impl SchemaRegistry for RegistryClient {
    async fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        let key = (Arc::from(subject), Sha256::digest(schema).into());
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).ids.get(&key).copied();
        if let Some(id) = known {
            return Ok(id);
        }
        let body = json!({ "schema": schema });
        let path = ["subjects", subject, "versions"];
        let registered: Registered = self.call(Method::POST, &path, Some(body), About::Subject(subject)).await?;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).ids.insert(key, registered.id);
        Ok(registered.id)
    }

    async fn schema(&self, id: u32) -> Result<Arc<str>, RegistryError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).schemas.get(&id).cloned();
        if let Some(schema) = known {
            return Ok(schema);
        }
        let number = id.to_string();
        let stored: Stored = self.call(Method::GET, &["schemas", "ids", &number], None, About::Id(id)).await?;
        let schema: Arc<str> = stored.schema.into();
        self.known.lock().unwrap_or_else(PoisonError::into_inner).schemas.insert(id, Arc::clone(&schema));
        Ok(schema)
    }

    async fn set_compatibility(&self, subject: &str, level: Compatibility) -> Result<(), RegistryError> {
        let body = json!({ "compatibility": level.as_str() });
        let _: Value = self.call(Method::PUT, &["config", subject], Some(body), About::Subject(subject)).await?;
        Ok(())
    }
}
