//! The workers of one load, as the source sees them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use guitong_schemas::contract::system::SnapshotConfig;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::limits::Pace;
use super::session::Session;
use super::worker::{Common, Order, Report, Worker, write_marks};

#[derive(Debug)]
pub(crate) struct Team {
    hands: Vec<Hand>,
    reports: mpsc::UnboundedReceiver<Report>,
    /// Reports that were received and not looked at.
    inbox: VecDeque<Report>,
    open: watch::Sender<bool>,
    common: Arc<Common>,
    /// Ended with the team.
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Hand {
    orders: mpsc::Sender<Order>,
    /// The job that it works on.
    busy: Option<u64>,
    /// Every chunk that comes from it from now on was begun at or after this arrival.
    begun: u64,
}

impl Team {
    /// Starts the workers; they connect when they get an order.
    pub(crate) fn start(config: &SnapshotConfig, session: &Session, pace: Arc<Pace>, nonce: u64) -> Self {
        let (report, reports) = mpsc::unbounded_channel();
        let (mark, wanted) = mpsc::unbounded_channel();
        let (open, opened) = watch::channel(true);
        let workers = config.workers.max(1);
        let common = Arc::new(Common {
            address: session.address().clone(),
            faults: session.faults.clone(),
            chunk_bytes: config.chunk,
            pace,
            // One that each reads, and two on their way to the log.
            permits: Arc::new(Semaphore::new(workers + 2)),
            arrivals: AtomicU64::new(0),
            chunks: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        let mut hands = Vec::with_capacity(workers);
        for number in 0..workers {
            let (orders, taken) = mpsc::channel(1);
            let worker = Worker {
                number,
                common: Arc::clone(&common),
                reports: report.clone(),
                marks: mark.clone(),
                open: opened.clone(),
                reader: None,
            };
            tasks.spawn(worker.run(taken));
            hands.push(Hand { orders, busy: None, begun: 0 });
        }
        tasks.spawn(write_marks(Arc::clone(&common), nonce, wanted, report));
        Self { hands, reports, inbox: VecDeque::new(), open, common, _tasks: tasks }
    }

    pub(crate) fn idle(&self) -> Option<usize> {
        self.hands.iter().position(|hand| hand.busy.is_none())
    }

    pub(crate) fn is_reading(&self) -> bool {
        self.hands.iter().any(|hand| hand.busy.is_some())
    }

    /// Gives an idle worker something to do.
    pub(crate) fn order(&mut self, worker: usize, order: Order) {
        let begun = self.common.arrivals.load(Ordering::Acquire);
        if let Some(hand) = self.hands.get_mut(worker) {
            let job = order.job;
            // A worker that is gone has reported why.
            if hand.orders.try_send(order).is_ok() {
                (hand.busy, hand.begun) = (Some(job), begun);
            }
        }
    }

    /// What was reported and has not been taken.
    pub(crate) fn next(&mut self) -> Option<Report> {
        self.inbox.pop_front().or_else(|| self.reports.try_recv().ok())
    }

    /// Waits for a report; [`Team::next`] then gives it.
    pub(crate) async fn wait(&mut self) {
        if self.inbox.is_empty()
            && let Some(report) = self.reports.recv().await
        {
            self.inbox.push_back(report);
        }
    }

    /// Notes that a chunk has arrived; its number, and the arrival at or after which every other that comes was begun.
    pub(crate) fn arrived(&mut self, worker: usize, begun: u64) -> (u64, u64) {
        let arrival = self.common.arrivals.fetch_add(1, Ordering::AcqRel) + 1;
        if let Some(hand) = self.hands.get_mut(worker) {
            hand.begun = begun;
        }
        let oldest = self.hands.iter().filter(|hand| hand.busy.is_some()).map(|hand| hand.begun).min();
        (arrival, oldest.unwrap_or(arrival))
    }

    /// The job that the worker had.
    pub(crate) fn rest(&mut self, worker: usize) -> Option<u64> {
        self.hands.get_mut(worker).and_then(|hand| hand.busy.take())
    }

    /// Whether workers may begin another chunk.
    pub(crate) fn allow(&self, open: bool) {
        self.open.send_if_modified(|was| std::mem::replace(was, open) != open);
    }
}
