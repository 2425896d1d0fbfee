//! Files: changes gather in an outbox and are closed into files by size, time or day. Each file appears whole or not at all, in a folder
//! or in a bucket of an object store, and counts only once its manifest is there, which appears last.
//!
//! **Where the offset lies.** The place holds none, for whoever takes files away would take it along. The outbox is a SQLite file
//! in the sink's `state` folder, one for each subscription, and it is written by the SQLite sink as any table is: entitled rows,
//! offsets and audit entries in one transaction that only the holder of the newest epoch commits, older changes refused, deletes
//! only of rows that were delivered, refills met and swept. Triggers of the table note each change of a row in the same
//! transaction. So a batch is durable once it is in the outbox, and is applied once.
//!
//! **How a file is made.** First the outbox notes, against the epoch, the number of the file and the changes that go into it. Then
//! the file is written under another name, synced and renamed, or uploaded and completed, and its manifest after it. Only then the outbox
//! forgets the changes.
//! A process that is killed anywhere between makes the same file again, byte by byte and under the same name: whoever has it
//! already has it once. An older holder can make no file but one that the outbox noted, which has the same bytes; a manifest that is there
//! is never made again. What a store gives no means against: an older holder that is held up between seeing that it still is one and its
//! last request may put a file, or its manifest, of a grant that ended once more after their removal.
//!
//! **When the grant changes** a new generation begins: what was not yet closed is dropped, files of earlier generations that still
//! lie in the folder are removed, and everything that is granted now is delivered again.

mod folder;
pub mod form;
mod manifest;
mod outbox;
mod place;
mod store;

use std::sync::Arc;

use async_trait::async_trait;
use guitong_schemas::contract::files::{Close, Files};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use self::form::{Form, Noted, Writing};
use self::manifest::{FileEntry, Manifest};
use self::outbox::{Closing, Outbox};
use self::place::Place;
use crate::pools::Pools;
use crate::sink::{Ack, PartitionStand, Sink, SinkBatch, SinkError, SinkErrorKind, SinkPlan, Stand, What};
use crate::sql::sqlite::SqliteSink;

/// The table of the outbox that holds what was delivered.
const ROWS: &str = "guitong_rows";
/// Bytes of changes read at once.
const PAGE: usize = 1 << 20;

/// One subscription's files.
#[derive(Debug)]
pub struct FileSink {
    rows: SqliteSink,
    outbox: Outbox,
    place: Place,
    form: Form,
    close: Close,
    time_zone: TimeZone,
    plan: Arc<SinkPlan>,
    epoch: u64,
    refilling: bool,
    /// The outbox may hold changes that were not counted yet.
    stirred: bool,
}

impl FileSink {
    #[must_use]
    pub fn new(pools: &Pools, files: &Files, plan: SinkPlan) -> Self {
        let path = files.state.join(format!("{}.db", plan.subscription));
        Self {
            rows: SqliteSink::new(pools, &path, ROWS, plan.clone()),
            outbox: Outbox::new(pools.sqlite(&path), files.state.clone(), &plan),
            place: Place::new(&files.place, Arc::clone(&plan.subscription)),
            form: Form::new(files.format, &plan),
            close: files.close,
            time_zone: plan.time_zone.clone(),
            plan: Arc::new(plan),
            epoch: 0,
            refilling: false,
            stirred: true,
        }
    }

    /// Closes every file that is due.
    async fn close_due(&mut self) -> Result<(), SinkError> {
        while let Some(closing) = self.outbox.unfinished().await? {
            if self.place.has(&closing.manifest()).await? {
                // It was told of, whatever another release or another format would make of it now.
                self.outbox.finish(self.epoch, &closing).await?;
            } else if self.form.extension() == closing.extension() {
                self.make(&closing).await?;
            } else {
                // The format changed meanwhile; nobody was told of what may lie there in the old one.
                self.place.remove(&closing.name).await?;
                self.outbox.rename(self.epoch, &closing, self.form.extension()).await?;
            }
            self.outbox.count_anew();
            self.stirred = true;
        }
        if std::mem::take(&mut self.stirred) {
            self.outbox.count().await?;
        }
        while let Some(last) = self.due().await? {
            self.never_given().await?;
            let closing = self.outbox.close(self.epoch, last, !self.refilling, self.form.extension()).await?;
            self.make(&closing).await?;
            self.outbox.count_anew();
            self.outbox.count().await?;
        }
        Ok(())
    }

    /// An outbox that was put back from a copy would give names a second time, to other changes.
    async fn never_given(&self) -> Result<(), SinkError> {
        let manifest = self.outbox.next_manifest().await?;
        if !self.place.has(&manifest).await? {
            return Ok(());
        }
        let what = format!("{manifest} is there already, so the sink's state is older than what was delivered");
        Err(SinkError::new(SinkErrorKind::Shape, format!("{what}; stop the node and remove the state to begin a new generation")))
    }

    /// Up to which change a file is to be closed now; `None` where there is none.
    async fn due(&self) -> Result<Option<u64>, SinkError> {
        let pending = self.outbox.pending();
        if pending.bytes >= self.close.size as u64 {
            return self.outbox.prefix(self.close.size as u64).await.map(Some);
        }
        let Some(oldest) = pending.oldest else {
            // Nothing is left to say but that everything is there.
            return Ok((!self.refilling && !pending.told_whole).then_some(pending.last));
        };
        let now = Timestamp::now();
        let day = |at: Timestamp| at.to_zoned(self.time_zone.clone()).date();
        let aged =
            now.duration_since(oldest) >= jiff::SignedDuration::try_from(self.close.after).unwrap_or(jiff::SignedDuration::MAX);
        Ok((aged || (self.close.daily && day(oldest) < day(now))).then_some(pending.last))
    }

    /// Writes the file that the outbox noted, and its manifest; then the outbox forgets what is in it.
    async fn make(&self, closing: &Closing) -> Result<(), SinkError> {
        let mut files = Vec::new();
        if closing.first <= closing.last {
            files.push(self.write_file(closing).await?);
        }
        let manifest = Manifest::new(&self.plan, &self.form, closing, files);
        self.outbox.holds(self.epoch).await?;
        self.place.put_new(&closing.manifest(), manifest.to_bytes()).await?;
        self.outbox.finish(self.epoch, closing).await
    }

    async fn write_file(&self, closing: &Closing) -> Result<FileEntry, SinkError> {
        let mut entry = FileEntry::new(closing);
        let mut upload = self.place.begin(&closing.name).await?;
        let mut bytes = Vec::new();
        let mut file = self.form.begin(&closing.name, &mut bytes)?;
        let mut after = closing.first.saturating_sub(1);
        while after < closing.last {
            let page = self.outbox.changes(after, closing.last, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.position;
            page.iter().for_each(|noted| entry.count(noted.deleted));
            (file, bytes) = aside(move || append(file, &page, bytes)).await?;
            upload.write(&bytes).await?;
            entry.hash(&bytes);
            bytes.clear();
        }
        let rest = aside(move || file.end(&mut bytes).map(|()| bytes)).await?;
        upload.write(&rest).await?;
        entry.hash(&rest);
        upload.send().await?;
        self.outbox.holds(self.epoch).await?;
        upload.finish().await?;
        Ok(entry.done())
    }
}

#[async_trait]
impl Sink for FileSink {
    async fn open(&mut self) -> Result<Stand, SinkError> {
        self.place.check().await?;
        let regranted = self.outbox.prepare().await?;
        let stand = self.rows.open().await?;
        (self.epoch, self.refilling, self.stirred) = (stand.epoch, stand.refilling, true);
        if regranted {
            for name in self.outbox.files().await? {
                self.place.remove(&name).await?;
            }
            self.outbox.begin_generation(self.epoch).await?;
        }
        self.outbox.count_anew();
        self.place.clear().await?;
        Ok(stand)
    }

    async fn begin_refill(&mut self, partitions: &[PartitionStand]) -> Result<(), SinkError> {
        self.rows.begin_refill(partitions).await?;
        self.refilling = true;
        Ok(())
    }

    fn keeps(&self) -> Option<&'static str> {
        Some("files are the subscriber's once they are taken: ask him to delete them, and remove those in the folder by hand")
    }

    fn replays(&self) -> bool {
        true
    }

    async fn begin_replay(&mut self, partitions: &[PartitionStand]) -> Result<(), SinkError> {
        self.rows.begin_replay(partitions).await
    }

    async fn write(&mut self, batch: &SinkBatch<'_, '_>) -> Result<Ack, SinkError> {
        for change in batch.changes {
            if let What::Upsert(row) = &change.what {
                self.form.check(&row.cells)?;
            }
        }
        let ack = self.rows.write(batch).await?;
        self.stirred = true;
        self.close_due().await?;
        Ok(ack)
    }

    async fn settle(&mut self) -> Result<(), SinkError> {
        self.close_due().await
    }

    async fn sweep(&mut self) -> Result<u64, SinkError> {
        let swept = self.rows.sweep().await?;
        (self.refilling, self.stirred) = (false, true);
        self.close_due().await?;
        Ok(swept)
    }

    async fn forget_deleted(&mut self, before_us: i64) -> Result<(), SinkError> {
        self.rows.forget_deleted(before_us).await
    }
}

fn append(mut file: Writing, page: &[Noted], mut out: Vec<u8>) -> Result<(Writing, Vec<u8>), SinkError> {
    for noted in page {
        file.write(noted, &mut out)?;
    }
    Ok((file, out))
}

/// Does what takes a while without keeping others from the thread.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> Result<T, SinkError> + Send + 'static) -> Result<T, SinkError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(SinkError::new(SinkErrorKind::Unreachable, format!("the file was not written: {error}"))))
}

/// An error of the outbox's content.
fn damaged(what: impl std::fmt::Display) -> SinkError {
    SinkError::new(SinkErrorKind::Shape, format!("the outbox of the subscription is damaged: {what}"))
}
