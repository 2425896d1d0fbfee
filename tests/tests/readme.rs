//! The README's own exchange in ten minutes, typed as it is printed: PostgreSQL to PostgreSQL, over Kafka with a schema registry and
//! over the embedded log. Only hosts and ports are replaced by those of the servers started here.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use guitong_tests::exchange::binary;
use guitong_tests::servers::free_port;
use guitong_tests::servers::kafka::Kafka;
use guitong_tests::servers::postgres::{ADMIN, PASSWORD, Postgres};
use guitong_tests::servers::registry::Registry;
use rustix::process::{Pid, Signal, kill_process};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const SECTION: &str = "## Your first own exchange in ten minutes";
const PATIENCE: Duration = Duration::from_secs(60);
const TOPIC: &str = "raw.licensing.public.qy_jbxx";

/// What a block has to print in the end, by a piece of the block.
const PRINTS: [(&str, &[&str]); 7] = [
    ("guitong init exchange", &["systems"]),
    ("system prepare", &["CREATE PUBLICATION"]),
    ("resource try", &["南宁甲有限公司", "Nothing was published."]),
    ("TABLE shared.enterprise", &["南宁甲有限公司", "柳州乙有限公司", "韦*"]),
    ("SELECT name, status", &["南宁甲有限公司 | 3", "uscc.check_digit"]),
    ("subscription verify", &["no row is wrong", "credit-enterprise         whole"]),
    ("kcat", &["guitong-version"]),
];

/// The fenced blocks of the section: language and text.
fn blocks() -> Outcome<Vec<(String, String)>> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"))?;
    let section = readme.split_once(SECTION).ok_or("README.md has no such section")?.1;
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut blocks = Vec::new();
    let mut parts = section.split("```");
    while let (Some(_text), Some(block)) = (parts.next(), parts.next()) {
        let (language, text) = block.split_once('\n').ok_or("a block without a language")?;
        blocks.push((language.to_owned(), text.to_owned()));
    }
    Ok(blocks)
}

/// A terminal in an empty directory, with the servers that the text talks to.
struct Reader {
    postgres: Postgres,
    kafka: Option<(Kafka, Registry)>,
    port: u16,
    exports: String,
    node: Option<Child>,
    home: tempfile::TempDir,
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Already gone where the test has come to its end.
        if let Some(node) = &mut self.node {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

impl Reader {
    async fn start(with_kafka: bool) -> Outcome<Self> {
        // Fails only where the other test was first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let home = tempfile::tempdir()?;
        std::fs::create_dir(home.path().join("bin"))?;
        std::os::unix::fs::symlink(binary()?, home.path().join("bin/guitong"))?;
        let postgres = Postgres::start().await?;
        let kafka = match with_kafka {
            true => Some((Kafka::start().await?, Registry::start().await?)),
            false => None,
        };
        Ok(Self { postgres, kafka, port: free_port()?, exports: String::new(), node: None, home })
    }

    /// The text with this machine's addresses.
    fn here(&self, text: &str) -> String {
        let mut text = text.replace("@localhost/", &format!("@127.0.0.1:{}/", self.postgres.port()));
        text = text.replace("localhost:8086", &format!("127.0.0.1:{}", self.port));
        if let Some((kafka, registry)) = &self.kafka {
            text = text.replace("localhost:19092", &kafka.bootstrap());
            text = text.replace("http://localhost:8081/apis/ccompat/v7", &registry.url());
        }
        text
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.home.path().join("bin").display()));
        command.env("PGPASSWORD", PASSWORD).env("GUITONG_LISTEN", format!("127.0.0.1:{}", self.port));
        command.current_dir(self.home.path());
        command
    }

    fn sql(&self, text: &str) -> Outcome {
        let url = self.here(&format!("postgres://{ADMIN}@localhost/postgres"));
        let mut psql = self.command("psql");
        let psql = psql.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", &url]);
        let mut psql = psql.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        psql.stdin.take().ok_or("no stdin")?.write_all(text.as_bytes())?;
        let done = psql.wait_with_output()?;
        assert!(done.status.success(), "{text}\n{}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    }

    fn shell(&self, text: &str) -> Outcome<Output> {
        let script = self.here(&format!("{}\n{text}", self.exports));
        Ok(self.command("bash").args(["-euo", "pipefail", "-c", &script]).stdin(Stdio::null()).output()?)
    }

    /// Types a block until it prints what it should.
    fn type_in(&mut self, text: &str) -> Outcome {
        let wanted = PRINTS.iter().find(|(piece, _)| text.contains(piece)).map_or(&[] as &[&str], |(_, wanted)| wanted);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.shell(text)?;
            let printed = String::from_utf8_lossy(&output.stdout);
            if output.status.success() && wanted.iter().all(|word| printed.contains(word)) {
                break;
            }
            let again = self.node.is_some() && Instant::now() < deadline;
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(again, "{text}\n{printed}\n{errors}\nshould print {wanted:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        let exports = text.lines().filter(|line| line.starts_with("export "));
        self.exports.extend(exports.map(|line| format!("{line}\n")));
        Ok(())
    }

    fn log_file(&self) -> PathBuf {
        self.home.path().join("node.log")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    async fn run(&mut self) -> Outcome {
        let script = self.here(&format!("{}\nexec guitong run exchange", self.exports));
        let log = std::fs::File::create(self.log_file())?;
        let mut bash = self.command("bash");
        self.node = Some(bash.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?);
        let deadline = Instant::now() + PATIENCE;
        let ready = format!("http://127.0.0.1:{}/readyz", self.port);
        while !reqwest::get(&ready).await.is_ok_and(|answer| answer.status().is_success()) {
            assert!(Instant::now() < deadline, "not ready\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// SIGTERM ends the node in time, with exit code 0.
    fn stop(&mut self) -> Outcome {
        let mut node = self.node.take().ok_or("the node does not run")?;
        let pid = i32::try_from(node.id()).ok().and_then(Pid::from_raw).ok_or("no process id")?;
        let begun = Instant::now();
        kill_process(pid, Signal::TERM)?;
        let status = node.wait()?;
        assert!(status.success() && begun.elapsed() < Duration::from_secs(10), "{status}\n{}", self.log());
        Ok(())
    }

    /// Reads the whole section; `skips` are pieces of blocks that are left out.
    async fn read(&mut self, skips: &[&str]) -> Outcome {
        for (language, text) in blocks()? {
            match language.as_str() {
                _ if skips.iter().any(|piece| text.contains(piece)) => {}
                "sql" => self.sql(&text)?,
                "sh" if text.trim() == "guitong run exchange" => self.run().await?,
                "sh" => self.type_in(&text)?,
                other => return Err(format!("a block of {other}").into()),
            }
        }
        Ok(())
    }
}

/// Splits what `kcat -f '%R%s'` prints: lengths in four bytes, then the value.
fn values(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut values = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        // A tombstone has no value, which kcat prints as the length -1.
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        let (value, rest) = rest.split_at(length.min(rest.len()));
        values.push(value);
        bytes = rest;
    }
    values
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ten_minutes_over_kafka_as_printed() -> Outcome {
    let mut reader = Reader::start(true).await?;
    reader.read(&[]).await?;

    // Any consumer with the registry reads what was published, here with Avro's own library.
    let (kafka, registry) = reader.kafka.as_ref().ok_or("no Kafka")?;
    let output = Command::new("kcat").args(["-b", &kafka.bootstrap(), "-C", "-e", "-q", "-t", TOPIC, "-f", "%R%s"]).output()?;
    let mut companies = Vec::new();
    for value in values(&output.stdout) {
        let (frame, body) = value.split_first_chunk::<5>().ok_or("no frame")?;
        assert_eq!(frame[0], 0);
        let id = u32::from_be_bytes([frame[1], frame[2], frame[3], frame[4]]);
        let answer = reqwest::get(format!("{}/schemas/ids/{id}", registry.url())).await?.error_for_status()?;
        let answer: serde_json::Value = answer.json().await?;
        let schema = Schema::parse_str(answer["schema"].as_str().ok_or("no schema")?)?;
        let record = GenericDatumReader::builder(&schema).build()?.read_value(&mut &*body)?;
        let Value::Record(fields) = record else { return Err("no record".into()) };
        let after = fields.into_iter().find(|(name, _)| name == "after").ok_or("no after")?.1;
        companies.push(format!("{after:?}"));
    }
    for name in ["南宁甲有限公司", "柳州乙有限公司", "桂林丙有限公司"] {
        assert!(companies.iter().any(|company| company.contains(name)), "{name} is not in {companies:?}");
    }
    reader.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ten_minutes_over_the_embedded_log() -> Outcome {
    let mut reader = Reader::start(false).await?;
    reader.read(&["GUITONG_LOG__KIND", "kcat"]).await?;
    reader.type_in("curl --silent http://localhost:8086/metrics | promtool check metrics")?;
    reader.stop()
}
