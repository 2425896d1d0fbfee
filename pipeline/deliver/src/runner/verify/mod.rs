//! A sink's rows held against what is granted, beside the delivery.
//!
//! The sink's rows and its offsets are read in one snapshot ([`crate::sink::holdings`]), and the log up to just these offsets, through
//! the one entitlement function: so both sides stand at one position, whatever is being delivered meanwhile. First the rows are
//! counted and digested by ranges in the sink's database, then single rows of the ranges that differ are looked at.
//!
//! One thing can be in the way: a record up to the position is gone from the log, since a later one of its row took its place while the
//! log was read. So a row that differs and has later records is looked at again, once the sink has those.
//!
//! What is to be put right is handed to the deliverer, which writes it between two batches: records of the log by what is granted
//! then, guarded by version as ever, and removals each only of the row that was seen.

mod entitled;
mod progress;
mod report;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use guitong_govern::{Column, Decision, Entitlement, KeyForm, Record as Whole};
use guitong_log::{ExchangeLog, LogError, TopicPartition, record_at};
use guitong_schemas::standard::{Grade, KeySource};
use jiff::Timestamp;

use self::entitled::{Due, Entitled};
pub(crate) use self::progress::Progress;
pub use self::progress::{Comparing, ComparingStage};
pub use self::report::{DifferentCell, DifferentRow, Verification, Verify, Wrong};
use super::decode::{Decoded, Schemas};
use super::fault::Fault;
use super::hand::key_text;
use super::handle::{Cell, CommandError, DelivererHandle};
use super::parked::{Aside, Place, shortened};
use super::repair::Repair;
use crate::sink::SinkError;
use crate::sink::holdings::{BITS, HeldRow, Holdings, Look, Slice};

/// Rows of a range, about, and bits of the number of ranges at most.
const ROWS_OF_A_RANGE: u64 = 256;
const RANGE_BITS: u32 = 14;
/// Rows whose numbers are fetched at once, about.
const ROWS_AT_ONCE: u64 = 65_536;
/// Rows that are looked at one by one. Where more differ, single rows are not what is wrong.
const MOST_DIFFERENCES: usize = 10_000;
/// Bytes of values that are kept to tell of them.
const MOST_BYTES: usize = 8 << 20;
/// How often a row that keeps changing is looked at, and how long the sink may take to have its newest change each time.
const LOOKS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(2);
/// Rows that are put right between two batches.
const AT_ONCE: usize = 200;

/// Compares one subscription's sink.
#[derive(Debug)]
pub(crate) struct Verifier {
    pub(super) topic: Arc<str>,
    pub(super) log: Arc<dyn ExchangeLog>,
    pub(super) schemas: Schemas,
    pub(super) entitlement: Arc<Entitlement>,
    pub(super) holdings: Arc<dyn Holdings>,
    pub(super) aside: Aside,
    /// The subscription asks for records that are as they were.
    pub(super) unchanged: bool,
    /// Bytes of the log that are read at once.
    pub(super) bytes: usize,
    pub(super) progress: Progress,
}

/// A row that is not as it is granted.
#[derive(Debug)]
struct Difference {
    key: u64,
    due: Option<Due>,
    held: Option<HeldRow>,
}

impl Difference {
    fn wrong(&self) -> Wrong {
        match (self.due, &self.held) {
            (None, _) => Wrong::Superfluous,
            (Some(_), None) => Wrong::Missing,
            (Some(_), Some(_)) => Wrong::Differing,
        }
    }
}

impl Verifier {
    /// Compares everything, in as many goes as memory asks for.
    pub(super) async fn verify(&self, ask: &Verify, deliverer: &DelivererHandle) -> Result<Verification, CommandError> {
        let _under_way = self.progress.until_dropped();
        let mut report = Verification::default();
        let mut slice = Slice::whole();
        loop {
            let compared = self.compare(slice, ask, deliverer, &mut report).await?;
            match compared.next() {
                Some(next) if !report.more => slice = next,
                _ => return Ok(report),
            }
        }
    }

    /// Compares as much of a slice as memory holds, and says how much that was.
    async fn compare(
        &self,
        slice: Slice,
        ask: &Verify,
        deliverer: &DelivererHandle,
        report: &mut Verification,
    ) -> Result<Slice, CommandError> {
        let (begun, text_of) = {
            let look = self.look().await?;
            let begun = (look.positions().clone(), look.text_of());
            look.end().await;
            begun
        };
        let mut entitled = Entitled::new(self, slice, text_of);
        entitled.read_to(&begun).await?;
        let mut look = self.look().await?;
        entitled.read_to(look.positions()).await?;
        entitled.shrinks = false;
        if report.positions.is_empty() {
            let place = |(&partition, &offset)| Place { partition, offset };
            report.positions = look.positions().iter().map(place).collect();
        }
        report.entitled += entitled.len() as u64;
        let suspects = suspects(look.as_mut(), &entitled, report, &self.progress).await.map_err(Fault::Sink)?;
        let differences = judge(look.as_mut(), &entitled, &suspects).await.map_err(Fault::Sink)?;
        look.end().await;
        let wrong = self.settle(&mut entitled, differences, deliverer, report).await?;
        for difference in &wrong {
            match difference.wrong() {
                Wrong::Missing => report.missing += 1,
                Wrong::Superfluous => report.superfluous += 1,
                Wrong::Differing => report.differing += 1,
            }
            if report.rows.len() < ask.limit {
                report.rows.push(self.show(&entitled, difference).await?);
            }
        }
        if let Some(word) = ask.repair.as_ref().filter(|_| !wrong.is_empty() && !report.more) {
            tracing::info!(
                topic = &*self.topic,
                by = word.by,
                rows = wrong.len(),
                "rows at the subscriber are put right by command"
            );
            report.repaired += self.repair(&mut entitled, wrong, deliverer).await?;
        }
        Ok(entitled.slice)
    }

    async fn look(&self) -> Result<Box<dyn Look>, CommandError> {
        let look = self.holdings.look().await.map_err(Fault::Sink)?;
        look.ok_or_else(|| {
            let why = "its sink is still being filled, or stands under another grant; guitong status shows when it is live";
            CommandError::NotNow(why.to_owned())
        })
    }

    /// Leaves of the differences what is wrong for good: what is set aside is known, and what has changed since is looked at again.
    async fn settle(
        &self,
        entitled: &mut Entitled<'_>,
        mut open: Vec<Difference>,
        deliverer: &DelivererHandle,
        report: &mut Verification,
    ) -> Result<Vec<Difference>, CommandError> {
        let mut wrong = Vec::new();
        for looked in 1.. {
            let all = open.len();
            open.retain(|difference| difference.due.is_none_or(|due| due.content.is_some() && self.aside.get(due.at).is_none()));
            report.parked += (all - open.len()) as u64;
            if open.is_empty() {
                break;
            }
            let ends = self.ends(entitled).await.map_err(Fault::Log)?;
            let stirred = entitled.stirred(&keys(&open), &ends).await?;
            let (changing, settled): (Vec<_>, Vec<_>) =
                open.into_iter().partition(|difference| stirred.contains(&difference.key));
            open = changing;
            wrong.extend(settled);
            if open.is_empty() || looked == LOOKS {
                report.unsettled += open.len() as u64;
                break;
            }
            reaches(deliverer, &ends).await;
            open = self.judge_again(entitled, &keys(&open)).await?;
        }
        Ok(wrong)
    }

    /// What differs now of these rows.
    async fn judge_again(&self, entitled: &mut Entitled<'_>, keys: &[u64]) -> Result<Vec<Difference>, CommandError> {
        let mut look = self.look().await?;
        entitled.read_to(look.positions()).await?;
        let differences = judge(look.as_mut(), entitled, keys).await.map_err(Fault::Sink)?;
        look.end().await;
        Ok(differences)
    }

    async fn ends(&self, entitled: &Entitled<'_>) -> Result<BTreeMap<u32, u64>, LogError> {
        let mut ends = BTreeMap::new();
        for partition in entitled.partitions() {
            ends.insert(partition, self.log.bounds(&self.at(partition)).await?.end);
        }
        Ok(ends)
    }

    fn at(&self, partition: u32) -> TopicPartition {
        TopicPartition::new(Arc::clone(&self.topic), partition)
    }

    /// Has rows put right, and says of how many that came true.
    async fn repair(
        &self,
        entitled: &mut Entitled<'_>,
        wrong: Vec<Difference>,
        deliverer: &DelivererHandle,
    ) -> Result<u64, CommandError> {
        let keys = keys(&wrong);
        self.progress.begin(ComparingStage::Repairing, keys.len() as u64);
        let mut wrong = wrong.into_iter().peekable();
        while wrong.peek().is_some() {
            let mut repair = Repair::default();
            for difference in wrong.by_ref().take(AT_ONCE) {
                match (difference.due, difference.held) {
                    (Some(due), _) => repair.deliver.push(due.at),
                    (None, Some(held)) => repair.remove.push(held),
                    (None, None) => {}
                }
            }
            let rows = repair.deliver.len() + repair.remove.len();
            deliverer.repair(repair).await?;
            self.progress.done(rows as u64);
        }
        let left = self.judge_again(entitled, &keys).await?;
        Ok((keys.len() - left.len()) as u64)
    }

    pub(super) fn decide<'a>(&self, decoded: &Decoded<'a>) -> Decision<'a> {
        let whole = Whole { key: &decoded.key, fields: decoded.fields.as_deref(), source_us: decoded.source_us };
        self.entitlement.decide(Timestamp::now(), whole)
    }

    /// A difference as it is told of.
    async fn show(&self, entitled: &Entitled<'_>, difference: &Difference) -> Result<DifferentRow, Fault> {
        let mut row = DifferentRow { wrong: difference.wrong(), key: None, record: None, cells: Vec::new() };
        let mut key = difference.held.as_ref().map(|held| held.key.join(", "));
        if let Some(due) = difference.due {
            row.record = Some(due.at);
            if let Some(record) = record_at(&*self.log, self.at(due.at.partition), due.at.offset).await?
                && let Ok(decoded) = entitled.schemas.read(&record)
                && let Decision::Deliver(granted) = self.decide(&decoded)
            {
                key = Some(key_text(&granted.key));
                if let Some(held) = &difference.held {
                    row.cells = self.cells(entitled.texts(&granted), &held.cells);
                }
            }
        }
        row.key = key.filter(|_| !self.conceals_key());
        Ok(row)
    }

    /// The columns whose values differ.
    fn cells(&self, granted: Vec<Option<String>>, held: &[Option<String>]) -> Vec<DifferentCell> {
        let columns = self.entitlement.columns().iter().zip(granted).zip(held);
        let differing = columns.filter(|((_, granted), held)| granted != *held);
        let cell = |((column, granted), held): ((&Column, Option<String>), &Option<String>)| {
            let grade = self.grade(column);
            let concealed = grade.is_some_and(Cell::conceals);
            let shown = |text: Option<String>| text.filter(|_| !concealed).map(shortened);
            DifferentCell {
                name: column.name.clone(),
                title: column.title.clone(),
                grade: grade.map(|grade| grade.as_str().to_owned()).unwrap_or_default(),
                concealed,
                granted: shown(granted),
                held: shown(held.clone()),
            }
        };
        differing.map(cell).collect()
    }

    /// Whether a part of the key is of a grade that is not shown. A keyed hash says nothing.
    fn conceals_key(&self) -> bool {
        match self.entitlement.key() {
            KeyForm::Hashed => false,
            KeyForm::Clear(places) => {
                let columns = places.iter().filter_map(|&at| self.entitlement.columns().get(at));
                columns.filter_map(|column| self.grade(column)).any(Cell::conceals)
            }
        }
    }

    /// The highest grade that a column's values can have: nobody knows what a value that somebody put there is. A part of the key
    /// that is no field is of the fields that it is made of; one that names the system is open.
    fn grade(&self, column: &Column) -> Option<Grade> {
        let entity = self.entitlement.entity();
        let highest = |at: usize| {
            let field = entity.fields.get(at)?;
            let personal = entity.birth.is_some() || field.may_hold_citizen_number();
            Some(if personal { Grade::G3 } else { field.highest_grade() })
        };
        if let Some(at) = entity.fields.iter().position(|field| field.name == column.name) {
            return highest(at);
        }
        match &entity.key.iter().find(|part| part.name == column.name)?.source {
            KeySource::Fields(fields) => fields.iter().filter_map(|&at| highest(at)).max(),
            KeySource::System => None,
        }
    }
}

fn keys(differences: &[Difference]) -> Vec<u64> {
    differences.iter().map(|difference| difference.key).collect()
}

/// Waits for the sink to have everything up to `ends`, for a while.
async fn reaches(deliverer: &DelivererHandle, ends: &BTreeMap<u32, u64>) {
    let mut status = deliverer.status().clone();
    let there = status.wait_for(|status| {
        let next: BTreeMap<u32, u64> = status.offsets.iter().copied().collect();
        ends.iter().all(|(partition, end)| next.get(partition) >= Some(end))
    });
    drop(tokio::time::timeout(PATIENCE, there).await);
}

/// Keys of rows under which the sink seems to hold otherwise than is granted: of ranges that differ.
async fn suspects(
    look: &mut dyn Look,
    entitled: &Entitled<'_>,
    report: &mut Verification,
    progress: &Progress,
) -> Result<Vec<u64>, SinkError> {
    // Of how many is known once the sink has digested its rows.
    progress.begin(ComparingStage::Comparing, 0);
    let rows = (entitled.len() as u64).max(look.count().await? >> (BITS - entitled.slice.bits));
    let bits = (rows / ROWS_OF_A_RANGE).checked_ilog2().map_or(0, |bits| bits + 1);
    let shift = entitled.slice.bits.saturating_sub(bits.min(RANGE_BITS));
    let held = look.ranges(entitled.slice, shift).await?;
    let differing = entitled.differing(&held, shift);
    report.held += held.iter().map(|range| range.rows).sum::<u64>();
    report.ranges += 1 << (entitled.slice.bits - shift);
    report.differing_ranges += differing.len() as u64;
    progress.begin(ComparingStage::Comparing, differing.len() as u64);
    let (mut suspects, mut rest) = (Vec::new(), differing.into_iter().peekable());
    while rest.peek().is_some() && !report.more {
        let (mut ranges, mut rows) = (Vec::new(), 0);
        while let Some((range, held)) = rest.next_if(|(_, held)| ranges.is_empty() || rows + held <= ROWS_AT_ONCE) {
            ranges.push(range);
            rows += held;
        }
        let prints = look.prints(&ranges, shift).await?;
        report.rows_read += prints.len() as u64;
        progress.done(ranges.len() as u64);
        let prints: HashMap<u64, u64> = prints.into_iter().map(|print| (print.key, print.content)).collect();
        suspects.extend(entitled.unlike(&ranges, shift, prints));
        report.more = suspects.len() > MOST_DIFFERENCES;
    }
    suspects.truncate(MOST_DIFFERENCES);
    Ok(suspects)
}

/// Which of these rows the sink holds otherwise than is granted.
async fn judge(look: &mut dyn Look, entitled: &Entitled<'_>, keys: &[u64]) -> Result<Vec<Difference>, SinkError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let (mut rows, mut bytes) = (HashMap::new(), 0);
    let mut take = |mut row: HeldRow| {
        bytes += row.cells.iter().flatten().map(String::len).sum::<usize>();
        if bytes > MOST_BYTES {
            row.cells = Vec::new();
        }
        rows.insert(row.print.key, row);
    };
    look.rows(keys, &mut take).await?;
    let difference = |&key: &u64| {
        let (due, held) = (entitled.get(key), rows.remove(&key));
        let same = due.and_then(|due| due.content) == held.as_ref().map(|held| held.print.content);
        (!same || due.is_some_and(|due| due.content.is_none())).then_some(Difference { key, due, held })
    };
    Ok(keys.iter().filter_map(difference).collect())
}
