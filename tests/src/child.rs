//! A test of the running binary, run once more as a process of its own: for what a process can do only to itself.

use std::ffi::OsStr;
use std::process::Command;

/// Runs this one test as a child, started by `shell` with these variables; what it said. It has to pass.
#[must_use]
pub fn run(test: &str, shell: &[&str], variables: &[(&str, &OsStr)]) -> String {
    let [program, first @ ..] = shell else { panic!("a command has a program") };
    let output = Command::new(program)
        .args(first)
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    said
}

/// Starts a command in a mount namespace of its own, in which it may mount.
pub const MOUNTING: [&str; 3] = ["unshare", "--mount", "--map-root-user"];

/// Mounts a disk of this size on the directory, or gives the one there this size.
pub fn disk(directory: &std::path::Path, size: &str, again: bool) {
    let options = format!("{}size={size}", if again { "remount," } else { "" });
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(directory).status().unwrap();
    assert!(mounted.success());
}
