//! Rows of other tables of the system beside a resource's own: looked up, joined, and followed when they change.
//!
//! The tables' raw topics are read by the resource's own owner, merged by commit ([`merge`]). Their rows stand in keyed state by
//! the key that finds them, and for each key the source keys of the rows that used it. A change of such a row is committed with a
//! note that its users are to be made again ([`refresh`]); that is done in pages, each a commit, before anything more is read.
//! What is published does not depend on where the stage stopped in between: every row is made of the newest versions of all that
//! it is made of.
//!
//! | map | key | value |
//! |---|---|---|
//! | `joined` | id of a joined table | empty: its rows are all there; 1: they are being read |
//! | `beside` | id, source key of its row | [`state::BesideRow`] |
//! | `groups` | id, values of the key: [`GroupKey`] | [`state::Group`], the rows of that key, or how many they are |
//! | `apart` | group key, source key of its row | [`state::GroupRow`], a row of a group that is too large for one value |
//! | `users` | group key, source key of a resource's row | empty |
//! | `links` | source key of a resource's row | [`state::Links`], what its versions used |
//! | `inputs` | source key, version | [`state::Input`], the event as it came |
//! | `refresh` | group key | [`state::Refresh`], how far its users are made again |

pub(crate) mod begin;
pub(crate) mod beside;
pub(crate) mod cell;
pub(crate) mod columns;
pub(crate) mod merge;
pub(crate) mod overlay;
pub(crate) mod plan;
mod records;
mod refresh;
pub(crate) mod stage;
pub(crate) mod state;

pub(crate) const JOINED: &str = "joined";
pub(crate) const BESIDE: &str = "beside";
pub(crate) const GROUPS: &str = "groups";
pub(crate) const APART: &str = "apart";
pub(crate) const USERS: &str = "users";
pub(crate) const LINKS: &str = "links";
pub(crate) const INPUTS: &str = "inputs";
pub(crate) const REFRESH: &str = "refresh";

/// The id of a joined table, the number of a key's parts, and their texts, each behind its length: no group's key begins another's.
pub(crate) type GroupKey = bytes::Bytes;
