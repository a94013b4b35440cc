//! What a demo run counted, as `--report` writes it.

use super::client::Meter;
use crate::engine::{Totals, chain::ChainFollower};
use anyhow::Context;
use arrow_array::cast::AsArray;
use hdrhistogram::Histogram;
use ingest::log::Log;
use schemas::{
    ChainPosition, OutputKind,
    alert::{Action, AlertEvent},
};
use serde::Serialize;
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};
use stream_jobs::task::{epoch_topic, level_group};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Default, Serialize)]
struct Events {
    appended: u64,
    decoded: u64,
    duplicate: u64,
    dead: u64,
    late: u64,
    misplaced: u64,
}

#[derive(Debug, Default, Serialize)]
struct Epochs {
    accepted: u64,
    ignored: u64,
    verified: u64,
}

#[derive(Debug, Default, Serialize)]
pub struct Alerts {
    raised: u64,
    resolved: u64,
    by_rule: BTreeMap<String, u64>,
}

#[derive(Debug, Default, Serialize)]
struct Latency {
    n: u64,
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

#[derive(Debug, Default, Serialize)]
struct Latencies {
    append_to_socket: Latency,
}

#[derive(Debug, Default, Serialize)]
pub struct Report {
    #[serde(skip)]
    pub appended: u64,
    events: Events,
    epochs: Epochs,
    alerts: Alerts,
    latency_ms: Latencies,
    first_alert_ms: Option<u64>,
    peak_rss_mb: u64,
}

impl Report {
    /// Waits until the tasks have taken what was appended, then reads all counters.
    pub async fn finish(&mut self, totals: &Totals, meter: Meter, alerts: JoinHandle<anyhow::Result<Alerts>>) -> anyhow::Result<()> {
        let n = |counter| Totals::get(counter);
        // Bounded: a task that cannot follow shows as appended ≠ decoded + dead.
        for _ in 0..500 {
            if n(&totals.rows_in) + n(&totals.dead) >= self.appended {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let measured = meter.finish().await?;
        self.alerts = alerts.await.context("counting alerts broke")??;
        self.events = Events {
            appended: self.appended,
            decoded: n(&totals.rows_in),
            duplicate: n(&totals.duplicate),
            dead: n(&totals.dead),
            late: n(&totals.late),
            misplaced: n(&totals.misplaced),
        };
        self.epochs = Epochs { accepted: n(&totals.accepted), ignored: n(&totals.ignored), verified: n(&totals.verified) };
        self.latency_ms.append_to_socket = latency(&measured.append_to_socket);
        self.first_alert_ms = measured.first_alert_ms;
        self.peak_rss_mb = peak_rss_mb();
        Ok(())
    }

    pub fn write(&self, file: Option<&Path>) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        match file {
            Some(file) => std::fs::write(file, text).with_context(|| format!("cannot write `{}`", file.display())),
            None => Ok(()),
        }
    }
}

fn latency(histogram: &Histogram<u64>) -> Latency {
    let ms = |us: u64| us as f64 / 1000.0;
    let at = |q| ms(histogram.value_at_quantile(q));
    Latency { n: histogram.len(), p50: at(0.5), p90: at(0.9), p99: at(0.99), max: ms(histogram.max()) }
}

/// Peak resident memory as the kernel counts it; 0 where it does not say.
fn peak_rss_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()).map_or(0, |kb| kb / 1024)
}

/// Counts the alert events of the accepted epochs of level 1, until `stop`.
pub fn count_alerts(log: &Arc<dyn Log>, partitions: u32, stop: CancellationToken) -> JoinHandle<anyhow::Result<Alerts>> {
    let log = Arc::clone(log);
    tokio::spawn(async move {
        let topic = epoch_topic(&level_group("operator", 1));
        let mut followers = (0..partitions).map(|p| ChainFollower::new(&log, &topic, p, ChainPosition::default())).collect::<Result<Vec<_>, _>>()?;
        let mut alerts = Alerts::default();
        loop {
            let stopped = stop.is_cancelled();
            let mut at_end = true;
            for follower in &mut followers {
                let (epochs, caught_up) = follower.next_epochs(256, Duration::from_millis(100)).await?;
                at_end &= caught_up && epochs.is_empty();
                for output in epochs.iter().flat_map(|e| &e.record.outputs).filter(|o| o.kind == OutputKind::Alerts) {
                    let events = output.batch.column_by_name("event").context("alerts without events")?;
                    for event in events.as_string::<i32>().iter().flatten() {
                        alerts.count(&serde_json::from_str(event)?);
                    }
                }
            }
            if stopped && at_end {
                return Ok(alerts);
            }
        }
    })
}

impl Alerts {
    fn count(&mut self, event: &AlertEvent) {
        match event.action {
            Action::Raise => {
                self.raised += 1;
                *self.by_rule.entry(event.rule.clone()).or_default() += 1;
            }
            Action::Resolve | Action::Expire => self.resolved += 1,
            Action::Update | Action::Ack => {}
        }
    }
}
