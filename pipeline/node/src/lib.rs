//!

pub mod template;
