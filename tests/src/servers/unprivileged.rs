//! Servers refuse to run as root, so under root they run as `nobody`. Where root is alone, as in a child that may mount
//! ([`crate::child::MOUNTING`]), they run in a user namespace below that one, in which it is `nobody`.

use std::ffi::OsStr;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::ServerError;

/// `nobody`, which every Linux has.
const UNPRIVILEGED: u32 = 65_534;

/// As whom servers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Ourselves,
    Nobody,
    /// Outside its user namespace it is us.
    NobodyBelow,
}

fn who() -> Who {
    if !rustix::process::geteuid().is_root() {
        return Who::Ourselves;
    }
    let known = |[first, _, count]: [u32; 3]| (first..first.saturating_add(count)).contains(&UNPRIVILEGED);
    if users().into_iter().any(known) { Who::Nobody } else { Who::NobodyBelow }
}

/// The users of our namespace (user_namespaces(7)): first one, who that is outside, and how many.
fn users() -> Vec<[u32; 3]> {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let numbers = |line: &str| line.split_whitespace().filter_map(|number| number.parse().ok()).collect::<Vec<u32>>();
    map.lines().filter_map(|line| numbers(line).try_into().ok()).collect()
}

/// Names who owns what servers write, for folders that are kept for all that run as the same.
pub(super) fn owner() -> String {
    match (who(), users().first()) {
        (Who::NobodyBelow, Some([_, outside, _])) => format!("alone-{outside}"),
        _ => rustix::process::geteuid().as_raw().to_string(),
    }
}

/// Gives a file or folder to the user that servers run as.
pub(super) fn give(path: &Path) -> std::io::Result<()> {
    match who() {
        Who::Nobody => chown(path, Some(UNPRIVILEGED), Some(UNPRIVILEGED)),
        Who::Ourselves | Who::NobodyBelow => Ok(()),
    }
}

/// A command that runs as `nobody` where we are root.
pub(super) fn unprivileged(program: &Path) -> Command {
    let mut command = match who() {
        Who::Ourselves | Who::Nobody => Command::new(program),
        Who::NobodyBelow => Command::new("unshare"),
    };
    match who() {
        Who::Ourselves => {}
        Who::Nobody => {
            command.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
        }
        Who::NobodyBelow => {
            let user = [format!("--map-user={UNPRIVILEGED}"), format!("--map-group={UNPRIVILEGED}")];
            command.arg("--user").args(user).arg("--").arg(program);
        }
    }
    command.current_dir("/").env("LC_ALL", "C.UTF-8");
    command
}

/// A temporary directory that the user owns that servers run as.
pub(super) fn owned_temp_dir(server: &'static str, prefix: &str) -> Result<TempDir, ServerError> {
    let failure = |error| ServerError::new(server, error);
    let home = tempfile::Builder::new().prefix(prefix).tempdir().map_err(failure)?;
    give(home.path()).map_err(failure)?;
    Ok(home)
}

/// Runs a command to its end.
pub(super) fn run(server: &'static str, command: &mut Command) -> Result<(), ServerError> {
    let name = Path::new(command.get_program()).file_name().unwrap_or(OsStr::new("?")).to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| ServerError::new(server, format!("{name}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(ServerError::new(server, format!("{name} ended with {}:\n{said}", output.status)))
}
