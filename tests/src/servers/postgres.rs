//! A real PostgreSQL server: its own data directory and loopback port, passwords by SCRAM, `wal_level = logical` unless told
//! otherwise.
//!
//! The server refuses to run as root, so under root it runs as `nobody`. `GUITONG_POSTGRES=17` makes it another major than Debian's.
//! `initdb` runs once per major and user into a template that is copied for each server, so servers share a system identifier
//! unless [`Options::own_identity`] asks for one of its own.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tempfile::TempDir;

use super::tls::Identity;
use super::unprivileged::{give, owned_temp_dir, owner, run, unprivileged};
use super::{ServerError, fetched, free_port, log_tail};

/// Name and password of the superuser.
pub const ADMIN: &str = "postgres";
/// The password of every role that [`Postgres::create_role`] makes, and of [`ADMIN`].
pub const PASSWORD: &str = "synthetic-password";

/// Where Debian puts each major that is installed.
const DEBIAN: &str = "/usr/lib/postgresql";
const SERVER: &str = "PostgreSQL";
const START_LIMIT: Duration = Duration::from_secs(60);

/// How a server starts.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Lines of the server's configuration, over this helper's own.
    pub settings: Vec<(String, String)>,
    /// Run `initdb` instead of copying the template, so that the system identifier is new.
    pub own_identity: bool,
    /// Lines of `pg_hba.conf` in the place of `initdb`'s, by which everybody proves a password by SCRAM.
    pub hba: Option<String>,
    /// Encrypted connections too: the server's certificate, and the authority that clients' certificates are held against.
    pub tls: Option<(Identity, PathBuf)>,
}

impl Options {
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// How a server stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Sessions are ended, a checkpoint is written (SIGINT).
    Fast,
    /// As after a crash: recovery at the next start (SIGQUIT).
    Immediate,
}

/// A running server; dropped, it is stopped and its directory removed.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    port: u16,
    settings: Vec<(String, String)>,
    child: Option<Child>,
    /// Last, so that it goes after the server.
    home: TempDir,
}

impl Postgres {
    /// A server with `wal_level = logical` and default settings.
    ///
    /// # Errors
    /// When the programs are missing or the server does not come up.
    pub async fn start() -> Result<Self, ServerError> {
        Self::start_with(Options::default()).await
    }

    /// # Errors
    /// As [`Postgres::start`].
    pub async fn start_with(options: Options) -> Result<Self, ServerError> {
        let bin = programs()?;
        let home = owned_temp_dir(SERVER, "guitong-pg-")?;
        let data = home.path().join("data");
        if options.own_identity {
            initdb(&bin, &data)?;
        } else {
            let template = template(&bin)?;
            run(SERVER, unprivileged(Path::new("cp")).arg("-a").arg(&template).arg(&data))?;
        }
        let settings = settings_in(home.path(), options)?;
        Self::launch(bin, home, settings).await
    }

    /// A hot standby of this server, streaming from it under `application_name` (the name `synchronous_standby_names` waits for).
    ///
    /// # Errors
    /// When the base backup fails or the standby does not come up.
    pub async fn standby(&self, application_name: &str, options: Options) -> Result<Self, ServerError> {
        let home = owned_temp_dir(SERVER, "guitong-pg-")?;
        let data = home.path().join("data");
        let source =
            // The database is where a standby looks for slots to keep copies of.
            format!("host=127.0.0.1 port={} dbname=postgres user={ADMIN} password={PASSWORD} application_name={application_name}", self.port);
        run(
            SERVER,
            unprivileged(&self.bin.join("pg_basebackup"))
                .arg("--no-sync")
                .arg("--checkpoint=fast")
                .arg(format!("--dbname={source}"))
                .arg("-D")
                .arg(&data),
        )?;
        // Not by --write-recovery-conf: it writes all options that its libpq knows, and the server's may be older.
        let follow = format!("primary_conninfo = '{source}'\n");
        OpenOptions::new()
            .append(true)
            .open(data.join("postgresql.auto.conf"))
            .and_then(|mut file| file.write_all(follow.as_bytes()))
            .map_err(failure)?;
        File::create(data.join("standby.signal")).map_err(failure)?;
        let settings = settings_in(home.path(), options)?;
        Self::launch(self.bin.clone(), home, settings).await
    }

    async fn launch(bin: PathBuf, home: TempDir, settings: Vec<(String, String)>) -> Result<Self, ServerError> {
        let mut server = Self { bin, port: 0, settings, child: None, home };
        let mut last = None;
        for _ in 0..5 {
            server.port = free_port().map_err(failure)?;
            match server.spawn().await {
                Ok(()) => return Ok(server),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| failure("did not start")))
    }

    async fn spawn(&mut self) -> Result<(), ServerError> {
        let log_path = self.log_path();
        let log = File::create(&log_path).map_err(|error| failure(format!("{}: {error}", log_path.display())))?;
        let mut command = unprivileged(&self.bin.join("postgres"));
        command.arg("-D").arg(self.home.path().join("data"));
        let port = self.port.to_string();
        let own = [
            ("port", port.as_str()),
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", ""),
            ("wal_level", "logical"),
            ("fsync", "off"),
            ("max_wal_senders", "10"),
            ("max_replication_slots", "10"),
            ("password_encryption", "scram-sha-256"),
        ];
        let given = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.into_iter().chain(given) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.stdout(Stdio::null()).stderr(log).stdin(Stdio::null());
        self.child = Some(command.spawn().map_err(|error| failure(format!("{}: {error}", self.bin.display())))?);
        self.wait_ready().await
    }

    async fn wait_ready(&mut self) -> Result<(), ServerError> {
        let deadline = Instant::now() + START_LIMIT;
        let pid_file = self.home.path().join("data/postmaster.pid");
        loop {
            if let Some(child) = &mut self.child
                && let Ok(Some(status)) = child.try_wait()
            {
                self.child = None;
                return Err(failure(format!("ended with {status}:\n{}", log_tail(&self.log_path(), 20))));
            }
            // The eighth line says `ready` once connections are taken; the file of an earlier run is overwritten first.
            let text = fs::read_to_string(&pid_file).unwrap_or_default();
            let ours = self.pid().is_some_and(|pid| text.lines().next() == Some(pid.to_string().as_str()));
            if ours && text.lines().nth(7).is_some_and(|line| line.trim() == "ready") {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(failure(format!("not ready in {START_LIMIT:?}:\n{}", log_tail(&self.log_path(), 20))));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Major version, such as 15.
    ///
    /// # Panics
    /// When the data directory is no server's.
    #[must_use]
    pub fn major(&self) -> u32 {
        let text = fs::read_to_string(self.home.path().join("data/PG_VERSION")).unwrap_or_default();
        text.trim().parse().unwrap_or_else(|_| panic!("PG_VERSION holds {text:?}"))
    }

    /// Process id of the server, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.home.path().join("server.log")
    }

    /// Address of database `postgres` for a role with [`PASSWORD`].
    #[must_use]
    pub fn url(&self, user: &str) -> String {
        self.url_of(user, PASSWORD, "postgres")
    }

    #[must_use]
    pub fn url_of(&self, user: &str, password: &str, database: &str) -> String {
        let encode = |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        format!("postgres://{}:{}@127.0.0.1:{}/{}", encode(user), encode(password), self.port, encode(database))
    }

    /// Connections of the superuser to database `postgres`.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn admin(&self) -> Result<PgPool, ServerError> {
        self.admin_of("postgres").await
    }

    /// Connections of the superuser to a database.
    ///
    /// # Errors
    /// When the server does not answer or the database does not exist.
    pub async fn admin_of(&self, database: &str) -> Result<PgPool, ServerError> {
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username(ADMIN)
            .password(PASSWORD)
            .database(database);
        let pool = PgPoolOptions::new().max_connections(16).acquire_timeout(Duration::from_secs(30));
        pool.connect_with(options).await.map_err(failure)
    }

    /// Runs statements as the superuser in database `postgres`.
    ///
    /// # Errors
    /// When one of them fails.
    pub async fn execute(&self, sql: &str) -> Result<(), ServerError> {
        let pool = self.admin().await?;
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&pool).await;
        pool.close().await;
        done.map(|_| ()).map_err(|error| failure(format!("{sql}: {error}")))
    }

    /// A role with [`PASSWORD`] that may log in; `attributes` such as `REPLICATION`.
    ///
    /// # Errors
    /// When the role exists already.
    pub async fn create_role(&self, name: &str, attributes: &str) -> Result<(), ServerError> {
        self.execute(&format!("CREATE ROLE \"{name}\" LOGIN {attributes} PASSWORD '{PASSWORD}'")).await
    }

    /// An empty database.
    ///
    /// # Errors
    /// When it exists already.
    pub async fn create_database(&self, name: &str) -> Result<(), ServerError> {
        self.execute(&format!("CREATE DATABASE \"{name}\"")).await
    }

    /// Stops the server; its data stays until the handle is dropped.
    ///
    /// # Errors
    /// When it does not end in a minute.
    pub async fn stop(&mut self, how: Stop) -> Result<(), ServerError> {
        let signal = match how {
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        };
        self.signal(signal)?;
        let deadline = Instant::now() + START_LIMIT;
        while let Some(child) = &mut self.child {
            if child.try_wait().map_err(failure)?.is_some() {
                self.child = None;
            } else if Instant::now() > deadline {
                return Err(failure("does not stop"));
            } else {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(())
    }

    /// Starts a stopped server again on its port.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_again(&mut self) -> Result<(), ServerError> {
        self.spawn().await
    }

    /// Stops and starts on the same port.
    ///
    /// # Errors
    /// When it does not stop or not come up.
    pub async fn restart(&mut self, how: Stop) -> Result<(), ServerError> {
        self.stop(how).await?;
        self.start_again().await
    }

    /// Copies the data directory of a stopped server, as a cold backup does.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn back_up(&self) -> Result<(), ServerError> {
        self.copy("data", "backup")
    }

    /// Puts that copy in the place of a stopped server's data directory.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn restore(&self) -> Result<(), ServerError> {
        fs::remove_dir_all(self.home.path().join("data")).map_err(failure)?;
        self.copy("backup", "data")
    }

    fn copy(&self, from: &str, to: &str) -> Result<(), ServerError> {
        let home = self.home.path();
        run(SERVER, unprivileged(Path::new("cp")).arg("-a").arg(home.join(from)).arg(home.join(to)))
    }

    /// Replaces or adds a setting for the next start.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// Turns a standby into a server of its own (a new timeline).
    ///
    /// # Errors
    /// When this is no standby, or it does not end its recovery.
    pub async fn promote(&self) -> Result<(), ServerError> {
        self.execute("SELECT pg_promote(true, 60)").await
    }

    /// Sends a signal to the server's first process, such as SIGHUP.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<(), ServerError> {
        let pid = self.pid().ok_or_else(|| failure("is not running"))?;
        send(pid, signal)
    }

    /// Freezes every process of the server (SIGSTOP), as a host that hangs does.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> Result<(), ServerError> {
        self.signal_all(Signal::STOP)
    }

    /// Lets a frozen server go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<(), ServerError> {
        self.signal_all(Signal::CONT)
    }

    fn signal_all(&self, signal: Signal) -> Result<(), ServerError> {
        let pid = self.pid().ok_or_else(|| failure("is not running"))?;
        send(pid, signal)?;
        for child in children(pid) {
            // A backend may have ended since it was listed.
            send(child, signal).ok();
        }
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.child.is_none() {
            return;
        }
        self.resume().ok();
        self.signal(Signal::QUIT).ok();
        if let Some(mut child) = self.child.take() {
            let deadline = Instant::now() + Duration::from_secs(10);
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn failure(detail: impl std::fmt::Display) -> ServerError {
    ServerError::new(SERVER, detail)
}

/// Folder of the server's programs: of the major that `GUITONG_POSTGRES` names, or of the newest that Debian has installed.
///
/// # Errors
/// When that major is not there.
pub fn programs() -> Result<PathBuf, ServerError> {
    let Some(major) = std::env::var_os("GUITONG_POSTGRES") else {
        let installed = fs::read_dir(DEBIAN).map_err(|error| failure(format!("{DEBIAN}: {error}; run tests/servers/fetch")))?;
        let majors = installed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let newest = majors.max().ok_or_else(|| failure(format!("{DEBIAN} is empty; run tests/servers/fetch")))?;
        return Ok(Path::new(DEBIAN).join(newest.to_string()).join("bin"));
    };
    let major = major.to_str().filter(|major| major.parse::<u32>().is_ok());
    let major = major.ok_or_else(|| failure("GUITONG_POSTGRES is no major, such as 17"))?;
    let debian = Path::new(DEBIAN).join(major).join("bin");
    if debian.is_dir() { Ok(debian) } else { Ok(fetched(SERVER, &format!("postgresql-{major}"))?.join("bin")) }
}

/// The configuration that `options` ask for, with the files that it names put into the server's folder.
fn settings_in(home: &Path, options: Options) -> Result<Vec<(String, String)>, ServerError> {
    let mut settings = options.settings;
    let mut put = |setting: &str, file: &str, content: &[u8]| {
        let path = home.join(file);
        fs::write(&path, content).map_err(failure)?;
        // The server takes no key that others could read.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failure)?;
        give(&path).map_err(failure)?;
        settings.push((setting.to_owned(), path.display().to_string()));
        Ok(())
    };
    if let Some(hba) = &options.hba {
        put("hba_file", "pg_hba.conf", hba.as_bytes())?;
    }
    if let Some((identity, authority)) = &options.tls {
        put("ssl_cert_file", "server.pem", &fs::read(&identity.certificate).map_err(failure)?)?;
        put("ssl_key_file", "server.key", &fs::read(&identity.key).map_err(failure)?)?;
        put("ssl_ca_file", "clients.pem", &fs::read(authority).map_err(failure)?)?;
        settings.push(("ssl".to_owned(), "on".to_owned()));
    }
    Ok(settings)
}

fn initdb(bin: &Path, data: &Path) -> Result<(), ServerError> {
    let password = tempfile::NamedTempFile::new().map_err(failure)?;
    fs::write(password.path(), PASSWORD).map_err(failure)?;
    fs::set_permissions(password.path(), fs::Permissions::from_mode(0o644)).map_err(failure)?;
    run(
        SERVER,
        unprivileged(&bin.join("initdb"))
            .args(["--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", "--auth=scram-sha-256"])
            .arg(format!("--username={ADMIN}"))
            .arg("--pwfile")
            .arg(password.path())
            .arg("-D")
            .arg(data),
    )
}

/// The data directory that servers of this major are copied from; made once and moved into place whole, so that two processes
/// that make it at the same time do not meet.
fn template(bin: &Path) -> Result<PathBuf, ServerError> {
    let output = Command::new(bin.join("postgres")).arg("--version").output();
    let output = output.map_err(|error| failure(format!("{}: {error}", bin.display())))?;
    let version: String = String::from_utf8_lossy(&output.stdout).chars().filter(|c| c.is_ascii_digit() || *c == '.').collect();
    let place = std::env::temp_dir().join(format!("guitong-pg-template-{version}-{}", owner()));
    if !place.join("data").exists() {
        let made = owned_temp_dir(SERVER, "guitong-pg-")?;
        initdb(bin, &made.path().join("data"))?;
        let made = made.keep();
        if fs::rename(&made, &place).is_err() {
            // Another process was first.
            fs::remove_dir_all(&made).map_err(failure)?;
        }
    }
    Ok(place.join("data"))
}

fn send(pid: u32, signal: Signal) -> Result<(), ServerError> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| failure("no process id"))?;
    kill_process(pid, signal).map_err(failure)
}

/// Child processes of `parent`, from `/proc`.
fn children(parent: u32) -> Vec<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_starts_restarts_pauses_and_leaves_nothing() {
        let mut server = Postgres::start().await.unwrap();
        server.create_role("reader", "REPLICATION").await.unwrap();
        server.execute("CREATE TABLE kept(a int); INSERT INTO kept VALUES (7)").await.unwrap();
        let wrong = server.url_of("reader", "wrong", "postgres");
        let refused = PgPoolOptions::new().connect(&wrong).await.unwrap_err().to_string();
        assert!(refused.contains("password authentication failed"), "{refused}");
        PgPoolOptions::new().connect(&server.url("reader")).await.unwrap();
        server.restart(Stop::Immediate).await.unwrap();
        let pool = server.admin().await.unwrap();
        let kept: i32 = sqlx::query_scalar("SELECT a FROM kept").fetch_one(&pool).await.unwrap();
        assert_eq!(kept, 7);
        server.pause().unwrap();
        let stalled = sqlx::query("SELECT 1").execute(&pool);
        assert!(tokio::time::timeout(Duration::from_millis(200), stalled).await.is_err());
        server.resume().unwrap();
        sqlx::query("SELECT 1").execute(&server.admin().await.unwrap()).await.unwrap();
        let (pid, home) = (server.pid().unwrap(), server.home.path().to_owned());
        drop(server);
        assert!(!home.exists());
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
