//! How the rest of the node speaks with a running deliverer: its status, what it has set aside, what it is to do.
//!
//! The owner is fenced, so everything that reads or writes its state runs inside the deliverer, between two batches. What is set
//! aside is in memory as well, and looking at it disturbs nobody.

use std::sync::Arc;

use guitong_govern::audit::Digest;
use guitong_schemas::standard::Grade;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use super::parked::{Aside, Parked, Place, Word};
use super::redeliver::{Redelivered, Since};
use super::repair::Repair;
use super::verify::{Comparing, Verification, Verifier, Verify};
use crate::pull::Puller;
use crate::status::DeliverStatus;

/// Requests that may wait for the deliverer.
pub(super) const WAITING: usize = 16;

/// What a replay came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayReport {
    /// Entries that were run again.
    pub tried: u64,
    /// The sink took them.
    pub delivered: u64,
    /// A later change of the row came, or the log holds it no longer: they are void.
    pub superseded: u64,
    /// Refused again; their reasons are the new ones.
    pub kept: u64,
}

/// A record that is set aside, as the subscription would receive it now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    #[serde(flatten)]
    pub parked: Parked,
    pub made: Made,
}

/// What would be delivered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum Made {
    Upsert {
        cells: Vec<Cell>,
    },
    Delete,
    Unreadable {
        why: String,
    },
    /// The log holds the record no longer: a later one of its row took its place.
    Gone,
}

/// One granted field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    pub name: String,
    pub title: String,
    pub grade: String,
    /// After its mask; `None` where it is empty or concealed.
    pub value: Option<String>,
    /// Its grade is not shown unless it is asked for.
    pub concealed: bool,
}

impl Cell {
    /// Whether values of the grade are shown only where they are asked for.
    pub(super) fn conceals(grade: Grade) -> bool {
        grade >= Grade::G2
    }
}

#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CommandError {
    #[error("the subscription's deliverer has stopped")]
    Stopped,
    #[error("nothing may be delivered now: {0}")]
    NotNow(String),
    #[error("record {0} is not set aside")]
    NoEntry(Place),
    /// The subscription is not of that kind, or what was named is not there.
    #[error("{0}")]
    Unfit(String),
    /// The log holds no longer what it would take.
    #[error("{0}")]
    Gap(String),
    #[error("{0}")]
    Failed(String),
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, CommandError>>;

/// What a deliverer is asked for. Where no place is named, all are meant.
#[derive(Debug)]
pub(super) enum Request {
    /// To take on what is set aside.
    Load {
        reply: Reply<()>,
    },
    Show {
        place: Place,
        values: bool,
        reply: Reply<Shown>,
    },
    Replay {
        places: Vec<Place>,
        reply: Reply<ReplayReport>,
    },
    Drop {
        places: Vec<Place>,
        word: Word,
        reply: Reply<u64>,
    },
    Pause {
        word: Word,
        reply: Reply<bool>,
    },
    Resume {
        reply: Reply<bool>,
    },
    Resync {
        word: Word,
        reply: Reply<()>,
    },
    Purge {
        word: Word,
        reply: Reply<u64>,
    },
    Redeliver {
        since: Since,
        word: Word,
        reply: Reply<Vec<Redelivered>>,
    },
    Repair {
        repair: Repair,
        reply: Reply<()>,
    },
    /// For the digest of the last audit entry.
    Chain {
        reply: Reply<Digest>,
    },
}

/// Speaks with one running deliverer; cheap to clone.
#[derive(Debug, Clone)]
pub struct DelivererHandle {
    asks: mpsc::Sender<Box<Request>>,
    status: watch::Receiver<DeliverStatus>,
    aside: Aside,
    puller: Option<Puller>,
    verifier: Option<Arc<Verifier>>,
}

impl DelivererHandle {
    pub(super) fn new(
        asks: mpsc::Sender<Box<Request>>,
        status: watch::Receiver<DeliverStatus>,
        aside: Aside,
        puller: Option<Puller>,
        verifier: Option<Arc<Verifier>>,
    ) -> Self {
        Self { asks, status, aside, puller, verifier }
    }

    /// Reads what the subscriber pulls, where it does.
    #[must_use]
    pub fn puller(&self) -> Option<&Puller> {
        self.puller.as_ref()
    }

    #[must_use]
    pub fn status(&self) -> &watch::Receiver<DeliverStatus> {
        &self.status
    }

    /// Records set aside, behind `after` in the order of partition and offset.
    ///
    /// # Errors
    /// [`CommandError::Stopped`], and what the log says where nothing was read yet.
    pub async fn parked(&self, after: Option<Place>, limit: usize) -> Result<Vec<Parked>, CommandError> {
        if !self.aside.is_loaded() {
            self.ask(|reply| Request::Load { reply }).await?;
        }
        Ok(self.aside.list(after, limit))
    }

    /// One of them, as the subscription would receive it now. `values`: those of the grades G2 and G3 too.
    ///
    /// # Errors
    /// As [`DelivererHandle::parked`], and [`CommandError::NoEntry`].
    pub async fn show(&self, place: Place, values: bool) -> Result<Shown, CommandError> {
        self.ask(|reply| Request::Show { place, values, reply }).await
    }

    /// Hands them to the sink again, by what the subscription grants now.
    ///
    /// # Errors
    /// As [`DelivererHandle::show`]; [`CommandError::NotNow`] where nothing may be delivered.
    pub async fn replay(&self, places: Vec<Place>) -> Result<ReplayReport, CommandError> {
        self.ask(|reply| Request::Replay { places, reply }).await
    }

    /// Gives them up, and says how many those were.
    ///
    /// # Errors
    /// As [`DelivererHandle::show`].
    pub async fn surrender(&self, places: Vec<Place>, word: Word) -> Result<u64, CommandError> {
        self.ask(|reply| Request::Drop { places, word, reply }).await
    }

    /// Delivers nothing until [`DelivererHandle::resume`]; whether it was not so before.
    ///
    /// # Errors
    /// As [`DelivererHandle::parked`].
    pub async fn pause(&self, word: Word) -> Result<bool, CommandError> {
        self.ask(|reply| Request::Pause { word, reply }).await
    }

    /// Goes on at once, whatever it was waiting for; whether it was paused or stood still.
    ///
    /// # Errors
    /// As [`DelivererHandle::parked`].
    pub async fn resume(&self) -> Result<bool, CommandError> {
        self.ask(|reply| Request::Resume { reply }).await
    }

    /// Delivers everything again from the log, and removes what is not met.
    ///
    /// # Errors
    /// As [`DelivererHandle::parked`].
    pub async fn resync(&self, word: Word) -> Result<(), CommandError> {
        self.ask(|reply| Request::Resync { word, reply }).await
    }

    /// Takes back what was delivered, once nothing may be delivered any more; says how many rows that were.
    ///
    /// # Errors
    /// As [`DelivererHandle::parked`]; [`CommandError::Unfit`] where it may still deliver, and for a sink that cannot.
    pub async fn purge(&self, word: Word) -> Result<u64, CommandError> {
        self.ask(|reply| Request::Purge { word, reply }).await
    }

    /// Delivers again what came since, in order, by what the subscription grants now; says what that is.
    ///
    /// # Errors
    /// As [`DelivererHandle::replay`]; [`CommandError::Gap`] where the log holds no longer all of it, [`CommandError::Unfit`] for a
    /// place that is none and a sink that cannot go back.
    pub async fn redeliver(&self, since: Since, word: Word) -> Result<Vec<Redelivered>, CommandError> {
        self.ask(|reply| Request::Redeliver { since, word, reply }).await
    }

    /// Compares what the sink holds with what the subscription grants, while it goes on being delivered.
    ///
    /// # Errors
    /// As [`DelivererHandle::replay`]; [`CommandError::Unfit`] for a sink whose rows cannot be read.
    pub async fn verify(&self, ask: &Verify) -> Result<Verification, CommandError> {
        let unfit = || CommandError::Unfit("only a table in a database can be compared".to_owned());
        let verifier = self.verifier.as_ref().ok_or_else(unfit)?;
        if !self.aside.is_loaded() {
            self.ask(|reply| Request::Load { reply }).await?;
        }
        verifier.verify(ask, self).await
    }

    /// How far the comparison under way is.
    #[must_use]
    pub fn comparing(&self) -> Option<Comparing> {
        self.verifier.as_ref()?.progress.get()
    }

    pub(super) async fn repair(&self, repair: Repair) -> Result<(), CommandError> {
        self.ask(|reply| Request::Repair { repair, reply }).await
    }

    /// Digest of the last audit entry, which the log has.
    ///
    /// # Errors
    /// As [`DelivererHandle::parked`].
    pub async fn last_audited(&self) -> Result<Digest, CommandError> {
        self.ask(|reply| Request::Chain { reply }).await
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, CommandError> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(Box::new(request(reply))).await.map_err(|_| CommandError::Stopped)?;
        answer.await.map_err(|_| CommandError::Stopped)?
    }
}
