//! Where owners stood at the last commit, as the file has it.

use std::collections::HashMap;

use sqlx::{Row, SqliteConnection};

use super::fault::Fault;
use super::rows::unsigned;
use crate::contract::TopicPartition;

/// Positions and offsets of the owners whose names are in a JSON array.
const STANDS: &str = "
    SELECT owner, value, NULL, NULL, NULL FROM position WHERE owner IN (SELECT value FROM json_each(?1))
    UNION ALL
    SELECT consumed.owner, NULL, topic.name, partition.number, consumed.next FROM consumed
        JOIN partition ON partition.id = consumed.partition JOIN topic ON topic.id = partition.topic
        WHERE consumed.owner IN (SELECT value FROM json_each(?1))";

/// One owner's position, stamped with the version of its form, and its consumed offsets.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stand {
    pub(crate) position: Option<Vec<u8>>,
    pub(crate) offsets: HashMap<TopicPartition, u64>,
}

/// The stands of `owners`; one that never committed has none.
pub(crate) async fn read(conn: &mut SqliteConnection, owners: &[String]) -> Result<HashMap<String, Stand>, Fault> {
    let names = serde_json::Value::from(owners).to_string();
    let mut stands: HashMap<String, Stand> = HashMap::new();
    for row in sqlx::query(STANDS).bind(names).fetch_all(conn).await? {
        let stand = stands.entry(row.try_get(0)?).or_default();
        match row.try_get::<Option<String>, _>(2)? {
            None => stand.position = row.try_get(1)?,
            Some(topic) => {
                stand.offsets.insert(TopicPartition::new(topic, row.try_get(3)?), unsigned(row.try_get(4)?));
            }
        }
    }
    Ok(stands)
}
