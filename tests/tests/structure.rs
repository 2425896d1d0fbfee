//! The house keeps its shape: crates and modules depend in one direction only, files stay readable, and what ARCHITECTURE.md says of
//! tests is true.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn rust_files(folder: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(path) = open.pop() {
        for entry in fs::read_dir(&path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                out.push((name, fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(!out.is_empty(), "{folder} has no code");
    out
}

fn mentions(folder: &str, words: &[&str]) -> Vec<String> {
    let found = |(name, text): &(String, String)| words.iter().any(|word| text.contains(word)).then(|| name.clone());
    rust_files(folder).iter().filter_map(found).collect()
}

#[test]
fn crates_depend_forward_only() {
    let allowed: [(&str, &[&str]); 6] = [
        ("schemas", &[]),
        ("pipeline/log", &["guitong-schemas"]),
        ("connectors", &["guitong-schemas", "guitong-log"]),
        ("pipeline/normalise", &["guitong-schemas", "guitong-log"]),
        ("pipeline/govern", &["guitong-schemas", "guitong-log"]),
        ("pipeline/deliver", &["guitong-schemas", "guitong-log", "guitong-govern"]),
    ];
    for (folder, may) in allowed {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        let dependencies = manifest["dependencies"].as_table().unwrap();
        for name in dependencies.keys().filter(|name| name.starts_with("guitong")) {
            assert!(may.contains(&name.as_str()), "{folder} must not depend on {name}");
        }
    }
}

#[test]
fn what_the_data_is_knows_no_runtime_and_no_clock() {
    let impure = ["tokio::", "sqlx::", "rdkafka::", "SystemTime::now", "Instant::now", "Timestamp::now", "Zoned::now"];
    assert_eq!(mentions("schemas/src", &impure), Vec::<String>::new());
}

#[test]
fn no_connector_sees_another_and_no_sink_another() {
    assert_eq!(mentions("connectors/src/postgres", &["crate::changelog"]), Vec::<String>::new());
    assert_eq!(mentions("connectors/src/changelog", &["crate::postgres"]), Vec::<String>::new());
    assert_eq!(mentions("pipeline/deliver/src/sql/postgres", &["sql::sqlite"]), Vec::<String>::new());
    assert_eq!(mentions("pipeline/deliver/src/sql/sqlite", &["sql::postgres"]), Vec::<String>::new());
    assert_eq!(mentions("pipeline/deliver/src/webhook", &["crate::sql"]), Vec::<String>::new());
    assert_eq!(mentions("pipeline/deliver/src/sql", &["crate::webhook", "crate::kafka"]), Vec::<String>::new());
    assert_eq!(mentions("pipeline/deliver/src/kafka", &["crate::sql", "crate::webhook"]), Vec::<String>::new());
}

#[test]
fn only_publish_makes_the_proof_that_lets_a_source_forget() {
    let makers = mentions("connectors/src", &["Durable::from_commit("]);
    assert_eq!(makers, ["connectors/src/publish/mod.rs"]);
    let committed: Vec<String> = mentions("pipeline/log/src", &["Committed::new("]);
    assert!(
        !committed.is_empty() && committed.iter().all(|name| name.contains("/embedded/") || name.contains("/kafka/")),
        "{committed:?}"
    );
}

#[test]
fn files_stay_readable() {
    for folder in ["schemas", "connectors", "pipeline", "tests"] {
        for (name, text) in rust_files(folder) {
            let lines = text.lines().count();
            assert!(lines <= 650, "{name} has {lines} lines: split it by concept, as files of 600 are");
        }
    }
}

#[test]
fn every_invariant_names_tests_that_exist() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let section = text.split("## The invariants").nth(1).unwrap().split("\n## ").next().unwrap();
    let named: Vec<&str> = section.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).collect();
    assert!(named.len() >= 9, "nine invariants, {} tests named", named.len());
    for name in named {
        let (place, function) = name.rsplit_once("::").unwrap();
        let folder = place.split("::").next().unwrap();
        let folder = if folder == "tests" { "tests/tests".to_owned() } else { folder.to_owned() };
        assert!(!mentions(&folder, &[&format!("fn {function}(")]).is_empty(), "{name} is no test");
    }
}
