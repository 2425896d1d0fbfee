//! What the subscriptions of one topic share, and who of them reads next.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use guitong_log::{ExchangeLog, LogReader};
use tokio::sync::watch;
use tokio::time::Instant;

use super::cache::{Cache, LIFE, Piece};

/// Next offset of each partition.
pub(super) type Positions = BTreeMap<u32, u64>;

/// How long others wait for what is read without waiting for records, whatever their own wait is. It takes milliseconds.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Topic {
    pub(super) log: Arc<dyn ExchangeLog>,
    pub(super) name: Arc<str>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    cache: Cache,
    /// Where each subscription stood when it read last.
    stands: HashMap<u64, Positions>,
    joined: u64,
    /// The log's readers that nobody uses now, by where they stand.
    idle: HashMap<Positions, Idle>,
    /// Reads under way, by where they began.
    flights: HashMap<Positions, Sighting>,
    /// How often the log turned out not to hold what was asked for.
    gaps: u64,
}

/// A place where whoever comes there reads on; without a reader where the last one was lost in a read that was given up.
#[derive(Debug)]
struct Idle {
    reader: Option<Box<dyn LogReader>>,
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Reads what is there.
    Looking,
    /// Nothing is there: waits for records.
    Waiting,
}

#[derive(Debug)]
struct Sighting {
    stage: watch::Receiver<Stage>,
    /// Nobody relies on it for longer.
    overdue: Instant,
}

/// What a subscription does next.
pub(super) enum Step {
    /// Takes what is here.
    Take(Vec<Piece>),
    /// Waits for what another one reads.
    Follow(watch::Receiver<Stage>),
    /// Reads for others, too.
    Lead(Flight, Turn),
    /// Reads for itself.
    Alone(Turn),
}

/// The log's reader that stands where it is wanted, if there is one; and what it may be given back under.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) reader: Option<Box<dyn LogReader>>,
    gaps: u64,
}

/// Who asks for the next step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) id: u64,
    pub(super) at: &'a Positions,
    /// The partition whose turn it is.
    pub(super) first: u32,
    pub(super) bytes: usize,
    pub(super) until: Instant,
}

impl Topic {
    pub(super) fn new(log: Arc<dyn ExchangeLog>, name: Arc<str>) -> Self {
        Self { log, name, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn join(&self, at: &Positions) -> u64 {
        let mut state = self.lock();
        state.joined += 1;
        let id = state.joined;
        state.stands.insert(id, at.clone());
        id
    }

    pub(super) fn leave(&self, id: u64) {
        self.lock().stands.remove(&id);
    }

    pub(super) fn next(self: &Arc<Self>, asked: Asked<'_>) -> Step {
        let now = Instant::now();
        // What goes is dropped after the lock.
        let (_pieces, _readers);
        let mut state = self.lock();
        (_pieces, _readers) = state.expire(now, asked.at);
        if state.stands.get(&asked.id) != Some(asked.at) {
            state.stands.insert(asked.id, asked.at.clone());
        }
        if let Some(pieces) = state.pieces(&asked) {
            return Step::Take(pieces);
        }
        if let Some(flight) = state.flights.get(asked.at).filter(|flight| now < flight.overdue) {
            return Step::Follow(flight.stage.clone());
        }
        let reader = state.idle.remove(asked.at).and_then(|idle| idle.reader);
        let turn = Turn { reader, gaps: state.gaps };
        if !state.has_company(&asked) {
            return Step::Alone(turn);
        }
        let (stage, seen) = watch::channel(Stage::Looking);
        let overdue = asked.until.max(now) + LOOK;
        state.flights.insert(asked.at.clone(), Sighting { stage: seen, overdue });
        Step::Lead(Flight { topic: Arc::clone(self), at: asked.at.clone(), stage, landed: false }, turn)
    }

    /// Whether somebody who begins at `at` needs no reader of his own: what follows is here, or one stands there.
    pub(super) fn serves(&self, at: &Positions) -> bool {
        let state = self.lock();
        state.idle.contains_key(at) || state.flights.contains_key(at) || state.is_in_step(at)
    }

    /// Takes a reader in that stands at `at` now, and what it read. After a gap that another one met meanwhile neither counts.
    pub(super) fn keep(&self, at: Positions, reader: Box<dyn LogReader>, pieces: &[Piece], gaps: u64) {
        let mut gone = Vec::new();
        let (_replaced, _spare);
        let mut state = self.lock();
        if state.gaps != gaps {
            return;
        }
        for piece in pieces {
            gone.extend(state.cache.add(piece));
        }
        _replaced = state.idle.insert(at, Idle { reader: Some(reader), since: Instant::now() });
        _spare = state.spare();
    }

    pub(super) fn gaps(&self) -> u64 {
        self.lock().gaps
    }

    /// Forgets everything that was read: the log does not hold what it held.
    pub(super) fn forget(&self) {
        let _forgotten;
        let mut state = self.lock();
        state.gaps += 1;
        _forgotten = (std::mem::take(&mut state.cache), std::mem::take(&mut state.idle));
    }

    /// The furthest that is known of a partition.
    pub(super) fn end(&self, partition: u32) -> Option<u64> {
        self.lock().cache.end(partition)
    }
}

impl State {
    /// What is here for the asker, each partition in its turn, about as much as it asks for.
    fn pieces(&self, asked: &Asked<'_>) -> Option<Vec<Piece>> {
        if !self.is_in_step(asked.at) {
            return None;
        }
        let (mut pieces, mut left) = (Vec::new(), asked.bytes);
        for (&partition, &offset) in asked.at.range(asked.first..).chain(asked.at.range(..asked.first)) {
            for piece in self.cache.from(partition, offset) {
                pieces.push(piece.clone());
                left = left.saturating_sub(piece.bytes);
                if left == 0 {
                    return Some(pieces);
                }
            }
        }
        Some(pieces)
    }

    /// Whether something is here for who stands at `at`, and nothing of any partition is passed over for that: what is not here is where
    /// a reader stands that has come as far in each of them. So nobody is given more of a busy partition while another one waits.
    fn is_in_step(&self, at: &Positions) -> bool {
        if self.cache.is_empty() {
            return false;
        }
        let here = |(&partition, &offset): (&u32, &u64)| self.cache.covers(partition, offset);
        let all = self.idle.keys().chain(self.flights.keys());
        let ahead = all.filter(|stand| *stand != at && at.iter().all(|(partition, next)| stand.get(partition) >= Some(next)));
        let ahead: Vec<_> = ahead.collect();
        let next = |(partition, next): (&u32, &u64)| ahead.iter().any(|stand| stand.get(partition) == Some(next));
        at.iter().any(here) && at.iter().all(|of| here(of) || next(of))
    }

    /// Whether what is read now is for others, too: one of them stands here or comes here by what is kept; or there is room to keep it for
    /// whoever may come. Who is far behind takes nobody's room.
    fn has_company(&self, asked: &Asked<'_>) -> bool {
        let mut others = self.stands.iter().filter(|(id, _)| **id != asked.id).map(|(_, stand)| stand).peekable();
        let comes_here = |stand: &Positions| {
            let between = |(&partition, &here): (&u32, &u64)| {
                let since = self.cache.since(partition, here);
                stand.get(&partition).is_some_and(|there| (since..=here).contains(there))
            };
            asked.at.iter().all(between)
        };
        others.peek().is_some() && (self.cache.has_room() || others.any(comes_here))
    }

    /// Takes out what nobody used for long; the reader at `at` is about to be used.
    fn expire(&mut self, now: Instant, at: &Positions) -> (Vec<Piece>, Vec<Idle>) {
        let old = |stand: &Positions, idle: &mut Idle| stand != at && now.saturating_duration_since(idle.since) >= LIFE;
        let readers = self.idle.extract_if(|stand, idle| old(stand, idle)).map(|(_, idle)| idle).collect();
        (self.cache.expire(now), readers)
    }

    /// Takes out the reader that nobody used for longest, where there are more than subscriptions.
    fn spare(&mut self) -> Option<Idle> {
        if self.idle.len() <= self.stands.len() {
            return None;
        }
        let oldest = self.idle.iter().min_by_key(|(_, idle)| idle.since).map(|(at, _)| at.clone())?;
        self.idle.remove(&oldest)
    }
}

/// A read for all who stand at the same positions. However it ends, they are told.
pub(super) struct Flight {
    topic: Arc<Topic>,
    at: Positions,
    stage: watch::Sender<Stage>,
    landed: bool,
}

impl Flight {
    /// From here on it waits for records.
    pub(super) fn waits(&self) {
        self.stage.send_replace(Stage::Waiting);
    }

    /// What was read is there for all.
    pub(super) fn land(mut self, turn: Turn, pieces: &[Piece]) {
        let Some(reader) = turn.reader else { return };
        let mut at = self.at.clone();
        at.extend(pieces.iter().map(|piece| (piece.partition, piece.next)));
        self.topic.keep(at, reader, pieces, turn.gaps);
        self.landed = true;
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut state = self.topic.lock();
        // Where it was overdue another one may be under way.
        if state.flights.get(&self.at).is_some_and(|seen| seen.stage.same_channel(&self.stage.subscribe())) {
            state.flights.remove(&self.at);
        }
        if !self.landed {
            // Its reader may stand anywhere; that one is to read on from here is still so.
            let idle = Idle { reader: None, since: Instant::now() };
            state.idle.entry(self.at.clone()).or_insert(idle);
        }
    }
}

impl Turn {
    /// The reader of one's own, given back.
    pub(super) fn end(self, topic: &Topic, at: &Positions) {
        if let Some(reader) = self.reader {
            topic.keep(at.clone(), reader, &[], self.gaps);
        }
    }
}

/// Waits for a read of another one, no longer than `until`; gives whether something became of it.
pub(super) async fn follow(mut flight: watch::Receiver<Stage>, until: Instant) -> bool {
    let until = match *flight.borrow_and_update() {
        Stage::Looking => until.max(Instant::now() + LOOK),
        Stage::Waiting => until,
    };
    // That it ended is an error of the channel's.
    tokio::time::timeout_at(until, flight.changed()).await.is_ok()
}
