//! Counters of the normalise stage. Labels name the system, the resource, an outcome or a rule; never a value of a record.

use guitong_schemas::contract::Resource;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// All series of the stage; made once, cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    events: IntCounterVec,
    bytes: IntCounterVec,
    records: IntCounterVec,
    findings: IntCounterVec,
    held_back: IntGaugeVec,
    quarantined: IntGaugeVec,
    lag_seconds: GaugeVec,
    lag_records: IntGaugeVec,
    batch_seconds: HistogramVec,
}

impl Metrics {
    /// Makes the series and registers them.
    ///
    /// # Errors
    /// [`prometheus::Error`] where one of the names is taken.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let resource = ["system", "resource"];
        let by = |label: &'static str| ["system", "resource", label];
        let metrics = Self {
            events: IntCounterVec::new(
                Opts::new("guitong_normalise_events_total", "Raw events read, by outcome"),
                &by("outcome"),
            )?,
            bytes: IntCounterVec::new(Opts::new("guitong_normalise_bytes_total", "Bytes of raw events read"), &resource)?,
            records: IntCounterVec::new(
                Opts::new(
                    "guitong_normalise_records_total",
                    "Standard records written, by operation (upsert, delete, unchanged)",
                ),
                &by("op"),
            )?,
            findings: IntCounterVec::new(
                Opts::new(
                    "guitong_normalise_findings_total",
                    "Rules that events broke, by level (error, warning, note) and rule",
                ),
                &["system", "resource", "level", "rule"],
            )?,
            held_back: IntGaugeVec::new(
                Opts::new(
                    "guitong_normalise_held_back_rows",
                    "Rows whose newest version is in quarantine while an older one stands",
                ),
                &resource,
            )?,
            quarantined: IntGaugeVec::new(
                Opts::new("guitong_normalise_quarantined_events", "Open quarantine entries"),
                &resource,
            )?,
            lag_seconds: GaugeVec::new(
                Opts::new("guitong_normalise_lag_seconds", "Time since the source committed the oldest event not yet normalised"),
                &resource,
            )?,
            lag_records: IntGaugeVec::new(
                Opts::new("guitong_normalise_lag_records", "Raw records not yet normalised"),
                &resource,
            )?,
            batch_seconds: HistogramVec::new(
                HistogramOpts::new("guitong_normalise_batch_seconds", "From a batch read to its commit")
                    .buckets(vec![0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]),
                &resource,
            )?,
        };
        registry.register(Box::new(metrics.events.clone()))?;
        registry.register(Box::new(metrics.bytes.clone()))?;
        registry.register(Box::new(metrics.records.clone()))?;
        registry.register(Box::new(metrics.findings.clone()))?;
        registry.register(Box::new(metrics.held_back.clone()))?;
        registry.register(Box::new(metrics.quarantined.clone()))?;
        registry.register(Box::new(metrics.lag_seconds.clone()))?;
        registry.register(Box::new(metrics.lag_records.clone()))?;
        registry.register(Box::new(metrics.batch_seconds.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn of(&self, resource: &Resource) -> ResourceMetrics {
        let labels = [resource.system.as_str(), resource.name.as_str()];
        let event = |outcome: &str| self.events.with_label_values(&[labels[0], labels[1], outcome]);
        let record = |op: &str| self.records.with_label_values(&[labels[0], labels[1], op]);
        ResourceMetrics {
            published: event("published"),
            unchanged: event("unchanged"),
            deleted: event("deleted"),
            stale: event("stale"),
            quarantined: event("quarantined"),
            upserts: record("upsert"),
            deletes: record("delete"),
            repeats: record("unchanged"),
            bytes: self.bytes.with_label_values(&labels),
            held_back: self.held_back.with_label_values(&labels),
            open: self.quarantined.with_label_values(&labels),
            lag_seconds: self.lag_seconds.with_label_values(&labels),
            lag_records: self.lag_records.with_label_values(&labels),
            batch_seconds: self.batch_seconds.with_label_values(&labels),
            findings: self.findings.clone(),
            labels: labels.map(str::to_owned),
        }
    }
}

/// The series of one resource.
#[derive(Debug, Clone)]
pub(crate) struct ResourceMetrics {
    pub(crate) published: IntCounter,
    pub(crate) unchanged: IntCounter,
    pub(crate) deleted: IntCounter,
    pub(crate) stale: IntCounter,
    pub(crate) quarantined: IntCounter,
    pub(crate) upserts: IntCounter,
    pub(crate) deletes: IntCounter,
    /// Records as they were, published again because a subscription asks for them.
    pub(crate) repeats: IntCounter,
    pub(crate) bytes: IntCounter,
    pub(crate) held_back: IntGauge,
    pub(crate) open: IntGauge,
    pub(crate) lag_seconds: Gauge,
    pub(crate) lag_records: IntGauge,
    pub(crate) batch_seconds: Histogram,
    findings: IntCounterVec,
    labels: [String; 2],
}

impl ResourceMetrics {
    pub(crate) fn finding(&self, level: &str, rule: &str, count: u64) {
        self.findings.with_label_values(&[self.labels[0].as_str(), self.labels[1].as_str(), level, rule]).inc_by(count);
    }
}
