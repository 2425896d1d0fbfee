//! Governance: what each subscription may have, decided in one function ([`Entitlement::decide`]) that every delivered byte
//! passes, and the audit entry that every delivered batch leaves.

pub mod audit;
mod condition;
mod entitlement;
mod key;
mod mask;

pub use condition::{ConditionError, EvaluationError};
pub use entitlement::{
    Column, ColumnKind, Decision, Entitlement, EntitlementError, Gone, KeyForm, Record, Refusal, Row, RowKey, Standing, Stop,
};
