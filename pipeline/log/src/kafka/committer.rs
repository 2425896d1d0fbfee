//! One per role: takes the waiting batches of the role's owners and writes them together, one transaction after another.
//!
//! Openings pass through here too, between transactions: when an opening is answered, no batch of an older holder is under way in
//! this process and none will be begun. What a transaction changed in the assignment topic is applied to the local copy in the
//! order of the transactions, after their owners were answered: until then it is found in [`Ahead`].

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::changelog::{self, Change};
use super::client::{Cluster, SERVE, spawn};
use super::group::Assignments;
use super::producer::{Failed, Outgoing, Producer, Refused, slot_list};
use super::store::{SlotChanges, Store};
use crate::contract::{AppendError, Headers, LogError, NewRecord, OwnerId, TopicPartition};
use crate::metrics::Metrics;

/// Bytes of records after which a transaction takes no further batch.
const TRANSACTION: usize = 8 << 20;
/// After a transaction of fewer bytes the committer may rest, up to `REST`: see [`Pace`].
const SMALL: usize = 256 << 10;
const REST: Duration = Duration::from_millis(10);
/// Batches and openings that wait; more wait at their senders.
const WAITING: usize = 256;
/// Transactions whose changes wait to be applied to the local copy, and the bytes after which the next transaction waits for them.
const APPLYING: usize = 32;
const AHEAD: usize = 8 << 20;
/// How long changes gather before they go to the local copy together: a commit for each transaction would cost as much as the rest.
const GATHER: Duration = Duration::from_millis(50);
/// Producers that take turns. One alone would stand still between its transactions: the brokers answer a commit before they have
/// written its markers, refuse the producer's next transaction until then, and librdkafka waits 20 ms before it asks again.
const LANES: usize = 2;
/// How often a committer is reminded of its producers.
const REMIND: Duration = Duration::from_secs(1);
/// After the brokers said that a generation is over: how long until this node is told of the next one.
const REBALANCE: Duration = Duration::from_secs(3);

/// An owner's right to append.
#[derive(Debug, Clone)]
pub(crate) struct Ticket {
    pub(crate) owner: Arc<OwnerId>,
    pub(crate) slot: u32,
    /// Epoch of the slot under which the owner was opened.
    pub(crate) slot_epoch: u64,
    /// Counts the owner's openings in this process.
    opening: u64,
}

impl Ticket {
    fn fenced(&self) -> LogError {
        LogError::Fenced { owner: (*self.owner).clone() }
    }
}

/// A batch, ready to be written.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) ticket: Ticket,
    /// With the partition of each.
    pub(crate) records: Vec<(u32, NewRecord)>,
    pub(crate) changes: Vec<Change>,
    pub(crate) bytes: usize,
    /// Number of the transaction that holds it.
    pub(crate) reply: oneshot::Sender<Result<u64, AppendError>>,
}

#[derive(Debug)]
pub(crate) enum Command {
    Open {
        owner: Arc<OwnerId>,
        slot: u32,
        reply: oneshot::Sender<Option<Ticket>>,
    },
    Append(Prepared),
    /// What the producers tell of themselves is not to pile up.
    Serve,
    Stop,
}

/// A role's committer, as its owners see it.
#[derive(Debug, Clone)]
pub(crate) struct Commands {
    pub(crate) sender: mpsc::Sender<Command>,
    /// Number of the last transaction whose changes the local copy holds, or whose slots are to be read again.
    pub(crate) copied: watch::Receiver<u64>,
    pub(crate) ahead: Arc<Ahead>,
}

/// What waits for the local copy, in the order of the transactions.
enum Applied {
    Committed(Arc<Written>),
    /// Everything that older holders wrote is in the copy.
    Opened {
        ticket: Option<Ticket>,
        reply: oneshot::Sender<Option<Ticket>>,
    },
}

pub(crate) struct Committer {
    cluster: Cluster,
    /// The assignment topic.
    topic: Arc<str>,
    transactional_id: String,
    assignments: Arc<Assignments>,
    lanes: [Option<Producer>; LANES],
    /// The lane of the next transaction.
    turn: usize,
    openings: HashMap<Arc<OwnerId>, u64>,
    applier: mpsc::Sender<Applied>,
    ahead: Arc<Ahead>,
    /// Transactions committed.
    number: u64,
    ends: Arc<Ends>,
    pace: Pace,
    metrics: Metrics,
}

/// A committed transaction.
#[derive(Debug)]
struct Written {
    number: u64,
    /// What it changed, with the epochs under which the slots were held.
    changes: Vec<(u64, SlotChanges)>,
    bytes: usize,
}

/// Committed transactions that the local copy does not hold yet, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    waiting: Mutex<VecDeque<Arc<Written>>>,
    applied: Condvar,
    /// Number of the last transaction that somebody wants in the local copy.
    wanted: watch::Sender<u64>,
}

impl Ahead {
    fn all(&self) -> MutexGuard<'_, VecDeque<Arc<Written>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn applied(&self, count: usize) {
        let mut all = self.all();
        let count = count.min(all.len());
        all.drain(..count);
        self.applied.notify_all();
    }

    /// Asks for the local copy to hold the transaction `number` soon.
    pub(crate) fn want(&self, number: u64) {
        self.wanted.send_if_modified(|wanted| std::mem::replace(wanted, number.max(*wanted)) < number);
    }

    /// Waits until little enough is ahead, or for `limit`.
    fn wait(&self, limit: Duration) -> bool {
        let is_much = |all: &mut VecDeque<Arc<Written>>| all.iter().map(|written| written.bytes).sum::<usize>() > AHEAD;
        let waited = self.applied.wait_timeout_while(self.all(), limit, is_much);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// What became of each key of the ticket's slot, as far as it was changed. To be asked before the copy: what goes from here in between
    /// is there.
    pub(crate) fn changed(&self, ticket: &Ticket, keys: &[Bytes]) -> Vec<Option<Option<Bytes>>> {
        let waiting: Vec<_> = self.all().iter().map(Arc::clone).collect();
        if waiting.is_empty() {
            return vec![None; keys.len()];
        }
        let wanted: HashSet<&Bytes> = keys.iter().collect();
        let of_slot = waiting.iter().flat_map(|written| &written.changes);
        let of_slot = of_slot.filter(|(epoch, of)| *epoch == ticket.slot_epoch && of.slot == ticket.slot);
        let changes = of_slot.flat_map(|(_, of)| &of.changes).filter(|(key, _)| wanted.contains(key));
        let last: HashMap<&Bytes, &Option<Bytes>> = changes.map(|(key, value)| (key, value)).collect();
        keys.iter().map(|key| last.get(key).map(|value| (*value).clone())).collect()
    }
}

/// Offsets after the last committed record of this process in each partition that it wrote to.
///
/// The brokers answer a commit before the partitions it wrote to know of it; so this tells what a partition's end must have reached
/// at least.
#[derive(Debug, Default)]
pub(crate) struct Ends(Mutex<HashMap<TopicPartition, u64>>);

impl Ends {
    pub(crate) fn of(&self, at: &TopicPartition) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(at).copied().unwrap_or(0)
    }

    fn raise(&self, all: &[(TopicPartition, u64)]) {
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, end) in all {
            match ends.get_mut(at) {
                Some(known) => *known = (*known).max(*end),
                None => {
                    ends.insert(at.clone(), *end);
                }
            }
        }
    }
}

/// How long to leave the brokers alone after a small transaction.
///
/// What a transaction costs them hardly depends on its size. Where they have nothing else to do, the next one begins at once. Where the
/// stages together ask for more than they can give, a transaction takes longer than the fastest did; then resting for half of that makes
/// fewer of them, each with more in it. The owners are answered after the rest, so that what comes during it is in their next batches.
#[derive(Debug, Default)]
struct Pace {
    /// The time of the fastest transaction, and a little more with each that is slower: brokers change.
    fastest: Option<Duration>,
}

impl Pace {
    fn rest(&mut self, took: Duration) -> Duration {
        let fastest = self.fastest.unwrap_or(took);
        let late = took.saturating_sub(fastest);
        self.fastest = Some(if late.is_zero() { took } else { fastest + late / 256 });
        (late / 2).min(REST)
    }
}

impl Committer {
    /// Starts the role's committer; it ends with [`Command::Stop`] or when nobody can send to it any more.
    pub(crate) fn start(
        cluster: Cluster,
        topic: Arc<str>,
        transactional_id: String,
        assignments: Arc<Assignments>,
        store: Arc<Store>,
        ends: Arc<Ends>,
        metrics: Metrics,
    ) -> Result<(Commands, std::thread::JoinHandle<()>), LogError> {
        let (commands, waiting) = mpsc::channel(WAITING);
        let (applier, applying) = mpsc::channel(APPLYING);
        let (copied, copying) = watch::channel(0);
        let ahead = Arc::<Ahead>::default();
        tokio::spawn(apply(applying, store, Arc::clone(&assignments), copied, Arc::clone(&ahead)));
        let openings = HashMap::new();
        let lanes = std::array::from_fn(|_| None);
        let (turn, number) = (0, 0);
        let committer = Self {
            cluster,
            topic,
            transactional_id,
            assignments,
            lanes,
            turn,
            openings,
            applier,
            ahead: Arc::clone(&ahead),
            number,
            ends,
            pace: Pace::default(),
            metrics,
        };
        tokio::spawn(remind(commands.downgrade()));
        let thread = spawn("kafka-commit", move || committer.run(waiting))?;
        Ok((Commands { sender: commands, copied: copying, ahead }, thread))
    }

    fn run(mut self, mut waiting: mpsc::Receiver<Command>) {
        let mut next = None;
        while let Some(command) = next.take().or_else(|| waiting.blocking_recv()) {
            let first = match command {
                Command::Stop => return,
                Command::Serve => {
                    self.lanes.iter_mut().flatten().for_each(Producer::serve);
                    continue;
                }
                Command::Open { owner, slot, reply } => {
                    let ticket = self.open(owner, slot);
                    self.then(Applied::Opened { ticket, reply });
                    continue;
                }
                Command::Append(first) => first,
            };
            let mut bytes = first.bytes;
            let mut batches = vec![first];
            while bytes < TRANSACTION {
                match waiting.try_recv() {
                    Ok(Command::Append(batch)) => {
                        bytes += batch.bytes;
                        batches.push(batch);
                    }
                    Ok(other) => {
                        next = Some(other);
                        break;
                    }
                    Err(_) => break,
                }
            }
            self.commit(batches);
        }
    }

    fn open(&mut self, owner: Arc<OwnerId>, slot: u32) -> Option<Ticket> {
        let slot_epoch = self.assignments.epoch(slot)?;
        let opening = self.openings.entry(Arc::clone(&owner)).or_insert(0);
        *opening += 1;
        let opening = *opening;
        // A transaction that this node left open before, with a producer's id, holds back every reader until it is ended.
        for lane in 0..LANES {
            if let Err(error) = self.producer(lane) {
                tracing::debug!(%error, "no producer yet");
            }
        }
        Some(Ticket { owner, slot, slot_epoch, opening })
    }

    fn producer(&mut self, lane: usize) -> Result<&mut Producer, LogError> {
        let kept = &mut self.lanes[lane];
        let producer = match kept.take() {
            Some(producer) => producer,
            None => {
                Producer::new(&self.cluster, &format!("{}.{lane}", self.transactional_id)).map_err(|refused| refused.error)?
            }
        };
        Ok(kept.insert(producer))
    }

    fn then(&self, applied: Applied) {
        if self.applier.blocking_send(applied).is_err() {
            tracing::error!("the local copy of the state is closed while owners append");
        }
    }

    fn is_valid(&self, ticket: &Ticket) -> bool {
        self.openings.get(&ticket.owner) == Some(&ticket.opening) && self.assignments.holds(ticket.slot, ticket.slot_epoch)
    }

    /// Writes the batches together; where the transaction is refused for good, each alone, so that one cannot hold up the others.
    fn commit(&mut self, batches: Vec<Prepared>) {
        let Some(batches) = self.shared(batches) else { return };
        for batch in batches {
            // The last try of each: what remains unwritten is answered inside.
            let rest = self.shared(vec![batch]);
            debug_assert!(rest.is_none());
        }
    }

    /// One transaction. Gives the batches back where they are to be tried one by one.
    fn shared(&mut self, mut batches: Vec<Prepared>) -> Option<Vec<Prepared>> {
        let mut retried = false;
        loop {
            batches = self.valid(batches);
            if batches.is_empty() {
                return None;
            }
            let Some(fencing) = self.assignments.fencing() else {
                self.refuse(batches, || self.cluster.unavailable("the group has no generation now"));
                return None;
            };
            // A batch with nothing in it asks only whether its owner still holds.
            if batches.iter().all(|batch| batch.records.is_empty() && batch.changes.is_empty()) {
                self.done(batches, &[]);
                return None;
            }
            let lane = self.turn;
            self.turn = (lane + 1) % LANES;
            let begun = Instant::now();
            let failed = match self.transact(lane, &batches, &fencing.metadata) {
                Ok(ends) => {
                    self.ends.raise(&ends);
                    let rest = self.pace.rest(begun.elapsed());
                    if batches.iter().map(|batch| batch.bytes).sum::<usize>() < SMALL {
                        std::thread::sleep(rest);
                    }
                    self.done(batches, &ends);
                    return None;
                }
                Err(failed) => failed,
            };
            self.lanes[lane].take_if(|producer| !producer.is_usable());
            match failed {
                // A slot that stays with this node through the rebalance goes on under the next generation.
                Failed::Fenced if !retried && self.assignments.wait_newer(fencing.serial, REBALANCE) => retried = true,
                Failed::Fenced => {
                    self.fence(batches);
                    return None;
                }
                Failed::Refused(Refused { error, .. }) if batches.len() > 1 && !error.is_transient() => return Some(batches),
                Failed::Refused(Refused { error, .. }) => {
                    let text = error.to_string();
                    let transient = error.is_transient();
                    let mut first = Some(error);
                    self.refuse(batches, || match first.take() {
                        Some(error) => error,
                        None if transient => LogError::Unavailable { detail: text.clone() },
                        None => LogError::Other(text.clone()),
                    });
                    return None;
                }
                Failed::Unknown(error) => {
                    self.lanes[lane] = None;
                    self.unknown(batches, &error);
                    return None;
                }
            }
        }
    }

    /// Refuses the batches whose owners were opened again or whose slots were lost.
    fn valid(&self, batches: Vec<Prepared>) -> Vec<Prepared> {
        let (valid, over): (Vec<_>, Vec<_>) = batches.into_iter().partition(|batch| self.is_valid(&batch.ticket));
        self.fence(over);
        valid
    }

    fn fence(&self, batches: Vec<Prepared>) {
        for batch in batches {
            let _ = batch.reply.send(Err(AppendError::Refused(batch.ticket.fenced())));
        }
    }

    fn refuse(&self, batches: Vec<Prepared>, mut error: impl FnMut() -> LogError) {
        for batch in batches {
            let _ = batch.reply.send(Err(AppendError::Refused(error())));
        }
    }

    /// Whether the slots' partitions hold these batches is to be read; until then nothing is committed for their owners. The
    /// next producer ends the transaction before it begins one of its own.
    fn unknown(&self, batches: Vec<Prepared>, error: &LogError) {
        self.assignments.invalidate(batches.iter().map(|batch| batch.ticket.slot));
        for batch in batches {
            let error = LogError::Unavailable { detail: error.to_string() };
            let _ = batch.reply.send(Err(AppendError::Unknown(error)));
        }
    }

    fn transact(
        &mut self,
        lane: usize,
        batches: &[Prepared],
        metadata: &rdkafka::consumer::ConsumerGroupMetadata,
    ) -> Result<Vec<(TopicPartition, u64)>, Failed> {
        let slots: BTreeSet<u32> = batches.iter().map(|batch| batch.ticket.slot).collect();
        let slots =
            slot_list(&self.topic, slots.into_iter()).map_err(|error| Failed::Refused(self.cluster.error(&error).into()))?;
        let timer = self.metrics.commit_seconds.start_timer();
        let topic = Arc::clone(&self.topic);
        let producer = self.producer(lane).map_err(|error| Failed::Refused(error.into()))?;
        let records = batches.iter().flat_map(|batch| batch.records.iter().map(outgoing).chain(changes(&topic, batch)));
        let ends = producer.transact(records, Some((&slots, metadata)))?;
        timer.observe_duration();
        self.metrics.transactions.inc();
        Ok(ends)
    }

    fn done(&mut self, batches: Vec<Prepared>, ends: &[(TopicPartition, u64)]) {
        let mut by_slot = HashMap::<(u32, u64), Vec<Change>>::new();
        for batch in &batches {
            if !batch.changes.is_empty() {
                // Cheap copies: the bytes are shared.
                let of = (batch.ticket.slot, batch.ticket.slot_epoch);
                by_slot.entry(of).or_default().extend(batch.changes.iter().cloned());
            }
        }
        let own = |slot: u32| ends.iter().find(|(at, _)| at.partition == slot && at.topic == self.topic);
        let next = |slot: u32| own(slot).map_or(0, |(_, end)| *end);
        let changes =
            by_slot.into_iter().map(|((slot, epoch), changes)| (epoch, SlotChanges { next: next(slot), slot, changes }));
        self.number += 1;
        let bytes = batches.iter().flat_map(|batch| &batch.changes).map(changelog::size).sum();
        let written = Arc::new(Written { number: self.number, changes: changes.collect(), bytes });
        self.ahead.all().push_back(Arc::clone(&written));
        for batch in batches {
            let _ = batch.reply.send(Ok(self.number));
        }
        self.then(Applied::Committed(written));
        while !self.applier.is_closed() && !self.ahead.wait(SERVE) {}
    }
}

async fn remind(committer: mpsc::WeakSender<Command>) {
    loop {
        tokio::time::sleep(REMIND).await;
        let Some(committer) = committer.upgrade() else { return };
        // Where there is no room, transactions do the same.
        let _ = committer.try_send(Command::Serve);
    }
}

fn outgoing((partition, record): &(u32, NewRecord)) -> Outgoing<'_> {
    let NewRecord { topic, key, value, headers, timestamp_ms, .. } = record;
    let (key, value, timestamp_ms) = (key.as_ref(), value.as_ref(), Some(*timestamp_ms));
    Outgoing { topic, partition: *partition, key, value, headers, timestamp_ms }
}

const NO_HEADERS: &Headers = &Vec::new();

fn changes<'a>(topic: &'a Arc<str>, batch: &'a Prepared) -> impl Iterator<Item = Outgoing<'a>> {
    let (partition, headers, timestamp_ms) = (batch.ticket.slot, NO_HEADERS, None);
    let outgoing = move |(key, value): &'a Change| {
        let (key, value) = (Some(key), value.as_ref());
        Outgoing { topic, partition, key, value, headers, timestamp_ms }
    };
    batch.changes.iter().map(outgoing)
}

/// Brings committed changes into the local copy, those that gathered together.
///
/// Changes of a slot whose epoch is over are left out: whoever opens an owner of it reads them from the log, and what lay between
/// them and the copy may be missing here.
async fn apply(
    mut applying: mpsc::Receiver<Applied>,
    store: Arc<Store>,
    assignments: Arc<Assignments>,
    copied: watch::Sender<u64>,
    ahead: Arc<Ahead>,
) {
    while let Some(first) = applying.recv().await {
        let (gathered, opened) = gather(first, &mut applying, &ahead).await;
        if let Some(last) = gathered.last() {
            let changes = gathered.iter().flat_map(|written| &written.changes);
            let held: Vec<_> = changes.filter(|(epoch, of)| assignments.holds(of.slot, *epoch)).map(|(_, of)| of).collect();
            if !held.is_empty()
                && let Err(error) = store.apply(&held).await
            {
                // The log has them, so they are committed; the copy is read again from the log when the owners are opened.
                tracing::error!(%error, "the local copy of the state fell behind; its owners are to be opened again");
                assignments.invalidate(held.iter().map(|of| of.slot));
            }
            ahead.applied(gathered.len());
            copied.send_replace(last.number);
        }
        if let Some((ticket, reply)) = opened {
            // Whoever asked may have given up; the older holder is fenced all the same.
            let _ = reply.send(ticket);
        }
    }
    store.close().await;
}

type Opened = (Option<Ticket>, oneshot::Sender<Option<Ticket>>);

/// Transactions until there are enough of them, somebody waits for the last of them, or an opening comes, which is to follow them.
async fn gather(first: Applied, applying: &mut mpsc::Receiver<Applied>, ahead: &Ahead) -> (Vec<Arc<Written>>, Option<Opened>) {
    let due = Instant::now() + GATHER;
    let mut wanted = ahead.wanted.subscribe();
    let (mut gathered, mut bytes, mut next) = (Vec::<Arc<Written>>::new(), 0, Some(first));
    loop {
        match next {
            Some(Applied::Opened { ticket, reply }) => return (gathered, Some((ticket, reply))),
            Some(Applied::Committed(written)) => {
                bytes += written.bytes;
                gathered.push(written);
            }
            None => return (gathered, None),
        }
        let numbers = gathered.first().zip(gathered.last()).map(|(first, last)| first.number..=last.number);
        let is_wanted = |wanted: &u64| numbers.as_ref().is_some_and(|numbers| numbers.contains(wanted));
        if bytes > AHEAD / 4 || gathered.len() >= APPLYING {
            return (gathered, None);
        }
        next = tokio::select! {
            next = timeout_at(due, applying.recv()) => next.ok().flatten(),
            _ = wanted.wait_for(is_wanted) => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_left_alone_only_while_they_are_slower_than_they_were() {
        let millis = Duration::from_millis;
        let mut pace = Pace::default();
        for took in [9, 5, 4] {
            assert_eq!(pace.rest(millis(took)), Duration::ZERO, "never faster than {took} ms");
        }
        assert_eq!(pace.rest(millis(10)), millis(3));
        assert_eq!(pace.rest(millis(500)), REST);
        // Brokers that have become slower for good are not waited for in vain.
        let mut rests: Vec<_> = (0..2_000).map(|_| pace.rest(millis(10))).collect();
        assert!(rests.is_sorted_by(|one, next| one >= next));
        assert!(rests.pop() < Some(Duration::from_micros(10)), "{rests:?}");
    }
}
