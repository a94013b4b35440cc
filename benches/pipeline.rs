//! Throughput of the whole chain on one core: `taskset -c 1 cargo bench --bench pipeline -- [--quick] [--kafka HOST:PORT] [--json FILE]`.
//!
//! `usage` events stand in the embedded log; read alone, read and decode alone, and the whole pipeline run over them one after the
//! other in one thread, then the stages of the pipeline one by one. What the pipeline emitted is compared with what was generated.
//! `docs/benchmarks.md` says how to read the figures. It pins nothing itself: one core is the caller's `taskset`.

#![allow(clippy::print_stdout, reason = "a program whose output is its report")]

#[path = "pipeline/chain.rs"]
mod chain;
#[path = "pipeline/events.rs"]
mod events;
#[path = "pipeline/machine.rs"]
mod machine;
#[path = "pipeline/pieces.rs"]
mod pieces;
#[path = "pipeline/runs.rs"]
mod runs;
#[path = "pipeline/settings.rs"]
mod settings;

use anyhow::{Context, ensure};
use clap::Parser;
use events::Events;
use ingest::{EmbeddedConfig, EmbeddedLog, KafkaConfig, KafkaLog, Log, kafka::parse_properties};
use machine::{Took, machine};
use serde_json::{Value, json};
use settings::{Args, Settings};
use std::{path::Path, sync::Arc};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let settings = Settings::new(&args)?;
    let dir = tempfile::tempdir_in(args.dir.clone().unwrap_or_else(std::env::temp_dir)).context("cannot create a folder for the log")?;
    // One thread for everything but the log's committer, which is a thread of its own wherever the log is used.
    // Timers are looked at after every poll: by default a busy runtime does so after 61 of them, and the stalls would be its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().event_interval(1).build()?;
    let report = runtime.block_on(measure(&settings, args.kafka.as_deref(), dir.path()))?;
    let text = serde_json::to_string_pretty(&report)?;
    println!("{text}");
    if let Some(file) = &args.json {
        std::fs::write(file, text + "\n").with_context(|| format!("cannot write `{}`", file.display()))?;
    }
    Ok(())
}

async fn measure(settings: &Settings, kafka: Option<&str>, dir: &Path) -> anyhow::Result<Value> {
    let before = machine();
    let events = Events::new(settings);
    let log: Arc<dyn Log> = match kafka {
        Some(brokers) => {
            let line = |_| anyhow::anyhow!("`--property` is `{}`, expected NAME=VALUE", settings.properties().join("` or `"));
            let properties = parse_properties(&settings.properties().join("\n")).map_err(line)?;
            KafkaLog::open(KafkaConfig { properties, ..KafkaConfig::new(brokers, "bench") }).await?
        }
        None => EmbeddedLog::open(&dir.join("log"), EmbeddedConfig::default())?,
    };
    let n = settings.events;

    say("append", "the events go into the log");
    let appended = runs::append(settings, &events, &log).await?;
    say("read", "read alone");
    let read = runs::read(settings, &log).await?;
    say("decode", "read and decode alone");
    let decoded = runs::read_and_decode(settings, &log).await?;
    say("pipeline", "the whole pipeline");
    let pipeline = runs::pipeline(settings, &log, &dir.join("snapshots")).await?;
    say("decode", "read and decode alone, once more");
    let again = runs::read_and_decode(settings, &log).await?;
    say("verify", "what was emitted against what was generated");
    let windows = runs::verify(settings, &events, &log).await?;
    say("stages", "the task, driven by hand");
    let chain = chain::drive(settings, &log, &dir.join("stages")).await?;
    say("stages", "its pieces, driven by hand");
    let pieces = pieces::drive(settings, &log).await?;

    // The machine is shared and its speed moves: the pipeline stands between two runs of what it is compared with.
    let wall = (decoded.wall + again.wall).as_secs_f64() / 2.0;
    let cpu = (decoded.cpu + again.cpu).as_secs_f64() / 2.0;
    ensure!(windows.len() >= 3, "only {} windows closed", windows.len());
    Ok(json!({
        "machine_before": before,
        "machine_after": machine(),
        "settings": settings.report(&events),
        "append_events": rate(&appended, n),
        "read": rate(&read, n),
        "read_decode": rate(&decoded, n),
        "read_decode_again": rate(&again, n),
        "pipeline": pipeline.report(n),
        "ratio_to_read_decode": { "wall": round(pipeline.took.wall.as_secs_f64() / wall), "cpu": round(pipeline.took.cpu.as_secs_f64() / cpu.max(0.01)) },
        "stages_ns_per_event": chain::stages(&chain, &pieces, n),
        "stages": chain.report(n),
        "windows_closed": windows.len(),
        "verified": { "events": windows.values().map(|w| w.count).sum::<i64>(), "sum_bytes_down": windows.values().map(|w| w.sum).sum::<i64>(), "windows": windows.len(), "differences": 0 },
    }))
}

fn say(step: &str, what: &str) {
    eprintln!("{step:<9} {what}");
}

/// A run over `n` events as a part of the report.
fn rate(took: &Took, n: u64) -> Value {
    let wall = took.wall.as_secs_f64();
    json!({
        "seconds": round(wall),
        "cpu_seconds": round(took.cpu.as_secs_f64()),
        "committer_cpu_seconds": round(took.committer_cpu.as_secs_f64()),
        "events_per_s": (n as f64 / wall).round(),
        "ns_per_event": round(wall * 1e9 / n as f64),
    })
}

fn round(v: f64) -> f64 {
    (v * 1000.0).round() / 1000.0
}
