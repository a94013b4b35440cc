//! Throughput of the whole chain on one core: `taskset -c 1 cargo bench --bench pipeline -- [--quick] [--kafka HOST:PORT] [--json FILE]`.
//!
//! `usage` events stand in the embedded log; read alone, read and decode alone, and the whole pipeline run over them one after the
//! other in one thread, then the stages of the pipeline one by one. What the pipeline emitted is compared with what was generated.
//! With `--variants` many jobs run in place of the one, each compared in the same way.
//! `docs/benchmarks.md` says how to read the figures. It pins nothing itself: one core is the caller's `taskset`.

#![allow(clippy::print_stdout, reason = "a program whose output is its report")]

#[path = "pipeline/by_hand.rs"]
mod by_hand;
#[path = "pipeline/chain.rs"]
mod chain;
#[path = "pipeline/events.rs"]
mod events;
#[path = "pipeline/logs.rs"]
mod logs;
#[path = "pipeline/machine.rs"]
mod machine;
#[path = "pipeline/pieces.rs"]
mod pieces;
#[path = "pipeline/plot.rs"]
mod plot;
#[path = "pipeline/runs.rs"]
mod runs;
#[path = "pipeline/scales.rs"]
mod scales;
#[path = "pipeline/settings.rs"]
mod settings;
#[path = "pipeline/sweep.rs"]
mod sweep;
#[path = "pipeline/timed.rs"]
mod timed;
#[path = "pipeline/told.rs"]
mod told;
#[path = "pipeline/variant.rs"]
mod variant;
#[path = "pipeline/wire.rs"]
mod wire;

use anyhow::{Context, ensure};
use clap::Parser;
use events::Events;
use ingest::Log;
use machine::{machine, rate};
use serde_json::{Value, json};
use settings::{Args, Settings, VIEW};
use std::{path::Path, sync::Arc};
use variant::Variant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    // As `headend run` does.
    headend::memory::keep_freed();
    let args = Args::parse();
    let settings = Settings::new(&args)?;
    let dir = logs::folder(args.dir.as_deref())?;
    let report = logs::runtime()?.block_on(async {
        let log = settings.wired(logs::open(args.kafka.as_deref(), &args.property, dir.path()).await?);
        if args.variants { sweep::measure(&settings, &log, dir.path()).await } else { measure(&settings, &log, dir.path()).await }
    })?;
    let text = serde_json::to_string_pretty(&report)?;
    // The variants have told their lines one by one.
    if !args.variants {
        println!("{text}");
    }
    if let Some(file) = &args.json {
        std::fs::write(file, text + "\n").with_context(|| format!("cannot write `{}`", file.display()))?;
    }
    ensure!(report.get("failed").is_none_or(|n| *n == 0), "{} of the variants failed", report["failed"]);
    Ok(())
}

async fn measure(settings: &Settings, log: &Arc<dyn Log>, dir: &Path) -> anyhow::Result<Value> {
    let before = machine();
    let base = Variant::base("bench", &settings.stream());
    let (events, config) = (Events::new(&base.stream), settings.engine_of(&base));
    let n = settings.events;

    say("append", "the events go into the log");
    let appended = runs::append(&events, log).await?;
    say("read", "read alone");
    let read = runs::read(&config, &events, log).await?;
    say("decode", "read and decode alone");
    let decoded = runs::read_and_decode(&config, &events, log).await?;
    say("pipeline", "the whole pipeline");
    let pipeline = timed::run(config.clone(), log, VIEW, &dir.join("snapshots")).await?;
    say("decode", "read and decode alone, once more");
    let again = runs::read_and_decode(&config, &events, log).await?;
    say("verify", "what was emitted against what was generated");
    let windows = runs::verify(&events.expected(&base), &pipeline, log).await?.windows;
    say("stages", "the task, driven by hand");
    let chain = chain::drive(settings, log, &dir.join("stages")).await?;
    say("stages", "its pieces, driven by hand");
    let pieces = pieces::drive(settings, log).await?;

    // The machine is shared and its speed moves: the pipeline stands between two runs of what it is compared with.
    let wall_s = (decoded.wall + again.wall).as_secs_f64() / 2.0;
    let cpu_s = (decoded.cpu + again.cpu).as_secs_f64() / 2.0;
    ensure!(windows.len() >= 3, "only {} windows closed", windows.len());
    Ok(json!({
        "machine_before": before,
        "machine_after": machine(),
        "settings": settings.report(&events),
        "append_events": rate(&appended, n),
        "read": rate(&read, n),
        "read_decode": rate(&decoded, n),
        "read_decode_again": rate(&again, n),
        "pipeline": runs::report(&pipeline, n),
        "ratio_to_read_decode": runs::ratio(&pipeline.took, wall_s, cpu_s),
        "stages_ns_per_event": chain::stages(&chain, &pieces, n),
        "stages": chain.report(n),
        "windows_closed": windows.len(),
        "verified": { "events": windows.values().map(|w| w.count).sum::<i64>(), "sum_bytes_down": windows.values().map(|w| w.sum).sum::<i64>(), "windows": windows.len(), "differences": 0 },
    }))
}

fn say(step: &str, what: &str) {
    eprintln!("{step:<9} {what}");
}
