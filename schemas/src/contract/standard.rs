//! `standard/`: entities and code tables that the directory adds to the regional standard, or that replace built-in ones.

use std::path::Path;
use std::sync::Arc;

use super::load::{in_order, read_document, tree_problem};
use super::problem::{Problems, Well};
use super::reading::document::{Document, Report};
use super::reading::scalar;
use super::revision::Fingerprint;
use crate::standard::{Extended, Standard, extend};

/// The folder.
pub(super) const FOLDER: &str = "standard";

/// A code table can be long: the whole country's divisions take a quarter of a megabyte.
const MAX_FILE: u64 = 8 << 20;

/// The standard of a directory alone, whatever else is wrong with it; the built-in one where it has no folder `standard/`.
///
/// # Errors
/// Every problem of the folder.
pub fn load_standard(root: &Path) -> Result<Arc<Standard>, Problems> {
    let report = Report::default();
    let (files, extended) = read(root, &report);
    let order: Vec<&str> = files.iter().map(|document| document.name.as_str()).collect();
    let list = in_order(report.into_list(), &order);
    if list.is_empty() { Ok(Arc::new(extended.standard)) } else { Err(Problems { list, well: Well::default() }) }
}

/// Reads the folder: its files, and the standard as far as it is well.
pub(super) fn read(root: &Path, report: &Report) -> (Vec<Document>, Extended) {
    let files = read_files(root, report);
    let mut fingerprint = Fingerprint::default();
    files.iter().for_each(|document| fingerprint.add_text(&document.name, &document.text));
    let extended = extend(&files, fingerprint.finish(), report);
    (files, extended)
}

fn read_files(root: &Path, report: &Report) -> Vec<Document> {
    let entries = match std::fs::read_dir(root.join(FOLDER)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tree_problem(report, FOLDER, "unreadable", format!("the folder cannot be read: {error}"), None);
            return Vec::new();
        }
    };
    let mut names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    let mut files = Vec::new();
    for name in names.iter().filter(|name| !name.starts_with('.') && !name.ends_with(['~', '#']) && !name.ends_with(".md")) {
        let path = format!("{FOLDER}/{name}");
        if name.ends_with(".avsc") || name.ends_with(".csv") {
            files.extend(read_document(&root.join(&path), path, MAX_FILE, report));
        } else {
            let message = format!("`{}` is no file of the standard", scalar::short(name));
            let help = "entities are <Entity>.avsc with <Entity>.key.avsc, code tables <table>.csv".to_owned();
            tree_problem(report, &path, "unknown-file", message, Some(help));
        }
    }
    files
}
