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
        let partitions = self.log.partitions(&self.topic).await.map_err(Fault::from)?.unwrap_or(0);
        let session = self.open_session(partitions).await?;
        let removed = self.sink.sweep().await.map_err(Fault::from)?;
        tracing::info!(
            subscription = &*self.name,
            by = again.word.by,
            reason = again.word.reason,
            removed,
            "what was delivered is taken back by command"
        );
        drop(session);
        // Versions that the sink remembers of rows that it has no longer do not keep them from coming again in a refill.
        self.resync(again).await?;
        Ok(removed)
    }
}
