//! The exchange directory's contract: raw files become validated types, and only validated types build anything.
//!
//! [`load`] reads a directory. The types here are the validated ones: a [`Directory`] exists only where every rule holds, so what
//! is built from it does not check again.

mod exchange;
pub mod files;
mod form;
pub mod join;
pub mod kafka;
pub mod load;
pub mod mapping;
pub mod problem;
pub mod quality;
pub(crate) mod reading;
pub mod resource;
mod revision;
pub mod rules;
pub mod seen;
pub mod sink_table;
mod standard;
pub mod subscription;
pub mod system;
pub mod webhook;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use exchange::MAX_RECORD;
pub use files::Files;
pub use join::{GROUP, Join, JoinKind};
pub use kafka::KafkaTopic;
pub use load::{Purpose, load};
pub use problem::{Problem, Problems, Severity};
pub use quality::Quality;
pub use resource::{Resource, Sharing};
pub use rules::RuleSwitch;
pub use sink_table::{Deletes, OnTypeChange, SinkTable};
pub use standard::load_standard;
pub use subscription::{SinkConfig, Subscription};
pub use system::{SourceConfig, System};
pub use webhook::Webhook;

use crate::standard::Standard;

/// A whole, valid exchange directory.
#[derive(Debug, Clone, PartialEq)]
pub struct Directory {
    pub root: PathBuf,
    /// SHA-256 of the canonical form of all files.
    pub revision: Revision,
    /// The built-in standard with what the directory adds.
    pub standard: Arc<Standard>,
    pub exchange: Exchange,
    pub systems: BTreeMap<Name, Arc<System>>,
    pub resources: BTreeMap<Name, Arc<Resource>>,
    pub departments: BTreeMap<Name, Arc<Department>>,
    pub subscriptions: BTreeMap<Name, Arc<Subscription>>,
    /// Code list files that mappings name, from the root on.
    pub code_files: BTreeSet<String>,
    /// Subscriptions whose approval had ended when the directory was loaded to run: nothing flows to them.
    pub lapsed: Vec<Problem>,
    /// What may go wrong, told where a directory is checked.
    pub warnings: Vec<Problem>,
}

/// Name of a system, resource, department or subscription: its file's name, `[a-z][a-z0-9-]{0,40}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// The name, if it keeps the form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = text.bytes();
        let first = bytes.next()?;
        let rest_is_plain = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        (first.is_ascii_lowercase() && rest_is_plain && text.len() <= 41).then(|| Self(text.into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Fingerprint of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Revision(pub [u8; 32]);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A value that must not be shown: it prints as `***` everywhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The value itself, for the one place that hands it to a client.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// `exchange.toml`.
#[derive(Debug, Clone, PartialEq)]
pub struct Exchange {
    /// Prefix of slots, transactional ids, groups and internal topics.
    pub name: Name,
    pub title: String,
    /// Dates without a zone mean this one.
    pub time_zone: jiff::tz::TimeZone,
    pub log: LogConfig,
    /// `None`: the built-in registry, which lives in the embedded log.
    pub registry: Option<RegistryConfig>,
    /// HTTP API, metrics and health; loopback unless declared otherwise.
    pub listen: SocketAddr,
    /// Partitions of a new `std.` topic; never changed afterwards.
    pub std_partitions: u32,
    /// How long raw topics keep every change before they are compacted or expire.
    pub trace: Duration,
    pub budgets: Budgets,
}

#[derive(Debug, Clone, PartialEq)]
pub enum LogConfig {
    /// One file; relative paths are resolved against the directory's root.
    Embedded {
        path: PathBuf,
    },
    Kafka(KafkaConfig),
}

impl LogConfig {
    /// The directory of this machine in which a node keeps what it writes.
    #[must_use]
    pub fn directory(&self) -> &Path {
        match self {
            Self::Embedded { path } => path.parent().unwrap_or(path),
            Self::Kafka(config) => &config.state_path,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct KafkaConfig {
    pub cluster: KafkaCluster,
    /// Where the local copy of keyed state lives.
    pub state_path: PathBuf,
}

/// How a Kafka cluster is reached.
#[derive(Debug, Clone, PartialEq)]
pub struct KafkaCluster {
    /// `host:port` list.
    pub brokers: Vec<String>,
    /// Replicas of topics that the exchange makes.
    pub replication_factor: u16,
    /// Further librdkafka properties (`ssl.ca.location`, `sasl.mechanism`, …) by their own names; security ones included.
    pub properties: BTreeMap<String, Secret>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RegistryConfig {
    pub url: String,
    pub user: Option<String>,
    pub password: Option<Secret>,
}

/// Bounds in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budgets {
    /// Largest encoded record; CONTRACTS' 16 MiB unless lowered.
    pub max_record: usize,
    /// What one batch may hold before it is appended.
    pub batch: usize,
    /// A batch is appended after this long even when it is not full.
    pub linger: Duration,
}

/// `departments/<name>.toml`.
#[derive(Debug, Clone, PartialEq)]
pub struct Department {
    pub name: Name,
    pub title: String,
    /// Unified social credit code.
    pub code: String,
    pub contacts: Vec<String>,
}
