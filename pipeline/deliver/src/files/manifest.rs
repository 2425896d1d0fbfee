//! What is told of a file beside it.

use guitong_govern::KeyForm;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::form::Form;
use super::outbox::Closing;
use crate::sink::SinkPlan;
use crate::sql::KEY;

/// `<name>.manifest.json`: who reads it takes the files that it names, and no other.
#[derive(Debug, Serialize)]
pub(super) struct Manifest {
    /// Of this form.
    manifest: u32,
    subscription: String,
    /// Chinese title of the resource.
    title: String,
    topic: String,
    /// Files of another generation than before void all of the earlier ones.
    generation: String,
    /// Rises by one with each manifest of a generation.
    number: u64,
    /// RFC 3339.
    closed: String,
    /// With this and the manifests before it everything is there that the subscription grants; false while a first load, or a new
    /// one, is under way.
    complete: bool,
    format: &'static str,
    encoding: &'static str,
    key: Vec<String>,
    columns: Vec<ColumnEntry>,
    files: Vec<FileEntry>,
}

#[derive(Debug, Serialize)]
struct ColumnEntry {
    name: String,
    title: String,
}

/// One file.
#[derive(Debug, Serialize)]
pub(super) struct FileEntry {
    name: String,
    bytes: u64,
    sha256: String,
    upserts: u64,
    deletes: u64,
    /// Positions of the first and the last change in it; those of one generation are in order and without gaps.
    first: u64,
    last: u64,
    #[serde(skip)]
    hash: Sha256,
}

impl FileEntry {
    pub(super) fn new(closing: &Closing) -> Self {
        Self {
            name: closing.name.clone(),
            bytes: 0,
            sha256: String::new(),
            upserts: 0,
            deletes: 0,
            first: closing.first,
            last: closing.last,
            hash: Sha256::new(),
        }
    }

    pub(super) fn count(&mut self, deleted: bool) {
        *(if deleted { &mut self.deletes } else { &mut self.upserts }) += 1;
    }

    pub(super) fn hash(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hash.update(bytes);
    }

    pub(super) fn done(mut self) -> Self {
        self.sha256 = hex::encode(std::mem::take(&mut self.hash).finalize());
        self
    }
}

impl Manifest {
    pub(super) fn new(plan: &SinkPlan, form: &Form, closing: &Closing, files: Vec<FileEntry>) -> Self {
        let key = match &plan.key {
            KeyForm::Hashed => vec![KEY.to_owned()],
            KeyForm::Clear(places) => {
                places.iter().filter_map(|&at| plan.columns.get(at)).map(|column| column.name.clone()).collect()
            }
        };
        let columns = plan.columns.iter().map(|column| ColumnEntry { name: column.name.clone(), title: column.title.clone() });
        Self {
            manifest: 1,
            subscription: plan.subscription.to_string(),
            title: plan.title.clone(),
            topic: plan.topic.to_string(),
            generation: closing.generation.clone(),
            number: closing.number,
            closed: closing.closed(),
            complete: closing.whole,
            format: form.extension(),
            encoding: form.encoding(),
            key,
            columns: columns.collect(),
            files,
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // Texts and numbers always serialise.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}
