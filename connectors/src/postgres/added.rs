//! A table that the stream shows and nobody has begun to read: it was made, added to the publication, or renamed so that a pattern
//! names it, while the source runs. Its first load begins before its first change is handed out, as CONTRACTS 5 has it for any other:
//! that change and those after it are noted, and nothing is read before every transaction ends that is open now, since the changes
//! that such a one made before the table was published are in its rows alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use guitong_schemas::table::TableName;

use super::PostgresSource;
use super::catalogue;
use super::job::Job;
use super::position::Range;
use super::setup::{self, Server};
use super::snapshot::RETAKE;
use crate::source::SourceError;

/// How long other transactions are waited for, one of which may have published the table and not be seen yet.
const LAG: Duration = Duration::from_secs(1);

impl PostgresSource {
    /// Begins to read the table that the stream shows under this oid, unless it has begun.
    pub(crate) async fn meet_table(&mut self, table: &TableName, oid: u32) -> Result<(), SourceError> {
        if self.assembly.position.lists(table) || self.load.jobs.iter().any(|job| job.name() == table) {
            return Ok(());
        }
        if self.system.snapshot.enabled {
            if !self.is_there(table, oid).await? {
                if self.passed_over.insert(table.clone()) {
                    tracing::info!(
                        system = %self.system.name, %table,
                        "a table that changed is not there or not published by this name any more: only its changes are taken"
                    );
                }
                return Ok(());
            }
            self.begin_to_read(table).await?;
        } else {
            self.assembly.position.finish(table);
        }
        self.dirty = true;
        if !self.tables.contains(&table.to_string()) {
            self.tables.push(table.to_string());
        }
        Ok(())
    }

    /// Whether the catalogue still has the table as the stream shows it. Transactions are streamed before others see them, so this waits
    /// until the present one is seen, and a little for all that are open.
    async fn is_there(&mut self, table: &TableName, oid: u32) -> Result<bool, SourceError> {
        let (until, mut open) = (Instant::now() + LAG, None);
        loop {
            let snapshot = self.session.visibility().await?;
            let seen = self.assembly.transaction.as_ref().is_none_or(|transaction| snapshot.sees(transaction.xid));
            if seen && self.is_published(table, oid).await? {
                return Ok(true);
            }
            match open {
                _ if seen && self.passed_over.contains(table) => return Ok(false),
                Some(barrier) if seen && (snapshot.xmin() >= barrier || Instant::now() >= until) => return Ok(false),
                Some(_) => {}
                None => open = Some(self.session.newest_xid().await?),
            }
            tokio::time::sleep(RETAKE).await;
        }
    }

    async fn is_published(&mut self, table: &TableName, oid: u32) -> Result<bool, SourceError> {
        let mut connection = self.session.take().await?;
        let asked = async {
            let selected = catalogue::selected(&mut connection, &self.system).await?;
            Ok::<_, sqlx::Error>((selected, Server::ask(&mut connection).await?))
        };
        let (selected, server) = asked.await.map_err(|error| self.faults.query("reading the catalogue", &error))?;
        let published = setup::published_tables(&mut connection, &server, &self.config, &self.faults).await?;
        self.session.give_back(connection);
        Ok(published.contains(table) && selected.iter().any(|facts| facts.oid == oid && facts.name == *table))
    }

    async fn begin_to_read(&mut self, table: &TableName) -> Result<(), SourceError> {
        let mut connection = self.session.take().await?;
        let (facts, relation) = self.look_up(&mut connection, table).await?;
        self.session.give_back(connection);
        let barrier = self.session.newest_xid().await?;
        self.load.wait_for(barrier);
        self.load.add(|id| Job::new(id, Arc::clone(&relation), &facts, None));
        // Stored as a table that is to be read: it stays that where snapshots are switched off before it is.
        self.assembly.position.of(table).ranges = vec![Range::default()];
        tracing::info!(system = %self.system.name, %table, rows = facts.rows, "a table was added: reading it");
        Ok(())
    }
}
