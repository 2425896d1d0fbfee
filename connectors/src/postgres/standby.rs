//! Decoding on a standby (PostgreSQL 16 or newer), which takes the work of the stream off the primary. The slot is there, and all that
//! cannot be is done on the primary: watermarks are written, the publication is made, and tables are read, since a standby's snapshots do
//! not say which transactions are running (`pg_current_snapshot`).
//!
//! Nothing else is different: the standby sends what it has replayed, in the order of the same log. `hot_standby_feedback` keeps what
//! the slot needs on the primary; a slot whose rows were cleaned away there is invalid, which is a gap.

use std::time::Duration;

use guitong_schemas::contract::system::PostgresConfig;
use guitong_schemas::delivered::MESSAGES;
use guitong_schemas::position::Lsn;
use sqlx::postgres::PgConnection;

use super::config::Address;
use super::fault::Faults;
use super::setup::Server;
use super::slot;
use super::wire::{Identity, Login, Purpose};
use crate::source::SourceError;

/// How soon the primary is asked again to write down which transactions are running.
const NUDGE: Duration = Duration::from_millis(500);

/// A session of the server that decodes.
#[derive(Debug)]
pub(crate) struct Standby {
    pub(crate) connection: PgConnection,
    pub(crate) server: Server,
}

impl Standby {
    /// `None` where the primary itself decodes.
    ///
    /// # Errors
    /// [`SourceError::Setup`] where the server is none that can.
    pub(crate) async fn connect(
        config: &PostgresConfig,
        (decoding, primary): (&Address, &Address),
        faults: &Faults,
    ) -> Result<Option<Self>, SourceError> {
        if config.primary_url.is_none() {
            return Ok(None);
        }
        if decoding.database != primary.database {
            return Err(faults.setup(
                format!("url leads to database {} and primary_url to {}", decoding.database, primary.database),
                "name the same database in both",
            ));
        }
        let mut connection = decoding.connect(faults).await?;
        let server = Server::ask(&mut connection).await.map_err(|error| faults.query("asking the standby", &error))?;
        server.check_standby(&decoding.place(), faults)?;
        Ok(Some(Self { connection, server }))
    }

    /// The two servers are of one cluster.
    pub(crate) async fn check_primary(primary: &Address, standby: &Identity, faults: &Faults) -> Result<(), SourceError> {
        let other = Login::open(primary, Purpose::Replicate, faults).await?.identify().await?;
        if other.system_id == standby.system_id {
            return Ok(());
        }
        Err(faults.setup(
            format!(
                "the standby's system identifier is {}, that of the server at {} is {}",
                standby.system_id,
                primary.place(),
                other.system_id
            ),
            "write the address of the standby's own primary in primary_url",
        ))
    }
}

/// The session in which a slot is looked for and made.
#[derive(Debug)]
pub(crate) struct Slots<'a> {
    pub(crate) connection: &'a mut PgConnection,
    /// Where that is a standby's.
    pub(crate) primary: Option<&'a mut PgConnection>,
}

impl Slots<'_> {
    /// Makes the slot; a standby waits for the primary to say which transactions are running.
    pub(crate) async fn make(&mut self, config: &PostgresConfig) -> Result<Lsn, sqlx::Error> {
        let mut made = std::pin::pin!(slot::make(&mut *self.connection, &config.slot, config.failover));
        let Some(primary) = &mut self.primary else { return made.await };
        loop {
            tokio::select! {
                made = &mut made => return made,
                () = tokio::time::sleep(NUDGE) => nudge(primary).await?,
            }
        }
    }
}

/// Has the primary write that down at once where the role may ask for it; else it does within 15 s of a write.
async fn nudge(primary: &mut PgConnection) -> Result<(), sqlx::Error> {
    let sql = "SELECT CASE WHEN has_function_privilege('pg_log_standby_snapshot()', 'EXECUTE') \
               THEN pg_log_standby_snapshot() ELSE pg_logical_emit_message(false, $1, 'slot') END::text";
    sqlx::query(sql).bind(MESSAGES).execute(primary).await.map(drop)
}
