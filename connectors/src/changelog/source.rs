//! The source: changes first, then a chunk of what is still to be loaded, in one read transaction.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use guitong_schemas::contract::System;
use guitong_schemas::contract::system::{GapPolicy, SnapshotConfig, SqliteConfig};
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use super::catalogue::{self, Captured};
use super::position::{IdSet, Load, Position, TablePosition};
use super::read::{Changes, ChunkBudget, Codec, Part};
use super::wake::Watch;
use super::{connect, fault, is_busy, prepare};
use crate::source::{Durable, Phase, Source, SourceBatch, SourceBudget, SourceError, SourceStatus};

/// Changes are removed once so many are durable, or after so long: each removal is a write to the department's database.
const REMOVE_COUNT: u64 = 2000;
const REMOVE_AFTER: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct ChangelogSource {
    system: String,
    /// Its name.
    exchange: String,
    declared: System,
    conn: SqliteConnection,
    codec: Codec,
    position: Position,
    snapshot: SnapshotConfig,
    /// Durable, and to be removed.
    durable: IdSet,
    durable_since: Option<Instant>,
    /// A change with a smaller id than the last one appeared: read again from after this one.
    rewind: Option<i64>,
    watch: Watch,
    schema_version: i64,
    next_chunk: Instant,
    newest_commit_us: Option<i64>,
    /// Tables that were told to be read to their end.
    told: BTreeSet<String>,
}

impl ChangelogSource {
    pub(super) async fn open(system: &System, config: &SqliteConfig, position: Option<Bytes>) -> Result<Self, SourceError> {
        let name = system.name.as_str();
        let mut conn = connect(name, config).await?;
        let tables = catalogue::tables(system, &mut conn).await?;
        let Some(instance) = prepare::instance(name, &mut conn).await? else {
            return Err(SourceError::Setup {
                system: name.to_owned(),
                detail: format!("{} is not prepared: it has no table guitong_changes", config.path.display()),
                help: format!("run `guitong system prepare {name}` to see the statements, with --apply to run them"),
            });
        };
        prepare::verify(name, &config.exchange, &mut conn, &tables).await?;
        let schema_version = schema_version(name, &mut conn).await?;
        let highest = highest(name, &mut conn).await?;
        let mut position = match position {
            None => Position::new(1, instance.clone(), 0),
            Some(bytes) => Position::decode(name, &bytes)?,
        };
        match check_gap(name, &position, &instance, highest) {
            Err(gap) if config.on_gap == GapPolicy::Resnapshot => {
                tracing::warn!(system = name, %gap, "every table is read again under a new epoch");
                let known =
                    position.tables.into_keys().filter(|known| tables.iter().any(|table| table.name() == known)).collect();
                position = Position::new(position.epoch + 1, instance, 0);
                position.truncate = known;
            }
            checked => checked?,
        }
        for captured in &tables {
            begin_load(&mut position, captured, system.snapshot.enabled);
        }
        let durable = position.published.clone();
        Ok(Self {
            system: name.to_owned(),
            exchange: config.exchange.clone(),
            declared: system.clone(),
            codec: Codec::new(name, position.epoch, tables),
            durable_since: (!durable.is_empty()).then(Instant::now),
            durable,
            position,
            snapshot: system.snapshot.clone(),
            rewind: None,
            watch: Watch::new(&config.path, config.poll),
            conn,
            schema_version,
            next_chunk: Instant::now(),
            newest_commit_us: None,
            told: BTreeSet::new(),
        })
    }

    fn loading(&self) -> Option<(&String, &TablePosition)> {
        self.position.tables.iter().find(|(name, table)| table.load != Load::Done && self.codec.table(name).is_some())
    }

    /// What is there now, in one read transaction: changes, and a chunk where no change is left to go before it.
    async fn read(&mut self, bytes: usize) -> Result<SourceBatch, SourceError> {
        self.watch.note();
        if !self.position.truncate.is_empty() {
            let changes = self.codec.truncates(&std::mem::take(&mut self.position.truncate))?;
            return Ok(SourceBatch { changes, position: Some(self.position.encode()), ..SourceBatch::default() });
        }
        let system = self.system.clone();
        let failed = |error: sqlx::Error| fault(&system, &error);
        let from = self.rewind.take().unwrap_or(self.position.last).min(self.position.last);
        let mut chunk = None;
        let mut tx = self.conn.begin().await.map_err(failed)?;
        let version = schema_version(&system, &mut tx).await?;
        if version != self.schema_version {
            // The transaction is of no use: nothing may be read past a change of columns.
            tx.rollback().await.map_err(failed)?;
            return self.verify(version).await;
        }
        let read = self.codec.changes(&mut tx, from, &self.position.published, bytes).await?;
        let next = self
            .position
            .tables
            .iter()
            .find(|(name, table)| table.load != Load::Done && self.codec.table(name).is_some())
            .map(|(name, table)| (name.clone(), table.load.clone()));
        if let Some((table, load)) = next
            && !read.cut
            && Instant::now() >= self.next_chunk
        {
            let high = highest(&system, &mut tx).await?;
            let after = match &load {
                Load::After(after) => Some(after.as_str()),
                Load::Begin | Load::Done => None,
            };
            let rows = self.position.snapshot_rows;
            let budget = ChunkBudget { bytes: self.snapshot.chunk.min(bytes), rows: usize::MAX };
            let read = self.codec.chunk(&mut tx, &table, Part { after, wanted: &[] }, high, rows, budget).await?;
            chunk = Some((table, read));
        }
        tx.rollback().await.map_err(failed)?;
        let Changes { mut changes, ids, .. } = read;
        if let Some(change) = changes.last() {
            self.newest_commit_us = Some(change.origin.ts_us);
        }
        if ids.is_empty() && chunk.is_none() {
            let loaded = self.newly_loaded();
            return Ok(SourceBatch { loaded, ..SourceBatch::default() });
        }
        for id in ids {
            self.position.published.insert(id);
            self.position.last = self.position.last.max(id);
        }
        if let Some((table, chunk)) = chunk {
            self.position.snapshot_rows += chunk.rows;
            if let Some(position) = self.position.tables.get_mut(&table) {
                position.load = chunk.after.map_or(Load::Done, Load::After);
            }
            self.pace(chunk.rows);
            changes.extend(chunk.changes);
        }
        let (loaded, position) = (self.newly_loaded(), Some(self.position.encode()));
        Ok(SourceBatch { changes, loaded, position, ..SourceBatch::default() })
    }

    /// Tables that are read to their end and were not told to be.
    fn newly_loaded(&mut self) -> Vec<String> {
        let is_done = |name: &String| self.position.tables.get(name).is_some_and(|table| table.load == Load::Done);
        let tables = self.codec.tables().filter(|(name, _)| is_done(name));
        tables.filter(|(_, table)| self.told.insert(table.to_string())).map(|(_, table)| table.to_string()).collect()
    }

    fn pace(&mut self, rows: u64) {
        if let Some(limit) = self.snapshot.rows_per_second.filter(|&limit| limit > 0) {
            self.next_chunk = Instant::now() + Duration::from_secs_f64(rows as f64 / f64::from(limit));
        }
    }

    /// The catalogue changed: what the triggers write must be the columns of now. Where both changed, the source begins anew.
    async fn verify(&mut self, version: i64) -> Result<SourceBatch, SourceError> {
        let (known, new): (Vec<Captured>, Vec<Captured>) = catalogue::tables(&self.declared, &mut self.conn)
            .await?
            .into_iter()
            .partition(|captured| self.codec.table(captured.name()).is_some());
        prepare::verify(&self.system, &self.exchange, &mut self.conn, &known).await?;
        for captured in new {
            let help = "run `guitong system prepare` for this system to tail it as well";
            tracing::warn!(system = %self.system, table = captured.name(), help, "a new table matches the system's patterns");
        }
        if known.len() != self.codec.len() || known.iter().any(|captured| self.codec.table(captured.name()) != Some(captured)) {
            return Err(SourceError::Unavailable {
                system: self.system.clone(),
                detail: "its tables changed and are prepared; reading begins anew".to_owned(),
            });
        }
        self.schema_version = version;
        Ok(SourceBatch::default())
    }

    /// Removes what is durable. A busy database is left alone until later.
    async fn remove(&mut self) -> Result<(), SourceError> {
        let due = self.durable_since.is_some_and(|since| since.elapsed() >= REMOVE_AFTER) || self.durable.len() >= REMOVE_COUNT;
        if !due || self.durable.is_empty() {
            return Ok(());
        }
        match self.try_remove().await {
            Ok(highest) => {
                // The row with the largest id stays, emptied, so that ids go on from it.
                self.position.published.retain(|id| id == highest, &self.durable);
                self.durable = IdSet::default();
                self.durable_since = None;
                self.look_back().await
            }
            Err(error) if is_busy(&error) => {
                self.durable_since = Some(Instant::now());
                Ok(())
            }
            Err(error) => Err(fault(&self.system, &error)),
        }
    }

    async fn try_remove(&mut self) -> Result<i64, sqlx::Error> {
        let mut tx = self.conn.begin_with("BEGIN IMMEDIATE").await?;
        let highest: i64 = sqlx::query_scalar("SELECT max(id) FROM guitong_changes").fetch_one(&mut *tx).await?;
        for &(first, last) in self.durable.ranges() {
            sqlx::query("DELETE FROM guitong_changes WHERE id BETWEEN $1 AND $2 AND id < $3")
                .bind(first)
                .bind(last)
                .bind(highest)
                .execute(&mut *tx)
                .await?;
        }
        if self.durable.contains(highest) {
            sqlx::query("UPDATE guitong_changes SET before_row = NULL, after_row = NULL WHERE id = $1")
                .bind(highest)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(highest)
    }

    /// Looks for changes with smaller ids than the last one read.
    async fn look_back(&mut self) -> Result<(), SourceError> {
        let ids: Vec<i64> = sqlx::query_scalar("SELECT id FROM guitong_changes WHERE id > 0 AND id < $1 ORDER BY id")
            .bind(self.position.last)
            .fetch_all(&mut self.conn)
            .await
            .map_err(|error| fault(&self.system, &error))?;
        self.rewind = ids.into_iter().find(|&id| !self.position.published.contains(id)).map(|id| id - 1);
        Ok(())
    }
}

#[async_trait]
impl Source for ChangelogSource {
    async fn next_batch(&mut self, budget: SourceBudget) -> Result<SourceBatch, SourceError> {
        let until = Instant::now() + budget.wait;
        loop {
            self.remove().await?;
            let batch = self.read(budget.bytes).await?;
            let rest = until.saturating_duration_since(Instant::now());
            if !batch.changes.is_empty() || !batch.loaded.is_empty() || batch.position.is_some() || rest.is_zero() {
                return Ok(batch);
            }
            if self.rewind.is_some() {
                continue;
            }
            let chunk = self.loading().map(|_| self.next_chunk.saturating_duration_since(Instant::now()));
            let removal = self.durable_since.map(|since| REMOVE_AFTER.saturating_sub(since.elapsed()));
            let limit = [chunk, removal].into_iter().flatten().fold(rest, Duration::min);
            self.watch.wait(limit.max(Duration::from_millis(1))).await;
        }
    }

    async fn confirm(&mut self, durable: Durable) -> Result<(), SourceError> {
        let position = Position::decode(&self.system, durable.position())?;
        for &(first, last) in position.published.ranges() {
            for id in first..=last {
                if self.position.published.contains(id) {
                    self.durable.insert(id);
                }
            }
        }
        self.durable_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn status(&self) -> SourceStatus {
        let phase = match self.loading() {
            Some(_) => Phase::Snapshot { rows_done: self.position.snapshot_rows, rows_estimated: None },
            None => Phase::Streaming,
        };
        SourceStatus { phase, newest_commit_us: self.newest_commit_us, tables: self.codec.names(), ..SourceStatus::default() }
    }
}

/// A table that is new, or has other columns than when it was read, is read from its start.
fn begin_load(position: &mut Position, captured: &Captured, enabled: bool) {
    let columns = captured.columns_text();
    let known = position.tables.get(captured.name()).is_some_and(|table| table.columns == columns);
    if !known {
        let load = if enabled { Load::Begin } else { Load::Done };
        position.tables.insert(captured.name().to_owned(), TablePosition { columns, load });
    }
}

fn check_gap(system: &str, position: &Position, instance: &str, highest: i64) -> Result<(), SourceError> {
    let detail = if position.instance != instance {
        "the change log was removed and prepared anew since it was last read; changes in between may be missing".to_owned()
    } else if highest < position.last {
        format!(
            "the database is older than what was read of it (its last change is {highest}, {} was read); was a backup restored?",
            position.last
        )
    } else {
        return Ok(());
    };
    Err(SourceError::gap(system, detail))
}

async fn schema_version(system: &str, conn: &mut SqliteConnection) -> Result<i64, SourceError> {
    sqlx::query_scalar("PRAGMA schema_version").fetch_one(conn).await.map_err(|error| fault(system, &error))
}

async fn highest(system: &str, conn: &mut SqliteConnection) -> Result<i64, SourceError> {
    let highest: Option<i64> =
        sqlx::query_scalar("SELECT max(id) FROM guitong_changes").fetch_one(conn).await.map_err(|error| fault(system, &error))?;
    Ok(highest.unwrap_or(0))
}
