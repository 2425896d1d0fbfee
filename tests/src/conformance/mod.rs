//! Is what we publish what Debezium publishes? The SQL of a golden dump is run through our connector, and what stands in the raw
//! topics is compared with the dump: schemas, keys, values, headers, message by message. Where the peer is known to be wrong, a rule
//! says what ours must be ([`Rule`]).

mod avro;
mod compare;
mod dump;
mod exchange;
mod rules;
mod run;
mod statements;
mod text;

use std::fmt;
use std::path::Path;

pub use self::avro::Decoder;
pub use self::compare::Difference;
pub use self::dump::{Dump, Message, Meta, Topic};
pub use self::rules::{Applied, Rule};

/// Why nothing could be compared.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(String);

impl Failure {
    pub fn new(why: impl fmt::Display) -> Self {
        Self(why.to_string())
    }
}

/// What a comparison found.
#[derive(Debug)]
pub struct Report {
    pub differences: Vec<Difference>,
    pub applied: Applied,
    pub topics: usize,
    pub messages: usize,
}

/// Runs `setup.sql` and `stream.sql` of `dir` through our connector as the dump's connector was configured, and compares.
///
/// # Errors
/// When the files cannot be read, the server does not start, or the connector stops.
pub async fn compare(dir: &Path, dump: &Path) -> Result<Report, Failure> {
    guitong_schemas::avro::set_name_validators();
    let dump = Dump::read(dump)?;
    let run = run::run(dir, &dump).await?;
    let (theirs, ours, applied) = rules::apply(&dump, &run);
    let messages = theirs.values().map(|topic| topic.messages.len()).sum();
    Ok(Report { differences: compare::topics(&theirs, &ours), applied, topics: theirs.len(), messages })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for difference in &self.differences {
            writeln!(f, "{difference}")?;
        }
        writeln!(f, "{} topics, {} messages, {} differences", self.topics, self.messages, self.differences.len())?;
        for (rule, times) in &self.applied.0 {
            writeln!(f, "  ours instead, {times} times: {}", rule.text())?;
        }
        Ok(())
    }
}
