//! A folder in which files appear whole, durable and under their names, or not at all.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt as _;

use crate::sink::{SinkError, SinkErrorKind};

#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    subscription: Arc<str>,
}

/// A file that is being written under another name.
#[derive(Debug)]
pub(super) struct Upload<'f> {
    folder: &'f Folder,
    file: File,
    temporary: PathBuf,
    name: String,
}

impl Folder {
    pub(super) fn new(path: PathBuf, subscription: Arc<str>) -> Self {
        Self { path, subscription }
    }

    /// A folder that is not there is not made: what is to be mounted there would be written beside it.
    pub(super) async fn check(&self) -> Result<(), SinkError> {
        match fs::metadata(&self.path).await {
            Ok(found) if found.is_dir() => Ok(()),
            Ok(_) => Err(SinkError::new(SinkErrorKind::Shape, format!("{} is no folder", self.path.display()))),
            Err(error) => Err(io_error(&self.path, &error)),
        }
    }

    /// What an upload is called until it is whole; a dot hides it from whoever takes files away.
    fn temporary(&self) -> String {
        format!(".{}_", self.subscription)
    }

    pub(super) async fn begin(&self, name: &str) -> Result<Upload<'_>, SinkError> {
        let temporary = self.path.join(format!("{}{:016x}.tmp", self.temporary(), rand::random::<u64>()));
        let file = fs::OpenOptions::new().write(true).create_new(true).open(&temporary).await;
        let file = file.map_err(|error| io_error(&temporary, &error))?;
        Ok(Upload { folder: self, file, temporary, name: name.to_owned() })
    }

    pub(super) async fn has(&self, name: &str) -> Result<bool, SinkError> {
        let path = self.path.join(name);
        match fs::metadata(&path).await {
            Ok(found) => Ok(found.is_file()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io_error(&path, &error)),
        }
    }

    pub(super) async fn remove(&self, name: &str) -> Result<(), SinkError> {
        let path = self.path.join(name);
        match fs::remove_file(&path).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&path, &error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Removes what an upload left that did not come to its end.
    pub(super) async fn clear(&self) -> Result<(), SinkError> {
        let failed = |error: io::Error| io_error(&self.path, &error);
        let begins = self.temporary();
        let mut entries = fs::read_dir(&self.path).await.map_err(failed)?;
        while let Some(entry) = entries.next_entry().await.map_err(failed)? {
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.starts_with(&begins) && name.ends_with(".tmp")) {
                self.remove(&name.to_string_lossy()).await?;
            }
        }
        Ok(())
    }
}

impl Upload<'_> {
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        self.file.write_all(bytes).await.map_err(|error| io_error(&self.temporary, &error))
    }

    /// All of it is on the disk.
    pub(super) async fn sync(&mut self) -> Result<(), SinkError> {
        let synced = async {
            self.file.flush().await?;
            self.file.sync_all().await
        };
        synced.await.map_err(|error| io_error(&self.temporary, &error))
    }

    /// The file is there, and stays there, once this returns.
    pub(super) async fn finish(mut self) -> Result<(), SinkError> {
        self.sync().await?;
        let path = self.folder.path.join(&self.name);
        fs::rename(&self.temporary, &path).await.map_err(|error| io_error(&path, &error))?;
        let folder = &self.folder.path;
        let synced = async { File::open(folder).await?.sync_all().await };
        synced.await.map_err(|error| io_error(folder, &error))
    }
}

/// Kind of an error of the file system.
pub(super) fn io_error(path: &Path, error: &io::Error) -> SinkError {
    use io::ErrorKind as Kind;
    let (kind, help) = match error.kind() {
        Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge | Kind::ReadOnlyFilesystem => {
            (SinkErrorKind::Full, "make room there")
        }
        Kind::PermissionDenied => (SinkErrorKind::Denied, "let the node's user write there"),
        Kind::NotFound => (SinkErrorKind::Unreachable, "make the folder, or mount it"),
        Kind::IsADirectory | Kind::NotADirectory => (SinkErrorKind::Shape, "something else has that name"),
        _ => (SinkErrorKind::Unreachable, "it is tried again"),
    };
    SinkError::new(kind, format!("{}: {error}; {help}", path.display()))
}
