//! What SQLite's errors mean for the log.

use std::path::Path;

use crate::contract::LogError;

/// Primary result codes of SQLite (sqlite.org/rescode.html).
mod code {
    pub(super) const NOMEM: u32 = 7;
    pub(super) const IOERR: u32 = 10;
    pub(super) const CORRUPT: u32 = 11;
    pub(super) const FULL: u32 = 13;
    pub(super) const NOTADB: u32 = 26;
}

/// An error of SQLite, kept so that it can be told to every owner whose commit it stopped.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    kind: Kind,
    detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Full,
    Io,
    Damaged,
    NotADatabase,
    Gone,
    Other,
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        let kind = match &error {
            sqlx::Error::Database(database) => {
                match database.code().and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff) {
                    Some(code::FULL) => Kind::Full,
                    Some(code::IOERR | code::NOMEM) => Kind::Io,
                    Some(code::CORRUPT) => Kind::Damaged,
                    Some(code::NOTADB) => Kind::NotADatabase,
                    _ => Kind::Other,
                }
            }
            sqlx::Error::Io(_) => Kind::Io,
            sqlx::Error::WorkerCrashed | sqlx::Error::PoolClosed | sqlx::Error::PoolTimedOut => Kind::Gone,
            _ => Kind::Other,
        };
        Self { kind, detail: error.to_string() }
    }
}

impl Fault {
    /// No connection could be made.
    pub(crate) fn unavailable(error: &LogError) -> Self {
        Self { kind: Kind::Gone, detail: error.to_string() }
    }

    /// Whether a COMMIT that ended with this has certainly written nothing. SQLite says FULL only when a write of the
    /// write-ahead log itself fell short, so the frame that commits is not whole; after any other I/O error (a failed sync, no
    /// room for the shared index) that frame may lie in the file and come to life at the next recovery.
    pub(crate) fn commit_refused(&self) -> bool {
        self.kind == Kind::Full
    }

    pub(crate) fn error(&self, path: &Path) -> LogError {
        let (path, detail) = (path.display().to_string(), self.detail.clone());
        match self.kind {
            Kind::Full => LogError::DiskFull { path, detail },
            Kind::Io if disk_is_full(path.as_ref()) => LogError::DiskFull { path, detail },
            Kind::Io | Kind::Gone => LogError::Unavailable { detail: format!("{path}: {detail}") },
            Kind::Damaged => LogError::Corrupt { detail: format!("{path}: {detail}; restore the last backup") },
            Kind::NotADatabase => LogError::Foreign { path, detail },
            Kind::Other => LogError::Other(format!("{path}: {detail}")),
        }
    }
}

/// SQLite reports a full disk as an I/O error where it is not the log itself that it failed to write.
fn disk_is_full(path: &Path) -> bool {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    rustix::fs::statvfs(folder).is_ok_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) < 64 << 10)
}
