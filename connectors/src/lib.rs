//! The department's side: sources that tail databases, and the one path by which their changes enter the exchange log.

pub mod changelog;
pub mod inspect;
pub mod metrics;
pub mod postgres;
pub mod publish;
pub mod registration;
pub mod run;
pub mod source;
