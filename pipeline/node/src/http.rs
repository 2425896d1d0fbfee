//! What a node answers over HTTP: metrics, health and status for everybody on its listen address, what is pulled for who has a
//! subscription's token; commands on its socket only.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use prometheus::TextEncoder;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::exit::Failure;
use crate::node::{Question, Shared, SnapshotRequest};
use crate::pull;

/// Milliseconds after which a connection ends whose other side takes nothing.
#[cfg(target_os = "linux")]
const STALLED_MS: u32 = 20_000;

/// `/metrics`, `/healthz`, `/readyz`, `/v1/status`, what is pulled under `/v1/subscriptions`, and the built-in schema registry under
/// `/registry`.
pub(crate) fn public(shared: Arc<Shared>) -> Router {
    let (registry, pull) = (shared.registry_api(), pull::router(Arc::clone(&shared)));
    let api = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/v1/status", get(status))
        .with_state(shared)
        .merge(pull);
    match registry {
        Some(registry) => api.nest("/registry", registry),
        None => api,
    }
}

/// Commands of `guitong status`, `system snapshot`, `backup`, and what is asked of resources and subscriptions: `quarantine`,
/// `resource`, `report`, `subscription`.
pub(crate) fn control(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/backup", post(backup))
        .route("/v1/system/snapshot", post(snapshot))
        .route("/v1/system/repair", post(repair))
        .route("/v1/questions", post(questions))
        .with_state(shared)
}

/// Binds `address` and serves `router` until `shutdown`; port 0 takes any that is free, and the answer says which.
///
/// # Errors
/// When the address is taken or not this machine's.
pub(crate) async fn serve(
    address: SocketAddr,
    router: Router,
    shutdown: CancellationToken,
) -> Result<(SocketAddr, tokio::task::JoinHandle<()>), Failure> {
    let fail = |error: std::io::Error| {
        Failure::unreachable(format!("{address}: {error}"))
            .help("choose another `listen` in exchange.toml, or set GUITONG_LISTEN")
    };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(fail)?;
    let bound = listener.local_addr().map_err(fail)?;
    let listener = listener.tap_io(|connection| limit(connection));
    let server = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await {
            tracing::error!(%error, "HTTP listener closed");
        }
    });
    Ok((bound, server))
}

/// Ends the connection of a reader that takes nothing (TCP_USER_TIMEOUT). Where that cannot be had, the system's own patience, a
/// quarter of an hour, has to do.
#[cfg(target_os = "linux")]
fn limit(connection: &tokio::net::TcpStream) {
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(connection, STALLED_MS) {
        tracing::debug!(%error, "a connection has no time limit");
    }
}

#[cfg(not(target_os = "linux"))]
fn limit(_: &tokio::net::TcpStream) {}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    match TextEncoder::new().encode_to_string(&shared.metrics.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Ready once every part has begun its work; a part that a person has to repair does not make the others unready.
async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    if shared.status().await.is_ready() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response()
    }
}

async fn status(State(shared): State<Arc<Shared>>) -> Response {
    Json(shared.status().await).into_response()
}

fn answer<T: serde::Serialize>(outcome: Result<T, Failure>) -> Response {
    match outcome {
        Ok(value) => Json(value).into_response(),
        Err(failure) => {
            (StatusCode::CONFLICT, Json(json!({ "error": failure.to_string(), "code": failure.code }))).into_response()
        }
    }
}

#[derive(Debug, Deserialize)]
struct BackupTo {
    path: PathBuf,
}

async fn backup(State(shared): State<Arc<Shared>>, Json(to): Json<BackupTo>) -> Response {
    answer(shared.opened.backup(&to.path).await.map(|()| Value::Null))
}

async fn snapshot(State(shared): State<Arc<Shared>>, Json(request): Json<SnapshotRequest>) -> Response {
    answer(shared.snapshot(request).await)
}

#[derive(Debug, Deserialize)]
struct Repair {
    system: String,
}

async fn repair(State(shared): State<Arc<Shared>>, Json(request): Json<Repair>) -> Response {
    answer(shared.repair(&request.system).await)
}

async fn questions(State(shared): State<Arc<Shared>>, Json(question): Json<Question>) -> Response {
    answer(shared.answer(question).await)
}
