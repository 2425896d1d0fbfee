//! `guitong demo`: five departments with tens of thousands of rows exchange them on the embedded log while clerks go on typing,
//! and in the end every subscriber's table is compared with its grant.

mod codes;
mod compare;
mod databases;
mod files;
mod generate;
mod saved;
mod typing;
mod watch;

use std::path::Path;
use std::time::{Duration, Instant};

use guitong_log::Role;
use thiserror::Error;

pub use compare::{Comparison, compare};
pub use saved::Saved;
pub use typing::Typed;

use crate::exit::Failure;
use crate::node::Node;
use crate::open;
use crate::prepare::{self, Direction};
use crate::status::ResourceStatus;

/// Changes the counters type.
pub const CHANGES: u32 = 2_000;
/// One change in this time, on average: 200 a second over all five departments.
const PACE: Duration = Duration::from_millis(5);
/// Longest the subscribers may take to hold what they are granted, from the start or from the last change on.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks at what the subscribers hold.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Error)]
pub enum DemoError {
    #[error("{0}")]
    Directory(String),
    #[error("a department's or subscriber's database: {0}")]
    Database(#[from] sqlx::Error),
    #[error("{path}: {source}")]
    File { path: String, source: std::io::Error },
    #[error("{0}")]
    Node(Failure),
}

/// Columns of a department's table, the key first, and the values of its row `number`; `None` where no department has it.
#[must_use]
pub fn row(table: &str, number: u32) -> Option<(&'static [&'static str], Vec<serde_json::Value>)> {
    let table = generate::TABLES.iter().find(|known| known.name == table)?;
    Some((table.columns, (table.row)(number)))
}

impl From<Failure> for DemoError {
    fn from(failure: Failure) -> Self {
        Self::Node(failure)
    }
}

/// How the demo tells its progress; all methods may be called often.
pub trait Progress: Send {
    fn begin(&mut self, what: &'static str, total: u64);
    fn reach(&mut self, done: u64);
    /// The work has become more or less.
    fn resize(&mut self, _total: u64) {}
    fn end(&mut self);
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Rows that the departments held before their counters opened, written in this run.
    pub filled: u64,
    /// From the start of the exchange until every subscriber held its share of them.
    pub first_load: Duration,
    pub typed: Typed,
    pub typing: Duration,
    /// Commit at the department to row at the subscriber, sorted.
    pub latencies: Vec<Duration>,
    pub resources: Vec<ResourceStatus>,
    /// Rejected records by reason: rule, Chinese, English, count.
    pub reasons: Vec<(String, String, String, u64)>,
    pub comparisons: Vec<Comparison>,
    pub saved: Vec<Saved>,
}

impl Outcome {
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.comparisons.iter().all(Comparison::is_equal)
    }

    /// The latency that this share of the changes did not exceed.
    #[must_use]
    pub fn latency(&self, share: f64) -> Option<Duration> {
        let at = (self.latencies.len() as f64 * share) as usize;
        self.latencies.get(at.min(self.latencies.len().saturating_sub(1))).copied()
    }
}

/// Runs the demo in `root`, which is made where it does not exist and continued where it does.
///
/// # Errors
/// When files, databases or the node fail; a comparison that does not hold is an outcome, not an error.
pub async fn run(root: &Path, changes: u32, progress: &mut dyn Progress) -> Result<Outcome, DemoError> {
    lay_out(root)?;
    progress.begin("five departments", generate::TABLES.iter().map(|table| u64::from(table.rows)).sum());
    let mut done = 0;
    let filled = databases::fill(root, |rows| {
        done += rows;
        progress.reach(done);
    })
    .await?;
    progress.end();

    let directory = open::load(root)?;
    for name in directory.systems.keys() {
        let statements = prepare::statements(&directory, name.as_str(), Direction::Prepare).await?;
        prepare::apply(&directory, name.as_str(), None, &statements).await?;
    }
    let started = Instant::now();
    let node = Node::start(directory.clone(), vec![Role::Connect, Role::Normalise, Role::Deliver]).await?;
    let outcome = exchange(&directory, &node, changes, progress, started, filled).await;
    let stopped = node.stop(Duration::from_secs(9)).await;
    let outcome = outcome?;
    stopped?;
    Ok(outcome)
}

async fn exchange(
    directory: &guitong_schemas::contract::Directory,
    node: &Node,
    changes: u32,
    progress: &mut dyn Progress,
    started: Instant,
    filled: u64,
) -> Result<Outcome, DemoError> {
    settle(directory, "to the subscribers", progress, started + PATIENCE).await?;
    let first_load = started.elapsed();

    let watch = watch::Watch::start(directory)?;
    progress.begin("counters typing", u64::from(changes));
    let begun = Instant::now();
    let mut counters = typing::Counters::open(&directory.root).await?;
    for step in 0..changes {
        tokio::time::sleep_until((begun + PACE * step).into()).await;
        if let Some(entered) = counters.act(step).await? {
            watch.expect(entered);
        }
        progress.reach(u64::from(step + 1));
    }
    let typing = begun.elapsed();
    progress.end();

    let comparisons = settle(directory, "last changes", progress, Instant::now() + PATIENCE).await?;
    let latencies = watch.finish().await?;
    let status = node.status().await;
    let reasons = node.rejections().await?;
    let saved = saved::count(directory, &comparisons);
    let typed = counters.typed;
    Ok(Outcome { filled, first_load, typed, typing, latencies, resources: status.resources, reasons, comparisons, saved })
}

/// Waits until every subscriber holds what it is granted, or until `deadline`; the comparison as it then stands.
async fn settle(
    directory: &guitong_schemas::contract::Directory,
    what: &'static str,
    progress: &mut dyn Progress,
    deadline: Instant,
) -> Result<Vec<Comparison>, DemoError> {
    let granted = compare::granted(directory).await?;
    progress.begin(what, granted);
    loop {
        let held = compare::held(directory).await?;
        progress.reach(held);
        let late = Instant::now() > deadline;
        if held == granted || late {
            let comparisons = compare(directory).await?;
            if late || comparisons.iter().all(Comparison::is_equal) {
                progress.end();
                return Ok(comparisons);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Writes the quick start's files where they are not there yet.
fn lay_out(root: &Path) -> Result<(), DemoError> {
    let failed = |path: &Path, source: std::io::Error| DemoError::File { path: path.display().to_string(), source };
    for folder in ["databases", "sinks"] {
        let path = root.join(folder);
        std::fs::create_dir_all(&path).map_err(|error| failed(&path, error))?;
    }
    for (name, content) in files::DIRECTORY {
        let path = root.join(name);
        if path.exists() {
            continue;
        }
        let written = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&path, content));
        written.map_err(|error| failed(&path, error))?;
    }
    Ok(())
}
