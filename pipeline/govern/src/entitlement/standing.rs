//! Whether a subscription may be served at a moment: sharing type, approval, dates.

use std::fmt;

use guitong_schemas::contract::{Resource, Sharing, Subscription};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

/// Why a subscription is never served as it is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The resource is not shared (不予共享).
    NotShared,
    /// The resource is shared on condition (有条件共享) and the subscription has no approval.
    NoApproval,
}

/// Whether a subscription may be served now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Until this moment, exclusive, if it ends.
    Open {
        until: Option<Timestamp>,
    },
    Stopped(Stop),
}

/// Why nothing is delivered now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    NotYet { from: Timestamp },
    Expired { since: Timestamp },
    Refused(Refusal),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotYet { from } => write!(f, "the approval is valid from {from}"),
            Self::Expired { since } => write!(f, "the approval ended at {since}"),
            Self::Refused(Refusal::NotShared) => f.write_str("the resource is not shared (sharing type 3)"),
            Self::Refused(Refusal::NoApproval) => {
                f.write_str("the resource needs an approval (sharing type 2), and there is none")
            }
        }
    }
}

/// The rule that [`Standing`] follows from, with its dates as moments.
#[derive(Debug, Clone)]
pub(super) struct Validity {
    refused: Option<Refusal>,
    from: Option<Timestamp>,
    /// Exclusive.
    until: Option<Timestamp>,
}

impl Validity {
    /// Days begin and end in `zone`. `None` for a date that is no moment (beyond the calendar).
    pub(super) fn compile(subscription: &Subscription, resource: &Resource, zone: &TimeZone) -> Option<Self> {
        let refused = match (&resource.sharing, &subscription.approval) {
            (Sharing::Refused { .. }, _) => Some(Refusal::NotShared),
            (Sharing::Conditional { .. }, None) => Some(Refusal::NoApproval),
            _ => None,
        };
        let (from, until) = match &subscription.approval {
            None => (None, None),
            Some(approval) => {
                let from = approval.from.map(|day| start_of(day, zone));
                let until = approval.until.checked_add(1.day()).ok().map(|day| start_of(day, zone));
                (from, until)
            }
        };
        match (from, until) {
            (Some(None), _) | (_, Some(None)) => None,
            (from, until) => Some(Self { refused, from: from.flatten(), until: until.flatten() }),
        }
    }

    pub(super) fn at(&self, now: Timestamp) -> Standing {
        if let Some(refusal) = self.refused {
            return Standing::Stopped(Stop::Refused(refusal));
        }
        match (self.from, self.until) {
            (_, Some(since)) if now >= since => Standing::Stopped(Stop::Expired { since }),
            (Some(from), _) if now < from => Standing::Stopped(Stop::NotYet { from }),
            (_, until) => Standing::Open { until },
        }
    }
}

fn start_of(day: Date, zone: &TimeZone) -> Option<Timestamp> {
    Some(day.to_zoned(zone.clone()).ok()?.timestamp())
}
