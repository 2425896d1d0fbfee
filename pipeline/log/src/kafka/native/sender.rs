//! Sends records by the thread that waits for them to be acknowledged, so that none is handed between threads, and without a copy of
//! their values: a record keeps a count of its value's bytes until librdkafka has told what became of it.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::bindings as rd;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext};
use rdkafka::util::IntoOpaque;

use crate::contract::Headers;
use crate::kafka::client::Context;
use crate::kafka::producer::Outgoing;

/// librdkafka's timestamp for the time of sending.
const NOW: i64 = 0;
const UNKNOWN_PARTITION: KafkaError = KafkaError::MessageProduction(RDKafkaErrorCode::UnknownPartition);

/// What a record leaves with librdkafka.
#[derive(Debug)]
pub(crate) struct Sent {
    /// The sender's caller knows the record's partition by it.
    pub(crate) mark: usize,
    /// librdkafka reads the value where it lies.
    value: Option<Bytes>,
}

/// Where the producer's messages about itself go.
pub(crate) struct Events(Context);

impl ClientContext for Events {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ProducerContext for Events {
    type DeliveryOpaque = Box<Sent>;

    /// Only of what is left when the producer goes.
    fn delivery(&self, _: &DeliveryResult<'_>, _: Box<Sent>) {}
}

/// A producer that nobody but its user serves.
pub(crate) struct Sender {
    topics: Vec<NonNull<rd::rd_kafka_topic_t>>,
    numbers: HashMap<Arc<str>, usize>,
    queue: NonNull<rd::rd_kafka_queue_t>,
    /// Last: it outlives the others.
    producer: BaseProducer<Events>,
}

// SAFETY: librdkafka's queues and topics may be used from any thread, and `Sender` is used by one at a time.
unsafe impl Send for Sender {}

impl Sender {
    pub(crate) fn new(config: &ClientConfig, context: Context) -> Result<Self, KafkaError> {
        let producer = BaseProducer::from_config_and_context(config, Events(context))?;
        // SAFETY: the producer is live, and every producer has a main queue; the reference is given back by `drop`.
        let queue = NonNull::new(unsafe { rd::rd_kafka_queue_get_main(producer.client().native_ptr()) });
        let queue = queue.ok_or(KafkaError::ClientCreation("a producer without a queue".to_owned()))?;
        Ok(Self { topics: Vec::new(), numbers: HashMap::new(), queue, producer })
    }

    /// For everything but records.
    pub(crate) fn producer(&self) -> &BaseProducer<Events> {
        &self.producer
    }

    /// Number of a topic for [`Sender::send`].
    pub(crate) fn topic(&mut self, name: &Arc<str>) -> Result<usize, KafkaError> {
        if let Some(known) = self.numbers.get(name) {
            return Ok(*known);
        }
        let c_name = CString::new(&**name)?;
        let client = self.producer.client().native_ptr();
        // SAFETY: both are live; the topic is ours until `drop`.
        let topic = NonNull::new(unsafe { rd::rd_kafka_topic_new(client, c_name.as_ptr(), ptr::null_mut()) });
        let topic = topic.ok_or(KafkaError::MessageProduction(RDKafkaErrorCode::UnknownTopic))?;
        self.topics.push(topic);
        self.numbers.insert(Arc::clone(name), self.topics.len() - 1);
        Ok(self.topics.len() - 1)
    }

    /// Hands a record over to the topic of that number; what becomes of it is told by [`Sender::serve`].
    pub(crate) fn send(&self, topic: usize, record: &Outgoing<'_>, mark: usize) -> Result<(), KafkaError> {
        use rd::rd_kafka_vtype_t as Type;
        let Some(topic) = self.topics.get(topic) else {
            return Err(KafkaError::MessageProduction(RDKafkaErrorCode::UnknownTopic));
        };
        let headers = OwnHeaders::new(record.headers)?;
        let partition = i32::try_from(record.partition).map_err(|_| UNKNOWN_PARTITION)?;
        let sent = Box::new(Sent { mark, value: record.value.cloned() });
        let value = memory(sent.value.as_ref());
        let opaque = sent.into_ptr();
        let argument = |vtype, u| rd::rd_kafka_vu_t { vtype, u };
        let arguments = [
            argument(Type::RD_KAFKA_VTYPE_RKT, Union { rkt: topic.as_ptr() }),
            argument(Type::RD_KAFKA_VTYPE_PARTITION, Union { i32_: partition }),
            argument(Type::RD_KAFKA_VTYPE_KEY, Union { mem: memory(record.key) }),
            argument(Type::RD_KAFKA_VTYPE_VALUE, Union { mem: value }),
            argument(Type::RD_KAFKA_VTYPE_TIMESTAMP, Union { i64_: record.timestamp_ms.unwrap_or(NOW) }),
            argument(Type::RD_KAFKA_VTYPE_HEADERS, Union { headers: headers.0 }),
            argument(Type::RD_KAFKA_VTYPE_OPAQUE, Union { ptr: opaque }),
        ];
        let client = self.producer.client().native_ptr();
        // SAFETY: each argument is of its type's kind. Key and headers' values are copied by the call; the value's bytes live as long as
        // what `opaque` leads to, which is taken back when librdkafka gives the record back and reads it no more.
        let error = NonNull::new(unsafe { rd::rd_kafka_produceva(client, arguments.as_ptr(), arguments.len()) });
        let Some(error) = error else {
            // They are the record's now.
            std::mem::forget(headers);
            return Ok(());
        };
        // SAFETY: the error is ours; the record was not taken, so `opaque` is still what was made of the box above.
        let code = unsafe {
            let code = rd::rd_kafka_error_code(error.as_ptr());
            rd::rd_kafka_error_destroy(error.as_ptr());
            drop(Box::<Sent>::from_ptr(opaque));
            code
        };
        Err(KafkaError::MessageProduction(code.into()))
    }

    /// Handles one event, waiting for it for at most `wait` (in milliseconds, rounded up); whether one came. `told` gets each record
    /// that librdkafka is done with, and the offset where it is.
    pub(crate) fn serve(&self, wait: Duration, mut told: impl FnMut(Box<Sent>, Result<i64, RDKafkaErrorCode>)) -> bool {
        let wait = c_int::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(c_int::MAX);
        // SAFETY: the queue is ours; the event is until it is destroyed below.
        let Some(event) = NonNull::new(unsafe { rd::rd_kafka_queue_poll(self.queue.as_ptr(), wait) }) else { return false };
        let event = event.as_ptr();
        // SAFETY: the event is live, its records are until it is destroyed, and each has in `_private` what `send` gave it.
        unsafe {
            match rd::rd_kafka_event_type(event) {
                rd::RD_KAFKA_EVENT_DR => {
                    while let Some(record) = rd::rd_kafka_event_message_next(event).as_ref() {
                        let done = match RDKafkaErrorCode::from(record.err) {
                            RDKafkaErrorCode::NoError => Ok(record.offset),
                            code => Err(code),
                        };
                        told(Box::from_ptr(record._private), done);
                    }
                }
                rd::RD_KAFKA_EVENT_ERROR => {
                    let error = KafkaError::Global(rd::rd_kafka_event_error(event).into());
                    self.producer.context().error(error, text(rd::rd_kafka_event_error_string(event)).trim());
                }
                rd::RD_KAFKA_EVENT_LOG => {
                    let (mut facility, mut message, mut level) = (ptr::null(), ptr::null(), 0);
                    if rd::rd_kafka_event_log(event, &raw mut facility, &raw mut message, &raw mut level) == 0 {
                        self.producer.context().log(log_level(level), text(facility).trim(), text(message).trim());
                    }
                }
                _ => {}
            }
            rd::rd_kafka_event_destroy(event);
        }
        true
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // SAFETY: both kinds are ours, and the producer that they belong to is still there.
        unsafe {
            for topic in &self.topics {
                rd::rd_kafka_topic_destroy(topic.as_ptr());
            }
            rd::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

/// Levels are syslog's.
fn log_level(level: c_int) -> RDKafkaLogLevel {
    match level {
        ..=0 => RDKafkaLogLevel::Emerg,
        1 => RDKafkaLogLevel::Alert,
        2 => RDKafkaLogLevel::Critical,
        3 => RDKafkaLogLevel::Error,
        4 => RDKafkaLogLevel::Warning,
        5 => RDKafkaLogLevel::Notice,
        6 => RDKafkaLogLevel::Info,
        7.. => RDKafkaLogLevel::Debug,
    }
}

type Union = rd::rd_kafka_vu_s__bindgen_ty_1;
type Memory = rd::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1;

/// Pointer and length; null where there are no bytes at all.
fn memory(bytes: Option<&Bytes>) -> Memory {
    let (ptr, size) = bytes.map_or((ptr::null(), 0), |bytes| (bytes.as_ptr(), bytes.len()));
    Memory { ptr: ptr.cast_mut().cast(), size }
}

/// # Safety
/// A pointer that is not null leads to a string that lives for `'a`.
unsafe fn text<'a>(from: *const c_char) -> std::borrow::Cow<'a, str> {
    if from.is_null() {
        return "".into();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(from) }.to_string_lossy()
}

/// A record's headers in librdkafka's memory; null for none.
struct OwnHeaders(*mut rd::rd_kafka_headers_t);

impl OwnHeaders {
    fn new(headers: &Headers) -> Result<Self, KafkaError> {
        if headers.is_empty() {
            return Ok(Self(ptr::null_mut()));
        }
        // SAFETY: the list is ours; names and values are copied by their lengths.
        unsafe {
            let made = Self(rd::rd_kafka_headers_new(headers.len()));
            for (name, value) in headers {
                let (name_length, length) = (length(name.len())?, length(value.len())?);
                let value: *const c_void = value.as_ptr().cast();
                let error = rd::rd_kafka_header_add(made.0, name.as_ptr().cast(), name_length, value, length);
                match RDKafkaErrorCode::from(error) {
                    RDKafkaErrorCode::NoError => {}
                    code => return Err(KafkaError::MessageProduction(code)),
                }
            }
            Ok(made)
        }
    }
}

impl Drop for OwnHeaders {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the list is ours.
            unsafe { rd::rd_kafka_headers_destroy(self.0) }
        }
    }
}

fn length(of: usize) -> Result<isize, KafkaError> {
    isize::try_from(of).map_err(|_| KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge))
}
