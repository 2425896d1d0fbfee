//! A real server of S3's API: moto, in memory.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use guitong_schemas::contract::Secret;
use guitong_schemas::contract::files::{Addressing, Bucket};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{Error, ObjectStore as _, ObjectStoreExt as _, PutPayload};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, Method, RequestBuilder};
use tempfile::TempDir;

use super::process::Process;
use super::{ServerError, fetched, free_port};

const VERSION: &str = "5.2.5";
const START_LIMIT: Duration = Duration::from_secs(60);
/// moto takes any.
const ACCESS_KEY_ID: &str = "exchange";
const SECRET_ACCESS_KEY: &str = "s3cret";

/// A running server; dropped, it is killed. What it stores goes with it.
#[derive(Debug)]
pub struct Moto {
    port: u16,
    _process: Process,
    /// Last, so that it goes after the server.
    _home: TempDir,
}

impl Moto {
    /// # Errors
    /// When moto is missing or the server does not come up.
    pub async fn start() -> Result<Self, ServerError> {
        // Clients take the process's TLS provider; another test may have installed it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut last = None;
        for _ in 0..3 {
            match Self::start_on(free_port().map_err(failure)?).await {
                Ok(server) => return Ok(server),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| failure("did not start")))
    }

    async fn start_on(port: u16) -> Result<Self, ServerError> {
        let home = TempDir::with_prefix("guitong-moto-").map_err(failure)?;
        let mut command = Command::new("python3");
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
        command.env("PYTHONPATH", fetched("moto", &format!("moto-{VERSION}"))?).current_dir(home.path());
        let log: PathBuf = home.path().join("server.log");
        let mut process = Process::spawn("moto", command, &log, home.path())?;
        let deadline = Instant::now() + START_LIMIT;
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            process.check_alive()?;
            if Instant::now() > deadline {
                return Err(process.failure(format!("not ready in {START_LIMIT:?}")));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Self { port, _process: process, _home: home })
    }

    /// A bucket that may be there or not, as a sink's configuration has it.
    #[must_use]
    pub fn bucket(&self, name: &str, prefix: &str) -> Bucket {
        Bucket {
            endpoint: format!("http://127.0.0.1:{}", self.port),
            region: "us-east-1".to_owned(),
            bucket: name.to_owned(),
            prefix: prefix.to_owned(),
            addressing: Addressing::Path,
            access_key_id: Secret::new(ACCESS_KEY_ID.to_owned()),
            secret_access_key: Secret::new(SECRET_ACCESS_KEY.to_owned()),
            ca: None,
        }
    }

    /// Makes a bucket.
    ///
    /// # Errors
    /// When the server does not.
    pub async fn make(&self, name: &str) -> Result<(), ServerError> {
        self.asked(Method::PUT, name, |request| request).await.map(drop)
    }

    /// From now on only users' keys are taken, and for what their policies allow. Id and secret of the key of one who has this policy.
    ///
    /// # Errors
    /// When the server does not take it.
    pub async fn guard(&self, policy: &str) -> Result<(Secret, Secret), ServerError> {
        self.manage(&[("Action", "CreateUser"), ("UserName", ACCESS_KEY_ID)]).await?;
        let allow = [("Action", "PutUserPolicy"), ("UserName", ACCESS_KEY_ID), ("PolicyName", "put"), ("PolicyDocument", policy)];
        self.manage(&allow).await?;
        let key = self.manage(&[("Action", "CreateAccessKey"), ("UserName", ACCESS_KEY_ID)]).await?;
        let part = |name: &str| {
            let (_, rest) = key.split_once(&format!("<{name}>"))?;
            rest.split_once('<').map(|(part, _)| Secret::new(part.to_owned()))
        };
        let pair = part("AccessKeyId").zip(part("SecretAccessKey")).ok_or_else(|| failure("gave no key"))?;
        self.asked(Method::POST, "moto-api/reset-auth", |request| request.body("0")).await?;
        Ok(pair)
    }

    /// A request of the cloud's management of users, which is known by its signature's scope.
    async fn manage(&self, fields: &[(&str, &str)]) -> Result<String, ServerError> {
        let scope = "AWS4-HMAC-SHA256 Credential=x/20261127/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=0";
        let encoded = fields.iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
        let form = encoded.collect::<Vec<_>>().join("&");
        let headers = [("authorization", scope), ("content-type", "application/x-www-form-urlencoded")];
        let with = |request| headers.iter().fold(request, |request: RequestBuilder, &(name, value)| request.header(name, value));
        self.asked(Method::POST, "", |request| with(request).body(form)).await
    }

    async fn asked(
        &self,
        method: Method,
        path: &str,
        with: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<String, ServerError> {
        let client = Client::builder().no_proxy().build().map_err(failure)?;
        let request = client.request(method, format!("http://127.0.0.1:{}/{path}", self.port));
        let answer = with(request).send().await.map_err(failure)?;
        answer.error_for_status().map_err(failure)?.text().await.map_err(failure)
    }
}

/// The objects of a bucket under a prefix, looked at without the product.
#[derive(Debug)]
pub struct Objects {
    client: AmazonS3,
    prefix: Path,
}

impl Objects {
    /// # Errors
    /// When the bucket's configuration makes no client.
    pub fn of(bucket: &Bucket) -> Result<Self, ServerError> {
        let builder = AmazonS3Builder::new()
            .with_allow_http(true)
            .with_endpoint(&bucket.endpoint)
            .with_region(&bucket.region)
            .with_bucket_name(&bucket.bucket)
            .with_access_key_id(bucket.access_key_id.reveal())
            .with_secret_access_key(bucket.secret_access_key.reveal());
        Ok(Self { client: builder.build().map_err(failure)?, prefix: Path::from(bucket.prefix.as_str()) })
    }

    /// Names behind the prefix, in their order.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn names(&self) -> Result<Vec<String>, ServerError> {
        let objects: Vec<_> = self.client.list(Some(&self.prefix)).try_collect().await.map_err(failure)?;
        let mut names: Vec<_> = objects.iter().filter_map(|object| object.location.filename().map(str::to_owned)).collect();
        names.sort();
        Ok(names)
    }

    /// An object's bytes and its tag, by which an upload in parts is known; `None` where there is none.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn read(&self, name: &str) -> Result<Option<(Vec<u8>, String)>, ServerError> {
        let object = match self.client.get(&self.path(name)).await {
            Ok(object) => object,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failure(error)),
        };
        let tag = object.meta.e_tag.clone().unwrap_or_default();
        Ok(Some((object.bytes().await.map_err(failure)?.to_vec(), tag)))
    }

    /// # Errors
    /// When the server does not answer.
    pub async fn put(&self, name: &str, bytes: Vec<u8>) -> Result<(), ServerError> {
        self.client.put(&self.path(name), PutPayload::from(bytes)).await.map(drop).map_err(failure)
    }

    fn path(&self, name: &str) -> Path {
        self.prefix.clone().join(name)
    }
}

fn failure(detail: impl std::fmt::Display) -> ServerError {
    ServerError::new("moto", detail)
}
