//! A sink that does what a script says, and for the rest what a real one does.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use guitong_deliver::Hold;
use guitong_deliver::sink::holdings::{HeldRow, Holdings};
use guitong_deliver::sink::{Ack, Change, PartitionStand, Sink, SinkBatch, SinkError, SinkErrorKind, Staged, Stand, Wants, What};
use tokio::sync::Semaphore;

/// What happens to the next batch.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Fail(SinkErrorKind),
    /// Busy, and asks not to be tried again before.
    BusyFor(Duration),
    /// It is written, and nobody hears of it.
    LoseReply,
    /// Takes it, and does nothing with it before it is let go.
    Hold,
    Slow(Duration),
}

/// One change as the sink saw it: key, commit of its version, whether it was an upsert.
pub(crate) type Seen = (String, u64, bool);

#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) at: Instant,
    pub(crate) changes: Vec<Seen>,
    pub(crate) taken: bool,
}

#[derive(Debug)]
pub(crate) struct Script {
    steps: Mutex<VecDeque<Step>>,
    /// Changes that are refused, by key and commit.
    poison: Mutex<HashSet<(String, u64)>>,
    attempts: Mutex<Vec<Attempt>>,
    opened: AtomicU64,
    holding: Semaphore,
    let_go: Semaphore,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap()
}

impl Script {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            steps: Mutex::default(),
            poison: Mutex::default(),
            attempts: Mutex::default(),
            opened: AtomicU64::new(0),
            holding: Semaphore::new(0),
            let_go: Semaphore::new(0),
        })
    }

    pub(crate) fn then(&self, step: Step) {
        lock(&self.steps).push_back(step);
    }

    /// Forgets what is left of the script: steps that add up over crashes would make a pause longer than a test waits.
    pub(crate) fn only(&self, steps: impl IntoIterator<Item = Step>) {
        *lock(&self.steps) = steps.into_iter().collect();
    }

    pub(crate) fn refuse(&self, key: &str, commit: u64) {
        lock(&self.poison).insert((key.to_owned(), commit));
    }

    pub(crate) fn refuse_nothing(&self) {
        lock(&self.poison).clear();
    }

    pub(crate) fn attempts(&self) -> Vec<Attempt> {
        lock(&self.attempts).clone()
    }

    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::SeqCst)
    }

    /// Waits until a batch is held.
    pub(crate) async fn holds(&self) {
        self.holding.acquire().await.unwrap().forget();
    }

    pub(crate) fn let_go(&self) {
        self.let_go.add_permits(1);
    }
}

#[derive(Debug)]
pub(crate) struct FaultySink {
    pub(crate) inner: Box<dyn Sink>,
    pub(crate) script: Arc<Script>,
}

fn seen(change: &Change<'_>) -> Seen {
    let key = change.key().clear[0].as_text().unwrap().to_owned();
    (key, change.version.commit, matches!(change.what, What::Upsert(_)))
}

#[async_trait]
impl Sink for FaultySink {
    fn wants(&self) -> Wants {
        self.inner.wants()
    }

    fn keep_in(&mut self, hold: &Hold) {
        self.inner.keep_in(hold);
    }

    async fn open(&mut self) -> Result<Stand, SinkError> {
        self.script.opened.fetch_add(1, Ordering::SeqCst);
        self.inner.open().await
    }

    async fn begin_refill(&mut self, partitions: &[PartitionStand]) -> Result<(), SinkError> {
        self.inner.begin_refill(partitions).await
    }

    async fn sift<'i, 'r>(
        &mut self,
        earlier: &mut [Vec<&'i Change<'r>>],
        newest: &mut Vec<&'i Change<'r>>,
        staged: Option<&Staged>,
    ) -> Result<(), SinkError> {
        self.inner.sift(earlier, newest, staged).await
    }

    async fn write(&mut self, batch: &SinkBatch<'_, '_>) -> Result<Ack, SinkError> {
        let at = Instant::now();
        let changes: Vec<Seen> = batch.changes.iter().map(|change| seen(change)).collect();
        let note = |taken| lock(&self.script.attempts).push(Attempt { at, changes: changes.clone(), taken });
        let step = lock(&self.script.steps).pop_front();
        match step {
            Some(Step::Fail(kind)) => {
                note(false);
                return Err(SinkError::new(kind, format!("scripted: {}", kind.as_str())));
            }
            Some(Step::BusyFor(pause)) => {
                note(false);
                return Err(SinkError { retry_after: Some(pause), ..SinkError::new(SinkErrorKind::Busy, "scripted: later") });
            }
            Some(Step::Slow(pause)) => tokio::time::sleep(pause).await,
            Some(Step::Hold) => {
                self.script.holding.add_permits(1);
                self.script.let_go.acquire().await.unwrap().forget();
            }
            Some(Step::LoseReply) | None => {}
        }
        let refuses = |(key, commit, _): &Seen| lock(&self.script.poison).contains(&(key.clone(), *commit));
        if changes.iter().any(refuses) {
            note(false);
            return Err(SinkError::new(SinkErrorKind::Data, "scripted: a value is refused"));
        }
        let written = self.inner.write(batch).await;
        note(written.is_ok());
        match step {
            Some(Step::LoseReply) => written.and(Err(SinkError::new(SinkErrorKind::Unreachable, "scripted: the reply is lost"))),
            _ => written,
        }
    }

    fn keeps(&self) -> Option<&'static str> {
        self.inner.keeps()
    }

    fn replays(&self) -> bool {
        self.inner.replays()
    }

    async fn begin_replay(&mut self, partitions: &[PartitionStand]) -> Result<(), SinkError> {
        self.inner.begin_replay(partitions).await
    }

    fn holdings(&self) -> Option<Arc<dyn Holdings>> {
        self.inner.holdings()
    }

    async fn remove(&mut self, rows: &[HeldRow], batch: &SinkBatch<'_, '_>) -> Result<u64, SinkError> {
        self.inner.remove(rows, batch).await
    }

    async fn settle(&mut self) -> Result<(), SinkError> {
        self.inner.settle().await
    }

    async fn sweep(&mut self) -> Result<u64, SinkError> {
        self.inner.sweep().await
    }

    async fn forget_deleted(&mut self, before_us: i64) -> Result<(), SinkError> {
        self.inner.forget_deleted(before_us).await
    }
}
