//! The embedded log under the suite that every exchange log passes, and what only a file can do wrong.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use guitong_log::ExchangeLog;
use guitong_log::embedded::{EmbeddedConfig, EmbeddedLog};
use guitong_tests::log_conformance::LogUnderTest;
use tempfile::TempDir;

/// A log file in a directory of its own.
#[derive(Debug)]
struct Fixture {
    dir: TempDir,
    open: Mutex<Option<EmbeddedLog>>,
}

impl Fixture {
    fn fresh() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), open: Mutex::new(None) }
    }

    fn config(&self) -> EmbeddedConfig {
        EmbeddedConfig { path: self.dir.path().join("exchange.log"), max_bytes: None }
    }
}

#[async_trait]
impl LogUnderTest for Fixture {
    async fn open(&self) -> Arc<dyn ExchangeLog> {
        let log = EmbeddedLog::open(&self.config()).await.unwrap();
        *self.open.lock().unwrap() = Some(log.clone());
        Arc::new(log)
    }

    async fn close(&self) {
        let open = self.open.lock().unwrap().take();
        if let Some(log) = open {
            log.close().await;
        }
    }

    fn topic(&self, name: &str) -> Arc<str> {
        name.into()
    }

    fn transactions(&self) -> u64 {
        self.open.lock().unwrap().as_ref().unwrap().metrics().transactions.get()
    }

    fn child(&self) -> String {
        self.config().path.to_str().unwrap().to_owned()
    }

    async fn open_in_child(path: &str) -> Arc<dyn ExchangeLog> {
        Arc::new(EmbeddedLog::open(&EmbeddedConfig { path: path.into(), max_bytes: None }).await.unwrap())
    }
}

guitong_tests::log_conformance!(Fixture, Fixture::fresh());
