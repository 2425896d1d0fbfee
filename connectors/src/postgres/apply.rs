//! Running what `prepare` and `unprepare` print.

use guitong_schemas::contract::Secret;
use guitong_schemas::contract::system::{PostgresConfig, System};
use sqlx::{AssertSqlSafe, Connection};

use super::config::Address;
use super::fault::Faults;
use crate::source::SourceError;

/// Runs `statements` in one transaction as `administrator`, or as the system's own user where there is none; on the primary.
///
/// # Errors
/// [`SourceError`] with the statement that failed; nothing of them is left then.
pub async fn apply(
    system: &System,
    config: &PostgresConfig,
    administrator: Option<&Secret>,
    statements: &[String],
) -> Result<(), SourceError> {
    let faults = Faults::of(system);
    let own = config.primary_url.as_ref().unwrap_or(&config.url);
    let address = Address::parse(administrator.unwrap_or(own), format!("guitong {}", system.name), &faults)?;
    let mut connection = address.connect(&faults).await?;
    let mut transaction = connection.begin().await.map_err(|error| faults.query("beginning", &error))?;
    for statement in statements.iter().filter(|statement| !statement.starts_with("--")) {
        let run = sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(&mut *transaction).await;
        run.map_err(|error| faults.query(statement, &error))?;
    }
    transaction.commit().await.map_err(|error| faults.query("committing", &error))
}
