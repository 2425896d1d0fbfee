//! Reads a PostgreSQL database (14 or newer): first load, then every change from the write-ahead log by logical replication.
//!
//! **Delivery.** Changes come in commit order, each with the version (epoch, commit LSN, LSN, index). The slot is confirmed only by
//! [`Source::confirm`], with the end of the last transaction that the log holds whole, so nothing is forgotten that is not durable;
//! after a restart the server sends a transaction that was published in part again, and the published part is left out. What cannot be
//! made whole is a [`SourceError::Gap`]: a slot that is gone, lost or ahead of us, another server, a server that went back ([`proof`])
//! or that took over without all that was read ([`timeline`]). With `on_gap = "resnapshot"` the epoch rises, every table begins with a truncate and
//! is read again.
//!
//! **Memory** is bounded by the batch's byte budget, the chunks' bytes during a first load, and one block (or one longer message, its
//! values cut a little over the record's limit) that is being received. A batch may end inside a transaction; the position then says
//! how much of it is published. What a server sends of transactions in progress goes to files ([`in_progress`]).
//!
//! **Form.** Values come as the text that the server prints, or (`binary`) in its binary form, of which that text is made here
//! ([`printed`]), so that nothing behind a row's arrival can tell the two apart.
//!
//! **Added tables** are read from their beginning once the stream shows them: with their first change ([`added`]).
//!
//! **Idle databases** need no writes: the server's keepalives move the position, which is stored once per `heartbeat`.
//!
//! **Rights.** The role of the URL needs no more than
//! ```sql
//! ALTER ROLE reader LOGIN REPLICATION;
//! GRANT USAGE ON SCHEMA public TO reader;
//! GRANT SELECT ON public.qy_jbxx TO reader;            -- or GRANT SELECT (columns) where some are excluded
//! CREATE PUBLICATION exchange_register FOR TABLE ONLY public.qy_jbxx
//!   WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);   -- by the tables' owner
//! ```
//! and CONNECT on the database, EXECUTE on `pg_logical_emit_message` and on the slot functions, which PUBLIC has unless it was revoked.
//! [`prepare_sql`] prints these for a system. Tables with row security also need BYPASSRLS: a hidden row is an error, never a loss.

mod added;
mod apply;
mod catalogue;
mod changed;
mod chunk;
mod command;
mod config;
mod copy;
mod decode;
mod fault;
mod identity;
mod image;
mod in_progress;
mod in_text;
mod inspect;
mod job;
mod limits;
mod metadata;
mod metrics;
mod position;
mod prepare;
mod printed;
mod progress;
mod proof;
mod ranges;
mod relation;
mod sample;
mod session;
mod setup;
mod slot;
mod slots;
mod snapshot;
mod standby;
mod start;
mod stream;
mod team;
mod timeline;
mod types;
mod visibility;
mod watch;
mod whole;
mod wire;
mod worker;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use guitong_schemas::contract::system::{PostgresConfig, System};
use guitong_schemas::delivered::{Delivered, MESSAGES};
use guitong_schemas::position::Lsn;
use guitong_schemas::table::TableName;
use tokio::sync::watch::Receiver;

pub use self::apply::apply;
pub use self::catalogue::{ColumnFacts, TableFacts};
pub use self::copy::{CopyRows, Form, RowPlace};
pub use self::decode::{DecodeError, Message, Old, RelationColumn, RelationMessage, Tuple, decode};
use self::fault::Faults;
use self::in_progress::{InProgress, KeepError, Replay};
pub use self::inspect::inspect_tables;
pub use self::metrics::Metrics;
use self::metrics::SystemMetrics;
use self::position::Position;
pub use self::prepare::{prepare_sql, unprepare_sql};
pub use self::printed::Printed;
use self::proof::Proof;
use self::relation::{Relation, Relations};
pub use self::sample::sample;
use self::session::Session;
pub use self::slot::Slot;
pub use self::slots::{drop_slot, server, slots};
use self::snapshot::FirstLoad;
pub use self::start::{Survey, survey};
use self::stream::Assembly;
pub use self::watch::SlotWatch;
use self::wire::{Event, Wire};
pub use self::wire::{Rows, Shortener};
use crate::source::{
    Durable, Kept, Phase, Refused, SnapshotCommand, Source, SourceBatch, SourceBudget, SourceError, SourceStatus,
};

/// Name of the database that the URL leads to; empty where the URL does not read, which [`PostgresSource::connect`] then says.
pub(crate) fn database(config: &PostgresConfig) -> String {
    let faults = Faults::new("");
    config::Address::parse(&config.url, String::new(), &faults).map(|address| address.database).unwrap_or_default()
}

/// One PostgreSQL database that is being tailed. After an error it is of no more use: connect again with the last stored position.
#[derive(Debug)]
pub struct PostgresSource {
    system: Arc<System>,
    config: PostgresConfig,
    faults: Faults,
    wire: Wire,
    /// The server's, with a session that is silent.
    patience: Option<Duration>,
    session: Session,
    relations: Relations,
    assembly: Assembly,
    in_progress: InProgress,
    /// A transaction that came before its commit and is published now; the stream waits meanwhile.
    replay: Option<Replay>,
    load: FirstLoad,
    /// The position moved in a way that must be stored although there are no changes.
    dirty: bool,
    handed: (Lsn, Instant),
    /// End of the server's log as last heard.
    server_end: Lsn,
    /// As [`SlotWatch`] last heard.
    kept: Receiver<Kept>,
    /// What the server has to send first to show that it is the one that was read.
    proof: Option<Proof>,
    tables: Vec<String>,
    /// Tables that the stream shows and the catalogue does not, so that none is waited for twice.
    passed_over: BTreeSet<TableName>,
    /// Tables that were told to be read to their end.
    told: BTreeSet<String>,
    metrics: SystemMetrics,
}

impl PostgresSource {
    /// Connects, checks slot and publication, and begins to stream after `position`, the one that was stored last; `None` where this
    /// system has never been read. Transactions that the server sends before their commit go to files in `directory`; `kept` is
    /// [`SlotWatch::kept`].
    ///
    /// # Errors
    /// [`SourceError::Setup`] with the statement that helps, [`SourceError::Gap`], or [`SourceError::Unavailable`].
    pub async fn connect(
        system: Arc<System>,
        position: Option<Bytes>,
        directory: Arc<Path>,
        (metrics, kept): (&Metrics, Receiver<Kept>),
    ) -> Result<Self, SourceError> {
        start::connect(system, position, directory, (metrics, kept)).await
    }

    async fn handle(&mut self, event: Event) -> Result<(), SourceError> {
        match event {
            Event::Data { lsn, data, block } => {
                self.server_end = self.server_end.max(lsn);
                self.metrics.received.inc_by(data.len() as u64);
                if self.in_progress.is_open() {
                    let kept = self.in_progress.keep(lsn.0, &data).await;
                    return kept.map_err(|error| self.not_kept(error));
                }
                self.assembly.inside(block);
                self.data(lsn.0, &data).await
            }
            Event::KeepAlive { end } => {
                self.server_end = self.server_end.max(end);
                self.nothing_before(end)?;
                self.assembly.idle(end.0);
                Ok(())
            }
        }
    }

    async fn data(&mut self, lsn: u64, data: &Bytes) -> Result<(), SourceError> {
        let message = decode(data).map_err(|error| self.faults.protocol(format!("at {}: {error}", Lsn(lsn))))?;
        let published = self.is_published_already(&message)?;
        if message.is_content() {
            if published {
                return Ok(());
            }
            self.assembly.hold();
        }
        if message.is_of_tables() && !published {
            self.assembly.touch();
        }
        let shaped = match message {
            Message::Begin { commit, commit_time, xid } => {
                if !published {
                    self.assembly.begin(commit, xid, commit_time);
                }
                Ok(())
            }
            Message::Commit { end } => return self.commit(end).await,
            Message::StreamStart { xid } => {
                self.in_progress.start(xid);
                Ok(())
            }
            Message::StreamCommit { xid, commit, end, commit_time } => {
                if !published {
                    self.assembly.begin(commit, xid, commit_time);
                }
                let replay = self.in_progress.commit(xid, end).await;
                self.replay = Some(replay.map_err(|error| self.not_kept(error))?);
                Ok(())
            }
            Message::StreamAbort { xid, part } => {
                let aborted = self.in_progress.abort(xid, part).await;
                return aborted.map_err(|error| self.not_kept(error));
            }
            Message::Logical { lsn, transactional, prefix, content } => {
                match (prefix == MESSAGES, transactional) {
                    (false, _) => self.assembly.message((lsn, transactional), &prefix, &content),
                    (true, true) => match Delivered::read(&content) {
                        Some(delivered) if delivered.exchange == self.config.exchange => self.assembly.delivers(&delivered),
                        Some(_) => {}
                        None => self.load.message(&content),
                    },
                    (true, false) => {}
                }
                Ok(())
            }
            Message::Relation(message) => return self.learn(message).await,
            Message::Insert { relation, new } => {
                let Some(relation) = self.relation_for(relation, Some(&new)).await? else { return Ok(()) };
                self.assembly.insert(&relation, new, lsn, &mut self.load)
            }
            Message::Update { relation, old, new } => {
                let Some(relation) = self.relation_for(relation, Some(&new)).await? else { return Ok(()) };
                self.assembly.update(&relation, (old, new), lsn, &mut self.load)
            }
            Message::Delete { relation, old } => {
                let Some(relation) = self.relation_for(relation, None).await? else { return Ok(()) };
                self.assembly.delete(&relation, old, lsn, &mut self.load)
            }
            Message::Truncate { relations } => {
                for relation in relations {
                    if let Some(relation) = self.relation_for(relation, None).await? {
                        self.assembly.truncate(&relation, lsn, &mut self.load);
                    }
                }
                Ok(())
            }
            // A stop ends what is kept before it comes here.
            Message::StreamStop | Message::Other => Ok(()),
        };
        shaped.map_err(|error| self.faults.protocol(format!("at {}: {error}", Lsn(lsn))))
    }

    /// One message more of the transaction that is published after it came in streams, or its end.
    async fn replay(&mut self, mut replay: Replay) -> Result<(), SourceError> {
        match replay.next().await.map_err(|error| self.not_kept(error))? {
            Some((lsn, data, block)) => {
                self.replay = Some(replay);
                self.assembly.inside(block);
                self.data(lsn, &data).await
            }
            None => self.commit(replay.end).await,
        }
    }

    fn not_kept(&self, error: KeepError) -> SourceError {
        match error {
            KeepError::Io { .. } => self.faults.unavailable(format!(
                "{error}; make room there, or set streaming = false in systems/{}.toml, with which the server keeps it",
                self.system.name
            )),
            KeepError::Decode(_) | KeepError::Damaged(_) => self.faults.protocol(error.to_string()),
        }
    }

    /// The relation of a change, or `None` where its table is not wanted, or the exchange itself delivered it, which is not sent around
    /// again. A row with an enum label that was added since has the types asked for again.
    async fn relation_for(&mut self, oid: u32, row: Option<&Tuple>) -> Result<Option<Arc<Relation>>, SourceError> {
        let Some(known) = self.relations.get(oid) else {
            return Err(self.faults.protocol(format!("a change of table {oid}, which the server did not announce")));
        };
        let Some(relation) = known else { return Ok(None) };
        if self.assembly.is_delivered(&relation.table.name) {
            self.metrics.delivered.inc();
            return Ok(None);
        }
        let relation = Arc::clone(relation);
        let Some(row) = row.filter(|row| relation.may_have_new_label(row)) else { return Ok(Some(relation)) };
        let message = relation.message.clone();
        self.learn(message).await?;
        // Where the stream began anew, the change comes again.
        let Some(Some(renewed)) = self.relations.get(oid) else { return Ok(None) };
        let renewed = Arc::clone(renewed);
        if renewed.may_have_new_label(row) {
            // The catalogue is ahead (a label was renamed): asking for each row would not help.
            self.relations.accept_labels(oid);
        }
        Ok(Some(renewed))
    }

    /// Takes up a table as the stream shows it from here on.
    async fn learn(&mut self, message: RelationMessage) -> Result<(), SourceError> {
        let name = TableName::new(&message.schema, &message.name);
        if !self.system.tails(&name) {
            self.relations.ignore(message.oid);
            return Ok(());
        }
        self.meet_table(&name, message.oid).await?;
        let mut connection = self.session.take().await?;
        let oids: Vec<u32> = message.columns.iter().map(|column| column.type_oid).collect();
        let types = &mut self.relations.types;
        types.forget(&oids);
        let asked = async {
            let facts = catalogue::tables(&mut connection, catalogue::Which::Oid(message.oid)).await?;
            catalogue::learn_types(&mut connection, types, &oids).await?;
            Ok::<_, sqlx::Error>(facts.into_iter().next())
        };
        let facts = asked.await.map_err(|error| self.faults.query("reading the catalogue", &error))?;
        self.session.give_back(connection);
        let oid = message.oid;
        let relation = Relation::new(message, facts.as_ref(), &self.relations.types, &self.system);
        let relation = self.relations.put(oid, relation);
        if let Some(transaction) = &self.assembly.transaction {
            self.load.shown(&relation, transaction.xid);
        }
        if self.config.binary && relation.printed().is_none() {
            return self.go_on_in_text(&relation).await;
        }
        Ok(())
    }

    async fn commit(&mut self, end: u64) -> Result<(), SourceError> {
        if self.proof.as_mut().is_some_and(Proof::ended) {
            return Ok(());
        }
        let Some(transaction) = self.assembly.commit(end) else { return Ok(()) };
        let mut index = 0;
        for chunk in self.load.take_chunks(&mut self.assembly.position, &self.faults)? {
            self.metrics.yielded.inc_by(chunk.yielded() as u64);
            index = self.assembly.chunk(chunk, &transaction, index);
            self.dirty = true;
        }
        if self.load.whole_is_due() {
            let at = (transaction.commit, transaction.ts_us);
            self.load.open_whole(&mut self.session, at, &self.metrics.retaken).await?;
        }
        Ok(())
    }

    /// Rows of a table that is read whole; the stream waits meanwhile.
    async fn whole_rows(&mut self) -> Result<(), SourceError> {
        let Some(block) = self.load.whole_rows(&mut self.assembly.position).await? else { return Ok(()) };
        let (table, at, first) = (Arc::clone(&block.table), block.at, block.first);
        for (number, (row, mark)) in (first..).zip(block.into_rows()) {
            self.assembly.read(&table, row, mark, at, number);
        }
        self.dirty = true;
        Ok(())
    }

    fn retained(&self) -> Option<u64> {
        self.kept.borrow().retained_bytes
    }

    fn behind(&self) -> u64 {
        self.server_end.0.saturating_sub(self.assembly.position.lsn.0)
    }

    /// What has been gathered, and the position after it where it is worth storing.
    fn hand_out(&mut self, heartbeat: Duration) -> Result<SourceBatch, SourceError> {
        let (last, since) = self.handed;
        let lsn = self.assembly.position.lsn;
        let idle_but_moved = lsn > last && since.elapsed() >= heartbeat;
        let position = if self.assembly.has_news() || self.dirty || idle_but_moved {
            self.handed = (lsn, Instant::now());
            self.dirty = false;
            let bytes = self.assembly.position.to_bytes();
            Some(bytes.map_err(|error| self.faults.protocol(format!("writing the position: {error}")))?)
        } else {
            None
        };
        let notices = std::mem::take(&mut self.assembly.notices);
        let loaded = self.newly_loaded();
        Ok(SourceBatch { changes: self.assembly.take(), notices, loaded, position })
    }

    /// Tables that are read to their end and were not told to be.
    fn newly_loaded(&mut self) -> Vec<String> {
        let is_left = |table: &String| self.load.jobs.iter().any(|job| job.name().to_string() == *table);
        let new = self.tables.iter().filter(|table| !self.told.contains(*table) && !is_left(table));
        let new: Vec<String> = new.cloned().collect();
        self.told.extend(new.iter().cloned());
        new
    }
}

#[async_trait]
impl Source for PostgresSource {
    async fn next_batch(&mut self, budget: SourceBudget) -> Result<SourceBatch, SourceError> {
        let deadline = Instant::now() + budget.wait;
        let heartbeat = self.config.heartbeat;
        loop {
            if self.assembly.bytes() >= budget.bytes {
                return self.hand_out(heartbeat);
            }
            if self.load.reads_whole() {
                self.whole_rows().await?;
                continue;
            }
            let between = self.assembly.transaction.is_none();
            let moment = (between, self.retained());
            self.load.advance(&mut self.session, &self.assembly.position, moment, &self.metrics.retaken).await?;
            if let Some(replay) = self.replay.take() {
                self.replay(replay).await?;
                continue;
            }
            if let Some(event) = self.wire.ready() {
                self.handle(event?).await?;
                continue;
            }
            if between && (self.assembly.has_news() || self.dirty) {
                return self.hand_out(heartbeat);
            }
            let now = Instant::now();
            if now >= deadline {
                return self.hand_out(heartbeat);
            }
            let until = self.load.due().filter(|_| between).map_or(deadline, |due| due.max(now).min(deadline));
            tokio::select! {
                event = self.wire.next() => self.handle(event?).await?,
                () = self.load.reported() => {}
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }

    async fn confirm(&mut self, durable: Durable) -> Result<(), SourceError> {
        let position = Position::from_bytes(durable.position())
            .map_err(|error| self.faults.protocol(format!("the position of the log: {error}")))?;
        self.wire.confirm(position.lsn);
        Ok(())
    }

    async fn command(&mut self, command: SnapshotCommand) -> Result<String, Refused> {
        self.carry_out(command).await
    }

    fn status(&self) -> SourceStatus {
        let phase = if self.load.is_done() {
            Phase::Streaming
        } else {
            let done = self.load.progress.rows;
            Phase::Snapshot { rows_done: done, rows_estimated: Some(done + self.load.rows_left()) }
        };
        SourceStatus {
            phase,
            newest_commit_us: self.assembly.newest_commit_us,
            behind_bytes: Some(self.behind()),
            tables: self.tables.clone(),
            snapshot: self.load.status(self.assembly.position.paused),
        }
    }
}
