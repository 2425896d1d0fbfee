//! From binary to text: whether a system's tables let the stream come in binary form, and what is done where one no longer does.
//!
//! The plugin sends every value whose type has a binary form in it, plain or not, and knows no exception for a table or a column. So
//! the stream is in binary only while all tables are of types that [`super::printed`] knows. Where a change of a table's columns brings
//! another, the stream begins anew in text after the last whole transaction: what came of the next one comes again, and what was
//! gathered of it is known by its LSN and left out, as after a restart.

use std::time::{Duration, Instant};

use guitong_schemas::contract::system::System;

use super::PostgresSource;
use super::proof::Proof;
use super::relation::Relation;
use super::start;
use super::wire::{Login, Purpose, Wire};
use crate::source::SourceError;

/// How long the server may take to end one session before the slot is free for another.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// Says what keeps a system that asks for binary from it.
pub(crate) fn tell(system: &System, relation: &Relation) {
    tracing::warn!(
        system = %system.name, table = %relation.table.name, columns = relation.columns_in_text().join(", "),
        "`binary` has no effect: these columns have types that are read in text, and so the whole system is"
    );
}

impl PostgresSource {
    /// Begins the stream anew in text, because of this table.
    pub(super) async fn go_on_in_text(&mut self, relation: &Relation) -> Result<(), SourceError> {
        tell(&self.system, relation);
        self.config.binary = false;
        self.wire.end();
        let deadline = Instant::now() + PATIENCE;
        self.wire = loop {
            match self.open_again().await {
                Ok(wire) => break wire,
                // The slot is the ended session's until the server has seen its end.
                Err(error) if error.is_transient() && Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(error),
            }
        };
        self.replay = None;
        self.in_progress.begin_anew();
        self.relations.begin();
        self.assembly.begin_anew();
        if let Some(proof) = &mut self.proof {
            proof.begin_anew();
        }
        Ok(())
    }

    async fn open_again(&self) -> Result<Wire, SourceError> {
        let address = start::address(&self.system, &self.config, &self.faults)?;
        let login = Login::open(&address, Purpose::Replicate, &self.faults).await?;
        let from = self.proof.as_ref().map_or(self.assembly.position.lsn, Proof::from);
        login.start(&self.config, (from, self.wire.durable()), self.patience).await
    }
}
