//! Talking to a running node: HTTP over a Unix socket in the exchange directory, which only its owner may open (mode 0600).

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::exit::{self, Failure};
use crate::node::{Question, SnapshotRequest};
use crate::status::Status;

/// Longest a command waits for the node's answer; a backup of a large log takes the longest.
const ANSWER: Duration = Duration::from_secs(3600);

/// Path of the socket. Unix limits socket paths to about 100 bytes, so a deep directory's is refused with a clear error when it is bound.
fn socket(dir: &Path) -> PathBuf {
    dir.join(".guitong.sock")
}

/// Serves `router` on the directory's socket until `shutdown`.
///
/// # Errors
/// When the socket cannot be made.
pub(crate) fn serve(dir: &Path, router: Router, shutdown: CancellationToken) -> Result<tokio::task::JoinHandle<()>, Failure> {
    let path = socket(dir);
    // The log's lock is held by now, so a socket that is still there belongs to no live node of this directory.
    let _ = std::fs::remove_file(&path);
    let fail = |error: std::io::Error| {
        Failure::unreachable(format!("{}: {error}", path.display()))
            .help("the directory must be writable and its path shorter than 100 bytes")
    };
    let listener = UnixListener::bind(&path).map_err(fail)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    Ok(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await {
            tracing::error!(%error, "control socket closed");
        }
        let _ = std::fs::remove_file(&path);
    }))
}

/// A connection to the node that runs a directory.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
}

impl Client {
    /// The node that runs `dir`, `None` where none does.
    ///
    /// # Errors
    /// When the directory does not exist or the socket may not be opened.
    pub(crate) async fn connect(dir: &Path) -> Result<Option<Self>, Failure> {
        if !dir.join("exchange.toml").is_file() {
            return Err(Failure::usage(format!("{} holds no exchange.toml", dir.display()))
                .help("name the exchange directory with --dir"));
        }
        let path = socket(dir);
        match tokio::net::UnixStream::connect(&path).await {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(error) => {
                return Err(
                    Failure::unreachable(format!("{}: {error}", path.display())).help("run this as the user that runs the node")
                );
            }
        }
        let http = reqwest::Client::builder().unix_socket(path.as_path()).timeout(ANSWER).no_proxy().build();
        Ok(Some(Self { http: http.map_err(|error| Failure::unreachable(error.to_string()))? }))
    }

    /// As [`Client::connect`], where a running node is needed.
    pub(crate) async fn require(dir: &Path) -> Result<Self, Failure> {
        Self::connect(dir).await?.ok_or_else(|| {
            Failure::unreachable(format!("no node runs {}", dir.display()))
                .help(format!("start it with: guitong run {}", dir.display()))
        })
    }

    async fn call<T: DeserializeOwned>(&self, path: &str, body: Option<Value>) -> Result<T, Failure> {
        let url = format!("http://guitong{path}");
        let request = match body {
            Some(body) => self.http.post(url).json(&body),
            None => self.http.get(url),
        };
        let gone = |error: reqwest::Error| Failure::unreachable(format!("the node did not answer: {error}"));
        let response = request.send().await.map_err(gone)?;
        if response.status().is_success() {
            return response.json().await.map_err(gone);
        }
        let refused: Value = response.json().await.map_err(gone)?;
        let message = refused.get("error").and_then(Value::as_str).unwrap_or("the node refused without a reason").to_owned();
        // What a node refuses is a no, but for a gap, about which a person must decide.
        let is_gap = refused.get("code").and_then(Value::as_u64) == Some(exit::GAP.into());
        Err(Failure { code: if is_gap { exit::GAP } else { exit::NO }, message, help: None })
    }

    pub(crate) async fn status(&self) -> Result<Status, Failure> {
        self.call("/v1/status", None).await
    }

    pub(crate) async fn backup(&self, target: &Path) -> Result<(), Failure> {
        self.call::<Value>("/v1/backup", Some(json!({ "path": target }))).await.map(drop)
    }

    pub(crate) async fn snapshot(&self, request: &SnapshotRequest) -> Result<String, Failure> {
        self.call("/v1/system/snapshot", Some(json!(request))).await
    }

    pub(crate) async fn repair(&self, system: &str) -> Result<String, Failure> {
        self.call("/v1/system/repair", Some(json!({ "system": system }))).await
    }

    /// What the node answers about its resources and subscriptions.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, question: &Question) -> Result<T, Failure> {
        self.call("/v1/questions", Some(json!(question))).await
    }
}
