//! Resources that draw on several tables of their system.

mod lookups;
mod world;
