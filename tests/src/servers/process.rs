//! What servers that are one process share: starting, signals, and an end with the test process.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{ServerError, log_tail};

/// What a Java machine is to be good at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Machine {
    /// Servers that live for seconds: quick to start, small.
    Quick,
    /// Servers that are measured.
    Fast,
}

/// `java` for a server that lives for seconds.
pub(super) fn java() -> Command {
    java_of(Machine::Quick)
}

pub(super) fn java_of(machine: Machine) -> Command {
    let java = std::env::var_os("JAVA_HOME").map_or_else(|| PathBuf::from("java"), |home| Path::new(&home).join("bin/java"));
    let mut command = Command::new(java);
    command.args(match machine {
        Machine::Quick => ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m"].as_slice(),
        Machine::Fast => ["-Xms768m", "-Xmx768m"].as_slice(),
    });
    command
}

/// A running server process.
#[derive(Debug)]
pub(super) struct Process {
    server: &'static str,
    log: PathBuf,
    child: Child,
    /// Kills the server and removes its folder when the test process ends in whatever way; a handle in a static is never dropped.
    watchdog: Child,
    _open_while_we_live: Option<ChildStdin>,
}

impl Process {
    /// Starts `command`, its output into `log`; `home` goes with a test process that does not stop the server.
    pub(super) fn spawn(server: &'static str, mut command: Command, log: &Path, home: &Path) -> Result<Self, ServerError> {
        let failure = |error: io::Error| ServerError::new(server, format!("{:?}: {error}", command.get_program()));
        let output = File::create(log).map_err(|error| ServerError::new(server, format!("{}: {error}", log.display())))?;
        let errors = output.try_clone().map_err(failure)?;
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
        let mut child = child.map_err(|error| ServerError::new(server, format!("{:?}: {error}", command.get_program())))?;
        let watchdog = Command::new("sh")
            .args(["-c", "cat >/dev/null; kill -9 \"$1\"; rm -rf -- \"$2\"", "sh", &child.id().to_string()])
            .arg(home)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match watchdog {
            Ok(mut watchdog) => {
                let stdin = watchdog.stdin.take();
                Ok(Self { server, log: log.to_owned(), child, watchdog, _open_while_we_live: stdin })
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(ServerError::new(server, format!("sh: {error}")))
            }
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of the server's log, if it has ended.
    pub(super) fn check_alive(&mut self) -> Result<(), ServerError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failure(format!("ended with {status}"))),
            Err(error) => Err(self.failure(error)),
        }
    }

    pub(super) fn failure(&self, detail: impl std::fmt::Display) -> ServerError {
        ServerError::new(self.server, format!("{detail}:\n{}", log_tail(&self.log, 20)))
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<(), ServerError> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).ok_or_else(|| self.failure("has no process id"))?;
        kill_process(pid, signal).map_err(|error| self.failure(error))
    }

    /// Asks it to stop and waits; kills it after `limit`.
    pub(super) async fn stop(mut self, limit: Duration) -> Result<ExitStatus, ServerError> {
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(20)).await,
                Ok(None) => return Err(self.failure(format!("did not stop in {limit:?}"))),
                Err(error) => return Err(self.failure(error)),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The watchdog first: once the server is gone its id may be another process's.
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
