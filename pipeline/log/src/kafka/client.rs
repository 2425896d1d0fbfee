//! librdkafka clients: the settings they share, where their own messages go, and what their errors mean here.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use guitong_schemas::contract::KafkaCluster;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::contract::LogError;

/// Largest batch on the wire: a record of [`crate::MAX_RECORD`] with what frames it.
pub(crate) const MAX_MESSAGE: usize = 17 << 20;
/// One question to the brokers.
pub(crate) const REQUEST: Duration = Duration::from_secs(10);
/// How often a thread that serves a client looks whether it is to end.
pub(crate) const SERVE: Duration = Duration::from_millis(100);
const TRANSACTION: Duration = Duration::from_secs(10);

const TLS_ADVICE: &str = "; in `properties`, ssl.ca.location has to name the authority that signed the brokers' \
    certificates, ssl.certificate.location and ssl.key.location our own where the brokers want one; `brokers` and \
    advertised.listeners have to name the hosts as their certificates do";

/// How a cluster is reached: the exchange's own, or a subscriber's.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) exchange: Arc<str>,
    config: Arc<KafkaCluster>,
    pub(crate) trouble: Trouble,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("exchange", &self.exchange).field("brokers", &self.config.brokers).finish()
    }
}

impl Cluster {
    pub(crate) fn new(exchange: &str, config: KafkaCluster) -> Self {
        Self { exchange: exchange.into(), config: Arc::new(config), trouble: Trouble::default() }
    }

    pub(crate) fn replication(&self) -> i32 {
        self.config.replication_factor.into()
    }

    /// How long a transaction may stay open before the brokers abort it; a commit is waited for as long.
    pub(crate) fn transaction_limit(&self) -> Duration {
        let given = self.config.properties.get("transaction.timeout.ms").and_then(|limit| limit.reveal().parse().ok());
        given.map_or(TRANSACTION, Duration::from_millis)
    }

    /// Settings of every client; `own` ones over ours, the operator's over both.
    pub(crate) fn client(&self, own: &[(&str, &str)]) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", self.config.brokers.join(","))
            .set("client.id", format!("guitong.{}", self.exchange))
            .set("socket.nagle.disable", "true")
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            // Without it the linked OpenSSL looks where it was built, and trusts nobody.
            .set("ssl.ca.location", "probe");
        for (name, value) in own {
            client.set(*name, *value);
        }
        for (name, value) in &self.config.properties {
            client.set(name, value.reveal());
        }
        client
    }

    pub(crate) fn context(&self) -> Context {
        Context { trouble: self.trouble.clone() }
    }

    /// A consumer that is assigned its partitions by us; its group is never joined.
    pub(crate) fn consumer(&self, own: &[(&str, &str)]) -> Result<Served, LogError> {
        let mut config = self.client(own);
        config.set("group.id", format!("{}.reader", self.exchange)).set("enable.auto.commit", "false");
        let consumer = BaseConsumer::from_config_and_context(&config, self.context()).map_err(|error| self.error(&error))?;
        Served::new(consumer)
    }

    /// What a failed call means. Faults of the way to the brokers pass by themselves; refusals do not.
    pub(crate) fn error(&self, error: &KafkaError) -> LogError {
        match error.rdkafka_error_code().or(admin_code(error)) {
            Some(code) if passes(code) => self.unavailable(error),
            Some(code) if denies(code) => LogError::Denied { detail: self.trouble.explain(error.to_string()) },
            _ => LogError::Other(self.trouble.explain(error.to_string())),
        }
    }

    pub(crate) fn unavailable(&self, detail: impl fmt::Display) -> LogError {
        LogError::Unavailable { detail: self.trouble.explain(format!("{}: {detail}", self.config.brokers.join(","))) }
    }
}

fn admin_code(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        KafkaError::Canceled => Some(RDKafkaErrorCode::OperationTimedOut),
        _ => None,
    }
}

/// Whether the same request may be answered otherwise in a moment.
pub(crate) fn passes(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::MessageTimedOut
            | Code::OperationTimedOut
            | Code::TimedOutQueue
            | Code::RequestTimedOut
            | Code::WaitingForCoordinator
            | Code::Retry
            | Code::State
            | Code::PurgeQueue
            | Code::PurgeInflight
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::BrokerNotAvailable
            | Code::ReplicaNotAvailable
            | Code::NetworkException
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::NotEnoughReplicas
            | Code::NotEnoughReplicasAfterAppend
            | Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::UnknownPartition
    )
}

/// Whether it is the login or a right that is refused.
fn denies(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
    )
}

/// The last thing that a client said about its connections: a timeout alone does not tell a wrong password from a broker that is down.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trouble(Arc<Mutex<Option<String>>>);

impl Trouble {
    fn note(&self, text: &str) {
        // OpenSSL names no setting, and a wrong host name looks to librdkafka like a wrong authority.
        let advice = if text.contains("SSL routines") { TLS_ADVICE } else { "" };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{text}{advice}"));
    }

    fn explain(&self, detail: String) -> String {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).as_deref() {
            Some(last) => format!("{detail} (last: {last})"),
            None => detail,
        }
    }
}

/// Passes what librdkafka logs and reports on.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) trouble: Trouble,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            // A setting that only other kinds of client have: all are given the operator's properties.
            _ if facility == "CONFWARN" => tracing::debug!(facility, "{message}"),
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::warn!(facility, "{message}");
            }
            RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => tracing::info!(facility, "{message}"),
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => tracing::debug!(facility, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // That all brokers are down comes after each fault of the last connection, which says why.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            self.trouble.note(reason);
        }
        tracing::debug!(%error, "{reason}");
    }
}

impl ConsumerContext for Context {}

/// A consumer whose events are served by a thread of its own, so that its messages about itself do not pile up.
pub(crate) struct Served {
    pub(crate) consumer: Arc<BaseConsumer<Context>>,
    stop: Arc<AtomicBool>,
}

impl Served {
    fn new(consumer: BaseConsumer<Context>) -> Result<Self, LogError> {
        let consumer = Arc::new(consumer);
        let stop = Arc::new(AtomicBool::new(false));
        let (served, stopped) = (Arc::clone(&consumer), Arc::clone(&stop));
        let serve = move || {
            while !stopped.load(Ordering::Relaxed) {
                // Records go to their readers' queues; what comes here are events, which the context handles.
                if let Some(Err(error)) = served.poll(SERVE) {
                    tracing::debug!(%error, "consumer");
                }
            }
        };
        spawn("kafka-events", serve)?;
        Ok(Self { consumer, stop })
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Served")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // The thread sees it within [`SERVE`] and may be the last to hold the consumer.
        self.stop.store(true, Ordering::Relaxed);
    }
}

pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, LogError> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map_err(|error| LogError::Other(format!("no thread {name}: {error}")))
}

/// Runs what blocks on the brokers where it holds up nobody.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(LogError::Other(format!("a call to the log was given up: {error}"))),
    }
}
