//! Clocks and the machine. CPU times and load come from Linux's `/proc`; elsewhere they are zero or missing.

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::{
    fs,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// `/proc` counts CPU time in ticks of 10 ms.
const TICK: Duration = Duration::from_millis(10);
/// The thread that writes the embedded log.
const COMMITTER: &str = "log-commit";
/// How often the runtime is asked whether it still moves.
const PROBE: Duration = Duration::from_millis(5);

/// What a run took. `cpu` is that of all threads, the committer's among it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Took {
    pub wall: Duration,
    pub cpu: Duration,
    pub committer_cpu: Duration,
}

pub struct Clock {
    started: Instant,
    cpu: Duration,
    committer_cpu: Duration,
}

impl Clock {
    pub fn start() -> Self {
        Self { started: Instant::now(), cpu: process_cpu(), committer_cpu: committer_cpu() }
    }

    pub fn took(&self) -> Took {
        Took { wall: self.started.elapsed(), cpu: process_cpu().saturating_sub(self.cpu), committer_cpu: committer_cpu().saturating_sub(self.committer_cpu) }
    }
}

fn process_cpu() -> Duration {
    fs::read_to_string("/proc/self/stat").map_or(Duration::ZERO, |stat| ticks(&stat))
}

fn committer_cpu() -> Duration {
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return Duration::ZERO };
    let stats = threads.flatten().filter_map(|t| fs::read_to_string(t.path().join("stat")).ok());
    stats.filter(|stat| stat.contains(&format!("({COMMITTER})"))).map(|stat| ticks(&stat)).sum()
}

/// User and system time: the 12th and 13th field behind the name, which stands in parentheses.
fn ticks(stat: &str) -> Duration {
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u32 = fields.get(11..13).into_iter().flatten().filter_map(|f| f.parse::<u32>().ok()).sum();
    TICK * ticks
}

pub fn machine() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let line = |text: &str, name: &str| text.lines().find(|l| l.starts_with(name)).and_then(|l| l.split(':').nth(1)).map(|v| v.trim().to_owned());
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    json!({
        "cpu": line(&read("/proc/cpuinfo"), "model name"),
        "cores_allowed": cores,
        "cpus_allowed": line(&read("/proc/self/status"), "Cpus_allowed_list"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_average": read("/proc/loadavg").trim(),
        "peak_rss": line(&read("/proc/self/status"), "VmHWM"),
    })
}

/// Sleeps on the runtime that it watches; how much later than asked it wakes is how long nothing else could run.
pub struct StallProbe {
    task: tokio::task::JoinHandle<Histogram<u64>>,
    stop: CancellationToken,
}

impl StallProbe {
    pub fn start() -> anyhow::Result<Self> {
        let mut stalls = histogram()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            while !stopped.is_cancelled() {
                let asked = Instant::now();
                tokio::time::sleep(PROBE).await;
                stalls.saturating_record(asked.elapsed().saturating_sub(PROBE).as_micros() as u64);
            }
            stalls
        });
        Ok(Self { task, stop })
    }

    /// Microseconds.
    pub async fn stop(self) -> anyhow::Result<Histogram<u64>> {
        self.stop.cancel();
        Ok(self.task.await?)
    }
}

/// Microseconds up to a minute.
pub fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000, 3)?)
}

pub fn in_ms(times: &Histogram<u64>) -> Value {
    let ms = |us: u64| us as f64 / 1000.0;
    json!({ "n": times.len(), "p50": ms(times.value_at_quantile(0.5)), "p90": ms(times.value_at_quantile(0.9)), "p99": ms(times.value_at_quantile(0.99)), "max": ms(times.max()) })
}
