//! Normalise: raw change events become records of the regional standard, or go to quarantine with the reason.
//!
//! One [`Normaliser`] runs for each resource; a [`NormaliserHandle`] speaks with it while it runs.

mod claims;
pub mod draft;
mod drift;
mod error;
#[cfg(test)]
mod fixtures;
mod handle;
mod join;
mod keyed;
mod mapping;
mod metrics;
mod outline;
mod quality;
mod quarantine;
mod rebuild;
mod stage;
mod transform;
mod trial;

pub use claims::EntityRecord;
pub use drift::{ColumnChange, Subscriptions, What};
pub use error::NormaliseError;
pub use handle::{HandleError, NormaliserHandle, NormaliserStatus, Phase, ReplayReport};
pub use keyed::overlay::StateError;
pub use mapping::{Fault as MappingFault, MappingError};
pub use metrics::Metrics;
pub use outline::{FoundBy, SourceColumn, SourceFind, SourceOutline, SourceTable, source_outline};
pub use quality::{DayReport, QualityReport};
pub use quarantine::{
    DROPPED_TOPIC, DropReport, Dropped, Filter, QuarantineItem, QuarantineList, QuarantineStore, Rejection, Surrender,
    event_rules, parse_id,
};
pub use rebuild::{RebuildPhase, RebuildReport, RebuildStatus};
pub use stage::{NormaliseContext, Normaliser};
pub use transform::conceal;
pub use trial::{Outcome, Trial, TrialError, verify};
