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
        let order = orders::ordered(word);
        // It stays until the next delivery, which begins anew: also where this ends half-way, and whatever versions the sink remembers of
        // rows that it has no longer.
        self.resync(order.clone()).await?;
        let removed = match self.take_back().await {
            // A call that was dropped when delivery ended can still take a topic over: it is opened once more, as for a delivery.
            Err(Fault::Sink(error)) if error.kind == SinkErrorKind::Fenced => self.take_back().await?,
            taken => taken?,
        };
        tracing::info!(
            subscription = &*self.name,
            by = order.word.by,
            reason = order.word.reason,
            removed,
            "what was delivered is taken back by command"
        );
        Ok(removed)
    }

    async fn take_back(&mut self) -> Result<u64, Fault> {
        let partitions = self.log.partitions(&self.topic).await?.unwrap_or(0);
        let mut journal = self.open_journal().await?;
        self.sink.keep_in(journal.hold());
        let stand = self.sink.open().await?;
        journal.complete(&stand.entries).await?;
        journal.clear_parked().await?;
        self.sink.begin_refill(&self.whole_topic(partitions).await?).await?;
        Ok(self.sink.sweep().await?)
    }
}
