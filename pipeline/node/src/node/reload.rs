//! What keeps a node in line with the world: changed files, changed placement, and the log's upkeep.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use guitong_schemas::contract::load::Purpose;
use tokio_util::sync::CancellationToken;

use super::{MAINTENANCE, Shared, maintain, shown};
use crate::open;

/// How often the directory's files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Runs until `shutdown`.
pub(super) async fn supervise(shared: Arc<Shared>, shutdown: CancellationToken) {
    let mut seen = shared.stamp().await;
    let mut settled = seen.clone();
    let mut placement = shared.opened.log.placement();
    // The first look was just taken.
    let mut look = tokio::time::interval_at(tokio::time::Instant::now() + LOOK, LOOK);
    let mut upkeep = tokio::time::interval(MAINTENANCE);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = placement.changed() => match changed {
                Ok(()) => shared.apply().await,
                // The log is gone; its parts say so themselves.
                Err(_) => return,
            },
            _ = upkeep.tick() => maintain(&shared.opened).await,
            _ = look.tick() => {
                let now = shared.stamp().await;
                // Files that are still being written are left alone until two looks agree.
                if now == seen && now != settled {
                    settled = now.clone();
                    shared.reload().await;
                }
                seen = now;
            }
        }
    }
}

impl Shared {
    /// Takes the changed directory, or refuses it and says why.
    async fn reload(&self) {
        let root = self.state.read().await.directory.root.clone();
        let refused = match open::read(&root, Purpose::Run) {
            Err(problems) => Some(problems.render(false)),
            Ok(directory) => {
                let mut state = self.state.write().await;
                let kept = &state.directory.exchange;
                if directory.revision == state.directory.revision {
                    state.refused = None;
                    return;
                }
                if directory.exchange != *kept {
                    Some("exchange.toml changed: what it declares is read at start; restart the node".to_owned())
                } else if let Err(why) = directory.standard.follows(&state.directory.standard) {
                    Some(why)
                } else {
                    tracing::info!(revision = %directory.revision, "the changed directory is in force");
                    state.directory = Arc::new(directory);
                    state.refused = None;
                    None
                }
            }
        };
        match refused {
            None => self.apply().await,
            Some(problems) => {
                tracing::error!(directory = %shown(&root), "the changed directory was refused, the one before stays in force\n{problems}");
                self.state.write().await.refused = Some(problems);
            }
        }
    }

    /// What its files look like from outside: those of its folders, and code lists elsewhere that its mappings name.
    async fn stamp(&self) -> Stamp {
        let state = self.state.read().await;
        let directory = &state.directory;
        stamp(&directory.root, directory.code_files.iter().map(|name| directory.root.join(name)))
    }
}

/// Names, sizes and times of files.
type Stamp = BTreeMap<PathBuf, (u64, Option<SystemTime>)>;

fn stamp(root: &Path, more: impl Iterator<Item = PathBuf>) -> Stamp {
    const FOLDERS: [(&str, &[&str]); 6] = [
        ("systems", &["toml"]),
        ("resources", &["toml"]),
        ("departments", &["toml"]),
        ("subscriptions", &["toml"]),
        ("standard", &["avsc", "csv"]),
        ("codes", &["csv"]),
    ];
    let mut files: Vec<PathBuf> = more.chain([root.join("exchange.toml")]).collect();
    for (folder, kinds) in FOLDERS {
        let entries = std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
        let is_read = |path: &PathBuf| path.extension().is_some_and(|kind| kinds.iter().any(|known| kind == *known));
        files.extend(entries.map(|entry| entry.path()).filter(is_read));
    }
    let facts = |path: &PathBuf| std::fs::metadata(path).ok().map(|data| (data.len(), data.modified().ok()));
    files.into_iter().filter_map(|path| facts(&path).map(|facts| (path, facts))).collect()
}
