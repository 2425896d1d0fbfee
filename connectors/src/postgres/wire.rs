//! The replication session: `pgwire-replication` reads the socket in a task of its own and keeps answering the server's
//! keepalives while nobody takes events.

use std::fmt;
use std::time::Duration;

use futures::FutureExt;
use guitong_schemas::position::Lsn;
use pgwire_replication::{ReplicationClient, ReplicationEvent};
use tokio::task::unconstrained;

use super::config::Address;
use super::fault::Faults;
use crate::source::SourceError;

pub(crate) struct Wire {
    client: ReplicationClient,
    faults: Faults,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

/// Which server the session is on.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) system_id: String,
    pub(crate) timeline: u32,
    /// End of the server's flushed log.
    pub(crate) end: Lsn,
}

impl Wire {
    /// A session that has not begun to stream, and the server it is on. `durable` is confirmed to the server from the start on.
    pub(crate) async fn open(
        address: &Address,
        (slot, publication): (&str, &str),
        durable: Lsn,
        sender_timeout: Option<Duration>,
        faults: &Faults,
    ) -> Result<Self, SourceError> {
        let config = address.replication(slot, publication, durable.0, sender_timeout);
        let connected = ReplicationClient::connect_gated(config).await;
        let client = connected.map_err(|error| faults.wire("opening the replication session", &error))?;
        Ok(Self { client, faults: faults.clone() })
    }

    pub(crate) async fn identify(&mut self) -> Result<Identity, SourceError> {
        let system = self.client.identify_system().await;
        let system = system.map_err(|error| self.faults.wire("opening the replication session", &error))?;
        Ok(Identity { system_id: system.system_id, timeline: system.timeline, end: Lsn(system.xlogpos.as_u64()) })
    }

    pub(crate) async fn start(&mut self) -> Result<(), SourceError> {
        let started = async {
            self.client.start().await?;
            self.client.wait_started().await
        };
        started.await.map_err(|error| self.faults.wire("starting to stream", &error))
    }

    /// An event that is here already.
    pub(crate) fn ready(&mut self) -> Option<Result<ReplicationEvent, SourceError>> {
        // The runtime's cooperative budget would answer "nothing here" after 128 events in a row.
        let event = unconstrained(self.client.recv()).now_or_never()?;
        Some(self.checked(event))
    }

    pub(crate) async fn next(&mut self) -> Result<ReplicationEvent, SourceError> {
        let event = self.client.recv().await;
        self.checked(event)
    }

    fn checked(&self, event: pgwire_replication::Result<Option<ReplicationEvent>>) -> Result<ReplicationEvent, SourceError> {
        match event {
            Ok(Some(event)) => Ok(event),
            Ok(None) => Err(self.faults.unavailable("the server ended the stream")),
            Err(error) => Err(self.faults.wire("streaming", &error)),
        }
    }

    /// Everything before `lsn` is durable here: the server may forget it.
    pub(crate) fn confirm(&self, lsn: Lsn) {
        self.client.update_applied_lsn(pgwire_replication::Lsn::from_u64(lsn.0));
    }
}
