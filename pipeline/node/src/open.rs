//! From files to what stages stand on: the validated directory, the log and the registry.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_log::kafka::{KafkaLog, KafkaOptions};
use guitong_log::registry::{BuiltinRegistry, RegistryClient, SchemaRegistry};
use guitong_log::{ExchangeLog, Role};
use guitong_schemas::contract::load::{Purpose, load as load_directory};
use guitong_schemas::contract::{Directory, LogConfig, Problems};

use crate::exit::{self, Failure};

/// The directory as it stands, with every problem of it.
///
/// # Errors
/// The problems.
pub(crate) fn read(dir: &Path, purpose: Purpose) -> Result<Directory, Problems> {
    let environment = |name: &str| std::env::var(name).ok();
    load_directory(dir, &environment, jiff::Timestamp::now(), purpose)
}

/// The directory, or a failure that carries its problems as text.
///
/// # Errors
/// When the directory has problems.
pub fn load(dir: &Path) -> Result<Directory, Failure> {
    read(dir, Purpose::Run)
        .map_err(|problems| Failure::usage(format!("{} cannot be used\n{}", dir.display(), problems.render(false))))
}

/// As [`load`], with the problems printed as `guitong check` prints them.
pub(crate) fn load_or_report(dir: &Path, color: bool) -> Result<Directory, Failure> {
    read(dir, Purpose::Run).map_err(|problems| reported(&problems, color))
}

/// As [`load_or_report`], for what reaches no server: secrets that are not set in this place pass as empty.
pub(crate) fn look_or_report(dir: &Path, color: bool) -> Result<Directory, Failure> {
    read(dir, Purpose::Look).map_err(|problems| reported(&problems, color))
}

/// As [`load_or_report`], for what looks at systems and drafts resources: others that are not finished are left out, and named.
pub(crate) fn draft_or_report(dir: &Path, color: bool) -> Result<Directory, Failure> {
    let directory = read(dir, Purpose::Draft).map_err(|problems| reported(&problems, color))?;
    let is_left_out = |file: &&str| match file.strip_suffix(".toml").and_then(|file| file.split_once('/')) {
        Some(("resources", name)) => !directory.resources.contains_key(name),
        Some(("subscriptions", name)) => !directory.subscriptions.contains_key(name),
        _ => false,
    };
    let named = directory.warnings.iter().map(|problem| problem.file.as_str()).filter(is_left_out);
    for file in named.collect::<BTreeSet<_>>() {
        note!("warning: {file} has problems and is left out; `guitong check` tells them");
    }
    Ok(directory)
}

fn reported(problems: &Problems, color: bool) -> Failure {
    crate::output::write_note(problems.render(color));
    Failure { code: exit::USAGE, message: String::new(), help: None }
}

/// The log and the registry of a directory.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    pub(crate) log: Arc<dyn ExchangeLog>,
    pub(crate) registry: Arc<dyn SchemaRegistry>,
    pub(crate) kind: Kind,
}

/// What only one kind of log can do.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Embedded { log: EmbeddedLog, builtin: Option<BuiltinRegistry> },
    Kafka(Arc<KafkaLog>),
}

impl Opened {
    /// Opens what the directory declares, for a node that runs `roles`; without any, to look and to copy. Brokers that do not answer
    /// yet are waited for while the node is starting.
    ///
    /// # Errors
    /// When the log is in use, damaged, newer, or cannot be reached.
    pub(crate) async fn open(
        directory: &Directory,
        roles: &[Role],
        metrics: guitong_log::metrics::Metrics,
    ) -> Result<Self, Failure> {
        let client = match &directory.exchange.registry {
            Some(config) => Some(RegistryClient::new(config).map_err(|error| Failure::usage(error.to_string()))?),
            None => None,
        };
        match &directory.exchange.log {
            LogConfig::Embedded { path } => Self::open_embedded(&directory.root.join(path), client, metrics).await,
            LogConfig::Kafka(config) => {
                let client = client.ok_or_else(|| Failure::usage("a Kafka log needs [registry] in exchange.toml"))?;
                let log = KafkaLog::open(KafkaOptions {
                    exchange: directory.exchange.name.to_string(),
                    config: config.clone(),
                    roles: roles.to_vec(),
                    patience: if roles.is_empty() { Duration::from_secs(10) } else { Duration::MAX },
                    metrics,
                });
                let log = Arc::new(log.await?);
                Ok(Self { log: Arc::clone(&log) as Arc<dyn ExchangeLog>, registry: Arc::new(client), kind: Kind::Kafka(log) })
            }
        }
    }

    async fn open_embedded(
        path: &Path,
        client: Option<RegistryClient>,
        metrics: guitong_log::metrics::Metrics,
    ) -> Result<Self, Failure> {
        make_parent(path)?;
        let log = EmbeddedLog::open_with(&EmbeddedConfig { path: path.to_owned(), max_bytes: None }, metrics).await?;
        let (registry, builtin): (Arc<dyn SchemaRegistry>, _) = match client {
            Some(client) => (Arc::new(client), None),
            None => {
                let builtin = BuiltinRegistry::open(&log).await.map_err(|error| Failure::unreachable(error.to_string()))?;
                (Arc::new(builtin.clone()), Some(builtin))
            }
        };
        Ok(Self { log: Arc::new(log.clone()), registry, kind: Kind::Embedded { log, builtin } })
    }

    /// Ends the log after what was appended before.
    pub(crate) async fn close(&self) {
        match &self.kind {
            Kind::Embedded { log, .. } => log.close().await,
            Kind::Kafka(log) => log.close().await,
        }
    }

    /// Copies the embedded log to a file that does not exist yet.
    ///
    /// # Errors
    /// When the log is not the embedded one, or the file cannot be written.
    pub(crate) async fn backup(&self, target: &Path) -> Result<(), Failure> {
        match &self.kind {
            Kind::Embedded { log, .. } => Ok(log.backup(target).await?),
            Kind::Kafka(_) => Err(Failure::usage("the log is Apache Kafka").help("copy its topics with Kafka's own tools")),
        }
    }
}

/// Puts a backup in the place of the directory's embedded log; the path that it has now.
///
/// # Errors
/// When there is a log already and `replace` is not given, when it is in use, or when the file is no backup.
pub(crate) async fn restore(directory: &Directory, backup: &Path, replace: bool) -> Result<PathBuf, Failure> {
    let LogConfig::Embedded { path } = &directory.exchange.log else {
        return Err(Failure::usage("the log is Apache Kafka").help("restore its topics with Kafka's own tools"));
    };
    let path = directory.root.join(path);
    make_parent(&path)?;
    if path.exists() && !replace {
        let message = format!("{} is there; it would be put aside and the backup would take its place", path.display());
        return Err(Failure::usage(message).help("say --yes to do so"));
    }
    EmbeddedLog::restore(backup, &path).await?;
    Ok(path)
}

fn make_parent(path: &Path) -> Result<(), Failure> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|error| Failure::unreachable(format!("{}: {error}", parent.display())))
}
