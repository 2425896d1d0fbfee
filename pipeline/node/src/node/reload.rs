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
    let root = shared.state.read().await.directory.root.clone();
    let mut seen = stamp(&root);
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
                let now = stamp(&root);
                // Files that are still being written are left alone until two looks agree.
                if now == seen && now != settled {
                    settled = now.clone();
                    shared.reload(&root).await;
                }
                seen = now;
            }
        }
    }
}

impl Shared {
    /// Takes the changed directory, or refuses it and says why.
    async fn reload(&self, root: &Path) {
        let refused = match open::read(root, Purpose::Run) {
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
                tracing::error!(directory = %shown(root), "the changed directory was refused, the one before stays in force\n{problems}");
                self.state.write().await.refused = Some(problems);
            }
        }
    }
}

/// Names, sizes and times of the files that make the directory.
fn stamp(root: &Path) -> BTreeMap<PathBuf, (u64, Option<SystemTime>)> {
    const FOLDERS: [(&str, &[&str]); 5] = [
        ("systems", &["toml"]),
        ("resources", &["toml"]),
        ("departments", &["toml"]),
        ("subscriptions", &["toml"]),
        ("standard", &["avsc", "csv"]),
    ];
    let mut files = vec![root.join("exchange.toml")];
    for (folder, kinds) in FOLDERS {
        let entries = std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
        let is_read = |path: &PathBuf| path.extension().is_some_and(|kind| kinds.iter().any(|known| kind == *known));
        files.extend(entries.map(|entry| entry.path()).filter(is_read));
    }
    let facts = |path: &PathBuf| std::fs::metadata(path).ok().map(|data| (data.len(), data.modified().ok()));
    files.into_iter().filter_map(|path| facts(&path).map(|facts| (path, facts))).collect()
}
