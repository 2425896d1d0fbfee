//! The node over PostgreSQL, killed (SIGKILL) where it hurts and where chance has it: what the raw topics hold afterwards.

mod clerks;
mod department;
mod history;
mod raw;
mod replay;
mod steps;
