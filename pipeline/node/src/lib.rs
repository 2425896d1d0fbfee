//! The node: one binary that wires connectors, normalisers and deliveries from an exchange directory, and the commands around it.

#![warn(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod output;

pub mod cli;
mod control;
pub mod demo;
pub mod exit;
mod http;
mod node;
pub mod open;
mod prepare;
mod pull;
pub mod status;
mod telemetry;
pub mod template;
pub mod text;
mod trial;

pub use node::Node;
