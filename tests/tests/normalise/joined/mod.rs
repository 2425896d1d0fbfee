//! Resources that draw on several tables of their system.

mod histories;
mod lookups;
mod world;
