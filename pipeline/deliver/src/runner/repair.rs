//! Putting rows right at the sink that a comparison found wrong ([`super::verify`]).

use guitong_govern::Standing;
use jiff::Timestamp;

use super::handle::CommandError;
use super::parked::Place;
use super::{Deliverer, Fault, Session};
use crate::sink::holdings::HeldRow;

/// What is to be put right.
#[derive(Debug, Default)]
pub(super) struct Repair {
    /// Records to deliver again, by what is granted now.
    pub(super) deliver: Vec<Place>,
    /// Rows to remove if they still are as they were seen.
    pub(super) remove: Vec<HeldRow>,
}

impl Deliverer {
    /// Does it under a hold of its own: that has a higher epoch than every row, so that a record is written over the row of its own
    /// version, and over no newer one.
    pub(super) async fn repair(&mut self, repair: Repair) -> Result<(), CommandError> {
        if let Standing::Stopped(stop) = self.entitlement.standing(Timestamp::now()) {
            return Err(CommandError::NotNow(stop.to_string()));
        }
        let partitions = self.log.partitions(&self.topic).await.map_err(Fault::from)?.unwrap_or(0);
        let mut session = self.open_session(partitions).await?;
        if session.refill.is_some() {
            return Err(CommandError::NotNow("everything is being delivered again, which puts all of it right".to_owned()));
        }
        let (mut records, mut bytes) = (Vec::new(), 0);
        for place in repair.deliver {
            // A record that is gone has a later one, which is delivered by itself.
            let Some(record) = self.read(place).await? else { continue };
            bytes += record.value.as_ref().map_or(0, |value| value.len());
            records.push(record);
            if bytes >= self.exchange.budgets.batch {
                self.put_right(&mut session, &records).await?;
                (records, bytes) = (Vec::new(), 0);
            }
        }
        if !records.is_empty() {
            self.put_right(&mut session, &records).await?;
        }
        if !repair.remove.is_empty() {
            self.remove(&mut session, &repair.remove).await?;
        }
        drop(session);
        self.written().await;
        Ok(())
    }

    /// Delivers records again. One that the sink refuses stays as it was, and hinders no other.
    async fn put_right(&mut self, session: &mut Session, records: &[guitong_log::Record]) -> Result<(), Fault> {
        if self.again(session, records).await?.is_none() {
            return Ok(());
        }
        for record in records.chunks(1) {
            if let Some(reason) = self.again(session, record).await? {
                tracing::warn!(
                    subscription = &*self.name,
                    reason,
                    "the sink refuses a record by which a row was to be put right"
                );
            }
        }
        Ok(())
    }

    async fn remove(&mut self, session: &mut Session, rows: &[HeldRow]) -> Result<(), Fault> {
        self.hand(session).0.remove(rows).await
    }
}
