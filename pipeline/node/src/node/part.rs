//! One running part: which configuration it was started with, how it is stopped, and what it says of itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use guitong_connectors::registration::{self, Parts};
use guitong_connectors::run::{Connector, ConnectorState, ConnectorStatus, Request};
use guitong_connectors::source::Phase as SourcePhase;
use guitong_deliver::{DeliverStatus, Deliverer, DelivererHandle, Delivery, Phase as DeliverPhase, Pools};
use guitong_log::{OwnerId, Placement, Role};
use guitong_normalise::{
    ColumnChange, NormaliseContext, Normaliser, NormaliserHandle, NormaliserStatus, Phase as NormalisePhase,
};
use guitong_schemas::contract::{Directory, Name, Resource, SinkConfig, Subscription, System};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::open::Opened;
use crate::status::{Part as PartStatus, ResourceStatus, Snapshot, Status, SubscriptionStatus, SystemStatus};

/// What a part is started with; a part whose configuration changed is stopped and started again.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Config {
    System(Arc<System>),
    Resource(Arc<Resource>, EntityForm),
    Subscription(Arc<Subscription>, Arc<Resource>, EntityForm),
}

/// Fingerprint of the entity and of what its records are made by: a change of the standard restarts what it concerns alone.
type EntityForm = [u8; 32];

/// What all parts of a stage share, and which stages this node runs.
#[derive(Debug)]
pub(crate) struct Stages {
    roles: Vec<Role>,
    connect: guitong_connectors::metrics::Metrics,
    normalise: guitong_normalise::Metrics,
    deliver: guitong_deliver::Metrics,
    /// Connections to sinks, shared by address.
    pools: Pools,
    /// Deliverers answer commands and deliver nothing by themselves.
    attends: bool,
    /// Those of the directory in force.
    subscriptions: watch::Sender<Arc<BTreeMap<Name, Arc<Subscription>>>>,
}

/// A part that was started; it may have ended since.
#[derive(Debug)]
pub(crate) struct Part {
    config: Config,
    stop: CancellationToken,
    task: JoinHandle<()>,
    view: View,
    /// Why it ended, where a person has to act.
    problem: watch::Receiver<Option<String>>,
}

#[derive(Debug)]
enum View {
    System(watch::Receiver<ConnectorStatus>, mpsc::Sender<Request>),
    Resource(NormaliserHandle),
    Subscription(DelivererHandle),
    /// It could not be started at all.
    None,
}

impl Stages {
    /// Connections to sinks.
    pub(crate) fn pools(&self) -> &Pools {
        &self.pools
    }

    pub(crate) fn register(registry: &prometheus::Registry, roles: Vec<Role>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            roles,
            connect: guitong_connectors::metrics::Metrics::register(registry)?,
            pools: Pools::default(),
            attends: false,
            normalise: guitong_normalise::Metrics::register(registry)?,
            deliver: guitong_deliver::Metrics::register(registry)?,
            subscriptions: watch::Sender::default(),
        })
    }

    /// For the length of a command.
    pub(crate) fn attending(self) -> Self {
        Self { attends: true, ..self }
    }

    /// Takes note of the directory in force, for parts that run on under it.
    pub(crate) fn follow(&self, directory: &Directory) {
        self.subscriptions.send_replace(Arc::new(directory.subscriptions.clone()));
    }

    /// The parts that the directory declares, this node's roles include, and the log's placement gives to this node.
    pub(crate) fn wanted(&self, directory: &Directory, placement: &Placement) -> BTreeMap<OwnerId, Config> {
        let systems = directory.systems.iter().map(|(name, system)| (Role::Connect, name, Config::System(Arc::clone(system))));
        let standard = &directory.standard;
        let forms: BTreeMap<&str, EntityForm> =
            standard.entities().map(|entity| (entity.name.as_str(), standard.fingerprint(entity))).collect();
        // A validated resource names an entity of the standard.
        let form = |resource: &Resource| forms.get(resource.entity.as_str()).copied().unwrap_or_default();
        let resources = directory
            .resources
            .iter()
            .map(|(name, resource)| (Role::Normalise, name, Config::Resource(Arc::clone(resource), form(resource))));
        let subscriptions = directory.subscriptions.iter().filter_map(|(name, subscription)| {
            let resource = directory.resources.get(&subscription.resource)?;
            let config = Config::Subscription(Arc::clone(subscription), Arc::clone(resource), form(resource));
            Some((Role::Deliver, name, config))
        });
        let all = systems.chain(resources).chain(subscriptions);
        let ours = all.filter(|(role, _, _)| self.roles.contains(role));
        let owned = ours.map(|(role, name, config)| (OwnerId::new(role, name.as_str()), config));
        owned.filter(|(owner, _)| placement.holds(owner)).collect()
    }

    /// Starts one part. Never fails: what cannot start says so in its status.
    pub(crate) fn start(&self, directory: &Directory, opened: &Opened, config: Config) -> Part {
        let stop = CancellationToken::new();
        let (ended, problem) = watch::channel(None);
        let started = match &config {
            Config::System(system) => self.connect(directory, opened, system, stop.clone(), ended, false),
            Config::Resource(resource, _) => self.normalise(directory, opened, resource, stop.clone(), ended),
            Config::Subscription(subscription, resource, _) => {
                self.deliver(directory, opened, subscription, resource, stop.clone(), ended)
            }
        };
        let (view, task) = started;
        Part { config, stop, task, view, problem }
    }

    /// Starts a system's connector, which reads everything anew where changes are missing.
    pub(crate) fn repair(&self, directory: &Directory, opened: &Opened, system: &Arc<System>) -> Part {
        let stop = CancellationToken::new();
        let (ended, problem) = watch::channel(None);
        let (view, task) = self.connect(directory, opened, system, stop.clone(), ended, true);
        Part { config: Config::System(Arc::clone(system)), stop, task, view, problem }
    }

    fn connect(
        &self,
        directory: &Directory,
        opened: &Opened,
        system: &Arc<System>,
        stop: CancellationToken,
        ended: Ended,
        repair: bool,
    ) -> Started {
        let Parts { settings, source, watch, anew } = registration::of(system, &directory.exchange, &self.connect);
        let metrics = self.connect.of(system.name.as_str());
        let connector = Connector::new(settings, Arc::clone(&opened.log), Arc::clone(&opened.registry), source, metrics);
        let connector = connector.watched(watch);
        let connector = if repair { connector.repairing(anew) } else { connector };
        let view = View::System(connector.status(), connector.requests());
        (view, spawn(system.name.as_str(), "system", connector.run(stop), ended))
    }

    fn normalise(
        &self,
        directory: &Directory,
        opened: &Opened,
        resource: &Arc<Resource>,
        stop: CancellationToken,
        ended: Ended,
    ) -> Started {
        let context = NormaliseContext {
            log: Arc::clone(&opened.log),
            registry: Arc::clone(&opened.registry),
            standard: Arc::clone(&directory.standard),
            exchange: Arc::new(directory.exchange.clone()),
            metrics: self.normalise.clone(),
            subscriptions: self.subscriptions.subscribe(),
        };
        match Normaliser::new(context, Arc::clone(resource)) {
            Ok((normaliser, handle)) => {
                (View::Resource(handle), spawn(resource.name.as_str(), "resource", normaliser.run(stop), ended))
            }
            Err(error) => refused(resource.name.as_str(), &error, &ended),
        }
    }

    fn deliver(
        &self,
        directory: &Directory,
        opened: &Opened,
        subscription: &Arc<Subscription>,
        resource: &Arc<Resource>,
        stop: CancellationToken,
        ended: Ended,
    ) -> Started {
        let Some(entity) = directory.standard.entity(&resource.entity) else {
            // A validated resource names an entity of the standard.
            ended.send_replace(Some(format!("the standard has no entity {}", resource.entity)));
            return (View::None, tokio::spawn(std::future::ready(())));
        };
        let deliverer = Deliverer::new(Delivery {
            exchange: Arc::new(directory.exchange.clone()),
            revision: directory.revision,
            subscription: Arc::clone(subscription),
            resource: Arc::clone(resource),
            entity: Arc::clone(entity),
            log: Arc::clone(&opened.log),
            registry: Arc::clone(&opened.registry),
            pools: self.pools.clone(),
            metrics: self.deliver.clone(),
        });
        match deliverer {
            Ok(deliverer) => {
                let view = View::Subscription(deliverer.handle());
                let task = match self.attends {
                    true => tokio::spawn(deliverer.attend(stop)),
                    false => spawn(subscription.name.as_str(), "subscription", deliverer.run(stop), ended),
                };
                (view, task)
            }
            Err(error) => refused(subscription.name.as_str(), &error, &ended),
        }
    }
}

type Ended = watch::Sender<Option<String>>;
type Started = (View, JoinHandle<()>);

fn refused(name: &str, error: &dyn std::error::Error, ended: &Ended) -> Started {
    tracing::error!(part = name, %error, "not started");
    ended.send_replace(Some(error.to_string()));
    (View::None, tokio::spawn(std::future::ready(())))
}

/// Runs a stage in a task of its own; what ends it is logged once and kept for the status.
fn spawn<E: std::error::Error + Send>(
    name: &str,
    kind: &'static str,
    run: impl Future<Output = Result<(), E>> + Send + 'static,
    ended: Ended,
) -> JoinHandle<()> {
    let name = name.to_owned();
    let span = tracing::info_span!("part", kind, name);
    // In the task itself it would have two places: that where it is given, and that where it runs.
    let run = Box::pin(run);
    let task = async move {
        if let Err(error) = run.await {
            tracing::error!(%error, "stopped");
            ended.send_replace(Some(error.to_string()));
        }
    };
    tokio::spawn(tracing::Instrument::instrument(task, span))
}

impl Part {
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn cancel(&self) {
        self.stop.cancel();
    }

    /// Cancelled once the part is to stop.
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Waits until the part has done its last batch; one that has not by `deadline` is dropped. Whether it finished.
    pub(crate) async fn finish(mut self, deadline: tokio::time::Instant) -> bool {
        // A panic in a part has been printed by the runtime; the others go on.
        let finished = tokio::time::timeout_at(deadline, &mut self.task).await.is_ok();
        if !finished {
            self.task.abort();
        }
        finished
    }

    pub(crate) fn normaliser(&self) -> Option<(&Resource, &NormaliserHandle)> {
        match (&self.config, &self.view) {
            (Config::Resource(resource, _), View::Resource(handle)) => Some((resource, handle)),
            _ => None,
        }
    }

    pub(crate) fn deliverer(&self) -> Option<(&Subscription, &DelivererHandle)> {
        match (&self.config, &self.view) {
            (Config::Subscription(subscription, ..), View::Subscription(handle)) => Some((subscription, handle)),
            _ => None,
        }
    }

    /// Where commands for the system's source go.
    pub(crate) fn requests(&self) -> Option<(&Arc<System>, &mpsc::Sender<Request>)> {
        match (&self.config, &self.view) {
            (Config::System(system), View::System(_, requests)) => Some((system, requests)),
            _ => None,
        }
    }

    /// Whether it is a system that stopped because changes are missing.
    pub(crate) fn has_gap(&self) -> bool {
        matches!(&self.view, View::System(status, _) if matches!(status.borrow().state, ConnectorState::Failed { gap: true, .. }))
    }

    /// Adds what the part says of itself.
    pub(crate) fn report(&self, status: &mut Status) {
        let problem = self.problem.borrow().clone();
        match (&self.config, &self.view) {
            (Config::System(system), View::System(view, _)) => status.systems.push(of_system(system, &view.borrow(), problem)),
            (Config::System(system), _) => {
                let part = stopped(system.name.as_str(), &system.title, problem);
                status.systems.push(SystemStatus { part, ..SystemStatus::default() });
            }
            (Config::Resource(resource, _), View::Resource(view)) => {
                status.resources.push(of_resource(resource, &view.status().borrow(), problem));
            }
            (Config::Resource(resource, _), _) => {
                let part = stopped(resource.name.as_str(), &resource.title, problem);
                status.resources.push(ResourceStatus { part, ..ResourceStatus::default() });
            }
            (Config::Subscription(subscription, ..), View::Subscription(view)) => {
                status.subscriptions.push(of_subscription(subscription, &view.status().borrow(), problem));
            }
            (Config::Subscription(subscription, ..), _) => {
                let part = stopped(subscription.name.as_str(), &subscription.purpose, problem);
                status.subscriptions.push(SubscriptionStatus { part, sink: sink(subscription), ..SubscriptionStatus::default() });
            }
        }
    }
}

fn stopped(name: &str, title: &str, problem: Option<String>) -> PartStatus {
    PartStatus { name: name.to_owned(), title: title.to_owned(), state: "stopped".to_owned(), problem, behind_seconds: None }
}

fn part(name: &str, title: &str, state: (&str, Option<String>), problem: Option<String>, behind: Option<Duration>) -> PartStatus {
    let (state, trouble) = match problem {
        Some(problem) => ("stopped", Some(problem)),
        None => state,
    };
    let behind_seconds = behind.map(|time| time.as_secs_f64());
    PartStatus { name: name.to_owned(), title: title.to_owned(), state: state.to_owned(), problem: trouble, behind_seconds }
}

fn of_system(system: &System, view: &ConnectorStatus, problem: Option<String>) -> SystemStatus {
    let state = match (&view.state, &view.source.phase) {
        (ConnectorState::Starting, _) | (ConnectorState::Running, SourcePhase::Starting) => ("starting", None),
        (ConnectorState::Running, SourcePhase::Snapshot { .. }) => ("snapshot", None),
        (ConnectorState::Running, SourcePhase::Streaming) => ("streaming", None),
        (ConnectorState::Retrying { error, .. }, _) => ("retrying", Some(error.clone())),
        (ConnectorState::Failed { error, .. }, _) => ("stopped", Some(error.clone())),
        (ConnectorState::Stopped, _) => ("stopped", None),
    };
    let snapshot_done = match view.source.phase {
        SourcePhase::Snapshot { rows_done, rows_estimated: Some(total) } if total > 0 => {
            Some((rows_done as f64 / total as f64).min(1.0))
        }
        _ => None,
    };
    SystemStatus {
        part: part(system.name.as_str(), &system.title, state, problem, Some(view.lag)),
        events: view.totals.events,
        snapshot_done,
        retained_bytes: view.kept.retained_bytes,
        left_bytes: view.kept.left_bytes,
        behind_bytes: view.source.behind_bytes,
        snapshot: view.source.snapshot.as_ref().map(|snapshot| Snapshot {
            rows_done: snapshot.rows_done,
            rows_left: snapshot.rows_left,
            rows_per_second: snapshot.rows_per_second,
            seconds_left: snapshot.rows_per_second.filter(|rate| *rate > 0.0).map(|rate| snapshot.rows_left as f64 / rate),
            tables: snapshot.tables.clone(),
            hold: snapshot.hold.clone(),
            limits: snapshot.limits.clone(),
        }),
    }
}

fn of_resource(resource: &Resource, view: &NormaliserStatus, problem: Option<String>) -> ResourceStatus {
    let state = match &view.phase {
        NormalisePhase::Starting => ("starting", None),
        NormalisePhase::WaitingForTopic => ("waiting", None),
        NormalisePhase::WaitingForTables(tables) => ("waiting", Some(format!("the first load of {tables} is not done"))),
        NormalisePhase::Loading => ("loading", None),
        NormalisePhase::Running => ("running", told(&view.changes)),
        NormalisePhase::Paused(why) => ("paused", Some(why.clone())),
        NormalisePhase::Retrying(why) => ("retrying", Some(why.clone())),
        NormalisePhase::Stopped => ("stopped", None),
    };
    let halted = view.rebuild.as_ref().and_then(|rebuild| rebuild.halted.as_ref());
    let halted = halted.map(|why| format!("its rebuild halts: {why} (guitong resource resume {})", resource.name));
    let age = |at: i64| u64::try_from((jiff::Timestamp::now().as_microsecond() - at) / 1_000_000).unwrap_or(0);
    ResourceStatus {
        part: part(
            resource.name.as_str(),
            &resource.title,
            (state.0, state.1.or(halted)),
            problem,
            Some(Duration::from_secs_f64(view.lag_seconds.max(0.0))),
        ),
        received: view.received,
        published: view.entities,
        held_back: view.held_back,
        quarantined: view.quarantined,
        rebuild: view.rebuild.clone(),
        rebuilt: view.rebuilt,
        kept: view.kept,
        oldest_quarantined_seconds: view.oldest_quarantine_us.map(age),
        column_changes: serde_json::to_value(&view.changes).unwrap_or_default(),
        rules: resource.rules.iter().map(ToString::to_string).collect(),
    }
}

/// What somebody has to look at though the resource runs.
fn told(changes: &[ColumnChange]) -> Option<String> {
    let told: Vec<String> = changes.iter().map(ToString::to_string).collect();
    (!told.is_empty()).then(|| told.join("\n"))
}

fn of_subscription(subscription: &Subscription, view: &DeliverStatus, problem: Option<String>) -> SubscriptionStatus {
    let state = match &view.phase {
        DeliverPhase::Starting => ("starting", None),
        DeliverPhase::Refilling { .. } => ("filling", None),
        DeliverPhase::Replaying { .. } => ("replaying", None),
        DeliverPhase::Live => ("live", None),
        DeliverPhase::Waiting { reason } => ("waiting", Some(reason.clone())),
        DeliverPhase::Retrying { error } => ("retrying", Some(error.clone())),
        DeliverPhase::Paused { error } => ("paused", Some(error.clone())),
        DeliverPhase::Stopped { error } => {
            ("stopped", Some(format!("{error}\nonce that is settled: guitong subscription resume {}", subscription.name)))
        }
        DeliverPhase::Held { by, reason } => {
            ("paused", Some(format!("by {by}: {reason}\nto go on: guitong subscription resume {}", subscription.name)))
        }
    };
    let age = |at: i64| u64::try_from((jiff::Timestamp::now().as_microsecond() - at) / 1_000_000).unwrap_or(0);
    let behind = Some(Duration::from_secs_f64(view.lag_seconds.max(0.0)));
    SubscriptionStatus {
        part: part(subscription.name.as_str(), &subscription.purpose, state, problem, behind),
        sink: sink(subscription),
        delivered: view.upserts + view.deletes,
        parked: view.parked,
        oldest_parked_seconds: view.oldest_parked_us.map(age),
        behind_records: Some(view.lag_records),
    }
}

fn sink(subscription: &Subscription) -> String {
    match &subscription.sink {
        SinkConfig::Postgres { .. } => "postgres".to_owned(),
        SinkConfig::Mysql { .. } => "mysql".to_owned(),
        SinkConfig::Sqlite { .. } => "sqlite".to_owned(),
        SinkConfig::Files(_) => "files".to_owned(),
        SinkConfig::Pull { .. } => "pull".to_owned(),
        SinkConfig::Webhook(_) => "webhook".to_owned(),
        SinkConfig::Kafka(_) => "kafka".to_owned(),
    }
}
