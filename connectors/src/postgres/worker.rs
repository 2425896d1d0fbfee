//! Tasks that read tables, each on a connection of its own, and the one that writes their watermarks.
//!
//! A worker carries out one order at a time: a range, chunk after chunk, or keys to be read once more. Each chunk has a snapshot of its
//! own and is reported before its watermark is asked for, so whoever sees the watermark in the stream has the chunk already. Watermarks
//! of chunks that are ready together go into one transaction. Transactions of workers are read only.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use guitong_schemas::change::RowImage;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::chunk::{Chunk, Marks, Place};
use super::config::Address;
use super::copy::{CopyRows, RowPlace};
use super::decode::DecodeError;
use super::fault::Faults;
use super::image;
use super::limits::Pace;
use super::position::Range;
use super::ranges::{Files, Plan, Shape, end_of_pages};
use super::relation::Relation;
use super::session::mark;
use super::wire::{Login, Purpose, Reader};
use crate::source::SourceError;

/// Rows of the first chunk of a table of which the server has no estimate.
const FIRST_ROWS: usize = 1_000;
/// PostgreSQL's usual size of a page.
const PAGE: usize = 8 << 10;
/// Readers only. A chunk must come from the key's index: sorting a table for each would never end.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL enable_sort = off; SET LOCAL enable_seqscan = off; \
                     SET LOCAL enable_bitmapscan = off; SELECT pg_current_snapshot()::text";

/// Something to be read.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) job: u64,
    pub(crate) place: Place,
    pub(crate) span: Range,
    pub(crate) relation: Arc<Relation>,
    pub(crate) shape: Shape,
    pub(crate) plan: Arc<Plan>,
    pub(crate) per_row: Option<u64>,
    pub(crate) stop: CancellationToken,
}

impl Order {
    /// # Errors
    /// Where the table was written anew, or has other columns, since the snapshot or the plan: the next session goes on with it as it is then.
    fn check(&self, files: &Option<Files>, faults: &Faults) -> Result<(), SourceError> {
        match files {
            Some(files) if !files.are_of(&self.relation, &self.shape) => Err(faults.unavailable(retyped(&self.relation))),
            Some(files) if self.plan.is_of(files) => Ok(()),
            Some(_) => Err(faults.unavailable(rewritten(&self.relation))),
            None => Err(faults.protocol("the files of a table were not told")),
        }
    }
}

pub(crate) fn rewritten(relation: &Relation) -> String {
    format!("{} was written anew while it was read, as by ALTER TABLE or VACUUM FULL", relation.table.name)
}

pub(crate) fn retyped(relation: &Relation) -> String {
    format!("columns of {} were changed before it was read, as by ALTER TABLE", relation.table.name)
}

/// What a worker says.
#[derive(Debug)]
pub(crate) enum Report {
    Chunk {
        worker: usize,
        chunk: Box<Chunk>,
    },
    /// The order is done, or was broken off between two chunks.
    Idle {
        worker: usize,
    },
    Failed(SourceError),
}

/// What all workers share.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) address: Address,
    pub(crate) faults: Faults,
    pub(crate) chunk_bytes: usize,
    pub(crate) pace: Arc<Pace>,
    /// Chunks that may be read and not handed out.
    pub(crate) permits: Arc<Semaphore>,
    /// Chunks that have been taken up so far.
    pub(crate) arrivals: AtomicU64,
    pub(crate) chunks: AtomicU64,
}

/// One worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) number: usize,
    pub(crate) common: Arc<Common>,
    pub(crate) reports: mpsc::UnboundedSender<Report>,
    pub(crate) marks: mpsc::UnboundedSender<u64>,
    /// Whether reading is allowed now.
    pub(crate) open: watch::Receiver<bool>,
    pub(crate) reader: Option<Reader>,
}

impl Worker {
    /// Carries out orders until there are no more.
    pub(crate) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        while let Some(order) = orders.recv().await {
            let report = match self.carry_out(order).await {
                Ok(()) => Report::Idle { worker: self.number },
                Err(error) => Report::Failed(error),
            };
            if self.reports.send(report).is_err() {
                return;
            }
        }
    }

    async fn carry_out(&mut self, order: Order) -> Result<(), SourceError> {
        let (common, mut open) = (Arc::clone(&self.common), self.open.clone());
        let (mut span, mut per_row) = (order.span.clone(), order.per_row);
        loop {
            let allowed = async {
                let permit = Arc::clone(&common.permits).acquire_owned().await;
                tokio::time::sleep_until(common.pace.due().into()).await;
                permit
            };
            let permit = tokio::select! {
                biased;
                () = order.stop.cancelled() => return Ok(()),
                _ = open.wait_for(|open| !open) => return Ok(()),
                // The semaphore is never closed.
                permit = allowed => match permit { Ok(permit) => permit, Err(_) => return Ok(()) },
            };
            let chunk = self.read(&order, &span, per_row, permit).await?;
            let (id, next) = (chunk.id, chunk.next.clone());
            per_row = chunk.bytes.checked_div(chunk.read).or(per_row);
            self.reports.send(Report::Chunk { worker: self.number, chunk: Box::new(chunk) }).ok();
            self.marks.send(id).ok();
            match next {
                Some(next) => span.after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Reads the next chunk: about so many bytes as one is to have, at least one row where there is one.
    async fn read(
        &mut self,
        order: &Order,
        span: &Range,
        per_row: Option<u64>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Chunk, SourceError> {
        let (common, faults) = (Arc::clone(&self.common), &self.common.faults);
        let begun = common.arrivals.load(Ordering::Acquire);
        let estimate = per_row.map_or(FIRST_ROWS, |bytes| {
            usize::try_from(common.chunk_bytes as u64 / bytes.max(1)).unwrap_or(FIRST_ROWS).clamp(1, 500_000)
        });
        let limit = common.pace.cap(estimate);
        common.pace.take(limit);
        // Taken while it reads, so that one that is cancelled or fails is not used again.
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => Login::open(&common.address, Purpose::Read, faults).await?.reader(),
        };
        let pages = (common.chunk_bytes / PAGE) as u64;
        let query = match &order.place {
            Place::Again(keys) => order.plan.keys(keys),
            Place::Range(_) => order.plan.next(span, limit + 1, pages),
        };
        let statements =
            format!("{BEGIN}; COPY ({query}) TO STDOUT{}; {}; COMMIT", order.plan.form.clause(), Files::query(&order.shape));
        let snapshot = reader.copy(&statements).await?.pop();
        let snapshot = snapshot.ok_or_else(|| faults.protocol("a snapshot was not told"))?;
        let limit_rows = if order.plan.by_pages || matches!(order.place, Place::Again(_)) { usize::MAX } else { limit };
        let part = gather(&mut reader, &order.plan, (common.chunk_bytes, limit_rows)).await?;
        order.check(&Files::read(reader.after()), faults)?;
        if let Some(error) = part.damaged {
            return Err(faults.protocol(format!("a row of COPY: {error}")));
        }
        self.reader = Some(reader);
        common.pace.settle(limit, part.rows.len() as u64);
        let next = self.next(order, span, &part, pages)?;
        let mut place = order.place.clone();
        if let Place::Again(keys) = &mut place
            && part.more
        {
            let read: HashSet<Vec<u8>> =
                part.rows.iter().flatten().map(|row| image::key(row, &order.relation.table.key)).collect();
            keys.retain(|key| read.contains(&image::key_of_text(key)));
        }
        Ok(Chunk {
            id: common.chunks.fetch_add(1, Ordering::Relaxed),
            job: order.job,
            range: place,
            lacking: Vec::new(),
            relation: Arc::clone(&order.relation),
            snapshot: snapshot.parse().map_err(|error: String| faults.protocol(error))?,
            read: part.rows.len() as u64,
            bytes: part.bytes,
            rows: part.rows,
            by_key: None,
            next,
            begun,
            marks: Marks::default(),
            _permit: permit,
        })
    }

    /// Where the range goes on; `None` at its end.
    fn next(&self, order: &Order, span: &Range, part: &Part, pages: u64) -> Result<Option<Vec<String>>, SourceError> {
        let faults = &self.common.faults;
        let name = &order.relation.table.name;
        match (&order.place, order.plan.by_pages) {
            (Place::Again(_), _) => Ok(None),
            (Place::Range(_), true) if part.more => Ok(part.last_place.map(|place| vec![place.to_string()])),
            (Place::Range(_), true) => {
                let end = end_of_pages(span, pages);
                Ok(Some(end).filter(|end| span.upto.as_ref() != Some(end)))
            }
            (Place::Range(_), false) if part.more => match part.rows.last().and_then(Option::as_ref) {
                Some(row) => {
                    let key = image::key_text(row, &order.relation.table.key);
                    key.map(Some).ok_or_else(|| faults.protocol(format!("a row of {name} has no key")))
                }
                None => Ok(None),
            },
            (Place::Range(_), false) => Ok(None),
        }
    }
}

/// What one query gave.
#[derive(Debug, Default)]
struct Part {
    rows: Vec<Option<RowImage>>,
    bytes: u64,
    /// There is more than what was kept.
    more: bool,
    last_place: Option<RowPlace>,
    damaged: Option<DecodeError>,
}

/// Keeps rows up to the limits; the estimate can be far off, so bytes decide. The rest is read past, also behind a row that does not read:
/// whether the table is still what the plan is of is told after the rows.
async fn gather(reader: &mut Reader, plan: &Plan, (bytes, limit): (usize, usize)) -> Result<Part, SourceError> {
    let mut part = Part::default();
    let mut rows = CopyRows::new(plan.form.clone());
    while let Some(message) = reader.row().await? {
        if part.more || part.rows.len() == limit || (part.bytes >= bytes as u64 && !part.rows.is_empty()) {
            part.more |= plan.form.has_row(&message);
            continue;
        }
        let read = if plan.by_pages {
            rows.row_and_place(&message).map(|read| read.map(|(row, place)| (row, Some(place))))
        } else {
            rows.row(&message).map(|read| read.map(|row| (row, None)))
        };
        match read {
            Ok(Some((row, place))) => {
                part.bytes += row.0.len() as u64;
                part.rows.push(Some(row));
                part.last_place = place;
            }
            Ok(None) => {}
            Err(error) => (part.more, part.damaged) = (true, Some(error)),
        }
    }
    Ok(part)
}

/// Writes watermarks until nobody asks for them any more.
pub(crate) async fn write_marks(
    common: Arc<Common>,
    nonce: u64,
    mut wanted: mpsc::UnboundedReceiver<u64>,
    reports: mpsc::UnboundedSender<Report>,
) {
    let (mut connection, mut ids) = (None, Vec::new());
    while wanted.recv_many(&mut ids, usize::MAX).await > 0 {
        let names: Vec<String> = ids.drain(..).map(|id| id.to_string()).collect();
        let content = format!("{nonce:016x}:{}", names.join(","));
        if let Err(error) = write_mark(&common, &mut connection, &content).await {
            reports.send(Report::Failed(error)).ok();
            return;
        }
    }
}

async fn write_mark(common: &Common, idle: &mut Option<PgConnection>, content: &str) -> Result<(), SourceError> {
    let mut connection = match idle.take() {
        Some(connection) => connection,
        None => common.address.connect(&common.faults).await?,
    };
    let done = sqlx::raw_sql(AssertSqlSafe(mark(content))).execute(&mut connection).await;
    done.map_err(|error| common.faults.query("writing a watermark", &error))?;
    *idle = Some(connection);
    Ok(())
}
