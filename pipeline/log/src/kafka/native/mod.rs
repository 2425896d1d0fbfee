//! What of librdkafka the safe bindings leave out: the generation in a group's metadata; a queue of one's own that several partitions
//! feed and that is read in batches, with the position of a partition behind control records ([`queue`]); records that are sent
//! without a copy of their values, by the thread that waits for them ([`sender`]).
//!
//! Everything unsafe of this crate is here.
#![allow(unsafe_code)]

mod queue;
mod sender;

use std::ptr::NonNull;

use rdkafka::bindings as rd;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};

pub(crate) use self::queue::{Fetched, Laid, Queue};
pub(crate) use self::sender::{Sender, Sent};

/// Generation under which the consumer is a member of its group now; `None` where it is none.
pub(crate) fn generation<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<i32> {
    let client = consumer.client().native_ptr();
    // SAFETY: `client` is a live consumer as long as `consumer` is borrowed; the metadata is ours until it is destroyed below and
    // is not used afterwards.
    let generation = unsafe {
        let metadata = NonNull::new(rd::rd_kafka_consumer_group_metadata(client))?;
        let generation = rd::rd_kafka_consumer_group_metadata_generation_id(metadata.as_ptr());
        rd::rd_kafka_consumer_group_metadata_destroy(metadata.as_ptr());
        generation
    };
    (generation >= 0).then_some(generation)
}
