//! The addresses that the loader puts in at each start are 2 MiB of a program of 40, and stay in memory of every node. Packed they are a
//! few pages. A program that is built so needs that glibc where it runs, too.

use std::process::Command;

/// The first glibc whose loader reads packed addresses (DT_RELR).
const PACKED_SINCE: (u32, u32) = (2, 36);

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if glibc().is_some_and(|found| found >= PACKED_SINCE) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// Of this machine, if the program is built for such a one.
fn glibc() -> Option<(u32, u32)> {
    let is_here = std::env::var_os("TARGET") == std::env::var_os("HOST");
    if !is_here || std::env::var("CARGO_CFG_TARGET_ENV").ok()? != "gnu" {
        return None;
    }
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let (major, minor) = std::str::from_utf8(&said.stdout).ok()?.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
