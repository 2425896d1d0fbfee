//! Where files appear: a folder, or a bucket.

use std::sync::Arc;

use guitong_schemas::contract::files;

use super::folder::{self, Folder};
use super::store::{self, Store};
use crate::sink::SinkError;

#[derive(Debug)]
pub(super) enum Place {
    Folder(Folder),
    Store(Box<Store>),
}

#[derive(Debug)]
pub(super) enum Upload<'p> {
    Folder(folder::Upload<'p>),
    Store(store::Upload<'p>),
}

impl Place {
    pub(super) fn new(place: &files::Place, subscription: Arc<str>) -> Self {
        match place {
            files::Place::Folder(path) => Self::Folder(Folder::new(path.clone(), subscription)),
            files::Place::Bucket(bucket) => Self::Store(Box::new(Store::new(bucket.clone(), subscription))),
        }
    }

    /// Whether it is there.
    pub(super) async fn check(&mut self) -> Result<(), SinkError> {
        match self {
            Self::Folder(folder) => folder.check().await,
            Self::Store(store) => store.check().await,
        }
    }

    pub(super) async fn begin(&self, name: &str) -> Result<Upload<'_>, SinkError> {
        Ok(match self {
            Self::Folder(folder) => Upload::Folder(folder.begin(name).await?),
            Self::Store(store) => Upload::Store(store.begin(name)),
        })
    }

    pub(super) async fn has(&self, name: &str) -> Result<bool, SinkError> {
        match self {
            Self::Folder(folder) => folder.has(name).await,
            Self::Store(store) => store.has(name).await,
        }
    }

    /// Puts what is never put twice.
    pub(super) async fn put_new(&self, name: &str, bytes: Vec<u8>) -> Result<(), SinkError> {
        match self {
            Self::Folder(folder) => {
                let mut upload = folder.begin(name).await?;
                upload.write(&bytes).await?;
                upload.finish().await
            }
            Self::Store(store) => store.put_new(name, bytes).await,
        }
    }

    pub(super) async fn remove(&self, name: &str) -> Result<(), SinkError> {
        match self {
            Self::Folder(folder) => folder.remove(name).await,
            Self::Store(store) => store.remove(name).await,
        }
    }

    /// Removes what uploads left that did not come to their end, where that lies in the place itself.
    pub(super) async fn clear(&self) -> Result<(), SinkError> {
        match self {
            Self::Folder(folder) => folder.clear().await,
            Self::Store(_) => Ok(()),
        }
    }
}

impl Upload<'_> {
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        match self {
            Self::Folder(upload) => upload.write(bytes).await,
            Self::Store(upload) => upload.write(bytes).await,
        }
    }

    /// Brings there what takes long, so that little is left to do after it was seen who holds the subscription.
    pub(super) async fn send(&mut self) -> Result<(), SinkError> {
        match self {
            Self::Folder(upload) => upload.sync().await,
            Self::Store(upload) => upload.send().await,
        }
    }

    /// It is there under its name, and stays there, once this returns.
    pub(super) async fn finish(self) -> Result<(), SinkError> {
        match self {
            Self::Folder(upload) => upload.finish().await,
            Self::Store(upload) => upload.finish().await,
        }
    }
}
