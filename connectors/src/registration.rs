//! Which source reads which kind of system: the one place that knows them all.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use guitong_schemas::avro::schema::SourceKind;
use guitong_schemas::change::Change;
use guitong_schemas::contract::system::{GapPolicy, PostgresConfig, SqliteConfig};
use guitong_schemas::contract::{Exchange, Secret, SourceConfig, System};
use guitong_schemas::profile::TableSample;
use guitong_schemas::table::TableName;

use crate::inspect::Selection;
use crate::metrics::Metrics;
use crate::postgres::{PostgresSource, SlotWatch};
use crate::publish::PublishSettings;
use crate::run::{ConnectorSettings, SourceFactory};
use crate::source::{SampleBudget, Source, SourceError, Wanted, Watch};
use crate::{changelog, postgres};

/// Longest wait of a source for its first change; the connector's status is as old as this on an idle system.
const WAIT: Duration = Duration::from_secs(1);

/// What a system's connector is made of.
#[expect(missing_debug_implementations, reason = "holds a function")]
pub struct Parts {
    pub settings: ConnectorSettings,
    pub source: SourceFactory,
    /// Where the server keeps something for the source.
    pub watch: Option<Arc<dyn Watch>>,
    /// Set while the source is to read everything anew where changes are missing, whatever the system's file says.
    pub anew: Arc<AtomicBool>,
}

/// The parts of a system's connector.
#[must_use]
pub fn of(system: &Arc<System>, exchange: &Exchange, metrics: &Metrics) -> Parts {
    let max_record = exchange.budgets.max_record;
    let mut watch: Option<Arc<dyn Watch>> = None;
    let anew = Arc::new(AtomicBool::new(false));
    let repairing = Arc::clone(&anew);
    let (kind, database, source): (SourceKind, String, SourceFactory) = match &system.source {
        SourceConfig::Postgres(config) => {
            let (declared, metrics) = (Arc::clone(system), metrics.postgres().clone());
            let source = SourceConfig::Postgres(PostgresConfig { on_gap: GapPolicy::Resnapshot, ..config.clone() });
            let repaired = Arc::new(System { source, ..System::clone(system) });
            let directory: Arc<Path> = exchange.log.directory().into();
            let slot = Arc::new(SlotWatch::new(Arc::clone(system), &metrics));
            watch = Some(Arc::<SlotWatch>::clone(&slot));
            let factory: SourceFactory = Arc::new(move |position| {
                let system = Arc::clone(if repairing.load(Ordering::Relaxed) { &repaired } else { &declared });
                let (directory, metrics) = (Arc::clone(&directory), metrics.clone());
                let kept = slot.kept();
                async move {
                    let source = PostgresSource::connect(system, position, directory, (&metrics, kept)).await?;
                    Ok(Box::new(source) as Box<dyn Source>)
                }
                .boxed()
            });
            (SourceKind::Postgres, postgres::database(config), factory)
        }
        SourceConfig::Sqlite(config) => {
            let database = config.path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            let (system, declared) = (Arc::clone(system), config.clone());
            let repaired = SqliteConfig { on_gap: GapPolicy::Resnapshot, ..config.clone() };
            let factory: SourceFactory = Arc::new(move |position| {
                let config = if repairing.load(Ordering::Relaxed) { &repaired } else { &declared };
                let (system, config) = (Arc::clone(&system), config.clone());
                async move { changelog::open(&system, &config, position).await }.boxed()
            });
            (SourceKind::Changelog, database, factory)
        }
    };
    let publish = PublishSettings {
        system: system.name.as_str().into(),
        database,
        kind,
        trace: exchange.trace,
        max_record,
        complete: system.complete,
        form: system.form.clone(),
    };
    Parts { settings: ConnectorSettings { publish, batch: exchange.budgets.batch, wait: WAIT }, source, watch, anew }
}

/// Looks at tables of the system's database, one after the other, without writing anything; what it could not look at is in the answer.
///
/// # Errors
/// When the database cannot be looked at, or its role may not read a table; with the exact grants then.
pub async fn inspect(
    system: &System,
    selection: &Selection,
    each: &mut (dyn FnMut(TableSample) + Send),
) -> Result<Vec<String>, SourceError> {
    match &system.source {
        SourceConfig::Postgres(_) => postgres::inspect_tables(system, selection, each).await,
        SourceConfig::Sqlite(config) => changelog::inspect_tables(system, config, selection, each).await.map(|()| Vec::new()),
    }
}

/// What an administrator has to run before the system can be tailed.
///
/// # Errors
/// When the database cannot be looked at, or has no table of the system.
pub async fn prepare(system: &System) -> Result<Vec<String>, SourceError> {
    match &system.source {
        SourceConfig::Postgres(config) => {
            let survey = postgres::survey(system).await?;
            survey.check(system)?;
            Ok(postgres::prepare_sql(system, config, &survey.role, survey.server_version, &survey.tables))
        }
        SourceConfig::Sqlite(config) => changelog::prepare_sql(system, config).await,
    }
}

/// What removes every trace of the exchange from the system's database.
///
/// # Errors
/// When the database cannot be looked at.
pub async fn unprepare(system: &System) -> Result<Vec<String>, SourceError> {
    match &system.source {
        SourceConfig::Postgres(config) => {
            let survey = postgres::survey(system).await?;
            Ok(postgres::unprepare_sql(config, &survey.role, &survey.tables))
        }
        SourceConfig::Sqlite(config) => changelog::unprepare_sql(system, config).await,
    }
}

/// The first rows of a table, read as a first load would read them: nothing is written, and the system need not be prepared. Of those
/// only the ones that are `wanted` in every column that it names.
///
/// # Errors
/// When the table, or a column that is named, is not there, or the database cannot be read.
pub async fn sample(
    system: &System,
    table: &TableName,
    budget: SampleBudget,
    wanted: &[Wanted],
) -> Result<Vec<Change>, SourceError> {
    match &system.source {
        SourceConfig::Postgres(config) => postgres::sample(system, config, table, budget, wanted).await,
        SourceConfig::Sqlite(config) => changelog::sample(system, config, table, budget, wanted).await,
    }
}

/// Runs `statements` in the department's database, all or nothing: as `administrator`, a connection URL, where the system's own user has
/// not the rights.
///
/// # Errors
/// When a statement fails; nothing of them is left then.
pub async fn apply(system: &System, administrator: Option<&Secret>, statements: &[String]) -> Result<(), SourceError> {
    match &system.source {
        SourceConfig::Postgres(config) => postgres::apply(system, config, administrator, statements).await,
        SourceConfig::Sqlite(config) => changelog::apply(system, config, statements).await,
    }
}
