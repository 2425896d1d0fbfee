//! The replication slots of a system's server, whoever made them: what keeps its log, and what does so for nobody any more.
//!
//! A slot's name is its owner's mark: those that an exchange makes begin with the exchange's name and `_`.

use guitong_schemas::contract::System;
use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};

use super::fault::Faults;
use super::slot;
use super::start::{address, config_of};
use crate::source::SourceError;

/// Slots of one server.
#[derive(Debug, Clone)]
pub struct ServerSlots {
    /// `host:port`.
    pub server: String,
    pub slots: Vec<ServerSlot>,
}

/// A slot as `pg_replication_slots` shows it.
#[derive(Debug, Clone)]
pub struct ServerSlot {
    pub name: String,
    /// `None` for a physical one.
    pub plugin: Option<String>,
    pub database: Option<String>,
    /// The server process that streams from it.
    pub active_pid: Option<i32>,
    /// Bytes of log that the server keeps for it.
    pub retained: Option<u64>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
}

impl ServerSlot {
    /// Whether the exchange made it and nobody reads from it. It is an orphan then, unless a system names it.
    #[must_use]
    pub fn is_idle_of(&self, exchange: &str) -> bool {
        self.plugin.as_deref() == Some("pgoutput")
            && self.active_pid.is_none()
            && self.name.starts_with(&format!("{}_", exchange.replace('-', "_")))
    }
}

/// Every slot of the system's server; needs no rights beyond connecting.
///
/// # Errors
/// When the database cannot be reached.
pub async fn slots(system: &System) -> Result<ServerSlots, SourceError> {
    let faults = Faults::of(system);
    let address = address(system, &config_of(system, &faults)?, &faults)?;
    let mut connection = address.connect(&faults).await?;
    let slots = all(&mut connection).await.map_err(|error| faults.query("asking for the slots", &error))?;
    Ok(ServerSlots { server: address.place(), slots })
}

/// Drops a slot of the system's server; the server refuses where somebody streams from it.
///
/// # Errors
/// When the server refuses, or cannot be reached.
pub async fn drop_slot(system: &System, name: &str) -> Result<(), SourceError> {
    let faults = Faults::of(system);
    let address = address(system, &config_of(system, &faults)?, &faults)?;
    let mut connection = address.connect(&faults).await?;
    slot::drop_slot(&mut connection, name).await.map_err(|error| faults.query("dropping the slot", &error))
}

async fn all(connection: &mut PgConnection) -> Result<Vec<ServerSlot>, sqlx::Error> {
    // A standby has no place of its own to write at.
    let query = "SELECT slot_name::text, plugin::text, database::text, active_pid, wal_status, \
        (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END - restart_lsn)::int8 AS retained \
        FROM pg_replication_slots ORDER BY slot_name";
    let rows = sqlx::query(query).fetch_all(connection).await?;
    rows.iter().map(read).collect()
}

fn read(row: &PgRow) -> Result<ServerSlot, sqlx::Error> {
    Ok(ServerSlot {
        name: row.try_get("slot_name")?,
        plugin: row.try_get("plugin")?,
        database: row.try_get("database")?,
        active_pid: row.try_get("active_pid")?,
        retained: row.try_get::<Option<i64>, _>("retained")?.map(|bytes| u64::try_from(bytes).unwrap_or(0)),
        wal_status: row.try_get("wal_status")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &str) -> ServerSlot {
        ServerSlot {
            name: name.into(),
            plugin: Some("pgoutput".into()),
            database: Some("register".into()),
            active_pid: None,
            retained: Some(0),
            wal_status: Some("reserved".into()),
        }
    }

    #[test]
    fn what_others_made_or_somebody_reads_is_left_alone() {
        let idle = |slot: ServerSlot| slot.is_idle_of("gui-region");
        assert!(idle(slot("gui_region_old")));
        assert!(!idle(slot("gui_regionold")), "another exchange's");
        assert!(!idle(slot("debezium")));
        assert!(!idle(ServerSlot { active_pid: Some(7), ..slot("gui_region_old") }));
        assert!(!idle(ServerSlot { plugin: None, ..slot("gui_region_old") }), "a standby's");
        assert!(!idle(ServerSlot { plugin: Some("wal2json".into()), ..slot("gui_region_old") }));
    }
}
