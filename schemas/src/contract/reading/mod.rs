//! From files to values: places and excerpts, sections of TOML with every problem reported, scalars, expressions.

pub(super) mod concealed;
pub(crate) mod document;
pub(super) mod expression;
pub(crate) mod json;
pub(crate) mod scalar;
pub(super) mod secret;
pub(super) mod section;
