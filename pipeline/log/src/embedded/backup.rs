//! A copy of the log while it runs, and the way back.
//!
//! A backup is what was committed when it began, in one file. A restored log is another log: it gets an id of its own, so that a sink
//! which knows offsets of the old one sees a gap and not a continuation.

use std::fs::File;
use std::path::{Path, PathBuf};

use sqlx::{ConnectOptions, Connection};

use super::EmbeddedLog;
use super::file::{FileLock, LogFile, beside, check, io_error, new_id};
use crate::contract::{LogError, LogId};

/// What a restore did.
#[derive(Debug, Clone)]
pub struct Restored {
    /// The new log's id.
    pub id: LogId,
    /// Where the log that was there lies now.
    pub put_aside: Option<PathBuf>,
}

impl EmbeddedLog {
    /// Writes a backup to `to`, where nothing may be yet.
    ///
    /// # Errors
    /// [`LogError::DiskFull`] names the backup's disk; [`LogError::Other`] where `to` exists.
    pub async fn backup(&self, to: &Path) -> Result<(), LogError> {
        refuse_existing(to)?;
        let partial = fresh_partial(to)?;
        let target = LogFile::new(&partial, None);
        let name = partial.to_str().ok_or_else(|| LogError::Other(format!("{}: the path is no UTF-8", to.display())))?;
        let mut conn = self.inner.file.options().connect().await.map_err(|error| self.inner.file.error(error))?;
        let copied = sqlx::query("VACUUM INTO ?").bind(name).execute(&mut conn).await.map_err(|error| target.error(error));
        conn.close().await.map_err(|error| self.inner.file.error(error))?;
        if let Err(error) = copied {
            // The unfinished copy is of no use; that it could not be removed is not worth hiding the cause.
            std::fs::remove_file(&partial).ok();
            return Err(error);
        }
        keep(&partial, to)
    }

    /// Makes a log at `path` from a backup. A log that is there is put aside.
    ///
    /// # Errors
    /// [`LogError::Locked`], [`LogError::Foreign`], [`LogError::Newer`], [`LogError::Corrupt`], [`LogError::DiskFull`].
    pub async fn restore(backup: &Path, path: &Path) -> Result<Restored, LogError> {
        let _lock = FileLock::take(path)?;
        if !backup.is_file() {
            return Err(LogError::Other(format!("{}: there is no such backup", backup.display())));
        }
        verify(backup).await?;
        let partial = fresh_partial(path)?;
        let (from, to) = (backup.to_owned(), partial.clone());
        tokio::task::spawn_blocking(move || std::fs::copy(&from, &to).map(drop))
            .await
            .map_err(|error| LogError::Other(error.to_string()))?
            .map_err(|error| io_error(&partial, &error))?;
        let file = LogFile::new(&partial, None);
        let id = new_id();
        let mut conn = file.options().connect().await.map_err(|error| file.error(error))?;
        let named = sqlx::query("UPDATE log SET id = ?").bind(&*id.0).execute(&mut conn).await;
        conn.close().await.map_err(|error| file.error(error))?;
        named.map_err(|error| file.error(error))?;
        let put_aside = put_aside(path).await?;
        keep(&partial, path)?;
        Ok(Restored { id, put_aside })
    }
}

async fn verify(backup: &Path) -> Result<(), LogError> {
    let file = LogFile::new(backup, None);
    let mut conn = file.options().read_only(true).connect().await.map_err(|error| file.error(error))?;
    let empty = check(&mut conn, backup).await?;
    let found: String =
        sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&mut conn).await.map_err(|error| file.error(error))?;
    conn.close().await.map_err(|error| file.error(error))?;
    if empty {
        return Err(LogError::Foreign { path: backup.display().to_string(), detail: "it is empty".to_owned() });
    }
    if found != "ok" {
        return Err(LogError::Corrupt { detail: format!("{}: {found}", backup.display()) });
    }
    Ok(())
}

/// Renames the log that lies at `path`, with its write-ahead log, which would else be taken for the new one's.
async fn put_aside(path: &Path) -> Result<Option<PathBuf>, LogError> {
    let file = LogFile::new(path, None);
    let wal = file.wal();
    if !path.exists() && !wal.exists() {
        return Ok(None);
    }
    // Closing writes the write-ahead log back, so that one name has everything. A damaged log is moved as it is.
    if let Ok(conn) = file.prepared_writer().await {
        conn.close().await.map_err(|error| file.error(error))?;
    }
    let free = |n: u32| beside(path, &format!("replaced-{n}"));
    let Some(aside) = (1..1000).map(free).find(|aside| !aside.exists()) else {
        return Err(LogError::Other(format!("{}: there are too many replaced logs beside it; move them away", path.display())));
    };
    for (from, to) in [(wal, LogFile::new(&aside, None).wal()), (path.to_owned(), aside.clone())] {
        match std::fs::rename(&from, &to) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io_error(&from, &error)),
            _ => {}
        }
    }
    Ok(Some(aside))
}

fn refuse_existing(path: &Path) -> Result<(), LogError> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error(path, &error)),
        Ok(_) => Err(LogError::Other(format!("{} exists; move it away first", path.display()))),
    }
}

/// Where the file grows until it is whole; what an interrupted run left there goes.
fn fresh_partial(path: &Path) -> Result<PathBuf, LogError> {
    let partial = beside(path, "partial");
    match std::fs::remove_file(&partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error(&partial, &error)),
        _ => Ok(partial),
    }
}

/// Makes the finished file durable under its name.
fn keep(partial: &Path, path: &Path) -> Result<(), LogError> {
    let io = |error: std::io::Error| io_error(path, &error);
    File::open(partial).and_then(|file| file.sync_all()).map_err(io)?;
    std::fs::rename(partial, path).map_err(io)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
}
