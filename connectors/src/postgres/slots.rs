//! The replication slots of a system's server, whoever made them: what keeps its log, and what does so for nobody any more.
//!
//! A slot's name is its owner's mark: those that an exchange makes begin with the exchange's name and `_`. So an exchange whose name
//! continues another's cannot be told from it.

use guitong_schemas::contract::System;
use sqlx::postgres::PgConnection;

use super::fault::Faults;
use super::slot::{self, Slot};
use super::start::{address, config_of};
use crate::source::SourceError;

/// `host:port` of the system's server.
///
/// # Errors
/// When the connection URL does not read.
pub fn server(system: &System) -> Result<String, SourceError> {
    let faults = Faults::of(system);
    Ok(address(system, &config_of(system, &faults)?, &faults)?.place())
}

/// Every slot of the system's server; needs no rights beyond connecting.
///
/// # Errors
/// When the database cannot be reached.
pub async fn slots(system: &System) -> Result<Vec<Slot>, SourceError> {
    let (mut connection, faults) = connect(system).await?;
    slot::ask(&mut connection, None).await.map_err(|error| faults.query("asking for the slots", &error))
}

/// Drops a slot of the system's server; the server refuses where somebody streams from it.
///
/// # Errors
/// When the server refuses, or cannot be reached.
pub async fn drop_slot(system: &System, name: &str) -> Result<(), SourceError> {
    let (mut connection, faults) = connect(system).await?;
    slot::drop_slot(&mut connection, name).await.map_err(|error| faults.query("dropping the slot", &error))
}

async fn connect(system: &System) -> Result<(PgConnection, Faults), SourceError> {
    let faults = Faults::of(system);
    let address = address(system, &config_of(system, &faults)?, &faults)?;
    Ok((address.connect(&faults).await?, faults))
}
