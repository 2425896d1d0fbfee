//! Servers refuse to run as root, so under root they run as `nobody`.

use std::ffi::OsStr;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::ServerError;

/// `nobody`, which every Linux has.
const UNPRIVILEGED: u32 = 65_534;

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Gives a file or folder to the user that servers run as.
pub(super) fn give(path: &Path) -> std::io::Result<()> {
    if is_root() { chown(path, Some(UNPRIVILEGED), Some(UNPRIVILEGED)) } else { Ok(()) }
}

/// A command that runs as `nobody` where we are root.
pub(super) fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new(program);
    if is_root() {
        command.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
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
