//! A real schema registry: Apicurio, in memory, with Confluent's API at [`Registry::url`].

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::process::{Process, java};
use super::{ServerError, fetched, free_port};

const VERSION: &str = "2.6.13.Final";
const START_LIMIT: Duration = Duration::from_secs(90);

/// A running registry; dropped, it is killed. What it stores goes with it.
#[derive(Debug)]
pub struct Registry {
    port: u16,
    process: Option<Process>,
    /// Last, so that it goes after the server.
    home: TempDir,
}

impl Registry {
    /// # Errors
    /// When the jars are missing or the server does not come up.
    pub async fn start() -> Result<Self, ServerError> {
        let mut last = None;
        for _ in 0..3 {
            let home = TempDir::with_prefix("guitong-registry-").map_err(failure)?;
            let mut registry = Self { port: free_port().map_err(failure)?, process: None, home };
            match registry.start_again().await {
                Ok(()) => return Ok(registry),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| failure("did not start")))
    }

    /// Address of Confluent's API.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/apis/ccompat/v7", self.port)
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts a stopped registry on its port, empty.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_again(&mut self) -> Result<(), ServerError> {
        let folder = fetched("registry", &format!("apicurio-{VERSION}"))?;
        let mut command = java();
        command
            .arg(format!("-Dquarkus.http.port={}", self.port))
            .args(["-Dquarkus.http.host=127.0.0.1", "-jar"])
            .arg(folder.join(format!("apicurio-registry-app-{VERSION}-runner.jar")))
            .current_dir(self.home.path());
        let mut process = Process::spawn("registry", command, &self.log_path(), self.home.path())?;
        let deadline = Instant::now() + START_LIMIT;
        while !answers(self.port).await {
            process.check_alive()?;
            if Instant::now() > deadline {
                return Err(process.failure(format!("not ready in {START_LIMIT:?}")));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.process = Some(process);
        Ok(())
    }

    /// Ends it (SIGKILL).
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Holds it still (SIGSTOP).
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> Result<(), ServerError> {
        self.running()?.signal(Signal::STOP)
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<(), ServerError> {
        self.running()?.signal(Signal::CONT)
    }

    fn running(&self) -> Result<&Process, ServerError> {
        self.process.as_ref().ok_or_else(|| failure("is not running"))
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join("server.log")
    }
}

async fn answers(port: u16) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let request = "GET /apis/ccompat/v7/subjects HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut status = [0_u8; 12];
        stream.read_exact(&mut status).await.ok()?;
        Some(status.ends_with(b"200"))
    };
    tokio::time::timeout(Duration::from_secs(5), asked).await.ok().flatten().unwrap_or(false)
}

fn failure(detail: impl std::fmt::Display) -> ServerError {
    ServerError::new("registry", detail)
}
