//! Folders and buckets that files are dropped into, read as a subscriber reads them: manifest by manifest, and only what one names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use guitong_schemas::contract::SinkConfig;
use guitong_schemas::contract::files::{Bucket, Close, Csv, Encoding, FileFormat, Files, Formulas, Header, Place};
use guitong_tests::containers::{self, Held};
use guitong_tests::servers::moto::{Moto, Objects};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sqlx::SqlitePool;
use sqlx::sqlite::SqliteConnectOptions;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;

use crate::fixture::Rows;

pub(crate) const JSON: FileFormat = FileFormat::JsonLines;
pub(crate) const GB18030: FileFormat =
    FileFormat::Csv(Csv { encoding: Encoding::Gb18030, header: Header::Names, formulas: Formulas::Escaped });

/// A folder or a prefix for each "table", and a folder for what the exchange knows.
pub(crate) struct Dropped {
    home: PathBuf,
    bucket: Option<Bucket>,
    format: FileFormat,
    /// Every change is closed into a file at once.
    pub(crate) close: Close,
}

impl Dropped {
    pub(crate) fn new(home: &Path, format: FileFormat) -> Self {
        let close = Close { size: 1 << 20, after: Duration::ZERO, daily: false };
        Self { home: home.to_owned(), bucket: None, format, close }
    }

    /// In a bucket that this process's tests share.
    pub(crate) async fn stored(home: &Path, format: FileFormat) -> Self {
        static MOTO: OnceCell<Moto> = OnceCell::const_new();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let begin = async || {
            let server = Moto::start().await.unwrap();
            server.make("exchange").await.unwrap();
            server
        };
        let server = MOTO.get_or_init(begin).await;
        let bucket = server.bucket("exchange", &format!("of-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        Self { bucket: Some(bucket), ..Self::new(home, format) }
    }

    fn bucket(&self, table: &str) -> Option<Bucket> {
        let bucket = self.bucket.clone()?;
        Some(Bucket { prefix: format!("{}/{table}", bucket.prefix), ..bucket })
    }

    /// What lies in the bucket for a table.
    pub(crate) fn objects(&self, table: &str) -> Option<Objects> {
        self.bucket(table).map(|bucket| Objects::of(&bucket).unwrap())
    }

    pub(crate) fn folder(&self, table: &str) -> PathBuf {
        self.home.join(format!("drop-{table}"))
    }

    /// Whether files of a table are dropped; others are the exchange's own.
    pub(crate) fn is_folder(&self, table: &str) -> bool {
        if self.bucket.is_some() { !table.starts_with("guitong_") } else { self.folder(table).is_dir() }
    }

    pub(crate) fn config(&self, table: &str) -> SinkConfig {
        let place = match self.bucket(table) {
            Some(bucket) => Place::Bucket(bucket),
            None => {
                std::fs::create_dir_all(self.folder(table)).unwrap();
                Place::Folder(self.folder(table))
            }
        };
        SinkConfig::Files(Box::new(Files { place, state: self.home.join("state"), format: self.format, close: self.close }))
    }

    /// What the exchange knows of the subscription `credit`.
    pub(crate) async fn outbox(&self) -> SqlitePool {
        let options = SqliteConnectOptions::new().filename(self.home.join("state/credit.db"));
        SqlitePool::connect_with(options).await.unwrap()
    }

    /// Names of what lies there.
    pub(crate) fn listed(&self, table: &str) -> Vec<String> {
        if let Some(objects) = self.objects(table) {
            return waited(objects.names()).unwrap();
        }
        let entries = std::fs::read_dir(self.folder(table)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn read(&self, table: &str, name: &str) -> Vec<u8> {
        match self.objects(table) {
            Some(objects) => waited(objects.read(name)).unwrap().unwrap().0,
            None => std::fs::read(self.folder(table).join(name)).unwrap(),
        }
    }

    /// The manifests of a folder in their order; each is held against the files that it names.
    pub(crate) fn manifests(&self, table: &str) -> Vec<Value> {
        let (mut manifests, mut before) = (Vec::new(), 0);
        for name in self.listed(table).into_iter().filter(|name| name.ends_with(".manifest.json")) {
            let manifest: Value = serde_json::from_slice(&self.read(table, &name)).unwrap();
            for file in manifest["files"].as_array().unwrap() {
                let bytes = self.read(table, file["name"].as_str().unwrap());
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
                let bytes = self.read(table, file["name"].as_str().unwrap());
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

/// What a store answers, for those who cannot wait as tasks do.
fn waited<T>(answer: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| Handle::current().block_on(answer))
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
