//! A bucket in which objects appear whole and under their names, or not at all.
//!
//! An object is there when its upload is completed, and before that nobody sees any of it: a small one is put at once, a larger one in
//! parts. Who is killed between leaves parts that no object has; the store's own rule removes them. The manifest is put only where there
//! is none of its name.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use guitong_schemas::contract::files::{Addressing, Bucket};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{ClientOptions, HttpClient, HttpConnector};
use object_store::path::Path;
use object_store::{Error, MultipartUpload, ObjectStore as _, ObjectStoreExt as _, PutMode, PutPayload, RetryConfig};
use tokio::runtime::Handle;

use crate::http;
use crate::sink::{SinkError, SinkErrorKind};

/// Of a larger object; S3 takes 5 MiB to 5 GiB, and 10,000 of them.
const PART: usize = 8 << 20;
/// For one request: a part over a line of one Mbit/s.
const REQUEST: Duration = Duration::from_secs(90);
/// What is not answered then is tried again by the deliverer.
const RETRIES: usize = 2;
const RETRYING: Duration = Duration::from_secs(30);
/// Characters of what a store says.
const SAID: usize = 300;

pub(super) struct Store {
    bucket: Bucket,
    subscription: Arc<str>,
    client: Option<AmazonS3>,
}

/// The client would show the id of its key.
impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

/// An object that is being written.
pub(super) struct Upload<'s> {
    store: &'s Store,
    path: Path,
    /// What is in no part yet.
    rest: Vec<u8>,
    parts: Option<Box<dyn MultipartUpload>>,
}

impl fmt::Debug for Upload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("store", &self.store).field("path", &self.path).finish_non_exhaustive()
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        if let (Some(mut parts), Ok(runtime)) = (self.parts.take(), Handle::try_current()) {
            runtime.spawn(async move { parts.abort().await });
        }
    }
}

/// The HTTP client that is made here, whatever the store would make.
#[derive(Debug)]
struct Ours(reqwest::Client);

impl HttpConnector for Ours {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

impl Store {
    pub(super) fn new(bucket: Bucket, subscription: Arc<str>) -> Self {
        Self { bucket, subscription, client: None }
    }

    /// Connects, and asks for an object that is not there: only that the bucket is there, and its keys, is to be learnt.
    pub(super) async fn check(&mut self) -> Result<(), SinkError> {
        self.client = Some(self.connect()?);
        match self.client()?.get(&self.path(&format!("{}_", self.subscription))).await {
            Ok(_) => Ok(()),
            Err(error) => match code(&error.to_string()).as_deref() {
                // Who may not list is not told whether an object is there.
                Some("NoSuchKey" | "AccessDenied") => Ok(()),
                _ => Err(self.refused(&error)),
            },
        }
    }

    fn connect(&self) -> Result<AmazonS3, SinkError> {
        let Bucket { endpoint, region, bucket, addressing, access_key_id, secret_access_key, ca, .. } = &self.bucket;
        let mut client = http::builder().timeout(REQUEST);
        if let Some(path) = ca {
            client = http::trusting(client, &http::pem(path, "`ca`")?, path)?;
        }
        let client =
            client.build().map_err(|error| http::unusable(format!("HTTP client cannot be made: {}", error.without_url())))?;
        let hosted = *addressing == Addressing::Host;
        let endpoint = match endpoint.split_once("://") {
            Some((scheme, host)) if hosted => format!("{scheme}://{bucket}.{host}"),
            _ => endpoint.clone(),
        };
        let store = AmazonS3Builder::new()
            .with_allow_http(endpoint.starts_with("http://"))
            .with_endpoint(endpoint)
            .with_virtual_hosted_style_request(hosted)
            .with_region(region)
            .with_bucket_name(bucket)
            .with_access_key_id(access_key_id.reveal())
            .with_secret_access_key(secret_access_key.reveal())
            .with_retry(RetryConfig { max_retries: RETRIES, retry_timeout: RETRYING, ..RetryConfig::default() })
            // Not every store knows it, and one object at a time is removed.
            .with_disable_bulk_delete(true)
            .with_http_connector(Ours(client));
        store.build().map_err(|error| http::unusable(format!("`store`: {error}")))
    }

    fn client(&self) -> Result<&AmazonS3, SinkError> {
        self.client.as_ref().ok_or_else(|| http::unusable(format!("bucket {} was not opened", self.bucket.bucket)))
    }

    fn path(&self, name: &str) -> Path {
        match self.bucket.prefix.as_str() {
            "" => Path::from(name),
            prefix => Path::from(format!("{prefix}/{name}")),
        }
    }

    /// Whether an object is there; where that is not to be learnt, it is not.
    pub(super) async fn has(&self, name: &str) -> Result<bool, SinkError> {
        match self.client()?.head(&self.path(name)).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. } | Error::PermissionDenied { .. }) => Ok(false),
            Err(error) => Err(self.refused(&error)),
        }
    }

    pub(super) fn begin(&self, name: &str) -> Upload<'_> {
        Upload { store: self, path: self.path(name), rest: Vec::new(), parts: None }
    }

    /// Puts an object where there is none of its name. One that is there is an error: it is found when its file is tried again.
    pub(super) async fn put_new(&self, name: &str, bytes: Vec<u8>) -> Result<(), SinkError> {
        let (client, path, payload) = (self.client()?, self.path(name), PutPayload::from(bytes));
        let error = match client.put_opts(&path, payload.clone(), PutMode::Create.into()).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        // A store that knows no conditions: it was looked before whether the object is there.
        if code(&error.to_string()).as_deref() == Some("NotImplemented") {
            return client.put(&path, payload).await.map(drop).map_err(|error| self.refused(&error));
        }
        Err(self.refused(&error))
    }

    pub(super) async fn remove(&self, name: &str) -> Result<(), SinkError> {
        match self.client()?.delete(&self.path(name)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.refused(&error)),
        }
    }

    /// Says what the store said and nothing of the request, whose key stands in some answers.
    fn refused(&self, error: &Error) -> SinkError {
        let text = error.to_string();
        let code = code(&text);
        let (kind, help) = match (error, code.as_deref()) {
            (_, Some("QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage")) => (SinkErrorKind::Full, "make room there"),
            (_, Some("InvalidAccessKeyId" | "SignatureDoesNotMatch"))
            | (Error::PermissionDenied { .. } | Error::Unauthenticated { .. }, _) => {
                (SinkErrorKind::Denied, "let the key read, put and delete objects there")
            }
            (_, Some("NoSuchBucket")) => (SinkErrorKind::Unreachable, "make the bucket"),
            _ => (SinkErrorKind::Unreachable, "it is tried again"),
        };
        let said = match (code, element(&text, "Message")) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(code), None) => code,
            (None, _) => text,
        };
        let said: String = said.chars().take(SAID).collect();
        SinkError::new(kind, format!("bucket {} at {}: {said}; {help}", self.bucket.bucket, self.bucket.endpoint))
    }
}

impl Upload<'_> {
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        self.rest.extend_from_slice(bytes);
        if self.rest.len() >= PART {
            self.put_part().await?;
        }
        Ok(())
    }

    async fn put_part(&mut self) -> Result<(), SinkError> {
        let payload = PutPayload::from(std::mem::take(&mut self.rest));
        let parts = match &mut self.parts {
            Some(parts) => parts,
            None => {
                let begun = self.store.client()?.put_multipart(&self.path).await;
                self.parts.insert(begun.map_err(|error| self.store.refused(&error))?)
            }
        };
        parts.put_part(payload).await.map_err(|error| self.store.refused(&error))
    }

    /// All of it is with the store, where it is larger than a part, and nobody sees it.
    pub(super) async fn send(&mut self) -> Result<(), SinkError> {
        if self.parts.is_some() && !self.rest.is_empty() {
            self.put_part().await?;
        }
        Ok(())
    }

    /// The object is there, and stays there, once this returns.
    pub(super) async fn finish(mut self) -> Result<(), SinkError> {
        let done = match &mut self.parts {
            Some(parts) => parts.complete().await,
            None => self.store.client()?.put(&self.path, PutPayload::from(std::mem::take(&mut self.rest))).await,
        };
        done.map_err(|error| self.store.refused(&error))?;
        self.parts = None;
        Ok(())
    }
}

/// The code in an answer of S3.
fn code(text: &str) -> Option<String> {
    element(text, "Code")
}

fn element(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(content, _)| content.to_owned())
}
