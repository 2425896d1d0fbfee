//! Real servers for tests: each runs on a free loopback port in a temporary directory of its own, and is stopped when its
//! handle goes.

pub mod kafka;
pub mod mariadb;
pub mod moto;
pub mod postgres;
mod process;
pub mod proxy;
pub mod registry;
pub mod tls;
mod unprivileged;

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use rand::Rng as _;

/// What went wrong with a server under test, with the end of its own log where there is one.
#[derive(Debug, thiserror::Error)]
#[error("{server}: {detail}")]
pub struct ServerError {
    pub server: &'static str,
    pub detail: String,
}

impl ServerError {
    pub fn new(server: &'static str, detail: impl std::fmt::Display) -> Self {
        Self { server, detail: detail.to_string() }
    }
}

/// A folder of what `tests/servers/fetch` brought.
fn fetched(server: &'static str, folder: &str) -> Result<PathBuf, ServerError> {
    let cache = match (std::env::var_os("GUITONG_SERVERS"), std::env::var_os("HOME")) {
        (Some(given), _) => PathBuf::from(given),
        (None, _) if rustix::process::geteuid().is_root() => PathBuf::from("/var/cache/guitong-servers"),
        (None, Some(home)) => Path::new(&home).join(".cache/guitong-servers"),
        (None, None) => return Err(ServerError::new(server, "neither GUITONG_SERVERS nor HOME is set")),
    };
    let path = cache.join(folder);
    if path.is_dir() {
        Ok(path)
    } else {
        Err(ServerError::new(server, format!("{} is missing; run tests/servers/fetch --all", path.display())))
    }
}

/// Ports that no connection gets by itself (Linux, `net.ipv4.ip_local_port_range`): a server that is started again finds its own still free.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// A loopback port that was free a moment ago. Another process may take it first, so a start that fails is tried again with another.
///
/// # Errors
/// When no port can be bound.
pub fn free_port() -> std::io::Result<u16> {
    let mut tries = (0..100).map(|_| TcpListener::bind(("127.0.0.1", rand::rng().random_range(PORTS))));
    let listener = match tries.find_map(Result::ok) {
        Some(listener) => listener,
        None => TcpListener::bind(("127.0.0.1", 0))?,
    };
    Ok(listener.local_addr()?.port())
}

/// The last `lines` lines of a log file; empty where there is none.
#[must_use]
pub fn log_tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}
