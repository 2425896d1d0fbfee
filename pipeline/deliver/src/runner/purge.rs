//! Taking back what was delivered, once nothing may be delivered any more.
//!
//! It is a refill that ends before it met anything: whatever the sink has is then what was not met. Everything is delivered again where
//! the subscription comes to be granted anew.

use guitong_govern::Standing;
use jiff::Timestamp;

use super::fault::Fault;
use super::handle::CommandError;
use super::parked::Word;
use super::{Deliverer, orders};
use crate::sink::SinkErrorKind;

impl Deliverer {
    pub(super) async fn purge(&mut self, word: Word) -> Result<u64, CommandError> {
        if let Standing::Open { .. } = self.entitlement.standing(Timestamp::now()) {
            let why = "what is granted would be delivered again: end the approval first (until, in the subscription's file)";
            return Err(CommandError::Unfit(why.to_owned()));
        }
        if let Some(why) = self.sink.keeps() {
            return Err(CommandError::Unfit(why.to_owned()));
        }
        let again = orders::ordered(word);
        self.resync(again.clone()).await?;
        let removed = match self.take_back().await {
            // A call that was dropped when delivery ended can still take a topic over: it is opened once more, as for a delivery.
            Err(Fault::Sink(error)) if error.kind == SinkErrorKind::Fenced => self.take_back().await?,
            taken => taken?,
        };
        tracing::info!(
            subscription = &*self.name,
            by = again.word.by,
            reason = again.word.reason,
            removed,
            "what was delivered is taken back by command"
        );
        // Versions that the sink remembers of rows that it has no longer do not keep them from coming again in a refill.
        self.resync(again).await?;
        Ok(removed)
    }

    async fn take_back(&mut self) -> Result<u64, Fault> {
        let partitions = self.log.partitions(&self.topic).await?.unwrap_or(0);
        let _session = self.open_session(partitions).await?;
        Ok(self.sink.sweep().await?)
    }
}
