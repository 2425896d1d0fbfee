//! What Prometheus sees of PostgreSQL sources, beside what every connector shows.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Metrics of all PostgreSQL systems of one node.
#[derive(Debug, Clone)]
pub struct Metrics {
    received: IntCounterVec,
    delivered: IntCounterVec,
    snapshot_rows: IntCounterVec,
    yielded: IntCounterVec,
    retaken: IntCounterVec,
    left: IntGaugeVec,
    in_progress: IntGaugeVec,
}

/// Metrics of one system.
#[derive(Debug, Clone)]
pub(crate) struct SystemMetrics {
    pub(crate) received: IntCounter,
    /// Changes that are passed over.
    pub(crate) delivered: IntCounter,
    pub(crate) snapshot_rows: IntCounter,
    pub(crate) yielded: IntCounter,
    pub(crate) retaken: IntCounter,
    /// Bytes in files.
    pub(crate) in_progress: IntGauge,
    system: String,
    left: IntGaugeVec,
}

impl SystemMetrics {
    /// Bytes until the server gives up the slot; no series where it never does.
    pub(crate) fn left(&self, bytes: Option<u64>) {
        match bytes {
            Some(bytes) => self.left.with_label_values(&[&self.system]).set(i64::try_from(bytes).unwrap_or(i64::MAX)),
            // That there was none is no error.
            None => drop(self.left.remove_label_values(&[&self.system])),
        }
    }
}

impl Metrics {
    /// # Errors
    /// When the registry holds these names already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let made = IntCounterVec::new(Opts::new(format!("guitong_postgres_{name}"), help), &["system"])?;
            registry.register(Box::new(made.clone()))?;
            Ok::<_, prometheus::Error>(made)
        };
        let gauge = |name: &str, help: &str| {
            let made = IntGaugeVec::new(Opts::new(format!("guitong_postgres_{name}"), help), &["system"])?;
            registry.register(Box::new(made.clone()))?;
            Ok::<_, prometheus::Error>(made)
        };
        Ok(Self {
            left: gauge(
                "slot_left_bytes",
                "Bytes that the server may still write before it gives up the slot, where max_slot_wal_keep_size bounds it",
            )?,
            in_progress: gauge("in_progress_bytes", "Bytes in files of transactions that the server sends before their commit")?,
            received: counter("received_bytes_total", "Bytes of change messages received from the server")?,
            delivered: counter("delivered_changes_total", "Changes passed over, since the exchange itself delivered them")?,
            snapshot_rows: counter("snapshot_rows_total", "Rows handed out by first loads")?,
            yielded: counter("snapshot_yielded_rows_total", "Rows of a first load that gave way to a newer streamed change")?,
            retaken: counter(
                "snapshot_retaken_total",
                "Snapshots taken again, since a streamed transaction was not visible yet",
            )?,
        })
    }

    pub(crate) fn of(&self, system: &str) -> SystemMetrics {
        let label = &[system];
        SystemMetrics {
            received: self.received.with_label_values(label),
            delivered: self.delivered.with_label_values(label),
            snapshot_rows: self.snapshot_rows.with_label_values(label),
            yielded: self.yielded.with_label_values(label),
            retaken: self.retaken.with_label_values(label),
            in_progress: self.in_progress.with_label_values(label),
            system: system.to_owned(),
            left: self.left.clone(),
        }
    }
}
