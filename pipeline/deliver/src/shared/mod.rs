//! Reads of the log that subscriptions of one topic share: a thousand of them that are in step read, unpack and parse each record once,
//! and on Kafka they have one consumer.
//!
//! Each subscription has a reader of its own, which keeps the log's contract. Where somebody read on from its positions lately, it is given
//! that, as much as it asks for. Where nobody did, one of those who stand there reads for all of them, and the others wait, each no longer
//! than it would for the log; when that one is stopped or fails, another one reads. The log's own readers are kept by where they stand, for
//! whoever comes there. Who is behind what is kept reads alone, with a reader opened where it stands, and is in step again once it has come
//! to where the others are. A subscription that has a topic for itself reads as if this were not there.
//!
//! No lock is held while anything is awaited, and nobody waits for what another one does with its records.
//!
//! That it is right: a piece is what a read of the log gave, all of it, from the positions where that read began up to where it says that
//! it is to be read next. Pieces are given only one behind the other, and a subscription's positions move with what it was given, so it gets
//! what a reader of its own would have got that came a moment earlier, a minute at most. Within it, retention and compaction may have taken
//! something of the log; what they leave is given later, as ever, and where nothing follows without a gap the log itself says so. A topic
//! that was cut off or made anew is another one: whoever begins is held against the log's bounds, and with the first gap that anyone
//! meets, or an end before what was read, everything that was read before is forgotten. Who goes on in a topic that was made anew and has
//! grown beyond its positions sees as little of that as with a reader of its own.

mod cache;
mod reader;
mod topic;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use guitong_log::{ExchangeLog, LogError, LogReader, TopicPartition};
use prometheus::IntCounter;

use self::reader::SharedReader;
use self::topic::{Positions, Topic};

/// One for the node; clones share it. A topic that nobody reads holds nothing.
#[derive(Debug, Clone, Default)]
pub struct SharedReads {
    topics: Arc<Mutex<Topics>>,
}

/// By the log that is read, of which a topic in use keeps a count, and the topic's name.
type Topics = HashMap<(usize, Arc<str>), Weak<Topic>>;

/// Counts a subscription's records by where they came from.
#[derive(Debug, Clone)]
pub struct Counted {
    /// Read from the log by this subscription, for others, too.
    pub log: IntCounter,
    /// Given from what another subscription had read.
    pub shared: IntCounter,
}

impl SharedReads {
    /// Reads each partition of a topic from its offset on, as [`ExchangeLog::reader`].
    ///
    /// # Errors
    /// As [`ExchangeLog::reader`].
    pub async fn reader(
        &self,
        log: &Arc<dyn ExchangeLog>,
        from: Vec<(TopicPartition, u64)>,
        counted: Counted,
    ) -> Result<Box<dyn LogReader>, LogError> {
        let name = from.first().map(|(at, _)| Arc::clone(&at.topic));
        let Some(name) = name.filter(|name| from.iter().all(|(at, _)| at.topic == *name)) else {
            return log.reader(from).await;
        };
        let at: Positions = from.iter().map(|(at, next)| (at.partition, *next)).collect();
        let reader = SharedReader::new(self.topic(log, name), at, counted);
        reader.begin().await?;
        Ok(Box::new(reader))
    }

    fn topic(&self, log: &Arc<dyn ExchangeLog>, name: Arc<str>) -> Arc<Topic> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing else can be at the log's address while its topic is in use.
        let key = (Arc::as_ptr(log).addr(), Arc::clone(&name));
        if let Some(topic) = topics.get(&key).and_then(Weak::upgrade) {
            return topic;
        }
        topics.retain(|_, topic| topic.strong_count() > 0);
        let topic = Arc::new(Topic::new(Arc::clone(log), name));
        topics.insert(key, Arc::downgrade(&topic));
        topic
    }
}
