//! Readiness as named checks, and the metrics recorder.

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

/// The check that fails while the rooms are still read in: until then none is served, since a client would be taken back.
pub const ROOMS_CHECK: &str = "rooms";

/// Whether the program can serve: ready when no named check says otherwise. Cheap to clone and shared.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    failing: Arc<RwLock<BTreeMap<String, String>>>,
}

impl Readiness {
    /// The check `name` fails, and why.
    pub fn set_not_ready(&self, name: &str, why: &str) {
        self.failing.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), why.to_owned());
    }

    pub fn set_ready(&self, name: &str) {
        self.failing.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Why the check `name` fails, when it does.
    pub fn failure_of(&self, name: &str) -> Option<String> {
        self.failing.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub fn is_ready(&self) -> bool {
        self.failing().is_empty()
    }

    /// The checks that fail, with their reasons.
    pub fn failing(&self) -> BTreeMap<String, String> {
        self.failing.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Installs the process's metrics recorder, once, and gives the handle that `/metrics` renders. Where another
/// recorder was installed before, the handle renders nothing and a warning says so.
pub fn install_metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(install).clone()
}

/// Histogram bounds: durations in milliseconds, from a fast append to a stuck one. Metrics that end in `_seconds` have the same in seconds.
const BUCKETS: [f64; 14] = [0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 5_000.0, 30_000.0];

fn install() -> PrometheusHandle {
    let seconds = BUCKETS.map(|ms| ms / 1_000.0);
    let builder = PrometheusBuilder::new().set_buckets(&BUCKETS).and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &seconds));
    let builder = builder.unwrap_or_default();
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    if let Err(error) = metrics::set_global_recorder(recorder) {
        tracing::warn!(%error, "metrics go to a recorder that was installed before");
    }
    handle
}
