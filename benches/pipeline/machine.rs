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
/// Of the memory that `/proc` counts in pages: those of Linux on x86-64 and most of ARM.
const PAGE_BYTES: u64 = 4096;
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

/// What was seen of the runtime and of the process.
pub struct Watched {
    /// Microseconds.
    pub stalls: Histogram<u64>,
    /// How far the resident memory rose above what it was at the start. Memory that the allocator had kept from before is not seen.
    pub rss_growth_bytes: u64,
}

/// Sleeps on the runtime that it watches; how much later than asked it wakes is how long nothing else could run.
pub struct Probe {
    task: tokio::task::JoinHandle<Watched>,
    stop: CancellationToken,
}

impl Probe {
    pub fn start() -> anyhow::Result<Self> {
        let mut watched = Watched { stalls: histogram()?, rss_growth_bytes: 0 };
        let resident_before = resident_bytes();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            while !stopped.is_cancelled() {
                let asked = Instant::now();
                tokio::time::sleep(PROBE).await;
                watched.stalls.saturating_record(asked.elapsed().saturating_sub(PROBE).as_micros() as u64);
                watched.rss_growth_bytes = watched.rss_growth_bytes.max(resident_bytes().saturating_sub(resident_before));
            }
            watched
        });
        Ok(Self { task, stop })
    }

    pub async fn stop(self) -> anyhow::Result<Watched> {
        self.stop.cancel();
        Ok(self.task.await?)
    }
}

/// Memory of the process that stands in RAM.
pub fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).map_or(0, |pages| pages * PAGE_BYTES)
}

/// A run over `n` events as a part of the report.
pub fn rate(took: &Took, n: u64) -> Value {
    let wall = took.wall.as_secs_f64();
    json!({
        "seconds": round(wall),
        "cpu_seconds": round(took.cpu.as_secs_f64()),
        "committer_cpu_seconds": round(took.committer_cpu.as_secs_f64()),
        "events_per_s": (n as f64 / wall).round(),
        "ns_per_event": round(wall * 1e9 / n as f64),
    })
}

/// Nanoseconds an event, to a tenth.
pub fn per_event(d: Duration, n: u64) -> f64 {
    (d.as_secs_f64() * 1e10 / n as f64).round() / 10.0
}

pub fn round(v: f64) -> f64 {
    (v * 1000.0).round() / 1000.0
}

/// Microseconds up to a minute.
pub fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000, 3)?)
}

pub fn in_ms(times: &Histogram<u64>) -> Value {
    let ms = |us: u64| us as f64 / 1000.0;
    json!({ "n": times.len(), "p50": ms(times.value_at_quantile(0.5)), "p90": ms(times.value_at_quantile(0.9)), "p99": ms(times.value_at_quantile(0.99)), "max": ms(times.max()) })
}
