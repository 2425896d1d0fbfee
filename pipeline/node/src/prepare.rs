//! What has to be done in a department's database before it can be tailed, and undone afterwards.

use guitong_connectors::registration;
use guitong_connectors::source::SourceError;
use guitong_schemas::contract::{Directory, Name, Secret, System};

use crate::exit::{Failure, USAGE};

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Prepare,
    Unprepare,
}

/// The statements for a system, as its database stands now; none where nothing is left to do.
///
/// # Errors
/// When there is no such system, or its database cannot be looked at.
pub(crate) async fn statements(directory: &Directory, name: &str, direction: Direction) -> Result<Vec<String>, Failure> {
    let system = system(directory, name)?;
    let statements = match direction {
        Direction::Prepare => registration::prepare(system).await,
        Direction::Unprepare => registration::unprepare(system).await,
    };
    statements.map_err(failure)
}

/// Runs statements in the system's database, all or nothing.
///
/// # Errors
/// When one of them fails.
pub(crate) async fn apply(
    directory: &Directory,
    name: &str,
    administrator: Option<&Secret>,
    statements: &[String],
) -> Result<(), Failure> {
    registration::apply(system(directory, name)?, administrator, statements).await.map_err(failure)
}

pub(crate) fn system<'a>(directory: &'a Directory, name: &str) -> Result<&'a System, Failure> {
    directory.systems.get(name).map(|system| &**system).ok_or_else(|| {
        let known: Vec<&str> = directory.systems.keys().map(Name::as_str).collect();
        Failure::usage(format!("there is no system `{name}`")).help(format!("systems are: {}", known.join(", ")))
    })
}

pub(crate) fn failure(error: SourceError) -> Failure {
    match error {
        SourceError::Setup { .. } => Failure { code: USAGE, message: error.to_string(), help: None },
        SourceError::Gap { .. } => Failure::gap(error.to_string()),
        _ => Failure::unreachable(error.to_string()),
    }
}
