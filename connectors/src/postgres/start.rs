//! The start of a connection: checks in the order in which a person would mend what they find, then slot, position and first load.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use guitong_schemas::contract::system::{GapPolicy, PostgresConfig, SourceConfig, System};
use guitong_schemas::position::Lsn;
use guitong_schemas::table::TableName;
use sqlx::postgres::PgConnection;
use tokio::sync::watch::Receiver;

use super::PostgresSource;
use super::catalogue::{self, TableFacts};
use super::config::Address;
use super::fault::Faults;
use super::identity;
use super::in_progress::InProgress;
use super::in_text;
use super::job::Job;
use super::metrics::Metrics;
use super::position::Position;
use super::proof::Proof;
use super::relation::{Relation, Relations, message_of};
use super::session::Session;
use super::setup::{self, Publication, Server};
use super::slot::{self, Obstacle, Start};
use super::snapshot::FirstLoad;
use super::standby::{Slots, Standby};
use super::stream::Assembly;
use super::wire::{Identity, Login, Purpose};
use crate::source::{Kept, SourceError};

/// How long the server may take to end a session before its slot is free for another.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// What `prepare` has to know of a database.
#[derive(Debug, Clone)]
pub struct Survey {
    /// The user of the connection URL.
    pub role: String,
    /// `server_version_num`, such as 150018.
    pub server_version: i32,
    pub tables: Vec<TableFacts>,
}

impl Survey {
    /// # Errors
    /// When the system's patterns name no table.
    pub fn check(&self, system: &System) -> Result<(), SourceError> {
        setup::check_any(system, &self.tables, &Faults::of(system))
    }
}

/// Looks at the tables that the system names; needs no rights beyond connecting.
///
/// # Errors
/// When the database cannot be reached.
pub async fn survey(system: &System) -> Result<Survey, SourceError> {
    let faults = Faults::of(system);
    let config = config_of(system, &faults)?;
    let address = primary(system, &config, &faults)?;
    let mut connection = address.connect(&faults).await?;
    let asked = async {
        let server = Server::ask(&mut connection).await?;
        Ok::<_, sqlx::Error>((server.version, catalogue::selected(&mut connection, system).await?))
    };
    let (server_version, tables) = asked.await.map_err(|error| faults.query("reading the catalogue", &error))?;
    Ok(Survey { role: address.user.clone(), server_version, tables })
}

pub(crate) fn config_of(system: &System, faults: &Faults) -> Result<PostgresConfig, SourceError> {
    match &system.source {
        SourceConfig::Postgres(config) => Ok(config.clone()),
        _ => Err(faults.setup("this system is no PostgreSQL database", "set kind = \"postgres\"")),
    }
}

pub(crate) fn address(system: &System, config: &PostgresConfig, faults: &Faults) -> Result<Address, SourceError> {
    Address::parse(&config.url, format!("guitong {}", system.name), faults)
}

/// Where tables are read and watermarks are written.
pub(crate) fn primary(system: &System, config: &PostgresConfig, faults: &Faults) -> Result<Address, SourceError> {
    let url = config.primary_url.as_ref().unwrap_or(&config.url);
    Address::parse(url, format!("guitong {}", system.name), faults)
}

pub(crate) async fn connect(
    system: Arc<System>,
    position: Option<Bytes>,
    directory: Arc<Path>,
    (metrics, kept): (&Metrics, Receiver<Kept>),
) -> Result<PostgresSource, SourceError> {
    let faults = Faults::of(&system);
    let on_gap = config_of(&system, &faults)?.on_gap;
    let open = |lacking| {
        let (system, position, directory) = (Arc::clone(&system), position.clone(), Arc::clone(&directory));
        open(system, position, directory, (metrics, kept.clone()), lacking)
    };
    let mut source = open(None).await?;
    match source.prove().await {
        Err(SourceError::Gap { detail, .. }) if on_gap == GapPolicy::Resnapshot => {
            drop(source);
            wait_for_slot(&system, &faults).await?;
            open(Some(detail)).await
        }
        proved => proved.map(|()| source),
    }
}

/// Waits until the server has seen the end of the session that used the slot.
async fn wait_for_slot(system: &System, faults: &Faults) -> Result<(), SourceError> {
    let config = config_of(system, faults)?;
    let mut connection = address(system, &config, faults)?.connect(faults).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let slot = slot::find(&mut connection, &config.slot).await;
        let slot = slot.map_err(|error| faults.query("asking for the slot", &error))?;
        if slot.is_none_or(|slot| slot.active_pid.is_none()) || Instant::now() > deadline {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Connects and begins to stream; where changes are `lacking`, for which reason is told, as the gap that this is.
async fn open(
    system: Arc<System>,
    position: Option<Bytes>,
    directory: Arc<Path>,
    (metrics, kept): (&Metrics, Receiver<Kept>),
    lacking: Option<String>,
) -> Result<PostgresSource, SourceError> {
    // Without a provider chosen TLS panics; another part of the process may have chosen one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let faults = Faults::of(&system);
    let mut config = config_of(&system, &faults)?;
    let position = position.as_ref().map(|bytes| Position::from_bytes(bytes));
    let position = position.transpose().map_err(|error| faults.protocol(format!("the stored position: {error}")))?;
    let (decoding, address) = (address(&system, &config, &faults)?, primary(&system, &config, &faults)?);
    let mut connection = address.connect(&faults).await?;

    let server = Server::ask(&mut connection).await.map_err(|error| faults.query("asking the server", &error))?;
    server.check(&address.place(), config.failover, &faults)?;
    setup::check_origin(server.version, &config, &faults)?;
    setup::check_failover(server.version, &config, &faults)?;
    let tables = catalogue::selected(&mut connection, &system).await;
    let tables = tables.map_err(|error| faults.query("reading the catalogue", &error))?;
    let published = setup::published_tables(&mut connection, &server, &config, &faults).await?;
    setup::check_tables(&system, (&config, &published), &address.user, &tables, &faults)?;
    identity::tell(&system, &tables);
    let publication = setup::publication(&mut connection, &server, &system, &config, &tables, &faults).await?;

    let mut standby = Standby::connect(&config, (&decoding, &address), &faults).await?;
    let mut login = Login::open(&decoding, Purpose::Replicate, &faults).await?;
    let identity = login.identify().await?;
    let slots = match &mut standby {
        None => Slots { connection: &mut connection, primary: None },
        Some(standby) => {
            Standby::check_primary(&address, &identity, &faults).await?;
            Slots { connection: &mut standby.connection, primary: Some(&mut connection) }
        }
    };
    let known = Known { position, lacking, asked: publication.asked(&config) };
    let begin = begin((slots, &mut login), &config, &address.database, known, &identity, &faults).await?;
    let mut relations = Relations::default();
    let known = relations_of(&mut connection, &mut relations, &system, &publication, &tables, &faults).await?;
    if config.binary
        && let Some((_, relation)) = known.iter().find(|(_, relation)| relation.printed().is_none())
    {
        in_text::tell(&system, relation);
        config.binary = false;
    }
    let patience = standby.as_ref().map_or(server.sender_timeout, |standby| standby.server.sender_timeout);
    let lsn = begin.position.lsn;
    // What has to be proved keeps its proof: the server is told no more than it knows.
    let (from, durable) = begin.proof.as_ref().map_or((lsn, lsn), |proof| (proof.from(), begin.confirmed.min(lsn)));
    let wire = login.start(&config, (from, durable), patience).await?;

    let metrics = metrics.of(system.name.as_str());
    let mut assembly = Assembly::new(begin.position, system.form.transactions, metrics.clone());
    for (index, name) in begin.stale.iter().enumerate() {
        if let Some((_, relation)) = known.iter().find(|(facts, _)| facts.name == *name) {
            assembly.forget(&relation.table, now_us(), u32::try_from(index).unwrap_or(u32::MAX));
        }
    }
    let mut session = Session::new((address, connection), faults.clone());
    let load = first_load(&system, &mut assembly.position, &known, &mut session, begin.read_again).await?;
    Ok(PostgresSource {
        tables: tables.iter().map(|table| table.name.to_string()).collect(),
        handed: (assembly.position.lsn, Instant::now()),
        server_end: identity.end,
        system,
        config,
        faults,
        wire,
        patience,
        session,
        relations,
        assembly,
        in_progress: InProgress::new(directory, metrics.in_progress.clone()),
        replay: None,
        load,
        dirty: begin.fresh,
        kept,
        proof: begin.proof,
        passed_over: BTreeSet::new(),
        told: BTreeSet::new(),
        metrics,
    })
}

/// What is known when a place to begin is looked for.
struct Known {
    position: Option<Position>,
    /// Why changes are missing, where that was found by streaming.
    lacking: Option<String>,
    /// What the stream is asked for.
    asked: String,
}

struct Begin {
    position: Position,
    /// As far as the slot was confirmed.
    confirmed: Lsn,
    proof: Option<Proof>,
    /// The position is not in the log yet.
    fresh: bool,
    /// Tables of an earlier epoch.
    stale: Vec<TableName>,
    /// Read every table even where snapshots are off: the gap is repaired by it.
    read_again: bool,
}

/// Where to begin: after the stored position, at a slot without one, or at a new slot; after a gap only where the system allows it.
async fn begin(
    (mut slots, login): (Slots<'_>, &mut Login),
    config: &PostgresConfig,
    database: &str,
    Known { position, lacking, asked }: Known,
    identity: &Identity,
    faults: &Faults,
) -> Result<Begin, SourceError> {
    let failed = |error: sqlx::Error| faults.query("preparing the replication slot", &error);
    let found = slot::find(slots.connection, &config.slot).await.map_err(failed)?;
    let fresh = |epoch, lsn| {
        let mut position = Position::new(identity.system_id.clone(), identity.timeline, epoch, lsn);
        position.forked = identity.history.begun();
        position.asks(asked.clone());
        position
    };
    let confirmed = found.as_ref().and_then(|found| found.confirmed).unwrap_or_default();
    let checked = slot::check(found.as_ref(), position.as_ref(), identity, database, config, faults);
    match checked.and_then(|start| lacking.map_or(Ok(start), |detail| Err(Obstacle::Gap(detail)))) {
        Ok(start) => {
            if config.failover && found.is_some_and(|found| found.failover == Some(false)) {
                login.keep_copies(&config.slot).await?;
            }
            let (position, is_fresh) = match (start, position) {
                (Start::Resume, Some(mut position)) => {
                    position.asks(asked.clone());
                    resume(position, identity, config)
                }
                (Start::Adopt(lsn), _) => (fresh(1, lsn), true),
                (Start::New | Start::Resume, _) => (fresh(1, slots.make(config).await.map_err(failed)?), true),
            };
            let proof = Proof::of(&position, confirmed);
            Ok(Begin { position, confirmed, proof, fresh: is_fresh, stale: Vec::new(), read_again: false })
        }
        Err(Obstacle::Fault(error)) => Err(error),
        Err(Obstacle::Gap(detail)) => {
            let Some(old) = position.filter(|_| config.on_gap == GapPolicy::Resnapshot) else { return Err(faults.gap(detail)) };
            tracing::warn!(
                slot = config.slot,
                detail,
                epoch = old.epoch + 1,
                "changes may be missing: reading every table again"
            );
            if found.is_some() {
                slot::drop_slot(slots.connection, &config.slot).await.map_err(failed)?;
            }
            let lsn = slots.make(config).await.map_err(failed)?;
            let stale = old.tables.iter().map(|progress| progress.table()).collect();
            let position = fresh(old.epoch + 1, lsn);
            Ok(Begin { position, confirmed: lsn, proof: None, fresh: true, stale, read_again: true })
        }
    }
}

/// The position on the server's timeline, and whether it has to be stored: a server that took over has everything before it.
fn resume(mut position: Position, identity: &Identity, config: &PostgresConfig) -> (Position, bool) {
    let promoted = position.timeline != identity.timeline;
    if promoted {
        tracing::info!(
            slot = config.slot, lsn = %position.lsn, from = position.timeline, to = identity.timeline,
            "a standby took over and has everything that was read: going on there"
        );
    }
    let forked = identity.history.begun().or(position.forked.filter(|_| !promoted));
    let changed = promoted || position.forked != forked;
    (position.timeline, position.forked) = (identity.timeline, forked);
    (position, changed)
}

/// Every selected table as the stream would announce it now.
async fn relations_of<'a>(
    connection: &mut PgConnection,
    relations: &mut Relations,
    system: &System,
    publication: &Publication,
    tables: &'a [TableFacts],
    faults: &Faults,
) -> Result<Vec<(&'a TableFacts, Arc<Relation>)>, SourceError> {
    let oids: Vec<u32> = tables.iter().flat_map(|table| &table.columns).map(|column| column.type_oid).collect();
    let learned = catalogue::learn_types(connection, &mut relations.types, &oids).await;
    learned.map_err(|error| faults.query("reading the catalogue", &error))?;
    Ok(tables
        .iter()
        .map(|facts| {
            let message = message_of(facts, publication.columns_of(&facts.name));
            let relation = Relation::new(message, Some(facts), &relations.types, system);
            (facts, relations.shared(relation))
        })
        .collect())
}

async fn first_load(
    system: &System,
    position: &mut Position,
    known: &[(&TableFacts, Arc<Relation>)],
    session: &mut Session,
    read_again: bool,
) -> Result<FirstLoad, SourceError> {
    if !system.snapshot.enabled && !read_again && position.tables.iter().all(|progress| progress.ranges.is_empty()) {
        for (facts, _) in known {
            if !position.progress().contains_key(&facts.name) {
                position.finish(&facts.name);
            }
        }
    }
    let progress = position.progress();
    let rows_done = progress.values().map(|progress| progress.rows).sum();
    let mut load = FirstLoad::new(&system.snapshot, system.limits, rows_done);
    for (facts, relation) in known {
        let stored = progress.get(&facts.name);
        let keys_left = position.again(&facts.name).next().is_some();
        if keys_left || stored.is_none_or(|stored| !stored.ranges.is_empty()) {
            load.add(|id| Job::new(id, Arc::clone(relation), facts, stored.cloned()));
        }
    }
    if !load.is_done() {
        load.wait_for(session.newest_xid().await?);
    }
    Ok(load)
}

fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|past| i64::try_from(past.as_micros()).ok()).unwrap_or(0)
}
