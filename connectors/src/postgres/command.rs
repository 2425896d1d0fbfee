//! What operators say about the reading of tables, while the source runs.

use std::sync::Arc;

use guitong_schemas::contract::system::SnapshotConfig;
use guitong_schemas::table::TableName;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor, SqlSafeStr};

use super::PostgresSource;
use super::catalogue::{self, TableFacts};
use super::job::{Job, Way};
use super::position::{Asked, Range, TableProgress};
use super::ranges;
use super::relation::{Relation, message_of};
use super::setup::{self, Server};
use crate::source::{Refused, SnapshotCommand, SourceError};

impl PostgresSource {
    pub(crate) async fn carry_out(&mut self, command: SnapshotCommand) -> Result<String, Refused> {
        match command {
            SnapshotCommand::Read { table, filter } => self.read_table(&table, filter).await,
            SnapshotCommand::Pause => {
                (self.assembly.position.paused, self.dirty) = (true, true);
                Ok("Reading of tables is paused, also after a restart; changes go on.".to_owned())
            }
            SnapshotCommand::Resume => {
                (self.assembly.position.paused, self.dirty) = (false, true);
                Ok("Reading of tables goes on as far as the system's limits let it.".to_owned())
            }
            SnapshotCommand::Cancel { table } => self.cancel(table.as_ref()),
        }
    }

    async fn read_table(&mut self, table: &TableName, filter: Option<String>) -> Result<String, Refused> {
        if !self.system.tails(table) {
            return Err(Refused(format!("no pattern of `tables` holds {table}: add it to systems/{}.toml", self.system.name)));
        }
        if self.load.jobs.iter().any(|job| job.name() == table) {
            return Err(Refused(format!("{table} is being read already; cancel that first, or wait for its end")));
        }
        let refused = |error: SourceError| Refused(error.to_string());
        let mut connection = self.session.take().await.map_err(refused)?;
        let (facts, relation) = self.look_up(&mut connection, table).await.map_err(refused)?;
        let known = self.assembly.position.progress().contains_key(table);
        let asked = Asked { filter };
        let mut stored = TableProgress::new(table);
        (stored.ranges, stored.asked) = (vec![Range::default()], Some(asked.clone()));
        let job = |id| Job::new(id, Arc::clone(&relation), &facts, Some(stored));
        let whole = Job::new(0, Arc::clone(&relation), &facts, None).way == Way::Whole;
        if whole && known {
            return Err(Refused(format!(
                "{table} has no key, so reading it again would double its rows; declare one under [keys] of the system"
            )));
        }
        if let Some(filter) = &asked.filter {
            // Parsed with the rights of the reader, as one statement: nothing runs yet.
            let sql = ranges::select(&relation.table, facts.partitioned, Some(filter), false);
            let parsed = (&mut connection).prepare(AssertSqlSafe(sql).into_sql_str()).await.map(drop);
            parsed.map_err(|error| Refused(format!("the condition does not hold up: {error}")))?;
        }
        self.session.give_back(connection);
        let barrier = self.session.newest_xid().await.map_err(refused)?;
        self.load.wait_for(barrier);
        self.load.add(job);
        let progress = self.assembly.position.of(table);
        (progress.ranges, progress.order, progress.asked) = (vec![Range::default()], Vec::new(), Some(asked));
        progress.rows = 0;
        if !self.tables.contains(&table.to_string()) {
            self.tables.push(table.to_string());
        }
        self.dirty = true;
        let what = if known { "is read again" } else { "is read" };
        Ok(format!("{table} {what}, about {} rows; `guitong status` shows how far it is.", facts.rows))
    }

    /// The table as it is now, ready to be read: published, readable, with a key.
    pub(crate) async fn look_up(
        &mut self,
        connection: &mut PgConnection,
        table: &TableName,
    ) -> Result<(TableFacts, Arc<Relation>), SourceError> {
        let failed = |error: sqlx::Error| self.faults.query("reading the catalogue", &error);
        let server = Server::ask(connection).await.map_err(failed)?;
        let tables = catalogue::selected(connection, &self.system).await.map_err(failed)?;
        let Some(facts) = tables.into_iter().find(|facts| facts.name == *table) else {
            let help = "names are compared as PostgreSQL stores them; a partition is read with its root";
            return Err(self.faults.setup(format!("there is no table {table}"), help));
        };
        let one = std::slice::from_ref(&facts);
        let published = setup::published_tables(connection, &server, &self.config, &self.faults).await?;
        setup::check_tables(&self.system, (&self.config, &published), &self.session.address().user, one, &self.faults)?;
        let publication = setup::publication(connection, &server, &self.system, &self.config, one, &self.faults).await?;
        let oids: Vec<u32> = facts.columns.iter().map(|column| column.type_oid).collect();
        catalogue::learn_types(connection, &mut self.relations.types, &oids).await.map_err(failed)?;
        let message = message_of(&facts, publication.columns_of(&facts.name));
        let relation = Relation::new(message, Some(&facts), &self.relations.types, &self.system);
        Ok((facts, self.relations.shared(relation)))
    }

    fn cancel(&mut self, table: Option<&TableName>) -> Result<String, Refused> {
        let wanted = |job: &Job| table.is_none_or(|table| job.name() == table);
        if let Some(job) = self.load.jobs.iter().find(|job| wanted(job) && job.way == Way::Whole) {
            return Err(Refused(format!(
                "{} has no key: its changes since the reading was planned are only in the rows to be read, so it cannot be left out",
                job.name()
            )));
        }
        let names: Vec<TableName> = self.load.jobs.iter().filter(|job| wanted(job)).map(|job| job.name().clone()).collect();
        if names.is_empty() {
            return Err(Refused(match table {
                Some(table) => format!("{table} is not being read"),
                None => "no table is being read".to_owned(),
            }));
        }
        for name in &names {
            self.load.cancel(name);
            self.assembly.position.finish(name);
            let again: Vec<Vec<String>> = self.assembly.position.again(name).cloned().collect();
            self.assembly.position.was_read_again(name, &again);
        }
        self.dirty = true;
        let names: Vec<String> = names.iter().map(TableName::to_string).collect();
        Ok(format!(
            "Reading of {} has ended: rows that were not read do not arrive until they change or are read again.",
            names.join(", ")
        ))
    }
}

/// The limits in words.
pub(crate) fn limits(snapshot: &SnapshotConfig, retained: Option<u64>) -> Vec<String> {
    let mut words = Vec::new();
    words.extend(snapshot.rows_per_second.map(|rate| format!("{rate} rows/s")));
    words.extend(
        snapshot.window.as_ref().map(|window| format!("{}-{}", window.from.strftime("%H:%M"), window.to.strftime("%H:%M"))),
    );
    words.extend(retained.map(|bytes| format!("{} MiB of kept log", bytes >> 20)));
    words
}
