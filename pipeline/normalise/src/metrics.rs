//! Counters of the normalise stage. Labels name the system, the resource, an outcome or a rule; never a value of a record.

use crate::keyed::overlay::Counters;
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
    changed_columns: IntGaugeVec,
    kept: IntGaugeVec,
    oldest_seconds: GaugeVec,
    dropped: IntCounterVec,
    paused: IntGaugeVec,
    rows: IntGaugeVec,
    keys: IntGaugeVec,
    timed: IntCounterVec,
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
            changed_columns: IntGaugeVec::new(
                Opts::new(
                    "guitong_normalise_changed_columns",
                    "Columns that the mapping reads and the table no longer has, or has as another type",
                ),
                &resource,
            )?,
            kept: IntGaugeVec::new(
                Opts::new(
                    "guitong_normalise_kept_records",
                    "Records of several rows that stayed as they were when those were read last, since the log held none of them",
                ),
                &resource,
            )?,
            oldest_seconds: GaugeVec::new(
                Opts::new(
                    "guitong_normalise_quarantine_oldest_seconds",
                    "Age of the oldest open quarantine entry; 0 without any",
                ),
                &resource,
            )?,
            dropped: IntCounterVec::new(
                Opts::new("guitong_normalise_dropped_total", "Quarantine entries that a person gave up"),
                &resource,
            )?,
            paused: IntGaugeVec::new(
                Opts::new("guitong_normalise_paused", "1 while the resource waits for a changed mapping or a word"),
                &resource,
            )?,
            rows: IntGaugeVec::new(
                Opts::new("guitong_normalise_rows", "Rows of the source by their newest version (good, rejected)"),
                &by("state"),
            )?,
            keys: IntGaugeVec::new(
                Opts::new("guitong_normalise_keys", "Entity keys that stand, by the rows that claim them (single, shared)"),
                &by("claim"),
            )?,
            timed: IntCounterVec::new(
                Opts::new(
                    "guitong_normalise_timed_total",
                    "Changes other than a first load's, by whether they were normalised in time (true, false)",
                ),
                &by("in_time"),
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
        registry.register(Box::new(metrics.changed_columns.clone()))?;
        registry.register(Box::new(metrics.kept.clone()))?;
        registry.register(Box::new(metrics.oldest_seconds.clone()))?;
        registry.register(Box::new(metrics.dropped.clone()))?;
        registry.register(Box::new(metrics.paused.clone()))?;
        registry.register(Box::new(metrics.rows.clone()))?;
        registry.register(Box::new(metrics.keys.clone()))?;
        registry.register(Box::new(metrics.timed.clone()))?;
        registry.register(Box::new(metrics.lag_seconds.clone()))?;
        registry.register(Box::new(metrics.lag_records.clone()))?;
        registry.register(Box::new(metrics.batch_seconds.clone()))?;
        Ok(metrics)
    }

    /// Series that nobody collects: for work that was counted when it was done first.
    pub(crate) fn uncollected() -> Result<Self, prometheus::Error> {
        Self::register(&Registry::new())
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
            changed_columns: self.changed_columns.with_label_values(&labels),
            kept: self.kept.with_label_values(&labels),
            oldest_seconds: self.oldest_seconds.with_label_values(&labels),
            dropped: self.dropped.with_label_values(&labels),
            paused: self.paused.with_label_values(&labels),
            rows: ["good", "rejected"].map(|state| self.rows.with_label_values(&[labels[0], labels[1], state])),
            keys: ["single", "shared"].map(|claim| self.keys.with_label_values(&[labels[0], labels[1], claim])),
            timed: ["true", "false"].map(|in_time| self.timed.with_label_values(&[labels[0], labels[1], in_time])),
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
    held_back: IntGauge,
    open: IntGauge,
    pub(crate) changed_columns: IntGauge,
    pub(crate) kept: IntGauge,
    pub(crate) oldest_seconds: Gauge,
    pub(crate) dropped: IntCounter,
    pub(crate) paused: IntGauge,
    rows: [IntGauge; 2],
    keys: [IntGauge; 2],
    /// In time, and late.
    pub(crate) timed: [IntCounter; 2],
    pub(crate) lag_seconds: Gauge,
    pub(crate) lag_records: IntGauge,
    pub(crate) batch_seconds: Histogram,
    findings: IntCounterVec,
    labels: [String; 2],
}

impl ResourceMetrics {
    /// Shows what stands after a commit.
    pub(crate) fn show(&self, counters: &Counters) {
        let Counters { totals, standing, .. } = counters;
        let set = |gauge: &IntGauge, value: u64| gauge.set(value.try_into().unwrap_or(i64::MAX));
        set(&self.held_back, totals.held_back);
        set(&self.open, totals.open);
        for (gauges, tallied, marked) in [(&self.rows, standing.rows, 0), (&self.keys, standing.keys, 1)] {
            set(&gauges[marked], tallied.marked);
            set(&gauges[1 - marked], tallied.all.saturating_sub(tallied.marked));
        }
    }

    pub(crate) fn finding(&self, level: &str, rule: &str, count: u64) {
        self.findings.with_label_values(&[self.labels[0].as_str(), self.labels[1].as_str(), level, rule]).inc_by(count);
    }
}
