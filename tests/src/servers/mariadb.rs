//! A real MariaDB server (Debian's): its own data directory and loopback port.
//!
//! The data directory is made once per version and user into a template that is copied for each server.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::mysql::{MySqlConnectOptions, MySqlPool, MySqlPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _};
use tempfile::TempDir;

use super::unprivileged::{give, owned_temp_dir, owner, run, unprivileged};
use super::{ServerError, free_port, log_tail};

/// Name of the user that may do everything.
const ADMIN: &str = "admin";
/// The password of [`ADMIN`] and of every user that [`Mariadb::create_user`] makes.
pub const PASSWORD: &str = "synthetic-password";

const SERVER: &str = "MariaDB";
const PROGRAM: &str = "/usr/sbin/mariadbd";
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running server; dropped, it is killed and its directory removed.
#[derive(Debug)]
pub struct Mariadb {
    port: u16,
    settings: Vec<String>,
    child: Option<Child>,
    home: TempDir,
}

impl Mariadb {
    /// # Errors
    /// When the programs are missing or the server does not come up.
    pub async fn start() -> Result<Self, ServerError> {
        Self::start_with(&[]).await
    }

    /// `settings`: options of the server such as `max_allowed_packet=1M`.
    ///
    /// # Errors
    /// As [`Mariadb::start`].
    pub async fn start_with(settings: &[&str]) -> Result<Self, ServerError> {
        let home = owned_temp_dir(SERVER, "guitong-maria-")?;
        run(SERVER, unprivileged(Path::new("cp")).arg("-a").arg(template()?).arg(home.path().join("data")))?;
        let users = format!(
            "CREATE USER IF NOT EXISTS '{ADMIN}'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';
             GRANT ALL PRIVILEGES ON *.* TO '{ADMIN}'@'127.0.0.1' WITH GRANT OPTION;\n"
        );
        let init = home.path().join("init.sql");
        fs::write(&init, users).and_then(|()| give(&init)).map_err(failure)?;
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut server = Self { port: 0, settings, child: None, home };
        let mut last = None;
        for _ in 0..5 {
            server.port = free_port().map_err(failure)?;
            match server.start_again().await {
                Ok(()) => return Ok(server),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| failure("did not start")))
    }

    /// Starts a stopped server again on its port.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_again(&mut self) -> Result<(), ServerError> {
        let log = File::create(self.log_path()).map_err(failure)?;
        let path = |file: &str| self.home.path().join(file).display().to_string();
        let mut command = unprivileged(Path::new(PROGRAM));
        command
            .arg("--no-defaults")
            .arg(format!("--datadir={}", path("data")))
            .arg(format!("--socket={}", path("server.sock")))
            .arg(format!("--pid-file={}", path("server.pid")))
            // A starting server removes what it takes for temporary tables of its own.
            .arg(format!("--tmpdir={}", self.home.path().display()))
            .arg(format!("--init-file={}", path("init.sql")))
            .arg(format!("--port={}", self.port))
            .args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--innodb-buffer-pool-size=64M"])
            .args(["--innodb-flush-log-at-trx-commit=2", "--performance-schema=OFF"])
            .args(self.settings.iter().map(|setting| format!("--{setting}")));
        command.stdout(Stdio::null()).stderr(log).stdin(Stdio::null());
        self.child = Some(command.spawn().map_err(|error| failure(format!("{PROGRAM}: {error}; run tests/servers/fetch")))?);
        self.wait_ready().await
    }

    async fn wait_ready(&mut self) -> Result<(), ServerError> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(child) = &mut self.child
                && let Ok(Some(status)) = child.try_wait()
            {
                self.child = None;
                return Err(failure(format!("ended with {status}:\n{}", log_tail(&self.log_path(), 20))));
            }
            if let Ok(connection) = self.options().connect().await {
                connection.close().await.map_err(failure)?;
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(failure(format!("not ready in {START_LIMIT:?}:\n{}", log_tail(&self.log_path(), 20))));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join("server.log")
    }

    /// Address of a database for a user with [`PASSWORD`].
    #[must_use]
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("mysql://{user}:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// Connections of who may do everything.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn admin(&self) -> Result<MySqlPool, ServerError> {
        let pool = MySqlPoolOptions::new().max_connections(4).acquire_timeout(Duration::from_secs(30));
        pool.connect_with(self.options()).await.map_err(failure)
    }

    fn options(&self) -> MySqlConnectOptions {
        MySqlConnectOptions::new().host("127.0.0.1").port(self.port).username(ADMIN).password(PASSWORD)
    }

    /// Runs statements as who may do everything.
    ///
    /// # Errors
    /// When one of them fails.
    pub async fn execute(&self, sql: &str) -> Result<(), ServerError> {
        let pool = self.admin().await?;
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&pool).await;
        pool.close().await;
        done.map(|_| ()).map_err(|error| failure(format!("{sql}: {error}")))
    }

    /// A database, and a user with [`PASSWORD`] who has the named privileges on it.
    ///
    /// # Errors
    /// When either exists already.
    pub async fn create_user(&self, user: &str, database: &str, privileges: &str) -> Result<(), ServerError> {
        let sql = format!(
            "CREATE DATABASE {database}; CREATE USER '{user}'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';
             GRANT {privileges} ON {database}.* TO '{user}'@'127.0.0.1'"
        );
        self.execute(&sql).await
    }

    /// Ends the server as a crash does (SIGKILL); its data stays until the handle is dropped.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<(), ServerError> {
        let mut child = self.child.take().ok_or_else(|| failure("is not running"))?;
        child.kill().and_then(|()| child.wait()).map(|_| ()).map_err(failure)
    }

    /// Freezes the server (SIGSTOP), as a host that hangs does.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> Result<(), ServerError> {
        self.signal(Signal::STOP)
    }

    /// Lets a frozen server go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<(), ServerError> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), ServerError> {
        let pid = self.child.as_ref().and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?));
        kill_process(pid.ok_or_else(|| failure("is not running"))?, signal).map_err(failure)
    }
}

impl Drop for Mariadb {
    fn drop(&mut self) {
        self.kill().ok();
    }
}

fn failure(detail: impl std::fmt::Display) -> ServerError {
    ServerError::new(SERVER, detail)
}

/// The data directory that servers are copied from; made once and moved into place whole, so that two processes that make it at
/// the same time do not meet.
fn template() -> Result<PathBuf, ServerError> {
    let output = Command::new(PROGRAM).arg("--version").output();
    let output = output.map_err(|error| failure(format!("{PROGRAM}: {error}; run tests/servers/fetch")))?;
    let version: String = String::from_utf8_lossy(&output.stdout).chars().filter(|c| c.is_ascii_digit() || *c == '.').collect();
    let place = std::env::temp_dir().join(format!("guitong-maria-template-{version}-{}", owner()));
    if !place.join("data").exists() {
        let made = owned_temp_dir(SERVER, "guitong-maria-")?;
        run(
            SERVER,
            unprivileged(Path::new("mariadb-install-db"))
                .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"])
                .arg(format!("--datadir={}", made.path().join("data").display())),
        )?;
        let made = made.keep();
        if fs::rename(&made, &place).is_err() {
            // Another process was first.
            fs::remove_dir_all(&made).map_err(failure)?;
        }
    }
    Ok(place.join("data"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_starts_crashes_comes_back_and_leaves_nothing() {
        let mut server = Mariadb::start().await.unwrap();
        server.create_user("office", "shared", "SELECT").await.unwrap();
        server.execute("CREATE TABLE shared.kept(a INT) ENGINE=InnoDB; INSERT INTO shared.kept VALUES (7)").await.unwrap();
        server.kill().unwrap();
        server.start_again().await.unwrap();
        let pool = MySqlPool::connect(&server.url("office", "shared")).await.unwrap();
        let kept: i32 = sqlx::query_scalar("SELECT a FROM kept").fetch_one(&pool).await.unwrap();
        assert_eq!(kept, 7);
        let refused = sqlx::query("INSERT INTO kept VALUES (8)").execute(&pool).await.unwrap_err().to_string();
        assert!(refused.contains("INSERT command denied"), "{refused}");
        let home = server.home.path().to_owned();
        drop(server);
        assert!(!home.exists());
    }
}
