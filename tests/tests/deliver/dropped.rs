//! Folders that files are dropped into, read as a subscriber reads them: manifest by manifest, and only what one names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use guitong_schemas::contract::SinkConfig;
use guitong_schemas::contract::files::{Close, Csv, Encoding, FileFormat, Files, Formulas, Header};
use guitong_tests::containers::{self, Held};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnectOptions;

use crate::fixture::Rows;

pub(crate) const JSON: FileFormat = FileFormat::JsonLines;
pub(crate) const GB18030: FileFormat =
    FileFormat::Csv(Csv { encoding: Encoding::Gb18030, header: Header::Names, formulas: Formulas::Escaped });

/// A folder for each "table", and one for what the exchange knows.
pub(crate) struct Dropped {
    home: PathBuf,
    format: FileFormat,
    /// Every change is closed into a file at once.
    pub(crate) close: Close,
}

impl Dropped {
    pub(crate) fn new(home: &Path, format: FileFormat) -> Self {
        let close = Close { size: 1 << 20, after: Duration::ZERO, daily: false };
        Self { home: home.to_owned(), format, close }
    }

    pub(crate) fn folder(&self, table: &str) -> PathBuf {
        self.home.join(format!("drop-{table}"))
    }

    pub(crate) fn is_folder(&self, table: &str) -> bool {
        self.folder(table).is_dir()
    }

    pub(crate) fn config(&self, table: &str) -> SinkConfig {
        let path = self.folder(table);
        std::fs::create_dir_all(&path).unwrap();
        SinkConfig::Files(Box::new(Files { path, state: self.home.join("state"), format: self.format, close: self.close }))
    }

    /// What the exchange knows of the subscription `credit`.
    pub(crate) async fn outbox(&self) -> SqlitePool {
        let options = SqliteConnectOptions::new().filename(self.home.join("state/credit.db"));
        SqlitePool::connect_with(options).await.unwrap()
    }

    /// Names of what lies in a folder.
    pub(crate) fn listed(&self, table: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder(table)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The manifests of a folder in their order; each is held against the files that it names.
    pub(crate) fn manifests(&self, table: &str) -> Vec<Value> {
        let folder = self.folder(table);
        let (mut manifests, mut before) = (Vec::new(), 0);
        for name in self.listed(table).into_iter().filter(|name| name.ends_with(".manifest.json")) {
            let manifest: Value = serde_json::from_slice(&std::fs::read(folder.join(&name)).unwrap()).unwrap();
            for file in manifest["files"].as_array().unwrap() {
                let bytes = std::fs::read(folder.join(file["name"].as_str().unwrap())).unwrap();
                assert_eq!(file["bytes"].as_u64().unwrap(), bytes.len() as u64, "{name}");
                assert_eq!(file["sha256"], hex::encode(Sha256::digest(&bytes)), "{name}");
                let first = file["first"].as_u64().unwrap();
                if manifest["number"] == 1 {
                    before = 0;
                }
                assert_eq!(first, before + 1, "{name}: positions have no gaps");
                before = file["last"].as_u64().unwrap();
                let count = file["upserts"].as_u64().unwrap() + file["deletes"].as_u64().unwrap();
                assert_eq!(count, before + 1 - first, "{name}");
            }
            manifests.push(manifest);
        }
        manifests
    }

    /// The rows that whoever read every file in its order holds.
    pub(crate) fn held(&self, table: &str) -> Vec<Held> {
        let mut held: BTreeMap<Vec<Option<String>>, Held> = BTreeMap::new();
        let manifests = self.manifests(table);
        let Some(generation) = manifests.last().map(|manifest| manifest["generation"].clone()) else { return Vec::new() };
        for manifest in manifests.iter().filter(|manifest| manifest["generation"] == generation) {
            for file in manifest["files"].as_array().unwrap() {
                let bytes = std::fs::read(self.folder(table).join(file["name"].as_str().unwrap())).unwrap();
                let changes = match self.format {
                    FileFormat::JsonLines => of_json(&bytes),
                    FileFormat::Csv(_) => of_csv(&bytes),
                    FileFormat::Avro => containers::avro(&bytes),
                    FileFormat::Parquet => containers::parquet(bytes),
                };
                for mut change in changes {
                    let (operation, position) = (change.remove("guitong_op").flatten(), change.remove("guitong_position"));
                    assert!(position.flatten().is_some());
                    let key = manifest["key"].as_array().unwrap().iter().map(|name| change[name.as_str().unwrap()].clone());
                    let key: Vec<_> = key.collect();
                    assert!(key.iter().all(Option::is_some), "{key:?}");
                    match operation.as_deref() {
                        Some("upsert") => drop(held.insert(key, change)),
                        Some("delete") => drop(held.remove(&key)),
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
        held.into_values().collect()
    }

    pub(crate) fn rows(&self, columns: &str, table: &str) -> Rows {
        let names: Vec<&str> = columns.split(", ").collect();
        let rows = self.held(table).into_iter().map(|row| {
            let mut values: Vec<_> = names.iter().map(|name| row.get(*name).cloned().flatten()).collect();
            (values.remove(0).unwrap_or_default(), values)
        });
        rows.collect()
    }
}

fn of_json(bytes: &[u8]) -> Vec<Held> {
    let lines = std::str::from_utf8(bytes).unwrap().lines();
    let text = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let object = |line: &str| serde_json::from_str::<serde_json::Map<String, Value>>(line).unwrap();
    lines.map(|line| object(line).iter().map(|(name, value)| (name.clone(), text(value))).collect()).collect()
}

fn of_csv(bytes: &[u8]) -> Vec<Held> {
    let (text, damaged) = encoding_rs::GB18030.decode_without_bom_handling(bytes);
    assert!(!damaged);
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let names = reader.headers().unwrap().clone();
    let rows = reader.records().map(|record| {
        let record = record.unwrap();
        let value = |text: &str| Some(text.strip_prefix('\'').unwrap_or(text).to_owned()).filter(|text| !text.is_empty());
        names.iter().zip(&record).map(|(name, text)| (name.to_owned(), value(text))).collect()
    });
    rows.collect()
}
