//! Whole exchange directories: what is said of wrong ones, to the letter, and what valid ones become.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use guitong_schemas::contract::{self, Directory, Problems};
use guitong_schemas::standard::Standard;
use jiff::civil::Date;

fn environment(name: &str) -> Option<String> {
    (name == "CREDIT_URL").then(|| "postgres://guitong:geheim@db.example/credit".to_owned())
}

const TODAY: Date = jiff::civil::date(2026, 11, 23);

fn check(root: &Path) -> Result<Directory, Problems> {
    contract::check(root, &environment, Standard::builtin(), TODAY, false)
}

fn directories() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/directories")
}

/// Compares with the text beside the directory; `BLESS=1` writes it anew, to be read before it is committed.
fn expect(name: &str, found: &str) {
    let path = directories().join(format!("{name}.txt"));
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, found).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == found, "{} differs; found:\n{found}", path.display());
}

#[test]
fn the_quick_start_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/quickstart");
    match check(&root) {
        Ok(directory) => {
            assert_eq!((directory.systems.len(), directory.resources.len(), directory.subscriptions.len()), (5, 6, 14));
        }
        Err(problems) => panic!("{}", problems.render(false)),
    }
}
