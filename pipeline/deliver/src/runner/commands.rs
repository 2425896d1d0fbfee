//! What a person asks a subscription for, done between two batches: the session before was dropped, and the next one begins where
//! the sink and the log stand.

use guitong_govern::{Decision, Record as Whole, Standing};
use guitong_log::{LogError, Record, record_at};
use jiff::Timestamp;

use super::batch::decide;
use super::fault::Fault;
use super::handle::{Cell, CommandError, Made, ReplayReport, Request, Shown};
use super::orders::{self, Order};
use super::parked::{End, Parked, Place, Word};
use super::{Deliverer, Session};
use crate::status::Phase;

impl From<Fault> for CommandError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Stopped(stop) => Self::NotNow(stop.to_string()),
            Fault::Held(word) => Self::NotNow(format!("it is paused by {}: {}", word.by, word.reason)),
            Fault::Sink(error) => Self::Failed(format!("the sink: {error}")),
            Fault::Log(error @ (LogError::Gap { .. } | LogError::Stale { .. })) => Self::Gap(error.to_string()),
            Fault::Log(error) => Self::Failed(error.to_string()),
            Fault::Registry(error) => Self::Failed(error.to_string()),
            Fault::Overfull(why) => Self::Failed(why),
        }
    }
}

impl Deliverer {
    pub(super) async fn answer(&mut self, request: Request) {
        // Who asked may have gone.
        match request {
            Request::Load { reply } => {
                let loaded = self.open_journal().await.map(drop).map_err(|error| Fault::from(error).into());
                drop(reply.send(loaded));
            }
            Request::Show { place, values, reply } => drop(reply.send(self.show(place, values).await)),
            Request::Replay { places, reply } => drop(reply.send(self.replay(places).await)),
            Request::Drop { places, word, reply } => {
                drop(reply.send(self.surrender(places, word).await));
            }
            Request::Pause { word, reply } => drop(reply.send(self.pause(word).await.map_err(Into::into))),
            Request::Resume { reply } => drop(reply.send(self.resume().await.map_err(Into::into))),
            Request::Repair { repair, reply } => drop(reply.send(self.repair(repair).await)),
            Request::Redeliver { since, word, reply } => drop(reply.send(self.redeliver(since, word).await)),
            Request::Chain { reply } => {
                drop(reply.send(self.open_journal().await.map(|journal| journal.last).map_err(|error| Fault::from(error).into())))
            }
            Request::Resync { word, reply } => drop(reply.send(self.resync(orders::ordered(word)).await.map_err(Into::into))),
            Request::Purge { word, reply } => drop(reply.send(self.purge(word).await)),
        }
        self.note_parked();
    }

    async fn show(&mut self, place: Place, values: bool) -> Result<Shown, CommandError> {
        drop(self.open_journal().await.map_err(Fault::from)?);
        let parked = self.aside.get(place).ok_or(CommandError::NoEntry(place))?;
        let made = match self.read(place).await? {
            Some(record) => self.made(&record, values).await?,
            None => Made::Gone,
        };
        Ok(Shown { parked, made })
    }

    /// What the subscription would receive of a record now.
    async fn made(&mut self, record: &Record, values: bool) -> Result<Made, CommandError> {
        self.schemas.prepare(std::slice::from_ref(record)).await.map_err(Fault::Registry)?;
        let decoded = match self.schemas.read(record) {
            Ok(decoded) => decoded,
            Err(error) => return Ok(Made::Unreadable { why: error.to_string() }),
        };
        let whole = Whole { key: &decoded.key, fields: decoded.fields.as_deref(), source_us: decoded.source_us };
        let row = match self.entitlement.decide(Timestamp::now(), whole) {
            Decision::Deliver(row) => row,
            Decision::Delete(..) => return Ok(Made::Delete),
            Decision::Stopped(stop) => return Err(CommandError::NotNow(stop.to_string())),
        };
        let entity = self.entitlement.entity();
        let cells = self.entitlement.columns().iter().zip(&row.cells).map(|(column, value)| {
            // A part of the key that is no field names the system, which is open.
            let grade = entity.field(&column.name).map(|field| field.highest_grade());
            let concealed = !values && grade.is_some_and(Cell::conceals);
            let text = Some(value.to_string()).filter(|text| !concealed && !text.is_empty());
            let grade = grade.map(|grade| grade.as_str().to_owned()).unwrap_or_default();
            Cell { name: column.name.clone(), title: column.title.clone(), grade, value: text, concealed }
        });
        Ok(Made::Upsert { cells: cells.collect() })
    }

    /// A record of the topic; `None` where the log holds it no longer.
    pub(super) async fn read(&self, place: Place) -> Result<Option<Record>, Fault> {
        Ok(record_at(&*self.log, self.at(place.partition), place.offset).await?)
    }

    async fn replay(&mut self, places: Vec<Place>) -> Result<ReplayReport, CommandError> {
        if let Standing::Stopped(stop) = self.entitlement.standing(Timestamp::now()) {
            return Err(CommandError::NotNow(stop.to_string()));
        }
        let partitions = self.log.partitions(&self.topic).await.map_err(Fault::from)?.unwrap_or(0);
        let mut session = self.open_session(partitions).await?;
        let entries = self.chosen(&places)?;
        let mut report = ReplayReport { tried: entries.len() as u64, ..ReplayReport::default() };
        for parked in entries {
            // One that came before may have made it void.
            let Some(parked) = self.aside.get(parked.place()) else {
                report.superseded += 1;
                continue;
            };
            match self.read(parked.place()).await? {
                None => {
                    let ended = [(parked, End::Gone)];
                    let now = Timestamp::now().as_microsecond();
                    session.journal.end(&*self.log, &ended, &Word::default(), now).await.map_err(Fault::from)?;
                    report.superseded += 1;
                }
                Some(record) => match self.again(&mut session, std::slice::from_ref(&record)).await? {
                    None => report.delivered += 1,
                    Some(reason) => {
                        session.journal.park(vec![Parked { reason, ..parked }]).await.map_err(Fault::from)?;
                        report.kept += 1;
                    }
                },
            }
        }
        drop(session);
        self.written().await;
        Ok(report)
    }

    /// Hands records to the sink again, all or none; why they are refused, where they are.
    pub(super) async fn again(&mut self, session: &mut Session, records: &[Record]) -> Result<Option<String>, Fault> {
        let (mut hand, entitlement, schemas) = self.hand(session);
        schemas.prepare(records).await.map_err(Fault::Registry)?;
        let items = decide(entitlement, schemas, records, true, Timestamp::now()).map_err(Fault::Stopped)?;
        hand.again(&items).await
    }

    async fn surrender(&mut self, places: Vec<Place>, word: Word) -> Result<u64, CommandError> {
        let mut journal = self.open_journal().await.map_err(Fault::from)?;
        let ended: Vec<_> = self.chosen(&places)?.into_iter().map(|parked| (parked, End::Dropped)).collect();
        if !ended.is_empty() {
            let now = Timestamp::now().as_microsecond();
            journal.end(&*self.log, &ended, &word, now).await.map_err(Fault::from)?;
        }
        Ok(ended.len() as u64)
    }

    /// The named entries; all where none is named.
    fn chosen(&self, places: &[Place]) -> Result<Vec<Parked>, CommandError> {
        if places.is_empty() {
            return Ok(self.aside.list(None, usize::MAX));
        }
        let mut places = places.to_vec();
        places.sort_unstable();
        places.dedup();
        places.into_iter().map(|place| self.aside.get(place).ok_or(CommandError::NoEntry(place))).collect()
    }

    async fn pause(&mut self, word: Word) -> Result<bool, Fault> {
        let mut journal = self.open_journal().await?;
        if journal.orders.pause.is_some() {
            return Ok(false);
        }
        tracing::info!(subscription = &*self.name, by = word.by, reason = word.reason, "delivery is paused by command");
        journal.order(orders::pause(Some(&orders::ordered(word)))).await?;
        Ok(true)
    }

    /// Keeps in the log that nothing is delivered until somebody says so.
    pub(super) async fn suspend(&mut self, word: Word) -> Result<(), Fault> {
        self.pause(word).await.map(drop)
    }

    async fn resume(&mut self) -> Result<bool, Fault> {
        let mut journal = self.open_journal().await?;
        let paused = journal.orders.pause.take().is_some();
        if paused {
            journal.order(orders::pause(None)).await?;
        }
        self.backoff.reset();
        let stood = matches!(self.status.borrow().phase, Phase::Stopped { .. } | Phase::Paused { .. } | Phase::Retrying { .. });
        self.phase(Phase::Starting);
        Ok(paused || stood)
    }

    pub(super) async fn resync(&mut self, order: Order) -> Result<(), Fault> {
        let mut journal = self.open_journal().await?;
        journal.order(orders::resync(Some(&order))).await?;
        Ok(())
    }
}
