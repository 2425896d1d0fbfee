//! What a person asks a resource for, answered between two batches.

use std::sync::Arc;

use super::{End, Session};
use crate::error::SessionError;
use crate::handle::{Command, HandleError};
use crate::keyed::overlay::StateError;
use crate::quality::{self, QualityReport};
use crate::quarantine::QuarantineStore;
use crate::quarantine::replay::Replay;
use crate::rebuild;
use crate::stage::Normaliser;

impl Normaliser {
    /// Why something is not done while a rebuild is under way.
    fn rebuilding(&self, session: &Session, advice: &str) -> HandleError {
        let far = self.rebuild_status(session).map_or_else(String::new, |status| format!("{status}; "));
        HandleError::Rebuilding(format!("{far}{advice}"))
    }

    /// Answers one request. An answer that nobody waits for any more is dropped.
    pub(super) async fn serve(&mut self, session: &mut Session, command: Command) -> Result<Option<End>, SessionError> {
        if let Err(error) = session.owner.settle().await {
            command.refuse(&error.to_string());
            return Err(error.into());
        }
        match command {
            Command::List { filter, after, limit, reply } => {
                let answer = QuarantineStore::new(&session.owner).list(&filter, after.as_deref(), limit).await;
                let _ = reply.send(answer.map_err(unavailable));
            }
            Command::Show { id, reply } => {
                let answer = QuarantineStore::new(&session.owner).show(&id).await;
                let _ = reply.send(answer.map_err(unavailable));
            }
            Command::Replay { reply, .. } if session.replay.is_some() => {
                let _ = reply.send(Err(HandleError::Busy));
            }
            Command::Replay { reply, .. } if session.rebuild.is_some() => {
                let _ = reply.send(Err(self.rebuilding(session, "it runs every entry again by itself")));
            }
            Command::Replay { filter, reply } => {
                let topic = Arc::clone(&session.worker.quarantine_topic);
                session.replay = Replay::begin(&*self.context.log, &session.owner, &topic, &filter, reply).await?;
            }
            Command::Drop { reply, .. } if session.replay.is_some() => {
                let _ = reply.send(Err(HandleError::Busy));
            }
            Command::Drop { reply, .. } if session.rebuild.is_some() => {
                let _ = reply.send(Err(self.rebuilding(session, "give up what it leaves in quarantine")));
            }
            Command::Drop { filter, surrender, reply } => {
                let name = self.resource.name.as_str();
                let report = session.worker.surrender(&mut session.owner, name, &filter, &surrender).await?;
                self.report(session).await?;
                let _ = reply.send(Ok(report));
            }
            Command::Rebuild { reply } if session.rebuild.is_some() => {
                let _ = reply.send(Err(
                    self.rebuilding(session, "ask again when it is done, where the mapping has changed since it began")
                ));
            }
            Command::Rebuild { reply } if session.replay.is_some() => {
                let _ = reply.send(Err(HandleError::Busy));
            }
            Command::Rebuild { reply } if self.mapping.is_grouped() => {
                let _ = reply.send(Err(HandleError::Grouped));
            }
            Command::Rebuild { reply } => {
                let (declared, mapping) = (self.resource.revision, self.mapping.fingerprint);
                let totals = &session.worker.counters.totals;
                let revision = rebuild::ask(&mut session.owner, totals, declared, mapping).await?;
                let _ = reply.send(Ok(revision));
                return Ok(Some(End::Reopen));
            }
            Command::Resume { reply } => {
                let mut was_paused = session.worker.pause.take().is_some();
                if was_paused {
                    session.forget_window().await?;
                }
                if let Some(rebuild) = session.rebuild.as_mut().filter(|rebuild| rebuild.is_halted()) {
                    rebuild.resume(&mut session.owner).await?;
                    was_paused = true;
                }
                let _ = reply.send(Ok(was_paused));
                return Ok(was_paused.then_some(End::Reopen));
            }
            Command::Quality { days, reply } => {
                let answer = quality::read(&session.owner, days).await;
                let totals = &session.worker.counters.totals;
                let seconds = self.resource.quality.timely.as_secs();
                let fields = self.mapping.fields_by_obligation();
                let answer = answer.map(|report| QualityReport {
                    held_back: totals.held_back,
                    open: totals.open,
                    timely_seconds: seconds,
                    fields,
                    ..report
                });
                let _ = reply.send(answer.map_err(unavailable));
            }
            Command::Reload { resource, reply } => {
                let taken = self.take(&resource);
                let is_taken = taken.is_ok();
                let _ = reply.send(taken.map_err(Into::into));
                return Ok(is_taken.then_some(End::Reopen));
            }
        }
        Ok(None)
    }
}

fn unavailable(error: StateError) -> HandleError {
    HandleError::Unavailable(error.to_string())
}
