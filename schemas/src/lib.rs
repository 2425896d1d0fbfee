//! What the data is: positions, tables, change events, their Avro form, the regional standard, and the exchange directory's
//! contract. Pure: no runtime, no clients, no clock of its own.

pub mod avro;
pub mod calendar;
pub mod change;
pub mod contract;
pub mod delivered;
pub mod position;
pub mod profile;
pub mod standard;
pub mod table;
