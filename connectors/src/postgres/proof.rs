//! Whether the server still has what was read from it: a restored copy of its files has not, and nothing else says so.
//!
//! A copy of the data directory that is put back is the same server on the same timeline. Once it has written beyond the position, a
//! stream that began there would leave out what it committed before it. But its slot is as old as the copy, so it is confirmed less far
//! than the position; and that is so after a crash as well, of either side. So whenever it is, the stream begins with the transaction
//! that was read last, or where the slot is confirmed if that is later, and two things must hold before anything is taken:
//! - that transaction comes again, with the same number, commit time and place (a slot that is confirmed beyond it does not send it);
//! - between its end and the position nothing comes, as nothing was read there.
//!
//! Of a transaction that is published in part, which lies at or behind the position, the same has to come next, however far the slot is
//! confirmed.
//!
//! **No false alarm.** Transactions without content come or not, by version and by whether they were streamed, so they neither are noted
//! nor count. A transaction's number, commit time and place are the same each time it is decoded: in streams or at once, prepared before
//! or not, on the primary or on a standby that follows it or took over with all of it ([`super::timeline`]). Watermarks of a first load
//! are content like any other. Where the stream is asked for other things than it was then (a publication that was made anew, another
//! `origin`), and for positions that an older version stored, nothing is checked until the next transaction has been published.

use guitong_schemas::position::Lsn;

use super::PostgresSource;
use super::decode::Message;
use super::position::{Last, Mark, Position};
use crate::source::SourceError;

/// What has to come before anything is taken.
#[derive(Debug)]
pub(crate) struct Proof {
    from: Lsn,
    last: Option<Last>,
    /// `last` has still to come.
    awaited: bool,
    /// Commit place of a transaction that is published in part.
    inside: Option<(u64, Mark)>,
    until: Lsn,
    now: Now,
}

/// Which transaction is being received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Now {
    None,
    Last,
    /// Another one before the position.
    Unread,
    /// One at or behind the position and before the one that is published in part.
    Before,
}

impl Proof {
    /// What a server whose slot is confirmed up to `confirmed` has to prove before changes after the position are taken.
    pub(crate) fn of(position: &Position, confirmed: Lsn) -> Option<Self> {
        let inside = position.inside.and_then(|inside| Some((inside.commit, inside.mark?)));
        let last = position.last.filter(|_| confirmed < position.lsn);
        if last.is_none() && inside.is_none() {
            return None;
        }
        let from = last.map_or(position.lsn, |last| confirmed.max(Lsn(last.commit)));
        let mut proof = Self { from, last, awaited: false, inside, until: position.lsn, now: Now::None };
        proof.begin_anew();
        Some(proof)
    }

    /// Where the stream has to begin.
    pub(crate) fn from(&self) -> Lsn {
        self.from
    }

    /// The stream begins anew.
    pub(crate) fn begin_anew(&mut self) {
        self.awaited = self.last.is_some_and(|last| Lsn(last.commit) >= self.from);
        self.now = Now::None;
    }

    /// Takes note of a message. Whether it is of a transaction that is published; `None` once everything is proved.
    fn meet(&mut self, message: &Message) -> Result<Option<bool>, String> {
        match message {
            Message::Begin { commit, commit_time, xid } | Message::StreamCommit { commit, commit_time, xid, .. } => {
                self.now = self.begun(*commit, Mark { xid: *xid, time: *commit_time })?;
                if self.now == Now::None {
                    return Ok(None);
                }
            }
            message if message.is_content() && matches!(self.now, Now::Unread | Now::Before) => {
                return Err(format!(
                    "the server sends a transaction before {} that it had not when the log was read up to there",
                    self.inside.map_or(self.until, |(commit, _)| Lsn(commit))
                ));
            }
            _ => {}
        }
        Ok(Some(matches!(self.now, Now::Last | Now::Unread)))
    }

    /// Which transaction begins; [`Now::None`] where it is the first that is to be taken.
    fn begun(&mut self, commit: u64, mark: Mark) -> Result<Now, String> {
        if Lsn(commit) < self.until {
            let Some(last) = self.last.filter(|last| last.commit == commit) else { return Ok(Now::Unread) };
            if last.mark != mark {
                return Err(lacking(commit, last.mark));
            }
            self.awaited = false;
            return Ok(Now::Last);
        }
        self.is_awaited(Lsn(commit))?;
        match self.inside {
            Some((at, _)) if commit < at => Ok(Now::Before),
            Some((at, known)) if (commit, mark) != (at, known) => Err(lacking(at, known)),
            _ => Ok(Now::None),
        }
    }

    /// The server has sent everything before `end`.
    fn is_awaited(&self, end: Lsn) -> Result<(), String> {
        match self.last {
            Some(last) if self.awaited && end >= last.end => Err(lacking(last.commit, last.mark)),
            _ => Ok(()),
        }
    }

    /// The server has sent everything before `end`, and is between two transactions; whether everything is proved.
    fn passed(&self, end: Lsn) -> Result<bool, String> {
        if self.now != Now::None {
            return Ok(false);
        }
        self.is_awaited(end)?;
        match self.inside {
            Some((at, known)) if end > Lsn(at) => Err(lacking(at, known)),
            inside => Ok(inside.is_none() && end >= self.until),
        }
    }

    /// A transaction ends; whether it is published already.
    pub(crate) fn ended(&mut self) -> bool {
        matches!(std::mem::replace(&mut self.now, Now::None), Now::Last | Now::Unread)
    }
}

fn lacking(commit: u64, mark: Mark) -> String {
    format!("the server does not have transaction {} at {}, which was read from it", mark.xid, Lsn(commit))
}

/// What such a server is.
fn restored(detail: &str) -> String {
    format!("{detail}: it was restored from a backup, and what it has written since was not read")
}

impl PostgresSource {
    /// Reads until the server has proved that it is the one that was read, which it does at once where nothing is in doubt. Nothing is
    /// published or confirmed before.
    pub(super) async fn prove(&mut self) -> Result<(), SourceError> {
        let Some(proof) = &self.proof else { return Ok(()) };
        let stored = proof.until;
        tracing::info!(
            system = %self.system.name, from = %proof.from, position = %stored,
            "the slot is confirmed less far than was read: looking whether the server still has that"
        );
        while self.proof.is_some() {
            if let Some(replay) = self.replay.take() {
                self.replay(replay).await?;
                continue;
            }
            let event = self.wire.next().await?;
            self.handle(event).await?;
        }
        self.wire.confirm(stored);
        Ok(())
    }

    /// Whether the message is of a transaction that is published and comes again as a proof.
    pub(super) fn is_published_already(&mut self, message: &Message) -> Result<bool, SourceError> {
        let Some(proof) = &mut self.proof else { return Ok(false) };
        let met = proof.meet(message).map_err(|detail| self.faults.gap(restored(&detail)))?;
        if met.is_none() {
            self.proof = None;
        }
        Ok(met.unwrap_or(false))
    }

    /// The server has nothing more before `end`.
    pub(super) fn nothing_before(&mut self, end: Lsn) -> Result<(), SourceError> {
        let Some(proof) = &self.proof else { return Ok(()) };
        if proof.passed(end).map_err(|detail| self.faults.gap(restored(&detail)))? {
            self.proof = None;
        }
        Ok(())
    }
}
