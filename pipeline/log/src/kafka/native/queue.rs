//! A queue of fetched records of some partitions of one consumer.

use std::collections::VecDeque;
use std::ffi::{CStr, CString, c_void};
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use bytes::Bytes;
use rdkafka::bindings as rd;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::Notify;

use crate::contract::{Headers, Record, TopicPartition};
use crate::kafka::client::Context;

/// Records taken from librdkafka at once.
const BATCH: usize = 512;

/// What came for a partition.
pub(crate) enum Fetched {
    Record {
        partition: usize,
        message: Message,
    },
    /// Everything before this offset was given.
    End {
        partition: usize,
        offset: u64,
    },
    Failed {
        partition: Option<usize>,
        code: RDKafkaErrorCode,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Nothing,
    Record,
    /// librdkafka counts an end of partition as if it were a record, so its position is one too far then.
    Other,
}

/// A queue of fetched records of some partitions of one consumer.
pub(crate) struct Queue {
    queue: NonNull<rd::rd_kafka_queue_t>,
    waiting: VecDeque<Message>,
    partitions: Vec<TopicPartition>,
    /// The partitions' topics and numbers as librdkafka takes them.
    names: Vec<(CString, i32)>,
    /// What each of them gave last.
    last: Vec<Last>,
    /// Their positions are asked for in this list.
    list: TopicPartitionList,
    /// Told when the queue is no longer empty; librdkafka holds its address.
    wake: Arc<Notify>,
    /// Last: it outlives the queue.
    consumer: Arc<BaseConsumer<Context>>,
}

// SAFETY: librdkafka's queues and messages may be used from any thread; `Queue` gives no access from two at once but by `&mut`.
unsafe impl Send for Queue {}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("partitions", &self.partitions).finish_non_exhaustive()
    }
}

/// Called by librdkafka's threads when a queue gets its first element.
unsafe extern "C" fn not_empty(_: *mut rd::rd_kafka_t, wake: *mut c_void) {
    // SAFETY: `wake` is what the queue that calls has a count of; the callback is disabled before the queue gives it up.
    let wake = unsafe { &*wake.cast::<Notify>() };
    wake.notify_one();
}

impl Queue {
    /// Takes over what the consumer fetches for `partitions`, which are not assigned to it yet; `None` if librdkafka refuses.
    pub(crate) fn new(consumer: &Arc<BaseConsumer<Context>>, partitions: Vec<TopicPartition>) -> Option<Self> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        let mut names = Vec::with_capacity(partitions.len());
        for at in &partitions {
            let number = i32::try_from(at.partition).ok()?;
            list.add_partition(&at.topic, number);
            names.push((CString::new(&*at.topic).ok()?, number));
        }
        let last = vec![Last::Nothing; partitions.len()];
        let client = consumer.client().native_ptr();
        // SAFETY: `client` lives as long as `consumer`, of which the new value keeps a count.
        let queue = unsafe { NonNull::new(rd::rd_kafka_queue_new(client))? };
        let wake = Arc::new(Notify::new());
        let consumer = Arc::clone(consumer);
        let made = Self { queue, waiting: VecDeque::new(), partitions, names, last, list, wake, consumer };
        made.attach();
        let opaque = Arc::as_ptr(&made.wake);
        // SAFETY: the count that `made` has keeps it alive until `drop` has disabled the callback.
        unsafe { rd::rd_kafka_queue_cb_event_enable(made.queue.as_ptr(), Some(not_empty), opaque.cast_mut().cast()) };
        Some(made)
    }

    pub(crate) fn partitions(&self) -> &[TopicPartition] {
        &self.partitions
    }

    /// Leads what is fetched here. When an earlier reader's hold on a partition ends, librdkafka takes that partition's lead away,
    /// and it does so at some later time; so this is to be repeated until every partition has given something.
    fn attach(&self) {
        let client = self.consumer.client().native_ptr();
        for ((topic, number), _) in self.names.iter().zip(&self.last).filter(|(_, last)| **last == Last::Nothing) {
            // SAFETY: both queues belong to `client`; the partition's one is a reference that is given back, the forward stays.
            unsafe {
                if let Some(source) = NonNull::new(rd::rd_kafka_queue_get_partition(client, topic.as_ptr(), *number)) {
                    rd::rd_kafka_queue_forward(source.as_ptr(), self.queue.as_ptr());
                    rd::rd_kafka_queue_destroy(source.as_ptr());
                }
            }
        }
    }

    /// Whether everything that comes will wake the reader.
    pub(crate) fn is_settled(&self) -> bool {
        !self.last.contains(&Last::Nothing)
    }

    /// Resolves when something came since the queue was found empty.
    pub(crate) fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }

    /// The next element, without waiting.
    pub(crate) fn next(&mut self) -> Option<Fetched> {
        if self.waiting.is_empty() {
            self.fill();
        }
        let message = self.waiting.pop_front()?;
        let raw = message.raw();
        let (code, offset) = (RDKafkaErrorCode::from(raw.err), u64::try_from(raw.offset));
        let partition = self.partition_of(&message);
        if let Some(last) = partition.and_then(|index| self.last.get_mut(index)) {
            *last = if code == RDKafkaErrorCode::NoError { Last::Record } else { Last::Other };
        }
        Some(match (code, partition, offset) {
            (RDKafkaErrorCode::NoError, Some(partition), _) => Fetched::Record { partition, message },
            (RDKafkaErrorCode::PartitionEOF, Some(partition), Ok(offset)) => Fetched::End { partition, offset },
            (code, partition, _) => Fetched::Failed { partition, code },
        })
    }

    /// Gives an element back that is to be the next one again.
    pub(crate) fn put_back(&mut self, message: Message) {
        self.waiting.push_front(message);
    }

    /// Where in [`Queue::partitions`] the message's partition is.
    fn partition_of(&self, message: &Message) -> Option<usize> {
        let raw = message.raw();
        let number = u32::try_from(raw.partition).ok()?;
        if self.partitions.len() == 1 {
            return self.partitions.first().filter(|only| only.partition == number).map(|_| 0);
        }
        let topic = message.topic()?;
        self.partitions.iter().position(|at| at.partition == number && at.topic.as_bytes() == topic)
    }

    /// Offsets after the last record that was taken, control records behind it counted; nothing while elements wait here, nor for
    /// a partition whose last element was no record.
    pub(crate) fn positions(&mut self) -> Vec<Option<u64>> {
        if !self.waiting.is_empty() {
            return vec![None; self.partitions.len()];
        }
        let client = self.consumer.client().native_ptr();
        // SAFETY: both are live; the call fills the list's offsets.
        let error = unsafe { rd::rd_kafka_position(client, self.list.ptr()) };
        if RDKafkaErrorCode::from(error) != RDKafkaErrorCode::NoError {
            return vec![None; self.partitions.len()];
        }
        let offset = |offset| match offset {
            Offset::Offset(offset) => u64::try_from(offset).ok(),
            _ => None,
        };
        let positions = self.list.elements().into_iter().zip(&self.last);
        positions.map(|(element, last)| (*last == Last::Record).then(|| offset(element.offset())).flatten()).collect()
    }

    fn fill(&mut self) {
        if !self.is_settled() {
            self.attach();
        }
        let mut batch = [ptr::null_mut(); BATCH];
        // SAFETY: the array has room for `BATCH` pointers; the call sets as many as it returns and gives us the messages.
        let count = unsafe { rd::rd_kafka_consume_batch_queue(self.queue.as_ptr(), 0, batch.as_mut_ptr(), BATCH) };
        let count = usize::try_from(count).unwrap_or(0);
        self.waiting.extend(batch.into_iter().take(count).filter_map(NonNull::new).map(Message));
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.waiting.clear();
        let client = self.consumer.client().native_ptr();
        // SAFETY: the callback is off before what it tells may go; forwards end before the queue they lead to.
        unsafe {
            rd::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut());
            for (topic, number) in &self.names {
                if let Some(source) = NonNull::new(rd::rd_kafka_queue_get_partition(client, topic.as_ptr(), *number)) {
                    rd::rd_kafka_queue_forward(source.as_ptr(), ptr::null_mut());
                    rd::rd_kafka_queue_destroy(source.as_ptr());
                }
            }
            rd::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

/// A fetched record in librdkafka's memory.
pub(crate) struct Message(NonNull<rd::rd_kafka_message_t>);

// SAFETY: a message is owned by whoever has the pointer and may be destroyed on any thread.
unsafe impl Send for Message {}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: the message is ours and is not used again.
        unsafe { rd::rd_kafka_message_destroy(self.0.as_ptr()) }
    }
}

/// A record whose bytes lie in an arena yet to be frozen.
pub(crate) struct Laid {
    pub(crate) partition: usize,
    pub(crate) offset: u64,
    timestamp_ms: i64,
    key: Option<(usize, usize)>,
    value: Option<(usize, usize)>,
    headers: Vec<(Arc<str>, (usize, usize))>,
}

impl Laid {
    /// The record, its bytes being slices of the frozen `arena`.
    pub(crate) fn record(self, at: &TopicPartition, arena: &Bytes) -> Record {
        let slice = |(from, to)| arena.slice(from..to);
        let headers: Headers = self.headers.into_iter().map(|(name, range)| (name, slice(range))).collect();
        Record {
            at: at.clone(),
            offset: self.offset,
            timestamp_ms: self.timestamp_ms,
            key: self.key.map(slice),
            value: self.value.map(slice),
            headers,
        }
    }
}

impl Message {
    fn raw(&self) -> &rd::rd_kafka_message_t {
        // SAFETY: the message is ours and nobody writes to it.
        unsafe { self.0.as_ref() }
    }

    fn topic(&self) -> Option<&[u8]> {
        let topic = self.raw().rkt;
        if topic.is_null() {
            return None;
        }
        // SAFETY: the message holds its topic, whose name is a string that lives as long.
        Some(unsafe { CStr::from_ptr(rd::rd_kafka_topic_name(topic)) }.to_bytes())
    }

    pub(crate) fn key(&self) -> Option<&[u8]> {
        // SAFETY: librdkafka's pointer and length of the key.
        unsafe { bytes(self.raw().key, self.raw().key_len) }
    }

    pub(crate) fn value(&self) -> Option<&[u8]> {
        // SAFETY: librdkafka's pointer and length of the value.
        unsafe { bytes(self.raw().payload, self.raw().len) }
    }

    pub(crate) fn offset(&self) -> u64 {
        // A record's offset is never negative.
        u64::try_from(self.raw().offset).unwrap_or(0)
    }

    /// Name and value of each header.
    fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is live; on success `headers` belongs to it.
        let error = unsafe { rd::rd_kafka_message_headers(self.0.as_ptr(), &raw mut headers) };
        let has = RDKafkaErrorCode::from(error) == RDKafkaErrorCode::NoError;
        (0..).map_while(move |index| {
            if !has {
                return None;
            }
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0_usize);
            // SAFETY: `headers` lives as long as the message, which `self` borrows; out of range is an error code.
            let error = unsafe { rd::rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut size) };
            if RDKafkaErrorCode::from(error) != RDKafkaErrorCode::NoError {
                return None;
            }
            // SAFETY: a name is a string of the message, a value `size` bytes of it or null.
            let (name, value) = unsafe { (CStr::from_ptr(name), bytes(value.cast_mut(), size)) };
            Some((name.to_str().unwrap_or("?"), value.unwrap_or_default()))
        })
    }

    /// Bytes that count against a read's budget, as [`crate::NewRecord::size`] counts them.
    pub(crate) fn size(&self) -> usize {
        let headers: usize = self.headers().map(|(name, value)| name.len() + value.len()).sum();
        self.key().map_or(0, <[u8]>::len) + self.value().map_or(0, <[u8]>::len) + headers
    }

    /// Copies the record's bytes to the arena's end; `names` are header names seen before.
    pub(crate) fn lay(&self, partition: usize, arena: &mut Vec<u8>, names: &mut Vec<Arc<str>>) -> Laid {
        let mut put = |bytes: &[u8]| {
            let from = arena.len();
            arena.extend_from_slice(bytes);
            (from, arena.len())
        };
        let key = self.key().map(&mut put);
        let value = self.value().map(&mut put);
        let headers = self.headers().map(|(name, value)| (interned(name, names), put(value))).collect();
        let mut kind = rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is live; the kind is written.
        let timestamp_ms = unsafe { rd::rd_kafka_message_timestamp(self.0.as_ptr(), &raw mut kind) };
        Laid { partition, offset: self.offset(), timestamp_ms, key, value, headers }
    }
}

/// # Safety
/// A pointer that is not null leads to `size` bytes that live for `'a`.
unsafe fn bytes<'a>(from: *mut c_void, size: usize) -> Option<&'a [u8]> {
    // SAFETY: as the caller promises.
    (!from.is_null()).then(|| unsafe { std::slice::from_raw_parts(from.cast::<u8>(), size) })
}

/// Header names are few and come again and again.
fn interned(name: &str, names: &mut Vec<Arc<str>>) -> Arc<str> {
    const KEPT: usize = 64;
    if let Some(known) = names.iter().find(|known| &***known == name) {
        return Arc::clone(known);
    }
    let name: Arc<str> = name.into();
    if names.len() < KEPT {
        names.push(Arc::clone(&name));
    }
    name
}
