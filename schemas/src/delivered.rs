//! How a transaction says that an exchange delivers in it: in a PostgreSQL database by a logical message before its changes (PostgreSQL
//! documentation, "Replication Management Functions"), in a SQLite file by rows of a table that are there while it lasts.
//!
//! A connector of the same exchange that tails the database passes over the transaction's changes of the tables that are named, and of no
//! others: what a trigger of the department's makes of them is the department's, and what another exchange delivers is news to this one.

use serde::{Deserialize, Serialize};

/// Prefix of the logical messages that exchanges write.
pub const MESSAGES: &str = "guitong";
/// Tables that an exchange has beside those it delivers into. Nobody tails them.
pub const OWN: [&str; 4] = ["guitong_subscriptions", "guitong_offsets", "guitong_deleted", DELIVERING];
/// In SQLite: the tables that the transaction delivers into. No row outlives its transaction, and while that lasts nobody else writes.
pub const DELIVERING: &str = "guitong_delivering";
/// Makes the table [`DELIVERING`] where there is none.
pub const MAKE_DELIVERING: &str = "CREATE TABLE IF NOT EXISTS guitong_delivering (tbl TEXT NOT NULL, exchange TEXT NOT NULL)";
/// Before the JSON of a [`Delivered`]; other messages of the prefix are watermarks.
const DELIVERED: &str = "delivered ";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// Its name.
    pub exchange: String,
    /// Schema and name of each.
    pub tables: Vec<(String, String)>,
}

impl Delivered {
    /// What the message says.
    #[must_use]
    pub fn content(&self) -> String {
        // Texts always serialise.
        format!("{DELIVERED}{}", serde_json::to_string(self).unwrap_or_default())
    }

    /// `None` where the message says something else.
    #[must_use]
    pub fn read(content: &[u8]) -> Option<Self> {
        serde_json::from_slice(content.strip_prefix(DELIVERED.as_bytes())?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read_and_nothing_else_is() {
        let of = |schema: &str, name: &str| (schema.to_owned(), name.to_owned());
        let said = Delivered { exchange: "region".into(), tables: vec![of("共享", "企业\"'"), of("public", "t")] };
        assert_eq!(Delivered::read(said.content().as_bytes()), Some(said));
        for other in ["", "delivered", "delivered []", "delivered {\"exchange\":\"region\"}", "low 1"] {
            assert_eq!(Delivered::read(other.as_bytes()), None, "{other}");
        }
    }
}
