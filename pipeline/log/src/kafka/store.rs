//! The local copy of a role's assignment topic: what owners ask their state from. One SQLite file per role.
//!
//! It is no source of truth: where it is missing, damaged or of another log it is made anew from the topic. For each slot it knows
//! the offset up to which it holds the topic, changed in the same SQLite transaction as the entries, so a crash leaves an older
//! copy, never a mixed one (`synchronous = NORMAL`: the last transactions may go with the power, and are read again).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, QueryBuilder, Row, Sqlite, SqliteConnection, SqlitePool};
use tokio::sync::Mutex;

use super::changelog::{Change, after_prefix};
use super::topics::INTERNAL_TOMBSTONES;
use crate::contract::{LogError, LogId};

/// `GTKS`, in the file's header.
const APPLICATION_ID: i64 = 0x4754_4B53;
/// A file of another format is made anew.
const FORMAT: i64 = 1;
/// Rows of one statement.
const ROWS: usize = 200;
/// Page cache in KiB: the writer's and each reader's.
const CACHE: &str = "-4096";
const READERS: u32 = 2;
/// A copy that was away for longer may have missed tombstones that are gone by now.
const STALE: Duration = Duration::from_secs(INTERNAL_TOMBSTONES.as_secs() / 2);

const SCHEMA: &str = "
    CREATE TABLE log (id TEXT NOT NULL);
    CREATE TABLE slot (slot INTEGER PRIMARY KEY, next INTEGER NOT NULL, at INTEGER NOT NULL);
    CREATE TABLE entry (slot INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (slot, key)) WITHOUT ROWID;
";

/// Changes of a slot up to an offset of its partition.
#[derive(Debug)]
pub(crate) struct SlotChanges {
    pub(crate) slot: u32,
    /// Offset after the last of them.
    pub(crate) next: u64,
    pub(crate) changes: Vec<Change>,
}

#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    writer: Mutex<SqliteConnection>,
    readers: SqlitePool,
}

impl Store {
    /// Opens the copy at `path` for `log`; what cannot be used is made anew.
    pub(crate) async fn open(path: &Path, log: &LogId) -> Result<Self, LogError> {
        match Self::open_checked(path, log).await {
            Ok(Some(store)) => return Ok(store),
            Ok(None) => {
                tracing::info!(path = %path.display(), "the copy of the state is of another log or format; it is made anew")
            }
            Err(error) => tracing::warn!(path = %path.display(), %error, "the copy of the state cannot be used; it is made anew"),
        }
        for side in ["", "-wal", "-shm"] {
            let mut file = path.as_os_str().to_owned();
            file.push(side);
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(LogError::Other(format!("{}: {error}", path.display())));
                }
                _ => {}
            }
        }
        match Self::open_checked(path, log).await? {
            Some(store) => Ok(store),
            None => Err(LogError::Other(format!("{}: cannot be made", path.display()))),
        }
    }

    async fn open_checked(path: &Path, log: &LogId) -> Result<Option<Self>, LogError> {
        let fault = |error| fault(path, &error);
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(10))
            .pragma("cache_size", CACHE)
            .disable_statement_logging();
        let mut writer = options.clone().create_if_missing(true).connect().await.map_err(fault)?;
        let id: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut writer).await.map_err(fault)?;
        let format: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut writer).await.map_err(fault)?;
        if (id, format) == (0, 0) {
            create(&mut writer, log).await.map_err(fault)?;
        } else if (id, format) != (APPLICATION_ID, FORMAT) {
            return Ok(None);
        }
        let of: Option<String> = sqlx::query_scalar("SELECT id FROM log").fetch_optional(&mut writer).await.map_err(fault)?;
        if of.as_deref() != Some(&*log.0) {
            return Ok(None);
        }
        // A file needs no ping before each use.
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .test_before_acquire(false)
            .connect_lazy_with(options.read_only(true));
        Ok(Some(Self { path: path.to_owned(), writer: Mutex::new(writer), readers }))
    }

    fn fault(&self, error: &sqlx::Error) -> LogError {
        fault(&self.path, error)
    }

    /// Offset up to which the copy holds the slot; 0 where it is to be read from the start.
    pub(crate) async fn next(&self, slot: u32) -> Result<u64, LogError> {
        let mut writer = self.writer.lock().await;
        let row = sqlx::query("SELECT next, at FROM slot WHERE slot = ?").bind(slot).fetch_optional(&mut *writer).await;
        let Some(row) = row.map_err(|error| self.fault(&error))? else { return Ok(0) };
        let (next, at): (i64, i64) = (row.get(0), row.get(1));
        let age = now().saturating_sub(at);
        if age > i64::try_from(STALE.as_secs()).unwrap_or(i64::MAX) {
            return Ok(0);
        }
        Ok(u64::try_from(next).unwrap_or(0))
    }

    /// Empties a slot, which is to be read from the start.
    pub(crate) async fn clear(&self, slot: u32) -> Result<(), LogError> {
        let mut writer = self.writer.lock().await;
        let cleared = async {
            let mut change = writer.begin().await?;
            sqlx::query("DELETE FROM entry WHERE slot = ?").bind(slot).execute(&mut *change).await?;
            sqlx::query("DELETE FROM slot WHERE slot = ?").bind(slot).execute(&mut *change).await?;
            change.commit().await
        };
        cleared.await.map_err(|error| self.fault(&error))
    }

    /// Applies changes, those of a slot in the order given; such as the copy holds already are passed over.
    pub(crate) async fn apply(&self, all: &[&SlotChanges]) -> Result<(), LogError> {
        let mut writer = self.writer.lock().await;
        apply(&mut writer, all).await.map_err(|error| self.fault(&error))
    }

    /// Values of `keys`, in their order.
    pub(crate) async fn get(&self, slot: u32, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LogError> {
        let mut found = BTreeMap::<Vec<u8>, Bytes>::new();
        for chunk in keys.chunks(ROWS) {
            let mut query = QueryBuilder::<Sqlite>::new("SELECT key, value FROM entry WHERE slot = ");
            query.push_bind(slot).push(" AND key IN (");
            let mut list = query.separated(", ");
            for key in chunk {
                list.push_bind(&key[..]);
            }
            query.push(")");
            let rows = query.build().fetch_all(&self.readers).await.map_err(|error| self.fault(&error))?;
            found.extend(rows.into_iter().map(|row| (row.get(0), Bytes::from(row.get::<Vec<u8>, _>(1)))));
        }
        Ok(keys.iter().map(|key| found.get(&key[..]).cloned()).collect())
    }

    /// Entries whose keys start with `prefix` and come after `after`, in order, at most `limit`.
    pub(crate) async fn scan(
        &self,
        slot: u32,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, LogError> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT key, value FROM entry WHERE slot = ");
        query.push_bind(slot).push(" AND key >= ").push_bind(prefix);
        if let Some(after) = after {
            query.push(" AND key > ").push_bind(after);
        }
        if let Some(end) = after_prefix(prefix) {
            query.push(" AND key < ").push_bind(end);
        }
        query.push(" ORDER BY key LIMIT ").push_bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = query.build().fetch_all(&self.readers).await.map_err(|error| self.fault(&error))?;
        Ok(rows.into_iter().map(|row| (row.get::<Vec<u8>, _>(0).into(), row.get::<Vec<u8>, _>(1).into())).collect())
    }

    /// Ends reading; the writer ends with the value.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

async fn create(writer: &mut SqliteConnection, log: &LogId) -> Result<(), sqlx::Error> {
    let mut change = writer.begin().await?;
    sqlx::raw_sql(SCHEMA).execute(&mut *change).await?;
    sqlx::query("INSERT INTO log (id) VALUES (?)").bind(&*log.0).execute(&mut *change).await?;
    let mut marks = QueryBuilder::<Sqlite>::new("PRAGMA application_id = ");
    marks.push(APPLICATION_ID);
    marks.build().execute(&mut *change).await?;
    let mut marks = QueryBuilder::<Sqlite>::new("PRAGMA user_version = ");
    marks.push(FORMAT);
    marks.build().execute(&mut *change).await?;
    change.commit().await
}

async fn apply(writer: &mut SqliteConnection, all: &[&SlotChanges]) -> Result<(), sqlx::Error> {
    let mut change = writer.begin_with("BEGIN IMMEDIATE").await?;
    for of in all {
        let next = i64::try_from(of.next).unwrap_or(i64::MAX);
        let moved = sqlx::query(
            "INSERT INTO slot (slot, next, at) VALUES (?, ?, ?)
             ON CONFLICT (slot) DO UPDATE SET next = excluded.next, at = excluded.at WHERE excluded.next > slot.next",
        );
        let moved = moved.bind(of.slot).bind(next).bind(now()).execute(&mut *change).await?;
        if moved.rows_affected() == 0 {
            continue;
        }
        // The last change of a key is what stays, so the order of the others does not matter.
        let last: BTreeMap<&Bytes, Option<&Bytes>> = of.changes.iter().map(|(key, value)| (key, value.as_ref())).collect();
        let put: Vec<_> = last.iter().filter_map(|(key, value)| value.map(|value| (&key[..], &value[..]))).collect();
        for rows in put.chunks(ROWS) {
            let mut query = QueryBuilder::<Sqlite>::new("INSERT OR REPLACE INTO entry (slot, key, value) ");
            query.push_values(rows, |mut row, (key, value)| {
                row.push_bind(of.slot).push_bind(*key).push_bind(*value);
            });
            query.build().execute(&mut *change).await?;
        }
        let gone: Vec<_> = last.iter().filter(|(_, value)| value.is_none()).map(|(key, _)| &key[..]).collect();
        for keys in gone.chunks(ROWS) {
            let mut query = QueryBuilder::<Sqlite>::new("DELETE FROM entry WHERE slot = ");
            query.push_bind(of.slot).push(" AND key IN (");
            let mut list = query.separated(", ");
            for key in keys {
                list.push_bind(*key);
            }
            query.push(")");
            query.build().execute(&mut *change).await?;
        }
    }
    change.commit().await
}

/// SQLite's code for a full disk.
const FULL: &str = "13";

fn fault(path: &Path, error: &sqlx::Error) -> LogError {
    let text = path.display().to_string();
    match error.as_database_error().and_then(|error| error.code()) {
        Some(code) if code == FULL => LogError::DiskFull { path: text, detail: error.to_string() },
        _ => LogError::Other(format!("{text}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &'static str, value: Option<&'static str>) -> Change {
        (Bytes::from_static(key.as_bytes()), value.map(|value| Bytes::from_static(value.as_bytes())))
    }

    async fn all(store: &Store, slot: u32) -> Vec<(Bytes, Bytes)> {
        store.scan(slot, b"", None, usize::MAX).await.unwrap()
    }

    #[tokio::test]
    async fn changes_apply_once_in_order_and_per_slot() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let log = LogId("one".into());
        let store = Store::open(&path, &log).await.unwrap();
        assert_eq!(store.next(3).await.unwrap(), 0);
        let first =
            vec![entry("a", Some("1")), entry("b", Some("1")), entry("a", Some("2")), entry("b", None), entry("c", Some(""))];
        store.apply(&[&SlotChanges { slot: 3, next: 10, changes: first }]).await.unwrap();
        // Read again after a later change was applied: passed over.
        store.apply(&[&SlotChanges { slot: 3, next: 9, changes: vec![entry("a", Some("old"))] }]).await.unwrap();
        store.apply(&[&SlotChanges { slot: 4, next: 9, changes: vec![entry("a", Some("other"))] }]).await.unwrap();
        let expected = [(Bytes::from("a"), Bytes::from("2")), (Bytes::from("c"), Bytes::new())];
        assert_eq!(all(&store, 3).await, expected);
        let asked = [Bytes::from("c"), Bytes::from("b"), Bytes::from("a")];
        assert_eq!(store.get(3, &asked).await.unwrap(), [Some(Bytes::new()), None, Some(Bytes::from("2"))]);
        assert_eq!(store.scan(3, b"", Some(b"a"), 9).await.unwrap().len(), 1);
        store.close().await;

        let store = Store::open(&path, &log).await.unwrap();
        assert_eq!((store.next(3).await.unwrap(), all(&store, 3).await.len()), (10, 2));
        store.clear(3).await.unwrap();
        assert_eq!((store.next(3).await.unwrap(), all(&store, 3).await.len()), (0, 0));
        assert_eq!(all(&store, 4).await.len(), 1);
        store.close().await;

        let other = Store::open(&path, &LogId("another".into())).await.unwrap();
        assert_eq!((other.next(4).await.unwrap(), all(&other, 4).await.len()), (0, 0), "a copy of another log");
        other.close().await;
        std::fs::write(&path, b"no database at all, but long enough to be looked at").unwrap();
        let anew = Store::open(&path, &log).await.unwrap();
        assert_eq!(anew.next(4).await.unwrap(), 0, "a damaged copy");
    }
}
