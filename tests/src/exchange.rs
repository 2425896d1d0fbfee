//! A small exchange for whole-node tests: one department's table of companies, one subscriber's table, and the released binary
//! between them, started and killed as an operator's machine would.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::servers::{ServerError, free_port, log_tail};

/// The table that the exchange tails. `bh` is its key; `tyshxydm`, the credit code, is the entity's.
pub const COMPANIES: &str = "CREATE TABLE qy (bh bigint PRIMARY KEY, tyshxydm varchar(40), qymc varchar(200), fddbr varchar(40))";

/// File of the system that an exchange tails.
pub const SYSTEM: &str = "systems/licensing.toml";

/// The mapping of [`COMPANIES`]; what the table has not is constant.
pub const RESOURCE: &str = r#"code = "3450010102/000001"
title = "企业登记基本信息"
system = "licensing"
table = "SCHEMA.qy"
entity = "LegalEntity"
sharing = { type = 1 }

[map]
uscc = "tyshxydm"
name = "qymc"
legal_rep_name = "fddbr"
established = { const = "2017-09-22" }
status = { const = "1" }
reg_authority = { const = "自治区市场监督管理局" }
reg_authority_code = { const = "11450000PDY00001X0" }
reg_address = { const = "南宁市民族大道1号" }
reg_address_division = { const = "450103" }
"#;

/// Where an exchange gets its changes, keeps its log and delivers.
#[derive(Debug)]
pub struct Layout {
    /// Lines of `systems/licensing.toml` that name the database.
    pub source: String,
    /// Schema of the table `qy`.
    pub schema: &'static str,
    /// Sections of `exchange.toml` beside the first lines.
    pub log: String,
    /// Lines of `[sink]`.
    pub sink: String,
}

/// An exchange directory on disk.
#[derive(Debug)]
pub struct Exchange {
    root: tempfile::TempDir,
    port: u16,
}

impl Exchange {
    /// Writes the directory.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(layout: &Layout) -> Result<Self, ServerError> {
        let exchange = Self::tailing(&format!("tables = [\"{}.qy\"]\n{}", layout.schema, layout.source), &layout.log)?;
        exchange.put("departments/credit.toml", "title = \"公共信用信息中心\"\ncode = \"11450000PDY000044M\"\n")?;
        exchange.put("resources/enterprise.toml", &RESOURCE.replace("SCHEMA", layout.schema))?;
        exchange.put(
            "subscriptions/credit-enterprise.toml",
            &format!(
                "subscriber = \"credit\"\nresource = \"3450010102/000001\"\npurpose = \"信用主体建档\"\nfields = [\"uscc\", \"name\", \"legal_rep_name\"]\n\n[sink]\n{}",
                layout.sink
            ),
        )?;
        Ok(exchange)
    }

    /// Writes a directory of one system and nothing behind it: `system` is its file behind title and department, `log` are sections of
    /// `exchange.toml`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn tailing(system: &str, log: &str) -> Result<Self, ServerError> {
        // `reqwest` takes the process's TLS provider; another test may have installed it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let failed = |error: std::io::Error| ServerError::new("exchange", error);
        let root = tempfile::tempdir().map_err(failed)?;
        let port = free_port().map_err(failed)?;
        let exchange = Self { root, port };
        let first = "name = \"test\"\ntitle = \"测试\"\ntime_zone = \"Asia/Shanghai\"\n";
        exchange.put("exchange.toml", &format!("{first}listen = \"127.0.0.1:{port}\"\n\n{log}"))?;
        exchange.put("departments/registry.toml", "title = \"市场监督管理局\"\ncode = \"11450000PDY00001X0\"\n")?;
        exchange.put(SYSTEM, &format!("title = \"企业登记\"\ndepartment = \"11450000PDY00001X0\"\n{system}"))?;
        Ok(exchange)
    }

    /// Writes a file of the directory, or writes it anew.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, name: &str, content: &str) -> Result<(), ServerError> {
        let path = self.path().join(name);
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        made.and_then(|()| std::fs::write(&path, content)).map_err(|error| ServerError::new("exchange", error))
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// Address of the node's HTTP listener.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Runs one command on the directory and gives its exit code with what it printed.
    ///
    /// # Errors
    /// When the binary cannot be started.
    pub fn command(&self, arguments: &[&str]) -> Result<Answer, ServerError> {
        let output = Command::new(binary()?).args(arguments).env("GUITONG_DIR", self.path()).output();
        let output = output.map_err(|error| ServerError::new("guitong", error))?;
        Ok(Answer {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Starts `guitong run`.
    ///
    /// # Errors
    /// When the binary cannot be started.
    pub fn start(&self) -> Result<Node, ServerError> {
        self.start_with(&[])
    }

    /// Starts `guitong run` with more arguments.
    ///
    /// # Errors
    /// When the binary cannot be started.
    pub fn start_with(&self, arguments: &[&str]) -> Result<Node, ServerError> {
        let failed = |error: std::io::Error| ServerError::new("guitong", error);
        let log = self.path().join("node.log");
        let file = std::fs::File::options().create(true).append(true).open(&log).map_err(failed)?;
        let mut command = Command::new(binary()?);
        command.arg("run").arg(self.path()).args(arguments);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn();
        Ok(Node { child: child.map_err(failed)?, log })
    }

    /// The node's own document of `/v1/status`, once it answers.
    ///
    /// # Errors
    /// When the node does not answer in time.
    pub async fn status(&self, patience: Duration) -> Result<Value, ServerError> {
        let text = self.get("/v1/status", patience).await?;
        serde_json::from_str(&text).map_err(|error| ServerError::new("guitong", error))
    }

    /// Body of a successful GET.
    ///
    /// # Errors
    /// When there is none in time; the node's log is in the error.
    pub async fn get(&self, path: &str, patience: Duration) -> Result<String, ServerError> {
        let deadline = Instant::now() + patience;
        let mut last = String::new();
        while Instant::now() < deadline {
            match reqwest::get(self.url(path)).await {
                Ok(response) if response.status().is_success() => {
                    return response.text().await.map_err(|error| ServerError::new("guitong", error));
                }
                Ok(response) => last = response.status().to_string(),
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(ServerError::new("guitong", format!("{path}: {last}\n{}", log_tail(&self.path().join("node.log"), 40))))
    }
}

/// What a command answered.
#[derive(Debug)]
pub struct Answer {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// A running node; killed when its handle goes.
#[derive(Debug)]
pub struct Node {
    child: Child,
    log: PathBuf,
}

impl Node {
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: as if the power went.
    ///
    /// # Errors
    /// When the process cannot be signalled.
    pub fn kill(mut self) -> Result<(), ServerError> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.map(drop).map_err(|error| ServerError::new("guitong", error))
    }

    /// SIGTERM; the exit code and how long the node took.
    ///
    /// # Errors
    /// When the process cannot be signalled.
    pub fn terminate(mut self) -> Result<(Option<i32>, Duration), ServerError> {
        let failed = |error: std::io::Error| ServerError::new("guitong", error);
        let begun = Instant::now();
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.ok_or_else(|| ServerError::new("guitong", "no process id"))?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).map_err(|error| failed(error.into()))?;
        let status = self.child.wait().map_err(failed)?;
        Ok((status.code(), begun.elapsed()))
    }

    /// Waits until the process ends by itself.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn wait(mut self) -> Result<(Option<i32>, String), ServerError> {
        let status = self.child.wait().map_err(|error| ServerError::new("guitong", error))?;
        Ok((status.code(), log_tail(&self.log, 60)))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Already gone after `kill`, `terminate` and `wait`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary that was built beside the tests.
///
/// # Errors
/// When it was not built: `cargo build` makes it.
pub fn binary() -> Result<PathBuf, ServerError> {
    let test = std::env::current_exe().map_err(|error| ServerError::new("guitong", error))?;
    let mut candidates = test.ancestors().skip(1).take(3).map(|folder| folder.join("guitong"));
    candidates
        .find(|path| path.is_file())
        .ok_or_else(|| ServerError::new("guitong", "the binary is not built: run `cargo build` first"))
}

/// A valid credit code in the range that is allotted to nobody (GB 32100-2015). There are 310,000.
#[must_use]
pub fn credit_code(number: u32) -> String {
    const ALPHABET: &str = "0123456789ABCDEFGHJKLMNPQRTUWXY";
    let leading = ALPHABET.chars().nth(number as usize / 10_000).unwrap_or('0');
    let body = format!("PDY{leading}{:04}", number % 10_000);
    let weights = [3, 7, 9, 10, 5, 8, 4, 2];
    let sum: u32 = body.chars().filter_map(|c| c.to_digit(36)).zip(weights).map(|(value, weight)| value * weight).sum();
    let check = match 11 - sum % 11 {
        10 => "X".to_owned(),
        11 => "0".to_owned(),
        digit => digit.to_string(),
    };
    let base = format!("91450103{body}{check}");
    let value = |c: char| ALPHABET.find(c).unwrap_or(0);
    let total: usize = base
        .chars()
        .map(value)
        .zip(std::iter::successors(Some(1), |w| Some(w * 3 % 31)))
        .map(|(value, weight)| value * weight)
        .sum();
    let last = ALPHABET.chars().nth((31 - total % 31) % 31).unwrap_or('0');
    format!("{base}{last}")
}
