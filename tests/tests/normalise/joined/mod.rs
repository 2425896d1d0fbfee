//! Resources that draw on several tables of their system.

mod away;
mod columns;
mod details;
mod groups;
mod histories;
mod lookups;
mod rebuild;
mod world;
