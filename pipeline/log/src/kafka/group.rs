//! Which slots of a role this node holds, by Kafka's group protocol.
//!
//! The role's nodes are members of one group that is subscribed to the role's assignment topic; a partition of it is a slot. The
//! assignor is cooperative: a slot that stays with its node goes on through a rebalance. Members are static
//! (`group.instance.id`), so that a node that comes back at once gets its slots back at once; a node that stays away loses them
//! after the session timeout.
//!
//! **Fencing.** A commit carries the group's metadata, and the brokers refuse it unless its generation is the group's. They do not
//! check whose partition it is, so the metadata must never be newer than what the batch's owner was opened under. Therefore
//! metadata and slots change together, in the rebalance callback and under one lock, and each slot has an epoch that changes when
//! it is lost: a batch is committed only while the epoch of its opening is the slot's, and then under the metadata kept here. A
//! slot whose epoch is unchanged was held through every generation in between.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::watch;

use super::client::{Cluster, Context, SERVE};
use super::native;
use crate::contract::{LogError, OwnerId, Placement, Role};

const SLOTS: usize = OwnerId::SLOTS as usize;
/// Pause before a consumer that ended for good is made anew.
const AGAIN: Duration = Duration::from_secs(5);

/// What this node holds of one role.
#[derive(Debug)]
pub(crate) struct Assignments {
    role: Role,
    held: Mutex<Held>,
    /// Told on every change, for the committer.
    changed: Condvar,
    /// Told on every change, for those who open.
    watched: watch::Sender<u64>,
    placement: watch::Sender<Placement>,
}

struct Held {
    /// Counts changes; epochs are taken from it.
    serial: u64,
    metadata: Option<Arc<ConsumerGroupMetadata>>,
    slots: [Slot; SLOTS],
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.slots.iter().filter(|slot| slot.epoch != 0).count();
        f.debug_struct("Held").field("serial", &self.serial).field("slots", &held).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// 0: not held.
    epoch: u64,
    /// Whether the local copy holds everything up to the slot's end, so that commits keep it so.
    loaded: bool,
}

/// What a commit is fenced by.
pub(crate) struct Fencing {
    pub(crate) serial: u64,
    pub(crate) metadata: Arc<ConsumerGroupMetadata>,
}

impl Assignments {
    pub(crate) fn new(role: Role, placement: watch::Sender<Placement>) -> Self {
        let held = Held { serial: 0, metadata: None, slots: [Slot::default(); SLOTS] };
        Self { role, held: Mutex::new(held), changed: Condvar::new(), watched: watch::Sender::new(0), placement }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Epoch under which the slot is held; `None` where it is not.
    pub(crate) fn epoch(&self, slot: u32) -> Option<u64> {
        self.held().slots.get(slot as usize).map(|slot| slot.epoch).filter(|epoch| *epoch != 0)
    }

    pub(crate) fn holds(&self, slot: u32, epoch: u64) -> bool {
        self.epoch(slot) == Some(epoch)
    }

    pub(crate) fn is_loaded(&self, slot: u32, epoch: u64) -> bool {
        self.held().slots.get(slot as usize).is_some_and(|slot| slot.epoch == epoch && slot.loaded)
    }

    /// Notes that the local copy holds the slot whole; `false` where the slot was lost meanwhile.
    pub(crate) fn set_loaded(&self, slot: u32, epoch: u64) -> bool {
        let mut held = self.held();
        let slot = held.slots.get_mut(slot as usize).filter(|slot| slot.epoch == epoch);
        slot.map(|slot| slot.loaded = true).is_some()
    }

    pub(crate) fn fencing(&self) -> Option<Fencing> {
        let held = self.held();
        let metadata = held.metadata.clone()?;
        Some(Fencing { serial: held.serial, metadata })
    }

    /// Ends every hold on the slots, which stay with this node: what the log has of them is to be read again.
    pub(crate) fn invalidate(&self, slots: impl IntoIterator<Item = u32>) {
        self.change(|held| {
            for slot in slots {
                let epoch = held.serial;
                if let Some(slot) = held.slots.get_mut(slot as usize).filter(|slot| slot.epoch != 0) {
                    *slot = Slot { epoch, loaded: false };
                }
            }
        });
    }

    /// Waits until something changed since `serial`; `false` where nothing did.
    pub(crate) fn wait_newer(&self, serial: u64, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut held = self.held();
        while held.serial == serial {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            held = self.changed.wait_timeout(held, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.watched.subscribe()
    }

    fn assign(&self, slots: &[u32], metadata: Option<ConsumerGroupMetadata>) {
        self.change(|held| {
            held.metadata = metadata.map(Arc::new);
            for slot in slots {
                let epoch = held.serial;
                if let Some(slot) = held.slots.get_mut(*slot as usize) {
                    *slot = Slot { epoch, loaded: false };
                }
            }
        });
    }

    fn revoke(&self, slots: &[u32]) {
        self.change(|held| {
            for slot in slots {
                if let Some(slot) = held.slots.get_mut(*slot as usize) {
                    *slot = Slot::default();
                }
            }
        });
    }

    fn revoke_all(&self) {
        self.change(|held| {
            held.slots = [Slot::default(); SLOTS];
            held.metadata = None;
        });
    }

    fn change(&self, change: impl FnOnce(&mut Held)) {
        let mut held = self.held();
        held.serial += 1;
        change(&mut held);
        let serial = held.serial;
        let slots: Vec<u32> = (0..OwnerId::SLOTS).filter(|slot| held.slots[*slot as usize].epoch != 0).collect();
        drop(held);
        self.changed.notify_all();
        self.watched.send_replace(serial);
        self.placement.send_if_modified(|placement| place(placement, self.role, slots));
    }
}

/// Enters a role's slots; whether that changed anything.
fn place(placement: &mut Placement, role: Role, slots: Vec<u32>) -> bool {
    let Placement::Slots(roles) = placement else { return false };
    match roles.iter_mut().find(|(of, _)| *of == role) {
        Some((_, held)) if *held == slots => false,
        Some((_, held)) => {
            *held = slots;
            true
        }
        None => {
            roles.push((role, slots));
            true
        }
    }
}

/// A node's membership in a role's group.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) cluster: Cluster,
    /// The assignment topic.
    pub(crate) topic: Arc<str>,
    /// Stays the same over restarts of this node.
    pub(crate) node: Arc<str>,
    pub(crate) assignments: Arc<Assignments>,
}

impl Member {
    /// Serves the membership until `stop`.
    pub(crate) fn run(self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let ended = self.join(stop);
            self.assignments.revoke_all();
            let Err(error) = ended else { continue };
            tracing::warn!(group = self.group(), %error, "the group cannot be followed; it is joined again");
            let again = Instant::now() + AGAIN;
            while Instant::now() < again && !stop.load(Ordering::Relaxed) {
                std::thread::sleep(SERVE);
            }
        }
    }

    fn group(&self) -> String {
        format!("{}.{}", self.cluster.exchange, self.assignments.role.as_str())
    }

    /// Returns when stopped or when the consumer can do no more.
    fn join(&self, stop: &AtomicBool) -> Result<(), LogError> {
        let mut config = self.cluster.client(&[
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("session.timeout.ms", "10000"),
            ("heartbeat.interval.ms", "500"),
            ("allow.auto.create.topics", "false"),
            ("topic.metadata.refresh.interval.ms", "10000"),
        ]);
        config.set("group.id", self.group()).set("group.instance.id", &*self.node).set("enable.auto.commit", "false");
        let context = GroupContext { inner: self.cluster.context(), assignments: Arc::clone(&self.assignments) };
        let made = BaseConsumer::from_config_and_context(&config, context);
        let consumer = made.map_err(|error| self.cluster.error(&error))?;
        consumer.subscribe(&[&*self.topic]).map_err(|error| self.cluster.error(&error))?;
        while !stop.load(Ordering::Relaxed) {
            match consumer.poll(SERVE) {
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    let detail = format!("{code}; has this node's state directory been copied to another machine?");
                    return Err(LogError::Other(detail));
                }
                Some(Err(error)) => tracing::debug!(%error, "group"),
                // Slots are paused: what they hold is read by whoever opens an owner.
                Some(Ok(_)) | None => {}
            }
        }
        Ok(())
    }
}

struct GroupContext {
    inner: Context,
    assignments: Arc<Assignments>,
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.inner.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.inner.error(error, reason);
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let slots: Vec<u32> = list.elements().iter().filter_map(|slot| u32::try_from(slot.partition()).ok()).collect();
        if event != RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            // First nothing more is committed for the slots, then they are given up.
            self.assignments.revoke(&slots);
            tracing::info!(role = self.assignments.role.as_str(), ?slots, "slots given up");
            if let Err(error) = consumer.incremental_unassign(list) {
                tracing::warn!(%error, "slots could not be given up");
            }
            return;
        }
        let metadata = current_metadata(consumer);
        // An explicit offset, so that librdkafka neither asks for a committed one nor waits for transactions that hold one.
        let taken = list
            .set_all_offsets(Offset::End)
            .and_then(|()| consumer.incremental_assign(list))
            .and_then(|()| if slots.is_empty() { Ok(()) } else { consumer.pause(list) });
        match taken {
            Ok(()) => {
                tracing::info!(role = self.assignments.role.as_str(), ?slots, "slots taken");
                self.assignments.assign(&slots, metadata);
            }
            Err(error) => tracing::warn!(%error, "slots could not be taken"),
        }
    }
}

/// The group's metadata if it has one generation before and after it was asked for: without a generation a commit would not be fenced.
fn current_metadata<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<ConsumerGroupMetadata> {
    let before = native::generation(consumer)?;
    let metadata = consumer.group_metadata()?;
    (native::generation(consumer) == Some(before)).then_some(metadata)
}
