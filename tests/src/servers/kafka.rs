//! A real Apache Kafka: one process that is broker and controller (KRaft), with its own directory and loopback ports.
//!
//! Topics are made only on request, as in a well-kept cluster. A second listener can be advertised under another port, so that
//! a [`super::proxy::Proxy`] stands between a client and the broker; two more are encrypted.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rustix::process::Signal;
use tempfile::TempDir;
use uuid::Uuid;

use super::process::{Machine, Process, java, java_of};
use super::tls::Identity;
use super::{ServerError, fetched, free_port, log_tail};

const VERSION: &str = "4.2.2";
/// How the broker checks a user's password; which users there are is in its metadata.
const SCRAM_LOGIN: &str = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// How a broker starts.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Lines of the broker's configuration, over this helper's own.
    pub settings: Vec<(String, String)>,
    /// A broker that is to be fast rather than quick to start: the JVM's full compiler, and a heap as an operator gives it.
    pub fast: bool,
    /// Users with their passwords, for the SASL/SCRAM-SHA-512 listener; without any there is none.
    pub users: Vec<(String, String)>,
    /// A second listener that tells its clients to come to this port.
    pub advertise: Option<u16>,
    /// Encrypted listeners: the broker's certificate, and the authority that has to have signed the clients'. One takes only clients
    /// with a certificate; where there are users, another takes only them.
    pub tls: Option<(Identity, PathBuf)>,
}

/// A running broker; dropped, it is killed and its directory removed.
#[derive(Debug)]
pub struct Kafka {
    options: Options,
    ports: Ports,
    process: Option<Process>,
    /// Last, so that it goes after the server.
    home: TempDir,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    plain: u16,
    controller: u16,
    second: u16,
    sasl: u16,
    tls: u16,
    sasl_tls: u16,
}

impl Kafka {
    /// # Errors
    /// When the jars are missing or the broker does not come up.
    pub async fn start() -> Result<Self, ServerError> {
        Self::start_with(Options::default()).await
    }

    /// # Errors
    /// As [`Kafka::start`].
    pub async fn start_with(options: Options) -> Result<Self, ServerError> {
        let mut last = None;
        for _ in 0..3 {
            let home = TempDir::with_prefix("guitong-kafka-").map_err(failure)?;
            let port = || free_port().map_err(failure);
            let ports =
                Ports { plain: port()?, controller: port()?, second: port()?, sasl: port()?, tls: port()?, sasl_tls: port()? };
            let mut kafka = Self { options: options.clone(), ports, process: None, home };
            kafka.format()?;
            match kafka.start_again().await {
                Ok(()) => return Ok(kafka),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| failure("did not start")))
    }

    /// `host:port` for clients.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.ports.plain)
    }

    /// Port of the listener that is advertised elsewhere: a proxy's upstream.
    #[must_use]
    pub fn second_port(&self) -> u16 {
        self.ports.second
    }

    /// `host:port` of the SASL/SCRAM listener.
    #[must_use]
    pub fn sasl_bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.ports.sasl)
    }

    /// Port of the TLS listener that wants a certificate.
    #[must_use]
    pub fn tls_port(&self) -> u16 {
        self.ports.tls
    }

    /// `host:port` of the TLS listener that wants a user.
    #[must_use]
    pub fn sasl_tls_bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.ports.sasl_tls)
    }

    /// Process id of the broker, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Starts a stopped broker on the same ports and data; waits until it answers.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_again(&mut self) -> Result<(), ServerError> {
        let machine = if self.options.fast { java_of(Machine::Fast) } else { java() };
        let mut command = class_path(machine, "kafka.Kafka")?;
        command.arg(self.properties());
        let mut process = Process::spawn("kafka", command, &self.log_path(), self.home.path())?;
        let deadline = Instant::now() + START_LIMIT;
        while !answers(self.bootstrap()).await {
            process.check_alive()?;
            if Instant::now() > deadline {
                return Err(process.failure(format!("not ready in {START_LIMIT:?}")));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.process = Some(process);
        Ok(())
    }

    /// Stops the broker as an operator does (SIGTERM).
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(&mut self) -> Result<(), ServerError> {
        match self.process.take() {
            Some(process) => process.stop(STOP_LIMIT).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// Ends the broker as a crash does (SIGKILL).
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Holds the broker still (SIGSTOP): connections stay open and nothing answers.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> Result<(), ServerError> {
        self.running()?.signal(Signal::STOP)
    }

    /// Lets a paused broker go on (SIGCONT).
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<(), ServerError> {
        self.running()?.signal(Signal::CONT)
    }

    /// Runs one of Kafka's own tools, by its class, to its end.
    ///
    /// # Errors
    /// What it printed, when it fails.
    pub fn tool(&self, class: &str, arguments: &[&str]) -> Result<(), ServerError> {
        let output = class_path(java(), class)?.args(arguments).output().map_err(failure)?;
        let printed = || String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        if output.status.success() { Ok(()) } else { Err(failure(printed())) }
    }

    fn running(&self) -> Result<&Process, ServerError> {
        self.process.as_ref().ok_or_else(|| failure("is not running"))
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join("server.log")
    }

    fn properties(&self) -> PathBuf {
        self.home.path().join("server.properties")
    }

    fn key_store(&self) -> PathBuf {
        self.home.path().join("broker.pem")
    }

    fn format(&self) -> Result<(), ServerError> {
        fs::write(self.properties(), self.configuration()).map_err(failure)?;
        if let Some((identity, _)) = &self.options.tls {
            identity.store(&self.key_store())?;
        }
        let log = self.home.path().join("format.log");
        let output = fs::File::create(&log).map_err(failure)?;
        let errors = output.try_clone().map_err(failure)?;
        let mut command = class_path(java(), "kafka.tools.StorageTool")?;
        // A cluster id is a UUID; this tool also takes other words of its length.
        let cluster: String = Uuid::new_v4().simple().to_string().chars().take(22).collect();
        command.args(["format", "--cluster-id", &cluster, "--config"]).arg(self.properties());
        for (user, password) in &self.options.users {
            command.args(["--add-scram", &format!("SCRAM-SHA-512=[name={user},password={password}]")]);
        }
        let status = command.stdout(output).stderr(errors).status().map_err(failure)?;
        if status.success() { Ok(()) } else { Err(failure(log_tail(&log, 20))) }
    }

    fn configuration(&self) -> String {
        let Ports { plain, controller, second, sasl, tls, sasl_tls } = self.ports;
        let has_users = !self.options.users.is_empty();
        let mut listeners = vec![("PLAIN", plain, plain)];
        listeners.extend(self.options.advertise.map(|advertised| ("SECOND", second, advertised)));
        listeners.extend(has_users.then_some(("SCRAM", sasl, sasl)));
        if self.options.tls.is_some() {
            listeners.push(("TLS", tls, tls));
            listeners.extend(has_users.then_some(("SCRAMTLS", sasl_tls, sasl_tls)));
        }
        let addresses = |port: fn(&(&str, u16, u16)) -> u16| -> String {
            let each: Vec<String> =
                listeners.iter().map(|listener| format!("{}://127.0.0.1:{}", listener.0, port(listener))).collect();
            each.join(",")
        };
        let text = |text: &str| text.to_owned();
        let mut lines = vec![
            ("process.roles", text("broker,controller")),
            ("node.id", text("1")),
            ("controller.quorum.voters", format!("1@127.0.0.1:{controller}")),
            ("listeners", format!("{},CONTROLLER://127.0.0.1:{controller}", addresses(|listener| listener.1))),
            ("advertised.listeners", addresses(|listener| listener.2)),
            (
                "listener.security.protocol.map",
                text("PLAIN:PLAINTEXT,SECOND:PLAINTEXT,SCRAM:SASL_PLAINTEXT,TLS:SSL,SCRAMTLS:SASL_SSL,CONTROLLER:PLAINTEXT"),
            ),
            ("controller.listener.names", text("CONTROLLER")),
            ("inter.broker.listener.name", text("PLAIN")),
            ("sasl.enabled.mechanisms", text("SCRAM-SHA-512")),
            ("listener.name.scram.scram-sha-512.sasl.jaas.config", text(SCRAM_LOGIN)),
            ("listener.name.scramtls.scram-sha-512.sasl.jaas.config", text(SCRAM_LOGIN)),
            ("log.dirs", self.home.path().join("data").display().to_string()),
            ("auto.create.topics.enable", text("false")),
            ("offsets.topic.replication.factor", text("1")),
            ("offsets.topic.num.partitions", text("4")),
            ("transaction.state.log.replication.factor", text("1")),
            ("transaction.state.log.min.isr", text("1")),
            ("transaction.state.log.num.partitions", text("4")),
            ("transaction.abort.timed.out.transaction.cleanup.interval.ms", text("200")),
            ("group.initial.rebalance.delay.ms", text("0")),
            ("group.min.session.timeout.ms", text("500")),
            ("log.retention.check.interval.ms", text("500")),
            ("log.initial.task.delay.ms", text("500")),
            ("log.cleaner.backoff.ms", text("200")),
            ("log.segment.delete.delay.ms", text("0")),
        ];
        if let Some((_, authority)) = &self.options.tls {
            lines.extend([
                ("ssl.keystore.type", text("PEM")),
                ("ssl.keystore.location", self.key_store().display().to_string()),
                ("ssl.truststore.type", text("PEM")),
                ("ssl.truststore.location", authority.display().to_string()),
                ("listener.name.tls.ssl.client.auth", text("required")),
            ]);
        }
        lines.extend(self.options.settings.iter().map(|(name, value)| (name.as_str(), value.clone())));
        lines.into_iter().map(|(name, value)| format!("{name}={value}\n")).collect()
    }
}

fn class_path(mut command: Command, main: &str) -> Result<Command, ServerError> {
    command.arg("-cp").arg(fetched("kafka", &format!("kafka-{VERSION}"))?.join("*")).arg(main);
    Ok(command)
}

/// Whether the broker answers a metadata request and counts itself in.
async fn answers(bootstrap: String) -> bool {
    let asked = tokio::task::spawn_blocking(move || {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", bootstrap).set("log_level", "0");
        let consumer: BaseConsumer = config.create().ok()?;
        let metadata = consumer.fetch_metadata(None, Duration::from_secs(1)).ok()?;
        Some(!metadata.brokers().is_empty())
    });
    asked.await.ok().flatten().unwrap_or(false)
}

fn failure(detail: impl std::fmt::Display) -> ServerError {
    ServerError::new("kafka", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_broker_stops_comes_back_on_its_ports_and_pauses() {
        let mut kafka = Kafka::start().await.unwrap();
        let (bootstrap, first) = (kafka.bootstrap(), kafka.pid());
        kafka.stop().await.unwrap();
        assert!(!answers(bootstrap.clone()).await);
        kafka.start_again().await.unwrap();
        assert_ne!(kafka.pid(), first);
        assert_eq!(kafka.bootstrap(), bootstrap);
        kafka.pause().unwrap();
        assert!(!answers(bootstrap.clone()).await);
        kafka.resume().unwrap();
        assert!(answers(bootstrap).await);
    }
}
