//! Notices that the database file changed, without a query: by the size and time of the file and its write-ahead log.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// File systems keep times in steps of up to this; two writes within one may look like one.
const STEP: Duration = Duration::from_millis(20);

/// Time between two looks: while changes come, and once none came for a while.
const TICKS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(10));

/// How long after the last change the short tick holds.
const AWAKE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sign {
    modified: Option<SystemTime>,
    length: u64,
}

impl Sign {
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self { modified: metadata.modified().ok(), length: metadata.len() })
    }

    /// Whether a further write could leave the same sign.
    fn is_fresh(&self) -> bool {
        self.modified.is_some_and(|at| SystemTime::now().duration_since(at).map_or(true, |age| age < STEP))
    }
}

fn signs(paths: &[PathBuf; 2]) -> [Option<Sign>; 2] {
    paths.each_ref().map(|path| Sign::of(path))
}

#[derive(Debug)]
pub(super) struct Watch {
    paths: [PathBuf; 2],
    seen: [Option<Sign>; 2],
    /// When the last change was noticed; a watch that has seen none yet looks as seldom as one of a quiet database, since a node
    /// begins with a hundred of them at once.
    changed: Option<Instant>,
    longest: Duration,
    looked: Instant,
}

impl Watch {
    pub(super) fn new(database: &Path, longest: Duration) -> Self {
        let mut wal = database.as_os_str().to_owned();
        wal.push("-wal");
        let paths = [database.to_owned(), wal.into()];
        let seen = signs(&paths);
        Self { paths, seen, changed: None, longest, looked: Instant::now() }
    }

    /// To be called right before the database is read: what changes from now on will be noticed.
    pub(super) fn note(&mut self) {
        self.looked = Instant::now();
        let now = signs(&self.paths);
        if now != self.seen {
            self.changed = Some(self.looked);
        }
        self.seen = now;
    }

    /// Waits for a sign of change, at most `limit`. It may report a change that is none.
    pub(super) async fn wait(&self, limit: Duration) {
        let until = Instant::now() + limit.min(self.longest.saturating_sub(self.looked.elapsed()));
        loop {
            let awake = self.changed.is_some_and(|at| at.elapsed() < AWAKE);
            let tick = if awake { TICKS.0 } else { TICKS.1 };
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return;
            }
            tokio::time::sleep(tick.min(rest)).await;
            let now = signs(&self.paths);
            if now != self.seen || now.iter().flatten().any(Sign::is_fresh) {
                return;
            }
        }
    }
}
