//! From files to values: places and excerpts, sections of TOML with every problem reported, scalars, expressions.

pub(super) mod concealed;
pub(crate) mod document;
pub(crate) mod expression;
pub(crate) mod json;
pub(super) mod kinds;
pub(crate) mod scalar;
pub(super) mod secret;
pub(super) mod section;
