//! Resources that draw on several tables of their system.

mod columns;
mod histories;
mod lookups;
mod world;
